"""The parts of `./check`: independent ones side by side, each one's output in one piece, a summary at the end."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
LANES = 2
ENGINES_BEGIN_WITHIN_S = 40 * 60
"""Where everything has to be built, engines whose turn has not come by then are left for the next run."""
TAIL = 400
"""Lines of a failed part's output that are shown; all of it lies in the cache folder."""


@dataclass
class Part:
    """A command that must end with 0. `alone` wants the machine to itself; `when` says why it is left out.

    Tests drive real processes on a machine that others share: what failed there is tried once more, by itself. It
    counts if it fails again, and is called unsteady, with its first output shown, if it does not."""

    name: str
    command: list[str]
    fast: bool = True
    full: bool = False
    alone: bool = False
    environ: dict[str, str] = field(default_factory=dict)
    when: Callable[[], str | None] = lambda: None


@dataclass
class Result:
    part: Part
    code: int
    seconds: float
    output: str
    unsteady: bool = False

    @property
    def mark(self) -> str:
        return "unsteady" if self.unsteady else "ok" if self.code == 0 else "FAILED"


def tool(name: str, *arguments: str) -> list[str]:
    return [str(BIN / name), *arguments]


def pytest(*arguments: str) -> list[str]:
    return tool("python", "-m", "pytest", "-q", "--durations=5", "--durations-min=5", *arguments)


def parts(full: bool = False) -> list[Part]:
    """Everything that can be checked, the cheapest first."""
    engines = ["--full"] if full else []
    return [
        Part("ruff", tool("ruff", "check", "--no-cache", ".")),
        Part("format", tool("ruff", "format", "--no-cache", "--check", ".")),
        Part("shellcheck", tool("shellcheck", *scripts())),
        Part(
            "hadolint", tool("hadolint", "--failure-threshold", "style", *dockerfiles()), when=no_dockerfiles
        ),
        Part("floors", tool("lint-imports", "--no-cache", "--no-logo")),
        Part("types", tool("mypy")),
        Part("unit", pytest("tests/unit", "-m", "not docker")),
        Part("contract", pytest("tests/contract"), when=there("tests/contract")),
        Part("api", pytest("tests/api"), when=there("tests/api")),
        Part("docker", pytest("tests/unit", "-m", "docker"), fast=False, alone=True),
        Part("faults", pytest("tests/faults"), fast=False, alone=True, when=there("tests/faults")),
        Part("fuzz", pytest("-s", "tests/fuzz"), fast=False, when=there("tests/fuzz")),
        Part("soak", tool("python", "-m", "tests.faults.soak", "--seed", "4"), fast=False, alone=True),
        Part("e2e", pytest("tests/e2e", *engines), fast=False, alone=True, when=there("tests/e2e")),
        *benchmarks(),
    ]


def benchmarks() -> Iterator[Part]:
    """Ratios to a peer in the same run; each prints its own and fails if it is over its bound."""
    for path in sorted((ROOT / "tests/bench").glob("[a-z]*.py")):
        if "__main__" not in path.read_text():
            continue  # what several of them share
        yield Part(f"bench {path.stem}", tool("python", str(path)), fast=False, full=True, alone=True)


def tracked() -> list[str]:
    """The files that git keeps."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [name for name in listed.stdout.split("\0") if name] if listed.returncode == 0 else []


def dockerfiles() -> list[str]:
    return [name for name in tracked() if Path(name).name == "Dockerfile" or name.endswith(".Dockerfile")]


def no_dockerfiles() -> str | None:
    return None if dockerfiles() else "no Dockerfile is known to git"


def scripts() -> list[str]:
    """The shell scripts of the repository, told by their first line."""
    found = []
    for name in tracked():
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                first = file.readline(64)
            if first.startswith(b"#!") and first.rstrip().endswith((b"/sh", b" sh", b"bash")):
                found.append(name)
    return found


def there(folder: str) -> Callable[[], str | None]:
    def why() -> str | None:
        return None if any((ROOT / folder).rglob("test_*.py")) else f"no tests in {folder}"

    return why


def cache() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "qwend-ci"
    return Path(os.environ.get("QWEND_CI_CACHE") or default)


class Runner:
    """Runs parts in two lanes and prints each when it is done; those that want the machine come afterwards."""

    def __init__(self, keep: Path) -> None:
        self._keep = keep
        self._printing = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self.results: list[Result] = []

    def run(self, chosen: list[Part]) -> None:
        with ThreadPoolExecutor(LANES) as lanes:
            pending: list[Future[None]] = [lanes.submit(self._one, part) for part in chosen if not part.alone]
            for future in pending:
                future.result()
        for part in chosen:
            if part.alone:
                self._one(part)

    def stop(self) -> None:
        """Ends what runs, whole process groups."""
        for process in list(self._running):
            os.killpg(process.pid, signal.SIGTERM)

    def _one(self, part: Part) -> None:
        begun = time.monotonic()
        code, output = self._try(part, part.command)
        unsteady = False
        if code == 1 and (part.alone or "pytest" in part.command):
            # Where no test failed but the session did (a leak found at its end, say), all of them run again.
            last = ["--last-failed"] if "pytest" in part.command else []
            code, again = self._try(part, [*part.command, *last])
            unsteady = code == 0
            output += f"\n=== {part.name}: once more\n{again}"
        result = Result(part, code, time.monotonic() - begun, output, unsteady)
        (self._keep / f"{part.name.replace(' ', '-')}.log").write_text(output)
        with self._printing:
            self.results.append(result)
            show(result)

    def _try(self, part: Part, command: list[str]) -> tuple[int, str]:
        environ = {**os.environ, **part.environ, "NO_COLOR": "1"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        self._running.add(process)
        output, _ = process.communicate()
        self._running.discard(process)
        return process.returncode, output


def show(result: Result) -> None:
    print(f"=== {result.part.name}: {result.mark} ({result.seconds:.0f} s)", flush=True)
    lines = result.output.rstrip().splitlines()
    if result.mark != "ok":
        print("\n".join(lines[-TAIL:]))
    elif "pytest" in result.part.command:
        print("\n".join(line for line in lines if line.startswith(("SKIPPED", "fuzz: "))))
        print(lines[-1] if lines else "no output")
    elif result.part.name.startswith("bench"):
        print("\n".join(lines))
    sys.stdout.flush()


def main() -> int:
    arguments = argparse.ArgumentParser(prog="./check", description="Checks the checkout.")
    arguments.add_argument("names", nargs="*", metavar="NAME", help="only these parts")
    arguments.add_argument("--fast", action="store_true", help="style, types, floors, unit tests")
    arguments.add_argument("--full", action="store_true", help="every engine, changed or not, and benchmarks")
    arguments.add_argument("--list", action="store_true", help="name the parts")
    given = arguments.parse_args()
    every = parts(given.full)
    if given.list:
        print("\n".join(part.name for part in every))
        return 0
    if unknown := set(given.names) - {part.name for part in every}:
        print(f"./check has no part {', '.join(sorted(unknown))}; ./check --list names them", file=sys.stderr)
        return 2
    left_out: list[tuple[str, str]] = []
    chosen: list[Part] = []
    for part in every:
        why = _why_not(part, given.names, given.fast, given.full)
        if why is None:
            chosen.append(part)
        elif why:
            left_out.append((part.name, why))
    folder = cache()
    for name in ("images", "uv", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("QWEND_CI_CACHE", str(folder))
    os.environ.setdefault("UV_CACHE_DIR", str(folder / "uv"))
    os.environ.setdefault("QWEND_CHECK_UNTIL", str(time.time() + ENGINES_BEGIN_WITHIN_S))
    runner = Runner(folder / "logs")
    # A shell starts what runs in the background with interrupts ignored; tests of Ctrl-C would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = time.monotonic()
    try:
        runner.run(chosen)
    except KeyboardInterrupt:
        runner.stop()
        return 130
    return summary(runner.results, left_out, time.monotonic() - begun, folder)


def _why_not(part: Part, names: list[str], fast: bool, full: bool) -> str | None:
    """Why a part is left out; empty for one that nobody asked for."""
    if names:
        return None if part.name in names else ""
    if fast and not part.fast:
        return "--fast"
    if part.full and not full:
        return "only with --full"
    return part.when()


def summary(results: list[Result], left_out: list[tuple[str, str]], seconds: float, folder: Path) -> int:
    print("=== summary")
    wide = max(
        len(name) for name in [*(one.part.name for one in results), *(name for name, _ in left_out), ""]
    )
    for one in results:
        closing = [line for line in one.output.rstrip().splitlines()[-1:] if "pytest" in one.part.command]
        print(f"  {one.part.name:<{wide}}  {one.mark:<8} {one.seconds:6.0f} s  {' '.join(closing)}")
    for name, why in left_out:
        print(f"  {name:<{wide}}  left out: {why}")
    failed = [one.part.name for one in results if one.code != 0]
    print(
        f"{len(results)} parts in {seconds / 60:.1f} min"
        + (f"; failed: {', '.join(failed)}" if failed else ": all is well")
    )
    print(
        f"their output lies in {folder / 'logs'}, {shutil.disk_usage(folder).free >> 30} GiB are free there"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
