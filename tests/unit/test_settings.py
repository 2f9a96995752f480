"""qwend.toml: strict keys, every mistake at once with its line, and an example that is true."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

import pytest

from qwend import settings as room
from qwend.errors import UsageError
from qwend.setting_values import PORT_RANGE
from qwend.settings import Hub, Images, Settings, load, parse


def read(text: str, path: str = "/etc/qwend/qwend.toml") -> Settings:
    return parse(textwrap.dedent(text).encode(), path)


def complaints(text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        read(text)
    return caught.value.lines()


def test_no_file_is_an_empty_one(tmp_path: Path) -> None:
    assert load(str(tmp_path / "qwend.toml")) == Settings()


def test_the_file_is_found_where_the_environment_says(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text('runtime = "native"\n')
    assert load(environ={"QWEND_CONFIG": str(file), "HOME": "/"}).runtime == "native"


def test_the_example_of_the_module_is_a_valid_file_that_names_every_setting(tmp_path: Path) -> None:
    text = textwrap.dedent((inspect.getdoc(room) or "").partition("\n\n")[2].rpartition("\n\n")[0])
    (tmp_path / "company.pem").write_text("")
    settings = read(text.replace("sha256:…", "sha256:" + "0" * 64), str(tmp_path / "qwend.toml"))
    assert settings.images.ca == str(tmp_path / "company.pem")
    assert settings.port_range == PORT_RANGE
    assert settings.store_quota == 200 * 1024**3
    for name in (*Settings.__struct_fields__[:2], *Images.__struct_fields__, *Hub.__struct_fields__, "quota"):
        assert f"{name} =" in text


def test_an_unknown_key_is_told_with_its_line_and_what_was_meant() -> None:
    (line,) = complaints("""
        runtime = "native"
        [images]
        extra-index = ["https://x.example"]
    """)
    assert line.startswith(
        "/etc/qwend/qwend.toml:4:1: unknown setting images.extra-index; did you mean extra_index?"
    )


def test_all_mistakes_are_told_at_once() -> None:
    lines = complaints("""
        runtime = "dcoker"
        port_range = "900-800"
        colour = 1
        [hub]
        huggingface = "hub.example"
        [images]
        timeout = true
        extra_index = "https://x.example"
        ca = "/no/such.pem"
        base_id = "sha256:12"
        cuda_architectures = "native"
        bases = {ollama = {base = "mirror.example/ollama:1"}}
        [store]
        quota = "lots"
    """)
    text = "\n".join(lines)
    assert len(lines) == 11
    assert (
        ":2:1: runtime: one of auto, docker, native, kubernetes, not 'dcoker'; did you mean docker?" in text
    )
    assert ":3:1: port_range: ports from 1024 to 65535" in text
    assert ":4:1: unknown setting colour" in text
    assert ":6:1: hub.huggingface: an address that begins with https://" in text
    assert ":8:1: images.timeout: a number of seconds" in text
    assert ":9:1: images.extra_index: a list of texts" in text
    assert ":10:1: images.ca: there is no file /no/such.pem" in text
    assert ":11:1: images.base_id: sha256: and 64" in text
    assert ":12:1: images.cuda_architectures: compute capabilities without their dot" in text
    assert ":13:1: images.bases: ollama: a base with its digest (@sha256:…), or one of this machine" in text
    assert ":15:1: store.quota: a size such as" in text


@pytest.mark.parametrize("value", ["89-real", "70-real;75-real;90", "120a-real", "86-real;86-virtual"])
def test_architectures_are_taken_as_cmake_writes_them(value: str) -> None:
    assert read(f'[images]\ncuda_architectures = "{value}"').images.cuda_architectures == value


@pytest.mark.parametrize("value", ["", "8.9", "sm_89", "89-real,90", "all", "89; rm -rf /", "89-real;", "٨٩"])
def test_what_is_no_architecture_never_reaches_a_build_script(value: str) -> None:
    assert "images.cuda_architectures" in complaints(f'[images]\ncuda_architectures = "{value}"')[0]


def test_a_syntax_error_has_line_and_column() -> None:
    (line,) = complaints('runtime = "native\n')
    assert line.startswith("/etc/qwend/qwend.toml:1:")


def test_a_table_where_a_value_belongs_and_the_reverse_are_told() -> None:
    assert "hub is a table: write [hub]" in complaints('hub = "x"')[0]
    assert "runtime: one of" in complaints("[runtime]\nx = 1")[0]


def test_what_is_no_text_is_told_without_a_traceback() -> None:
    with pytest.raises(UsageError, match="not UTF-8 text"):
        parse(b"runtime = '\xff'", "q.toml")


@pytest.mark.parametrize(
    ("written", "size"), [("1 KiB", 1024), ("2GB", 2_000_000_000), ("1.5 MiB", 1572864), ("7", 7)]
)
def test_sizes_are_read_as_people_write_them(written: str, size: int) -> None:
    assert read(f'[store]\nquota = "{written}"').store_quota == size


def test_relative_paths_start_at_the_file_and_addresses_stay(tmp_path: Path) -> None:
    text = '[images]\nfind_links = ["wheels", "https://wheels.example/simple"]'
    assert read(text, str(tmp_path / "q.toml")).images.find_links == (
        str(tmp_path / "wheels"),
        "https://wheels.example/simple",
    )


@pytest.mark.parametrize(
    "said", ["1", "{x = 1}", "{x = {id = 'a'}}", "{x = {base = 'a', base_id = 'sha256:1'}}"]
)
def test_a_base_that_nothing_pins_is_refused(said: str) -> None:
    (line,) = complaints(f"[images]\nbases = {said}\n")
    assert ":2:1: images.bases: " in line


def test_a_local_base_of_an_image_is_pinned_by_its_id() -> None:
    id_ = "sha256:" + "a" * 64
    settings = read(f'[images]\nbases = {{ollama = {{base = "local:1", base_id = "{id_}"}}}}\n')
    assert settings.images.bases == {"ollama": ("local:1", id_)}
