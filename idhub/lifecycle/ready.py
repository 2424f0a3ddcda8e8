"""New people in bulk, made ready before any lock is held: every row that follows from their facts alone.

The rules decide here as they do behind the one door (`courses`), rows have the form that `records` gives them, and
events the one of `events`; what is left for the door is to compare with what is, to write and to entitle. Needs no
database: it works in a process of its own (`hr_apart`).
"""

from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from audit.moulds import Cast, Mould, cast_packed, stand_in
from audit.trail import Sealer
from idhub.db import json_text, new_ids, to_micros
from idhub.directory.kinds import EmploymentState, EmploymentType
from idhub.directory.search_terms import terms_from
from idhub.lifecycle import intake, records
from idhub.lifecycle.courses import course_of
from idhub.lifecycle.events import PERSONAL, Occasion, joined
from idhub.lifecycle.joiners import Joiners

_personal = itemgetter(*PERSONAL)


class Newcomer(NamedTuple):
    """Somebody nobody knows, in one piece: a million of them are made. The manager is left open (`joiners.settle`)."""

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


def stamp_of(occasion: Occasion) -> tuple[int, str, str, str | None]:
    """What rows made ahead are bound to (`Joiners.stamp`)."""
    return to_micros(occasion.at), occasion.actor.id, occasion.door, occasion.request_id


# Few values are missing of few: a person's own, the department, the end.
@lru_cache(maxsize=256)
def _mould(fields: tuple[str, ...], has_department: bool, is_open: bool, occasion: Occasion) -> Mould:
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
    person = dict.fromkeys(fields, "-")
    event = joined(principal_id, place, number, standing, starts_at, [post], person, occasion._asdict())
    return Mould(event, 9 + has_department + (not is_open))


def make(newcomers: Sequence[Newcomer], zones: Mapping[str, str], occasion: Occasion, *, sealer: Sealer) -> Joiners:
    """Everything that the one door will write of these people.

    Args:
        zones: time zones of their organizations, by id.
    """
    now = occasion.at
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
            mould = moulds[shape] = _mould(*shape, occasion)
        department = () if department_id is None else (department_id,)
        casts.append((mould, (principal_id, place, number, employment_id, *department, *told), personal))
    return Joiners(
        stamp=stamp_of(occasion),
        zones=dict(zones),
        principals=principals,
        people=people,
        posts=posts,
        periods=spans,
        login_names=names,
        sources=sources,
        events=cast_packed(casts, sealer=sealer),
    )
