"""A conversation over OpenAI's API: streamed, kept, interrupted, refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
from tests.fakes.openai_server import OpenAIServer

from qwend.chat import Conversation, Endpoint, Piece
from qwend.errors import QwendError, Unreachable, UsageError


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


@pytest.fixture
def talk(server: OpenAIServer) -> Conversation:
    return Conversation(Endpoint(server.url, "chat", "secret"), "Be brief.", {"max_tokens": 7})


def said(talk: Conversation, question: str) -> str:
    return "".join(piece.text for piece in talk.ask(question) if piece.kind == "text")


def test_every_question_carries_what_was_said_before(server: OpenAIServer, talk: Conversation) -> None:
    server.answers += [["Hel", "lo"], ["fi", "ne"]]
    assert said(talk, "Hi") == "Hello"
    assert said(talk, "How are you?") == "fine"
    system = {"role": "system", "content": "Be brief."}
    first, second = server.asked
    assert first["messages"] == [system, {"role": "user", "content": "Hi"}]
    assert second["messages"][1:3] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    assert (first["model"], first["max_tokens"], first["stream"]) == ("chat", 7, True)
    assert server.headers[0]["authorization"] == "Bearer secret"


def test_an_answer_tells_its_figures(server: OpenAIServer, talk: Conversation) -> None:
    server.answers.append(["a", "b"])
    said(talk, "Hi")
    figures = talk.figures
    assert (figures.tokens, figures.prompt_tokens, figures.finish) == (5, 9, "stop")
    assert figures.first_s is not None and figures.first_s <= figures.seconds


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_comes_apart_and_is_not_said_again(
    server: OpenAIServer, talk: Conversation, name: str
) -> None:
    server.answers += [[{"choices": [{"delta": {name: "hm"}}]}, "yes"], ["."]]
    assert list(talk.ask("Hi")) == [Piece("thought", "hm"), Piece("text", "yes")]
    said(talk, "Sure?")
    assert server.asked[1]["messages"][2] == {"role": "assistant", "content": "yes"}


def test_an_answer_that_is_left_stops_the_server_and_stands_as_far_as_it_got(
    server: OpenAIServer, talk: Conversation
) -> None:
    gate = threading.Event()
    server.answers.append(["so", gate, *["far " * 1000] * 2000])
    answer = talk.ask("Hi")
    assert next(answer).text == "so"
    answer.close()
    gate.set()
    assert server.left.wait(10), "the server goes on writing to nobody"
    assert talk.messages == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "so"}]


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        ((400, {"error": {"message": "this model's context is 64 tokens"}}), "this model's context is 64 tokens",
         "/clear begins anew"),
        ((401, {"error": {"message": "an API key is needed"}}), "an API key is needed", "--secret api_key=@FILE"),
        ((404, {"detail": "Not Found"}), "Not Found", None),
        ((500, b"<html>"), "the service answered 500", None),
        ((503, {"error": "loading"}), "loading", None),
        (["half", {"error": {"message": "the engine\nfailed"}}], "the engine failed", None),
    ],
)  # fmt: skip
def test_a_refusal_is_told_in_the_servers_words_and_leaves_no_trace(
    server: OpenAIServer, talk: Conversation, answer: object, message: str, hint: str | None
) -> None:
    server.answers.append(answer)
    with pytest.raises(QwendError) as caught:
        said(talk, "Hi")
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert talk.messages == []


def test_a_service_that_is_gone_is_told() -> None:
    talk = Conversation(Endpoint("http://127.0.0.1:9", "chat"))
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9 is gone"):
        said(talk, "Hi")


def test_a_conversation_is_saved_in_three_forms(talk: Conversation) -> None:
    talk.messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "你好"}]
    assert json.loads(talk.text("a.json"))["messages"] == talk.whole()
    assert json.loads(talk.text("a.jsonl")) == {"messages": talk.whole()}
    assert talk.text("a.jsonl").count("\n") == 1
    assert talk.text("a.md").endswith("**assistant**\n\n你好\n")
    with pytest.raises(UsageError):
        talk.text("a.doc")


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(Endpoint("http://x", "chat", "secret"))
