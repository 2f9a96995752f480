"""What Linux tells of a machine: /proc, /sys and os-release. Every function takes the root of the file
system, so that recorded files of other machines can be read in tests.

Sources: proc(5), cgroups(7), the kernel's "Control Group v2" (memory.max, memory.current, cpu.max) and
cgroup-v1 "memory" documents, os-release(5).
"""

from __future__ import annotations

import os
import re

_UNLIMITED = 1 << 60
"""cgroup v1 writes "no limit" as the largest multiple of a page below 2^63."""


def memory(root: str = "/") -> tuple[int | None, int | None]:
    """Bytes of RAM that exist for this process and that are available now; None where unknown.

    A control group (a container, a slice) may allow less than the machine has.
    """
    fields = parse_meminfo(_read(os.path.join(root, "proc/meminfo")) or "")
    total, available = fields.get("MemTotal"), fields.get("MemAvailable")
    for limit, used in _memory_limits(root):
        if total is None or limit < total:
            total = limit
        if used is not None and (available is None or limit - used < available):
            available = max(0, limit - used)
    return total, available


def parse_meminfo(text: str) -> dict[str, int]:
    """`/proc/meminfo` in bytes by name."""
    return {name: int(value) * 1024 for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def cpus(root: str = "/") -> int:
    """How many CPUs this process may use, by its affinity and its control group's quota (at least 1)."""
    if root == "/":
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    else:
        count = len(
            re.findall(r"^processor\s*:", _read(os.path.join(root, "proc/cpuinfo")) or "", re.MULTILINE)
        )
    for quota in _cpu_quotas(root):
        count = min(count, max(1, int(quota)))
    return max(1, count)


def os_version(root: str = "/") -> str | None:
    """The distribution as it calls itself."""
    for path in ("etc/os-release", "usr/lib/os-release"):
        found = re.search(
            r'^PRETTY_NAME=(["\']?)(.*)\1$', _read(os.path.join(root, path)) or "", re.MULTILINE
        )
        if found:
            return found[2]
    return None


def nvidia_driver(root: str = "/") -> str | None:
    """The version of the loaded NVIDIA kernel module, which is there even where its library is not."""
    text = _read(os.path.join(root, "proc/driver/nvidia/version")) or ""
    found = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else None


def _memory_limits(root: str) -> list[tuple[int, int | None]]:
    """(limit, used) of this process's control group and those above it, where they limit anything.

    File pages that the kernel may drop at will are not counted as used.
    """
    found = []
    for folder in _groups(root, "memory"):
        for limit_file, used_file, field in _MEMORY_FILES:
            limit = _number(os.path.join(folder, limit_file))
            if limit is not None and limit < _UNLIMITED:
                used = _number(os.path.join(folder, used_file))
                stat = _read(os.path.join(folder, "memory.stat")) or ""
                cache = re.search(rf"^{field} (\d+)$", stat, re.MULTILINE)
                if used is not None and cache:
                    used = max(0, used - int(cache[1]))
                found.append((limit, used))
    return found


_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def _cpu_quotas(root: str) -> list[float]:
    found = []
    for folder in _groups(root, "cpu"):
        quota, _, period = (_read(os.path.join(folder, "cpu.max")) or "").partition(" ")
        if quota.isdigit() and period.strip().isdigit() and int(period):
            found.append(int(quota) / int(period))
        old, every = (
            _number(os.path.join(folder, name)) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        )
        if old is not None and every:
            found.append(old / every)
    return found


def _groups(root: str, controller: str) -> list[str]:
    """The folders of this process's group for a controller and of those above it, of both versions."""
    folders: list[str] = []
    for line in (_read(os.path.join(root, "proc/self/cgroup")) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        mount = os.path.join(root, "sys/fs/cgroup", controllers)
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            folder = os.path.join(mount, *parts[:depth])
            if os.path.isdir(folder):
                folders.append(folder)
    return folders


def _number(path: str) -> int | None:
    text = (_read(path) or "").strip()
    return int(text) if text.isdigit() else None


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return None
