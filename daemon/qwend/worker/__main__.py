"""The planner worker: the only process in which plugin code runs. `python -m qwend.worker`, started by the daemon.

It reads calls from its standard input and answers on its standard output, as they were when it started: plugin
code finds an empty input there, and what it prints goes to the log. After `--idle` seconds without a call, or
when the daemon is gone, it ends.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from typing import BinaryIO

import msgspec

from qwend import __version__
from qwend.errors import QwendError
from qwend.model.image import prefer_options
from qwend.worker.breadcrumb import Breadcrumb
from qwend.worker.catalog import load_plugins
from qwend.worker.guarded import Crumb, no_crumb
from qwend.worker.verbs import Verbs
from qwend.worker.wire import HEADER, Answer, Ask, Hello, PluginProblem, frame, length

_ORPHAN_S = 5.0


def main(argv: list[str] | None = None) -> int:
    """Answers calls until there are none."""
    parser = argparse.ArgumentParser(prog="qwend.worker")
    parser.add_argument("--breadcrumb", type=int, help="descriptor of a file that tells which plugin runs")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds without a call after which it ends")
    parser.add_argument(
        "--without", default="{}", help="JSON object of plugins to leave out, with the reasons"
    )
    parser.add_argument(
        "--build-options", default="{}", help="JSON object of what the user settled for images"
    )
    options = parser.parse_args(argv)
    prefer_options(json.loads(options.build_options))
    reading, writing = _take_pipes()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the daemon's terminal is the daemon's business
    threading.Thread(target=_end_when_orphaned, args=(os.getppid(),), daemon=True).start()
    crumb = _crumb(options.breadcrumb)
    catalogue = load_plugins(crumb, json.loads(options.without))
    verbs = Verbs(catalogue)
    gc.freeze()
    problems = tuple(PluginProblem(name, why) for name, why in catalogue.problems.items())
    _write(writing, Hello(__version__, tuple(catalogue.watch()), catalogue.observers, problems))
    while (ask := _next(reading, options.idle)) is not None:
        _write(writing, _answer(verbs, ask))
    return 0


def _answer(verbs: Verbs, ask: Ask) -> Answer:
    try:
        return Answer(ask.id, verbs.answer(ask.verb, bytes(ask.payload)))
    except QwendError as error:
        return Answer(ask.id, error=error.to_dict())
    except Exception as error:
        traceback.print_exc()
        message = f"planning failed: {type(error).__name__}: {error}"
        hint = "this is a fault of qwend; the log that qwend daemon status names has more"
        return Answer(ask.id, error=QwendError(message, code="internal", hint=hint).to_dict())


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to the daemon, moved where no plugin finds them."""
    reading, writing = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(reading, "rb", buffering=0), os.fdopen(writing, "wb", buffering=0)


def _crumb(descriptor: int | None) -> Crumb:
    if descriptor is None:
        return no_crumb
    breadcrumb = Breadcrumb(descriptor)
    os.close(descriptor)

    def tell(plugin: str, doing: str) -> None:
        if plugin:
            breadcrumb.enter(plugin, doing)
        else:
            breadcrumb.leave()

    return tell


def _next(reading: BinaryIO, idle_s: float) -> Ask | None:
    """The next call; None after `idle_s` without one, or when the daemon has gone."""
    if not select.select([reading], [], [], idle_s)[0]:
        return None
    header = _exactly(reading, HEADER)
    body = None if header is None else _exactly(reading, length(header))
    return None if body is None else msgspec.json.decode(body, type=Ask)


def _exactly(reading: BinaryIO, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        chunk = reading.read(min(count - len(parts), 1 << 20))
        if not chunk:
            return None
        parts += chunk
    return bytes(parts)


def _write(writing: BinaryIO, message: object) -> None:
    view = memoryview(frame(message))
    while view:
        view = view[writing.write(view) :]


def _end_when_orphaned(parent: int) -> None:
    """A plugin that hangs must not outlive the daemon that would have ended it."""
    while os.getppid() == parent:
        time.sleep(_ORPHAN_S)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
