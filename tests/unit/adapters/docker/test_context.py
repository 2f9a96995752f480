"""What a build is given, and what it is not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from qwend.adapters.docker.context import LABEL, lay_out, settings_secret
from qwend.adapters.docker.verify import compare
from qwend.adapters.pip_settings import IndexSettings
from qwend.errors import UsageError
from qwend.model.image import load_image

from .images import tiny_image


def test_the_context_holds_the_image_and_says_what_it_is(tmp_path: Path) -> None:
    spec = tiny_image(tmp_path / "tiny", loud=True)
    context = lay_out(spec, tmp_path / "context", [])
    folder = tmp_path / "context"
    plan = json.loads((folder / "build" / "plan.json").read_text())
    assert plan["options"] == {"OPT_LOUD": "ON"}
    assert plan["outputs"] == ["bin/tiny"]
    assert (folder / "overlay" / "share" / "note.txt").read_text() == "hello\n"
    assert (folder / "locks" / "lock").exists()
    assert context.labels[LABEL + "digest"] == spec.digest
    assert context.labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    text = (folder / "Dockerfile").read_text()
    assert 'ENV GREETING="say \\"hi\\" to \\$USER"\n' in text
    assert text.endswith('CMD ["tiny"]\n')


def test_an_image_folder_with_its_own_dockerfile_is_built_by_that(tmp_path: Path) -> None:
    spec = tiny_image(tmp_path / "tiny")
    (tmp_path / "tiny" / "Dockerfile").write_text("FROM scratch\n")
    lay_out(spec, tmp_path / "context", [])
    assert (tmp_path / "context" / "Dockerfile").read_text().startswith("FROM scratch\n")


def test_what_compiles_does_not_change_with_what_only_describes(tmp_path: Path) -> None:
    one = tiny_image(tmp_path / "one")
    other = tiny_image(tmp_path / "other", more='note = "x"\n')
    lay_out(one, tmp_path / "a", [])
    lay_out(other, tmp_path / "b", [])
    assert (tmp_path / "a/build/plan.json").read_bytes() == (tmp_path / "b/build/plan.json").read_bytes()


def test_a_wheel_of_the_users_folder_comes_along_only_if_the_lock_names_its_content(tmp_path: Path) -> None:
    spec = tiny_image(tmp_path / "tiny")
    wheelhouse = tmp_path / "wheels"
    wheelhouse.mkdir()
    good, bad = (
        "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl",
        "torch-2.13.0+cpu-cp312-cp312-linux_x86_64.whl",
    )
    (wheelhouse / good).write_bytes(b"good")
    (wheelhouse / bad).write_bytes(b"bad")
    (wheelhouse / "other-1.0-py3-none-any.whl").write_bytes(b"other")
    digest = hashlib.sha256(b"good").hexdigest()
    (tmp_path / "tiny" / "cpu.lock").write_text(f"torch==2.13.0+cpu \\\n    --hash=sha256:{digest}\n")
    lay_out(spec, tmp_path / "context", [str(wheelhouse), "https://wheels.example/simple"])
    found = sorted(path.name for path in (tmp_path / "context" / "wheelhouse").iterdir())
    assert found == [".keep", good]


def test_settings_reach_the_build_as_a_secret_without_paths_of_this_machine() -> None:
    settings = IndexSettings(
        index="https://me:s3cret@index.example/simple",
        extra_index=["file:///opt/mirror/simple", "https://extra.example/simple"],
        find_links=["/srv/wheels", "https://wheels.example/"],
        ca="/etc/company.pem",
        proxy="http://proxy.example:3128",
        origin={"index": "pip", "extra_index": "pip", "find_links": "uv", "ca": "qwend", "proxy": "qwend"},
    )
    text = settings_secret(settings)
    assert "export UV_DEFAULT_INDEX=https://me:s3cret@index.example/simple\n" in text
    assert "export PIP_INDEX_URL=https://me:s3cret@index.example/simple\n" in text
    assert "export https_proxy=http://proxy.example:3128\n" in text
    assert "export SSL_CERT_FILE=/run/secrets/ca\n" in text
    assert "https://wheels.example/" in text
    assert not [path for path in ("/srv/wheels", "/opt/mirror", "/etc/company.pem") if path in text]


def test_an_index_that_is_a_folder_is_refused_with_a_way_out() -> None:
    with pytest.raises(UsageError, match="a container build cannot see"):
        settings_secret(IndexSettings(index="file:///srv/simple", origin={"index": "qwend"}))


def test_the_bill_of_materials_lists_what_the_lock_locks(tmp_path: Path) -> None:
    spec = tiny_image(tmp_path / "tiny")
    digest = "a" * 64
    (tmp_path / "tiny" / "cpu.lock").write_text(
        f"idna==3.20 \\\n    --hash=sha256:{digest}\ntorch==2.13.0+cpu ; python_version >= '3.11' \\\n"
        f"    --hash=sha256:{digest} \\\n    --hash=sha256:{'b' * 64}\n"
    )
    lay_out(spec, tmp_path / "context", [])
    first = (tmp_path / "context/record/sbom.cdx.json").read_text()
    document = json.loads(first)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    idna, torch = document["components"]
    assert (idna["purl"], idna["hashes"]) == ("pkg:pypi/idna@3.20", [{"alg": "SHA-256", "content": digest}])
    assert torch["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    assert "hashes" not in torch
    assert set(document["dependencies"][0]["dependsOn"]) == {one["bom-ref"] for one in document["components"]}
    lay_out(spec, tmp_path / "context", [])
    assert (tmp_path / "context/record/sbom.cdx.json").read_text() == first


def test_an_image_that_is_its_lock_shows_no_difference() -> None:
    record = {"digest": "d", "packages": {"a": "1"}, "manifests": {"a": "m"}}
    seen = {"record": record, "packages": {"a": {"version": "1", "manifest": "m"}}, "changed": []}
    assert compare(seen, {"a": {"1"}}, "d") == []


def test_every_kind_of_difference_is_told() -> None:
    record = {"digest": "d", "packages": {"a": "1", "b": "1", "gone": "1"}, "manifests": {"a": "m", "b": "m"}}
    packages = {
        "a": {"version": "2", "manifest": "m"},
        "b": {"version": "1", "manifest": "n"},
        "extra": {"version": "9", "manifest": "m"},
    }
    seen = {"record": record, "packages": packages, "changed": ["bin/x is sha256 1, recorded was 2"]}
    assert compare(seen, {"a": {"1"}, "b": {"1"}}, "d") == [
        "package a is 2, the lock says 1",
        "package b came with another list of files",
        "package extra 9 is not in the lock",
        "package gone is missing",
        "bin/x is sha256 1, recorded was 2",
    ]
    assert "holds no record" in compare({**seen, "record": None}, {}, "d")[0]
    assert "made from digest d" in compare(seen, {}, "other")[0]


def test_a_flavour_with_a_build_of_its_own_is_laid_out_with_that(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    before = tiny_image(folder)
    (folder / "own.sh").write_text("echo own\n")
    own = '[flavours.cpu.build]\nscript = "own.sh"\noutputs = ["bin/own"]\n'
    (folder / "image.toml").write_text(f"{(folder / 'image.toml').read_text()}\n{own}")
    spec = load_image(folder, "cpu")
    assert spec.digest != before.digest
    lay_out(spec, tmp_path / "context", [])
    assert (tmp_path / "context" / "build" / "build.sh").read_text() == "echo own\n"
    assert json.loads((tmp_path / "context/build/plan.json").read_text())["outputs"] == ["bin/own"]
