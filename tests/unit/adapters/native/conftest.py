from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.adapters.native.kit import a_folder, a_supervisor

from qwend.adapters.native.supervisor import NativeSupervisor


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    async with a_folder() as made:
        yield made


@pytest.fixture
async def native(folder: Path) -> AsyncIterator[NativeSupervisor]:
    async with a_supervisor(folder) as running:
        yield running
