"""`out:` and export: whole or not at all, and only what qwend put there is ever replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qwend.adapters.store import ArtifactStore
from qwend.errors import UsageError
from qwend.model.artifact import Artifact, Facts


async def opened(folder: Path) -> ArtifactStore:
    return await ArtifactStore.open(str(folder / "store"))


async def made(store: ArtifactStore, fingerprint: str, files: dict[str, str]) -> Artifact:
    work = await store.prepare(fingerprint, keep=False)
    write(work.output, files)
    return await store.commit(
        work, fingerprint=fingerprint, type="model/gguf", facts=Facts(), metrics={}, provenance={}
    )


def write(folder: str, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def inode(*parts: str) -> int:
    return os.stat(os.path.join(*parts)).st_ino


async def test_an_artifact_appears_linked_and_only_once(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    artifact = await made(store, "f1", {"model.gguf": "w", "sub/x": "x"})
    out = tmp_path / "deep/er/merged"
    await store.publish(artifact, str(out))
    assert tree(out) == {"model.gguf": "w", "sub/x": "x"}
    assert inode(str(out), "model.gguf") == inode(artifact.location, "model.gguf")
    before = inode(str(out))
    await store.publishable(str(out))
    await store.publish(artifact, str(out))
    assert inode(str(out)) == before
    assert os.listdir(out.parent) == ["merged"]
    await store.close()


@pytest.mark.parametrize("swaps", [True, False])
async def test_a_new_artifact_replaces_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    if not swaps:
        monkeypatch.setattr("qwend.adapters.store.publish.swap", lambda one, other: False)
    store = await opened(tmp_path)
    out = tmp_path / "out"
    await store.publish(await made(store, "f1", {"a": "1", "old": "o"}), str(out))
    await store.publish(await made(store, "f2", {"a": "2"}), str(out))
    assert tree(out) == {"a": "2"}
    assert sorted(os.listdir(tmp_path)) == ["out", "store"]
    await store.close()
    store = await opened(tmp_path)
    await store.publish(await made(store, "f3", {"a": "3"}), str(out))
    assert tree(out) == {"a": "3"}
    await store.close()


@pytest.mark.parametrize(
    ("meddle", "said"),
    [
        (lambda out: (out / "notes.txt").write_text("mine"), r"holds notes\.txt, which was added since"),
        (
            lambda out: [(out / "a").unlink(), (out / "a").write_text("mine")],
            "holds a, which was changed since",
        ),
    ],
)
async def test_what_the_user_added_or_changed_is_never_lost(
    tmp_path: Path, meddle: Callable[[Path], object], said: str
) -> None:
    store = await opened(tmp_path)
    out = tmp_path / "out"
    await store.publish(await made(store, "f1", {"a": "1"}), str(out))
    meddle(out)
    before = tree(out)
    with pytest.raises(UsageError, match=said):
        await store.publish(await made(store, "f2", {"a": "2"}), str(out))
    assert tree(out) == before
    assert sorted(os.listdir(tmp_path)) == ["out", "store"]
    await store.close()


async def test_what_was_there_before_qwend_is_never_replaced(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    artifact = await made(store, "f1", {"a": "1"})
    write(str(tmp_path / "folder"), {"a": "1"})
    (tmp_path / "file").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    for name in ("folder", "file", "link"):
        for attempt in (
            store.publish(artifact, str(tmp_path / name)),
            store.publishable(str(tmp_path / name)),
        ):
            with pytest.raises(UsageError, match="is there already and was not put there by qwend"):
                await attempt
    assert os.listdir(tmp_path / "elsewhere") == []
    await store.close()


async def test_an_empty_folder_or_a_copy_that_lost_files_is_filled(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    artifact = await made(store, "f1", {"a": "1", "b": "2"})
    (tmp_path / "out").mkdir()
    await store.publish(artifact, str(tmp_path / "out"))
    (tmp_path / "out/a").unlink()
    await store.publish(artifact, str(tmp_path / "out"))
    assert tree(tmp_path / "out") == {"a": "1", "b": "2"}
    await store.close()


async def test_a_folder_that_the_user_put_in_the_place_of_ours_is_the_users(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    artifact = await made(store, "f1", {"a": "1"})
    await store.publish(artifact, str(tmp_path / "out"))
    (tmp_path / "out").rename(tmp_path / "kept")
    write(str(tmp_path / "out"), {"a": "1"})
    with pytest.raises(UsageError, match="was not put there by qwend"):
        await store.publish(await made(store, "f2", {"a": "2"}), str(tmp_path / "out"))
    await store.close()


async def test_one_file_can_be_published_by_its_own_name(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await store.publish(await made(store, "f1", {"q4.gguf": "1"}), str(tmp_path / "m.gguf"))
    assert (tmp_path / "m.gguf").read_text() == "1"
    await store.publish(await made(store, "f2", {"q5.gguf": "2"}), str(tmp_path / "m.gguf"))
    assert (tmp_path / "m.gguf").read_text() == "2"
    await store.publish(await made(store, "f3", {"q5.gguf": "3"}), str(tmp_path / "folder"))
    assert tree(tmp_path / "folder") == {"q5.gguf": "3"}
    await store.close()


async def test_files_of_the_users_own_are_linked_by_name_and_not_by_inode(tmp_path: Path) -> None:
    write(str(tmp_path / "mine"), {"m.gguf": "w"})
    store = await opened(tmp_path)
    artifact = await store.reference(
        str(tmp_path / "mine"), fingerprint="f1", type="model/gguf", facts=Facts(), provenance={}
    )
    await store.publish(artifact, str(tmp_path / "out"))
    assert os.readlink(tmp_path / "out/m.gguf") == str(tmp_path / "mine/m.gguf")
    assert (tmp_path / "mine/m.gguf").stat().st_nlink == 1
    await store.publish(artifact, str(tmp_path / "out"))
    await store.close()


async def test_another_volume_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    store = await opened(tmp_path)
    artifact = await made(store, "f1", {"m.gguf": "w"})
    monkeypatch.setattr(os, "link", refuse)
    await store.publish(artifact, str(tmp_path / "out"))
    assert tree(tmp_path / "out") == {"m.gguf": "w"}
    assert inode(str(tmp_path / "out"), "m.gguf") != inode(artifact.location, "m.gguf")
    await store.publish(artifact, str(tmp_path / "out"))
    await store.close()


async def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    artifact = await made(store, "f1", {"m.gguf": "w"})
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .*file/out"):
        await store.publish(artifact, str(tmp_path / "file/out"))
    await store.close()


async def test_an_export_carries_its_manifest_and_never_overwrites(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    artifact = await made(store, "f1", {"m.gguf": "w"})
    (tmp_path / "usb").mkdir()
    out = await store.export(artifact, str(tmp_path / "usb"))
    assert out == str(tmp_path / "usb")
    assert sorted(os.listdir(out)) == ["m.gguf", "qwend-artifact.json"]
    manifest = json.loads((tmp_path / "usb/qwend-artifact.json").read_text())
    assert manifest["artifact"]["digest"] == artifact.digest
    assert str(tmp_path) not in json.dumps(manifest)
    with pytest.raises(UsageError, match="is there already"):
        await store.export(artifact, out)
    assert sorted(os.listdir(tmp_path)) == ["store", "usb"]
    await store.close()


async def test_an_export_of_the_users_own_files_holds_files(tmp_path: Path) -> None:
    write(str(tmp_path / "mine"), {"m.gguf": "w"})
    store = await opened(tmp_path)
    artifact = await store.reference(
        str(tmp_path / "mine"), fingerprint="f1", type="model/gguf", facts=Facts(), provenance={}
    )
    await store.export(artifact, str(tmp_path / "usb"))
    assert not (tmp_path / "usb/m.gguf").is_symlink()
    await store.close()
