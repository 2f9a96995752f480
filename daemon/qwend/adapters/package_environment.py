"""Environments for child uv and pip processes, from the merged settings (`pip_settings`)."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from qwend.adapters.pip_settings import SPELLINGS, IndexSettings
from qwend.errors import UsageError


def uv_environment(settings: IndexSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` for a child uv: cleared of the caller's own environment, completed by what uv does not read.

    What uv finds by itself (its variables, its files) is left to it. Versions are taken from all indexes
    alike, as pip does: with hashes required, a stranger's package of the same name cannot slip in.
    """
    result = _passed_on(environ)
    result.pop("UV_NO_PROGRESS", None)  # a build reads the bars
    result["UV_INDEX_STRATEGY"] = environ.get("UV_INDEX_STRATEGY", "unsafe-best-match")
    for field, name in _UV_NAMES.items():
        value = getattr(settings, field)
        if value and settings.origin.get(field) in ("qwend", "pip"):
            for other in SPELLINGS[field][0]:
                if other.startswith("UV_"):
                    result.pop(other, None)
            result[name] = _text(value, "," if field == "find_links" else " ")
    return result


def uv_options(settings: IndexSettings) -> list[str]:
    """Arguments of `uv pip` for what has no variable."""
    return ["--no-index"] if settings.no_index else []


def pip_environment(settings: IndexSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` for a child pip; pip's own files still give what is not set here (client certificates …)."""
    result = _passed_on(environ)
    result |= {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_CONSTRAINT": ""}
    for field, name in _PIP_NAMES.items():
        if settings.origin.get(field) in ("qwend", "uv"):
            result[name] = _text(getattr(settings, field))
    return result


def ca_bundle(settings: IndexSettings, folder: Path) -> str | None:
    """The PEM file to trust: a company's root from qwend.toml comes besides the usual ones, in one file.

    UsageError where the named file cannot be read.
    """
    if not settings.ca or settings.origin.get("ca") != "qwend":
        return settings.ca
    try:
        own = Path(settings.ca).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"[images] ca {settings.ca} cannot be read: {error}") from None
    usual = ssl.get_default_verify_paths().cafile
    roots = Path(usual).read_text("utf-8") if usual else ""
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / ".ca.pem"
    bundle.write_text(f"{roots}\n{own}")
    return str(bundle)


def _passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """What an installer needs of the user's environment; tokens and the rest of it stay out of builds."""

    def wanted(name: str) -> bool:
        return name in _KEPT or name.lower() in _PROXIES or name.startswith(_KEPT_PREFIXES)

    return {name: value for name, value in environ.items() if wanted(name) and name not in _BENT}


_KEPT = {
    *("PATH", "HOME", "LANG", "TMPDIR", "NETRC", "DBUS_SESSION_BUS_ADDRESS", "REQUESTS_CA_BUNDLE"),
    *("CURL_CA_BUNDLE", "CC", "CXX", "CUDA_HOME", "SDKROOT", "DEVELOPER_DIR", "LD_LIBRARY_PATH"),
}
_KEPT_PREFIXES = ("UV_", "PIP_", "LC_", "XDG_", "SSL_")
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
_BENT = {
    *("UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_WORKING_DIR"),
    *("UV_TORCH_BACKEND", "UV_EXCLUDE_NEWER", "UV_NO_VERIFY_HASHES", "UV_NO_BUILD_ISOLATION"),
    *("UV_PUBLISH_TOKEN", "UV_PUBLISH_PASSWORD", "PIP_TARGET", "PIP_PREFIX", "PIP_USER"),
    "PIP_REQUIRE_VIRTUALENV",
}
"""What a caller set for its own environment, and what would weaken or bend a lock."""
_UV_NAMES = {
    "index": "UV_DEFAULT_INDEX",
    "extra_index": "UV_INDEX",
    "find_links": "UV_FIND_LINKS",
    "trusted_hosts": "UV_INSECURE_HOST",
    "ca": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
}
_PIP_NAMES = {
    "index": "PIP_INDEX_URL",
    "extra_index": "PIP_EXTRA_INDEX_URL",
    "find_links": "PIP_FIND_LINKS",
    "trusted_hosts": "PIP_TRUSTED_HOST",
    "ca": "PIP_CERT",
    "proxy": "PIP_PROXY",
    "timeout": "PIP_DEFAULT_TIMEOUT",
    "no_index": "PIP_NO_INDEX",
}


def _text(value: object, separator: str = " ") -> str:
    if isinstance(value, list):
        return separator.join(value)
    return str(int(value)) if isinstance(value, bool) else str(value)
