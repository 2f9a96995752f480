"""References become words when the places are known; what cannot be filled is said, never guessed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qwend.core.binding import Places, bind, describe, match
from qwend.errors import StepFailed
from qwend.model.launch import (
    BindRef,
    DriverRef,
    ImageRef,
    InputRef,
    Join,
    Launch,
    OutputRef,
    PortRef,
    ScratchRef,
    SecretRef,
    ThreadsRef,
    Word,
)

PLACES = Places(
    inputs={"base": "/in/base"},
    contents={"base": ("config.json", "model.gguf")},
    output="/out",
    scratch="/scratch",
    drivers="/drivers",
    secrets={"api_key": "/dev/fd/3"},
    image="/image",
    bind="127.0.0.1",
    port=18100,
    threads=2,
)


@pytest.mark.parametrize(
    ("word", "filled", "shown"),
    [
        ("--flag", "--flag", "--flag"),
        (InputRef("base"), "/in/base", "<base>"),
        (InputRef("base", "*.gguf"), "/in/base/model.gguf", "<base>/*.gguf"),
        (OutputRef("x.gguf"), "/out/x.gguf", "<out>/x.gguf"),
        (ScratchRef(), "/scratch", "<scratch>"),
        (DriverRef("serve.py"), "/drivers/serve.py", "<serve.py>"),
        (SecretRef("api_key"), "/dev/fd/3", "<api_key>"),
        (ImageRef("bin/python"), "/image/bin/python", "bin/python"),
        (ImageRef(""), "/image", "<program>"),
        (PortRef(), "18100", "<port>"),
        (BindRef(), "127.0.0.1", "<address>"),
        (ThreadsRef(), "2", "<threads>"),
        (Join(("--port=", PortRef())), "--port=18100", "--port=<port>"),
    ],
)
def test_each_reference_is_filled_and_shown(word: Word, filled: str, shown: str) -> None:
    launch = Launch(argv=(word,), env={"X": word})
    assert bind(launch, PLACES) == ((filled,), {"X": filled})
    assert describe(launch) == (shown,)


def test_a_split_file_is_named_by_its_first_part() -> None:
    files = ("q-00002-of-00003.gguf", "q-00001-of-00003.gguf", "q-00003-of-00003.gguf")
    assert match("*.gguf", files) == "q-00001-of-00003.gguf"


def test_two_files_are_no_choice_that_can_be_made() -> None:
    assert match("*.gguf", ("a.gguf", "b.gguf")) is None
    assert match("*.gguf", ("a-00001-of-00002.gguf", "b-00001-of-00002.gguf")) is None


@pytest.mark.parametrize(
    ("word", "changes", "said"),
    [
        (InputRef("other"), {}, "asks for input other"),
        (InputRef("base", "*.safetensors"), {}, "should hold one file *.safetensors; it holds config.json"),
        (SecretRef("hf_token"), {}, "asks for secret hf_token"),
        (PortRef(), {"port": None}, "holds none"),
    ],
)
def test_what_cannot_be_filled_is_said(word: Word, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(StepFailed, match=said.replace("*", r"\*")):
        bind(Launch(argv=(word,)), msgspec.structs.replace(PLACES, **changes))


def test_an_optional_secret_that_nobody_gave_is_an_empty_file() -> None:
    launch = Launch(
        argv=(SecretRef("hf_token"), SecretRef("api_key")), optional_secrets=("hf_token", "api_key")
    )
    assert bind(launch, PLACES)[0] == ("/dev/null", "/dev/fd/3")
