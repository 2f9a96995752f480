"""The steps of one construction: interpreter, packages, build environment, sources, build.sh, overlay."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from qwend.adapters.holding import hold
from qwend.adapters.locks import read_lock, strict_text
from qwend.adapters.package_environment import pip_environment, uv_environment, uv_options
from qwend.adapters.package_trouble import compile_trouble, package_trouble, redacted
from qwend.adapters.pip_settings import IndexSettings
from qwend.adapters.venv import sources
from qwend.adapters.venv.child import run_child
from qwend.adapters.venv.meter import DownloadMeter
from qwend.adapters.venv.pythons import choose_python, python_version, site_packages
from qwend.adapters.venv.record import Record, installed, manifest_digest
from qwend.effects import OnProgress, Progress
from qwend.errors import QwendError, StepFailed
from qwend.model.image import ImageSpec, chosen_flavour
from qwend.model.image_file import Source, overlay_files, read_image_file

_NINJA = re.compile(r"\[(\d+)/(\d+)\]\s*(.*)")
_COMPILERS = ("c++", "g++", "clang++")
_PASSED_TO_BUILDS = (
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SDKROOT",
    "DEVELOPER_DIR",
    "CCACHE_DIR",
    "SOURCE_DATE_EPOCH",
)
_NETWORK = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file")
_NOWHERE = "http://127.0.0.1:9"
"""A proxy that never answers: a build that may not use the network fails at once if it tries."""


class Construction:
    """One build of one environment. `held` is the descriptor of its lock; `tell` gets its progress."""

    def __init__(
        self,
        *,
        spec: ImageSpec,
        root: Path,
        uv: str,
        settings: IndexSettings,
        environ: Mapping[str, str],
        jobs: int,
        held: int,
        tell: OnProgress,
    ) -> None:
        self.spec = spec
        self.subject = f"image {spec.name}"
        self.image = read_image_file(Path(spec.folder))
        self.flavour = chosen_flavour(self.image, spec.flavour)
        self.build = self.image.build_of(spec.flavour)
        self.folder = Path(spec.folder)
        self.root = root
        self.prefix = root / spec.key
        self.work = root / ".work" / spec.key
        self.log = root / ".logs" / f"{spec.key}.log"
        self.uv = uv
        self.settings = settings
        self.environ = environ
        self.jobs = jobs
        self.held = held
        self.tell = tell

    async def run(self) -> Record:
        """Everything but the record's size and times; the record is not written yet."""
        self.log.write_bytes(b"")
        self.work.mkdir(parents=True, exist_ok=True)
        env = uv_environment(self.settings, self.environ)
        python = await asyncio.to_thread(
            choose_python, self.spec.python, uv=self.uv, env=env, downloads=self.settings.python_downloads
        )
        await asyncio.to_thread(shutil.rmtree, self.prefix, True)
        await self._environment(self.prefix, python, [self.flavour.lock], "packages")
        if self.build:
            await self._compile(python)
        copied = await asyncio.to_thread(self._lay_overlay)
        outputs = self.build.outputs if self.build else []
        missing = [name for name in outputs if not (self.prefix / name).is_file()]
        if missing:
            raise StepFailed(
                f"the build left no {', '.join(missing)}", code="build-failed", hint=str(self.log)
            )
        there = await asyncio.to_thread(installed, self.prefix)
        digests = await asyncio.to_thread(
            lambda: {name: sources.digest_of(self.prefix / name) for name in sorted({*outputs, *copied})}
        )
        return Record(
            name=self.spec.name,
            flavour=self.spec.flavour,
            digest=self.spec.digest,
            python=python_version(self.prefix),
            interpreter=await asyncio.to_thread(os.path.realpath, self.prefix / "bin" / "python"),
            packages={name: item.version for name, item in sorted(there.items())},
            manifests={name: manifest_digest(item) for name, item in sorted(there.items())},
            files=digests,
            options=self.spec.options,
            size=0,
            seconds=0.0,
            created=0.0,
            location=await asyncio.to_thread(os.path.realpath, self.prefix),
            index=redacted(self.settings.index) if self.settings.index else None,
        )

    def clean(self) -> None:
        """Drop the build folder of a finished image."""
        shutil.rmtree(self.work, ignore_errors=True)

    def _say(self, phase: str, message: str) -> None:
        self.tell(Progress(self.subject, phase, message=message))

    def _meter(self, phase: str) -> DownloadMeter:
        return DownloadMeter(
            lambda done, total, name: self.tell(
                Progress(self.subject, phase, done, total, "B", message=f"downloading {name}")
            )
        )

    # -- packages ----------------------------------------------------------------------------------

    async def _environment(self, prefix: Path, python: str, locks: list[str], phase: str) -> None:
        """A fresh environment at `prefix` that holds exactly what the locks say."""
        pins = [pin for lock in locks for pin in read_lock(self.folder / lock)]
        self._say(phase, f"Python environment, {len(pins)} package{'' if len(pins) == 1 else 's'}")
        await self._uv("venv", "--no-project", "--clear", "-p", python, str(prefix), phase=phase)
        if not locks:
            return
        target = str(prefix / "bin" / "python")
        sync = ["pip", "sync", "--require-hashes", "--allow-empty-requirements", "-p", target]
        sync += [*uv_options(self.settings), *(self._strict(lock) for lock in locks)]
        if phase == "packages":
            # Steps may not write into their environment, so each start would compile all that it imports anew.
            sync.append("--compile-bytecode")
        if self.flavour.build_lock and phase == "packages":
            sync += ["--require-build-hashes", "--build-constraints", self._strict(self.flavour.build_lock)]
        else:
            sync.append(
                "--no-build"
            )  # a wheel that is missing is an error, not a compile that nobody planned
        backend = self.flavour.torch_backend
        try:
            await self._uv(*sync, phase=phase)
        except QwendError as error:
            # A build of torch for one device is on its publisher's index only, unless a mirror has it.
            if error.code != "package-missing" or not backend:
                raise
            await self._uv(*sync, "--torch-backend", backend, phase=phase)

    def _strict(self, lock: str) -> str:
        """The path of a copy of `lock` in the build folder that no other build of a version satisfies."""
        path = self.work / "locks" / lock
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(strict_text((self.folder / lock).read_text("utf-8")))
        return str(path)

    async def _uv(self, *arguments: str, phase: str) -> None:
        meter = self._meter(phase)
        status, output = await run_child(
            [self.uv, *arguments],
            env=uv_environment(self.settings, self.environ),
            cwd=self.root,
            log=self.log,
            on_frame=meter.frame,
            held=[self.held],
        )
        if status:
            raise package_trouble(output, note=self.flavour.note, folder=self.root)

    # -- what is compiled --------------------------------------------------------------------------

    async def _compile(self, python: str) -> None:
        assert self.build is not None
        tools = self.work / "env"
        locks = [self.flavour.build_lock] if self.flavour.build_lock else []
        if self.flavour.compiler_lock and not self._has_compiler():
            locks.append(self.flavour.compiler_lock)
        await self._environment(tools, python, locks, "build tools")
        for source in self.image.sources:
            archive = await self._archive(source, tools)
            self._say("sources", f"unpacking {archive.name}")
            await asyncio.to_thread(sources.unpack, archive, source, self.work / "src" / source.into)
        script = self.folder / self.build.script
        tree = self.work / "build"
        tree.mkdir(exist_ok=True)
        self._say("compile", "configuring")
        status, output = await run_child(
            ["/bin/sh", "-eu", str(script)],
            env=self._build_environment(tools),
            cwd=tree,
            log=self.log,
            on_line=self._build_line,
            held=[self.held],
        )
        if status:
            raise compile_trouble(output, script=script.name, status=status, log=self.log, folder=self.root)

    def _build_line(self, line: str) -> None:
        if match := _NINJA.match(line):
            done, total = float(match[1]), float(match[2])
            self.tell(Progress(self.subject, "compile", done, total, "files", message=match[3]))

    def _build_environment(self, tools: Path) -> dict[str, str]:
        """A scrubbed environment: the same for every caller, but for where the system keeps its things."""
        assert self.build is not None
        env = {name: self.environ[name] for name in _PASSED_TO_BUILDS if name in self.environ}
        path = self.environ.get("PATH") or os.defpath
        env |= {
            "PATH": f"{tools / 'bin'}{os.pathsep}{path}",
            "HOME": str(self.work),
            "LC_ALL": "C.UTF-8",
            "SRC": str(self.work / "src"),
            "PREFIX": str(self.prefix),
            "JOBS": str(self.jobs),
            "PYTHON": str(tools / "bin" / "python"),
            "FLAVOUR": self.spec.flavour,
        }
        env.setdefault("CCACHE_DIR", str(self.root / ".ccache"))
        for name, value in self.spec.options.items():
            text = ("ON" if value else "OFF") if isinstance(value, bool) else str(value)
            env[f"OPT_{name.upper()}"] = text
        if self.build.network:
            env |= {name: value for name, value in self.environ.items() if name.lower() in _NETWORK}
        else:
            env |= {"http_proxy": _NOWHERE, "https_proxy": _NOWHERE, "all_proxy": _NOWHERE}
        return env

    def _has_compiler(self) -> bool:
        path = self.environ.get("PATH") or os.defpath
        return any(shutil.which(name, path=path) for name in _COMPILERS)

    async def _archive(self, source: Source, tools: Path) -> Path:
        """The checked archive of a source; one download even if several images want it at once."""
        root = self.root / ".sources"
        root.mkdir(exist_ok=True)
        async with hold(root / f"{source.sha256}.lock"):
            if found := await asyncio.to_thread(sources.find_archive, root, source):
                return found
            self._say("sources", f"fetching {source.package} {source.version}")
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=root) as scratch:
                return await self._fetch(source, tools, Path(scratch))

    async def _fetch(self, source: Source, tools: Path, scratch: Path) -> Path:
        fetched = scratch / "dist"
        python = tools / "bin" / "python"
        pip = installed(tools).get("pip")
        if pip is None:
            raise StepFailed("the build lock holds no pip, which fetches sources", code="bad-lock")
        command = sources.download_command(python, pip.version, source, scratch / "source.txt", fetched)
        env = pip_environment(self.settings, self.environ)
        env["PATH"] = f"{tools / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
        meter = self._meter("sources")
        status, output = await run_child(
            command,
            env=env,
            cwd=scratch,
            log=self.log,
            on_line=lambda line: meter.line(line, source.package),
            held=[self.held],
        )
        if status:
            raise package_trouble(output, folder=self.root)
        return await asyncio.to_thread(sources.keep_archive, fetched, self.root / ".sources", source)

    # -- overlay -----------------------------------------------------------------------------------

    def _lay_overlay(self) -> list[str]:
        """Copy the overlay over the result; the paths below the prefix that it wrote."""
        written = []
        for name, path in sorted(overlay_files(self.folder, self.spec.flavour).items()):
            top, _, below = name.partition("/")
            target = site_packages(self.prefix) / below if top == "site" and below else self.prefix / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # never write through a hard link into uv's cache
            for stale in target.parent.glob(f"__pycache__/{target.stem}.*.pyc"):
                stale.unlink()  # bytecode of what was there: it goes by size and second, so it could pass
            shutil.copyfile(path, target)
            target.chmod(0o755 if top == "bin" else 0o644)
            written.append(str(target.relative_to(self.prefix)))
            # Bytecode goes by time and size of its source, which an overlaid file may share with the one before.
            for stale in target.parent.glob(f"__pycache__/{target.stem}.*.pyc"):
                stale.unlink()
        return written
