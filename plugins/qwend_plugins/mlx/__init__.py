"""MLX: converts, trains, serves and answers batches on Apple silicon; on a Linux CPU the same, slowly."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, hookimpl
from qwend_plugins.mlx.convert import Convert
from qwend_plugins.mlx.fuse import Fuse
from qwend_plugins.mlx.generate import Generate
from qwend_plugins.mlx.lora import Lora
from qwend_plugins.mlx.serve import Serve


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return (Convert(), Lora(), Fuse(), Serve(), Generate())
