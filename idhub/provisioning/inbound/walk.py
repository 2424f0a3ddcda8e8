"""Lists of people page by page, whatever their number: where a walk begins, what it passes, and where it goes on.

A cursor names a place, not a number: a deep page costs what the first one does. People are met in the order of
whatever index finds them: their ids, the index of people's search where a filter says how a name begins, or `userName`
as a sender said it. What the database cannot decide is decided by the filter itself; a page that has looked at many
people in vain ends early, with a cursor to go on.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from idhub.directory.search import find_people
from idhub.directory.search_terms import LONGEST_TERM, folded, words_of
from idhub.directory.tables import Organization, Person
from idhub.provisioning.inbound.tables import ScimUser
from scim.errors import InvalidCursor
from scim.server import Page, Stored

LOOKED_AT_A_PAGE: Final = 1_000
"""People whom a page looks at before it ends early."""
_BATCH: Final = 1_001
_STRIDE: Final = 30_000
"""People whom the database looks at, one by one, for a page."""
_LOOKS: Final = 600
"""Lines of the search's index that are looked at for a page."""
_LAST: Final = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Found:
    """Ids in the order of a walk, each with where to go on behind it."""

    ids: Sequence[str]
    places: Sequence[str]
    is_over: bool
    is_tired: bool = False
    """So many were passed to find these that the page ends here; `places` has one more where to go on."""


class Walk(Protocol):
    """One way to meet people."""

    def after(self, session: Session, people: Select[str], place: str | None, *, limit: int) -> Found:
        """Those of `people` behind a place; None: from the start."""


@dataclass(frozen=True, slots=True)
class ById:
    """Everybody, in the order of ids; where the database must look at each one, so many at a time."""

    looks_at_each: bool = False

    def after(self, session: Session, people: Select[str], place: str | None, *, limit: int) -> Found:
        """See `Walk.after`."""
        connection = session.connection()
        behind = people.where(Person.id > (place or "")).order_by(Person.id).limit(limit)
        if self.looks_at_each:
            step = select(Person.id).where(Person.id > (place or "")).order_by(Person.id).offset(_STRIDE).limit(1)
            reach = connection.execute(step).scalar_one_or_none()
            if reach is not None:
                ids = connection.execute(behind.where(Person.id <= reach)).scalars().all()
                is_tired = len(ids) < limit
                return Found(ids, (*ids, reach) if is_tired else ids, is_over=False, is_tired=is_tired)
        ids = connection.execute(behind).scalars().all()
        return Found(ids, ids, len(ids) < limit)


@dataclass(frozen=True, slots=True)
class BySearch:
    """Whoever has a name, number or mail that begins with a word; only those whom no sender named, where asked so."""

    word: str
    is_unnamed: bool = False

    def after(self, session: Session, people: Select[str], place: str | None, *, limit: int) -> Found:
        """See `Walk.after`."""
        if self.is_unnamed:
            people = people.where(ScimUser.principal_id.is_(None))
        hits = find_people(
            session, self.word, people, beside=place or None, limit=limit, exactly=False, most_looks=_LOOKS
        )
        is_tired = hits.has_more and len(hits.ids) < limit and hits.last is not None
        places = [*hits.ids, hits.last] if is_tired and hits.last is not None else hits.ids
        return Found(hits.ids, places, not hits.has_more, is_tired)


@dataclass(frozen=True, slots=True)
class ByUserName:
    """Whoever was named by a sender, in the order of names that begin so."""

    beginning: str

    def after(self, session: Session, people: Select[str], place: str | None, *, limit: int) -> Found:
        """See `Walk.after`."""
        key = ScimUser.user_name_key
        begins: tuple[ColumnElement[bool], ...] = (key.startswith(self.beginning, autoescape=True),)
        if session.get_bind().dialect.name == "sqlite":
            # The same, as its index has it; PostgreSQL sees that for itself where its collation lets it.
            begins = (key >= self.beginning, key < self.beginning + _LAST)
        rows = session.execute(
            people.add_columns(key).where(*begins, key > (place or "")).order_by(key).limit(limit)
        ).all()
        return Found([row[0] for row in rows], [row[1] for row in rows], len(rows) < limit)


def by_name(text: str) -> Sequence[Walk]:
    """The walk over those of whom a name begins with a text."""
    word = first_word(text)
    return [ById(looks_at_each=True)] if word is None else [BySearch(word)]


def by_user_name(session: Session, text: str) -> Sequence[Walk]:
    """The walks over those whose `userName` begins with a text: as a sender said it, or as it follows from the rest.

    It follows from the mail, else from company and number: where a company's code begins so, everybody is looked at.
    """
    beginning = folded(text)
    word = first_word(text)
    if word is None or beginning != beginning.strip() or "/" in text or "per_".startswith(text[:4].lower()):
        return [ById()]
    codes = select(Organization.id).where(func.lower(Organization.code).startswith(beginning, autoescape=True))
    if session.execute(codes.limit(1)).first() is not None:
        return [ById()]
    return [ByUserName(beginning), BySearch(word, is_unnamed=True)]


def first_word(text: str) -> str | None:
    """The word by which the people's search finds everybody of whom a name begins with `text`; None: there is none."""
    words = words_of(text)
    if not words or not any(character.isalpha() for character in words[0]) or len(words[0]) > LONGEST_TERM:
        return None
    return words[0] if text[:1].strip() else None


def walk(
    session: Session,
    walks: Sequence[Walk],
    people: Select[str],
    cursor: str,
    *,
    count: int,
    show: Callable[[Sequence[str]], list[Stored]],
    matches: Callable[[Stored], bool] | None,
) -> Page:
    """One page.

    Args:
        people: a SELECT of ids from `Person`, the visible ones, with what the database decides of the filter.
        matches: what is left for the filter to decide; None: nothing.
    """
    number, place = _read(cursor, len(walks))
    items: list[Stored] = []
    places: list[tuple[int, str]] = []
    looked_at = 0
    while True:
        limit = min(max(count + 1 - len(items), looked_at, 1), _BATCH)
        found = walks[number].after(session, people, place, limit=limit)
        looked_at += len(found.ids)
        by_id = dict(zip(found.ids, found.places, strict=False))
        for stored in show(found.ids):
            if matches is None or matches(stored):
                items.append(stored)
                places.append((number, by_id[stored.id]))
        if len(items) > count:
            return Page(items=items[:count], total=None, next_cursor=cursor_of(*places[count - 1]) if count else None)
        if found.is_over:
            number, place = number + 1, None
            if number == len(walks):
                total = len(items) if not cursor else None
                return Page(items=items, total=total)
        elif found.places:
            place = found.places[-1]
        if looked_at >= LOOKED_AT_A_PAGE or found.is_tired:
            return Page(items=items, total=None, next_cursor=cursor_of(number, place or ""))


def cursor_of(number: int, place: str) -> str:
    """The cursor that goes on behind a place of a walk."""
    return base64.urlsafe_b64encode(f"{number}{place}".encode()).decode().rstrip("=")


def _read(cursor: str, walks: int) -> tuple[int, str | None]:
    """
    Raises:
        InvalidCursor: not one of this list.
    """
    if not cursor:
        return 0, None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidCursor("This cursor is not of this list.", attribute="cursor") from error
    if not text or not text[0].isdecimal() or not text[0].isascii() or int(text[0]) >= walks or "\0" in text:
        raise InvalidCursor("This cursor is not of this list.", attribute="cursor")
    return int(text[0]), text[1:] or None
