"""What a reference means in a repository: which files are taken, and what is refused."""

from __future__ import annotations

import pytest
from hubs import HubError, Reference, RemoteFile, Snapshot
from resolve import choose_data, choose_model


def holding(*paths: str, configs: object = None) -> Snapshot:
    return Snapshot("c" * 40, tuple(RemoteFile(path, 10) for path in paths), about={"configs": configs})


def chosen(
    snapshot: Snapshot, reference: str = "hf:o/r", *wants: str, pickle: bool = False
) -> tuple[str, list[str]]:
    kind, files = choose_model(snapshot, Reference.parse(reference), list(wants), pickle)
    return kind, [file.path for file in files]


CHECKPOINT = ("config.json", "model.safetensors", "tokenizer.json", "merges.txt", "chat_template.jinja")
OTHERS = (
    "README.md",
    "LICENSE",
    ".gitattributes",
    "modeling_x.py",
    "pytorch_model.bin",
    "onnx/model.onnx",
    "x.msgpack",
)
MIXED = holding(*CHECKPOINT, *OTHERS, "model-q8_0.gguf")


def test_a_checkpoint_is_its_weights_configuration_and_tokenizer_and_nothing_else() -> None:
    assert chosen(holding(*CHECKPOINT, *OTHERS)) == ("model/safetensors", sorted(CHECKPOINT))


def test_the_first_wanted_form_that_is_there_is_taken() -> None:
    assert chosen(MIXED)[0] == "model/safetensors"
    assert chosen(MIXED, "hf:o/r", "model/gguf", "model/safetensors") == ("model/gguf", ["model-q8_0.gguf"])
    assert chosen(MIXED, "hf:o/r", "model/mlx", "model/gguf")[0] == "model/safetensors", (
        "mlx is known by its config"
    )
    assert chosen(holding("a.gguf"), "hf:o/r", "model/safetensors") == ("model/gguf", ["a.gguf"])


def test_a_part_of_a_split_gguf_model_stands_for_all_of_them() -> None:
    parts = [f"q8/m-{part:05}-of-00003.gguf" for part in (1, 2, 3)]
    assert chosen(holding(*parts)) == ("model/gguf", parts)
    assert chosen(holding(*parts), f"hf:o/r/{parts[0]}") == ("model/gguf", parts)
    with pytest.raises(HubError, match=r"lacks q8/m-00002-of-00003\.gguf"):
        chosen(holding(parts[0], parts[2]))


def test_vision_projectors_and_importance_matrices_are_no_models() -> None:
    assert chosen(holding("m.gguf", "mmproj-m.gguf", "m.imatrix.gguf"))[1] == ["m.gguf"]


def test_a_folder_of_a_repository_is_a_model_of_its_own() -> None:
    snapshot = holding("config.json", "v2/config.json", "v2/model.safetensors", "v2/onnx/config.json")
    assert chosen(snapshot, "hf:o/r/v2") == ("model/safetensors", ["v2/config.json", "v2/model.safetensors"])


def test_an_adapter_is_told_from_a_model_by_its_configuration() -> None:
    snapshot = holding("adapter_config.json", "adapter_model.safetensors", "optimizer.pt")
    assert chosen(snapshot) == ("adapter/lora", ["adapter_config.json", "adapter_model.safetensors"])


def test_pickles_are_refused_with_the_way_out_and_taken_only_when_allowed() -> None:
    snapshot = holding("config.json", "pytorch_model.bin", "x.py")
    with pytest.raises(HubError) as caught:
        chosen(snapshot)
    assert (caught.value.kind, "allow_pickle: true" in caught.value.hint) == ("pickle-only", True)
    assert chosen(snapshot, pickle=True)[1] == ["config.json", "pytorch_model.bin"]


def test_several_models_must_be_told_apart_and_the_usual_one_is_offered() -> None:
    with pytest.raises(HubError) as caught:
        chosen(holding("m-f16.gguf", "m-Q4_K_M.gguf"))
    assert (caught.value.kind, caught.value.hint) == ("ambiguous", "name one: hf:o/r/m-Q4_K_M.gguf")


def data(snapshot: Snapshot, reference: str) -> list[str]:
    return [file.path for file in choose_data(snapshot, Reference.parse(reference))]


def test_a_card_says_which_files_are_a_subset_and_split() -> None:
    configs = [
        {
            "config_name": "raw",
            "data_files": [{"split": "test", "path": "a/t-*"}, {"split": "train", "path": ["a/l-*"]}],
        },
        {"config_name": "clean", "data_files": "b/*.parquet"},
    ]
    snapshot = holding("a/t-0.parquet", "a/t-1.parquet", "a/l-0.parquet", "b/x.parquet", configs=configs)
    assert data(snapshot, "hf:o/r?subset=raw&split=test") == ["a/t-0.parquet", "a/t-1.parquet"]
    assert data(snapshot, "hf:o/r?subset=clean") == ["b/x.parquet"]
    assert data(snapshot, "hf:o/r?split=train") == ["a/l-0.parquet"], "the first subset is the default"


def test_without_a_card_the_names_tell_and_tables_go_before_their_originals() -> None:
    snapshot = holding("raw/test-0.parquet", "raw/train-0.parquet", "raw/test.csv", "raw_v2/test-0.parquet")
    assert data(snapshot, "hf:o/r?subset=raw&split=test") == ["raw/test-0.parquet"]
    flat = holding("raw_train.jsonl", "raw_test.jsonl", "raw_extra_test.jsonl", "dataset_infos.json")
    assert data(flat, "hf:o/r?subset=raw&split=test") == ["raw_test.jsonl"]
    with pytest.raises(HubError, match="no data for split 'dev'"):
        data(snapshot, "hf:o/r?split=dev")


@pytest.mark.parametrize(
    "text", ["o/r", "hf:o", "hf:o/r#x", "hf:o/r?rows=3", "hf:o/r@", "hf:../r", "ftp:o/r"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(HubError) as caught:
        Reference.parse(text)
    assert caught.value.kind == "bad-reference"
