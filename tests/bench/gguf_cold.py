"""recipes/gguf.yaml on the smoke model with nothing built, against its environments and llama.cpp made by hand.

    python tests/bench/gguf_cold.py

By hand the images of the plan are made side by side, as a person with the lock files would: uv installs, pip fetches
the source, the image's own `build.sh` compiles. Through qwend the same comes to pass, and then the recipe runs. Either
builds into folders of its own with an empty compiler cache; what is fetched (wheels, the source) is fetched before the
clocks start, so that neither measures the network. The bound is 1.2; over it the exit code is 1. The CPU time of either
side is printed too: where other programs are at work, it says more than the clock.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uv

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.house import ROOT, House, house, tell

from qwend.adapters.package_environment import pip_environment, uv_environment
from qwend.adapters.pip_settings import IndexSettings, merged_settings
from qwend.model.image_file import ImageFile, Source, read_image_file

BOUND = 1.2
RECIPE = str(ROOT / "recipes" / "gguf.yaml")
COMPILERS = ("c++", "g++", "clang++")


class ByHand:
    """Images made without qwend below `folder`; with `compiling` false only what has to be fetched."""

    def __init__(self, folder: Path, *, compiling: bool) -> None:
        self._folder = folder
        self._compiling = compiling
        self._settings = merged_settings(IndexSettings())
        self._fetching = threading.Lock()
        (folder / "home").mkdir(parents=True)

    def make(self, images: list[tuple[str, str]]) -> float:
        """Seconds until all are there."""
        begun = time.monotonic()
        with ThreadPoolExecutor(len(images)) as lanes:
            for done in [lanes.submit(self._image, *image) for image in images]:
                done.result()
        return time.monotonic() - begun

    def _image(self, name: str, flavour: str) -> None:
        source = ROOT / "images/qwend_images" / name
        image = read_image_file(source)
        made = image.flavours[flavour]
        python, prefix = made.python or image.python, self._folder / name
        backend = ["--torch-backend", made.torch_backend] if made.torch_backend else []
        self._environment(prefix, python, ["--compile-bytecode", str(source / made.lock)], backend)
        build = image.build_of(flavour)
        if build is None:
            return
        tools = self._folder / f"{name}-tools"
        locks = [made.build_lock] if made.build_lock else []
        if made.compiler_lock and not any(map(shutil.which, COMPILERS)):
            locks.append(made.compiler_lock)
        self._environment(tools, python, ["--no-build", *(str(source / lock) for lock in locks)], [])
        for one in image.sources:
            self._unpack(one, tools, self._folder / f"{name}-src")
        if self._compiling:
            self._build(source / build.script, image, flavour)

    def _environment(self, prefix: Path, python: str, what: list[str], backend: list[str]) -> None:
        environ = uv_environment(self._settings, os.environ)
        tool = uv.find_uv_bin()
        _run([tool, "venv", "--no-project", "-p", python, str(prefix)], environ)
        sync = [
            tool,
            "pip",
            "sync",
            "--require-hashes",
            "--allow-empty-requirements",
            "-p",
            str(prefix),
            *what,
        ]
        try:
            _run(sync, environ)
        except subprocess.CalledProcessError:
            if not backend:
                raise
            _run([*sync, *backend], environ)  # this build of torch is on its publisher's index only

    def _unpack(self, source: Source, tools: Path, into: Path) -> None:
        """Fetched once, as both images that need it are made from one archive."""
        archives = self._folder / "archives"
        with self._fetching:
            if not archives.exists():
                wanted = self._folder / "source.txt"
                wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
                fetch = ["-m", "pip", "download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
                command = [str(tools / "bin/python"), *fetch, "-d", str(archives), "-r", str(wanted)]
                environ = pip_environment(self._settings, os.environ)
                _run(command, environ | {"PATH": f"{tools / 'bin'}:{environ['PATH']}"})
        (archive,) = archives.iterdir()
        target = into / source.into
        target.mkdir(parents=True)
        top = archive.name.removesuffix(".tar.gz")
        members = [f"{top}/{member}" for member in source.members]
        _run(["tar", "-xzf", str(archive), "-C", str(target), "--strip-components=1", *members], os.environ)

    def _build(self, script: Path, image: ImageFile, flavour: str) -> None:
        build = image.build_of(flavour)
        assert build is not None
        tools, tree = self._folder / f"{image.name}-tools", self._folder / f"{image.name}-build"
        tree.mkdir()
        environ = {
            "PATH": f"{tools / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self._folder / "home"),
            "CCACHE_DIR": str(self._folder / "ccache"),
            "LC_ALL": "C.UTF-8",
            "SRC": str(self._folder / f"{image.name}-src"),
            "PREFIX": str(self._folder / image.name),
            "JOBS": str(len(os.sched_getaffinity(0))),
            "PYTHON": str(tools / "bin/python"),
            "FLAVOUR": flavour,
        }
        chosen = image.flavours[flavour].options
        for name, option in build.options.items():
            value = chosen.get(name, option.default)
            environ[f"OPT_{name.upper()}"] = ("OFF", "ON")[value] if isinstance(value, bool) else str(value)
        _run(["/bin/sh", "-eu", str(script)], environ, tree)


def _run(command: list[str], environ: Mapping[str, str], cwd: Path | None = None) -> None:
    subprocess.run(
        command, env=dict(environ), cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def through_qwend(qwend: House) -> tuple[float, float]:
    """Seconds, and seconds of CPU, until the smoke model is served, the daemon warm and nothing built."""
    begun, before = time.monotonic(), qwend.cpu_ms()
    qwend.run("up", "-d", "--smoke", "--device", "cpu", RECIPE)
    return time.monotonic() - begun, (qwend.cpu_ms() - before) / 1000


def children_cpu() -> float:
    """Seconds of CPU of all processes that were waited for."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def images_of(qwend: House) -> list[tuple[str, str]]:
    """Name and flavour of every image that the plan says is to be built."""
    told = json.loads(qwend.run("plan", "--json", "--smoke", "--device", "cpu", RECIPE))
    keys = [action["step"] for action in told["plan"]["actions"] if action["verb"] == "build"]
    return [(key.rsplit("-", 2)[0], key.rsplit("-", 2)[1]) for key in keys]


def main() -> int:
    os.environ.pop("CCACHE_DIR", None)
    with house(cold=True) as qwend:
        images = images_of(qwend)
        if ("llama-cpp", "cpu") not in images:
            raise SystemExit(f"nothing to compile: the plan builds {images}")
        ByHand(qwend.folder / "fetched", compiling=False).make(images)
        shutil.rmtree(qwend.folder / "fetched")
        before = children_cpu()
        hand = ByHand(qwend.folder / "hand", compiling=True).make(images)
        hand_cpu = children_cpu() - before
        shutil.rmtree(qwend.folder / "hand")
        ours, our_cpu = through_qwend(qwend)
    print(f"{'environments and llama.cpp by hand':<40} {hand:10.1f} s    {hand_cpu:.1f} s of CPU")
    print(
        f"{'the same through qwend, and the recipe':<40} {our_cpu:10.1f} s    of CPU, {our_cpu / hand_cpu:.3f} of it"
    )
    return 0 if tell("gguf.yaml --smoke, cold", ours, "s", ours / hand, "by hand", BOUND) else 1


if __name__ == "__main__":
    sys.exit(main())
