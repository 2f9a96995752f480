"""The command line: one file per command in `commands`; no logic, it asks the daemon."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The console script."""
    from qwend.cli.program import run

    sys.exit(run(sys.argv[1:]))
