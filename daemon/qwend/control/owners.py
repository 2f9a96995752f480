"""For whom a recipe is up: for clients in the foreground, until the last of them lets go, or for good (`-d`).

What a client lets go of is what its run brought up; what was there before goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from qwend.api.control import Json


class Owners:
    """Clients per run and recipe. A client that ended without a word counts no longer, and stops nothing."""

    def __init__(self) -> None:
        self._clients: dict[str, Counter[str]] = {}
        self._kept: dict[str, set[str]] = {}
        self._fleeting: dict[str, set[str]] = {}
        self._leaving: dict[str, frozenset[str]] = {}
        self._said: Counter[str] = Counter()

    def join(self, recipe: str, run: str) -> None:
        """A client in the foreground stands by a run."""
        self._clients.setdefault(recipe, Counter())[run] += 1
        self._fleeting.setdefault(recipe, set()).add(run)

    def keep(self, recipe: str, run: str = "") -> None:
        """Somebody wants the recipe to stay, and began this run for it."""
        self._kept.setdefault(recipe, set()).add(run)

    def keep_no_more(self, recipe: str, run: str) -> None:
        """What somebody wanted to stay did not come to be."""
        self._kept.get(recipe, set()).discard(run)

    def leave(self, recipe: str, run: str) -> None:
        """A client is gone, and what it brought up stays; nothing new of one that let go before."""
        if self._said[run] > 0:
            self._said[run] -= 1
            return
        self._drop(recipe, run)

    def _drop(self, recipe: str, run: str) -> None:
        clients = self._clients.get(recipe, Counter())
        clients[run] -= 1
        self._clients[recipe] = +clients

    def let_go(self, recipe: str, run: str, followed: bool) -> frozenset[str] | None:
        """A client wants no more of it: the runs whose steps are to be stopped now; None while others, or
        somebody who wanted it kept, are left. `followed`: the run goes on, and the client will leave as well."""
        self._drop(recipe, run)
        self._said[run] += followed
        if self._clients.get(recipe) or self._kept.get(recipe):
            return None
        self._leaving[recipe] = frozenset(self._fleeting.pop(recipe, set()) | {run})
        return self._leaving[recipe]

    def leaving(self, recipe: str) -> frozenset[str]:
        """The runs whose steps are being stopped since their last client let go."""
        return self._leaving.get(recipe, frozenset())

    def forget(self, recipes: Iterable[str]) -> None:
        """These are stopped, whoever wanted them."""
        for recipe in recipes:
            self._kept.pop(recipe, None)
            self._clients.pop(recipe, None)
            self._fleeting.pop(recipe, None)


def stays_for(end: Json | None) -> bool:
    """Whether a client in the foreground stays when it was told this end: for services that its run started."""
    return end is not None and end["exit_code"] == 0 and bool(end["started"])
