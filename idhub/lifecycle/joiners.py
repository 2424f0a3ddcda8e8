"""New people in a group, as rows: read, changed and written by the place of each value. Made in `ready`."""

import marshal
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.orm import Session

from audit.trail import rows_of
from idhub.changes import Packed
from idhub.db import from_micros, insert_rows, insert_values
from idhub.directory.kinds import EmploymentState, EmploymentType, Standing
from idhub.directory.search_index import Prepared, index_prepared, prepare_terms
from idhub.directory.tables import Employment, EmploymentPeriod, LoginName, Person, Principal, SourceRecord
from idhub.lifecycle.records import (
    LOGIN_NAME_COLUMNS,
    PERIOD_COLUMNS,
    PERSON_COLUMNS,
    PERSON_FIELDS,
    POST_COLUMNS,
    PRINCIPAL_COLUMNS,
    SOURCE_COLUMNS,
)
from idhub.lifecycle.rules import Post, State

T = TypeVar("T")
_ORGANIZATION, _STANDING = PRINCIPAL_COLUMNS.index("organization_id"), PRINCIPAL_COLUMNS.index("standing")
_TERMS, _PLACE = PERSON_COLUMNS.index("search_terms"), PERSON_COLUMNS.index("search_place")
_POST_OWNER = POST_COLUMNS.index("principal_id")
_POST_PLACE = POST_COLUMNS.index("organization_id")
_POST_NUMBER = POST_COLUMNS.index("employee_number")
_POST_MANAGER = POST_COLUMNS.index("manager_id")
_PERIOD_FACTS = PERIOD_COLUMNS.index("facts")
_SOURCE_HASH = SOURCE_COLUMNS.index("content_hash")
_NO_MANAGER = '"manager_id":null'


class Joiners(NamedTuple):
    """New people of one stretch of a source, with every row that follows from their facts (`ready.make`).

    Rows are as the database stores them, in the order of `records`' columns, one a person and in one order throughout;
    their values stand one behind the other, since rows as objects of their own cost the writer a twentieth of its time.
    Only of login names there are several a person, and those are rows. All hold for one moment, actor and door.
    """

    stamp: tuple[int, str, str, str | None]
    """The instant (microseconds), actor's id, door and request that the rows name."""
    zones: dict[str, str]
    """Time zones of the organizations, with which their dates were turned into instants."""
    principals: list[Any]
    people: list[Any]
    posts: list[Any]
    periods: list[Any]
    login_names: list[tuple[Any, ...]]
    sources: list[Any]
    events: Packed
    search: Prepared | None = None
    """What the index takes in; worked out while it is written unless it was before (`indexed`)."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes as plain values: twice as fast as pickle. Lines of the index are one text."""
        search = self.search and ("\n".join(self.search.lines), self.search.owners, self.search.tags)
        plain: Any = (*self[:-2], tuple(self.events), search)
        return _joiners_of, (marshal.dumps(plain),)


def _joiners_of(packed: bytes) -> Joiners:
    *parts, events, search = marshal.loads(packed)  # noqa: S302 - from a process of our own (`hr_apart`)
    group = Joiners._make((*parts, Packed(*events), None))
    if search is None:
        return group
    lines, owners, tags = search
    return group._replace(search=Prepared(_terms_of(group), lines.split("\n") if lines else [], owners, tags))


def left_of(group: Joiners) -> list[str]:
    """Those of the group who had left before they were heard of."""
    standings = group.principals[_STANDING :: len(PRINCIPAL_COLUMNS)]
    return [one for one, standing in zip(ids_of(group), standings, strict=True) if standing == Standing.LEFT]


def ids_of(group: Joiners) -> list[str]:
    """The principals of the group."""
    return group.principals[:: len(PRINCIPAL_COLUMNS)]


def indexed(group: Joiners) -> Joiners:
    """The group with what the index takes in, worked out before any lock is held."""
    return group._replace(search=_index_entries(group))


def _index_entries(group: Joiners) -> Prepared:
    organizations = group.principals[_ORGANIZATION :: len(PRINCIPAL_COLUMNS)]
    return prepare_terms(list(zip(_terms_of(group), organizations, strict=True)))


def _terms_of(group: Joiners) -> list[str]:
    return group.people[_TERMS :: len(PERSON_COLUMNS)]


def settle(group: Joiners, managers: Mapping[int, str], hashes: Mapping[int, str]) -> Joiners:
    """The group with managers filled in, and other content hashes of what their source said, by number in the group."""
    posts, periods, sources = list(group.posts), list(group.periods), list(group.sources)
    for number, manager_id in managers.items():
        posts[number * len(POST_COLUMNS) + _POST_MANAGER] = manager_id
        place = number * len(PERIOD_COLUMNS) + _PERIOD_FACTS
        periods[place] = periods[place].replace(_NO_MANAGER, f'"manager_id":"{manager_id}"', 1)
    for number, content_hash in hashes.items():
        sources[number * len(SOURCE_COLUMNS) + _SOURCE_HASH] = content_hash
    return group._replace(posts=posts, periods=periods, sources=sources)


def numbers_of(group: Joiners) -> dict[tuple[str, str], str]:
    """Principals by (organization id, employee number)."""
    places, numbers, owners = (
        group.posts[column :: len(POST_COLUMNS)] for column in (_POST_PLACE, _POST_NUMBER, _POST_OWNER)
    )
    return dict(zip(zip(places, numbers, strict=True), owners, strict=True))


def content_hash_of(group: Joiners, number: int) -> str:
    """The content hash of what the source said of one of the group."""
    found: str = group.sources[number * len(SOURCE_COLUMNS) + _SOURCE_HASH]
    return found


def states_of(group: Joiners) -> list[State]:
    """The people as rules see them, read back from their rows."""
    principals = rows_of(group.principals, len(PRINCIPAL_COLUMNS))
    people = rows_of(group.people, len(PERSON_COLUMNS))
    posts = rows_of(group.posts, len(POST_COLUMNS))
    return [_state(*rows) for rows in zip(principals, people, posts, strict=True)]


def _state(principal: tuple[Any, ...], person: tuple[Any, ...], post: tuple[Any, ...]) -> State:
    of_principal = dict(zip(PRINCIPAL_COLUMNS, principal, strict=True))
    of_post = dict(zip(POST_COLUMNS, post, strict=True))
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


def write_joiners(session: Session, groups: Sequence[Joiners]) -> None:
    """Store new people whose rows were made ahead, all groups together.

    Raises:
        IntegrityError: one of them is known after all.
    """
    places = index_prepared(session, [group.search or _index_entries(group) for group in groups])
    insert_values(session, Principal, PRINCIPAL_COLUMNS, _joined(group.principals for group in groups))
    people = _joined(group.people for group in groups)
    people[_PLACE :: len(PERSON_COLUMNS)] = _joined(places)
    insert_values(session, Person, PERSON_COLUMNS, people)
    insert_values(session, Employment, POST_COLUMNS, _joined(group.posts for group in groups))
    insert_values(session, EmploymentPeriod, PERIOD_COLUMNS, _joined(group.periods for group in groups))
    names = [row for group in groups for row in group.login_names]
    # In the order of their tree: neighbours meet on one page.
    names.sort()
    insert_rows(session, LoginName, LOGIN_NAME_COLUMNS, names)
    insert_values(session, SourceRecord, SOURCE_COLUMNS, _joined(group.sources for group in groups))


def _joined(lists: Iterable[list[T]]) -> list[T]:
    together: list[T] = []
    for each in lists:
        together += each
    return together
