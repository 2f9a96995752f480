"""Runs inside an image (`verify`): prints what is installed and which files are not as they came, as JSON."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from base64 import urlsafe_b64decode
from importlib import metadata

PREFIX = "/opt/qwend"
SITE = f"{PREFIX}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


def digest(path: str) -> str:
    with open(path, "rb") as file:
        found = hashlib.sha256()
        while chunk := file.read(1 << 20):
            found.update(chunk)
        return found.hexdigest()


def changed(path: str, shown: str, wanted: str) -> list[str]:
    try:
        got = digest(path)
    except OSError as error:
        return [f"{shown} cannot be read: {error.strerror}"]
    return [] if got == wanted else [f"{shown} is sha256 {got}, recorded was {wanted}"]


def main() -> None:
    try:
        with open(f"{PREFIX}/qwend-image.json", encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError):
        record = None
    files = (record or {}).get("files", {})
    ours = {os.path.join(PREFIX, name) for name in files}
    packages: dict[str, dict[str, str]] = {}
    problems: list[str] = []
    for found in metadata.distributions(path=[SITE]):
        name = "-".join(
            filter(None, found.metadata["Name"].lower().replace("_", "-").replace(".", "-").split("-"))
        )
        manifest = found.read_text("RECORD") or ""
        packages[name] = {"version": found.version, "manifest": hashlib.sha256(manifest.encode()).hexdigest()}
        for row in csv.reader(manifest.splitlines()):
            kind, _, text = (row[1] if len(row) > 1 else "").partition("=")
            path = os.path.normpath(os.path.join(SITE, row[0]))
            if kind == "sha256" and not path.endswith(".pyc") and path not in ours:
                wanted = urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()
                problems += changed(path, f"{name}: {row[0]}", wanted)
    for name, wanted in sorted(files.items()):
        problems += changed(os.path.join(PREFIX, name), name, wanted)
    print(json.dumps({"record": record, "packages": packages, "changed": problems}))


main()
