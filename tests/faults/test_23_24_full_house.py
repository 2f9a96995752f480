"""Faults 23 and 24 as a user meets them: the disk is full under a daemon with services and jobs."""

from __future__ import annotations

import pytest
from tests.faults.small_disk import on_a_small_disk

pytestmark = pytest.mark.native


def test_23_a_job_that_fills_the_disk_names_the_volume_and_leaves_no_half_artifact() -> None:
    told = on_a_small_disk("tests.faults.full_house", "jobs", megabytes=96)
    assert told["exit_code"] == 5
    assert "no space left on" in told["message"] and "(qwend-test)" in told["message"]
    assert told["next"] == 0
    assert told["artifacts"] == ["s"]


def test_24_services_live_on_stops_work_and_what_died_comes_back_when_there_is_room() -> None:
    told = on_a_small_disk("tests.faults.full_house", "services", megabytes=64)
    assert told["up"][0] == 5 and "no space left on" in told["up"][1]
    assert "no space left on" in told["dies"], "it waits, and says for what"
    assert told["leaves"] == ["stopped", True]
    assert told["stays"] == ["ready", True]
    assert told["api"] == ["dies", "leaves", "stays"]
    assert told["back"] == [2, True]
    assert told["again"] == 0
