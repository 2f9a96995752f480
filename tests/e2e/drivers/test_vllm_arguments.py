"""Every typed parameter of vllm/serve is known to the real argument parser of the pinned vLLM, with such values."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.e2e.conftest import cache_folder

from qwend.core.binding import describe
from qwend.plugin import Facts, Given, load_image
from qwend.plugin.samples import HOSTS, view
from qwend_plugins.vllm.batch import Batch
from qwend_plugins.vllm.serve import Serve

pytestmark = [pytest.mark.e2e, pytest.mark.native]

ASKED: list[dict[str, Any]] = [
    {},
    {"dtype": "half", "max_model_len": 4096, "gpu_memory_utilization": 0.4, "max_num_seqs": 1000},
    {"max_num_batched_tokens": 8192, "kv_cache_dtype": "fp8", "kv_offloading_size": 4.0, "cpu_offload_gb": 2.0},
    {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "data_parallel_size": 2},
    {"distributed_executor_backend": "mp", "enable_prefix_caching": True, "enable_chunked_prefill": True},
    {"enable_prefix_caching": False, "enable_chunked_prefill": False, "enforce_eager": True, "seed": 1},
    {"rope_scaling": {"factor": 4.0}, "max_model_len": 131_072, "generation_config": "vllm"},
    {"chat_template": "{{ messages }}", "chat_template_kwargs": {"enable_thinking": False}},
    {"served_model_name": ["a", "b"], "enable_auto_tool_choice": True, "tool_call_parser": "hermes"},
    {"reasoning_parser": "qwen3", "lora": ["one", "two"], "max_lora_rank": 64},
    {"nnodes": 2, "node_rank": 1, "master_addr": "10.0.0.1", "master_port": 29502},
    *({"quantization": name} for name in (
        "awq", "awq_marlin", "gptq", "gptq_marlin", "compressed-tensors", "fp8", "moe_wna16", "torchao", "quark",
    )),
    *({"kv_cache_dtype": name} for name in ("bfloat16", "fp8_e4m3", "fp8_e5m2")),
]  # fmt: skip

PARSE = """
import json, sys
from vllm.entrypoints.cli import serve as command
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser(prog="vllm")
commands = parser.add_subparsers(dest="subparser")
for one in command.cmd_init():
    one.subparser_init(commands)
for words in json.load(open(sys.argv[1])):
    try:
        parser.parse_args(["serve", *words])
    except SystemExit:
        print("refused:", words, file=sys.stderr)
        sys.exit(1)
print(len(json.load(open(sys.argv[1]))))
"""


def python() -> Path:
    """The interpreter of the realised CPU image; the parser is the same as that of the CUDA build."""
    spec = load_image("qwend_images:vllm", "cpu")
    found = cache_folder() / "images" / f"vllm-cpu-{spec.digest[:12]}" / "bin" / "python"
    if not found.exists():
        pytest.skip("the image vllm (cpu) is not built: qwend images build vllm --flavour cpu")
    return found


def test_the_parser_of_the_pinned_version_takes_every_word(tmp_path: Path) -> None:
    interpreter = python()
    named = {name for asked in ASKED for name in asked}
    passed_otherwise = {"swap_space", "cpu_kvcache_space"}  # the cuda12 build; an environment variable
    assert named | passed_otherwise == set(Serve.params.model_fields)
    lines = [_words(asked) for asked in ASKED]
    (tmp_path / "lines.json").write_text(json.dumps(lines))
    ended = subprocess.run(
        [str(interpreter), "-c", PARSE, str(tmp_path / "lines.json")],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "VLLM_TARGET_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.split()[-1] == str(len(ASKED))


def _words(asked: dict[str, Any]) -> list[str]:
    step = view(Serve(), "model/safetensors", flavour="cuda", values=asked)
    lora = tuple(Given(name, "adapter/lora", Facts()) for name in asked.get("lora", ()))
    step = msgspec.structs.replace(step, given={"lora": lora} if lora else {})
    words = list(describe(Serve().launch(step, HOSTS["cuda"])))
    return words[words.index("--") + 1 :]


def test_batches_take_no_other_parameters_of_the_engine_than_the_server() -> None:
    from qwend_plugins.vllm.params import EngineParams

    assert set(EngineParams.model_fields) <= set(Batch.params.model_fields)
