"""Rows of training data: every broken one is told with its line, and what is written is what LLaMA-Factory reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lf_data
import lf_files
import lf_report
import pytest
from lf_rows import aligned, layout_of

Row = dict[str, Any]
QUESTION, ANSWER = {"role": "user", "content": "几点了？"}, {"role": "assistant", "content": "三更。"}


def one(row: Any, stage: str = "sft") -> Row:
    found: Row = aligned(row, layout_of(row), stage)
    return found


def prepared(tmp_path: Path, text: str, stage: str = "sft", name: str = "rows.json") -> list[Row]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    lf_data.prepare({"mine": tmp_path / name}, tmp_path / "data", stage)
    return [json.loads(line) for line in (tmp_path / "data" / "mine.jsonl").read_text().splitlines()]


def refused(tmp_path: Path, text: str, stage: str = "sft", name: str = "rows.json") -> str:
    with pytest.raises(lf_report.Refused) as caught:
        prepared(tmp_path, text, stage, name)
    return str(caught.value)


def test_the_three_layouts_come_to_the_same_row() -> None:
    turns = [{"from": "human", "value": "几点了？"}, {"from": "gpt", "value": "三更。"}]
    expected = {"conversations": turns, "system": "你是更夫", "tools": ""}
    system = {"role": "system", "content": "你是更夫"}
    assert one({"instruction": "几点了？", "input": "", "output": "三更。", "system": "你是更夫"}) == expected
    assert one({"conversations": turns, "system": "你是更夫"}) == expected
    assert one({"messages": [system, QUESTION, ANSWER]}) == expected


def test_instruction_and_input_are_one_question_and_history_comes_before() -> None:
    found = one({"instruction": "翻译", "input": "hello", "output": "你好", "history": [["a", "b"]]})
    assert [turn["value"] for turn in found["conversations"]] == ["a", "b", "翻译\nhello", "你好"]


def test_tool_calls_keep_their_arguments_as_an_object_and_answers_of_tools_are_one_turn() -> None:
    call = {"id": "1", "function": {"name": "time", "arguments": '{"zone": "CST"}'}}
    found = one(
        {
            "messages": [
                QUESTION,
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "03:00"},
                {"role": "tool", "content": "04:00"},
                ANSWER,
            ],
            "tools": [{"name": "time"}],
        }
    )
    asked, answered = found["conversations"][1], found["conversations"][2]
    assert (asked["from"], json.loads(asked["value"])) == (
        "function_call",
        [{"name": "time", "arguments": {"zone": "CST"}}],
    )
    assert answered["from"] == "observation" and answered["value"].count("tool_response") == 2
    assert json.loads(found["tools"]) == [{"name": "time"}]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "a", "output": ""}, "output is empty"),
        ({"instruction": " ", "output": "b"}, "instruction is empty"),
        ({"instruction": "a", "output": 3}, "output should be text, is a number"),
        ({"instruction": "a"}, "ends without an answer"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, "history should hold pairs"),
        ({"messages": []}, "messages is empty"),
        ({"messages": "hi"}, "messages should be a list"),
        ({"messages": [QUESTION]}, "ends without an answer"),
        ({"messages": [QUESTION, QUESTION, ANSWER]}, "turn 2 is human"),
        ({"messages": [ANSWER]}, "turn 1 is gpt"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 'role is "wizard"'),
        ({"messages": [{"role": "user", "content": ""}, ANSWER]}, "turn 1: content is empty"),
        ({"messages": [QUESTION, ANSWER, {"role": "system", "content": "x"}]}, "turn 3 is a system prompt"),
        ({"question": "a"}, "has neither messages"),
        ("text", "should be an object, is text"),
    ],
)
def test_a_row_that_would_be_dropped_or_learned_wrongly_is_refused(row: Any, said: str) -> None:
    with pytest.raises(lf_report.Refused, match=said):
        one(row)


def test_preferences_need_two_answers_that_differ() -> None:
    pair = {"instruction": "a", "chosen": "b", "rejected": "c"}
    found = one(pair, "dpo")
    assert found["chosen"] == {"from": "gpt", "value": "b"} and len(found["conversations"]) == 1
    assert one({**pair, "output": "b"}, "rm")["rejected"]["value"] == "c"
    with pytest.raises(lf_report.Refused, match="the same"):
        one({**pair, "rejected": "b"}, "dpo")
    with pytest.raises(lf_report.Refused, match="chosen is missing"):
        one({"instruction": "a", "output": "b"}, "dpo")
    with pytest.raises(lf_report.Refused, match="kto_tag"):
        one({"instruction": "a", "output": "b"}, "kto")
    assert one({"instruction": "a", "output": "b", "kto_tag": False}, "kto")["kto_tag"] is False


def test_every_broken_row_of_a_list_is_told_with_the_line_it_begins_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = '[\n {"instruction": "a", "output": "b"},\n {"instruction": "c",\n  "output": ""},\n {"x": 1}\n]'
    said = refused(tmp_path, rows)
    assert said.startswith("rows.json:3: row 2 output is empty") and "1 more" in said
    assert "rows.json:5: row 3 has neither" in capsys.readouterr().err
    assert not (tmp_path / "data" / "mine.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "said", "name"),
    [
        (
            '{"instruction": "a", "output": "b"}\n{broken\n',
            "rows.jsonl:2: this line is no JSON",
            "rows.jsonl",
        ),
        (
            '[\n{"instruction": "a", "output": "b"}\n{"instruction": "c"}]',
            "rows.json:3: a comma",
            "rows.json",
        ),
        ('[\n{"instruction": "a",\n "output": }]', "rows.json:3: no JSON", "rows.json"),
        ("[]", "has no rows", "rows.json"),
        ("", "has no rows", "rows.jsonl"),
        ("\n\n", "has no rows", "rows.json"),
        ('[{"text": "a"}', "a comma or the end", "rows.json"),
    ],
)
def test_a_file_that_is_broken_is_told_with_its_line(tmp_path: Path, text: str, said: str, name: str) -> None:
    assert said in refused(tmp_path, text, "pt", name)


def test_bytes_that_are_no_utf8_are_told_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "a"}\n' + "{'text': '中'}".encode("gbk"))
    with pytest.raises(lf_report.Refused, match=r"rows\.jsonl:2: not UTF-8"):
        list(lf_files.read(tmp_path / "rows.jsonl"))


def test_one_layout_in_one_data_set(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "b"}, {"messages": [QUESTION, ANSWER]}]
    assert "is messages, the rows before it were alpaca" in refused(tmp_path, json.dumps(rows))


def test_text_is_learned_from_files_of_lines_and_of_rows(tmp_path: Path) -> None:
    assert prepared(tmp_path, "一\n\n二\n", "pt", "book.txt") == [{"text": "一"}, {"text": "二"}]
    assert prepared(tmp_path, '{"text": "三"}', "pt", "book.jsonl") == [{"text": "三"}]
    assert "learns from text" in refused(tmp_path, '[{"instruction": "a", "output": "b"}]', "pt")


def test_the_register_names_only_columns_that_are_there(tmp_path: Path) -> None:
    rows = prepared(tmp_path, '[{"instruction": "a", "output": "b"}]')
    register = json.loads((tmp_path / "data" / "dataset_info.json").read_text())["mine"]
    assert register["file_name"] == "mine.jsonl" and register["formatting"] == "sharegpt"
    assert set(register["columns"].values()) == set(rows[0])
    for stage in ("dpo", "kto"):
        assert lf_data.entry("x", stage)["ranking"] is (stage == "dpo")
    assert lf_data.entry("x", "pt") == {"file_name": "x", "columns": {"prompt": "text"}}


def test_a_folder_of_rows_and_their_plain_text_counts_the_rows_once(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "data.txt").write_text("a\nb\n")
    assert [row["text"] for _, row in lf_files.read(tmp_path)] == ["a", "b"]


def test_the_role_play_set_that_ships_is_whole() -> None:
    path = Path(__file__).parents[3] / "recipes" / "data" / "roleplay.json"
    rows = [one(row) for _, row in lf_files.read(path)]
    assert len(rows) == 50
    assert len({row["conversations"][0]["value"] for row in rows}) == 50
    assert {len(row["conversations"]) for row in rows} == {2}
