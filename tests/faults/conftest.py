"""One daemon for all who leave it in peace; who does not has a house of his own.

`containers.everywhere` runs a test in both houses: with native processes, and with containers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.faults.containers import DockerHouse
from tests.faults.house import House, a_house, a_name

_FIXTURES = {"native": "native_house", "docker": "docker_house"}
_KINDS: dict[str, type[House]] = {"native": House, "docker": DockerHouse}


@pytest.fixture(scope="session")
def native_house() -> Iterator[House]:
    with a_house() as made:
        yield made


@pytest.fixture(scope="session")
def docker_house() -> Iterator[House]:
    with a_house(DockerHouse) as made:
        yield made


@pytest.fixture
def house(request: pytest.FixtureRequest) -> House:
    """The shared house of the runtime that the test asks for."""
    made: Any = request.getfixturevalue(_FIXTURES[getattr(request, "param", "native")])
    assert isinstance(made, House)
    return made


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[House]:
    """A house that nobody else has."""
    with a_house(_KINDS[getattr(request, "param", "native")]) as made:
        yield made


@pytest.fixture
def name(house: House) -> Iterator[str]:
    """The name of this test's recipe, which is down when the test is over."""
    made = a_name()
    yield made
    house.down()
