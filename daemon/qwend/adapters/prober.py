"""Asks a service whether it is well, over HTTP on its own port."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from qwend.adapters.http1 import Answer, BadAnswer, request
from qwend.core.redact import redact
from qwend.core.wording import show
from qwend.model.launch import HttpProbe

ANSWER_LIMIT = 1 << 20
"""Bytes of an answer that are read. A work-path probe asks for one token: a megabyte is a broken service."""

_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


class HttpProber:
    """`Prober` on raw connections, one for each probe: a keep-alive would hide that nobody accepts any more.

    Whether it is *our* step that answers is for the runtime's `listens` to say.
    """

    async def ask(self, host: str, port: int, probe: HttpProbe, headers: Mapping[str, str]) -> str | None:
        """None if the answer has a 2xx status and holds `probe.field`, else what was wrong in one line.

        Redirects are not followed: they would lead the probe, and its key, to somebody else.
        """
        body = None if probe.body is None else msgspec.json.encode(probe.body)
        try:
            async with asyncio.timeout(probe.timeout_s):
                answer = await request(
                    (_EVERYWHERE.get(host, host), port),
                    probe.path,
                    method="GET" if body is None else "POST",
                    headers={"Accept": "application/json", **headers},
                    body=body,
                    limit=ANSWER_LIMIT,
                )
        except TimeoutError:
            return f"{probe.path} did not answer within {probe.timeout_s:g} s"
        except ConnectionRefusedError:
            return f"nothing listens on port {port} yet"
        except OSError as error:
            return f"{probe.path}: {error.strerror or error}"
        except (BadAnswer, ValueError) as error:
            return f"{probe.path}: {show(str(error), 200)}"
        return judge(answer, probe)


def judge(answer: Answer, probe: HttpProbe) -> str | None:
    """What is wrong with an answer, in one line; None if nothing is."""
    if 300 <= answer.status < 400:
        return f"{probe.path} answers {answer.status}, a redirect, which is not followed"
    if not 200 <= answer.status < 300:
        said = " ".join(answer.body[:600].decode("utf-8", "replace").split())
        return f"{probe.path} answers {answer.status}" + (f": {show(redact(said), 160)}" if said else "")
    if probe.field is None:
        return None
    if not answer.whole:
        return f"{probe.path} answers with more than {ANSWER_LIMIT} bytes"
    try:
        found: Any = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"{probe.path} does not answer in JSON"
    for part in probe.field.split("."):
        found = _member(found, part)
        if found is None:
            return f"{probe.path} answers without {show(probe.field)}"
    return None


def _member(value: Any, part: str) -> Any:
    """A member of an object by name, of a list by position; None if there is none (or it is null)."""
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list) and part.isascii() and part.isdigit() and int(part) < len(value):
        return value[int(part)]
    return None
