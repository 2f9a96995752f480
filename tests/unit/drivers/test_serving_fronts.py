"""What stands in front of mlx-lm and of LLaMA-Factory so that they answer as OpenAI's API does."""

from __future__ import annotations

import errno
import importlib
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lf_engine import by_turns
from mlx_start import DriverError, loading, model_context, refusal
from mlx_stops import until
from openai_requests import BadRequest, read_chat


@dataclass(frozen=True)
class Event:
    """As mlx-lm's: one a token."""

    text: str
    finish_reason: str | None = None


def said(words: list[str], end: str, stops: list[str]) -> tuple[str, str, int]:
    """What is shown, why it ended, and how many events (tokens) that took."""
    taken = 0

    def news() -> Iterator[Event]:
        nonlocal taken
        for index, word in enumerate(words):
            taken += 1
            yield Event(word, end if end == "length" and index == len(words) - 1 else None)
        if end == "stop":
            taken += 1
            yield Event("<|im_end|>", "stop")

    events = list(until(news(), stops))
    shown = "".join(event.text for event in events if event.finish_reason != "stop")
    return shown, events[-1].finish_reason or "cut", taken


def test_a_stop_text_is_found_across_tokens_and_nothing_behind_it_is_generated() -> None:
    assert said(["One", " two", ".\n", "\nThree", " four"], "stop", ["\n\n"]) == ("One two.", "cut", 4)
    assert said(["a", "b", "c"], "stop", ["a"]) == ("", "cut", 1)


def test_what_only_began_like_a_stop_text_is_shown() -> None:
    assert said(["x", "\n"], "stop", ["\n\n"]) == ("x\n", "stop", 3)
    assert said(["x", "\n"], "length", ["\n\n"]) == ("x\n", "length", 2)
    assert said(["x", "\n", "y"], "stop", ["\n\n"]) == ("x\ny", "stop", 4)


def test_every_token_stays_an_event_so_that_usage_adds_up() -> None:
    events = [Event(word) for word in ["a", "b", "c", "d"]] + [Event("", "stop")]
    assert len(list(until(events, ["zz"]))) == len(events)


def chat(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return read_chat({"messages": list(messages)}).messages


def test_turns_of_a_chat_become_llama_factorys() -> None:
    call = {"type": "function", "id": "1", "function": {"name": "weather", "arguments": '{"place": "Rome"}'}}
    system, turns = by_turns(
        chat(
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Rain in Rome?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "no", "tool_call_id": "1"},
        )
    )
    assert system == "Be brief."
    assert [turn["role"] for turn in turns] == ["user", "function", "observation"]
    assert turns[1]["content"] == '[{"name": "weather", "arguments": {"place": "Rome"}}]'


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        ("user user", "user stands out of turn"),
        ("assistant user", "assistant stands out of turn"),
        ("user assistant system", "system stands out of turn"),
        ("user assistant", "the last message should be the user's"),
        ("system", "the last message should be the user's"),
    ],
)
def test_turns_that_no_template_of_llama_factory_can_write_are_refused(roles: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        by_turns(chat(*({"role": role, "content": "x"} for role in roles.split())))


def test_the_context_is_what_the_model_was_trained_for_or_less(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 4096}')
    assert [model_context(tmp_path, said) for said in (None, 512, 8192)] == [4096, 512, 4096]
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DriverError, match="cannot be read"):
        model_context(tmp_path, None)


@pytest.mark.parametrize(
    ("raised", "says", "hint"),
    [
        (
            ValueError("Model type nonesuch not supported."),
            "does not know the architecture nonesuch",
            "a newer one",
        ),
        (
            FileNotFoundError("No safetensors found in /in/base"),
            "holds no safetensors file",
            "fetch it again",
        ),
        (
            RuntimeError("[load_safetensors] Invalid json header"),
            "broken or cut short: Invalid json",
            "store verify",
        ),
        (KeyError("hidden_size"), "refuses the model: KeyError: 'hidden_size'", "a whole checkpoint"),
        (
            TypeError("missing 1 argument"),
            "refuses the model: TypeError: missing 1 argument",
            "a whole checkpoint",
        ),
        (
            FileNotFoundError(2, "No such file", "config.json"),
            "No such file: 'config.json'",
            "a whole checkpoint",
        ),
        (ValueError("two\n  lines"), "refuses the model: two lines", "a whole checkpoint"),
    ],
)
def test_a_model_that_mlx_lm_cannot_load_is_told_in_a_line(raised: Exception, says: str, hint: str) -> None:
    with pytest.raises(DriverError) as told, loading():
        raise raised
    assert says in str(told.value)
    assert hint in told.value.hint


@pytest.mark.parametrize(
    "raised", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("[metal::malloc] too much")]
)
def test_what_the_machine_lacks_is_no_fault_of_the_model(raised: Exception) -> None:
    with pytest.raises(type(raised), match=re.escape(str(raised))), loading():
        raise raised


def test_what_the_generators_thread_died_of_is_told_in_the_same_way() -> None:
    assert "architecture nonesuch" in str(refusal("Model type nonesuch not supported."))


@pytest.fixture
def mlx_http(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our handler over a stand-in of mlx-lm's server, which is in the image alone."""
    server = types.ModuleType("mlx_lm.server")
    server.__dict__.update(APIHandler=object, ResponseGenerator=object)
    monkeypatch.setitem(sys.modules, "mlx_lm", types.ModuleType("mlx_lm"))
    monkeypatch.setitem(sys.modules, "mlx_lm.server", server)
    monkeypatch.delitem(sys.modules, "mlx_http", raising=False)
    yield importlib.import_module("mlx_http")
    del sys.modules["mlx_http"]


@pytest.mark.parametrize(
    ("own", "asked", "told"),
    [
        (1.05, {}, 1.05),
        (1.05, {"repetition_penalty": 1.3}, 1.3),
        (1.05, {"repetition_penalty": None}, 1.05),
        (None, {}, None),
    ],
)
def test_a_model_repeats_as_little_as_its_own_configuration_says_unless_a_request_says_otherwise(
    mlx_http: Any, own: float | None, asked: dict[str, Any], told: float | None
) -> None:
    handler = mlx_http.Handler()
    handler.served = mlx_http.Served(("chat",), None, 0, 4096, own)
    handler.response_generator = SimpleNamespace(cli_args=SimpleNamespace(max_tokens=16))
    body = {"messages": [{"role": "user", "content": "Hi"}], **asked}
    body |= handler._checked(read_chat(body).asked, body, 5)
    assert body.get("repetition_penalty") == told
