"""What a quantiser wrote is held against the claim; calibration texts are read, cut and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from q_awq import restoring
from q_calibration import blocks, read_texts, rows_of
from q_finish import carry_over, readable
from q_report import Trouble, explain
from q_tensors import check_source, linears, tensors_of
from q_written import Claim, check_scaled, check_written, expected_bytes, ignored

SIZES = {"F16": 2, "BF16": 2, "F32": 4, "I32": 4, "I8": 1, "F8_E4M3": 1, "I64": 8}
Row = tuple[str, tuple[int, ...]]
LAYER = "model.layers.0."
SOURCE: dict[str, Row] = {
    "model.embed_tokens.weight": ("BF16", (512, 256)),
    f"{LAYER}input_layernorm.weight": ("BF16", (256,)),
    f"{LAYER}mlp.gate_proj.weight": ("BF16", (768, 256)),
    f"{LAYER}mlp.down_proj.weight": ("BF16", (256, 768)),
    "model.norm.weight": ("BF16", (256,)),
}
AWQ: dict[str, Row] = {
    "model.embed_tokens.weight": ("F16", (512, 256)),
    f"{LAYER}input_layernorm.weight": ("F16", (256,)),
    f"{LAYER}mlp.gate_proj.qweight": ("I32", (256, 96)),
    f"{LAYER}mlp.gate_proj.qzeros": ("I32", (2, 96)),
    f"{LAYER}mlp.gate_proj.scales": ("F16", (2, 768)),
    f"{LAYER}mlp.down_proj.qweight": ("I32", (768, 32)),
    f"{LAYER}mlp.down_proj.qzeros": ("I32", (6, 32)),
    f"{LAYER}mlp.down_proj.scales": ("F16", (6, 256)),
    "model.norm.weight": ("F16", (256,)),
}
CLAIM = Claim("awq", 4, 128)
SAYS_AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}


def checkpoint(folder: Path, tensors: dict[str, Row], config: dict[str, Any] | None = None) -> Path:
    """A checkpoint of these tensors, of zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = SIZES[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "qwen2"}))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "source", SOURCE)


def test_a_packed_checkpoint_passes_and_its_bits_are_measured(source: Path, tmp_path: Path) -> None:
    out = checkpoint(tmp_path / "out", AWQ, SAYS_AWQ)
    written = check_written(source, out, CLAIM)
    assert (written.quantised, written.kept) == (2, 0)
    assert written.dtypes == {"F16": 5, "I32": 4}
    assert written.bytes == sum(tensor.size for tensor in tensors_of(out).values())
    assert written.expected_bytes == written.bytes


def test_an_output_that_is_still_16_bit_fails(source: Path, tmp_path: Path) -> None:
    out = checkpoint(tmp_path / "out", SOURCE, SAYS_AWQ)
    with pytest.raises(Trouble, match=r"mlp\.gate_proj is still BF16: the result claims 4 bits"):
        check_written(source, out, CLAIM)


def test_one_matrix_that_is_still_16_bit_fails(source: Path, tmp_path: Path) -> None:
    mixed = {name: row for name, row in AWQ.items() if "down_proj" not in name}
    mixed[f"{LAYER}mlp.down_proj.weight"] = ("F16", (256, 768))
    out = checkpoint(tmp_path / "out", mixed, SAYS_AWQ)
    with pytest.raises(Trouble, match="down_proj is still F16"):
        check_written(source, out, CLAIM)
    kept = check_written(source, out, Claim("awq", 4, 128, ("down_proj",)))
    assert (kept.quantised, kept.kept) == (1, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {f"{LAYER}mlp.down_proj.qweight": ("I32", (768, 64))},
            "written with 8 bits per weight, the step says 4",
        ),
        ({f"{LAYER}mlp.down_proj.scales": ("F16", (12, 256))}, "has 3072 scales, where 6 groups make 1536"),
        (
            {"lm_head.weight": ("F32", (512, 256)), "more": ("F32", (2048, 512))},
            "bytes, where 4 bits per weight",
        ),
    ],
)
def test_what_was_packed_otherwise_than_claimed_fails(
    change: dict[str, Row], said: str, source: Path, tmp_path: Path
) -> None:
    out = checkpoint(tmp_path / "out", AWQ | change, SAYS_AWQ)
    with pytest.raises(Trouble, match=said):
        check_written(source, out, CLAIM)


@pytest.mark.parametrize("gone", ["scales", "qweight"])
def test_what_is_missing_fails(gone: str, source: Path, tmp_path: Path) -> None:
    rows = {name: row for name, row in AWQ.items() if not name.endswith(f"gate_proj.{gone}")}
    with pytest.raises(Trouble, match="no scales" if gone == "scales" else "is missing from the result"):
        check_written(source, checkpoint(tmp_path / "out", rows, SAYS_AWQ), CLAIM)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "qwen2"}, "says nothing of a quantisation"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}, "says gptq"),
        ({"quantization_config": {"quant_method": "awq", "bits": 8, "group_size": 128}}, "says 8 bits"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64}}, "says group size 64"),
    ],
)
def test_a_configuration_that_says_otherwise_fails(
    config: dict[str, Any], said: str, source: Path, tmp_path: Path
) -> None:
    out = checkpoint(tmp_path / "out", AWQ, config)
    with pytest.raises(Trouble, match=said):
        check_written(source, out, CLAIM)


def test_eight_bit_integers_with_one_scale_a_row_pass(source: Path, tmp_path: Path) -> None:
    rows: dict[str, Row] = {name: row for name, row in SOURCE.items() if "_proj" not in name}
    for name, (_, shape) in SOURCE.items():
        if "_proj" in name:
            rows[name] = ("I8", shape)
            rows[f"{name}_scale"] = ("BF16", (shape[0], 1))
    weights = {"num_bits": 8, "group_size": None}
    says = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}
    out = checkpoint(tmp_path / "out", rows, {"quantization_config": says})
    assert check_written(source, out, Claim("compressed-tensors", 8, -1)).quantised == 2


def test_where_everything_is_left_out_nothing_was_quantised(source: Path, tmp_path: Path) -> None:
    out = checkpoint(tmp_path / "out", SOURCE, SAYS_AWQ)
    with pytest.raises(Trouble, match="nothing was quantised"):
        check_written(source, out, Claim("awq", 4, 128, ("proj",)))


def test_routers_and_named_matrices_stay_as_they_are() -> None:
    assert ignored("model.layers.0.mlp.gate", ())
    assert not ignored("model.layers.0.mlp.gate_proj", ())
    assert ignored("model.layers.0.mlp.gate_proj", ("re:.*gate_proj$",))
    assert not ignored("model.layers.0.mlp.up_proj", ("re:up_proj",))


def test_a_group_for_a_whole_row_has_one_scale(source: Path) -> None:
    before = tensors_of(source)
    grouped = expected_bytes(before, linears(before), Claim("awq", 4, 128))
    whole = expected_bytes(before, linears(before), Claim("awq", 4, -1))
    assert grouped - whole == int((768 * 1 + 256 * 5) * 2.5)


def test_a_scaled_checkpoint_keeps_its_tensors_and_says_nothing_of_quantisation(
    source: Path, tmp_path: Path
) -> None:
    out = checkpoint(tmp_path / "out", SOURCE)
    assert check_scaled(source, out).bytes == check_scaled(source, out).expected_bytes
    with pytest.raises(Trouble, match="converter would refuse it"):
        check_scaled(source, checkpoint(tmp_path / "says", SOURCE, SAYS_AWQ))
    other = SOURCE | {"model.norm.weight": ("F32", (256,))}
    with pytest.raises(Trouble, match=r"model\.norm\.weight is F32 \(256,\), and should be BF16"):
        check_scaled(source, checkpoint(tmp_path / "other", other))
    half = checkpoint(tmp_path / "half", {name: ("F16", shape) for name, (_, shape) in SOURCE.items()})
    assert check_scaled(source, half, "float16").dtypes == {"F16": 5}
    with pytest.raises(Trouble, match="is F16"):
        check_scaled(source, half)
    with pytest.raises(Trouble, match="is missing from the result"):
        check_scaled(source, checkpoint(tmp_path / "few", dict(list(SOURCE.items())[1:])))


def test_a_group_size_that_does_not_divide_is_told_with_those_that_do(source: Path) -> None:
    with pytest.raises(
        Trouble, match=r"group size 512 does not divide the 256 inputs of .*gate_proj"
    ) as told:
        check_source(source, 512)
    assert told.value.hint == "group sizes that fit this model: 16, 32, 64, 128, 256"
    assert len(check_source(source, 128, 64)) == 2
    with pytest.raises(Trouble, match="has 768 outputs, no multiple of 512"):
        check_source(source, 128, 512)


def test_a_quantised_pickled_or_damaged_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Trouble, match="quantised already"):
        check_source(checkpoint(tmp_path / "packed", AWQ, SAYS_AWQ), 128)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(Trouble, match="no safetensors"):
        check_source(pickled, 128)
    cut = checkpoint(tmp_path / "cut", SOURCE)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(Trouble, match="broken or cut short"):
        check_source(cut, 128)


def words(text: str) -> list[int]:
    return [len(word) for word in text.split()]


def test_texts_come_from_json_lines_a_list_and_plain_text(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "data.jsonl").write_text('{"text": "一"}\n\n{"text": "two"}\n', encoding="utf-8")
    (folder / "data.txt").write_text("not read")
    assert read_texts(folder) == ["一", "two"]
    rows = tmp_path / "rows.json"
    rows.write_text('[{"said": "a"}, "b"]')
    assert read_texts(rows, "said") == ["a", "b"]
    plain = tmp_path / "plain.txt"
    plain.write_bytes(b"one\r\nstill one\r\n\r\ntwo\r\n")
    assert read_texts(plain) == ["one\nstill one", "two"]


def test_empty_texts_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": ""}\n{"text": "x"}\n{"text": " "}\n')
    assert read_texts(file) == ["x"]
    assert "a.jsonl: 2 of 3 texts are empty and left out" in capsys.readouterr().out
    file.write_text('{"text": ""}\n')
    with pytest.raises(Trouble, match=r"a\.jsonl holds no text"):
        read_texts(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "x"}\n{"text": \n', r"a\.jsonl:2: no JSON"),
        (b'{"text": "x"}\n{"body": "y"}\n', r"a\.jsonl:2: no text under 'text': it has body"),
        (b'{"text": "x"}\n[1]\n', r"a\.jsonl:2: no text under 'text': it is no object"),
        (b'{"text": "x"}\n{"text": 3}\n', r"a\.jsonl:2: no text"),
        (b'{"text": "x"}\n{"text": "\xff"}\n', r"a\.jsonl:2: not UTF-8"),
        (b"", r"a\.jsonl holds no text"),
    ],
)
def test_a_malformed_row_is_told_with_its_line(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(Trouble, match=said):
        read_texts(file)


def test_where_all_texts_are_longer_than_the_limit_the_shortest_is_told() -> None:
    with pytest.raises(Trouble, match=r"all 2 calibration texts are longer .*the shortest has 6") as told:
        blocks(["w " * 9, "w " * 6], words, 10, 5)
    assert told.value.hint.startswith("set max_calib_seq_len: 6")


def test_texts_that_make_no_whole_block_are_told() -> None:
    with pytest.raises(Trouble, match=r"have 4 tokens together, less than one block .*1 longer ones"):
        blocks(["w w", "w w", "w " * 9], words, 10, 8)


def test_longer_texts_are_left_out_and_samples_are_limited(capsys: pytest.CaptureFixture[str]) -> None:
    rows = blocks(["w w w", "w " * 9, "w w w", "w"], words, 2, 4)
    assert list(map(len, rows)) == [3, 3]
    assert (
        "2 texts, 6 tokens, 1 blocks of 4; 1 texts longer than 4 tokens are left out"
        in capsys.readouterr().out
    )


def test_gptq_cuts_what_is_too_long_and_leaves_out_what_is_too_short(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = rows_of(["w " * 30, "w", "w " * 12], words, 10, 20)
    assert list(map(len, rows)) == [20, 12]
    assert "1 cut to 20 tokens; 1 of fewer than 10 left out" in capsys.readouterr().out
    with pytest.raises(Trouble, match="none of the 2 calibration texts has 10 tokens"):
        rows_of(["a", "b"], words, 10, 20)


def test_the_sources_own_tokenizer_stays_and_weights_become_readable(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    (source / "tokenizer_config.json").write_text('"own"')
    for name in ("tokenizer_config.json", "added_tokens.json", "model.safetensors"):
        (out / name).write_text("written")
        (out / name).chmod(0o600)
    carry_over(source, out)
    readable(out)
    assert (out / "tokenizer_config.json").read_text() == '"own"'
    assert not (out / "added_tokens.json").exists()
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_known_failures_are_told_in_words() -> None:
    assert explain(RuntimeError("CUDA out of memory. Tried"))[0] == "there was not enough memory"
    assert "architecture qwen9" in explain(TypeError("qwen9 isn't supported yet."))[0]
    assert explain(ValueError("a\n  b")) == ("ValueError: a b", "")


class Weight:
    """A number in memory, as torch's tensors are on a CPU: `.cpu()` is no copy."""

    def __init__(self, value: float) -> None:
        self.value = value

    def cpu(self) -> Weight:
        return self

    def clone(self) -> Weight:
        return Weight(self.value)


class Layer:
    """One weight, and how AutoAWQ reads and restores it."""

    def __init__(self) -> None:
        self.weight = Weight(1.0)

    def state_dict(self) -> dict[str, Weight]:
        return {"weight": self.weight}

    def load_state_dict(self, values: dict[str, Weight]) -> None:
        self.weight.value = values["weight"].value


class Search:
    """The shape of AutoAWQ's search: keep the weights, try a scale, put them back."""

    def _compute_best_scale(
        self, x: Any, w_mean: Any, x_mean: Any, layer: Layer, linears: list[Any], *, fails: bool = False
    ) -> float:
        kept = {name: value.cpu() for name, value in layer.state_dict().items()}
        layer.weight.value *= 3.0
        if fails:
            raise RuntimeError("no scale")
        layer.load_state_dict(kept)
        return 3.0


def test_a_search_for_scales_leaves_the_weights_as_it_found_them() -> None:
    layer = Layer()
    Search()._compute_best_scale(None, None, None, layer, [])
    assert layer.weight.value == 3.0  # AutoAWQ itself: what is restored is what was scaled
    mended, layer = restoring(Search)(), Layer()
    assert mended._compute_best_scale(None, None, None, layer, []) == 3.0
    assert layer.weight.value == 1.0
    assert layer.state_dict()["weight"] is layer.weight  # its own again
    with pytest.raises(RuntimeError, match="no scale"):
        mended._compute_best_scale(None, None, None, layer, [], fails=True)
    assert layer.state_dict()["weight"] is layer.weight
