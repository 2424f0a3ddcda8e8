"""New people in bulk, made ready before any lock is held: every row that follows from their facts alone.

The rules decide here as they do behind the one door (`courses`), rows have the form that `records` gives them, and
events the one of `events`; what is left for the door is to compare with what is, to write and to entitle. Needs no
database: it works in a process of its own (`hr_apart`).
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from audit.moulds import Cast, Mould, cast_packed, stand_in
from audit.trail import Sealer, rows_of
from idhub.changes import Actor
from idhub.db import from_micros, json_text, new_ids, to_micros
from idhub.directory.kinds import EmploymentState, EmploymentType, Standing
from idhub.directory.search_terms import terms_from
from idhub.lifecycle import intake, records
from idhub.lifecycle.courses import course_of
from idhub.lifecycle.events import PERSONAL, joined
from idhub.lifecycle.records import PERSON_FIELDS
from idhub.lifecycle.rules import Post, State

_NO_MANAGER = '"manager_id":null'
_POST_OWNER = records.POST_COLUMNS.index("principal_id")
_POST_PLACE = records.POST_COLUMNS.index("organization_id")
_POST_NUMBER = records.POST_COLUMNS.index("employee_number")
_POST_MANAGER = records.POST_COLUMNS.index("manager_id")
_PERIOD_FACTS = records.PERIOD_COLUMNS.index("facts")
_SOURCE_HASH = records.SOURCE_COLUMNS.index("content_hash")
_personal = itemgetter(*PERSONAL)


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


# Few values are missing of few: a person's own, the department, the end.
@lru_cache(maxsize=256)
def _mould(
    fields: tuple[str, ...],
    has_department: bool,
    is_open: bool,
    now: datetime,
    actor: Actor,
    door: str,
    request_id: str | None,
) -> Mould:
    """The event of somebody who joins, but for ids, number, department (where there is one) and the course's `told`."""
    texts = iter(map(stand_in, range(11)))
    principal_id, place, number, employment_id = (next(texts) for _ in range(4))
    department = next(texts) if has_department else None
    standing, starts_at, kind, state, starts_on = (next(texts) for _ in range(5))
    post: dict[str, Any] = {
        "employment": employment_id,
        "organization": place,
        "department": department,
        "number": number,
        "type": kind,
        "state": state,
        "starts_on": starts_on,
        "ends_on": None if is_open else next(texts),
    }
    common: dict[str, Any] = {"at": now, "actor": actor, "door": door, "request_id": request_id}
    event = joined(principal_id, place, number, standing, starts_at, [post], dict.fromkeys(fields, "-"), common)
    return Mould(event, 9 + has_department + (not is_open))


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
    principals: list[Any] = []
    people: list[Any] = []
    posts: list[Any] = []
    spans: list[Any] = []
    names: list[tuple[Any, ...]] = []
    sources: list[Any] = []
    moulds: dict[tuple[tuple[str, ...], bool, bool], Mould] = {}
    casts: list[Cast] = []
    keys = zip(new_ids("emp", len(newcomers)), new_ids("prd", len(newcomers)), strict=True)
    for newcomer, (employment_id, period_id) in zip(newcomers, keys, strict=True):
        (
            principal_id, person, place, department_id, number, kind, title, starts_on, ends_on, post_state, source,
        ) = newcomer  # fmt: skip
        course = course_of(zones[place], kind._value_, starts_on, ends_on, post_state._value_, now)
        type_, of_principal, of_post, span, facts, told, is_open = course
        display_name, given_name, family_name, email, mobile = values = _personal(person)
        terms = terms_from(display_name, given_name, family_name, (number,), email, mobile)
        principals += (principal_id, "person", place, *of_principal)
        people += records.person_row(principal_id, person, employment_id, terms, None)
        posts += (employment_id, principal_id, place, department_id, number, type_, title, None, *of_post)
        known = {"organization_id": place, "department_id": department_id, "employee_number": number, "title": title}
        spans += (period_id, employment_id, *span, json_text({**facts, **known}))
        names += records.login_name_rows(principal_id, (number,), email, mobile)
        sources += records.source_row(principal_id, employment_id, source, at)
        personal = {name: value for name, value in zip(PERSONAL, values, strict=True) if value}
        shape = tuple(personal), department_id is not None, is_open
        mould = moulds.get(shape)
        if mould is None:
            mould = moulds[shape] = _mould(*shape, now, actor, door, request_id)
        department = () if department_id is None else (department_id,)
        casts.append((mould, (principal_id, place, number, employment_id, *department, *told), personal))
    return records.Joiners(
        stamp=stamp_of(now=now, actor=actor, door=door, request_id=request_id),
        zones=dict(zones),
        principals=principals,
        people=people,
        posts=posts,
        periods=spans,
        login_names=names,
        sources=sources,
        events=cast_packed(casts, sealer=sealer),
    )


def settle(group: records.Joiners, managers: Mapping[int, str], hashes: Mapping[int, str]) -> records.Joiners:
    """The group with managers filled in, and other content hashes of what their source said, by number in the group."""
    posts, periods, sources = list(group.posts), list(group.periods), list(group.sources)
    for number, manager_id in managers.items():
        posts[number * len(records.POST_COLUMNS) + _POST_MANAGER] = manager_id
        place = number * len(records.PERIOD_COLUMNS) + _PERIOD_FACTS
        periods[place] = periods[place].replace(_NO_MANAGER, f'"manager_id":"{manager_id}"', 1)
    for number, content_hash in hashes.items():
        sources[number * len(records.SOURCE_COLUMNS) + _SOURCE_HASH] = content_hash
    return group._replace(posts=posts, periods=periods, sources=sources)


def numbers_of(group: records.Joiners) -> dict[tuple[str, str], str]:
    """Principals by (organization id, employee number)."""
    places, numbers, owners = (
        group.posts[column :: len(records.POST_COLUMNS)] for column in (_POST_PLACE, _POST_NUMBER, _POST_OWNER)
    )
    return dict(zip(zip(places, numbers, strict=True), owners, strict=True))


def content_hash_of(group: records.Joiners, number: int) -> str:
    """The content hash of what the source said of one of the group."""
    found: str = group.sources[number * len(records.SOURCE_COLUMNS) + _SOURCE_HASH]
    return found


def states_of(group: records.Joiners) -> list[State]:
    """The people as rules see them, read back from their rows."""
    principals = rows_of(group.principals, len(records.PRINCIPAL_COLUMNS))
    people = rows_of(group.people, len(records.PERSON_COLUMNS))
    posts = rows_of(group.posts, len(records.POST_COLUMNS))
    return [_state(*rows) for rows in zip(principals, people, posts, strict=True)]


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
