"""The kit finds what breaks the contract: each engine here is a good one with one mistake."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict, Field
from tests.fakes import toys

from qwend.plugin import (
    Facts,
    Finding,
    HttpProbe,
    InputRef,
    Launch,
    LaunchFile,
    LogHint,
    OutputRef,
    Params,
    Pin,
    PortRef,
    Probe,
    Product,
    ProgressPattern,
    Resolution,
    UsageError,
    flag,
)
from qwend.plugin.purity import watched
from qwend.plugin.samples import NoSample, view, views
from qwend.plugin.testing import check_engine, check_source

WRONG: Any = {"neither": "text", "nor": "number"}


def engine(**changes: Any) -> Any:
    """A convert engine with other attributes or methods."""
    return type("Odd", (toys.Convert,), {"name": "odd/one", **changes})()


def says(engine: Any) -> str:
    return "\n".join(finding.message for finding in check_engine(engine))


def launches(**changes: Any) -> Any:
    fields: dict[str, Any] = {"argv": ("x", InputRef("first"), OutputRef()), **changes}
    return engine(launch=lambda *_: Launch(**fields))


class Undescribed(Params):
    top: int = 3


class Loose(Params):
    model_config = ConfigDict(extra="allow")


class Unsampled(Params):
    word: str = flag("--word", description="a word", pattern="^[a-z]{7}$")


class Sampled(Params):
    word: str = Field(description="a word", pattern="^[a-z]{7}$", examples=["letters"])


def counting() -> Any:
    """An engine that never says the same thing twice."""
    calls = iter(range(1000))
    return engine(launch=lambda *_: Launch(argv=("x", str(next(calls)), OutputRef())))


def doing(deed: Any) -> Any:
    """An engine that does something while it should only describe."""

    def launch(*_: Any) -> Launch:
        deed()
        return Launch(argv=("x", OutputRef()))

    return engine(launch=launch)


def connect() -> None:
    with socket.socket() as one:
        one.connect_ex(("127.0.0.1", 9))


def write() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"x")


def make_folder() -> None:
    with contextlib.suppress(OSError):
        os.mkdir("/nowhere/at/all")


def raising(error: BaseException) -> Any:
    def launch(*_: Any) -> Launch:
        raise error

    return engine(launch=launch)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (engine(summary="x" * 101), "the summary should be one line"),
        (engine(accepts=("model/onnx",)), "accepts model/onnx, which no other engine makes"),
        (engine(params=Undescribed), "parameter top has no description"),
        (engine(params=Loose), "parameters should forbid unknown keys"),
        (engine(params=Unsampled), "no value for word can be made up: give it a default or examples"),
        (engine(product=lambda *_: None), "product: a job has to say what it makes"),
        (engine(product=lambda *_: Product("model/onnx")), "model/onnx is no known artifact type"),
        (engine(product=lambda *_: Product("report", Facts(bytes=WRONG))), "product gives what does not serialise"),
        (engine(check=lambda *_: [Finding("x", level=WRONG)]), "check gives what does not serialise"),
        (engine(image=lambda *_: "image"), "image gives what does not serialise"),
        (engine(check=lambda *_: (_ for _ in ()).throw(UsageError("no"))), "it should give a Finding"),
        (launches(argv=()), "launch: there is no command"),
        (launches(argv=("x", InputRef("nobody"), OutputRef())), "launch reads input nobody, which the step was not"),
        (launches(argv=("x", toys.Launch, OutputRef())), "launch gives what does not serialise"),
        (launches(argv=["x", OutputRef()]), "launch gives what is not the same after JSON"),
        (launches(argv=("x", str(Path.home() / "m"), OutputRef())), "launch names a path of this machine"),
        (launches(env={"A": sys.prefix}), "launch names a path of this machine"),
        (launches(argv=("x",)), "launch: nothing says where the output goes"),
        (launches(probe=Probe(HttpProbe("/"))), "launch: a job engine has no probe"),
        (launches(argv=("x", PortRef(), OutputRef())), "launch asks for a port, and has no probe"),
        (launches(files=(LaunchFile("a/b", ""),)), "launch: its files need names of their own"),
        (launches(files=(LaunchFile("a", ""), LaunchFile("a", ""))), "launch: its files need names of their own"),
        (launches(progress=(ProgressPattern("(?P<done>"),)), "is no regular expression"),
        (launches(progress=(ProgressPattern(r"(?P<done>\d+)"),)), "needs the groups done and total, or percent"),
        (launches(hints=(LogHint("oom", "{what} is full"),)), "has no group what"),
        (counting(), "launch gives two answers to one question"),
        (raising(ZeroDivisionError("x")), "launch raises ZeroDivisionError: x"),
        (raising(SystemExit(3)), "launch raises SystemExit: 3"),
        (doing(connect), "launch uses the network (socket.connect)"),
        (doing(write), "launch writes "),
        (doing(lambda: Path("/etc/hostname").read_text()), "launch reads /etc/hostname"),
        (doing(lambda: subprocess.run(["true"], check=True)), "launch starts a process"),
        (doing(lambda: os.system("true")), "launch starts a process"),
        (doing(make_folder), "launch changes files (os.mkdir"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_mistake_is_found(odd: Any, reason: str) -> None:
    assert reason in says(odd)


def test_a_good_engine_has_no_finding_and_a_service_its_own_rules() -> None:
    assert check_engine(engine()) == []
    assert check_engine(toys.ENGINES[6]) == []
    service = type(
        "Odd", (toys.ENGINES[6].__class__,), {"launch": lambda *_: Launch(argv=("serve", OutputRef()))}
    )()
    told = says(service)
    assert "a service needs a probe, and its port" in told
    assert "a service has no output" in told


def test_one_mistake_is_told_once_although_it_shows_in_many_steps() -> None:
    odd = type("Odd", (toys.ENGINES[1].__class__,), {"launch": lambda *_: Launch(argv=())})()
    assert says(odd).count("there is no command") == 1


def test_an_example_makes_a_sample_where_a_pattern_cannot() -> None:
    assert check_engine(engine(params=Sampled, launch=lambda *_: Launch(argv=("x", OutputRef())))) == []
    assert view(engine(params=Sampled)).params.word == "letters"
    with pytest.raises(NoSample):
        view(engine(params=Unsampled))


def test_samples_use_every_type_flavour_word_and_optional_input() -> None:
    quantize = toys.ENGINES[1]
    special = [text for text, _, _ in views(quantize)]
    assert special == [
        "cpu from model/gguf", 'with type: "Q8_0"', 'with type: "Q5_K_M"', 'with type: "Q4_K_M"', "with imatrix",
    ]  # fmt: skip
    train = toys.ENGINES[3]
    assert [(step.flavour, step.gpus, len(host.gpus)) for _, step, host in views(train)] == [
        ("cpu", 0, 0), ("cuda", 1, 1), ("cuda12", 1, 1),
    ]  # fmt: skip


def test_only_the_thread_that_is_watched_is_heard_and_only_while_it_is(tmp_path: Path) -> None:
    def write() -> None:
        (tmp_path / "file").write_text("x")

    with watched() as deeds:
        other = threading.Thread(target=write)
        other.start()
        other.join()
        assert deeds == []
        write()
    write()
    assert deeds == [f"writes {tmp_path}/file"]


def shop(**changes: Any) -> Any:
    return type("OddShop", (toys.Shop,), changes)()


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (shop(check=lambda *_: []), "check finds nothing wrong with"),
        (shop(check=lambda *_: 1 / 0), "check raises for"),
        (shop(examples=("shop:bad-name/x",)), "its own check says"),
        (shop(resolve=lambda *_: 1 / 0), "ZeroDivisionError"),
        (
            shop(resolve=lambda *_: Resolution(pin=Pin("shop:a/b", "", "model/gguf"))),
            "its pin has no identity",
        ),
        (
            shop(resolve=lambda *_: Resolution(pin=Pin("shop:a/b", WRONG, "model/gguf"))),
            "gives what does not serialise",
        ),
    ],
)
def test_a_mistake_of_a_source_is_found(odd: Any, reason: str) -> None:
    assert any(reason in finding.message for finding in check_source(odd))


def test_a_good_source_has_no_finding() -> None:
    assert check_source(toys.Shop()) == []
