"""Every quantising engine fails its step where what was written still has 16 bits.

What each engine's Launch carries is laid out as a step finds it, and its own last part is run on a checkpoint: all of
this comes before anything of torch is imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.drivers.test_quantised_output import AWQ, LAYER, SOURCE, Row, checkpoint
from tests.unit.plugins.llama_cpp.kit import QWEN_05B, launch
from tests.unit.plugins.quantising.test_quantising import made

from qwend.plugin import Engine
from qwend_plugins.awq.quantize import Quantize as Awq
from qwend_plugins.gptq.quantize import Quantize as Gptq
from qwend_plugins.llm_compressor.quantize import Quantize as Compressor

EIGHT: dict[str, Row] = {
    "model.embed_tokens.weight": ("BF16", (512, 256)),
    f"{LAYER}input_layernorm.weight": ("BF16", (256,)),
    f"{LAYER}mlp.gate_proj.weight": ("I8", (768, 256)),
    f"{LAYER}mlp.gate_proj.weight_scale": ("BF16", (768, 1)),
    f"{LAYER}mlp.down_proj.weight": ("I8", (256, 768)),
    f"{LAYER}mlp.down_proj.weight_scale": ("BF16", (256, 1)),
    "model.norm.weight": ("BF16", (256,)),
}
FLOATS = {
    name: ("F8_E4M3", shape) if dtype == "I8" else (dtype, shape) for name, (dtype, shape) in EIGHT.items()
}
ENGINES: list[tuple[Engine, dict[str, Any], dict[str, Row]]] = [
    (Awq(), {"q_group_size": 128}, AWQ),
    (Awq(), {"q_group_size": 128, "backend": "gptqmodel"}, AWQ),
    (Awq(), {"q_group_size": 128, "backend": "llm-compressor"}, AWQ),
    (Awq(), {"q_group_size": -1, "backend": "llm-compressor", "w_bit": 8}, EIGHT),
    (Gptq(), {"group_size": 128}, AWQ),
    (Gptq(), {"group_size": -1, "bits": 8}, EIGHT),
    (Gptq(), {"group_size": 128, "backend": "llm-compressor"}, AWQ),
    (Compressor(), {"scheme": "W4A16"}, AWQ),
    (Compressor(), {"scheme": "W8A8"}, EIGHT),
    (Compressor(), {"scheme": "FP8"}, FLOATS),
]


def proved(engine: Engine, with_: dict[str, Any], written: dict[str, Row], folder: Path) -> tuple[int, str]:
    """Exit code and last words of the step's last part, where this was written under the claim of the engine."""
    run = launch(engine, made(engine, QWEN_05B, **with_))
    for file in run.files:
        (folder / file.name).write_text(file.content, encoding="utf-8")
    claim = json.loads((folder / "options.json").read_text(encoding="utf-8"))["claim"]
    said = {"quant_method": claim["method"], "bits": claim["bits"], "group_size": claim["group_size"]}
    if claim["method"] == "compressed-tensors":
        groups = {"group_0": {"weights": {"num_bits": claim["bits"], "group_size": claim["group_size"]}}}
        said = {"quant_method": claim["method"], "config_groups": groups}
    source = checkpoint(folder / "source", SOURCE)
    out = checkpoint(folder / "out", written, {"quantization_config": said})
    words = ["--source", str(source), "--out", str(out), "--library", "transformers"]
    ended = subprocess.run(
        [sys.executable, "-I", str(folder / "q_reload.py"), str(folder / "options.json"), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ended.returncode, (ended.stderr.strip().splitlines() or [""])[-1]


@pytest.mark.parametrize(
    ("engine", "with_", "packed"),
    ENGINES,
    ids=[f"{engine.name} {' '.join(map(str, with_.values()))}" for engine, with_, _ in ENGINES],
)
def test_a_quantised_output_that_is_still_in_16_bits_fails_the_step(
    engine: Engine, with_: dict[str, Any], packed: dict[str, Row], tmp_path: Path
) -> None:
    for name in ("sixteen", "packed"):
        (tmp_path / name).mkdir()
    code, said = proved(engine, with_, SOURCE, tmp_path / "sixteen")
    assert code == 1
    assert "mlp.gate_proj is still BF16" in said and "is not quantised" in said
    # The packed one passes this and goes on to be loaded, which takes torch.
    code, said = proved(engine, with_, packed, tmp_path / "packed")
    assert code == 1
    assert "cannot be loaded again: ModuleNotFoundError" in said
