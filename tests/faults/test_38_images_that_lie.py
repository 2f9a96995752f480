"""Fault 38: an image's lock and its content disagree, or a download's hash is wrong. A real uv, wheels made here."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.adapters.test_venv_builder import Bench
from tests.unit.adapters.wheelhouse import make_wheel

from qwend.errors import StepFailed

pytestmark = pytest.mark.native


async def test_38_a_download_with_another_hash_is_refused_and_both_are_shown(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    got = make_wheel(bench.wheels, "tiny_one", "1.0")
    locked = "0123456789abcdef" * 4
    with pytest.raises(StepFailed) as caught:
        await bench.realise(bench.image(pins={"tiny_one": ("1.0", locked)}))
    assert locked in str(caught.value) and got in str(caught.value)
    assert bench.builder().records() == [], "nothing is left that could be taken for the image"


async def test_38_content_that_differs_from_the_lock_is_told_with_both_digests_and_built_anew(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    spec = bench.image()
    prefix = await bench.realise(spec)
    module = next(prefix.glob("lib/python*/site-packages/tiny_one.py"))
    text = module.read_text()
    module.unlink()  # it shares its inode with uv's cache
    module.write_text(text.replace("1", "2"))
    (said,) = await bench.builder().verify(spec)
    assert said.count("sha256") >= 1 and "tiny_one.py" in said
    digests = [word for word in said.replace(":", " ").replace(",", " ").split() if len(word) > 8]
    assert len(set(digests)) >= 2, said
    await bench.builder().remove(spec.key)
    again = await bench.realise(spec)
    assert await bench.builder().verify(spec) == []
    assert next(again.glob("lib/python*/site-packages/tiny_one.py")).read_text() == text
