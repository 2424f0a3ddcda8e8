"""The history of a soak run, and the checker that reads the whole of it.

Every use of a credential is written down with the instants at which it was sent and answered, on one monotonic clock,
and so is every ending (a leave, a withdrawal). The checker accepts a history only if it proves something: uses had
succeeded shortly before each ending, others began right after it had been answered, and none of those succeeded.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tests.benchmarks.figures import quantile

BEFORE_SECONDS = 0.1
"""Within so long before an ending was asked for, a use must have succeeded."""
AFTER_SECONDS = 0.01
"""Within so long after an ending was answered, a use must have begun."""
Verdict = Literal["ok", "refused", "unknown"]
"""unknown: no answer, or one that says nothing about the credential (429, 5xx)."""


class Use(NamedTuple):
    """One use of a credential."""

    holder: int
    kind: str
    process: int
    began: float
    ended: float
    verdict: Verdict


class Ending(NamedTuple):
    """One holder's access was ended: asked for, and answered. `kinds`: what was ended by it."""

    holder: int
    process: int
    asked: float
    answered: float
    kinds: frozenset[str]


@dataclass(slots=True)
class Finding:
    """What the checker found.

    Args:
        violations: uses that began after the ending was answered, and succeeded.
        silent: holders of whom nothing succeeded in the 100 ms before, or nothing was tried in the 10 ms after.
        untried: kinds of credential that never succeeded before an ending, or were never refused after one.
        late: seconds by which the last success began after the answer, for each ending; 0: none did.
        zero: seconds from asking until the last success began, for each ending and group of kinds.
        took: seconds that each ending took.
        attempts_after: uses that began in the 10 ms after.
    """

    endings: int = 0
    uses: int = 0
    violations: list[Use] = field(default_factory=list)
    silent: list[tuple[int, str]] = field(default_factory=list)
    untried: list[tuple[str, str]] = field(default_factory=list)
    unknown: int = 0
    attempts_after: int = 0
    took: list[float] = field(default_factory=list)
    zero: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    late_here: list[float] = field(default_factory=list)
    late_elsewhere: list[float] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the history proves that endings end. For one in a hundred, or one, the load may have been late."""
        if self.violations or self.untried or self.proving_nothing == self.endings:
            return False
        return self.proving_nothing <= max(1, self.endings // 100)

    @property
    def proving_nothing(self) -> int:
        """Endings that nothing was seen to succeed right before, or nothing to be tried right after."""
        return len({holder for holder, _ in self.silent})

    def complaint(self) -> str:
        """What is wrong, in a few lines."""
        lines = [] if self.endings else ["nothing was ended"]
        lines += [f"succeeded after the answer: {use}" for use in self.violations[:10]]
        lines += [f"holder {holder}: {what}" for holder, what in self.silent[:10]]
        lines += [f"kind {kind}: {what}" for kind, what in self.untried]
        return "\n".join(lines)


def check(uses: Iterable[Use], endings: Sequence[Ending], *, groups: dict[str, str]) -> Finding:
    """Read a whole history.

    Args:
        groups: kind -> the group under which its figures are summed up.
    """
    found = Finding(endings=len(endings))
    of_holder: dict[int, list[Use]] = defaultdict(list)
    for use in uses:
        of_holder[use.holder].append(use)
        found.uses += 1
        found.unknown += use.verdict == "unknown"
    worked: set[str] = set()
    refused: set[str] = set()
    for ending in endings:
        mine = [use for use in of_holder[ending.holder] if use.kind in ending.kinds]
        good = [use for use in mine if use.verdict == "ok"]
        after = [use for use in mine if use.began >= ending.answered]
        found.violations += [use for use in after if use.verdict == "ok"]
        worked |= {use.kind for use in good if use.ended <= ending.asked}
        refused |= {use.kind for use in after if use.verdict == "refused"}
        if not any(ending.asked - BEFORE_SECONDS <= use.ended <= ending.asked for use in good):
            found.silent.append((ending.holder, "no success in the 100 ms before"))
        soon = [use for use in after if use.began <= ending.answered + AFTER_SECONDS and use.verdict != "unknown"]
        if not soon:
            found.silent.append((ending.holder, "no attempt in the 10 ms after"))
        found.attempts_after += len(soon)
        _measure(found, ending, good, groups)
    for kind in sorted(frozenset().union(*(ending.kinds for ending in endings)) if endings else ()):
        if kind not in worked:
            found.untried.append((kind, "never succeeded before an ending"))
        if kind not in refused:
            found.untried.append((kind, "was never refused after an ending"))
    return found


def _measure(found: Finding, ending: Ending, good: Sequence[Use], groups: dict[str, str]) -> None:
    found.took.append(ending.answered - ending.asked)
    last: dict[str, float] = dict.fromkeys((groups[kind] for kind in ending.kinds), ending.asked)
    here = elsewhere = ending.answered
    for use in good:
        group = groups[use.kind]
        last[group] = max(last[group], use.began)
        if use.process == ending.process:
            here = max(here, use.began)
        else:
            elsewhere = max(elsewhere, use.began)
    for group, instant in last.items():
        found.zero[group].append(instant - ending.asked)
    found.zero["all"].append(max(last.values()) - ending.asked)
    found.late_here.append(here - ending.answered)
    found.late_elsewhere.append(elsewhere - ending.answered)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and maximum in milliseconds."""
    if not seconds:
        return {}
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(1000 * quantile(seconds, at), 2) for name, at in shares.items()} | {"n": len(seconds)}
