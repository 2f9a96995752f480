"""What leaves qwend: a step as somebody else would run it, with the places that are known. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from qwend.model.image import HostProgram, ImageSpec
from qwend.model.plan import CompiledStep


class Made(msgspec.Struct, frozen=True):
    """An artifact that is there: its folder on this machine, and its files by path in it with where each really lies
    (a hub's cache keeps its files as links)."""

    folder: str
    files: Mapping[str, str]


class Place(msgspec.Struct, frozen=True):
    """A realised image: a folder (`venv`), an image id (`oci`), or a program's path (`program`)."""

    kind: str
    location: str


class Part(msgspec.Struct, frozen=True):
    """A step with what there is of it: its artifact, its realised image, its CPU threads. `port` is a service's: the
    one that it has or, had it none yet, might get."""

    step: CompiledStep
    made: Made | None
    image: Place | None
    port: int | None
    threads: int


def folder_name(step: str) -> str:
    """A step's name as a file name: `quant[Q8_0]` becomes `quant-Q8_0`."""
    return "".join(char if char.isalnum() or char in "_.-" else "-" for char in step).strip("-.") or "step"


def image_of(part: Part) -> str:
    """What a container image is called by: its tag, or an upstream image by digest."""
    match part.step.image:
        case ImageSpec() as ours:
            return ours.container
        case HostProgram(program=program):
            return program
        case None:
            return ""
        case upstream:
            return upstream.pinned
