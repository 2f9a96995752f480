"""Batches: every row answered once, in order, whatever was killed; only new rows are asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from batch_results import JOURNAL, RESULTS, Outcome, Results, key_of
from batch_rows import BatchError, Row, read_rows
from hypothesis import given, settings
from hypothesis import strategies as st

OPENAI = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
          "body": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}}  # fmt: skip


def written(folder: Path, *rows: Any, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def results(folder: Path, rows: list[Row], before: Path | None = None, identity: str = "m") -> Results:
    return Results(rows, identity, folder / "out", before, "base")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / RESULTS).read_text(encoding="utf-8").splitlines()]


def answer(made: Results, most: int | None = None) -> list[int]:
    """Answers what is missing with the row's own number; gives the rows that were asked."""
    asked = made.missing()[:most]
    for row in asked:
        made.add(row, Outcome(f"answer {row.index}", "stop", 5, 2))
    return [row.index for row in asked]


def test_rows_are_texts_prompts_conversations_or_requests(tmp_path: Path) -> None:
    said = ["Hi", {"prompt": "Hi", "id": 7}, {"messages": [{"role": "user", "content": "Hi"}]}, OPENAI]
    rows = read_rows(written(tmp_path, *said), chat=True, system="Be brief.")
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": "Hi"}
    assert [row.messages for row in rows] == [[system, user], [system, user], [user], [user]]
    assert [row.custom_id for row in rows] == [None, None, None, "a"]
    assert rows[3].body["max_tokens"] == 3
    (raw, *_) = read_rows(written(tmp_path, "Once upon"), chat=False)
    assert (raw.messages, raw.prompt) == (None, "Once upon")


def test_text_files_lists_and_tables_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n二\n", encoding="utf-8")
    (tmp_path / "b.json").write_text('["three"]')
    (tmp_path / "c.csv").write_text('n,question\n1,"four\nlines"\n')
    for name, texts in (("a.txt", ["one", "二"]), ("b.json", ["three"]), ("c.csv", ["four\nlines"])):
        rows = read_rows(tmp_path / name, chat=True)
        assert [row.messages[0]["content"] for row in rows if row.messages] == texts
    named = read_rows(tmp_path / "c.csv", chat=True, column="n")
    assert named[0].messages == [{"role": "user", "content": "1"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"a"\n{"prompt"\n', "data.jsonl:2: is no JSON: "),
        ('"a"\n\n{"x": 1}\n', "data.jsonl:3: has no prompt or question or instruction or text; it has x"),
        ('{"prompt": " "}\n', "data.jsonl:1: the prompt is empty"),
        ('{"messages": []}\n', "data.jsonl:1: messages should be a list of messages with role and content"),
        ('{"custom_id": "a", "body": 1}\n', "data.jsonl:1: body should be an object"),
        (
            '{"custom_id": "a", "url": "/v1/embeddings", "body": {}}\n',
            "data.jsonl:1: /v1/embeddings is not answered",
        ),
        ("5\n", "data.jsonl:1: should be a text or an object with a prompt"),
        ("\n", "data.jsonl: there are no prompts"),
    ],
)
def test_a_bad_row_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(BatchError) as caught:
        read_rows(path, chat=True)
    assert str(caught.value).startswith(message)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(b'"\xff"\n')
    with pytest.raises(BatchError, match="is not UTF-8 text"):
        read_rows(tmp_path / "data.jsonl", chat=True)


def test_results_stand_in_the_rows_order_with_usage_and_reason(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, "a", OPENAI, "c"), chat=True)
    made = results(tmp_path, rows)
    for row in (rows[2], rows[0], rows[1]):
        made.add(row, Outcome(f"answer {row.index}", "length", 5, 2))
    made.finish()
    plain, openai, last = lines(tmp_path)
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert (plain["index"], plain["input"], plain["output"], plain["usage"]) == (0, "a", "answer 0", usage)
    assert (last["index"], last["finish_reason"]) == (2, "length")
    assert (openai["custom_id"], openai["response"]["status_code"]) == ("a", 200)
    body = openai["response"]["body"]
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "answer 1"}
    assert (body["object"], body["model"], body["usage"]) == ("chat.completion", "base", usage)
    assert not (tmp_path / "out" / JOURNAL).exists()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=4),
)
def test_a_batch_killed_anywhere_loses_no_line_and_doubles_none(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], kills: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("batch")
    rows = read_rows(written(folder, *texts), chat=True)
    asked = 0
    for most, torn in kills:
        made = results(folder, rows)
        asked += len(answer(made, most))
        made.close()
        journal = folder / "out" / JOURNAL
        whole = journal.read_bytes() if journal.exists() else b""
        kept = whole[: max(0, len(whole) - torn)]  # what of the last lines was not written any more
        asked -= whole.count(b"\n") - kept.count(b"\n")
        journal.write_bytes(kept)
    made = results(folder, rows)
    asked += len(answer(made))
    made.finish()
    assert [line["input"] for line in lines(folder)] == texts
    assert asked == len(texts), "what was answered is not asked again"


def test_only_new_rows_are_asked_when_rows_were_added(tmp_path: Path) -> None:
    first = results(tmp_path / "1", read_rows(written(tmp_path, "a", "b", "a"), chat=True))
    answer(first)
    first.finish()
    rows = read_rows(written(tmp_path, "new", "a", "b", "a", "a"), chat=True)
    second = results(tmp_path / "2", rows, tmp_path / "1" / "out")
    assert (second.kept, second.known) == (0, 3)
    assert answer(second) == [0, 4], "a row that stands there once more is answered once more"
    second.finish()
    assert [line["output"] for line in lines(tmp_path / "2")] == [
        "answer 0", "answer 0", "answer 1", "answer 2", "answer 4",
    ]  # fmt: skip
    assert [line["index"] for line in lines(tmp_path / "2")] == [0, 1, 2, 3, 4]


def test_another_model_or_setting_answers_all_anew(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, "a"), chat=True)
    first = results(tmp_path / "1", rows)
    answer(first)
    first.finish()
    assert results(tmp_path / "2", rows, tmp_path / "1" / "out", identity="other").known == 0
    assert key_of(rows[0], "m") != key_of(rows[0], "other")


def test_what_could_not_be_answered_is_told_and_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_rows(written(tmp_path, "a", OPENAI), chat=True)
    made = results(tmp_path / "1", rows)
    made.add(rows[0], Outcome("fine", "stop", 1, 1))
    made.add(rows[1], Outcome(None, error="the prompt is too long"))
    made.finish()
    assert (
        "1 of 2 prompts could not be answered; the first: the prompt is too long" in capsys.readouterr().err
    )
    good, bad = lines(tmp_path / "1")
    assert (good["error"], bad["response"]["status_code"]) == (None, 400)
    assert bad["response"]["body"]["error"]["message"] == "the prompt is too long"
    again = results(tmp_path / "2", rows, tmp_path / "1" / "out")
    assert [row.index for row in again.missing()] == [1]


def test_a_batch_of_which_nothing_could_be_answered_fails_with_the_reason(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, "a"), chat=True)
    made = results(tmp_path, rows)
    made.add(rows[0], Outcome(None, error="no"))
    with pytest.raises(BatchError, match="none of 1 prompts could be answered: no"):
        made.finish()


def test_progress_tells_tokens_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEND_REPORT", str(tmp_path / "report.jsonl"))
    made = results(tmp_path, read_rows(written(tmp_path, "a", "b"), chat=True))
    made.progress()
    answer(made)
    made.finish()
    told = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    news = [row["progress"] for row in told if "progress" in row]
    assert (news[0]["phase"], news[0]["done"], news[0]["total"]) == ("generate", 0, 2)
    assert news[-1]["phase"].endswith("tokens/s") and news[-1]["done"] == 2
    figures = {row["metric"]["name"]: row["metric"]["value"] for row in told if "metric" in row}
    assert (figures["prompts"], figures["completion_tokens"], figures["failed"]) == (2, 4, 0)
