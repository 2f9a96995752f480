"""One client for all: the official `openai` package and plain curl get the same from every engine that serves.

The model is tiny and untrained: it talks nonsense, the same nonsense whenever sampling is greedy. What an engine does
in another way is said here in `differs`, and on its reference page.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
from openai import OpenAI
from tests.e2e.conftest import Qwend

pytestmark = [pytest.mark.e2e, pytest.mark.native, pytest.mark.slow]

CONTEXT = 512
ASKED: Any = [{"role": "user", "content": "Who painted the long ladder?"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a place",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}},
                "required": ["place"],
            },
        },
    }
]


@dataclass(frozen=True)
class Served:
    """An engine, the parameters that it needs here, and the checks that it does not pass, with the reason."""

    engine: str
    with_: dict[str, Any] = field(default_factory=dict)
    differs: dict[str, str] = field(default_factory=dict)
    top: dict[str, Any] = field(default_factory=dict)


def engine(plugin: str, images: list[str], served: Served) -> Any:
    return pytest.param(
        served, served, id=served.engine, marks=pytest.mark.engine(plugin, "serving", images=images)
    )


FREE = {"forced_call": "it generates freely: nothing holds an answer to a grammar"}
ENGINES = [
    engine(
        "llama_cpp",
        ["llama-cpp-server"],
        Served(
            "llama-cpp/serve",
            {"context": CONTEXT},
            {
                "unknown_model": "llama-server answers under any name",
                "out_of_range": "llama-server takes a temperature below 0 for 0",
                "forced_call": "llama-server lets any text go before the call that is required",
            },
        ),
    ),
    engine("transformers", ["transformers"], Served("transformers/serve", {"context": CONTEXT}, FREE)),
    engine(
        "vllm",
        ["vllm"],
        Served(
            "vllm/serve",
            {"max_model_len": CONTEXT, "enable_auto_tool_choice": True, "tool_call_parser": "hermes"},
        ),
    ),
    engine("llama_factory", ["llama-factory"], Served("llama-factory/serve", {"context": CONTEXT}, FREE)),
    engine("mlx", ["mlx"], Served("mlx/serve", {"context": CONTEXT}, FREE)),
]


@dataclass
class Speaking:
    """A client of a service, its URL, and what the engine says when it is greedy."""

    client: OpenAI
    url: str

    def chat(self, **more: Any) -> Any:
        settings = {"max_tokens": 12, "temperature": 0.0} | more
        return self.client.chat.completions.create(model="chat", **{"messages": ASKED} | settings)

    def text(self, **more: Any) -> str:
        return self.chat(**more).choices[0].message.content or ""


@pytest.fixture
def speaking(request: pytest.FixtureRequest, qwend: Qwend) -> Iterator[Speaking]:
    served: Served = request.param
    recipe = {
        "version": 1,
        "name": "conform",
        "models": {"base": "smoke:qwen2"},
        "steps": {"chat": {"uses": served.engine, "from": "base", "with": served.with_, **served.top}},
    }
    (qwend.folder / "conform.yaml").write_text(json.dumps(recipe))
    qwend("up", "-d", "conform.yaml")
    url = qwend.row("chat")["url"]
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        yield Speaking(client, url)


# -- the checks: each is a sentence about any engine -----------------------------------------------------------------


def the_models_name_is_the_steps(speaking: Speaking) -> None:
    assert "chat" in [model.id for model in speaking.client.models.list()]
    assert speaking.chat().model == "chat"


def an_answer_has_a_reason_and_usage_that_adds_up(speaking: Speaking) -> None:
    made = speaking.chat(max_tokens=1)
    (choice,) = made.choices
    assert (choice.index, choice.message.role, choice.finish_reason) == (0, "assistant", "length")
    usage = made.usage
    assert usage.completion_tokens == 1
    assert usage.prompt_tokens > 5
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def greedy_answers_are_the_same_and_streamed_ones_too(speaking: Speaking) -> None:
    text = speaking.text()
    assert text and speaking.text() == text
    streamed = list(speaking.chat(stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices) == text
    reasons = [chunk.choices[0].finish_reason for chunk in streamed if chunk.choices]
    assert reasons[-1] in ("stop", "length") and not any(reasons[:-1])


def a_stream_tells_its_usage_when_asked(speaking: Speaking) -> None:
    whole = speaking.chat().usage
    chunks = list(speaking.chat(stream=True, stream_options={"include_usage": True}))
    last = chunks[-1]
    assert last.usage is not None and last.choices == []
    assert last.usage.completion_tokens == whole.completion_tokens
    assert last.usage.prompt_tokens == whole.prompt_tokens


def a_stop_text_ends_an_answer_and_is_not_in_it(speaking: Speaking) -> None:
    text = speaking.text()
    stop = text.split()[-1]
    choice = speaking.chat(stop=[stop]).choices[0]
    assert choice.message.content.rstrip() == text[: text.index(stop)].rstrip()
    assert choice.finish_reason == "stop"
    pieces = (
        chunk.choices[0].delta.content or ""
        for chunk in speaking.chat(stop=[stop], stream=True)
        if chunk.choices
    )
    assert "".join(pieces).rstrip() == choice.message.content.rstrip()


def sampling_with_a_seed_can_be_repeated(speaking: Speaking) -> None:
    asked = {"temperature": 1.5, "seed": 7, "max_tokens": 8}
    assert speaking.text(**asked) == speaking.text(**asked)


def a_completion_continues_a_text(speaking: Speaking) -> None:
    made = speaking.client.completions.create(model="chat", prompt="The ferry", max_tokens=4, temperature=0)
    assert made.choices[0].text
    assert made.usage is not None and 1 <= made.usage.completion_tokens <= 4


def tools_may_be_offered(speaking: Speaking) -> None:
    choice = speaking.chat(tools=TOOLS).choices[0]
    assert choice.finish_reason in ("stop", "length", "tool_calls")
    assert speaking.chat(tools=TOOLS).usage.prompt_tokens > speaking.chat().usage.prompt_tokens


def a_tool_call_can_be_forced_and_read(speaking: Speaking) -> None:
    """A grammar holds even a model that talks nonsense to the form of a call: a known name, and JSON behind it."""
    asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 64}
    (call,) = speaking.chat(**asked).choices[0].message.tool_calls or []
    assert call.function.name == "weather"
    json.loads(call.function.arguments)
    pieces = [
        one.function
        for chunk in speaking.chat(**asked, stream=True)
        if chunk.choices
        for one in chunk.choices[0].delta.tool_calls or ()
    ]
    assert "".join(piece.name or "" for piece in pieces) == "weather"
    assert "".join(piece.arguments or "" for piece in pieces) == call.function.arguments


def an_unknown_model_is_refused(speaking: Speaking) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        speaking.client.chat.completions.create(model="other", messages=ASKED, max_tokens=1)
    assert "other" in caught.value.message


def a_prompt_longer_than_the_context_is_refused_with_its_reason(speaking: Speaking) -> None:
    long: Any = [{"role": "user", "content": "word " * (2 * CONTEXT)}]
    with pytest.raises(openai.BadRequestError) as caught:
        speaking.chat(messages=long)
    assert any(word in caught.value.message for word in ("context", "max_model_len", "maximum"))
    assert str(CONTEXT) in caught.value.message


def a_value_out_of_range_is_refused_in_openais_shape(speaking: Speaking) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        speaking.chat(temperature=-1)
    error = caught.value.body
    assert isinstance(error, dict) and "temperature" in str(error["message"])


def who_leaves_in_mid_stream_stops_nobody_else(speaking: Speaking) -> None:
    stream = speaking.chat(stream=True, max_tokens=400, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    assert speaking.text()


def curl_gets_the_same(speaking: Speaking) -> None:
    body = {"model": "chat", "messages": ASKED, "max_tokens": 12, "temperature": 0}
    command = ["curl", "-sS", f"{speaking.url}/v1/chat/completions", "-H", "Content-Type: application/json"]
    ended = subprocess.run(
        [*command, "-d", json.dumps(body)], capture_output=True, text=True, timeout=300, check=True
    )
    assert json.loads(ended.stdout)["choices"][0]["message"]["content"] == speaking.text()


CHECKS: dict[str, Callable[[Speaking], None]] = {
    "name": the_models_name_is_the_steps,
    "usage": an_answer_has_a_reason_and_usage_that_adds_up,
    "streaming": greedy_answers_are_the_same_and_streamed_ones_too,
    "stream_usage": a_stream_tells_its_usage_when_asked,
    "stop": a_stop_text_ends_an_answer_and_is_not_in_it,
    "seed": sampling_with_a_seed_can_be_repeated,
    "completions": a_completion_continues_a_text,
    "tools": tools_may_be_offered,
    "forced_call": a_tool_call_can_be_forced_and_read,
    "unknown_model": an_unknown_model_is_refused,
    "too_long": a_prompt_longer_than_the_context_is_refused_with_its_reason,
    "out_of_range": a_value_out_of_range_is_refused_in_openais_shape,
    "leaving": who_leaves_in_mid_stream_stops_nobody_else,
    "curl": curl_gets_the_same,
}


@pytest.mark.parametrize(("served", "speaking"), ENGINES, indirect=["speaking"])
def test_one_client_gets_the_same_from_every_engine(served: Served, speaking: Speaking) -> None:
    """A difference that is gone fails too, so that the list stays true."""
    found = {}
    for name, check in CHECKS.items():
        try:
            check(speaking)
        except (
            AssertionError,
            openai.OpenAIError,
            ValueError,
            subprocess.SubprocessError,
            pytest.fail.Exception,
        ) as error:
            found[name] = f"{type(error).__name__}: {str(error)[:300]}"
    assert {name: text for name, text in found.items() if name not in served.differs} == {}
    assert set(served.differs) <= set(found), "these differences are gone: take them out"
