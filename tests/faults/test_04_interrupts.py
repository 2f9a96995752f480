"""`down` and Ctrl-C stop in reverse order of dependence: who uses another ends before it, whole and verified."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest
from tests.faults.house import PATIENCE_S, House, dead, serve

pytestmark = pytest.mark.native
POLITE: dict[str, Any] = {"polite": 0.3, "fork": True, "stop_grace": "60s"}
STEPS = {
    "base": serve(**POLITE),
    "chat": serve(needs=["base"], **POLITE),
    "web": serve(needs=["chat"], **POLITE),
    "mail": serve(needs=["base"], **POLITE),
}


def in_reverse_order(house: House, name: str) -> None:
    """Nobody is asked to end before all who use it have ended."""
    events = [(event["subject"].partition("/")[2], event["kind"]) for event in house.events(name)]
    for user, used in (("web", "chat"), ("chat", "base"), ("mail", "base")):
        ended = events.index((user, "service.stopped"))
        assert ended < events.index((used, "service.stopping")), (
            f"{used} was stopped while {user} ran: {events}"
        )


def test_down_stops_in_reverse_order_of_dependence(house: House, name: str) -> None:
    assert house.up(name, STEPS)["exit_code"] == 0
    kin = [pid for step in STEPS for pid in house.kin(f"{name}/{step}")]
    assert len(kin) >= 2 * len(STEPS), "each with its child"
    assert house.down(name)["killed"] == []
    in_reverse_order(house, name)
    assert all(dead(pid) for pid in kin)


def test_an_interrupt_of_a_foreground_up_stops_in_reverse_order_of_dependence(
    house: House, name: str
) -> None:
    recipe = house.folder / f"{name}.yaml"
    recipe.write_text(json.dumps({"name": name, "steps": STEPS}))
    command = [sys.executable, "-P", "-m", "qwend", "up", str(recipe)]
    with subprocess.Popen(
        command, cwd=house.folder, env=house.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # who runs the tests may ignore it
    ) as up:  # fmt: skip
        try:
            assert up.stderr is not None
            assert any(line.startswith("Ctrl-C stops it") for line in up.stderr)
            kin = [pid for step in STEPS for pid in house.kin(f"{name}/{step}")]
            assert len(kin) >= 2 * len(STEPS), "each with its child"
            up.send_signal(signal.SIGINT)
            out, err = up.communicate(timeout=PATIENCE_S)
        finally:
            up.kill()
    assert up.returncode == 130, err
    assert "Traceback" not in out + err
    in_reverse_order(house, name)
    assert all(dead(pid) for pid in kin)
    rows = house.rows(name)
    assert {row["state"] for row in rows} == {"stopped"}
    assert not [row for row in rows if row["exit"]["killed"]], "each had its grace"
