"""Downloads go on where they ended, are never believed before their hash, and never seen half-written."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.drivers.conftest import Driver
from tests.fakes.hub_server import HubServer, Repo, blob, sha256

pytestmark = pytest.mark.e2e
HUBS = ("hf", "modelscope")
WEIGHTS = random.Random(0).randbytes(3_000_000)
CONFIG = b'{"model_type": "qwen2"}'


@pytest.fixture
def fetch(driver: Callable[[str, str, str], Driver], server: HubServer, tmp_path: Path) -> Driver:
    made = driver("hub", "hub", "fetch.py")
    made.env |= {"HF_ENDPOINT": server.url, "MODELSCOPE_ENDPOINT": server.url}
    made.argv += [
        "--out",
        str(tmp_path / "out"),
        "--partial",
        str(tmp_path / "partial"),
        "--retry-wait",
        "0.01",
    ]
    return made


@pytest.fixture
def repo(server: HubServer) -> Repo:
    return server.add("Qwen/Tiny", {"config.json": CONFIG, "sub/model.safetensors": WEIGHTS})


def write_pin(folder: Path, hub: str, **changes: Any) -> Path:
    files: list[dict[str, Any]] = [
        {"path": "config.json", "size": len(CONFIG), "oid": blob(CONFIG)},
        {"path": "sub/model.safetensors", "size": len(WEIGHTS), "sha256": sha256(WEIGHTS)} | changes,
    ]
    path = folder / "pin.json"
    path.write_text(json.dumps({"ref": f"{hub}:Qwen/Tiny", "revision": "c" * 40, "files": files}))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sizes(folder: Path) -> list[int]:
    """How large its files are now; one that is moved away meanwhile is none."""
    found = []
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            found.append(path.stat().st_size)
    return found


BOTH = {"config.json": CONFIG, "sub/model.safetensors": WEIGHTS}


@pytest.mark.parametrize("hub", HUBS)
def test_pinned_files_arrive_under_their_paths_with_progress_in_bytes(
    hub: str, fetch: Driver, repo: Repo, tmp_path: Path
) -> None:
    outcome = fetch("--pin", write_pin(tmp_path, hub))
    assert outcome.code == 0, outcome.err
    assert content(tmp_path / "out") == BOTH
    assert content(tmp_path / "partial") == {}
    total = len(CONFIG) + len(WEIGHTS)
    assert outcome.progress()[-1] == {"phase": "download", "done": total, "total": total, "unit": "B"}


@pytest.mark.parametrize("hub", HUBS)
def test_a_connection_that_breaks_off_goes_on_at_the_same_byte(
    hub: str, fetch: Driver, repo: Repo, server: HubServer, tmp_path: Path
) -> None:
    repo.cut["sub/model.safetensors"] = [1_000_000, 500_000, 0]
    outcome = fetch("--pin", write_pin(tmp_path, hub))
    assert outcome.code == 0, outcome.err
    assert content(tmp_path / "out") == BOTH
    assert server.sent("/model.safetensors") < len(WEIGHTS) + 1_000, "no byte is fetched twice"
    assert outcome.err.count("the connection broke off; trying again") == 3


@pytest.mark.parametrize("hub", HUBS)
def test_a_killed_fetch_leaves_nothing_visible_and_the_next_one_goes_on(
    hub: str, fetch: Driver, repo: Repo, server: HubServer, tmp_path: Path
) -> None:
    repo.rate = 2_000_000
    process = fetch.start("--pin", write_pin(tmp_path, hub))
    parts = tmp_path / "partial"
    while max(sizes(parts), default=0) <= 500_000:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    fetch.finish(process)
    assert "sub/model.safetensors" not in content(tmp_path / "out")
    had = max(sizes(parts))
    repo.rate = None
    server.answers.clear()
    outcome = fetch("--pin", write_pin(tmp_path, hub))
    assert outcome.code == 0, outcome.err
    assert content(tmp_path / "out") == BOTH
    again = [answer.sent for answer in server.answers if answer.status == 206]
    assert sum(again) == len(WEIGHTS) - had, "no byte is fetched twice"
    told = outcome.progress()[-1]
    assert told["done"] == told["total"] == len(CONFIG) + len(WEIGHTS), "what is there already counts as done"


def test_a_fetch_broken_off_on_one_hub_goes_on_at_its_mirror(
    fetch: Driver, repo: Repo, server: HubServer, tmp_path: Path
) -> None:
    repo.cut["sub/model.safetensors"] = [1_000_000] + [0] * 20
    assert fetch("--pin", write_pin(tmp_path, "hf")).error["kind"] == "no-network"
    repo.cut.clear()
    server.answers.clear()
    assert fetch("--pin", write_pin(tmp_path, "modelscope")).code == 0
    assert content(tmp_path / "out") == BOTH
    assert server.sent("model.safetensors") < 2_001_000


@pytest.mark.parametrize("hub", HUBS)
def test_a_wrong_hash_names_both_digests_and_leaves_nothing_behind(
    hub: str, fetch: Driver, repo: Repo, tmp_path: Path
) -> None:
    repo.corrupt.add("sub/model.safetensors")
    error = fetch("--pin", write_pin(tmp_path, hub)).error
    wrong = bytes([WEIGHTS[0] ^ 1]) + WEIGHTS[1:]
    assert error["kind"] == "corrupt"
    assert error["message"] == f"sub/model.safetensors: sha256 is {sha256(wrong)}, expected {sha256(WEIGHTS)}"
    assert "sub/model.safetensors" not in content(tmp_path / "out")
    assert WEIGHTS[1:1000] not in b"".join(content(tmp_path / "partial").values())


def test_a_small_file_is_held_against_its_git_hash(fetch: Driver, repo: Repo, tmp_path: Path) -> None:
    repo.corrupt.add("config.json")
    error = fetch("--pin", write_pin(tmp_path, "hf")).error
    assert error["message"].startswith("config.json: git blob is ")
    assert error["message"].endswith(f"expected {blob(CONFIG)}")


def test_a_file_that_grew_since_it_was_pinned_is_refused(fetch: Driver, repo: Repo, tmp_path: Path) -> None:
    repo.files["sub/model.safetensors"] = WEIGHTS + b"more"
    error = fetch("--pin", write_pin(tmp_path, "hf")).error
    assert (error["kind"], f"sends more than {len(WEIGHTS)} bytes" in error["message"]) == ("corrupt", True)


def test_a_server_without_ranges_sends_the_file_again(
    fetch: Driver, repo: Repo, server: HubServer, tmp_path: Path
) -> None:
    repo.cut["sub/model.safetensors"] = [1_000_000]
    repo.ignore_ranges = True
    outcome = fetch("--pin", write_pin(tmp_path, "hf"))
    assert outcome.code == 0, outcome.err
    assert content(tmp_path / "out") == BOTH
    total = len(CONFIG) + len(WEIGHTS)
    assert outcome.progress()[-1]["done"] == total


def test_a_busy_server_is_asked_again(fetch: Driver, repo: Repo, tmp_path: Path) -> None:
    repo.busy[:] = [429, 503, 500]
    assert fetch("--pin", write_pin(tmp_path, "hf"), "--jobs", "1").code == 0
    assert content(tmp_path / "out") == BOTH


@pytest.mark.parametrize(
    ("mood", "kind"),
    [({"status": 403}, "gated"), ({"status": 401}, "unauthorised"), ({"status": 404}, "file-not-found")],
)
def test_a_refusal_ends_the_fetch_at_once(
    mood: dict[str, Any], kind: str, fetch: Driver, server: HubServer, tmp_path: Path
) -> None:
    server.add("Qwen/Tiny", BOTH, **mood)
    assert fetch("--pin", write_pin(tmp_path, "hf"), "--jobs", "1").error["kind"] == kind
    assert len(server.answers) == 1


def test_what_is_there_and_right_is_not_fetched_again(
    fetch: Driver, repo: Repo, server: HubServer, tmp_path: Path
) -> None:
    pin = write_pin(tmp_path, "hf")
    assert fetch("--pin", pin).code == 0
    (tmp_path / "out" / "config.json").write_bytes(CONFIG[::-1])  # the right size, the wrong content
    server.answers.clear()
    assert fetch("--pin", pin).code == 0
    assert content(tmp_path / "out") == BOTH
    assert {answer.path.rsplit("/", 1)[-1] for answer in server.answers} == {"config.json"}


def test_the_users_own_copy_is_taken_only_if_its_hash_is_right(
    fetch: Driver, repo: Repo, server: HubServer, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(WEIGHTS)
    assert fetch("--pin", write_pin(tmp_path, "hf", local=str(mine))).code == 0
    assert server.sent("model.safetensors") == 0
    copy = tmp_path / "out" / "sub" / "model.safetensors"
    assert (copy.read_bytes() == WEIGHTS, os.stat(copy).st_nlink) == (True, 1)
    copy.unlink()
    mine.write_bytes(WEIGHTS[::-1])
    assert fetch("--pin", write_pin(tmp_path, "hf", local=str(mine))).code == 0
    assert content(tmp_path / "out") == BOTH


def test_a_web_address_is_fetched_with_its_hash_and_resumed(
    fetch: Driver, server: HubServer, tmp_path: Path
) -> None:
    repo = server.plain["model.gguf"] = Repo({"model.gguf": WEIGHTS}, cut={"model.gguf": [1_000_000]})
    outcome = fetch("--url", f"{server.url}/files/model.gguf#sha256={sha256(WEIGHTS)}")
    assert outcome.code == 0, outcome.err
    assert content(tmp_path / "out") == {"model.gguf": WEIGHTS}
    assert server.sent("model.gguf") < len(WEIGHTS) + 1_000
    (tmp_path / "out" / "model.gguf").unlink()
    repo.corrupt.add("model.gguf")
    assert (
        fetch("--url", f"{server.url}/files/model.gguf#sha256={sha256(WEIGHTS)}").error["kind"] == "corrupt"
    )
    assert content(tmp_path / "out") == content(tmp_path / "partial") == {}


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a\\b", "a\0b"])
def test_a_pin_cannot_write_outside_its_folder(path: str, fetch: Driver, repo: Repo, tmp_path: Path) -> None:
    error = fetch("--pin", write_pin(tmp_path, "hf", path=path)).error
    assert (error["kind"], "may not be written" in error["message"]) == ("bad-reference", True)


def test_what_cannot_fit_is_refused_before_a_byte_is_fetched(
    fetch: Driver, repo: Repo, server: HubServer, tmp_path: Path
) -> None:
    error = fetch("--pin", write_pin(tmp_path, "hf", size=10**18)).error
    assert error["kind"] == "no-space"
    assert error["message"].startswith(f"{tmp_path / 'partial'}: 1000000000.0 GB are needed, ")
    assert server.answers == []


def test_a_full_disk_is_named_and_keeps_what_came(fetch: Driver, repo: Repo, tmp_path: Path) -> None:
    """Stands for a full volume: the shell's limit on a file's size gives the same kind of failure."""
    argv = fetch.argv
    fetch.argv = ["bash", "-c", 'trap "" XFSZ; ulimit -f 1024; exec "$@"', "-", *argv]
    error = fetch("--pin", write_pin(tmp_path, "hf")).error
    assert (error["kind"], "File too large" in error["message"]) == ("no-space", True)
    assert "sub/model.safetensors" not in content(tmp_path / "out")
    fetch.argv = argv
    assert fetch("--pin", write_pin(tmp_path, "hf")).code == 0
    assert content(tmp_path / "out") == BOTH
