"""qwend init"""

from __future__ import annotations

import os
import re
import shlex

import click

from qwend.cli.checkout import recipes_folder
from qwend.cli.failures import unknown
from qwend.cli.session import DEFAULT_RECIPE, read_text
from qwend.cli.terminal import clean, table
from qwend.cli.verbs import spelled
from qwend.cli.writing import name_of
from qwend.errors import UsageError

_NAME_LINE = re.compile(r"^name:\s*(\S+)", re.MULTILINE)
_EXAMPLE = re.compile(r"^(#\s+)(qwend .*?)(\s{2,}(?=\S)|$)", re.MULTILINE)


@click.command("init", epilog="Example: qwend init gguf")
@click.argument("template", default="quickstart")
@click.option("--list", "only_list", is_flag=True, help="List the recipes to begin with.")
@click.option(
    "-o",
    "--out",
    default=DEFAULT_RECIPE,
    metavar="FILE",
    help=f"Where to write it; default: {DEFAULT_RECIPE}.",
)
def command(template: str, only_list: bool, out: str) -> None:
    """Write a first recipe here, made of the ready recipe TEMPLATE (default: quickstart).

    It gets the name of this folder; nothing that exists is overwritten.
    """
    folder = recipes_folder()
    names = sorted(name.removesuffix(".yaml") for name in os.listdir(folder) if name.endswith(".yaml"))
    if only_list:
        rows = [(name, _first_comment(os.path.join(folder, f"{name}.yaml"))) for name in names]
        click.echo(table(rows, ("TEMPLATE", "WHAT IT DOES")))
        return
    if template not in names:
        raise unknown("template", template, names, see="qwend init --list")
    text = read_text(os.path.join(folder, f"{template}.yaml"))
    name = name_of(os.path.basename(os.path.dirname(os.path.abspath(out))))
    text = _renamed(text, template, name, out)
    try:
        with open(out, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(
            "it is there already", where=out, code="exists", hint="write it elsewhere with --out FILE"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write it: {error.strerror}", where=out, code="unwritable") from None
    also = "" if out == DEFAULT_RECIPE else f" {out}"
    click.echo(
        spelled(clean(f"wrote {out}; look at it, then: qwend plan{also}, qwend up{also}", lines=False))
    )


def _renamed(text: str, template: str, name: str, out: str) -> str:
    """The ready recipe under its new name and in its new file, in the examples of its header as well."""
    old = _NAME_LINE.search(text)
    before = re.escape(old[1]) if old else re.escape(template)
    file = "" if out == DEFAULT_RECIPE else f" {shlex.quote(out)}"

    def example(found: re.Match[str]) -> str:
        command = re.sub(rf" recipes/{re.escape(template)}\.yaml\b", lambda _: file, found[2])
        command = re.sub(rf"(-p |report |inspect |logs -f |logs ){before}\b", rf"\g<1>{name}", command)
        room = len(found[2]) + len(found[3]) - len(command)
        return found[1] + command + (" " * max(room, 2) if found[3] else "")

    header, version, body = text.partition("\nversion:")
    header = re.sub(rf"\bqwend/{before}-", f"qwend/{name}-", _EXAMPLE.sub(example, header))
    return _NAME_LINE.sub(f"name: {name}", header + version + body, count=1)


def _first_comment(path: str) -> str:
    first = read_text(path).partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
