"""Installs make-believe plugins: a folder of modules with real metadata, as an installer would leave it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

GROUP = "qwend.plugins.v1"
HEAD = "from qwend.plugin import *\nfrom tests.fakes import toys\n"


def install(site: Path, plugins: Mapping[str, str], version: str = "1.0") -> Path:
    """Each plugin (name: source of its module) as a distribution of its own below `site`."""
    site.mkdir(exist_ok=True)
    for name, source in plugins.items():
        module = f"plug_{name.replace('-', '_')}"
        (site / f"{module}.py").write_text(source)
        info = site / f"dist_{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}\n")
    return site


def entry_points(site: Path) -> list[metadata.EntryPoint]:
    """The entry points of that folder and of no other."""
    return [
        point
        for distribution in metadata.distributions(path=[str(site)])
        for point in distribution.entry_points
        if point.group == GROUP
    ]


def search_path(site: Path) -> str:
    """PYTHONPATH for a worker that finds these plugins, and the code under test as this process found it."""
    return os.pathsep.join([str(site), *(entry for entry in sys.path if entry)])


def engines(*names: str, prefix: str = "") -> str:
    """Source of a plugin that brings toy engines under names of its own."""
    made = "".join(
        f"class E{index}(toys.Convert):\n    name = {name!r}\n" for index, name in enumerate(names)
    )
    listed = ", ".join(f"E{index}()" for index in range(len(names)))
    return f"{HEAD}{prefix}{made}@hookimpl\ndef qwend_engines():\n    return [{listed}]\n"
