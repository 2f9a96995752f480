from __future__ import annotations

from typing import Any

import pytest
from tests.unit.core.compile_kit import compiled, complaints, host, steps

from qwend.errors import OutOfResource, Unreachable, UsageError
from qwend.model.host import Gpu

GIB = 1024**3
SERVE = 'name: s\nmodels: {m: "shop:tiny/model/gguf"}\nsteps:\n  s: {uses: toy/serve, from: m}\n'
TRAIN = 'name: t\nmodels: {m: "shop:tiny/model/safetensors"}\nsteps:\n  s: {uses: toy/train, from: m}\n'
QUANT = (
    'name: q\nmodels: {m: "shop:tiny/model/gguf"}\nsteps:\n'
    "  s: {uses: toy/quantize, from: m, with: {type: Q8_0}}\n"
)


def chosen(text: str, machine: Any, **terms: Any) -> str:
    return steps(compiled(text, host=machine, **terms))["s"].chosen


@pytest.mark.parametrize(
    ("text", "like", "expected"),
    [
        (SERVE, "cpu", "cpu: no accelerator found; native: no Docker engine answers"),
        (SERVE, "cuda", "cuda: NVIDIA H100, driver 580.95; native: no Docker engine answers"),
        (TRAIN, "cuda12", "cuda12: Tesla V100, driver 535.230; native: no Docker engine answers"),
        (SERVE, "apple", "apple: Apple M4 Pro; native: Metal is not to be had in a container"),
        (QUANT, "cuda", "cpu: toy/quantize has no cuda build; native: no Docker engine answers"),
        (QUANT, "apple", "cpu: toy/quantize has no apple build; native: no Docker engine answers"),
    ],
)
def test_the_best_flavour_is_taken_and_explained(text: str, like: str, expected: str) -> None:
    assert chosen(text, host(like)) == expected


def test_cuda_without_a_card_is_an_error_and_never_the_cpu() -> None:
    (line,) = complaints(SERVE.replace("from: m}", "from: m, device: cuda}"))
    assert line.startswith("recipe.yaml:4:41: steps.s.device: this machine has no NVIDIA card that answers")
    for text in (SERVE, QUANT):
        (line,) = complaints(text, device="cuda")
        assert line.startswith("this machine has no NVIDIA card that answers")
    (line,) = complaints(SERVE, device="apple")
    assert line.startswith("this machine is no Mac with Apple silicon")


def test_a_card_that_is_named_twice_is_refused_at_its_place() -> None:
    machine = host("cuda", gpus=(Gpu(0, "GPU-a", "NVIDIA H100", 80 * GIB, None, (9, 0)),))
    (line,) = complaints(SERVE.replace("from: m}", 'from: m, gpus: [0, "GPU-a"]}'), host=machine)
    assert line.startswith("recipe.yaml:4:43: steps.s.gpus.1: gpu GPU-a is named twice")


@pytest.mark.parametrize(
    ("text", "machine", "terms"),
    [
        (SERVE, "cpu", {"device": "cuda"}),
        (SERVE, "cpu", {"device": "apple"}),
        (SERVE.replace("from: m}", "from: m, device: cuda}"), "cpu", {}),
        (SERVE.replace("from: m}", "from: m, gpus: 1}"), "cpu", {}),
        (SERVE.replace("from: m}", "from: m, gpus: [3]}"), "cuda", {}),
        (SERVE.replace("from: m}", "from: m, gpus: 9}"), "cuda", {}),
    ],
)
def test_a_card_that_is_not_there_is_a_resource_that_lacks_wherever_it_was_asked_for(
    text: str, machine: str, terms: dict[str, Any]
) -> None:
    with pytest.raises(OutOfResource) as caught:
        compiled(text, host=host(machine), **terms)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("text", "terms"),
    [(SERVE, {"runtime": "docker"}), (SERVE.replace("from: m}", "from: m, runtime: docker}"), {})],
)
def test_a_runtime_that_does_not_answer_is_told_as_one(text: str, terms: dict[str, Any]) -> None:
    with pytest.raises(Unreachable, match="the runtime docker does not answer here"):
        compiled(text, **terms)


def test_what_the_recipe_got_wrong_comes_before_what_the_machine_lacks() -> None:
    both = SERVE.replace("from: m}", "from: m, device: cuda}") + "  b: {uses: toy/train, from: m}\n"
    with pytest.raises(UsageError):
        compiled(both)


def test_a_driver_that_is_too_old_names_both_versions() -> None:
    (line,) = complaints(SERVE, host=host("cuda", driver="550.1"))
    assert (
        "toy/serve cannot use NVIDIA H100: its cuda build needs driver 580 or newer, and this is 550.1"
        in line
    )
    assert "device: cpu runs it on the CPU" in line


def test_an_old_driver_is_good_enough_for_an_older_build() -> None:
    assert chosen(TRAIN, host("cuda", driver="550.1")).startswith("cuda12: NVIDIA H100, driver 550.1")


def test_a_card_for_which_there_is_no_build_is_an_error_that_says_so() -> None:
    (line,) = complaints(SERVE, host=host("cuda12", driver="580.1"))
    assert "needs compute capability 7.5, and gpu 0 (Tesla V100) has 7.0" in line


def test_a_driver_or_capability_that_nobody_knows_is_no_reason_to_refuse() -> None:
    card = Gpu(0, "GPU-x", "NVIDIA Something", 8 * GIB)
    assert chosen(SERVE, host("cuda", driver=None, gpus=(card,))).startswith(
        "cuda: NVIDIA Something, driver unknown"
    )


def test_the_users_word_for_the_run_comes_before_the_recipe() -> None:
    text = SERVE.replace("from: m}", "from: m, device: cuda}")
    assert chosen(text, host("cuda"), device="cpu").startswith("cpu: asked for")


def test_a_device_for_the_run_leaves_alone_what_has_no_build_for_it() -> None:
    both = QUANT + "  t: {uses: toy/serve, from: s}\n"
    assert chosen(both, host("cuda"), device="cuda").startswith("cpu: toy/quantize has no cuda build")
    (line,) = complaints(QUANT, host=host("cuda"), device="cuda")
    assert line == "no step has a cuda build (leave the device out)"
    (line,) = complaints(QUANT.replace("from: m,", "from: m, device: cuda,"), host=host("cuda"))
    assert "steps.s.device: toy/quantize has no cuda build (it has cpu)" in line


def test_cards_are_counted_and_named() -> None:
    machine = host("cuda")
    named = steps(compiled(SERVE.replace("from: m}", "from: m, gpus: [0]}"), host=machine))["s"]
    assert (named.policy.gpus, named.resources.gpus) == (("0",), 1)
    default = steps(compiled(SERVE, host=machine))["s"]
    assert (default.policy.gpus, default.resources.gpus) == ((), 1)
    (line,) = complaints(SERVE.replace("from: m}", "from: m, gpus: [7]}"), host=machine)
    assert line.startswith("recipe.yaml:4:40: steps.s.gpus.0: there is no gpu 7 (there is 0 (NVIDIA H100)")
    (line,) = complaints(SERVE.replace("from: m}", "from: m, gpus: 2}"), host=machine)
    assert "2 cards were asked for, and this machine has 1" in line
    (line,) = complaints(SERVE.replace("from: m}", "from: m, gpus: 1}"))
    assert "cards were asked for, and this step runs on cpu" in line
    assert chosen(SERVE.replace("from: m}", "from: m, gpus: 0}"), machine).startswith(
        "cpu: no card was asked"
    )


@pytest.mark.parametrize(
    ("machine", "terms", "runtime", "why"),
    [
        (host(docker="27.1"), {}, "docker", "Docker 27.1 answers"),
        (
            host(docker="27.1", docker_lacks="it has no buildx"),
            {},
            "native",
            "Docker 27.1 answers, but it has no buildx",
        ),
        (host("cuda", docker="27.1"), {}, "native", "Docker 27.1 cannot give a container a card"),
        (host("cuda", docker="27.1", docker_gpus=True), {}, "docker", "Docker 27.1 answers"),
        (host("apple", docker="27.1"), {}, "native", "Metal is not to be had in a container"),
        (host(docker="27.1"), {"runtime": "native"}, "native", "asked for"),
        (host(docker="27.1"), {"setting": "native"}, "native", "your setting"),
        (host(docker="27.1"), {"setting": "native", "runtime": "docker"}, "docker", "asked for"),
    ],
)
def test_the_runtime_is_chosen_and_explained(
    machine: Any, terms: dict[str, Any], runtime: str, why: str
) -> None:
    step = steps(compiled(SERVE, host=machine, runtimes=("native", "docker"), **terms))["s"]
    assert step.runtime == runtime
    assert step.chosen.endswith(f"{runtime}: {why}")


def test_a_runtime_that_does_not_answer_is_an_error() -> None:
    assert complaints(SERVE, runtime="docker") == [
        "the runtime docker does not answer here (there is native; qwend doctor says what is missing)"
    ]
    (line,) = complaints(SERVE.replace("from: m}", "from: m, runtime: docker}"))
    assert line.startswith("recipe.yaml:4:42: steps.s.runtime: the runtime docker does not answer here")


def test_a_container_for_metal_is_refused() -> None:
    text = SERVE.replace("from: m}", "from: m, runtime: docker}")
    (line,) = complaints(text, host=host("apple", docker="27"), runtimes=("native", "docker"))
    assert "a Linux container has no Metal" in line


def test_a_container_image_runs_in_docker_and_a_program_of_the_host_natively() -> None:
    machine = host(docker="27.1")
    both: dict[str, Any] = {"runtimes": ("native", "docker"), "host": machine}
    webui = steps(compiled("name: w\nsteps: {s: {uses: toy/webui}}\n", **both))["s"]
    assert webui.runtime == "docker"
    program = steps(compiled("name: w\nsteps: {s: {uses: toy/program}}\n", **both))["s"]
    assert program.runtime == "native"
    (line,) = complaints("name: w\nsteps: {s: {uses: toy/webui}}\n")
    assert "webui is a container image, and no Docker engine answers" in line
