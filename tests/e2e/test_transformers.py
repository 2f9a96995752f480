"""transformers end to end on the smoke model: a batch that is killed and goes on, an adapter, a key, a chat."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Qwend
from tests.e2e.terminal import WAIT_S, terminal

from qwend.plugin import load_image

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.engine("transformers", "serving", images=["transformers"]),
]

BATCH = """
version: 1
name: batch
models: {base: smoke:qwen2}
datasets: {questions: file:questions.jsonl}
steps:
  answers:
    uses: transformers/batch
    from: base
    with: {prompts: questions, max_tokens: 24, temperature: 0, batch_size: 1, context: 512}
    out: ./answers
"""
TAUGHT = """
version: 1
name: taught
models: {base: smoke:qwen2}
datasets: {story: file:text.txt}
steps:
  taught: {uses: transformers/smoke, from: base, with: {text: story, max_steps: 12}}
  chat: {uses: transformers/serve, from: taught, with: {context: 256}}
"""
SERVE = """
version: 1
name: keyed
models: {base: smoke:qwen3}
steps:
  chat:
    uses: transformers/serve
    from: base
    with: {context: 256, served_model_name: [gpt], reasoning: true}
    secrets: [api_key]
"""


def questions(folder: Path, count: int, *more: Any) -> list[Any]:
    rows = [{"prompt": f"What did the baker do at {hour} o'clock?", "hour": hour} for hour in range(count)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    return [*rows, *more]


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers" / "results.jsonl").read_text().splitlines()]


def figures(qwend: Qwend) -> dict[str, float]:
    found: dict[str, float] = qwend.json("inspect", "answers")["artifact"]["metrics"]
    return found


def test_a_batch_that_is_killed_goes_on_and_new_prompts_alone_are_asked(qwend: Qwend) -> None:
    rows = questions(qwend.folder, 40)
    (qwend.folder / "batch.yaml").write_text(BATCH)
    up = qwend.start("up", "batch.yaml")
    journal = _journal(qwend.home, lines=3)
    os.kill(qwend.row("answers")["pid"], signal.SIGKILL)
    _, told = up.communicate(timeout=300)
    assert up.returncode == 1 and "answers: failed" in told
    kept = journal.read_text().count("\n")
    assert 3 <= kept < len(rows), "it was killed in the middle"

    qwend("up", "-d", "batch.yaml")
    first = results(qwend.folder)
    assert [line["input"] for line in first] == rows
    assert [line["index"] for line in first] == list(range(len(rows)))
    assert all(
        line["finish_reason"] in ("stop", "length") and line["usage"]["completion_tokens"] for line in first
    )
    assert (figures(qwend)["kept"], figures(qwend)["answered"]) == (kept, len(rows) - kept)

    request = {
        "custom_id": "mine",
        "body": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    }
    long = {"prompt": "word " * 2000}
    more = questions(qwend.folder, 40, request, long)
    qwend("up", "-d", "batch.yaml")
    again = results(qwend.folder)
    assert [line["output"] for line in again[:40]] == [line["output"] for line in first]
    assert (figures(qwend)["known"], figures(qwend)["answered"], figures(qwend)["failed"]) == (40, 2, 1)
    body = again[40]["response"]["body"]
    assert (again[40]["custom_id"], body["usage"]["completion_tokens"]) == ("mine", 2)
    assert again[41]["error"].endswith("the model's context is 512")
    assert len(again) == len(more)


def _journal(home: Path, lines: int) -> Path:
    """The journal of the running batch, once it holds so many lines."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        for found in (home / "store" / "work").glob("*/out/journal.jsonl"):
            if found.read_bytes().count(b"\n") >= lines:
                return found
        time.sleep(0.02)
    pytest.fail("the batch writes no journal")


def test_a_bad_row_fails_the_step_with_its_line(qwend: Qwend) -> None:
    questions(qwend.folder, 2)
    with (qwend.folder / "questions.jsonl").open("a") as file:
        file.write('{"prompt": }\n')
    (qwend.folder / "batch.yaml").write_text(BATCH)
    ended = qwend.try_("up", "-d", "batch.yaml")
    assert ended.returncode == 1
    assert "questions.jsonl:3: is no JSON" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_service_demands_its_key_and_the_chat_has_it(qwend: Qwend) -> None:
    (qwend.folder / "keyed.yaml").write_text(SERVE)
    key = qwend.folder / "key"
    key.write_text("s3cret-canary\n")
    qwend("up", "-d", "keyed.yaml", "--secret", f"api_key=@{key}")
    row = qwend.row("chat")
    assert _status(row["url"], None) == 401
    assert _status(row["url"], "wrong") == 401
    assert _status(row["url"], "s3cret-canary") == 200
    for name in ("cmdline", "environ"):
        assert b"s3cret-canary" not in Path(f"/proc/{row['pid']}/{name}").read_bytes()
    said = qwend("chat", "-m", "Hello", "--set", "max_tokens=4", "--secret", f"api_key=@{key}")
    assert said.strip()
    refused = qwend.try_("chat", "-m", "Hello")
    assert refused.returncode == 1 and "an API key is needed" in refused.stderr
    long = qwend.try_("chat", "-m", "word " * 500, "--secret", f"api_key=@{key}")
    assert "this model's context is 256 tokens" in long.stderr


def _status(url: str, key: str | None) -> int:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    body = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


ADAPTER = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
torch.manual_seed(0)
base, out, hidden = sys.argv[1], sys.argv[2], int(sys.argv[3])
config = AutoConfig.from_pretrained(base)
whole = config.hidden_size == hidden
config.hidden_size = hidden
model = AutoModelForCausalLM.from_pretrained(base) if whole else AutoModelForCausalLM.from_config(config)
tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj", "o_proj"]))
for name, weight in tuned.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(weight, std=1.0)
tuned.save_pretrained(out)
"""
"""An adapter that changes much: its second matrices are not zero, as those of an untrained one would be."""


def adapter(qwend: Qwend, base: str, name: str, hidden: int = 256) -> None:
    """Lays an adapter beside the recipe: for the model in `base`, or for one of another width."""
    spec = load_image("qwend_images:transformers", "cpu")
    python = qwend.home / "images" / f"transformers-cpu-{spec.digest[:12]}" / "bin" / "python"
    command = [str(python), "-c", ADAPTER, base, str(qwend.folder / name), str(hidden)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)


def test_an_adapter_is_applied_without_merging(qwend: Qwend) -> None:
    plain = {"uses": "transformers/serve", "from": "base", "with": {"context": 256}}
    recipe: dict[str, Any] = {"name": "tuned", "models": {"base": "smoke:qwen2"}, "steps": {"plain": plain}}
    (qwend.folder / "tuned.yaml").write_text(json.dumps(recipe))
    qwend("up", "-d", "tuned.yaml")
    base = qwend.json("inspect", "base")["artifact"]["location"]
    adapter(qwend, base, "mine")
    adapter(qwend, base, "other", hidden=128)
    recipe["models"] |= {"mine": "file:mine", "other": "file:other"}
    recipe["steps"]["tuned"] = {**plain, "with": {"context": 256, "adapter": "mine"}}
    (qwend.folder / "tuned.yaml").write_text(json.dumps(recipe))
    qwend("up", "-d", "tuned.yaml")
    settings = ("--set", "temperature=0", "--set", "max_tokens=8")
    answers = [qwend("chat", name, "-m", "Who was it?", *settings) for name in ("plain", "tuned", "tuned")]
    assert answers[0] != answers[1] == answers[2]

    recipe["steps"] = {"wrong": {**plain, "with": {"adapter": "other"}}}
    (qwend.folder / "tuned.yaml").write_text(json.dumps(recipe))
    ended = qwend.try_("up", "-d", "tuned.yaml")
    assert ended.returncode == 1
    assert "the adapter does not fit this model" in ended.stderr


@pytest.mark.parametrize("recipe", ["transformers-chat.yaml", "batch.yaml"])
def test_the_recipe_runs_on_the_smoke_model(qwend: Qwend, recipe: str) -> None:
    qwend("up", "-d", "--smoke", str(ROOT / "recipes" / recipe))
    assert all(row["state"] in ("ready", "succeeded", "cached") for row in qwend.json("ps"))


def test_a_model_is_talked_to_without_a_recipe_and_stopped_afterwards(qwend: Qwend) -> None:
    said = qwend(
        "chat", "smoke:qwen2", "--engine", "transformers/serve", "-m", "Hello", "--set", "max_tokens=3"
    )
    assert said.strip()
    assert qwend.row("chat")["state"] == "stopped"


def test_the_models_own_chat_has_the_terminal_and_many_turns(qwend: Qwend) -> None:
    settings = ("--with", "max_tokens=6", "--with", "temperature=0", "--with", "system=Be brief.")
    with terminal(qwend, "run", "transformers/chat", "--from", "smoke:qwen2", *settings) as user:
        at = user.until(r"/help shows commands\s+> ")
        for line in ("Hello", "one\\\ntwo"):
            user.type(f"{line}\n")
            at = user.until(r"\S[^\n]*\n> ", at)
        user.type("/save talk.json\n")
        at = user.until(r"/save talk\.json\s+> ", at)
        user.type("/bogus\n")
        at = user.until(r"/clear [\s\S]*> ", at)
        user.type("\x04")
        assert user.process.wait(WAIT_S) == 0
    said = json.loads((qwend.folder / "talk.json").read_text(encoding="utf-8"))["messages"]
    assert [one["role"] for one in said] == ["system", *["user", "assistant"] * 2]
    assert [one["content"] for one in said if one["role"] != "assistant"] == [
        "Be brief.",
        "Hello",
        "one\ntwo",
    ]
    assert all(one["content"] for one in said)
    assert not [row for row in qwend.json("ps") if row["kind"] == "interactive"], "it is not supervised"


def test_a_tiny_model_learns_a_text_so_that_its_perplexity_means_something(qwend: Qwend) -> None:
    sentences = [
        f"At {hour} o'clock the baker carried the bread to the long ladder.\n" for hour in range(400)
    ]
    (qwend.folder / "text.txt").write_text("".join(sentences))
    (qwend.folder / "taught.yaml").write_text(TAUGHT)
    qwend("up", "-d", "taught.yaml")
    told = qwend.json("inspect", "taught")["artifact"]
    assert told["type"] == "model/safetensors"
    before, after = told["metrics"]["perplexity_before"], told["metrics"]["perplexity"]
    assert after < before / 10, (before, after)
    settings = ("--set", "temperature=0", "--set", "max_tokens=4", "-m", "What did the baker do?")
    assert qwend("chat", "chat", *settings).strip()
