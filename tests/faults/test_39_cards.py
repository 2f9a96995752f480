"""Leases of cards, and fault 39, with make-believe cards: NVML is a fake, everything above it is real."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults.house import ROOT, House, a_name, make, serve

from qwend.errors import OutOfResource, QwendError

pytestmark = pytest.mark.native
GIB = 1 << 30


class Cards:
    """A house on a machine with two cards of 24 GiB."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "cards.json"
        self.show(24, 24)
        os.environ["QWEND_TEST_CARDS"] = str(self._file)
        self.house = House()
        fakes = str(ROOT / "tests/fakes/cards")
        self.house.environ["PYTHONPATH"] = f"{fakes}{os.pathsep}{self.house.environ['PYTHONPATH']}"

    def show(self, *free: float) -> None:
        """Cards with so many GiB free: what is not is held by others."""
        told = [
            {"uuid": f"GPU-{index}", "memory": 24 * GIB, "free": int(amount * GIB)}
            for index, amount in enumerate(free)
        ]
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(told))
        new.replace(self._file)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cards]:
    made = Cards(tmp_path_factory.mktemp("cards"))
    try:
        made.house.start()
        yield made
    finally:
        del os.environ["QWEND_TEST_CARDS"]
        made.house.close()


@pytest.fixture
def house(cards: Cards) -> Iterator[House]:
    cards.show(24, 24)
    yield cards.house
    cards.house.down()


def gpu(**with_: Any) -> dict[str, Any]:
    return serve("toy/serve-gpu", **with_)


def environment(house: House, key: str) -> dict[str, str]:
    """What the process of a step has in its environment."""
    pid = house.row(key)["pid"]
    items = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(item.split("=", 1) for item in items if "=" in item)


def test_a_card_belongs_to_one_service_and_who_waits_says_for_whom(house: House, name: str) -> None:
    assert house.up(name, {"chat": gpu(gpus=[0])})["exit_code"] == 0
    own = environment(house, f"{name}/chat")
    assert (own["CUDA_VISIBLE_DEVICES"], own["CUDA_DEVICE_ORDER"]) == ("GPU-0", "PCI_BUS_ID")
    going = house.begin(f"{name}b", {"train": make("toy/make-gpu", gpus=[0], text=name)})
    row = house.until(f"{name}b/train", "waiting", where=lambda row: row["reason"])
    assert row["reason"] == f"waiting for gpu 0: held by {name}/chat"
    house.down(name)
    assert going.result()[-1]["end"]["exit_code"] == 0


def test_any_card_means_the_free_one(house: House, name: str) -> None:
    house.up(name, {"one": gpu(gpus=[0])})
    assert house.up(f"{name}b", {"two": gpu(gpus=1)})["exit_code"] == 0
    assert environment(house, f"{name}b/two")["CUDA_VISIBLE_DEVICES"] == "GPU-1"


def test_shares_of_a_card_add_up_to_one(house: House, name: str) -> None:
    house.up(name, {"a": gpu(gpus=[1], gpu_share=0.4), "b": gpu(gpus=[1], gpu_share=0.6)})
    assert {row["state"] for row in house.rows(name)} == {"ready"}
    house.begin(f"{name}b", {"c": gpu(gpus=[1], gpu_share=0.1)})
    reason = house.until(f"{name}b/c", "waiting", where=lambda row: row["reason"])["reason"]
    assert reason.startswith("waiting for gpu 1: held by") and f"{name}/a (0.4 of it)" in reason


def test_memory_that_strangers_hold_counts(cards: Cards, house: House, name: str) -> None:
    cards.show(4, 24)
    going = house.begin(name, {"chat": gpu(gpus=[0], needs_gpu_memory=8 * GIB)})
    row = house.until(f"{name}/chat", "waiting", where=lambda row: row["reason"])
    assert row["reason"] == ("waiting for gpu 0: needs 8.0 GiB, 4.0 GiB free, other programs hold the rest")
    cards.show(24, 24)
    assert going.result()[-1]["end"]["exit_code"] == 0


def test_two_who_want_both_cards_and_each_one_neither_starve_nor_block_one_another(
    house: House, name: str
) -> None:
    steps: dict[str, Any] = {}
    for n in range(3):
        for kind, wanted in {"both": [0, 1], "first": [0], "second": [1]}.items():
            text = f"{name} {kind} {n}"
            steps[f"{kind}{n}"] = make("toy/make-gpu", gpus=wanted, seconds=0.2, text=text)
    assert house.up(name, steps)["exit_code"] == 0
    assert {row["state"] for row in house.rows(name)} == {"succeeded"}


def test_an_adopted_service_still_holds_its_card_and_a_waiting_step_is_not_let_before_it(
    house: House, name: str
) -> None:
    house.up(name, {"chat": gpu(gpus=[0])})
    pid = house.row(f"{name}/chat")["pid"]
    house.begin(f"{name}b", {"train": make("toy/make-gpu", gpus=[0], text=name)})
    house.until(f"{name}b/train", "waiting", where=lambda row: row["reason"])
    house.kill()
    house.start()
    row = house.until(f"{name}b/train", "waiting", where=lambda row: row["reason"])
    assert row["reason"] == f"waiting for gpu 0: held by {name}/chat" and row["generation"] == 0
    assert house.row(f"{name}/chat")["pid"] == pid
    house.down(name)
    house.until(f"{name}b/train", "succeeded")


def test_where_both_would_want_one_card_a_service_is_stopped_before_its_successor_starts(
    house: House, name: str
) -> None:
    house.up(name, {"chat": gpu(gpus=[0], text="one")})
    changed = {"chat": gpu(gpus=[0], text="two")}
    (action,) = [one for one in house.plan(name, changed)["actions"] if one["step"] == "chat"]
    assert (action["verb"], action["detail"]) == ("replace", "stop-first: both would need the same card")
    assert house.up(name, changed)["exit_code"] == 0
    assert "service.took-over" not in house.kinds(f"{name}/chat")


def test_39_a_card_that_is_too_small_or_not_there_is_said_by_the_plan(house: House, name: str) -> None:
    (blocker,) = house.plan(name, {"chat": gpu(gpus=[0], needs_gpu_memory=40 * GIB)})["blockers"]
    assert blocker == "chat: needs about 40.0 GiB on a card; gpu 0 has 24.0 GiB"
    with pytest.raises(OutOfResource, match="there is no gpu 7"):
        house.plan(name, {"chat": gpu(gpus=[7])})


def test_39_an_old_driver_is_an_error_and_never_a_silent_cpu(house: House, name: str) -> None:
    house.environ["QWEND_TEST_DRIVER"] = "470.82"
    try:
        house.stop()
        house.start()
        with pytest.raises(QwendError, match=r"driver 580 or newer, and this is 470\.82") as caught:
            house.plan(name, {"chat": gpu()})
        assert "device: cpu" in (caught.value.hint or "")
        assert house.up(name, {"chat": gpu(device="cpu")})["exit_code"] == 0, "asked for, it may be the CPU"
    finally:
        del house.environ["QWEND_TEST_DRIVER"]
        house.stop()
        house.start()


@pytest.fixture
def name() -> str:
    return a_name()
