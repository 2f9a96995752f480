"""Parts of a step's compilation that need nothing but their arguments. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from qwend.core import fingerprint
from qwend.core.matrix import Variant
from qwend.core.wording import show
from qwend.errors import QwendError, UsageError
from qwend.model.artifact import Pin
from qwend.model.image import Image
from qwend.model.launch import Launch
from qwend.model.recipe import Step
from qwend.plugin.launches import input_names
from qwend.plugin.protocols import Engine, Given

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
"""Endings of files that may hold a pickle, which runs code when it is read."""


def ingredients(
    variant: Variant, step: Step, engine: Engine, image: Image, launch: Launch, made: Mapping[str, str]
) -> list[fingerprint.Ingredient]:
    """What a step's fingerprint is made of; `made` are the fingerprints of what it reads, by name."""
    left = {*variant.given, *uncounted(engine)}
    counted = variant.params.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    parts = [
        fingerprint.of_engine(engine.name, engine.revision),
        *fingerprint.of_inputs((name, made[name]) for name in variant.inputs),
        *fingerprint.of_params({key: value for key, value in counted.items() if key not in left}),
        *(fingerprint.of_references(f, [made[n] for n in names]) for f, names in variant.given.items()),
        *fingerprint.of_env(step.env),
        *fingerprint.of_arguments(step.extra_args),
        fingerprint.of_image(image),
        *fingerprint.of_files(launch.files),
    ]
    if engine.kind == "service":
        parts += fingerprint.of_service(step.port, step.host, launch.secrets)
    return parts


def refuse_pickles(name: str, pin: Pin, where: str) -> None:
    found = [file.path for file in pin.files if file.path.lower().endswith(PICKLES)]
    if found:
        raise UsageError(
            f"{name}: {show(found[0])} may hold a pickle, which can run code when it is read",
            code="pickle",
            hint="use safetensors or GGUF, or say allow_pickle: true at the source",
            where=where,
        )


def reads(variant: Variant) -> list[str]:
    return [*variant.inputs, *(name for names in variant.given.values() for name in names)]


def reached(launch: Launch, made: Mapping[str, Given]) -> dict[str, Given]:
    """Inputs that a Launch reads beyond the step's own: those of its inputs, and so on (an adapter's base)."""
    wanted = set(input_names(launch)) - made.keys()
    found: dict[str, Given] = {}
    pending, seen = list(made.values()) if wanted else [], set(made)
    while pending:
        for one in pending.pop().lineage:
            if one.name not in seen:
                seen.add(one.name)
                pending.append(one)
                if one.name in wanted:
                    found[one.name] = one
    return {name: found[name] for name in sorted(found)}


def uncounted(engine: Engine) -> set[str]:
    """Parameters that cannot change the output."""
    found = set()
    for name, field in engine.params.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("x-qwend-fingerprint") is False:
            found.add(field.alias or name)
    return found


def input_key(step: Step, key: str, name: str) -> str:
    """The key of one input: an item of a list has a place of its own."""
    if key == "from" and len(step.from_) > 1:
        for index, written in enumerate(step.from_):
            if name in (written, f"{written}[{name.partition('[')[2]}"):
                return f"from.{index}"
    return key


def all_of(errors: list[QwendError]) -> QwendError:
    """One error that holds all of them; the recipe's where any is the recipe's."""
    if len(errors) == 1:
        return errors[0]
    kinds = {type(error) for error in errors}
    kind = UsageError if UsageError in kinds else kinds.pop() if len(kinds) == 1 else QwendError
    return kind(f"the recipe has {len(errors)} errors", code="bad-recipe", details=tuple(errors))
