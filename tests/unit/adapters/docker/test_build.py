"""Images built on a real engine."""

# ruff: noqa: ASYNC240 (a test has its loop to itself)

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qwend.adapters.docker.construction import Base
from qwend.adapters.pip_settings import IndexSettings
from qwend.effects import Progress
from qwend.errors import QwendError, StepFailed, Unreachable, UsageError
from qwend.model.image import HostProgram

from .conftest import MakeBuilder as Make
from .images import BUILD, tiny_image

pytestmark = pytest.mark.docker
CANARY = "canary-5f1d"


def ignore(_: Progress) -> None: ...


async def test_an_image_is_built_runs_as_nobody_and_holds_no_build_tools(
    make_builder: Make, tmp_path: Path, engine: Any, base: str
) -> None:
    builder = make_builder()
    spec = tiny_image(tmp_path / "tiny", loud=True)
    told: list[Progress] = []
    assert await builder.find(spec) is None
    made = await builder.realise(spec, told.append)
    assert (made.kind, made.digest, made.key) == ("oci", spec.digest, spec.key)
    config = engine.inspect_image(made.location)["Config"]
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.base.name"]
    assert _run(made.location, "tiny") == 'tiny ON say "hi" to $USER'
    assert _run(made.location, "cat", "/opt/qwend/share/note.txt") == "hello"
    tools = "for p in cc c++ ccache uv pip; do command -v $p; done; ls /build-env /src /archives 2>/dev/null; true"
    assert _run(made.location, "sh", "-c", tools) == ""
    assert "compile" in {event.phase for event in told}
    assert any((event.done, event.total, event.unit) == (2.0, 2.0, "files") for event in told)
    assert await builder.verify(spec) == []
    assert [image.key for image in await builder.images() if image.id == made.location] == [spec.key]


async def test_a_second_build_of_an_unchanged_image_asks_nobody_but_the_engine(
    make_builder: Make, tmp_path: Path
) -> None:
    spec = tiny_image(tmp_path / "tiny")
    first = await make_builder().realise(spec, ignore)
    without_docker = make_builder(environ={"PATH": str(tmp_path)})
    again = await without_docker.realise(spec, ignore)
    assert again.location == first.location
    assert again.seconds == 0.0


async def test_an_image_that_would_be_made_otherwise_now_is_made_again(
    make_builder: Make, tmp_path: Path, engine: Any
) -> None:
    builder = make_builder()
    spec = tiny_image(tmp_path / "tiny")
    first = await builder.realise(spec, ignore)
    toml = Path(spec.folder) / "image.toml"
    toml.write_text(toml.read_text().replace('entry = ["tiny"]', 'entry = ["tiny", "again"]'))
    assert await builder.find(spec) is None
    again = await builder.realise(spec, ignore)
    assert again.location != first.location
    assert engine.inspect_image(again.location)["Config"]["Cmd"] == ["tiny", "again"]
    listed = [image for image in await builder.images() if image.id in {first.location, again.location}]
    assert [(image.id, image.tag, builder.made_so(spec, image)) for image in listed] == [
        (again.location, spec.container, True),
        (first.location, "", False),
    ]
    assert await builder.remove(first.location) > 0
    assert await builder.find(spec) == msgspec.structs.replace(again, seconds=0.0)


async def test_those_who_ask_at_once_share_one_build(make_builder: Make, tmp_path: Path) -> None:
    builder, other = make_builder(), make_builder()
    spec = tiny_image(tmp_path / "tiny", build=BUILD + "\nsleep 1\n")
    told: list[Progress] = []
    made = await asyncio.gather(
        builder.realise(spec, ignore), other.realise(spec, told.append), builder.realise(spec, ignore)
    )
    assert len({one.location for one in made}) == 1
    assert [one.seconds > 0 for one in made].count(True) == 1
    assert any(event.phase == "compile" for event in told) or made[1].seconds > 0


async def test_a_build_that_was_cut_off_goes_on_from_its_cache(make_builder: Make, tmp_path: Path) -> None:
    """The script leaves a mark where a compiler cache leaves objects, and ends only if it finds one."""
    builder = make_builder()
    mark = f"$CCACHE_DIR/{tmp_path.name}-{os.getpid()}"
    waits = f'if [ -e "{mark}" ]; then rm "{mark}"; else touch "{mark}"; echo waiting; sleep 600; fi\n'
    spec = tiny_image(tmp_path / "tiny", build=waits + BUILD)
    waiting = asyncio.Event()

    def watch(event: Progress) -> None:
        if event.message == "waiting":
            waiting.set()

    first = asyncio.ensure_future(builder.realise(spec, watch))
    await asyncio.wait_for(waiting.wait(), 300)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await builder.find(spec) is None
    told: list[Progress] = []
    await asyncio.wait_for(builder.realise(spec, told.append), 300)
    phases = {event.phase for event in told}
    assert "compile" in phases
    assert not {"system packages", "packages"} & phases


async def test_a_failing_script_is_told_in_its_own_words(make_builder: Make, tmp_path: Path) -> None:
    spec = tiny_image(
        tmp_path / "tiny", build="echo 'build.sh: no compiler that knows this CPU' >&2; exit 3\n"
    )
    with pytest.raises(StepFailed, match="no compiler that knows this CPU") as caught:
        await make_builder().realise(spec, ignore)
    assert "the whole build is in" in (caught.value.hint or "")


async def test_a_script_that_leaves_less_than_it_promises_is_refused(
    make_builder: Make, tmp_path: Path
) -> None:
    with pytest.raises(StepFailed, match="the build left no bin/tiny"):
        await make_builder().realise(tiny_image(tmp_path / "tiny", build="true\n"), ignore)


async def test_a_base_with_another_python_is_refused_with_both_versions(
    make_builder: Make, tmp_path: Path
) -> None:
    spec = tiny_image(tmp_path / "tiny", more='python = ">=3.98,<3.99"\n')
    with pytest.raises(StepFailed, match=r"the base image has Python 3\.\d+; this image needs one of: 3.98"):
        await make_builder().realise(spec, ignore)


async def test_files_that_changed_since_the_plan_are_refused(make_builder: Make, tmp_path: Path) -> None:
    spec = tiny_image(tmp_path / "tiny")
    (tmp_path / "tiny" / "cpu.lock").write_text("# other\n")
    with pytest.raises(QwendError, match=f"expected digest sha256:{spec.digest}, got sha256:") as caught:
        await make_builder().realise(spec, ignore)
    assert caught.value.code == "lock-changed"


async def test_a_lock_that_was_tampered_with_is_refused_with_both_digests(
    make_builder: Make, tmp_path: Path
) -> None:
    builder = make_builder()
    spec = tiny_image(tmp_path / "tiny")
    await builder.realise(spec, ignore)
    (tmp_path / "tiny" / "cpu.lock").write_text("# tampered\n")
    with pytest.raises(QwendError, match=r"its lock is [0-9a-f]{64}, the lock has [0-9a-f]{64}") as caught:
        await builder.find(spec)
    assert caught.value.code == "lock-mismatch"
    assert await builder.verify(spec) == [caught.value.message]


async def test_another_image_under_the_name_is_refused(
    make_builder: Make, tmp_path: Path, engine: Any, base: str
) -> None:
    spec = tiny_image(tmp_path / "tiny")
    name, _, tag = spec.container.partition(":")
    engine.tag(base, name, tag)
    try:
        with pytest.raises(QwendError, match="its digest is missing"):
            await make_builder().realise(spec, ignore)
    finally:
        engine.remove_image(spec.container)


async def test_what_was_changed_inside_an_image_is_found(
    make_builder: Make, tmp_path: Path, engine: Any
) -> None:
    builder = make_builder()
    spec = tiny_image(tmp_path / "tiny")
    made = await builder.realise(spec, ignore)
    script = "echo x >>/opt/qwend/bin/tiny"
    container = engine.create_container(made.location, ["sh", "-c", script], user="0")["Id"]
    try:
        engine.start(container)
        engine.wait(container)
        name, _, tag = spec.container.partition(":")
        engine.commit(
            container, name, tag, conf={"Labels": engine.inspect_image(made.location)["Config"]["Labels"]}
        )
    finally:
        engine.remove_container(container)
    [difference] = await builder.verify(spec)
    assert difference.startswith("bin/tiny is sha256 ")


async def test_a_base_whose_id_is_not_the_configured_one_is_refused(
    make_builder: Make, tmp_path: Path, base_tag: str, base: str
) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(QwendError, match=f"should be {wrong}; the engine has {base}"):
        await make_builder(base=Base(base_tag, wrong)).realise(tiny_image(tmp_path / "tiny"), ignore)


async def test_a_base_that_is_nowhere_is_told_with_a_remedy(make_builder: Make, tmp_path: Path) -> None:
    nowhere = make_builder(base=Base("127.0.0.1:9/no/such:base"))
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9/no/such:base is not to be had") as caught:
        await nowhere.realise(tiny_image(tmp_path / "tiny"), ignore)
    assert "images/make-base" in (caught.value.hint or "")


async def test_the_users_settings_reach_no_layer_no_history_and_no_file(
    make_builder: Make, tmp_path: Path, engine: Any
) -> None:
    (tmp_path / "ca.pem").write_text(f"# {CANARY}\n")
    own = IndexSettings(
        extra_index=[f"http://{CANARY}@127.0.0.1:9/simple"], ca=str(tmp_path / "ca.pem"), timeout=77
    )
    spec = tiny_image(tmp_path / "tiny", build=BUILD)
    made = await make_builder(settings=own).realise(spec, ignore)
    assert CANARY not in str(engine.history(made.location)) + str(engine.inspect_image(made.location))
    seen = _run(made.location, "sh", "-c", f"grep -rl {CANARY} / --exclude-dir=proc --exclude-dir=sys; true")
    assert seen == ""
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "ca.pem"]
    assert not [path for path in left if CANARY.encode() in path.read_bytes()]
    assert not list((tmp_path / "private").iterdir())


async def test_a_removed_image_is_gone_and_one_in_use_stays(
    make_builder: Make, tmp_path: Path, engine: Any
) -> None:
    builder = make_builder()
    spec = tiny_image(tmp_path / "tiny")
    made = await builder.realise(spec, ignore)
    container = engine.create_container(made.location, ["tiny"])["Id"]
    try:
        with pytest.raises(QwendError, match="is in use"):
            await builder.remove(spec.container)
        [listed] = [image for image in await builder.images() if image.id == made.location]
        assert listed.in_use
    finally:
        engine.remove_container(container)
    assert await builder.remove(spec.container) > 0
    assert await builder.find(spec) is None
    with pytest.raises(UsageError, match="the engine has no image"):
        await builder.remove(spec.container)


async def test_a_program_of_the_host_has_no_container(make_builder: Make) -> None:
    program = HostProgram(name="ollama", program="ollama", install_hint="")
    with pytest.raises(UsageError, match="a container cannot run it"):
        await make_builder().find(program)


async def test_a_missing_docker_command_is_told(make_builder: Make, tmp_path: Path) -> None:
    builder = make_builder(environ={"PATH": str(tmp_path), "HOME": str(tmp_path)})
    with pytest.raises(Unreachable, match="the docker command is missing"):
        await builder.realise(tiny_image(tmp_path / "tiny", build=BUILD + "\n# never built\n"), ignore)


def _run(image: str, *command: str) -> str:
    done = subprocess.run(
        [
            "docker",
            "run",
            "--rm",
            "--network",
            "none",
            "--read-only",
            "--entrypoint",
            command[0],
            image,
            *command[1:],
        ],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    return done.stdout.strip()


HOLDER = """
import asyncio, sys
from pathlib import Path
import msgspec
from qwend.adapters.docker.build import DockerBuilder
from qwend.adapters.docker.construction import Base
from qwend.adapters.docker.connection import Connection
from qwend.model.image import ImageSpec

async def main():
    spec = msgspec.json.decode(sys.argv[3], type=ImageSpec)
    builder = DockerBuilder(Path(sys.argv[1]), Connection(), base=Base(sys.argv[2]), secrets_root=Path(sys.argv[4]))
    await builder.realise(spec, lambda event: print(event.message, flush=True))

asyncio.run(main())
"""


async def test_a_build_outlives_a_daemon_that_is_killed_and_the_next_one_waits_for_it(
    make_builder: Make, tmp_path: Path, base_tag: str
) -> None:
    spec = tiny_image(tmp_path / "tiny", build=f"echo waiting; sleep 2\n{BUILD}")
    arguments = (
        str(tmp_path / "home"),
        base_tag,
        msgspec.json.encode(spec).decode(),
        str(tmp_path / "private"),
    )
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, *arguments),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert holder.stdout is not None
    async with asyncio.timeout(300):
        while (line := await holder.stdout.readline()).strip() != b"waiting":
            assert line, "the build ended before it was killed"
    holder.kill()
    await holder.wait()
    made = await asyncio.wait_for(make_builder().realise(spec, ignore), 300)
    assert made.seconds == 0.0
