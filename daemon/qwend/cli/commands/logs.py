"""qwend logs"""

from __future__ import annotations

import codecs
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import click

from qwend.cli.completing import name_option, optional_step
from qwend.cli.output import print_line
from qwend.cli.session import find_recipe, find_step, is_recipe_file, open_daemon
from qwend.cli.terminal import clean
from qwend.client import Client, Json, quote
from qwend.errors import UsageError

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command("logs", epilog="Example: qwend logs -f chat\n\nJSON: one object a line, with step and line.")
@optional_step
@name_option
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--since", metavar="SPAN", help="Only a log that was written to in this time: 90s, 10m, 2h.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(
    words: tuple[str, ...], name: str | None, follow: bool, tail: int | None, since: str | None, as_json: bool
) -> None:
    """Show the log of STEP: what its program wrote to stdout and stderr.

    Without STEP, the logs of all steps of the recipe one after the other, each line with its step; -f then follows
    the service, if it is the only one.
    """
    files, steps = _split(words)
    begin = None if since is None else time.time() - _seconds(since)
    client = open_daemon()
    if files and name is None:
        name = find_recipe(client, None, files)
    rows = [find_step(client, steps[0], name)] if steps else _all(client, name, follow)
    for row in rows:
        _show(
            client.text(
                f"/v1/logs/{quote(row['recipe'])}/{quote(row['step'])}", follow=follow, tail=tail, since=begin
            ),
            row,
            prefix=f"{row['step']} | " if len(rows) > 1 else "",
            as_json=as_json,
        )


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """A recipe file, which comes first, and a step."""
    files = [word for word in words[:1] if is_recipe_file(word)]
    steps = list(words[len(files) :])
    if len(steps) > 1:
        raise UsageError(
            f"logs shows one step, or all of a recipe; {len(steps)} were named", hint="qwend logs STEP"
        )
    return files, steps


def _all(client: Client, name: str | None, follow: bool) -> list[Json]:
    """The steps of a recipe that wrote a log; the one to follow, where one is followed."""
    recipe = find_recipe(client, name)
    rows = [row for row in client.get("/v1/steps", recipe=recipe)["steps"] if row.get("log")]
    if not rows:
        raise UsageError(f"no step of {recipe} has run: there is no log", code="no-log", hint="qwend ps")
    if not follow or len(rows) == 1:
        return rows
    growing = [row for row in rows if row["state"] in _GROWING]
    if len(growing) == 1:
        return growing
    names = ", ".join(row["step"] for row in growing or rows)
    raise UsageError(f"-f follows one step: {names}", code="which-step", hint="qwend logs -f STEP")


_GROWING = {"running", "starting", "ready", "unhealthy", "stopping"}


def _show(blocks: Iterator[bytes], row: Json, *, prefix: str, as_json: bool) -> None:
    if as_json:
        for line in _lines(blocks):
            print_line({"step": f"{row['recipe']}/{row['step']}", "line": line})
    elif sys.stdout.isatty() or prefix:
        for line in _lines(blocks):
            click.echo(prefix + clean(line))
    else:
        for block in blocks:
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()


def _seconds(text: str) -> float:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise UsageError(
            f'--since: "{text}" is no time span', code="bad-span", hint="write it as 90s, 10m, 2h"
        )
    return float(match[1]) * _SECONDS[match[2]]


def _lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """The lines of a stream; bytes that are not UTF-8 are replaced."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for block in blocks:
        *lines, rest = (rest + decoder.decode(block)).split("\n")
        yield from lines
    if rest:
        yield rest
