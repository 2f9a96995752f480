"""What the engine is asked for, without an engine."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qwend.adapters.docker import mounts
from qwend.adapters.docker.connection import Engine, own_ulimits
from qwend.adapters.docker.container import container
from qwend.adapters.docker.environment import environment
from qwend.adapters.docker.identity import LOG, OWNED, container_name, identity_of
from qwend.adapters.docker.mounts import User
from qwend.effects import Order
from qwend.model.launch import BindRef, InputRef, Join, Launch, OutputRef, PortRef

from .conftest import MakeOrder

ENGINE = Engine(version="28", rootless=False, podman=False, gpus=False, limits=True)
USER = User(uid=1000, gid=1000, outside=1000, outside_group=1000)


@pytest.fixture(autouse=True)
def ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules for a user who is not root hold whoever runs the tests."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)


def asked(order: Order, tmp_path: Path, engine: Engine = ENGINE) -> dict[str, Any]:
    surroundings = environment(order, {}, {}, ca=False)
    return container(order, mounts.prepare(order, USER, tmp_path / "secrets"), USER, engine, surroundings)


def test_a_job_gets_no_network_no_capabilities_and_a_read_only_root(
    make_order: MakeOrder, tmp_path: Path
) -> None:
    body = asked(make_order("true", memory=1 << 30), tmp_path)
    host = body["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert body["NetworkDisabled"]
    assert host["CapDrop"] == ["ALL"]
    assert host["ReadonlyRootfs"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["PidsLimit"] > 0
    assert (host["Memory"], host["MemorySwap"]) == (1 << 30, 1 << 30)
    assert not host["Privileged"]
    assert host["RestartPolicy"] == {"Name": "no"}
    assert not host["AutoRemove"]
    assert body["User"] == "1000:1000"


def test_a_job_that_declares_network_gets_it_and_is_not_told_to_stay_offline(
    make_order: MakeOrder, tmp_path: Path
) -> None:
    offline = asked(make_order("true"), tmp_path)
    online = asked(make_order("true", launch=Launch(argv=("true",), network=True)), tmp_path)
    assert online["HostConfig"]["NetworkMode"] == "qwend"
    assert "HF_HUB_OFFLINE=1" in offline["Env"]
    assert "HF_HUB_OFFLINE=1" not in online["Env"]


def test_a_service_is_published_where_the_order_says_and_nowhere_else(
    make_order: MakeOrder, tmp_path: Path
) -> None:
    launch = Launch(argv=("serve", "--host", BindRef(), "--port", PortRef()))
    body = asked(make_order(launch=launch, service=True, port=18080), tmp_path)
    assert body["HostConfig"]["PortBindings"] == {"18080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18080"}]}
    assert body["Entrypoint"] == ["serve", "--host", "0.0.0.0", "--port", "18080"]


def test_a_service_that_declares_no_network_is_on_the_bridge_that_leads_nowhere(
    make_order: MakeOrder, tmp_path: Path
) -> None:
    closed = asked(make_order("serve", service=True, port=18080), tmp_path)["HostConfig"]
    assert (closed["NetworkMode"], closed["Dns"]) == ("qwend-closed", ["127.0.0.1"])
    launch = Launch(argv=("serve",), network=True)
    opened = asked(make_order(launch=launch, service=True, port=18080), tmp_path)["HostConfig"]
    assert opened["NetworkMode"] == "qwend"
    assert "Dns" not in opened
    assert [bool(host["PortBindings"]) for host in (closed, opened)] == [True, True]


def test_an_engine_without_limits_is_not_asked_for_them(make_order: MakeOrder, tmp_path: Path) -> None:
    bare = Engine(version="4", rootless=True, podman=True, gpus=False, limits=False)
    host = asked(make_order("true", memory=1 << 30), tmp_path, bare)["HostConfig"]
    assert "Memory" not in host
    assert "PidsLimit" not in host


def test_only_podman_is_told_the_limits_that_it_would_take_from_the_kernel(
    make_order: MakeOrder, tmp_path: Path
) -> None:
    held = msgspec.structs.replace(ENGINE, podman=True, ulimits=own_ulimits())
    for engine, names in ((ENGINE, []), (held, ["nofile", "nproc"])):
        given = asked(make_order("true"), tmp_path, engine)["HostConfig"]["Ulimits"]
        core, *others = ((one["Name"], one["Hard"]) for one in given)
        assert core == ("core", 0)
        assert set(dict(others)) <= set(names)
        for name, most in others:
            own = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}[name]
            bound = resource.getrlimit(own)[1]
            assert most > 0 and (bound == resource.RLIM_INFINITY or most <= bound)


def test_cards_of_the_lease_are_requested_by_name(make_order: MakeOrder, tmp_path: Path) -> None:
    body = asked(make_order("true", gpus=("GPU-1", "GPU-2")), tmp_path)
    assert body["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] == ["GPU-1", "GPU-2"]
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in body["Env"]


def test_memory_that_processes_share_is_as_large_as_the_launch_says(
    make_order: MakeOrder, tmp_path: Path
) -> None:
    said = asked(make_order("true", launch=Launch(argv=("true",), shm=8 << 30)), tmp_path)
    assert said["HostConfig"]["ShmSize"] == 8 << 30
    assert "ShmSize" not in asked(make_order("true"), tmp_path)["HostConfig"], "the engine's own"


def test_references_become_paths_of_the_container(make_order: MakeOrder, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.gguf").write_bytes(b"GGUF")
    launch = Launch(argv=("run", InputRef("base", "*.gguf"), Join(("--out=", OutputRef("b.gguf")))))
    order = make_order(launch=launch, inputs={"base": str(tmp_path / "model")})
    body = asked(order, tmp_path)
    assert body["Entrypoint"] == ["run", "/in/base/a.gguf", "--out=/out/b.gguf"]
    mount = next(mount for mount in body["HostConfig"]["Mounts"] if mount["Target"] == "/in/base")
    assert mount["ReadOnly"]
    assert mount["Source"] == str(tmp_path / "model")


def test_labels_tell_the_identity_again(make_order: MakeOrder, tmp_path: Path) -> None:
    order = make_order("true", step="quant[Q8_0]", generation=3)
    body = asked(order, tmp_path)
    assert identity_of(body["Labels"]) == order.identity
    assert body["Labels"][LOG] == order.log
    assert order.output in body["Labels"][OWNED].split("\n")


def test_names_are_valid_and_differ_for_each_start(make_order: MakeOrder) -> None:
    first = container_name(make_order("true", step="quant[Q8_0]", generation=1).identity)
    second = container_name(make_order("true", step="quant[Q8_0]", generation=2).identity)
    assert first != second
    assert first.startswith("qwend-recipe-quant-Q8_0-1-")
    assert all(letter.isalnum() or letter in "_.-" for letter in first)


def test_what_the_step_says_comes_before_what_we_suppose(make_order: MakeOrder, tmp_path: Path) -> None:
    order = make_order(launch=Launch(argv=("true",), env={"HOME": "/scratch"}), env={"LANG": "C"})
    environment = dict(entry.split("=", 1) for entry in asked(order, tmp_path)["Env"])
    assert environment["HOME"] == "/scratch"
    assert environment["LANG"] == "C"


def test_a_step_with_network_hears_of_proxies_and_endpoints_but_of_no_token_and_no_host_path(
    make_order: MakeOrder,
) -> None:
    host = {
        "https_proxy": "http://p:3128",
        "HF_ENDPOINT": "http://h",
        "HF_TOKEN": "t",
        "HF_HOME": "/home/u/hf",
    }
    order = make_order(launch=Launch(argv=("true",), network=True))
    told = environment(order, {"MODELSCOPE_DOMAIN": "m"}, host, ca=True)
    assert told["https_proxy"] == "http://p:3128"
    assert told["HF_ENDPOINT"] == "http://h"
    assert told["MODELSCOPE_DOMAIN"] == "m"
    assert told["SSL_CERT_FILE"] == mounts.AUTHORITIES
    assert not {"HF_TOKEN", "HF_HOME"} & told.keys()
