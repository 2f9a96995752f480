"""Faults 20 to 22: strangers on our ports, and many services at once. And handing a port's service over."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

import pytest
from tests.faults.containers import everywhere, own_everywhere
from tests.faults.house import House, a_stranger, end, serve

from qwend.adapters.listeners import ephemeral_range
from qwend.errors import OutOfResource

pytestmark = pytest.mark.native
Strangers = list[subprocess.Popen[bytes]]


@pytest.fixture
def strangers() -> Iterator[Strangers]:
    found: Strangers = []
    yield found
    for stranger in found:
        end(stranger)


def test_20_a_stranger_who_is_faster_gets_the_port_and_the_service_another(
    house: House, name: str, strangers: Strangers
) -> None:
    going = house.begin(name, {"chat": serve(slow=1.0)})
    first = house.until(f"{name}/chat", "starting", where=lambda row: row["pid"])["port"]
    strangers.append(a_stranger(first))
    assert going.result()[-1]["end"]["exit_code"] == 0
    row = house.row(f"{name}/chat")
    assert row["port"] != first and row["generation"] == 2
    reasons = [event.get("reason") or "" for event in house.events(name)]
    assert f"port {first} was taken by another program" in reasons


@everywhere
def test_20_a_fixed_port_gives_an_error_that_names_its_holder(
    house: House, name: str, strangers: Strangers
) -> None:
    port = house.ports.fixed()
    strangers.append(a_stranger(port))
    steps = {"chat": serve(port=port)}
    (blocker,) = house.plan(name, steps)["blockers"]
    with pytest.raises(OutOfResource) as caught:
        house.up(name, steps)
    assert caught.value.exit_code == 5
    for said in (blocker, caught.value.message):
        assert f"port {port} is taken by" in said
        assert f"(pid {strangers[0].pid})" in said
    assert house.row(f"{name}/chat")["generation"] == 0, "nothing was started"


def test_20_a_fixed_port_that_is_taken_since_the_plan_is_told_when_the_service_starts(
    house: House, name: str, strangers: Strangers
) -> None:
    port = house.ports.fixed()
    end_ = house.up(name, {"chat": serve(port=port)})
    assert end_["exit_code"] == 0
    house.act(f"{name}/chat", "stop")
    strangers.append(a_stranger(port))
    house.act(f"{name}/chat", "start")
    assert f"port {port} is taken by" in house.row(f"{name}/chat")["reason"]


def test_20_a_fixed_port_that_is_lost_to_a_stranger_is_not_evaded(
    house: House, name: str, strangers: Strangers
) -> None:
    port = house.ports.fixed()
    going = house.begin(name, {"chat": serve(port=port, slow=1.0)})
    house.until(f"{name}/chat", "starting", where=lambda row: row["pid"])
    strangers.append(a_stranger(port))
    end_ = going.result()[-1]["end"]
    assert (end_["exit_code"], house.row(f"{name}/chat")["generation"]) == (5, 1)
    assert f"cannot listen on port {port}" in end_["error"]["message"]


@own_everywhere
def test_20_a_port_that_a_stranger_took_while_nothing_ran_is_left_to_him(
    own: House, strangers: Strangers
) -> None:
    own.up("r", {"chat": serve(restart="always")})
    before = own.row("r/chat")
    own.crash()
    strangers.append(a_stranger(before["port"]))
    own.start()
    after = own.until("r/chat", "ready", where=lambda row: row["generation"] > before["generation"])
    assert after["port"] != before["port"]
    assert after["generation"] == before["generation"] + 1, "it was not tried on the stranger's port first"


@everywhere
def test_20_a_port_of_another_recipe_names_that_recipe(house: House, name: str) -> None:
    port = house.ports.fixed()
    house.up(name, {"chat": serve(port=port)})
    with pytest.raises(OutOfResource, match=f"port {port} is held by {name}/chat"):
        house.up(f"{name}b", {"web": serve(port=port)})


@everywhere
def test_21_fifty_services_at_once_have_fifty_ports_none_of_them_ephemeral(house: House, name: str) -> None:
    count = 50 if house.runtime == "native" else 8
    steps = {f"s{n}": serve() for n in range(count)}
    assert house.up(name, steps)["exit_code"] == 0
    ports = [row["port"] for row in house.rows(name)]
    low, high = ephemeral_range()
    assert len(set(ports)) == count
    assert not [port for port in ports if low <= port <= high]
    answers = set()
    for row in house.rows(name):
        with urllib.request.urlopen(f"{row['url']}/health", timeout=30) as answer:
            answers.add(answer.read())
    if house.runtime == "native":  # in a container each is number 7
        assert len(answers) == count, "fifty programs answer (each says its pid)"


def test_22_a_stranger_who_answers_the_probe_is_not_taken_for_ours(
    house: House, name: str, strangers: Strangers
) -> None:
    """The stranger says 200 to everything for as long as our engine has not bound its port."""
    going = house.begin(name, {"chat": serve(slow=3600, health={"deadline": "2s"})})
    row = house.until(f"{name}/chat", "starting", where=lambda row: row["pid"])
    strangers.append(a_stranger(row["port"], answers=True))
    with urllib.request.urlopen(f"http://127.0.0.1:{row['port']}/health", timeout=30) as answer:
        assert answer.status == 200, "whoever asks is told that all is well"
    assert going.result()[-1]["end"]["exit_code"] == 1
    assert "service.ready" not in house.kinds(f"{name}/chat")


@everywhere
def test_a_service_without_a_port_is_replaced_without_a_gap(house: House, name: str) -> None:
    house.up(name, {"chat": serve(text="one")})
    old = house.row(f"{name}/chat")
    assert "rolling" in _detail(house, name, {"chat": serve(text="two", slow=0.5)})
    going = house.begin(name, {"chat": serve(text="two", slow=0.5)})
    answers = 0
    while not going.over:
        row = house.row(f"{name}/chat")
        assert row["state"] == "ready" and row["url"], "there is no moment without one"
        try:
            with urllib.request.urlopen(f"{row['url']}/health", timeout=30) as answer:
                answers += answer.status == 200
        except (OSError, HTTPException):
            assert house.row(f"{name}/chat")["url"] != row["url"], "who is gone is no longer shown"
    assert going.result()[-1]["end"]["exit_code"] == 0
    new = house.row(f"{name}/chat")
    assert answers > 0
    assert new["pid"] != old["pid"] and new["port"] != old["port"] and new["generation"] == 2
    assert [row["step"] for row in house.rows(name)] == ["chat"], "nothing is left of the old one"
    assert len(house.processes()) == 1
    held = [lease for lease in house.client.get("/v1/ports")["leases"] if lease["holder"].startswith(name)]
    assert [(lease["holder"], lease["port"]) for lease in held] == [(f"{name}/chat", new["port"])]
    assert house.up(name, {"chat": serve(text="two", slow=0.5)})["exit_code"] == 0
    assert house.act(f"{name}/chat", "restart")["state"] == "ready"
    assert house.row(f"{name}/chat")["generation"] == 3
    assert house.down(name)["stopped"] == [f"{name}/chat"]


@everywhere
def test_a_new_one_that_fails_leaves_the_old_one_where_it_is(house: House, name: str) -> None:
    house.up(name, {"chat": serve(text="one")})
    old = house.row(f"{name}/chat")
    end_ = house.up(name, {"chat": serve(fail="error: no such model")})
    assert end_["exit_code"] == 1
    assert "no such model; the one before it goes on" in end_["error"]["message"]
    row = house.row(f"{name}/chat")
    assert (row["state"], row["pid"], row["port"]) == ("ready", old["pid"], old["port"])
    assert len(house.rows(name)) == 1


@pytest.mark.parametrize("how", ["fixed", "said"])
def test_where_both_cannot_be_the_old_one_ends_first_and_the_plan_says_why(
    house: House, name: str, how: str
) -> None:
    port = house.ports.fixed()
    own = {"port": port} if how == "fixed" else {"replace": "stop-first"}
    house.up(name, {"chat": serve(text="one", **own)})
    changed = {"chat": serve(text="two", **own)}
    if how == "fixed":
        assert _detail(house, name, changed) == f"stop-first: port {port} is fixed"
    before = house.row(f"{name}/chat")
    assert house.up(name, changed)["exit_code"] == 0
    after = house.row(f"{name}/chat")
    assert after["port"] == before["port"] and after["pid"] != before["pid"]
    assert house.kinds(f"{name}/chat").count("service.stopped") == 1


def test_where_the_memory_is_not_there_for_both_the_old_one_ends_first_and_an_event_says_so(
    house: House, name: str
) -> None:
    """Not by what the machine has, but by what is free: another service holds the rest."""
    machine = house.client.get("/v1/doctor")["host"]
    most, rest = machine["memory"] * 4 // 10, machine["memory"] * 3 // 10
    if machine["memory_available"] < machine["memory"] // 2:
        pytest.skip("needs half of the machine's memory to be free")
    house.up(name, {"chat": serve(text="one", memory=most)})
    house.up(f"{name}b", {"other": serve(memory=rest)})
    assert "rolling" in _detail(house, name, {"chat": serve(text="two", memory=most)})
    assert house.up(name, {"chat": serve(text="two", memory=most)})["exit_code"] == 0
    told = [e["reason"] for e in house.events(name) if e["kind"] == "service.stop-first"]
    assert len(told) == 1 and told[0].startswith("no room for both: waiting for")


def _detail(house: House, name: str, steps: dict[str, Any]) -> str:
    try:
        actions = house.plan(name, steps)["actions"]
    except OutOfResource as error:
        raise AssertionError(error) from None
    return str(next(action["detail"] for action in actions if action["step"] == "chat"))
