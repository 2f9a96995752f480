"""How an ended container is read."""

from __future__ import annotations

from typing import Any

import pytest

from qwend.adapters.docker.exits import exit_of, handle_of, not_started, seconds


def inspected(**state: Any) -> dict[str, Any]:
    return {
        "Id": "c1",
        "Config": {"Labels": {"org.qwend.marker": "m"}},
        "HostConfig": {"Memory": 1 << 20},
        "State": {"ExitCode": 0, "FinishedAt": "2026-11-24T03:35:21.5Z", "StartedAt": "s", "Pid": 7, **state},
    }


def test_an_exit_code_is_told_as_it_is() -> None:
    ended = exit_of(inspected(ExitCode=3), killed=False)
    assert (ended.marker, ended.code, ended.signal, ended.oom, ended.lost) == ("m", 3, None, False, False)


def test_a_signal_is_told_as_a_signal() -> None:
    ended = exit_of(inspected(ExitCode=143), killed=False)
    assert (ended.code, ended.signal) == (None, 15)


def test_our_kill_at_the_deadline_is_told() -> None:
    assert exit_of(inspected(ExitCode=137), killed=True).killed


def test_memory_is_named_with_the_limit_as_the_peak() -> None:
    ended = exit_of(inspected(ExitCode=137, OOMKilled=True), killed=False)
    assert ended.oom
    assert ended.peak == 1 << 20
    assert ended.describe().startswith("killed for memory")


def test_a_container_that_survived_the_death_of_a_child_is_not_called_killed() -> None:
    assert not exit_of(inspected(ExitCode=0, OOMKilled=True), killed=False).oom


def test_an_end_that_the_engine_did_not_see_is_lost() -> None:
    ended = exit_of(inspected(ExitCode=0, FinishedAt="0001-01-01T00:00:00Z"), killed=False)
    assert ended.lost
    assert ended.code is None


def test_a_handle_names_the_container_and_its_process() -> None:
    handle = handle_of(inspected())
    assert (handle.runtime, handle.marker, handle.id, handle.pid) == ("docker", "m", "c1", 7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T00:00:01.500000000Z", 1.5),
        ("1970-01-01T01:00:01.25+01:00", 1.25),
    ],
)
def test_the_engines_times_are_read(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="not a time"):
        seconds("")


def test_an_init_that_does_not_name_what_it_could_not_start_is_helped_out() -> None:
    ended = inspected(ExitCode=1)
    ended["Config"]["Entrypoint"] = ["no-such-program", "--help"]
    said = "ERROR (catatonit:7): failed to exec pid1: No such file or directory\n"
    assert not_started(ended, said) == "no-such-program: No such file or directory\n"
    assert not_started(ended, "a step that says catatonit\n") is None
