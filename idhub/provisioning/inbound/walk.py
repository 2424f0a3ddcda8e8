"""Lists of people page by page, whatever their number: where a walk begins, what it passes, and where it goes on.

A cursor names a place, not a number: a deep page costs what the first one does. People are met in the order of
whatever index finds them: their ids, the index of people's search where a filter says how a name begins, or `userName`
as a sender said it. What the database cannot decide is decided by the filter itself; a page that has looked at many
people in vain ends early, with a cursor to go on.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias

import orjson
from sqlalchemy import ColumnElement, Integer, Select, String, and_, bindparam, func, not_, or_, select, tuple_
from sqlalchemy.orm import Session, aliased

from idhub.directory.search import find_people
from idhub.directory.search_terms import LONGEST_TERM, folded, words_of
from idhub.directory.tables import DISPLAY_NAME_KEY, LoginName, Organization, Person, Principal
from idhub.errors import Unavailable
from idhub.kept import Planned
from idhub.keys import Keyring
from idhub.provisioning.inbound.page import Met, People, Unless, met_id, read_met, staying
from idhub.provisioning.inbound.person_resource import Row
from idhub.provisioning.inbound.query import Lookup
from idhub.provisioning.inbound.tables import ScimDocument, ScimUser
from scim.errors import InvalidCursor
from scim.server import Page, Stored

LOOKED_AT_A_PAGE: Final = 1_000
"""People whom a page looks at before it ends early."""
MOST_LOOKED_UP: Final = 100
"""People whom one value finds; more are a list like any other."""
_BATCH: Final = 1_001
_STRIDE: Final = 30_000
"""People whom the database looks at, one by one, for a page."""
_SHORT_STRIDE: Final = 500
_STEP: Final = 3_000
"""The same, of people whom an index proposes: they stand at random places of the database."""
_LOOKS: Final = 600
"""Lines of the search's index that are looked at for a page."""
_FOREIGN: Final = "This cursor is not of this list."
_LAST: Final = "\U0010ffff"
_YES: Final = (b"1", b"true")
_MOST_WALKS: Final = 8
"""The number of a walk is one digit of a cursor."""
Place: TypeAlias = tuple[int, str | None]
"""The number of a walk, and where in it; None: at its beginning."""
_START: Final[Place] = (0, None)


@dataclass(frozen=True, slots=True)
class Found:
    """People in the order of a walk, each with where to go on behind them."""

    rows: Sequence[Met | bytes]
    place: Callable[[int], str]
    """Where to go on behind one of them, by its number."""
    is_over: bool
    rest: str | None = None
    """Where to go on when so many were passed to find these that the page ends here; None: it does not."""
    sure: Sequence[bool] = ()
    """Of each, whether the filter needs no look; empty: of nobody."""

    def selected(self, shown: Sequence[Stored | bytes], matches: Callable[[Stored], bool] | None) -> Sequence[int]:
        """The numbers of those whom a filter selects, of whom this is shown."""
        if matches is None:
            return range(len(shown))
        sure = self.sure or [False] * len(shown)
        # What is shown as it is kept needs no look.
        return [n for n, each in enumerate(shown) if sure[n] or isinstance(each, bytes) or matches(each)]

    @classmethod
    def by_id(cls, rows: Sequence[Met | bytes], *, is_over: bool, rest: str | None = None) -> "Found":
        """In the order of ids, which are their places."""
        return cls(rows, lambda number: met_id(rows[number]), is_over, rest)


class Walk(Protocol):
    """One way to meet people."""

    def after(self, session: Session, people: People, place: str | None, *, limit: int) -> Found:
        """Those of `people` behind a place; None: from the start."""


@dataclass(frozen=True, slots=True)
class ById:
    """Everybody, in the order of ids; where the database must look at each one, so many at a time."""

    looks_at_each: bool = False

    def after(self, session: Session, people: People, place: str | None, *, limit: int) -> Found:
        """See `Walk.after`."""
        values: dict[str, Any] = {"place": place or "", "most": limit}
        if self.looks_at_each:
            # A short stride first: where many are meant, counting a long one costs more than the page.
            short = _made(people, people.bare, "id near", lambda rows: _behind_id(rows).where(Principal.id <= _NEAR))
            rows = people.read(session, short, stride=max(_SHORT_STRIDE, 2 * limit), **values)
            if len(rows) == limit:
                return Found.by_id(rows, is_over=False)
            asked = {"place": place or "", "stride": _STRIDE}
            for (reach,) in _ON_STRIDE.all(session, asked):
                within = _made(
                    people,
                    people.bare,
                    "id within",
                    lambda rows: _behind_id(rows).where(Principal.id <= _text("reach")),
                )
                rows = people.read(session, within, reach=reach, **values)
                return Found.by_id(rows, is_over=False, rest=None if len(rows) == limit else reach)
        rows = people.read(session, _made(people, people.bare, "id", _behind_id), **values)
        return Found.by_id(rows, is_over=len(rows) < limit)


def _text(name: str) -> ColumnElement[str]:
    return bindparam(name, type_=String)


def _behind_id(people: Select[Any]) -> Select[Any]:
    return people.where(Principal.id > _text("place")).order_by(Principal.id).limit(_MOST)


@dataclass(frozen=True, slots=True)
class ByCompany:
    """Everybody of a few companies, in the order of ids, company by company out of the index and put together.

    Args:
        looks_at_each: as of `ById`.
    """

    organizations: Sequence[str]
    looks_at_each: bool = False

    def after(self, session: Session, people: People, place: str | None, *, limit: int) -> Found:
        """See `Walk.after`. That `people` are of these companies is for this walk to say."""
        if self.looks_at_each:
            for stride in (max(_SHORT_STRIDE, 2 * limit), _STRIDE):
                reach = self._reach(session, place or "", stride)
                if reach is None:
                    break
                rows = self._rows(session, people, place or "", reach, limit=limit)
                if len(rows) == limit or stride == _STRIDE:
                    return Found.by_id(rows, is_over=False, rest=None if len(rows) == limit else reach)
        rows = self._rows(session, people, place or "", None, limit=limit)
        return Found.by_id(rows, is_over=len(rows) < limit)

    def _reach(self, session: Session, place: str, stride: int) -> str | None:
        """The id up to which as many are looked at as a stride allows; None: all who are left are fewer."""
        asked = {"place": place, "stride": stride // len(self.organizations)} if self.organizations else {}
        found = [
            reach
            for each in self.organizations
            for (reach,) in _STRIDE_IN_COMPANY.all(session, {"organization": each, **asked})
        ]
        return min(found, default=None)

    def _rows(
        self, session: Session, people: People, place: str, reach: str | None, *, limit: int
    ) -> Sequence[Met | bytes]:
        name = "company" if reach is None else "company within"
        asked = {"place": place, "reach": reach, "most": limit}

        def make(selected: Select[Any]) -> Select[Any]:
            return _in_company(selected, is_within=reach is not None)

        if len(self.organizations) == 1:
            statement = _made(people, people.bare, name, make)
            return people.read(session, statement, organization=self.organizations[0], **asked)
        # Of several most are not of this page: they are found before anything of them is read.
        statement = _made(people, people.ids, name, make)
        ids = [
            each
            for organization_id in self.organizations
            for each in people.read_ids(session, statement, organization=organization_id, **asked)
        ]
        return read_met(session, sorted(ids)[:limit], people)


def _in_company(people: Select[Any], *, is_within: bool) -> Select[Any]:
    found = people.where(*_BEHIND_IN_COMPANY)
    found = found.where(Principal.id <= _text("reach")) if is_within else found
    return found.order_by(Principal.organization_id, Principal.id).limit(_MOST)


@dataclass(frozen=True, slots=True)
class BySearch:
    """Whoever has a name, number or mail that begins with a word."""

    word: str

    def after(self, session: Session, people: People, place: str | None, *, limit: int) -> Found:
        """See `Walk.after`."""
        hits = find_people(
            session, self.word, people.ids, beside=place or None, limit=limit, exactly=False, most_looks=_LOOKS
        )
        rest = hits.last if hits.has_more and len(hits.ids) < limit else None
        return Found.by_id(read_met(session, hits.ids, people), is_over=not hits.has_more, rest=rest)


class Elsewhere(Exception):
    """People are met by other walks than was taken for granted; its one argument is the word of the reason."""


@dataclass(frozen=True, slots=True)
class ByKey:
    """Those of whom a key begins with a text, in the order of the key and then of ids, which an index has so.

    Args:
        name: tells one key from another.
        key: has no tabs, and is ordered by its bytes on both databases.
        tie: the id beside the key.
        names_person: whether the key is of `Person`.
        joined: what is joined to people to find the key, and how.
        looks_at_each: those who are met are asked for more, so many at a time.
        is_met: whether a filter that asks how the key begins surely selects somebody who was met; None: unknown.
        is_empty: nobody's key begins so: not asked for, since a planner knows nothing of a table without a row, and
            would rather read everybody.
        unless: what would have people met by other walks, asked in the statement of the page.

    Raises (`after`):
        Elsewhere: one of `unless` holds.
    """

    name: str
    key: ColumnElement[str]
    tie: ColumnElement[str]
    names_person: bool = False
    beginning: str = ""
    joined: tuple[Any, ColumnElement[bool]] | None = None
    conditions: tuple[ColumnElement[bool], ...] = ()
    looks_at_each: bool = False
    is_met: ColumnElement[bool] | None = None
    is_empty: bool = False
    unless: tuple[Unless, ...] = ()

    def after(self, session: Session, people: People, place: str | None, *, limit: int) -> Found:
        """See `Walk.after`."""
        person_id, tab, reached = (place or "").partition("\t")
        if place is not None and not tab:
            raise InvalidCursor(_FOREIGN, attribute="cursor")
        values = {
            "begins": self.beginning,
            "last": self.beginning + _LAST,
            "length": len(self.beginning),
            "reached": reached,
            "person_id": person_id,
            "most": limit,
        }
        if self.is_empty:
            return Found.by_id([], is_over=True)
        is_first = place is None
        name = " ".join([self.name, str(is_first), str(self.is_met is None), *(each.word for each in self.unless)])
        rows = people.rows if self.names_person else people.bare
        statement = _made(people, rows, name, lambda rows: self._rows(rows, self._within(is_first=is_first)))
        reach = None
        if self.looks_at_each:
            within = self._within(is_first=is_first)
            step = select(self.tie, self.key).where(*within).order_by(self.key, self.tie).offset(_STEP).limit(1)
            reach = session.connection().execute(step, values).first()
            if reach is not None:
                values |= {"near": reach[0], "far": reach[1]}
                far = _text("far")
                statement = statement.where(or_(self.key < far, and_(self.key == far, self.tie <= _text("near"))))
        found = people.read_wide(session, statement, unless=self.unless, **values)
        if found and len(found[0]) == 1:
            raise Elsewhere(found[0][0].decode())
        width = len(Met._fields)
        met = [each[0] if len(each) < width else Met._make(each[:width]) for each in found]
        reached_at = -1 if self.is_met is None else -2

        def behind(number: int) -> str:
            return f"{met_id(met[number])}\t{orjson.loads(found[number][reached_at])}"

        is_tired = reach is not None and len(found) < limit
        rest = f"{reach[0]}\t{reach[1]}" if is_tired and reach is not None else None
        sure = (
            []
            if self.is_met is None
            else [
                isinstance(one, bytes) or (each[-1] in _YES and bool(one.body))
                for each, one in zip(found, met, strict=True)
            ]
        )
        return Found(met, behind, len(found) < limit and not is_tired, rest, sure)

    def _within(self, *, is_first: bool) -> list[ColumnElement[bool]]:
        key, reached = self.key, _text("reached")
        within: list[ColumnElement[bool]] = [key >= _text("begins"), key < _text("last")]
        if not is_first:
            within += [key >= reached, or_(key > reached, self.tie > _text("person_id"))]
        return within

    def _rows(self, rows: Select[Any], within: Sequence[ColumnElement[bool]]) -> Select[Any]:
        joined = rows if self.joined is None else rows.join(*self.joined)
        more = () if self.is_met is None else (self.is_met.label("is_met"),)
        found = joined.add_columns(self.key.label("reached"), *more).where(*self.conditions, *within)
        return found.order_by(self.key, self.tie).limit(_MOST)


def _made(people: People, rows: Select[Any], name: str, make: Callable[[Select[Any]], Select[Any]]) -> Select[Any]:
    """What a walk makes of a statement of `people`; kept where it will be asked for again: making it costs more than
    what it asks."""
    if not people.is_lasting:
        return make(rows)
    # The rows stay: what is kept of them is told apart by which they are.
    key = (id(rows), name)
    if key not in _KEPT:
        _KEPT[key] = staying(make(rows))
    return _KEPT[key]


_KEPT: Final[dict[tuple[int, str], Select[Any]]] = {}
# Said in the statement: PostgreSQL would plan for a tenth of everybody.
_MOST: Final = bindparam("most", type_=Integer, literal_execute=True)
_STRIDE_ON: Final = (
    select(Person.id)
    .where(Person.id > _text("place"))
    .order_by(Person.id)
    .offset(bindparam("stride", type_=Integer, literal_execute=True))
    .limit(1)
)
_ON_STRIDE: Final = Planned(_STRIDE_ON)
# Whoever is left, where they are fewer.
_NEAR: Final = func.coalesce(_STRIDE_ON.scalar_subquery(), _LAST)
# No equality: PostgreSQL would find the order of ids alone enough, and pass everybody of other companies.
_BEHIND_IN_COMPANY: Final = (
    tuple_(Principal.organization_id, Principal.id) > tuple_(_text("organization"), _text("place")),
    Principal.organization_id <= _text("organization"),
)
_STRIDE_IN_COMPANY: Final = Planned(
    select(Principal.id)
    .where(*_BEHIND_IN_COMPANY)
    .order_by(Principal.organization_id, Principal.id)
    .offset(bindparam("stride", type_=Integer, literal_execute=True))
    .limit(1)
)
# A company's code begins with a text; a sender has said a name that does.
_BY_CODE: Final = Unless(
    select(Organization.id)
    .where(func.substr(func.lower(Organization.code), 1, bindparam("length", type_=Integer)) == _text("begins"))
    .limit(1)
    .scalar_subquery()
    .is_not(None),
    "code",
)
_BY_WORD: Final = Unless(
    select(ScimUser.principal_id)
    .where(ScimUser.user_name_key >= _text("begins"), ScimUser.user_name_key < _text("last"))
    .limit(1)
    .scalar_subquery()
    .is_not(None),
    "said",
)
_ELSEWHERE: Final = (_BY_CODE, _BY_WORD)
_HOLD: Final = Planned(select(*(each.holds for each in _ELSEWHERE)))
_OWNER: Final = aliased(Person)
_MAIL: Final = select(func.lower(_OWNER.email)).where(_OWNER.id == LoginName.principal_id).scalar_subquery()
_BY_DISPLAY_NAME: Final = ByKey("display name", DISPLAY_NAME_KEY, Person.id.expression, names_person=True)
_BY_USER_NAME: Final = (
    ByKey(
        "user name",
        ScimUser.user_name_key.expression,
        ScimUser.principal_id.expression,
        is_met=func.lower(ScimUser.user_name) == ScimUser.user_name_key,
    ),
    # Whom no sender has named is called by their mail. A number that is a mail address is kept once, as the number.
    ByKey(
        "mail",
        LoginName.value.expression,
        LoginName.principal_id.expression,
        # By no index of the name's person: the range of values is walked, whatever a database makes of its size.
        joined=(LoginName, LoginName.principal_id.concat("") == Principal.id),
        conditions=(ScimUser.principal_id.is_(None), or_(LoginName.kind == "email", LoginName.value == _MAIL)),
        # What a document that holds says of the mail.
        is_met=and_(ScimDocument.mail_key == LoginName.value, not_(ScimDocument.is_mail_taken.expression)),
    ),
)


def by_display_name(beginnings: Sequence[str] | None, text: str, *, looks_at_each: bool) -> Sequence[Walk]:
    """The walks over those of whom the name that is shown begins with a text.

    Args:
        beginnings: how it may begin as the database folds it; None: in more ways than one looks for.
        looks_at_each: whether they are asked for more.
    """
    if not beginnings or len(beginnings) > _MOST_WALKS or "\t" in text:
        return by_name(text)
    return [replace(_BY_DISPLAY_NAME, beginning=each, looks_at_each=looks_at_each) for each in beginnings]


def by_name(text: str) -> Sequence[Walk]:
    """The walk over those of whom a name begins with a text."""
    word = first_word(text)
    return [ById(looks_at_each=True)] if word is None else [BySearch(word)]


def by_user_name(
    session: Session, text: str, at: Place, *, is_elsewhere: str | None, looks_at_each: bool, is_all: bool
) -> Sequence[Walk]:
    """The walks over those whose `userName` begins with a text: as a sender said it, or as it follows from the rest.

    It follows from the mail, else from company and number: where a company's code begins so, everybody is looked at.
    That none does, and that no sender said such a name, is taken for granted: the statement of the page says when it
    is not so (`Elsewhere`), which is one exchange less with PostgreSQL where it is. A walk that takes steps would take
    one before its page says so; there it is asked first.

    Args:
        at: where the page begins.
        is_elsewhere: the reason that was met for which it is not so; None: none yet.
        looks_at_each: whether they are asked for more by the database.
        is_all: whether the filter asks for nothing else.
    """
    beginning = folded(text)
    if first_word(text) is None or beginning != beginning.strip() or "/" in text or "per_".startswith(text[:4].lower()):
        return [ById()]
    number, place = at
    if looks_at_each:
        asked = {"begins": beginning, "last": beginning + _LAST, "length": len(beginning)}
        hold = _HOLD.all(session, asked)[0]
        is_elsewhere = next((each.word for each, holds in zip(_ELSEWHERE, hold, strict=True) if holds), "")
    if is_elsewhere == _BY_CODE.word or (number == 0 and place is not None and "\t" not in place):
        # Who met people by their ids goes on so.
        return [ById()]
    # What has letters beyond ASCII may be the same in a form that the filter tells from it.
    is_plain = is_all and text.isascii()
    said, mail = (
        replace(walk, beginning=beginning, looks_at_each=looks_at_each, is_met=walk.is_met if is_plain else None)
        for walk in _BY_USER_NAME
    )
    if is_elsewhere is not None:
        said = replace(said, is_empty=is_elsewhere != _BY_WORD.word)
    elif number:
        mail = replace(mail, unless=(_BY_CODE,))
    elif place is not None:
        said = replace(said, unless=(_BY_CODE,))
    else:
        said, mail = replace(said, is_empty=True), replace(mail, unless=_ELSEWHERE)
    return [said, mail]


def first_word(text: str) -> str | None:
    """The word by which the people's search finds everybody of whom a name begins with `text`; None: there is none."""
    words = words_of(text)
    if not words or not any(character.isalpha() for character in words[0]) or len(words[0]) > LONGEST_TERM:
        return None
    return words[0] if text[:1].strip() else None


@dataclass(frozen=True, slots=True)
class Cursors:
    """Cursors of one list of one sender, sealed: a place may be somebody whom the sender may not see.

    Args:
        lists: names the list and who may walk it.
    """

    keyring: Keyring
    lists: str

    def write(self, number: int, place: str) -> str:
        """The cursor that goes on behind a place of a walk."""
        sealed = self.keyring.seal(f"scim_cursor:{self.lists}", f"{number}{place}".encode())
        return base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def read(self, cursor: str) -> Place:
        """Where a cursor goes on; an empty one at the beginning.

        Raises:
            InvalidCursor: not one of this list.
        """
        if not cursor:
            return _START
        try:
            sealed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
            text = self.keyring.open(f"scim_cursor:{self.lists}", sealed).decode()
        except (binascii.Error, ValueError, Unavailable) as error:
            raise InvalidCursor(_FOREIGN, attribute="cursor") from error
        return int(text[0]), text[1:] or None


def looked_up(session: Session, people: People, lookup: Lookup) -> list[Row]:
    """Those of `people` whom an index finds by one value, in the order of ids: at most `MOST_LOOKED_UP`, whichever."""
    statement = _made(
        people,
        people.whole,
        f"eq {lookup.make.__name__}",
        # In no order: PostgreSQL, which sorts nothing here, would walk everybody in it.
        lambda whole: whole.where(Person.id.in_(lookup.ids)).limit(MOST_LOOKED_UP),
    )
    return sorted(people.read_whole(session, statement, **lookup.parameters), key=lambda row: row.id)


def walk(
    session: Session,
    walks: Sequence[Walk],
    people: People,
    at: Place,
    cursors: Cursors,
    *,
    count: int,
    show: Callable[[Sequence[Met | bytes]], Sequence[Stored | bytes]],
    matches: Callable[[Stored], bool] | None,
) -> Page:
    """One page.

    Args:
        people: the visible ones, with what the database decides of the filter.
        at: where it begins (`Cursors.read`).
        matches: what is left for the filter to decide; None: nothing.
    """
    number, place = at
    if number >= len(walks):
        # What a name begins with may be found in other ways by now.
        raise InvalidCursor(_FOREIGN, attribute="cursor")
    items: list[Stored | bytes] = []
    # Where the items of each part of a walk begin, and who of it was selected.
    parts: list[tuple[int, int, Callable[[int], str], Sequence[int]]] = []
    looked_at = 0
    while True:
        limit = min(max(count + 1 - len(items), looked_at, 1), _BATCH)
        found = walks[number].after(session, people, place, limit=limit)
        looked_at += len(found.rows)
        shown = show(found.rows)
        selected = found.selected(shown, matches)
        parts.append((len(items), number, found.place, selected))
        items += shown if len(selected) == len(shown) else [shown[each] for each in selected]
        if len(items) > count:
            first, of_walk, behind, chosen = next(part for part in reversed(parts) if part[0] < max(count, 1))
            return Page(
                items=items[:count],
                total=None,
                next_cursor=cursors.write(of_walk, behind(chosen[count - 1 - first])) if count else None,
            )
        if found.is_over:
            number, place = number + 1, None
            if number == len(walks):
                total = len(items) if at == _START else None
                return Page(items=items, total=total)
        elif found.rest is not None:
            place = found.rest
        elif found.rows:
            place = found.place(len(found.rows) - 1)
        if looked_at >= LOOKED_AT_A_PAGE or found.rest is not None:
            return Page(items=items, total=None, next_cursor=cursors.write(number, place or ""))
