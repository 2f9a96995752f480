"""recipes/mlx.yaml end to end on MLX's CPU build for Linux: converted, served, chatted with, and a batch answered."""

from __future__ import annotations

import json
import platform
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Qwend

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.engine("mlx", "serving", images=["mlx", "smoke"]),
    pytest.mark.skipif(
        sys.platform == "linux" and platform.machine() != "x86_64", reason="MLX is locked for x86-64 on Linux"
    ),
]

MORE = """
datasets:
  asked: {from: "smoke:data?kind=prompts&rows=2", smoke: "smoke:data?kind=prompts&rows=2"}
steps:
  mixed: {uses: mlx/convert, from: base, with: {quant_predicate: mixed_3_6}}
  back: {uses: mlx/convert, from: small, with: {dequantize: true}}
  answers: {uses: mlx/generate, from: back, with: {prompts: asked, max_tokens: 4}}
"""
SAID = {
    "temp": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.05, "use_default_chat_template": True, "decode_concurrency": 4,
    "prompt_concurrency": 2, "prefill_step_size": 256, "prompt_cache_size": 2, "prompt_cache_bytes": "500MB",
    "kv_bits": 8, "quantized_kv_start": 0, "num_draft_tokens": 2, "chat_template_args": "{enable_thinking: false}",
}  # fmt: skip
"""What mlx-lm's server is told in its own words, which its parser has to know."""


def ask(url: str, body: dict[str, Any]) -> bytes:
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=300) as answer:
        return bytes(answer.read())


def test_a_model_is_converted_served_and_written_out_again(qwend: Qwend) -> None:
    (qwend.folder / "more.yaml").write_text(MORE, encoding="utf-8")
    files = ("-f", str(ROOT / "recipes/mlx.yaml"), "-f", "more.yaml")
    told = [word for name, value in SAID.items() for word in ("--set", f"steps.chat.with.{name}={value}")]
    qwend("up", "-d", "--smoke", *files, *told)
    row = qwend.row("chat")
    assert row["state"] == "ready"

    question = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 3}
    answer = json.loads(ask(row["url"], question | {"model": "chat"}))
    assert answer["model"] == "chat"
    assert answer["usage"]["completion_tokens"] > 0
    assert b"data: [DONE]" in ask(row["url"], question | {"model": "chat", "stream": True})
    with pytest.raises(urllib.error.HTTPError) as refused:  # and is not fetched from a hub
        ask(row["url"], question | {"model": "Qwen/Qwen3-0.6B"})
    with refused.value:
        assert refused.value.code == 404
        assert json.load(refused.value)["error"]["code"] == "model_not_found"
    with urllib.request.urlopen(f"{row['url']}/v1/models", timeout=60) as models:
        assert [one["id"] for one in json.load(models)["data"]] == ["chat"]

    small, mixed, back = (qwend.json("inspect", name)["artifact"] for name in ("small", "mixed", "back"))
    assert (small["type"], small["facts"]["bits"]) == ("model/mlx", 4.5)
    assert 3.0 < mixed["facts"]["bits"] < 4.5
    assert (back["type"], back["facts"]["bits"]) == ("model/safetensors", 16.0)
    answers = qwend.json("inspect", "answers")["artifact"]
    lines = (Path(answers["location"]) / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["usage"]["completion_tokens"] > 0 for line in lines] == [True, True]
    qwend("down", "-p", "mlx")


def test_a_broken_model_fails_at_once_with_what_mlx_says(qwend: Qwend) -> None:
    broken = qwend.folder / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(
        '{"model_type": "nonesuch", "quantization": {"bits": 4, "group_size": 64}}'
    )
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (broken / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    recipe = qwend.folder / "broken.yaml"
    recipe.write_text(
        'name: broken\nmodels: {base: "file:broken"}\nsteps: {chat: {uses: mlx/serve, from: base, restart: no}}\n'
    )
    ended = qwend.try_("up", "-d", str(recipe))
    assert ended.returncode == 1
    assert "nonesuch" in ended.stderr
    assert "Traceback" not in ended.stderr
