"""Secrets that a recipe would keep in clear are refused, and no complaint repeats them."""

from __future__ import annotations

import pytest
from tests.unit.core.loader_kit import GOOD, complaints

TOKEN = "hf_Ab1Cd2Ef3Gh4Ij5Kl6Mn7"
WHERE_IT_BELONGS = "use secrets: [hf_token] and --secret hf_token=@FILE: a step reads it as a file"


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("env: {HF_TOKEN: hunter2}", "steps.chat.env.HF_TOKEN"),
        ("env: {A: '1', WANDB_API_KEY: abc}", "steps.chat.env.WANDB_API_KEY"),
        (f"env: {{INNOCENT: {TOKEN}}}", "steps.chat.env.INNOCENT"),
        ("env: {HTTPS_PROXY: 'http://me:hunter2@proxy:3128'}", "steps.chat.env.HTTPS_PROXY"),
        ("extra_args: [--api-key, hunter2]", "steps.chat.extra_args[1]"),
        ("extra_args: [-v, --api-key=hunter2]", "steps.chat.extra_args[1]"),
        (f"extra_args: ['{TOKEN}']", "steps.chat.extra_args[0]"),
    ],
)
def test_what_looks_like_a_secret_has_no_place_in_env_or_arguments(key: str, place: str) -> None:
    (line,) = complaints(GOOD + f"    {key}\n")
    assert line.startswith("recipe.yaml:13:")
    assert f"{place}: looks like a secret, and what a recipe says is kept in clear (use secrets:" in line
    assert "hunter2" not in line
    assert TOKEN not in line


def test_the_complaint_says_where_it_belongs() -> None:
    (line,) = complaints(GOOD + "    env: {HF_TOKEN: '${HF_TOKEN}'}\n", env={"HF_TOKEN": TOKEN})
    assert WHERE_IT_BELONGS in line


@pytest.mark.parametrize(
    "key",
    [
        "env: {OMP_NUM_THREADS: '1', TOKENIZERS_PARALLELISM: 'false', HF_HUB_OFFLINE: '1'}",
        "env: {HF_TOKEN: '', MAX_TOKEN: '512', SECRET_FILE: /run/secrets/a, HTTPS_PROXY: 'http://proxy:3128'}",
        "extra_args: [--ctx-size, '4096', --key-file, /run/key, --eos-token, '<|im_end|>']",
    ],
)
def test_numbers_switches_and_files_are_no_secrets(key: str) -> None:
    assert complaints(GOOD + f"    {key}\n") == []


@pytest.mark.parametrize(
    "reference",
    [
        "https://me:hunter2@host/model.gguf#sha256=" + "0" * 64,
        "https://host/model.gguf?token=hunter2#sha256=" + "0" * 64,
    ],
)
def test_an_address_holds_no_password(reference: str) -> None:
    (line,) = complaints(GOOD.replace("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/x.gguf", f"'{reference}'"))
    assert line.startswith("recipe.yaml:4:9: models.base: holds a password or token")
    assert "hunter2" not in line
