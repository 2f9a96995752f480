"""Headers of safetensors files: what an adapter fits, and what was really written. Standard library only."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from lf_report import Refused

_LORA = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.[^.]+)?\.weight")
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1,
          "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip


class Tensor(NamedTuple):
    """One entry of a header: number format, shape, and where its bytes are (file, start, end)."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    def data(self) -> bytes:
        with self.file.open("rb") as file:
            file.seek(self.start)
            return file.read(self.end - self.start)


def header(path: Path) -> dict[str, Tensor]:
    """The tensors of one file. Raises Refused where the file is cut short or no safetensors."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < 1 << 27:
                raise ValueError
            entries: dict[str, Any] = json.loads(file.read(length))
        found = {}
        for name, entry in entries.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                shape = tuple(entry["shape"])
                found[name] = Tensor(entry["dtype"], shape, path, 8 + length + start, 8 + length + end)
    except (OSError, ValueError, KeyError, TypeError):
        raise Refused(f"{path.name} is no safetensors file", "fetch or make it again") from None
    if found and path.stat().st_size != max(tensor.end for tensor in found.values()):
        raise Refused(f"{path.name} is cut short", "qwend store verify finds damage; fetch or make it again")
    return found


def folder(path: Path, pattern: str = "*.safetensors") -> dict[str, Tensor]:
    """All tensors of a folder's files. Raises Refused if there are none."""
    files = sorted(path.glob(pattern))
    if not files:
        raise Refused(f"there is no {pattern} in {path.name}")
    found: dict[str, Tensor] = {}
    for file in files:
        found |= header(file)
    return found


def adapted(adapter: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Module → its A and B, of a LoRA adapter."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapter.items():
        if match := _LORA.fullmatch(name):
            found.setdefault(match["module"], {})[match["side"]] = tensor
    return found


def must_fit(adapter: dict[str, Tensor], base: dict[str, Tensor], name: str) -> int:
    """How many modules of the base the adapter changes. Raises Refused where it belongs to another base."""
    modules = adapted(adapter)
    if not modules:
        raise Refused(f"{name} holds no LoRA weights")
    for module, sides in modules.items():
        weight = base.get(f"{module}.weight")
        if weight is None:
            raise Refused(f"{name} changes {module}, which the base does not have", _OTHER)
        if len(weight.shape) != 2 or "A" not in sides or "B" not in sides:
            continue  # embeddings are stored the other way round
        out, into = weight.shape
        wide, tall = sides["A"].shape[-1], sides["B"].shape[0]
        if (tall, wide) not in ((out, into), (into, out)):
            raise Refused(f"{name} is for a {module} of {tall}×{wide}, the base's is {out}×{into}", _OTHER)
    return len(modules)


_OTHER = "take the base that the adapter was trained on; its name is in adapter_config.json"


def learned(adapter: dict[str, Tensor]) -> bool:
    """Whether some B is not all zeros: an untrained LoRA adapter changes nothing."""
    return any("B" in sides and any(sides["B"].data()) for sides in adapted(adapter).values())


def size(tensors: dict[str, Tensor]) -> tuple[int, int, str]:
    """Numbers, bytes, and the commonest number format."""
    numbers = total = 0
    formats: dict[str, int] = {}
    for tensor in tensors.values():
        length = tensor.end - tensor.start
        count = length // _BYTES.get(tensor.dtype, 1)
        numbers, total = numbers + count, total + length
        formats[tensor.dtype] = formats.get(tensor.dtype, 0) + count
    return numbers, total, max(formats, key=lambda key: formats[key]) if formats else ""
