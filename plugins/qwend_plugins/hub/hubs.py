"""The sources `hf:` and `modelscope:`. Their own libraries do the work, in the image `hub`: see `drivers/`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from qwend.plugin import (
    DriverRef,
    Finding,
    Host,
    Image,
    ImageRef,
    Launch,
    LaunchFile,
    OutputRef,
    Pin,
    PinnedFile,
    Question,
    Resolution,
    ScratchRef,
    SecretRef,
    Word,
    driver,
    load_image,
)

DRIVERS = Path(__file__).parent / "drivers"
MODULES = ("hubs.py", "hub_hugging_face.py", "hub_modelscope.py")
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,95})"
_REFERENCE = re.compile(
    rf"(?P<scheme>hf|modelscope):{_PART}/{_PART}(?:@[A-Za-z0-9._-]{{1,128}})?(?:/[^?#\0-\x1f\x7f]{{1,1000}})?"
    r"(?:\?[A-Za-z0-9=&_./-]{1,500})?"
)


def image() -> Image:
    """The image with the hubs' libraries."""
    return load_image("qwend_images:hub", "cpu")


def drivers(*names: str) -> tuple[LaunchFile, ...]:
    return tuple(driver(DRIVERS / name) for name in names)


class _Hub:
    scheme: ClassVar[str]
    revision: ClassVar[int] = 1
    token: ClassVar[str]
    """The secret with the user's token. Most repositories are public: it is optional."""

    def check(self, reference: str) -> Iterable[Finding]:
        match = _REFERENCE.fullmatch(reference)
        if match is None or match["scheme"] != self.scheme or ".." in reference.split("/"):
            yield Finding(f"{self.scheme}: takes owner/repository, then @revision and /file if wanted")

    def resolve(self, reference: str, options: dict[str, Any], host: Host) -> Resolution:
        kind = str(options.get("kind", "model"))
        words: list[Word] = [reference, "--kind", kind]
        for want in options.get("wants", ()):
            if str(want).startswith("dataset/") == (kind == "dataset"):
                words += ["--want", str(want)]
        if options.get("type"):
            words += ["--type", str(options["type"])]
        if options.get("allow_pickle"):
            words.append("--allow-pickle")
        words += ["--token-file", SecretRef(self.token)]
        launch = Launch(
            argv=(ImageRef("bin/python"), DriverRef("resolve.py"), *words),
            files=drivers("resolve.py", "facts.py", *MODULES),
            optional_secrets=(self.token,),
            network=True,
        )
        return Resolution(question=Question(image(), launch), type=options.get("type"))

    def fetch(self, pin: Pin, options: dict[str, Any], host: Host) -> Question | None:
        # where a copy lies on this machine is no part of what is to be fetched
        files = tuple(PinnedFile(file.path, file.size, file.sha256, file.oid) for file in pin.files)
        asked = msgspec.json.encode({"ref": pin.ref, "revision": pin.revision, "files": files}).decode()
        launch = Launch(
            argv=(
                *(ImageRef("bin/python"), DriverRef("fetch.py"), "--pin", DriverRef("pin.json")),
                *("--kind", str(options.get("kind", "model"))),
                *(
                    "--out",
                    OutputRef(),
                    "--partial",
                    ScratchRef("partial"),
                    "--token-file",
                    SecretRef(self.token),
                ),
            ),
            files=(*drivers("fetch.py", "wanted.py", *MODULES), LaunchFile("pin.json", asked)),
            optional_secrets=(self.token,),
            network=True,
            resumable=True,
        )
        return Question(image(), launch)


class HuggingFace(_Hub):
    """Pinned to a commit; `HF_ENDPOINT` and the user's own cache are honoured by the library."""

    scheme: ClassVar[str] = "hf"
    token: ClassVar[str] = "hf_token"
    summary: ClassVar[str] = "A model or dataset of the Hugging Face hub"
    examples: ClassVar[tuple[str, ...]] = (
        "hf:Qwen/Qwen2.5-0.5B-Instruct",
        "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF@main/qwen2.5-0.5b-instruct-q4_k_m.gguf",
    )


class ModelScope(_Hub):
    """Pinned to a commit; `MODELSCOPE_*` and the user's own cache are honoured by the library."""

    scheme: ClassVar[str] = "modelscope"
    token: ClassVar[str] = "modelscope_token"
    summary: ClassVar[str] = "A model or dataset of ModelScope"
    examples: ClassVar[tuple[str, ...]] = (
        "modelscope:Qwen/Qwen2.5-0.5B-Instruct",
        "modelscope:modelscope/wikitext?subset=wikitext-2-raw-v1&split=test",
    )
