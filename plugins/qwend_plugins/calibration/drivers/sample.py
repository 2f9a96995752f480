"""Draw rows of a data set and write them in the layout that every engine reads. Runs inside the image.

    python sample.py --data PLACE --kind text --sample 200 --seed 42 --out DIR

`data.jsonl` has a row a line: `{"text": …}`, or the whole row where the kind is not text. Text comes as `data.txt`
too. `rows.json` says which rows of the source these are. The rows are those of
`datasets.Dataset.shuffle(seed).select(range(n))`: a permutation by numpy's PCG64.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from rows_reading import TEXTS, RowsError, data_files, read_text, rows


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def permutation(count: int, seed: int) -> list[int]:
    """The order in which the datasets library shuffles `count` rows."""
    import numpy

    return [int(index) for index in numpy.random.default_rng(seed).permutation(count)]


def text_of(row: Any, column: str | None, place: str) -> str:
    """The text of a row. Raises RowsError where there is none, or more than one candidate."""
    if isinstance(row, str):
        return row
    if not isinstance(row, dict):
        raise RowsError(f"{place} is no object")
    if column is not None:
        if column not in row:
            raise RowsError(
                f"{place} has no column {column}", f"it has {', '.join(map(str, list(row)[:12]))}"
            )
        value = row[column]
        if value is None:
            return ""
        if not isinstance(value, str):
            raise RowsError(f"{place}: column {column} holds {type(value).__name__}, not text")
        return value
    if isinstance(row.get("text"), str):
        return str(row["text"])
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if len(texts) != 1:
        said = f"columns {', '.join(texts)} hold text" if texts else "no column holds text"
        raise RowsError(f"{place}: {said}", "say which one is meant: column")
    return str(row[texts[0]])


def joined(texts: Sequence[str], how: str) -> str:
    """Rows as one text.

    `wikitext`: the raw file had " \\n" where the data set has an empty row, and the other rows end in a newline
    already; so `wiki.test.raw` comes back byte for byte.
    """
    ends = sum(text.endswith("\n") for text in texts)
    if how == "auto":
        how = "wikitext" if ends and all(text.endswith("\n") or not text for text in texts) else "paragraphs"
    if how == "wikitext":
        return "".join(text or " \n" for text in texts)
    if how == "lines":
        return "".join(text if text.endswith("\n") else text + "\n" for text in texts)
    return "\n\n".join(text.strip("\n") for text in texts) + "\n"


def sampled(args: argparse.Namespace) -> dict[str, Any]:
    """Read, choose, write; what is known of the result."""
    files = data_files(args.data)
    as_text = args.kind == "text"
    plain = as_text and args.sample is None and not args.min_chars and all(
        file.suffix.lower() in TEXTS for file in files
    )  # fmt: skip
    found: list[Any] = []
    for number, file in enumerate(files):
        report(progress={"phase": "read", "done": number, "total": len(files), "unit": "files"})
        found += [read_text(file)] if plain else list(rows(file))
    if not found:
        raise RowsError("the data set has no rows")
    texts = [text_of(row, args.column, f"row {index}") for index, row in enumerate(found)] if as_text else []
    ids = list(range(len(found)))
    if args.min_chars:
        lengths = [len(text) for text in texts] if as_text else [len(json.dumps(row)) for row in found]
        ids = [index for index in ids if lengths[index] >= args.min_chars]
        if not ids:
            raise RowsError(f"no row has {args.min_chars} characters", "a smaller min_chars")
    if args.sample is not None:
        order = permutation(len(ids), args.seed)
        ids = [ids[index] for index in order[: args.sample]]
    if args.sample is not None and len(ids) < args.sample:
        print(f"sample: there are {len(ids)} rows, fewer than {args.sample}: all are taken", flush=True)
    chosen = [{"text": texts[index]} for index in ids] if as_text else [_kept(found[index]) for index in ids]
    return written(args, chosen, ids, len(found))


def _kept(row: Any) -> Any:
    return {"prompt": row} if isinstance(row, str) else row


def written(args: argparse.Namespace, chosen: list[Any], ids: list[int], count: int) -> dict[str, Any]:
    """The files of the artifact, and the facts of it."""
    args.out.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in chosen).encode()
    (args.out / "data.jsonl").write_bytes(data)
    known: dict[str, Any] = {"source_rows": count, "rows_sha256": hashlib.sha256(data).hexdigest()}
    if args.kind == "text":
        whole = joined([row["text"] for row in chosen], args.join).encode()
        if not whole.strip():
            raise RowsError(
                "the rows that were drawn hold no text", "another seed, more rows, or min_chars: 1"
            )
        (args.out / "data.txt").write_bytes(whole)
        known |= {"text_sha256": hashlib.sha256(whole).hexdigest(), "text_bytes": len(whole)}
        known["empty_rows"] = sum(not row["text"].strip() for row in chosen)
    if args.sample is not None:
        known |= {"row_ids": ids, "seed": args.seed}
    (args.out / "rows.json").write_text(json.dumps(known, ensure_ascii=False) + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in args.out.iterdir())
    return {"rows": len(chosen), "bytes": size, "extra": known}


def parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sample", description="Draw rows of a data set.")
    add = parser.add_argument
    add("--data", type=Path, required=True, help="a file, or a folder of files")
    add("--kind", choices=("text", "sft", "prompts"), required=True)
    add("--column", help="the column with the text")
    add("--sample", type=int, help="so many rows, shuffled; default: all, in their order")
    add("--seed", type=int, default=42)
    add("--min-chars", type=int, default=0)
    add("--join", choices=("auto", "paragraphs", "lines", "wikitext"), default="auto")
    add("--out", type=Path, required=True)
    return parser.parse_args(argv)


def leave(message: str, hint: str = "") -> NoReturn:
    report(error={"message": message, "hint": hint})
    print(f"sample: {message}" + (f" ({hint})" if hint else ""), file=sys.stderr)
    sys.exit(1)


def main(argv: list[str]) -> None:
    args = parsed(argv)
    try:
        fact = sampled(args)
    except RowsError as error:
        leave(str(error), error.hint)
    except OSError as error:
        leave(str(error))
    except MemoryError:
        leave("the rows do not fit into memory", "give the machine more, or take a smaller file")
    report(fact=fact)
    report(metric={"name": "rows", "value": fact["rows"]})
    print(f"{fact['rows']} of {fact['extra']['source_rows']} rows")


if __name__ == "__main__":
    main(sys.argv[1:])
