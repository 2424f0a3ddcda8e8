"""New people in bulk, made ready before any lock is held: every row that follows from their facts alone.

The rules decide here as they do behind the one door (`rules.join`), rows have the form that `records` gives them, and
events the one of `events`; what is left for the door is to compare with what is, to write and to entitle. Needs no
database: it works in a process of its own (`hr_ahead`).
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

from audit.trail import Sealer
from idhub.changes import Actor, event_rows
from idhub.db import from_micros, new_ids, to_micros
from idhub.directory.kinds import EmploymentState, EmploymentType, Standing
from idhub.directory.search_terms import terms_of
from idhub.lifecycle import intake, periods, records, rules
from idhub.lifecycle.events import onboarded
from idhub.lifecycle.records import PERSON_FIELDS
from idhub.lifecycle.rules import Places, Post, State

_NO_MANAGER = '"manager_id":null'
_POST_OWNER = records.POST_COLUMNS.index("principal_id")
_POST_PLACE = records.POST_COLUMNS.index("organization_id")
_POST_NUMBER = records.POST_COLUMNS.index("employee_number")
_POST_MANAGER = records.POST_COLUMNS.index("manager_id")
_PERIOD_FACTS = records.PERIOD_COLUMNS.index("facts")
_SOURCE_HASH = records.SOURCE_COLUMNS.index("content_hash")


class Newcomer(NamedTuple):
    """Somebody nobody knows. The manager is left open (`settle`)."""

    principal_id: str
    person: intake.PersonFacts
    employment: intake.EmploymentFacts
    source: intake.SourceMark


def stamp_of(*, now: datetime, actor: Actor, door: str, request_id: str | None) -> tuple[int, str, str, str | None]:
    """What rows made ahead are bound to (`Joiners.stamp`)."""
    return to_micros(now), actor.id, door, request_id


def make(
    newcomers: Sequence[Newcomer],
    zones: Mapping[str, str],
    *,
    sealer: Sealer,
    now: datetime,
    actor: Actor,
    door: str,
    request_id: str | None,
) -> records.Joiners:
    """Everything that the one door will write of these people.

    Args:
        zones: time zones of their organizations, by id.
    """
    at, places = to_micros(now), Places(zones)
    common: dict[str, Any] = {"at": now, "actor": actor, "door": door, "request_id": request_id}
    keys = zip(new_ids("emp", len(newcomers)), new_ids("prd", len(newcomers)), strict=True)
    states: list[State] = []
    period_rows: list[tuple[Any, ...]] = []
    source_rows: list[tuple[Any, ...]] = []
    for (principal_id, person, employment, source), (employment_id, period_id) in zip(newcomers, keys, strict=True):
        post = rules.make_post(employment_id, employment, places, now=now)
        state = rules.join(principal_id, records.person_values(person), post, now=now)
        states.append(state)
        # Somebody new has one period: it is open, or they had left before.
        (period,) = periods.after_change((), state.posts[0], now=now)
        period_rows.append(records.period_row(period_id, employment_id, period, at))
        source_rows.append(records.source_row(principal_id, employment_id, source, at))
    return records.Joiners(
        stamp=stamp_of(now=now, actor=actor, door=door, request_id=request_id),
        zones=dict(zones),
        principals=[records.principal_row(state, at) for state in states],
        people=[records.person_row(state, terms_of(records.searchable(state))) for state in states],
        posts=[records.post_row(state.id, state.posts[0], at) for state in states],
        periods=period_rows,
        login_names=[row for state in states for row in records.login_name_rows(state)],
        sources=source_rows,
        events=event_rows([onboarded(state, common) for state in states], sealer=sealer),
    )


def settle(group: records.Joiners, managers: Mapping[int, str], hashes: Mapping[int, str]) -> records.Joiners:
    """The group with managers filled in, and other content hashes of what their source said, by number in the group."""
    posts, facts, sources = list(group.posts), list(group.periods), list(group.sources)
    for number, manager_id in managers.items():
        posts[number] = _replaced(posts[number], _POST_MANAGER, manager_id)
        said = facts[number][_PERIOD_FACTS].replace(_NO_MANAGER, f'"manager_id":"{manager_id}"', 1)
        facts[number] = _replaced(facts[number], _PERIOD_FACTS, said)
    for number, content_hash in hashes.items():
        sources[number] = _replaced(sources[number], _SOURCE_HASH, content_hash)
    return group._replace(posts=posts, periods=facts, sources=sources)


def _replaced(row: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*row[:place], value, *row[place + 1 :])


def numbers_of(group: records.Joiners) -> dict[tuple[str, str], str]:
    """Principals by (organization id, employee number)."""
    return {(row[_POST_PLACE], row[_POST_NUMBER]): row[_POST_OWNER] for row in group.posts}


def content_hash_of(group: records.Joiners, number: int) -> str:
    """The content hash of what the source said of one of the group."""
    found: str = group.sources[number][_SOURCE_HASH]
    return found


def states_of(group: records.Joiners) -> list[State]:
    """The people as rules see them, read back from their rows."""
    return [_state(*rows) for rows in zip(group.principals, group.people, group.posts, strict=True)]


def _state(principal: tuple[Any, ...], person: tuple[Any, ...], post: tuple[Any, ...]) -> State:
    of_principal = dict(zip(records.PRINCIPAL_COLUMNS, principal, strict=True))
    of_post = dict(zip(records.POST_COLUMNS, post, strict=True))
    return State(
        id=of_principal["id"],
        standing=Standing(of_principal["standing"]),
        access_epoch=of_principal["access_epoch"],
        enrolment_epoch=of_principal["enrolment_epoch"],
        starts_at=from_micros(of_principal["access_starts_at"]),
        ends_at=_instant(of_principal["access_ends_at"]),
        person=dict(zip(PERSON_FIELDS, person[1:], strict=False)),
        posts=(
            Post(
                id=of_post["id"],
                organization_id=of_post["organization_id"],
                employee_number=of_post["employee_number"],
                type=EmploymentType(of_post["type"]),
                starts_on=date.fromisoformat(of_post["starts_on"]),
                starts_at=from_micros(of_post["starts_at"]),
                department_id=of_post["department_id"],
                title=of_post["title"],
                manager_id=of_post["manager_id"],
                ends_on=None if of_post["ends_on"] is None else date.fromisoformat(of_post["ends_on"]),
                ends_at=_instant(of_post["ends_at"]),
                state=EmploymentState(of_post["state"]),
            ),
        ),
    )


def _instant(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)
