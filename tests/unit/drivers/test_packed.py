"""Packed weights on a CPU: the kernel that transformers would take for AWQ is wrong there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hf_packed import exact


@pytest.mark.parametrize(
    ("said", "device", "backend"),
    [
        ({"quant_method": "awq", "version": "gemm", "bits": 4}, "cpu", "torch_awq"),
        ({"quant_method": "awq", "format": "gemm", "backend": "auto"}, "cpu", "torch_awq"),
        ({"quant_method": "awq", "version": "gemv"}, "cpu", None),
        ({"quant_method": "awq", "version": "gemm"}, "cuda", None),
        ({"quant_method": "gptq", "bits": 4}, "cpu", None),
        (None, "cpu", None),
    ],
)
def test_awq_is_read_by_the_plain_kernel_on_a_cpu(
    said: dict[str, Any] | None, device: str, backend: str | None
) -> None:
    config = exact(SimpleNamespace(quantization_config=said), device)
    assert (config.quantization_config or {}).get("backend") == backend
    assert exact(SimpleNamespace(), device) is not None, "a checkpoint that is not packed is left as it is"
