"""A report is one page that needs nothing else, whatever names and models bring into it."""

from __future__ import annotations

import copy
import itertools
import math
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from qwend.report import markdown, page
from qwend.report.data import comparisons, seconds, size
from qwend.report.lineage import lineage
from qwend.report.svg import Point, axis, bars, lines, number, scatter

EVIL = '<script>alert(1)</script> & "q" `x` |'


def model(name: str, bits: float, **figures: float) -> dict[str, Any]:
    told = {"bits_per_weight": bits, "size": bits * 1e6, "perplexity": 20 / bits + 10, **figures}
    return {"name": name, "metrics": told, "speed": [], "windows": 4}


def step(name: str, *inputs: str, engine: str = "toy/make", kind: str = "job", **more: Any) -> dict[str, Any]:
    return {
        "name": name, "engine": engine, "kind": kind, "state": "succeeded", "seconds": 61.0, "inputs": list(inputs),
        "needs": [], "image": {"name": "toy", "digest": "ab" * 32}, "flavour": "cpu", "command": ["toy", "a b"],
        "artifact": {"size": 2048, "digest": "cd" * 32, "provenance": {"peak_memory": 1 << 20}}, "gates": [], **more,
    }  # fmt: skip


DATA: dict[str, Any] = {
    "recipe": "eval",
    "source": "/recipes/my eval.yaml",
    "directory": "/recipes",
    "smoke": False,
    "made": 1_700_000_000.0,
    "version": "1.2.3",
    "host": {
        "os_version": "Debian 12",
        "machine": "x86_64",
        "cpus": 8,
        "memory": 1 << 34,
        "gpus": [],
        "docker": "27",
    },
    "steps": [
        step("base", engine="hf", kind="source", ref="hf:a/b"),
        step("f16", "base"),
        step("q8", "f16"),
        step("q4", "f16"),
        step(
            "quality",
            "f16",
            "q8",
            "q4",
            engine="evaluate/compare",
            table={
                "method": "windows of 512 tokens",
                "models": [
                    model("f16", 16),
                    model("q8", 8.5, mean_kld=0.001, same_top=0.98),
                    model("q4", 4.8, mean_kld=0.05, same_top=0.9),
                ],
            },
            gates=[
                {
                    "gate": "q8.mean_kld <= 0.01",
                    "holds": True,
                    "figures": "q8.mean_kld <= 0.01: 0.001 <= 0.01",
                },
                {
                    "gate": "q4.mean_kld <= 0.01",
                    "holds": False,
                    "figures": "q4.mean_kld <= 0.01: 0.05 <= 0.01",
                },
            ],
        ),
        step(
            "train",
            "base",
            curves={"loss": [[1, 3.0], [2, 2.5], [3, 2.2]], "eval_loss": [[1, 3.1], [3, 2.4]]},
        ),
        step("chat", "q4", kind="service", engine="toy/serve"),
    ],
}


class Reader(HTMLParser):
    """What a browser would load, run, and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")
        ]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    text = page(DATA)
    read = Reader(text)
    assert read.addresses == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(read.tags)
    assert "http:" not in text.replace("http-equiv", "")
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_the_page_shows_figures_gates_curves_lineage_machine_and_how_to_do_it_again() -> None:
    said = " ".join(Reader(page(DATA)).text)
    for words in (
        "Figures: quality", "Perplexity by size", "Mean KL divergence", "Training: train", "Loss", "Lineage",
        "Debian 12 x86_64", "8 cores", "16 GiB", "hf:a/b", "qwend up '/recipes/my eval.yaml'", "holds", "fails",
        "q4.mean_kld <= 0.01: 0.05 <= 0.01", "1 min 1 s", "4 windows of 512 tokens", "toy 'a b'",
    ):  # fmt: skip
        assert words in said, words


def test_every_picture_is_well_formed_and_says_what_it_is() -> None:
    pictures = re.findall(r"<svg.*?</svg>", page(DATA), re.DOTALL)
    assert len(pictures) == 4  # two of figures, one of losses, the lineage
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"]
        assert root.attrib["viewBox"]


def test_names_that_are_markup_are_shown_and_never_run() -> None:
    evil = copy.deepcopy(DATA)
    evil["recipe"] = evil["host"]["os_version"] = EVIL
    for one in evil["steps"]:
        one["engine"] = one["state"] = one["ref"] = EVIL
        for told in (one.get("table") or {}).get("models", ()):
            told["name"] = EVIL + told["name"]
    evil["steps"][4]["gates"][0]["figures"] = EVIL
    evil["steps"][4]["table"]["method"] = EVIL
    read = Reader(page(evil))
    assert "script" not in read.tags
    assert any(EVIL in text for text in read.text)
    for row in markdown(evil).splitlines():
        assert not re.search(r"(?<!\\)<script", row) or row.startswith(("# ", "```", "qwend", "Perplexity"))


def test_markdown_has_the_same_figures_in_whole_tables() -> None:
    text = markdown(DATA)
    assert "| q8 | 8.106 MiB | 8.50 | 12.3529 | 0.00100 | 98.00 % |" in text
    assert "| quality | FAILS |" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.strip().splitlines()}) == 1


def test_a_smoke_run_says_that_its_figures_prove_nothing() -> None:
    assert "tiny stand-ins" not in page(DATA)
    assert "tiny stand-ins" in page({**DATA, "smoke": True})
    assert "--smoke" in markdown({**DATA, "smoke": True})


def test_single_measurements_of_one_model_are_one_line_of_the_comparison() -> None:
    data = copy.deepcopy(DATA)
    timed = {
        "models": [{"name": "q4", "metrics": {"generation_speed": 30.0}, "speed": [{"input_length": 1}]}]
    }
    data["steps"].append(step("fast", "q4", engine="evaluate/speed", table=timed))
    other = {"models": [{"name": "awq", "metrics": {"perplexity": 11.0}, "speed": []}]}
    data["steps"].append(step("ppl", "base", engine="evaluate/perplexity", table=other))
    first, second = comparisons(data)
    assert [one.figures.get("generation_speed") for one in first.models] == [None, None, 30.0]
    assert first.models[2].figures["mean_kld"] == 0.05
    assert [one.name for one in second.models] == ["awq"]


def test_figures_that_are_no_numbers_are_left_out() -> None:
    data = copy.deepcopy(DATA)
    data["steps"][4]["table"]["models"][1]["metrics"] |= {
        "perplexity": math.nan,
        "mean_kld": None,
        "same_top": True,
    }
    (told,) = comparisons(data)
    assert set(told.models[1].figures) == {"bits_per_weight", "size"}
    page(data)


def test_a_recipe_without_figures_still_has_a_report() -> None:
    bare = {
        **DATA,
        "steps": [step("base", kind="source", artifact=None, seconds=None, state=None, image=None)],
    }
    assert "Lineage" in page(bare)
    assert "Figures" not in page(bare)
    assert markdown(bare).startswith("# eval\n")


def test_steps_stand_right_of_what_they_read() -> None:
    root = ElementTree.fromstring(
        lineage(DATA["steps"]).removeprefix('<div class="wide">').removesuffix("</div>")
    )
    boxes = {}
    for box in root.iter("g"):
        name = "".join(box.itertext()).split(":")[0]
        boxes[name] = tuple(float(box.find("rect").attrib[key]) for key in ("x", "y"))  # type: ignore[union-attr]
    assert boxes["base"][0] < boxes["f16"][0] < boxes["q8"][0] == boxes["q4"][0] < boxes["quality"][0]
    assert len(set(boxes.values())) == len(boxes)
    edges = [path.find("title").text for path in root.iter("path")]  # type: ignore[union-attr]
    assert "f16 → quality" in edges


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ((0.2, 7.9), 0, 8),
        ((12.0, 12.0), 11, 13),
        ((100, 5000), 0, 6000),
        ((1e-6, 9e-6), 0, 1e-5),
        ((-3, 4), -4, 4),
    ],
)
def test_an_axis_has_round_ticks_around_its_values(
    values: tuple[float, ...], low: float, high: float
) -> None:
    found = axis(values)
    assert low <= found.low <= min(values)
    assert max(values) <= found.high <= high
    assert 2 <= len(found.ticks) <= 8
    assert all(0 <= found.share(value) <= 1 for value in values)


def test_an_axis_by_powers_of_ten_has_every_value_between_two_powers() -> None:
    found = axis((0.002, 3.0), log=True)
    assert (found.low, found.high) == (0.001, 10)
    assert found.share(0.1) == pytest.approx(0.5)
    assert len(axis((1e-9, 1e9), log=True).ticks) <= 8


def test_labels_of_marks_that_stand_together_stand_apart() -> None:
    picture = scatter([Point(4 + n / 100, 10 + n / 1000, f"quant{n}") for n in range(4)], "bits", "ppl")
    places = re.findall(r'class="label" x="([\d.]+)" y="([\d.]+)"', picture)
    heights = sorted(float(y) for _, y in places)
    assert all(after - before > 8 for before, after in itertools.pairwise(heights))


def test_more_series_than_colours_are_told_apart_by_dashes() -> None:
    picture = lines([(f"m{n}", [Point(1, n), Point(2, n)]) for n in range(10)], "x", "y")
    kinds = re.findall(r'class="(line [^"]*)"', picture)
    assert len(set(kinds)) == 10


def test_pictures_are_drawn_of_one_value_and_of_none_that_differ() -> None:
    for picture in (scatter([Point(4, 0.0, "a")], "x", "y", log=True), bars([Point(0, 0, "a")], "t")):
        ElementTree.fromstring(picture)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0005, "5e-4"), (1500, "1,500"), (2e6, "2e6"), (0.25, "0.25")]
)
def test_ticks_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_bytes_and_durations_are_written_for_people() -> None:
    sizes = [size(value) for value in (None, 10, 2048, 5 << 20, 3 << 30)]
    assert sizes == ["unknown", "10 B", "2 KiB", "5 MiB", "3 GiB"]
    assert [seconds(value) for value in (None, 3.21, 61, 3700)] == ["", "3.2 s", "1 min 1 s", "1 h 1 min"]


def test_what_llama_cpp_itself_measured_is_told_as_well_with_the_sizes_of_the_files() -> None:
    measured = [
        {"model": "f16", "perplexity": 11.4},
        {"model": "q4", "perplexity": 11.5, "mean_kld": 0.005, "same_top": 0.96},
    ]
    timed = [
        {"model": name, "test": test, "avg_ts": speed, "n_batch": 2048}
        for name, test, speed in (
            ("f16", "pp64", 50.0),
            ("f16", "tg8", 5.0),
            ("f16", "pp64_d4096", 9.0),
            ("q4", "tg8", 7.0),
        )
    ]
    artifact = {"metrics": {"size": 2048.0, "bits_per_weight": 4.8}, "facts": {"bits": 4.0}}
    steps = [
        step("f16") | {"artifact": {"metrics": {}, "facts": {"bytes": 9000, "bits": 16.0}}},
        step("q4", "f16") | {"artifact": artifact},
        step("kld", "f16", "q4") | {"table": {"measure": "kl-divergence", "models": measured}},
        step("speed", "f16", "q4") | {"table": {"measure": "speed", "models": timed}},
    ]
    kld, speed = comparisons({**DATA, "steps": steps})
    assert [(model.name, model.figures) for model in kld.models] == [
        ("f16", {"size": 9000.0, "bits_per_weight": 16.0, "perplexity": 11.4}),
        (
            "q4",
            {"size": 2048.0, "bits_per_weight": 4.8, "perplexity": 11.5, "mean_kld": 0.005, "same_top": 0.96},
        ),
    ]
    assert [model.figures.get("prompt_speed") for model in speed.models] == [50.0, None]
    assert [model.figures["generation_speed"] for model in speed.models] == [5.0, 7.0]
