"""Reading locks, comparing them, and re-resolving one with a real uv from wheels made here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import uv
from tests.unit.adapters.wheelhouse import make_image, make_wheel

from qwend.adapters.locks import Change, Pin, changes, parse_lock, resolve
from qwend.adapters.pip_settings import IndexSettings
from qwend.errors import QwendError, UsageError
from qwend.model.image_file import read_image_file

A, B = "a" * 64, "b" * 64
SCRIPT = Path(__file__).resolve().parents[3] / "images/lock.py"


def test_a_lock_reads_as_pins_with_markers_and_all_hashes() -> None:
    hashes = f"    --hash=sha256:{A} \\\n    --hash=sha256:{B}\n"
    text = f"# made by uv\nFoo_Bar==1.0+cpu ; sys_platform == 'linux' \\\n{hashes}"
    assert parse_lock(text, "x") == [Pin("foo-bar", "1.0+cpu", "sys_platform == 'linux'", (A, B))]


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://somewhere/simple",
        "--find-links /wheels",
        "foo @ https://somewhere/foo.whl",
        "foo @ file:///wheels/foo.whl",
        "foo>=1.0",
        "-r other.txt",
        "./foo-1.0-py3-none-any.whl",
        f"foo==1.0 --hash=md5:{A}",
    ],
)
def test_anything_but_pins_and_hashes_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_lock(f"bar==1 \\\n    --hash=sha256:{A}\n{line}\n", "x.lock")
    assert (caught.value.where, caught.value.code) == ("x.lock:3:1", "bad-lock")


def test_a_pin_without_a_hash_is_refused() -> None:
    with pytest.raises(UsageError, match="bar==1 has no hash"):
        parse_lock(f"bar==1\nfoo==2 \\\n    --hash=sha256:{A}\n", "x.lock")


def test_changes_name_additions_removals_and_versions() -> None:
    old = [Pin("a", "1", "", (A,)), Pin("b", "1", "", (A,)), Pin("c", "1", "", (A,))]
    new = [
        Pin("b", "2", "x", (A,)),
        Pin("b", "1", "y", (A,)),
        Pin("c", "1", "", (B,)),
        Pin("d", "1", "", (A,)),
    ]
    assert changes(old, new) == [Change("a", "1", None), Change("b", "1", "1 | 2"), Change("d", None, "1")]


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    for version in ("1.0", "2.0"):
        make_wheel(tmp_path / "wheels", "tiny_one", version)
    return tmp_path / "wheels"


def relock(folder: Path, wheels: Path, **given: object) -> str:
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_CONFIG_DIRS": "/nowhere"}
    return resolve(
        read_image_file(folder),
        "cpu",
        "lock",
        uv=uv.find_uv_bin(),
        settings=IndexSettings(find_links=[str(wheels)], no_index=True, origin={"find_links": "qwend"}),
        environ=environ,
        **given,  # type: ignore[arg-type]
    )


def test_a_new_lock_names_no_place_and_is_limited_to_the_flavours_platforms(
    tmp_path: Path, wheels: Path
) -> None:
    folder = make_image(tmp_path / "image", {"tiny_one": ("2.0", A)})
    text = relock(folder, wheels)
    assert str(tmp_path) not in text
    assert not re.search("find-links|index", text)
    (pin,) = parse_lock(text, "new")
    assert (pin.version, len(pin.hashes)) == ("2.0", 1)
    assert "darwin" in pin.marker
    assert "win32" not in pin.marker


def test_a_lock_stays_where_it_is_unless_told_to_move(tmp_path: Path, wheels: Path) -> None:
    folder = make_image(tmp_path / "image", {"tiny_one": ("1.0", A)})
    toml = folder / "image.toml"
    toml.write_text(toml.read_text().replace("tiny_one==1.0", "tiny_one"))
    current = f"tiny_one==1.0 \\\n    --hash=sha256:{A}\n"
    kept = parse_lock(relock(folder, wheels, current=current), "new")[0]
    assert kept.version == "1.0"
    assert kept.hashes != (A,)  # collected anew
    assert (
        parse_lock(relock(folder, wheels, current=current, upgrade=["tiny-one"]), "new")[0].version == "2.0"
    )
    assert parse_lock(relock(folder, wheels, current=current, upgrade=None), "new")[0].version == "2.0"


def test_what_cannot_be_resolved_is_explained(tmp_path: Path, wheels: Path) -> None:
    folder = make_image(tmp_path / "image", {"tiny_one": ("3.0", A)})
    with pytest.raises(QwendError, match=r"does not resolve: .*tiny-one==3") as caught:
        relock(folder, wheels)
    assert caught.value.code == "no-resolution"


def script(folder: Path, wheels: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(SCRIPT, wheels, str(folder), *arguments)


def run(script: Path, wheels: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(wheels.parent),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "XDG_CONFIG_DIRS": "/nowhere",
    }
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_the_script_shows_the_difference_and_writes_only_when_asked(tmp_path: Path, wheels: Path) -> None:
    folder = make_image(tmp_path / "image", {"tiny_one": ("1.0", A)})
    toml = folder / "image.toml"
    toml.write_text(toml.read_text().replace("tiny_one==1.0", "tiny_one"))
    before = (folder / "cpu.lock").read_text()
    shown = script(folder, wheels, "cpu", "--upgrade-all")
    assert (shown.returncode, "tiny-one 1.0 -> 2.0" in shown.stdout) == (1, True), shown.stderr
    assert (folder / "cpu.lock").read_text() == before
    assert script(folder, wheels, "cpu", "--upgrade-all", "--write").returncode == 0
    assert "tiny-one==2.0" in (folder / "cpu.lock").read_text()
    again = script(folder, wheels)
    assert (again.returncode, "no change(s)" in again.stdout) == (0, True)


def test_the_script_answers_bad_usage_without_a_traceback(tmp_path: Path, wheels: Path) -> None:
    said = script(tmp_path / "nothing", wheels)
    assert said.returncode == 2
    assert "is not an image folder" in said.stderr
    assert "Traceback" not in said.stderr


def test_without_a_name_every_image_is_resolved_and_one_that_fails_hides_no_other(
    tmp_path: Path, wheels: Path
) -> None:
    checkout = tmp_path / "checkout"
    images = checkout / "images" / "qwend_images"
    images.mkdir(parents=True)
    shutil.copy(SCRIPT, checkout / "images")
    (checkout / "daemon").symlink_to(SCRIPT.parents[1] / "daemon")
    for name, version in (("bad", "3.0"), ("good", "1.0")):
        make_image(images / name, {"tiny_one": (version, A)})
    toml = images / "good" / "image.toml"
    toml.write_text(toml.read_text().replace("tiny_one==1.0", "tiny_one"))

    said = run(checkout / "images" / "lock.py", wheels, "--upgrade", "tiny-one")
    assert said.returncode == 1
    assert "does not resolve" in said.stderr and "tiny-one==3" in said.stderr.replace("_", "-")
    assert "good/cpu.lock: 1 packages, 1 change(s)\n  tiny-one 1.0 -> 2.0\n" in said.stdout
