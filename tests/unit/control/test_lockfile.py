"""The lock beside a recipe: honoured, written whole, never changed by itself, and free of this machine's paths."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from qwend.api.control import FileText, RecipeRequest
from qwend.control.lockfile import LockFile
from qwend.errors import QwendError, UsageError
from qwend.model.artifact import Pin, PinnedFile

FILE = PinnedFile("a.gguf", 7, "00", local="/home/x/a.gguf")
PIN = Pin("hf:Qwen/Q", "hf:Qwen/Q@abc", "model/gguf", (FILE,), local="/home/x")


def request(path: Path | str) -> RecipeRequest:
    return RecipeRequest((FileText(str(path), ""),), "/")


def test_what_was_written_is_read_again_without_this_machines_paths(tmp_path: Path) -> None:
    lock = LockFile.read(request(tmp_path / "demo.yaml"), smoke=False)
    lock.set("base", PIN)
    assert lock.changes == ["base: hf:Qwen/Q@abc"]
    assert lock.write()
    text = (tmp_path / "demo.lock").read_text()
    assert "/home/x" not in text
    again = LockFile.read(request(tmp_path / "demo.yaml"), smoke=False)
    found = again.pin("base", ["modelscope:Qwen/Q", "hf:Qwen/Q"])
    assert found is not None
    assert (found.identity, found.local, found.files[0].sha256) == ("hf:Qwen/Q@abc", None, "00")
    assert not again.write()


def test_a_reference_that_the_recipe_no_longer_names_is_not_pinned(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "demo.lock", {"base": PIN})
    assert lock.pin("base", ["hf:Qwen/Other"]) is None
    assert lock.pin("other", ["hf:Qwen/Q"]) is None


def test_a_change_of_revision_is_told(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "demo.lock", {"base": PIN})
    lock.set("base", msgspec.structs.replace(PIN, identity="hf:Qwen/Q@def"))
    assert lock.changes == ["base: hf:Qwen/Q@abc → hf:Qwen/Q@def"]


def test_images_are_recorded_beside_pins_and_a_change_is_told_by_flavour(tmp_path: Path) -> None:
    lock = LockFile.read(request(tmp_path / "demo.yaml"), smoke=False)
    lock.set("base", PIN)
    lock.see({"tool": {"cpu": "a" * 64, "cuda": "b" * 64}})
    assert lock.changes == ["image tool: recorded", "base: hf:Qwen/Q@abc"]
    assert lock.write()
    again = LockFile.read(request(tmp_path / "demo.yaml"), smoke=False)
    again.see({"tool": {"cpu": "a" * 64, "cuda": "b" * 64}})
    again.require_images()
    assert again.changes == []
    again.see({"tool": {"cpu": "c" * 64, "apple": "d" * 64}})
    was, now = (
        "apple (none), cpu aaaaaaaaaaaa, cuda bbbbbbbbbbbb",
        "apple dddddddddddd, cpu cccccccccccc, cuda (none)",
    )
    assert again.changes == [f"image tool: {was} → {now}"]
    with pytest.raises(
        UsageError, match=r"demo\.lock does not say the same of the images: image tool"
    ) as caught:
        again.require_images()
    assert caught.value.code == "lock-outdated"


def test_a_recipe_without_revisions_has_no_lock_and_one_without_images_is_read(tmp_path: Path) -> None:
    lock = LockFile.read(request(tmp_path / "demo.yaml"), smoke=False)
    lock.see({"tool": {"cpu": "a" * 64}})
    assert lock.changes == []
    assert not lock.write()
    (tmp_path / "demo.lock").write_text('{"version": 1, "pins": {}}')
    assert LockFile.read(request(tmp_path / "demo.yaml"), smoke=False).changes == []


def test_a_smoke_run_and_standard_input_have_no_lock(tmp_path: Path) -> None:
    for lock in (
        LockFile.read(request(tmp_path / "demo.yaml"), smoke=True),
        LockFile.read(request("-"), smoke=False),
    ):
        lock.set("base", PIN)
        assert not lock.write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"pins": {"base": 1}}', '{"surprise": 1}', '{"version": 99}'])
def test_a_lock_that_is_none_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "demo.lock").write_text(text)
    with pytest.raises(UsageError) as caught:
        LockFile.read(request(tmp_path / "demo.yaml"), smoke=False)
    assert caught.value.code == "bad-lock"
    assert (tmp_path / "demo.lock").read_text() == text


def test_a_folder_that_cannot_be_written_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> tuple[int, str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    lock = LockFile(tmp_path / "demo.lock", {})
    lock.set("base", PIN)
    assert not lock.write()


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "disk-full"), (errno.EIO, "lock-unwritable")])
def test_a_write_that_fails_leaves_the_lock_as_it_was_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, code: str
) -> None:
    lock = LockFile.read(request(tmp_path / "demo.yaml"), smoke=False)
    lock.set("base", PIN)
    assert lock.write()
    before = (tmp_path / "demo.lock").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    changed = LockFile.read(request(tmp_path / "demo.yaml"), smoke=False)
    changed.set("base", msgspec.structs.replace(PIN, identity="hf:Qwen/Q@def"))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(QwendError) as caught:
            changed.write()
    assert caught.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["demo.lock"]
    assert (tmp_path / "demo.lock").read_bytes() == before
    assert changed.write()
