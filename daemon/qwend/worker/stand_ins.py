"""What `--smoke` must not hide: what is known of the real sources without asking a hub. Pure but for local files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from qwend.core.sourcing import Sought
from qwend.errors import QwendError
from qwend.worker.wire import Candidate

_ENDINGS = {".gguf": "model/gguf"}


class Behind(NamedTuple):
    """What stands behind the tiny models: the type of each source as far as it is known, why some cannot be used, the
    files that were looked at, and those that are not there."""

    types: dict[str, str]
    errors: tuple[QwendError, ...]
    files: tuple[str, ...]
    missing: tuple[str, ...]


def behind(sources: Iterable[Sought], candidate: Callable[[Sought, int, str], Candidate]) -> Behind:
    """Looks at the real references of a recipe that is brought up with tiny models.

    `candidate` resolves one or raises. A source of which no reference can be used is an error here as well as in a real
    run; a file that is not there is only told, since the chain can be proved before the data has come.
    """
    types: dict[str, str] = {}
    errors: list[QwendError] = []
    files: list[str] = []
    missing: list[str] = []
    for source in sources:
        wrong: list[QwendError] = []
        kinds: set[str] = set()
        for index, reference in enumerate(source.references):
            try:
                resolution = candidate(source, index, reference).resolution
            except QwendError as error:
                wrong.append(error)
                continue
            if resolution is not None and resolution.local is not None:
                files.append(resolution.local)
            kind = resolution.type if resolution is not None and resolution.type else _named(reference)
            kinds |= {kind} if kind else set()
        absent = [error for error in wrong if error.code == "no-file"]
        if len(wrong) == len(source.references):
            missing += [f"{error.message}; without --smoke it is needed" for error in absent]
            errors += [error for error in wrong if error not in absent]
        if len(kinds) == 1:
            types[source.name] = kinds.pop()
    return Behind(types, tuple(errors), tuple(files), tuple(missing))


def _named(reference: str) -> str | None:
    """The type that a reference's own name tells."""
    path = reference.partition("?")[0].partition("#")[0].lower()
    return next((kind for ending, kind in _ENDINGS.items() if path.endswith(ending)), None)
