"""What the command line sends of a recipe and of the machine that it is planned for."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwend.cli.request import described_host
from qwend.errors import UsageError


@pytest.mark.parametrize("text", ['{"host": {"system": "linux"}, "runtimes": []}', '{"system": "linux"}'])
def test_a_described_machine_is_read_from_what_doctor_printed(tmp_path: Path, text: str) -> None:
    (tmp_path / "host.json").write_text(text)
    assert described_host(str(tmp_path / "host.json")) == {"system": "linux"}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"host": 1}'])
def test_what_describes_no_machine_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "host.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        described_host(str(tmp_path / "host.json"))
    assert caught.value.code == "bad-host"
