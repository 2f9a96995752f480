"""A plan as a shell script that does by hand what `up` would do. Pure.

What is there is named by its path, what an earlier step of the script makes by that step's folder. A step that cannot
be run so (its image is not built, its input is not made) stands there as a comment that says why.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable

from qwend.core.binding import match
from qwend.core.exported import Part, folder_name
from qwend.model.launch import (
    OFFLINE,
    PREVIOUS,
    BindRef,
    DriverRef,
    ImageRef,
    InputRef,
    Join,
    Launch,
    LaunchFile,
    OutputRef,
    PortRef,
    Ref,
    ScratchRef,
    SecretRef,
    ThreadsRef,
    Word,
    reads_previous,
)

_HEAD = """\
#!/bin/sh
# What `qwend up` would run for {recipe}, as commands. Run it in an empty folder: each step leaves its result in a
# folder of its name. qwend itself does more: it confines steps, watches them, and restarts services.
set -eu
"""
_ONE = """\
one() { (cd "$1" && for file in $2; do echo "$file"; break; done); }    # the file that a pattern means
"""


class _Cannot(Exception):
    """Why a step stands as a comment."""


def script(recipe: str, parts: Iterable[Part], acting: Iterable[str]) -> str:
    """The script. `acting` are the names of the steps that `up` would run; others are done."""
    writer = _Writer(frozenset(acting))
    sections = [writer.section(part) for part in parts]
    sections = [section for section in sections if section]
    text = _HEAD.format(recipe=recipe) + (_ONE if any("$(one " in one for one in sections) else "")
    if writer.files:
        files = "\n".join(writer.files)
        text += f"\n# --- what the steps take along ---\n\n{files}\n\n# --- the steps ---\n"
    served = "\nwait    # for the services, which Ctrl-C ends\n" if writer.serves else ""
    return text + "".join(f"\n{section}" for section in sections) + served


class _Writer:
    def __init__(self, acting: frozenset[str]) -> None:
        self._acting = acting
        self._places: dict[str, Callable[[str], str]] = {}
        self.serves = False
        self.files: list[str] = []

    def section(self, part: Part) -> str:
        """The lines of one step."""
        step = part.step
        place = f"{step.runtime}, {step.flavour}" if step.launch is not None else step.engine
        title = f"# {step.name}: {step.engine} ({place})" if step.launch else f"# {step.name}: {step.engine}"
        if part.made is not None and step.name not in self._acting:
            made = part.made
            self._places[step.name] = lambda path: _file(made.folder, path, tuple(made.files))
            return f"{title}: done, {shlex.quote(made.folder)}\n"
        if step.launch is None:
            local = step.pin.local if step.pin is not None else None
            if local is None:
                return f"{title}: cannot be done by hand\n"
            self._places[step.name] = lambda path: _file(local, path, ())
            return f"{title}: used where it lies, {shlex.quote(local)}\n"
        if step.name not in self._acting:
            return ""
        try:
            lines = self._commands(part, step.launch)
        except _Cannot as reason:
            command = shlex.join(step.command).replace("\n", "\n# ")
            return f"{title}, which cannot be run as it stands: {reason}\n# {command}\n"
        folder = folder_name(step.name)
        self._places[step.name] = lambda path: _globbed(f'"$PWD"/{folder}', path)
        return "\n".join([title, *lines]) + "\n"

    def _commands(self, part: Part, launch: Launch) -> list[str]:
        step, image = part.step, part.image
        if step.select:
            raise _Cannot("which of its inputs is its result, qwend reads from its report")
        if image is None or step.image is None:
            name = step.image.name if step.image is not None else "nothing"
            raise _Cannot(f"its image is not built (qwend images build {name})")
        if step.secrets:
            raise _Cannot(f"it takes the secret {', '.join(step.secrets)}, which belongs into no script")
        folder = folder_name(step.name)
        lines = [f"mkdir -p {folder} .{folder}" + (f" .{folder}/nothing" if reads_previous(launch) else "")]
        files = [f"mkdir -p .{folder}/drivers"] if launch.files else []
        for file in launch.files:
            files += _written(file, f".{folder}/drivers/{file.name}")
        where = _Inside(self._places, part) if step.runtime == "docker" else _Here(self._places, part)
        words = [_spell(word, where.fill) for word in launch.argv]
        given = {} if launch.network else dict(OFFLINE)
        given |= {name: shlex.quote(value) for name, value in step.image.env.items()}
        given |= {name: _spell(word, where.fill) for name, word in launch.env.items()}
        env = [f"{name}={value}" for name, value in given.items()]
        command = where.command(words, env, networked=launch.network or step.kind == "service")
        if step.kind == "service":
            self.serves = True
            command += " &"
        self.files += files
        return [*lines, command]


class _Here:
    """A process of this machine."""

    def __init__(self, places: dict[str, Callable[[str], str]], part: Part) -> None:
        self._places = places
        self._part = part
        self.folder = folder_name(part.step.name)

    def fill(self, ref: Ref) -> str:
        """A reference as a piece of a shell word."""
        image = self._part.image.location if self._part.image is not None else ""
        match ref:
            case InputRef(name=name, path=path) if name == PREVIOUS:
                return self._below(f'"$PWD"/.{self.folder}/nothing', path)
            case InputRef(name=name, path=path):
                return self.input(name, path)
            case OutputRef(path=path):
                return self._below(self.output, path)
            case ScratchRef(path=path):
                return self._below(self.scratch, path)
            case DriverRef(name=name):
                return self._below(f"{self.scratch}/drivers", name)
            case ImageRef(path=path):
                return shlex.quote(f"{self.prefix or image}/{path}" if path else image)
            case BindRef():
                return self.bind
            case ThreadsRef():
                return str(self._part.threads)
            case PortRef():
                return str(self._part.port)
            case SecretRef():
                return "/dev/null"

    prefix = ""

    @property
    def output(self) -> str:
        return f'"$PWD"/{self.folder}'

    @property
    def scratch(self) -> str:
        return f'"$PWD"/.{self.folder}'

    @property
    def bind(self) -> str:
        return shlex.quote(self._part.step.policy.host)

    def input(self, name: str, path: str) -> str:
        """An input's file on this machine."""
        place = self._places.get(name)
        if place is None:
            raise _Cannot(f"its input {name} is not there")
        return place(path)

    @staticmethod
    def _below(base: str, path: str) -> str:
        return f"{base}/{shlex.quote(path)}" if path else base

    def command(self, words: list[str], env: list[str], *, networked: bool) -> str:
        """The whole command line."""
        image = self._part.image
        path = (
            f'PATH={shlex.quote(f"{image.location}/bin")}:"$PATH"' if image and image.kind == "venv" else ""
        )
        report = f"QWEND_REPORT={self.scratch}/report.jsonl"
        return " ".join(filter(None, ("env", path, report, *env, *words)))


class _Inside(_Here):
    """A container of a Docker engine on this machine."""

    prefix = "/opt/qwend"

    def __init__(self, places: dict[str, Callable[[str], str]], part: Part) -> None:
        super().__init__(places, part)
        self._mounted: dict[str, str] = {}

    @property
    def output(self) -> str:
        return "/out"

    @property
    def scratch(self) -> str:
        return "/scratch"

    @property
    def bind(self) -> str:
        return "0.0.0.0"

    def input(self, name: str, path: str) -> str:
        base = super().input(name, "")
        self._mounted[name] = base
        inside = f"/in/{shlex.quote(name)}"
        found = super().input(name, path)
        return inside + found.removeprefix(base)

    def command(self, words: list[str], env: list[str], *, networked: bool) -> str:
        step, image = self._part.step, self._part.image
        port = self._part.port
        options = ["docker run --rm --init --read-only --tmpfs /tmp:exec"]
        options += ["--cap-drop ALL --security-opt no-new-privileges"]
        options += ["" if networked else "--network none"]
        options += [f"-p {shlex.quote(step.policy.host)}:{port}:{port}" if step.kind == "service" else ""]
        options += [f"--gpus {step.resources.gpus}" if step.resources.gpus else ""]
        options += [f"--memory {step.policy.memory}" if step.policy.memory else ""]
        options += [f"--shm-size {step.launch.shm}" if step.launch is not None and step.launch.shm else ""]
        options += ['--user "$(id -u):$(id -g)" -w /scratch -e HOME=/scratch']
        options += [f"-v {base}:/in/{shlex.quote(name)}:ro" for name, base in self._mounted.items()]
        options += [f'-v "$PWD"/{self.folder}:/out -v "$PWD"/.{self.folder}:/scratch']
        options += [f"-e {pair}" for pair in ("QWEND_REPORT=/scratch/report.jsonl", *env)]
        name = image.location if image is not None else ""
        return " ".join(filter(None, (*options, f"--entrypoint {words[0]}", shlex.quote(name), *words[1:])))


def _spell(word: Word, fill: Callable[[Ref], str]) -> str:
    match word:
        case str():
            return shlex.quote(word)
        case Join(parts=parts):
            return (
                "".join(shlex.quote(part) if isinstance(part, str) else fill(part) for part in parts) or "''"
            )
        case _:
            return fill(word)


def _file(folder: str, path: str, files: tuple[str, ...]) -> str:
    """A file of an artifact that is there."""
    if not path:
        return shlex.quote(folder)
    if "*" not in path:
        return f"{shlex.quote(folder)}/{shlex.quote(path)}"
    found = match(path, files)
    return f"{shlex.quote(folder)}/{shlex.quote(found)}" if found else _globbed(shlex.quote(folder), path)


def _globbed(folder: str, path: str) -> str:
    """A file of a folder that the script fills before."""
    if "*" not in path:
        return f"{folder}/{shlex.quote(path)}" if path else folder
    return f'{folder}/"$(one {folder} {shlex.quote(path)})"'


def _written(file: LaunchFile, path: str) -> list[str]:
    end = "END_OF_FILE"
    while any(line == end for line in file.content.split("\n")):
        end += "_"
    body = file.content.removesuffix("\n")
    return [f"cat > {shlex.quote(path)} <<'{end}'", body, end]
