"""What plugins that write checkpoints share: older and newer readers understand one alike. No plugin of its own."""

from __future__ import annotations

from pathlib import Path

from qwend.plugin import LaunchFile, driver

BOTH_WAYS = "both_ways.py"


def both_ways() -> LaunchFile:
    """The driver file that a driver which writes or reads checkpoints imports."""
    return driver(Path(__file__).parent / "drivers" / BOTH_WAYS)
