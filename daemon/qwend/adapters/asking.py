"""Runs a question in a child process: the only plan-time network there is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from qwend.adapters.native.environment import NETWORK
from qwend.core.binding import Places, bind
from qwend.core.redact import redact
from qwend.effects import Builder, Progress
from qwend.errors import QwendError, Unreachable
from qwend.model.artifact import Pin
from qwend.model.source import Question

_DEADLINE_S = 180.0
_MOST = 16 * 1024 * 1024
_AWAY = {"no-network", "hub-failure", "rate-limited"}
"""Kinds of failure by which a driver says that no hub answered, as against a hub that said no."""


class ChildAsker:
    """Asks natively whatever the recipe's runtime is: pinning needs the network, not a container."""

    def __init__(
        self, builder: Builder, home: Path, settings_env: Mapping[str, str], secrets: Mapping[str, str]
    ) -> None:
        """`secrets` are the daemon's, live: what a question may read is handed to it in a file of its own."""
        self._secrets = secrets
        self._builder = builder
        self._home = home
        self._settings_env = dict(settings_env)

    async def ask(self, question: Question, tell: Callable[[Progress], None]) -> Pin:
        image = await self._builder.realise(question.image, tell)
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="ask-", dir=self._home))
        try:
            for file in question.launch.files:
                (work / file.name).write_text(file.content, encoding="utf-8")
            secrets = {
                name: str(self._hand_over(work, name))
                for name in question.launch.optional_secrets
                if name in self._secrets
            }
            places = Places(
                {}, {}, str(work), str(work), str(work), secrets, image.location, "127.0.0.1", None, 1
            )
            argv, env = bind(question.launch, places)
            return await self._run(argv, {**self._environment(image.location, work), **env})
        finally:
            await asyncio.to_thread(shutil.rmtree, work, True)

    def _hand_over(self, work: Path, name: str) -> Path:
        path = work / f"secret-{name}"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(self._secrets[name])
        return path

    def _environment(self, prefix: str, work: Path) -> dict[str, str]:
        """The user's hub settings and caches are for this: nothing else of the environment is passed on."""
        passed = {name: os.environ[name] for name in (*NETWORK, "HOME") if name in os.environ}
        own = {
            "PATH": f"{prefix}/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TMPDIR": str(work),
            "QWEND_REPORT": str(work / "report.jsonl"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return {**own, **passed, **self._settings_env}

    async def _run(self, argv: tuple[str, ...], env: Mapping[str, str]) -> Pin:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_MOST,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), _DEADLINE_S)
        except TimeoutError:
            raise Unreachable(
                f"the hub did not answer within {_DEADLINE_S:.0f} s",
                code="hub-timeout",
                hint="try again, or a mirror",
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return self._answer(process.returncode or 0, out, err, Path(env["QWEND_REPORT"]))

    def _answer(self, code: int, out: bytes, err: bytes, report: Path) -> Pin:
        lines = out.decode("utf-8", "replace").strip().splitlines()
        if code == 0 and lines:
            try:
                return msgspec.json.decode(lines[-1], type=Pin)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise QwendError(f"the hub's answer is malformed: {error}", code="bad-pin") from None
        raise _failure(report) or QwendError(
            redact((err.decode("utf-8", "replace").strip().splitlines() or ["no answer"])[-1][:400]),
            code="resolve",
        )


def _failure(report: Path) -> QwendError | None:
    """The error that the driver wrote down; `kind` tells an unreachable hub from a wrong name."""
    try:
        rows = [msgspec.json.decode(line) for line in report.read_bytes().splitlines()]
    except (OSError, msgspec.DecodeError):
        return None
    for row in reversed(rows):
        error = row.get("error") if isinstance(row, dict) else None
        if isinstance(error, dict):
            kind = str(error.get("kind") or "resolve")
            away = kind in _AWAY
            return (Unreachable if away else QwendError)(
                redact(str(error.get("message"))), code=kind, hint=error.get("hint") or None
            )
    return None
