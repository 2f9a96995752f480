"""What a step is built for and where it runs, each with the reason that the plan prints. Pure.

A card that was asked for is never silently replaced by the CPU: if a machine has cards and an engine has a
build for cards, anything that keeps the two apart is an error that says how to mend it or to ask for the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, NamedTuple

from qwend.core.selection import family
from qwend.core.wording import listing
from qwend.errors import OutOfResource, QwendError, Unreachable, UsageError
from qwend.model.host import Gpu, Host
from qwend.model.recipe import Step


class Floor(NamedTuple):
    """What a flavour asks of a machine: NVIDIA driver branch, and compute capability of the card."""

    driver: int
    capability: tuple[int, int]


FLOORS = {"cuda": Floor(580, (7, 5)), "cuda12": Floor(525, (7, 0))}
"""`cuda` holds CUDA 13 (NVIDIA's table of minor version compatibility: driver 580 or newer; CUDA 13 dropped Volta),
`cuda12` CUDA 12 (525 or newer) for cards from Volta on."""


class Refusal(Exception):
    """Why there is no place for a step; `key` is the key of the step that asks for it. The recipe is to blame."""

    kind: ClassVar[type[QwendError]] = UsageError

    def __init__(self, key: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.message = message
        self.hint = hint

    def error(self, place: str = "", where: str | None = None) -> QwendError:
        """The refusal as the user reads it; `place` is the step's key path."""
        message = f"{place}.{self.key}: {self.message}" if place else self.message
        return self.kind(message, code="no-place", hint=self.hint, where=where)


class Lacking(Refusal):
    """The machine lacks what the step asks for."""

    kind = OutOfResource


class Away(Refusal):
    """A runtime does not answer."""

    kind = Unreachable


def flavour(
    engine: str, flavours: tuple[str, ...], step: Step, host: Host, device: str | None
) -> tuple[str, str]:
    """The flavour for a step, and why. `device` is the user's word for the whole run (None or `auto`: none).

    Raises Refusal.
    """
    asked = device if device not in (None, "auto") else None
    wanted = asked or step.device
    if wanted == "auto":
        return _best(engine, flavours, step, host)
    if not any(family(name) == wanted for name in flavours):
        if asked and step.device in ("auto", asked):
            name, _ = _best(engine, flavours, step, host)
            return name, f"{engine} has no {wanted} build"
        have = listing(sorted({family(name) for name in flavours}))
        raise Refusal("device", f"{engine} has no {wanted} build", f"it has {have}")
    return _asked(engine, flavours, wanted, step, host)


def lacks(host: Host, device: str) -> Lacking | None:
    """What to say where a machine has no such device."""
    if device == "cuda" and not host.gpus:
        hint = "qwend doctor says what was looked for; device cpu runs it on the CPU"
        return Lacking("device", "this machine has no NVIDIA card that answers", hint)
    if device == "apple" and "apple" not in host.flavours():
        return Lacking("device", "this machine is no Mac with Apple silicon", "device cpu runs it here")
    return None


def refuse_device(device: str, host: Host, flavours: Iterable[Iterable[str]]) -> QwendError | None:
    """Why a device that was asked for the whole run (`--device`) cannot be had; `flavours` are those of the engines
    of its steps. Single steps without a build for it run elsewhere and say so, but not all of them."""
    lacking = lacks(host, device)
    if lacking is not None:
        return lacking.error()
    if any(family(name) == device for names in flavours for name in names):
        return None
    return UsageError(f"no step has a {device} build", code="no-place", hint="leave the device out")


def _asked(engine: str, flavours: tuple[str, ...], wanted: str, step: Step, host: Host) -> tuple[str, str]:
    match wanted:
        case "cuda":
            if not host.gpus:
                hint = "qwend doctor says what was looked for; device: cpu runs it on the CPU"
                raise Lacking("device", "this machine has no NVIDIA card that answers", hint)
            return _cuda(engine, flavours, step, host)
        case "apple":
            if "apple" not in host.flavours():
                raise Lacking(
                    "device", "this machine is no Mac with Apple silicon", "device: cpu runs it here"
                )
            return "apple", "asked for"
        case _:
            return "cpu", "asked for"


def _best(engine: str, flavours: tuple[str, ...], step: Step, host: Host) -> tuple[str, str]:
    here = host.flavours()
    cards = [name for name in flavours if family(name) == "cuda"]
    if step.gpus == 0 and "cpu" in flavours:
        return "cpu", "no card was asked for"
    if host.gpus and cards:
        return _cuda(engine, flavours, step, host)
    for name in here:
        if name in flavours:
            return name, _why(engine, flavours, name, host)
    need = listing(sorted({family(name) for name in flavours}))
    raise Lacking(
        "uses", f"{engine} is for {need}, and this machine has {listing(_devices(here), 'and')} only"
    )


def _why(engine: str, flavours: tuple[str, ...], name: str, host: Host) -> str:
    if name == "apple":
        return host.chip or "Apple silicon"
    better = "apple" if "apple" in host.flavours() else "cuda" if host.gpus else None
    if better and not any(family(flavour) == better for flavour in flavours):
        return f"{engine} has no {better} build"
    return "no accelerator found"


def _cuda(engine: str, flavours: tuple[str, ...], step: Step, host: Host) -> tuple[str, str]:
    cards = _cards(step, host)
    problems = []
    for name in ("cuda", "cuda12"):
        if name in flavours:
            problem = _problem(name, cards, host.driver)
            if problem is None:
                return name, f"{_names(cards)}, driver {host.driver or 'unknown'}"
            problems.append(problem)
    hint = "device: cpu runs it on the CPU" if "cpu" in flavours else None
    raise Lacking("device", f"{engine} cannot use {_names(cards)}: {'; '.join(problems)}", hint)


def _problem(name: str, cards: list[Gpu], driver: str | None) -> str | None:
    """Every card that the step may get has to do, since the lease chooses among them later."""
    floor = FLOORS[name]
    branch = (driver or "").partition(".")[0]
    if branch.isdigit() and int(branch) < floor.driver:
        return f"its {name} build needs driver {floor.driver} or newer, and this is {driver}"
    for gpu in cards:
        if gpu.capability is not None and gpu.capability < floor.capability:
            need, have = _dotted(floor.capability), _dotted(gpu.capability)
            return f"its {name} build needs compute capability {need}, and gpu {gpu.index} ({gpu.name}) has {have}"
    return None


def cards(step: Step, flavour: str, host: Host) -> tuple[int, tuple[str, ...]]:
    """How many cards, and the names of those that were named. Raises Refusal."""
    if family(flavour) != "cuda":
        if step.gpus not in (None, 0, ()):
            kind = Refusal if host.gpus or step.device == "cpu" else Lacking
            raise kind("gpus", f"cards were asked for, and this step runs on {flavour}")
        return 0, ()
    if isinstance(step.gpus, tuple):
        return len(step.gpus), tuple(str(name) for name in step.gpus)
    count = 1 if step.gpus is None else step.gpus
    if count > len(host.gpus):
        raise Lacking("gpus", f"{count} cards were asked for, and this machine has {len(host.gpus)}")
    return count, ()


def _cards(step: Step, host: Host) -> list[Gpu]:
    if not isinstance(step.gpus, tuple):
        return list(host.gpus)
    found = []
    for index, name in enumerate(step.gpus):
        card = next((gpu for gpu in host.gpus if str(name) in (str(gpu.index), gpu.uuid)), None)
        if card is None:
            have = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in host.gpus)
            raise Lacking(f"gpus.{index}", f"there is no gpu {name}", f"there is {have}; in PCI order")
        if card in found:
            raise Refusal(
                f"gpus.{index}", f"gpu {name} is named twice", "name each card once, by index or UUID"
            )
        found.append(card)
    return found


def runtime(
    flavour: str,
    said: str,
    host: Host,
    *,
    runtimes: tuple[str, ...],
    asked: str | None,
    setting: str | None,
) -> tuple[str, str]:
    """Where a step runs, and why. `said` is the step's own word; `runtimes` answer here, `asked` is the user's word
    for this run, `setting` the one in the configuration. Raises Refusal."""
    for wanted, why in ((asked, "asked for"), (said, "asked for"), (setting, "your setting")):
        if wanted is None or wanted == "auto":
            continue
        if wanted not in runtimes:
            raise absent(wanted, runtimes, host)
        if wanted != "native" and flavour == "apple":
            hint = "runtime: native, or device: cpu"
            raise Refusal("runtime", f"a Linux container has no Metal, so {wanted} cannot run this", hint)
        return wanted, why
    if flavour == "apple":
        return "native", "Metal is not to be had in a container"
    if "docker" not in runtimes or host.docker is None:
        lacks = host.docker_lacks if host.docker is None else None
        return "native", f"Docker cannot be used: {lacks}" if lacks else "no Docker engine answers"
    if host.docker_lacks is not None:
        return "native", f"Docker {host.docker} answers, but {host.docker_lacks}"
    if family(flavour) == "cuda" and not host.docker_gpus:
        return "native", f"Docker {host.docker} cannot give a container a card"
    return "docker", f"Docker {host.docker} answers"


def absent(runtime: str, runtimes: tuple[str, ...], host: Host) -> Away:
    """What to say of a runtime that does not answer."""
    there = f"there is {listing(sorted(runtimes), 'and')}"
    if runtime == "kubernetes":
        return Away("runtime", "there is no kubernetes runtime in this version", there)
    hint = f"{there}; qwend doctor says what is missing"
    why = f": {host.docker_lacks}" if runtime == "docker" and host.docker_lacks else ""
    return Away("runtime", f"the runtime {runtime} does not answer here{why}", hint)


def _devices(flavours: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(family(name) for name in flavours))


def _names(cards: list[Gpu]) -> str:
    names = list(dict.fromkeys(gpu.name for gpu in cards))
    return f"{len(cards)} x {names[0]}" if len(names) == 1 and len(cards) > 1 else ", ".join(names)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
