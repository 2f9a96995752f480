"""qwend fit"""

from __future__ import annotations

import os

import click

from qwend.cli.output import json_option, print_json, print_table
from qwend.cli.request import described_host
from qwend.cli.session import open_daemon
from qwend.cli.terminal import clean, size
from qwend.cli.writing import blaming_options


@click.command(
    "fit",
    epilog="Example: qwend fit hf:Qwen/Qwen2.5-7B-Instruct --context 32768\n\nJSON: an object with reference, type, "
    "facts, context, trained_context, host and fits, a list of objects with format, type, bits, place, verdict (fits, "
    "tight, too big, unknown), memory, weights, cache, headroom, capacity, longest_context, engines; "
    "taken (format, type, place) and recipe, its text; both null where nothing fits.",
)
@click.argument("reference", metavar="REF")
@click.option(
    "--context", type=click.IntRange(min=1), metavar="TOKENS", help="Length of the context; default: 8192."
)
@click.option("--format", "form", metavar="NAME", help="Show the recipe of this form (Q4_K_M, awq 4 bit).")
@click.option("--host", metavar="FILE", help="For the machine that `qwend doctor --json` described there.")
@json_option
def command(reference: str, context: int | None, form: str | None, host: str | None, as_json: bool) -> None:
    """Say which forms of a model fit this machine, which engines serve them, and the recipe that does.

    Only headers are read: nothing is downloaded. Memory is what serving takes: weights, cache and headroom.
    """
    body: dict[str, object] = {
        "reference": reference,
        "context": context,
        "format": form,
        "directory": os.getcwd(),
    }
    if host is not None:
        body["host"] = described_host(host)
    client = open_daemon()
    with blaming_options("", "REF"):
        answer = client.post("/v1/fit", body)
    if as_json:
        print_json(answer)
        return
    facts = answer["facts"]
    billions = (
        f"{facts['parameters'] / 1e9:.2f} billion weights" if facts.get("parameters") else "size unknown"
    )
    trained = f", trained for {answer['trained_context']} tokens" if answer["trained_context"] else ""
    click.echo(clean(f"{answer['reference']}: {answer['type']}, {billions}{trained}", lines=False))
    print_table(
        [
            (
                one["format"],
                one["type"].partition("/")[2],
                one["place"],
                "?" if one["memory"] is None else size(one["memory"]),
                "?" if one["capacity"] is None else size(one["capacity"]),
                one["verdict"],
                "?" if one["longest_context"] is None else one["longest_context"],
                ", ".join(one["engines"]),
            )
            for one in answer["fits"]
        ],
        ("FORMAT", "TYPE", "PLACE", "NEEDS", "HAS", f"AT {answer['context']}", "LONGEST", "SERVED BY"),
        right=("NEEDS", "HAS", "LONGEST"),
        empty="no engine here reads this model",
    )
    if answer["recipe"] is None:
        click.echo("nothing that fits is served here: a shorter context or a smaller model needs less")
        return
    taken = answer["taken"]
    click.echo(
        clean(
            f"\n# {taken['format']} in {taken['place']}; `--format NAME` shows another form\n{answer['recipe']}"
        )
    )
