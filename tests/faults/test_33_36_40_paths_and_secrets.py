"""Faults 33, 36 and 40, as far as the store and the state decide them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from qwend.adapters.state import SqliteState
from qwend.adapters.store import ArtifactStore
from qwend.adapters.store.catalogue import Manifest, encode
from qwend.adapters.store.layout import in_object
from qwend.core.redact import Redactor
from qwend.errors import QwendError, StepFailed
from qwend.model.artifact import Artifact, Facts, StoredFile
from qwend.model.event import Event

CANARY = "canary-7Kx2vQ9mZp4RtY8w"


async def commit(store: ArtifactStore, fingerprint: str, **more: object) -> Artifact:
    work = await store.prepare(fingerprint, keep=True)
    return await store.commit(
        work,
        fingerprint=fingerprint,
        type="report",
        facts=Facts(),
        metrics={},
        provenance=dict(more),
    )


async def test_33_a_manifest_that_leads_out_of_its_artifact_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "store/objects/aa").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    for path in ("../../../secret", "/etc/passwd", "a/../../b", "..", ""):
        with pytest.raises(QwendError, match="does not stay inside"):
            in_object(str(tmp_path / "store/objects/aa"), path)
    store = await ArtifactStore.open(str(tmp_path / "store"))
    forged = Artifact("aa", "f1", "report", (StoredFile("../../../secret", 1, "0" * 64),), 1)
    (tmp_path / "store/manifests/f1.json").write_bytes(encode(Manifest(forged, (0,))))
    with pytest.raises(QwendError, match="does not stay inside"):
        await store.find("f1")
    (tmp_path / "store/manifests/f1.json").write_bytes(
        encode(Manifest(msgspec.structs.replace(forged, digest="../../..")))
    )
    with pytest.raises(QwendError, match="is no digest"):
        await store.find("f1")
    await store.close()


async def test_33_an_output_folder_that_was_swapped_for_a_link_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "private/key").write_text("mine")
    (tmp_path / "private/key").chmod(0o600)
    store = await ArtifactStore.open(str(tmp_path / "store"))
    work = await store.prepare("f1", keep=False)
    os.rmdir(work.output)
    os.symlink(tmp_path / "private", work.output)
    with pytest.raises(StepFailed, match="wrote nothing"):
        await commit_as_it_is(store, work.output)
    assert (tmp_path / "private/key").stat().st_mode & 0o777 == 0o600
    assert await store.find("f1") is None
    await store.close()


async def commit_as_it_is(store: ArtifactStore, output: str) -> None:
    from qwend.effects import Work

    root = os.path.dirname(output)
    work = Work(root, output, os.path.join(root, "scratch"), os.path.join(root, "report.jsonl"))
    await store.commit(work, fingerprint="f1", type="report", facts=Facts(), metrics={}, provenance={})


@pytest.mark.parametrize("moment", ["scan", "_share"])
async def test_33_a_file_that_is_swapped_for_a_link_while_it_is_taken_in_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    from qwend.adapters.store import intake

    key = tmp_path / "key"
    key.write_text("mine")
    key.chmod(0o600)
    store = await ArtifactStore.open(str(tmp_path / "store"))
    work = await store.prepare("f1", keep=False)
    (tmp_path / "store/work/f1/out/model").write_text("m")
    real = getattr(intake, moment)

    def swapped(root: str, *more: object) -> object:
        found = real(root, *more)
        os.unlink(os.path.join(root, "model"))
        os.symlink(key, os.path.join(root, "model"))
        return found

    monkeypatch.setattr(intake, moment, swapped)
    with pytest.raises(QwendError, match="cannot be kept"):
        await commit_as_it_is(store, work.output)
    assert key.stat().st_mode & 0o777 == 0o600
    assert await store.find("f1") is None
    await store.close()


async def test_36_a_secret_is_in_no_file_that_store_and_state_write(tmp_path: Path) -> None:
    redactor = Redactor([CANARY])
    store = await ArtifactStore.open(str(tmp_path / "store"), redactor=redactor)
    state = await SqliteState.open(str(tmp_path / "state.db"), redactor=redactor)
    work = await store.prepare("f1", keep=False)
    Path(work.output, "a").write_text("x")  # noqa: ASYNC240 - a test's own file
    await commit(
        store,
        "f1",
        command=["serve", "--api-key", CANARY, f"--url=https://u:{CANARY}@h/x?token={CANARY}"],
        env={"HF_TOKEN": CANARY, "PLAIN": CANARY},
        inputs=[{"ref": f"https://h/{CANARY}"}],
    )
    said = f"401 for https://user:{CANARY}@hub/x with Authorization: Bearer {CANARY}"
    await state.record(
        Event(
            "job.failed",
            "r/a",
            table="step",
            row={"key": "r/a", "reason": said},
            reason=said,
            data={"why": [said]},
        )
    )
    assert CANARY not in str(list(state.events())) + str(state.rows("step"))
    await state.close()
    await store.close()
    written = files_below(tmp_path)
    assert len(written) >= 3
    assert [path for path, content in written.items() if CANARY.encode() in content] == []


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_40_hostile_names_reach_no_terminal_by_way_of_an_error(tmp_path: Path) -> None:
    store = await ArtifactStore.open(str(tmp_path / "store"))
    name = os.fsdecode(b"\x1b]0;evil\x07\n\xff")
    for attempt in (
        store.lookup(name),
        store.find(name),
        store.digest(str(tmp_path / name)),
        store.reference(str(tmp_path / name), fingerprint="f1", type="report", facts=Facts(), provenance={}),
    ):
        with pytest.raises(QwendError) as caught:
            await attempt
        text = "\n".join(caught.value.lines())
        assert "\x1b" not in text
        assert text.encode("utf-8")
        assert len(text.splitlines()) == 1
    await store.close()
