from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.plugins.llama_cpp.kit import QWEN_05B, command, errors, launch, model, step, warnings

from qwend.plugin import Facts, Given
from qwend_plugins.llama_cpp.common import DRIVERS, origin
from qwend_plugins.llama_cpp.convert import Convert

ENGINE = Convert()
BASE = model("base", QWEN_05B, "model/safetensors", "hf:Qwen/Qwen2.5-0.5B-Instruct@main")

HEAD = "bin/python <convert.py> share/llama.cpp/convert_hf_to_gguf.py"
TAIL = "-- <base> --outfile <out>/model-{FTYPE}.gguf --metadata <metadata.json>"


@pytest.mark.parametrize(
    ("with_", "words"),
    [
        ({}, ""),
        ({"outtype": "f16"}, " --outtype f16"),
        (
            {"outtype": "q8_0", "split_max_size": "4G", "use_temp_file": True},
            " --outtype q8_0 --split-max-size 4G --use-temp-file",
        ),
        (
            {"no_lazy": True, "fp8_as_q8": True, "no_mtp": True, "split_max_tensors": 9},
            " --split-max-tensors 9 --no-lazy --fp8-as-q8 --no-mtp",
        ),
    ],
)
def test_parameters_become_the_converters_own_flags(with_: dict[str, Any], words: str) -> None:
    assert command(ENGINE, step(ENGINE, BASE, with_=with_)) == f"{HEAD} {TAIL}{words}"


def test_code_of_the_checkpoint_runs_only_if_the_step_says_so() -> None:
    assert command(ENGINE, step(ENGINE, BASE, trust_remote_code=True)) == f"{HEAD} --trust-remote-code {TAIL}"
    first = model("base", Facts(architecture="qwen"), "model/safetensors")
    assert errors(ENGINE, step(ENGINE, first))[0].startswith("trust_remote_code: ")
    assert errors(ENGINE, step(ENGINE, first, trust_remote_code=True)) == []
    assert errors(ENGINE, step(ENGINE, BASE)) == []


def test_further_arguments_come_last() -> None:
    view = step(ENGINE, BASE, extra_args=("--verbose",))
    assert command(ENGINE, view).endswith("<metadata.json> --verbose")


def test_the_name_in_the_metadata_is_the_sources_and_not_that_of_a_folder() -> None:
    def metadata(given: Given, **with_: Any) -> dict[str, Any]:
        files = {file.name: file.content for file in launch(ENGINE, step(ENGINE, given, with_=with_)).files}
        said: dict[str, Any] = json.loads(files["metadata.json"])
        return said

    assert metadata(BASE)["general.name"] == "Qwen2.5-0.5B-Instruct"
    assert metadata(BASE)["general.version"] is None
    merged = msgspec.structs.replace(model("merged", QWEN_05B, "model/safetensors"), lineage=(BASE,))
    assert metadata(merged)["general.name"] == "Qwen2.5-0.5B-Instruct"
    assert metadata(BASE, model_name="Mine")["general.name"] == "Mine"


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("modelscope:Qwen/Qwen3-0.6B", "Qwen3-0.6B"),
        ("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF@abc/sub/x.gguf", "Qwen2.5-0.5B-Instruct-GGUF"),
        ("file:models/my-qwen/", "my-qwen"),
        ("file:/srv/x.gguf", "x"),
        ("https://example.org/a/b.gguf#sha256=00", "b"),
        ("smoke:qwen2?layers=2", "qwen2"),
    ],
)
def test_a_model_is_called_after_its_reference(ref: str, name: str) -> None:
    assert origin(model("base", ref=ref)) == name


def test_16_bits_stay_the_kind_that_they_are() -> None:
    def dtype(given: str | None, outtype: str = "auto") -> str | None:
        facts = msgspec.structs.replace(QWEN_05B, dtype=given)
        made = ENGINE.product(
            step(ENGINE, model("base", facts, "model/safetensors"), with_={"outtype": outtype})
        )
        return made.facts.dtype

    assert [dtype("bfloat16"), dtype("float16"), dtype("float32"), dtype(None)] == [
        "BF16",
        "F16",
        "F16",
        "F16",
    ]
    assert dtype("bfloat16", "q8_0") == "Q8_0"


def test_a_result_keeps_what_is_known_of_the_model() -> None:
    made = ENGINE.product(step(ENGINE, BASE, with_={"outtype": "f16"}))
    assert made.type == "model/gguf"
    assert made.facts.bytes == 494_032_768 * 2
    assert (made.facts.bits, made.facts.context, made.facts.vocabulary) == (16.0, 32_768, 151_936)


def test_ternary_output_is_warned_of() -> None:
    assert "ternary" in warnings(ENGINE, step(ENGINE, BASE, with_={"outtype": "tq1_0"}))[0]


def test_memory_is_torch_and_the_largest_tensor_or_all_of_them() -> None:
    lazy = launch(ENGINE, step(ENGINE, BASE)).resources
    whole = launch(ENGINE, step(ENGINE, BASE, with_={"no_lazy": True})).resources
    assert lazy.memory == 151_936 * 896 * 10 + 1_342_177_280
    assert whole.memory == 988_097_824 + 1_342_177_280
    assert launch(ENGINE, step(ENGINE, model("base", Facts(), "model/safetensors"))).resources.memory is None


def test_progress_is_read_from_the_converters_bar() -> None:
    patterns = launch(ENGINE, step(ENGINE, BASE)).progress
    line = "Writing:  96%|█████████▌| 77.8M/80.9M [00:00<00:00, 672Mbyte/s]"
    found = [match.groupdict() for pattern in patterns if (match := re.search(pattern.regex, line))]
    assert found == [{"percent": "96"}]


def test_it_needs_no_network() -> None:
    made = launch(ENGINE, step(ENGINE, BASE))
    assert not made.network
    assert made.env["HF_HUB_OFFLINE"] == "1"


def run_driver(tmp_path: Path, body: str, *flags: str) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    """Runs the driver on a converter of our own, with a stand-in for transformers that tells what it was asked."""
    package = tmp_path / "transformers"
    package.mkdir(exist_ok=True)
    (package / "dynamic_module_utils.py").write_text(
        "def get_class_in_module(*_):\n    return 'their code'\n"
    )
    (package / "__init__.py").write_text(
        "class AutoTokenizer:\n"
        "    @classmethod\n"
        "    def from_pretrained(cls, folder, trust_remote_code=None):\n"
        "        return trust_remote_code\n"
        "class AutoConfig(AutoTokenizer):\n"
        "    pass\n"
    )
    script = tmp_path / "converter.py"
    script.write_text(body)
    report = tmp_path / "report"
    argv = [sys.executable, str(DRIVERS / "convert.py"), str(script), *flags, "--", "model", "--outfile", "x"]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(tmp_path), "QWEND_REPORT": str(report)},
    )
    rows = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    return done, rows


ASKS = """\
import sys
from transformers import AutoTokenizer
print(AutoTokenizer.from_pretrained("m", trust_remote_code=True), sys.argv[1:])
"""


def test_the_driver_takes_the_converters_trust_back(tmp_path: Path) -> None:
    assert run_driver(tmp_path, ASKS)[0].stdout == "False ['model', '--outfile', 'x']\n"
    assert run_driver(tmp_path, ASKS, "--trust-remote-code")[0].stdout.startswith("True ")


def test_the_door_to_a_checkpoints_code_is_closed_whoever_knocks(tmp_path: Path) -> None:
    knocks = "from transformers import dynamic_module_utils as d\nprint(d.get_class_in_module('x', 'y'))\n"
    done, rows = run_driver(tmp_path, knocks)
    assert done.returncode == 1
    assert rows[0]["error"]["message"] == "the checkpoint needs code of its own, which was not allowed to run"
    assert run_driver(tmp_path, knocks, "--trust-remote-code")[0].stdout == "their code\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "raise NotImplementedError('BPE pre-tokenizer was not recognized - update get_vocab_base_pre()')",
            "the converter does not know this model's tokenizer",
        ),
        (
            "raise ValueError(\"Can not map tensor 'model.x.bias'\")",
            "the converter has no place for the tensor model.x.bias",
        ),
        (
            "raise NotImplementedError(\"Quant method is not yet supported: 'awq'\")",
            "the checkpoint is quantised (awq), which the converter cannot read",
        ),
        ("raise OSError(28, 'No space left on device')", "the disk is full"),
        (
            "raise AttributeError('TokenizersBackend has no attribute mergeable_ranks')",
            "the checkpoint needs code of its own, which was not allowed to run",
        ),
        ("import no_such_module", "the converter needs no_such_module, which the image does not hold"),
        ("raise RuntimeError('one\\ntwo')", "one two"),
    ],
)
def test_the_driver_tells_a_failure_in_one_line(tmp_path: Path, body: str, message: str) -> None:
    done, rows = run_driver(tmp_path, body)
    assert done.returncode == 1
    assert [row["error"]["message"] for row in rows] == [message]
    assert done.stderr.splitlines()[-1].startswith(f"convert: {message}")


def test_the_driver_passes_on_how_the_converter_ends(tmp_path: Path) -> None:
    assert run_driver(tmp_path, "import sys\nsys.exit(1)")[0].returncode == 1
    gone, rows = run_driver(tmp_path, "import sys\nsys.exit()")
    assert gone.returncode == 1
    assert "no tensor was written" in rows[-1]["error"]["message"]


def test_the_driver_refuses_to_be_called_wrongly() -> None:
    argv = [sys.executable, str(DRIVERS / "convert.py"), "x.py", "model"]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 2
