"""qwend inspect"""

from __future__ import annotations

import re
import time

import click

from qwend.cli.completing import name_option, step_argument
from qwend.cli.output import json_option, print_json
from qwend.cli.session import find_step, open_daemon
from qwend.cli.terminal import clean, duration, size
from qwend.client import Client, Json, quote
from qwend.errors import UsageError

_CLOCKS = {"started", "ended", "created", "ready", "at"}
_SIZES = {"bytes", "size", "peak_memory"}
_SPANS = {"seconds"}
_AS_GIVEN = {"parameters", "with"}
"""What the user wrote stays as it was written."""
_DIGEST = re.compile(r"(?:sha256:)?[0-9A-Fa-f]{4,64}")


@click.command(
    "inspect",
    epilog="Example: qwend inspect q4\n\nJSON: for a step an object with row (as in ps), compiled and artifact; for an "
    "artifact the artifact: digest, fingerprint, type, files, size, facts, metrics, provenance, created, location.",
)
@step_argument
@name_option
@json_option
def command(step: str, name: str | None, as_json: bool) -> None:
    """Show a step or an artifact (STEP is its name or the beginning of a digest), with its provenance."""
    client = open_daemon()
    found = _look_up(client, step, name)
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(_step(found) if "row" in found else _artifact(found)))


def _look_up(client: Client, text: str, name: str | None) -> Json:
    try:
        row = find_step(client, text, name)
    except UsageError as unknown:
        if not _DIGEST.fullmatch(text):
            raise
        try:
            return client.get(f"/v1/artifacts/{quote(text)}")
        except UsageError as error:
            if error.code == "no-such-artifact" and text.isalpha():
                raise unknown from None  # more likely a word than a digest
            raise
    return client.get(f"/v1/steps/{quote(row['recipe'])}/{quote(row['step'])}")


def _step(found: Json) -> list[str]:
    row, compiled, artifact = found["row"], found.get("compiled") or {}, found.get("artifact")
    lines = [
        f"{row['recipe']}/{row['step']}  ({row['kind']})",
        *_pairs(
            {
                "engine": row["engine"],
                "state": f"{row['state']}  {row.get('reason') or ''}".strip(),
                "runtime": f"{row.get('runtime') or ''}  {compiled.get('chosen') or ''}".strip(),
                "image": row.get("image"),
                "url": row.get("url"),
                "pid": row.get("pid"),
                "time": duration(row.get("seconds")),
                "command": " ".join(compiled.get("command") or ()),
                "inputs": ", ".join(compiled.get("inputs") or ()),
                "fingerprint": row.get("fingerprint"),
                "log": row.get("log"),
            }
        ),
    ]
    if compiled.get("options"):
        lines += ["with", *_pairs(compiled["options"], given=True)]
    return lines + (["", *_artifact(artifact)] if artifact else [])


def _artifact(artifact: Json) -> list[str]:
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(artifact.get("created", 0)))
    files = artifact.get("files") or []
    lines = [
        f"artifact {artifact['digest']}  ({artifact['type']})",
        *_pairs(
            {
                "size": size(artifact["size"]),
                "created": created,
                "location": artifact.get("location"),
                "files": len(files) or None,
                "fingerprint": artifact.get("fingerprint"),
            }
        ),
    ]
    for title in ("facts", "metrics", "provenance"):
        if artifact.get(title):
            lines += [title, *_pairs(artifact[title])]
    return lines


def _shown(name: str, value: object) -> str:
    """A value for people: bytes, spans and times of the clock by the names under which artifacts keep them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if name in _CLOCKS and value > 1e9:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if name in _SIZES or name.endswith("_bytes"):
        return size(value)
    if name in _SPANS or name.endswith("_s"):
        return duration(value)
    return str(value)


def _pairs(values: Json, *, given: bool = False) -> list[str]:
    """Aligned `name  value` lines; what is empty is left out, a table is indented below its name. `given`: these are
    the user's own words."""
    shown = {
        clean(name, lines=False): value for name, value in values.items() if value not in (None, "", [], {})
    }
    wide = max(map(len, shown), default=0)
    lines = []
    for name, value in shown.items():
        if isinstance(value, dict):
            lines += [f"  {name}", *(f"  {line}" for line in _pairs(value, given=given or name in _AS_GIVEN))]
        else:
            shown_as = str(value) if given else _shown(name, value)
            text = ", ".join(map(str, value)) if isinstance(value, list) else shown_as
            lines.append(f"  {name:<{wide}}  {clean(text, lines=False)}")
    return lines
