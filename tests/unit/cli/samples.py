"""Answers as the daemon words them."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def row(step: str, state: str, **more: Any) -> Json:
    """A row of `ps`."""
    kind = "service" if state in {"ready", "stopped", "starting", "idle"} else "job"
    engine = "llama-cpp/serve" if kind == "service" else "llama-cpp/quantize"
    return {
        "recipe": "huanhuan", "step": step, "kind": kind, "engine": engine, "state": state, "reason": "",
        "runtime": "native", "image": "llama-cpp-cpu-0123456789ab", "port": None, "url": None, "pid": None,
        "started": None, "health": None, "fingerprint": "f" * 64, "generation": 1, "artifact": None, "size": None,
        "seconds": None, "exit": None, "log": "/home/x/log", **more,
    }  # fmt: skip


CHAT = row(
    "chat",
    "ready",
    port=18100,
    url="http://127.0.0.1:18100",
    pid=4711,
    started=0.0,
    health="healthy",
    seconds=2.7,
)
Q4 = row("q4", "succeeded", artifact="3fa9c1d2" + "0" * 56, size=491_400_064, seconds=200.4)


def step(name: str, engine: str, kind: str, **more: Any) -> Json:
    """A compiled step of a plan."""
    return {
        "name": name, "engine": engine, "kind": kind, "runtime": "native", "flavour": "cpu",
        "chosen": "no engine answers", "image": None, "command": [], "facts": {}, "produces": None,
        "resources": {"memory": None, "gpu_memory": None, "disk": None}, "fingerprint": "f" * 64, "inputs": [],
        "notices": [], "secrets": [], "port": None, "options": {}, "where": "", "ref": None, "api": None, **more,
    }  # fmt: skip


def plan(*actions: tuple[str, str, str], steps: list[Json] | None = None, **more: Any) -> Json:
    """A planned recipe; actions are (verb, step, why)."""
    listed = [{"verb": verb, "step": name, "why": why, "detail": ""} for verb, name, why in actions]
    changes = any(verb != "keep" for verb, _, _ in actions)
    body = {"recipe": "huanhuan", "actions": listed, "warnings": [], "blockers": [], "download": 0, "disk": 0}
    known = steps if steps is not None else [
        step("q4", "llama-cpp/quantize", "job", command=["llama-quantize", "<f16>/m.gguf", "<out>/m.gguf", "Q4_K_M"]),
        step("chat", "llama-cpp/serve", "service", api="openai"),
    ]  # fmt: skip
    return {
        "plan": {**body, "changes": changes, **more},
        "compiled": {"recipe": "huanhuan", "smoke": False, "warnings": [], "steps": known},
    }


def end(*steps: Json, code: int = 0, error: Json | None = None, state: str = "done") -> Json:
    started = [row["step"] for row in steps if row["kind"] == "service"]
    return {
        "end": {"state": state, "exit_code": code, "error": error, "steps": list(steps), "started": started}
    }


def event(kind: str, subject: str, seq: int = 1, **more: Any) -> Json:
    return {"kind": kind, "subject": f"huanhuan/{subject}", "seq": seq, "at": 0.0, **more}
