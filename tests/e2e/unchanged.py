"""Which engines changed since their end-to-end tests last passed on this machine.

A module whose tests carry `pytest.mark.engine("vllm", images=["vllm"])` is run when a plugin, one of its images or
the module itself differs from what passed before (several plugins may be named, and with `also=` other folders of the
checkout); the digests of what passed lie in the cache folder. What was only left out (no engine of containers, a run
that ended early) has not passed. `--full` runs all of them. Without it, none is begun behind QWEND_CHECK_UNTIL (seconds
since 1970): a machine that has everything to build leaves some for its next run, and says which.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_SKIPPED_FOLDERS = {"__pycache__"}


class Memory:
    """The digests of what passed, one empty file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def knows(self, digest: str) -> bool:
        return (self._folder / digest).exists()

    def learn(self, digest: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / digest).touch()


def digest_of(
    plugins: str | Iterable[str], images: Iterable[str], module: Path, also: Iterable[str] = ()
) -> str:
    """sha256 (hex) over the folders of plugins and images, other folders of the checkout, and the test module."""
    running = hashlib.sha256()
    folders = [
        *(
            ROOT / "plugins/qwend_plugins" / one
            for one in ([plugins] if isinstance(plugins, str) else plugins)
        ),
        *(ROOT / "images/qwend_images" / one for one in images),
        *(ROOT / one for one in also),
    ]
    for folder in folders:
        if not folder.is_dir():
            raise pytest.UsageError(f"{module}: {folder} is not there")
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not _SKIPPED_FOLDERS & set(path.parts):
                running.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    running.update(module.read_bytes())
    return running.hexdigest()


class Unchanged:
    """The pytest plugin: leaves out what passed before, and remembers what passes now."""

    def __init__(self, memory: Memory, full: bool, until: float | None = None) -> None:
        self._memory = memory
        self._full = full
        self._until = until
        self._digests: dict[str, str] = {}
        self._bad: set[str] = set()
        self._good: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            mark = item.get_closest_marker("engine")
            if mark is None:
                continue
            also = mark.kwargs.get("also", ())
            digest = digest_of(mark.args, mark.kwargs.get("images", ()), item.path, also)
            self._digests[item.nodeid] = digest
            if not self._full and self._memory.knows(digest):
                reason = f"{mark.args[0]} is as it was when this passed (./check --full runs it)"
                item.add_marker(pytest.mark.skip(reason=reason))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        digest = self._digests.get(item.nodeid)
        if digest is None or self._full or self._until is None or time.time() < self._until:
            return
        self._bad.add(digest)
        pytest.skip("the time of this run is used up: left for the next (./check --full runs it)")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if (digest := self._digests.get(report.nodeid)) is None:
            return
        if report.failed:
            self._bad.add(digest)
        elif report.when == "call" and report.passed:
            self._good.add(digest)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.INTERRUPTED or session.config.option.keyword:
            return
        for digest in self._good - self._bad:
            self._memory.learn(digest)
