"""qwend images"""

from __future__ import annotations

import subprocess
import sys

import click

from qwend.cli import progress
from qwend.cli.acting import exit_with, settle
from qwend.cli.checkout import in_checkout
from qwend.cli.output import json_option, print_json, print_table
from qwend.cli.session import open_daemon
from qwend.cli.terminal import clean, count, size
from qwend.errors import QwendError, UsageError


@click.group("images", epilog="Example: qwend images ls")
def command() -> None:
    """Images: list, build, lock, verify, prune.

    An image is a lock; it is realised as a locked environment (venv) or as a container image (oci).
    """


@command.command(
    epilog="Example: qwend images ls\n\nJSON: a list of objects with name, flavour, digest, kind, location, "
    "state, size, key, options. States: ready; outdated (made from what its folder was before), superseded (a newer "
    "one took its name), unfinished (a build was cut off)."
)
@json_option
def ls(as_json: bool) -> None:
    """List images and what has been realised of them here."""
    images = open_daemon().get("/v1/images")["images"]
    if as_json:
        print_json(images)
        return
    rows = [
        (
            one["name"],
            one["flavour"],
            (one["digest"] or "")[:12],
            one["kind"],
            one["state"],
            size(one["size"]),
            one["location"],
        )
        for one in images
    ]
    headers = ("NAME", "FLAVOUR", "DIGEST", "KIND", "STATE", "SIZE", "WHERE")
    print_table(rows, headers, right=("SIZE",), empty="no image is realised here yet")


@command.command(
    epilog="Example: qwend images build llama-cpp --flavour cpu\n\nJSON: an object with built and failed (lists), "
    "exit_code."
)
@click.argument("names", metavar="[IMAGE]...", nargs=-1)
@click.option("--flavour", metavar="NAME", help="cpu, cuda, apple …; default: what fits this machine.")
@click.option(
    "--runtime",
    type=click.Choice(["docker", "native"]),
    help="For this runtime; default: the one that `up` takes.",
)
@json_option
def build(names: tuple[str, ...], flavour: str | None, runtime: str | None, as_json: bool) -> None:
    """Realise images ahead of time; without names, all. What is there already is not built again."""
    body = {"names": list(names), "flavour": flavour, "runtime": runtime}
    with progress.display() as shown:
        end = progress.follow(open_daemon().stream("POST", "/v1/images/build", body), shown)
    code = settle(end)
    if as_json:
        print_json(end)
    else:
        rows = [
            (one["name"], one["flavour"], one["kind"], size(one["size"]), one["location"])
            for one in end.get("built") or []
        ]
        if rows:
            print_table(rows, ("NAME", "FLAVOUR", "KIND", "SIZE", "WHERE"), right=("SIZE",), empty="")
        for one in end.get("failed") or []:
            lines = QwendError.from_dict(one["error"]).lines()
            click.echo(clean(f"{one['name']}: {'; '.join(lines)}", lines=False), err=True)
    exit_with(code)


@command.command(epilog="Example: qwend images lock llama-cpp cpu --upgrade gguf")
@click.argument("image", required=False)
@click.argument("flavour", required=False)
@click.option("--write", is_flag=True, help="Keep the new lock; default: only show what would change.")
@click.option("--upgrade", multiple=True, metavar="PACKAGE", help="Let this package move.")
@click.option("--upgrade-all", is_flag=True, help="Let everything move.")
def lock(
    image: str | None, flavour: str | None, write: bool, upgrade: tuple[str, ...], upgrade_all: bool
) -> None:
    """Resolve the locks of IMAGE (a name, or an image folder of your own) again, and show the difference.

    Without FLAVOUR all that it has, without IMAGE every image: what does not resolve is told, and the rest goes on.
    """
    script = in_checkout("images/lock.py")
    if script is None:
        raise UsageError(
            "locks are resolved in a checkout of qwend; an installed one only uses them", code="no-checkout"
        )
    words = [*filter(None, (image, flavour)), *(["--write"] if write else [])]
    words += [word for package in upgrade for word in ("--upgrade", package)]
    exit_with(
        subprocess.run(
            [sys.executable, script, *words, *(["--upgrade-all"] if upgrade_all else [])]
        ).returncode
    )


@command.command(
    epilog="Example: qwend images verify\n\nJSON: an object with differences (a list of image, difference), exit_code."
)
@click.argument("names", metavar="[IMAGE]...", nargs=-1)
@json_option
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Compare what is installed in realised images with their locks."""
    with progress.display() as shown:
        end = progress.follow(
            open_daemon().stream("POST", "/v1/images/verify", {"names": list(names)}), shown
        )
    differences = end.get("differences") or []
    if as_json:
        print_json(end)
    else:
        for one in differences:
            click.echo(clean(f"{one['image']}: {one['difference']}", lines=False))
        checked = end.get("checked") or 0
        well = f"{count(checked, 'image')}: as {'its lock says' if checked == 1 else 'their locks say'}"
        click.echo(count(len(differences), "difference") if differences else well)
    exit_with(settle(end) or int(bool(differences)))


@command.command(
    epilog="Example: qwend images prune --dry-run\n\nJSON: an object with removed and freed, in bytes."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
def prune(dry_run: bool, as_json: bool) -> None:
    """Remove realised images that no recipe here uses any more, and what cut-off builds left.

    An image that a container was made from stays.
    """
    answer = open_daemon().post("/v1/images/prune", {"dry_run": dry_run})
    if as_json:
        print_json(answer)
        return
    removed = answer.get("removed") or []
    if removed:
        print_table(
            [(one["key"], one["kind"], size(one["size"])) for one in removed],
            ("IMAGE", "KIND", "SIZE"),
            right=("SIZE",),
            empty="",
        )
    freed = f"{size(answer.get('freed') or 0)} {'would be' if dry_run else 'were'} freed"
    click.echo(freed if removed else "nothing to remove")
