"""What the engines of awq, gptq and llm-compressor share: backends, claims, facts, memory. No plugin of its own."""

from qwend_plugins.quantising.backends import BACKENDS, HINTS, Job, launch
from qwend_plugins.quantising.checks import common_findings
from qwend_plugins.quantising.facts import packed, scaled
from qwend_plugins.quantising.memory import quantising

__all__ = ["BACKENDS", "HINTS", "Job", "common_findings", "launch", "packed", "quantising", "scaled"]
