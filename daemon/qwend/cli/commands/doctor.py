"""qwend doctor"""

from __future__ import annotations

import platform
import subprocess
import sys

import click

from qwend.cli.output import json_option, print_json
from qwend.cli.session import open_daemon, refuse_windows
from qwend.cli.terminal import clean, size
from qwend.cli.verbs import spelled
from qwend.client import Json


@click.command(
    "doctor",
    epilog="Example: qwend doctor\n\nJSON: an object with host, runtimes (a list of name, ready, detail, hint), home, "
    "disk, python, warnings.",
)
@click.option(
    "--rebuild", is_flag=True, help="Make a new state database from what a damaged one still holds."
)
@json_option
def command(rebuild: bool, as_json: bool) -> None:
    """Say what this machine can do, and what to install for more.

    With --rebuild, a damaged state database is set aside and made anew: artifacts are found by their manifests, what
    runs by its marks. The daemon must not run meanwhile.
    """
    refuse_windows()
    if rebuild:
        # The daemon itself does it: it alone may touch its state, and it takes the lock against another.
        sys.exit(
            subprocess.run([sys.executable, "-P", "-m", "qwend.daemon", "--rebuild"], check=False).returncode
        )
    answer = open_daemon().get("/v1/doctor")
    if as_json:
        print_json(answer)
    else:
        click.echo("\n".join(spelled(clean(line, lines=False)) for line in _lines(answer)))


def _lines(answer: Json) -> list[str]:
    host = answer["host"]
    lines = [
        f"machine   {host['system']} {host.get('os_version') or ''} on {host['machine']}, {host['cpus']} CPUs, "
        f"{size(host.get('memory')) or 'unknown'} memory ({size(host.get('memory_available')) or 'unknown'} free)",
    ]
    if "microsoft" in platform.release().lower():
        lines.append("          inside WSL2, as it should be on Windows")
    if host.get("chip"):
        lines.append(f"chip      {host['chip']}")
    lines += [f"gpu {gpu['index']}     {_gpu(gpu)}" for gpu in host.get("gpus") or ()]
    if not host.get("gpus"):
        lines.append("gpu       none seen")
    if host.get("driver"):
        lines.append(f"driver    {host['driver']} (CUDA {host.get('cuda') or 'unknown'})")
    lines.append(f"python    {answer.get('python')}")
    lines.append(f"home      {answer.get('home')}, {_disk(answer.get('disk'), host)}")
    for runtime in answer["runtimes"]:
        mark = "ready" if runtime["ready"] else "not ready"
        lines.append(
            f"runtime   {runtime['name']}: {mark}"
            + (f", {runtime['detail']}" if runtime.get("detail") else "")
        )
        if not runtime["ready"] and runtime.get("hint"):
            lines.append(f"          {runtime['hint']}")
    return lines + [f"warning   {warning}" for warning in answer.get("warnings") or ()]


def _gpu(gpu: Json) -> str:
    return f"{gpu['name']}, {size(gpu['memory'])} ({size(gpu.get('memory_free')) or 'unknown'} free), {gpu['uuid']}"


def _disk(disk: object, host: Json) -> str:
    free = (
        disk.get("free")
        if isinstance(disk, dict)
        else disk
        if isinstance(disk, int)
        else host.get("disk_free")
    )
    return f"{size(free)} free" if free is not None else "free space unknown"
