"""What makes a container image be made again although its lock is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qwend.adapters.docker import context
from qwend.adapters.docker.construction import Base, base_of, construction_of
from qwend.model.image import ImageSpec, load_image
from qwend.model.image_file import read_image_file

from .images import tiny_image

OURS = Base("mirror.example/debian:12", "sha256:" + "a" * 64)


@pytest.fixture
def spec(tmp_path: Path) -> ImageSpec:
    return tiny_image(tmp_path / "tiny")


def test_the_same_image_is_made_the_same_way_wherever_its_folder_lies(
    spec: ImageSpec, tmp_path: Path
) -> None:
    elsewhere = tiny_image(tmp_path / "copies" / "tiny")
    assert construction_of(elsewhere, OURS) == construction_of(spec, OURS)


def system(folder: Path) -> None:
    (folder / "image.toml").write_text(
        (folder / "image.toml").read_text() + '\n[system]\nrun = ["libgomp1"]\n'
    )


def entry(folder: Path) -> None:
    text = (folder / "image.toml").read_text()
    (folder / "image.toml").write_text(text.replace('entry = ["tiny"]', 'entry = ["tiny", "--help"]'))


def dockerfile(folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch\n")


@pytest.mark.parametrize("change", [system, entry, dockerfile])
def test_what_only_containers_depend_on_changes_the_construction_and_not_the_digest(
    change: Callable[[Path], None], spec: ImageSpec
) -> None:
    before = construction_of(spec, OURS)
    change(Path(spec.folder))
    assert construction_of(spec, OURS) != before
    assert load_image(spec.folder, spec.flavour, spec.options).digest == spec.digest


def test_a_script_of_the_build_changes_it(spec: ImageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    before = construction_of(spec, OURS)
    there = context.tools()
    monkeypatch.setattr(context, "tools", lambda: {**there, "packages": b"exit 1\n"})
    assert construction_of(spec, OURS) != before


def test_another_base_changes_it_and_so_does_another_id_under_its_name(spec: ImageSpec) -> None:
    bases = [Base(), OURS, Base(OURS.reference), Base(OURS.reference, "sha256:" + "b" * 64)]
    assert len({construction_of(spec, base) for base in bases}) == len(bases)


def test_an_image_with_a_base_of_its_own_does_not_follow_the_configured_one(spec: ImageSpec) -> None:
    folder = Path(spec.folder)
    (folder / "image.toml").write_text((folder / "image.toml").read_text() + '\n[system]\nbase = "own:1"\n')
    assert base_of(spec, OURS) == Base("own:1")
    assert construction_of(spec, OURS) == construction_of(spec, Base())


def test_a_flavour_on_somebody_elses_image_may_be_made_on_a_mirror_of_it(tmp_path: Path) -> None:
    own = "theirs:1@sha256:" + "c" * 64
    plain = tiny_image(tmp_path / "tiny")
    folder = Path(plain.folder)
    text = (folder / "image.toml").read_text()
    (folder / "image.toml").write_text(text.replace("requires = []", f'requires = []\nbase = "{own}"'))
    spec = load_image(folder, "cpu")
    assert spec.digest != plain.digest, "somebody else's program is part of what it holds"
    assert base_of(spec, OURS) == Base(own)
    mirror = Base("mirror.example/theirs@sha256:" + "c" * 64)
    assert base_of(spec, Base(others={"tiny": mirror, "other": Base("x")})) == mirror
    assert construction_of(spec, Base(others={"tiny": mirror})) != construction_of(spec, Base())
    made = context.dockerfile(spec, read_image_file(folder))
    assert "ENTRYPOINT []" in made
    assert "ENTRYPOINT" not in context.dockerfile(plain, read_image_file(tiny_folder(tmp_path)))


def tiny_folder(tmp_path: Path) -> Path:
    return Path(tiny_image(tmp_path / "again" / "tiny").folder)
