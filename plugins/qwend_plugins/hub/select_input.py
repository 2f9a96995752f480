"""Name the input that is the step's artifact. Runs inside an image and imports nothing of qwend.

    python select_input.py NAME

The report (the file in ``QWEND_REPORT``) gets one line: ``{"select": NAME}``.
"""

from __future__ import annotations

import json
import os
import sys


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        print("select_input: one name is needed", file=sys.stderr)
        return 2
    with open(os.environ["QWEND_REPORT"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"select": argv[1]}, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
