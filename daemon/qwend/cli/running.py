"""A run in the foreground: shown until it is up, then kept company until it ends or the user lets go.

Signals are answered where they arrive: the handler asks the daemon on a connection of its own while the run's
stream goes on being read, so that no line of it is lost.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click

from qwend.cli import plans, progress, results
from qwend.cli.acting import settle
from qwend.cli.terminal import is_terminal
from qwend.cli.verbs import spelled
from qwend.client import Client, Json, quote
from qwend.errors import QwendError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _LetGo(Exception):
    """The run goes on without this client."""


class Foreground:
    """One `up` as its user sees it. `kept` is `-d`: the run has no owner, nobody stops it by leaving.
    `key` is what a shell makes the API key of, for the `curl` line."""

    def __init__(self, client: Client, request: Json, *, wait: bool = True, key: str | None = None) -> None:
        self._client = client
        self._request = request
        self._kept = bool(request.get("kept"))
        self._wait = wait
        self._key = key
        self._run: str | None = None
        self._plan: Json = {}
        self._interrupts = 0
        self._seen = 0
        self._shown: progress.Display = progress.Plain()

    def go(self) -> int:
        """Brings it up; the exit code."""
        code = 0
        try:
            with self._signals():
                end = self._watch(self._client.stream("POST", "/v1/runs", self._request))
                if end:  # --no-wait has none
                    code = self._report(end)
                    started = self._started(end)
                    if code == 0 and started and not self._interrupts:
                        click.echo(spelled("Ctrl-C stops it; `qwend up -d` leaves it running"), err=True)
                        code = self._keep_company(end["steps"][0]["recipe"], started)
        except _LetGo:
            return 130
        return 130 if self._interrupts else code

    def _keep_company(self, recipe: str, started: set[str]) -> int:
        """Tells what happens until none of these services is left; 1 if one of them failed for good. What was up
        before this run is no reason to stay: Ctrl-C would not stop it."""
        news = self._client.stream("GET", "/v1/events", follow=True, after=self._seen, recipe=recipe)
        with progress.display() as self._shown:
            for event in news:
                self._shown.event(event)
                if event["kind"] in {"service.stopped", "service.killed", "service.failed"}:
                    rows = self._client.get("/v1/steps", recipe=recipe)["steps"]
                    states = [row["state"] for row in rows if row["step"] in started]
                    if all(state in {"stopped", "failed"} for state in states):
                        return int("failed" in states)
        return 0

    def _watch(self, stream: Iterator[Json]) -> Json:
        with progress.display() as self._shown:
            return progress.follow(self._met(stream), self._shown)

    def _met(self, stream: Iterator[Json]) -> Iterator[Json]:
        """The stream, of which this run takes its plan and its id."""
        for item in stream:
            if "plan" in item:
                self._plan = item
                if item["plan"]["changes"]:
                    for line in plans.summary(item):
                        self._shown.say(line, colour="yellow" if line.startswith("warning") else None)
                plans.refuse(item)
            elif "event" in item:
                self._seen = max(self._seen, item["event"].get("seq", 0))
            elif item.get("run"):
                self._run = item["run"]
                if item.get("attached"):
                    self._shown.say("an `up` of this recipe is under way; this one joins it")
                if not self._wait:
                    return
            yield item

    def _report(self, end: Json) -> int:
        steps = end.get("steps") or []
        error = end.get("error")
        changed = self._plan.get("plan", {}).get("changes", True)
        if not changed and not error:
            click.echo(results.unchanged(self._plan["plan"]["recipe"], steps))
            for line in results.notices(self._plan):
                click.echo(line)
            return settle(end)
        if self._interrupts and steps:  # its end was told before its services had stopped
            with suppress(QwendError):
                steps = self._client.get("/v1/steps", recipe=steps[0]["recipe"])["steps"]
        if steps:
            click.echo(results.steps_table(steps))
        if error and len(failed := results.failures(steps)) > 1:
            click.echo("\n".join(failed), err=True)
        code = settle(end)
        if code == 130 and not self._interrupts:
            click.echo(
                spelled("qwend: it was stopped by a `qwend down`, or by another who held it"), err=True
            )
        if not self._interrupts:
            for line in results.closing(steps, self._plan, self._key):
                click.echo(line)
        return code

    def _started(self, end: Json) -> set[str]:
        """The services to stay for."""
        changed = self._plan.get("plan", {}).get("changes", True)
        return set(end.get("started") or ()) if changed and not self._kept else set()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup, &
        before = {number: signal.signal(number, self._on_signal) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        """The first lets go of the run, which ends with its last owner; the second kills; the third just leaves."""
        self._interrupts += 1
        if self._run is None:
            raise KeyboardInterrupt
        if self._interrupts > 2:
            if is_terminal():
                os.write(2, b"\x1b[?25h")  # a bar hides the cursor
            os._exit(130)
        kill = self._interrupts == 2
        self._say("killing" if kill else "stopping; once more kills")
        patient = Client(self._client.path, timeout_s=None)  # a stop takes as long as the services' grace
        try:
            told = patient.post(f"/v1/runs/{quote(self._run)}/release", {"kill": kill})
        except QwendError as error:
            self._say(error.lines()[0])
            raise _LetGo from None
        for line in results.builds(told):
            self._say(line)
        if not told.get("stopped"):
            self._say("it goes on in the background: `qwend ps` shows it, `qwend down` stops it")
            raise _LetGo

    def _say(self, text: str) -> None:
        text = spelled(text)
        with suppress(OSError):  # the terminal may be what went away
            try:
                self._shown.say(text, colour="yellow")
            except RuntimeError:  # the signal came in the middle of another line
                os.write(2, f"\n{text}\n".encode())
