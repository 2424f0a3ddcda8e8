"""New people in bulk, made ready before any lock is held: every row that follows from their facts alone.

The rules decide here as they do behind the one door (`rules.join`), rows have the form that `records` gives them, and
events the one of `events`; what is left for the door is to compare with what is, to write and to entitle. Needs no
database: it works in a process of its own (`hr_ahead`).
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from audit.trail import Sealer
from idhub.changes import Actor, Event, event_rows
from idhub.db import from_micros, json_text, new_ids, to_micros
from idhub.directory.kinds import EmploymentState, EmploymentType, Standing
from idhub.directory.search_terms import Searchable, terms_of
from idhub.lifecycle import intake, periods, records, rules
from idhub.lifecycle.events import joined, post_details
from idhub.lifecycle.periods import Period
from idhub.lifecycle.records import PERSON_FIELDS
from idhub.lifecycle.rules import Places, Post, State

_NO_MANAGER = '"manager_id":null'
_POST_OWNER = records.POST_COLUMNS.index("principal_id")
_POST_PLACE = records.POST_COLUMNS.index("organization_id")
_POST_NUMBER = records.POST_COLUMNS.index("employee_number")
_POST_MANAGER = records.POST_COLUMNS.index("manager_id")
_POST_SETTLED = records.POST_COLUMNS.index("state")
_PRINCIPAL_SETTLED = records.PRINCIPAL_COLUMNS.index("standing")
_PERIOD_SETTLED = records.PERIOD_COLUMNS.index("valid_from")
_PERIOD_FACTS = records.PERIOD_COLUMNS.index("facts")
_SOURCE_HASH = records.SOURCE_COLUMNS.index("content_hash")


class Newcomer(NamedTuple):
    """Somebody nobody knows, in one piece: a million of them are made. The manager is left open (`settle`)."""

    principal_id: str
    person: Mapping[str, Any]
    """`PERSON_FIELDS`."""
    organization_id: str
    department_id: str | None
    employee_number: str
    type: EmploymentType
    title: str | None
    starts_on: date
    ends_on: date | None
    state: EmploymentState
    source: intake.SourceMark


def stamp_of(*, now: datetime, actor: Actor, door: str, request_id: str | None) -> tuple[int, str, str, str | None]:
    """What rows made ahead are bound to (`Joiners.stamp`)."""
    return to_micros(now), actor.id, door, request_id


class _Course(NamedTuple):
    """What the rules make of a post's dates at one place: the same for all who share them."""

    standing: str
    starts_at: str
    type: str
    principal: tuple[Any, ...]
    """A principal's row from its standing on."""
    post: tuple[Any, ...]
    """A post's row from its state on."""
    period: tuple[Any, ...]
    """A period's row from its beginning up to its facts."""
    facts: dict[str, Any]
    """What a period says, of whom left open."""
    details: dict[str, Any]
    """What an event says of the post, of whom left open."""


@lru_cache(maxsize=64)
def _places(zone: str) -> Places:
    return Places({"": zone})


# Few dates, kinds of post and places make up a company.
@lru_cache(maxsize=16_384)
def _course(
    zone: str, kind: EmploymentType, starts_on: date, ends_on: date | None, state: EmploymentState, now: datetime
) -> _Course:
    facts = intake.EmploymentFacts(
        organization_id="", employee_number="", type=kind, starts_on=starts_on, ends_on=ends_on, state=state
    )
    after = rules.join("", {}, rules.make_post("", facts, _places(zone), now=now), now=now)
    post, at = after.posts[0], to_micros(now)
    # Somebody new has one period: it is open, or they had left before.
    (period,) = periods.after_change((), post, now=now)
    return _Course(
        after.standing._value_,
        after.starts_at.isoformat(),
        kind._value_,
        records.principal_row(after, at)[_PRINCIPAL_SETTLED:],
        records.post_row("", post, at)[_POST_SETTLED:],
        records.period_row("", "", Period(period.valid_from, period.valid_to, {}), at)[_PERIOD_SETTLED:_PERIOD_FACTS],
        dict(period.facts),
        post_details(post),
    )


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
    at = to_micros(now)
    common: dict[str, Any] = {"at": now, "actor": actor, "door": door, "request_id": request_id}
    made = records.Joiners(
        stamp=stamp_of(now=now, actor=actor, door=door, request_id=request_id),
        zones=dict(zones),
        principals=[], people=[], posts=[], periods=[], login_names=[], sources=[],
        events=event_rows((), sealer=sealer),
    )  # fmt: skip
    events: list[Event] = []
    keys = zip(new_ids("emp", len(newcomers)), new_ids("prd", len(newcomers)), strict=True)
    for newcomer, (employment_id, period_id) in zip(newcomers, keys, strict=True):
        (
            principal_id, person, place, department_id, number, kind, title, starts_on, ends_on, post_state, source,
        ) = newcomer  # fmt: skip
        course = _course(zones[place], kind, starts_on, ends_on, post_state, now)
        email, mobile = person["email"], person["mobile"]
        searchable = Searchable(
            place, person["display_name"], person["given_name"], person["family_name"], (number,), email, mobile
        )
        made.principals.append((principal_id, "person", place, *course.principal))
        made.people.append(records.person_row(principal_id, person, employment_id, terms_of(searchable)))
        made.posts.append(
            (employment_id, principal_id, place, department_id, number, course.type, title, None, *course.post)
        )
        of_post = {"organization_id": place, "department_id": department_id, "employee_number": number, "title": title}
        made.periods.append((period_id, employment_id, *course.period, json_text({**course.facts, **of_post})))
        made.login_names.extend(records.login_name_rows(principal_id, (number,), email, mobile))
        made.sources.append(records.source_row(principal_id, employment_id, source, at))
        shown = {"employment": employment_id, "organization": place, "department": department_id, "number": number}
        of_event = [{**course.details, **shown}]
        events.append(joined(principal_id, place, number, course.standing, course.starts_at, of_event, person, common))
    return made._replace(events=event_rows(events, sealer=sealer))


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
