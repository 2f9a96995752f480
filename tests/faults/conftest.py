"""One daemon for all who leave it in peace; who does not has a house of his own (`house.a_house`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.faults.house import House, a_name


@pytest.fixture(scope="session")
def shared_house() -> Iterator[House]:
    house = House()
    try:
        house.start()
        yield house
    finally:
        house.close()


@pytest.fixture
def house(shared_house: House) -> House:
    return shared_house


@pytest.fixture
def name(shared_house: House) -> Iterator[str]:
    """The name of this test's recipe, which is down when the test is over."""
    made = a_name()
    yield made
    shared_house.down()
