"""Which kernels read packed weights. Runs inside the image; imports nothing of qwend.

On a CPU transformers lets GPTQModel choose for AWQ, which takes a kernel that keeps the zero points apart, rounded to
bfloat16. AWQ makes inputs large where weights are small, so that this rounding is multiplied: on a tiny Qwen2 the next
token's distribution was 3.4 nats (KL) from that of the same weights unpacked by hand; the plain kernel's is 0.00002.
"""

from __future__ import annotations

from typing import Any


def exact(config: Any, device: str) -> Any:
    """The same configuration of a checkpoint, which names the plain kernel where the one that would be chosen errs."""
    said = getattr(config, "quantization_config", None)
    if device == "cpu" and isinstance(said, dict) and said.get("quant_method") == "awq":
        form = said.get("format") or said.get("version") or "gemm"
        if str(form).lower() == "gemm":  # the other layouts have one kernel each
            config.quantization_config = {**said, "backend": "torch_awq"}
    return config
