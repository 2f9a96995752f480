"""qwend plugins"""

from __future__ import annotations

import json
import os

import click

from qwend.cli.acting import exit_with
from qwend.cli.failures import unknown
from qwend.cli.output import json_option, print_json, print_table
from qwend.cli.session import open_daemon
from qwend.cli.terminal import clean, count
from qwend.client import Json


@click.group("plugins", epilog="Example: qwend plugins ls llama-cpp/quantize")
def command() -> None:
    """Plugins: list, write, check. A plugin brings engines and sources."""


@command.command(
    epilog="Example: qwend plugins ls llama-cpp/quantize\n\nJSON: a list of objects with name, distribution, version, "
    "engines (name, kind, summary, accepts, params_schema), sources, problem; for an ENGINE that engine."
)
@click.argument("engine", required=False)
@json_option
def ls(engine: str | None, as_json: bool) -> None:
    """List plugins and their engines; with ENGINE, its parameters."""
    plugins = open_daemon().get("/v1/plugins")["plugins"]
    if engine is not None:
        found = find_engine(plugins, engine)
        if as_json:
            print_json(found)
        else:
            click.echo("\n".join(_engine(found)))
        return
    if as_json:
        print_json(plugins)
        return
    rows = [
        (one["name"], one["kind"], plugin["name"], one["summary"])
        for plugin in plugins
        for one in plugin["engines"]
    ]
    rows += [
        (f"{_scheme(source)}:", "source", plugin["name"], _summary(source))
        for plugin in plugins
        for source in plugin["sources"]
    ]
    print_table(rows, ("NAME", "KIND", "PLUGIN", "WHAT IT DOES"), empty="no plugin is installed")
    for plugin in plugins:
        if plugin.get("problem"):
            click.echo(clean(f"{plugin['name']} is left out: {plugin['problem']}", lines=False))


@command.command(epilog="Example: qwend plugins new qwend-vllm")
@click.argument("name")
@click.option("--in", "folder", default=".", metavar="FOLDER", help="Where the new folder is made.")
def new(name: str, folder: str) -> None:
    """Write a plugin named NAME to begin with: a package with one engine and a test that checks it."""
    from qwend.plugin.template import write

    for path in write(name, os.path.abspath(folder)):
        click.echo(clean(os.path.relpath(path)))


@command.command(
    epilog="Example: qwend plugins check llama-cpp\n\nJSON: an object with findings, a list of objects."
)
@click.argument("name")
@json_option
def check(name: str, as_json: bool) -> None:
    """Check the installed plugin NAME as its own tests would: names, schemas, purity, Launches that serialise."""
    findings = open_daemon().get("/v1/plugins", check=name)["findings"]
    if as_json:
        print_json({"findings": findings})
    else:
        for one in findings:
            click.echo(clean(_finding(one), lines=False))
        click.echo(count(len(findings), "finding") if findings else f"{clean(name, lines=False)} is well")
    exit_with(int(any(one.get("level", "error") == "error" for one in findings)))


def _finding(finding: Json) -> str:
    where = ": ".join(str(finding[key]) for key in ("level", "engine", "key") if finding.get(key))
    hint = f" ({finding['hint']})" if finding.get("hint") else ""
    return f"{where}: {finding['message']}{hint}" if where else f"{finding['message']}{hint}"


def find_engine(plugins: list[Json], name: str) -> Json:
    """The engine of that name; UsageError with the nearest one."""
    engines = {entry["name"]: entry for plugin in plugins for entry in plugin["engines"]}
    if name not in engines:
        raise unknown("engine", name, engines, see="qwend plugins ls")
    found: Json = engines[name]
    return found


def _engine(engine: Json) -> list[str]:
    schema = engine["params_schema"]
    lines = [f"{engine['name']} ({engine['kind']}): {engine['summary']}"]
    if engine["accepts"]:
        lines.append(f"from: {', '.join(engine['accepts'])}")
    required = set(schema.get("required", ()))
    wide = max(map(len, schema.get("properties", {})), default=0)
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else f"default {json.dumps(field.get('default'))}"
        choices = field.get("enum") or next(
            (one["enum"] for one in field.get("anyOf", ()) if "enum" in one), None
        )
        one_of = f"; one of {', '.join(map(str, choices))}" if choices else ""
        lines.append(f"  {name:<{wide}}  {field.get('description', '')} ({default}{one_of})")
    return [clean(line, lines=False) for line in lines]


def _scheme(source: object) -> object:
    return source.get("scheme") or source.get("name") if isinstance(source, dict) else source


def _summary(source: object) -> object:
    return source.get("summary", "") if isinstance(source, dict) else ""
