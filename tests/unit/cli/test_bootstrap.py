"""Making the environment of a checkout: what is renewed, what is begun anew, what is left alone."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from qwend import bootstrap

LOCK = """\
click==8.5.1 \\
    --hash=sha256:aa
msgspec==0.22.0 \\
    --hash=sha256:bb \\
    --hash=sha256:cc
uv==0.13.9 ; sys_platform != 'x' \\
    --hash=sha256:dd
uvicorn==0.54.0 \\
    --hash=sha256:ee
"""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Takes the place of the installers: they have tests of their own, with a package index."""
    done: list[Path] = []
    monkeypatch.setattr(bootstrap, "_install", lambda environment, lock: done.append(environment))
    return done


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text(LOCK)
    return path


def test_part_of_a_lock_keeps_markers_and_hashes_and_takes_no_namesake() -> None:
    part = bootstrap.part_of(LOCK, ("uv", "msgspec"))
    assert part == LOCK[LOCK.index("msgspec") : LOCK.index("uvicorn")]


def test_an_environment_is_made_once_and_stamped_last(
    tmp_path: Path, lock: Path, installed: list[Path]
) -> None:
    environment = tmp_path / "env"
    assert bootstrap.main(environment, lock, "one\n") == 0
    assert (environment / "bin/python").exists()
    assert (environment / bootstrap.STAMP).read_text() == "one\n"
    assert bootstrap.main(environment, lock, "one\n") == 0
    assert installed == [environment]


def test_a_changed_lock_renews_the_environment_in_place(
    tmp_path: Path, lock: Path, installed: list[Path]
) -> None:
    environment = tmp_path / "env"
    bootstrap.main(environment, lock, "one\n")
    subprocess.run([environment / "bin/python", "-c", "pass"], check=True)
    (environment / "kept").write_text("")
    click = next((environment / "lib").iterdir()) / "site-packages" / "click.py"
    click.write_text("")
    bootstrap.main(environment, lock, "two\n")
    assert (environment / "kept").exists()
    assert (environment / bootstrap.STAMP).read_text() == "two\n"


def test_what_was_killed_half_way_is_begun_anew(
    tmp_path: Path, lock: Path, installed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tmp_path / "env"

    def killed(environment: Path, lock: Path) -> None:
        (environment / "half").write_text("")
        raise SystemExit  # nothing catches it, as nothing catches a kill

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "_install", killed)
        with pytest.raises(SystemExit):
            bootstrap.main(environment, lock, "one\n")
    assert bootstrap.main(environment, lock, "one\n") == 0
    assert not (environment / "half").exists()


def test_an_environment_whose_python_is_gone_is_begun_anew(
    tmp_path: Path, lock: Path, installed: list[Path]
) -> None:
    environment = tmp_path / "env"
    bootstrap.main(environment, lock, "one\n")
    (environment / "old").write_text("")
    python = environment / "bin/python"
    python.unlink()
    python.symlink_to(tmp_path / "nowhere")
    assert bootstrap.main(environment, lock, "two\n") == 0
    assert not (environment / "old").exists()


def test_a_folder_of_the_users_own_is_left_alone(
    tmp_path: Path, lock: Path, installed: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "mine").write_text("")
    assert bootstrap.main(tmp_path / "env", lock, "one\n") == 3
    assert (tmp_path / "env" / "mine").exists()
    assert "not of qwend's making" in capsys.readouterr().err


def test_a_second_one_waits_and_then_finds_it_done(tmp_path: Path, lock: Path, installed: list[Path]) -> None:
    environment = tmp_path / "env"
    bootstrap.main(environment, lock, "one\n")
    ended: list[int] = []
    with open(f"{environment}.lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: ended.append(bootstrap.main(environment, lock, "one\n")))
        second.start()
        second.join(0.05)
        assert ended == []
    second.join(30)
    assert ended == [0]
    assert len(installed) == 1


@pytest.mark.parametrize(
    "run",
    [
        lambda: bootstrap._run([sys.executable, "-c", "import sys; sys.exit('no such index')"], {}, "pip"),
        lambda: bootstrap._run(["/nonexistent/pip"], {}, "pip"),
    ],
)
def test_an_installer_that_fails_is_told_in_its_own_last_words(run: Callable[[], str]) -> None:
    with pytest.raises(bootstrap.Failed, match=r"no such index|does not start"):
        run()


def test_an_interrupt_is_one_line_and_the_next_use_begins_anew(
    tmp_path: Path, lock: Path, installed: list[Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    environment = tmp_path / "env"
    with monkeypatch.context() as patched:
        patched.setattr(bootstrap, "_install", interrupted)
        assert bootstrap.main(environment, lock, "one\n") == 130
    assert capsys.readouterr().err.endswith("qwend: interrupted; the next use begins it anew\n")
    assert bootstrap.main(environment, lock, "one\n") == 0
    assert installed == [environment]
