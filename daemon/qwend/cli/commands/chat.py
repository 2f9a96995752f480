"""qwend chat"""

from __future__ import annotations

import re
import shutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from qwend.chat import Conversation, Endpoint
from qwend.cli import plans, progress
from qwend.cli.acting import exit_with, settle
from qwend.cli.completing import name_option
from qwend.cli.request import RUNTIME, request_of, secret_values
from qwend.cli.results import API_KEY
from qwend.cli.session import find_recipe, find_step, open_daemon
from qwend.cli.talking import Talk, checked
from qwend.cli.terminal import clean
from qwend.cli.writing import blaming_options, single_step, split_pair
from qwend.client import Client, Json, quote
from qwend.errors import QwendError, UsageError

_REFERENCE = re.compile(r"[a-z]+:.+")
_GGUF = re.compile(r"\.gguf$|gguf", re.IGNORECASE)


@click.command(
    "chat",
    epilog="Example: qwend chat hf:Qwen/Qwen3-0.6B\n\nWith a pipe, one question is asked: echo Hi | qwend chat",
)
@click.argument("target", metavar="[STEP|REF]", required=False)
@name_option
@click.option("-m", "--message", metavar="TEXT", help="Ask this, print the answer, and leave.")
@click.option("--system", metavar="TEXT", help="What the system says.")
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="A setting of the API: temperature=0."
)
@click.option("--engine", metavar="ENGINE", help="For a REF: what serves it; default: what fits.")
@click.option(
    "--with", "parameters", multiple=True, metavar="KEY=VALUE", help="For a REF: a parameter of the engine."
)
@click.option("--keep", is_flag=True, help="For a REF: leave it running afterwards.")
@click.option(
    "--runtime",
    type=RUNTIME,
    help="For a REF: where it runs.",
)
@click.option(
    "--secret", "secrets", multiple=True, metavar="NAME[=@FILE]", help="The API key, if one is demanded."
)
def command(
    target: str | None,
    name: str | None,
    message: str | None,
    system: str | None,
    sets: tuple[str, ...],
    engine: str | None,
    parameters: tuple[str, ...],
    keep: bool,
    runtime: str | None,
    secrets: tuple[str, ...],
) -> None:
    """Talk to a service: to STEP (default: the only one that is ready), or to a model by its REF.

    REF (hf:owner/repo, modelscope:…, ollama:name, file:path, smoke:qwen3) needs no recipe: it is served, and stopped
    when the chat is over.
    """
    settings = {key: checked(key, value) for key, value in (split_pair(text, "--set") for text in sets)}
    key = secret_values(secrets).get(API_KEY)
    question = _question(message)
    client = open_daemon()
    if target is not None and _REFERENCE.fullmatch(target):
        text = _recipe(client, target, engine, parameters)
        with _served(client, text, keep=keep, runtime=runtime or _runtime(text)) as row:
            code = _talk(Conversation(_endpoint(row, key), system, settings), question)
    else:
        if engine or parameters or keep:
            raise UsageError(
                "--engine, --with and --keep are for a REF", code="no-reference", hint="qwend chat hf:…"
            )
        code = _talk(Conversation(_endpoint(_find(client, target, name), key), system, settings), question)
    exit_with(code)


def _question(message: str | None) -> str | None:
    """What is asked at once: the message, else what a pipe brings; None at a terminal, where a chat begins. It is read
    before anything is served."""
    if message is None and sys.stdin.isatty():
        return None
    question = message if message is not None else sys.stdin.read()
    if not question.strip():
        raise UsageError("there is no question", code="no-question", hint="echo 'Who are you?' | qwend chat")
    return question.strip("\n")


def _talk(conversation: Conversation, question: str | None) -> int:
    """A chat; or one question, whose answer alone goes to stdout."""
    if question is None:
        return Talk(conversation).go()
    Talk(conversation, figures=False).ask(question)
    return 0


def _find(client: Client, target: str | None, name: str | None) -> Json:
    """The service that is meant: STEP or NAME/STEP, else the only ready one."""
    if target is not None:
        row = find_step(client, target, name)
        if row["kind"] != "service":
            raise UsageError(f"{target} is a {row['kind']}, which nobody can talk to", code="no-service")
        return _ready(row)
    recipe = find_recipe(client, name) if name else None
    rows = client.get("/v1/steps", recipe=recipe)["steps"]
    services = [row for row in rows if row["kind"] == "service"]
    ready = [row for row in services if row["state"] == "ready"]
    if len(ready) == 1:
        return dict(ready[0])
    if ready:
        names = ", ".join(sorted(f"{row['recipe']}/{row['step']}" for row in ready))
        raise UsageError(
            f"which service? {names} are ready", code="which-service", hint="qwend chat NAME/STEP"
        )
    if len(services) == 1:
        return _ready(services[0])
    raise UsageError(
        "no service is ready", code="no-service", hint="qwend up -d FILE.yaml, or qwend chat hf:owner/repo"
    )


def _ready(row: Json) -> Json:
    if row["state"] in ("ready", "unhealthy", "idle") and row.get("url"):
        return row
    why = f" ({row['reason']})" if row.get("reason") else ""
    starts = f"qwend start {row['recipe']}/{row['step']}"
    raise UsageError(f"{row['step']} is {row['state']}{why}", code="not-ready", hint=starts)


def _endpoint(row: Json, key: str | None) -> Endpoint:
    return Endpoint(str(row["url"]), str(row["step"]), key)


def _recipe(client: Client, reference: str, engine: str | None, parameters: tuple[str, ...]) -> str:
    """The recipe that serves a model; it is printed, so that it can be kept."""
    pairs = dict(split_pair(text, "--with") for text in parameters)
    digest = zlib.crc32("\0".join((reference, engine or "", *parameters)).encode())
    text = single_step(
        engine or _engine(client, reference),
        name=f"chat_{digest:08x}",
        sources=(reference,),
        datasets=False,
        parameters=pairs,
        out=None,
    )
    text = re.sub(r"(?m)^  [a-z_]+:\n(    uses:)", r"  chat:\n\1", text)  # the step's name is the model's
    click.echo(clean(text), err=True)
    return text


def _engine(client: Client, reference: str) -> str:
    """What serves a reference here: llama.cpp a GGUF, vLLM a checkpoint on a card, transformers elsewhere."""
    known = {one["name"] for plugin in client.get("/v1/plugins")["plugins"] for one in plugin["engines"]}
    if reference.startswith("ollama:") and "ollama/serve" in known:
        return "ollama/serve"
    if _GGUF.search(reference.partition("@")[0]):
        return "llama-cpp/serve"
    cards = (client.get("/v1/doctor").get("host") or {}).get("gpus")
    wanted = "vllm/serve" if cards else "transformers/serve"
    return wanted if wanted in known else "llama-cpp/serve"


def _runtime(text: str) -> str | None:
    """Where nobody said it: the Ollama that is installed here goes before one in a container."""
    return "native" if "uses: ollama/serve" in text and shutil.which("ollama") else None


@contextmanager
def _served(client: Client, text: str, *, keep: bool, runtime: str | None) -> Iterator[Json]:
    """The row of the one service of a recipe, while it is up; it is stopped afterwards unless it is kept or ran
    before."""
    request = request_of([{"path": "-", "text": text}], directory=".", kept=keep, runtime=runtime)
    run: list[str] = []
    try:
        with blaming_options("chat"), progress.display() as shown:
            end = progress.follow(_met(client.stream("POST", "/v1/runs", request), run), shown)
            code = settle(end)
        rows = [row for row in end.get("steps") or [] if row["kind"] == "service"]
        if code or not rows:
            raise QwendError("it could not be served", code="not-served", hint="qwend ps")
        yield _ready(rows[0])
    finally:
        if run and not keep:
            with suppress(QwendError):
                Client(client.path, timeout_s=None).post(f"/v1/runs/{quote(run[0])}/release", {"kill": False})


def _met(stream: Iterator[Json], run: list[str]) -> Iterator[Json]:
    for item in stream:
        if "plan" in item:
            for line in plans.remarks(item):
                click.echo(clean(line), err=True)
            plans.refuse(item)
        elif item.get("run"):
            run.append(str(item["run"]))
        yield item
