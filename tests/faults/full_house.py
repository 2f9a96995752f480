"""Scenarios of a daemon whose home is on a small disk, run by `small_disk` in a process of their own."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

from tests.faults.house import House, a_house, dead, make, serve, wait_for
from tests.faults.small_disk import fill

from qwend.errors import QwendError


async def services(disk: Path) -> dict[str, Any]:
    """The disk fills up under a daemon that looks after services."""
    tempfile.tempdir = str(disk)
    with a_house() as house:
        house.up("r", {"stays": serve(), "dies": serve(), "leaves": serve()})
        before = {row["step"]: row for row in house.rows("r")}
        fillers = [fill(disk)]
        result: dict[str, Any] = {"up": _refused(house, "other", {"chat": serve()})}
        fillers.append(
            fill(disk, "reserve-too")
        )  # what was set aside for stops is given up, and taken as well
        os.kill(before["dies"]["pid"], signal.SIGKILL)
        result["dies"] = house.until(
            "r/dies", "waiting", "backoff", where=lambda row: "room" in row["reason"]
        )["reason"]
        house.act("r/leaves", "stop")
        result["leaves"] = [house.row("r/leaves")["state"], dead(before["leaves"]["pid"])]
        result["stays"] = [
            house.row("r/stays")["state"],
            house.row("r/stays")["pid"] == before["stays"]["pid"],
        ]
        result["api"] = sorted(row["step"] for row in house.rows("r"))
        for filler in fillers:
            filler.unlink()
        back = house.until("r/dies", "ready")
        result["back"] = [back["generation"], back["port"] == before["dies"]["port"]]
        result["again"] = house.up("other", {"chat": serve()})["exit_code"]
        rows = {row["step"]: row["state"] for row in house.rows()}
        house.stop()
        house.start()
        wait_for(
            lambda: {row["step"]: row["state"] for row in house.rows()} == rows, "the same after a restart"
        )
        return result


async def jobs(disk: Path) -> dict[str, Any]:
    """A job writes more than there is room for."""
    tempfile.tempdir = str(disk)
    with a_house() as house:
        free = _free(disk)
        end = house.up("r", {"write": make(fill=free * 2)})
        result = {"exit_code": end["exit_code"], "message": end["error"]["message"]}
        wait_for(
            lambda: _free(disk) > free * 8 // 10, f"room is back: {_free(disk)} of {free}; {house.log()}"
        )
        result["next"] = house.up("s", {"write": make(text="small")})["exit_code"]
        result["artifacts"] = [one["recipe"] for one in house.client.get("/v1/artifacts")["artifacts"]]
        return result


def _free(disk: Path) -> int:
    return os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize


def _refused(house: House, recipe: str, steps: dict[str, Any]) -> list[Any]:
    try:
        end = house.up(recipe, steps)
    except QwendError as error:
        return [error.exit_code, str(error)]
    return [end["exit_code"], end["error"]["message"]]
