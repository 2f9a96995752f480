"""One model in the forms of four programs, measured by one method: what each form has lost, in one table."""

from __future__ import annotations

import pytest
from tests.e2e.conftest import Qwend

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.slow,
    pytest.mark.engine(
        "evaluate", "gptq", "awq", "mlx", "llama_cpp",
        images=["gptq", "awq", "mlx", "transformers", "llama-cpp", "llama-cpp-convert"],
    ),
]  # fmt: skip

RECIPE = """\
version: 1
name: families
models: {base: smoke:qwen2}
datasets:
  calib: "hf:Salesforce/wikitext?subset=wikitext-2-raw-v1&split=train"
  wiki: "hf:Salesforce/wikitext?subset=wikitext-2-raw-v1&split=test"
steps:
  gptq:
    uses: gptq/quantize
    from: base
    with: {bits: 4, calibration: calib, num_calibration_samples: 16, max_seq_length: 128}
  awq: {uses: awq/quantize, from: base, with: {calib_data: calib, max_calib_samples: 16, max_calib_seq_len: 128}}
  mlx: {uses: mlx/convert, from: base, with: {q_bits: 8}}
  f16: {uses: llama-cpp/convert, from: base, with: {outtype: f16}}
  whole:
    uses: evaluate/perplexity
    from: base
    with: {text: wiki, context: 128, chunks: 2, threads: 1, save_logits: true}
  by_gptq: {uses: evaluate/kl-divergence, from: gptq, with: {reference: whole, context: 128, threads: 1}}
  by_awq: {uses: evaluate/kl-divergence, from: awq, with: {reference: whole, context: 128, threads: 1}}
  by_mlx: {uses: evaluate/kl-divergence, from: mlx, with: {reference: whole, context: 128, threads: 1}}
  by_f16: {uses: evaluate/kl-divergence, from: f16, with: {reference: whole, context: 128, threads: 1}}
  together:
    uses: evaluate/compare
    from: [whole, by_gptq, by_awq, by_mlx, by_f16]
    expect:
      - f16.perplexity <= 1.001 * base.perplexity
      - f16.perplexity >= 0.999 * base.perplexity
      - f16.mean_kld <= gptq.mean_kld
      - f16.mean_kld <= awq.mean_kld
"""


def test_four_programs_measure_what_their_forms_have_lost(qwend: Qwend) -> None:
    path = qwend.folder / "families.yaml"
    path.write_text(RECIPE)
    qwend("up", "--smoke", str(path))
    told = qwend.json("inspect", "together")["artifact"]["metrics"]
    for form in ("gptq", "awq", "mlx"):
        assert 0.0001 < told[f"{form}.mean_kld"] < 0.5, "something is lost, and it is the same model"
        assert 0.3 < told[f"{form}.same_top"] < 1
        assert told[f"{form}.perplexity"] == pytest.approx(told["base.perplexity"], rel=0.2)
    assert told["mlx.bits_per_weight"] < 9 < told["f16.bits_per_weight"]
    assert told["f16.same_top"] > 0.999
