"""`qwend chat` at a real terminal with a real model: several lines, commands, an interrupt, a pipe, no recipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest
from tests.e2e.conftest import Qwend
from tests.e2e.terminal import WAIT_S, terminal

pytestmark = [pytest.mark.e2e, pytest.mark.native]

SERVED = ["smoke:qwen2", "--engine", "llama-cpp/serve", "--with", "context=2048"]


def test_a_chat_with_a_model_that_no_recipe_names(qwend: Qwend) -> None:
    with terminal(qwend, "chat", *SERVED) as user:
        at = user.until(r"talking to chat; /help shows commands[\s\S]*> ")
        assert "uses: llama-cpp/serve" in user.shown, "the recipe that says the same is printed"
        user.type("/system Be brief.\n")
        at = user.until(r"the system says: Be brief\.[\s\S]*> ", at)
        user.type("/set ignore_eos true\n")  # an untrained model may end anywhere
        at = user.until(r"ignore_eos True[\s\S]*> ", at)
        user.type("/set max_tokens 8\n")
        at = user.until(r"max_tokens 8[\s\S]*> ", at)
        user.type('"""one\ntwo"""\n')
        at = user.until(r"8 tokens[\s\S]*> ", at)

        # An answer that would never end is stopped, and the chat goes on.
        user.type("/set max_tokens 1900\n")
        at = user.until(r"max_tokens 1900[\s\S]*> ", at)
        user.type("Go on\n")
        at = user.until(r"Go on\s+\S+\s+\S+", at)
        os.kill(user.process.pid, signal.SIGINT)
        at = user.until(r" …[\s\S]*> ", at)
        user.type("/set max_tokens 4\n")
        at = user.until(r"max_tokens 4[\s\S]*> ", at)
        user.type("And now?\n")
        at = user.until(r"4 tokens[\s\S]*> ", at)

        user.type("/save talk.json\n")
        at = user.until(r"saved 6 messages in talk\.json[\s\S]*> ", at)
        user.type("\x04")  # Ctrl-D
        assert user.process.wait(WAIT_S) == 0
    said = json.loads((qwend.folder / "talk.json").read_text(encoding="utf-8"))
    assert [one["role"] for one in said["messages"]] == ["system", *["user", "assistant"] * 3]
    assert [one["content"] for one in said["messages"] if one["role"] == "user"] == [
        "one\ntwo",
        "Go on",
        "And now?",
    ]
    assert all(one["content"] for one in said["messages"])
    states = {row["state"] for row in qwend.json("ps") if row["kind"] == "service"}
    assert states <= {"stopped"}, "what a chat without a recipe served is stopped when it is over"


def test_a_pipe_asks_once_and_gets_the_answer_alone(qwend: Qwend) -> None:
    command = qwend.command(
        "chat", *SERVED, "--set", "max_tokens=4", "--set", "temperature=0", "--set", "ignore_eos=true"
    )
    answers = [
        subprocess.run(
            command, input=question, cwd=qwend.folder, env=qwend.environ, text=True, capture_output=True,
            timeout=WAIT_S, check=True,
        ).stdout
        for question in ("Who are you?", "Who are you?\n")
    ]  # fmt: skip
    assert answers[0].strip() and answers[0] == answers[1]
    nothing = subprocess.run(
        command, input="", cwd=qwend.folder, env=qwend.environ, text=True, capture_output=True,
        timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert nothing.returncode == 2 and "there is no question" in nothing.stderr
