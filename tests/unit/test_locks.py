"""The host's locks against pyproject.toml: complete, within bounds, hashed, without addresses."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ["requirements.lock", "requirements-dev.lock"]


def _entries(name: str) -> dict[str, tuple[Version, list[str]]]:
    text = (ROOT / name).read_text()
    found: dict[str, tuple[Version, list[str]]] = {}
    for entry in re.split(r"\n(?=\S)", text.strip()):
        match = re.match(r"([A-Za-z0-9._-]+)==(\S+)", entry)
        assert match is not None, entry
        found[canonicalize_name(match[1])] = (
            Version(match[2]),
            re.findall(r"--hash=sha256:[0-9a-f]{64}", entry),
        )
    return found


def _group(name: str) -> list[str]:
    wanted: list[str] = []
    entries: list[Any] = PROJECT["dependency-groups"][name]
    for entry in entries:
        wanted += [entry] if isinstance(entry, str) else _group(entry["include-group"])
    return wanted


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_hashes_and_no_address(name: str) -> None:
    assert not re.search(r"://|--find-links|--index-url|^-e|^/", (ROOT / name).read_text(), re.MULTILINE)
    assert all(hashes for _, hashes in _entries(name).values())


@pytest.mark.parametrize(("name", "group"), list(zip(LOCKS, ("checkout", "dev"), strict=True)))
def test_a_lock_satisfies_what_the_project_asks_for(name: str, group: str) -> None:
    entries = _entries(name)
    for text in [*PROJECT["project"]["dependencies"], *_group(group)]:
        wanted = Requirement(text)
        version, _ = entries[canonicalize_name(wanted.name)]
        assert version in wanted.specifier, f"{name}: {text}; run .ci/lock"


def test_what_both_locks_hold_they_hold_alike() -> None:
    user, dev = map(_entries, LOCKS)
    assert {name: dev[name][0] for name in user} == {name: version for name, (version, _) in user.items()}
