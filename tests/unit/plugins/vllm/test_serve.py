from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from tests.unit.plugins.llama_cpp.kit import QWEN_05B, QWEN_7B, model

from qwend.core.binding import describe
from qwend.plugin import Engine, Facts, Given, Gpu, Host, Launch, StepView
from qwend.plugin.samples import HOSTS
from qwend_plugins.vllm import qwend_engines
from qwend_plugins.vllm.serve import Serve

ENGINE = Serve()
BASE = model("base", QWEN_7B, "model/safetensors", "hf:Qwen/Qwen2.5-7B-Instruct")
V100 = HOSTS["cuda12"]
H100 = HOSTS["cuda"]
GIB = 1024**3


def step(given: Given = BASE, *, engine: Engine = ENGINE, **view: Any) -> StepView:
    said = json.dumps(view.pop("with_", {}))
    adapters = view.pop("lora", ())
    made = StepView(
        name="chat",
        recipe="recipe",
        params=engine.params.model_validate_json(said),
        inputs=(given,),
        given={"lora": adapters} if adapters else {},
        flavour="cuda",
        gpus=1,
    )
    return msgspec.structs.replace(made, **view)


def launch(view: StepView, host: Host = H100) -> Launch:
    return ENGINE.launch(view, host)


def words(view: StepView) -> str:
    """vLLM's own words, behind the driver's."""
    return " ".join(describe(launch(view))).partition(" -- ")[2]


def errors(view: StepView, host: Host = H100) -> list[str]:
    return [f"{f.key}: {f.message}" for f in ENGINE.check(view, host) if f.level == "error"]


def hints(view: StepView, host: Host = H100) -> list[str | None]:
    return [f.hint for f in ENGINE.check(view, host) if f.level == "error"]


def cards(count: int, host: Host = H100) -> Host:
    gpus = tuple(
        msgspec.structs.replace(host.gpus[0], index=index, uuid=f"GPU-{index}") for index in range(count)
    )
    return msgspec.structs.replace(host, gpus=gpus)


@pytest.mark.parametrize(
    ("view", "line"),
    [
        ({}, "--tensor-parallel-size 1"),
        ({"gpus": 2}, "--tensor-parallel-size 2"),
        (
            {"gpus": 4, "with_": {"pipeline_parallel_size": 2}},
            "--tensor-parallel-size 2 --pipeline-parallel-size 2",
        ),
        ({"gpus": 2, "with_": {"data_parallel_size": 2}}, "--tensor-parallel-size 1 --data-parallel-size 2"),
        ({"gpu_share": 0.4}, "--gpu-memory-utilization 0.4 --tensor-parallel-size 1"),
        (
            {"with_": {"dtype": "half", "gpu_memory_utilization": 0.8, "max_num_seqs": 1000, "max_model_len": 4096}},
            "--max-model-len 4096 --dtype half --max-num-seqs 1000 --gpu-memory-utilization 0.8 "
            "--tensor-parallel-size 1",
        ),
        (
            {"with_": {"enable_auto_tool_choice": True, "tool_call_parser": "hermes", "reasoning_parser": "qwen3"}},
            "--tensor-parallel-size 1 --enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3",
        ),
        ({"with_": {"enforce_eager": True, "seed": 1}}, "--seed 1 --tensor-parallel-size 1 --enforce-eager"),
        ({"with_": {"enable_prefix_caching": False}}, "--no-enable-prefix-caching --tensor-parallel-size 1"),
        (
            {"with_": {"chat_template_kwargs": {"enable_thinking": False}}},
            '--tensor-parallel-size 1 --default-chat-template-kwargs {"enable_thinking": false}',
        ),
        ({"trust_remote_code": True}, "--tensor-parallel-size 1 --trust-remote-code"),
        ({"extra_args": ("--max-logprobs", "5")}, "--tensor-parallel-size 1 --max-logprobs 5"),
    ],
)  # fmt: skip
def test_parameters_become_vllms_own_flags(view: dict[str, Any], line: str) -> None:
    assert words(step(**view)) == f"<base> --served-model-name chat {line}"


def test_more_names_follow_the_steps() -> None:
    assert "--served-model-name chat qwen gpt " in words(step(with_={"served_model_name": ["qwen", "gpt"]}))


def test_on_a_cpu_it_starts_quickly_and_takes_a_modest_context() -> None:
    view = step(flavour="cpu", gpus=0)
    assert words(view) == "<base> --served-model-name chat --max-model-len 8192 --enforce-eager"
    env = launch(view).env
    assert (env["VLLM_CPU_KVCACHE_SPACE"], env["VLLM_CPU_OMP_THREADS_BIND"]) == ("1", "nobind")
    assert (
        launch(step(flavour="cpu", gpus=0, with_={"cpu_kvcache_space": 7})).env["VLLM_CPU_KVCACHE_SPACE"]
        == "7"
    )
    assert "VLLM_CPU_KVCACHE_SPACE" not in launch(step()).env
    assert launch(step()).env["VLLM_NO_USAGE_STATS"] == "1"


def test_yarn_is_an_entry_of_the_models_configuration_by_the_name_of_its_time() -> None:
    asked = {"max_model_len": 131_072, "rope_scaling": {"factor": 4.0}}
    said = {"factor": 4.0, "original_max_position_embeddings": 32_768, "rope_type": "yarn"}
    new, old = (
        re.search(r"--hf-overrides (\{.*\})", words(step(flavour=f, with_=asked))) for f in ("cuda", "cuda12")
    )
    assert new is not None and json.loads(new[1]) == {"rope_parameters": said}
    assert old is not None and json.loads(old[1]) == {"rope_scaling": said}


def test_adapters_answer_under_their_own_names() -> None:
    adapters = tuple(Given(name, "adapter/lora", Facts(bytes=10)) for name in ("one", "two"))
    view = step(lora=adapters, with_={"lora": ["one", "two"]})
    assert words(view).endswith("--enable-lora --max-loras 2 --lora-modules one=<one> two=<two>")


def test_a_key_is_a_file_and_stands_in_no_argument_and_no_environment() -> None:
    view = step(secrets=("api_key",))
    made = launch(view)
    assert made.secrets == ("api_key",)
    assert " ".join(describe(made)).startswith(
        "bin/python <vllm_serve.py> --key-file <api_key> --host <address>"
    )
    assert "--api-key" not in words(view)
    assert not any("KEY" in name for name in made.env)


def test_several_machines_are_planned_as_ranks_of_one_model() -> None:
    asked = {
        "nnodes": 2, "master_addr": "10.0.0.1", "tensor_parallel_size": 4, "pipeline_parallel_size": 2,
    }  # fmt: skip
    host = cards(4)
    head, other = (step(gpus=4, with_=asked | {"node_rank": rank}) for rank in (0, 1))
    assert errors(head, host) == errors(other, host) == []
    meeting = "--master-addr 10.0.0.1 --master-port 29501"
    assert words(head).endswith(
        f"--tensor-parallel-size 4 --pipeline-parallel-size 2 --nnodes 2 --node-rank 0 {meeting}"
    )
    assert words(other).endswith(f"--nnodes 2 --node-rank 1 {meeting} --headless")
    probes = [launch(view).probe for view in (head, other)]
    assert probes[0] is not None and probes[0].work is not None
    assert probes[1] is not None and probes[1].work is None, "only rank 0 answers requests"


def test_over_ray_one_machine_begins_the_cluster_and_the_others_join_it() -> None:
    asked = {
        "nnodes": 2, "master_addr": "10.0.0.1", "master_port": 6379, "tensor_parallel_size": 8,
        "distributed_executor_backend": "ray",
    }  # fmt: skip
    lines = [" ".join(describe(launch(step(gpus=4, with_=asked | {"node_rank": rank})))) for rank in (0, 1)]
    assert "<vllm_serve.py> --ray head --ray-port 6379 --host" in lines[0]
    assert "--distributed-executor-backend ray --tensor-parallel-size 8" in lines[0]
    assert "<vllm_serve.py> --ray 10.0.0.1:6379 --host" in lines[1]


AWQ, GPTQ = (model("base", QWEN_7B, f"model/{kind}") for kind in ("awq", "gptq"))


def test_awq_is_refused_on_a_v100_and_gptq_is_not() -> None:
    view = step(AWQ, flavour="cuda12")
    assert errors(view, V100) == ["from: AWQ needs compute capability 7.5; gpu 0 (Tesla V100) has 7.0"]
    assert "GPTQ runs on older cards" in (hints(view, V100)[0] or "")
    assert errors(step(GPTQ, flavour="cuda12"), V100) == []
    assert errors(step(AWQ), H100) == []
    assert errors(step(AWQ, flavour="cpu", gpus=0), V100) == []


@pytest.mark.parametrize(
    ("view", "host", "message"),
    [
        ({"given": AWQ, "with_": {"dtype": "float32"}}, H100, "with.dtype: model/awq works in 16 bits only"),
        ({"given": GPTQ, "with_": {"dtype": "bfloat16", "quantization": "gptq"}}, H100,
         "with.dtype: the plain kernels of GPTQ work in half precision only"),
        ({"given": GPTQ, "with_": {"quantization": "awq"}}, H100,
         "with.quantization: base is quantised in another way (model/gptq)"),
        ({"flavour": "cuda12", "with_": {"dtype": "bfloat16"}}, V100,
         "with.dtype: bfloat16 needs compute capability 8.0; gpu 0 (Tesla V100) has 7.0"),
        ({"flavour": "cuda12", "with_": {"kv_cache_dtype": "fp8"}}, V100,
         "with.kv_cache_dtype: a cache in fp8 needs compute capability 8.0; gpu 0 has 7.0"),
        ({"gpu_share": 0.4, "with_": {"gpu_memory_utilization": 0.9}}, H100,
         "with.gpu_memory_utilization: gpu_memory_utilization 0.9 is more than the step's gpu_share of 0.4"),
        ({"gpus": 1, "with_": {"tensor_parallel_size": 2}}, H100,
         "with.tensor_parallel_size: needs 2 cards (2), and the step leases 1"),
        ({"gpus": 3}, H100, "gpus: 28 attention heads cannot be split among 3 cards"),
        ({"with_": {"max_model_len": 131_072}}, H100,
         "with.max_model_len: a context of 131072 is beyond what the model was trained for (32768)"),
        ({"with_": {"max_model_len": 262_144, "rope_scaling": {"factor": 4.0}}}, H100,
         "with.max_model_len: a context of 262144 is beyond what the model was trained for (32768), scaled by 4"),
        ({"with_": {"enable_auto_tool_choice": True}}, H100,
         "with.enable_auto_tool_choice: somebody has to read the calls: enable_auto_tool_choice needs a "
         "tool_call_parser"),
        ({"with_": {"swap_space": 4}}, H100,
         "with.swap_space: this version of vLLM swaps nothing; it has another way"),
        ({"flavour": "cpu", "gpus": 0, "with_": {"tensor_parallel_size": 2}}, H100,
         "with.tensor_parallel_size: this step runs on the CPU, where there are no cards to share work"),
        ({"flavour": "cpu", "gpus": 0, "with_": {"gpu_memory_utilization": 0.5}}, H100,
         "with.gpu_memory_utilization: this step runs on the CPU"),
        ({"with_": {"nnodes": 2, "tensor_parallel_size": 2}}, H100,
         "with.nnodes: several machines need a place to meet"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_an_error_of_the_plan(view: dict[str, Any], host: Host, message: str) -> None:
    assert errors(step(**{"given": BASE} | view), host) == [message]


def test_a_share_of_a_card_that_is_leased_whole_is_a_warning() -> None:
    (finding,) = ENGINE.check(step(with_={"gpu_memory_utilization": 0.4}), H100)
    assert (finding.level, finding.hint) == ("warning", "say gpu_share: 0.4 instead, beside with:")


def test_memory_on_each_card_is_what_one_answer_of_full_length_needs() -> None:
    cache = 2 * 28 * 4 * 128 * 32_768 * 2
    need = 15_231_233_024 + cache + 2**29 + int(15_231_233_024 * 0.05)
    one = launch(step()).resources
    two = launch(step(gpus=2)).resources
    assert (one.gpu_memory, one.gpus) == (need, 1)
    assert (two.gpu_memory, two.gpus) == (need // 2, 2)
    short = launch(step(with_={"max_model_len": 4096})).resources
    assert short.gpu_memory == need - cache * 7 // 8


def test_memory_on_a_cpu_counts_the_whole_cache_and_the_libraries() -> None:
    small = model(facts=QWEN_05B, kind="model/safetensors")
    resources = launch(step(small, flavour="cpu", gpus=0, with_={"cpu_kvcache_space": 4})).resources
    weights = 988_097_824
    assert resources.memory == weights + 4 * GIB + 2**29 + int(weights * 0.05) + 5 * GIB // 2
    assert resources.gpu_memory is None


def test_a_server_and_its_workers_get_shared_memory() -> None:
    assert launch(step()).shm == launch(step(flavour="cpu", gpus=0)).shm == GIB
    assert launch(step(gpus=2)).shm == 8 * GIB


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("vllm serve: error: unrecognized arguments: --bogus 1", "vLLM does not know --bogus 1"),
        ("ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired GPU memory "
         "utilization (0.9, 71.19 GiB).", "only 3.1 of 79.1 GiB of the card are free"),
        ("ValueError: To serve at least one request with the models's max seq len (32768), 1.75 GiB KV cache is needed,"
         " which is larger than the available KV cache memory (0.5 GiB). Based on the available memory, the estimated "
         "maximum model length is 9362.",
         "the context does not fit into the memory that is left for the key/value cache"),
        ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
         "the weights leave no memory for the key/value cache"),
        ("pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n  Value error, "
         "User-specified max_model_len (99999) is greater than the derived max_model_len "
         "(max_position_embeddings=32768.0 or None)",
         "a context of 99999 is beyond what the model was trained for (32768)"),
        ("ValueError: The quantization method awq is not supported for the current GPU. Minimum capability: 75. "
         "Current capability: 70.", "awq needs a card of compute capability 75 (75 is 7.5)"),
        ("ValueError: torch.bfloat16 is not supported for quantization method awq. Supported dtypes: [torch.float16]",
         "awq does not work in bfloat16"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
         "the memory of the card does not suffice"),
        ("(EngineCore pid=1) ERROR 11-24 [core.py:1] RuntimeError: something new\n"
         "RuntimeError: Engine core initialization failed. See root cause above.", "vLLM says: something new"),
        ("Found ulimit of 20000 and failed to automatically increase with error current limit exceeds maximum limit. "
         "This can cause fd limit errors like `OSError: [Errno 24] Too many open files`. Consider increasing with "
         "ulimit -n\n(EngineCore pid=26) ERROR 11-24 17:44:30 [core.py:1510] RuntimeError: Insufficient space in "
         "/dev/shm: 160 MiB required, 64 MiB free.",
         "vLLM says: Insufficient space in /dev/shm: 160 MiB required, 64 MiB free."),
    ],
)  # fmt: skip
def test_the_engines_own_reason_is_understood(log: str, message: str) -> None:
    for hint in launch(step()).hints:
        found = re.search(hint.regex, log, re.MULTILINE)
        if found:
            assert hint.message.format(**found.groupdict()) == message
            hint.hint.format(**found.groupdict())
            return
    pytest.fail("no hint matches")


@pytest.mark.parametrize("engine", qwend_engines(), ids=lambda engine: engine.name)
def test_cards_are_never_named_by_the_user_but_by_the_lease(engine: Any) -> None:
    assert "CUDA_VISIBLE_DEVICES" not in launch(step()).env
    assert not any("device" in name and "ids" in name for name in engine.params.model_fields)


def test_a_card_of_unknown_capability_is_not_refused() -> None:
    unknown = msgspec.structs.replace(V100, gpus=(Gpu(0, "GPU-0", "?", 32 * GIB),))
    assert errors(step(AWQ, flavour="cuda12"), unknown) == []
