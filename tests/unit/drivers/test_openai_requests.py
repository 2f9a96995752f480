"""What a client may ask of the transformers server, and the sentence that it gets otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from openai_requests import BadRequest, Sampling, read_body, read_chat, read_completion

HI = {"messages": [{"role": "user", "content": "Hi"}]}


def refused(body: dict[str, Any]) -> tuple[str, str | None]:
    with pytest.raises(BadRequest) as caught:
        read_chat(body)
    return str(caught.value), caught.value.param


def test_a_request_says_how_to_sample() -> None:
    said = {"max_tokens": 5, "temperature": 0, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "seed": 7, "stop": "\n",
            "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1,
            "logit_bias": {"5": -100}}  # fmt: skip
    chat = read_chat(HI | said | {"n": 2, "stream": True, "stream_options": {"include_usage": True}})
    assert chat.asked.sampling == Sampling(5, 0.0, 0.9, 0, 0.1, 1.1, 1.0, -1.0, 7, ("\n",), ((5, -100.0),))
    assert (chat.asked.answers, chat.asked.stream, chat.asked.usage) == (2, True, True)


def test_the_newer_name_of_the_limit_goes_first() -> None:
    assert read_chat(HI | {"max_tokens": 5, "max_completion_tokens": 7}).asked.sampling.max_tokens == 7


def test_content_may_come_in_parts_and_calls_of_earlier_turns_become_mappings() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    messages = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
        },
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "1"},
    ]
    read = read_chat({"messages": messages}).messages
    assert read[0] == {"role": "system", "content": "Be brief."}
    assert read[1]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
    assert read[2] == {"role": "tool", "content": "2", "tool_call_id": "1"}


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"temperature": 2.1}, "temperature should be 0 to 2; it is 2.1", "temperature"),
        ({"temperature": "hot"}, "temperature should be a number", "temperature"),
        ({"temperature": float("nan")}, "temperature should be 0 to 2; it is nan", "temperature"),
        ({"top_p": 0}, "top_p should be more than 0 to 1; it is 0", "top_p"),
        ({"max_tokens": 0}, "max_tokens should be at least 1; it is 0", "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens should be a whole number", "max_tokens"),
        ({"n": 17}, "n should be 1 to 16; it is 17", "n"),
        ({"stream": 1}, "stream should be true or false", "stream"),
        ({"stop": [1]}, "stop should be a text, or a list of at most 16", "stop"),
        ({"logprobs": True}, "logprobs is not supported by this server", "logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias should map tokens to numbers", "logit_bias"),
        ({"tool_choice": "required"}, "tool_choice can be auto or none here: a call cannot be forced", "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format can be text only here", "response_format"),
        ({"messages": []}, "messages should be a list with at least one message", "messages"),
        ({"messages": [{"role": "king", "content": "x"}]},
         "messages[0].role should be one of system, developer, user, assistant, tool", "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content: this model reads text, and no image_url", "messages[0].content"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_or_not_supported_is_refused_by_name(
    body: dict[str, Any], message: str, param: str
) -> None:
    assert refused(HI | body) == (message, param)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'"x"', b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        read_body(data)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])],
)
def test_a_completion_takes_texts_or_tokens(prompt: Any, prompts: Any) -> None:
    asked, read = read_completion({"prompt": prompt})
    assert (read, asked.sampling.max_tokens) == (prompts, 16)


@pytest.mark.parametrize("prompt", [None, [], {}, [None], [-1], [True]])
def test_a_completion_without_a_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(BadRequest, match="prompt should be"):
        read_completion({"prompt": prompt})
