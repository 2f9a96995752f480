"""Parameters as words of a command line."""

from __future__ import annotations

import json
from collections.abc import Iterator

from qwend.plugin import Params, Word


def flags(params: Params, *fields: str) -> Iterator[Word]:
    """The fields as the tool's own flags (`x-qwend-flag`), those with their default left out.

    True is the flag alone, False `--no-flag`; a list gives its items after the flag; a mapping is JSON.
    """
    for field in fields:
        info = type(params).model_fields[field]
        value = getattr(params, field)
        extra = info.json_schema_extra
        if value == info.default or not isinstance(extra, dict):
            continue
        name = str(extra["x-qwend-flag"])
        match value:
            case True:
                yield name
            case False:
                yield f"--no-{name.removeprefix('--')}"
            case tuple():
                yield from (name, *map(str, value))
            case dict():
                yield from (name, json.dumps(value, sort_keys=True, ensure_ascii=False))
            case _:
                yield from (name, str(value))
