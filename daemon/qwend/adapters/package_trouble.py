"""What uv's, pip's and the compilers' last words mean for a user: one error each, with what to set."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from qwend.errors import OutOfResource, QwendError, StepFailed, Unreachable, UsageError

_SETTINGS = "[images] of qwend.toml, pip's or uv's own settings"
_LAST_LINES = 12


def redacted(text: str) -> str:
    """`text` without the user and password of any address in it."""
    return re.sub(r"(\w+://)[^/\s@]+@", r"\1", text)


def package_trouble(output: str, *, note: str = "", folder: Path) -> QwendError:
    """The error behind a failed `uv pip sync`, `uv venv` or `pip download`; `folder` is where it wrote."""
    output = redacted(re.sub(r"\x1b\[[0-9;]*m", "", output))
    for find in (_disk, _mismatch, _missing, _python, _network, _unhashed):
        if error := find(output, note, folder):
            return error
    return StepFailed(f"packages could not be installed: {_last(output)}", code="install-failed")


def compile_trouble(output: str, *, script: str, status: int, log: Path, folder: Path) -> QwendError:
    """The error behind a build.sh that failed: its own complaint, or the first error of a compiler."""
    output = re.sub(r"\x1b\[[0-9;]*m", "", output)
    if full := _disk(output, "", folder):
        return full
    hint = f"the whole build is in {log}"
    if said := re.findall(r"^build\.sh: (.+)$", output, re.MULTILINE):
        return StepFailed(said[-1], code="build-failed", hint=hint)
    if status in (-9, 137) or "Killed signal terminated program" in output:
        return OutOfResource(
            "a compiler was killed, probably for memory", hint=f"fewer jobs need less; {hint}"
        )
    first = re.search(r"^.*(?:error:|CMake Error).*$", output, re.MULTILINE)
    text = first[0].strip() if first else _last(output)
    return StepFailed(f"{script} failed (exit status {status}): {text}", code="build-failed", hint=hint)


def no_python(versions: str, why: str) -> UsageError:
    """No interpreter of `versions` is here, and `why` none was fetched."""
    return UsageError(
        f"no Python {versions} on this machine, and {why}",
        code="no-python",
        hint=f"install Python {versions} so that it is on PATH",
    )


def _disk(output: str, note: str, folder: Path) -> QwendError | None:
    if "No space left on device" not in output and "os error 28" not in output:
        return None
    return no_space(folder, needed=0)


def no_space(folder: Path, needed: int) -> OutOfResource:
    """`needed` bytes do not fit at `folder` (0: unknown how many)."""
    free = shutil.disk_usage(folder).free
    wants = f" and this needs about {needed / 1e9:.1f} GB" if needed else ""
    return OutOfResource(
        f"the volume of {folder} is full: {free / 1e9:.1f} GB are free{wants}",
        code="disk-full",
        hint="`qwend images prune` frees images that nothing uses",
    )


def _mismatch(output: str, note: str, folder: Path) -> QwendError | None:
    uv = re.search(r"Hash mismatch for `([^`]+)`\s+Expected:\s+((?:sha256:\w+\s+)+)Computed:\s+(\S+)", output)
    pip = re.search(
        r"^\s+(\S.*?) from [^\n]*\n\s+Expected sha256 (\w+)\n(?:.*\n)*?\s+Got\s+(\w+)", output, re.MULTILINE
    )
    if uv:
        package, expected, got = uv[1], uv[2].split(), uv[3]
    elif pip:
        package, expected, got = pip[1], [f"sha256:{pip[2]}"], f"sha256:{pip[3]}"
    else:
        return None
    shown = expected[0] if len(expected) == 1 else f"one of {len(expected)} (such as {expected[0]})"
    return StepFailed(
        f"{package} is not what the lock says: expected {shown}, got {got}",
        code="hash-mismatch",
        hint="the package index or the lock was changed; nothing was installed",
    )


def _missing(output: str, note: str, folder: Path) -> QwendError | None:
    found = (
        re.search(r"there is no version of (\S+)", output)
        or re.search(
            r"because (\S+) was not found in the (?:package registry|provided)", output, re.IGNORECASE
        )
        or re.search(r"No matching distribution found for (\S+)", output)
        or re.search(r"Because (\S+) has no (?:usable )?wheels", output)
    )
    if not found:
        return None
    wheels = "wheels" in found[0] or "no wheels with a matching" in output
    return UsageError(
        f"the package indexes have no {found[1]}{' for this platform and Python' if wheels else ''}",
        code="package-missing",
        hint=f"{note + ' ' if note else ''}Name an index or a folder that has it in {_SETTINGS} "
        "(extra_index, find_links)",
    )


def _python(output: str, note: str, folder: Path) -> QwendError | None:
    never = re.search(r"No interpreter found for Python (\S+)", output)
    fetched = re.search(r"Failed to download `\S*/cpython-(\d+\.\d+)", output)
    if never:
        return no_python(never[1], "uv's own settings forbid it to fetch one")
    return no_python(fetched[1], "it could not be fetched") if fetched else None


def _network(output: str, note: str, folder: Path) -> QwendError | None:
    found = re.search(r"Failed to fetch: `?(\S+?)`?$", output, re.MULTILINE) or re.search(
        r"Could not fetch URL (\S+):", output
    )
    offline = "network was disabled" in output or "--offline" in output
    retried = "Max retries exceeded" in output or "NewConnectionError" in output
    if not (found or retried or "error sending request" in output or offline):
        return None
    causes = re.findall(r"^\s*cause: (.+)$", output, re.MULTILINE)
    why = causes[-1] if causes else ("the network is switched off" if offline else _last(output, 1))
    return Unreachable(
        f"the package index does not answer{f' ({found[1]})' if found else ''}: {why}",
        code="index-unreachable",
        hint=f"set index, ca or proxy in {_SETTINGS}",
    )


def _unhashed(output: str, note: str, folder: Path) -> QwendError | None:
    found = re.search(r"none were provided for: (\S+)", output)
    return UsageError(f"the lock has no hash for {found[1]}", code="bad-lock") if found else None


def _last(output: str, lines: int = _LAST_LINES) -> str:
    kept = [line.strip() for line in output.splitlines() if line.strip()]
    return " | ".join(kept[-lines:]) or "it said nothing"
