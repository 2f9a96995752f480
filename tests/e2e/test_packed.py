"""What AWQ and GPTQ wrote is read alike by every engine that claims to read it, on a CPU too.

The weights are those of the tiny model, so the answers are nonsense. Two engines which unpack them by code of their own
have to choose the same nonsense, but where it is a matter of rounding.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Qwend

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.slow,
    pytest.mark.engine(
        "vllm", "transformers", "serving", "evaluate", images=["vllm", "gptq", "awq", "lm-eval"]
    ),
]

QUANTISE = {
    "awq": {
        "uses": "awq/quantize",
        "with": {"calib_data": "texts", "max_calib_samples": 4, "max_calib_seq_len": 64},
    },
    "gptq": {"uses": "gptq/quantize", "with": {"calibration": "texts", "bits": 4}},
}
QUESTIONS = [
    f"Who {did} the long ladder?" for did in ("painted", "stole", "carried", "broke", "sold", "found")
]
ROUNDING = 0.3
"""Nats by which a choice may fall behind the best one. In bfloat16 log-probabilities of this model differ by 0.13
at most; a kernel that rounds the zero points chooses what is 1.0 to 1.5 behind."""


def chosen(url: str, name: str, question: str, **more: Any) -> Any:
    """The one token that a greedy model says."""
    body = {"model": name, "messages": [{"role": "user", "content": question}], "max_tokens": 1}
    headers = {"Content-Type": "application/json"}
    data = json.dumps({**body, "temperature": 0, **more}).encode()
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/v1/chat/completions", data, headers), timeout=300
    ) as answer:
        (choice,) = json.load(answer)["choices"]
    return choice


@pytest.mark.parametrize("method", QUANTISE)
def test_transformers_and_vllm_read_a_packed_checkpoint_alike(qwend: Qwend, method: str) -> None:
    steps: dict[str, Any] = {
        "packed": {**QUANTISE[method], "from": "base"},
        "plain": {"uses": "transformers/serve", "from": "packed", "with": {"context": 512}},
        "fast": {"uses": "vllm/serve", "from": "packed", "with": {"max_model_len": 512}},
    }
    recipe: dict[str, Any] = {
        "name": "packed",
        "models": {"base": "smoke:qwen2"},
        "datasets": {"texts": "smoke:data", "questions": "file:questions.jsonl"},
        "steps": steps,
    }
    (qwend.folder / "questions.jsonl").write_text(
        '{"question": "Who?", "choices": ["I", "you"], "answer": 0}\n'
    )
    file = qwend.folder / "packed.yaml"
    file.write_text(json.dumps(recipe))
    qwend("up", "-d", str(file), "plain")
    found = qwend.json("inspect", "packed")["artifact"]
    assert found["type"] == f"model/{method}"
    assert (
        json.loads((Path(found["location"]) / "config.json").read_text())["quantization_config"]["bits"] == 4
    )
    said = {one: chosen(qwend.row("plain")["url"], "plain", one)["message"]["content"] for one in QUESTIONS}
    qwend("stop", "plain")  # two would share two cores

    qwend("up", "-d", str(file), "fast")
    url = qwend.row("fast")["url"]
    compared = 0
    for question, text in said.items():
        if not text.strip() or "\ufffd" in text:  # a special token, or a part of a letter: it has no text
            continue
        likely = chosen(url, "fast", question, logprobs=True, top_logprobs=20)["logprobs"]["content"][0]
        likely = likely["top_logprobs"]
        behind = likely[0]["logprob"] - max(
            [one["logprob"] for one in likely if one["token"].strip() == text.strip()], default=-99.0
        )
        assert behind <= ROUNDING, f"{question} {text!r} is {behind:.2f} nats behind {likely[0]['token']!r}"
        compared += 1
    assert compared >= 3, said

    # What the harness cannot load it asks of the server, by the name that this knows.
    asks = {"base_url": f"{url}/v1/completions", "data": "questions", "threads": 1}
    steps["score"] = {"uses": "evaluate/tasks", "from": "packed", "with": asks}
    file.write_text(json.dumps(recipe))
    qwend("up", "-d", str(file), "score")
    assert qwend.json("inspect", "score")["artifact"]["metrics"]["local_acc"] in (0, 1)
