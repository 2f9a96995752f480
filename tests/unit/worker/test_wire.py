from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.compile_kit import CHAIN, CPU, compiled

from qwend.model.host import Gpu
from qwend.worker.breadcrumb import SIZE, Breadcrumb, new_file
from qwend.worker.stamps import LIMIT, stamp, stamp_all, tree, unchanged
from qwend.worker.wire import HEADER, MAX_FRAME, digest, frame, lasting, length, pack, unpack


def test_a_frame_says_how_long_it_is() -> None:
    message = frame({"a": "ü"})
    assert length(message[:HEADER]) == len(message) - HEADER
    with pytest.raises(ValueError, match="a frame of"):
        length((MAX_FRAME + 1).to_bytes(HEADER, "big"))


def test_files_of_launches_are_sent_once_and_come_back_whole() -> None:
    many = "\n".join(f"  g{number}: {{uses: toy/convert, from: base}}" for number in range(20))
    made = compiled(CHAIN + many + "\n")
    packed, contents = pack(made)
    assert len(contents) == 1
    assert msgspec.json.encode(packed).count(b"converted") == 0
    assert unpack(packed, contents) == made


def test_figures_of_the_moment_are_no_part_of_what_a_plan_depends_on() -> None:
    gpu = Gpu(0, "GPU-a", "card", 1 << 30, memory_free=1)
    busy = msgspec.structs.replace(CPU, memory_available=1, disk_free=2, gpus=(gpu,))
    free = msgspec.structs.replace(CPU, gpus=(msgspec.structs.replace(gpu, memory_free=99),))
    assert digest(lasting(busy)) == digest(lasting(free))
    assert digest(lasting(busy)) != digest(lasting(CPU))


def test_a_digest_depends_on_content_and_not_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest("a", "b") != digest("ab", "")


def test_stamps_tell_of_changes_of_files_that_come_and_files_that_go(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    below = tree(str(tmp_path))
    assert below is not None
    stamps = stamp_all(below)
    assert unchanged(stamps)
    (tmp_path / "a").write_text("12")
    assert not unchanged(stamps)
    stamps = stamp_all(below)
    (tmp_path / "b").write_text("")
    assert not unchanged(stamps)
    stamps = stamp_all(below)
    (tmp_path / "a").unlink()
    assert not unchanged(stamps)
    assert stamp(str(tmp_path / "a")).size == -1


def test_caches_of_python_and_folders_without_end_are_not_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").write_text("")
    assert tree(str(tmp_path)) == [str(tmp_path)]
    for number in range(5):
        (tmp_path / f"f{number}").write_text("")
    monkeypatch.setattr("qwend.worker.stamps.LIMIT", 3)
    assert tree(str(tmp_path)) is None
    assert LIMIT > 1000


def test_a_breadcrumb_can_be_read_at_the_other_end_and_after_the_writer_died() -> None:
    with new_file() as file:
        reader = Breadcrumb(file.fileno())
        child = os.fork()
        if child == 0:
            writer = Breadcrumb(file.fileno())
            writer.enter("bad", "bad/one.launch for step s")
            os._exit(0)
        os.waitpid(child, 0)
        crumb = reader.read()
        assert (crumb.plugin, crumb.doing, crumb.inside) == ("bad", "bad/one.launch for step s", True)
        reader.close()


@given(st.text(max_size=600), st.text(max_size=600))
def test_a_breadcrumb_of_any_text_fits(plugin: str, doing: str) -> None:
    with new_file() as file:
        one = Breadcrumb(file.fileno())
        before = one.read()
        one.enter(plugin, doing)
        assert one.read().beat == before.beat + 1
        one.leave()
        assert not one.read().inside
        one.close()
        assert os.fstat(file.fileno()).st_size == SIZE
