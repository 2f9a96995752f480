"""Fault 26: killed, or without power, at any moment of a store write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import qwend
from qwend.adapters.store import ArtifactStore
from qwend.model.artifact import Facts

NEW = {"model.gguf": "new", "sub/tokenizer.json": "the same in all"}
OLD = {**NEW, "model.gguf": "old"}
NOTHING_LEFT = {"work": 0, "staging": 0, "quarantine": 0}


def killed_everywhere(folder: Path, work: str) -> list[dict[str, Any]]:
    roots = [str(Path(qwend.__file__).parents[1]), str(Path(__file__).parents[2])]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.kill_points", str(folder / "place"), work],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_26_a_commit_that_is_killed_at_any_call_is_whole_or_not_there_and_can_be_done_again(
    tmp_path: Path,
) -> None:
    seen = killed_everywhere(tmp_path, "commit")
    assert len(seen) > 15
    assert not seen[-1]["died"]
    assert {one["found"] for one in seen} == {True, False}
    for one in seen:
        assert one["bad"] == []
        assert one["old"]
        assert one["left"] == NOTHING_LEFT
        if one["found"]:
            assert one["content"] == {"model.gguf": "weights", "sub/tokenizer.json": "the same in all"}
        else:
            assert one["again"] == len("weights") + len("the same in all")
    # Once it was complete it is never lost again: what is found stays found for every later moment.
    assert sorted(seen, key=lambda one: one["found"]) == seen


def test_26_publishing_that_is_killed_at_any_call_leaves_the_old_or_the_new_and_nothing_beside(
    tmp_path: Path,
) -> None:
    seen = killed_everywhere(tmp_path, "publish")
    assert not seen[-1]["died"]
    for one in seen:
        assert one["out"] in (OLD, NEW)
        assert one["again"] == NEW
        assert one["beside"] == []
        assert one["bad"] == []
    assert {one["out"]["model.gguf"] for one in seen} == {"old", "new"}


def test_26_a_reference_that_is_killed_at_any_call_is_whole_or_not_there(tmp_path: Path) -> None:
    seen = killed_everywhere(tmp_path, "reference")
    assert not seen[-1]["died"]
    assert seen[-1]["found"]
    for one in seen:
        assert one["bad"] == []
        assert one["left"] == NOTHING_LEFT
        assert one.get("content", {"m.gguf": "of the user"}) == {"m.gguf": "of the user"}


def test_26_a_verification_that_is_killed_at_any_call_never_leaves_damage_for_a_new_attempt_to_take(
    tmp_path: Path,
) -> None:
    seen = killed_everywhere(tmp_path, "verify")
    assert len(seen) > 3
    assert not seen[-1]["died"]
    for one in seen:
        assert one["old"]
        assert one["out"] == OLD
        assert one["again"] == {"model.gguf": "weights", "sub/tokenizer.json": "the same in all"}
        assert one["left"] == NOTHING_LEFT


def test_26_a_pruning_that_is_killed_at_any_call_takes_nothing_that_is_kept(tmp_path: Path) -> None:
    seen = killed_everywhere(tmp_path, "prune")
    assert len(seen) > 3
    assert not seen[-1]["died"]
    for one in seen:
        assert one["old"]
        assert one["bad"] == []
        assert one["again"] == {"model.gguf": "weights", "sub/tokenizer.json": "the same in all"}
        assert one["left"] == NOTHING_LEFT


def test_26_an_export_that_is_killed_at_any_call_is_whole_or_not_there(tmp_path: Path) -> None:
    seen = killed_everywhere(tmp_path, "export")
    assert not seen[-1]["died"]
    assert seen[-1]["exported"] is not None
    for one in seen:
        assert one["bad"] == []
        if one["exported"] is not None:
            assert {**NEW, **one["exported"]} == one["exported"]
            assert "qwend-artifact.json" in one["exported"]


async def test_26_everything_is_on_the_disk_before_it_becomes_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def name_of(fd: int) -> str:
        return os.path.realpath(f"/proc/self/fd/{fd}") if sys.platform == "linux" else "?"

    def spied_fsync(fd: int) -> None:
        done.append(("sync", name_of(fd)))
        fsync(fd)

    def spied_rename(source: Any, target: Any, **more: Any) -> None:
        done.append(("rename", str(target)))
        rename(source, target, **more)

    def spied_replace(source: Any, target: Any, **more: Any) -> None:
        done.append(("rename", str(target)))
        replace(source, target, **more)

    if sys.platform != "linux":
        pytest.skip("tells descriptors' names by /proc")
    store = await ArtifactStore.open(str(tmp_path / "store"))
    work = await store.prepare("f1", keep=False)
    (tmp_path / "store/work/f1/out/sub").mkdir()
    for name in ("a", "sub/b"):
        (tmp_path / "store/work/f1/out" / name).write_text(name)
    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(os, "rename", spied_rename)
    monkeypatch.setattr(os, "replace", spied_replace)
    made = await store.commit(work, fingerprint="f1", type="report", facts=Facts(), metrics={}, provenance={})
    monkeypatch.undo()
    out = work.output
    sealed = done.index(("rename", f"{tmp_path}/store/work/f1/sealed.json"))
    for path in (f"{out}/a", f"{out}/sub/b", f"{out}/sub", out):
        assert done.index(("sync", path)) < sealed
    placed = done.index(("rename", made.location))
    named = done.index(("rename", f"{tmp_path}/store/manifests/f1.json"))
    assert sealed < done.index(("sync", f"{tmp_path}/store/work/f1")) < placed
    assert placed < done.index(("sync", f"{tmp_path}/store/objects")) < named
    assert named < done.index(("sync", f"{tmp_path}/store/manifests"))
    await store.close()
