"""The machine starts anew: nothing of before lives, and the kernel has another boot id."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults.another_proc import instead_of
from tests.faults.containers import own_everywhere
from tests.faults.house import House, make, serve

pytestmark = pytest.mark.native
BOOT_ID = "/proc/sys/kernel/random/boot_id"
NEW = "5f3e0f6c-0000-4000-8000-000000000001"


@own_everywhere
def test_after_a_reboot_services_come_back_on_their_ports_and_what_was_cut_off_runs_again(own: House) -> None:
    steps = {
        "chat": serve(restart="always"),
        "failing": serve(restart="on-failure"),
        "once": serve(restart="no"),
        "done": make(text="kept"),
    }
    assert own.up("r", steps)["exit_code"] == 0
    before = {row["step"]: row for row in own.rows("r")}
    own.begin("s", {"count": make(seconds=3600)})
    own.until("s/count", "running", where=lambda row: row["pid"])
    own.crash()
    boot = own.home / "boot_id"
    boot.write_text(f"{NEW}\n")
    own.start(*instead_of(BOOT_ID, boot))
    assert Path(f"/proc/{own.pid}/root{BOOT_ID}").read_text().strip() == NEW
    for name in ("chat", "failing"):
        after = own.until(f"r/{name}", "ready")
        assert (after["generation"], after["port"]) == (2, before[name]["port"]), (
            "and never shown as ready before"
        )
    assert own.until("r/once", "failed")["generation"] == 1
    own.until("s/count", "running", where=lambda row: row["generation"] == 2 and row["pid"])
    done = own.row("r/done")
    assert (done["generation"], done["artifact"]) == (1, before["done"]["artifact"])
    assert sorted(own.processes()) == sorted(row["pid"] for row in own.rows() if row["pid"]), "each runs once"
    own.down()
    assert not own.processes()
