"""A configuration that transformers 5 wrote is read alike by 4, and one that both read is left as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from both_ways import config_both, config_older, for_older, tokenizer_both, write_both_ways

NEW = {
    "model_type": "qwen2",
    "dtype": "bfloat16",
    "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
}
OLD = {"model_type": "qwen2", "torch_dtype": "bfloat16", "rope_theta": 1e6}


def folder(path: Path, config: dict[str, Any], tokenizer: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_the_base_of_the_positions_stands_under_both_names() -> None:
    both = config_both(NEW)
    assert (both["rope_theta"], both["torch_dtype"]) == (1e6, "bfloat16")
    assert both["rope_parameters"] == NEW["rope_parameters"] and both["dtype"] == "bfloat16"
    assert "rope_scaling" not in both
    assert config_both(both) == both


def test_stretched_positions_keep_how_they_are_stretched() -> None:
    yarn = {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    both = config_both(NEW | {"rope_parameters": yarn})
    assert both["rope_theta"] == 1e6
    assert both["rope_scaling"] == {name: value for name, value in yarn.items() if name != "rope_theta"}


@pytest.mark.parametrize("config", [OLD, {}, {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}])
def test_what_the_older_one_wrote_or_cannot_say_is_left_as_it_is(config: dict[str, Any]) -> None:
    assert config_both(config) == config


def test_special_tokens_stand_under_the_name_that_both_know() -> None:
    new = {
        "extra_special_tokens": ["<|im_start|>"],
        "is_local": True,
        "local_files_only": True,
        "eos_token": "x",
    }
    assert tokenizer_both(new) == {"additional_special_tokens": ["<|im_start|>"], "eos_token": "x"}
    named = {"extra_special_tokens": {"image_token": "<image>"}}  # by name: 4 knows these
    assert tokenizer_both(named) == named


def test_a_checkpoint_is_rewritten_once_and_then_left_alone(tmp_path: Path) -> None:
    made = folder(tmp_path / "new", NEW, {"extra_special_tokens": []})
    write_both_ways(made)
    written = (made / "config.json").read_text()
    assert json.loads(written)["rope_theta"] == 1e6
    write_both_ways(made)
    assert (made / "config.json").read_text() == written


def test_what_the_older_one_wrote_is_read_where_it_lies(tmp_path: Path) -> None:
    made = folder(tmp_path / "old", OLD, {"eos_token": "x"})
    assert for_older(made, tmp_path / "scratch") == made
    assert not (tmp_path / "scratch").exists()


def test_an_older_reader_is_given_no_newer_name_that_it_would_hand_on_unchanged() -> None:
    assert config_older(NEW) == config_older(config_both(NEW)) == OLD
    assert config_older(OLD) == OLD


def test_a_source_is_read_through_links_and_not_changed(tmp_path: Path) -> None:
    source = folder(tmp_path / "new", NEW, {"eos_token": "x"})
    for _ in range(2):  # a second attempt finds the folder of the first
        seen = for_older(source, tmp_path / "scratch" / "source")
        assert seen == tmp_path / "scratch" / "source"
        assert json.loads((seen / "config.json").read_text())["rope_theta"] == 1e6
        assert (seen / "model.safetensors").read_bytes() == b"weights"
        assert (seen / "tokenizer_config.json").is_symlink()
    assert json.loads((source / "config.json").read_text()) == NEW
