"""Every image folder of the product: it reads, its locks are clean, its scripts parse."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qwend.adapters.docker.context import dockerfile
from qwend.adapters.locks import ROLES, canonical, read_lock
from qwend.model.image import load_image
from qwend.model.image_file import Build, Flavour, ImageFile, Option, Source, System, read_image_file

IMAGES = Path(__file__).resolve().parents[3] / "images"
FOLDERS = sorted(path.parent for path in IMAGES.glob("qwend_images/*/image.toml"))
LOCKS = sorted(IMAGES.glob("qwend_images/*/*.lock"))
FLAVOURS = [(folder, name) for folder in FOLDERS for name in read_image_file(folder).flavours]


def named(value: object) -> str:
    return f"{value.parent.name}/{value.name}" if isinstance(value, Path) else str(value)


def test_the_first_images_are_there() -> None:
    assert {"hub", "llama-cpp", "llama-cpp-convert", "llama-cpp-server", "smoke"} <= {f.name for f in FOLDERS}


@pytest.mark.parametrize(("folder", "flavour"), FLAVOURS, ids=named)
def test_each_flavour_loads_and_is_named_as_its_folder(folder: Path, flavour: str) -> None:
    spec = load_image(folder, flavour)
    assert spec.name == folder.name
    assert load_image(f"qwend_images:{folder.name}", flavour) == spec


@pytest.mark.parametrize("lock", LOCKS, ids=named)
def test_each_lock_has_hashes_for_everything_and_no_address(lock: Path) -> None:
    pins = read_lock(lock)
    assert all(pin.hashes for pin in pins)
    text = lock.read_text()
    assert not re.search(r"://|find-links|index-url|--trusted| @ |(?<!images)/[a-z]+/", text)


@pytest.mark.parametrize(("folder", "flavour"), FLAVOURS, ids=named)
def test_each_lock_holds_what_it_was_resolved_from(folder: Path, flavour: str) -> None:
    chosen = read_image_file(folder).flavours[flavour]
    for role, asked in zip(
        ROLES, (chosen.requires, chosen.build_requires, chosen.compiler_requires), strict=True
    ):
        lock = getattr(chosen, role)
        assert lock or not asked, f"{role} of {flavour} is resolved from something and named nowhere"
        locked = {(pin.name, pin.version) for pin in read_lock(folder / lock)} if lock else set()
        for requirement in asked:
            match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?(?:==([^\s;]+))?.*", requirement)
            assert match
            versions = {version for name, version in locked if name == canonical(match[1])}
            assert versions, f"{requirement} is not in {lock}"
            assert not match[2] or match[2] in versions


def test_no_lock_lies_about_unused() -> None:
    used = {
        folder / relative
        for folder in FOLDERS
        for flavour in read_image_file(folder).flavours.values()
        for relative in (flavour.lock, flavour.build_lock, flavour.compiler_lock)
        if relative
    }
    assert used == set(LOCKS)


@pytest.mark.parametrize("script", sorted(IMAGES.glob("qwend_images/*/build*.sh")), ids=named)
def test_each_build_script_parses(script: Path) -> None:
    subprocess.run(["/bin/sh", "-n", script], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, "--shell=sh", script], check=True)


def hadolint(dockerfile: str) -> subprocess.CompletedProcess[str]:
    """As the check asks it of the files that git keeps."""
    program = Path(sys.executable).parent / "hadolint"
    return subprocess.run(
        [program, "--failure-threshold", "style", "-"],
        input=dockerfile,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_what_is_built_of_each_flavour_is_a_clean_dockerfile(folder: Path) -> None:
    """Not only the file that they share: what an image adds to it comes from its own folder."""
    image = read_image_file(folder)
    for text in {dockerfile(load_image(folder, flavour), image) for flavour in image.flavours}:
        said = hadolint(text)
        assert (said.returncode, said.stdout) == (0, ""), said.stderr
        assert hadolint(f"{text}RUN cd /tmp && sudo apt-get install curl\n").returncode == 1


def test_the_format_page_names_every_key_and_no_other() -> None:
    page = (IMAGES / "README.md").read_text()
    table = page[page.index("| key | meaning |") : page.index("An unknown key is an error")]
    firsts = "\n".join(row.split("|")[1] for row in table.splitlines() if "|" in row)
    tables = (ImageFile, Flavour, Source, Build, Option, System)
    keys = {field for table in tables for field in table.__struct_fields__}
    headings = {"flavours", "sources", "system"}  # and "build" and "overlay", which are also keys of a table
    assert set(re.findall(r"`([a-z0-9_]+)`", firsts)) == keys - headings
    assert set(re.findall(r"\[([a-z]+)[].]", firsts)) == headings | {"build", "overlay"}


def test_the_folder_that_the_format_page_shows_is_the_real_one() -> None:
    page = (IMAGES / "README.md").read_text()
    tree = page.partition("## A folder")[2].partition("```\n")[2].partition("```")[0]
    first, *lines = tree.splitlines()
    shown = {line.split()[0] for line in lines}
    assert {"image.toml", "cpu.lock", "build.sh"} <= shown
    assert shown <= {path.name for path in (IMAGES.parent / first).iterdir()}


def test_the_format_page_lists_every_image_with_its_flavours() -> None:
    page = (IMAGES / "README.md").read_text()
    for folder in FOLDERS:
        image = read_image_file(folder)
        flavours = ", ".join(f"`{name}`" for name in image.flavours)
        assert f"| `{image.name}` | {flavours} | {image.summary} |" in page
