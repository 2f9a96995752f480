"""What a failed build's last words mean for a user: one error, with what to set."""

from __future__ import annotations

from pathlib import Path

from qwend.adapters.docker.buildx import Trail
from qwend.adapters.package_trouble import compile_trouble, package_trouble, redacted
from qwend.errors import Interrupted, OutOfResource, QwendError, StepFailed, Unreachable

_ROOT = Path("/")


def build_trouble(trail: Trail, *, status: int, base: str, log: Path, note: str) -> QwendError:
    """The error behind a failed build; `log` is where all of it is."""
    output = trail.output
    said = [line.removeprefix("qwend: ") for line in output.splitlines() if line.startswith("qwend: ")]
    everything = "\n".join([trail.error, output, *trail.plain])
    hint = f"the whole build is in {log}"
    if status < 0 or ("context canceled" in everything and not trail.failed):
        return Interrupted("the build was interrupted", hint="ask again: it goes on from its cache")
    if "no space left on device" in everything.lower():
        return OutOfResource(
            "the engine's disk is full", code="disk-full", hint="`docker system df` shows what takes it"
        )
    if said:
        return StepFailed(said[-1], code="build-failed", hint=hint)
    if "FROM " in trail.failed or "load metadata" in trail.failed:
        return Unreachable(
            f"the base image {base} is not to be had: {_last(trail.error)}",
            code="no-base",
            hint="set [images] base of qwend.toml to a mirror's, or make a local one with images/make-base",
        )
    if "apt-install" in trail.failed:
        return Unreachable(
            f"Debian packages could not be installed: {_last(redacted(output))}",
            code="no-packages",
            hint="the base image's own sources must be reachable; [images] proxy and ca are passed on to them",
        )
    if "assemble.py compile" in trail.failed:
        return compile_trouble(output, script="build.sh", status=status, log=log, folder=_ROOT)
    if trail.failed:
        return package_trouble(output or trail.error, note=note, folder=_ROOT)
    words = " | ".join(trail.plain[-3:]) or f"exit status {status}"
    if "unknown command" in words or "is not a docker command" in words or "unknown flag" in words:
        return Unreachable(
            "the docker command has no buildx plugin (version 0.13 or newer is wanted)",
            code="no-buildx",
            hint="install it (Debian: docker-buildx; elsewhere: docker-buildx-plugin)",
        )
    return StepFailed(f"docker buildx failed: {redacted(words)}", code="build-failed", hint=hint)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-2:])[:400] or "it said nothing"
