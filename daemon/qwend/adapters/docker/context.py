"""The build context of an image: what the Dockerfile is given, laid out in a folder of its own.

Everything in it follows from the image's folder and from the wheels that the user's own folders hold, and
nothing of it from mirrors or certificates: those come as secrets, so that they reach no layer and no cache key.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from qwend.adapters.docker.sbom import sbom
from qwend.adapters.locks import Pin, canonical, read_lock
from qwend.adapters.package_environment import pip_environment, uv_environment
from qwend.adapters.pip_settings import IndexSettings
from qwend.errors import UsageError
from qwend.model.image import ImageSpec, chosen_flavour, input_files
from qwend.model.image_file import Flavour, ImageFile, overlay_files, python_minors, read_image_file

BASE = "debian:bookworm-slim@sha256:96e378d7e6531ac9a15ad505478fcc2e69f371b10f5cdf87857c4b8188404716"
"""The default base image; `[images] base` of qwend.toml takes another."""

LABEL = "org.qwend.image."
_TOOLS = ("uv.lock", "apt-install", "install-uv", "packages", "assemble.py")
_WHEELHOUSE = "/wheelhouse"
_SECRET_LIMIT = 500_000
"""Bytes that BuildKit takes for one secret."""


class Context(msgspec.Struct, frozen=True):
    """A folder that is ready to be built, and what goes on the command line with it."""

    folder: str
    arguments: dict[str, str]
    """Build arguments, without BASE."""
    labels: dict[str, str]


def lay_out(spec: ImageSpec, folder: Path, find_links: list[str]) -> Context:
    """Writes the context of `spec` into `folder`, anew. Blocking."""
    source = Path(spec.folder)
    image = read_image_file(source)
    flavour = chosen_flavour(image, spec.flavour)
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("tools", "locks", "wheelhouse", "build", "overlay", "record"):
        (folder / name).mkdir(parents=True)
        (folder / name / ".keep").touch()  # an empty folder does not travel
    for name, data in tools().items():
        (folder / "tools" / name).write_bytes(data)
    inputs = input_files(source, image, spec.flavour)
    for role, path in inputs.items():
        if role.endswith("lock"):
            shutil.copyfile(path, folder / "locks" / role)
    _lay_build(spec, image, folder / "build")
    for name, path in overlay_files(source, spec.flavour).items():
        (folder / "overlay" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / "overlay" / name)
    pins = read_lock(inputs["lock"])
    record = {"name": spec.name, "flavour": spec.flavour, "digest": spec.digest, "options": spec.options}
    (folder / "record" / "qwend-image.json").write_text(json.dumps(record, sort_keys=True))
    (folder / "record" / "sbom.cdx.json").write_text(sbom(spec, image, pins))
    _gather_wheels(pins, find_links, folder / "wheelhouse")
    (folder / "Dockerfile").write_text(dockerfile(spec, image))
    return Context(str(folder), arguments(spec, image, flavour), labels(spec, image, pins))


def dockerfile(spec: ImageSpec, image: ImageFile) -> str:
    """The image's own Dockerfile, or the one that serves every image; then what the image says of its process."""
    own = Path(spec.folder) / "Dockerfile"
    text = own.read_text("utf-8") if own.is_file() else _packaged("Dockerfile").decode()
    text += (
        "ENTRYPOINT []\n" if spec.base else ""
    )  # that of the program in it would come before every command
    text += "".join(f"ENV {name}={_quoted(value)}\n" for name, value in sorted(spec.env.items()))
    return text + (f"CMD {json.dumps(image.entry)}\n" if image.entry else "")


def tools() -> dict[str, bytes]:
    """The files that the Dockerfile's steps run."""
    return {name: _packaged(name) for name in _TOOLS}


def labels(spec: ImageSpec, image: ImageFile, pins: list[Pin]) -> dict[str, str]:
    """What the image says of itself."""
    wanted = {
        canonical(re.split(r"[=<>!~\[; ]", require, maxsplit=1)[0])
        for require in chosen_flavour(image, spec.flavour).requires
    }
    versions = {pin.name: pin.version for pin in pins if pin.name in wanted}
    versions |= {source.package: source.version for source in image.sources}
    return {
        LABEL + "name": spec.name,
        LABEL + "flavour": spec.flavour,
        LABEL + "digest": spec.digest,
        LABEL + "lock": lock_digest(spec),
        LABEL + "versions": json.dumps(versions, sort_keys=True),
        LABEL + "options": json.dumps(spec.options, sort_keys=True),
        "org.opencontainers.image.title": f"qwend/{spec.name}",
        "org.opencontainers.image.description": image.summary,
        "org.opencontainers.image.licenses": image.licence,
        "org.opencontainers.image.version": spec.version,
    }


def lock_digest(spec: ImageSpec) -> str:
    """sha256 of the lock file as it is now."""
    source = Path(spec.folder)
    path = source / chosen_flavour(read_image_file(source), spec.flavour).lock
    return hashlib.sha256(path.read_bytes()).hexdigest()


def settings_secret(settings: IndexSettings) -> str:
    """The user's package settings as a shell file. Folders of wheels are in the context; indexes that are
    folders of this machine cannot be seen from a build."""
    if settings.index and _is_local(settings.index):
        raise UsageError(
            f"the package index {settings.index} is a folder, which a container build cannot see",
            code="local-index",
            hint="name an http index, or put the wheels into a folder of [images] find_links",
        )
    shown = msgspec.structs.replace(
        settings,
        extra_index=[url for url in settings.extra_index if not _is_local(url)],
        find_links=[link for link in settings.find_links if not _is_local(link)],
        ca="/run/secrets/ca" if settings.ca else None,
        origin=dict.fromkeys(settings.origin, "qwend"),
    )
    found = {**uv_environment(shown, {}), **pip_environment(shown, {})}
    if settings.proxy:
        found |= dict.fromkeys(("http_proxy", "https_proxy"), settings.proxy)
    if settings.ca:
        found |= {"REQUESTS_CA_BUNDLE": "/run/secrets/ca", "CURL_CA_BUNDLE": "/run/secrets/ca"}
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(found.items()))


def check_ca(path: str) -> None:
    """UsageError where the certificates are more than BuildKit takes for a secret."""
    size = os.path.getsize(path)
    if size > _SECRET_LIMIT:
        raise UsageError(
            f"{path} has {size} bytes; a build takes certificates of at most {_SECRET_LIMIT}",
            hint="[images] ca may name a file with your company's own certificates only",
        )


def arguments(spec: ImageSpec, image: ImageFile, flavour: Flavour) -> dict[str, str]:
    """Build arguments, without BASE."""
    build = list(image.system.build)
    if flavour.build or image.build:
        build.append("ccache")  # a compile that was cut off goes on where it was
    return {
        "RUN_PACKAGES": " ".join(image.system.run),
        "BUILD_PACKAGES": " ".join(build),
        "MINORS": " ".join(python_minors(spec.python)),
        "TORCH_BACKEND": flavour.torch_backend or "",
    }


def _lay_build(spec: ImageSpec, image: ImageFile, folder: Path) -> None:
    build = image.build_of(spec.flavour)
    plan: dict[str, Any] = {
        "flavour": spec.flavour,
        "network": spec.network_at_build,
        "options": {f"OPT_{name.upper()}": _option(value) for name, value in sorted(spec.options.items())},
        "outputs": build.outputs if build else [],
        "sources": msgspec.to_builtins(image.sources),
    }
    (folder / "plan.json").write_text(json.dumps(plan, indent=1, sort_keys=True))
    if build is not None:
        shutil.copyfile(Path(spec.folder) / build.script, folder / "build.sh")


def _gather_wheels(pins: list[Pin], find_links: list[str], target: Path) -> None:
    """Those wheels of the user's folders whose content a lock names: links where the disk allows."""
    wanted = {f"{pin.name}=={pin.version}": set(pin.hashes) for pin in pins}
    for link in find_links:
        folder = Path(link.removeprefix("file://")).expanduser()
        if not _is_local(link) or not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            name, _, rest = path.name.partition("-")
            version = rest.split("-", 1)[0]
            hashes = wanted.get(f"{canonical(name)}=={version}")
            if not path.name.endswith(".whl") or hashes is None or (target / path.name).exists():
                continue
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found in hashes:
                try:
                    os.link(path, target / path.name)
                except OSError:
                    shutil.copyfile(path, target / path.name)


def _is_local(address: str) -> bool:
    return address.startswith("file:") or "://" not in address


def _option(value: object) -> str:
    return ("ON" if value else "OFF") if isinstance(value, bool) else str(value)


def _quoted(value: str) -> str:
    """A value of ENV: in double quotes, with what the Dockerfile language would read in them escaped."""
    return '"' + re.sub(r'([\\"$])', r"\\\1", value) + '"'


def _packaged(name: str) -> bytes:
    return (resources.files("qwend.adapters.docker") / "oci" / name).read_bytes()


def note_of(spec: ImageSpec) -> str:
    """What a reader must know of the flavour, for an error."""
    return chosen_flavour(read_image_file(Path(spec.folder)), spec.flavour).note
