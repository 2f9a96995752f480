"""An interactive step on this terminal: the daemon readies it, and this process runs it as its own child."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

import click

from qwend.cli import progress
from qwend.cli.acting import settle
from qwend.cli.running import Foreground
from qwend.client import Client, Json
from qwend.errors import StepFailed

if TYPE_CHECKING:
    from subprocess import Popen


def attached(request: Json) -> Json:
    """The body for /v1/terminals: the request, and what kind of terminal this is."""
    tty = sys.stdin.isatty() and sys.stdout.isatty()
    return {**request, "tty": tty, "term": os.environ.get("TERM", "dumb"), "client": os.getpid()}


class Attachment(Foreground):
    """Waits until everything is there, then gives the terminal to the step. Ctrl-C before that lets go of the run."""

    def __init__(self, client: Client, request: Json) -> None:
        super().__init__(client, request)
        self._terminal: Json | None = None

    def go(self) -> int:
        """The exit code: 0, 1 where the step failed, 130 where it was interrupted."""
        stream = self._client.stream("POST", "/v1/terminals", self._request)
        try:
            with self._signals(), progress.display() as self._shown:
                end = progress.follow(self._until_ready(stream), self._shown)
            if self._terminal is None:
                return 130 if self._interrupts else settle(end)
            return run(self._terminal)
        finally:
            if isinstance(stream, Generator):
                stream.close()  # it was open until now: by it the daemon knows that we live

    def _until_ready(self, stream: Iterator[Json]) -> Iterator[Json]:
        for item in self._met(stream):
            if "terminal" in item:
                self._terminal = item["terminal"]
                return
            yield item


def run(terminal: Json) -> int:
    """Runs a command on this terminal until it ends, and leaves the terminal as it was."""
    import subprocess  # 10 ms, which no other command should pay

    env = {**os.environ, **terminal["env"]} if terminal["inherit"] else terminal["env"]
    with _as_it_was(), _passing() as passing, _readable(terminal.get("secrets", ())) as given:
        try:
            # In the user's folder: what a chat is told to save is meant to lie there.
            passing.child = subprocess.Popen(terminal["argv"], env=env, pass_fds=given)
        except OSError as error:
            raise StepFailed(
                f"{terminal['argv'][0]} cannot be started: {error.strerror}",
                code="no-program",
                hint="it must be on your PATH" if terminal["inherit"] else "qwend images verify",
            ) from None
        passing.catch_up()
        code = passing.child.wait()
    if code in (0, 130, -signal.SIGINT):
        return 130 if code else 0
    how = f"by signal {-code}" if code < 0 else f"with code {code}"
    click.echo(f"qwend: it ended {how}", err=True)
    return 1


@contextmanager
def _readable(secrets: Sequence[tuple[int, str]]) -> Iterator[tuple[int, ...]]:
    """Secrets as open descriptors of these numbers, which no disk, argument or environment shows."""
    opened = []
    try:
        for number, value in secrets:
            fd = _memory(value.encode())
            opened.append(os.dup2(fd, number))
            os.close(fd)
        yield tuple(opened)
    finally:
        for number in opened:
            os.close(number)


def _memory(data: bytes) -> int:
    """A descriptor from which this is read: again and again on Linux, once elsewhere (where a pipe bounds it)."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("qwend")
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd
    fd, end = os.pipe()
    os.set_blocking(end, False)
    try:
        if data and os.write(end, data) != len(data):
            os.close(fd)
            raise StepFailed(
                f"a secret of {len(data)} bytes is more than a pipe holds", code="secret-too-long"
            )
    finally:
        os.close(end)
    return fd


class _Passing:
    """Signals of the keyboard reach the child by themselves; what ends this process ends it too."""

    def __init__(self) -> None:
        self.child: Popen[bytes] | None = None
        self._early: list[int] = []

    def ignore(self, _: int, __: FrameType | None) -> None:
        """A handler, not SIG_IGN: that would be inherited."""

    def hand_on(self, number: int, _: FrameType | None) -> None:
        if self.child is None:
            self._early.append(number)
        else:
            self.child.send_signal(number)  # which does nothing once it has ended

    def catch_up(self) -> None:
        """What came before there was a child."""
        for number in self._early:
            self.hand_on(number, None)


@contextmanager
def _passing() -> Iterator[_Passing]:
    made = _Passing()
    handlers = {
        signal.SIGINT: made.ignore,
        signal.SIGQUIT: made.ignore,
        signal.SIGTERM: made.hand_on,
        signal.SIGHUP: made.hand_on,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield made
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Puts the terminal's settings back: an engine that was killed leaves them raw."""
    import termios

    try:
        before = termios.tcgetattr(0)
    except (termios.error, OSError):
        yield
        return
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(0, termios.TCSADRAIN, before)
