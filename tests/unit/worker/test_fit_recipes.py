"""What `qwend fit` prints is a recipe that plans: every form, on a laptop, a machine with a card, and a Mac."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.worker.test_recipes_plan import compiled, verbs

from qwend.control.fit_recipe import advised, recipe
from qwend.core.fit import FORMATS, Fit, Format, fits
from qwend.model.artifact import Facts
from qwend.plugin.samples import FACTS, HOSTS
from qwend.worker.verbs import Verbs

__all__ = ["verbs"]

SERVED = {
    "model/gguf": ["llama-cpp/serve", "ollama/serve"],
    "model/mlx": ["mlx/serve"],
    "model/safetensors": ["llama-factory/serve", "transformers/serve", "vllm/serve"],
    "model/gptq": ["transformers/serve", "vllm/serve"],
    "model/awq": ["transformers/serve", "vllm/serve"],
    "model/compressed-tensors": ["transformers/serve", "vllm/serve"],
}
PLACES = {"cpu": "memory", "cuda": "gpu 0", "apple": "unified memory"}
CASES = [
    (form, host, place)
    for form in FORMATS
    for host, place in PLACES.items()
    if host in form.flavours and not (form.type == "model/gguf" and host == "cuda")
]


@pytest.mark.parametrize(("form", "host", "place"), CASES, ids=lambda case: getattr(case, "name", case))
def test_the_recipe_of_a_form_plans(
    form: Format, host: str, place: str, verbs: Verbs, tmp_path: Path
) -> None:
    chosen = Fit(form, place, "fits")
    path = tmp_path / "fitted.yaml"
    path.write_text(
        recipe("hf:Qwen/Qwen2.5-0.5B-Instruct", "model/safetensors", chosen, 2048, SERVED[chosen.format.type])
    )
    steps = {step.name: step for step in compiled(verbs, path, HOSTS[host]).steps}
    served = next(edge.step for edge in steps["chat"].inputs)
    assert steps[served].produces == chosen.format.type
    if chosen.format.name.startswith("Q"):
        assert steps[served].options["type"] == chosen.format.name


def test_a_model_that_is_quantised_is_served_as_it_is() -> None:
    chosen = Fit(next(one for one in FORMATS if one.name == "Q4_K_M"), "memory", "fits")
    text = recipe("file:a.gguf", "model/gguf", chosen, 512, SERVED["model/gguf"], quantised=True, aside=True)
    assert (
        text.partition("steps:\n")[2]
        == "  chat: {uses: llama-cpp/serve, from: model, with: {context: 512}, device: cpu}\n"
    )


def test_a_gguf_of_16_bits_is_quantised_without_a_conversion() -> None:
    chosen = Fit(next(one for one in FORMATS if one.name == "Q4_K_M"), "memory", "fits")
    text = recipe("file:a.gguf", "model/gguf", chosen, 512, SERVED["model/gguf"])
    assert "llama-cpp/convert" not in text and "from: model, with: {type: Q4_K_M}" in text


@pytest.mark.parametrize(
    ("host", "parameters", "taken"),
    [
        ("cpu", 500_000_000, ("Q8_0", "memory")),
        ("cuda", 500_000_000, ("bf16", "gpu 0")),
        ("cpu", 10**13, None),
    ],
)
def test_the_best_that_fits_is_advised(host: str, parameters: int, taken: tuple[str, str] | None) -> None:
    facts = Facts(parameters=parameters, layers=24, kv_heads=2, head_dim=64, hidden=896, vocabulary=151_936)
    found = advised(fits(facts, HOSTS[host], 2048), SERVED)
    assert (found and (found.format.name, found.place)) == taken


def test_what_nobody_serves_is_not_advised() -> None:
    assert advised(fits(FACTS, HOSTS["cpu"], 2048), []) is None
