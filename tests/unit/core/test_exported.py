"""A plan as a script that really runs, and as a compose file that says what qwend would do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qwend.cli.writing import yaml_text
from qwend.core.compose_file import compose_file
from qwend.core.exported import Made, Part, Place
from qwend.core.script import script
from qwend.errors import UsageError
from qwend.model.image import ImageSpec, UpstreamImage
from qwend.model.launch import (
    BindRef,
    DriverRef,
    HttpProbe,
    ImageRef,
    InputRef,
    Join,
    Launch,
    LaunchFile,
    OutputRef,
    PortRef,
    Probe,
    SecretRef,
    ThreadsRef,
    Word,
)
from qwend.model.plan import CompiledStep, Edge, Policy, Restart

UPSTREAM = UpstreamImage(
    name="up", reference="example/up", manifest="sha256:" + "0" * 64, env={"MODE": "a b"}
)


def part(
    name: str,
    *argv: Word,
    inputs: tuple[str, ...] = (),
    kind: Any = "job",
    image: Place | None = None,
    made: Made | None = None,
    files: tuple[LaunchFile, ...] = (),
    runtime: str = "native",
    port: int = 18100,
    **more: Any,
) -> Part:
    """A step whose program is a file of its image."""
    probe = Probe(HttpProbe("/health")) if kind == "service" else None
    launch = Launch((ImageRef("bin/prog"), *argv), files=files, probe=probe, env={"GREETING": "it's $HOME"})
    step = CompiledStep(
        name, "toy/prog", kind, "f" * 64, {}, image=UPSTREAM, launch=launch, runtime=runtime,
        inputs=tuple(Edge(one, one) for one in inputs), command=("prog", "<x>\n<y>"), **more,
    )  # fmt: skip
    return Part(step, made, image, port if kind == "service" else None, 2)


@pytest.fixture
def image(tmp_path: Path) -> Place:
    """An environment with a program that says what it was given, and writes it where its first word says."""
    folder = tmp_path / "an image" / "bin"
    folder.mkdir(parents=True)
    (folder / "prog").write_text('#!/bin/sh\nout=$1; shift\n{ echo "$GREETING"; cat "$@"; } > "$out"\n')
    (folder / "prog").chmod(0o755)
    return Place("venv", str(folder.parent))


def test_the_script_of_a_plan_runs_as_it_is_and_reads_what_is_there(tmp_path: Path, image: Place) -> None:
    store = tmp_path / "it's here; $(touch fooled)"
    store.mkdir()
    (store / "model-f16.gguf").write_text("f16\n")
    done = part("f16", made=Made(str(store), {"model-f16.gguf": str(store / "model-f16.gguf")}))
    driver = LaunchFile("note.txt", "END_OF_FILE\n$HOME `id`\n")
    text = script(
        "r",
        [
            done,
            part("quant[Q8_0]", OutputRef("model-q8.gguf"), InputRef("f16", "*.gguf"), DriverRef("note.txt"),
                 inputs=("f16",), image=image, files=(driver,)),
            part("copy", Join((OutputRef(), "/all")), InputRef("quant[Q8_0]", "*.gguf"), inputs=("quant[Q8_0]",),
                 image=image),
        ],
        ["quant[Q8_0]", "copy"],
    )  # fmt: skip
    work = tmp_path / "work"
    work.mkdir()
    (work / "script.sh").write_text(text)
    subprocess.run(["sh", "script.sh"], cwd=work, check=True)
    assert (work / "quant-Q8_0" / "model-q8.gguf").read_text() == "it's $HOME\nf16\nEND_OF_FILE\n$HOME `id`\n"
    assert (work / "copy" / "all").read_text().startswith("it's $HOME\nit's $HOME\nf16\n")
    assert not (work / "fooled").exists()
    assert "f16: toy/prog (native, cpu): done" in text


def test_what_cannot_be_run_by_hand_stands_there_as_a_comment_with_its_reason(image: Place) -> None:
    text = script(
        "r",
        [
            part("a", OutputRef()),
            part("b", OutputRef(), InputRef("a"), inputs=("a",), image=image),
            part("c", OutputRef(), SecretRef("api_key"), image=image, secrets=("api_key",)),
            part("d", OutputRef(), image=image, select=True),
        ],
        ["a", "b", "c", "d"],
    )
    assert "its image is not built (qwend images build up)" in text
    assert "its input a is not there" in text
    assert "it takes the secret api_key, which belongs into no script" in text
    assert "qwend reads from its report" in text
    commands = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert commands == ["set -eu"]
    assert "# prog '<x>\n# <y>'" in text


def test_services_and_containers_are_run_as_confined_as_qwend_does(tmp_path: Path) -> None:
    made = Made("/store/a b", {"m.gguf": "/store/a b/m.gguf"})
    served = part(
        "chat", "--model", InputRef("q4", "*.gguf"), "--host", BindRef(), "--port", PortRef(), "-t", ThreadsRef(),
        inputs=("q4",), kind="service", runtime="docker", image=Place("oci", "sha256:c0ffee"), port=8080,
    )  # fmt: skip
    text = script("r", [part("q4", made=made), served], ["chat"])
    (line,) = [line for line in text.splitlines() if line.startswith("docker run")]
    for said in ("--read-only", "--cap-drop ALL", "-p 127.0.0.1:8080:8080", "-v '/store/a b':/in/q4:ro",
                 "--entrypoint /opt/qwend/bin/prog sha256:c0ffee --model /in/q4/m.gguf",
                 "--host 0.0.0.0 --port 8080"):  # fmt: skip
        assert said in line
    assert line.endswith(" &") and text.rstrip().splitlines()[-1].startswith("wait")
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


# --- compose ------------------------------------------------------------------------------------------------------


def served(**more: Any) -> Part:
    policy = Policy(restart=Restart(max=3), stop_grace_s=20.0, deadline_s=60.5, memory=1 << 30)
    return part(
        "chat", "--model", InputRef("q4", "*.gguf"), "--port", PortRef(), "--key", SecretRef("api_key"), "--note", "$x",
        inputs=("q4",), kind="service", files=(LaunchFile("serve.py", "a = '$'\nb = 2\nc = 3\n"),), policy=policy,
        secrets=("api_key",), runtime="docker", **more,
    )  # fmt: skip


def test_a_compose_file_confines_its_services_and_mounts_what_was_made_read_only() -> None:
    made = Made("/store/q4", {"m.gguf": "/store/q4/m.gguf"})
    document, files = compose_file("my_r", [part("q4", made=made), served()])
    chat = document["services"]["chat"]
    assert document["name"] == "my-r-exported"
    assert chat["entrypoint"][:3] == ["/opt/qwend/bin/prog", "--model", "/in/q4/m.gguf"]
    assert chat["entrypoint"][-1] == "$$x"  # no variable of compose
    assert chat["environment"]["GREETING"] == "it's $$HOME"
    assert chat["ports"] == [{"mode": "host", "host_ip": "127.0.0.1", "published": "18100", "target": 18100}]
    assert [(one["source"], one["target"], one["read_only"]) for one in chat["volumes"]] == [
        ("/store/q4", "/in/q4", True),
        ("./drivers/chat", "/opt/drivers", True),
    ]
    assert (chat["read_only"], chat["cap_drop"], chat["user"]) == (True, ["ALL"], "10001:10001")
    assert (chat["restart"], chat["stop_grace_period"], chat["mem_limit"]) == ("on-failure:3", "20s", 1 << 30)
    assert files == {"drivers/chat/serve.py": "a = '$'\nb = 2\nc = 3\n"}
    assert "API_KEY_FILE:?" in document["secrets"]["api_key"]["file"]
    assert yaml.safe_load(yaml_text(document)) == document


def test_files_that_lie_elsewhere_are_mounted_one_by_one() -> None:
    made = Made("/store/q4", {"m.gguf": "/cache/blobs/1"})
    volumes = compose_file("r", [part("q4", made=made), served()])[0]["services"]["chat"]["volumes"]
    assert (volumes[0]["source"], volumes[0]["target"]) == ("/cache/blobs/1", "/in/q4/m.gguf")


def test_what_cannot_be_exported_says_why() -> None:
    with pytest.raises(UsageError) as caught:
        compose_file("r", [part("q4"), served()])
    assert caught.value.lines() == ["chat reads q4, which is not made yet (qwend up makes it)"]
    with pytest.raises(UsageError, match="r serves nothing"):
        compose_file("r", [part("q4")])


def test_an_image_of_ours_is_named_by_its_lock_and_never_pulled() -> None:
    spec = ImageSpec(
        name="toy", folder="/f", flavour="cpu", digest="c0ffee" * 10, python="3.11", platforms=[]
    )
    one = served()
    ours = msgspec.structs.replace(one, step=msgspec.structs.replace(one.step, image=spec))
    made = Made("/store/q4", {"m.gguf": "/store/q4/m.gguf"})
    chat = compose_file("r", [part("q4", made=made), ours])[0]["services"]["chat"]
    assert (chat["image"], chat["pull_policy"]) == ("qwend/toy:cpu-c0ffeec0ffee", "never")
    assert "http://127.0.0.1:18100/health" in chat["healthcheck"]["test"][-1]
    assert chat["healthcheck"]["start_period"] == "61s"


TEXT = st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXT, JSON, min_size=1, max_size=4))
def test_whatever_is_written_as_yaml_is_read_as_it_was(value: dict[str, Any]) -> None:
    assert yaml.safe_load(yaml_text(value)) == value


def test_the_folder_of_a_step_is_no_way_out() -> None:
    from qwend.core.exported import folder_name

    assert folder_name("../../etc") == "etc" and os.sep not in folder_name("a/b[c]")
