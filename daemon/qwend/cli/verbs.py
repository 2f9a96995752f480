"""The commands by name, each with its sentence, and how the user calls this program."""

from __future__ import annotations

import os
import re
import sys

SECTIONS = {
    "Bring a recipe up": {
        "up": "Bring a recipe up: fetch, build, run, serve",
        "down": "Stop what a recipe runs",
        "run": "Run one engine without a recipe",
        "chat": "Talk to a service, or to a model without a recipe",
        "plan": "Show what `up` would do, and why",
        "fit": "Say which forms of a model fit this machine",
        "lock": "Pin what a recipe refers to",
    },
    "See what there is": {
        "ps": "List steps: what runs, what is done",
        "ls": "List recipes",
        "logs": "Show a step's log",
        "events": "Show what happened",
        "inspect": "Show a step or an artifact, with its provenance",
        "report": "Write a report: figures, plots, gates, lineage",
        "ports": "List leased ports",
        "doctor": "Say what this machine can do, and what is missing",
    },
    "Handle a step": {
        "start": "Start a service again",
        "stop": "Stop a service",
        "restart": "Restart a service",
    },
    "Handle what is kept": {
        "store": "Artifacts: list, verify, export, prune",
        "images": "Images: list, build, lock, verify, prune",
        "plugins": "Plugins: list, write, check",
    },
    "Write and set up": {
        "init": "Write a first recipe",
        "export": "Write a recipe for those who run it without qwend",
        "schema": "Print the JSON Schema of recipes, for editors",
        "daemon": "The daemon: start, stop, status, install",
        "completion": "Print the completion script of a shell",
    },
}
"""Every command with its sentence, so that `qwend --help` imports none of them (a test compares the two)."""

COMMANDS = {name: sentence for section in SECTIONS.values() for name, sentence in section.items()}
_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
_MENTION = re.compile(rf"(?<![\w./-])qwend(?= (?:{'|'.join(COMMANDS)}|--help)\b)")


def program() -> str:
    """What the user typed to call it: `qwend` where the PATH finds it, else a path (`./qwend`), for a shell."""
    typed = sys.argv[0]
    folder, name = os.path.split(typed)
    if name != "qwend" or not folder or folder in os.environ.get("PATH", "").split(os.pathsep):
        return "qwend"
    if _PLAIN.fullmatch(typed):
        return typed
    return "'" + typed.replace("'", "'\\''") + "'"


def spelled(text: str) -> str:
    """A text whose commands (`qwend ps`) work as they stand where this one was typed (`./qwend ps`)."""
    called = program()
    return text if called == "qwend" else _MENTION.sub(lambda _: called, text)
