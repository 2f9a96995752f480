"""What macOS tells of a machine: `sysctl` and `vm_stat`, asked as programs and parsed by pure functions.

Sources: sysctl(3) for the names (hw.memsize, hw.logicalcpu, machdep.cpu.brand_string, kern.osproductversion,
hw.optional.arm64), vm_stat(1).
"""

from __future__ import annotations

import re
import subprocess
from typing import NamedTuple

NAMES = (
    "hw.memsize",
    "hw.logicalcpu",
    "machdep.cpu.brand_string",
    "kern.osproductversion",
    "hw.optional.arm64",
)
_PLAIN = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"}
_TIMEOUT_S = 2.0


class Mac(NamedTuple):
    """What does not change until the next boot; None is unknown."""

    memory: int | None
    cpus: int | None
    chip: str | None
    os_version: str | None
    arm: bool


def parse_sysctl(text: str) -> Mac:
    """Reads what `sysctl NAMES` prints (`name: value`); names that this Mac does not know are simply missing.

    `arm` is true on Apple silicon even for a program that runs translated and is told x86_64 elsewhere.
    """
    values = dict(re.findall(r"^([\w.]+): (.*)$", text, re.MULTILINE))
    version = values.get("kern.osproductversion")
    return Mac(
        memory=_number(values.get("hw.memsize")),
        cpus=_number(values.get("hw.logicalcpu")),
        chip=values.get("machdep.cpu.brand_string"),
        os_version=f"macOS {version}" if version else None,
        arm=values.get("hw.optional.arm64") == "1",
    )


def parse_vm_stat(text: str) -> int | None:
    """Bytes that programs can have without swapping: free, speculative and inactive pages.

    None if the output is none of vm_stat's.
    """
    size = re.search(r"page size of (\d+) bytes", text)
    pages = dict(re.findall(r"^Pages (free|inactive|speculative): +(\d+)\.$", text, re.MULTILINE))
    if size is None or "free" not in pages:
        return None
    return int(size[1]) * sum(int(count) for count in pages.values())


def mac() -> Mac:
    """Asks this Mac."""
    return parse_sysctl(_output("sysctl", *NAMES))


def available_memory() -> int | None:
    """Asks this Mac."""
    return parse_vm_stat(_output("vm_stat"))


def _output(*argv: str) -> str:
    """What a program prints, as far as it gets: a name that `sysctl` does not know makes it exit with 1."""
    try:
        done = subprocess.run(argv, env=_PLAIN, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
