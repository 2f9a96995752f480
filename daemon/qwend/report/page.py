"""The HTML page of a report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Sequence
from html import escape

from qwend.report import data as gathered
from qwend.report.data import Comparison, Json, Model
from qwend.report.lineage import lineage
from qwend.report.style import STYLE
from qwend.report.svg import Point, bars, lines, scatter


def page(data: Json) -> str:
    """One HTML document; what came from recipes and models stands in it as text, never as markup."""
    title = f"{data['recipe']}: report"
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(data["made"]))
    smoke = (
        " Made with tiny stand-ins (--smoke): the figures prove the chain, not the model."
        if data.get("smoke")
        else ""
    )
    parts = [
        f"<h1>{escape(str(data['recipe']))}</h1>",
        f'<p class="soft">{escape(made)}, qwend {escape(str(data["version"]))}.{escape(smoke)}</p>',
        *_gates(data),
        *_comparisons(data),
        *_curves(data),
        "<h2>Lineage</h2>",
        f'<div class="card">{lineage(data["steps"])}</div>',
        "<h2>Steps</h2>",
        _table(*gathered.step_table(data), text=True),
        *_machine(data),
        *_again(data),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _gates(data: Json) -> list[str]:
    rows = list(gathered.gates(data))
    if not rows:
        return []
    items = []
    for step, gate in rows:
        kind, word = ("good", "holds") if gate["holds"] else ("bad", "fails")
        items.append(
            f"<tr><td>{escape(step)}</td><td class='{kind}'>{word}</td>"
            f'<td class="long">{escape(str(gate["figures"]))}</td></tr>'
        )
    head = "<tr><th>step</th><th>gate</th><th>figures</th></tr>"
    body = "".join(items)
    return [
        "<h2>Gates</h2>",
        f'<div class="card wide"><table class="text"><thead>{head}</thead><tbody>{body}</tbody></table></div>',
    ]


def _comparisons(data: Json) -> list[str]:
    parts = []
    for comparison in gathered.comparisons(data):
        parts.append(f"<h2>Figures: {escape(comparison.title)}</h2>")
        parts.append(_plots(comparison))
        parts.append(_table(*gathered.figure_table(comparison)))
        speeds = gathered.speed_table(comparison)
        if speeds:
            parts += ["<h3>Speed</h3>", _table(*speeds)]
        if comparison.method:
            parts.append(f'<p class="soft">Perplexity: {escape(comparison.method)}.</p>')
    return parts


def _plots(comparison: Comparison) -> str:
    found = []
    sized = comparison.has("bits_per_weight", "perplexity")
    if len(sized) > 1:
        base = sized[0]
        points = [_point(model, "perplexity") for model in sized]
        level = Point(0, base.figures["perplexity"], f"{base.name}: {base.figures['perplexity']:,.4g}")
        found.append(("Perplexity by size", scatter(points, "bits per weight", "perplexity", level=level)))
    apart = comparison.has("bits_per_weight", "mean_kld")
    if apart:
        points = [_point(model, "mean_kld") for model in apart]
        picture = scatter(points, "bits per weight", "mean KLD", log=True)
        found.append(("Mean KL divergence from the reference by size", picture))
    fast = comparison.has("generation_speed")
    if fast:
        rows = [
            Point(
                model.figures["generation_speed"],
                0,
                model.name,
                f"{model.name}: {model.figures['generation_speed']:.1f} tokens/s",
            )
            for model in fast
        ]
        found.append(("Tokens per second, writing", bars(rows, "tokens per second, writing")))
    series = [(model.name, _timings(model)) for model in comparison.models]
    series = [(name, points) for name, points in series if len(points) > 1]
    if series:
        picture = lines(series, "input tokens", "tokens per second, writing", zero=True)
        found.append(("Tokens per second by length of prompt", picture))
    return _grid(found)


def _point(model: Model, name: str) -> Point:
    bits, value = model.figures["bits_per_weight"], model.figures[name]
    return Point(bits, value, model.name, f"{model.name}: {value:.6g} at {bits:.2f} bits per weight")


def _timings(model: Model) -> list[Point]:
    """Writing speed by length of prompt, of one prompt at a time."""
    batch = min((line["batch"] for line in model.speed), default=1)
    rows = sorted(
        (line for line in model.speed if line["batch"] == batch), key=lambda line: line["input_length"]
    )
    return [
        Point(
            line["input_length"],
            line["generation_speed"],
            model.name,
            f"{model.name}: {line['generation_speed']:.1f} tokens/s after {line['input_length']:.0f} tokens",
        )
        for line in rows
    ]


def _curves(data: Json) -> list[str]:
    parts = []
    for step, curves in gathered.curves(data):
        losses = [name for name in ("loss", "eval_loss") if name in curves]
        pictures = []
        if losses:
            series = [(name.replace("_", " "), _curve(curves[name])) for name in losses]
            pictures.append(("Loss", lines(series, "step", "loss")))
        pictures += [
            (name.replace("_", " ").capitalize(), lines([(name, _curve(points))], "step", name))
            for name, points in curves.items()
            if name not in losses
        ]
        parts += [f"<h2>Training: {escape(step)}</h2>", _grid(pictures)]
    return parts


def _curve(points: Sequence[tuple[float, float]]) -> list[Point]:
    return [Point(x, y, title=f"step {x:.0f}: {y:.6g}") for x, y in points]


def _grid(pictures: Iterable[tuple[str, str]]) -> str:
    cards = [f'<div class="card"><h3>{escape(title)}</h3>{picture}</div>' for title, picture in pictures]
    return f'<div class="plots">{"".join(cards)}</div>' if cards else ""


def _machine(data: Json) -> list[str]:
    pairs = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in gathered.machine(data["host"])
    )
    rows = gathered.version_rows(data)
    body = "".join(
        f'<tr><td>{escape(kind)}</td><td>{escape(name)}</td><td class="long">{escape(digest)}</td></tr>'
        for kind, name, digest in rows
    )
    table = f'<div class="wide"><table class="text"><tbody>{body}</tbody></table></div>' if rows else ""
    return [
        "<h2>Machine and versions</h2>",
        f'<div class="card"><dl>{pairs}</dl></div>',
        f'<div class="card">{table}</div>' if table else "",
    ]


def _again(data: Json) -> list[str]:
    steps = "\n".join(
        f"# {step['name']}\n{shlex.join(step['command'])}" for step in data["steps"] if step.get("command")
    )
    return [
        "<h2>Do it again</h2>",
        f"<pre>{escape(gathered.commands(data))}</pre>",
        f'<details class="card"><summary>What each step ran</summary><pre>{escape(steps)}</pre></details>'
        if steps
        else "",
    ]


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, text: bool = False) -> str:
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    kind = ' class="text"' if text else ""
    return f'<div class="card wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
