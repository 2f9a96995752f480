"""Events are the truth, rows their projection; neither is lost, and neither says more than is on the disk."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwend.adapters import state_schema
from qwend.adapters.state import SqliteState
from qwend.adapters.state_feed import LIMIT
from qwend.adapters.state_writer import Transaction, freeze
from qwend.errors import QwendError
from qwend.model.event import Event


def step(name: str, state: str, **more: Any) -> Event:
    recipe = name.partition("/")[0]
    row = {"key": name, "recipe": recipe, "state": state, **more}
    return Event(f"service.{state}", name, table="step", row=row)


async def opened(folder: Path, **options: Any) -> SqliteState:
    return await SqliteState.open(str(folder / "state.db"), **options)


async def test_what_is_recorded_is_there_after_a_restart(tmp_path: Path) -> None:
    state = await opened(tmp_path, clock=lambda: 7.5)
    done = await state.record(step("r/a", "starting"), step("r/a", "ready"), Event("note", "x"))
    assert [(event.seq, event.at) for event in done] == [(1, 7.5), (2, 7.5), (3, 7.5)]
    await state.close()
    again = await opened(tmp_path)
    assert again.rows("step") == {"r/a": {"key": "r/a", "recipe": "r", "state": "ready"}}
    assert tuple(again.events()) == done
    assert (await again.record(Event("note", "y")))[0].seq == 4
    await again.close()


async def test_the_database_is_private(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    assert stat.S_IMODE((tmp_path / "state.db").stat().st_mode) == 0o600
    await state.close()


async def test_a_commit_waits_until_it_is_on_the_disk(tmp_path: Path) -> None:
    """`FULL` in SQLite's words: with a log beside the database anything less syncs only now and then."""
    state = await opened(tmp_path)
    connection = state._writer._connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await state.close()


async def test_a_row_that_is_none_goes(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    await state.record(step("r/a", "ready"), step("r/b", "ready"))
    await state.record(Event("service.forgotten", "r/a", table="step"))
    assert list(state.rows("step")) == ["r/b"]
    assert state.rows("recipe") == {}
    await state.close()


async def test_a_row_that_its_owner_changes_later_is_as_it_was_recorded(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    row = {"recipe": "r", "list": [1]}
    recording = asyncio.create_task(state.record(Event("x", "r/a", table="step", row=row)))
    await asyncio.sleep(0)
    row["list"].append(2)  # type: ignore[attr-defined]
    await recording
    assert state.rows("step")["r/a"]["list"] == [1]
    await state.close()


async def test_recorders_at_the_same_moment_share_a_commit(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    commits: list[str] = []
    state._writer._connection.set_trace_callback(
        lambda text: commits.append(text) if text == "COMMIT" else None
    )
    await asyncio.gather(*(state.record(Event("n", str(number))) for number in range(200)))
    assert [event.subject for event in state.events()] == [str(number) for number in range(200)]
    assert len(commits) < 100
    await state.close()


async def test_one_ask_that_fails_takes_nothing_else_with_it(tmp_path: Path) -> None:
    state = await opened(tmp_path, port_range=(18100, 18100))
    answers = await asyncio.gather(
        state.record(Event("n", "before")),
        state.lease_port("r/a", 70_000),
        state.record(Event("n", "after")),
        return_exceptions=True,
    )
    assert isinstance(answers[1], QwendError)
    assert [event.subject for event in state.events()] == ["before", "after"]
    await state.close()


async def test_what_an_ask_wrote_before_it_failed_is_undone_alone(tmp_path: Path) -> None:
    state = await opened(tmp_path)

    def fails_half_way(transaction: Transaction) -> None:
        transaction.append(freeze(step("r/half", "ready")))
        raise QwendError("half-way")

    before = asyncio.ensure_future(state.record(Event("n", "before")))
    failing = asyncio.ensure_future(state._ask(fails_half_way))
    after = asyncio.ensure_future(state.record(Event("n", "after")))
    assert [event.seq for event in await before + await after] == [1, 2]
    with pytest.raises(QwendError, match="half-way"):
        await failing
    assert [event.subject for event in state.events()] == ["before", "after"]
    assert state.rows("step") == {}
    assert state.replay() == {}
    await state.close()


async def test_a_recorder_that_was_cancelled_leaves_the_mirror_true(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    recording = asyncio.create_task(state.record(step("r/a", "ready")))
    await asyncio.sleep(0)
    recording.cancel()
    await asyncio.gather(recording, return_exceptions=True)
    await state.record(Event("n", "x"))
    assert state.rows("step")["r/a"]["state"] == "ready"
    await state.close()


async def test_texts_that_are_no_unicode_are_spelled_out(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    name = os.fsdecode(b"a\xff\n\x1b")
    await state.record(
        Event("n", name, data={name: [name]}), Event("n", "r/a", table="step", row={"f": name})
    )
    (first, second) = state.events()
    assert first.subject == "a\\udcff\n\x1b"
    assert first.data == {"a\\udcff\n\x1b": ["a\\udcff\n\x1b"]}
    assert state.rows("step")["r/a"] == second.row == {"f": "a\\udcff\n\x1b"}
    await state.close()


async def test_what_is_no_json_is_refused_and_the_state_goes_on(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    with pytest.raises(QwendError, match="cannot be written"):
        await state.record(Event("n", "x", data={"it": object()}))
    with pytest.raises(QwendError, match="cannot be written"):
        await state.record(Event("n", "x", table="nonsense", row={}))  # type: ignore[arg-type]
    await state.record(Event("n", "y"))
    await state.close()


async def test_events_are_found_by_recipe_and_in_pieces(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    await state.record(
        Event("run.running", "01RUN", table="run", row={"id": "01RUN", "recipe": "huan"}),
        Event("image.built", "llama-cpp", run="01RUN"),
        *(step(f"other/s{number}", "ready") for number in range(1200)),
        step("huan/chat", "ready"),
        Event("recipe.planned", "huan", table="recipe", row={}),
    )
    assert [event.kind for event in state.events(recipe="huan")] == [
        "run.running",
        "image.built",
        "service.ready",
        "recipe.planned",
    ]
    assert len(list(state.events(recipe="other"))) == 1200
    assert [event.seq for event in state.events(after=1000, limit=3)] == [1001, 1002, 1003]
    assert [event.seq for event in state.events(after=1, limit=700)] == list(range(2, 702))
    await state.close()


async def test_the_recipe_of_a_run_is_known_after_a_restart(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    await state.record(Event("run.running", "01RUN", table="run", row={"recipe": "huan"}))
    await state.close()
    state = await opened(tmp_path)
    await state.record(Event("image.built", "llama-cpp", run="01RUN"))
    assert len(list(state.events(recipe="huan"))) == 2
    await state.close()


async def test_a_subscriber_gets_every_event_once_and_in_order(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    await state.record(*(Event("n", f"old/{number}") for number in range(LIMIT + 10)))
    feed = state.subscribe(after=5)
    seen = [await anext(feed)]

    async def record() -> None:
        for number in range(40):
            await state.record(*(Event("n", f"new/{number}-{part}") for part in range(25)))

    recording = asyncio.create_task(record())
    total = LIMIT + 10 + 1000
    while seen[-1].seq < total:
        seen.append(await anext(feed))
    await recording
    assert [event.seq for event in seen] == list(range(6, total + 1))
    await feed.aclose()  # type: ignore[attr-defined]
    assert not state._feeds
    await state.close()


async def test_a_slow_subscriber_holds_little_and_still_misses_nothing(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    feed = state.subscribe(recipe="mine")
    first = asyncio.ensure_future(anext(feed))
    await asyncio.sleep(0)
    for _ in range(10):
        await state.record(*(Event("n", "mine/x") for _ in range(LIMIT)), Event("n", "yours/x"))
    (one,) = state._feeds
    assert len(one._waiting) <= LIMIT
    seen = [await first]
    while len(seen) < 10 * LIMIT:
        seen.append(await anext(feed))
    assert [event.seq for event in seen] == [event.seq for event in state.events(recipe="mine")]
    await state.close()
    with pytest.raises(StopAsyncIteration):
        await anext(feed)


async def test_old_events_are_dropped_and_the_projection_still_follows_from_the_rest(tmp_path: Path) -> None:
    state = await opened(tmp_path, keep=100)
    for number in range(30):
        await state.record(*(step(f"r/s{number % 7}", "ready", turn=turn) for turn in range(10)))
        await state.record(Event("gone", f"r/s{number % 3}", table="step"))
    await state.close()
    state = await opened(tmp_path, keep=100)
    kept = list(state.events())
    assert 100 <= len(kept) <= 125
    assert kept[-1].seq == 330
    assert state.replay() == {"step": state.rows("step")}
    await state.close()


async def test_numbers_go_on_though_every_event_was_dropped(tmp_path: Path) -> None:
    state = await opened(tmp_path, keep=0)
    await state.record(step("r/a", "ready"))
    await state.close()
    state = await opened(tmp_path, keep=0)
    assert list(state.events()) == []
    assert state.rows("step")["r/a"]["state"] == "ready"
    assert (await state.record(Event("n", "x")))[0].seq == 2
    await state.close()


EVENTS = st.lists(
    st.builds(
        Event,
        st.sampled_from(["a.ready", "b.stopped"]),
        st.sampled_from(["r/a", "r/b", "q/c"]),
        table=st.sampled_from(["step", "run", "recipe", None]),
        row=st.none()
        | st.dictionaries(st.text(max_size=3), st.integers() | st.none() | st.text(max_size=3), max_size=3),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=25)
@given(batches=st.lists(EVENTS, max_size=5), keep=st.integers(0, 20))
def test_rows_are_always_what_the_events_come_to(
    batches: list[list[Event]], keep: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def scenario() -> None:
        folder = tmp_path_factory.mktemp("state")
        state = await opened(folder, keep=keep)
        expected: dict[str, dict[str, Any]] = {}
        for batch in batches:
            await state.record(*batch)
            for event in batch:
                if event.table is not None and event.row is None:
                    expected.get(event.table, {}).pop(event.subject, None)
                elif event.table is not None:
                    expected.setdefault(event.table, {})[event.subject] = event.row
        expected = {table: rows for table, rows in expected.items() if rows}
        assert {table: state.rows(table) for table in expected} == expected
        assert state.replay() == expected
        await state.close()
        state = await opened(folder)
        assert state.replay() == {table: state.rows(table) for table in expected} == expected
        await state.close()

    asyncio.run(scenario())


async def test_a_closed_state_says_so(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    await state.close()
    await state.close()
    with pytest.raises(QwendError, match="the state is closed"):
        await state.record(Event("n", "x"))


async def test_what_was_asked_before_the_close_is_still_written(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    asked = [asyncio.ensure_future(state.record(Event("n", str(number)))) for number in range(50)]
    await asyncio.sleep(0)
    await state.close()
    await asyncio.gather(*asked)
    state = await opened(tmp_path)
    assert len(list(state.events())) == 50
    await state.close()


def test_an_old_schema_is_brought_forward_and_a_copy_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    state_schema.close_database(state_schema.open_database(path))

    def add_colour(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE leases ADD COLUMN colour TEXT")

    connection = state_schema.open_database(path, migrations={1: add_colour}, version=2)
    connection.execute("SELECT colour FROM leases")
    state_schema.close_database(connection)
    kept = sqlite3.connect(f"{path}.schema-1")
    assert kept.execute("PRAGMA user_version").fetchone() == (1,)
    kept.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    state_schema.close_database(state_schema.open_database(path))

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("DROP TABLE leases")
        connection.execute("SELECT nonsense FROM nowhere")

    with pytest.raises(
        QwendError, match=r"cannot be brought from schema 1 to 2: no such .*; it is as it was"
    ):
        state_schema.open_database(path, migrations={1: broken}, version=2)
    state_schema.open_database(path).close()
