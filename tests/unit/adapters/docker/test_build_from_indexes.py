"""Package indexes of a test's own: behind a company's certificate, and with what a lock does not name."""

# ruff: noqa: ASYNC221 (a test has its loop to itself)

from __future__ import annotations

import contextlib
import functools
import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.adapters.wheelhouse import make_image, make_sdist, make_wheel

from qwend.adapters.pip_settings import IndexSettings
from qwend.effects import Progress
from qwend.errors import QwendError
from qwend.model.image import load_image

from .conftest import MakeBuilder

pytestmark = pytest.mark.docker

LOOKS = """
if grep -rlF "MARK" / --exclude-dir=proc --exclude-dir=sys --exclude-dir=run --exclude-dir=build; then
    echo "build.sh: an earlier step left the certificate" >&2; exit 3
fi
grep -qF "MARK" /run/secrets/ca
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with `ca.pem`, a company's root, and `leaf.pem`, a server's certificate by it with its key."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    new = ["-newkey", "rsa:2048", "-nodes", "-days", "2"]
    for arguments in (
        ["req", "-x509", *new, "-subj", "/CN=a company", "-keyout", "ca.key", "-out", "ca.pem"],
        ["req", *new[:3], "-subj", "/CN=127.0.0.1", "-keyout", "leaf.key", "-out", "leaf.csr"],
        ["x509", "-req", "-days", "2", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
         "-extfile", "san", "-out", "leaf.pem"],
    ):  # fmt: skip
        subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True)
    with (folder / "leaf.pem").open("a") as file:
        file.write((folder / "leaf.key").read_text())
    return folder


@contextlib.contextmanager
def served(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of an index with the pages of a folder."""
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """The address of an index without TLS; its folder is `index`."""
    with served(tmp_path / "index") as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def mirror(tmp_path: Path, certificates: Path) -> Iterator[str]:
    """The address of an index over TLS; its folder is `index`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "leaf.pem")
    with served(tmp_path / "index", context) as port:
        yield f"https://127.0.0.1:{port}"


def ignore(_: Progress) -> None: ...


async def test_a_companys_certificate_opens_its_index_to_a_build_and_lies_in_no_layer(
    make_builder: MakeBuilder, tmp_path: Path, engine: Any, certificates: Path, mirror: str
) -> None:
    mark = (certificates / "ca.pem").read_text().splitlines()[5]
    name = f"of_the_company_{tmp_path.parent.name.replace('-', '_')}"  # no other run's, whose wheel uv would keep
    page = tmp_path / "index" / name.replace("_", "-")
    digest = make_wheel(page, name, "1.0", f"VALUE = {mirror!r}\n")
    folder = make_image(tmp_path / "image", {name: ("1.0", digest)}, build=LOOKS.replace("MARK", mark))
    spec = load_image(folder, "cpu")
    index = IndexSettings(extra_index=[mirror])

    with pytest.raises(QwendError, match=r"certificate|UnknownIssuer") as refused:
        await make_builder(settings=index).realise(spec, ignore)
    assert "ca" in (refused.value.hint or "")

    trusting = IndexSettings(extra_index=[mirror], ca=str(certificates / "ca.pem"))
    made = await make_builder(settings=trusting).realise(spec, ignore)
    asked = ["docker", "run", "--rm", "--network", "none", made.location]
    said = subprocess.run(
        [*asked, "python", "-c", f"import {name} as m; print(m.VALUE)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == mirror
    layers = subprocess.run(["docker", "save", made.location], capture_output=True, check=True).stdout
    assert mark.encode() not in layers
    assert mirror in said.stdout and mirror.encode() not in str(engine.history(made.location)).encode()


async def test_a_source_archive_is_built_by_what_the_build_lock_names_and_by_nothing_else(
    make_builder: MakeBuilder, tmp_path: Path, index: str
) -> None:
    run = tmp_path.parent.name.replace("-", "_")
    source, tool, other = (f"{what}_{run}" for what in ("built", "tool", "other"))

    def there(name: str) -> Path:
        return tmp_path / "index" / name.replace("_", "-")

    project = (
        f'[build-system]\nrequires = ["{tool}"]\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{source}"\nversion = "1.0"\n'
    )
    pins = {source: ("1.0", make_sdist(there(source), source, {"pyproject.toml": project}))}
    make_wheel(there(tool), tool, "1.0")
    locked = {other: ("1.0", make_wheel(there(other), other, "1.0"))}
    builder = make_builder(settings=IndexSettings(extra_index=[index]))

    without = make_image(tmp_path / "without", pins)
    with pytest.raises(QwendError, match=rf"no {source.replace('_', '-')}==1\.0 for this platform"):
        await builder.realise(load_image(without, "cpu"), ignore)
    unnamed = make_image(tmp_path / "unnamed", pins, build_pins=locked)
    with pytest.raises(QwendError, match=tool.replace("_", "-")) as refused:
        await builder.realise(load_image(unnamed, "cpu"), ignore)
    assert "hash" in refused.value.message
