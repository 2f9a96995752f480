"""What stands in the way of a plan, said before anything is downloaded: memory, disk, cards, platform. Pure.

Only known facts count: a need or a capacity that nobody knows blocks nothing and is not made up.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import msgspec

from qwend.core.leasing import decide
from qwend.core.wants import Want, never
from qwend.model.host import Gpu, Host
from qwend.model.image import HostProgram, Image, ImageSpec, UpstreamImage
from qwend.model.memory import human
from qwend.model.plan import Compiled, CompiledStep

_MACHINES = {"arm64": "aarch64", "aarch64": "aarch64", "x86_64": "x86_64", "amd64": "x86_64"}


class Preflight(msgspec.Struct, frozen=True):
    """Findings, and bytes to download and to write."""

    warnings: tuple[str, ...] = ()
    blockers: tuple[str, ...] = ()
    download: int = 0
    disk: int = 0


def preflight(
    compiled: Compiled,
    acting: Sequence[CompiledStep],
    images: Iterable[Image],
    host: Host,
    realised: Container[tuple[str, str]] = frozenset(),
) -> Preflight:
    """What `acting` steps and `images` to be built come to on `host`."""
    warnings: list[str] = []
    blockers: list[str] = []
    _memory(compiled, acting, host, warnings, blockers)
    for step in acting:
        _cards(step, host, warnings, blockers)
        _never(step, host, blockers)
        _platform(step, host, realised, blockers)
    _beside(compiled, host, blockers)
    download = sum(_download(step) for step in acting)
    disk = download + sum(step.resources.disk or 0 for step in acting)
    disk += sum(image.disk_mb * 1024 * 1024 for image in images if isinstance(image, ImageSpec))
    _disk(disk, host, warnings, blockers)
    return Preflight(tuple(dict.fromkeys(warnings)), tuple(dict.fromkeys(blockers)), download, disk)


def _download(step: CompiledStep) -> int:
    if step.kind != "source" or step.launch is None or step.pin is None:
        return 0
    return sum(file.size or 0 for file in step.pin.files if file.local is None)


def _memory(
    compiled: Compiled,
    acting: Sequence[CompiledStep],
    host: Host,
    warnings: list[str],
    blockers: list[str],
) -> None:
    """Services live side by side, jobs one after the other (they wait for their lease)."""
    for step in acting:
        need, limit = step.resources.memory, step.policy.memory
        if need is None:
            continue
        how = f" ({step.resources.note})" if step.resources.note else ""
        if host.memory is not None and need > host.memory:
            have = f"this machine has {human(host.memory)}"
            blockers.append(f"{step.name}: needs about {human(need)} of memory{how}; {have}")
        elif limit is not None and need > limit:
            warnings.append(f"{step.name}: needs about {human(need)}{how}; memory: allows {human(limit)}")
    if host.memory is None:
        return
    services = [step for step in compiled.steps if step.kind == "service" and Want.of("", step).memory]
    together = sum(Want.of("", step).memory or 0 for step in services)
    alone = max((Want.of("", step).memory or 0 for step in services), default=0)
    if len(services) > 1 and alone <= host.memory < together:
        names = ", ".join(step.name for step in services)
        blockers.append(
            f"{names} together need about {human(together)} of memory; this machine has {human(host.memory)}"
        )
    if host.memory_available is None or blockers:
        return
    starting = sum(step.resources.memory or 0 for step in acting if step.kind == "service")
    largest = max((step.resources.memory or 0 for step in acting if step.kind != "service"), default=0)
    if starting + largest > host.memory_available:
        warnings.append(
            f"about {human(starting + largest)} of memory are needed and {human(host.memory_available)} are "
            "free now: steps may have to wait for one another"
        )


def _cards(step: CompiledStep, host: Host, warnings: list[str], blockers: list[str]) -> None:
    need, count = step.resources.gpu_memory, step.resources.gpus
    if need is None or count == 0:
        return
    named = set(step.policy.gpus)
    cards = [gpu for gpu in host.gpus if not named or named & {str(gpu.index), gpu.uuid}]
    fitting = [gpu for gpu in cards if gpu.memory * step.policy.gpu_share >= need]
    how = f" ({step.resources.note})" if step.resources.note else ""
    if len(fitting) < count:
        have = ", ".join(f"gpu {gpu.index} has {human(gpu.memory)}" for gpu in cards) or "there is none"
        share = f", of which it may take {step.policy.gpu_share:g}" if step.policy.gpu_share < 1 else ""
        blockers.append(f"{step.name}: needs about {human(need)} on {_count(count)}{how}; {have}{share}")
    elif sum(_free(gpu) >= need for gpu in fitting) < count:
        have = ", ".join(f"gpu {gpu.index} has {human(_free(gpu))} free" for gpu in fitting)
        warnings.append(
            f"{step.name}: needs about {human(need)} on {_count(count)}; {have}: it may have to wait"
        )


def _never(step: CompiledStep, host: Host, blockers: list[str]) -> None:
    """What no lease will ever give: said now rather than by `up`. A need that is estimated was told with its parts."""
    said = any(text.startswith(f"{step.name}: ") for text in blockers)
    problem = None if said else never(Want.of(step.name, step), host)
    if problem is not None:
        blockers.append(f"{step.name}: {problem}")


def _beside(compiled: Compiled, host: Host, blockers: list[str]) -> None:
    """Services live side by side, so cores and cards that one has are never free for another."""
    if blockers:
        return
    idle = msgspec.structs.replace(
        host,
        memory=None,
        memory_available=None,
        gpus=tuple(msgspec.structs.replace(gpu, memory_free=None) for gpu in host.gpus),
    )
    wants = [Want.of(step.name, step) for step in compiled.steps if step.kind == "service"]
    wants = [msgspec.structs.replace(want, memory=None, heavy=False) for want in wants]
    for name, reason in decide(wants, (), idle).reasons.items():
        blockers.append(f"{name}: {reason.removeprefix('waiting for ')}, for as long as that is up")


def _free(gpu: Gpu) -> int:
    return gpu.memory if gpu.memory_free is None else gpu.memory_free


def _count(count: int) -> str:
    return "a card" if count == 1 else f"each of {count} cards"


def _platform(
    step: CompiledStep, host: Host, realised: Container[tuple[str, str]], blockers: list[str]
) -> None:
    match step.image:
        case ImageSpec(base=str(), name=name, flavour=flavour) if step.runtime == "native":
            blockers.append(
                f"{step.name}: image {name} ({flavour}) is a container image, and its runtime is native"
            )
        case ImageSpec(platforms=platforms, name=name, flavour=flavour):
            here = platform(host, step.runtime)
            if here not in platforms:
                blockers.append(
                    f"{step.name}: image {name} ({flavour}) is for {', '.join(platforms)}; here it would run on {here}"
                )
            elif step.runtime == "docker" and host.docker_lacks and ("oci", step.image.key) not in realised:
                blockers.append(
                    f"image {name}: Docker {host.docker} answers, but {host.docker_lacks} (runtime: native needs none; "
                    "qwend doctor says how to get one)"
                )
        case HostProgram(program=program, install_hint=hint):
            if ("program", program) not in realised:
                blockers.append(f"{step.name}: needs the program {program}, which is not installed ({hint})")
        case UpstreamImage(name=name) if step.runtime == "native":
            blockers.append(f"{step.name}: image {name} is a container image, and its runtime is native")
        case _:
            pass


def platform(host: Host, runtime: str) -> str:
    """The platform that a step sees: containers are Linux whatever the host is."""
    machine = _MACHINES.get(host.machine, host.machine)
    if runtime == "native" and host.system == "darwin":
        return f"macos-{'arm64' if machine == 'aarch64' else machine}"
    return f"{'linux' if runtime != 'native' else host.system}-{machine}"


def _disk(need: int, host: Host, warnings: list[str], blockers: list[str]) -> None:
    if host.disk_free is None or need == 0:
        return
    if need > host.disk_free:
        blockers.append(f"about {human(need)} of disk are needed; {human(host.disk_free)} are free")
    elif need > host.disk_free * 0.9:
        warnings.append(f"about {human(need)} of disk are needed; {human(host.disk_free)} are free")
