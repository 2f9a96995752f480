"""What the stages with a reward need beside LLaMA-Factory: `ppo` among libraries of today, `rm` going on.

Nothing of torch is imported before it is asked for. Everything that is changed has to be there: another version of a
library fails here, and not in the middle of a training.
"""

from __future__ import annotations

import importlib
from typing import Any

from lf_report import Refused

HEAD = "value_head.safetensors"
"""What LLaMA-Factory writes last into a checkpoint of these stages."""
REWARD = "reward"
"""The name under which ppo loads the reward adapter beside the one that it trains."""


def goes_on(stage: str, finetuning_type: str) -> bool:
    """Whether a training can go on from a checkpoint: ppo saves no state of it, rm of whole models is not let."""
    return stage != "ppo" and (stage != "rm" or finetuning_type == "lora")


def needed(stage: str, finetuning_type: str) -> tuple[str, ...]:
    """Files without which a checkpoint is not whole, beside those that every one has."""
    return ("adapter_model.safetensors", HEAD) if (stage, finetuning_type) == ("rm", "lora") else ()


def prepare(stage: str, resumes: bool) -> None:
    """To be called before the training is imported."""
    if stage == "ppo":
        beside_an_older_trl()
        keep_training_the_adapter()
    elif stage == "rm" and resumes:
        weights_are_there()


def beside_an_older_trl() -> None:
    """LLaMA-Factory's PPO is written for trl 0.9.6. Other stages import names at start that it does not have and ppo
    does not use; transformers has renamed what both ask for."""
    older = importlib.import_module("trl.models.utils")
    for name in ("prepare_deepspeed", "prepare_fsdp"):
        if not hasattr(older, name):
            setattr(older, name, _not_here)
    tokenizers = importlib.import_module("transformers.tokenization_utils_base")
    base = tokenizers.PreTrainedTokenizerBase
    if not hasattr(base, "additional_special_tokens_ids"):
        base.additional_special_tokens_ids = property(lambda self: self.extra_special_tokens_ids)


def keep_training_the_adapter() -> None:
    """Loading the reward adapter makes it the one that learns, and the optimiser would get no weight of the other."""
    workflow: Any = importlib.import_module("llamafactory.train.ppo.workflow")
    trainer = importlib.import_module("llamafactory.train.ppo.trainer").CustomPPOTrainer
    create: Any = getattr(workflow, "create_reward_model", None)
    if create is None:
        raise Refused("this LLaMA-Factory's PPO is not the one that this driver knows")

    def created(model: Any, model_args: Any, finetuning_args: Any) -> Any:
        reward = create(model, model_args, finetuning_args)
        if finetuning_args.reward_model_type == "lora":
            model.pretrained_model.set_adapter("default")
        return reward

    workflow.create_reward_model = created
    if not hasattr(trainer, "processing_class"):
        trainer.processing_class = property(lambda self: self.tokenizer)


def weights_are_there() -> None:
    """LLaMA-Factory loads adapter and head of a checkpoint as those of an adapter that is trained on; transformers
    would look for a whole model in it."""
    trainer = importlib.import_module("llamafactory.train.rm.trainer").PairwiseTrainer
    if not hasattr(trainer, "_load_from_checkpoint"):
        raise Refused("this transformers loads checkpoints otherwise than this driver knows")
    trainer._load_from_checkpoint = lambda self, *args, **kwargs: None


def _not_here(*args: Any, **kwargs: Any) -> Any:
    raise Refused("this stage needs a newer trl")
