"""What a check asks, what came of it, and the grade that follows from all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["must", "should", "optional"]
Verdict = Literal["pass", "fail", "absent", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """One question: its name, the sentence of the standard that it asks about, and how much hangs on it.

    `needs`: checks without which it cannot be asked. `optional`: the standard lets a service leave it out.
    """

    name: str
    section: str
    title: str
    level: Level
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check. `detail` is ours, with the other side's words cleaned and bounded."""

    check: Check
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """All results, and what follows for a connection."""

    results: Sequence[Result]
    dialect: str | None
    deviations: Sequence[str]
    """Where even the best dialect does not fit."""

    @property
    def broken(self) -> list[Result]:
        """Checks that failed."""
        return [result for result in self.results if result.verdict == "fail"]

    @property
    def grade(self) -> str:
        """A: as written; B: usable, with deviations; C: something that a leave rests on does not work."""
        levels = {result.check.level for result in self.broken}
        return "C" if "must" in levels else "B" if levels else "A"
