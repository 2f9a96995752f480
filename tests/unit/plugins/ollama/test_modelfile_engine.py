"""`ollama/modelfile`: what a plan refuses, and the Modelfile that is composed of a model and what the recipe says."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qwend.plugin import Facts, Finding, Given, Host, StepView
from qwend_plugins.ollama.common import DRIVERS, PARAMETERS, name_problem
from qwend_plugins.ollama.modelfile import ModelfileParams, WriteModelfile

for folder in (DRIVERS, DRIVERS.parents[1] / "smoke" / "drivers"):
    sys.path.append(str(folder))
from compose import look, read  # noqa: E402
from modelfile import DEPRECATED  # noqa: E402
from modelfile import PARAMETERS as MODELFILES  # noqa: E402
from ollama_start import DriverError  # noqa: E402
from qwen_vocabulary import chat_template  # noqa: E402
from write_modelfile import main  # noqa: E402

HOST = Host("linux", "x86_64", 8)
QWEN = Facts(architecture="qwen2", parameters=500_000_000, bytes=400_000_000, context=32768)

GOLDEN = '''FROM ./model-Q4_K_M.gguf
TEMPLATE """{{ .Prompt }}
"""
SYSTEM You are Zhen Huan.
PARAMETER num_ctx 4096
PARAMETER repeat_penalty 1.05
PARAMETER stop END
PARAMETER temperature 0.5
PARAMETER top_k 20
PARAMETER top_p 0.8
LICENSE apache-2.0
MESSAGE user Who are you?
MESSAGE assistant """I am
Huan Huan."""
'''


def step(model: Given, **params: Any) -> StepView:
    return StepView("made", "r", ModelfileParams(**params), inputs=(model,))


def given(architecture: str, kind: str = "model/gguf") -> Given:
    return Given("base", kind, msgspec.structs.replace(QWEN, architecture=architecture))


def findings(view: StepView) -> list[Finding]:
    return list(WriteModelfile().check(view, HOST))


def gguf(path: Path, **metadata: Any) -> Path:
    """A GGUF without tensors, with this metadata (dots written as __)."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    pairs = b""
    for key, value in metadata.items():
        pairs += text(key.replace("__", "."))
        match value:
            case str():
                pairs += struct.pack("<I", 8) + text(value)
            case float():
                pairs += struct.pack("<If", 6, value)
            case int():
                pairs += struct.pack("<II", 4, value)
            case _:
                pairs += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(metadata)) + pairs)
    return path


def written(tmp_path: Path, model: Path, view: StepView, *more: str) -> str:
    """What the driver writes of a model, with the launch's own file of what is wanted."""
    launch = WriteModelfile().launch(view, HOST)
    wanted = tmp_path / "wanted.json"
    wanted.write_text(next(file.content for file in launch.files if file.name == "wanted.json"))
    out = tmp_path / "out"
    main(["--model", str(model), "--wanted", str(wanted), "--out", str(out), *more])
    return (out / "Modelfile").read_text()


def test_a_modelfile_says_what_the_model_and_the_recipe_say(tmp_path: Path) -> None:
    model = gguf(
        tmp_path / "model-Q4_K_M.gguf", general__architecture="qwen2", tokenizer__ggml__tokens=["a", "b"],
        general__sampling__temp=0.7, general__sampling__top_p=0.8, general__sampling__top_k=20,
        general__sampling__penalty_repeat=1.05, general__license="apache-2.0",
    )  # fmt: skip
    view = step(
        given("qwen2"),
        system="You are Zhen Huan.",
        template="{{ .Prompt }}\n",
        parameters={"temperature": 0.5, "num_ctx": 4096, "stop": ("END",)},
        messages=(
            {"role": "user", "content": "Who are you?"},
            {"role": "assistant", "content": "I am\nHuan Huan."},
        ),
    )
    assert written(tmp_path, model, view) == GOLDEN
    assert (tmp_path / "out" / "model-Q4_K_M.gguf").read_bytes() == model.read_bytes()


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_the_template_of_a_gguf_becomes_ollamas_and_its_own_is_kept_beside(
    tmp_path: Path, architecture: str
) -> None:
    source = chat_template(architecture)
    model = gguf(tmp_path / "m.gguf", general__architecture=architecture, tokenizer__chat_template=source)
    text = written(tmp_path, model, step(given(architecture)), "--no-weights")
    assert text.startswith('FROM ./m.gguf\nTEMPLATE """{{ $user')
    assert "PARAMETER num_ctx 8192\nPARAMETER stop <|im_start|>\nPARAMETER stop <|im_end|>\n" in text
    assert "ADAPTER" not in text
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == source
    assert not (tmp_path / "out" / "m.gguf").exists()


def test_a_merged_checkpoint_is_taken_whole_with_its_own_sampling_and_licence(tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    folder.mkdir()
    for name, value in {
        "config.json": {"model_type": "qwen2"},
        "generation_config.json": {"do_sample": True, "temperature": 0.7, "repetition_penalty": 1.1},
        "tokenizer_config.json": {"chat_template": chat_template("qwen2")},
    }.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / "LICENSE").write_text("Apache License\nVersion 2.0\n")
    text = written(tmp_path, folder, step(given("qwen2", "model/safetensors")))
    assert text.startswith("FROM .\n")
    assert "PARAMETER repeat_penalty 1.1\n" in text
    assert 'LICENSE """Apache License\nVersion 2.0\n"""\n' in text
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"x"


def test_a_template_that_ollama_cannot_say_is_an_error_that_leaves_the_original_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = "{% for m in messages %}[INST]{{ m.content }}{% endfor %}"
    model = gguf(tmp_path / "m.gguf", general__architecture="llama", tokenizer__chat_template=odd)
    with pytest.raises(SystemExit) as ended:
        written(tmp_path, model, step(given("llama")))
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert odd in said
    assert "cannot be expressed for Ollama" in said.splitlines()[-1]
    assert str(tmp_path / "out" / "chat_template.jinja") in said.splitlines()[-1]
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == odd
    assert not (tmp_path / "out" / "Modelfile").exists()
    assert "Traceback" not in said


def test_a_gguf_that_is_cut_off_is_told(tmp_path: Path) -> None:
    whole = gguf(tmp_path / "m.gguf", general__architecture="qwen2").read_bytes()
    for size in (0, 3, 10, len(whole) - 1):
        (tmp_path / "m.gguf").write_bytes(whole[:size])
        with pytest.raises(DriverError, match="no whole GGUF"):
            look(tmp_path / "m.gguf")


@pytest.mark.parametrize("form", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_users_modelfile_is_read_in_the_forms_that_ollama_reads(tmp_path: Path, form: str) -> None:
    (tmp_path / "Modelfile").write_bytes("FROM x\r\nSYSTEM 你是甄嬛\r\n".encode(form))
    assert read(tmp_path / "Modelfile").text("system") == "你是甄嬛"
    (tmp_path / "Modelfile").write_bytes(b"FROM x\nSYSTEM \xff\n")
    with pytest.raises(DriverError, match="Modelfile cannot be read"):
        read(tmp_path / "Modelfile")


def test_a_mistake_in_a_users_modelfile_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM x\nPARAMETER heat 3\n")
    with pytest.raises(DriverError, match="Modelfile:2: there is no parameter 'heat'"):
        read(tmp_path / "Modelfile")


@pytest.mark.parametrize(
    ("view", "key", "says"),
    [
        (step(given("mamba")), "from", "does not load the architecture mamba"),
        (step(given("qwen3_next", "model/safetensors")), "from", "does not take the architecture qwen3_next"),
        (step(given("qwen2"), parameters={"heat": 1}), "with.parameters.heat", "no parameter heat"),
        (step(given("qwen2"), parameters={"top_k": 0.5}), "with.parameters.top_k", "a whole number"),
        (step(given("qwen2"), parameters={"top_p": "high"}), "with.parameters.top_p", "a number"),
        (step(given("qwen2"), parameters={"stop": 1}), "with.parameters.stop", "a text or several"),
        (step(given("qwen2"), parameters={"use_mmap": 1}), "with.parameters.use_mmap", "true or false"),
        (step(given("qwen2"), system='say """'), "with.system", "no escape"),
        (step(given("qwen2"), parameters={"num_ctx": 99999}), "with.parameters.num_ctx", "beyond"),
    ],
)
def test_what_ollama_does_not_take_is_told_in_the_plan(view: StepView, key: str, says: str) -> None:
    assert [(one.key, says in one.message) for one in findings(view)] == [(key, True)]


def test_a_recipe_may_say_every_parameter_that_a_modelfile_may_but_those_that_ollama_dropped() -> None:
    assert PARAMETERS == MODELFILES - DEPRECATED


@pytest.mark.parametrize("name", ["mine", "user/mine:q4_K_M", "registry/user/mine:1", "qwen2.5"])
def test_a_good_name_of_a_model_is_taken(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", "Mine", "a b", "../x", "x" * 90, "a:b:c", "x\n", "a//b", "a/b/c/d", "-x", "x:"]
)
def test_a_bad_name_of_a_model_is_told(name: str) -> None:
    assert name_problem(name) is not None
