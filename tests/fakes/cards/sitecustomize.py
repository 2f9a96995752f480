"""Cards that are not there: put this folder on a daemon's PYTHONPATH, and name a JSON file in QWEND_TEST_CARDS.

The file is read at each look: `[{"uuid": "GPU-a", "memory": 1000, "free": 900}]`, in PCI order. Everything above NVML
(snapshot, leases, plans, environment of the steps) is the real thing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

if file := os.environ.get("QWEND_TEST_CARDS"):
    from qwend.adapters import nvml
    from qwend.model.host import Gpu

    def cards(self: Any) -> tuple[Gpu, ...]:
        told = json.loads(Path(str(file)).read_text())
        return tuple(
            Gpu(index, one["uuid"], "NVIDIA Make-believe", one["memory"], one["free"], (9, 0))
            for index, one in enumerate(told)
        )

    nvml.Nvml.open = lambda self: True  # type: ignore[method-assign]
    nvml.Nvml.cards = cards  # type: ignore[method-assign]
    nvml.Nvml.versions = lambda self: (os.environ.get("QWEND_TEST_DRIVER", "580.65"), "13.0")  # type: ignore[method-assign]
