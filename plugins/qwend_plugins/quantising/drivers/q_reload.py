"""The last part of every quantising step: hold the result against the claim, load it again, and let it answer.

    python q_reload.py OPTIONS.json --source DIR --out DIR --library autoawq|gptqmodel|transformers --device cpu|cuda

Runs inside the image, in a process of its own, so that nothing of the quantiser's memory is left; imports nothing of
qwend. Exit code 1 where the result is not what the step claims, cannot be loaded, or gives numbers that are none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from q_report import Trouble, explain, guarded, progress, report, say
from q_written import Claim, Written, check_scaled, check_written

PROMPT = "你好，请用一句话介绍你自己。"
TOKENS = 8
SAME = 0.05
"""Nats between a model and its scaled form, at most; rounding to 16 bits makes about 0.001, clipping 0.01."""


def load(folder: Path, library: str, device: str, trust: bool) -> Any:
    """The written model, by the code that reads such checkpoints."""
    if library == "gptqmodel":
        from gptqmodel import BACKEND, GPTQModel

        method = json.loads((folder / "config.json").read_text())["quantization_config"]["quant_method"]
        plain = getattr(BACKEND, f"{method.upper()}_TORCH", None) or BACKEND.TORCH
        chosen = plain if device == "cpu" else BACKEND.AUTO
        wrapped = GPTQModel.load(str(folder), device=device, backend=chosen, trust_remote_code=trust)
        return wrapped.model
    if library == "autoawq":
        from awq import AutoAWQForCausalLM

        if device == "cpu":
            read_on_a_cpu()
        wrapped = AutoAWQForCausalLM.from_quantized(
            str(folder), fuse_layers=False, device_map={"": device}, trust_remote_code=trust
        )
        return wrapped.model
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), device_map={"": device}, trust_remote_code=trust, torch_dtype="auto"
    )


def likelihoods(model: Any, tokenizer: Any, device: str) -> Any:
    """Log-probabilities of the next token at each position of the prompt, in the machine's memory."""
    import torch

    ids = tokenizer(PROMPT * 4, return_tensors="pt").input_ids.to(device)
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1).cpu()


def hold_to_source(scaled: Any, tokenizer: Any, args: argparse.Namespace) -> None:
    """Raises Trouble where the scaled model's distributions are not the source's (mean KL divergence in nats)."""
    source = load(args.source, "transformers", args.device, args.trust_remote_code)
    before = likelihoods(source, tokenizer, args.device)
    away = float((before.exp() * (before - scaled)).sum(-1).mean())
    say(f"the scaled model's answers are {away:.2g} nats away from the source's")
    report(metric={"name": "scaling_kld", "value": away})
    if not away <= SAME:
        raise Trouble(
            f"the scaled model answers otherwise than the source ({away:.2g} nats away)",
            "apply_clip: false changes nothing but the scales; if it is off, keep the log and report it",
        )


def read_on_a_cpu() -> None:
    """Let AutoAWQ load and multiply without a card: it would ask for Intel's kernels, which are no longer made.

    Its plain path unpacks the weights and multiplies in 16 bits, which any CPU can."""
    from awq.models import base
    from awq.modules.linear import gemm

    if not hasattr(base, "get_best_device") or not hasattr(gemm, "TRITON_AVAILABLE"):
        raise Trouble("this AutoAWQ has no plain path that the driver knows", "qwend images lock")
    base.get_best_device = lambda: "none"
    gemm.TRITON_AVAILABLE = False
    gemm.awq_ext = None


def answer(model: Any, tokenizer: Any, device: str) -> str:
    """A few tokens for one prompt, the likeliest each time. Raises Trouble where its logits are no numbers."""
    import torch

    text = PROMPT
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": PROMPT}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt").input_ids.to(device)
    start = ids.shape[1]
    ends = model.generation_config.eos_token_id
    ends = set(ends) if isinstance(ends, list) else {ends}
    with torch.inference_mode():
        for _ in range(TOKENS):
            logits = model(input_ids=ids, use_cache=False).logits[0, -1].float()
            if not torch.isfinite(logits).all():
                raise Trouble(
                    "the written model answers with numbers that are none (NaN or infinity)",
                    "its 16-bit format may be too small for this model: torch_dtype: bfloat16, or another backend",
                )
            token = int(logits.argmax())
            ids = torch.cat([ids, torch.tensor([[token]], device=ids.device)], dim=1)
            progress("reload", ids.shape[1] - start, TOKENS, "token")
            if token in ends:
                break
    return str(tokenizer.decode(ids[0, start:], skip_special_tokens=True))


def tell(written: Written, options: dict[str, Any]) -> None:
    """What was found, in the log and as facts of the artifact."""
    kinds = ", ".join(f"{count} {dtype}" for dtype, count in written.dtypes.items())
    what = f"{written.quantised} matrices quantised, {written.kept} kept" if written.quantised else "scaled"
    say(f"written: {what}; {written.bytes} bytes (reckoned: {written.expected_bytes}); tensors: {kinds}")
    report(fact={"bits": written.bits, "bytes": written.bytes})
    report(metric={"name": "bits_per_weight", "value": written.bits})
    report(metric={"name": "bytes", "value": written.bytes})


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Hold a quantised checkpoint against its claim, and load it."
    )
    parser.add_argument("options", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--library", choices=("autoawq", "gptqmodel", "transformers"), required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--trust-remote-code", action="store_true")
    args = parser.parse_args()
    options = json.loads(args.options.read_text(encoding="utf-8"))
    progress("verify", 0, 1)
    if options["claim"] is None:
        written = check_scaled(args.source, args.out, options["torch_dtype"])
    else:
        claim = {**options["claim"], "ignore": tuple(options["claim"].get("ignore", ()))}
        written = check_written(args.source, args.out, Claim(**claim))
    tell(written, options)
    begun = time.monotonic()
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(args.out), trust_remote_code=args.trust_remote_code)
        model = load(args.out, args.library, args.device, args.trust_remote_code)
    except Exception as error:
        message, hint = explain(error)
        raise Trouble(f"the result cannot be loaded again: {message}", hint) from error
    said = answer(model, tokenizer, args.device)
    say(f"loaded in {time.monotonic() - begun:.1f} s; asked {PROMPT!r}, it answers {said[:200]!r}")
    if options["claim"] is None:
        scaled = likelihoods(model, tokenizer, args.device)
        del model  # a card that holds one of them need not hold both
        hold_to_source(scaled, tokenizer, args)
    sys.stdout.flush()
    os._exit(0)  # threads of these libraries linger, and one that ends badly would spoil the exit code


if __name__ == "__main__":
    guarded(main)
