"""Ollama's templates are what Go renders, and say what the model's own Jinja template says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from go_chat import NotExpressible, as_ollama, conversations, data_of, go_template, jinja_of, tool
from go_functions import TemplateError
from go_template import render
from qwen_vocabulary import chat_template
from tests.unit.drivers.go_renderer import ask_go, normal

QWEN2, QWEN3 = chat_template("qwen2"), chat_template("qwen3")


@pytest.mark.parametrize("source", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
def test_a_template_of_qwen_has_a_counterpart_for_ollama(source: str) -> None:
    made = go_template(source)  # compares every conversation, or raises
    hello = [{"role": "user", "content": "Hi"}]
    assert as_ollama(made, hello) == jinja_of(source)(hello)
    assert "<tools>" in as_ollama(made, hello, [tool("weather")])
    assert "You are Qwen" in as_ollama(go_template(QWEN2), hello)
    assert "You are Qwen" not in as_ollama(go_template(QWEN3), hello)


def test_thinking_is_turned_off_as_the_model_wants_it() -> None:
    made, hello = go_template(QWEN3), [{"role": "user", "content": "Hi"}]
    assert as_ollama(made, hello, think=False).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert as_ollama(made, hello).endswith("<|im_start|>assistant\n")


def test_thoughts_are_kept_until_the_question_is_answered_where_the_model_keeps_them() -> None:
    keeps = QWEN3.replace(
        "{{- '<|im_start|>assistant\\n' + said }}",
        "{%- set last = namespace(user=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}"
        "{%- set last.user = loop.index0 %}{%- endif %}{%- endfor %}"
        "{{- '<|im_start|>assistant\\n' }}{%- if message.reasoning_content and loop.index0 > last.user %}"
        "{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}{{- said }}",
    )
    assert keeps != QWEN3
    made = go_template(keeps)
    assert ".Thinking" in made
    assert ".Thinking" not in go_template(QWEN3)


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed: its renderer cannot be asked")
def test_our_renderer_gives_what_go_gives(tmp_path: Path) -> None:
    templates = [go_template(QWEN2), go_template(QWEN3), *ODD]
    asked: list[dict[str, Any]] = [
        {"Template": template, "Data": data_of(messages, tools, think)}
        for template in templates
        for _, messages, tools, think in conversations()
    ]
    for one, said in zip(asked, ask_go(tmp_path, asked), strict=True):
        assert normal(render(one["Template"], one["Data"])) == normal(said)


ODD = (
    "{{- /* trimmed */ -}} a {{ if not .Tools }} b {{- else if gt (len .Tools) 1 -}} c {{ else }}d{{ end -}} \n e",
    '{{ with .System }}[{{ . }}]{{ else }}none{{ end }}{{ range .Tools }}{{ .Type | print "<" }}{{ else }}no{{ end }}',
    "{{ $n := 0 }}"
    '{{ range $i, $m := .Messages }}{{ if eq .Role "user" "tool" }}{{ $n = $i }}{{ end }}{{ end }}{{ $n }}',
    "{{ (index .Messages 0).Role }}{{ len (slice .Messages 1) }}{{ and .System .Tools | not }}{{ `raw\\n` }}",
)  # fmt: skip


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}",
            "does not write a user's message",
        ),
        ("{{ raise_exception('no system here') }}", "no system here"),
        ("{% for m in messages %}", "broken"),
        (QWEN2.replace("<tool_response>", "<result>"), "calls and their results"),
        (QWEN2.replace("+ message.content +", "+ message.content|upper +"), "it says a question"),
    ],
)
def test_a_template_without_a_counterpart_is_refused_with_the_reason(source: str, says: str) -> None:
    with pytest.raises(NotExpressible, match=says):
        go_template(source)


@pytest.mark.parametrize(
    "template",
    ["{{ if .A }}", "{{ end }}", "{{ nonesuch 1 }}", "{{ (1 }}", "{{ $x }}", "{{ .A", "{{ index .A 9 }}"],
)
def test_a_broken_go_template_is_told(template: str) -> None:
    with pytest.raises(TemplateError):
        render(template, {"A": [1]})


def test_braces_in_a_text_of_the_model_stay_a_text() -> None:
    made = go_template(QWEN2.replace("You are Qwen", "{{ name }} You are Qwen"))
    assert "{{ name }} You are Qwen" in as_ollama(made, [{"role": "user", "content": "Hi"}])
