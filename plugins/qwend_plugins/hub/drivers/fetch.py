"""Download pinned files: resumed after a kill, checked by size and hash, put into place only when whole.

Runs inside the hub image beside `wanted.py`, `hubs.py`, `hub_hugging_face.py` and `hub_modelscope.py`.

    python fetch.py --pin PIN.json --out DIR --partial DIR
    python fetch.py --url "https://host/file.gguf#sha256=…" --out DIR --partial DIR

A pin is what `resolve` prints; its ``ref`` and ``revision`` say where the files are. Partial files live in
``--partial`` under names that tell file and revision apart, so that they survive whatever happens to this process.
A file whose hash is wrong is removed and named with both digests.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
import requests
import urllib3
from hubs import Hub, HubError, Reference, blocks, fail, no_network, open_hub, read_token, report, stream
from wanted import Wanted, read_pin, read_url

TRIES = 6  # without a single new byte
LONGEST_WAIT = 120.0  # seconds, whatever a hub asks for
RETRIED = ("no-network", "hub-failure", "rate-limited")
REPORT_EVERY = 0.5  # seconds


class Progress:
    """Bytes on disk over all files, told twice a second at most."""

    def __init__(self, total: int | None) -> None:
        self.total, self.done = total, 0
        self._lock, self._next = threading.Lock(), 0.0

    def add(self, count: int, *, last: bool = False) -> None:
        with self._lock:
            self.done += count
            now = time.monotonic()
            if now >= self._next or last:
                self._next = now + REPORT_EVERY
                report(progress={"phase": "download", "done": self.done, "total": self.total, "unit": "B"})


class Fetcher:
    """Fetches the files of one revision into `out`."""

    def __init__(self, hub: Hub | None, revision: str, out: Path, partial: Path, wait: float) -> None:
        self.hub, self.revision, self.out, self.partial, self.wait = hub, revision, out, partial, wait
        self.stopping = threading.Event()
        self.progress = Progress(None)

    def fetch(self, wanted: Wanted, url: str | None = None) -> None:
        """Bring one file into place; whatever is there already counts."""
        target = self.out / wanted.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and target.stat().st_size == wanted.size and self._right(wanted, target):
            self.progress.add(wanted.size or 0)
            return
        if wanted.local and self._copy(wanted, Path(wanted.local), target):
            self.progress.add(target.stat().st_size)
            return
        part = self._part(wanted, url)
        self._download(wanted, part, url)
        if not self._right(wanted, part, refuse=True):
            return
        try:
            os.replace(part, target)
        except OSError:  # another file system
            shutil.copyfile(part, target.with_name(target.name + ".part"))
            os.replace(target.with_name(target.name + ".part"), target)
            part.unlink()

    def _part(self, wanted: Wanted, url: str | None) -> Path:
        # The hash where one is known: a mirror, or a revision with the same file, goes on where this one ended.
        repo = url or (self.hub.repo if self.hub else "")
        known = wanted.sha256 or wanted.oid or f"{self.revision} {repo} {wanted.path}"
        return self.partial / (hashlib.sha256(known.encode()).hexdigest()[:32] + ".part")

    def _copy(self, wanted: Wanted, source: Path, target: Path) -> bool:
        """Take the user's own copy, if it is still there and right. A copy, no link: the store seals what it holds."""
        if not source.is_file() or (wanted.size is not None and source.stat().st_size != wanted.size):
            return False
        part = target.with_name(target.name + ".part")
        shutil.copyfile(source, part)
        if not self._right(wanted, part):
            part.unlink()
            return False
        os.replace(part, target)
        return True

    def _download(self, wanted: Wanted, part: Path, url: str | None) -> None:
        """Append to `part` until it is whole; tries again as long as bytes come."""
        tries, told = 0, 0
        while True:
            have = part.stat().st_size if part.exists() else 0
            if wanted.size is not None and have > wanted.size:  # cannot be a beginning of this file
                part.unlink()
                have = 0
            self.progress.add(have - told)
            told = have
            if have == wanted.size:
                part.touch()
                return
            try:
                for count in self._append(wanted, part, have, url):
                    told, tries = told + count, 0
                    self.progress.add(count)
                if wanted.size is None:
                    return
                error = HubError("no-network", f"{wanted.path}: the connection broke off early")
            except HubError as caught:
                error = caught
            if part.exists() and part.stat().st_size == wanted.size:
                continue
            tries += 1
            if (
                error.kind == "corrupt" and have
            ):  # the server has fewer bytes: what is here belongs to another file
                part.unlink(missing_ok=True)
            elif error.kind not in RETRIED or tries >= TRIES:
                raise error
            print(f"fetch: {error}; trying again", file=sys.stderr, flush=True)
            if self.stopping.wait(max(self.wait * 2 ** max(tries - 1, 0), min(error.wait, LONGEST_WAIT))):
                raise error

    def _append(self, wanted: Wanted, part: Path, have: int, url: str | None) -> Iterator[int]:
        """Write what comes from byte `have` on; yield the bytes as they are written."""
        headers: dict[str, str] = {}
        if self.hub:
            url, headers = self.hub.request(wanted.path, self.revision)
        headers |= {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        host = urlsplit(str(url)).netloc
        with stream(self.hub, str(url), headers, wanted.path) as response:
            resumed = response.status_code == 206
            if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise HubError(
                    "hub-failure", f"{host} answers another range of {wanted.path} than was asked for"
                )
            if not resumed and have:
                yield -have  # the server sends the whole file again
                have = 0
            # Unbuffered on both sides: neither a broken connection nor a kill loses what has arrived.
            with part.open("ab" if resumed else "wb", buffering=0) as file:
                while block := self._receive(response, host):
                    if self.stopping.is_set():
                        raise HubError("stopped", "stopped")
                    if wanted.size is not None and have + len(block) > wanted.size:
                        raise HubError(
                            "corrupt", f"{host} sends more than {wanted.size} bytes of {wanted.path}"
                        )
                    try:
                        file.write(block)
                    except OSError as error:
                        raise HubError("no-space", f"{part}: {error.strerror}") from None
                    have += len(block)
                    yield len(block)

    @staticmethod
    def _receive(response: requests.Response, host: str) -> bytes:
        """The bytes that have come, at least one; none at the body's end."""
        try:
            return bytes(response.raw.read1(1 << 18))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise no_network(host, error) from None

    def _right(self, wanted: Wanted, path: Path, *, refuse: bool = False) -> bool:
        """Whether size and hash are those of the pin; `refuse` raises, and removes the file."""
        if wanted.sha256:
            digest, name, expected = hashlib.sha256(), "sha256", wanted.sha256
        elif wanted.oid and len(wanted.oid) == 40:
            digest, name, expected = hashlib.sha1(usedforsecurity=False), "git blob", wanted.oid
            digest.update(f"blob {path.stat().st_size}\0".encode())
        else:
            return True  # its size was checked
        for block in blocks(path):
            digest.update(block)
        if digest.hexdigest() == expected:
            return True
        if refuse:
            path.unlink()
            raise HubError(
                "corrupt",
                f"{wanted.path}: {name} is {digest.hexdigest()}, expected {expected}",
                "the file was removed; fetch it again, or from another mirror",
            )
        return False

    def _check_room(self, files: list[Wanted]) -> None:
        """Refuse what cannot fit, before a byte is fetched."""
        have = sum(path.stat().st_size for path in self.partial.glob("*.part"))
        need = sum(file.size or 0 for file in files if not (self.out / file.path).exists()) - have
        free = shutil.disk_usage(self.partial).free
        if need > free:
            said = f"{self.partial}: {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
            raise HubError("no-space", said, "make room on that volume")

    def fetch_all(self, files: list[Wanted], jobs: int, url: str | None = None) -> None:
        """Fetch several at once; the first failure stops the others, and their parts stay."""
        sizes = [file.size for file in files]
        self.progress = Progress(None if None in sizes else sum(size or 0 for size in sizes))
        self._check_room(files)
        failures: list[HubError] = []

        def one(wanted: Wanted) -> None:
            try:
                if not self.stopping.is_set():
                    self.fetch(wanted, url)
            except HubError as error:
                failures.append(error)
                self.stopping.set()
            except OSError as error:
                failures.append(HubError("no-space", f"{error.filename or self.out}: {error.strerror}"))
                self.stopping.set()

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, sorted(files, key=lambda file: -(file.size or 0))))
        self.progress.add(0, last=True)
        if failures:
            raise failures[0]


def run(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    args.partial.mkdir(parents=True, exist_ok=True)
    if args.url:
        url, wanted = read_url(args.url)
        Fetcher(None, "", args.out, args.partial, args.retry_wait).fetch_all([wanted], 1, url)
        files = [wanted]
    else:
        ref, revision, files = read_pin(args.pin)
        reference = Reference.parse(ref)
        hub = open_hub(reference, args.kind, read_token(args.token_file))
        Fetcher(hub, revision, args.out, args.partial, args.retry_wait).fetch_all(files, args.jobs)
    size = sum((args.out / file.path).stat().st_size for file in files)
    print(f"fetched {len(files)} files, {size / 1e6:.1f} MB, into {args.out}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Download pinned files from a hub or a web address.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pin", type=Path, help="a pin as resolve.py prints it")
    source.add_argument("--url", help="https://host/file#sha256=…")
    parser.add_argument("--kind", choices=("model", "dataset"), default="model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--partial", type=Path, required=True, help="where unfinished files wait for the next try"
    )
    parser.add_argument("--jobs", type=int, default=4, help="files at the same time")
    parser.add_argument("--token-file", type=Path, help="a file that holds the hub's access token")
    parser.add_argument(
        "--retry-wait", type=float, default=1.0, help="seconds before trying again; they double"
    )
    args = parser.parse_args(argv)
    if not 1 <= args.jobs <= 16:
        parser.error("--jobs must be between 1 and 16")
    try:
        run(args)
    except HubError as error:
        fail("fetch", error)


if __name__ == "__main__":
    main()
