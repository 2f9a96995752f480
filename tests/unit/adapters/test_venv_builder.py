"""Environments are built from locks with a real uv, from wheels that the tests make; no network."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tests.unit.adapters.wheelhouse import lock_text, make_image, make_sdist, make_wheel, pip_wheel

from qwend.adapters.pip_settings import IndexSettings
from qwend.adapters.venv import VenvBuilder
from qwend.effects import Progress
from qwend.errors import OutOfResource, QwendError, StepFailed, UsageError
from qwend.model.image import HostProgram, ImageSpec, UpstreamImage, load_image

ROOT = Path(__file__).resolve().parents[3]


class Bench:
    """A home, a wheelhouse and a builder; nothing of the caller's own settings gets in."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp = tmp_path
        self.wheels = tmp_path / "wheels"
        self.wheels.mkdir()
        self.home = tmp_path / "home"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "UV_CACHE_DIR": str(tmp_path / "cache"),
            "UV_NO_CONFIG": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "TOKEN_OF_THE_CALLER": "canary",
        }
        self.events: list[Progress] = []

    def builder(self) -> VenvBuilder:
        settings = IndexSettings(find_links=[str(self.wheels)], no_index=True)
        return VenvBuilder(self.home, settings, environ=self.environ, jobs=3)

    def image(self, **given: object) -> ImageSpec:
        pins = given.pop("pins", None)
        if pins is None:
            pins = {"tiny_one": ("1.0", make_wheel(self.wheels, "tiny_one", "1.0"))}
        folder = make_image(self.tmp / "image", pins, **given)  # type: ignore[arg-type]
        return load_image(folder, "cpu")

    async def realise(self, spec: ImageSpec) -> Path:
        return Path((await self.builder().realise(spec, self.events.append)).location)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_the_environment_holds_exactly_the_lock(bench: Bench) -> None:
    make_wheel(bench.wheels, "tiny_one", "2.0", "VALUE = 2\n")
    prefix = await bench.realise(bench.image())
    assert await _output(prefix / "bin/python", "-c", "import tiny_one; print(tiny_one.VALUE)") == "1\n"
    record = bench.builder().records()[0]
    assert record.packages == {"tiny-one": "1.0"}
    assert prefix.name == record.key


async def test_a_second_ask_finds_it_and_builds_nothing(bench: Bench) -> None:
    spec = bench.image(build='echo x >>"$PREFIX/count"\n')
    first = await bench.builder().realise(spec, bench.events.append)
    bench.events.clear()
    again = await bench.builder().realise(spec, bench.events.append)
    assert (again.location, again.digest, bench.events) == (first.location, first.digest, [])
    assert (Path(first.location) / "count").read_text() == "x\n"


async def test_two_builders_at_once_make_one_build(bench: Bench) -> None:
    runs = bench.tmp / "runs"
    spec = bench.image(build=f'echo x >>"{runs}"\nsleep 0.3\n')
    both = await asyncio.gather(*(bench.builder().realise(spec, bench.events.append) for _ in range(2)))
    assert both[0].location == both[1].location
    assert runs.read_text() == "x\n"


async def test_the_one_who_waits_sees_the_progress_of_the_build(bench: Bench) -> None:
    seen: list[str] = []
    spec = bench.image(build='for n in 1 2 3 4 5 6; do echo "[$n/6] compiling"; sleep 0.15; done\n')
    await asyncio.gather(
        bench.builder().realise(spec, lambda _: None),
        bench.builder().realise(spec, lambda event: seen.append(event.phase)),
    )
    assert "compile" in seen


async def test_a_lock_with_another_hash_is_refused_with_both_digests(bench: Bench) -> None:
    got = make_wheel(bench.wheels, "tiny_one", "1.0")
    spec = bench.image(pins={"tiny_one": ("1.0", "0" * 64)})
    with pytest.raises(StepFailed) as caught:
        await bench.realise(spec)
    assert caught.value.code == "hash-mismatch"
    assert "0" * 64 in str(caught.value)
    assert got in str(caught.value)
    assert bench.builder().records() == []


async def test_a_lock_that_changed_after_the_plan_is_refused(bench: Bench) -> None:
    spec = bench.image()
    lock = bench.tmp / "image/cpu.lock"
    lock.write_text(lock_text({"tiny_one": ("1.0", "1" * 64)}))
    with pytest.raises(QwendError, match=spec.digest) as caught:
        await bench.realise(spec)
    assert caught.value.code == "lock-changed"


async def test_a_package_that_no_index_has_is_named_with_what_to_set(bench: Bench) -> None:
    with pytest.raises(UsageError, match="indexes have no tiny-two") as caught:
        await bench.realise(bench.image(pins={"tiny_two": ("9.0", "0" * 64)}))
    assert caught.value.code == "package-missing"
    assert "find_links" in (caught.value.hint or "")


async def test_another_build_of_the_same_version_in_a_wheelhouse_is_passed_over(bench: Bench) -> None:
    """PEP 440 lets `==1.0` accept 1.0+cpu, and installers prefer it."""
    make_wheel(bench.wheels, "tiny_one", "1.0+cpu", "VALUE = 3\n")
    prefix = await bench.realise(bench.image())
    assert await _output(prefix / "bin/python", "-c", "import tiny_one; print(tiny_one.VALUE)") == "1\n"


async def test_a_source_archive_is_never_compiled_where_no_build_lock_allows_it(bench: Bench) -> None:
    digest = make_sdist(bench.wheels, "tiny_source", {})
    with pytest.raises(UsageError, match="tiny-source") as caught:
        await bench.realise(bench.image(pins={"tiny_source": ("1.0", digest)}))
    assert caught.value.code == "package-missing"


async def test_a_line_that_is_no_pin_is_refused_with_its_place(bench: Bench) -> None:
    spec = bench.image()
    lock = bench.tmp / "image/cpu.lock"
    lock.write_text("--index-url elsewhere\n")
    with pytest.raises(UsageError, match="hashes only") as caught:
        await bench.realise(load_image(spec.folder, "cpu"))
    assert caught.value.where == f"{lock}:1:1"


async def test_build_sh_gets_its_variables_and_nothing_of_the_caller(bench: Bench) -> None:
    script = 'env >"$PREFIX/seen"\n[ "$PWD" != "$SRC" ]\n'
    options = '[build.options.fast]\ntype = "bool"\ndefault = true\nhelp = "h"\n'
    prefix = await bench.realise(bench.image(build=script, more=options))
    seen = dict(line.split("=", 1) for line in (prefix / "seen").read_text().splitlines())
    assert seen["PREFIX"] == str(prefix)
    assert (seen["JOBS"], seen["FLAVOUR"], seen["OPT_FAST"]) == ("3", "cpu", "ON")
    assert "canary" not in (prefix / "seen").read_text()
    assert seen["HOME"] != str(bench.tmp)


async def test_lines_of_ninja_become_progress(bench: Bench) -> None:
    await bench.realise(bench.image(build='echo "[7/9] Building CXX object"\n'))
    compiled = [event for event in bench.events if event.done == 7.0]
    assert [(event.phase, event.total, event.unit) for event in compiled] == [("compile", 9.0, "files")]


async def test_a_failing_build_says_its_own_reason_and_leaves_nothing_finished(bench: Bench) -> None:
    spec = bench.image(build='echo "build.sh: no C++ compiler: install one" >&2; exit 1\n')
    with pytest.raises(StepFailed, match=r"^no C\+\+ compiler: install one$") as caught:
        await bench.realise(spec)
    assert caught.value.code == "build-failed"
    assert ".logs" in (caught.value.hint or "")
    assert await bench.builder().find(spec) is None
    assert bench.builder().unfinished() == [spec.key]


async def test_a_build_that_leaves_out_an_output_has_failed(bench: Bench) -> None:
    with pytest.raises(StepFailed, match="bin/tool"):
        await bench.realise(bench.image(build="true\n", more='outputs = ["bin/tool"]'))


async def test_a_source_is_fetched_checked_and_unpacked_without_its_top_folder(bench: Bench) -> None:
    digest = make_sdist(bench.wheels, "tiny_source", {"src/a.c": "int a;\n", "docs/b": "b"})
    spec = bench.image(
        source=("tiny_source", digest),
        build_pins={"pip": pip_wheel(bench.wheels)},
        build='cp "$SRC/tiny_source/src/a.c" "$PREFIX/a.c"\n',
        more='outputs = ["a.c"]',
    )
    prefix = await bench.realise(spec)
    assert (prefix / "a.c").read_text() == "int a;\n"
    assert (bench.home / "images/.sources" / digest / "tiny_source-1.0.tar.gz").is_file()


@pytest.mark.parametrize(("version", "differences"), [("1.0", 0), ("1.1", 1)])
async def test_a_source_that_the_build_installs_as_a_package_is_held_to_its_pin(
    bench: Bench, version: str, differences: int
) -> None:
    digest = make_sdist(bench.wheels, "tiny_source", {"a": "a"})
    script = f"""
        site=$("$PREFIX/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        mkdir "$site/tiny_source-{version}.dist-info"
        printf 'Metadata-Version: 2.1\\nName: tiny_source\\nVersion: {version}\\n' \
            >"$site/tiny_source-{version}.dist-info/METADATA"
    """
    spec = bench.image(
        source=("tiny_source", digest), build_pins={"pip": pip_wheel(bench.wheels)}, build=script
    )
    await bench.realise(spec)
    assert len(await bench.builder().verify(spec)) == differences


async def test_a_source_with_another_hash_is_refused_with_both_digests(bench: Bench) -> None:
    got = make_sdist(bench.wheels, "tiny_source", {"a": "a"})
    spec = bench.image(
        source=("tiny_source", "2" * 64), build_pins={"pip": pip_wheel(bench.wheels)}, build="true\n"
    )
    with pytest.raises(StepFailed, match=got) as caught:
        await bench.realise(spec)
    assert caught.value.code == "hash-mismatch"
    assert "2" * 64 in str(caught.value)


async def test_the_overlay_reaches_the_prefix_and_site_packages_but_never_the_cache(bench: Bench) -> None:
    overlay = {"site/tiny_one.py": "VALUE = 7\n", "bin/hello": "#!/bin/sh\necho hi\n"}
    prefix = await bench.realise(bench.image(overlay=overlay))
    assert await _output(prefix / "bin/python", "-c", "import tiny_one; print(tiny_one.VALUE)") == "7\n"
    assert await _output(prefix / "bin/hello") == "hi\n"
    cached = [path.read_text() for path in (bench.tmp / "cache").rglob("tiny_one.py")]
    assert cached == ["VALUE = 1\n"]


async def test_verify_accepts_what_was_built(bench: Bench) -> None:
    spec = bench.image(build='echo 1 >"$PREFIX/tool"\n', more='outputs = ["tool"]', overlay={"share/x": "y"})
    await bench.realise(spec)
    assert await bench.builder().verify(spec) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("echo 2 >new; mv new {site}/tiny_one.py", "tiny-one: tiny_one.py is sha256"),
        ("rm {site}/tiny_one.py", "tiny-one: tiny_one.py cannot be read"),
        ("rm -r {site}/tiny_one-1.0.dist-info", "package tiny-one is missing"),
        (
            "sed -i.bak s/tiny_one/other/ {site}/tiny_one-1.0.dist-info/METADATA",
            "package other 1.0 is not in",
        ),
        ("sed -i.bak s/1.0/1.1/ {site}/tiny_one-1.0.dist-info/METADATA", "is 1.1, the lock says 1.0"),
        ("echo x >>{site}/tiny_one-1.0.dist-info/RECORD", "came with another list of files"),
        ("echo 2 >{prefix}/tool", "tool is sha256"),
        ("rm {prefix}/qwend-image.json", "is not a finished environment"),
    ],
)
async def test_verify_finds_each_kind_of_change(bench: Bench, change: str, said: str) -> None:
    spec = bench.image(build='echo 1 >"$PREFIX/tool"\n', more='outputs = ["tool"]')
    prefix = await bench.realise(spec)
    site = next(prefix.glob("lib/python*/site-packages"))
    await _output("/bin/sh", "-ec", f"cd {bench.tmp}; {change.format(site=site, prefix=prefix)}")
    found = await bench.builder().verify(spec)
    assert [line for line in found if said in line], found


async def test_remove_frees_an_environment_and_only_that(bench: Bench) -> None:
    spec = bench.image()
    await bench.realise(spec)
    assert await bench.builder().remove(spec.key) > 0
    assert bench.builder().records() == []
    assert await bench.builder().find(spec) is None


@pytest.mark.parametrize("key", ["../store", ".sources", "", "a/b"])
async def test_remove_leaves_the_images_folder_never(bench: Bench, key: str) -> None:
    with pytest.raises(UsageError):
        await bench.builder().remove(key)


async def test_an_image_for_another_machine_is_refused(bench: Bench) -> None:
    spec = bench.image()
    elsewhere = msgspec.structs.replace(spec, platforms=["win-99"])
    with pytest.raises(UsageError, match="is for win-99"):
        await bench.realise(elsewhere)


async def test_too_little_disk_is_said_before_anything_is_fetched(bench: Bench) -> None:
    spec = bench.image(in_flavour="disk_mb = 900000000000")
    with pytest.raises(OutOfResource, match="are free and this needs about"):
        await bench.realise(spec)
    assert not (bench.tmp / "cache").exists()


@pytest.mark.parametrize(
    "image",
    [
        UpstreamImage(name="ollama", reference="r", manifest="sha256:0"),
        HostProgram(name="ollama", program="ollama", install_hint=""),
    ],
)
async def test_only_locked_images_have_environments(bench: Bench, image: UpstreamImage | HostProgram) -> None:
    with pytest.raises(UsageError, match="not a locked image"):
        await bench.builder().realise(image, bench.events.append)


async def test_what_is_made_on_a_container_image_has_no_environment(bench: Bench) -> None:
    spec = load_image("qwend_images:ollama", "server")
    with pytest.raises(UsageError, match="it is a container image only"):
        await bench.builder().realise(spec, bench.events.append)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
async def test_a_full_disk_is_said_and_what_was_half_made_is_gone(bench: Bench) -> None:
    spec = bench.image(build='cp "$0" "$PREFIX/big"\ncat "$0" >/dev/full\n')
    with pytest.raises(OutOfResource, match="is full") as caught:
        await bench.realise(spec)
    assert caught.value.code == "disk-full"
    assert str(bench.home) in str(caught.value)
    assert bench.builder().unfinished() == []


async def test_homes_that_share_an_images_folder_by_a_link_share_its_environments(bench: Bench) -> None:
    shared = bench.tmp / "shared"
    shared.mkdir()
    bench.home.mkdir()
    (bench.home / "images").symlink_to(shared)
    spec = bench.image(
        build='printf "#!%s\\n" "$PREFIX/bin/python" >"$PREFIX/bin/x"; chmod +x "$PREFIX/bin/x"\n'
    )
    first = await bench.realise(spec)
    bench.home = bench.tmp / "other"
    bench.home.mkdir()
    (bench.home / "images").symlink_to(shared)
    assert await bench.realise(spec) == first
    (bench.tmp / "home/images").unlink()
    assert await _output(first / "bin/x") == ""  # names the folder, not the link that is gone


async def test_an_environment_that_was_moved_is_built_again(bench: Bench) -> None:
    """Its programs name the old place."""
    spec = bench.image()
    await bench.realise(spec)
    bench.home.rename(bench.tmp / "elsewhere")
    bench.home = bench.tmp / "elsewhere"
    assert await bench.builder().find(spec) is None
    prefix = await bench.realise(spec)
    assert str(prefix).startswith(str(bench.home))


async def test_an_environment_whose_interpreter_is_gone_is_built_again(bench: Bench) -> None:
    spec = bench.image()
    prefix = await bench.realise(spec)
    (prefix / "bin/python").unlink()
    (prefix / "bin/python").symlink_to("/nowhere/python")
    assert await bench.builder().find(spec) is None
    await bench.realise(spec)
    assert await bench.builder().find(spec) is not None


_VICTIM = """
import asyncio, os, sys
from pathlib import Path
from qwend.adapters.pip_settings import IndexSettings
from qwend.adapters.venv import VenvBuilder
from qwend.model.image import load_image

builder = VenvBuilder(Path(sys.argv[1]), IndexSettings(find_links=[sys.argv[3]], no_index=True))
asyncio.run(builder.realise(load_image(sys.argv[2], "cpu"), lambda event: None))
"""


async def _output(*argv: str | Path) -> str:
    """What a program prints; one that fails fails the test."""
    child = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    said, _ = await child.communicate()
    assert child.returncode == 0
    return said.decode()


async def _next(descriptor: int) -> bytes:
    """What comes next through a fifo, b"" when its last writer is gone; half a minute of nothing fails."""
    ready = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ready.set)
    try:
        async with asyncio.timeout(30):
            await ready.wait()
        return os.read(descriptor, 1000)
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)


async def test_a_build_killed_half_way_is_never_finished_and_its_orphan_holds_off_the_next(
    bench: Bench,
) -> None:
    """The script tells by one fifo that it runs and waits at another: no clock decides."""
    told, go, runs = bench.tmp / "told", bench.tmp / "go", bench.tmp / "runs"
    os.mkfifo(told)
    os.mkfifo(go)
    script = f"""
if [ -e half-made ]; then echo resumed >>"{runs}"; exit; fi
touch half-made
echo begun >>"{runs}"
echo up >"{told}"
read -r _ <"{go}"
"""
    spec = bench.image(build=script)
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _VICTIM, str(bench.home), spec.folder, str(bench.wheels),
        env={**bench.environ, "PYTHONPATH": str(ROOT / "daemon")},
    )  # fmt: skip
    reader = os.open(told, os.O_RDWR | os.O_NONBLOCK)
    assert await _next(reader) == b"up\n"
    os.close(reader)
    victim.send_signal(signal.SIGKILL)
    await victim.wait()

    assert await bench.builder().find(spec) is None
    with pytest.raises(QwendError, match="is being built"):
        await bench.builder().remove(spec.key)  # the script lives on and has the lock
    next_one = asyncio.create_task(bench.builder().realise(spec, bench.events.append))
    starter = os.open(go, os.O_RDWR | os.O_NONBLOCK)  # holds the word until the script reads it
    os.write(starter, b"go\n")
    realised = await next_one
    os.close(starter)
    assert runs.read_text() == "begun\nresumed\n"  # in the folder that the first one left
    assert await bench.builder().verify(spec) == []
    assert realised.kind == "venv"


async def test_a_cancelled_build_ends_its_programs(bench: Bench) -> None:
    """Both processes of the script hold a fifo open: its end is their end."""
    fifo = bench.tmp / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    spec = bench.image(build=f'exec 3>"{fifo}"; echo up >&3; sleep 600 & wait\n')
    task = asyncio.create_task(bench.builder().realise(spec, bench.events.append))
    assert await _next(reader) == b"up\n"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _next(reader) == b""
    os.close(reader)
    assert await bench.builder().find(spec) is None


async def test_a_flavour_with_a_build_of_its_own_is_made_by_that_alone(bench: Bench) -> None:
    (bench.tmp / "image").mkdir()
    (bench.tmp / "image" / "own.sh").write_text('echo "$OPT_CARDS" >"$PREFIX/own"\n')
    spec = bench.image(
        build='echo shared >"$PREFIX/shared"\n',
        more='[flavours.cpu.build]\nscript = "own.sh"\noutputs = ["own"]\n'
        '[flavours.cpu.build.options.cards]\ntype = "string"\ndefault = "70;80"\nhelp = "which"',
    )
    prefix = await bench.realise(spec)
    assert (prefix / "own").read_text() == "70;80\n"
    assert not (prefix / "shared").exists()
