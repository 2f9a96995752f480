"""Kills a store at every single call that changes the disk, and looks at what is left each time.

    python -m tests.faults.kill_points FOLDER commit|publish|reference|verify|prune|export

For n = 1, 2, 3 … a process of its own does the work and ends at its n-th such call, as a power cut or `kill -9`
would end it; a second process then opens the store and says what it sees. Prints a JSON line for each n.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwend.adapters.store import ArtifactStore, publish
from qwend.model.artifact import Artifact, Facts

CALLS = (
    "rename", "replace", "link", "symlink", "unlink", "mkdir", "rmdir", "chmod", "fchmod", "fsync", "utime", "ftruncate"
)  # fmt: skip
DEAD = 77


def die_at(count: int) -> None:
    """From now on the `count`-th call that changes the disk is not made: the process is gone."""
    left = [count]

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os._exit(DEAD)
            return real(*arguments, **named)

        return call

    # The exchange of two folders is a call of the C library: it must count as well.
    for module, name in (*((os, name) for name in CALLS), (publish, "swap")):
        setattr(module, name, dying(getattr(module, name)))


async def opened(folder: Path) -> ArtifactStore:
    return await ArtifactStore.open(str(folder / "store"))


async def taken_in(store: ArtifactStore, fingerprint: str, text: str, *, die: int = 0) -> Artifact:
    work = await store.prepare(fingerprint, keep=False)
    lay(Path(work.output), {"model.gguf": text, "sub/tokenizer.json": "the same in all"})
    if die:
        die_at(die)
    return await store.commit(
        work,
        fingerprint=fingerprint,
        type="model/gguf",
        facts=Facts(),
        metrics={"m": 1.0},
        provenance={"p": 1},
    )


def lay(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def damage(folder: Path) -> None:
    """Other bytes at the same size."""
    (folder / "model.gguf").chmod(0o644)
    (folder / "model.gguf").write_text("we1ghts")


def tree(folder: Path) -> dict[str, str] | None:
    if not folder.exists():
        return None
    return {
        str(one.relative_to(folder)): one.read_text() for one in sorted(folder.rglob("*")) if one.is_file()
    }


async def before(folder: Path) -> None:
    """What is there before anything goes wrong."""
    lay(folder / "mine", {"m.gguf": "of the user"})
    store = await opened(folder)
    await store.publish(await taken_in(store, "old", "old"), str(folder / "out"))
    await taken_in(store, "new", "new")
    await store.close()


async def victim(folder: Path, work: str, count: int) -> None:
    store = await opened(folder)
    if work == "commit":
        await taken_in(store, "f1", "weights", die=count)
    elif work == "publish":
        artifact = await store.find("new")
        assert artifact is not None
        die_at(count)
        await store.publish(artifact, str(folder / "out"))
    elif work == "verify":
        damage(Path((await taken_in(store, "f1", "weights")).location))
        die_at(count)
        async for _ in store.verify():
            pass
    elif work == "prune":
        await taken_in(store, "f1", "weights")
        die_at(count)
        await store.prune(["old", "new"])
    elif work == "export":
        artifact = await store.find("new")
        assert artifact is not None
        die_at(count)
        await store.export(artifact, str(folder / "exported"))
    else:
        die_at(count)
        await store.reference(
            str(folder / "mine"), fingerprint="f1", type="model/gguf", facts=Facts(), provenance={}
        )


async def after(folder: Path, work: str) -> dict[str, Any]:
    """What the next daemon sees, and whether it can go on."""
    store = await opened(folder)
    found = await store.find("f1")
    seen: dict[str, Any] = {
        "found": found is not None,
        "out": tree(folder / "out"),
        "old": await store.find("old") is not None,
    }
    if found is not None:
        seen["content"] = tree(Path(found.location))
    (end,) = [item["end"] async for item in store.verify() if "end" in item]
    seen["bad"] = end["bad"]
    if work in {"verify", "prune"}:
        seen["again"] = tree(Path((await taken_in(store, "f1", "weights")).location))
    elif work == "export":
        seen["exported"] = tree(folder / "exported")
    elif work == "commit" and found is None:
        seen["again"] = (await taken_in(store, "f1", "weights")).size
    elif work == "publish":
        artifact = await store.find("new")
        assert artifact is not None
        await store.publish(artifact, str(folder / "out"))
        seen["again"] = tree(folder / "out")
    await store.prune(["f1", "old", "new"])
    seen["left"] = {
        name: len(os.listdir(folder / "store" / name)) for name in ("work", "staging", "quarantine")
    }
    seen["beside"] = sorted(
        name for name in os.listdir(folder) if name not in {"store", "out", "mine", "exported"}
    )
    await store.close()
    return seen


def in_a_process(body: Callable[[], Any]) -> tuple[int, Any]:
    """Runs `body` in a process of its own: its exit code, and what it returned."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reading)
            answer = json.dumps(body()).encode()
            os.write(writing, answer)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), json.loads(answer) if answer else None


def main(folder: Path, work: str) -> None:
    for count in range(1, 500):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        code, _ = in_a_process(lambda: asyncio.run(before(folder)))
        assert code == 0
        ended, _ = in_a_process(lambda: asyncio.run(victim(folder, work, count)))  # noqa: B023
        assert ended in {0, DEAD}, f"call {count}: exit code {ended}"
        code, seen = in_a_process(lambda: asyncio.run(after(folder, work)))
        assert code == 0, f"call {count}: the store could not be used any more"
        print(json.dumps({"n": count, "died": ended == DEAD, **seen}), flush=True)
        if ended == 0:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
