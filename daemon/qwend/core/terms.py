"""What a recipe is compiled for: the machine, the runtimes that answer, and the user's words for this run. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from qwend.core.placement import Away, runtime
from qwend.model.host import Host
from qwend.model.image import HostProgram, Image, UpstreamImage


@dataclass(frozen=True)
class Terms:
    """What a recipe is compiled for. `runtimes` answer here; `runtime` and `device` are the user's words for this
    run, `setting` the runtime of the configuration; `source` is the recipe's path."""

    host: Host
    runtimes: tuple[str, ...] = ("native",)
    runtime: str | None = None
    device: str | None = None
    setting: str | None = None
    smoke: bool = False
    source: str = ""

    def place(self, flavour: str, said: str, image: Image | None) -> tuple[str, str]:
        """The runtime of a step, and why; some images leave no choice. Raises Refusal."""
        runtimes = self.runtimes
        match image:
            case HostProgram(program=program):
                if "native" in runtimes:
                    return "native", f"{program} is a program of this machine"
            case UpstreamImage(name=name):
                runtimes = tuple(name for name in runtimes if name != "native")
                if not runtimes:
                    hint = "qwend doctor says how to get Docker"
                    raise Away("runtime", f"{name} is a container image, and no Docker engine answers", hint)
                if self.runtime in (None, "auto", "native") and said in ("auto", "native"):
                    return runtimes[0], f"{name} is a container image"
        return runtime(flavour, said, self.host, runtimes=runtimes, asked=self.runtime, setting=self.setting)
