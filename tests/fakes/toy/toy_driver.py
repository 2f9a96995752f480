"""What a toy step runs. Imports nothing of qwend."""

from __future__ import annotations

import argparse
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

BEGUN = time.monotonic()


def report(**row: object) -> None:
    with open(os.environ["QWEND_REPORT"], "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def job(args: argparse.Namespace) -> int:
    mark = Path(args.scratch) / "tried"
    first = not mark.exists()
    mark.touch()
    done = Path(args.out) / "steps.txt"
    step = len(done.read_text().split()) if args.resume and done.exists() else 0
    if args.resume:
        said("from", step)
    ends = time.monotonic() + args.seconds
    while time.monotonic() < ends or step == 0:
        step += 1
        report(
            progress={
                "phase": "count",
                "done": step,
                "total": max(step, int(args.seconds * 10)),
                "unit": "steps",
            }
        )
        if args.resume:
            with done.open("a") as file:
                file.write(f"{step}\n")
        time.sleep(min(0.1, args.seconds))
    if args.eat:
        held = bytearray(args.eat)
        held[::4096] = b"x" * len(held[::4096])
    if args.fill:
        with open(Path(args.out) / "fill.bin", "wb") as file:
            file.writelines(os.urandom(min(1 << 20, args.fill)) for _ in range(0, args.fill, 1 << 20))
    if args.last_words:
        print(args.last_words, flush=True)
    if args.once and first:
        return 1
    if args.metric is not None:
        report(metric={"name": "score", "value": args.metric})
    (Path(args.out) / "text.txt").write_text(f"{args.text}\n{len(args.input or ())}\n")
    if args.odd_name:
        with open(os.fsencode(args.out) + b"/\xff\xfe\n.txt", "w") as file:
            file.write("odd")
    return int(args.exit)


class Handler(http.server.BaseHTTPRequestHandler):
    args: argparse.Namespace

    def do_GET(self) -> None:
        loading = time.monotonic() - BEGUN < self.args.load
        self._say(503 if loading else 200, {"status": "loading" if loading else "ok", "pid": os.getpid()})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        late = self.args.hang_after is not None and time.monotonic() - BEGUN > self.args.hang_after
        if self.args.hang_work or late:
            time.sleep(3600)
        self._say(200, {"ok": True})

    def _say(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Probes are no news."""


def serve(args: argparse.Namespace) -> int:
    if args.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif args.polite:
        signal.signal(signal.SIGTERM, lambda number, frame: polite(args, number, frame))
    python = [sys.executable, "-I", "-S", "-c"]
    if args.fork:
        said("child", subprocess.Popen([*python, "import time; time.sleep(3600)"]).pid)
    if args.setsid:
        stubborn = "import signal,time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(3600)"
        child = subprocess.Popen([*python, stubborn], start_new_session=True, stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline()  # now it takes no notice of SIGTERM
        said("child", child.pid)
    if args.orphan:
        return 3
    if args.fail:
        print(args.fail, file=sys.stderr, flush=True)
        return 1
    if args.secret:
        secret = Path(args.secret).read_text()
        said("secret", len(secret))
        if args.leak_secret:
            print(f"error: the key {secret} was refused", flush=True)
            return 1
    written = 0
    while written < args.flood:
        written += os.write(1, b"x" * 8191 + b"\n")
    time.sleep(args.slow)
    if args.die_after is not None:
        later(args.die_after, lambda: die(args))
    if args.eat_after is not None:
        later(args.eat_after, lambda: bytearray(256 << 20).replace(b"\0", b"x"))
    if args.load:
        threading.Thread(target=loading, args=[args.load], daemon=True).start()
    Handler.args = args
    try:
        server = http.server.ThreadingHTTPServer((args.host, args.port), Handler)
    except OSError as error:
        print(f"cannot listen on port {args.port}: {error}", file=sys.stderr)
        return 98
    print(f"listening on {args.port}", flush=True)
    server.serve_forever()
    return 0


def talk(args: argparse.Namespace) -> int:
    if args.secret:
        said("secret", len(Path(args.secret).read_text()))
    said("talking", os.getpid())
    for line in sys.stdin:
        print(f"you said {line.strip()}", flush=True)
    return 0


def later(seconds: float, work: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, work)
    timer.daemon = True
    timer.start()


def die(args: argparse.Namespace) -> None:
    if args.last:
        print(args.last, file=sys.stderr, flush=True)
    os._exit(args.die_code)


def loading(seconds: float) -> None:
    while (done := time.monotonic() - BEGUN) < seconds:
        report(progress={"phase": "load", "done": round(done, 2), "total": seconds, "unit": "s"})
        time.sleep(0.1)


def said(word: str, number: int) -> None:
    print(word, number, flush=True)


def polite(args: argparse.Namespace, number: int, frame: FrameType | None) -> None:
    time.sleep(args.polite)
    print("ended in order", flush=True)
    os._exit(0)


def main() -> int:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("job")
    for name in ("--out", "--scratch", "--text", "--last-words"):
        one.add_argument(name, default="")
    one.add_argument("--input", action="append")
    for name in ("--seconds", "--metric"):
        one.add_argument(name, type=float, default=None if name == "--metric" else 0.0)
    for name in ("--exit", "--fill", "--eat"):
        one.add_argument(name, type=int, default=0)
    for name in ("--once", "--resume", "--odd-name"):
        one.add_argument(name, action="store_true")
    three = verbs.add_parser("talk")
    three.add_argument("--secret")
    two = verbs.add_parser("serve")
    two.add_argument("--host", default="127.0.0.1")
    two.add_argument("--port", type=int, required=True)
    for name in ("--ignore-sigterm", "--fork", "--setsid", "--hang-work", "--orphan", "--leak-secret"):
        two.add_argument(name, action="store_true")
    for name in ("--polite", "--slow", "--load"):
        two.add_argument(name, type=float, default=0.0)
    for name in ("--hang-after", "--die-after", "--eat-after"):
        two.add_argument(name, type=float)
    two.add_argument("--die-code", type=int, default=1)
    two.add_argument("--flood", type=int, default=0)
    two.add_argument("--input", action="append")
    for name in ("--fail", "--text", "--last", "--secret"):
        two.add_argument(name, default="")
    args = parser.parse_args()
    return {"job": job, "serve": serve, "talk": talk}[args.verb](args)


if __name__ == "__main__":
    sys.exit(main())
