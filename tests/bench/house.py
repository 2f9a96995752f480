"""What benchmarks share: a home of their own, CPU of a daemon with all its processes, tables of ratios."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE: Path = Path(os.environ.get("QWEND_CI_CACHE") or "~/.cache/qwend-ci").expanduser()
_TICK = os.sysconf("SC_CLK_TCK")


class House:
    """The command line with a home of its own. `toy` makes the toy engines of tests/fakes known to it; a `cold` one
    finds no image realised."""

    def __init__(self, folder: Path, *, toy: bool, cold: bool = False) -> None:
        self.home = folder / "home"
        self.folder = folder
        self.environ = {
            **os.environ,
            "QWEND_HOME": str(self.home),
            "QWEND_CONFIG": str(folder / "qwend.toml"),
        }
        (folder / "qwend.toml").write_text('runtime = "native"\n')
        python = Path(sys.executable).parent
        self.environ["PATH"] = f"{python}:{os.environ.get('PATH', '')}"
        rooms = ["daemon", "plugins", "images", *(["tests/fakes/toy"] if toy else [])]
        self.environ["PYTHONPATH"] = os.pathsep.join(str(ROOT / room) for room in rooms)
        self.home.mkdir(mode=0o700)
        if not cold:
            (CACHE / "images").mkdir(parents=True, exist_ok=True)
            (self.home / "images").symlink_to(CACHE / "images")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "qwend", *arguments]

    def run(self, *arguments: str) -> str:
        """The output of a command line that must work."""
        ended = subprocess.run(
            self.command(*arguments), env=self.environ, capture_output=True, text=True, check=False
        )
        if ended.returncode != 0:
            raise SystemExit(f"qwend {' '.join(arguments)}: {ended.stdout}{ended.stderr}")
        return ended.stdout

    def pids(self) -> list[int]:
        """The daemon and every process below it."""
        daemon = int(json.loads(self.run("daemon", "status", "--json"))["pid"])
        found, seen = [daemon], {daemon}
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    children = [int(word) for word in (task / "children").read_text().split()]
                    found += [child for child in children if child not in seen]
                    seen |= set(children)
        return found

    def cpu_ms(self) -> float:
        """CPU so far of the daemon and what it started, waited-for children included."""
        return sum(_cpu_ms(pid) for pid in self.pids())

    def rss(self) -> int:
        """Resident bytes of the daemon's own process."""
        return _rss(self.pids()[0])


@contextlib.contextmanager
def house(*, toy: bool = False, cold: bool = False) -> Iterator[House]:
    """A house whose daemon and services are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="qwend-bench-"))
    made = House(folder, toy=toy, cold=cold)
    try:
        yield made
    finally:
        subprocess.run(
            made.command("daemon", "stop", "--services"), env=made.environ, capture_output=True, check=False
        )
        shutil.rmtree(folder, ignore_errors=True)


def child_cpu_ms(command: list[str], environ: dict[str, str] | None = None, cwd: Path | None = None) -> float:
    """User and system milliseconds of a command and all that it waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        command, env=environ, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def tell(name: str, figure: float, unit: str, ratio: float, peer: str, bound: float) -> bool:
    """Prints one row; whether the bound holds."""
    print(f"{name:<40} {figure:10.1f} {unit:<4} {ratio:6.3f} of {peer} (bound {bound:g})")
    return ratio <= bound


def rss_of(pids: list[int]) -> int:
    return sum(_rss(pid) for pid in pids)


def _cpu_ms(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return 1000.0 * sum(int(field) for field in fields[11:15]) / _TICK


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
