"""pip's and uv's own settings are honoured as they are; qwend.toml comes before them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qwend.adapters.package_environment import ca_bundle, pip_environment, uv_environment, uv_options
from qwend.adapters.pip_settings import IndexSettings, merged_settings
from qwend.errors import UsageError

NOTHING = IndexSettings()


class Machine:
    """Files of an imaginary machine; `settings` reads them and no real one."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = tmp_path / "home"
        self.system = tmp_path / "etc"
        self.prefix = tmp_path / "venv"

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def settings(
        self, own: IndexSettings = NOTHING, *, platform: str = "linux", **environ: str
    ) -> IndexSettings:
        environ.setdefault("XDG_CONFIG_DIRS", str(self.system))
        return merged_settings(
            own, environ, home=self.home, prefix=self.prefix, root=self.system.parent, platform=platform
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_bare_machine_says_nothing(machine: Machine) -> None:
    assert machine.settings() == IndexSettings()


def test_pip_conf_of_the_user_is_read(machine: Machine) -> None:
    text = "[global]\nindex-url = https://mirror/simple\nextra-index-url =\n  https://a/\n  https://b/\ntimeout = 30\n"
    machine.write(machine.home / ".config/pip/pip.conf", text)
    settings = machine.settings()
    assert settings.index == "https://mirror/simple"
    assert settings.extra_index == ["https://a/", "https://b/"]
    assert settings.timeout == 30
    assert settings.origin == {"index": "pip", "extra_index": "pip", "timeout": "pip"}


def test_a_file_nearer_to_the_user_wins_key_by_key(machine: Machine) -> None:
    machine.write(
        machine.system / "pip/pip.conf", "[global]\nindex-url = https://system\ncert = /system.pem\n"
    )
    machine.write(machine.home / ".pip/pip.conf", "[global]\nindex-url = https://legacy\n")
    machine.write(machine.home / ".config/pip/pip.conf", "[global]\nindex-url = https://user\n")
    assert machine.settings().index == "https://user"
    assert machine.settings().ca == "/system.pem"
    machine.write(machine.prefix / "pip.conf", "[global]\nindex-url = https://site\n")
    assert machine.settings().index == "https://site"


def test_the_install_section_and_underscores_count_as_in_pip(machine: Machine) -> None:
    text = (
        "[global]\nfind_links = /one\n[install]\nfind-links = /two /three\n[download]\nfind-links = /four\n"
    )
    machine.write(machine.home / ".config/pip/pip.conf", text)
    assert machine.settings().find_links == ["/two", "/three"]


def test_pips_environment_wins_over_its_files(machine: Machine) -> None:
    machine.write(machine.home / ".config/pip/pip.conf", "[global]\nindex-url = https://file\n")
    settings = machine.settings(PIP_INDEX_URL="https://variable", PIP_FIND_LINKS="/a /b")
    assert (settings.index, settings.find_links) == ("https://variable", ["/a", "/b"])


def test_a_named_pip_file_is_read_and_dev_null_switches_files_off(machine: Machine, tmp_path: Path) -> None:
    machine.write(tmp_path / "named.conf", "[global]\nindex-url = https://named\n")
    machine.write(machine.home / ".config/pip/pip.conf", "[global]\nindex-url = https://user\n")
    assert machine.settings(PIP_CONFIG_FILE=str(tmp_path / "named.conf")).index == "https://named"
    assert machine.settings(PIP_CONFIG_FILE=os.devnull).index is None


def test_a_mac_keeps_pips_file_in_its_library_if_that_folder_is_there(machine: Machine) -> None:
    machine.write(machine.home / ".config/pip/pip.conf", "[global]\nindex-url = https://config\n")
    assert machine.settings(platform="darwin").index == "https://config"
    library = machine.home / "Library/Application Support/pip/pip.conf"
    machine.write(library, "[global]\nindex-url = https://library\n")
    assert machine.settings(platform="darwin").index == "https://library"


def test_uvs_settings_come_before_pips_and_stay_uvs_own(machine: Machine) -> None:
    machine.write(machine.home / ".config/uv/uv.toml", 'index-url = "https://uv"\n')
    settings = machine.settings(PIP_INDEX_URL="https://pip", PIP_EXTRA_INDEX_URL="https://extra")
    assert (settings.index, settings.origin["index"]) == ("https://uv", "uv")
    assert settings.extra_index == ["https://extra"]
    child = uv_environment(settings, {})
    assert "UV_DEFAULT_INDEX" not in child  # uv reads its own file
    assert child["UV_INDEX"] == "https://extra"


def test_uvs_index_tables_name_the_default_and_the_others(machine: Machine) -> None:
    text = """
[[index]]
url = "https://one"
[[index]]
url = "https://default"
default = true
[[index]]
url = "https://only-where-asked"
explicit = true
[pip]
find-links = ["/wheels"]
"""
    machine.write(machine.home / ".config/uv/uv.toml", text)
    settings = machine.settings()
    assert (settings.index, settings.extra_index) == ("https://default", ["https://one"])
    assert settings.find_links == ["/wheels"]
    assert machine.settings(UV_DEFAULT_INDEX="https://variable").index == "https://variable"
    assert machine.settings(UV_NO_CONFIG="1").index is None


def test_names_of_indexes_in_uvs_environment_are_dropped(machine: Machine) -> None:
    settings = machine.settings(UV_INDEX="company=https://one https://two", UV_FIND_LINKS="/a,/b")
    assert settings.extra_index == ["https://one", "https://two"]
    assert settings.find_links == ["/a", "/b"]


def test_qwend_toml_comes_first(machine: Machine) -> None:
    own = IndexSettings(index="https://own", find_links=["/own"], python_downloads=False)
    settings = machine.settings(own, UV_DEFAULT_INDEX="https://uv", PIP_FIND_LINKS="/pip", PIP_CERT="/c.pem")
    assert (settings.index, settings.find_links, settings.ca) == ("https://own", ["/own"], "/c.pem")
    assert not settings.python_downloads
    assert settings.origin == {"index": "qwend", "find_links": "qwend", "ca": "pip"}


@pytest.mark.parametrize(
    ("name", "text"),
    [(".config/pip/pip.conf", "index-url = x\n"), (".config/uv/uv.toml", "index-url = \n")],
)
def test_a_broken_file_is_named(machine: Machine, name: str, text: str) -> None:
    machine.write(machine.home / name, text)
    with pytest.raises(UsageError, match="cannot read the package settings") as caught:
        machine.settings()
    assert caught.value.where == str(machine.home / name)


def test_a_value_of_the_wrong_kind_is_said(machine: Machine) -> None:
    with pytest.raises(UsageError, match="timeout"):
        machine.settings(PIP_TIMEOUT="soon")


def test_a_child_uv_gets_what_it_does_not_read_by_itself(machine: Machine) -> None:
    settings = machine.settings(
        PIP_INDEX_URL="https://pip",
        PIP_FIND_LINKS="/a /b",
        PIP_CERT="/c.pem",
        PIP_PROXY="http://p",
        PIP_TIMEOUT="9",
    )
    child = uv_environment(settings, {"PATH": "/bin", "UV_INDEX_URL": ""})
    assert child["UV_DEFAULT_INDEX"] == "https://pip"
    assert child["UV_FIND_LINKS"] == "/a,/b"
    assert (child["SSL_CERT_FILE"], child["ALL_PROXY"], child["UV_HTTP_TIMEOUT"]) == (
        "/c.pem",
        "http://p",
        "9",
    )
    assert "UV_INDEX_URL" not in child


def test_a_child_pip_gets_uvs_and_qwends_and_reads_its_own(machine: Machine) -> None:
    settings = machine.settings(UV_DEFAULT_INDEX="https://uv", PIP_FIND_LINKS="/pip")
    child = pip_environment(settings, {"PIP_FIND_LINKS": "/pip"})
    assert child["PIP_INDEX_URL"] == "https://uv"
    assert child["PIP_FIND_LINKS"] == "/pip"
    assert child["PIP_CONSTRAINT"] == ""


@pytest.mark.parametrize("make", [uv_environment, pip_environment])
def test_secrets_and_what_would_bend_a_lock_do_not_reach_an_installer(make: object) -> None:
    callers = {
        "HF_TOKEN": "canary",
        "AWS_SECRET_ACCESS_KEY": "canary",
        "VIRTUAL_ENV": "/mine",
        "PYTHONPATH": "/mine",
        "UV_NO_VERIFY_HASHES": "1",
        "UV_PYTHON": "3.8",
        "PIP_TARGET": "/mine",
        "https_proxy": "http://proxy",
        "SSL_CERT_FILE": "/c.pem",
        "UV_CACHE_DIR": "/cache",
    }
    child = make(NOTHING, callers)  # type: ignore[operator]
    assert {"https_proxy", "SSL_CERT_FILE", "UV_CACHE_DIR"} <= child.keys()
    assert not child.keys() & {*list(callers)[:7]}


def test_no_index_is_an_option_since_uv_has_no_variable_for_it(machine: Machine) -> None:
    assert uv_options(machine.settings(PIP_NO_INDEX="true")) == ["--no-index"]
    assert uv_options(machine.settings(PIP_NO_INDEX="false")) == []


def test_a_companys_root_is_trusted_besides_the_usual_ones(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "company.pem").write_text("COMPANY\n")
    settings = machine.settings(IndexSettings(ca=str(tmp_path / "company.pem")))
    bundle = ca_bundle(settings, tmp_path / "images")
    assert bundle is not None
    text = Path(bundle).read_text()
    assert text.endswith("COMPANY\n")
    import ssl

    usual = ssl.get_default_verify_paths().cafile
    assert usual is None or Path(usual).read_text() in text
    assert ca_bundle(machine.settings(PIP_CERT="/c.pem"), tmp_path) == "/c.pem"


def test_a_companys_root_that_is_not_there_is_said(machine: Machine, tmp_path: Path) -> None:
    settings = machine.settings(IndexSettings(ca="/nowhere.pem"))
    with pytest.raises(UsageError, match=r"ca /nowhere\.pem cannot be read"):
        ca_bundle(settings, tmp_path)
