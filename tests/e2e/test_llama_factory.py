"""Fine-tuning for real on the smoke model: trained, killed, resumed, merged, converted, served.

One story, since each chapter needs what the one before it made. What LLaMA-Factory's own parser says of our names is
asked of the same image.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Qwend
from tests.e2e.terminal import WAIT_S, terminal
from tests.fakes.ollama_server import State
from tests.unit.plugins.llama_factory.kit import THE_SCRIPT, step

from qwend.model.image import ImageSpec, load_image
from qwend.plugin.samples import HOSTS
from qwend_plugins.llama_factory.common import KNOWN
from qwend_plugins.llama_factory.train import arguments

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.slow,
    pytest.mark.engine(
        "llama_factory", "checkpoints", "serving", "ollama", images=["llama-factory", "ollama"]
    ),
]

RECIPE = """
name: tuned
models: {base: smoke:qwen2}
datasets:
  roleplay: file:roleplay.json
steps:
  train:
    uses: llama-factory/train
    from: base
    with:
      dataset: roleplay
      max_samples: 16
      cutoff_len: 64
      max_steps: 12
      gradient_accumulation_steps: 1
      learning_rate: 1e-3
      lora_rank: 4
      logging_steps: 1
      save_steps: 3
      save_total_limit: 2
  merged: {uses: llama-factory/export, from: train}
  f16: {uses: llama-cpp/convert, from: merged, with: {outtype: f16}}
  chat: {uses: llama-cpp/serve, from: f16, with: {context: 512}}
  tutor: {uses: llama-factory/serve, from: train, with: {checkpoint: 9}, profiles: [tutor]}
  spoken: {uses: ollama/serve, from: train, with: {url: "http://127.0.0.1:11434"}, profiles: [spoken]}
"""


def ask(url: str, model: str) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "你是谁？"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_a_training_that_was_killed_goes_on_and_what_it_learned_is_served(
    qwend: Qwend, ollama: tuple[str, State]
) -> None:
    there, stand_in = ollama
    recipe = qwend.folder / "tuned.yaml"
    recipe.write_text(RECIPE.replace("http://127.0.0.1:11434", there), encoding="utf-8")
    (qwend.folder / "roleplay.json").write_bytes((ROOT / "recipes/data/roleplay.json").read_bytes())

    # Killed between the second checkpoint and the end.
    client = qwend.start("up", "-d", "--runtime", "native", str(recipe))
    work = qwend.home / "store"
    while not list(work.glob("**/out/checkpoint-6/trainer_state.json")):
        assert client.poll() is None, client.communicate()
        time.sleep(0.05)
    row = qwend.row("train")
    os.kill(row["pid"], signal.SIGKILL)
    out, err = client.communicate(timeout=300)
    assert client.returncode == 1, (out, err)
    assert "train" in err and "Traceback" not in err

    # The same step goes on: one fingerprint, and no step before the checkpoint is made again.
    qwend("up", "-d", "--runtime", "native", str(recipe))
    again = qwend.row("train")
    assert again["fingerprint"] == row["fingerprint"]
    assert again["state"] == "succeeded"
    log = (qwend.home / "logs" / "tuned" / "train.log").read_text(encoding="utf-8", errors="replace")
    assert "goes on from checkpoint-6" in log or "goes on from checkpoint-9" in log
    said = qwend.json("inspect", "train")
    location = Path(said["artifact"]["location"])
    steps = [
        json.loads(line)["current_steps"]
        for line in (location / "trainer_log.jsonl").read_text().splitlines()
    ]
    assert [step for step in steps if step <= 12][:12] == list(range(1, 13))
    assert said["artifact"]["metrics"]["steps"] == 12
    assert said["artifact"]["metrics"]["loss"] > 0
    assert (location / "training_loss.png").stat().st_size > 1000
    assert list((location / "runs").glob("events.out.tfevents.*"))
    assert sorted(path.name for path in location.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-9"]
    for path in location.rglob("*.json"):
        assert str(qwend.home) not in path.read_text(encoding="utf-8"), path

    row = qwend.row("chat")
    assert row["state"] == "ready"
    assert ask(row["url"], "chat")["usage"]["completion_tokens"] > 0

    # The adapter alone, on its base, by LLaMA-Factory's own server, as it was before the end.
    assert said["artifact"]["facts"]["extra"]["checkpoints"] == [9, 12]
    qwend("up", "-d", "--runtime", "native", str(recipe), "tutor")
    row = qwend.row("tutor")
    assert ask(row["url"], "tutor")["model"] == "tutor"
    assert "/checkpoint-9" in (qwend.home / "logs" / "tuned" / "tutor.log").read_text(errors="replace")

    # And by Ollama, a stand-in of which answers here: it takes no adapter, so it gets the merged model, with the
    # model's own template and not the one that LLaMA-Factory's export leaves beside.
    plan = qwend("plan", "--runtime", "native", str(recipe), "spoken")
    assert "ollama/serve takes no adapter/lora: llama-factory/export makes train.export of it first" in plan
    qwend("up", "-d", "--runtime", "native", str(recipe), "spoken")
    assert ask(qwend.row("spoken")["url"], "spoken")["model"] == "spoken"
    ((name, model),) = stand_in.models.items()
    assert name.startswith("qwend/tuned-spoken:")
    merged = Path(qwend.json("inspect", "train.export")["artifact"]["location"])
    left = (merged / "Modelfile").read_text(encoding="utf-8")
    assert "SYSTEM" in left and "system" not in model["request"]
    assert "<|im_start|>" in model["request"]["template"] and model["request"]["template"] not in left
    weights = hashlib.sha256((merged / "model.safetensors").read_bytes()).hexdigest()
    assert model["request"]["files"]["model.safetensors"] == f"sha256:{weights}"
    qwend("down", "-p", "tuned")


TALK = ("run", "llama-factory/chat", "--from", "smoke:qwen2", "--with", "max_new_tokens=6")


def test_its_own_chat_has_the_terminal_and_many_turns(qwend: Qwend) -> None:
    with terminal(qwend, *TALK) as user:
        at = user.until(r"Welcome to the CLI application[\s\S]*?\nUser: ")
        for line in ("你是谁？", "今日如何？"):
            user.type(f"{line}\n")
            at = user.until(r"Assistant: [\s\S]*?\nUser: ", at)
        user.type("clear\n")
        at = user.until(r"History has been removed\.[\s\S]*?\nUser: ", at)
        user.type("\x04")  # Ctrl-D
        assert user.process.wait(WAIT_S) == 0
    assert "Traceback" not in user.shown and "INFO" not in user.shown


def test_a_pipe_asks_once_and_gets_the_answer_alone(qwend: Qwend) -> None:
    for question, code, said in (("你是谁？\n", 0, ""), (" \n", 1, "there is no question")):
        ended = subprocess.run(
            qwend.command(*TALK), input=question, cwd=qwend.folder, env=qwend.environ, text=True,
            capture_output=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr
        assert ended.stdout.endswith("\n") is (code == 0) and "INFO" not in ended.stdout


def test_a_broken_row_stops_the_training_with_its_line(qwend: Qwend) -> None:
    recipe = qwend.folder / "tuned.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    (qwend.folder / "roleplay.json").write_text(
        '[\n{"instruction": "a", "output": "b"},\n{"instruction": "c", "output": ""}\n]', encoding="utf-8"
    )
    ended = qwend.try_("up", "-d", "--runtime", "native", str(recipe), "train")
    assert ended.returncode == 1
    assert "roleplay.json:3: row 2 output is empty" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_adapter_of_another_base_is_refused_before_anything_is_loaded(qwend: Qwend) -> None:
    adapter = qwend.folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    shapes = {"lora_A": (4, 128), "lora_B": (256, 4)}  # the smoke model has 256 inputs
    header, end = {}, 0
    for part, (rows, columns) in shapes.items():
        size = 2 * rows * columns
        name = f"base_model.model.model.layers.0.self_attn.q_proj.{part}.weight"
        header[name] = {"dtype": "F16", "shape": [rows, columns], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    tensors = len(text).to_bytes(8, "little") + text + bytes(end)
    (adapter / "adapter_model.safetensors").write_bytes(tensors)
    merged = {"uses": "llama-factory/export", "from": "mine", "with": {"base": "base"}}
    models = {"base": "smoke:qwen2", "mine": "file:adapter"}
    (qwend.folder / "wrong.yaml").write_text(
        json.dumps({"name": "wrong", "models": models, "steps": {"merged": merged}})
    )
    ended = qwend.try_("up", "wrong.yaml")
    assert ended.returncode == 1
    assert "the adapter is for a model.layers.0.self_attn.q_proj of 256×128" in ended.stderr
    assert "Traceback" not in ended.stderr
    log = (qwend.home / "logs/wrong/merged.log").read_text(encoding="utf-8")
    assert "llamafactory" not in log, "nothing was loaded"


PARSE = """
import json, sys
from llamafactory.hparams.parser import HfArgumentParser, _INFER_ARGS, _TRAIN_ARGS, get_train_args
from llamafactory.data.template import TEMPLATES
names = lambda kinds: sorted({a.dest for a in HfArgumentParser(kinds)._actions} - {"help"})
told, script = json.load(sys.stdin)
answer = {"templates": sorted(TEMPLATES), "train": names(_TRAIN_ARGS), "infer": names(_INFER_ARGS)}
place = {"model_name_or_path": "/nowhere", "output_dir": "/tmp/nowhere", "dataset": "mine", "do_train": True}
# with a card's arguments only the parsers are asked: what follows looks for the card
HfArgumentParser(_TRAIN_ARGS).parse_dict({**script, **place, "use_cpu": True, "bf16": False})
answer["rank"] = get_train_args({**told, **place})[3].lora_rank
json.dump(answer, open(sys.argv[1], "w"))
"""


def test_every_name_that_we_give_is_one_that_its_parser_knows(qwend: Qwend, tmp_path: Path) -> None:
    qwend("images", "build", "llama-factory", "--flavour", "cpu", "--runtime", "native")
    image = load_image("qwend_images:llama-factory", "cpu")
    assert isinstance(image, ImageSpec)
    python = qwend.home / "images" / image.key / "bin" / "python"
    script = arguments(step({**THE_SCRIPT, "deepspeed": "z2"}, flavour="cuda", gpus=1), HOSTS["cuda"])
    script.pop("deepspeed")  # its package is in the images for cards only
    told = [arguments(step({**THE_SCRIPT, "bf16": False}), HOSTS["cpu"]), script]
    answer = tmp_path / "answer.json"
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    asked = subprocess.run(
        [str(python), "-c", PARSE, str(answer)],
        input=json.dumps(told),
        text=True,
        env=env,
        capture_output=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr[-4000:]
    found = json.loads(answer.read_text())
    assert found["templates"] == KNOWN["templates"]
    assert found["infer"] == KNOWN["infer"]
    assert set(found["train"]) == {*KNOWN["train"], *KNOWN["infer"]}
    assert found["rank"] == 8
