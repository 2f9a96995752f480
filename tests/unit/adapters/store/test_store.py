"""The artifact store: content in, content out, once, whole, and with where it came from."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwend.adapters.store import ArtifactStore
from qwend.adapters.store.catalogue import manifests_of
from qwend.adapters.store.hashing import Changed, Hasher, read_digest, still_written
from qwend.adapters.store.stat_cache import StatCache
from qwend.core.redact import Redactor
from qwend.errors import OutOfResource, QwendError, StepFailed, UsageError
from qwend.model.artifact import Artifact, Facts

OLD_NS = 1_600_000_000_000_000_000


async def opened(folder: Path, **options: Any) -> ArtifactStore:
    return await ArtifactStore.open(str(folder / "store"), **options)


async def made(store: ArtifactStore, fingerprint: str, files: dict[str, bytes], **more: Any) -> Artifact:
    work = await store.prepare(fingerprint, keep=False)
    write(Path(work.output), files)
    return await store.commit(
        work,
        fingerprint=fingerprint,
        type=more.get("type", "model/gguf"),
        facts=more.get("facts", Facts(dtype="Q4_K_M")),
        metrics=more.get("metrics", {"perplexity": 6.5}),
        provenance=more.get("provenance", {"recipe": "r", "step": "q4"}),
    )


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def at(*parts: str) -> Path:
    return Path(*parts)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read from now on."""
    from qwend.adapters.store import hashing

    seen: list[str] = []
    real = hashing.read_digest

    def spy(path: str, tell: Any = None) -> Any:
        seen.append(os.path.basename(path))
        return real(path, tell)

    monkeypatch.setattr(hashing, "read_digest", spy)
    return seen


async def test_an_output_becomes_an_artifact_that_is_found_by_its_fingerprint(tmp_path: Path) -> None:
    store = await opened(tmp_path, clock=lambda: 5.0)
    artifact = await made(store, "f1", {"model.gguf": b"weights", "sub/notes.txt": b"n"})
    assert [(file.path, file.size) for file in artifact.files] == [("model.gguf", 7), ("sub/notes.txt", 1)]
    assert artifact.files[0].sha256 == hashlib.sha256(b"weights").hexdigest()
    assert artifact.location == str(tmp_path / "store/objects" / artifact.digest)
    assert at(artifact.location, "model.gguf").read_bytes() == b"weights"
    assert (artifact.size, artifact.created, artifact.metrics) == (8, 5.0, {"perplexity": 6.5})
    assert await store.find("f1") == artifact
    assert await store.find("f2") is None
    assert not (tmp_path / "store/work/f1").exists()
    await store.close()
    again = await opened(tmp_path)
    assert await again.find("f1") == artifact
    assert again.known(artifact.digest) == artifact
    assert again.known(None) is None
    await again.close()


async def test_what_a_step_made_last_is_found_whatever_its_fingerprint(tmp_path: Path) -> None:
    store = await opened(tmp_path, clock=iter(range(100, 200)).__next__)
    mine = {"recipe": "r", "step": "answers", "engine": "x/batch"}
    assert await store.latest("r", "answers", "x/batch") is None
    await made(store, "1" * 64, {"a": b"first"}, provenance=mine)
    last = await made(store, "2" * 64, {"a": b"second"}, provenance=mine)
    await made(store, "3" * 64, {"a": b"third"}, provenance=mine | {"engine": "y/batch"})
    await made(store, "4" * 64, {"a": b"fourth"}, provenance=mine | {"recipe": "other"})
    assert await store.latest("r", "answers", "x/batch") == last
    await store.close()


async def test_the_digest_is_that_of_content_and_names_alone(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    one = await made(store, "f1", {"a": b"x", "b": b"y"}, provenance={"a": 1})
    same = await made(store, "f2", {"b": b"y", "a": b"x"}, provenance={"b": 2})
    renamed = await made(store, "f3", {"a": b"x", "c": b"y"})
    assert one.digest == same.digest != renamed.digest
    assert (await store.find("f1")) is not None
    assert (await store.find("f2")) == same
    lines = [f"{hashlib.sha256(data).hexdigest()} 1 {name}\n" for name, data in (("a", b"x"), ("b", b"y"))]
    assert one.digest == hashlib.sha256(("qwend artifact 1\n" + "".join(lines)).encode()).hexdigest()
    await store.close()


async def test_what_is_stored_is_read_only(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    artifact = await made(store, "f1", {"sub/model.gguf": b"w"})
    modes = {
        path: stat.S_IMODE((at(artifact.location) / path).stat().st_mode)
        for path in (".", "sub", "sub/model.gguf")
    }
    assert modes == {".": 0o555, "sub": 0o555, "sub/model.gguf": 0o444}
    await store.close()


async def test_a_file_that_the_store_holds_already_takes_no_room_again(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    one = await made(store, "f1", {"tokenizer.json": b"tokens", "model.gguf": b"one"})
    two = await made(store, "f2", {"tokenizer.json": b"tokens", "model.gguf": b"two"})
    inodes = [
        os.stat(at(one.location, "tokenizer.json")).st_ino,
        os.stat(at(two.location, "tokenizer.json")).st_ino,
    ]
    assert inodes[0] == inodes[1]
    assert os.stat(at(two.location, "tokenizer.json")).st_mode & 0o777 == 0o444
    assert store.usage() == 12
    assert not [name for name in os.listdir(two.location) if "." in name[-9:-8]]
    await store.close()


async def test_a_file_with_a_name_elsewhere_is_copied_so_that_it_cannot_change(tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"original")
    store = await opened(tmp_path)
    work = await store.prepare("f1", keep=False)
    os.link(mine, at(work.output, "model.gguf"))
    artifact = await store.commit(
        work, fingerprint="f1", type="model/gguf", facts=Facts(), metrics={}, provenance={}
    )
    mine.write_bytes(b"changed!")
    assert at(artifact.location, "model.gguf").read_bytes() == b"original"
    assert stat.S_IMODE(mine.stat().st_mode) != 0o444
    await store.close()


async def test_two_names_of_one_file_within_an_output_stay_one_file(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    work = await store.prepare("f1", keep=False)
    at(work.output, "a").write_bytes(b"x")
    os.link(at(work.output, "a"), at(work.output, "b"))
    artifact = await store.commit(
        work, fingerprint="f1", type="report", facts=Facts(), metrics={}, provenance={}
    )
    assert os.stat(at(artifact.location, "a")).st_nlink == 2
    await store.close()


async def test_a_link_within_an_output_becomes_a_file(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    work = await store.prepare("f1", keep=False)
    write(at(work.output), {"blobs/1": b"x"})
    at(work.output, "model").symlink_to("blobs/1")
    artifact = await store.commit(
        work, fingerprint="f1", type="report", facts=Facts(), metrics={}, provenance={}
    )
    assert [file.path for file in artifact.files] == ["blobs/1", "model"]
    assert not at(artifact.location, "model").is_symlink()
    await store.close()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/etc/passwd", "leads out of it"),
        ("../../f2/out/x", "leads out of it"),
        ("gone", "leads nowhere"),
        ("folder", "leads to a folder"),
    ],
)
async def test_a_link_that_leads_elsewhere_is_refused(tmp_path: Path, target: str, said: str) -> None:
    store = await opened(tmp_path)
    work = await store.prepare("f1", keep=False)
    write(at(work.output), {"folder/x": b"x"})
    at(work.output, "link").symlink_to(target)
    with pytest.raises(StepFailed, match=said):
        await store.commit(work, fingerprint="f1", type="report", facts=Facts(), metrics={}, provenance={})
    assert await store.find("f1") is None
    assert os.listdir(tmp_path / "store/objects") == []
    await store.close()


async def test_a_pipe_in_an_output_is_refused(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    work = await store.prepare("f1", keep=False)
    os.mkfifo(at(work.output, "pipe"))
    with pytest.raises(StepFailed, match="neither a file nor a folder"):
        await store.commit(work, fingerprint="f1", type="report", facts=Facts(), metrics={}, provenance={})
    await store.close()


async def test_an_empty_output_is_refused(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    with pytest.raises(StepFailed, match="wrote nothing"):
        await made(store, "f1", {})
    await store.close()


async def test_files_of_another_user_become_ours_or_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(tmp_path)
    work = await store.prepare("f1", keep=False)
    write(at(work.output), {"model.gguf": b"w"})
    monkeypatch.setattr(store, "_owner", os.getuid() + 1)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(StepFailed, match=f"belongs to uid {os.getuid()}"):
        await store.commit(work, fingerprint="f1", type="report", facts=Facts(), metrics={}, provenance={})
    await store.close()


async def test_an_attempt_starts_with_an_empty_output_unless_it_resumes_and_scratch_stays(
    tmp_path: Path,
) -> None:
    store = await opened(tmp_path)
    work = await store.prepare("f1", keep=False)
    for folder in (work.output, work.scratch):
        at(folder, "half").write_bytes(b"h")
    at(work.report).write_text("{}\n")
    again = await store.prepare("f1", keep=True)
    assert (os.listdir(again.output), os.listdir(again.scratch)) == (["half"], ["half"])
    assert at(again.report).read_text() == ""
    again = await store.prepare("f1", keep=False)
    assert (os.listdir(again.output), os.listdir(again.scratch)) == ([], ["half"])
    await store.discard("f1")
    await store.discard("f1")
    assert os.listdir(tmp_path / "store/work") == []
    await store.close()


async def test_an_artifact_stays_until_its_step_has_made_a_new_one(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    old = await made(store, "f1", {"a": b"old"})
    await store.prepare("f1", keep=False)
    assert await store.find("f1") == old
    new = await made(store, "f1", {"a": b"new"})
    assert await store.find("f1") == new
    await store.close()


async def test_an_artifact_that_lost_a_file_or_changed_its_size_is_not_found(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    artifact = await made(store, "f1", {"a": b"aaa", "b": b"bbb"})
    os.chmod(artifact.location, 0o700)
    at(artifact.location, "a").unlink()
    assert await store.find("f1") is None
    at(artifact.location, "a").write_bytes(b"aaaa")
    assert await store.find("f1") is None
    await store.close()


async def test_a_stored_file_that_was_only_touched_is_read_and_believed(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    artifact = await made(store, "f1", {"a": b"aaa"})
    os.utime(at(artifact.location, "a"))
    assert await store.find("f1") == artifact
    path = at(artifact.location, "a")
    os.chmod(path, 0o600)
    path.write_bytes(b"bbb")
    assert await store.find("f1") is None
    await store.close()


async def test_provenance_is_kept_without_secrets(tmp_path: Path) -> None:
    store = await opened(tmp_path, redactor=Redactor(["hunter22"]))
    artifact = await made(
        store,
        "f1",
        {"a": b"x"},
        provenance={"command": ["serve", "--api-key", "x"], "env": {"HF_TOKEN": "y"}, "url": "http://h/hunter22",
                    "name": os.fsdecode(b"\xff")},
    )  # fmt: skip
    text = (tmp_path / "store/manifests/f1.json").read_text()
    assert "hunter22" not in text
    assert json.loads(text)["artifact"]["provenance"] == artifact.provenance
    assert artifact.provenance["env"] == {"HF_TOKEN": "***"}
    assert artifact.provenance["name"] == "\\udcff"
    await store.close()


async def test_hostile_names_are_kept_escaped_and_come_back_as_they_were(tmp_path: Path) -> None:
    names = [
        b"new\nline",
        b"\x1b[31mred",
        b"not\xffutf8",
        b"back\\slash",
        b"$(touch x);`y` 'q'",
        "中文.txt".encode(),
        b"-rf",
    ]
    names.append(b"x" * 255)
    names.append("rtl‮gpj".encode())
    store = await opened(tmp_path)
    work = await store.prepare("f1", keep=False)
    for name in names:
        at(os.fsdecode(os.fsencode(work.output) + b"/" + name)).write_bytes(name)
    artifact = await store.commit(
        work, fingerprint="f1", type="report", facts=Facts(), metrics={}, provenance={}
    )
    shown = {file.path for file in artifact.files}
    assert {
        "new\\x0aline",
        "\\x1b[31mred",
        "not\\xffutf8",
        "back\\\\slash",
        "中文.txt",
        "rtl\\u202egpj",
    } <= shown
    assert await store.find("f1") == artifact
    out = tmp_path / "out"
    await store.publish(artifact, str(out))
    assert sorted(os.listdir(os.fsencode(out))) == sorted(names)
    await store.close()


async def test_a_fingerprint_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    for name in ("../x", "a/b", "", ".", "x" * 200, "a\n"):
        with pytest.raises(QwendError, match="is no digest or fingerprint"):
            await store.find(name)
    await store.close()


async def test_the_same_content_under_another_fingerprint(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    artifact = await made(store, "f1", {"a": b"x"})
    alias = await store.alias("best", artifact, {"mean_kld": 0.5}, {"chosen": "f1"})
    assert (alias.digest, alias.fingerprint, alias.provenance) == (artifact.digest, "best", {"chosen": "f1"})
    assert alias.metrics == {**artifact.metrics, "mean_kld": 0.5}
    assert await store.find("best") == alias
    await store.prune(["best"])
    assert await store.find("best") == alias
    assert await store.find("f1") is None
    with pytest.raises(QwendError, match="not in the store any more"):
        await store.alias("other", artifact, {}, {})
    await store.close()


async def test_a_quota_stops_new_work_and_says_how_to_go_on(tmp_path: Path) -> None:
    store = await opened(tmp_path, quota=10)
    await made(store, "f1", {"a": b"x" * 10})
    with pytest.raises(OutOfResource, match=r"takes 10 B of the 10 B"):
        await store.prepare("f2", keep=False)
    await store.close()


async def test_manifests_tell_everything_without_a_database(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    artifact = await made(store, "f1", {"a": b"x"})
    await store.close()
    (tmp_path / "store/manifests/broken.json").write_text("{")
    os.unlink(tmp_path / "store/cache.db")
    assert list(manifests_of(str(tmp_path / "store"))) == [artifact]
    assert list(manifests_of(str(tmp_path / "nothing"))) == []


async def test_a_manifest_of_another_fingerprint_or_a_newer_format_is_not_believed(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await made(store, "f1", {"a": b"x"})
    text = (tmp_path / "store/manifests/f1.json").read_text()
    (tmp_path / "store/manifests/f2.json").write_text(text)
    (tmp_path / "store/manifests/f3.json").write_text(
        text.replace('"f1"', '"f3"').replace('"format": 1', '"format": 2')
    )
    assert await store.find("f2") is None
    assert await store.find("f3") is None
    await store.close()


async def test_an_artifact_is_looked_up_by_the_beginning_of_its_digest_or_fingerprint(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    artifact = await made(store, "abcdef01", {"a": b"x"})
    other = await made(store, "abcdff02", {"a": b"y"})
    for name in (artifact.digest[:12], artifact.digest[:4], artifact.digest[:8].upper(), "abcdef"):
        assert await store.lookup(name) == artifact
        assert await store.lookup(f"sha256:{name}") == artifact
    with pytest.raises(UsageError) as caught:
        await store.lookup("abcd")
    both = ", ".join(sorted(one.digest[:12] for one in (artifact, other)))
    assert caught.value.lines() == [f"abcd could be {both} (give more digits)"]
    with pytest.raises(UsageError, match="there is no artifact zzzz"):
        await store.lookup("zzzz")
    with pytest.raises(UsageError, match="there is no artifact a"):
        await store.lookup("a")
    assert [one.fingerprint for one in await store.artifacts()] == ["abcdff02", "abcdef01"]
    await store.close()


# Files of the user's own -----------------------------------------------------------------------------------


async def test_a_local_file_is_referred_to_where_it_is(tmp_path: Path) -> None:
    mine = tmp_path / "my model.gguf"
    mine.write_bytes(b"weights")
    store = await opened(tmp_path)
    artifact = await store.reference(
        str(mine), fingerprint="f1", type="model/gguf", facts=Facts(), provenance={"source": "file:x"}
    )
    assert artifact.referenced
    assert [file.path for file in artifact.files] == ["my model.gguf"]
    link = at(artifact.location, "my model.gguf")
    assert link.is_symlink()
    assert link.read_bytes() == b"weights"
    assert stat.S_IMODE(mine.stat().st_mode) & 0o200
    assert await store.find("f1") == artifact
    assert store.usage() == 0
    await store.close()


async def test_an_unchanged_local_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "m.gguf"
    mine.write_bytes(b"weights")
    later(monkeypatch)
    store = await opened(tmp_path)
    read = reads(monkeypatch)
    digest, size = await store.digest(str(mine))
    assert (digest, size) == (hashlib.sha256(b"weights").hexdigest(), 7)
    await store.reference(str(mine), fingerprint="f1", type="model/gguf", facts=Facts(), provenance={})
    assert await store.find("f1") is not None
    await store.close()
    store = await opened(tmp_path)
    assert await store.find("f1") is not None
    assert read == ["m.gguf"]
    os.utime(mine, ns=(OLD_NS, OLD_NS))
    assert await store.find("f1") is not None
    assert read == ["m.gguf"] * 2
    await store.close()


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock by which the digest cache judges time stamps is a minute ahead: what was written is old."""
    import time

    real = time.time_ns
    monkeypatch.setattr("qwend.adapters.store.hashing.time.time_ns", lambda: real() + 60_000_000_000)


@pytest.mark.parametrize(
    ("changed_ns", "read_after_ns", "believed"),
    [
        (1_700_000_000_123_456_789, 1_000_000, False),
        (1_700_000_000_123_456_789, 60_000_000, True),
        (1_700_000_000_000_000_000, 60_000_000, False),
        (1_700_000_000_000_000_000, 2_100_000_000, True),
        (1_700_000_000_123_456_789, -5_000_000_000, False),
    ],
)
def test_a_time_stamp_is_believed_once_its_tick_is_over(
    tmp_path: Path, changed_ns: int, read_after_ns: int, believed: bool
) -> None:
    (tmp_path / "f").write_bytes(b"x")
    real = os.stat(tmp_path / "f")
    status = SimpleNamespace(
        st_dev=real.st_dev, st_ino=real.st_ino, st_size=1, st_mtime_ns=changed_ns, st_ctime_ns=changed_ns
    )
    cache = StatCache(str(tmp_path / "cache.db"))
    cache.put(status, "digest", changed_ns + read_after_ns)  # type: ignore[arg-type]
    assert cache.get(status) == ("digest" if believed else None)  # type: ignore[arg-type]
    for field in ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns"):
        other = SimpleNamespace(**{**vars(status), field: getattr(status, field) + 1})
        assert cache.get(other) is None  # type: ignore[arg-type]
    cache.close()


async def test_a_changed_local_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    write(folder, {"config.json": b"{}", "model.safetensors": b"weights"})
    later(monkeypatch)
    store = await opened(tmp_path)
    before = await store.reference(
        str(folder), fingerprint="f1", type="model/safetensors", facts=Facts(), provenance={}
    )
    assert await store.find("f1") == before
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    assert await store.find("f1") is None
    (folder / "model.safetensors").write_bytes(b"weights")
    assert await store.find("f1") == before
    (folder / "config.json").unlink()
    assert await store.find("f1") is None
    await store.close()


async def test_a_folder_of_links_such_as_a_hub_cache_is_followed(tmp_path: Path) -> None:
    write(tmp_path, {"blobs/abc": b"weights", "snapshots/1/README.md": b"r", "snapshots/1/.git/HEAD": b"ref"})
    (tmp_path / "snapshots/1/model.safetensors").symlink_to("../../blobs/abc")
    store = await opened(tmp_path)
    artifact = await store.reference(
        str(tmp_path / "snapshots/1"),
        fingerprint="f1",
        type="model/safetensors",
        facts=Facts(),
        provenance={},
    )
    assert [file.path for file in artifact.files] == ["README.md", "model.safetensors"]
    assert os.readlink(at(artifact.location, "model.safetensors")) == str(tmp_path / "blobs/abc")
    assert (await store.digest(str(tmp_path / "snapshots/1")))[0] == artifact.digest
    await store.close()


async def test_the_same_content_elsewhere_moves_the_view_there(tmp_path: Path) -> None:
    write(tmp_path, {"one/m": b"x", "two/m": b"x"})
    store = await opened(tmp_path)
    for number, name in enumerate(("one", "two")):
        await store.reference(
            str(tmp_path / name), fingerprint=f"f{number}", type="report", facts=Facts(), provenance={}
        )
        (tmp_path / name / "m").rename(tmp_path / f"moved{number}")
        assert await store.find(f"f{number}") is None
        (tmp_path / f"moved{number}").rename(tmp_path / name / "m")
        assert await store.find(f"f{number}") is not None
    await store.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "is an empty folder"),
        (lambda path: os.mkfifo(path), "neither a file nor a folder"),
        (lambda path: (path.mkdir(), (path / "l").symlink_to("gone")), "a link that leads nowhere"),
        (lambda path: (path.mkdir(), (path / "l").symlink_to(".")), "leads back to a folder"),
    ],
)
async def test_what_cannot_be_referred_to_is_told(tmp_path: Path, make: Any, said: str) -> None:
    make(tmp_path / "thing")
    store = await opened(tmp_path)
    with pytest.raises(UsageError, match=said):
        await store.reference(
            str(tmp_path / "thing"), fingerprint="f1", type="report", facts=Facts(), provenance={}
        )
    with pytest.raises(UsageError, match=said):
        await store.digest(str(tmp_path / "thing"))
    await store.close()


def test_a_file_that_is_written_to_while_it_is_read_is_told(tmp_path: Path) -> None:
    mine = tmp_path / "m"
    mine.write_bytes(b"x" * 100)

    def write_more_once(_: int) -> None:
        if mine.stat().st_size == 100:
            with mine.open("ab") as file:
                file.write(b"y")

    with pytest.raises(Changed):
        read_digest(str(mine), write_more_once)
    assert "was written to while it was read" in str(still_written(Changed(str(mine))))


def test_a_broken_digest_cache_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    path.write_bytes(b"this is no database, and long enough to be taken for one" * 100)
    cache = StatCache(str(path))
    hasher = Hasher(cache)
    (tmp_path / "f").write_bytes(b"x")
    assert hasher.file(str(tmp_path / "f"))[1] == 1
    hasher.close()
    cache.close()
    assert cache.get(os.stat(tmp_path / "f")) is None
