"""The hook specifications: the table of contents of the plugin door.

A plugin is a module named by an entry point of the group `qwend.plugins.v1`; its functions marked with
`hookimpl` are called in the planner worker, never in the daemon.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from qwend.model.event import Event
from qwend.plugin.protocols import Engine, Source

PROJECT = "qwend"
GROUP = "qwend.plugins.v1"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    """What a plugin may implement; each hook is optional."""

    @hookspec
    def qwend_engines(self) -> Iterable[Engine]:
        """The engines that the plugin brings; each `name` is `plugin/engine` and taken once only."""
        raise NotImplementedError

    @hookspec
    def qwend_sources(self) -> Iterable[Source]:
        """The kinds of reference (`hf:`, `file:`) that the plugin resolves; each `scheme` is taken once only."""
        raise NotImplementedError

    @hookspec
    def qwend_event(self, event: Event) -> None:
        """Called after an event was committed. It observes: a failure is logged and changes nothing."""
