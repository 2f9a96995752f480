"""Pin a model of Ollama's library to the digest of its manifest: of the user's own Ollama, else of the registry.

    python ollama_resolve.py ollama:qwen3:0.6b      the last line of the output is the pin, as JSON

Source: the layout of Ollama's model folder (`manifests/HOST/NAMESPACE/NAME/TAG`) and the registry's HTTP API. A digest
is the sha256 of the manifest's bytes, as `ollama list` shows it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from ollama_start import DriverError, run

REGISTRY = "registry.ollama.ai"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_MODEL = "application/vnd.ollama.image.model"


def place_of(reference: str) -> tuple[str, str, str, str]:
    """Host, namespace, name and tag, with Ollama's defaults."""
    body, _, tag = reference.removeprefix("ollama:").rpartition(":")
    if not body or "/" in tag:
        body, tag = reference.removeprefix("ollama:"), "latest"
    *head, name = body.split("/")
    namespace = head[-1] if head else "library"
    return (head[0] if len(head) > 1 else REGISTRY), namespace, name, tag


def folders() -> list[Path]:
    """Where an Ollama of this machine may keep its models: told, of the user, of the service on Linux."""
    told = os.environ.get("OLLAMA_MODELS")
    return [
        *([Path(told)] if told else []),
        Path.home() / ".ollama/models",
        Path("/usr/share/ollama/.ollama/models"),
    ]


def held(place: tuple[str, str, str, str], where: list[Path]) -> bytes | None:
    """The manifest that the user's own Ollama has; None where it has none that can be read."""
    for folder in where:
        try:
            return folder.joinpath("manifests", *place).read_bytes()
        except OSError:
            continue
    return None


def asked(place: tuple[str, str, str, str]) -> bytes:
    """The manifest of the registry. Raises DriverError."""
    host, namespace, name, tag = place
    url = f"https://{host}/v2/{namespace}/{name}/manifests/{tag}"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers={"Accept": _MANIFEST}), timeout=30
        ) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        if error.code in (400, 404):
            raise DriverError(
                f"there is no model {name}:{tag} in Ollama's library", "ollama.com/library lists them"
            ) from None
        raise DriverError(f"{host} answers {error.code}", "later, perhaps") from None
    except OSError as error:
        raise DriverError(
            f"{name}:{tag} is not in this machine's Ollama, and {host} cannot be reached: {error}",
            f"ollama pull {name}:{tag}",
        ) from None


def pin_of(reference: str, manifest: bytes) -> dict[str, Any]:
    """The pin, as JSON."""
    try:
        layers = json.loads(manifest)["layers"]
        size = sum(int(layer["size"]) for layer in layers if layer["mediaType"] == _MODEL)
    except (ValueError, KeyError, TypeError):
        raise DriverError(f"the manifest of {reference} cannot be read", "ollama pull it again") from None
    digest = hashlib.sha256(manifest).hexdigest()
    facts = {"bytes": size} if size else {}
    return {
        "ref": reference,
        "identity": f"ollama:{digest}",
        "type": "model/ollama",
        "facts": facts,
        "revision": f"sha256:{digest}",
    }


def main(argv: list[str] | None = None) -> None:
    (reference,) = sys.argv[1:] if argv is None else argv

    def resolve() -> None:
        place = place_of(reference)
        manifest = held(place, folders())
        print(json.dumps(pin_of(reference, asked(place) if manifest is None else manifest)))

    run("ollama_resolve", resolve)


if __name__ == "__main__":
    main()
