"""Find a running Ollama, or run the one that is installed. Standard library only."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ollama_start import DriverError, say

USUAL = "http://127.0.0.1:11434"
OLDEST = (0, 5, 5)
"""From this version on a model is created by the digests of its files."""
CONTAINER = "/usr/bin/ollama"
"""The program in Ollama's own container image."""
_PLACES = ("/usr/local/bin", "/usr/bin", "/opt/homebrew/bin", "/Applications/Ollama.app/Contents/Resources")
_START_S = 60.0
GET_IT = "install it from ollama.com (curl, brew or the app), or name a running one: with: {url: http://HOST:11434}"


@dataclass
class Server:
    """Where Ollama answers; `child` is it where this step runs it."""

    url: str
    version: str
    child: subprocess.Popen[bytes] | None = None


def find(url: str | None, managed: bool | None, keep_alive: str | None, models: Path | None = None) -> Server:
    """The server at `url` (left out: the usual place), or a child of our own. `managed`: None takes what there is.
    `models` is a folder of its own for the child that a container holds; nothing else is looked for then.
    Raises DriverError that says how to get Ollama, or that it is too old."""
    for name in ("no_proxy", "NO_PROXY"):  # a company's proxy knows nothing of this machine's own ports
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost,::1")))
    if models is not None:
        return _young_enough(_started(CONTAINER, keep_alive, models))
    if not managed:
        version = version_of(url or USUAL)
        if version is not None:
            return _young_enough(Server(url or USUAL, version))
        if url is not None or managed is False:
            raise DriverError(f"no Ollama answers at {url or USUAL}", "start it: ollama serve")
    # The user's own, this step's, and where installers put it.
    paths = (os.environ.get("QWEND_PATH", ""), os.environ.get("PATH", ""), *_PLACES)
    program = shutil.which("ollama", path=os.pathsep.join(filter(None, paths)))
    if program is None:
        raise DriverError(f"there is no Ollama here: none answers at {USUAL}, and none is installed", GET_IT)
    return _young_enough(_started(program, keep_alive))


def lend(models: Path, files: dict[str, tuple[Path, str]]) -> None:
    """Lays links to GGUF files where a server that this step runs keeps its blobs: nothing of them is sent or copied. A
    server that does not take them is sent them. Links of earlier starts go: what they name may be another file now.

    Source: a blob is the file `blobs/sha256-<hex>` of OLLAMA_MODELS; the server asks whether it is there.
    """
    blobs = models / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    for path in blobs.iterdir():
        if path.is_symlink():
            path.unlink()
    for path, digest in files.values():
        place = blobs / digest.replace(":", "-")
        if path.suffix == ".gguf" and not place.exists():
            place.symlink_to(path.resolve())


def version_of(url: str) -> str | None:
    """What a server says of its version; None if none answers."""
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=5) as answer:
            said = json.load(answer)
    except (OSError, ValueError, urllib.error.URLError):
        return None
    return str(said["version"]) if isinstance(said, dict) and "version" in said else None


def numbers(version: str) -> tuple[int, ...]:
    """`0.14.0-rc1` as (0, 14, 0)."""
    found = re.match(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)


def _young_enough(server: Server) -> Server:
    have = numbers(server.version)
    if have != (0, 0, 0) and have < OLDEST:  # a build from source says 0.0.0
        if server.child:
            server.child.terminate()
        need = ".".join(map(str, OLDEST))
        raise DriverError(
            f"Ollama {server.version} at {server.url} is too old: {need} is needed", "upgrade it"
        )
    return server


def _started(program: str, keep_alive: str | None, models: Path | None = None) -> Server:
    """Runs `ollama serve` on a free port, with the models that the user's own Ollama holds, or those of `models`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "OLLAMA_HOST": f"127.0.0.1:{port}"}
    if keep_alive is not None:
        env["OLLAMA_KEEP_ALIVE"] = keep_alive
    if models is None:  # the models of the user, wherever this step's own home is
        env["HOME"] = pwd.getpwuid(os.getuid()).pw_dir
    else:
        env["OLLAMA_MODELS"] = str(models)
    env["OLLAMA_NOPRUNE"] = "1"  # another server may be in the middle of a download in the same folder
    say(f"runs {program} serve on port {port}")
    child = subprocess.Popen([program, "serve"], env=env)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + _START_S
    while time.monotonic() < until:
        version = version_of(url)
        if version is not None:
            return Server(url, version, child)
        if child.poll() is not None:
            raise DriverError(f"{program} serve ended with {child.returncode}", "its own words stand above")
        time.sleep(0.1)
    child.kill()
    raise DriverError(f"{program} serve did not answer within {_START_S:.0f} seconds")
