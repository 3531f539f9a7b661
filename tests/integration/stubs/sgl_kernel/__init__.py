"""SGLang's kernels, of which a CPU server that attends by torch calls one."""

import absent

absent.package(__name__)


def assign_req_to_token_pool_cpu(requests, req_to_token, starts, ends, locations, pool_length):
    """Write where the new tokens of each request lie: `sglang.srt.mem_cache.allocation.assign_req_to_token_pool` in
    torch. `pool_length` is the row length, which a tensor knows by itself."""
    at = 0
    for request, start, end in zip(requests.tolist(), starts.tolist(), ends.tolist(), strict=False):
        count = end - start
        req_to_token[request, start:end] = locations[at : at + count].to(req_to_token.dtype)
        at += count
