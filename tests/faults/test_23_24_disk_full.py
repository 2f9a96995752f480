"""Faults 23 and 24: the disk is full, for artifacts and for the state."""

from __future__ import annotations

from tests.faults.small_disk import on_a_small_disk

SCENARIOS = "tests.faults.full_disk"


def test_23_a_full_disk_leaves_no_half_artifact_and_names_the_volume_and_what_it_needs() -> None:
    result = on_a_small_disk(SCENARIOS, "artifact", megabytes=32)
    volume = f"no space left on {result['disk']} (qwend-test)"
    assert result["engine"].startswith(f"{volume} for the output of r/f2: 0 B are free, 64.0 MiB are needed")
    assert result["after the engine"] == []
    code, said = result["taking in"]
    assert code == "disk-full"
    assert said.startswith(f"{volume} for keeping the step's output: ")
    assert "10.0 MiB are needed" in said
    assert "qwend store prune" in said
    assert result["left"] == [[], [result["first"]], [], ["f1.json"]]
    assert result["found"] == [True, True]
    assert result["bad"] == 0
    assert result["again"]


def test_23_a_finished_output_is_kept_by_means_of_the_reserve() -> None:
    result = on_a_small_disk(SCENARIOS, "finished_output", megabytes=16)
    assert result == {"taken": True, "found": True, "reserve left": False}


def test_23_publishing_to_a_full_volume_leaves_nothing_there() -> None:
    result = on_a_small_disk(SCENARIOS, "published", megabytes=16)
    assert len(result["said"]) == 2
    assert all("8.0 MiB are needed" in said and "(qwend-test)" in said for said in result["said"])
    assert result["left"] == ["filler"]
    assert result["whole"]


def test_24_a_full_disk_stops_writes_but_neither_readers_nor_stops_and_recovers() -> None:
    result = on_a_small_disk(SCENARIOS, "state", megabytes=32)
    assert result["reserve"] > 0
    code, said, full = result["refused"]
    assert code == "disk-full"
    assert "(qwend-test) for the state database" in said
    assert full
    assert result["number"] > 2
    assert result["rows are as they were"]
    assert result["readers work"][-1] == f"r/s{(result['number'] - 1) % 9}"
    assert result["a stop is recorded"] == "stopped"
    assert not result["the reserve is given"]
    assert result["true"]
    assert result["recovers"] == [10_000, False, True]
    assert result["after a restart"]


def test_24_a_daemon_starts_on_a_full_disk() -> None:
    result = on_a_small_disk(SCENARIOS, "start_on_a_full_disk", megabytes=32)
    assert result == {"rows": ["r/s0"], "events": 1}
