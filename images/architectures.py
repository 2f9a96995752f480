#!/usr/bin/env python3
"""Say for which cards a wheel holds machine code, without a card and without installing it.

    python images/architectures.py torch-2.10.0-cp311-cp311-manylinux_2_28_x86_64.whl torch/lib/libtorch_python.so
    python images/architectures.py vllm-0.10.1.1-cp38-abi3-manylinux1_x86_64.whl vllm/_C.abi3.so

Prints the architectures as images/architectures.toml records them: `sm_70` is machine code for compute capability 7.0,
`compute_90` is PTX, which a driver can translate for cards from 9.0 on. What is found is

- torch's own list (`torch.cuda.get_arch_list()` returns it), where the library holds it;
- else what the headers of the fat binaries say that nvcc put into the library.
"""

from __future__ import annotations

import argparse
import re
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

_LIST = re.compile(rb"(?:(?:sm|compute)_\d+[af]? ){2,}(?:sm|compute)_\d+[af]?")
_FAT = b"\x50\xed\x55\xba"
"""Begins a fat binary: magic number, version and header size (2 bytes each), size of what follows (8)."""
_KINDS = {1: "compute", 2: "sm"}


def architectures(library: bytes) -> list[str]:
    """For what a library holds code, in ascending order; empty where it holds none for cards."""
    if listed := _LIST.search(library):
        return listed.group().decode().split()
    return sorted(set(_compiled(library)), key=lambda name: (name.split("_")[0], int(name.split("_")[1])))


def _compiled(library: bytes) -> Iterator[str]:
    """One name for each piece of code: kind (2 bytes), header size (4, at 4), size (8), architecture (4, at 28)."""
    for found in re.finditer(_FAT, library):
        header, size = struct.unpack_from("<HQ", library, found.start() + 6)
        at = found.start() + header
        end = min(at + size, len(library) - 32)
        while at < end:
            kind, own, length = struct.unpack_from("<H2xIQ", library, at)
            if own < 32 or kind not in _KINDS:
                break
            yield f"{_KINDS[kind]}_{struct.unpack_from('<I', library, at + 28)[0]}"
            at += own + length


def main(arguments: list[str] | None = None) -> int:
    """Entry point; 2 where there is nothing to read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("member", help="path of a library in the wheel")
    given = parser.parse_args(arguments)
    try:
        with zipfile.ZipFile(given.wheel) as bundle:
            library = bundle.read(given.member)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        print(f"{given.wheel}: {error}", file=sys.stderr)
        return 2
    print(" ".join(architectures(library)) or "no code for cards")
    return 0


if __name__ == "__main__":
    sys.exit(main())
