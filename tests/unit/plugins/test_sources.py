from __future__ import annotations

import json
from typing import Any

import pytest

from qwend.errors import UsageError
from qwend.model.artifact import Pin, PinnedFile
from qwend.model.launch import Launch, SecretRef
from qwend.model.source import Question
from qwend.plugin.samples import HOSTS
from qwend_plugins.hub.hubs import HuggingFace, ModelScope
from qwend_plugins.hub.web import Web
from qwend_plugins.smoke.source import Smoke

HOST = HOSTS["cpu"]
DIGEST = "ab" * 32


def words(launch: Launch) -> list[str]:
    return [word for word in launch.argv if isinstance(word, str)]


def asked(source: Any, reference: str, **options: Any) -> Launch:
    question = source.resolve(reference, {"kind": "model", "wants": [], **options}, HOST).question
    assert isinstance(question, Question)
    return question.launch


def test_a_hub_is_asked_in_its_image_with_all_that_is_wanted() -> None:
    options = {"wants": ["model/gguf", "dataset/sft"], "type": "model/gguf", "allow_pickle": True}
    launch = asked(HuggingFace(), "hf:Qwen/Q@main/x.gguf", **options)
    assert words(launch) == [
        "hf:Qwen/Q@main/x.gguf", "--kind", "model", "--want", "model/gguf", "--type", "model/gguf", "--allow-pickle",
        "--token-file",
    ]  # fmt: skip
    assert launch.network
    assert {file.name for file in launch.files} >= {"resolve.py", "hubs.py", "facts.py"}


def test_what_is_wanted_of_data_is_data() -> None:
    launch = asked(
        ModelScope(), "modelscope:m/w?split=test", kind="dataset", wants=["dataset/text", "model/gguf"]
    )
    assert words(launch) == [
        "modelscope:m/w?split=test",
        "--kind",
        "dataset",
        "--want",
        "dataset/text",
        "--token-file",
    ]


def test_a_token_is_read_from_a_file_and_gone_without() -> None:
    launch = asked(HuggingFace(), "hf:Qwen/Q")
    assert launch.argv[-1] == SecretRef("hf_token")
    assert launch.optional_secrets == ("hf_token",)
    assert launch.secrets == ()


def test_pinned_files_are_fetched_by_their_hashes_and_not_by_where_a_copy_lies() -> None:
    file = PinnedFile("a/x.gguf", 7, sha256=DIGEST, local="/home/someone/.cache/x.gguf")
    pin = Pin("hf:Qwen/Q", "hf:Qwen/Q@c0ffee", "model/gguf", (file,), revision="c0ffee")
    question = HuggingFace().fetch(pin, {"kind": "model"}, HOST)
    assert question is not None
    (carried,) = [file.content for file in question.launch.files if file.name == "pin.json"]
    assert json.loads(carried)["files"][0] == {
        "path": "a/x.gguf", "size": 7, "sha256": DIGEST, "oid": None, "local": None,
    }  # fmt: skip
    assert question.launch.resumable


@pytest.mark.parametrize(
    "reference",
    [
        "hf:owner",
        "hf:owner/repo/../x",
        "hf:owner/repo@",
        "hf:o/r/x\ny",
        "modelscope:o/r",
        "hf:o/$(id) x",
        "hf:-o/r",
    ],
)
def test_hf_refuses_what_is_no_repository(reference: str) -> None:
    assert list(HuggingFace().check(reference)) != []


def test_a_file_of_the_web_is_known_by_its_hash() -> None:
    pin = Web().resolve(f"https://h.org/a/m%20x.gguf?d=1#sha256={DIGEST}", {"kind": "model"}, HOST).pin
    assert pin is not None
    assert (pin.identity, pin.type, pin.files) == (
        f"sha256:{DIGEST}", "model/gguf", (PinnedFile("m x.gguf", sha256=DIGEST),),
    )  # fmt: skip
    fetch = Web().fetch(pin, {}, HOST)
    assert fetch is not None
    assert words(fetch.launch)[:2] == ["--url", pin.ref]


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("m.bin", "model", "m.bin holds pickled weights"),
        ("m.tar.gz", "model", "m.tar.gz is an archive"),
        ("m.onnx", "model", "what m.onnx is cannot be told from its name"),
        ("d.xml", "dataset", "what d.xml is cannot be told from its name"),
    ],
)
def test_a_file_of_the_web_that_cannot_be_used_is_refused_before_it_is_fetched(
    name: str, kind: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        Web().resolve(f"https://h.org/{name}#sha256={DIGEST}", {"kind": kind, "wants": []}, HOST)


@pytest.mark.parametrize(
    "reference", ["https://h.org/x.gguf", "https://h.org/x#sha256=12", "http://h/x#sha256=" + DIGEST]
)
def test_an_address_without_a_hash_is_refused(reference: str) -> None:
    assert list(Web().check(reference)) != []


def smoke(reference: str, *wants: str, **options: Any) -> Pin:
    pin = Smoke().resolve(reference, {"wants": list(wants), **options}, HOST).pin
    assert pin is not None
    return pin


def test_a_stand_in_takes_the_form_that_its_readers_want() -> None:
    assert smoke("smoke:qwen2", "model/gguf").identity == "smoke:qwen2/gguf/f16/2/0/1"
    assert smoke("smoke:qwen3", "model/awq", "model/safetensors").type == "model/safetensors"
    assert smoke("smoke:qwen3?format=gguf&outtype=q8_0").identity == "smoke:qwen3/gguf/q8_0/2/0/1"
    assert smoke("smoke:data", "dataset/sft").identity == "smoke:data/sft/64/0/messages/1"


def test_a_form_that_cannot_be_made_asks_for_a_stand_in_of_its_own() -> None:
    for reference, want in (("smoke:qwen2", "adapter/lora"), ("smoke:data", "model/gguf")):
        with pytest.raises(UsageError, match=f"{reference} cannot be {want}") as caught:
            smoke(reference, want)
        assert "smoke: file:" in str(caught.value.hint)


def test_a_stand_in_for_a_hub_that_does_not_answer_says_so_loudly() -> None:
    assert smoke("smoke:qwen2", fallback=True).notice == (
        "no hub reachable: serving a tiny untrained model, it talks nonsense"
    )
    assert smoke("smoke:qwen2").notice == "a tiny untrained model, it talks nonsense"
    assert smoke("smoke:qwen2", smoke=True).notice is None


def test_a_stand_in_is_made_by_a_driver_without_network() -> None:
    pin = smoke("smoke:qwen3?layers=4&seed=7", "model/gguf")
    question = Smoke().fetch(pin, {}, HOST)
    assert question is not None
    assert not question.launch.network
    assert words(question.launch) == [
        "--architecture", "qwen3", "--format", "gguf", "--outtype", "f16", "--layers", "4", "--seed", "7", "--out",
    ]  # fmt: skip
    data = Smoke().fetch(smoke("smoke:data?rows=5", "dataset/text"), {}, HOST)
    assert data is not None
    assert words(data.launch)[:4] == ["--kind", "text", "--rows", "5"]


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("smoke:llama", "smoke: makes qwen2, qwen3, qwen3moe and data"),
        ("smoke:qwen2?format=onnx", "smoke:qwen2: Invalid enum value 'onnx' at format"),
        ("smoke:qwen2?colour=red", "smoke:qwen2: Object contains unknown field `colour`"),
        ("smoke:qwen2?layers=1000", "smoke:qwen2: layers should be 1 to 64"),
        ("smoke:data?rows=0", "smoke:data: seed or rows is out of range"),
    ],
)
def test_a_stand_in_that_is_not_known_is_refused(reference: str, reason: str) -> None:
    (finding,) = Smoke().check(reference)
    assert finding.message.startswith(reason)
