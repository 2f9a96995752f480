"""The port of a vLLM that loads for minutes before it listens."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from vllm_serve import ADDRESS_IN_USE, hand_over, hold_port
from vllm_start import DriverError, parser_of


@pytest.fixture
def held() -> Iterator[socket.socket]:
    with hold_port("127.0.0.1", 0) as held:
        yield held


def test_nobody_takes_the_port_while_the_model_is_loaded(held: socket.socket) -> None:
    with pytest.raises(DriverError, match="cannot listen on") as caught:
        hold_port(*held.getsockname())
    assert caught.value.code == ADDRESS_IN_USE
    with socket.create_connection(held.getsockname()):
        pass  # who asks early is not turned away


def makers(monkeypatch: pytest.MonkeyPatch) -> list[ModuleType]:
    """Two modules as vLLM has them: both know the function that makes the server's socket."""

    def create_server_socket(addr: tuple[str, int], *, reuse_port: bool = False) -> str:
        return f"its own {addr[1]} {reuse_port}"

    modules = []
    for name in ("vllm.entrypoints.launcher", "vllm.entrypoints.cli"):
        module = ModuleType(name)
        vars(module)["create_server_socket"] = create_server_socket
        monkeypatch.setitem(sys.modules, name, module)
        modules.append(module)
    return modules


def test_vllm_serves_on_the_socket_that_held_its_port(
    held: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = makers(monkeypatch)
    hand_over(held)
    address = held.getsockname()
    other = (address[0], address[1] + 1)
    for module in modules:
        assert module.create_server_socket(address, reuse_port=False) is held
        assert module.create_server_socket(other, reuse_port=False) == f"its own {other[1]} False"
    assert held.fileno() >= 0, "a socket for another port does not end it"


def test_several_servers_of_one_port_make_sockets_of_their_own(
    held: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = makers(monkeypatch)
    address = held.getsockname()
    hand_over(held)
    assert modules[0].create_server_socket(address, reuse_port=True) == f"its own {address[1]} True"
    assert held.fileno() == -1


def test_a_vllm_that_makes_its_socket_elsewhere_finds_the_port_free(held: socket.socket) -> None:
    address = held.getsockname()
    hand_over(held)
    with socket.socket() as its:
        its.bind(address)


@pytest.mark.parametrize("place", ["vllm.utils", "vllm.utils.argparse_utils"])
def test_the_parser_is_found_where_its_version_has_it(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {"vllm", "vllm.utils", place}:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    vars(sys.modules[place])["FlexibleArgumentParser"] = argparse.ArgumentParser
    assert parser_of("vllm").prog == "vllm"
