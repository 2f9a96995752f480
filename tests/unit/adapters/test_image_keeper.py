"""`qwend images`: what is listed, built, checked and cleared, over a real builder of environments."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.adapters.wheelhouse import lock_text, make_image, make_wheel

from qwend.adapters import own_images
from qwend.adapters.image_keeper import ImageKeeper
from qwend.adapters.pip_settings import IndexSettings
from qwend.adapters.venv import VenvBuilder
from qwend.effects import Builder, OnProgress, Realised
from qwend.errors import QwendError, UsageError
from qwend.model.host import Gpu, Host
from qwend.model.image import Image

Json = dict[str, Any]
HOST = Host(system="linux", machine="x86_64", cpus=2, memory=8 << 30)


class Folder:
    """An image folder of the test's own, and a keeper of what is made of it."""

    def __init__(self, tmp_path: Path) -> None:
        self.wheels = tmp_path / "wheels"
        self.path = make_image(tmp_path / "tiny", self.pins("1.0"))
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "UV_CACHE_DIR": str(tmp_path / "cache"),
            "UV_NO_CONFIG": "1",
            "PIP_CONFIG_FILE": os.devnull,
        }
        settings = IndexSettings(find_links=[str(self.wheels)], no_index=True)
        self.venvs = VenvBuilder(tmp_path / "home", settings, environ=environ)
        self.keeper = self.keeper_with()

    def pins(self, version: str) -> dict[str, tuple[str, str]]:
        return {"tiny_one": (version, make_wheel(self.wheels, "tiny_one", version))}

    def relock(self, version: str) -> None:
        (self.path / "cpu.lock").write_text(lock_text(self.pins(version)))

    def keeper_with(self, host: Host = HOST, runtime: str | None = None, **others: Builder) -> ImageKeeper:
        return ImageKeeper(self.venvs, {"native": self.venvs, **others}, host, runtime)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    folder = Folder(tmp_path)
    monkeypatch.setattr(own_images, "folders", lambda: {"tiny": folder.path})
    return folder


async def end_of(stream: AsyncIterator[Json]) -> Json:
    found: Json = [item async for item in stream][-1]["end"]
    return found


async def build(keeper: ImageKeeper, *names: str, flavour: str | None = None) -> Json:
    return await end_of(keeper.build(names, flavour, None))


async def test_what_was_built_is_listed_with_its_place_and_size(tiny: Folder) -> None:
    end = await build(tiny.keeper)
    [made] = end["built"]
    [row] = await tiny.keeper.rows()
    assert (end["exit_code"], made["name"], made["flavour"], made["kind"]) == (0, "tiny", "cpu", "venv")
    assert (row["state"], row["location"], row["size"]) == ("ready", made["location"], made["size"])
    assert await tiny.keeper.keys() == {("venv", row["key"])}


async def test_an_environment_of_an_older_lock_is_outdated_and_differs(tiny: Folder) -> None:
    await build(tiny.keeper, "tiny")
    assert (await end_of(tiny.keeper.verify(("tiny",))))["differences"] == []
    tiny.relock("2.0")
    [row] = await tiny.keeper.rows()
    end = await end_of(tiny.keeper.verify(()))
    assert row["state"] == "outdated"
    assert end["exit_code"] == 1
    assert end["differences"][0]["difference"].startswith("its folder changed since")


async def test_a_cut_off_build_is_listed_and_cleared_like_the_others(tiny: Folder) -> None:
    (tiny.venvs.root / "tiny-cpu-0123456789ab").mkdir(parents=True)
    [row] = await tiny.keeper.rows()
    assert (row["name"], row["flavour"], row["state"], row["size"]) == ("tiny", "cpu", "unfinished", None)
    assert (await tiny.keeper.prune(set(), dry_run=False))["removed"] == [
        {"key": "tiny-cpu-0123456789ab", "kind": "venv", "size": 0}
    ]
    assert await tiny.keeper.rows() == []


async def test_prune_keeps_what_recipes_use_and_removes_the_rest(tiny: Folder) -> None:
    await build(tiny.keeper)
    tiny.relock("2.0")
    await build(tiny.keeper)
    old, new = sorted(await tiny.keeper.rows(), key=lambda row: str(row["state"]))
    assert (old["state"], new["state"]) == ("outdated", "ready")
    shown = await tiny.keeper.prune({new["digest"]}, dry_run=True)
    assert len(await tiny.keeper.rows()) == 2
    done = await tiny.keeper.prune({new["digest"]}, dry_run=False)
    assert [one["key"] for one in done["removed"]] == [one["key"] for one in shown["removed"]] == [old["key"]]
    assert done["freed"] > 0
    assert [row["key"] for row in await tiny.keeper.rows()] == [new["key"]]


class Engine:
    """What the keeper asks of an engine's images; `ours` are rows, `busy` the one that refuses to go."""

    def __init__(self, *ours: Json, busy: str = "", gone: bool = False) -> None:
        self.ours = list(ours)
        self.busy = busy
        self.gone = gone

    async def keys(self) -> set[str]:
        return {row["key"] for row in await self.records() if row["state"] == "ready"}

    async def records(self) -> list[Json]:
        if self.gone:
            raise QwendError("no engine answers")
        return self.ours

    async def verify(self, image: Image) -> list[str]:
        return ["package tiny-one is missing"]

    async def remove(self, reference: str) -> int:
        if reference == self.busy:
            raise QwendError("in use", code="busy")
        self.ours = [row for row in self.ours if row["location"] != reference]
        return 7


def oci(digest: str, state: str = "ready", in_use: bool = False, location: str = "") -> Json:
    return {
        "name": "tiny", "flavour": "cpu", "kind": "oci", "digest": digest, "key": f"tiny-cpu-{digest[:12]}",
        "state": state, "location": location or f"qwend/tiny:{digest[:12]}", "size": 9, "created": 1.0, "options": {},
        "in_use": in_use,
    }  # fmt: skip


async def test_both_realisations_are_listed_checked_and_offered_to_plans(tiny: Folder) -> None:
    await build(tiny.keeper)
    spec = own_images.load("tiny", "cpu")
    tiny.keeper.oci = Engine(oci(spec.digest))
    assert await tiny.keeper.keys() == {("venv", spec.key), ("oci", spec.key)}
    assert [row["kind"] for row in await tiny.keeper.rows()] == ["oci", "venv"]
    end = await end_of(tiny.keeper.verify(("tiny",)))
    assert (end["checked"], end["differences"]) == (
        2,
        [{"image": spec.key, "kind": "oci", "difference": "package tiny-one is missing"}],
    )


async def test_prune_of_an_engine_leaves_what_containers_use_and_what_it_refuses(tiny: Folder) -> None:
    used, free, running, refused, old = ("a" * 64, "b" * 64, "c" * 64, "d" * 64, "a" * 64)
    engine = Engine(
        oci(used), oci(free), oci(running, in_use=True), oci(refused, location="refuses"),
        oci(old, "superseded", location="sha256:old"), busy="refuses",
    )  # fmt: skip
    tiny.keeper.oci = engine
    done = await tiny.keeper.prune({used}, dry_run=False)
    assert (len(done["removed"]), done["freed"]) == (2, 14)
    assert [row["location"] for row in engine.ours] == [
        f"qwend/tiny:{used[:12]}", f"qwend/tiny:{running[:12]}", "refuses",
    ]  # fmt: skip


async def test_an_engine_that_went_away_hides_no_environments(tiny: Folder) -> None:
    await build(tiny.keeper)
    tiny.keeper.oci = Engine(gone=True)
    assert len(await tiny.keeper.rows()) == 1
    assert len(await tiny.keeper.keys()) == 1


class Recorder:
    """A builder that says what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def find(self, image: Image) -> Realised | None:
        return None

    async def realise(self, image: Image, progress: OnProgress) -> Realised:
        self.asked.append(image.name)
        return Realised(key="k", kind="oci", location="sha256:1", digest=image.digest)


CARD = Host(
    system="linux",
    machine="x86_64",
    cpus=2,
    memory=8 << 30,
    gpus=(Gpu(index=0, uuid="GPU-1", name="X", memory=1),),
)


@pytest.mark.parametrize(
    ("host", "runtime", "flavour", "by_docker"),
    [
        (HOST, None, None, True),
        (HOST, "native", None, False),
        (CARD, None, None, True),  # tiny has a CPU build only
        (HOST, "docker", "cpu", True),
    ],
)
async def test_images_are_built_for_the_runtime_that_up_would_take(
    tiny: Folder, host: Host, runtime: str | None, flavour: str | None, by_docker: bool
) -> None:
    docker = Recorder()
    end = await build(tiny.keeper_with(host, runtime, docker=docker), "tiny", flavour=flavour)
    assert [one["kind"] for one in end["built"]] == ["oci" if by_docker else "venv"]
    assert docker.asked == (["tiny"] if by_docker else [])


async def test_names_that_no_image_has_are_told_with_those_that_there_are(tiny: Folder) -> None:
    for ask in (tiny.keeper.build(("tinny",), None, None), tiny.keeper.verify(("tinny",))):
        with pytest.raises(UsageError, match="there is no image tinny") as caught:
            await end_of(ask)
        assert caught.value.hint == "there are tiny"


async def test_an_image_that_is_not_realised_cannot_be_checked(tiny: Folder) -> None:
    with pytest.raises(UsageError, match="image tiny is not realised here"):
        await end_of(tiny.keeper.verify(("tiny",)))


async def test_a_runtime_that_does_not_answer_is_told(tiny: Folder) -> None:
    with pytest.raises(UsageError, match="docker does not answer"):
        await end_of(tiny.keeper.build(("tiny",), None, "docker"))


async def test_one_image_that_fails_does_not_keep_the_others_from_being_built(
    tiny: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = make_image(tmp_path / "bad", {"nowhere": ("1.0", "0" * 64)})
    monkeypatch.setattr(own_images, "folders", lambda: {"bad": bad, "tiny": tiny.path})
    end = await build(tiny.keeper)
    assert [one["name"] for one in end["built"]] == ["tiny"]
    assert "nowhere" in end["failed"][0]["error"]["message"]
    assert end["exit_code"] == 1
