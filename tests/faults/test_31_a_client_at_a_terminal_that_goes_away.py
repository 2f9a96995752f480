"""A client goes away while it has an interactive step: over the real socket, its connection is all that holds it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.faults.house import PATIENCE_S, House, wait_for


@contextlib.contextmanager
def talking(house: House, name: str, *options: str, **with_: Any) -> Iterator[subprocess.Popen[str]]:
    """`qwend run talk`, whose step repeats what it reads."""
    step = {"uses": "toy/talk", "with": with_, "secrets": ["api_key"] if with_.get("secret") else []}
    recipe = house.folder / f"{name}.yaml"
    recipe.write_text(json.dumps({"name": name, "steps": {"talk": step}}))
    command = [sys.executable, "-P", "-m", "qwend", "run", "talk", "-f", str(recipe), *options]
    told = house.folder / "told"
    with told.open("wb") as errors, subprocess.Popen(
        command, cwd=house.folder, env=house.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        text=True,
    ) as client:  # fmt: skip
        try:
            yield client
        finally:
            client.kill()


def waits(house: House) -> bool:
    """Whether the client that came last is told that it has to wait."""
    return "waiting" in (house.folder / "told").read_text()


def said(client: subprocess.Popen[str]) -> list[str]:
    assert client.stdout is not None
    return client.stdout.readline().split()


def places(house: House, name: str) -> list[str]:
    return [path.name for path in (house.home / "run" / name).glob("talk@*")]


@pytest.mark.parametrize("end", ["is killed", "ends in order"])
def test_a_client_that_leaves_an_interactive_step_gives_back_its_turn_and_its_folder(
    house: House, name: str, end: str
) -> None:
    with talking(house, name, heavy=True) as first:
        assert said(first)[0] == "talking"
        assert first.stdin is not None
        first.stdin.write("hello\n")
        first.stdin.flush()
        assert said(first) == ["you", "said", "hello"]
        assert len(places(house, name)) == 1
        with talking(house, name, heavy=True) as second:
            wait_for(lambda: waits(house), "the second waits for the turn of the first")
            assert len(places(house, name)) == 1
            if end == "is killed":
                first.kill()
            first.stdin.close()
            assert said(second)[0] == "talking"
            code = first.wait(PATIENCE_S)
            assert code == (-9 if end == "is killed" else 0)
            wait_for(lambda: len(places(house, name)) == 1, "the folder of the first is gone")
            assert second.stdin is not None
            second.stdin.close()
            assert second.wait(PATIENCE_S) == 0
    wait_for(lambda: places(house, name) == [], "nothing is left")
    assert house.rows(name) == [], "it is never supervised"


def test_a_client_that_leaves_while_it_waits_is_never_given_a_turn(house: House, name: str) -> None:
    with talking(house, name, heavy=True) as first:
        assert said(first)[0] == "talking"
        with talking(house, name, heavy=True):
            wait_for(lambda: waits(house), "the second waits for the turn of the first")
    with talking(house, name, heavy=True) as third:
        assert said(third)[0] == "talking"
        wait_for(lambda: len(places(house, name)) == 1, "only the third has a folder")
    wait_for(lambda: places(house, name) == [], "nothing is left")


def test_a_secret_reaches_an_interactive_step_and_nothing_that_is_written(house: House, name: str) -> None:
    key = house.folder / f"{name}.key"
    key.write_text("s3cret-canary-31\n")
    with talking(house, name, "--secret", f"api_key=@{key}", secret=True) as client:
        assert said(client) == ["secret", str(len("s3cret-canary-31"))]
        assert said(client)[0] == "talking"
        key.unlink()
        written = [
            path for path in house.home.rglob("*") if path.is_file() and b"canary-31" in path.read_bytes()
        ]
        assert written == []
