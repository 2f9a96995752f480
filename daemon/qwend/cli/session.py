"""A command's connection to the daemon, and which recipe and step it means."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

import click

from qwend import __version__
from qwend.cli.failures import unknown
from qwend.cli.terminal import clean
from qwend.cli.verbs import spelled
from qwend.client import Client, Json
from qwend.connecting import connect
from qwend.errors import UsageError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_STEP = re.compile(r"[a-z][a-z0-9_]*(\[[^]]*\])?(/[a-z][a-z0-9_]*(\[[^]]*\])?)?")
_NAME_LINE = re.compile(r"^name\s*:\s*[\"']?([a-z][a-z0-9_]*)", re.MULTILINE)
DEFAULT_RECIPE = "qwend.yaml"


def open_daemon(*, start: bool = True) -> Client:
    """A Client; a daemon is started if none runs, and offered a restart if it is of another version."""
    refuse_windows()
    return connect(start=start, outdated=_outdated, unheeded=_note)


def refuse_windows() -> None:
    """Raises UsageError on Windows itself: there is no daemon for it."""
    if sys.platform == "win32":
        raise UsageError(
            "Windows runs qwend in WSL2",
            code="unsupported-system",
            hint="`wsl --install`, then use qwend inside it",
        )


def _note(text: str) -> None:
    click.echo(f"qwend: {spelled(clean(text, lines=False))}", err=True)


def _outdated(hello: Json) -> bool:
    says = f"the daemon is qwend {hello.get('version')}, this is {__version__}"
    if sys.stdin.isatty() and sys.stderr.isatty():
        return click.confirm(f"{says}. Restart it? Services live on", default=True, err=True)
    mend = spelled("`qwend daemon stop && qwend daemon start` renews it, services live on")
    click.echo(f"qwend: {says}; {mend}", err=True)
    return False


def is_recipe_file(text: str) -> bool:
    return text.endswith((".yaml", ".yml"))


def recipe_files(files: Sequence[str], positionals: Sequence[str]) -> tuple[list[str], list[str]]:
    """The recipe files that are meant and the positionals that are left: `-f`, else a first positional that
    ends in .yaml, else `qwend.yaml` here."""
    if files:
        return list(files), list(positionals)
    if positionals and is_recipe_file(positionals[0]):
        return [positionals[0]], list(positionals[1:])
    if positionals:
        _refuse_path(positionals[0])
    if os.path.exists(DEFAULT_RECIPE):
        return [DEFAULT_RECIPE], list(positionals)
    return [], list(positionals)


def _refuse_path(text: str) -> None:
    """Raises UsageError for what is meant as a recipe's path and does not look like one: else it would be sought
    among the steps."""
    for ending in (".yaml", ".yml", f"/{DEFAULT_RECIPE}"):
        if os.path.isfile(text.rstrip("/") + ending):
            meant = text.rstrip("/") + ending
            raise UsageError(f"{text} is no recipe file", code="no-such-file", hint=f"did you mean {meant}?")
    if os.path.isdir(text) and not _STEP.fullmatch(text):
        raise UsageError(
            f"{text} is a folder without a {DEFAULT_RECIPE}", code="no-recipe", hint="name its file"
        )
    if os.path.isfile(text):
        raise UsageError(
            f"{text} does not end in .yaml, and is taken for a step", code="no-recipe", hint=f"-f {text}"
        )
    if not _STEP.fullmatch(text):
        raise UsageError(
            f"{text} is neither a recipe file (it ends in .yaml) nor the name of a step", code="no-recipe"
        )


def find_recipe(client: Client, name: str | None, files: Sequence[str] = ()) -> str:
    """The name of the recipe that is meant: `-p NAME`, that of the files, of `qwend.yaml` here, or the only one."""
    known = client.get("/v1/recipes")["recipes"]
    names = [recipe["name"] for recipe in known]
    if name is not None:
        if name not in names:
            raise unknown("recipe", name, names, see="qwend ls")
        return name
    files, _ = recipe_files(files, ())
    if files:
        return _of_file(files, known)
    alive = [recipe["name"] for recipe in known if recipe.get("state") not in _OVER] or names
    if len(alive) == 1:
        return str(alive[0])
    if not alive:
        raise UsageError("no recipe is known here", code="no-recipe", hint="name one: qwend up FILE.yaml")
    raise UsageError(
        f"which recipe? {', '.join(sorted(alive))} are there", code="which-recipe", hint="say it with -p NAME"
    )


_OVER = {"stopped", "done", "failed", "cancelled"}


def find_step(client: Client, text: str, name: str | None = None, files: Sequence[str] = ()) -> Json:
    """The row of the step that STEP or NAME/STEP means."""
    before, slash, after = text.partition("/")
    if slash and _NAME.fullmatch(before):
        name, text = find_recipe(client, before), after
    rows: list[Json] = client.get("/v1/steps")["steps"]
    found = [row for row in rows if row["step"] == text and name in (None, row["recipe"])]
    if len(found) == 1:
        return found[0]
    if found:
        recipe = find_recipe(client, None, files)
        return next(row for row in found if row["recipe"] == recipe)
    mine = [row["step"] for row in rows if name in (None, row["recipe"])]
    if not mine:
        if name is not None:
            find_recipe(client, name)
        raise UsageError(
            f'no step "{text}": no recipe has run here', code="no-such-step", hint="qwend up FILE.yaml"
        )
    raise unknown("step", text, mine, see="qwend ps")


def _of_file(files: Sequence[str], known: Sequence[Json]) -> str:
    """The recipe that came from the file; else the name that the file gives itself."""
    path = os.path.abspath(files[-1])
    for recipe in known:
        if recipe.get("source") == path:
            return str(recipe["name"])
    found = _NAME_LINE.search(read_text(files[-1]))
    if found is None:
        raise UsageError(
            "the recipe has no name", where=files[-1], code="no-name", hint="name: what_you_call_it"
        )
    return found[1]


def read_text(path: str) -> str:
    """The text of a recipe file; `-` is standard input."""
    try:
        if path == "-":
            return sys.stdin.read()
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise UsageError("there is no such file", where=path, code="no-such-file") from None
    except UnicodeDecodeError:
        raise UsageError("the file is not UTF-8 text", where=path, code="unreadable") from None
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror}", where=path, code="unreadable") from None
