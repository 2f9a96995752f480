"""vLLM end to end on the smoke model, on a CPU: the recipes, an adapter by its name, a key, a killed batch."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Qwend

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.slow,
    pytest.mark.engine("vllm", "serving", images=["vllm"]),
]

BATCH = """
version: 1
name: batch
models: {base: smoke:qwen2}
datasets: {questions: file:questions.jsonl}
steps:
  answers:
    uses: vllm/batch
    from: base
    with: {prompts: questions, max_tokens: 64, temperature: 0, max_num_seqs: 2, max_model_len: 512}
    out: ./answers
"""


def asked(url: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
    """Status and JSON of a request."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=300) as answer:
            said = answer.read()
            return int(answer.status), json.loads(said) if said else None
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_recipe_serves_a_key_and_an_adapter(qwend: Qwend) -> None:
    recipe: dict[str, Any] = {
        "name": "served",
        "models": {"base": "smoke:qwen2", "mine": "file:mine"},
        "steps": {
            "chat": {
                "uses": "vllm/serve",
                "from": "base",
                "with": {"max_model_len": 512, "lora": ["mine"], "served_model_name": ["gpt"]},
                "secrets": ["api_key"],
            }
        },
    }
    _adapter(qwend.folder / "mine")
    (qwend.folder / "served.yaml").write_text(json.dumps(recipe))
    key = qwend.folder / "key"
    key.write_text("s3cret-canary\n")
    qwend("up", "-d", "served.yaml", "--secret", f"api_key=@{key}")
    row = qwend.row("chat")
    url = row["url"]
    status, refused = asked(url, "/v1/models")
    assert (status, refused["error"]["code"]) == (401, "invalid_api_key")
    assert asked(url, "/invocations", {"model": "chat", "messages": []}, "wrong")[0] == 401
    status, models = asked(url, "/v1/models", key="s3cret-canary")
    assert {model["id"] for model in models["data"]} == {"chat", "gpt", "mine"}
    question = {"messages": [{"role": "user", "content": "Who was it?"}], "max_tokens": 8, "temperature": 0}
    answers = [
        asked(url, "/v1/chat/completions", {"model": name, **question}, "s3cret-canary")[1]
        for name in ("chat", "gpt", "mine")
    ]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert texts[0] == texts[1] != texts[2]
    for name in ("cmdline", "environ"):
        assert b"s3cret-canary" not in Path(f"/proc/{row['pid']}/{name}").read_bytes()


def _adapter(folder: Path) -> None:
    """A LoRA adapter of rank 4 for the smoke model, that changes much. Written by hand: no torch is needed."""
    import struct

    tensors: dict[str, list[int]] = {}
    for layer in range(2):
        for name, rows in (("q_proj", 256), ("v_proj", 128)):
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors |= {f"{at}.lora_A.weight": [4, 256], f"{at}.lora_B.weight": [rows, 4]}
    header: dict[str, Any] = {}
    data = b""
    for name, shape in tensors.items():
        count = shape[0] * shape[1]
        values = [((7 * index) % 11 - 5) / 5 for index in range(count)]
        block = struct.pack(f"<{count}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(block)]}
        data += block
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 64, "bias": "none",
              "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "smoke"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_a_batch_that_is_killed_goes_on(qwend: Qwend) -> None:
    rows = [{"prompt": f"What did the baker do at {hour} o'clock?"} for hour in range(400)]
    (qwend.folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (qwend.folder / "batch.yaml").write_text(BATCH)
    up = qwend.start("up", "batch.yaml")
    journal = _journal(qwend.home, lines=2)
    os.kill(qwend.row("answers")["pid"], signal.SIGKILL)
    up.communicate(timeout=600)
    kept = journal.read_text().count("\n")
    assert 2 <= kept < len(rows), "it was killed in the middle"
    qwend("up", "-d", "batch.yaml")
    lines = (qwend.folder / "answers" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["input"] for line in lines] == rows
    figures = qwend.json("inspect", "answers")["artifact"]["metrics"]
    assert (figures["kept"], figures["answered"], figures["failed"]) == (kept, len(rows) - kept, 0)


def _journal(home: Path, lines: int) -> Path:
    """The journal of the running batch, once it holds so many lines."""
    end = time.monotonic() + 900
    while time.monotonic() < end:
        for found in (home / "store" / "work").glob("*/out/journal.jsonl"):
            if found.read_bytes().count(b"\n") >= lines:
                return found
        time.sleep(0.02)
    pytest.fail("the batch writes no journal")


def test_a_wrong_flag_is_told_by_the_engines_own_words_in_one_line(qwend: Qwend) -> None:
    recipe = str(ROOT / "recipes" / "vllm-serve.yaml")
    ended = qwend.try_("up", "-d", "--smoke", recipe, "--set", "steps.chat.extra_args=[--bogus, '1']")
    assert ended.returncode == 1
    assert "vLLM does not know --bogus 1" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("recipe", ["vllm-serve", "vllm-awq", "vllm-tensor-parallel"])
def test_the_recipe_runs_on_the_smoke_model(qwend: Qwend, recipe: str) -> None:
    qwend("up", "-d", "--smoke", str(ROOT / "recipes" / f"{recipe}.yaml"))
    (row,) = [row for row in qwend.json("ps") if row["kind"] == "service"]
    body = {"model": row["step"], "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    status, answer = asked(row["url"], "/v1/chat/completions", body)
    assert (status, answer["model"]) == (200, row["step"])
    assert answer["usage"]["completion_tokens"] <= 3
