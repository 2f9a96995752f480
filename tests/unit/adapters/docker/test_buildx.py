"""What a build says is read into progress and, where it fails, into one error."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from qwend.adapters.docker.buildx import Trail, client_environment
from qwend.adapters.docker.trouble import build_trouble
from qwend.effects import Progress
from qwend.errors import Interrupted, OutOfResource, QwendError, StepFailed, Unreachable

COMPILE = "[builder 6/7] RUN --mount=type=cache,id=c,target=/c     python3 /tools/assemble.py compile"
PACKAGES = "[builder 4/7] RUN --mount=type=cache,id=u,target=/u     sh /tools/packages"


@pytest.fixture
def told() -> list[Progress]:
    return []


@pytest.fixture
def trail(told: list[Progress]) -> Trail:
    return Trail("image x", told.append)


def say(trail: Trail, **line: Any) -> None:
    trail.read(json.dumps(line).encode() + b"\n")


def vertex(name: str, **more: Any) -> dict[str, Any]:
    return {"digest": name, "name": name, "started": "t", **more}


def log(name: str, text: str) -> dict[str, Any]:
    return {"vertex": name, "stream": 1, "data": base64.b64encode(text.encode()).decode()}


def failure(trail: Trail, name: str, output: str, error: str = "exit code: 1") -> QwendError:
    say(trail, vertexes=[vertex(name)])
    say(trail, logs=[log(name, output)])
    say(trail, vertexes=[vertex(name, completed="t", error=error)])
    return build_trouble(trail, status=1, base="some-base", log=Path("/log"), note="")


def test_a_step_is_told_with_its_phase_and_its_place(trail: Trail, told: list[Progress]) -> None:
    say(trail, vertexes=[vertex(PACKAGES)])
    assert told == [Progress("image x", "packages", 3.0, 7.0, "steps", message="RUN sh /tools/packages")]


def test_lines_of_a_compile_become_a_bar(trail: Trail, told: list[Progress]) -> None:
    say(trail, vertexes=[vertex(COMPILE)])
    say(trail, logs=[log(COMPILE, "[3/40] Building CXX obj"), log(COMPILE, "ect a.o\n[4/40] Bui")])
    assert told[-1] == Progress("image x", "compile", 3.0, 40.0, "files", message="Building CXX object a.o")


def test_bytes_of_a_layer_become_a_bar(trail: Trail, told: list[Progress]) -> None:
    name = "[common 1/4] FROM registry.example/base"
    say(trail, vertexes=[vertex(name)])
    say(trail, statuses=[{"id": "sha256:abc", "vertex": name, "current": 5, "total": 10}])
    assert told[-1] == Progress("image x", "base image", 5.0, 10.0, "B", message="sha256:abc")


def test_what_is_cached_or_internal_is_not_told(trail: Trail, told: list[Progress]) -> None:
    say(
        trail,
        vertexes=[vertex(PACKAGES, cached=True, completed="t"), vertex("[internal] load build context")],
    )
    assert told == []


def test_a_wrong_hash_is_told_with_both_digests(trail: Trail) -> None:
    digests = "Expected:\n  sha256:aaaa\n\nComputed:\n  sha256:bbbb\n"
    output = f"error: Failed to download\n  Hash mismatch for `idna==3.20`\n\n{digests}"
    error = failure(trail, PACKAGES, output)
    assert isinstance(error, StepFailed)
    assert error.code == "hash-mismatch"
    assert "sha256:aaaa" in error.message
    assert "sha256:bbbb" in error.message


def test_a_compilers_first_error_is_told(trail: Trail) -> None:
    error = failure(trail, COMPILE, "[1/2] x\na.cpp:1:1: error: no such thing\nninja: build stopped\n")
    assert "a.cpp:1:1: error: no such thing" in error.message
    assert "/log" in (error.hint or "")


def test_our_own_words_come_first(trail: Trail) -> None:
    error = failure(trail, PACKAGES, "qwend: the base image has Python 3.13; this image needs one of: 3.11\n")
    assert error.message == "the base image has Python 3.13; this image needs one of: 3.11"


def test_a_base_that_is_not_to_be_had_is_told_with_what_to_do(trail: Trail) -> None:
    error = failure(trail, "[internal] load metadata for registry.example/base", "", "dial tcp: no such host")
    assert isinstance(error, Unreachable)
    assert "some-base" in error.message
    assert "images/make-base" in (error.hint or "")


def test_a_full_disk_is_told_as_that(trail: Trail) -> None:
    assert isinstance(failure(trail, COMPILE, "write /x: no space left on device\n"), OutOfResource)


def test_a_missing_plugin_is_told_with_what_to_install(trail: Trail) -> None:
    trail.read(b"docker: 'buildx' is not a docker command.\n")
    error = build_trouble(trail, status=1, base="b", log=Path("/log"), note="")
    assert isinstance(error, Unreachable)
    assert "docker-buildx" in (error.hint or "")


def test_a_build_that_was_ended_is_told_as_interrupted(trail: Trail) -> None:
    assert isinstance(build_trouble(trail, status=-9, base="b", log=Path("/log"), note=""), Interrupted)


def test_a_password_in_an_address_is_not_told(trail: Trail) -> None:
    error = failure(
        trail, PACKAGES, "error sending request\nFailed to fetch: `https://me:s3cret@index.example/x`\n"
    )
    assert "s3cret" not in " ".join(error.lines())


def test_the_command_gets_the_engine_that_we_use_and_little_else() -> None:
    given = {"PATH": "/bin", "HOME": "/h", "DOCKER_CONFIG": "/c", "DOCKER_CONTEXT": "other", "HF_TOKEN": "t"}
    found = client_environment(given, "unix:///run/x.sock")
    assert found["DOCKER_HOST"] == "unix:///run/x.sock"
    assert found["DOCKER_CONFIG"] == "/c"
    assert not {"DOCKER_CONTEXT", "HF_TOKEN"} & found.keys()
