"""Renders the part of Go's text/template that chat templates of Ollama use. Standard library only, pure.

Actions: `if`, `else if`, `else`, `range` (with `$i, $x :=`), `with`, `end`, variables (`:=` and `=`), comments, trim
markers. Functions: and, or, not, eq, ne, lt, le, gt, ge, len, index, slice, json, print. Values print as Ollama's do: a
tool, its function and the arguments of a call as JSON. Source: the documentation of text/template; a test renders
the same templates with Go itself where Go is installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from go_functions import FUNCTIONS, NOTHING, TemplateError, is_true, printed

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r'\s*(?:("(?:[^"\\\n]|\\.)*"|`[^`]*`)|(-?\d+)|(\$?[A-Za-z_]\w*(?:\.\w+)*|\$(?:\.\w+)*|(?:\.\w+)+|\.)|(:=|=|\(|\)|\||,))'
)
_SPACES = " \t\r\n"


def render(template: str, data: Mapping[str, Any]) -> str:
    """The text that Go gives for `data` (maps by field name, lists, texts, numbers). Raises TemplateError."""
    nodes, rest = _nodes(_pieces(template), 0, ())
    if rest is not None:
        raise TemplateError(f"unexpected {{{{ {rest} }}}}")
    out: list[str] = []
    _run(nodes, Scope(data, {"$": data}), out)
    return "".join(out)


@dataclass
class Scope:
    """The dot and the variables; a variable that is assigned is the nearest of that name."""

    dot: Any
    variables: dict[str, Any]
    outer: Scope | None = None

    def find(self, name: str) -> Any:
        if name in self.variables:
            return self.variables[name]
        if self.outer is None:
            raise TemplateError(f"undefined variable {name}")
        return self.outer.find(name)

    def assign(self, name: str, value: Any) -> None:
        if name in self.variables:
            self.variables[name] = value
        elif self.outer is None:
            raise TemplateError(f"undefined variable {name}")
        else:
            self.outer.assign(name, value)


@dataclass
class Node:
    """Text, or an action with its body and what stands behind `else`."""

    kind: str
    words: str = ""
    body: list[Node] = field(default_factory=list)
    other: list[Node] = field(default_factory=list)


def _pieces(template: str) -> list[tuple[bool, str]]:
    """Texts (False) and actions (True), trimmed as their markers say."""
    pieces: list[tuple[bool, str]] = []
    at, trim = 0, False
    for match in _ACTION.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip(_SPACES) if trim else text
        pieces.append((False, text.rstrip(_SPACES) if match[1] else text))
        words = match[2].strip()
        if not words.startswith("/*"):
            pieces.append((True, words))
        at, trim = match.end(), match[3] is not None
    text = template[at:]
    if "{{" in text:
        raise TemplateError("an action is never closed")
    pieces.append((False, text.lstrip(_SPACES) if trim else text))
    return [piece for piece in pieces if piece[0] or piece[1]]


def _nodes(pieces: list[tuple[bool, str]], depth: int, _: tuple[()]) -> tuple[list[Node], str | None]:
    """Nodes up to the `end` or `else` that closes this body, which is given back; `pieces` is used up."""
    made: list[Node] = []
    while pieces:
        action, words = pieces.pop(0)
        if not action:
            made.append(Node("text", words))
            continue
        head = words.split(None, 1)[0] if words else ""
        if head in ("end", "else"):
            if not depth:
                raise TemplateError(f"unexpected {{{{ {words} }}}}")
            return made, words
        if head in ("if", "range", "with"):
            made.append(_branch(Node(head, words[len(head) :]), pieces, depth))
        else:
            made.append(Node("do", words))
    return made, None


def _branch(node: Node, pieces: list[tuple[bool, str]], depth: int) -> Node:
    node.body, closing = _nodes(pieces, depth + 1, ())
    if closing is None:
        raise TemplateError(f"{{{{ {node.kind}{node.words} }}}} is never closed")
    if closing.startswith("else"):
        rest = closing[4:].strip()
        if rest:
            kind, _, words = rest.partition(" ")
            node.other = [_branch(Node(kind, " " + words), pieces, depth)]
        else:
            node.other, closing = _nodes(pieces, depth + 1, ())
            if closing != "end":
                raise TemplateError(f"{{{{ {node.kind}{node.words} }}}} is never closed")
    return node


def _run(nodes: list[Node], scope: Scope, out: list[str]) -> None:
    for node in nodes:
        if node.kind == "text":
            out.append(node.words)
        elif node.kind == "do":
            value = _pipeline(node.words, scope)
            if value is not NOTHING:
                out.append(printed(value))
        elif node.kind == "range":
            _range(node, scope, out)
        else:
            inner = Scope(scope.dot, {}, scope)
            value = _pipeline(node.words, inner)
            value = inner.variables.get("=", value)
            if node.kind == "with" and is_true(value):
                inner.dot = value
            _run(node.body if is_true(value) else node.other, inner, out)


def _range(node: Node, scope: Scope, out: list[str]) -> None:
    names, assigned, words = node.words.partition(":=")
    variables = [name.strip() for name in names.split(",")] if assigned else []
    values = _pipeline(words if assigned else node.words, scope)
    items = list(values.items()) if isinstance(values, Mapping) else list(enumerate(values or ()))
    if not items:
        _run(node.other, scope, out)
    for place, value in items:
        given = dict(zip(variables, (place, value) if len(variables) == 2 else (value,), strict=False))
        _run(node.body, Scope(value, given, scope), out)


def _pipeline(words: str, scope: Scope) -> Any:
    tokens = _tokens(words)
    if len(tokens) > 2 and tokens[0][1].startswith("$") and tokens[1][1] in (":=", "="):
        value = _expression(tokens[2:], scope)
        if tokens[1][1] == ":=":
            scope.variables[tokens[0][1]] = value
        else:
            scope.assign(tokens[0][1], value)
        scope.variables["="] = value
        return NOTHING
    return _expression(tokens, scope)


def _tokens(words: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while words[at:].strip():
        match = _TOKEN.match(words, at)
        if match is None:
            raise TemplateError(f"cannot read {{{{ {words.strip()} }}}}")
        kind = ("text", "number", "name", "mark")[(match.lastindex or 1) - 1]
        found.append((kind, match[match.lastindex or 0]))
        at = match.end()
    return found


def _expression(tokens: list[tuple[str, str]], scope: Scope) -> Any:
    """A pipeline: commands joined by `|`, each of which gets the value before it as its last operand."""
    pending, value = list(tokens), NOTHING
    while True:
        value = _command(pending, scope, value)
        if not pending:
            return value
        if pending.pop(0)[1] != "|":
            raise TemplateError("a ) too many")


def _command(pending: list[tuple[str, str]], scope: Scope, piped: Any) -> Any:
    if not pending:
        raise TemplateError("a value is missing")
    first = pending[0]
    if first[0] == "name" and first[1] in FUNCTIONS:
        pending.pop(0)
        operands: list[Any] = []
        short = first[1] in ("and", "or")
        while pending and pending[0][1] not in ("|", ")"):
            value = _operand(pending, scope if not (short and _settled(first[1], operands)) else None)
            operands.append(value)
        if piped is not NOTHING:
            operands.append(piped)
        return FUNCTIONS[first[1]](*operands)
    return _operand(pending, scope)


def _settled(name: str, operands: list[Any]) -> bool:
    """Whether and/or is decided already, so that what follows is read but not evaluated."""
    return any(is_true(value) != (name == "and") for value in operands)


def _operand(pending: list[tuple[str, str]], scope: Scope | None) -> Any:
    """One operand; without a scope it is only read."""
    kind, word = pending.pop(0)
    if word == "(" and kind == "mark":
        depth, inner = 1, []
        while pending:
            token = pending.pop(0)
            depth += (token[1] == "(") - (token[1] == ")") if token[0] == "mark" else 0
            if not depth:
                break
            inner.append(token)
        if depth:
            raise TemplateError("a ( is never closed")
        value = _expression(inner, scope) if scope is not None else None
        if pending and pending[0][0] == "name" and pending[0][1].startswith(".") and len(pending[0][1]) > 1:
            value = _fields(value, pending.pop(0)[1].split(".")[1:])
        return value
    if scope is None:
        return None
    if kind == "text":
        return word[1:-1] if word[0] == "`" else json.loads(word)
    if kind == "number":
        return int(word)
    if kind != "name":
        raise TemplateError(f"unexpected {word}")
    if word in ("true", "false", "nil"):
        return {"true": True, "false": False}.get(word)
    if word == ".":
        return scope.dot
    root, *names = word.split(".")
    if root and not root.startswith("$"):
        raise TemplateError(f'function "{root}" not defined')
    return _fields(scope.find(root) if root else scope.dot, names)


def _fields(value: Any, names: list[str]) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
