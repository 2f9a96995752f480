"""`docker buildx build` as a child: its progress read from a file, so that the build outlives the daemon.

The `docker` package cannot speak BuildKit. The command writes its progress as JSON lines (`rawjson`, BuildKit's
SolveStatus: vertexes, statuses, logs). They go to a file and not through a pipe: a build whose daemon is
killed would die of the broken pipe, and the next daemon would begin again instead of waiting for its end.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from qwend.effects import Progress
from qwend.errors import Unreachable

_POLL_S = 0.2
_GRACE_S = 10.0
_TAIL = 400
"""Log lines that are kept of each vertex, for an error."""

_NINJA = re.compile(r"\[(\d+)/(\d+)\]\s*(.*)")
_STAGE = re.compile(r"\[(?:(?P<stage>[\w-]+) +)?(?P<step>\d+)/(?P<steps>\d+)\] (?P<what>.*)", re.DOTALL)
_PHASES = (
    ("load build", "prepare"),
    ("load metadata", "base image"),
    ("FROM ", "base image"),
    ("tools/apt-install", "system packages"),
    ("tools/install-uv", "build tools"),
    ("tools/packages", "packages"),
    ("assemble.py sources", "sources"),
    ("assemble.py compile", "compile"),
    ("assemble.py finish", "finish"),
    ("COPY --from", "copy"),
    ("exporting", "export"),
)


class _Vertex(msgspec.Struct):
    digest: str = ""
    name: str = ""
    started: str | None = None
    completed: str | None = None
    cached: bool = False
    error: str = ""


class _Status(msgspec.Struct):
    id: str = ""
    vertex: str = ""
    current: int = 0
    total: int = 0
    completed: str | None = None


class _Log(msgspec.Struct):
    vertex: str = ""
    data: str = ""


class _Line(msgspec.Struct):
    vertexes: list[_Vertex] | None = None
    statuses: list[_Status] | None = None
    logs: list[_Log] | None = None


class Trail:
    """What a build said so far: progress for people, and the words of the step that failed."""

    def __init__(self, subject: str, tell: Callable[[Progress], None]) -> None:
        self.subject = subject
        self.failed = ""
        """Name of the step that failed."""
        self.error = ""
        """BuildKit's word on it."""
        self.plain: list[str] = []
        """Lines that were no progress: the command's own complaints."""
        self._tell = tell
        self._names: dict[str, str] = {}
        self._logs: dict[str, list[str]] = {}
        self._rest: dict[str, str] = {}
        self._failed_vertex = ""

    @property
    def output(self) -> str:
        """The last lines of the step that failed."""
        return "\n".join(self._logs.get(self._failed_vertex, ()))

    def read(self, line: bytes) -> None:
        """One line of the progress file."""
        try:
            parsed = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError:
            if text := line.decode("utf-8", "replace").strip():
                self.plain.append(text)
            return
        for vertex in parsed.vertexes or ():
            self._vertex(vertex)
        for status in parsed.statuses or ():
            self._status(status)
        for log in parsed.logs or ():
            self._log(log)

    def _vertex(self, vertex: _Vertex) -> None:
        self._names[vertex.digest] = vertex.name
        if vertex.error and not vertex.error.endswith("context canceled"):
            self._failed_vertex, self.failed, self.error = vertex.digest, vertex.name, vertex.error
        elif (
            vertex.started
            and not (vertex.completed or vertex.cached)
            and not vertex.name.startswith("[internal]")
        ):
            match = _STAGE.match(vertex.name)
            self._say(
                vertex.digest,
                message=_short(match["what"] if match else vertex.name),
                done=float(match["step"]) - 1 if match else None,
                total=float(match["steps"]) if match else None,
                unit="steps" if match else "",
            )

    def _status(self, status: _Status) -> None:
        if status.total and status.current <= status.total:
            self._say(status.vertex, _short(status.id), float(status.current), float(status.total), "B")

    def _log(self, log: _Log) -> None:
        text = self._rest.pop(log.vertex, "") + base64.b64decode(log.data).decode("utf-8", "replace")
        *lines, rest = re.split(r"[\r\n]+", text)
        if rest:
            self._rest[log.vertex] = rest
        kept = self._logs.setdefault(log.vertex, [])
        kept.extend(lines)
        del kept[:-_TAIL]
        for line in lines:
            if match := _NINJA.match(line):
                self._say(log.vertex, match[3], float(match[1]), float(match[2]), "files")
            elif line.strip():
                self._say(log.vertex, line.strip())

    def _say(
        self,
        vertex: str,
        message: str,
        done: float | None = None,
        total: float | None = None,
        unit: str = "",
    ) -> None:
        name = self._names.get(vertex, "")
        phase = next((phase for mark, phase in _PHASES if mark in name), "build")
        self._tell(Progress(self.subject, phase, done, total, unit, message=message))


async def run_buildx(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    trail: Trail,
    held: Sequence[int] = (),
) -> int:
    """Runs `docker buildx ARGUMENTS` to its end; the exit status. A cancelled caller ends the build.

    `held` are descriptors that the child keeps open (the build's lock). Raises Unreachable where the command
    or its plugin is missing.
    """
    docker = shutil.which("docker", path=environment.get("PATH"))
    if docker is None:
        raise Unreachable(
            "the docker command is missing: images are built through it",
            hint="install Docker's command line with its buildx plugin (Debian: docker.io or docker-cli)",
        )
    with log.open("wb") as sink:
        child = await asyncio.create_subprocess_exec(
            docker,
            "buildx",
            *arguments,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            pass_fds=tuple(held),
        )
    try:
        with log.open("rb") as written:
            ended = asyncio.ensure_future(child.wait())
            while not ended.done():
                await asyncio.wait([ended], timeout=_POLL_S)
                _read_on(written, trail)
            _read_on(written, trail)
            return ended.result()
    except BaseException:
        await _end(child)
        raise


def _read_on(written: object, trail: Trail) -> None:
    """Reads the whole lines that were added."""
    while True:
        start = written.tell()  # type: ignore[attr-defined]
        line = written.readline()  # type: ignore[attr-defined]
        if not line.endswith(b"\n"):
            written.seek(start)  # type: ignore[attr-defined]
            return
        trail.read(line)


async def _end(child: asyncio.subprocess.Process) -> None:
    """Ends the build as ctrl-C does, so that BuildKit stops too; then for good."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(child.wait()), _GRACE_S)
            return


def client_environment(environment: Mapping[str, str], address: str) -> dict[str, str]:
    """What the `docker` command needs of the daemon's environment, pointed at the engine that we use."""
    kept = ("PATH", "HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "LANG", "TMPDIR")
    found = {
        name: value
        for name, value in environment.items()
        if name in kept or name.startswith(("DOCKER_", "BUILDX_"))
    }
    for name in ("DOCKER_CONTEXT", "BUILDX_BUILDER"):
        found.pop(name, None)
    return {**found, "DOCKER_HOST": address, "BUILDX_GIT_INFO": "false", "DOCKER_CLI_HINTS": "false"}


def _short(text: str) -> str:
    """A step's name for a line on a terminal: without its mounts."""
    text = re.sub(r"--mount=\S+\s*", "", " ".join(text.split()))
    return text[:100]
