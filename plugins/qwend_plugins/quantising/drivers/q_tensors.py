"""What a checkpoint's safetensors files really hold, from their headers. Standard library only.

Runs inside an image and imports nothing of qwend. Format: 8 bytes of length, a JSON header, then the tensors.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from q_report import Trouble

MAX_HEADER = 256 << 20
ROUTERS = re.compile(r"\.(gate|shared_expert_gate|router)$")
"""Routers of a mixture stay as they are: every backend leaves them out, or is told to."""
SIXTEEN = ("F16", "BF16", "F32", "F64")
"""Types of weights that nothing quantised."""


@dataclass(frozen=True)
class Tensor:
    """`dtype` as safetensors writes it, `shape` slowest dimension first, `size` in bytes."""

    dtype: str
    shape: tuple[int, ...]
    size: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def config_of(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises Trouble where there is none."""
    try:
        value = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError:
        raise Trouble(f"{folder.name} holds no config.json", "is it a Hugging Face checkpoint?") from None
    except ValueError:
        raise Trouble("config.json is no JSON", "fetch the model again") from None
    if not isinstance(value, dict):
        raise Trouble("config.json holds no object", "fetch the model again")
    return value


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint by its name. Raises Trouble for pickles, missing or damaged files."""
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        if missing := sorted(names - {file.name for file in files}):
            raise Trouble(f"{missing[0]} is missing: {len(missing)} of {len(names)} files", "fetch it again")
        files = [file for file in files if file.name in names]
    if not files:
        raise Trouble("there are no safetensors files", "pickled weights are not read; convert them first")
    found: dict[str, Tensor] = {}
    for file in files:
        found |= _header(file)
    return found


def _header(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(MAX_HEADER, size - 8):
            raise Trouble(f"{path.name} is broken or cut short", "fetch or build it again")
        try:
            header = json.loads(file.read(length))
            rows = {name: row for name, row in header.items() if name != "__metadata__"}
            spans = {name: row["data_offsets"] for name, row in rows.items()}
            found = {
                name: Tensor(row["dtype"], tuple(row["shape"]), spans[name][1] - spans[name][0])
                for name, row in rows.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise Trouble(f"{path.name}: its header cannot be read", "fetch or build it again") from None
    end = max((span[1] for span in spans.values()), default=0)
    if 8 + length + end != size:
        raise Trouble(f"{path.name} is broken or cut short", "fetch or build it again")
    return found


def linears(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The matrices of the layers (`model.layers.0.mlp.up_proj` → its weight): what quantisers quantise.

    Embeddings, the output head, norms and whatever has no matrix in a layer are not among them."""
    return {
        name.removesuffix(".weight"): tensor
        for name, tensor in tensors.items()
        if ".layers." in name and name.endswith(".weight") and len(tensor.shape) == 2
    }


def check_source(folder: Path, group_size: int, outputs: int = 1) -> dict[str, Tensor]:
    """The matrices of an unquantised checkpoint whose rows divide into groups, and whose columns into `outputs`.

    Raises Trouble before anything was loaded: the first matrix that does not, with group sizes that would."""
    if isinstance(config_of(folder).get("quantization_config"), dict):
        raise Trouble("the checkpoint is quantised already", "start from the unquantised model")
    tensors = tensors_of(folder)
    found = linears(tensors)
    if not found:
        raise Trouble(
            "no layer of the checkpoint has a matrix of its own", "is it a language model of the usual form?"
        )
    for name, tensor in found.items():
        if ROUTERS.search(name):
            continue
        rows, columns = tensor.shape
        if group_size > 0 and columns % group_size:
            rest = math.gcd(*(one.shape[1] for key, one in found.items() if not ROUTERS.search(key)))
            fit = [size for size in (16, 32, 64, 128, 256) if rest % size == 0]
            raise Trouble(
                f"group size {group_size} does not divide the {columns} inputs of {name}",
                f"group sizes that fit this model: {', '.join(map(str, fit))}"
                if fit
                else "take group size -1",
            )
        if rows % outputs:
            raise Trouble(f"{name} has {rows} outputs, no multiple of {outputs}", f"leave {name} unquantised")
    return found
