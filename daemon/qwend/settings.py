"""`qwend.toml`: what the user settles once for every recipe.

    runtime = "auto"                    # auto, docker, native or kubernetes, where a recipe says nothing
    port_range = "18100-18999"          # services without a `port:` get one of these

    [hub]
    huggingface = "https://hub.example" # endpoints of mirrors; HF_ENDPOINT and MODELSCOPE_DOMAIN count too
    modelscope = "https://hub.example"

    [images]                            # before pip's and uv's own settings, which are honoured as well
    index = "https://index.example/simple"
    extra_index = ["https://wheels.example/simple"]
    find_links = ["/srv/wheelhouse"]
    trusted_hosts = []
    ca = "company.pem"                  # trusted besides the usual roots; relative to this file
    proxy = "http://proxy.example:3128"
    timeout = 30                        # seconds
    no_index = false
    python_downloads = true             # may uv fetch a Python where none fits?
    base = "registry.example/debian:bookworm-slim"
    base_id = "sha256:…"                # of a local base, checked before a build
    cuda_architectures = "89-real"      # what llama.cpp is compiled for; left out: every card that its flavour serves
                                        # in place of bases that images have of their own, by the image's name:
    bases = {ollama = {base = "registry.example/ollama@sha256:…"}}

    [store]
    quota = "200 GiB"                   # no new artifact is begun while the store takes more

A file that is not there is an empty one (but not one that QWEND_CONFIG names). All mistakes are told at once, with
their lines.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from qwend import paths
from qwend import setting_values as values
from qwend.errors import UsageError
from qwend.setting_values import PORT_RANGE


class Hub(msgspec.Struct, frozen=True):
    """Endpoints of the model hubs; None is the hub's own."""

    huggingface: str | None = None
    modelscope: str | None = None


class Images(msgspec.Struct, frozen=True):
    """Where packages come from and what container images are built on. None and empty: nobody said."""

    index: str | None = None
    extra_index: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    ca: str | None = None
    proxy: str | None = None
    timeout: int | None = None
    no_index: bool = False
    python_downloads: bool = True
    base: str | None = None
    base_id: str | None = None
    cuda_architectures: str | None = None
    bases: Mapping[str, tuple[str, str | None]] = {}
    """Reference and id of what stands for the own base of an image, by the image's name."""


class Settings(msgspec.Struct, frozen=True):
    """All of qwend.toml. `port_range` includes both ends; `store_quota` in bytes, None: no limit."""

    runtime: str = "auto"
    port_range: tuple[int, int] = PORT_RANGE
    hub: Hub = Hub()
    images: Images = Images()
    store_quota: int | None = None
    source: str | None = None
    """The file that was read, if there was one."""


def load(path: str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of `path` (default: `paths.config`). UsageError lists everything that is wrong with it."""
    named = path is None and (os.environ if environ is None else environ).get("QWEND_CONFIG")
    path = path or paths.config(environ)
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except FileNotFoundError:
        if named:
            hint = "write it, or unset QWEND_CONFIG"
            message = "QWEND_CONFIG names this file, and it is not there"
            raise UsageError(message, where=path, code="settings", hint=hint) from None
        return Settings()
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror}", where=path, code="settings") from None
    return parse(data, path)


def parse(data: bytes, path: str) -> Settings:
    """The settings that a file's content says."""
    import tomllib

    try:
        text = data.decode("utf-8")
        tree = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UsageError(f"not UTF-8 text: {error.reason}", where=path, code="settings") from None
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        message = str(error).partition(" (at ")[0]
        where = f"{path}:{at[1]}:{at[2]}" if at else path
        hint = 'it is TOML: a text stands in quotes (runtime = "native"), a table begins with its [name]'
        raise UsageError(
            f"{message[:1].lower()}{message[1:]}", where=where, code="settings", hint=hint
        ) from None
    reader = _Reader(text, path)
    settings = reader.settings(tree)
    if reader.problems:
        details = tuple(reader.problems) if len(reader.problems) > 1 else ()
        first = reader.problems[0]
        raise UsageError(first.message, where=first.where, hint=first.hint, code="settings", details=details)
    return settings


class _Reader:
    def __init__(self, text: str, path: str) -> None:
        self._lines = text.splitlines()
        self._path = path
        self.problems: list[UsageError] = []

    def settings(self, tree: dict[str, Any]) -> Settings:
        top: dict[str, Any] = {}
        for name, value in tree.items():
            if name in _TABLES and not isinstance(value, dict):
                self._problem(f"{name} is a table: write [{name}]", name)
            elif name not in _TABLES and name not in _TOP:
                self._unknown(name, [*_TABLES, *_TOP])
            elif name in _TOP:
                self._take(top, _TOP, "", name, value)
        tables = {name: self._table(name, tree.get(name, {})) for name in _TABLES}
        return Settings(
            **top,
            hub=Hub(**tables["hub"]),
            images=Images(**tables["images"]),
            store_quota=tables["store"].get("quota"),
            source=self._path,
        )

    def _table(self, table: str, said: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in said.items() if isinstance(said, dict) else ():
            if name in _TABLES[table]:
                self._take(found, _TABLES[table], table, name, value)
            else:
                self._unknown(f"{table}.{name}", [f"{table}.{key}" for key in _TABLES[table]])
        return found

    def _take(
        self, into: dict[str, Any], keys: Mapping[str, values.Check], table: str, name: str, value: Any
    ) -> None:
        key = f"{table}.{name}" if table else name
        try:
            into[name] = keys[name](value, os.path.dirname(self._path))
        except values.Wrong as wrong:
            self._problem(f"{key}: {wrong}", key)

    def _unknown(self, key: str, known: list[str]) -> None:
        from qwend.core.suggest import did_you_mean

        bare = [name.rpartition(".")[2] for name in known]
        self._problem(
            f"unknown setting {key}{did_you_mean(key.rpartition('.')[2], bare)}", key, ", ".join(known)
        )

    def _problem(self, message: str, key: str, known: str = "") -> None:
        hint = f"there are {known}" if known else None
        self.problems.append(UsageError(message, where=self._where(key), hint=hint, code="settings"))

    def _where(self, key: str) -> str:
        """`file:line:column` of a key. The parser of the library tells no positions: it is looked for."""
        table, _, name = key.rpartition(".")
        current = ""
        for number, line in enumerate(self._lines, 1):
            if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line):
                current = header[1]
                if key == current:
                    return f"{self._path}:{number}:{line.index('[') + 1}"
            elif current == table and (found := re.match(rf"\s*([\"']?){re.escape(name)}\1\s*[.=]", line)):
                return f"{self._path}:{number}:{len(line) - len(line.lstrip()) + 1}" if found else self._path
        return self._path


_TOP: dict[str, values.Check] = {"runtime": values.runtime, "port_range": values.ports}
_TABLES: dict[str, dict[str, values.Check]] = {
    "hub": {"huggingface": values.url, "modelscope": values.url},
    "images": {
        "index": values.text,
        "extra_index": values.texts,
        "find_links": values.places,
        "trusted_hosts": values.texts,
        "ca": values.file,
        "proxy": values.text,
        "timeout": values.seconds,
        "no_index": values.truth,
        "python_downloads": values.truth,
        "base": values.text,
        "base_id": values.digest,
        "cuda_architectures": values.architectures,
        "bases": values.bases,
    },
    "store": {"quota": values.size},
}
