"""Faults 27 and 28: bits flip in stored files, and in the state database."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from qwend.adapters.rebuild import Rebuilt, rebuild
from qwend.adapters.state import SqliteState
from qwend.adapters.state_schema import VERSION, connect, salvage, set_aside
from qwend.adapters.store import ArtifactStore
from qwend.adapters.store.catalogue import manifests_of
from qwend.errors import QwendError
from qwend.model.artifact import Artifact, Facts
from qwend.model.event import Event

# 27 --------------------------------------------------------------------------------------------------------


async def made(store: ArtifactStore, fingerprint: str, files: dict[str, bytes]) -> Artifact:
    work = await store.prepare(fingerprint, keep=False)
    for name, content in files.items():
        at(work.output, name).write_bytes(content)
    return await store.commit(
        work, fingerprint=fingerprint, type="model/gguf", facts=Facts(), metrics={}, provenance={}
    )


def at(*parts: str) -> Path:
    return Path(*parts)


def overwrite(path: Path, content: bytes) -> None:
    """Changes a file behind everybody's back: size and time stay as they were."""
    before = path.stat()
    mode = before.st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(content)
    path.chmod(mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


async def verified(store: ArtifactStore, digest: str | None = None) -> dict[str, Any]:
    end: dict[str, Any] = {}
    async for item in store.verify(digest):
        end = item.get("end", end)
    return end


@pytest.mark.parametrize("content", [b"Weights" + b"\0" * 93, b"weights" + b"x" * 50 + b"\0" * 43])
async def test_27_a_flipped_byte_and_a_zero_tail_are_found_and_set_aside(
    tmp_path: Path, content: bytes
) -> None:
    store = await ArtifactStore.open(str(tmp_path / "store"))
    good = await made(store, "f1", {"a": b"good"})
    original = b"weights" + b"x" * 50 + b"y" * 43
    hurt = await made(store, "f2", {"config": b"c", "model.gguf": original})
    overwrite(Path(hurt.location, "model.gguf"), content)
    assert await store.find("f2") == hurt, "size and time tell nothing"
    end = await verified(store)
    assert end["checked"] == 2
    assert end["exit_code"] == 1
    (bad,) = end["bad"]
    assert (bad["digest"], bad["path"]) == (hurt.digest, "model.gguf")
    assert "sha256" in bad["problem"]
    assert (
        bad["mend"]
        == f"{hurt.digest[:12]} is set aside; the next `qwend up` that needs it makes or fetches it again"
    )
    assert await store.find("f2") is None
    assert await store.find("f1") == good
    (aside,) = (tmp_path / "store/quarantine").iterdir()
    assert sorted(path.name for path in aside.iterdir()) == ["f2.json", "files"]
    again = await made(store, "f2", {"config": b"c", "model.gguf": original})
    assert again.digest == hurt.digest
    assert (await verified(store))["bad"] == []
    await store.close()


async def test_27_every_artifact_that_shares_the_damaged_file_is_found_even_if_one_was_asked_for(
    tmp_path: Path,
) -> None:
    store = await ArtifactStore.open(str(tmp_path / "store"))
    one = await made(store, "f1", {"tokenizer": b"tokens", "a": b"1"})
    two = await made(store, "f2", {"tokenizer": b"tokens", "a": b"2"})
    three = await made(store, "f3", {"a": b"3"})
    overwrite(Path(one.location, "tokenizer"), b"TOKENS")
    end = await verified(store, one.digest)
    assert {bad["digest"] for bad in end["bad"]} == {one.digest, two.digest}
    assert [await store.find(name) for name in ("f1", "f2", "f3")] == [None, None, three]
    again = await made(store, "f1", {"tokenizer": b"tokens", "a": b"1"})
    assert at(again.location, "tokenizer").read_bytes() == b"tokens"
    await store.close()


async def test_27_missing_added_and_shortened_files_and_unreadable_manifests_are_found(
    tmp_path: Path,
) -> None:
    store = await ArtifactStore.open(str(tmp_path / "store"))
    missing, added, short = [await made(store, f"f{number}", {"a": b"x" * number}) for number in (3, 4, 5)]
    for artifact in (missing, added, short):
        os.chmod(artifact.location, 0o700)
    at(missing.location, "a").unlink()
    at(added.location, "evil").write_text("x")
    os.truncate(Path(short.location, "a"), 1)
    (tmp_path / "store/manifests/f9.json").write_text("{nonsense")
    assert await store.find("f9") is None
    problems = {(bad["digest"], bad["path"]): bad["problem"] for bad in (await verified(store))["bad"]}
    assert problems[missing.digest, "a"] == "is missing"
    assert problems[added.digest, "evil"] == "does not belong to it"
    assert problems[short.digest, "a"] == "has 1 bytes instead of 5"
    assert "cannot be read" in problems["", "f9.json"]
    assert await store.artifacts() == []
    assert (await verified(store)) == {"checked": 0, "bad": [], "exit_code": 0}
    await store.close()


async def test_27_a_changed_file_of_the_users_is_told_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    store = await ArtifactStore.open(str(tmp_path / "store"))
    artifact = await store.reference(
        str(tmp_path / "mine"), fingerprint="f1", type="report", facts=Facts(), provenance={}
    )
    assert (await verified(store))["bad"] == []
    overwrite(tmp_path / "mine", b"MINE")
    (bad,) = (await verified(store))["bad"]
    assert (bad["digest"], bad["path"]) == (artifact.digest, "mine")
    assert "is yours" in bad["problem"]
    assert "the next `qwend up` takes the file as it is now" in bad["mend"]
    assert (tmp_path / "mine").read_bytes() == b"MINE"
    assert await store.find("f1") is None
    await store.close()


# 28 --------------------------------------------------------------------------------------------------------


async def state_with_rows(folder: Path, count: int, distinct: int = 1000) -> Path:
    state = await SqliteState.open(str(folder / "state.db"))
    for number in range(count):
        name = f"r/s{number % distinct}"
        row = {"key": name, "recipe": "r", "state": "ready", "ballast": "x" * 500}
        await state.record(Event("service.ready", name, table="step", row=row))
    await state.lease_port("r/s0", None)
    await state.close()
    return folder / "state.db"


def crashed(path: Path) -> None:
    """Leaves the database as a daemon that was killed leaves it."""
    connection = connect(str(path))
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('open', '1')")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def scribble(path: Path, offset: int, length: int = 4096) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(os.urandom(length))


def kept_copies(folder: Path) -> list[Path]:
    return list(folder.glob("state.db.corrupt-*[0-9Z]"))


async def refusal(path: Path) -> QwendError:
    with pytest.raises(QwendError) as caught:
        await SqliteState.open(str(path))
    return caught.value


@pytest.mark.parametrize("where", ["header", "middle", "short", "events"])
async def test_28_a_damaged_state_is_refused_kept_and_not_made_worse(tmp_path: Path, where: str) -> None:
    path = await state_with_rows(tmp_path, 100, distinct=3 if where == "events" else 100)
    crashed(path)
    if where == "header":
        scribble(path, 0, 100)
    elif where in {"middle", "events"}:
        scribble(path, path.stat().st_size // 2 // 4096 * 4096, 8192)
    else:
        os.truncate(path, path.stat().st_size // 2)
    before = path.read_bytes()
    error = await refusal(path)
    assert error.code == "state-corrupt"
    assert "qwend doctor --rebuild" in (error.hint or "")
    (kept,) = kept_copies(tmp_path)
    assert kept.name in error.message
    assert kept.read_bytes() == before == path.read_bytes()
    await refusal(path)
    assert len(kept_copies(tmp_path)) == 1, "the same damage is kept once"


async def test_28_a_row_that_is_no_json_any_more_is_damage_too(tmp_path: Path) -> None:
    path = await state_with_rows(tmp_path, 3)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE rows SET body = x'7b22' WHERE subject = 'r/s1'")
    connection.commit()
    connection.close()
    assert (await refusal(path)).code == "state-corrupt"


async def test_28_a_newer_state_is_refused_and_untouched(tmp_path: Path) -> None:
    path = await state_with_rows(tmp_path, 1)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.execute("UPDATE meta SET value = '9.9.9' WHERE name = 'written_by'")
    connection.commit()
    connection.close()
    error = await refusal(path)
    assert error.code == "state-newer"
    assert f"written by qwend 9.9.9 (schema {VERSION + 1})" in error.message
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM rows").fetchone()[0] == 2
    connection.close()


async def test_28_a_rebuild_recovers_rows_that_can_be_read_and_every_artifact(tmp_path: Path) -> None:
    path = await state_with_rows(tmp_path, 200)
    store = await ArtifactStore.open(str(tmp_path / "store"))
    artifact = await made(store, "f1", {"a": b"x"})
    await store.close()
    crashed(path)
    scribble(path, path.stat().st_size // 2 // 4096 * 4096)
    await refusal(path)
    done = await rebuild(str(tmp_path))
    assert done.kept is not None
    assert done.artifacts == 1
    state = await SqliteState.open(str(path))
    recovered = state.rows("step")
    assert done.rows == {"step": len(recovered)}, "ports are not recovered: what runs is asked for its own"
    assert len(recovered) > 100
    assert all(row["state"] == "ready" for row in recovered.values())
    assert state.replay() == {"step": recovered}
    await state.close()
    assert list(manifests_of(str(tmp_path / "store"))) == [artifact]


async def test_28_a_rebuild_of_nothing_is_an_empty_state(tmp_path: Path) -> None:
    assert await rebuild(str(tmp_path)) == Rebuilt(None, {}, 0)
    assert await rebuild(str(tmp_path)) != Rebuilt(None, {}, 0)


def test_28_nothing_to_set_aside_is_no_failure(tmp_path: Path) -> None:
    assert set_aside(str(tmp_path / "state.db")) is None
    (tmp_path / "junk").write_bytes(b"no database" * 1000)
    assert salvage(str(tmp_path / "junk")) == []
