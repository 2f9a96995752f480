"""Last words of llama.cpp's server that users meet, and what to do about them."""

from __future__ import annotations

from qwend.plugin import LogHint
from qwend_plugins.llama_cpp import common

HINTS = (
    LogHint(
        r"quantized V cache requires flash_attn",
        "a quantised cache of values needs flash attention",
        "set flash_attn: on, or leave out cache_type_v",
    ),
    LogHint(
        r"the supplied chat template is not supported|failed to (?:initialize|apply) (?:chat )?template",
        "the chat template cannot be used",
        "name a built-in one such as chatml, or mend the Jinja text",
    ),
    LogHint(
        r"failed to allocate buffer for kv cache|failed to allocate buffer of size",
        "there was not enough memory for this context",
        "lower context or parallel, or set cache_type_k and cache_type_v to q8_0",
    ),
    LogHint(
        r"error: invalid argument: (?P<argument>\S+)",
        "llama-server does not know {argument}",
        "see extra_args",
    ),
    LogHint(
        r"vocab(?:ulary)? .*(?:mismatch|not compatible|must match)",
        "the draft model has another vocabulary than the model",
        "take a smaller model of the same family",
    ),
    *common.TOOL_HINTS,
)
