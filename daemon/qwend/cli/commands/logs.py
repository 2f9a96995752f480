"""qwend logs"""

from __future__ import annotations

import codecs
import re
import sys
import time
from collections.abc import Iterable, Iterator

import click

from qwend.cli.completing import name_option, step_argument
from qwend.cli.output import print_line
from qwend.cli.session import find_step, open_daemon
from qwend.cli.terminal import clean
from qwend.client import quote
from qwend.errors import UsageError

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command("logs", epilog="Example: qwend logs -f chat\n\nJSON: one object a line, with step and line.")
@step_argument
@name_option
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--since", metavar="SPAN", help="Only a log that was written to in this time: 90s, 10m, 2h.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(
    step: str, name: str | None, follow: bool, tail: int | None, since: str | None, as_json: bool
) -> None:
    """Show the log of STEP: what its program wrote to stdout and stderr."""
    begin = None if since is None else time.time() - _seconds(since)
    client = open_daemon()
    row = find_step(client, step, name)
    blocks = client.text(
        f"/v1/logs/{quote(row['recipe'])}/{quote(row['step'])}", follow=follow, tail=tail, since=begin
    )
    if as_json:
        for line in _lines(blocks):
            print_line({"step": f"{row['recipe']}/{row['step']}", "line": line})
    elif sys.stdout.isatty():
        for line in _lines(blocks):
            click.echo(clean(line))
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
