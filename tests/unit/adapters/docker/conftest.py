"""Orders, and a real engine where one answers."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from qwend.adapters.docker.build import DockerBuilder
from qwend.adapters.docker.connection import Connection
from qwend.adapters.docker.construction import Base
from qwend.adapters.docker.identity import INSTANCE
from qwend.adapters.docker.runtime import DockerRuntime
from qwend.effects import Order, Realised
from qwend.model.launch import Launch
from qwend.model.service import Identity

MakeOrder = Callable[..., Order]
MakeBuilder = Callable[..., DockerBuilder]


@pytest.fixture
def instance() -> str:
    """An instance that no other test has."""
    return "test-" + secrets.token_hex(8)


@pytest.fixture
def make_order(tmp_path: Path, instance: str) -> MakeOrder:
    """Builds an order whose folders lie in the test's own folder."""

    def make(
        *argv: Any,
        step: str = "step",
        generation: int = 1,
        image: str = "none",
        launch: Any = None,
        **fields: Any,
    ) -> Order:
        home = tmp_path / f"{step}-{generation}"
        (home / "out").mkdir(parents=True, exist_ok=True)
        order: dict[str, Any] = {
            "identity": Identity(
                instance=instance,
                run="01J0000000000000000000000",
                recipe="recipe",
                step=step,
                fingerprint="f" * 64,
                generation=generation,
            ),
            "launch": launch or Launch(argv=argv),
            "image": Realised(key="test", kind="oci", location=image, digest="0" * 64),
            "inputs": {},
            "log": str(home / "log"),
            "report": str(home / "report.jsonl"),
            "work": str(home),
            "output": str(home / "out"),
        }
        return Order(**{**order, **fields})

    return make


@pytest.fixture(scope="session")
def engine() -> Any:
    """A client of the engine that answers here."""
    try:
        client = docker.from_env(timeout=30).api
        client.ping()
    except Exception as error:
        pytest.skip(f"no Docker Engine answers: {error}")
    return client


@pytest.fixture(scope="session")
def base(engine: Any) -> str:
    """The id of the local base image."""
    labelled = engine.images(filters={"label": "org.qwend.base.key"})
    # Images that were built on it inherit the label.
    found = [image["Id"] for image in labelled if any("base" in tag for tag in image["RepoTags"] or ())]
    if not found:
        pytest.skip("the engine has no local base image (images/make-base makes it)")
    return str(found[0])


@pytest.fixture
async def runtime(engine: Any, instance: str, tmp_path: Path) -> AsyncIterator[DockerRuntime]:
    """A runtime of its own instance, whose containers are gone afterwards."""
    made = DockerRuntime(instance, secrets_root=tmp_path / "secrets")
    yield made
    await made.close()
    for container in engine.containers(all=True, filters={"label": f"{INSTANCE}={instance}"}):
        engine.remove_container(container["Id"], force=True, v=True)


@pytest.fixture
def base_tag(engine: Any, base: str) -> str:
    """The base's name: BuildKit would look for a bare id at a registry."""
    return str(engine.inspect_image(base)["RepoTags"][0])


@pytest.fixture(scope="session")
def _buildx(engine: Any) -> None:
    if subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode:
        pytest.skip("the docker command has no buildx plugin")


@pytest.fixture
async def make_builder(
    _buildx: None, engine: Any, tmp_path: Path, base_tag: str
) -> AsyncIterator[MakeBuilder]:
    """Makes builders of one home, and removes what they built."""
    connection = Connection()

    def make(**more: Any) -> DockerBuilder:
        arguments: dict[str, Any] = {"base": Base(base_tag), "secrets_root": tmp_path / "private", **more}
        return DockerBuilder(tmp_path / "home", connection, **arguments)

    yield make
    await connection.close()
    for image in engine.images(filters={"label": "org.qwend.image.name=tiny"}):
        engine.remove_image(image["Id"], force=True)  # one that another build took the tag of has none
