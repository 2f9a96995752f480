from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwend.adapters.native.identity import (
    ProcessIdentity,
    boot_id,
    identity_of,
    parse_stat,
    stat_of,
    still_the_same,
)

LINE = b"4242 (%s) S 17 40 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 200 18446744073709551615"


@given(st.binary(max_size=15).filter(lambda name: b"\n" not in name))
def test_a_program_may_have_any_name(name: bytes) -> None:
    stat = parse_stat(LINE % name)
    assert stat == (17, 40, 41, 987654, False, False)


def test_a_zombie_is_dead() -> None:
    assert parse_stat((LINE % b"x").replace(b" S ", b" Z ")).dead


def test_a_process_in_exec_or_a_thread_of_the_kernel_has_no_environment() -> None:
    line = LINE % b"x" + b" 0" * 24
    assert parse_stat(line + b" 0 0 0").bare
    assert not parse_stat(line + b" 140720000000000 140720000000100 0").bare
    own = stat_of(os.getpid())
    assert own is not None
    assert not own.bare


def test_we_are_still_the_same() -> None:
    own = identity_of(os.getpid())
    assert own is not None
    assert own.boot == boot_id()
    assert still_the_same(own)


def test_another_start_time_is_another_process() -> None:
    own = identity_of(os.getpid())
    assert own is not None
    assert not still_the_same(own._replace(started=own.started - 1))


def test_after_a_boot_nothing_is_the_same() -> None:
    own = identity_of(os.getpid())
    assert own is not None
    assert not still_the_same(own._replace(boot="another"))


def test_a_zombie_holds_its_pid_but_does_not_live() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    zombie = identity_of(pid)
    assert zombie is not None
    assert not still_the_same(zombie)
    os.waitpid(pid, 0)
    assert identity_of(pid) is None


@given(st.integers(min_value=0), st.uuids().map(str))
def test_start_time_and_boot_id_are_stored_as_one_word(started: int, boot: str) -> None:
    identity = ProcessIdentity(7, started, boot)
    assert ProcessIdentity.parse(7, identity.since) == identity


@pytest.mark.parametrize("word", ["", "12", "x@boot"])
def test_another_word_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"start time|invalid literal"):
        ProcessIdentity.parse(7, word)
