from __future__ import annotations

import json
import os
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest

from qwend.errors import UsageError
from qwend.model.source import Resolution
from qwend.plugin.samples import HOSTS
from qwend_plugins.hub.files import Files


def safetensors(path: Path, dtype: str = "BF16", count: int = 8) -> Path:
    """One tensor of `count` numbers, zeros."""
    width = {"BF16": 2, "I32": 4}[dtype]
    header = json.dumps({"model.w": {"dtype": dtype, "shape": [count], "data_offsets": [0, count * width]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(count * width))
    return path


def gguf(path: Path) -> Path:
    """A header with an architecture and no tensors."""
    key, value = b"general.architecture", b"qwen2"
    pair = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair + bytes(32))
    return path


def checkpoint(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "num_hidden_layers": 2, **config}))
    safetensors(folder / "model.safetensors")
    return folder


def resolve(folder: Path, body: str, **options: Any) -> Resolution:
    options = {"kind": "model", "wants": [], "directory": str(folder), **options}
    return Files().resolve(f"file:{body}", options, HOSTS["cpu"])


def test_a_checkpoint_is_told_by_its_config_and_facts_come_from_headers(tmp_path: Path) -> None:
    checkpoint(tmp_path / "m")
    found = resolve(tmp_path, "m")
    assert (found.local, found.type) == (str(tmp_path / "m"), "model/safetensors")
    assert found.pin is not None
    assert (found.pin.facts.architecture, found.pin.facts.parameters, found.pin.identity) == ("qwen2", 8, "")


@pytest.mark.parametrize(
    ("method", "kind"),
    [("awq", "model/awq"), ("gptq", "model/gptq"), ("compressed-tensors", "model/compressed-tensors")],
)
def test_a_quantised_checkpoint_is_told_by_its_method(tmp_path: Path, method: str, kind: str) -> None:
    checkpoint(tmp_path / "m", quantization_config={"quant_method": method, "bits": 4})
    assert resolve(tmp_path, "m").type == kind


def test_an_adapter_and_a_gguf_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/X"}))
    safetensors(tmp_path / "a" / "adapter_model.safetensors")
    found = resolve(tmp_path, "a")
    assert found.pin is not None
    assert (found.type, found.pin.facts.base) == ("adapter/lora", "Qwen/X")
    gguf(tmp_path / "m.gguf")
    assert resolve(tmp_path, "m.gguf").type == "model/gguf"


def test_an_absolute_path_and_the_users_home_are_the_users_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf(tmp_path / "m.gguf")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(Path("/"), str(tmp_path / "m.gguf")).local == str(tmp_path / "m.gguf")
    assert resolve(Path("/"), "~/m.gguf").local == str(tmp_path / "m.gguf")


@pytest.mark.parametrize("body", ["link.gguf", "folder/m.gguf"])
def test_a_relative_path_may_not_lead_out_of_the_folder_by_a_link(tmp_path: Path, body: str) -> None:
    outside, home = tmp_path / "outside", tmp_path / "recipe"
    outside.mkdir()
    home.mkdir()
    gguf(outside / "m.gguf")
    (home / "link.gguf").symlink_to(outside / "m.gguf")
    (home / "folder").symlink_to(outside)
    with pytest.raises(UsageError) as caught:
        resolve(home, body)
    assert caught.value.code == "outside"
    assert str(outside / "m.gguf") in str(caught.value.hint)


def test_a_file_that_is_not_there_is_told_with_a_guess(tmp_path: Path) -> None:
    gguf(tmp_path / "Model.gguf")
    with pytest.raises(UsageError) as caught:
        resolve(tmp_path, "model.gguf")
    assert caught.value.lines() == [f"there is no file {tmp_path}/model.gguf (did you mean Model.gguf?)"]


def test_a_file_that_cannot_be_read_says_why() -> None:
    """Root reads everything, and becomes nobody for the question."""
    before = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        gguf(folder / "m.gguf").chmod(0)
        if before == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(UsageError, match=r"m\.gguf cannot be read: Permission denied"):
                resolve(folder, "m.gguf")
        finally:
            os.seteuid(before)


@pytest.mark.parametrize("damage", [b"GGUF", b"", b"GGUF" + bytes(100), b"GGML" + bytes(64)])
def test_a_damaged_header_is_refused_before_an_engine_sees_it(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(damage)
    with pytest.raises(UsageError) as caught:
        resolve(tmp_path, "m.gguf")
    assert caught.value.code == "bad-header"
    assert caught.value.message.startswith(f"{tmp_path}/m.gguf: m.gguf: ")


def test_pickled_weights_are_refused_unless_they_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UsageError, match="holds pickled weights, which can run code"):
        resolve(tmp_path, "m")
    allowed = resolve(tmp_path, "m", allow_pickle=True)
    assert allowed.pin is not None
    assert [file.path for file in allowed.pin.files] == ["pytorch_model.bin"]
    with pytest.raises(UsageError, match="holds pickled weights"):
        resolve(tmp_path, "m/pytorch_model.bin")


def test_what_a_trainer_leaves_beside_safetensors_is_no_reason_to_refuse(tmp_path: Path) -> None:
    (checkpoint(tmp_path / "m") / "training_args.bin").write_bytes(b"\x80\x04.")
    assert resolve(tmp_path, "m").type == "model/safetensors"


@pytest.mark.parametrize(
    ("name", "text", "options", "kind"),
    [
        ("d.txt", "words", {}, "dataset/text"),
        ("d.jsonl", '{"text": "a"}\n', {}, "dataset/text"),
        ("d.jsonl", '{"prompt": "a"}\n', {}, "dataset/prompts"),
        ("d.json", '[{"instruction": "a", "output": "b"}]', {}, "dataset/sft"),
        ("d.json", '[\n {"messages": []}]', {}, "dataset/sft"),
        ("d.jsonl", '{"conversations": []}\n', {}, "dataset/sft"),
        ("d.jsonl", '{"question": "a"}\n', {"column": "question"}, "dataset/text"),
        ("d.jsonl", '{"question": "a"}\n', {"wants": ["dataset/sft"]}, "dataset/sft"),
        ("d.jsonl", '{"question": "a"}\n', {"type": "dataset/prompts"}, "dataset/prompts"),
    ],
)
def test_data_is_told_by_its_reader_its_type_or_its_first_row(
    tmp_path: Path, name: str, text: str, options: dict[str, Any], kind: str
) -> None:
    (tmp_path / name).write_text(text)
    assert resolve(tmp_path, name, kind="dataset", **options).type == kind


@pytest.mark.parametrize(
    ("name", "text"), [("d.jsonl", "{nonsense"), ("d.xml", "<a/>"), ("d.json", "[" * 100_000)]
)
def test_data_that_cannot_be_told_asks_for_its_type(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match="cannot be told") as caught:
        resolve(tmp_path, name, kind="dataset")
    assert "say type:" in str(caught.value.hint)


def test_an_empty_folder_of_data_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(UsageError, match="is empty"):
        resolve(tmp_path, "d", kind="dataset")
