"""Secrets are hidden in every form in which they turn up, and what is no secret stays readable."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwend.core.redact import HIDDEN, Redactor, redact, smells

CANARY = "C4nary" + "x9" * 10

SHOWS: list[tuple[str, str]] = [
    ("https://user:PW@hub.example/repo", "https://***@hub.example/repo"),
    ("https://PW@hub.example/repo", "https://***@hub.example/repo"),
    ("GET https://h.example/x?revision=main&token=PW&a=1", "GET https://h.example/x?revision=main&token=***&a=1"),
    ("https://s3.example/f?X-Amz-Signature=PW&X-Amz-Date=2026", "https://s3.example/f?X-Amz-Signature=***&X-Amz-Date=2026"),
    ("https://m.example/v1?key=PW", "https://m.example/v1?key=***"),
    ("Authorization: Bearer PW", "Authorization: ***"),
    ("authorization=Basic PW rest", "authorization=*** rest"),
    ('{"Authorization": "Bearer PW"}', '{"Authorization": "***"}'),
    ("curl -H 'x-api-key: PW' http://127.0.0.1", "curl -H 'x-api-key: ***' http://127.0.0.1"),
    ("HF_TOKEN=PW python run.py", "HF_TOKEN=*** python run.py"),
    ("env OPENAI_API_KEY='PW' vllm serve", "env OPENAI_API_KEY='***' vllm serve"),
    ("vllm serve --api-key PW --port 80", "vllm serve --api-key *** --port 80"),
    ("vllm serve --api-key=PW --port 80", "vllm serve --api-key=*** --port 80"),
    ('{"db_password": "PW", "port": 1}', '{"db_password": "***", "port": 1}'),
    ("Set-Cookie: session=PW; Path=/", "Set-Cookie: ***"),
    ("sent Bearer PW to it", "sent Bearer *** to it"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "shown"), SHOWS)
def test_a_secret_is_known_by_where_it_stands(written: str, shown: str) -> None:
    assert redact(written.replace("PW", CANARY)) == shown


@pytest.mark.parametrize(
    "token",
    [
        "hf_" + "aB3" * 11,
        "sk-" + "proj-a1B2" * 4,
        "ghp_" + "a1B2" * 9,
        "ms-0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f",
        "AKIA" + "ABCDEFGH12345678",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----",
    ],
)
def test_a_token_is_known_by_its_looks(token: str) -> None:
    assert redact(f"failed with {token}") == "failed with ***"


@pytest.mark.parametrize(
    "text",
    [
        "llama-quantize --imatrix calib.gguf in.gguf out.gguf Q4_K_M",
        "--max-tokens 512 --tokenizer Qwen/Qwen2.5-0.5B --served-model-name chat",
        '{"eos_token": "<|im_end|>", "pad_token_id": 151643, "max_tokens": "7", "key": "huanhuan/chat"}',
        "http://127.0.0.1:18100/v1/models?limit=3",
        "scikit-learn, task-1234567890abcdef and disk-0123456789ab are fine; hf_transfer and hf_hub too",
        "sha256:1d961463c1d0d3a8ff0c4c0b7cbf7f2c1e1c3e7d9a7d1f3b5f9e4c6a8b0d2e4f",
        "mirror: modelscope:Qwen/Qwen2.5-0.5B-Instruct",
        "20% [=====>    ] key value cache",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_names_smell_by_their_last_words() -> None:
    assert all(
        map(
            smells,
            ["HF_TOKEN", "token", "api-key", "apiKey", "AWS_SECRET_ACCESS_KEY", "dbPassword", "X-API-Key"],
        )
    )
    assert not any(
        map(
            smells,
            ["max_tokens", "eos_token", "SECRET_FILE", "TOKEN_PATH", "key", "tokenizer", "lora_target", ""],
        )
    )


@pytest.mark.parametrize(
    "value",
    [CANARY, "pa ss/wo+rd&7", 'quo"te\\d', "密码一二三四", "-----KEY-----\nlineoneone1\nlinetwotwo2\n"],
)
def test_a_known_value_is_hidden_in_every_form(value: str) -> None:
    redactor = Redactor([value])
    forms = [
        value,
        quote(value.strip(), safe=""),
        json.dumps(value.strip()),
        base64.b64encode(value.strip().encode()).decode(),
        *value.splitlines(),
    ]
    for form in forms:
        shown = redactor.text(f"before {form} after")
        core = form.strip('"= \n')
        assert core not in shown
        assert shown.startswith("before ")
        assert shown.rstrip().endswith("after")


def test_a_very_short_value_is_hidden_as_a_word_only() -> None:
    assert Redactor(["ab"]).text("ab cab ab.") == "*** cab ***."


def test_an_environment_loses_values_of_smelling_names_and_known_values() -> None:
    redactor = Redactor(["hunter22"])
    env = {"HF_TOKEN": "x", "PATH": "/bin", "URL": "http://h/hunter22", "EMPTY_TOKEN": ""}
    assert redactor.env(env) == {
        "HF_TOKEN": HIDDEN,
        "PATH": "/bin",
        "URL": "http://h/***",
        "EMPTY_TOKEN": "",
    }


def test_a_command_line_loses_the_word_after_a_smelling_option() -> None:
    argv = ["serve", "--api-key", "abc", "--hf-token=abc", "--max-tokens", "5", "--token", "--port", "1"]
    assert Redactor().argv(argv) == (
        "serve", "--api-key", HIDDEN, f"--hf-token={HIDDEN}", "--max-tokens", "5", "--token", "--port", "1"
    )  # fmt: skip


def test_json_data_is_searched_to_the_bottom_and_numbers_stay() -> None:
    redactor = Redactor([CANARY])
    data = {
        "a": [{"api_key": "zzz", "n": 7}],
        CANARY: 1,
        "text": f"see {CANARY}",
        "token": None,
        "t": ("x", 1),
    }
    shown = redactor.value(data)
    assert shown == {
        "a": [{"api_key": HIDDEN, "n": 7}],
        HIDDEN: 1,
        "text": "see ***",
        "token": None,
        "t": ("x", 1),
    }
    assert CANARY not in json.dumps(shown)


def test_bytes_that_are_no_text_survive() -> None:
    assert Redactor(["hunter22"]).bytes(b"\xff hunter22 \xfe") == b"\xff *** \xfe"


@given(st.text(max_size=200))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(
    st.text(alphabet="abcdefgh:=/?&-_@'\" \n", max_size=60),
    st.text(alphabet="XYZ0189", min_size=8, max_size=40),
)
def test_a_known_value_never_comes_through(around: str, value: str) -> None:
    assert value not in Redactor([value]).text(around + value + around)


@pytest.mark.parametrize(
    "piece", ["://a", "token=", '"', "--a", "authorization: ", "bearer  ", '"a": "', "a.b-"]
)
def test_a_long_hostile_text_comes_to_an_end(piece: str) -> None:
    shown = redact("token " + piece * 50_000)
    assert redact(shown) == shown
