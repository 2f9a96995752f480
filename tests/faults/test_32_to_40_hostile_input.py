"""Faults 32 to 40 as a user meets them: web pages, paths, YAML, plugins, secrets, pickles, small machines, names."""

from __future__ import annotations

import json
import os
import pickle
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.containers import DockerHouse, everywhere
from tests.faults.house import House, a_house, make, serve, wait_for
from tests.unit.worker.site_kit import install

from qwend.errors import OutOfResource, QwendError, UsageError

pytestmark = pytest.mark.native
CANARY = "canary-7Kx2vQ9mZp4RtY8w"


# -- 32: who may speak to the API ------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        "Host: qwend\r\nOrigin: http://evil.example",
        "Host: qwend\r\nOrigin: null",
        "Host: rebound.evil.example",
        "Host: 127.0.0.1:8080",
    ],
)
def test_32_what_a_web_page_can_send_is_refused_before_anything_happens(house: House, head: str) -> None:
    body = json.dumps({"services": True})
    text = f"POST /v1/daemon/stop HTTP/1.1\r\n{head}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(house.home / "qwend.sock"))
        sock.sendall(text.encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400") and b"foreign-origin" in answer
    assert house.client.get("/v1/version")["pid"] == house.pid


def test_32_the_socket_is_private_under_any_umask() -> None:
    before = os.umask(0)
    try:
        with a_house() as own:
            for name, mode in {".": 0o700, "qwend.sock": 0o600, "state.db": 0o600, "logs": 0o700}.items():
                assert stat.S_IMODE((own.home / name).stat().st_mode) == mode, name
    finally:
        os.umask(before)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_32_another_user_is_not_answered_even_where_the_socket_lets_him_in() -> None:
    with a_house() as own:
        own.home.chmod(0o755)
        (own.home / "qwend.sock").chmod(0o666)
        code = (
            "import os,socket,sys; u=int(sys.argv[2]); os.setgid(u); os.setuid(u)\n"
            "s=socket.socket(socket.AF_UNIX); s.settimeout(30); s.connect(sys.argv[1])\n"
            "try:\n s.sendall(b'GET /v1/version HTTP/1.1\\r\\nHost: qwend\\r\\n\\r\\n'); print(len(s.recv(100)))\n"
            "except OSError: print(0)\n"
        )
        call = [sys.executable, "-I", "-S", "-c", code, str(own.home / "qwend.sock")]
        answers = [
            subprocess.run([*call, uid], capture_output=True, text=True, check=True).stdout
            for uid in ("0", "65534")
        ]
    assert int(answers[0]) > 0 and int(answers[1]) == 0


# -- 33: paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "steps",
    [
        {"write": make(out="../outside")},
        {"write": make(out="a/../../outside")},
    ],
)
def test_33_a_recipe_does_not_lead_out_of_its_folder(
    house: House, name: str, steps: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="folder") as caught:
        house.up(name, steps)
    assert caught.value.where or caught.value.details
    assert not (house.folder.parent / "outside").exists()


def test_33_an_out_folder_that_is_swapped_for_a_link_is_not_written_through(house: House, name: str) -> None:
    private = house.folder / "private"
    private.mkdir()
    (private / "mine.txt").write_text("mine")
    out = house.folder / "out"
    out.symlink_to(private)
    with pytest.raises(UsageError, match="out is there already and was not put there by qwend"):
        house.up(name, {"write": make(text=name, out="out")})
    assert out.readlink() == private
    assert sorted(path.name for path in private.iterdir()) == ["mine.txt"]
    assert (private / "mine.txt").read_text() == "mine"


# -- 34: YAML ----------------------------------------------------------------------------------------


def _bomb() -> str:
    lines = ["name: bomb", "x0: &x0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join([*lines, "steps: *x11", ""])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(_bomb(), "", id="alias bomb"),
        pytest.param("name: r\nname: s\nsteps: {}\n", "name", id="duplicate key"),
        pytest.param("name: r\nsteps: &s {a: {uses: toy/make, needs: *s}}\n", "", id="cycle of aliases"),
        pytest.param("name: r\nsteps: {a: {uses: toy/job, from: b}, b: {uses: toy/job, from: a}}\n", "a", id="cycle"),
        pytest.param("name: r\nsteps:\n" + "".join(f"  s{n}: {{uses: toy/make}}\n" for n in range(100_000)), "",
                     id="100,000 steps"),
        pytest.param("name: r\nsteps: " + "[" * 5000 + "]" * 5000, "", id="deep"),
        pytest.param("name: r\nsteps:\n" + "".join(f"  s{n}: {{}}\n" for n in range(60_000)), "5,000 are the most",
                     id="60,000 empty steps"),
        pytest.param("name: r\nsteps: {a: {uses: !!python/object/apply:os.system [id]}}\n", "tag", id="python tag"),
        pytest.param("name: r\nsteps: {a: {uses: !!python/name:os.system toy/make}}\n", "tag", id="tagged text"),
    ],
)  # fmt: skip
def test_34_a_hostile_recipe_is_refused_with_its_place_and_the_daemon_is_well(
    house: House, text: str, said: str
) -> None:
    request = {"files": [{"path": "/nowhere/r.yaml", "text": text}], "directory": "/nowhere", "kept": True}
    with pytest.raises(QwendError) as caught:
        list(house.client.stream("POST", "/v1/runs", request))
    lines = caught.value.lines()
    assert all(len(line) < 2000 for line in lines)
    assert lines[0].startswith("/nowhere/r.yaml:") and lines[0].split(":")[1].isdigit()
    assert said in lines[0]
    assert house.client.get("/v1/version")["pid"] == house.pid
    resident = Path(f"/proc/{house.pid}/statm").read_text().split()[1]
    assert int(resident) * os.sysconf("SC_PAGE_SIZE") < 400 << 20


def test_34_a_hundred_megabytes_are_refused_by_the_client_and_by_the_daemon(house: House, name: str) -> None:
    huge = house.folder / f"{name}.yaml"
    huge.write_text("name: r\nsteps: {}\n" + "# " + "x" * (100 << 20))
    refused = house.cli("up", str(huge))
    huge.unlink()
    assert refused.returncode == 2 and "larger than 8 MiB" in refused.stderr
    assert len(refused.stderr) < 2000
    request = {"files": [{"path": "/r.yaml", "text": "x" * (20 << 20)}], "directory": "/"}
    with pytest.raises(UsageError, match="the request is larger than 16 MiB"):
        list(house.client.stream("POST", "/v1/runs", request))
    assert house.client.get("/v1/version")["pid"] == house.pid


# -- 35: plugins -------------------------------------------------------------------------------------

PLUGINS = {
    "raises": "raise RuntimeError('no luck')\n",
    "exits": "import sys\nsys.exit(3)\n",
    "dies": "import os\nos._exit(7)\n",
    "hangs": "import time\nwhile True:\n    time.sleep(60)\n",
    "usurper": "from qwend.plugin import *\nimport toy_plugin\nclass E(toy_plugin.Make): pass\n"
    "@hookimpl\ndef qwend_engines():\n    return [E()]\n",
    "moody": "from qwend.plugin import *\nimport toy_plugin\nclass E(toy_plugin.Make):\n    name = 'moody/make'\n"
    "    def launch(self, step, host):\n        raise ValueError('not today')\n"
    "@hookimpl\ndef qwend_engines():\n    return [E()]\n",
}


def test_35_bad_plugins_are_named_and_left_out_and_the_daemon_and_the_others_go_on(tmp_path: Path) -> None:
    site = install(tmp_path / "site", PLUGINS)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = path
    try:
        with a_house() as own:
            assert own.up("r", {"write": make(text="fine")})["exit_code"] == 0
            problems = {one["name"]: one["problem"] for one in own.client.get("/v1/plugins")["plugins"]}
            assert "no luck" in problems["raises"]
            assert "exit" in problems["exits"].lower()
            assert "7" in problems["dies"]
            assert "no answer within 20 s in import" in problems["hangs"]
            assert "toy/make" in problems["usurper"], "the taken name is told"
            assert problems["toy"] is None
            with pytest.raises(QwendError, match=r"moody.*not today"):
                own.up("s", {"write": {"uses": "moody/make"}})
            said = own.cli("plugins", "ls")
            assert said.returncode == 0 and "no luck" in said.stdout + said.stderr
            assert own.up("t", {"write": make(text="still fine")})["exit_code"] == 0
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


# -- 36: secrets -------------------------------------------------------------------------------------


@everywhere
def test_36_a_secret_is_in_nothing_that_is_written_or_shown(house: House, name: str) -> None:
    service = serve(secrets=["api_key"], echo_secret=True)
    end = house.up(
        name, {"chat": service, "write": make(text="x", secrets=["api_key"])}, secrets={"api_key": CANARY}
    )
    assert end["exit_code"] == 0
    assert house.said(f"{name}/chat", "secret") == [len(CANARY)], "it has it"
    pid = house.row(f"{name}/chat")["pid"]
    for what in ("environ", "cmdline"):
        assert CANARY.encode() not in Path(f"/proc/{pid}/{what}").read_bytes()
    end = house.up(f"{name}b", {"leaks": serve(secrets=["api_key"], leak_secret=True)})
    assert end["error"]["message"] == "leaks: exit code 1: error: the key *** was refused"
    shown = [
        json.dumps(house.containers() if isinstance(house, DockerHouse) else []),
        json.dumps(house.events()),
        json.dumps(house.rows()),
        json.dumps(house.client.get(f"/v1/steps/{name}/chat")),
        json.dumps(house.client.get(f"/v1/steps/{name}/write")),
        json.dumps(list(house.client.stream("POST", "/v1/plan", house.request(name, {"chat": service})))),
        house.cli("ps").stdout,
    ]
    assert not [text for text in shown if CANARY in text]
    house.down(name)
    logs = house.home / "logs" / f"{name}b"
    written = [
        path
        for path in house.home.rglob("*")
        if path.is_file() and not path.is_relative_to(logs) and CANARY.encode() in path.read_bytes()
    ]
    assert written == [], "only the engine itself wrote it, into its own log"


def test_36_a_secret_that_was_not_given_is_asked_for_and_nothing_starts(house: House, name: str) -> None:
    with pytest.raises(UsageError, match="secret other_key was not given"):
        house.up(name, {"chat": serve(secrets=["other_key"])})
    assert house.row(f"{name}/chat")["state"] == ""


def test_36_after_a_restart_of_the_machine_a_service_waits_for_its_secret() -> None:
    with a_house() as own:
        steps = {"chat": serve(secrets=["api_key"], restart="always")}
        own.up("r", steps, secrets={"api_key": CANARY})
        own.kill()
        os.kill(own.supervisor(), 9)
        for pid in own.processes():
            os.kill(pid, 9)
        wait_for(lambda: not own.processes(), "all is dead")
        own.start()
        row = own.until("r/chat", "waiting", where=lambda row: row["reason"])
        assert row["reason"].startswith("waiting for secret api_key")
        assert own.up("r", steps, secrets={"api_key": CANARY})["exit_code"] == 0
        assert own.row("r/chat")["state"] == "ready"


# -- 37: what came with a model ----------------------------------------------------------------------


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/qwend-was-here",)


def _model(folder: Path, **files: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]})
    )
    for file, data in files.items():
        (folder / file.replace("__", ".")).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"pytorch_model__bin": pickle.dumps(_Evil())}, "pickle"),
        ({"model__safetensors": b"\xff" * 64}, "model.safetensors"),
        ({"model__safetensors": (1 << 40).to_bytes(8, "little") + b"{}"}, "model.safetensors"),
        (
            {"model__gguf": b"GGUF" + (3).to_bytes(4, "little") + (1 << 40).to_bytes(8, "little") * 2},
            "model.gguf",
        ),
    ],
    ids=["pickle", "garbage", "a header of a terabyte", "a GGUF of a trillion tensors"],
)
def test_37_weights_that_could_run_code_or_are_malformed_are_refused_before_an_engine_sees_them(
    house: House, name: str, files: dict[str, bytes], said: str
) -> None:
    if not any(plugin["name"] == "hub" for plugin in house.client.get("/v1/plugins")["plugins"]):
        pytest.skip("needs the first-party plugins: install this checkout")
    folder = _model(house.folder / f"model-{name}", **files)
    request = house.request(name, {"read": {"uses": "toy/job", "from": "base"}})
    text = json.loads(request["files"][0]["text"])
    text["models"] = {"base": f"file:{folder}"}
    request["files"][0]["text"] = json.dumps(text)
    with pytest.raises(QwendError, match=said):
        list(house.client.stream("POST", "/v1/runs", request))
    assert not Path("/tmp/qwend-was-here").exists()
    assert house.row(f"{name}/read")["state"] == ""


# -- 39: machines that are too small -----------------------------------------------------------------


def test_39_what_the_machine_lacks_is_said_by_the_plan_before_anything_is_started(
    house: House, name: str
) -> None:
    plan = house.plan(name, {"chat": serve(needs_memory=1 << 50)})
    (blocker,) = plan["blockers"]
    assert re.fullmatch(r"chat: needs about 1024\.0 TiB of memory; this machine has [0-9.]+ [MGT]iB", blocker)
    with pytest.raises(QwendError) as caught:
        house.up(name, {"chat": serve(needs_memory=1 << 50)})
    assert caught.value.exit_code == 5
    assert house.row(f"{name}/chat")["state"] == ""


def test_39_a_card_that_is_not_there_is_never_silently_a_cpu(house: House, name: str) -> None:
    if house.client.get("/v1/doctor")["host"]["gpus"]:
        pytest.skip("this machine has a card")
    with pytest.raises(OutOfResource, match="no NVIDIA card") as caught:
        house.plan(name, {"chat": serve("toy/serve-gpu", device="cuda")})
    assert "device: cpu" in (caught.value.hint or "")


# -- 40: names ---------------------------------------------------------------------------------------

HOSTILE = [
    "$(touch owned)",
    "`touch owned`; touch owned",
    "a\nb: [c]\n",
    "\x1b]0;title\x07\x1b[2J",
    "x" * 4096,
    "--help",
    "'\"\\${HOME}",
    "‮gnp.exe",
]


@everywhere
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_40_a_hostile_value_reaches_no_shell_and_arrives_as_it_is(house: House, name: str, text: str) -> None:
    end = house.up(name, {"write": make(text=text.replace("$", "$$"))})
    if text.startswith("--"):
        assert end["exit_code"] in {0, 1}, "the engine's own parser may refuse it"
        return
    assert end["exit_code"] == 0, end
    location = house.client.get(f"/v1/steps/{name}/write")["artifact"]["location"]
    assert Path(location, "text.txt").read_text().startswith(text)
    assert not list(house.home.rglob("owned"))
    for said in (house.cli("ps"), house.cli("inspect", f"{name}/write"), house.cli("store", "ls")):
        assert "\x1b]" not in said.stdout and "\x1b[2J" not in said.stdout


@pytest.mark.parametrize("hostile", ["../x", "a b", "a;b", "A", "x" * 65, "a\x00b", "тест", ""])
def test_40_a_hostile_name_of_a_step_is_refused_with_its_place(house: House, hostile: str) -> None:
    request = house.request("r", {hostile: make()})
    with pytest.raises(QwendError) as caught:
        list(house.client.stream("POST", "/v1/plan", request))
    line = caught.value.lines()[0]
    assert "\x00" not in line and "\x1b" not in line and len(line) < 2000


@pytest.mark.parametrize("text", [text for text in HOSTILE if not text.isprintable()])
@pytest.mark.parametrize("key", ["uses", "from", "with", "device"])
def test_40_a_hostile_word_that_an_error_repeats_breaks_no_terminal(
    house: House, name: str, key: str, text: str
) -> None:
    steps = {"write": {"uses": "toy/make", key: {text: 1} if key == "with" else text}}
    recipe = house.folder / f"{name}.yaml"
    recipe.write_text(json.dumps({"name": name, "steps": steps}))
    said = house.cli("plan", str(recipe))
    assert said.returncode == 2, said
    assert said.stdout == "" and f"{name}.yaml:1:" in said.stderr
    assert said.stderr.replace("\n", "").isprintable(), said.stderr
    with pytest.raises(UsageError) as caught:
        house.plan(name, steps)
    assert all(line.isprintable() for line in caught.value.lines()), "nor that of another client"


def test_40_file_names_that_are_no_text_are_shown_escaped(house: House, name: str) -> None:
    """A job's own output may hold any bytes as names."""
    assert house.up(name, {"write": make(text="x", odd_name=True)})["exit_code"] == 0
    (odd,) = [
        file["path"] for file in house.client.get(f"/v1/steps/{name}/write")["artifact"]["files"]
        if file["path"] != "text.txt"
    ]  # fmt: skip
    assert "\\x" in odd and odd.isprintable(), odd
    for said in (house.cli("ps"), house.cli("inspect", f"{name}/write"), house.cli("store", "ls")):
        assert said.returncode == 0
        assert said.stdout.replace("\n", "").isprintable()
