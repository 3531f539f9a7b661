"""Run by the interpreter that has SGLang: reads argument lists as JSON, has SGLang's own parser read each, and writes
what it understood."""

import argparse
import json
import sys

from sglang.srt.server_args import ServerArgs
from sglang.version import __version__

FIELDS = (
    "model_path",
    "served_model_name",
    "host",
    "port",
    "tp_size",
    "context_length",
    "max_total_tokens",
    "mem_fraction_static",
    "kv_cache_dtype",
    "max_running_requests",
    "chunked_prefill_size",
    "tool_call_parser",
    "reasoning_parser",
    "chat_template",
    "enable_cache_report",
    "enable_metrics",
    "enable_priority_scheduling",
    "schedule_policy",
    "json_model_override_args",
    "enable_hierarchical_cache",
    "hicache_size",
    "speculative_algorithm",
    "speculative_draft_model_path",
    "quantization",
    "load_format",
    "is_embedding",
    "device",
)

parser = argparse.ArgumentParser(prog="sglang")
ServerArgs.add_cli_args(parser)
understood = []
for argv in json.load(sys.stdin):
    args = ServerArgs.from_cli_args(parser.parse_args(argv))
    understood.append({name: getattr(args, name) for name in FIELDS})
print(json.dumps({"version": __version__, "understood": understood}))
