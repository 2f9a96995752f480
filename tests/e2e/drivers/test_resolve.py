"""References are pinned through the hubs' own libraries, against a server that speaks for both hubs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.drivers.conftest import Driver, Outcome
from tests.fakes.hub_server import HubServer, sha256

pytestmark = pytest.mark.e2e
HUBS = ("hf", "modelscope")
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def resolve(driver: Callable[[str, str, str], Driver], server: HubServer) -> Driver:
    made = driver("hub", "hub", "resolve.py")
    made.env |= {"HF_ENDPOINT": server.url, "MODELSCOPE_ENDPOINT": server.url}
    return made


def pin(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    return dict(json.loads(outcome.out.splitlines()[-1]))


def repository(tiny: Callable[..., Path]) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in tiny("qwen3").iterdir()}
    return files | {
        "README.md": b"# Tiny",
        "pytorch_model.bin": b"pickled",
        "onnx/model.onnx": b"other",
        "x.py": b"code",
    }


@pytest.mark.parametrize("hub", HUBS)
def test_a_checkpoint_is_pinned_with_its_files_hashes_and_facts(
    hub: str, resolve: Driver, server: HubServer, tiny: Callable[..., Path]
) -> None:
    files = repository(tiny)
    server.add("Qwen/Tiny", files, commit="a1" * 20)
    found = pin(resolve(f"{hub}:Qwen/Tiny"))
    assert found["identity"] == f"{hub}:Qwen/Tiny@{'a1' * 20}"
    assert (found["type"], found["revision"]) == ("model/safetensors", "a1" * 20)
    assert [row["path"] for row in found["files"]] == sorted(path.name for path in tiny("qwen3").iterdir())
    weights = next(row for row in found["files"] if row["path"] == "model.safetensors")
    data = files["model.safetensors"]
    assert (weights["size"], weights["sha256"]) == (len(data), sha256(data))
    facts = found["facts"]
    assert (facts["architecture"], facts["parameters"], facts["dtype"]) == ("qwen3", 40_470_016, "bfloat16")
    assert (facts["layers"], facts["kv_heads"], facts["head_dim"], facts["context"]) == (2, 2, 64, 32_768)
    assert server.sent("model.safetensors") < 100_000, "only the header is read before a download"


@pytest.mark.parametrize("hub", HUBS)
def test_a_gguf_file_is_pinned_with_facts_from_the_head_of_its_header(
    hub: str, resolve: Driver, server: HubServer, tiny: Callable[..., Path]
) -> None:
    folder = tiny("qwen2", "--format", "gguf", "--outtype", "q8_0")
    data = next(folder.iterdir()).read_bytes()
    server.add("Qwen/Tiny-GGUF", {"tiny-q8_0.gguf": data, "tiny-f16.gguf": data, "mmproj-f16.gguf": data})
    found = pin(resolve(f"{hub}:Qwen/Tiny-GGUF/tiny-q8_0.gguf"))
    assert found["type"] == "model/gguf"
    assert [row["path"] for row in found["files"]] == ["tiny-q8_0.gguf"]
    facts = found["facts"]
    assert (facts["architecture"], facts["dtype"], facts["vocabulary"]) == ("qwen2", "Q8_0", 151_936)
    assert (facts["layers"], facts["kv_heads"], facts["head_dim"], facts["context"]) == (2, 2, 64, 32_768)
    assert server.sent("tiny-q8_0.gguf") < 100_000, "the vocabulary is not read"
    error = resolve(f"{hub}:Qwen/Tiny-GGUF").error
    assert error["kind"] == "ambiguous"
    assert (
        "tiny-f16.gguf, tiny-q8_0.gguf" in error["message"]
        or "tiny-q8_0.gguf, tiny-f16.gguf" in error["message"]
    )


@pytest.mark.parametrize("hub", HUBS)
def test_what_a_dataset_reference_leaves_out_is_not_pinned(
    hub: str, resolve: Driver, server: HubServer
) -> None:
    names = [
        f"{subset}/{split}-00000-of-00001.parquet"
        for subset in ("raw", "clean")
        for split in ("test", "train")
    ]
    server.add("m/wiki", dict.fromkeys(names, b"PAR1") | {"README.md": b"x"}, kind="dataset")
    found = pin(resolve(f"{hub}:m/wiki?subset=raw&split=test", "--kind", "dataset", "--want", "dataset/text"))
    assert (found["type"], [row["path"] for row in found["files"]]) == ("dataset/text", [names[0]])
    assert found["identity"].endswith("?split=test&subset=raw")
    error = resolve(f"{hub}:m/wiki?split=dev", "--kind", "dataset").error
    assert (error["kind"], error["message"]) == ("file-not-found", "m/wiki has no data for split 'dev'")


def test_conversations_are_told_from_plain_text_by_their_first_row(
    resolve: Driver, server: HubServer
) -> None:
    server.add("m/chats", {"data.jsonl": b'{"messages": []}\n'}, kind="dataset")
    assert pin(resolve("hf:m/chats", "--kind", "dataset"))["type"] == "dataset/sft"


@pytest.mark.parametrize("hub", HUBS)
@pytest.mark.parametrize(
    ("reference", "kind", "said"),
    [
        ("no/such", "not-found", "no/such"),
        ("Qwen/Tiny@v9", {"hf": "revision-not-found", "modelscope": "not-found"}, "v9"),
        ("Qwen/Tiny/modle.safetensors", "file-not-found", "has no file 'modle.safetensors'"),
        ("Qwen/Pickle", "pickle-only", "only pickled weights (pytorch_model.bin)"),
        ("Qwen/Empty", "nothing-usable", "neither safetensors nor GGUF"),
        ("Qwen/Locked", "gated", "Qwen/Locked"),
        ("Qwen/Busy", "rate-limited", "429"),
        ("Qwen/Down", "hub-failure", "503"),
        ("not a reference", "bad-reference", "no reference"),
    ],
)
def test_each_failure_is_of_its_own_kind(
    hub: str, reference: str, kind: Any, said: str, resolve: Driver, server: HubServer
) -> None:
    server.add("Qwen/Tiny", {"model.safetensors": b"x"})
    server.add("Qwen/Pickle", {"pytorch_model.bin": b"x", "config.json": b"{}"})
    server.add("Qwen/Empty", {"README.md": b"x"})
    server.add("Qwen/Locked", {"model.gguf": b"x"}, gated=True, token="mine")
    server.add("Qwen/Busy", {}, status=429)
    server.add("Qwen/Down", {}, status=503)
    error = resolve(f"{hub}:{reference}").error
    assert error["kind"] == (kind[hub] if isinstance(kind, dict) else kind)
    assert said in error["message"]


def test_the_nearest_name_is_offered_for_a_file_that_is_not_there(resolve: Driver, server: HubServer) -> None:
    server.add("Qwen/Tiny", {"model.safetensors": b"x"})
    assert resolve("hf:Qwen/Tiny/modle.safetensors").error["hint"] == "did you mean model.safetensors?"


@pytest.mark.parametrize("hub", HUBS)
def test_a_token_from_a_file_opens_a_gated_repository_and_stays_out_of_all_output(
    hub: str, resolve: Driver, server: HubServer, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    server.add("Qwen/Locked", repository(tiny), gated=True, token="hf_canary_0123456789")
    (tmp_path / "token").write_text("hf_canary_0123456789\n")
    outcome = resolve(f"{hub}:Qwen/Locked", "--token-file", tmp_path / "token")
    assert pin(outcome)["type"] == "model/safetensors"
    assert "canary" not in outcome.out + outcome.err + json.dumps(outcome.rows)
    if hub == "hf":
        stored = [answer for answer in server.answers if answer.path.startswith("/store/")]
        assert stored and not any(answer.authorised for answer in stored), (
            "the token stays with the hub's own host"
        )


@pytest.mark.parametrize("hub", HUBS)
def test_pickled_weights_are_pinned_only_where_they_were_allowed(
    hub: str, resolve: Driver, server: HubServer
) -> None:
    server.add("Qwen/Pickle", {"pytorch_model.bin": b"x", "config.json": b"{}", "modeling.py": b"code"})
    found = pin(resolve(f"{hub}:Qwen/Pickle", "--allow-pickle"))
    assert [row["path"] for row in found["files"]] == ["config.json", "pytorch_model.bin"]


@pytest.mark.parametrize("hub", HUBS)
def test_a_hub_that_cannot_be_reached_is_told_from_one_that_refuses(hub: str, resolve: Driver) -> None:
    resolve.env |= {"HF_ENDPOINT": NOWHERE, "MODELSCOPE_ENDPOINT": NOWHERE}
    error = resolve(f"{hub}:Qwen/Tiny").error
    assert (error["kind"], error["message"]) == (
        "no-network",
        "127.0.0.1:9 cannot be reached: connection refused",
    )


def test_the_users_hugging_face_cache_is_used_in_place_and_answers_without_a_network(
    resolve: Driver, server: HubServer, tiny: Callable[..., Path]
) -> None:
    server.add("Qwen/Tiny", repository(tiny))
    hf = Path(resolve.argv[0]).with_name("hf")
    subprocess.run([hf, "download", "-q", "Qwen/Tiny"], env=resolve.env, check=True, capture_output=True)
    found = pin(resolve("hf:Qwen/Tiny"))
    cache = Path(resolve.env["HOME"]) / ".cache/huggingface/hub/models--Qwen--Tiny/snapshots" / ("c" * 40)
    assert found["local"] == str(cache)
    assert all(row["local"] == str(cache / row["path"]) for row in found["files"])
    alone = pin(resolve("hf:Qwen/Tiny", HF_ENDPOINT=NOWHERE))
    assert "using the copy in the cache, commit cccccccccccc" in alone["notice"]
    assert alone | {"notice": None} == found


def test_a_damaged_file_in_the_hugging_face_cache_is_not_used(
    resolve: Driver, server: HubServer, tiny: Callable[..., Path]
) -> None:
    server.add("Qwen/Tiny", repository(tiny))
    hf = Path(resolve.argv[0]).with_name("hf")
    subprocess.run([hf, "download", "-q", "Qwen/Tiny"], env=resolve.env, check=True, capture_output=True)
    cache = Path(resolve.env["HOME"]) / ".cache/huggingface/hub/models--Qwen--Tiny/snapshots" / ("c" * 40)
    with (cache / "config.json").resolve().open("ab") as file:
        file.write(b" ")
    found = pin(resolve("hf:Qwen/Tiny"))
    assert found["local"] is None
    assert [row["path"] for row in found["files"] if "local" not in row] == ["config.json"]


@pytest.mark.parametrize(
    "layout", ["models/Qwen--Ti.ny/snapshots/master", "hub/models/Qwen/Ti___ny", "models/Qwen/Ti___ny"]
)
def test_both_layouts_of_the_users_modelscope_cache_are_used_in_place(
    layout: str, resolve: Driver, server: HubServer, tiny: Callable[..., Path]
) -> None:
    server.add("Qwen/Ti.ny", repository(tiny))
    folder = Path(resolve.env["HOME"]) / ".cache/modelscope" / layout
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tiny("qwen3"))
    found = pin(resolve("modelscope:Qwen/Ti.ny"))
    assert found["local"] == str(folder)


def test_a_modelscope_cache_of_another_revision_is_not_taken_for_this_one(
    resolve: Driver, server: HubServer, tiny: Callable[..., Path]
) -> None:
    files = repository(tiny)
    server.add("Qwen/Tiny", files | {"config.json": files["config.json"].replace(b"0.02", b"0.03")})
    folder = Path(resolve.env["HOME"]) / ".cache/modelscope/hub/models/Qwen/Tiny"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tiny("qwen3"))
    found = pin(resolve("modelscope:Qwen/Tiny"))
    assert [row["path"] for row in found["files"] if "local" not in row] == ["config.json"]
