"""What a report shows, gathered from the steps: models with their figures, speeds, curves, gates."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class Model:
    """A model that some step measured. `figures` by name; `speed` are lines of a timing."""

    name: str
    figures: dict[str, float] = field(default_factory=dict)
    speed: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Comparison:
    """A step that measured models. Of steps over one model each, those with the same measures stand together."""

    title: str
    method: str
    models: list[Model]

    def has(self, *names: str) -> list[Model]:
        """The models that have all of the figures."""
        return [model for model in self.models if all(name in model.figures for name in names)]


def comparisons(data: Json) -> list[Comparison]:
    """The tables of a recipe: one for each step that compares, one for all that measure a single model."""
    found, alone = [], Comparison("single measurements", "", [])
    made = {step["name"]: step.get("artifact") or {} for step in data["steps"]}
    for step in data["steps"]:
        table = step.get("table")
        if not table:
            continue
        models: list[Model] = []
        for told in table["models"]:
            if isinstance(told, dict):
                _merge(models, _model(told, made))
        method = str(table.get("method") or "")
        if len(models) > 1:
            windows = next((told.get("windows") for told in table["models"] if told.get("windows")), None)
            found.append(
                Comparison(step["name"], f"{windows} {method}" if method and windows else method, models)
            )
        else:
            for model in models:
                _merge(alone.models, model)
    shown = {model.name for comparison in found for model in comparison.models}
    left = [model for model in alone.models if model.name not in shown or not found]
    for model in alone.models:
        if model not in left:
            for comparison in found:
                _merge_known(comparison.models, model)
    return [*found, Comparison(alone.title, alone.method, left)] if left else found


def _model(told: Json, made: Mapping[str, Json]) -> Model:
    """A row of a table: with its figures apart (evaluate), or among other things (the tools of llama.cpp)."""
    name = str(told.get("name") or told.get("model"))
    given = told["metrics"] if isinstance(told.get("metrics"), dict) else _tool_figures(told)
    figures = _known(made.get(name, {})) | {
        key: float(value) for key, value in given.items() if _number(value)
    }
    return Model(name, figures, [row for row in told.get("speed") or [] if isinstance(row, dict)])


_APART = {
    "perplexity", "perplexity_error", "perplexity_ratio", "mean_kld", "mean_kld_error", "median_kld", "p99_kld",
    "max_kld", "same_top", "rms_dp",
}  # fmt: skip


def _tool_figures(told: Json) -> Json:
    """Figures of llama-perplexity, or the speed of one test of llama-bench (`pp512`, `tg64`; not at a depth)."""
    test = str(told.get("test", ""))
    if re.fullmatch(r"pp\d+", test):
        return {"prompt_speed": told.get("avg_ts")}
    if re.fullmatch(r"tg\d+", test):
        return {"generation_speed": told.get("avg_ts")}
    return {key: value for key, value in told.items() if key in _APART}


def _known(artifact: Json) -> dict[str, float]:
    """Size and bits of a weight of what a step made, where its measurement does not tell them."""
    metrics, facts = artifact.get("metrics") or {}, artifact.get("facts") or {}
    told: Json = {
        "size": metrics.get("size", facts.get("bytes")),
        "bits_per_weight": metrics.get("bits_per_weight", facts.get("bits")),
    }
    return {key: float(value) for key, value in told.items() if _number(value)}


def _merge(models: list[Model], model: Model) -> None:
    if not _merge_known(models, model):
        models.append(model)


def _merge_known(models: list[Model], model: Model) -> bool:
    """What another step says of the same model goes to it; its own figures stand."""
    for known in models:
        if known.name == model.name:
            known.figures = {**model.figures, **known.figures}
            known.speed = known.speed or model.speed
            return True
    return False


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def curves(data: Json) -> Iterator[tuple[str, dict[str, list[tuple[float, float]]]]]:
    """Step and its curves, by figure."""
    for step in data["steps"]:
        told = {
            name: [(float(x), float(y)) for x, y in points]
            for name, points in (step.get("curves") or {}).items()
            if len(points) > 1
        }
        if told:
            yield step["name"], told


def gates(data: Json) -> Iterator[tuple[str, Json]]:
    for step in data["steps"]:
        for gate in step.get("gates") or ():
            yield step["name"], gate


def machine(host: Json) -> list[tuple[str, str]]:
    """The machine in a few lines."""
    rows = [("system", " ".join(filter(None, (host.get("os_version"), host.get("machine")))))]
    rows.append(("processor", f"{host.get('chip') or ''} {host.get('cpus')} cores".strip()))
    rows.append(("memory", size(host.get("memory"))))
    rows += [("card", f"{card.get('name')}, {size(card.get('memory'))}") for card in host.get("gpus") or ()]
    rows += [(key, str(host[key])) for key in ("driver", "cuda", "docker") if host.get(key)]
    return rows


def size(value: float | None) -> str:
    """Bytes for people."""
    if value is None:
        return "unknown"
    number = float(value)
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.3g} GiB" if number < 100 else f"{number:.0f} GiB"


def seconds(value: float | None) -> str:
    """A duration for people."""
    if value is None:
        return ""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


COLUMNS: dict[str, tuple[str, Any]] = {
    "size": ("size", size),
    "bits_per_weight": ("bits per weight", lambda value: f"{value:.2f}"),
    "perplexity": ("perplexity", lambda value: f"{value:,.4f}"),
    "perplexity_error": ("±", lambda value: f"{value:,.4f}"),
    "perplexity_ratio": ("ratio", lambda value: f"{value:.4f}"),
    "mean_kld": ("mean KLD", lambda value: f"{value:.5f}"),
    "p99_kld": ("99 % KLD", lambda value: f"{value:.4f}"),
    "same_top": ("same top token", lambda value: f"{100 * value:.2f} %"),
    "prompt_speed": ("prompt tok/s", lambda value: f"{value:,.1f}"),
    "generation_speed": ("generation tok/s", lambda value: f"{value:,.1f}"),
    "time_to_first_token": ("first token", lambda value: f"{value:.3f} s"),
    "peak_memory": ("peak memory", size),
    "golden_prompts_same": ("prompts alike", lambda value: f"{100 * value:.0f} %"),
    "golden_same": ("answers alike", lambda value: f"{100 * value:.0f} %"),
}
"""Figures that have a column, with how they are written; others go by their own names."""

_PLAIN_OMITTED = ("mean_kld_error", "median_kld", "max_kld", "rms_dp", "golden_tokens")


def figure_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of a comparison."""
    known = [name for name in COLUMNS if any(name in model.figures for model in comparison.models)]
    others = sorted(
        {
            name
            for model in comparison.models
            for name in model.figures
            if name not in COLUMNS
            and "_at_" not in name
            and name not in _PLAIN_OMITTED
            and "stderr" not in name
        }
    )
    headers = ["model", *(COLUMNS[name][0] for name in known), *(name.replace("_", " ") for name in others)]
    rows = []
    for model in comparison.models:
        cells = [COLUMNS[name][1](model.figures[name]) if name in model.figures else "–" for name in known]
        rows.append([model.name, *cells, *(_plain(model.figures.get(name)) for name in others)])
    return headers, rows


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"


def speed_table(comparison: Comparison) -> tuple[list[str], list[list[str]]] | None:
    """Headers and rows of the timings, in the layout of Qwen's own benchmark; None where nothing was timed."""
    rows = [
        [
            model.name,
            f"{line['input_length']:,.0f}",
            f"{line['batch']:.0f}",
            f"{line['prompt_speed']:,.1f}",
            f"{line['generation_speed']:,.1f}",
            f"{line['time_to_first_token']:.3f} s",
            size(line.get("peak_memory")),
        ]
        for model in comparison.models
        for line in model.speed
    ]
    headers = [
        "model",
        "input tokens",
        "batch",
        "prompt tok/s",
        "generation tok/s",
        "first token",
        "peak memory",
    ]
    return (headers, rows) if rows else None


def step_table(data: Json) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of the steps."""
    rows = []
    for step in data["steps"]:
        artifact = step.get("artifact") or {}
        peak = (artifact.get("provenance") or {}).get("peak_memory")
        rows.append(
            [
                step["name"],
                step["engine"],
                step.get("state") or "",
                seconds(step.get("seconds")),
                size(artifact["size"]) if artifact else "",
                size(peak) if peak else "",
                ", ".join(step.get("inputs") or ()),
            ]
        )
    return ["step", "engine", "state", "time", "size", "peak memory", "reads"], rows


def version_rows(data: Json) -> list[list[str]]:
    """What was used, by image and source."""
    images = {
        (step["image"]["name"], step.get("flavour") or "", step["image"]["digest"])
        for step in data["steps"]
        if step.get("image")
    }
    rows = [["image", f"{name} {flavour}".strip(), digest] for name, flavour, digest in sorted(images)]
    for step in data["steps"]:
        if step.get("ref"):
            told = ((step.get("artifact") or {}).get("provenance") or {}).get("identity")
            digest = (step.get("artifact") or {}).get("digest") or ""
            rows.append(["source", f"{step['name']}: {step['ref']}", str(told or digest)])
    return rows


def commands(data: Json) -> str:
    """How to do it again."""
    smoke = " --smoke" if data.get("smoke") else ""
    source = data.get("source") or f"{data['recipe']}.yaml"
    return f"qwend up{smoke} {shlex.quote(source)}\nqwend report -p {data['recipe']}"
