"""Holds what a quantiser wrote against what the step claims: from headers, before anything is loaded.

Runs inside an image and imports nothing of qwend. The bits of a matrix are the bytes that were written for it over
the weights that it had in the source, so packing that did not happen cannot pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from q_report import Trouble
from q_tensors import ROUTERS, SIXTEEN, Tensor, config_of, linears, tensors_of

PACKED = ("qweight", "weight_packed", "weight")
SCALES = ("scales", "weight_scale", "weight_scale_inv")
SLACK = 0.25
"""How far the size may be above what was reckoned: indices, padding, a head that was tied."""
GROUPLESS = (None, 0, -1)
FORMATS = {"float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Claim:
    """What the step says its output is. `method` is config.json's `quant_method`; `group_size` -1: one group a row.

    `ignore` are names or patterns (`re:…`) of matrices that stay as they are."""

    method: str
    bits: int
    group_size: int | None
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """What was found: counts of matrices, bytes of all tensors, mean bits per weight over the whole model."""

    quantised: int
    kept: int
    bytes: int
    expected_bytes: int
    bits: float
    dtypes: dict[str, int]


def ignored(name: str, patterns: Iterable[str]) -> bool:
    """Whether a matrix stays as it is: a router, or named by a pattern (its whole name, a part of it, or a regex)."""
    if ROUTERS.search(name):
        return True
    for pattern in patterns:
        if pattern.startswith("re:"):
            if re.match(pattern[3:], name):
                return True
        elif pattern in name:
            return True
    return False


def check_written(source: Path, out: Path, claim: Claim) -> Written:
    """Raises Trouble for the first thing that is not as claimed."""
    before, after = tensors_of(source), tensors_of(out)
    check_config(config_of(out), claim)
    done, kept, weights = list[str](), list[str](), 0
    for name, matrix in linears(before).items():
        weights += matrix.elements
        if ignored(name, claim.ignore):
            kept.append(name)
            continue
        check_matrix(name, matrix, after, claim)
        done.append(name)
    if not done:
        raise Trouble("nothing was quantised: every matrix stays as it is", "leave fewer of them out")
    size = sum(tensor.size for tensor in after.values())
    reckoned = expected_bytes(before, done, claim)
    if size > reckoned * (1 + SLACK) + (1 << 20):
        raise Trouble(
            f"the result has {size} bytes, where {claim.bits} bits per weight should give {reckoned}",
            "more was written than the quantised model; keep the log and report it",
        )
    elements = sum(tensor.elements for tensor in before.values())
    dtypes: dict[str, int] = {}
    for tensor in after.values():
        dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + 1
    bits = round(8 * size / elements, 3)
    return Written(len(done), len(kept), size, reckoned, bits, dict(sorted(dtypes.items())))


def check_matrix(name: str, matrix: Tensor, after: dict[str, Tensor], claim: Claim) -> None:
    """One matrix: packed, of the claimed bits, with scales of the claimed groups."""
    written = next((after[f"{name}.{end}"] for end in PACKED if f"{name}.{end}" in after), None)
    if written is None:
        raise Trouble(f"{name} is missing from the result", "keep the log and report it")
    if written.dtype in SIXTEEN:
        raise Trouble(
            f"{name} is still {written.dtype}: the result claims {claim.bits} bits and is not quantised",
            "keep the log and report it; another backend may do",
        )
    bits = 8 * written.size / matrix.elements
    if abs(bits - claim.bits) > 0.01 * claim.bits:
        raise Trouble(f"{name} was written with {bits:g} bits per weight, the step says {claim.bits}")
    scales = next((after[f"{name}.{end}"] for end in SCALES if f"{name}.{end}" in after), None)
    if scales is None:
        raise Trouble(f"{name} has no scales: nothing can read it back")
    if claim.group_size is None:
        return
    rows, columns = matrix.shape
    groups = 1 if claim.group_size in GROUPLESS else math.ceil(columns / claim.group_size)
    if scales.elements != rows * groups:
        raise Trouble(f"{name} has {scales.elements} scales, where {groups} groups make {rows * groups}")


def expected_bytes(before: dict[str, Tensor], done: Iterable[str], claim: Claim) -> int:
    """Bytes of the result: `bits` per quantised weight, 16 bits and a zero point per group, the rest in 16 bits."""
    total, packed = 0.0, {f"{name}.weight" for name in done}
    for name, tensor in before.items():
        if name not in packed:
            total += tensor.elements * 2
            continue
        rows, columns = tensor.shape
        groups = 1 if claim.group_size in GROUPLESS else math.ceil(columns / (claim.group_size or columns))
        total += tensor.elements * claim.bits / 8 + rows * groups * (2 + claim.bits / 8)
    return int(total)


def check_config(config: dict[str, Any], claim: Claim) -> None:
    """What config.json says agrees with the claim, so that a server reads the weights as they are."""
    said = config.get("quantization_config")
    if not isinstance(said, dict):
        raise Trouble("config.json says nothing of a quantisation: a server would read the weights wrongly")
    if said.get("quant_method") != claim.method:
        raise Trouble(f"config.json says {said.get('quant_method')}, the step says {claim.method}")
    for bits, group in _groups(said):
        if bits != claim.bits:
            raise Trouble(f"config.json says {bits} bits, the step says {claim.bits}")
        same = group == claim.group_size or (group in GROUPLESS and claim.group_size in GROUPLESS)
        if claim.group_size is not None and not same:
            raise Trouble(f"config.json says group size {group}, the step says {claim.group_size}")


def _groups(said: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Bits and group size, of each group where the format has several."""
    groups = said.get("config_groups")
    if isinstance(groups, dict):
        weights = [group.get("weights") or {} for group in groups.values() if isinstance(group, dict)]
        return [(one.get("num_bits"), one.get("group_size")) for one in weights]
    return [(said.get("bits"), said.get("group_size"))]


def check_scaled(source: Path, out: Path, wanted: str = "auto") -> Written:
    """A scaled checkpoint: the same tensors in the number format that the step says (`auto`: the source's), some of
    other values, and nothing that says quantised. Raises Trouble otherwise."""
    before, after = tensors_of(source), tensors_of(out)
    if "quantization_config" in config_of(out):
        raise Trouble(
            "config.json says quantised, and the weights are not: the GGUF converter would refuse it"
        )
    tied = {"lm_head.weight"}  # written or left out as the library likes: it is the embedding once more
    if missing := sorted(set(before) - set(after) - tied):
        raise Trouble(f"{missing[0]} is missing from the result ({len(missing)} of {len(before)})")
    for name, tensor in before.items():
        found = after.get(name, tensor)
        dtype = FORMATS.get(wanted, tensor.dtype)
        if name in after and (found.shape != tensor.shape or found.dtype != dtype):
            raise Trouble(f"{name} is {found.dtype} {found.shape}, and should be {dtype} {tensor.shape}")
    matrices = linears(before)
    size = sum(tensor.size for tensor in after.values())
    reckoned = sum(tensor.size for tensor in before.values())
    dtypes = {tensor.dtype: 0 for tensor in after.values()}
    for tensor in after.values():
        dtypes[tensor.dtype] += 1
    elements = sum(tensor.elements for tensor in before.values())
    return Written(
        0, len(matrices), size, reckoned, round(8 * size / elements, 3), dict(sorted(dtypes.items()))
    )
