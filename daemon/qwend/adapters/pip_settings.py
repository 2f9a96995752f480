"""Where packages come from: the user's own pip and uv settings, and `[images]` of qwend.toml over them.

pip and uv do not read each other's settings. A machine that is set up for one of them (a company mirror in
`pip.conf`, a wheelhouse in `PIP_FIND_LINKS`, an index in `uv.toml`) is set up for qwend: per setting,
qwend.toml comes first, then uv's environment and files, then pip's.

Sources: pip's "Configuration" page (file locations, `[global]` and command sections, `PIP_*`), uv's
"Configuration files" and "Environment variables" pages.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from qwend.errors import UsageError

Origin = Literal["qwend", "uv", "pip"]

SPELLINGS: dict[str, tuple[list[str], list[str], list[str]]] = {
    # field: (uv environment, uv.toml keys, pip keys)
    "index": (["UV_DEFAULT_INDEX", "UV_INDEX_URL"], ["index-url"], ["index-url"]),
    "extra_index": (["UV_INDEX", "UV_EXTRA_INDEX_URL"], ["extra-index-url"], ["extra-index-url"]),
    "find_links": (["UV_FIND_LINKS"], ["find-links"], ["find-links"]),
    "trusted_hosts": (["UV_INSECURE_HOST"], ["allow-insecure-host"], ["trusted-host"]),
    "ca": (["SSL_CERT_FILE"], ["cert"], ["cert"]),
    "proxy": (["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"], ["https-proxy"], ["proxy"]),
    "timeout": (["UV_HTTP_TIMEOUT"], ["http-timeout"], ["timeout", "default-timeout"]),
    "no_index": ([], ["no-index"], ["no-index"]),
}
_LISTS = {"extra_index", "find_links", "trusted_hosts"}


class IndexSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[images]` of qwend.toml, and the merged result: None and empty mean that nobody said."""

    index: str | None = None
    extra_index: list[str] = []
    find_links: list[str] = []
    trusted_hosts: list[str] = []
    ca: str | None = None
    """A PEM file. From qwend.toml it is trusted *besides* the usual roots, elsewhere instead of them."""
    proxy: str | None = None
    timeout: int | None = None
    """Seconds."""
    no_index: bool = False
    python_downloads: bool = True
    """Whether uv may fetch an interpreter where none on this machine fits."""
    origin: dict[str, Origin] = {}
    """Who set each of the above (of the merged result)."""


def merged_settings(
    own: IndexSettings,
    environ: Mapping[str, str] | None = None,
    *,
    home: Path | None = None,
    prefix: Path | None = None,
    root: Path = Path("/"),
    platform: str = sys.platform,
) -> IndexSettings:
    """`own` completed by uv's and pip's environment and files; a file that does not parse is a UsageError."""
    environ = os.environ if environ is None else environ
    home = home or Path.home()
    pip = _pip_values(environ, _pip_files(environ, home, prefix or Path(sys.prefix), root, platform))
    uv = _uv_values(environ, _uv_files(environ, home, root))
    values: dict[str, Any] = {"python_downloads": own.python_downloads}
    origin: dict[str, Origin] = {}
    for field in SPELLINGS:
        said = getattr(own, field)
        for source, value in (("qwend", said), ("uv", uv.get(field)), ("pip", pip.get(field))):
            if value:
                values[field] = value
                origin[field] = source  # type: ignore[assignment]
                break
    try:
        return msgspec.convert({**values, "origin": origin}, IndexSettings, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"package settings: {error}") from None


def _uv_values(environ: Mapping[str, str], files: list[Path]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for path in reversed(files):
        if path.is_file():
            read = _read(path, tomllib.loads)
            table |= read | read.get("pip", {})
    return _picked(environ, table, ways=(0, 1)) | _uv_indexes(environ, table)


def _uv_indexes(environ: Mapping[str, str], table: dict[str, Any]) -> dict[str, Any]:
    """`[[index]]` of uv.toml, where the environment says nothing of it: the default one and the others."""
    found: dict[str, Any] = {}
    entries = [item for item in table.get("index", []) if "url" in item and not item.get("explicit")]
    default = [item["url"] for item in entries if item.get("default")]
    others = [item["url"] for item in entries if not item.get("default")]
    if default and not any(environ.get(name) for name in SPELLINGS["index"][0]):
        found["index"] = default[0]
    if others and not any(environ.get(name) for name in SPELLINGS["extra_index"][0]):
        found["extra_index"] = others
    return found


def _uv_files(environ: Mapping[str, str], home: Path, root: Path) -> list[Path]:
    """The files that uv reads outside a project, the strongest first."""
    if environ.get("UV_NO_CONFIG"):
        return []
    if given := environ.get("UV_CONFIG_FILE"):
        return [Path(given)]
    user = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    system = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    return [user / "uv/uv.toml", *(Path(one) / "uv/uv.toml" for one in system), root / "etc/uv/uv.toml"]


def _pip_values(environ: Mapping[str, str], files: list[Path]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for section in ("global", "install"):
        for path in files:
            if path.is_file():
                table |= _pip_section(path, section)
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            table[name[4:].lower().replace("_", "-")] = value
    return _picked(environ, table, ways=(2,))


def _pip_files(environ: Mapping[str, str], home: Path, prefix: Path, root: Path, platform: str) -> list[Path]:
    """The files that pip reads, the weakest first: global, user, the environment's, the named one."""
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    if platform == "darwin":
        library = home / "Library/Application Support/pip"
        files = [root / "Library/Application Support/pip/pip.conf", home / ".pip/pip.conf"]
        files.append((library if library.is_dir() else config / "pip") / "pip.conf")
    else:
        system = reversed((environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"))
        files = [*(Path(one) / "pip/pip.conf" for one in system), root / "etc/pip.conf"]
        files += [home / ".pip/pip.conf", config / "pip/pip.conf"]
    return [*files, prefix / "pip.conf", *([Path(named)] if named else [])]


def _pip_section(path: Path, section: str) -> dict[str, str]:
    def parse(text: str) -> dict[str, str]:
        parser = configparser.RawConfigParser()
        parser.read_string(text)
        if not parser.has_section(section):
            return {}
        return {name.lower().replace("_", "-").removeprefix("--"): v for name, v in parser.items(section)}

    return _read(path, parse)


def _read(path: Path, parse: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    try:
        return parse(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, configparser.Error, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"cannot read the package settings: {error}", where=str(path)) from None


def _picked(environ: Mapping[str, str], table: dict[str, Any], ways: tuple[int, ...]) -> dict[str, Any]:
    """Fields that an environment (way 0) or a table of settings (1: uv's, 2: pip's) says."""
    found: dict[str, Any] = {}
    for field, names in SPELLINGS.items():
        for way in ways:
            source: Mapping[str, Any] = environ if way == 0 else table
            said = [source[name] for name in names[way] if source.get(name)]
            if said:
                found[field] = _typed(field, said[0])
                break
    return found


def _typed(field: str, value: Any) -> Any:
    if field in _LISTS:
        separator = r"[\s,]+" if field == "find_links" else r"\s+"
        parts = re.split(separator, value) if isinstance(value, str) else value
        return [re.sub(r"^[\w.-]+=(?=\w+:)", "", str(part)) for part in parts if part]
    if field == "no_index":
        return str(value).lower() in ("1", "true", "yes", "on")
    return str(value).strip()
