"""Which of a source's references is pinned: what the lock holds, what a hub answers, what is said if none does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.fakes.effects import IMAGE, world

from qwend.api.control import FileText, RecipeRequest
from qwend.control.lockfile import LockFile
from qwend.control.pinning import Pinning
from qwend.errors import Unreachable, UsageError
from qwend.model.artifact import Pin
from qwend.model.launch import Launch
from qwend.model.source import Question, Resolution
from qwend.reconciler.reconciler import Reconciler
from qwend.worker.wire import Candidate, Wanted

HUB = Resolution(question=Question(IMAGE, Launch(argv=("ask",))))
SMOKE = Resolution(pin=Pin("smoke:qwen2", "smoke:qwen2@1", "model/gguf"))
HUBS = (Candidate("hf:a/b", HUB), Candidate("modelscope:a/b", HUB))


class Asker:
    """A hub that gives these answers, one after the other."""

    def __init__(self, *answers: Pin | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def ask(self, question: Any, tell: Any) -> Pin:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def pins(
    folder: Path, asker: Asker, *candidates: Candidate, lock: LockFile | None = None, locked: bool = False
) -> dict[str, Pin]:
    given = world(str(folder))
    try:
        request = RecipeRequest((FileText("/r/r.yaml", ""),), "/r", locked=locked)
        source = Wanted("base", "model", candidates, where="r.yaml:2:9")
        pinning = Pinning(asker, Reconciler(given))
        return await pinning.pins([source], lock or LockFile(None, {}), request, lambda _: None)
    finally:
        await given.close()


async def test_a_mirror_is_asked_where_the_first_does_not_answer(tmp_path: Path) -> None:
    pin = Pin("modelscope:a/b", "modelscope:a/b@1", "model/safetensors")
    assert await pins(tmp_path, Asker(Unreachable("away"), pin), *HUBS) == {"base": pin}


async def test_where_no_hub_answers_each_is_named_with_its_reason(tmp_path: Path) -> None:
    asker = Asker(Unreachable("no route"), Unreachable("refused"))
    with pytest.raises(Unreachable) as caught:
        await pins(tmp_path, asker, *HUBS)
    assert caught.value.lines() == [
        "r.yaml:2:9: base: nothing could be had: hf:a/b: no route; modelscope:a/b: refused"
    ]


async def test_a_made_up_model_in_the_place_of_a_real_one_is_said_and_not_locked(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "r.lock", {})
    found = await pins(
        tmp_path, Asker(Unreachable("away")), HUBS[0], Candidate("smoke:qwen2", SMOKE), lock=lock
    )
    assert found["base"].notice == "no hub reachable: using a tiny untrained model, it talks nonsense"
    assert lock.changes == []


async def test_a_locked_run_asks_no_hub_for_what_its_lock_lacks(tmp_path: Path) -> None:
    asker = Asker()
    with pytest.raises(UsageError) as caught:
        await pins(
            tmp_path, asker, *HUBS, Candidate("smoke:qwen2", SMOKE), lock=LockFile(tmp_path / "r.lock", {}), locked=True
        )  # fmt: skip
    assert caught.value.code == "lock-outdated"
    assert caught.value.lines() == [
        "r.yaml:2:9: base: hf:a/b is not in r.lock (run qwend lock, then commit the lock)"
    ]
    assert asker.asked == 0


async def test_a_locked_run_takes_what_its_lock_holds(tmp_path: Path) -> None:
    pin = Pin("modelscope:a/b", "modelscope:a/b@1", "model/safetensors")
    lock = LockFile(tmp_path / "r.lock", {"base": pin})
    assert await pins(tmp_path, Asker(), *HUBS, lock=lock, locked=True) == {"base": pin}
