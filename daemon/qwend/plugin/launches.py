"""What a Launch refers to. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from qwend.model.launch import PREVIOUS, DriverRef, InputRef, Join, Launch, OutputRef, PortRef, Ref, SecretRef


def references(launch: Launch) -> Iterator[Ref]:
    """Every reference in the command line and the environment."""
    for word in (*launch.argv, *launch.env.values()):
        for part in word.parts if isinstance(word, Join) else (word,):
            if not isinstance(part, str):
                yield part


def texts(launch: Launch) -> Iterator[str]:
    """Every plain text in the command line and the environment."""
    for word in (*launch.argv, *launch.env.values()):
        for part in word.parts if isinstance(word, Join) else (word,):
            if isinstance(part, str):
                yield part


def input_names(launch: Launch) -> list[str]:
    """The inputs that a Launch reads, each once, without what the step made before."""
    names = (ref.name for ref in references(launch) if isinstance(ref, InputRef))
    return list(dict.fromkeys(name for name in names if name != PREVIOUS))


def dangling(launch: Launch, inputs: Collection[str], secrets: Collection[str]) -> str | None:
    """The first reference that nothing stands behind, as a sentence about the Launch; None if all is well."""
    files = {file.name for file in launch.files}
    for ref in references(launch):
        match ref:
            case InputRef(name=name) if name not in inputs and name != PREVIOUS:
                return f"reads input {name}, which the step was not given"
            case DriverRef(name=name) if name not in files:
                return f"names a file {name}, which its Launch does not carry"
            case SecretRef(name=name) if name not in secrets:
                return f"reads secret {name}, which its Launch does not list"
            case PortRef() if launch.probe is None:
                return "asks for a port, and has no probe that says when it is ready"
            case _:
                pass
    return None


def writes_output(launch: Launch) -> bool:
    """Whether the command line or the environment names the output folder."""
    return any(isinstance(ref, OutputRef) for ref in references(launch))
