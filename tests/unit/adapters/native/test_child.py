from __future__ import annotations

import base64
import json
import os
import resource
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.adapters.native.kit import python

from qwend.adapters.native.child import CannotStart, Order, start

pytestmark = pytest.mark.native

TELL = """
import json, os, resource, signal
print(json.dumps({
    "argv": open("/proc/self/cmdline").read().split(chr(0))[:-1],
    "cwd": os.getcwd(),
    "umask": os.umask(0),
    "leader": os.getsid(0) == os.getpid() == os.getpgrp(),
    "stdin": os.read(0, 100).decode(),
    "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
    "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    "as": resource.getrlimit(resource.RLIMIT_AS)[0],
    "mask": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
}))
"""


def order(folder: Path, *argv: str, **more: Any) -> Order:
    fields: dict[str, Any] = {
        "argv": list(argv),
        "env": {"PATH": os.defpath},
        "cwd": str(folder),
        "log": str(folder / "log"),
        "limits": {},
        "umask": 0o022,
        "stdin": None,
        "secrets": [],
    }
    return Order(**{**fields, **more})


def run(folder: Path, *argv: str, **more: Any) -> str:
    """What the program wrote; it must have exited with 0."""
    pid = start(order(folder, *argv, **more))
    _, status = os.waitpid(pid, 0)
    said = (folder / "log").read_text()
    assert os.waitstatus_to_exitcode(status) == 0, said
    return said


def told(folder: Path, *arguments: str, **more: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(run(folder, *python(TELL), *arguments, **more))
    return said


def surroundings() -> tuple[Any, ...]:
    """What a start borrows from its parent."""
    before = os.umask(0)
    os.umask(before)
    limits = [resource.getrlimit(which) for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)]
    return before, os.getcwd(), limits, sorted(os.listdir("/dev/fd"))


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_process_leads_a_session_in_its_folder_with_nothing_on_stdin(tmp_path: Path) -> None:
    said = told(tmp_path, umask=0o027)
    assert said["leader"]
    assert said["cwd"] == str(tmp_path)
    assert said["umask"] == 0o027
    assert said["stdin"] == ""
    assert said["mask"] == 0


def test_arguments_arrive_as_they_are(tmp_path: Path) -> None:
    hostile = ["a\nb = c", "$(touch x)", "%(here)s", "; rm", "\x1b[2J", "'\"", "大模型", "x" * 100_000, ""]
    assert told(tmp_path, *hostile)["argv"][5:] == hostile


def test_the_environment_is_what_was_asked_for_and_nothing_else(tmp_path: Path) -> None:
    asked = {"PATH": os.defpath, "A": "line\nbreak", "B": "=", "大": "模"}
    code = "import os; print(sorted(k + chr(0) + v for k, v in os.environ.items() if k != 'LC_CTYPE'))"
    assert eval(run(tmp_path, *python(code), env=asked)) == sorted(f"{k}\0{v}" for k, v in asked.items())


def test_both_outputs_append_to_the_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    assert run(tmp_path, "sh", "-c", "echo out; echo err >&2") == "before\nout\nerr\n"


def test_a_new_log_is_its_owner_s_alone(tmp_path: Path) -> None:
    run(tmp_path, "true", umask=0)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_limits_are_set_for_the_child_only(tmp_path: Path) -> None:
    before = surroundings()
    said = told(tmp_path, limits={"nofile": 99, "as": 1 << 32})
    assert (said["nofile"], said["as"]) == (99, 1 << 32)
    assert surroundings() == before


def test_a_limit_above_the_hard_one_is_as_much_as_there_is(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert told(tmp_path, limits={"nofile": hard + 1})["nofile"] == hard


def test_it_does_not_ignore_a_broken_pipe(tmp_path: Path) -> None:
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN  # as Python has it
    ignored = run(tmp_path, "sh", "-c", "grep SigIgn /proc/self/status").split()[1]
    assert int(ignored, 16) & (1 << (signal.SIGPIPE - 1)) == 0


def test_stdin_is_read_to_its_end(tmp_path: Path) -> None:
    assert run(tmp_path, "cat", stdin=encoded("what to do\n" * 20_000)) == "what to do\n" * 20_000


def test_secrets_are_read_from_descriptors_as_often_as_one_likes(tmp_path: Path) -> None:
    code = "cat /dev/fd/3 /dev/fd/4 /dev/fd/3; cat <&3"
    said = run(tmp_path, "sh", "-c", code, secrets=[encoded("one "), encoded("two ")])
    assert said == "one two one one "


def test_a_secret_is_on_no_disk_and_cannot_be_changed(tmp_path: Path) -> None:
    said = run(tmp_path, "sh", "-c", "readlink /dev/fd/3; echo x >/dev/fd/3 || true", secrets=[encoded("s")])
    assert said.startswith("/memfd:")
    assert "permitted" in said


def test_a_program_is_found_by_the_path_that_it_gets(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "tool"
    tool.write_text("#!/bin/sh\necho mine\n")
    tool.chmod(0o755)
    assert run(tmp_path, "tool", env={"PATH": f"{tmp_path}/bin"}) == "mine\n"


def test_a_relative_program_is_meant_from_its_folder(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho mine\n")
    tool.chmod(0o755)
    assert run(tmp_path, "./tool") == "mine\n"


@pytest.mark.parametrize(
    ("argv", "more", "stage", "reason"),
    [
        (["no-such-program"], {}, "program", "it is not on its PATH"),
        (["/no/such/program"], {}, "program", "No such file or directory"),
        (["/etc/passwd"], {}, "program", "Permission denied"),
        (["./text"], {}, "program", "Exec format error"),
        (["/bin/true", "a\0"], {}, "program", "null"),
        (["true"], {"cwd": "/no/such/folder"}, "folder", "No such file or directory"),
        (["true"], {"log": "/no/such/folder/log"}, "log", "No such file or directory"),
        (["true"], {"limits": {"nofile": -2}}, "limit", ""),
        (["true"], {"secrets": ["x"]}, "secret", "base64"),
    ],
)
def test_what_cannot_start_says_why_and_leaves_nothing(
    tmp_path: Path, argv: list[str], more: dict[str, Any], stage: str, reason: str
) -> None:
    (tmp_path / "text").write_text("not a program")
    (tmp_path / "text").chmod(0o755)
    before = surroundings()
    with pytest.raises(CannotStart) as failure:
        start(order(tmp_path, *argv, **more))
    assert failure.value.stage == stage
    assert reason in failure.value.reason
    assert surroundings() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_log_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/etc/passwd")
    with pytest.raises(CannotStart, match="log"):
        start(order(tmp_path, "true"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere secrets come by pipe")
def test_where_secrets_come_by_pipe_a_long_one_is_refused() -> None:
    from qwend.adapters.native.child import _pipe_of

    read = _pipe_of(b"short")
    assert os.read(read, 100) == b"short"
    os.close(read)
    with pytest.raises(CannotStart, match="more than a pipe holds"):
        _pipe_of(b"x" * 10_000_000)
