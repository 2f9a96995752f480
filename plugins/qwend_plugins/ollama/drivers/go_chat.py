"""From a model's Jinja chat template to Ollama's Go template, and the proof that both say the same.

Templates of Qwen's family differ in a few texts only (what the system says unasked, how tools are announced, whether
thinking is kept). These are read off by rendering: nothing is guessed from the template's source. What comes of it is
compared with the original over conversations with and without a system message, tools, calls, results and thinking;
JSON in it is compared as JSON, since Go writes it without blanks. Where one of them differs, there is no template.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from go_functions import TemplateError
from go_template import render

Message = dict[str, Any]
Jinja = Callable[..., str]
"""Renders a conversation: `jinja(messages, tools=…, enable_thinking=…)`, with the prompt of the answer behind it."""

START, END = "<|im_start|>", "<|im_end|>"
_MARK = "QSYSTEMQ"


class NotExpressible(Exception):
    """The template has no counterpart in Go that gives the same texts; the sentence says where they part."""


def tool(name: str) -> dict[str, Any]:
    """A tool of which Go's JSON is the same but for blanks."""
    place = {"type": "string", "description": "a town"}
    parameters = {"type": "object", "required": ["place"], "properties": {"place": place}}
    return {
        "type": "function",
        "function": {"name": name, "description": f"Does {name}", "parameters": parameters},
    }


def jinja_of(source: str) -> Jinja:
    """The Jinja template as transformers renders it. Raises NotExpressible for one that is broken."""
    from jinja2 import TemplateError as JinjaError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise JinjaError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **more: json.dumps(value, ensure_ascii=False, **more)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: "2026-01-01"
    try:
        compiled = environment.from_string(source)
    except JinjaError as error:
        raise NotExpressible(f"the chat template is broken: {error}") from None

    def jinja(messages: list[Message], tools: Any = None, **more: Any) -> str:
        try:
            return str(compiled.render(messages=messages, tools=tools, add_generation_prompt=True, **more))
        except Exception as error:  # whatever a template raises
            raise NotExpressible(f"the chat template refuses a conversation: {error}") from None

    return jinja


def go_template(source: str) -> str:
    """Ollama's template for a model whose Jinja template is `source`. Raises NotExpressible."""
    jinja = jinja_of(source)
    made = _build(jinja)
    for name, messages, tools, think in conversations():
        more = {} if think is None else {"enable_thinking": think}
        if _plain(jinja(messages, tools, **more)) != _plain(as_ollama(made, messages, tools, think)):
            raise NotExpressible(f"it says {name} in a way that no template of ours does")
    return made


def as_ollama(template: str, messages: list[Message], tools: Any = None, think: bool | None = None) -> str:
    """What Ollama makes of a conversation. Raises NotExpressible."""
    try:
        return render(template, data_of(messages, tools, think))
    except TemplateError as error:
        raise NotExpressible(f"our own template cannot be rendered: {error}") from None


def data_of(messages: list[Message], tools: Any = None, think: bool | None = None) -> dict[str, Any]:
    """What Ollama gives to a template: its own field names, all system messages in one."""
    given = []
    for message in messages:
        calls = [{"Function": {"Name": c["name"], "Arguments": c["arguments"]}} for c in _calls(message)]
        given.append(
            {
                "Role": message["role"],
                "Content": message.get("content") or "",
                "Thinking": message.get("reasoning_content") or "",
                "ToolCalls": calls,
            }
        )
    return {
        "System": "\n\n".join(m["content"] for m in messages if m["role"] == "system"),
        "Messages": given,
        "Tools": [{"Type": one["type"], "Function": one["function"]} for one in tools or ()],
        "Think": bool(think),
        "IsThinkSet": think is not None,
        "Response": "",
    }


def conversations() -> Iterator[tuple[str, list[Message], Any, bool | None]]:
    """Name, messages, tools and thinking of what is compared."""
    system = {"role": "system", "content": 'Be brief.\nAnswer in "quotes" & <tags>.'}
    hello, more = {"role": "user", "content": "你好, who are you?"}, {"role": "user", "content": "And then?"}
    answer = {"role": "assistant", "content": "I am Qwen."}
    thought = answer | {"reasoning_content": "They want a name."}
    call: Message = {"role": "assistant", "content": "", "tool_calls": [_call("weather"), _call("time")]}
    said = call | {"content": "Let me look.", "tool_calls": [_call("weather")]}
    results = [{"role": "tool", "content": '{"degrees": 21}'}, {"role": "tool", "content": "noon"}]
    thinking = call | {"reasoning_content": "I have to look it up."}
    bodies = {
        "a question": [hello],
        "a conversation": [hello, answer, more],
        "thinking of an earlier turn": [hello, thought, more],
        "calls and their results": [hello, call, *results],
        "a call with words": [hello, said, results[0], answer, more],
        "thinking before a call": [hello, thinking, *results],
    }
    tools = ([tool("weather"), tool("time")], [tool("weather")])
    for (name, body), with_system, think in itertools.product(
        bodies.items(), (False, True), (None, True, False)
    ):
        head = [system] if with_system else []
        behind = " after a system message" if with_system else ""
        if "call" not in name:
            yield name + behind, head + body, None, think
        for given in tools:
            yield f"{name} with {len(given)} tools{behind}", head + body, given, think


def _call(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": {"place": "Köln"}}}


def _calls(message: Message) -> list[dict[str, Any]]:
    return [call["function"] for call in message.get("tool_calls") or ()]


def _plain(text: str) -> str:
    """The text with every JSON object in it written in one way: each line that is one, keys sorted."""

    def one(match: re.Match[str]) -> str:
        try:
            return json.dumps(json.loads(match[0]), sort_keys=True, ensure_ascii=False)
        except ValueError:
            return match[0]

    return re.sub(r"^\{.*\}$", one, text, flags=re.MULTILINE)


def _build(jinja: Jinja) -> str:
    question: list[Message] = [{"role": "user", "content": "QUSERQ"}]
    marked: list[Message] = [{"role": "system", "content": _MARK}, *question]
    user = f"{START}user\nQUSERQ{END}\n"
    unasked, prompt = _around(jinja(question), user)
    asked, _ = _around(jinja(marked), user)
    if asked != f"{START}system\n{_MARK}{END}\n":
        raise NotExpressible("it is none of ChatML: " + repr(asked[:60] or jinja(marked)[:60]))
    quiet, loud = (_around(jinja(question, enable_thinking=think), user)[1] for think in (False, True))
    return "".join(
        (
            _LAST_USER,
            "{{ if .Tools }}" + _tools(jinja, question, marked, user) + "{{ else if .System }}",
            f"{START}system\n{{{{ .System }}}}{END}\n",
            "{{ else }}" + _escaped(unasked) + "{{ end }}" if unasked else "{{ end }}",
            _TURNS.replace("THOUGHT", _THOUGHT if _thinks(jinja) else ""),
            _prompt(prompt, quiet, loud),
        )
    )


def _around(text: str, middle: str) -> tuple[str, str]:
    before, found, after = text.partition(middle)
    if not found:
        raise NotExpressible(f"it does not write a user's message as ChatML does: {text[:80]!r}")
    return before, after


def _tools(jinja: Jinja, question: list[Message], marked: list[Message], user: str) -> str:
    """The system's message with tools: what stands before, between and behind them is read off."""
    tools = [tool("weather"), tool("time")]
    first, second = (json.dumps(one, ensure_ascii=False) for one in tools)
    without, with_system = (_around(jinja(said, tools), user)[0] for said in (question, marked))
    head, behind = _around(with_system, first)
    between, after = _around(behind, second)
    bare, _ = _around(without, first)
    before, found, lead = head.partition(_MARK)
    if not found or not lead.endswith(between) or not bare.endswith(between):
        raise NotExpressible("it announces tools in a way that no template of ours does")
    lead, bare = (text.removesuffix(between) for text in (lead, bare))
    one = _escaped(between) + '{"type": "function", "function": {{ .Function }}}'
    return (
        "{{ if .System }}" + _escaped(before) + "{{ .System }}" + _escaped(lead) + "{{ else }}" + _escaped(bare)
        + "{{ end }}{{ range .Tools }}" + one + "{{ end }}" + _escaped(after)
    )  # fmt: skip


def _thinks(jinja: Jinja) -> bool:
    """Whether what was thought before a call is kept until the question is answered."""
    call = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "QTHOUGHTQ",
        "tool_calls": [_call("weather")],
    }
    said = jinja(
        [{"role": "user", "content": "Hi"}, call, {"role": "tool", "content": "1"}], [tool("weather")]
    )
    return "<think>\nQTHOUGHTQ\n</think>\n\n" in said


def _prompt(plain: str, quiet: str, loud: str) -> str:
    if plain == quiet == loud:
        return _escaped(plain)
    made = "{{ if .IsThinkSet }}{{ if .Think }}" + _escaped(loud) + "{{ else }}" + _escaped(quiet)
    return made + "{{ end }}{{ else }}" + _escaped(plain) + "{{ end }}"


def _escaped(text: str) -> str:
    """A text that Go's template gives back as it is."""
    return text.replace("{{", '{{ "{{" }}')


_LAST_USER = (
    "{{ $user := -1 }}{{ range $i, $m := .Messages }}"
    '{{ if eq $m.Role "user" }}{{ $user = $i }}{{ end }}{{ end }}'
)
_THOUGHT = "{{ if and .Thinking (gt $i $user) }}<think>\n{{ .Thinking }}\n</think>\n\n{{ end }}"
_TURNS = (
    '{{ $before := "" }}{{ range $i, $m := .Messages }}'
    '{{ if and (eq $before "tool") (ne .Role "tool") }}<|im_end|>\n{{ end }}'
    '{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
    '{{ else if eq .Role "assistant" }}<|im_start|>assistant\nTHOUGHT{{ .Content }}'
    "{{ range $c, $_ := .ToolCalls }}{{ if or $m.Content (gt $c 0) }}\n{{ end }}"
    '<tool_call>\n{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}\n</tool_call>{{ end }}'
    "<|im_end|>\n"
    '{{ else if eq .Role "tool" }}{{ if ne $before "tool" }}<|im_start|>user{{ end }}'
    "\n<tool_response>\n{{ .Content }}\n</tool_response>{{ end }}"
    '{{ $before = .Role }}{{ end }}{{ if eq $before "tool" }}<|im_end|>\n{{ end }}'
)
"""The turns. Results of tools that follow each other stand in one message of the user."""
