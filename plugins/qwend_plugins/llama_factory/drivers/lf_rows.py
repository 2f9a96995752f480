"""Rows of training data: recognised, checked one by one, brought into one form.

Standard library only. What is recognised, by the keys of a row:

* alpaca: ``instruction``, ``input``, ``output``, and optionally ``system``, ``history``
* sharegpt: ``conversations`` of ``{"from", "value"}``
* messages: ``messages`` of ``{"role", "content"}`` as OpenAI writes them, tool calls included
* text: ``text``, or lines of a plain text file (``stage: pt``)

and besides, for preferences, ``chosen`` and ``rejected``, or ``kto_tag`` (``label``).

Everything comes out as one kind of row: ``conversations`` with ``system`` and ``tools`` beside it. LLaMA-Factory's own
reader of OpenAI messages adds a sentence of its own ("detailed thinking off") to every system prompt, and its other
readers drop a broken row with a line in the log; so neither decides here what is trained on.
"""

from __future__ import annotations

import json
from typing import Any

from lf_report import Refused

Row = dict[str, Any]
ROLES = {
    "user": "human", "human": "human",
    "assistant": "gpt", "gpt": "gpt", "bot": "gpt",
    "system": "system", "developer": "system",
    "tool": "observation", "observation": "observation", "function": "observation",
    "function_call": "function_call",
}  # fmt: skip
ASKS = ("human", "observation")


def layout_of(row: Any) -> str:
    """`alpaca`, `sharegpt`, `messages` or `text`. Raises Refused for a row that is none of them."""
    if not isinstance(row, dict):
        raise Refused(f"should be an object, is {_kind(row)}")
    for key, layout in (("messages", "messages"), ("conversations", "sharegpt"), ("instruction", "alpaca")):
        if row.get(key) is not None:
            return layout
    if isinstance(row.get("text"), str):
        return "text"
    keys = ", ".join(sorted(map(str, row))[:8]) or "none"
    raise Refused(
        f"has neither messages, conversations, instruction nor text (its keys: {keys})",
        "alpaca: instruction, input, output; sharegpt: conversations; OpenAI: messages",
    )


def aligned(row: Any, layout: str, stage: str) -> Row:
    """The row in the one form that is trained on. Raises Refused with what is wrong, without the place."""
    if layout_of(row) != layout:
        raise Refused(f"is {layout_of(row)}, the rows before it were {layout}", "one layout in one data set")
    if layout == "text" or stage == "pt":
        text = row.get("text")
        if layout != "text" or not text.strip():
            raise Refused(
                "has no text" if layout == "text" else "is a conversation; stage: pt learns from text"
            )
        return {"text": text}
    turns, system = _alpaca(row) if layout == "alpaca" else _turns(row, layout)
    ranking = stage in ("dpo", "rm")
    asked = [turn["from"] in ASKS for turn in turns]
    for number, (turn, asks) in enumerate(zip(turns, asked, strict=True), 1):
        if asks != (number % 2 == 1):
            raise Refused(
                f"turn {number} is {turn['from']}: question and answer should take turns, question first"
            )
    if ranking and asked and not asked[-1]:
        turns = turns[:-1]  # an answer besides the two that are compared
    if not ranking and (not turns or asked[-1]):
        if stage != "ppo":
            raise Refused("ends without an answer" if turns else "has no turns")
        turns = [*turns, {"from": "gpt", "value": ""}]
    if not turns:
        raise Refused("has no turns")
    found: Row = {"conversations": turns, "system": system, "tools": _tools(row.get("tools"))}
    if ranking:
        found |= {key: _preferred(row, key) for key in ("chosen", "rejected")}
        if found["chosen"] == found["rejected"]:
            raise Refused("chosen and rejected are the same: nothing can be learned from it")
    if stage == "kto":
        tag = row.get("kto_tag", row.get("label"))
        if not isinstance(tag, bool):
            raise Refused("needs kto_tag: true or false")
        found["kto_tag"] = tag
    return found


def _alpaca(row: Row) -> tuple[list[Row], str]:
    turns: list[Row] = []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise Refused(f"history should be a list of pairs, is {_kind(history)}")
    for pair in history:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(w, str) for w in pair)):
            raise Refused("history should hold pairs of question and answer")
        turns += [{"from": "human", "value": pair[0]}, {"from": "gpt", "value": pair[1]}]
    question = "\n".join(part for part in (_text(row, "instruction"), _text(row, "input")) if part.strip())
    if not question:
        raise Refused("instruction is empty")
    turns.append({"from": "human", "value": question})
    if "output" in row and row["output"] is not None:
        answer = _text(row, "output")
        if not answer.strip():
            raise Refused("output is empty")
        turns.append({"from": "gpt", "value": answer})
    return turns, _text(row, "system")


def _turns(row: Row, layout: str) -> tuple[list[Row], str]:
    key, role, said = (
        ("messages", "role", "content") if layout == "messages" else ("conversations", "from", "value")
    )
    given = row[key]
    if not isinstance(given, list) or not given:
        raise Refused(
            f"{key} should be a list of turns" if not isinstance(given, list) else f"{key} is empty"
        )
    system = _text(row, "system")
    turns: list[Row] = []
    for number, turn in enumerate(given, 1):
        one = _turn(turn, role, said, f"turn {number}")
        if one["from"] != "system":
            # several answers of tools in a row are one observation
            if turns and one["from"] == turns[-1]["from"] == "observation":
                turns[-1]["value"] += "\n</tool_response>\n<tool_response>\n" + one["value"]
            else:
                turns.append(one)
        elif number == 1:
            system = one["value"]
        else:
            raise Refused(f"turn {number} is a system prompt; it can only come first")
    return turns, system


def _turn(turn: Any, role: str, said: str, where: str) -> Row:
    if not isinstance(turn, dict):
        raise Refused(f"{where} should be an object, is {_kind(turn)}")
    who = ROLES.get(str(turn.get(role)))
    if who is None:
        raise Refused(
            f"{where}: {role} is {json.dumps(turn.get(role))[:40]}", f"known: {', '.join(sorted(ROLES))}"
        )
    calls = turn.get("tool_calls")
    if calls:
        return {
            "from": "function_call",
            "value": json.dumps([_call(one, where) for one in calls], ensure_ascii=False),
        }
    content = turn.get(said)
    if isinstance(content, list):  # OpenAI's parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str) or not (content.strip() or who == "observation"):
        raise Refused(f"{where}: {said} is empty" if isinstance(content, str) else f"{where} has no {said}")
    return {"from": who, "value": content}


def _call(call: Any, where: str) -> Row:
    """One tool call; OpenAI writes its arguments as JSON in a string."""
    function = call.get("function", call) if isinstance(call, dict) else {}
    arguments = function.get("arguments", {})
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        raise Refused(f"{where}: the arguments of a tool call are no JSON") from None
    if not isinstance(function.get("name"), str):
        raise Refused(f"{where}: a tool call has no name")
    return {"name": function["name"], "arguments": arguments}


def _preferred(row: Row, key: str) -> Row:
    """The answer that was preferred, or the other: text, a turn, or a list of turns that ends with it."""
    given = row.get(key)
    if isinstance(given, list) and given:
        given = given[-1]
    if isinstance(given, dict):
        given = given.get("value", given.get("content"))
    if not isinstance(given, str) or not given.strip():
        raise Refused(f"{key} is missing or empty", "each row needs chosen and rejected")
    return {"from": "gpt", "value": given}


def _tools(given: Any) -> str:
    if not given:
        return ""
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Refused(f"{key} should be text, is {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "nothing" if value is None else type(value).__name__)
