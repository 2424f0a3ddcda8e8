"""What is believed of an employment's past and future, after a change. Pure: no database, no clock.

The believed periods of one employment never overlap and begin no earlier than it; at most the last one is open. Periods
that are believed no longer are kept by `records` with the instant until which they were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from idhub.lifecycle.rules import Post


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch in which something held of an employment; `valid_to` None: until further notice."""

    valid_from: datetime
    valid_to: datetime | None
    facts: Mapping[str, Any]


def facts_of(post: Post) -> dict[str, Any]:
    """What a period says of the employment."""
    # Spelled out: this is done for everybody who joins.
    return {
        "organization_id": post.organization_id,
        "department_id": post.department_id,
        "employee_number": post.employee_number,
        "type": post.type,
        "title": post.title,
        "manager_id": post.manager_id,
        "state": post.state,
        "ends_at": None if post.ends_at is None else post.ends_at.isoformat(),
    }


def differs(before: Post, after: Post) -> bool:
    """Whether the change is one that history tells."""
    return before.starts_at != after.starts_at or facts_of(before) != facts_of(after)


def after_change(believed: Sequence[Period], post: Post, *, now: datetime) -> list[Period]:
    """The periods believed from `now` on, oldest first, given those believed before and the employment as it is.

    A change of facts holds from `now`; an end from its own instant, also one in the past; a start likewise. Somebody
    who is brought back goes on where the last period ended, or begins anew at a later start.
    """
    if not believed and post.is_live:
        return [Period(post.starts_at, None, facts_of(post))]
    known = sorted(believed, key=lambda period: period.valid_from)
    if not post.is_live:
        return _ended(known, post, now=now)
    was_open = bool(known) and known[-1].valid_to is None
    kept = _within(known, post.starts_at, now if was_open or not known else None)
    if kept and post.starts_at < kept[0].valid_from:
        kept[0] = replace(kept[0], valid_from=post.starts_at)
    facts = facts_of(post)
    begins = max(post.starts_at, kept[-1].valid_to or now) if kept else post.starts_at
    if kept and kept[-1].valid_to == begins and kept[-1].facts == facts:
        begins = kept.pop().valid_from
    return [*kept, Period(begins, None, facts)]


def _ended(known: Sequence[Period], post: Post, *, now: datetime) -> list[Period]:
    end = post.ends_at or now
    kept = _within(known, post.starts_at, end)
    if kept and post.starts_at < kept[0].valid_from:
        kept[0] = replace(kept[0], valid_from=post.starts_at)
    if kept:
        return [*kept[:-1], replace(kept[-1], valid_to=end)]
    return [Period(post.starts_at, end, facts_of(post))] if post.starts_at < end else []


def _within(periods: Sequence[Period], start: datetime, end: datetime | None) -> list[Period]:
    """The periods cut to [start, end); what is empty then is left out."""
    cut = []
    for period in periods:
        valid_from = max(period.valid_from, start)
        valid_to = period.valid_to
        if end is not None:
            valid_to = end if valid_to is None else min(valid_to, end)
        if valid_to is None or valid_from < valid_to:
            cut.append(Period(valid_from, valid_to, period.facts))
    return cut
