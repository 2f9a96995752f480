"""Three engines with the kinds of parameters that the loader must explain, and a short way to load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field

from qwend.core.engine_info import EngineInfo
from qwend.core.loader import Loaded, RecipeFile, load
from qwend.errors import UsageError
from qwend.plugin import Params, flag, reference

Type = Literal["Q8_0", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q6_K", "Q2_K", "Q3_K_S", "F16", "BF16"]


class Quantize(Params):
    type: Type = Field(description="the quantisation", json_schema_extra={"x-qwend-noun": "quantisation"})
    imatrix: str | None = reference("imatrix/gguf", "dataset/text", description="importance of the weights")
    threads: int | None = flag("nthreads", None, description="CPU threads", fingerprint=False, ge=1)
    pure: bool = flag("--pure", False, description="no mixtures")


class Serve(Params):
    context: int = flag("--ctx-size", 4096, description="tokens of context", ge=8)
    flash_attn: bool | Literal["auto"] = flag("--flash-attn", "auto", description="flash attention")
    adapters: tuple[str, ...] = reference("adapter/gguf", default=(), description="adapters")


class Compare(Params):
    text: str = reference("dataset/text", default=..., description="the text")
    rates: tuple[float, ...] = flag("--rates", (1e-5,), description="rates")


ENGINES = {
    engine.name: engine
    for engine in (
        EngineInfo("llama-cpp/quantize", "job", Quantize, ("model/gguf",)),
        EngineInfo("llama-cpp/serve", "service", Serve, ("model/gguf",)),
        EngineInfo("evaluate/compare", "job", Compare, ("model/gguf",), many=True),
        EngineInfo("hub/fetch", "job", Params),
    )
}

GOOD = """\
version: 1
name: good
models:
  base: hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/x.gguf
steps:
  q4:
    uses: llama-cpp/quantize
    from: base
    with: {type: Q4_K_M}
  chat:
    uses: llama-cpp/serve
    from: q4
"""


def read(
    *texts: str, sets: Iterable[str] = (), env: Mapping[str, str] | None = None, names: tuple[str, ...] = ()
) -> Loaded:
    """Loads texts as the files `recipe.yaml`, `file1.yaml`, …"""
    paths = (*names, "recipe.yaml", *(f"file{index}.yaml" for index in range(1, 9)))
    files = [RecipeFile(path, text) for path, text in zip(paths, texts, strict=False)]
    return load(files, engines=ENGINES, sets=sets, env=env)


def complaints(*texts: str, sets: Iterable[str] = (), env: Mapping[str, str] | None = None) -> list[str]:
    """What loading complains of, a line each; empty if it loads."""
    refusal: UsageError | None = None
    try:
        read(*texts, sets=sets, env=env)
    except UsageError as error:
        refusal = error
    if refusal is None:
        return []
    assert refusal.details, "a recipe's error carries each mistake as a detail"
    assert all(detail.where for detail in refusal.details), "each mistake has a place"
    return refusal.lines()


def steps(text: str) -> str:
    """A recipe around some steps, which begin on line 3; `base` is a model, `calib` a dataset."""
    return "{name: t, models: {base: 'hf:a/b'}, datasets: {calib: 'file:c.txt'},\nsteps: {\n" + text + "}}"
