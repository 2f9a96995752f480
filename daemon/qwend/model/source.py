"""How a reference gets its pin: what a Source of a plugin answers, and what the daemon acts upon."""

from __future__ import annotations

import msgspec

from qwend.model.artifact import Pin
from qwend.model.image import Image
from qwend.model.launch import Launch


class Question(msgspec.Struct, frozen=True):
    """What must run, with network, to pin a reference or to fetch it. A question that pins prints a `Pin` as
    JSON, as the last line of its standard output."""

    image: Image
    launch: Launch


class Resolution(msgspec.Struct, frozen=True):
    """How a reference gets its pin: at once (`pin`), from a local path whose content the daemon hashes
    (`local`), or by asking (`question`).

    With `local`, `pin` says all that the headers told (type, facts, files) and has an empty `identity`: the
    daemon sets it to `sha256:<digest of the content>`. `type` is the artifact type where it is known before.
    """

    pin: Pin | None = None
    local: str | None = None
    question: Question | None = None
    type: str | None = None
