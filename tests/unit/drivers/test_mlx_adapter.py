"""An adapter of mlx-lm in PEFT's form and back: names, the way round, the scale, and what neither can say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlx_adapter import CONFIG, for_mlx, from_peft, mlx_config, peft_config, scale_of, to_peft
from mlx_lora import full, layers_of, newest
from mlx_rows import Learned, chat, write_rows
from mlx_start import DriverError, whole_safetensors


class Matrix:
    """Rows of numbers with the two properties of an array that are used."""

    def __init__(self, *rows: list[float]) -> None:
        self.rows = list(rows)

    ndim = 2

    @property
    def T(self) -> Matrix:
        return Matrix(*[list(column) for column in zip(*self.rows, strict=True)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Matrix) and self.rows == other.rows


class Experts(Matrix):
    ndim = 3


MLX = {
    "model.layers.3.self_attn.q_proj.lora_a": Matrix([1.0], [2.0], [3.0]),  # (in 3, rank 1)
    "model.layers.3.self_attn.q_proj.lora_b": Matrix([4.0, 5.0]),  # (rank 1, out 2)
}


def test_each_matrix_gets_pefts_name_and_is_turned_over_and_comes_back_the_same() -> None:
    peft = to_peft(MLX)
    assert peft == {
        "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight": Matrix([1.0, 2.0, 3.0]),
        "base_model.model.model.layers.3.self_attn.q_proj.lora_B.weight": Matrix([4.0], [5.0]),
    }
    assert from_peft(peft) == MLX


def test_the_configuration_of_both_says_the_same_sum() -> None:
    config = peft_config(
        "Qwen/Q", 8, 2.5, 0.1, ["model.layers.3.self_attn.q_proj", "model.layers.2.mlp.up_proj"]
    )
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 20, 0.1)
    assert config["target_modules"] == ["q_proj", "up_proj"]
    assert config["layers_to_transform"] == [2, 3]
    assert scale_of(config) == 2.5
    assert scale_of({"r": 16, "lora_alpha": 16, "use_rslora": True}) == 4.0
    assert mlx_config(2, 8, 2.5, 0.1, ["b", "a"])["lora_parameters"] == {
        "rank": 8, "scale": 2.5, "dropout": 0.1, "keys": ["a", "b"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        {"r": 8, "lora_alpha": 16, "use_dora": True},
        {"r": 8, "lora_alpha": 16, "modules_to_save": ["lm_head"]},
        {"r": 8, "lora_alpha": 16, "rank_pattern": {"q_proj": 4}},
        {"r": 8, "lora_alpha": 16, "bias": "all"},
        {"lora_alpha": 16},
    ],
)
def test_an_adapter_with_another_sum_is_refused_rather_than_merged_wrong(config: dict[str, Any]) -> None:
    with pytest.raises(DriverError):
        scale_of(config)


def test_experts_and_whole_tensors_have_no_form() -> None:
    with pytest.raises(DriverError, match="switch_mlp"):
        to_peft({"model.layers.0.mlp.switch_mlp.up_proj.lora_a": Experts([1.0])})
    with pytest.raises(DriverError, match=r"lm_head\.weight"):
        from_peft({"base_model.model.lm_head.weight": Matrix([1.0])})


def test_an_adapter_without_weights_or_with_a_broken_configuration_is_told(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="cannot be read"):
        for_mlx(tmp_path, tmp_path / "scratch")
    (tmp_path / CONFIG).write_text('{"r": 8, "lora_alpha": 8}')
    with pytest.raises(DriverError, match="holds neither"):
        for_mlx(tmp_path, tmp_path / "scratch")


def test_rows_of_every_layout_become_messages_with_their_tools(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "time", "parameters": {}}}
    rows = [
        {"instruction": "Who?", "input": "You.", "output": "I.", "system": "Be brief."},
        {"instruction": "几点", "output": "三更"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    assert write_rows({"a": tmp_path / "a.json"}, tmp_path / "train.jsonl", tmp_path / "s", "sft") == 2
    first, second = (
        json.loads(line)["messages"] for line in (tmp_path / "train.jsonl").read_text().splitlines()
    )
    assert [one["role"] for one in first] == ["system", "user", "assistant"]
    assert first[1]["content"] == "Who?\nYou."
    assert second == [{"role": "user", "content": "几点"}, {"role": "assistant", "content": "三更"}]
    called = chat(
        {
            "conversations": [
                {"from": "human", "value": "When?"},
                {"from": "function_call", "value": '[{"name": "time", "arguments": {"zone": "CET"}}]'},
                {"from": "observation", "value": "noon"},
                {"from": "gpt", "value": "At noon."},
            ],
            "system": "",
            "tools": json.dumps([tool]),
        }
    )
    assert called["tools"] == [tool]
    assert [one["role"] for one in called["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert called["messages"][1]["tool_calls"][0]["function"] == {
        "name": "time",
        "arguments": {"zone": "CET"},
    }


def test_a_broken_row_is_told_with_its_line_and_a_text_stays_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"instruction": "Hi", "output": "Ho"}\n{"instruction": "Hi", "output": ""}\n'
    )
    with pytest.raises(DriverError, match=r"a\.jsonl:2: row 2 output is empty"):
        write_rows({"a": tmp_path / "a.jsonl"}, tmp_path / "t", tmp_path / "s", "sft")
    (tmp_path / "b.txt").write_text("once\nupon a time\n")
    assert write_rows({"b": tmp_path / "b.txt"}, tmp_path / "t.jsonl", tmp_path / "s", "pt") == 2
    assert (tmp_path / "t.jsonl").read_text() == '{"text": "once"}\n{"text": "upon a time"}\n'


def test_a_row_that_teaches_nothing_is_found_before_its_loss_is_no_number() -> None:
    rows = Learned([([1, 2, 3, 4], 2), ([1, 2, 3, 4, 5, 6], 4), ([1, 2, 3], 0)])
    assert rows.cut(8) == (0, 0)
    assert rows.cut(5) == (1, 0)
    assert rows.cut(4) == (1, 2)  # its answer begins where it is cut


def test_too_few_rows_for_a_batch_are_told_with_the_batch_that_would_do() -> None:
    full("train", 4, 4)
    with pytest.raises(DriverError, match="3 rows") as refused:
        full("train", 3, 4)
    assert "batch_size: 3" in refused.value.hint


def test_more_layers_than_there_are_means_all() -> None:
    assert [layers_of(2, asked) for asked in (1, 2, 16, -1)] == [1, 2, 2, 2]


def test_a_killed_run_goes_on_from_the_last_checkpoint_that_is_whole(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    whole = len(header).to_bytes(8, "little") + header + b"\0\0\0\0"
    assert newest(tmp_path) == (0, None)
    for folder, name, content in [
        ("from-0000000", "0000002_adapters.safetensors", whole),
        ("from-0000000", "adapters.safetensors", whole),  # the same weights without their step
        ("from-0000002", "0000004_adapters.safetensors", whole),
        ("from-0000002", "0000006_adapters.safetensors", whole[:-2]),  # killed while it was written
        ("from-0000002", "0000007_adapters.safetensors", b""),
    ]:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_bytes(content)
    assert newest(tmp_path) == (6, tmp_path / "from-0000002" / "0000004_adapters.safetensors")
    assert not whole_safetensors(tmp_path / "nowhere")
