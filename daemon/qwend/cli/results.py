"""What a run has come to: a table, and how to talk to what it serves."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from qwend.cli.terminal import clean, duration, paint, size, table
from qwend.client import Json

API_KEY = "api_key"
"""The secret that a service takes as its key."""


def steps_table(steps: Sequence[Json]) -> str:
    """Step, state, time, size, url."""
    rows = [
        (row["step"], row["state"], duration(row.get("seconds")), size(row.get("size")), row.get("url"))
        for row in steps
    ]
    return table(rows, ("STEP", "STATE", "TIME", "SIZE", "URL"), right=("TIME", "SIZE"))


def unchanged(recipe: str, steps: Sequence[Json]) -> str:
    """The line of an `up` that found nothing to do."""
    served = [f"{row['step']} at {row['url']}" for row in steps if row.get("url")]
    return clean(
        f"{recipe}: nothing to do" + (f"; {', '.join(served)}" if served else ", all is there"), lines=False
    )


def failures(steps: Sequence[Json]) -> list[str]:
    """A line for every step that is not well."""
    return [
        clean(f"{row['step']}: {row['state']}: {row['reason']}", lines=False)
        for row in steps
        if row["state"] == "failed"
    ]


def notices(plan: Json) -> list[str]:
    """What is said loudly of the steps of a plan: that a model is a made-up one, say."""
    steps = plan.get("compiled", {}).get("steps", [])
    return [paint(clean(text, lines=False), "yellow") for step in steps for text in step["notices"]]


def builds(told: Json) -> list[str]:
    """What became of the images that were being built for what is stopped."""
    ended = [
        f"the build of image {name} is ended; what it fetched is kept"
        for name in told.get("builds_ended") or ()
    ]
    names = told.get("builds_going_on") or ()
    return [clean(line, lines=False) for line in ended] + [
        clean(f"image {name} is built on: something else waits for it", lines=False) for name in names
    ]


def closing(steps: Sequence[Json], plan: Json, key: str | None) -> list[str]:
    """Loud notices, then a `curl` line for every service that speaks the OpenAI API. `key` is what a shell makes
    the API key of."""
    compiled = {step["name"]: step for step in plan.get("compiled", {}).get("steps", [])}
    lines = notices(plan)
    for row in steps:
        step = compiled.get(row["step"])
        if row.get("url") and step is not None and step["api"] == "openai":
            locked = API_KEY in step["secrets"]
            lines.append(curl(row, (key or f"${API_KEY.upper()}") if locked else None))
    return lines


def curl(row: Json, key: str | None = None) -> str:
    """A line that asks the service one question, as it is pasted into a shell."""
    body = json.dumps({"model": row["step"], "messages": [{"role": "user", "content": "Who are you?"}]})
    bearer = f' -H "Authorization: Bearer {key}"' if key else ""
    url = f"{row['url']}/v1/chat/completions"
    return f"curl -s {url} -H 'Content-Type: application/json'{bearer} -d {shlex.quote(body)}"
