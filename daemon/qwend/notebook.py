"""qwend from Python: for notebooks and scripts. `CLIENT.md` is the page to read.

    from qwend import connect

    qw = connect()
    run = qw.up("recipes/quickstart.yaml")
    print(qw.url("chat"))

Everything is plain data and plain text: no terminal is needed, progress is told as lines.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

from qwend import connecting
from qwend.chat import Conversation, Endpoint
from qwend.client import Client, Json, quote
from qwend.errors import OutOfResource, QwendError, StepFailed, UsageError
from qwend.steps import Rows, Run, Step, step_of

_MENTION = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*))")
_POLL_S = 0.5
_FAILED = {"failed", "cancelled"}

Say = Callable[[str], None]


class Qwend:
    """A daemon. Failures are raised as `qwend.errors.QwendError` with one clear line."""

    def __init__(self, client: Client, say: Say) -> None:
        self._client = client
        self._say = say

    def up(
        self,
        *files: str | os.PathLike[str],
        text: str | None = None,
        set: Mapping[str, object] | None = None,
        smoke: bool = False,
        runtime: str | None = None,
        device: str | None = None,
        steps: Sequence[str] = (),
        force: Sequence[str] = (),
        locked: bool = False,
        secrets: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> Run:
        """Brings a recipe up, from files (merged in order) or from `text`, and returns when jobs are done and services
        ready; with `wait=False` as soon as it has begun. It goes on when this program ends; `down` stops it.

        `set` changes values by their path: `{"steps.q4.with.type": "Q5_K_M"}`. Raises UsageError for a mistake in
        the recipe, StepFailed where a step fails.
        """
        request = {
            **_texts(files, text),
            "set": [f"{key}={_spelled(value)}" for key, value in (set or {}).items()],
            "smoke": smoke,
            "runtime": runtime,
            "device": device,
            "steps": list(steps),
            "force": list(force),
            "locked": locked,
            "secrets": dict(secrets or {}),
            "kept": True,
        }
        recipe = ""
        end: Json = {}
        for item in self._client.stream("POST", "/v1/runs", request):
            self._tell(item)
            if "plan" in item:
                recipe = str(item["plan"]["recipe"])
                _refuse(item["plan"])
            if "end" in item:
                end = item["end"] or {}
            if item.get("run") and not wait:
                return Run(recipe, tuple(self.ps(recipe)))
        if end.get("error"):
            raise QwendError.from_dict(end["error"])
        rows = tuple(step_of(row) for row in end.get("steps") or self._rows(recipe))
        if end.get("exit_code"):
            broken = "; ".join(
                f"{row.step}: {row.state}: {row.reason}" for row in rows if row.state in _FAILED
            )
            raise StepFailed(broken or "the run failed")
        return Run(recipe, rows)

    def down(self, recipe: str | None = None) -> list[str]:
        """Stops what a recipe runs (all recipes, without one); the names of what was stopped."""
        target = f"/v1/recipes/{quote(recipe)}/down" if recipe else "/v1/down"
        stopped: list[str] = []
        for item in self._client.stream("POST", target):
            self._tell(item)
            if "end" in item:
                stopped = list((item["end"] or {}).get("stopped") or ())
        return stopped

    def ps(self, recipe: str | None = None) -> Rows:
        """The steps of a recipe, or all."""
        return Rows(step_of(row) for row in self._rows(recipe))

    def step(self, name: str, recipe: str | None = None) -> Step:
        """One step, by STEP or NAME/STEP. Raises UsageError if there is none, or several."""
        wanted, slash, rest = name.partition("/")
        recipe, name = (wanted, rest) if slash else (recipe, name)
        rows = self.ps()
        found = [row for row in rows if row.step == name and recipe in (None, row.recipe)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f"{row.recipe}/{row.step}" for row in found)
            raise UsageError(f"which step? {names} are there", code="which-step")
        have = ", ".join(f"{row.recipe}/{row.step}" for row in rows) or "none"
        raise UsageError(f'no step "{name}"', code="no-such-step", hint=f"there are: {have}")

    def wait(self, name: str, *, timeout: float | None = None, recipe: str | None = None) -> Step:
        """Returns when a step is ready (a service) or done (a job). Raises StepFailed with its reason if it fails,
        TimeoutError if it takes longer than `timeout` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            row = self.step(name, recipe)
            if row.ready:
                return row
            if row.state in _FAILED:
                raise StepFailed(
                    f"{row.step}: {row.state}: {row.reason}", hint=f"qwend logs {row.recipe}/{row.step}"
                )
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"{row.step} is {row.state} after {timeout:g} s")
            time.sleep(_POLL_S)

    def logs(
        self, name: str, *, tail: int | None = None, follow: bool = False, recipe: str | None = None
    ) -> Iterator[str]:
        """The lines of a step's log; with `follow` as they come, until the loop is left."""
        row = self.step(name, recipe)
        target = f"/v1/logs/{quote(row.recipe)}/{quote(row.step)}"
        rest = b""
        for block in self._client.text(target, tail=tail, follow=follow):
            *lines, rest = (rest + block).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in lines)
        if rest:
            yield rest.decode("utf-8", "replace")

    def url(self, name: str, recipe: str | None = None) -> str:
        """The base URL for an OpenAI client: `OpenAI(base_url=qw.url("chat"), api_key="none")`."""
        row = self.step(name, recipe)
        if row.url is None:
            raise UsageError(f"{row.step} is {row.state} and has no address", code="no-url")
        return f"{row.url}/v1"

    def chat(
        self, name: str, *, system: str | None = None, key: str | None = None, recipe: str | None = None
    ) -> Conversation:
        """A conversation with a service; `ask` streams its answer, `messages` is what was said."""
        row = self.step(name, recipe)
        if row.url is None:
            raise UsageError(f"{row.step} is {row.state} and has no address", code="no-url")
        return Conversation(Endpoint(row.url, row.step, key), system)

    def artifact(self, name: str, recipe: str | None = None) -> str:
        """The folder of a job's artifact. Read it; it is shared."""
        row = self.step(name, recipe)
        if row.artifact is None:
            raise UsageError(f"{row.step} is {row.state} and has made nothing", code="no-artifact")
        return str(self._client.get(f"/v1/artifacts/{quote(row.artifact)}")["location"])

    def _rows(self, recipe: str | None) -> list[Json]:
        rows: list[Json] = self._client.get("/v1/steps", recipe=recipe)["steps"]
        return rows

    def _tell(self, item: Json) -> None:
        event, news, notice = item.get("event"), item.get("progress"), item.get("notice")
        if notice:
            self._say(str(notice))
        if event:
            row, reason = event.get("row") or {}, event.get("reason")
            state = row.get("state") or event["kind"].partition(".")[2]
            self._say(f"{event['subject']}: {state}" + (f": {reason}" if reason else ""))
        elif news and news.get("done") in (0, 0.0):  # each phase once: a cell is no place for a moving bar
            self._say(f"{news.get('subject')}: {news.get('phase')}")


def connect(*, home: str | None = None, start: bool = True, verbose: bool | TextIO = True) -> Qwend:
    """The daemon of this user (or of `home`), started if none runs and `start` is true.

    `verbose`: whether, or where, progress is told, as plain lines. Raises Unreachable if there is no daemon.
    """
    out = sys.stderr if verbose is True else verbose

    def say(line: str) -> None:
        if out:
            print(line, file=out, flush=True)

    return Qwend(connecting.connect(start=start, home=home), say)


def _texts(files: Sequence[str | os.PathLike[str]], text: str | None) -> Json:
    """The part of a request that carries the recipe: its text, and of the environment only what it mentions."""
    if bool(files) == (text is not None):
        raise UsageError("name recipe files, or give text=", code="no-recipe")
    paths = [os.path.abspath(os.path.expanduser(os.fspath(file))) for file in files]
    told = [{"path": path, "text": _read(path)} for path in paths]
    if text is not None:
        told = [{"path": "-", "text": text}]
    names = {name for one in told for name in _MENTION.findall(one["text"]) if name}
    directory = os.path.dirname(paths[0]) if paths else os.getcwd()
    return {
        "files": told,
        "directory": directory,
        "env": {n: os.environ[n] for n in sorted(names) if n in os.environ},
    }


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise UsageError("there is no such file", where=path, code="no-such-file") from None
    except UnicodeDecodeError:
        raise UsageError("the file is not UTF-8 text", where=path, code="unreadable") from None
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror}", where=path, code="unreadable") from None


def _spelled(value: object) -> str:
    """A Python value as the YAML of `--set`."""
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _refuse(plan: Json) -> None:
    blockers = plan.get("blockers") or ()
    if blockers:
        raise OutOfResource("; ".join(map(str, blockers)), code="blocked")
