"""A command line at a terminal of its own: what its user sees and types."""

from __future__ import annotations

import errno
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.conftest import Qwend

WAIT_S = 600.0


class Terminal:
    """What a user sees and types. Everything that was printed is in `shown`."""

    def __init__(self, controller: int, process: subprocess.Popen[bytes]) -> None:
        self._controller, self.process = controller, process
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._controller, text.encode())

    def until(self, pattern: str, after: int = 0) -> int:
        """Waits until it is shown (behind `after`); where it ends."""
        end = time.monotonic() + WAIT_S
        while not (found := re.compile(pattern).search(self.shown, after)):
            assert time.monotonic() < end, f"{pattern} is not shown:\n{self.shown[-3000:]}"
            assert self._more(), f"it ended without {pattern}:\n{self.shown[-3000:]}"
        return found.end()

    def _more(self) -> bool:
        ready, _, _ = select.select([self._controller], [], [], 1.0)
        if not ready:
            return True
        try:
            data = os.read(self._controller, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # the other side is closed
                raise
            data = b""
        self.shown += data.decode("utf-8", "replace")
        return bool(data)


@contextmanager
def terminal(qwend: Qwend, *arguments: str) -> Iterator[Terminal]:
    controller, side = pty.openpty()
    process = subprocess.Popen(
        qwend.command(*arguments),
        cwd=qwend.folder,
        env={**qwend.environ, "TERM": "dumb"},
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    try:
        yield Terminal(controller, process)
    finally:
        process.kill()
        process.wait()
        os.close(controller)
