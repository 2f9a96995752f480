"""Write the small built-in data of a smoke run: text, conversations or prompts, the same bytes every time.

Standard library only; it imports nothing of qwend.

    python make_data.py --kind text    --rows 400 --out DIR   → data.jsonl ({"text": …}), data.txt
    python make_data.py --kind sft     --rows 64  --out DIR   → data.jsonl (--layout messages, alpaca or sharegpt)
    python make_data.py --kind prompts --rows 16  --out DIR   → data.jsonl ({"prompt": …})

The sentences are our own: frames filled with words, English and Chinese in turn. They are grammatical and plain, so
that training has something to learn in a minute, and every row differs until the frames are used up.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PEOPLE = (
    "the baker",
    "a young engineer",
    "my neighbour",
    "the ferry captain",
    "an old gardener",
    "the night nurse",
)
PLACES = (
    "by the harbour",
    "behind the station",
    "in the upper village",
    "at the edge of town",
    "near the old mill",
)
THINGS = (
    "a brass clock",
    "the long ladder",
    "a sack of flour",
    "three glass jars",
    "a wooden boat",
    "the spare key",
)
DEEDS = ("repaired", "carried away", "painted", "measured twice", "sold for a fair price", "gave to a friend")
TIMES = (
    "before sunrise",
    "on a wet Tuesday",
    "after the market closed",
    "in the first week of May",
    "at noon",
)
REASONS = ("because the winter would be long", "since nobody else had the time", "so that the children could sleep",
           "although the road was still closed", "while the kettle came to the boil")  # fmt: skip

ZH_PEOPLE = ("面包师", "年轻的工程师", "我的邻居", "渡船的船长", "老园丁", "值夜班的护士")
ZH_PLACES = ("在码头边", "在车站后面", "在山上的村子里", "在城边", "在旧磨坊附近")
ZH_THINGS = ("一座铜钟", "那架长梯", "一袋面粉", "三个玻璃罐", "一条木船", "备用的钥匙")
ZH_DEEDS = ("修好了", "搬走了", "刷上了漆", "量了两遍", "按公道的价钱卖掉了", "送给了朋友")
ZH_TIMES = ("日出之前", "一个下雨的星期二", "集市散了以后", "五月的头一个星期", "正午时分")
ZH_REASONS = ("因为冬天会很长", "因为别人都没有空", "好让孩子们睡个好觉", "虽然路还没有通", "趁着水还没烧开")

QUESTIONS = (
    ("Who {deed} {thing}?", "It was {person}, {place}."),
    ("What did {person} do {time}?", "{Person} {deed} {thing}."),
    ("Why did {person} do it?", "{Person} {deed} {thing} {reason}."),
    ("Tell me in one sentence what happened {place}.", "{Time}, {person} {deed} {thing}."),
)
ZH_QUESTIONS = (
    ("谁把{thing}{deed}？", "是{person}，{place}。"),
    ("{time}，{person}做了什么？", "{person}把{thing}{deed}。"),
    ("{person}为什么这样做？", "{person}把{thing}{deed}，{reason}。"),
    ("请用一句话说说{place}发生了什么。", "{time}，{person}把{thing}{deed}。"),
)
FRAMES = (
    "{Time}, {person} {deed} {thing} {place}.",
    "{Person} {deed} {thing} {reason}.",
    "Nobody {place} had seen {thing} until {person} came back {time}.",
    "{Time} it was quiet {place}, and {person} {deed} {thing} {reason}.",
)
ZH_FRAMES = (
    "{time}，{person}{place}把{thing}{deed}。",
    "{person}把{thing}{deed}，{reason}。",
    "直到{time}{person}回来，{place}才有人见过{thing}。",
    "{time}{place}很安静，{person}把{thing}{deed}，{reason}。",
)


class Draw:
    """A small generator of our own, so that rows never change with Python's version (SplitMix64)."""

    MASK = (1 << 64) - 1

    def __init__(self, seed: int) -> None:
        self.state = seed & self.MASK

    def below(self, limit: int) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & self.MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & self.MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & self.MASK
        return (z ^ (z >> 31)) % limit

    def words(self, chinese: bool) -> dict[str, str]:
        """One word for each place of a frame; a capital in the place's name gives one in the word."""
        lists = (
            (ZH_PEOPLE, ZH_PLACES, ZH_THINGS, ZH_DEEDS, ZH_TIMES, ZH_REASONS)
            if chinese
            else (PEOPLE, PLACES, THINGS, DEEDS, TIMES, REASONS)
        )
        names = ("person", "place", "thing", "deed", "time", "reason")
        found = {name: words[self.below(len(words))] for name, words in zip(names, lists, strict=True)}
        return found | {name.capitalize(): word[0].upper() + word[1:] for name, word in found.items()}


def texts(draw: Draw, rows: int) -> Iterator[dict[str, Any]]:
    for row in range(rows):
        chinese = row % 2 == 1
        frames = ZH_FRAMES if chinese else FRAMES
        sentences = [
            frames[draw.below(len(frames))].format(**draw.words(chinese)) for _ in range(4 + draw.below(4))
        ]
        yield {"text": ("" if chinese else " ").join(sentences)}


def exchanges(draw: Draw, rows: int) -> Iterator[tuple[str, str]]:
    for row in range(rows):
        chinese = row % 2 == 1
        pairs = ZH_QUESTIONS if chinese else QUESTIONS
        question, answer = pairs[draw.below(len(pairs))]
        words = draw.words(chinese)
        yield question.format(**words), answer.format(**words)


def conversation(question: str, answer: str, layout: str) -> dict[str, Any]:
    """One row for supervised fine-tuning in one of the layouts that trainers know."""
    if layout == "alpaca":
        return {"instruction": question, "input": "", "output": answer}
    if layout == "sharegpt":
        return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def make(kind: str, rows: int, seed: int, layout: str) -> list[dict[str, Any]]:
    draw = Draw(seed)
    if kind == "text":
        return list(texts(draw, rows))
    if kind == "sft":
        return [conversation(question, answer, layout) for question, answer in exchanges(draw, rows)]
    return [{"prompt": question} for question, _ in exchanges(draw, rows)]


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the small built-in data of a smoke run.")
    parser.add_argument("--kind", choices=("text", "sft", "prompts"), required=True)
    parser.add_argument("--rows", type=int, help="default: text 400, sft 64, prompts 16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--layout", choices=("messages", "alpaca", "sharegpt"), default="messages", help="of sft rows"
    )
    parser.add_argument("--out", type=Path, required=True, help="the result's folder")
    args = parser.parse_args(argv)
    wanted = args.rows if args.rows is not None else {"text": 400, "sft": 64, "prompts": 16}[args.kind]
    if not 1 <= wanted <= 1_000_000:
        parser.error("--rows must be between 1 and 1000000")
    rows = make(args.kind, wanted, args.seed, args.layout)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        with open(args.out / "data.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if args.kind == "text":
            text = "\n\n".join(row["text"] for row in rows) + "\n"
            (args.out / "data.txt").write_text(text, encoding="utf-8")
    except OSError as error:
        report(error={"message": str(error), "hint": ""})
        print(f"make_data: {error}", file=sys.stderr)
        sys.exit(1)
    report(fact={"rows": len(rows)})
    print(f"wrote {len(rows)} rows to {args.out}")


if __name__ == "__main__":
    main()
