"""DESIGN.md says what the code does: its tables are printed from it, its floors are the import contract."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from qwend.core import lifecycle

ROOT = Path(__file__).parents[2]
DESIGN = (ROOT / "daemon/qwend/DESIGN.md").read_text(encoding="utf-8")


def test_the_lifecycle_tables_are_those_of_the_code() -> None:
    found = re.search(r"<!-- lifecycle:.*?-->\n(.*?)<!-- /lifecycle -->", DESIGN, re.DOTALL)
    assert found is not None
    assert found[1].strip() == lifecycle.table(), "print it anew: python -m qwend.core.lifecycle"


def test_the_floors_are_those_of_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    floors = re.findall(r"^\| [^|]*\| ((?:`\w+` ?)+)\|", DESIGN, re.MULTILINE)
    told = [set(re.findall(r"`(\w+)`", floor)) for floor in floors]
    kept = [set(re.findall(r"\w+", layer)) for layer in layers]
    for floor in told:
        assert any(floor <= layer for layer in kept), f"no layer of the contract holds {sorted(floor)}"
