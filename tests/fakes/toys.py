"""Engines and sources of a small make-believe plugin, for tests of what handles engines: catalogue, compiler, planner.

They keep the contract of the plugin door (a test holds them to it) and run nothing that exists.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import msgspec

from qwend.plugin import (
    Facts,
    Finding,
    Given,
    Host,
    HostProgram,
    HttpProbe,
    Image,
    ImageRef,
    ImageSpec,
    InputRef,
    Launch,
    LaunchFile,
    OutputRef,
    Params,
    Pin,
    PinnedFile,
    PortRef,
    Probe,
    Product,
    Question,
    Resolution,
    Resources,
    ScratchRef,
    SecretRef,
    StepView,
    ThreadsRef,
    UpstreamImage,
    UsageError,
    estimate,
    flag,
    hookimpl,
    reference,
)

__all__ = [
    "ENGINES",
    "SOURCES",
    "Convert",
    "Image",
    "Launch",
    "LaunchFile",
    "Shop",
    "pin",
    "qwend_engines",
    "qwend_sources",
]

PLATFORMS: list[Any] = ["linux-x86_64", "linux-aarch64", "macos-arm64"]
DRIVER = LaunchFile("convert.py", "print('converted')\n")


def image(name: str, flavour: str) -> ImageSpec:
    return ImageSpec(
        name=name,
        flavour=flavour,
        digest=f"{name}-{flavour}".encode().hex().ljust(64, "0")[:64],
        python=">=3.11,<3.14",
        platforms=PLATFORMS,
        folder=f"/images/{name}",
        disk_mb=100,
    )


class _Toy:
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "A toy"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    accepts: ClassVar[tuple[str, ...]] = ()
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = ("cpu",)
    params: ClassVar[type[Params]] = Params

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        return ()

    def product(self, step: StepView) -> Product | None:
        return None

    def image(self, step: StepView, host: Host) -> Image:
        return image("toy", step.flavour)


class ConvertParams(Params):
    outtype: Literal["f16", "f32"] = flag("--outtype", "f16", description="type of the numbers")


class Convert(_Toy):
    name: ClassVar[str] = "toy/convert"
    accepts: ClassVar[tuple[str, ...]] = ("model/safetensors",)
    params: ClassVar[type[Params]] = ConvertParams

    def product(self, step: StepView) -> Product | None:
        return Product("model/gguf", msgspec.structs.replace(step.inputs[0].facts, dtype="F16"))

    def launch(self, step: StepView, host: Host) -> Launch:
        return Launch(
            argv=("python", InputRef(step.inputs[0].name), OutputRef("model.gguf"), step.params.outtype),
            files=(DRIVER,),
        )


class QuantizeParams(Params):
    type: Literal["Q8_0", "Q5_K_M", "Q4_K_M"] = flag("type", description="quantisation")
    imatrix: str | None = reference("imatrix/gguf", description="importance matrix")
    threads: int | None = flag("--threads", None, description="threads", fingerprint=False, ge=1)


class Quantize(_Toy):
    name: ClassVar[str] = "toy/quantize"
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)
    params: ClassVar[type[Params]] = QuantizeParams

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        if step.inputs[0].params.get("type") == step.params.type:
            yield Finding("it has this type already", "with.type", "leave the step out")
        if step.params.type == "Q8_0" and step.given.get("imatrix"):
            yield Finding("an importance matrix does nothing for Q8_0", "with.imatrix", level="warning")

    def product(self, step: StepView) -> Product | None:
        facts = step.inputs[0].facts
        return Product("model/gguf", msgspec.structs.replace(facts, bytes=(facts.bytes or 0) // 4))

    def launch(self, step: StepView, host: Host) -> Launch:
        matrix = [word for one in step.given.get("imatrix", ()) for word in ("--imatrix", InputRef(one.name))]
        model = InputRef(step.inputs[0].name, "*.gguf")
        tool = ImageRef("bin/quantize")
        return Launch(argv=(tool, *matrix, model, OutputRef("model.gguf"), step.params.type, ThreadsRef()))


class Imatrix(_Toy):
    name: ClassVar[str] = "toy/imatrix"
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)

    class params(Params):
        text: str = reference("dataset/text", default=..., description="calibration text")

    def product(self, step: StepView) -> Product | None:
        return Product("imatrix/gguf")

    def launch(self, step: StepView, host: Host) -> Launch:
        text = InputRef(step.given["text"][0].name)
        return Launch(argv=("imatrix", InputRef(step.inputs[0].name, "*.gguf"), text, OutputRef("i.gguf")))


class Train(_Toy):
    name: ClassVar[str] = "toy/train"
    accepts: ClassVar[tuple[str, ...]] = ("model/safetensors",)
    flavours: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "cuda12")

    def product(self, step: StepView) -> Product | None:
        return Product("adapter/lora", Facts(base=step.inputs[0].name, bytes=1000))

    def launch(self, step: StepView, host: Host) -> Launch:
        return Launch(
            argv=("train", InputRef(step.inputs[0].name), OutputRef()),
            resumable=True,
            resources=Resources(memory=4 << 30, gpu_memory=8 << 30, heavy=True),
        )


def lineage_base(adapter: Given) -> Given:
    for one in adapter.lineage:
        if one.type == "model/safetensors":
            return one
    raise UsageError(f"{adapter.name} does not say which model it belongs to")


class Merge(_Toy):
    name: ClassVar[str] = "toy/merge"
    accepts: ClassVar[tuple[str, ...]] = ("adapter/lora",)

    def product(self, step: StepView) -> Product | None:
        return Product("model/safetensors", lineage_base(step.inputs[0]).facts)

    def launch(self, step: StepView, host: Host) -> Launch:
        base = lineage_base(step.inputs[0])
        return Launch(argv=("merge", InputRef(base.name), InputRef(step.inputs[0].name), OutputRef()))


class Compare(_Toy):
    name: ClassVar[str] = "toy/compare"
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)
    many: ClassVar[bool] = True

    def product(self, step: StepView) -> Product | None:
        return Product("report")

    def launch(self, step: StepView, host: Host) -> Launch:
        return Launch(argv=("compare", *(InputRef(one.name, "*.gguf") for one in step.inputs), OutputRef()))


class ServeParams(Params):
    context: int = flag("--ctx-size", 4096, description="tokens", ge=1)
    threads: int | None = flag("--threads", None, description="threads", fingerprint=False, ge=1)


class Serve(_Toy):
    name: ClassVar[str] = "toy/serve"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "service"
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)
    flavours: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "apple")
    params: ClassVar[type[Params]] = ServeParams

    def launch(self, step: StepView, host: Host) -> Launch:
        need = estimate(step.inputs[0].facts, step.params.context)
        keys = ("--key", SecretRef("api_key")) if "api_key" in step.secrets else ()
        return Launch(
            argv=(
                "serve",
                InputRef(step.inputs[0].name, "*.gguf"),
                "--port",
                PortRef(),
                *keys,
                *step.extra_args,
            ),
            env={"CACHE": ScratchRef("cache")},
            probe=Probe(HttpProbe("/health"), deadline_s=30.0),
            resources=Resources(
                memory=need.total if need and step.flavour != "cuda" else None,
                gpu_memory=need.total if need and step.flavour == "cuda" else None,
                note=need.describe() if need else "",
            ),
        )


class Chat(_Toy):
    name: ClassVar[str] = "toy/chat"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "interactive"
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)

    def launch(self, step: StepView, host: Host) -> Launch:
        return Launch(argv=("chat", InputRef(step.inputs[0].name, "*.gguf")))


class Webui(_Toy):
    name: ClassVar[str] = "toy/webui"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "service"

    def image(self, step: StepView, host: Host) -> Image:
        return UpstreamImage(name="webui", reference="ghcr.io/toy/webui:1", manifest="sha256:" + "ab" * 32)

    def launch(self, step: StepView, host: Host) -> Launch:
        return Launch(argv=("webui", PortRef()), probe=Probe(HttpProbe("/")))


class Program(_Toy):
    name: ClassVar[str] = "toy/program"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "service"

    def image(self, step: StepView, host: Host) -> Image:
        return HostProgram(name="ollama", program="ollama", install_hint="install Ollama")

    def launch(self, step: StepView, host: Host) -> Launch:
        return Launch(argv=("ollama", "serve", PortRef()), probe=Probe(HttpProbe("/")))


class Shop:
    """`shop:NAME/TYPE`: pinned at once, fetched by a job."""

    scheme: ClassVar[str] = "shop"
    summary: ClassVar[str] = "A toy hub"
    revision: ClassVar[int] = 1
    examples: ClassVar[tuple[str, ...]] = ("shop:tiny/model/safetensors",)

    def check(self, reference: str) -> Iterable[Finding]:
        name, _, kind = reference.removeprefix("shop:").partition("/")
        if not name.isalnum() or len(name) > 40 or not kind.isprintable():
            yield Finding("a shop sells things like shop:tiny/model/gguf")

    def resolve(self, reference: str, options: dict[str, Any], host: Host) -> Resolution:
        return Resolution(pin=pin(reference))

    def fetch(self, pin: Pin, options: dict[str, Any], host: Host) -> Question | None:
        fetch = Launch(argv=("fetch", pin.identity, OutputRef()), network=True)
        return Question(image("hub", "cpu"), fetch)


FACTS = Facts(architecture="qwen2", bytes=988_000_000, layers=24, kv_heads=2, head_dim=64, context=32_768)


def pin(reference: str, revision: str = "1") -> Pin:
    """What the shop says of a reference."""
    name, _, kind = reference.removeprefix("shop:").partition("/")
    files = (PinnedFile(f"{name}.bytes", 988_000_000),)
    facts = FACTS if kind.startswith("model/") else Facts()
    return Pin(ref=reference, identity=f"shop:{name}@{revision}", type=kind, files=files, facts=facts)


ENGINES: tuple[Any, ...] = (
    Convert(), Quantize(), Imatrix(), Train(), Merge(), Compare(), Serve(), Chat(), Webui(), Program(),
)  # fmt: skip
SOURCES: tuple[Any, ...] = (Shop(),)


@hookimpl
def qwend_engines() -> Iterable[Any]:
    return ENGINES


@hookimpl
def qwend_sources() -> Iterable[Any]:
    return SOURCES
