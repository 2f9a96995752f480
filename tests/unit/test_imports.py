"""What the daemon's own process loads: it lives for weeks, so every megabyte counts."""

from __future__ import annotations

import os
import subprocess
import sys

KEPT_OUT = [
    "pydantic",
    "qwend.plugin",
    "qwend.worker.verbs",
    "qwend.worker.catalog",
    "qwend_plugins",
    "rich",
    "qwend.cli",
    "docker",
    "yaml",
]


def test_the_daemon_loads_no_pydantic_no_plugin_and_nothing_of_the_command_line() -> None:
    code = f"import sys, qwend.daemon; print([name for name in {KEPT_OUT!r} if name in sys.modules])"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert ended.stdout.strip() == "[]", ended.stderr
