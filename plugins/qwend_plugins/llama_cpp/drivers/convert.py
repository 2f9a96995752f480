"""Run llama.cpp's converter, and let it run no code that came with the checkpoint unless that was allowed.

Runs inside the image and imports nothing of qwend:

    python convert.py CONVERTER [--trust-remote-code] -- ARGUMENTS OF THE CONVERTER

llama.cpp's converter asks transformers for tokenizers with ``trust_remote_code=True``: a checkpoint that names a
module of its own in ``auto_map`` would run it. Here that word is taken back unless the caller gives it.

Exit codes: 0 done, 1 the converter refuses (its reason is the last line), 2 usage. Errors and facts go as JSON
lines to the file in ``QWEND_REPORT``.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

KNOWN = (
    (
        r"BPE pre-tokenizer was not recognized",
        "the converter does not know this model's tokenizer",
        "it was changed or is newer than this llama.cpp: keep the base model's tokenizer files, or upgrade the image",
    ),
    (
        r"Quant(?: method is not yet supported: |\s*format )'?(?P<method>[\w-]+)'?",
        "the checkpoint is quantised ({method}), which the converter cannot read",
        "convert the unquantised model; for AWQ scales without packing use awq/scale",
    ),
    (
        r"Can not map tensor '(?P<tensor>[^']+)'",
        "the converter has no place for the tensor {tensor}",
        "is this a whole model? An adapter is merged, or converted by llama-cpp/convert-lora",
    ),
    (r"No space left on device", "the disk is full", "qwend store prune frees what nothing refers to"),
    (
        r"(?:contains custom code|requires you to execute the .*file|trust_remote_code|attribute mergeable_ranks)",
        "the checkpoint needs code of its own, which was not allowed to run",
        "read that code, then say trust_remote_code: true at the step",
    ),
    (
        r"No module named '(?P<module>[^']+)'",
        "the converter needs {module}, which the image does not hold",
        "",
    ),
)


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def refuse_remote_code() -> None:
    """Make the Auto classes that the converter calls see `trust_remote_code=False`, and close the one door through
    which transformers loads code of a checkpoint, whoever knocks. The other Auto classes are not even imported: that
    alone would take two seconds."""
    transformers: Any = importlib.import_module("transformers")
    for name in ("AutoConfig", "AutoTokenizer"):
        kind = getattr(transformers, name)
        kind.from_pretrained = classmethod(careful(kind.from_pretrained.__func__))
    door: Any = importlib.import_module("transformers.dynamic_module_utils")
    if not hasattr(door, "get_class_in_module"):
        fail("this transformers loads code of checkpoints in another way than the driver knows how to close")
    door.get_class_in_module = refuse


def refuse(*_: Any, **__: Any) -> Any:
    raise PermissionError("the checkpoint contains custom code")


def careful(original: Callable[..., Any]) -> Callable[..., Any]:
    """`original` with the word taken back, whatever the caller says."""

    def from_pretrained(cls: type, *args: Any, **kwargs: Any) -> Any:
        return original(cls, *args, **{**kwargs, "trust_remote_code": False})

    return from_pretrained


def explain(error: BaseException) -> tuple[str, str]:
    """One line for the user, and a hint."""
    text = f"{type(error).__name__}: {error}"
    for pattern, message, hint in KNOWN:
        if found := re.search(pattern, text):
            return message.format(**found.groupdict()), hint
    return re.sub(r"\s+", " ", str(error) or type(error).__name__)[:400], ""


def fail(message: str, hint: str = "") -> None:
    report(error={"message": message, "hint": hint})
    print(f"convert: {message}" + (f" ({hint})" if hint else ""), file=sys.stderr, flush=True)
    sys.exit(1)


def main(argv: list[str]) -> None:
    if "--" not in argv or not argv.index("--") or not argv[0].endswith(".py"):
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    at = argv.index("--")
    own, rest = argv[:at], argv[at + 1 :]
    script = Path(own[0])
    if not script.is_file():
        fail(f"{script} is not there: the image is damaged", "qwend images verify")
    if "--trust-remote-code" not in own:
        refuse_remote_code()
    sys.argv = [str(script), *rest]
    sys.path.insert(0, str(script.parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as error:
        if error.code not in (None, 0):
            sys.exit(error.code)
    except (Exception, KeyboardInterrupt) as error:
        traceback.print_exc()
        fail(*explain(error))
    tell(rest)


def tell(rest: list[str]) -> None:
    """Report from the header what was written, if the driver that does so lies beside this one."""
    if "--outfile" not in rest or not Path(__file__).with_name("make_gguf.py").is_file():
        return
    sys.path.insert(0, str(Path(__file__).parent))
    made: Any = importlib.import_module("make_gguf")
    try:
        made.measure(Path(rest[rest.index("--outfile") + 1]).parent)
    except made.ToolError as error:
        fail(str(error), error.hint)


if __name__ == "__main__":
    main(sys.argv[1:])
