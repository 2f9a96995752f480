"""The small parts of a build: what installers say, what they draw, what archives may hold."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import msgspec
import pytest

from qwend.adapters.package_trouble import compile_trouble, package_trouble
from qwend.adapters.venv.meter import DownloadMeter
from qwend.adapters.venv.pythons import choose_python
from qwend.adapters.venv.record import FILE_NAME, Record, write_record
from qwend.adapters.venv.sources import unpack
from qwend.errors import OutOfResource, QwendError, StepFailed, Unreachable, UsageError
from qwend.model.image_file import Source

UV_NO_NETWORK = """error: Request failed after 3 retries in 4.7s
  cause: Failed to fetch: https://user:secret@nosuch.invalid/simple/foo/
  cause: error sending request for url (https://user:secret@nosuch.invalid/simple/foo/)
  cause: client error (Connect)
  cause: dns error
  cause: failed to lookup address information: Name or service not known"""
UV_MISMATCH = """error: Failed to download `idna==3.20`
  cause: Hash mismatch for `idna==3.20`

         Expected:
           sha256:0001
           sha256:0002

         Computed:
           sha256:ab7a
"""
UV_NO_PYTHON = """error: Request failed after 3 retries in 10.8s
  cause: Failed to download `https://host/2026/cpython-3.15.2%2B2026-x86_64-unknown-linux-gnu.tar.gz`
  cause: error sending request for url (https://host/2026/cpython-3.15.2.tar.gz)"""
PIP_MISMATCH = """ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated ...
    foo==1.0 from https://x/foo-1.0.tar.gz (from -r source.txt (line 1)):
        Expected sha256 1111
             Got        2222
"""


def test_an_environment_is_called_finished_only_when_that_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def spied_fsync(fd: int) -> None:
        done.append(("sync", os.fstat(fd).st_ino))
        fsync(fd)

    def spied_replace(source: Path, target: Path) -> None:
        done.append(("rename", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(os, "replace", spied_replace)
    facts = {"python": "3.11", "interpreter": "", "packages": {}, "manifests": {}, "files": {}, "options": {}}
    record = {
        "name": "toy",
        "flavour": "cpu",
        "digest": "d" * 64,
        **facts,
        "size": 1,
        "seconds": 0.0,
        "created": 0.0,
    }
    write_record(tmp_path, msgspec.convert(record, Record))
    monkeypatch.undo()
    inode = (tmp_path / FILE_NAME).stat().st_ino
    assert done == [("sync", inode), ("rename", inode)]


@pytest.mark.parametrize(
    ("output", "kind", "code", "said"),
    [
        (UV_NO_NETWORK, Unreachable, "index-unreachable", "Name or service not known"),
        (UV_MISMATCH, StepFailed, "hash-mismatch", "idna==3.20 is not what the lock says: expected one of 2"),
        (PIP_MISMATCH, StepFailed, "hash-mismatch", "expected sha256:1111, got sha256:2222"),
        (
            "Because there is no version of torch==2.13.0+cpu and",
            UsageError,
            "package-missing",
            "no torch==2.13.0+cpu",
        ),
        ("ERROR: No matching distribution found for foo==1", UsageError, "package-missing", "have no foo==1"),
        (
            "Because foo==1.0 has no wheels with a matching platform tag",
            UsageError,
            "package-missing",
            "this platform",
        ),
        (
            "error: failed to write: No space left on device (os error 28)",
            OutOfResource,
            "disk-full",
            "GB are free",
        ),
        (
            "error: In `--require-hashes` ..., none were provided for: idna==3.20",
            UsageError,
            "bad-lock",
            "idna",
        ),
        (
            UV_NO_PYTHON,
            UsageError,
            "no-python",
            "no Python 3.15 on this machine, and it could not be fetched",
        ),
        ("error: No interpreter found for Python 3.15 in", UsageError, "no-python", "forbid it to fetch one"),
        ("error: something new", StepFailed, "install-failed", "something new"),
        ("", StepFailed, "install-failed", "it said nothing"),
    ],
)
def test_an_installers_last_words_become_one_error(
    tmp_path: Path, output: str, kind: type[QwendError], code: str, said: str
) -> None:
    error = package_trouble(output, folder=tmp_path)
    assert (type(error), error.code) == (kind, code)
    assert said in str(error)
    assert "secret" not in str(error) + str(error.hint)


def test_the_note_of_a_flavour_helps_where_a_package_is_missing(tmp_path: Path) -> None:
    error = package_trouble(
        "there is no version of torch==1+cpu", note="It is on its own index.", folder=tmp_path
    )
    assert (error.hint or "").startswith("It is on its own index. Name an index")


@pytest.mark.parametrize(
    ("output", "status", "said"),
    [
        ("[1/2] x\nbuild.sh: no C++ compiler: install one\n", 1, "no C++ compiler: install one"),
        (
            "[1/2] CXX a.o\na.cpp:3:1: error: expected ';'\nninja: build stopped",
            1,
            "a.cpp:3:1: error: expected ';'",
        ),
        ("CMake Error at CMakeLists.txt:3", 1, "CMake Error at CMakeLists.txt:3"),
        ("c++: fatal error: Killed signal terminated program cc1plus", 1, "probably for memory"),
        ("silence", 3, "build.sh failed (exit status 3): silence"),
    ],
)
def test_a_failed_compile_says_the_first_thing_that_went_wrong(
    tmp_path: Path, output: str, status: int, said: str
) -> None:
    error = compile_trouble(output, script="build.sh", status=status, log=tmp_path / "x.log", folder=tmp_path)
    assert said in str(error)
    assert "x.log" in (error.hint or "")


def test_bars_of_uv_add_up_even_when_one_comes_in_two_pieces() -> None:
    told: list[tuple[float, float, str]] = []
    meter = DownloadMeter(lambda done, total, name: told.append((done, total, name)))
    meter.frame("\x1b[2mPreparing packages...\x1b[0m (0/2)   \x1b[2mtorch   \x1b[0m \x1b[32m---")
    assert told == []
    meter.frame("---\x1b[0m 1.50 MiB/96.00 MiB")
    assert told == [(1.5 * 2**20, 96 * 2**20, "torch")]


def test_pips_raw_progress_is_read() -> None:
    told: list[tuple[float, float, str]] = []
    DownloadMeter(lambda *sums: told.append(sums)).line("Progress 10 of 40", "foo")
    assert told == [(10.0, 40.0, "foo")]


def source(*members: str) -> Source:
    return Source(package="foo", version="1.0", sha256="0" * 64, into="foo", members=list(members))


def tar(path: Path, *members: tuple[str, str, str]) -> Path:
    """A tar.gz of (name, kind, content or link target)."""
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            if kind == "file":
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content.encode()))
            else:
                info.type = {"symlink": tarfile.SYMTYPE, "link": tarfile.LNKTYPE}[kind]
                info.linkname = content
                archive.addfile(info)
    return path


def test_only_the_members_asked_for_are_unpacked(tmp_path: Path) -> None:
    members = [(f"foo-1.0/{name}", "file", name) for name in ("src/a", "src2/b", "c")]
    archive = tar(tmp_path / "a.tar.gz", *members)
    unpack(archive, source("src", "c"), tmp_path / "out")
    assert sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()
    ) == [
        "c",
        "src/a",
    ]


def test_links_inside_the_archive_are_kept(tmp_path: Path) -> None:
    archive = tar(
        tmp_path / "a.tar.gz",
        ("foo-1.0/a", "file", "a"),
        ("foo-1.0/b", "link", "foo-1.0/a"),
        ("foo-1.0/d/c", "symlink", "../a"),
    )
    unpack(archive, source(), tmp_path / "out")
    assert (tmp_path / "out/b").read_text() == (tmp_path / "out/d/c").read_text() == "a"


@pytest.mark.parametrize(
    "member",
    [
        ("foo-1.0/../../evil", "file", "x"),
        ("/evil", "file", "x"),
        ("foo-1.0/evil", "symlink", "/etc/passwd"),
        ("foo-1.0/evil", "symlink", "../../../etc/passwd"),
    ],
)
def test_an_archive_that_leads_outside_is_refused_and_leaves_nothing(
    tmp_path: Path, member: tuple[str, str, str]
) -> None:
    with pytest.raises(StepFailed, match="cannot be unpacked"):
        unpack(tar(tmp_path / "a.tar.gz", member), source(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil").exists()


def test_a_zip_is_unpacked_and_held_to_the_same_rules(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("foo-1.0/a", "a")
    unpack(tmp_path / "a.zip", source("a"), tmp_path / "out")
    assert (tmp_path / "out/a").read_text() == "a"
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("foo-1.0/../../evil", "x")
    with pytest.raises(StepFailed, match="cannot be unpacked"):
        unpack(tmp_path / "b.zip", source(), tmp_path / "out2")


def test_an_archive_cut_short_or_without_the_members_is_refused(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar.gz", ("foo-1.0/a", "file", "a" * 100_000))
    (tmp_path / "cut.tar.gz").write_bytes(whole.read_bytes()[:60])
    with pytest.raises(StepFailed, match="cannot be unpacked"):
        unpack(tmp_path / "cut.tar.gz", source(), tmp_path / "out")
    with pytest.raises(StepFailed, match="holds none of src"):
        unpack(whole, source("src"), tmp_path / "out")


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_no_python_in_range_is_left_to_uv_or_said(tmp_path: Path) -> None:
    uv = str(program(tmp_path / "uv", "exit 2"))
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    assert choose_python(">=3.2,<3.4", uv=uv, env=env, downloads=True) == "3.3"
    with pytest.raises(UsageError, match=r"no Python 3\.2 or 3\.3 on this machine") as caught:
        choose_python(">=3.2,<3.4", uv=uv, env=env, downloads=False)
    assert caught.value.hint == "install Python 3.2 or 3.3 so that it is on PATH"


def test_a_shim_that_leads_nowhere_is_passed_over_for_the_interpreter_behind_it(tmp_path: Path) -> None:
    uv = str(program(tmp_path / "uv", "exit 2"))
    program(tmp_path / "shims/python3.3", "echo 'pyenv: python3.3: command not found' >&2; exit 127")
    whole = program(tmp_path / ".pyenv/versions/3.3.7/bin/python3.3", "echo 3.3")
    env = {"PATH": str(tmp_path / "shims"), "HOME": str(tmp_path)}
    assert choose_python(">=3.2,<3.4", uv=uv, env=env, downloads=False) == str(whole)


def test_the_interpreter_that_runs_qwend_comes_first(tmp_path: Path) -> None:
    chosen = Path(choose_python(">=3.11,<3.30", uv="/nowhere", env={}, downloads=False))
    assert chosen.parent == Path(sys.base_prefix) / "bin"
