"""Which cards a flavour serves is what its wheels hold code for: the record, the locks and the plan say the same."""

from __future__ import annotations

import importlib.util
import struct
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from qwend.adapters.locks import read_lock
from qwend.core.placement import FLOORS
from qwend.model.image_file import read_image_file

IMAGES = Path(__file__).resolve().parents[3] / "images"
RECORD: list[dict[str, Any]] = tomllib.loads((IMAGES / "architectures.toml").read_text())["wheel"]
DECIDING = ("torch", "vllm")
"""Packages whose kernels decide whether a card can be used at all."""
LOCKS = [
    (folder.parent.name, flavour)
    for folder in sorted(IMAGES.glob("qwend_images/*/image.toml"))
    for flavour in sorted({"cuda", "cuda12"} & read_image_file(folder.parent).flavours.keys())
    if folder.parent.name != "llama-cpp"  # which is compiled for the architectures of its build option
]


def capabilities(wheel: dict[str, Any]) -> set[tuple[int, int]]:
    """The compute capabilities that a wheel holds machine code for."""
    codes = [name.removeprefix("sm_") for name in wheel["architectures"] if name.startswith("sm_")]
    return {(int(code[:-1]), int(code[-1])) for code in codes}


@pytest.mark.parametrize(("image", "flavour"), LOCKS)
def test_what_decides_the_cards_of_a_lock_is_recorded_and_holds_code_for_the_least_of_them(
    image: str, flavour: str
) -> None:
    folder = IMAGES / "qwend_images" / image
    pins = read_lock(folder / read_image_file(folder).flavours[flavour].lock)
    deciding = [pin for pin in pins if pin.name in DECIDING]
    assert deciding
    for pin in deciding:
        [wheel] = [one for one in RECORD if (one["package"], one["version"]) == (pin.name, pin.version)]
        assert wheel["sha256"] in pin.hashes
        assert FLOORS[flavour].capability in capabilities(wheel), f"{pin.name} {pin.version}"


def test_flavour_cuda_is_for_cards_from_where_its_wheels_begin() -> None:
    """A card below has to be refused, or it would fail in the middle of a run with `no kernel image`."""
    newest = [one for one in RECORD if one["version"] in ("2.13.0", "0.32.0")]
    assert {min(capabilities(one)) for one in newest} == {FLOORS["cuda"].capability}


def test_the_torch_of_cuda12_is_the_last_that_serves_its_cards() -> None:
    served = {
        tuple(map(int, one["version"].split("."))): FLOORS["cuda12"].capability in capabilities(one)
        for one in RECORD
        if one["package"] == "torch"
    }
    last = max(version for version, there in served.items() if there)
    assert not served[(last[0], last[1] + 1, 0)], "the next release is recorded, and has dropped them"
    for image in ("transformers", "gptq", "llama-factory"):
        folder = IMAGES / "qwend_images" / image
        asked = read_image_file(folder).flavours["cuda12"].requires
        assert f"torch=={'.'.join(map(str, last))}" in asked


def test_what_quantises_in_four_bits_while_training_serves_them_too() -> None:
    folder = IMAGES / "qwend_images" / "llama-factory"
    pins = read_lock(folder / read_image_file(folder).flavours["cuda12"].lock)
    [pin] = [pin for pin in pins if pin.name == "bitsandbytes"]
    [wheel] = [one for one in RECORD if one["package"] == "bitsandbytes"]
    assert (wheel["version"], wheel["sha256"] in pin.hashes) == (pin.version, True)
    assert FLOORS["cuda12"].capability in capabilities(wheel)


def fat(*codes: tuple[int, int]) -> bytes:
    """A fat binary as nvcc lays it out: (1 for PTX or 2 for machine code, architecture)."""
    body = b""
    for kind, architecture in codes:
        code = b"code of 12 b"
        head = struct.pack("<HHIQ", kind, 0x101, 64, len(code)).ljust(28, b"\0")
        body += (head + struct.pack("<I", architecture)).ljust(64, b"\0") + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_the_reader_finds_the_code_of_a_library(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("architectures", IMAGES / "architectures.py")
    assert spec is not None and spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    library = b"ELF" + fat((2, 70), (2, 90), (1, 90)) + b"between" + fat((2, 120), (2, 70)) + bytes(64)
    assert reader.architectures(library) == ["compute_90", "sm_70", "sm_90", "sm_120"]
    assert reader.architectures(b"x\0sm_75 sm_80 sm_90\0") == ["sm_75", "sm_80", "sm_90"]
    assert reader.architectures(bytes(100)) == []
    cut = fat((2, 70), (2, 90))
    assert reader.architectures(cut[: len(cut) // 2]) in ([], ["sm_70"])

    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as bundle:
        bundle.writestr("some/_C.so", library)
    for member, code, words in (("some/_C.so", 0, "sm_120"), ("some/_D.so", 2, "some/_D.so")):
        command = [sys.executable, str(IMAGES / "architectures.py"), str(wheel), member]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (ended.returncode, words in ended.stdout + ended.stderr) == (code, True)
