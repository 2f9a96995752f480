"""What the keeper of the store asks: `store ls`, `verify`, `prune`, `export`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import msgspec

from qwend.adapters.store import publish
from qwend.adapters.store.layout import escape
from qwend.adapters.store.prune import prune
from qwend.adapters.store.shelf import Shelf
from qwend.adapters.store.verify import Damage, Verifier
from qwend.effects import Progress
from qwend.errors import UsageError
from qwend.model.artifact import Artifact

_SHORTEST = 4
_NAMED = 8
_TELL_EVERY = 32 << 20


class Keeping(Shelf):
    """Looking after what is there."""

    def known(self, digest: str | None) -> Artifact | None:
        """Some artifact with this content, from memory."""
        return self._catalogue.by_digest(digest) if digest else None

    def usage(self) -> int:
        """Bytes of stored content, each file once."""
        return sum({file.sha256: file.size for one in self._stored() for file in one.files}.values())

    async def artifacts(self) -> list[Artifact]:
        """All of them, newest first."""
        return [manifest.artifact for manifest in self._catalogue.all()]

    async def lookup(self, name: str) -> Artifact:
        """By digest or fingerprint, or the beginning of one (`sha256:` before it says nothing). Raises UsageError for
        none or several."""
        name = name.removeprefix("sha256:").lower()
        found = {
            manifest.artifact.digest: manifest.artifact
            for manifest in reversed(self._catalogue.all())
            if manifest.artifact.digest.startswith(name) or manifest.artifact.fingerprint.startswith(name)
        }
        if len(name) < _SHORTEST or not found:
            raise UsageError(
                f"there is no artifact {escape(name)[:80]}",
                code="no-such-artifact",
                hint=f"give at least {_SHORTEST} digits of a digest: qwend store ls",
            )
        if len(found) > 1:
            several = sorted(digest[: max(12, len(name) + 8)] for digest in found)
            more = f" and {len(several) - _NAMED} more" if len(several) > _NAMED else ""
            text = f"{escape(name)} could be {', '.join(several[:_NAMED])}{more}"
            raise UsageError(text, code="ambiguous-artifact", hint="give more digits")
        return next(iter(found.values()))

    async def verify(self, digest: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Reads everything (or one artifact) again: `{"progress": …}` as it goes, then `{"end": {checked, bad,
        exit_code}}`. What is damaged is moved to the quarantine and forgotten, so that its step runs again."""
        everything = {(one.digest, one.referenced): one for one in self._all()}
        chosen = [await self.lookup(digest)] if digest else list(everything.values())
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[int | list[Damage]] = asyncio.Queue()
        work = self._threads.submit(
            self._verify, chosen, lambda item: loop.call_soon_threadsafe(news.put_nowait, item)
        )
        total, done = sum(artifact.size for artifact in chosen), 0
        while isinstance(item := await news.get(), int):
            done += item
            yield {"progress": msgspec.to_builtins(Progress("store", "verify", done, total, "B"))}
        work.result()
        assert isinstance(item, list), "failures were raised by result()"
        yield {
            "end": {
                "checked": len(chosen),
                "bad": [msgspec.to_builtins(one) for one in item],
                "exit_code": int(bool(item)),
            }
        }

    def _verify(self, chosen: list[Artifact], tell: Callable[[Any], Any]) -> None:
        pending = [0]

        def count(size: int) -> None:
            pending[0] += size
            if pending[0] >= _TELL_EVERY:
                tell(pending[0])
                pending[0] = 0

        bad: list[Damage] = []
        verifier = Verifier(self._layout, self._catalogue, self._hasher, self._lock, count)
        try:
            with self._guarded("setting damaged files aside", self._layout.root):
                self._check(verifier, chosen, bad)
            tell(pending[0])
        finally:
            self._forget_twins({damage.digest for damage in bad})
            for sha256 in verifier.suspects:  # also of what could not be set aside: nothing links to it
                self._twins.pop(sha256, None)
            tell(bad)

    def _check(self, verifier: Verifier, chosen: list[Artifact], bad: list[Damage]) -> None:
        bad += verifier.unreadable_manifests()
        for artifact in chosen:
            bad += verifier.check(artifact)
        done = {artifact.digest for artifact in chosen}
        for artifact in list(self._stored()):
            if artifact.digest not in done and any(one.sha256 in verifier.suspects for one in artifact.files):
                done.add(artifact.digest)
                bad += verifier.check(artifact)

    async def prune(self, roots: Iterable[str], dry_run: bool = False) -> dict[str, Any]:
        """Removes all but the artifacts of `roots` (fingerprints), and of what was begun or came in
        since this was called: `{"removed": [{digest, type, size}], "freed": bytes}`."""
        mark, kept = self._births, set(roots)

        def work() -> dict[str, Any]:
            with self._guarded("pruning the store", self._layout.root), self._lock:
                young = {fingerprint for fingerprint, birth in self._born.items() if birth > mark}
                done = prune(self._layout, self._catalogue, kept | young, dry_run=dry_run)
                if not dry_run:
                    self._forget_twins({one.digest for one in done.removed})
            result: dict[str, Any] = msgspec.to_builtins(done)
            return result

        return await self._run(work)

    async def export(self, artifact: Artifact, out: str) -> str:
        """Puts the artifact and its manifest into a new folder; returns the folder's path."""
        return await self._run(publish.export, artifact, out)
