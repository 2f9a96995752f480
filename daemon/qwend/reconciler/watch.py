"""Watches one step while it runs: reads its progress, and asks a service whether it is well."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from qwend.core.signals import Healthy, Unhealthy

if TYPE_CHECKING:
    from qwend.reconciler.mailbox import Mailbox

log = logging.getLogger(__name__)

_PROGRESS_S = 0.5
_QUIET_S = 5.0
"""A service that is ready has no progress to tell: a hundred of them cost nothing."""
_STARTING_S = 0.2


async def watch(box: Mailbox) -> None:
    """Reads progress until it is cancelled; probes a service first until it is ready, then to keep it so."""
    probing = asyncio.create_task(_probe(box)) if box.row.kind == "service" else None
    try:
        while True:
            under_way = box.row.state in {"starting", "running"}
            if under_way:
                _tell_progress(box)
            await box.world.clock.sleep(_PROGRESS_S if under_way else _QUIET_S)
    finally:
        if probing is not None:
            probing.cancel()


def _tell_progress(box: Mailbox) -> None:
    try:
        news = box.world.reports.progress(
            box.key, box.enactor.launch(), str(box.enactor.log_path()), box.enactor.work().report
        )
    except Exception as error:  # a plugin's patterns are not ours: the step is watched all the same
        log.warning("%s: its progress cannot be read: %r", box.key, error)
        return
    if news is not None:
        box.world.hub.tell(news)


async def _probe(box: Mailbox) -> None:
    clock = box.world.clock
    probe = box.enactor.launch().probe
    if probe is None:
        box.post(Healthy())
        return
    if box.row.state == "starting":
        while await _sick(box, work=True) is not None:
            await clock.sleep(_STARTING_S)
        box.post(Healthy())
    interval = box.compiled.policy.probe_interval_s or probe.interval_s
    misses, since_work = 0, 0.0
    while True:
        await clock.sleep(interval)
        since_work += interval
        # Who failed once is asked for real work until it answers: a liveness probe alone may go on smiling.
        work = since_work >= probe.work_interval_s or misses > 0
        sick = await _sick(box, work=work)
        since_work = 0.0 if work else since_work
        misses = misses + 1 if sick else 0
        if sick is None and box.row.state == "unhealthy" and work:
            box.post(Healthy())
        elif sick is not None and misses % probe.failures == 0:
            box.post(Unhealthy(f"{misses} probes in a row failed: {sick}"))


async def _sick(box: Mailbox, work: bool) -> str | None:
    """None if the service answers as it should and the one who answers is ours."""
    launch, row = box.enactor.launch(), box.row
    if launch.probe is None or row.port is None or row.handle is None:
        return "it has no port yet"
    headers = _headers(box)
    for probe in (launch.probe.ready, launch.probe.work if work else None):
        if probe is None:
            continue
        sick = await box.world.prober.ask("127.0.0.1", row.port, probe, headers)
        if sick is not None:
            return sick
    ours = await box.world.runtimes[row.handle.runtime].listens(row.handle, row.port)
    return f"another program answers on port {row.port}" if ours is False else None


def _headers(box: Mailbox) -> dict[str, str]:
    key = box.world.secrets.get("api_key") if "api_key" in box.compiled.secrets else None
    return {"Authorization": f"Bearer {key}"} if key else {}
