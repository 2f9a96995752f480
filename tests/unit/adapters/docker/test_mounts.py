"""What of the host a container sees."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from qwend.adapters.docker.mounts import Mount, User, drop_secrets, prepare, secrets_folder
from qwend.errors import StepFailed
from qwend.model.launch import Launch, LaunchFile

from .conftest import MakeOrder

ME = User(uid=os.getuid(), gid=os.getgid(), outside=os.getuid(), outside_group=os.getgid())
STRANGER = User(uid=10001, gid=10001, outside=10001, outside_group=10001)
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def test_links_of_a_hub_cache_are_mounted_as_the_files_they_lead_to(
    make_order: MakeOrder, tmp_path: Path
) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    (snapshot / "sub").mkdir(parents=True)
    (blobs / "1").write_text("weights")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1")
    (snapshot / "sub" / "config.json").write_text("{}")
    prepared = prepare(make_order("true", inputs={"base": str(snapshot)}), ME, tmp_path / "secrets")
    assert Mount(str(blobs / "1"), "/in/base/model.safetensors") in prepared.mounts
    assert Mount(str(snapshot / "sub" / "config.json"), "/in/base/sub/config.json") in prepared.mounts
    assert prepared.places.contents["base"] == ("model.safetensors", "sub/config.json")


def test_a_file_used_in_place_appears_under_its_relative_path(make_order: MakeOrder, tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("weights")
    order = make_order("true", inputs={"base/sub/model.gguf": str(tmp_path / "blob")})
    prepared = prepare(order, ME, tmp_path / "secrets")
    assert Mount(str(tmp_path / "blob"), "/in/base/sub/model.gguf") in prepared.mounts
    assert prepared.places.inputs["base"] == "/in/base"
    assert prepared.places.contents["base"] == ("sub/model.gguf",)


def test_a_missing_input_is_named(make_order: MakeOrder, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=r"input base cannot be mounted: .*gone"):
        prepare(make_order("true", inputs={"base": str(tmp_path / "gone")}), ME, tmp_path / "secrets")


def test_a_socket_and_the_folder_of_the_engines_socket_are_refused(
    make_order: MakeOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        monkeypatch.setattr("qwend.adapters.docker.mounts._ENGINE_SOCKETS", (str(path),))
        (tmp_path / "innocent").symlink_to(tmp_path / "run")
        for source in (path, tmp_path / "run", tmp_path, tmp_path / "innocent"):
            with pytest.raises(StepFailed, match="no step may have"):
                prepare(make_order("true", inputs={"base": str(source)}), ME, tmp_path / "secrets")


def test_drivers_are_readable_files_that_stay_in_their_folder(make_order: MakeOrder, tmp_path: Path) -> None:
    launch = Launch(argv=("true",), files=(LaunchFile("run.py", "print(1)"),))
    prepared = prepare(make_order(launch=launch), ME, tmp_path / "secrets")
    source = next(mount.source for mount in prepared.mounts if mount.target == "/opt/drivers")
    assert (Path(source) / "run.py").read_text() == "print(1)"
    assert stat.S_IMODE((Path(source) / "run.py").stat().st_mode) == 0o444
    evil = Launch(argv=("true",), files=(LaunchFile("../escape.py", ""),))
    with pytest.raises(StepFailed, match="outside its folder"):
        prepare(make_order(launch=evil), ME, tmp_path / "secrets")


def test_secrets_lie_in_files_of_one_start_and_go_with_it(make_order: MakeOrder, tmp_path: Path) -> None:
    order = make_order(launch=Launch(argv=("true",), secrets=("key",)), secrets={"key": "s3cret"})
    root = tmp_path / "secrets"
    prepared = prepare(order, ME, root)
    folder = secrets_folder(root, order.identity.marker)
    assert Mount(str(folder), "/run/secrets") in prepared.mounts
    assert [path.name for path in folder.iterdir()] == ["key"]
    assert (folder / "key").read_text() == "s3cret"
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o400
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    drop_secrets(root, order.identity.marker)
    assert not folder.exists()


def test_certificates_are_mounted_for_a_step_with_network_only(make_order: MakeOrder, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    ca = str(tmp_path / "ca.pem")
    wanted = Mount(ca, "/run/qwend/ca.pem")
    online = make_order(launch=Launch(argv=("true",), network=True))
    assert wanted in prepare(online, ME, tmp_path / "secrets", ca).mounts
    assert wanted not in prepare(make_order("true"), ME, tmp_path / "secrets", ca).mounts


@only_root
def test_the_output_is_the_containers_while_it_runs(make_order: MakeOrder, tmp_path: Path) -> None:
    order = make_order("true")
    assert order.output is not None
    (Path(order.output) / "half").write_text("x")
    prepared = prepare(order, STRANGER, tmp_path / "secrets")
    assert set(prepared.owned) == {order.output, order.report}
    assert {os.stat(path).st_uid for path in (order.output, order.report, order.output + "/half")} == {10001}


@only_root
def test_an_input_that_the_containers_user_may_not_read_is_an_error_with_a_remedy(
    make_order: MakeOrder, tmp_path: Path
) -> None:
    secretive = tmp_path / "model.safetensors"
    secretive.write_text("weights")
    secretive.chmod(0o600)
    with pytest.raises(StepFailed, match="mode 0600") as caught:
        prepare(make_order("true", inputs={"base": str(secretive)}), STRANGER, tmp_path / "secrets")
    assert "chmod a+rX" in (caught.value.hint or "")
