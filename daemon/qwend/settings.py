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
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from qwend import paths
from qwend.errors import UsageError

RUNTIMES = ("auto", "docker", "native", "kubernetes")
PORT_RANGE = (18100, 18999)
"""Below every system's ephemeral range (Linux 32768-60999, macOS and IANA 49152-65535), so that no outgoing
connection ever sits on one of them, and below Kubernetes' node ports (30000-32767); above the ports that need
privileges and those that development servers use by habit (3000 to 11434)."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_RANGE = re.compile(r"(\d{1,5})\s*-\s*(\d{1,5})")
_URL = re.compile(r"https?://[^\s/]+\S*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ARCHITECTURES = re.compile(r"({0})(;{0})*".format(r"[0-9]{2,3}[af]?(-real|-virtual)?"))


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


class _Wrong(Exception):
    """A value is none of its key; the message says what one is."""


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

    def _table(self, table: str, values: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in values.items() if isinstance(values, dict) else ():
            if name in _TABLES[table]:
                self._take(found, _TABLES[table], table, name, value)
            else:
                self._unknown(f"{table}.{name}", [f"{table}.{key}" for key in _TABLES[table]])
        return found

    def _take(
        self, into: dict[str, Any], keys: Mapping[str, _Check], table: str, name: str, value: Any
    ) -> None:
        key = f"{table}.{name}" if table else name
        try:
            into[name] = keys[name](value, os.path.dirname(self._path))
        except _Wrong as wrong:
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


_Check = Callable[[Any, str], Any]


def _text(value: Any, folder: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise _Wrong(f"a text in quotes, not {value!r}")
    return value


def _texts(value: Any, folder: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _Wrong(f'a list of texts (["…"]), not {value!r}')
    return tuple(_text(item, folder) for item in value)


def _bool(value: Any, folder: str) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(f"true or false, not {value!r}")
    return value


def _seconds(value: Any, folder: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _Wrong(f"a number of seconds, at least 1, not {value!r}")
    return value


def _url(value: Any, folder: str) -> str:
    if not isinstance(value, str) or not _URL.fullmatch(value):
        raise _Wrong(f"an address that begins with https:// (or http://), not {value!r}")
    return value.rstrip("/")


def _file(value: Any, folder: str) -> str:
    path = os.path.join(folder, os.path.expanduser(_text(value, folder)))
    if not os.path.isfile(path):
        raise _Wrong(f"there is no file {path}")
    return os.path.abspath(path)


def _places(value: Any, folder: str) -> tuple[str, ...]:
    """Wheelhouses: an address stays, a path becomes absolute."""
    return tuple(
        item if "://" in item else os.path.abspath(os.path.join(folder, os.path.expanduser(item)))
        for item in _texts(value, folder)
    )


def _digest(value: Any, folder: str) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise _Wrong(f"sha256: and 64 hexadecimal digits, not {value!r}")
    return value


def _architectures(value: Any, folder: str) -> str:
    """As CMAKE_CUDA_ARCHITECTURES takes them. Its words native and all are no answer: a build sees no card."""
    if not isinstance(value, str) or not _ARCHITECTURES.fullmatch(value):
        raise _Wrong(
            f'compute capabilities without their dot, such as "89-real" or "86-real;89-real", not {value!r}'
        )
    return value


def _bases(value: Any, folder: str) -> dict[str, tuple[str, str | None]]:
    """Each is pinned: by its digest, or a local one by its id."""
    example = '{ollama = {base = "registry.example/ollama@sha256:…"}}'
    if not isinstance(value, dict):
        raise _Wrong(f"a table such as {example}, not {value!r}")
    found = {}
    for name, said in value.items():
        if not isinstance(said, dict) or not {"base"} <= said.keys() <= {"base", "base_id"}:
            raise _Wrong(f"{name}: base and, of a local one, base_id, as in {example}")
        reference, id_ = _text(said["base"], folder), said.get("base_id")
        if id_ is None and not re.search(r"@sha256:[0-9a-f]{64}\Z", reference):
            raise _Wrong(
                f"{name}: a base with its digest (@sha256:…), or one of this machine with its base_id"
            )
        found[name] = (reference, None if id_ is None else _digest(id_, folder))
    return found


def _runtime(value: Any, folder: str) -> str:
    if value not in RUNTIMES:
        from qwend.core.suggest import did_you_mean

        raise _Wrong(f"one of {', '.join(RUNTIMES)}, not {value!r}{did_you_mean(str(value), RUNTIMES)}")
    return str(value)


def _ports(value: Any, folder: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _Wrong(f'a range of ports such as "{PORT_RANGE[0]}-{PORT_RANGE[1]}", not {value!r}')
    first, last = int(match[1]), int(match[2])
    if not 1024 <= first <= last <= 65535:
        raise _Wrong(f"ports from 1024 to 65535, the lower first, not {value!r}")
    return first, last


def _bytes(value: Any, folder: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or not float(match[1]):
        raise _Wrong(f'a size such as "200 GiB" or "500 GB", not {value!r}')
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2].lower() or " "))


_TOP: dict[str, _Check] = {"runtime": _runtime, "port_range": _ports}
_TABLES: dict[str, dict[str, _Check]] = {
    "hub": {"huggingface": _url, "modelscope": _url},
    "images": {
        "index": _text,
        "extra_index": _texts,
        "find_links": _places,
        "trusted_hosts": _texts,
        "ca": _file,
        "proxy": _text,
        "timeout": _seconds,
        "no_index": _bool,
        "python_downloads": _bool,
        "base": _text,
        "base_id": _digest,
        "cuda_architectures": _architectures,
        "bases": _bases,
    },
    "store": {"quota": _bytes},
}
