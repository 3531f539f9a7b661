"""Token ids of texts and conversations, for test_tokenizers.py: runs in the environment that has the tokenizers.

Reads one JSON object from standard input, writes one to standard output. Nothing of the project.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

SPECIAL = {
    0: "<unk>",
    1: "<s>",
    2: "</s>",
    3: "[INST]",
    4: "[/INST]",
    5: "[AVAILABLE_TOOLS]",
    6: "[/AVAILABLE_TOOLS]",
    7: "[TOOL_RESULTS]",
    8: "[/TOOL_RESULTS]",
    9: "[TOOL_CALLS]",
    10: "[IMG]",
    11: "<pad>",
    12: "[IMG_BREAK]",
    13: "[IMG_END]",
    14: "[PREFIX]",
    15: "[MIDDLE]",
    16: "[SUFFIX]",
    17: "[SYSTEM_PROMPT]",
    18: "[/SYSTEM_PROMPT]",
    19: "[TOOL_CONTENT]",
    24: "[AUDIO]",
    25: "[BEGIN_AUDIO]",
    32: "[ARGS]",
    33: "[CALL_ID]",
    34: "[THINK]",
    35: "[/THINK]",
}
"""The control tokens that Mistral's newer tokenizers name; the file that comes with mistral-common is of version 3."""


def texts(order: dict) -> dict:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(order["file"])
    return {"ids": [tokenizer.encode(text, add_special_tokens=False).ids for text in order["texts"]]}


def conversations(order: dict) -> dict:
    import mistral_common
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    source = Path(mistral_common.__file__).parent / "data/tekken_240911.json"
    tekken = json.loads(source.read_text(encoding="utf-8"))
    tekken["config"]["version"] = order["version"]
    if order["version"] != "v3":
        tekken["special_tokens"] = [
            {"rank": rank, "token_str": SPECIAL.get(rank, f"<SPECIAL_{rank}>"), "is_control": True}
            for rank in range(1000)
        ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tekken.json"
        file.write_text(json.dumps(tekken), encoding="utf-8")
        tokenizer = MistralTokenizer.from_file(str(file))
    results = []
    for messages in order["conversations"]:
        try:
            request = ChatCompletionRequest.from_openai(messages=messages, tools=order["tools"])
            made = tokenizer.encode_chat_completion(request)
            results.append({"ids": made.tokens, "text": made.text})
        except Exception as error:  # noqa: BLE001 - which one it is, is what is asked
            results.append({"error": f"{type(error).__name__}: {error}"})
    return {"results": results}


order = json.load(sys.stdin)
json.dump(texts(order) if "texts" in order else conversations(order), sys.stdout)
