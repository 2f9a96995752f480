"""The ready-made server's driver finds the model that it is pointed at and refuses bad options by name."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).parents[3] / "plugins/qwend_plugins/llama_cpp/drivers/serve.py"


@pytest.fixture(scope="module")
def serve() -> ModuleType:
    spec = importlib.util.spec_from_file_location("llama_cpp_serve", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_folder_stands_for_its_only_model_or_first_shard(serve: ModuleType, tmp_path: Path) -> None:
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj-m.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert serve.find_model(tmp_path) == tmp_path / "m-00001-of-00002.gguf"
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(serve.DriverError, match=r"found 2 \(m-00001-of-00002\.gguf, other\.gguf\)"):
        serve.find_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"PK\x03\x04", "not a GGUF file"), (b"", "not a GGUF file"), (None, "No such file")],
)
def test_what_is_no_model_is_refused_by_name(
    content: bytes | None, said: str, serve: ModuleType, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(serve.DriverError, match=rf"m\.gguf: {said}"):
        serve.find_model(tmp_path / "m.gguf")


def test_a_key_file_without_a_key_does_not_open_the_server(serve: ModuleType, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("\n one \n\ntwo\n")
    assert serve.read_keys(keys) == ["one", "two"]
    keys.write_text("\n \n")
    with pytest.raises(serve.DriverError, match="no key in it"):
        serve.read_keys(keys)


@pytest.mark.parametrize(
    "options",
    [["--port", "0"], ["--port", "70000"], ["--port", "1", "--ctx-size", "-1"], ["--port", "1", "--parallel", "0"],
     ["--port", "1", "--chat-template", "a", "--chat-template-file", "b"], ["--port", "1", "--cache-type-k", "q9"]],
)  # fmt: skip
def test_bad_options_are_a_matter_of_usage(
    options: list[str], serve: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        serve.parse(["--model", "m.gguf", *options])
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_reason_for_not_listening_is_asked_of_the_system(serve: ModuleType) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = serve.why_not_bound("127.0.0.1", holder.getsockname()[1])
    assert taken == serve.errno.EADDRINUSE
    assert serve.why_not_bound("192.0.2.1", 8080) == serve.errno.EADDRNOTAVAIL, (
        "an address of no machine (RFC 5737)"
    )
