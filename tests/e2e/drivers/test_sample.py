"""Rows are drawn as the datasets library draws them, from every format, and what is no text is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.drivers.conftest import Driver

pytestmark = pytest.mark.e2e

SHUFFLED = [302, 50, 72, 270, 232, 44, 346, 154]
"""The first rows of `datasets.Dataset.from_dict({"i": range(400)}).shuffle(seed=42)` in datasets 5.2.0."""

WRITE = """
import json, sys
import pyarrow as pa
from pyarrow import csv, feather, parquet
rows = json.load(open(sys.argv[1]))
table = pa.Table.from_pylist(rows)
parquet.write_table(table, sys.argv[2] + "/rows.parquet")
feather.write_feather(table, sys.argv[2] + "/rows.feather")
csv.write_csv(table, sys.argv[2] + "/rows.csv")
with pa.OSFile(sys.argv[2] + "/rows.arrow", "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
    writer.write_table(table)
"""
WIKI = [" \n", " = Robert = \n", " \n", " He said “yes” .\n", " \n", " \n", " 你好 \n"]


@pytest.fixture
def sample(driver: Callable[[str, str, str], Driver]) -> Driver:
    return driver("datasets", "calibration", "sample.py")


@pytest.fixture
def written(image_python: Callable[[str], Path], tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    """A folder with the rows in every format."""

    def write(rows: list[dict[str, Any]]) -> Path:
        place = tmp_path / "rows"
        place.mkdir()
        (place / "rows.json").write_text(json.dumps(rows, ensure_ascii=False))
        (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        argv = [image_python("datasets"), "-I", "-c", WRITE, place / "rows.json", place]
        subprocess.run([*map(str, argv)], check=True)
        return place

    return write


def texts(folder: Path) -> list[str]:
    return [json.loads(line)["text"] for line in (folder / "data.jsonl").read_text().splitlines()]


def test_every_format_gives_the_rows_that_the_datasets_library_would(
    sample: Driver, written: Callable[[list[dict[str, Any]]], Path], tmp_path: Path
) -> None:
    place = written([{"id": index, "text": f'row "{index}",\nof many'} for index in range(400)])
    for ending in ("json", "jsonl", "csv", "parquet", "feather", "arrow"):
        out = tmp_path / ending
        outcome = sample("--data", place / f"rows.{ending}", "--kind", "text", "--sample", 8, "--out", out)
        assert outcome.code == 0, outcome.err
        fact = next(row["fact"] for row in outcome.rows if "fact" in row)
        assert fact["extra"]["row_ids"] == SHUFFLED, ending
        assert texts(out) == [f'row "{index}",\nof many' for index in SHUFFLED], ending
        assert fact["extra"]["rows_sha256"] == hashlib.sha256((out / "data.jsonl").read_bytes()).hexdigest()
        assert (fact["rows"], fact["extra"]["source_rows"]) == (8, 400)


def test_all_rows_of_wikitext_are_its_raw_file_byte_for_byte(
    sample: Driver, written: Callable[[list[dict[str, Any]]], Path], tmp_path: Path
) -> None:
    place = written([{"text": line if line.strip() else ""} for line in WIKI])
    outcome = sample("--data", place / "rows.parquet", "--kind", "text", "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "out" / "data.txt").read_bytes() == "".join(WIKI).encode()


def test_rows_of_conversations_are_kept_whole(sample: Driver, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": str(index)}]} for index in range(9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = sample(
        "--data", tmp_path / "a.jsonl", "--kind", "sft", "--sample", 3, "--out", tmp_path / "out"
    )
    assert outcome.code == 0, outcome.err
    kept = [json.loads(line) for line in (tmp_path / "out" / "data.jsonl").read_text().splitlines()]
    assert len(kept) == 3
    assert all(row in rows for row in kept)
    assert not (tmp_path / "out" / "data.txt").exists()


def test_what_was_drawn_is_drawn_from_again(sample: Driver, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(9)))
    once, twice = tmp_path / "once", tmp_path / "twice"
    sample("--data", tmp_path / "rows.jsonl", "--kind", "text", "--sample", 5, "--out", once)
    sample("--data", once, "--kind", "text", "--sample", 3, "--seed", 1, "--out", twice)
    assert len(set(texts(twice))) == 3
    assert set(texts(twice)) < set(texts(once))


def test_fewer_rows_than_asked_for_are_all_taken_and_the_log_says_so(sample: Driver, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    outcome = sample("--data", tmp_path / "a.txt", "--kind", "text", "--sample", 9, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "there are 2 rows, fewer than 9" in outcome.out


def test_text_that_is_none_is_refused_by_what_it_is(
    sample: Driver, written: Callable[[list[dict[str, Any]]], Path], tmp_path: Path
) -> None:
    place = written([{"text": "a"}])
    for ending, said in (("arrow", "an Arrow stream"), ("parquet", "a Parquet file")):
        named = tmp_path / f"{ending}.txt"
        named.write_bytes((place / f"rows.{ending}").read_bytes())
        error = sample("--data", named, "--kind", "text", "--out", tmp_path / "out").error
        assert error["message"] == f"{ending}.txt is {said}, not text"
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    error = sample("--data", tmp_path / "latin.txt", "--kind", "text", "--out", tmp_path / "out").error
    assert error == {"message": "latin.txt is not UTF-8: byte 3", "hint": "convert it to UTF-8"}


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": 3}\n', "text", "row 1: column text holds int, not text"),
        ("a.jsonl", '{"q": "x", "a": "y"}\n', None, "row 0: columns q, a hold text"),
        ("a.jsonl", '{"q": "x"}\n', "text", "row 0 has no column text"),
        (
            "a.jsonl",
            '{"q": "x"\n',
            None,
            "a.jsonl:1: no JSON: Expecting ',' delimiter: line 1 column 10 (char 9)",
        ),
        ("a.json", "[]", None, "the data set has no rows"),
        ("a.csv", "text\n\n", None, "the data set has no rows"),
        ("a.parquet", "PAR1", None, "a.parquet cannot be read"),
    ],
)
def test_what_is_wrong_with_rows_is_told_with_its_place(
    name: str, content: str, column: str | None, message: str, sample: Driver, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    words = ["--column", column] if column else []
    out = tmp_path / "out"
    error = sample("--data", tmp_path / name, "--kind", "text", *words, "--out", out).error
    assert error["message"].startswith(message)
