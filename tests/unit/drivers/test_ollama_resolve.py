"""`ollama:` is pinned to the digest of the manifest that the user's own Ollama holds, without asking anybody."""

from __future__ import annotations

import hashlib
import io
import json
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

import pytest
from ollama_resolve import asked, held, main, pin_of, place_of
from ollama_start import DriverError

MANIFEST = json.dumps(
    {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:1", "size": 397}]}
).encode()


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        ("ollama:qwen3", ("registry.ollama.ai", "library", "qwen3", "latest")),
        ("ollama:qwen2.5:0.5b", ("registry.ollama.ai", "library", "qwen2.5", "0.5b")),
        ("ollama:me/mine", ("registry.ollama.ai", "me", "mine", "latest")),
        ("ollama:example.org/me/mine:q4", ("example.org", "me", "mine", "q4")),
    ],
)
def test_a_name_has_ollamas_defaults(reference: str, place: tuple[str, str, str, str]) -> None:
    assert place_of(reference) == place


def test_what_the_users_ollama_holds_is_pinned_by_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifests/registry.ollama.ai/library/qwen2.5/0.5b"
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(MANIFEST)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    main(["ollama:qwen2.5:0.5b"])
    digest = hashlib.sha256(MANIFEST).hexdigest()
    assert json.loads(capsys.readouterr().out) == {
        "ref": "ollama:qwen2.5:0.5b",
        "identity": f"ollama:{digest}",
        "type": "model/ollama",
        "facts": {"bytes": 397},
        "revision": f"sha256:{digest}",
    }


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert held(place_of("ollama:qwen3"), [tmp_path]) is None
    (tmp_path / "manifests").write_text("no folder")
    assert held(place_of("ollama:qwen3"), [tmp_path]) is None


def test_what_this_machine_does_not_hold_is_asked_of_the_registry_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def registry(request: urllib.request.Request, timeout: float) -> io.BytesIO:
        assert request.full_url == "https://registry.ollama.ai/v2/library/qwen2.5/manifests/0.5b"
        assert "manifest.v2+json" in str(request.get_header("Accept"))
        return io.BytesIO(MANIFEST)

    monkeypatch.setattr("ollama_resolve.folders", lambda: [tmp_path])
    monkeypatch.setattr("urllib.request.urlopen", registry)
    main(["ollama:qwen2.5:0.5b"])
    found = json.loads(capsys.readouterr().out)
    assert found["revision"] == f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"


@pytest.mark.parametrize(
    ("raised", "says", "hint"),
    [
        (
            urllib.error.HTTPError("u", 404, "gone", Message(), None),
            "there is no model nonesuch:1",
            "library lists",
        ),
        (urllib.error.HTTPError("u", 500, "ill", Message(), None), "registry.ollama.ai answers 500", "later"),
        (urllib.error.URLError("no route"), "cannot be reached: .*no route", "ollama pull nonesuch:1"),
    ],
)
def test_what_the_registry_does_not_give_is_told_with_a_way_on(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, says: str, hint: str
) -> None:
    def registry(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("urllib.request.urlopen", registry)
    with pytest.raises(DriverError, match=says) as told:
        asked(place_of("ollama:nonesuch:1"))
    assert hint in told.value.hint


@pytest.mark.parametrize("broken", [b"", b"{}", b'{"layers": [1]}', b"\xff"])
def test_a_broken_manifest_is_told(broken: bytes) -> None:
    with pytest.raises(DriverError, match="cannot be read"):
        pin_of("ollama:qwen3", broken)
