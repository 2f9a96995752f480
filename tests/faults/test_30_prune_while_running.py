"""Fault 30: `prune` while a step runs, commits, or begins."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from qwend.adapters.store import ArtifactStore, hashing
from qwend.effects import Work
from qwend.model.artifact import Artifact, Facts


async def commit(store: ArtifactStore, work: Work, fingerprint: str) -> Artifact:
    return await store.commit(
        work, fingerprint=fingerprint, type="report", facts=Facts(), metrics={}, provenance={}
    )


async def begun(store: ArtifactStore, fingerprint: str) -> Work:
    work = await store.prepare(fingerprint, keep=False)
    path = Path(work.output, "a")
    path.write_text(fingerprint)  # noqa: ASYNC240 - a test's own file
    return work


async def test_30_what_a_live_run_refers_to_is_kept_with_its_folders(tmp_path: Path) -> None:
    store = await ArtifactStore.open(str(tmp_path / "store"))
    used = await commit(store, await begun(store, "input"), "input")
    work = await begun(store, "running")
    idle = await commit(store, await begun(store, "idle"), "idle")
    answer = await store.prune({"input", "running"})
    assert [one["digest"] for one in answer["removed"]] == [idle.digest]
    assert await store.find("input") == used
    done = await commit(store, work, "running")
    assert await store.find("running") == done
    await store.close()


async def test_30_an_artifact_that_is_being_taken_in_is_not_swept_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await ArtifactStore.open(str(tmp_path / "store"))
    reading, go_on = threading.Event(), threading.Event()
    real = hashing.read_digest

    def slow(path: str, tell: Any = None) -> Any:
        reading.set()
        assert go_on.wait(30)
        return real(path, tell)

    monkeypatch.setattr(hashing, "read_digest", slow)
    work = await begun(store, "running")
    committing = asyncio.create_task(commit(store, work, "running"))
    await asyncio.to_thread(reading.wait, 30)
    assert (await store.prune({"running"}))["removed"] == []
    go_on.set()
    made = await committing
    assert await store.find("running") == made
    await store.close()


async def test_30_what_begins_or_comes_in_while_prune_waits_is_kept_though_it_was_no_root_then(
    tmp_path: Path,
) -> None:
    store = await ArtifactStore.open(str(tmp_path / "store"))
    old = await commit(store, await begun(store, "old"), "old")
    with store._lock:
        pruning = asyncio.create_task(store.prune([]))
        await asyncio.sleep(0)
        work = await begun(store, "new")
    removed = (await pruning)["removed"]
    assert [one["digest"] for one in removed] == [old.digest]
    assert os.listdir(tmp_path / "store/work") == ["new"]
    made = await commit(store, work, "new")
    assert await store.find("new") == made
    await store.close()
