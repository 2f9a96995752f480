"""Parameters of the tools that write text, by llama.cpp's own names."""

from __future__ import annotations

from qwend.plugin import Params, flag


class DecodingParams(Params):
    """How the next token is chosen, and where it is reckoned."""

    top_k: int | None = flag("--top-k", None, description="choose among so many; 0: all", ge=0)
    top_p: float | None = flag(
        "--top-p", None, description="choose among those that make up this share", ge=0, le=1
    )
    min_p: float | None = flag("--min-p", None, description="least share of the likeliest token", ge=0, le=1)
    repeat_penalty: float | None = flag("--repeat-penalty", None, description="1: none", gt=0)
    n_gpu_layers: int | None = flag(
        "--n-gpu-layers", None, description="layers on the accelerator; left out: as many as fit", ge=0
    )
    threads: int | None = flag(
        "--threads", None, description="CPU threads; left out: what the lease allows", fingerprint=False, ge=1
    )
