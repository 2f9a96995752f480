"""Ollama end to end, except Ollama: a stand-in of its server answers, since no package index has the real one."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Qwend
from tests.fakes.ollama_server import KNOWN, LIBRARY, MANIFEST, State

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.engine("ollama", images=["ollama", "smoke", "llama-cpp-convert", "llama-cpp"]),
]
RECIPE = str(ROOT / "recipes" / "ollama.yaml")
OWN = str(ROOT / "recipes" / "own-gguf-ollama.yaml")


def ask(url: str) -> dict[str, Any]:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello there"}]}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def uploads(state: State) -> int:
    return sum(one.startswith("POST /api/blobs/") for one in state.requests)


def ends(pid: int) -> bool:
    """Whether a process is gone, or soon will be."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_a_gguf_gets_its_modelfile_and_is_created_once_and_served(
    qwend: Qwend, ollama: tuple[str, State]
) -> None:
    url, state = ollama
    state.cut_uploads = 1
    there = ("--set", f"steps.chat.with.url={url}")
    qwend("up", "-d", "--smoke", OWN, *there)
    answer = ask(qwend.row("chat")["url"])
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("chat", "hello there")

    made = Path(qwend.json("inspect", "modelfile")["artifact"]["location"])
    assert (made / "Modelfile").read_text().startswith("FROM ./smoke-qwen2-f16.gguf\nTEMPLATE ")
    digest = hashlib.sha256((made / "smoke-qwen2-f16.gguf").read_bytes()).hexdigest()
    ((name, model),) = state.models.items()
    assert name.startswith("qwend/own_gguf_ollama-chat:")
    assert model["request"]["files"] == {"smoke-qwen2-f16.gguf": f"sha256:{digest}"}
    assert model["request"]["system"] == "You are a helpful assistant."
    assert model["request"]["parameters"]["num_ctx"] == 8192
    assert uploads(state) == 2  # the first was cut off
    assert list(state.blobs) == [f"sha256:{digest}"]
    assert hashlib.sha256(state.blobs[f"sha256:{digest}"]).hexdigest() == digest

    report = (qwend.home / "run/own_gguf_ollama/chat/report.jsonl").read_text().splitlines()
    told = [one["progress"] for one in map(json.loads, report) if "progress" in one]
    sent = [one for one in told if one["phase"] == "upload smoke-qwen2-f16.gguf"]
    assert (
        [one["done"] for one in sent][-1]
        == sent[-1]["total"]
        == (made / "smoke-qwen2-f16.gguf").stat().st_size
    )
    assert "writing manifest" in [one["phase"] for one in told]

    # Somebody removes it: it is created again, and nothing is sent twice.
    state.models.clear()
    assert ask(qwend.row("chat")["url"])["model"] == "chat"
    assert (list(state.models), uploads(state)) == ([name], 2)

    # Started again, all is there.
    created = state.requests.count("POST /api/create")
    qwend("restart", "own_gguf_ollama/chat")
    qwend("up", "-d", "--smoke", OWN, *there)
    assert ask(qwend.row("chat")["url"])["model"] == "chat"
    assert state.requests.count("POST /api/create") == created


def test_the_recipe_quantises_a_model_and_creates_it_with_a_character(
    qwend: Qwend, ollama: tuple[str, State]
) -> None:
    url, state = ollama
    qwend("up", "-d", "--smoke", RECIPE, "--set", f"steps.chat.with.url={url}")
    assert ask(qwend.row("chat")["url"])["model"] == "chat"
    ((name, model),) = state.models.items()
    assert name.startswith("qwend/ollama-chat:")
    request = model["request"]
    assert request["system"].startswith("You are Zhen Huan")
    assert request["template"].startswith("{{")
    assert request["parameters"] | {"num_ctx": 8192, "temperature": 0.7} == request["parameters"]
    ((file, digest),) = request["files"].items()
    q4 = Path(qwend.json("inspect", "q4")["artifact"]["location"]) / file
    assert digest == f"sha256:{hashlib.sha256(q4.read_bytes()).hexdigest()}"


def test_a_model_that_the_users_ollama_holds_is_pinned_and_used_where_it_lies(
    qwend: Qwend, ollama: tuple[str, State]
) -> None:
    url, state = ollama
    ((name, digest),) = LIBRARY.items()
    place = qwend.folder / "home/.ollama/models/manifests/registry.ollama.ai/library" / name.replace(":", "/")
    place.parent.mkdir(parents=True)
    place.write_bytes(MANIFEST)
    qwend.environ["HOME"] = str(qwend.folder / "home")
    state.models[name] = {"request": {}, "listed": {"digest": digest, "size": 1}}
    recipe = qwend.folder / "held.yaml"
    recipe.write_text(
        f"name: held\nmodels: {{base: 'ollama:{name}'}}\nsteps:\n"
        f'  chat: {{uses: ollama/serve, from: base, runtime: native, restart: no, with: {{url: "{url}"}}}}\n'
    )
    qwend("up", "-d", str(recipe))
    assert ask(qwend.row("chat")["url"])["model"] == "chat"
    assert digest in (qwend.folder / "held.lock").read_text()
    changes = [one for one in state.requests if one.startswith("POST /api/")]
    assert changes == [], "nothing is sent, pulled or created"
    qwend("down", "-p", "held")

    # Somebody pulled another one under its name: it is not taken for the one that was pinned.
    state.models[name]["listed"]["digest"] = "b" * 64
    ended = qwend.try_("up", "-d", str(recipe))
    assert ended.returncode == 1
    assert f"{name} on the server is bbb" in ended.stderr
    assert "qwend lock --upgrade" in ended.stderr


def test_a_modelfile_of_the_user_and_a_model_of_the_library_are_served(
    qwend: Qwend, ollama: tuple[str, State]
) -> None:
    url, state = ollama
    (name,) = LIBRARY
    (qwend.folder / "Modelfile").write_text(
        f"FROM {name}\nSYSTEM You are Huan Huan.\nPARAMETER top_k 7\nRENDERER qwen3-coder\nPARSER qwen3-coder\n"
    )
    recipe = qwend.folder / "mine.yaml"
    recipe.write_text(
        "name: mine\nmodels: {base: file:Modelfile}\nsteps:\n"
        "  chat: {uses: ollama/serve, from: base, runtime: native, restart: no, "
        f'with: {{url: "{url}", keep_alive: "-1"}}}}\n'
    )
    qwend("up", "-d", str(recipe))
    assert ask(qwend.row("chat")["url"])["model"] == "chat"
    assert name in state.models
    request = next(model["request"] for key, model in state.models.items() if key != name)
    assert (request["from"], request["system"]) == (name, "You are Huan Huan.")
    assert request["parameters"] == {"top_k": 7}
    assert (request["renderer"], request["parser"]) == ("qwen3-coder", "qwen3-coder")
    assert state.stays.get(timeout=60) == -1, "for ever, in the form that Ollama reads"
    qwend("down", "-p", "mine")

    # What is wrong in it is told with its line.
    (qwend.folder / "Modelfile").write_text(f"FROM {name}\n\nPARAMETER heat 7\n")
    ended = qwend.try_("up", "-d", str(recipe))
    assert ended.returncode == 1
    assert "Modelfile:3: there is no parameter 'heat'" in ended.stderr
    assert "Traceback" not in ended.stderr

    (qwend.folder / "Modelfile").write_text("FROM nonesuch:1b\n")
    ended = qwend.try_("up", "-d", str(recipe))
    assert ended.returncode == 1
    assert "Ollama cannot pull nonesuch:1b: pull model manifest: file does not exist" in ended.stderr

    # So is one that wants a newer server.
    (qwend.folder / "Modelfile").write_text(f"FROM {name}\nREQUIRES 99.0.0\n")
    ended = qwend.try_("up", "-d", str(recipe))
    assert ended.returncode == 1
    assert "the Modelfile requires Ollama 99.0.0, and this is 0.14.0" in ended.stderr


def test_a_modelfile_of_the_user_may_name_a_file_beside_it(
    qwend: Qwend, ollama: tuple[str, State], tmp_path: Path
) -> None:
    url, state = ollama
    qwend("run", "ollama/modelfile", "--from", "smoke:qwen2", "--out", "made")
    [gguf] = (qwend.folder / "made").glob("*.gguf")
    mine = qwend.folder / "mine"
    mine.mkdir()
    (mine / "model.gguf").write_bytes(gguf.read_bytes())
    (mine / "Modelfile").write_text('FROM ./model.gguf\nTEMPLATE """{{ .Prompt }}"""\nSYSTEM Be brief.\n')
    recipe = qwend.folder / "beside.yaml"
    recipe.write_text(
        "name: beside\nmodels: {base: file:mine/Modelfile}\nsteps:\n"
        f'  chat: {{uses: ollama/serve, from: base, runtime: native, restart: no, with: {{url: "{url}"}}}}\n'
    )
    qwend("up", "-d", str(recipe))
    assert ask(qwend.row("chat")["url"])["model"] == "chat"
    ((_, model),) = state.models.items()
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    assert model["request"]["files"] == {"model.gguf": f"sha256:{digest}"}
    assert (model["request"]["system"], model["request"]["template"]) == ("Be brief.", "{{ .Prompt }}")


def test_what_an_ollama_refuses_is_told_with_its_reason_and_how_to_mend_it(
    qwend: Qwend, ollama: tuple[str, State]
) -> None:
    url, state = ollama
    recipe = qwend.folder / "refused.yaml"
    recipe.write_text(
        'name: refused\nmodels: {base: "smoke:qwen2"}\nsteps:\n'
        f'  chat: {{uses: ollama/serve, from: base, runtime: native, restart: no, with: {{url: "{url}"}}}}\n'
    )

    def refusal() -> str:
        ended = qwend.try_("up", "-d", str(recipe))
        assert ended.returncode == 1, ended.stdout
        assert "Traceback" not in ended.stderr
        return ended.stderr

    state.version = "0.3.9"
    assert f"Ollama 0.3.9 at {url} is too old: 0.5.5 is needed" in refusal()
    state.version = "0.14.0"

    state.cut_uploads = 99
    said = refusal()
    assert ".gguf could not be sent to Ollama" in said
    assert state.blobs == {}, "no half of it is kept"
    state.cut_uploads = 0

    state.known = (b"mamba",)
    said = refusal()
    assert "Ollama refuses to create qwend/refused-chat:" in said
    assert "unknown model architecture" in said
    assert "upgrade it, or serve with llama-cpp/serve" in said
    assert state.models == {}
    state.known = KNOWN

    recipe.write_text(recipe.read_text().replace("with: {", "with: {quantize: q8_0, "))
    state.quantises = False
    assert "leave quantize out, and insert llama-cpp/quantize" in refusal()
    state.quantises = True
    qwend("up", "-d", str(recipe))
    ((_, model),) = state.models.items()
    assert model["request"]["quantize"] == "q8_0"


def test_the_installed_program_is_run_for_a_chat_and_ends_with_it(qwend: Qwend) -> None:
    (name,) = LIBRARY
    place = qwend.folder / "home/.ollama/models/manifests/registry.ollama.ai/library" / name.replace(":", "/")
    place.parent.mkdir(parents=True)
    place.write_bytes(MANIFEST)  # from which it is pinned, in place of the registry's
    program = qwend.folder / "bin" / "ollama"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho $$ > {qwend.folder}/pid\nexec {sys.executable} {ROOT}/tests/fakes/ollama_server.py "$@"\n'
    )
    program.chmod(0o755)
    qwend.environ |= {
        "HOME": str(qwend.folder / "home"),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
    }
    ended = qwend.try_("chat", f"ollama:{name}", "--with", "managed=true", "-m", "hello there")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "hello there"
    assert ends(int((qwend.folder / "pid").read_text()))

    # It ends with a step that fails, too.
    (qwend.folder / "pid").unlink()
    (qwend.folder / "Modelfile").write_text("FROM nonesuch:1b\n")
    ended = qwend.try_(
        "chat", "file:Modelfile", "--engine", "ollama/serve", "--with", "managed=true", "-m", "hello"
    )
    assert ended.returncode == 1
    assert "Ollama cannot pull nonesuch:1b" in ended.stderr
    assert ends(int((qwend.folder / "pid").read_text()))


def test_without_an_ollama_the_error_says_how_to_get_one(qwend: Qwend) -> None:
    recipe = qwend.folder / "none.yaml"
    recipe.write_text(
        'name: none\nmodels: {base: "smoke:qwen2"}\nsteps:\n'
        "  chat: {uses: ollama/serve, from: base, runtime: native, restart: no, with: {managed: true}}\n"
    )
    ended = qwend.try_("up", "-d", str(recipe), PATH="/usr/bin:/bin")
    assert ended.returncode == 1
    assert "there is no Ollama here" in ended.stderr
    assert "ollama.com" in ended.stderr
