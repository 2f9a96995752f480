"""A disk that is full from any one write on: an error in words, what was there is there, and it can be done again."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qwend.adapters.store import ArtifactStore, disk, publish
from qwend.errors import QwendError
from qwend.model.artifact import Artifact, Facts

WRITES = ("open", "rename", "replace", "link", "symlink", "mkdir", "fsync", "utime")
"""Calls that a full disk may refuse; nothing keeps names and folders from being taken away."""
OLD = {"model.gguf": "old", "sub/tokenizer.json": "the same in all"}
NEW = {**OLD, "model.gguf": "new"}


@contextmanager
def full_from(count: int) -> Iterator[list[int]]:
    """From the `count`-th write on every write fails; how many writes there were."""
    made = [0]

    def limited(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **named)
            made[0] += 1
            if made[0] >= count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **named)

        return call

    def no_swap(one: str, other: str) -> bool:
        made[0] += 1
        return made[0] < count and swap(one, other)

    swap = disk.swap
    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(os, name, limited(name, getattr(os, name)))
        patch.setattr(publish, "swap", no_swap)
        yield made


def lay(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def damage(folder: Path) -> None:
    (folder / "model.gguf").chmod(0o644)
    (folder / "model.gguf").write_text("g0ne")


def tree(folder: Path) -> dict[str, str]:
    return {str(one.relative_to(folder)): one.read_text() for one in folder.rglob("*") if one.is_file()}


def is_there(path: str) -> bool:
    return os.path.exists(path)


async def take_in(store: ArtifactStore, fingerprint: str, files: dict[str, str]) -> Artifact:
    work = await store.prepare(fingerprint, keep=False)
    lay(Path(work.output), files)
    return await commit(store, fingerprint)


async def commit(store: ArtifactStore, fingerprint: str) -> Artifact:
    return await store.commit(
        store.work(fingerprint),
        fingerprint=fingerprint, type="model/gguf", facts=Facts(), metrics={}, provenance={},
    )  # fmt: skip


async def found(store: ArtifactStore, fingerprint: str) -> Artifact:
    artifact = await store.find(fingerprint)
    assert artifact is not None
    return artifact


async def do_prepare(store: ArtifactStore, folder: Path) -> None:
    await store.prepare("f1", keep=False)


async def do_commit(store: ArtifactStore, folder: Path) -> None:
    await commit(store, "f1")


async def do_reference(store: ArtifactStore, folder: Path) -> None:
    await store.reference(
        str(folder / "mine"), fingerprint="f1", type="model/gguf", facts=Facts(), provenance={}
    )


async def do_alias(store: ArtifactStore, folder: Path) -> None:
    await store.alias("f1", await found(store, "old"), {}, {})


async def do_publish(store: ArtifactStore, folder: Path) -> None:
    await store.publish(await found(store, "new"), str(folder / "out"))


async def do_export(store: ArtifactStore, folder: Path) -> None:
    await store.export(await found(store, "new"), str(folder / "exported"))


async def do_prune(store: ArtifactStore, folder: Path) -> None:
    await store.prune(["old", "new"])


async def do_verify(store: ArtifactStore, folder: Path) -> None:
    async for _ in store.verify():
        pass


Work = Callable[[ArtifactStore, Path], Awaitable[None]]


async def lay_out(folder: Path, work: Work) -> ArtifactStore:
    """A store with two artifacts, the older one published, and what the work is to be done on."""
    lay(folder, {"mine": "of the user"})
    store = await ArtifactStore.open(str(folder / "store"))
    await take_in(store, "old", OLD)
    await take_in(store, "new", NEW)
    await store.publish(await found(store, "old"), str(folder / "out"))
    if work is do_commit:
        lay(Path((await store.prepare("f1", keep=False)).output), {"model.gguf": "weights"})
    if work in (do_prune, do_verify):
        gone = await take_in(store, "gone", {"model.gguf": "gone"})
        if work is do_verify:
            damage(Path(gone.location))
    return store


@pytest.mark.parametrize(
    "work",
    [do_prepare, do_commit, do_reference, do_alias, do_publish, do_export, do_prune, do_verify],
    ids=lambda work: work.__name__.removeprefix("do_"),
)
async def test_a_disk_that_is_full_from_any_write_on_leaves_everything_whole_and_the_work_to_be_done_again(
    tmp_path: Path, work: Work
) -> None:
    for count in range(1, 200):
        folder = tmp_path / str(count)
        store = await lay_out(folder, work)
        failure: QwendError | None = None
        with full_from(count) as made:
            try:
                await work(store, folder)
            except QwendError as error:
                failure = error
        for fingerprint, files in (("old", OLD), ("new", NEW)):
            assert tree(Path((await found(store, fingerprint)).location)) == files
        assert tree(folder / "out") in (OLD, NEW)
        assert not (folder / "exported").exists() or tree(folder / "exported").items() >= NEW.items()
        if failure is not None:
            assert failure.code in {"disk-full", "store-write"}, failure.lines()
            assert len(failure.lines()) == 1
            if work is do_commit and not is_there(store.work("f1").output):
                await take_in(store, "f1", {"model.gguf": "weights"})
            else:
                await work(store, folder)
        await store.close()
        again = await ArtifactStore.open(str(folder / "store"))
        bad = [item["end"]["bad"] async for item in again.verify() if "end" in item]
        assert bad == [[]], f"write {count}"
        assert os.listdir(folder / "store" / "staging") == []
        assert [name for name in os.listdir(folder) if name.startswith(".")] == []
        if work is do_verify:  # what is damaged is never taken for what is made again
            assert await again.find("gone") is None
            made_again = await take_in(again, "gone", {"model.gguf": "gone"})
            assert tree(Path(made_again.location)) == {"model.gguf": "gone"}
        if work in (do_commit, do_reference, do_alias):
            assert await again.find("f1") is not None
        await again.close()
        if made[0] < count:
            assert failure is None
            assert count > 1, "nothing was written at all"
            return
    pytest.fail("it never came to an end")
