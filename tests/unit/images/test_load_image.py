"""What load_image accepts, what it refuses and how, and what decides a digest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.adapters.wheelhouse import lock_text, make_image

from qwend.errors import UsageError
from qwend.model.image import HostProgram, Image, ImageSpec, UpstreamImage, load_image, prefer_options
from qwend.model.image_file import read_image_file

OWN = Path(__file__).resolve().parents[3] / "images/qwend_images"
PINS = {"tiny_one": ("1.0", "a" * 64)}
OPTIONS = """
[build.options.cpu]
type = "string"
default = "baseline"
choices = ["baseline", "native"]
help = "which CPUs"
[build.options.fast]
type = "bool"
default = false
help = "faster"
"""


def full_image(folder: Path) -> Path:
    return make_image(
        folder,
        PINS,
        build="true\n",
        build_pins={"pip": ("26.0", "b" * 64)},
        source=("thing", "c" * 64),
        overlay={"site/x.py": "X = 1\n"},
        more=OPTIONS,
    )


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_options_are_completed_by_their_defaults(tmp_path: Path) -> None:
    spec = load_image(full_image(tmp_path), "cpu", {"fast": True})
    assert spec.options == {"cpu": "baseline", "fast": True}
    assert spec.compiles
    assert spec.key == f"tiny-cpu-{spec.digest[:12]}"


def test_the_digest_does_not_know_where_the_folder_lies(tmp_path: Path) -> None:
    here, there = load_image(full_image(tmp_path / "a"), "cpu"), load_image(full_image(tmp_path / "b"), "cpu")
    assert here.digest == there.digest
    assert here.folder != there.folder


@pytest.fixture
def preferring() -> Iterator[Callable[[dict[str, Any]], None]]:
    yield prefer_options
    prefer_options({})


def test_what_the_user_settled_comes_before_a_default_and_after_the_callers_word(
    tmp_path: Path, preferring: Callable[[dict[str, Any]], None]
) -> None:
    folder = full_image(tmp_path)
    plain = load_image(folder, "cpu")
    preferring({"cpu": "native", "of_another_image": 1})
    assert load_image(folder, "cpu").options == {"cpu": "native", "fast": False}
    assert load_image(folder, "cpu").digest == load_image(folder, "cpu", {"cpu": "native"}).digest
    assert load_image(folder, "cpu", {"cpu": "baseline"}).digest == plain.digest
    preferring({})
    assert load_image(folder, "cpu") == plain


@pytest.mark.parametrize("value", ["89-real", "70-real;75-real"])
def test_settled_architectures_make_another_image_of_what_is_compiled_for_cards_and_of_nothing_else(
    preferring: Callable[[dict[str, Any]], None], value: str
) -> None:
    def specs() -> dict[tuple[str, str], ImageSpec]:
        return {
            (folder.parent.name, flavour): load_image(folder.parent, flavour)
            for folder in OWN.glob("*/image.toml")
            for flavour in read_image_file(folder.parent).flavours
        }

    before = specs()
    preferring({"architectures": value})
    changed = {name for name, spec in specs().items() if spec.digest != before[name].digest}
    assert changed == {("llama-cpp", "cuda"), ("llama-cpp", "cuda12")}
    assert load_image(OWN / "llama-cpp", "cuda").options["architectures"] == value


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("cpu.lock", "a" * 64, "d" * 64),
        ("cpu.build.lock", "26.0", "26.1"),
        ("build.sh", "true", "false"),
        ("overlay/site/x.py", "1", "2"),
        ("image.toml", "c" * 64, "e" * 64),
        ("image.toml", ">=3.11,<3.15", ">=3.12,<3.15"),
        ("image.toml", 'default = "baseline"', 'default = "native"'),
        ("image.toml", "default = false", "default = true"),
        ("image.toml", 'into = "thing"', 'into = "other"'),
        ("image.toml", "requires =", 'env = { A = "1" }\nrequires ='),
        ("image.toml", "requires =", 'options = { cpu = "native" }\nrequires ='),
    ],
)
def test_each_input_changes_the_digest(tmp_path: Path, file: str, old: str, new: str) -> None:
    before = load_image(full_image(tmp_path), "cpu").digest
    edit(tmp_path / file, old, new)
    assert load_image(tmp_path, "cpu").digest != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("for a test", "with other words"),
        ('licence = "MIT"', 'licence = "Apache-2.0"'),
        ("requires =", "disk_mb = 7\nrequires ="),
        ('requires = ["tiny_one==1.0"]'.replace('"', "'"), "requires = ['tiny_one']"),
        ("[overlay]", '[system]\nbase = "elsewhere"\nrun = ["libgomp1"]\n[overlay]'),
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_digest(
    tmp_path: Path, old: str, new: str
) -> None:
    before = load_image(full_image(tmp_path), "cpu").digest
    edit(tmp_path / "image.toml", old, new)
    assert load_image(tmp_path, "cpu").digest == before


def test_a_flavour_may_have_an_overlay_of_its_own_over_the_images(tmp_path: Path) -> None:
    before = load_image(full_image(tmp_path), "cpu").digest
    (tmp_path / "overlay-cpu/site").mkdir(parents=True)
    (tmp_path / "overlay-cpu/site/x.py").write_text("X = 1\n")
    with pytest.raises(UsageError, match=r"overlay-cpu/site/x\.py has no reason"):
        load_image(tmp_path, "cpu")
    edit(tmp_path / "image.toml", "requires =", "overlay = { 'site/x.py' = 'why' }\nrequires =")
    assert load_image(tmp_path, "cpu").digest == before  # the same content at the same place
    (tmp_path / "overlay-cpu/site/x.py").write_text("X = 3\n")
    assert load_image(tmp_path, "cpu").digest != before


def test_an_option_of_the_caller_changes_the_digest(tmp_path: Path) -> None:
    full_image(tmp_path)
    assert load_image(tmp_path, "cpu").digest != load_image(tmp_path, "cpu", {"cpu": "native"}).digest


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "tiny"', 'name = "Tiny One"', 'name: "Tiny One" is not lower case words'),
        ('summary = "for a test"', "", "missing required field `summary`"),
        ('licence = "MIT"', 'licence = "MIT"\ncolour = 1', "unknown field `colour`"),
        ('python = ">=3.11,<3.15"', 'python = ">=3.11"', "is not of the form"),
        ('"linux-x86_64"', '"windows"', "windows"),
        (
            'lock = "cpu.lock"',
            'lock = "cpu.lock"\nbase = "theirs:1"',
            'flavours.cpu.base: "theirs:1" names no digest',
        ),
        ('lock = "cpu.lock"', 'lock = "gone.lock"', "flavours.cpu.lock: there is no file gone.lock"),
        ('lock = "cpu.lock"', 'lock = "../../etc/passwd"', "not a path inside the image's folder"),
        ('lock = "cpu.lock"', 'lock = "/etc/passwd"', "not a path inside the image's folder"),
        ("c" * 64, "cc", "sha256 of thing is not 64 hexadecimal digits"),
        ('into = "thing"', 'into = "../thing"', "is not a relative path"),
        ("[overlay]", "[overlay]\n'site/y.py' = 'why'", "overlay/site/y.py is listed and missing"),
        (
            "'site/x.py'".replace("'", '"') + ' = "needed by the test"',
            "",
            "overlay/site/x.py has no reason in image.toml",
        ),
        (
            'default = "baseline"',
            'default = "fastest"',
            "option cpu is one of baseline, native, not 'fastest'",
        ),
        ("requires =", "options = { speed = 1 }\nrequires =", "[build.options] has no such option"),
        ("[flavours.cpu]", "[flavours.cpu", "Expected"),
    ],
)
def test_each_mistake_in_image_toml_is_said_with_its_key_and_file(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    edit(full_image(tmp_path) / "image.toml", old, new)
    with pytest.raises(UsageError) as caught:
        load_image(tmp_path, "cpu")
    assert said in "\n".join(caught.value.lines())
    assert str(tmp_path / "image.toml") in "\n".join(caught.value.lines())


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    path = full_image(tmp_path) / "image.toml"
    edit(path, 'name = "tiny"', 'name = "Tiny One"')
    edit(path, "c" * 64, "cc")
    with pytest.raises(UsageError) as caught:
        load_image(tmp_path, "cpu")
    assert len(caught.value.lines()) == 2


def test_a_folder_without_image_toml_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not an image folder: it has no image\.toml"):
        load_image(tmp_path, "cpu")


def test_an_unknown_flavour_lists_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='has no flavour "cuda"') as caught:
        load_image(full_image(tmp_path), "cuda")
    assert caught.value.hint == "it has cpu"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"speed": 1}, 'has no build option "speed"'),
        ({"fast": "yes"}, "option fast is a bool"),
        ({"cpu": "fastest"}, "option cpu is one of baseline, native"),
        ({"cpu": "a\nb"}, "option cpu"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(
    tmp_path: Path, options: dict[str, str | int], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        load_image(full_image(tmp_path), "cpu", options)


def test_a_changed_file_is_seen_although_the_spec_is_cached(tmp_path: Path) -> None:
    first = load_image(full_image(tmp_path), "cpu")
    assert load_image(tmp_path, "cpu") is first
    (tmp_path / "cpu.lock").write_text(lock_text({"tiny_one": ("1.0", "f" * 64), "more": ("1", "0" * 64)}))
    assert load_image(tmp_path, "cpu").digest != first.digest


@pytest.mark.parametrize("reference", ["no_such_package:x", "json:x"])
def test_a_folder_of_a_package_that_is_not_there_is_said(reference: str) -> None:
    with pytest.raises(UsageError, match="package"):
        load_image(reference, "cpu")


def test_the_three_kinds_survive_json(tmp_path: Path) -> None:
    images: list[ImageSpec | UpstreamImage | HostProgram] = [
        load_image(full_image(tmp_path), "cpu"),
        UpstreamImage(name="ollama", reference="ollama/ollama", manifest="sha256:" + "1" * 64),
        HostProgram(name="ollama", program="ollama", install_hint="install Ollama"),
    ]
    text = msgspec.json.encode(images)
    assert msgspec.json.decode(text, type=list[Image]) == images
    assert [image.digest for image in images] == [
        image.digest for image in msgspec.json.decode(text, type=list[Image])
    ]
    assert images[1].pinned == "ollama/ollama@sha256:" + "1" * 64  # type: ignore[union-attr]


OWN_BUILD = """
[flavours.cpu.build]
script = "build-other.sh"
network = true
[flavours.cpu.build.options.cards]
type = "string"
default = "80"
help = "which cards"
"""


def test_a_flavour_may_be_built_in_its_own_way(tmp_path: Path) -> None:
    full_image(tmp_path)
    shared = load_image(tmp_path, "cpu")
    edit(tmp_path / "image.toml", "[[sources]]", OWN_BUILD + "[[sources]]")
    with pytest.raises(UsageError, match=r"flavours\.cpu\.build\.script: there is no file build-other\.sh"):
        load_image(tmp_path, "cpu")
    (tmp_path / "build-other.sh").write_text("true\n")
    own = load_image(tmp_path, "cpu")
    assert own.options == {"cards": "80"}
    assert (own.network_at_build, shared.network_at_build) == (True, False)
    with pytest.raises(UsageError, match='no build option "fast"'):
        load_image(tmp_path, "cpu", {"fast": True})
    (tmp_path / "build.sh").write_text("false\n")
    assert load_image(tmp_path, "cpu").digest == own.digest  # it is not this flavour's script
    (tmp_path / "build-other.sh").write_text("false\n")
    assert load_image(tmp_path, "cpu").digest != own.digest
