"""What the recipe adds to what an engine said: environment, network, secrets, limits, policy. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Collection

import msgspec

from qwend.errors import QwendError, UsageError
from qwend.model.launch import Launch, Resources
from qwend.model.memory import LOAD_RATE, vocabulary_bytes
from qwend.model.plan import Policy, Restart
from qwend.model.recipe import Step
from qwend.plugin.launches import dangling
from qwend.plugin.protocols import Product

RESERVED = ("QWEND_", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
"""Environment that the lease or the runtime sets."""


def finished(launch: Launch, step: Step, engine: str, inputs: Collection[str]) -> Launch:
    """The engine's Launch with the recipe's environment, network and secrets.

    Raises QwendError if the Launch refers to an input, file, secret or port that the step does not have: that is
    a fault of the plugin, found now rather than when the step starts.
    """
    for name in step.env:
        if name.startswith(RESERVED):
            raise UsageError(f"env.{name}: qwend sets this itself", code="reserved")
    secrets = tuple(dict.fromkeys((*launch.secrets, *step.secrets)))
    problem = dangling(launch, inputs, secrets)
    if problem:
        raise QwendError(f"{engine} {problem}", code="plugin-failed")
    return msgspec.structs.replace(
        launch, env={**launch.env, **step.env}, secrets=secrets, network=_network(launch, step)
    )


def resources(launch: Launch, step: Step, cards: int, product: Product | None) -> Resources:
    """What the step is expected to need: the engine's word, cards and cores by the recipe. Engines speak of
    weights; the vocabulary that lies beside them is added here."""
    said = launch.resources
    disk = said.disk
    if disk is None and product is not None:
        disk = product.facts.bytes
    if disk and product is not None:
        disk += vocabulary_bytes(product.type, product.facts)
    return msgspec.structs.replace(said, cpus=step.cpus or said.cpus, gpus=cards, disk=disk)


def policy(
    step: Step, launch: Launch, weights: int | None, cards: tuple[str, ...], directory: str, smoke: bool
) -> Policy:
    """How the step is looked after. `weights` are the bytes that a service reads before it is ready.

    A smoke run leaves `out` alone: where a real result may lie, no tiny model takes its place.
    """
    restart = Restart()
    put = step.out is not None and not smoke
    if step.restart is not None:
        said = step.restart
        restart = Restart(said.policy, said.max, said.backoff, said.cap, said.reset)
    return Policy(
        restart=restart,
        stop_grace_s=step.stop_grace,
        timeout_s=step.timeout,
        retries=step.retries,
        replace=step.replace or "rolling",
        keep=step.keep,
        out=posixpath.normpath(posixpath.join(directory, step.out)) if put and step.out else None,
        host="127.0.0.1" if step.host == "localhost" else step.host,
        port=step.port,
        gpu_share=step.gpu_share,
        gpus=cards,
        expect=step.expect,
        deadline_s=_deadline(step, launch, weights),
        probe_interval_s=step.health.interval if step.health is not None else None,
        memory=step.memory,
    )


def unenforced(step: Step, runtime: str) -> tuple[str, ...]:
    """What the plan says of a step that is to have no network and runs where nothing cuts it off."""
    if runtime != "native":
        return ()
    reasons = ("trust_remote_code", step.trust_remote_code), ("allow_pickle", step.allow_pickle)
    why = [name for name, given in reasons if given] or (["network: none"] if step.network == "none" else [])
    if not why:
        return ()
    text = "a native process is only told to stay offline, nothing keeps it from the network"
    return (f"{' and '.join(why)}: {text} (runtime: docker does)",)


def _network(launch: Launch, step: Step) -> bool:
    """Code or pickles that came with a model run without network, whatever else was said."""
    if step.trust_remote_code or step.allow_pickle:
        return False
    return launch.network if step.network is None else step.network == "egress"


def _deadline(step: Step, launch: Launch, weights: int | None) -> float | None:
    if launch.probe is None:
        return None
    if step.health is not None and step.health.deadline is not None:
        return step.health.deadline
    return launch.probe.deadline_s + (weights or 0) / LOAD_RATE
