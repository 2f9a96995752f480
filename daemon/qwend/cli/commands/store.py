"""qwend store"""

from __future__ import annotations

import os
import time

import click

from qwend.cli import progress
from qwend.cli.acting import exit_with, settle
from qwend.cli.output import json_option, print_json, print_table
from qwend.cli.session import open_daemon
from qwend.cli.terminal import clean, size
from qwend.client import Json


@click.group("store", epilog="Example: qwend store ls")
def command() -> None:
    """Artifacts: list, verify, export, prune."""


@command.command(
    epilog="Example: qwend store ls\n\nJSON: a list of objects with digest, fingerprint, type, size, files, recipe, "
    "step, facts, metrics, created, location, referenced."
)
@json_option
def ls(as_json: bool) -> None:
    """List artifacts. What is `in place` are the user's own files, which are never removed."""
    artifacts = open_daemon().get("/v1/artifacts")["artifacts"]
    if as_json:
        print_json(artifacts)
        return
    rows = [
        (
            one["digest"][:12],
            one["type"],
            size(one["size"]),
            _when(one.get("created")),
            _made_by(one),
            "in place" if one.get("referenced") else "",
        )
        for one in artifacts
    ]
    print_table(
        rows, ("DIGEST", "TYPE", "SIZE", "CREATED", "FROM", ""), right=("SIZE",), empty="the store is empty"
    )


@command.command(
    epilog="Example: qwend store verify\n\nJSON: an object with checked, bad (a list of digest, path, problem, "
    "mend), exit_code."
)
@click.argument("digest", required=False)
@json_option
def verify(digest: str | None, as_json: bool) -> None:
    """Read stored files again and compare their digests; what is damaged is put aside and made again by `up`."""
    with progress.display() as shown:
        end = progress.follow(open_daemon().stream("POST", "/v1/store/verify", {"digest": digest}), shown)
    if as_json:
        print_json(end)
    else:
        for one in end.get("bad") or []:
            click.echo(clean(f"{one['digest'][:12]}/{one['path']}: {one['problem']}", lines=False))
        for mend in dict.fromkeys(one["mend"] for one in end.get("bad") or []):
            click.echo(clean(mend, lines=False))
        click.echo(f"{end.get('checked', 0)} checked, {len(end.get('bad') or [])} damaged")
    exit_with(settle(end))


@command.command(epilog="Example: qwend store export 3fa9c1d2 ./model\n\nJSON: an object with out.")
@click.argument("digest")
@click.argument("folder")
@json_option
def export(digest: str, folder: str, as_json: bool) -> None:
    """Put an artifact (DIGEST is the beginning of its digest) into FOLDER, linked where that can be."""
    answer = open_daemon().post("/v1/store/export", {"digest": digest, "out": os.path.abspath(folder)})
    if as_json:
        print_json(answer)
    else:
        click.echo(clean(answer["out"], lines=False))


@command.command(
    epilog="Example: qwend store prune --dry-run\n\nJSON: an object with removed (a list of digest, type, size), "
    "freed (bytes)."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--all", "everything", is_flag=True, help="Also what a recipe that is not running made last.")
@json_option
def prune(dry_run: bool, everything: bool, as_json: bool) -> None:
    """Remove artifacts that no run, service or recipe lock refers to."""
    answer = open_daemon().post("/v1/store/prune", {"dry_run": dry_run, "all": everything})
    if as_json:
        print_json(answer)
        return
    rows = [(one["digest"][:12], one["type"], size(one["size"])) for one in answer["removed"]]
    print_table(rows, ("DIGEST", "TYPE", "SIZE"), right=("SIZE",), empty="nothing to remove")
    if rows:
        click.echo(f"{size(answer['freed'])} {'would be' if dry_run else 'were'} freed")


def _when(created: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(created)) if created else ""


def _made_by(artifact: Json) -> str:
    return "/".join(artifact[key] for key in ("recipe", "step") if artifact.get(key))
