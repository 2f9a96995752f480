"""Pruning frees what nothing refers to, and says what it frees."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qwend.adapters.store import ArtifactStore
from qwend.model.artifact import Artifact, Facts


async def opened(folder: Path) -> ArtifactStore:
    return await ArtifactStore.open(str(folder / "store"))


def write(path: str, content: str) -> None:
    Path(path).write_text(content)


async def made(store: ArtifactStore, fingerprint: str, files: dict[str, str]) -> Artifact:
    work = await store.prepare(fingerprint, keep=False)
    for name, content in files.items():
        write(os.path.join(work.output, name), content)
    return await store.commit(
        work, fingerprint=fingerprint, type="model/gguf", facts=Facts(), metrics={}, provenance={}
    )


def removed(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted((one["type"], one["digest"]) for one in answer["removed"])


async def test_what_is_no_root_goes_and_a_dry_run_only_says_so(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    kept, gone = await made(store, "f1", {"a": "kept"}), await made(store, "f2", {"a": "gone!"})
    said = await store.prune(["f1"], dry_run=True)
    assert removed(said) == [("model/gguf", gone.digest)]
    assert said["freed"] == 5
    assert await store.find("f2") == gone
    assert await store.prune(["f1"]) == said
    assert await store.find("f1") == kept
    assert await store.find("f2") is None
    assert os.listdir(tmp_path / "store/objects") == [kept.digest]
    assert os.listdir(tmp_path / "store/staging") == []
    await store.close()


async def test_a_file_that_something_kept_shares_frees_nothing(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await made(store, "f1", {"tokenizer": "shared", "a": "1"})
    await made(store, "f2", {"tokenizer": "shared", "a": "22"})
    published = await made(store, "f3", {"a": "published"})
    await store.publish(published, str(tmp_path / "out"))
    assert (await store.prune(["f1"]))["freed"] == 2
    assert (tmp_path / "out/a").read_text() == "published"
    assert (await store.prune([]))["freed"] == 7
    await store.close()


async def test_files_that_two_victims_share_are_counted_once(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await made(store, "f1", {"tokenizer": "shared", "a": "1"})
    await made(store, "f2", {"tokenizer": "shared", "a": "22"})
    assert (await store.prune([]))["freed"] == 9
    await store.close()


async def test_the_same_content_of_a_kept_fingerprint_stays(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    first, second = await made(store, "f1", {"a": "x"}), await made(store, "f2", {"a": "x"})
    assert (await store.prune(["f2"]))["removed"] == []
    assert first.digest == second.digest
    assert await store.find("f2") == second
    await store.close()


async def test_folders_of_steps_that_nobody_goes_on_with_go_and_a_resumable_one_stays(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    for name in ("f1", "f2"):
        work = await store.prepare(name, keep=True)
        write(os.path.join(work.output, "checkpoint"), "half")
    assert removed(await store.prune(["f1"])) == [("work", "f2")]
    assert os.listdir(tmp_path / "store/work") == ["f1"]
    await store.close()


async def test_the_users_own_files_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    store = await opened(tmp_path)
    await store.reference(
        str(tmp_path / "mine"), fingerprint="f1", type="report", facts=Facts(), provenance={}
    )
    assert (await store.prune([]))["removed"] == []
    assert await store.find("f1") is None
    assert os.listdir(tmp_path / "store/views") == []
    assert (tmp_path / "mine").read_text() == "mine"
    await store.close()


async def test_leftovers_that_no_manifest_names_go(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    orphan = await made(store, "f1", {"a": "x"})
    os.unlink(tmp_path / "store/manifests/f1.json")
    assert await store.find("f1") is None
    assert removed(await store.prune([])) == [("orphan", orphan.digest)]
    await store.close()


async def test_a_twin_of_what_was_pruned_is_stored_by_itself(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await made(store, "f1", {"a": "x"})
    await store.prune([])
    again = await made(store, "f2", {"a": "x", "b": "y"})
    assert await store.find("f2") == again
    await store.close()
