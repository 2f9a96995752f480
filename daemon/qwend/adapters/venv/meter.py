"""How far uv's and pip's downloads are, read from what they draw."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_BAR = re.compile(r"(?P<name>[\w.-]+)\s+-+\s+(?P<done>[\d.]+) (?P<unit>\w+)/(?P<total>[\d.]+) (?P<of>\w+)")
_PIP = re.compile(r"Progress (\d+) of (\d+)")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_EVERY_S = 0.2
_KEPT = 4096
"""Characters of an earlier chunk that are looked at again: a bar may come in two pieces."""


class DownloadMeter:
    """Sums the bars of one installer; tells (bytes done, bytes in all, package) five times a second at most.

    Only what has begun is in the sum, since nobody knows the sizes before.
    """

    def __init__(self, tell: Callable[[float, float, str], None]) -> None:
        self._tell = tell
        self._bars: dict[str, tuple[float, float]] = {}
        self._rest = ""
        self._told = 0.0

    def frame(self, text: str) -> None:
        """What uv drew on its terminal."""
        text = _ESCAPE.sub("", self._rest + text)
        self._rest = text[-_KEPT:]
        name = ""
        for match in _BAR.finditer(text):
            name = match["name"]
            done = float(match["done"]) * _UNITS.get(match["unit"], 0)
            total = float(match["total"]) * _UNITS.get(match["of"], 0)
            self._bars[name] = (max(done, self._bars.get(name, (0.0, 0.0))[0]), total)
        if name:
            self._report(name)

    def line(self, text: str, name: str) -> None:
        """A line of pip's raw progress."""
        if match := _PIP.fullmatch(text.strip()):
            self._bars[name] = (float(match[1]), float(match[2]))
            self._report(name)

    def _report(self, name: str) -> None:
        now = time.monotonic()
        if now - self._told >= _EVERY_S:
            self._told = now
            self._tell(sum(d for d, _ in self._bars.values()), sum(t for _, t in self._bars.values()), name)
