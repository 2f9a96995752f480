"""Serve one GGUF file over llama.cpp's HTTP server, from the ready-made ``xllamacpp`` wheel.

Runs inside the image and imports nothing of qwend. Options carry llama-server's own names:

    python serve.py --model FILE_OR_DIR --host 127.0.0.1 --port 8080 --alias chat --ctx-size 8192

It stays in the foreground; SIGTERM or SIGINT ends it with exit code 0, cutting open streams. The socket listens
before the model is loaded: until then every path answers 503 "Loading model", so ``/health`` is a true readiness probe.

Exit codes: 1 the model or an option is refused (the engine's first error line is repeated last), 2 usage, 98 the
port is taken (EADDRINUSE). The log is stderr; facts and metrics go as JSON lines to the file in ``QWEND_REPORT``.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

ADDRESS_IN_USE = 98
ERROR_LINE = re.compile(r"^\d[\d.]* E (.+)$")  # llama.cpp: "<time> <level> <text>"
SHARD = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


class DriverError(Exception):
    """A known failure: one line for the user, a hint, an exit code."""

    def __init__(self, message: str, hint: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.hint, self.code = hint, code


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def find_model(path: Path) -> Path:
    """The GGUF file that ``path`` names: itself, or the only model (or its first shard) in that folder."""
    if path.is_dir():
        found = sorted(p for p in path.glob("*.gguf") if not p.name.startswith("mmproj"))
        found = [p for p in found if not (shard := SHARD.search(p.name)) or int(shard[1]) == 1]
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "none"
            raise DriverError(
                f"{path}: expected one GGUF model, found {len(found)} ({names})", "name the file itself"
            )
        path = found[0]
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise DriverError(f"{path}: {error.strerror}") from None
    if magic != b"GGUF":
        raise DriverError(
            f"{path}: not a GGUF file (it begins with {magic!r})", "convert it with llama-cpp/convert"
        )
    return path


class Echo:
    """While the engine loads, copy its stderr on and keep the error lines.

    Loading holds Python's lock, so no thread of ours could read a pipe meanwhile: a forked child does, and it still
    delivers the last lines when the engine is killed half-way. It ends when loading does.
    """

    KEPT = 64

    def __enter__(self) -> Echo:
        self.original = os.dup(2)
        log, engine = os.pipe()
        self.answer, kept = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            for unused in (engine, self.answer):
                os.close(unused)
            for number in (signal.SIGINT, signal.SIGTERM):  # it ends by the pipe's end, after the last line
                signal.signal(number, signal.SIG_IGN)
            os.dup2(log, 0)
            self._copy(kept)
            os._exit(0)
        for unused in (log, kept):
            os.close(unused)
        os.dup2(engine, 2)
        os.close(engine)
        self.errors: list[str] = []
        return self

    def _copy(self, kept: int) -> None:
        os.dup2(self.original, 2)
        errors: list[bytes] = []
        with open(0, "rb", closefd=False) as lines:
            for line in iter(lambda: lines.readline(65536), b""):
                with contextlib.suppress(OSError):  # the log's reader is gone: the engine must not notice
                    os.write(2, line)
                if len(errors) < self.KEPT and ERROR_LINE.match(line.decode("utf-8", "replace").rstrip()):
                    errors.append(line)
        with open(kept, "wb") as answer:
            answer.write(b"".join(errors)[:32768])

    def __exit__(self, *_: object) -> None:
        os.dup2(self.original, 2)  # the pipe's last writer: the child reads its end and answers
        os.close(self.original)
        with open(self.answer, "rb") as answer:
            lines = answer.read().decode("utf-8", "replace").splitlines()
        os.waitpid(self.child, 0)
        self.errors = [found[1].strip() for line in lines if (found := ERROR_LINE.match(line))]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve one GGUF file over llama.cpp's HTTP server.")
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a GGUF file, or a folder that holds one")
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True, help="1 to 65535")
    add("--alias", help="the model's name in /v1/models and in answers")
    add("--ctx-size", type=int, default=0, help="tokens, all slots together; 0: the model's own")
    add("--parallel", type=int, default=1, help="requests answered at the same time; they share the context")
    add("--threads", type=int, default=-1)
    add("--threads-http", type=int, default=-1)
    add("--batch-size", type=int)
    add("--ubatch-size", type=int)
    add("--n-gpu-layers", type=int, default=-1, help="-1: as many as fit")
    add("--require-gpu", action="store_true", help="refuse to start where this build sees no accelerator")
    add("--flash-attn", choices=("auto", "on", "off"), default="auto")
    add("--cache-type-k", choices=CACHE_TYPES)
    add("--cache-type-v", choices=CACHE_TYPES)
    add("--n-predict", type=int, default=-1, help="most tokens of an answer; -1: no limit")
    add("--jinja", action=argparse.BooleanOptionalAction, default=True, help="templates by Jinja")
    add("--chat-template", help="a Jinja template, or the name of a built-in one")
    add("--chat-template-file", type=Path)
    add("--lora", type=Path, action="append", default=[], help="a GGUF adapter; may be given more than once")
    add("--api-key-file", type=Path, help="one key a line; without it every client is served")
    add("--cors-origins", default="", help="web origins that may call; none by default")
    add("--metrics", action="store_true", help="answer /metrics")
    add("--slots", action=argparse.BooleanOptionalAction, default=False, help="answer /slots")
    add("--warmup", action=argparse.BooleanOptionalAction, default=True)
    add("--verbosity", type=int, default=3, help="1 errors, 2 warnings, 3 info, 4 debug")
    args = parser.parse_args(argv)
    if not 0 < args.port < 65536:
        parser.error("--port must be between 1 and 65535")
    if args.ctx_size < 0 or args.parallel < 1:
        parser.error("--ctx-size must not be negative, --parallel must be at least 1")
    if args.chat_template and args.chat_template_file:
        parser.error("give --chat-template or --chat-template-file, not both")
    return args


def read_keys(path: Path) -> list[str]:
    """The keys of a file, one a line; an empty file is an error, since it would open the server."""
    try:
        keys = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DriverError(
            f"--api-key-file {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}"
        ) from None
    if not any(keys):
        raise DriverError(f"--api-key-file {path}: no key in it")
    return [key for key in keys if key]


def build_params(args: argparse.Namespace, model: Path) -> Any:
    """Fill ``xllamacpp.CommonParams``; unset options keep llama.cpp's defaults."""
    import xllamacpp as engine

    params = engine.CommonParams()
    params.model.path = str(model)
    params.hostnames, params.port = [args.host], args.port
    params.model_alias = {args.alias or model.stem}
    params.n_ctx, params.n_parallel, params.n_predict = args.ctx_size, args.parallel, args.n_predict
    params.n_threads_http, params.verbosity = args.threads_http, args.verbosity
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    params.n_gpu_layers, params.warmup = args.n_gpu_layers, args.warmup
    params.use_jinja, params.offline, params.ui = args.jinja, True, False
    params.endpoint_metrics, params.endpoint_slots = args.metrics, args.slots
    params.cors_origins = args.cors_origins
    flash = args.flash_attn.replace("on", "enabled").replace("off", "disabled").upper()
    params.flash_attn_type = getattr(engine.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{flash}")
    for option in ("cache_type_k", "cache_type_v"):
        if value := getattr(args, option):
            setattr(params, option, getattr(engine.ggml_type, f"GGML_TYPE_{value.upper()}"))
    if args.batch_size:
        params.n_batch = args.batch_size
    if args.ubatch_size:
        params.n_ubatch = args.ubatch_size
    if args.chat_template_file:
        try:
            params.chat_template = args.chat_template_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DriverError(f"--chat-template-file {args.chat_template_file}: {error}") from None
    elif args.chat_template:
        params.chat_template = args.chat_template
    if args.api_key_file:
        params.api_keys = read_keys(args.api_key_file)
    adapters = []
    for path in args.lora:
        adapter = engine.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = str(find_model(path)), 1.0
        adapters.append(adapter)
    if adapters:
        params.lora_adapters = adapters
    return params


def accelerators() -> list[str]:
    """Names of the devices other than the CPU that this build of llama.cpp sees."""
    import xllamacpp as engine

    kinds = engine.ggml_backend_dev_type
    plain = {
        kinds.GGML_BACKEND_DEVICE_TYPE_CPU,
        kinds.GGML_BACKEND_DEVICE_TYPE_ACCEL,
    }  # ACCEL: BLAS and the like
    return [f"{d['name']} {d['description']}" for d in engine.get_device_info() if d["type"] not in plain]


def why_not_bound(host: str, port: int) -> int:
    """The errno of binding ``host:port`` now; the engine only says that it could not. 0: it would work."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno or errno.EADDRNOTAVAIL
    return 0


def load(params: Any, on_signal: Any) -> Any:
    """Start the server and load the model; raise the engine's own words if either fails.

    Until it is loaded SIGTERM ends the process by its default action: the engine cannot be interrupted.
    """
    import xllamacpp as engine

    try:
        with Echo() as echo:
            server = engine.Server(params)
            for number in (signal.SIGTERM, signal.SIGINT):  # in place of the engine's own handlers
                signal.signal(number, on_signal)
        return server
    except RuntimeError as error:
        said = re.sub(r"\s+", " ", echo.errors[0] if echo.errors else str(error))
    if "couldn't bind" in said:
        host, port = params.hostnames[0], params.port
        reason = why_not_bound(host, port) or errno.EADDRINUSE  # 0: the holder has just gone
        message = f"cannot listen on {host}:{port}: {os.strerror(reason)}"
        if reason == errno.EADDRINUSE:
            raise DriverError(message, "choose another port", ADDRESS_IN_USE)
        raise DriverError(message, "choose an address of this machine and a port that this user may take")
    raise DriverError(f"the engine refuses to load: {said}")


def serve(args: argparse.Namespace) -> None:
    """Load, announce, and wait for a signal."""
    model = find_model(args.model)
    params = build_params(args, model)
    devices = accelerators()
    if args.require_gpu and not devices:
        raise DriverError(
            "this build of llama.cpp sees no accelerator", "serve on device cpu, or mend the driver"
        )
    size = model.stat().st_size
    report(progress={"phase": "load", "done": 0, "total": size, "unit": "B"})
    begun = time.monotonic()
    stop = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            os._exit(1)  # a second signal: do not wait for open streams
        stop.set()

    server = load(params, on_signal)
    report(progress={"phase": "load", "done": size, "total": size, "unit": "B"})
    report(metric={"name": "load_time", "value": round(time.monotonic() - begun, 3), "unit": "s"})
    report(fact={"listening": server.listening_address, "devices": devices or ["CPU"]})
    stop.wait()
    del server  # stops listening, ends the streams, frees the weights


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    try:
        serve(args)
    except DriverError as error:
        report(error={"message": str(error), "hint": error.hint})
        print(f"serve: {error}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr, flush=True)
        sys.exit(error.code)


if __name__ == "__main__":
    main()
