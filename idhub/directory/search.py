"""Finding people by name, pinyin, initials, number, mail or mobile, a page at a time, whatever their number.

Each word of a query matches the beginning of a term (`search_terms`). Hits come in a fixed order that the index can
deliver from any place on: first whoever the whole query names exactly (number, mail, mobile), then names and numbers
that begin with it, then inner parts of names, then ends of mobile numbers. The index only proposes: every hit is read
from its person's row, within the caller's statement, which decides what may be seen. PostgreSQL keeps the plans of both
within `Database.read(keeps_plans=True)`.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    func,
    lateral,
    or_,
    select,
    true,
)
from sqlalchemy.orm import Session, aliased

from idhub.db import among, execute_planned, in_one_piece, plan_freely, taken_apart
from idhub.directory.names import login_name_candidates, may_name
from idhub.directory.search_index import RUN, tag_of
from idhub.directory.search_terms import LONGEST_TERM, RANKS, first_match, tail_of, words_of
from idhub.directory.tables import LoginName, Person, Principal, SearchBlock, SearchRun, SearchShelf

People: TypeAlias = Select[*tuple[Any, ...]]
"""A SELECT of people, joined as it needs; what it selects does not matter."""

LONGEST_QUERY = 100
"""Characters of a query; longer ones are refused where they come in."""
_MOST_LOOKS = 2_000
_MOST_EXACT = 20
_MOST_AT_ONCE = 1_000
_FEW = 500
_FIRST_BLOCKS = 4
_FIRST_SHELVES = 4
_MOST_SHELVES = 256
_AFTER_ALL = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Hits:
    """One page of hits, in order."""

    ids: Sequence[str]
    has_more: bool
    """Whether further hits may follow in the direction of reading."""
    last: str | None = None
    """Where reading ended: the person to go on from. Set also when the page is not full: looking is bounded."""


class _Place(NamedTuple):
    """A place in the order of hits: line of a shelf."""

    shelf_id: int
    line: str


def find_people(
    session: Session,
    text: str,
    people: People,
    *,
    organizations: Collection[str] | None = None,
    beside: str | None = None,
    backwards: bool = False,
    limit: int = 50,
    exactly: bool = True,
    most_looks: int | None = None,
) -> Hits:
    """People named by `text` among `people`, in the order of hits; backwards: those before `beside`, in the same order.

    Args:
        people: who may be found: a SELECT from `Person` with every filter and the asker's scope.
        organizations: ids within which `people` are, when that is known: spares looks into the others' shelves.
        beside: id of the person after (or before) whom the page begins; one who is no hit begins anew.
        limit: of hits; those whom the query names exactly come on top of it.
        exactly: whether those come first; without, every hit stands where one may go on from it.
        most_looks: lines of the index that are looked at, about; None: as many as a page of the console may.
    """
    words = words_of(text) if len(text) <= LONGEST_QUERY and may_name(text) else []
    if not words or max(map(len, words)) > LONGEST_TERM:
        return Hits((), has_more=False)
    exact = _exactly_named(session, text, people) if exactly else []
    search = _Search(session, words, people, organizations, set(exact))
    start = search.place_of(beside) if beside is not None else None
    hits, last, is_done = search.page(
        start, backwards=backwards and start is not None, limit=limit, most_looks=most_looks
    )
    if backwards and start is not None:
        hits.reverse()
        return Hits(exact + hits if is_done else hits, has_more=not is_done, last=last)
    return Hits(hits if start is not None else exact + hits, has_more=not is_done, last=last)


def named(session: Session, text: str) -> ColumnElement[bool]:
    """A criterion on `Person`: whom `text` names. For lists of something else, which find few people by their ids."""
    hits = find_people(session, text, select(Person.id), limit=_FEW)
    if not hits.has_more:
        return Person.id.in_(hits.ids)
    # So many are named so that whoever walks through the list meets one soon.
    words = words_of(text)
    return and_(*(Person.search_terms.contains(f" {word}", autoescape=True) for word in words))


def within(organizations: Select[str]) -> ColumnElement[bool]:
    """A criterion on `Principal` for `find_people`: whoever belongs to one of these.

    Said so that no index of organizations answers it: a search looks at whom it was proposed, and would begin with
    everybody of a company.
    """
    return func.coalesce(Principal.organization_id, "").in_(organizations)


def _exactly_named(session: Session, text: str, people: People) -> list[str]:
    """Whoever has this very number, mail or mobile; a handful at most, those of several companies included."""
    candidates = login_name_candidates(text)
    names = select(LoginName.principal_id).where(LoginName.value.in_(candidates))
    found = people.with_only_columns(Person.id).where(Person.id.in_(names)).order_by(Person.id).limit(_MOST_EXACT)
    # Of several names PostgreSQL would walk everybody by id and look each up, where it may not put a handful in order.
    with plan_freely(session.connection()) if len(candidates) > 1 else nullcontext():
        return list(session.execute(found).scalars())


class _Search:
    """One query: what it looks for, and where."""

    def __init__(
        self,
        session: Session,
        words: Sequence[str],
        people: People,
        organizations: Collection[str] | None,
        exact: set[str],
    ) -> None:
        self._session = session
        self._exact = exact
        # The word that says most leads; the others are checked on whom it finds. A Chinese character says more.
        self._word = max(words, key=lambda word: (len(word.encode()), word))
        self._others = [word for word in words if word != self._word]
        self._is_sqlite = session.get_bind().dialect.name == "sqlite"
        self._asked_for = _placed(people, self._is_sqlite, self._others)
        self._organizations = None if organizations is None else frozenset(organizations)
        self._tags = None if organizations is None else {tag_of(organization) for organization in organizations}
        self._shelves = self._find_shelves()

    def _find_shelves(self) -> list[int]:
        if self._tags is None:
            return list(self._session.execute(_SHELVES).scalars())
        rows = self._session.execute(_SHELVES.add_columns(SearchShelf.tags))
        return [shelf_id for shelf_id, tags in rows if not tags or not self._tags.isdisjoint(tags.split(" "))]

    def place_of(self, person_id: str) -> _Place | None:
        """Where in the order of hits a person stands; None when they are no hit, or none of the asker's organizations:
        from where a page begins beside them, whoever knows an id would learn what its person is called.
        """
        row = self._session.execute(
            select(Person.search_terms, Person.search_place, Principal.organization_id)
            .join(Principal, Principal.id == Person.id)
            .where(Person.id == person_id, Person.search_place.is_not(None))
        ).first()
        if row is None or (self._organizations is not None and row.organization_id not in self._organizations):
            return None
        term = first_match(row.search_terms, self._word)
        if term is None:
            return None
        shelf_id = self._session.execute(
            select(SearchRun.shelf_id).where(SearchRun.id == row.search_place // RUN)
        ).scalar()
        if shelf_id is None:
            return None
        return _Place(shelf_id, f"{term}\t{tag_of(row.organization_id)}\t{row.search_place}")

    def page(
        self, start: _Place | None, *, backwards: bool, limit: int, most_looks: int | None = None
    ) -> tuple[list[str], str | None, bool]:
        """(ids, the person at whom looking ended, whether there is nothing further), in the direction of reading."""
        found: list[str] = []
        looks = 0
        for part in self._proposals(start, backwards=backwards, first=limit + 1):
            looks += len(part)
            hits = self._confirmed(part)
            for hit in hits:
                if len(found) == limit:
                    return found, found[-1], False
                found.append(hit)
            if looks >= (most_looks or _MOST_LOOKS):
                last = found[-1] if len(found) == limit else self._person_at(part)
                if last is not None:
                    return found, last, False
        return found, found[-1] if found else None, True

    def _proposals(self, start: _Place | None, *, backwards: bool, first: int) -> Iterator[list[str]]:
        """Lines in the order of hits, in parts: a page's worth, then ever more."""
        size, part = first, list[str]()
        for lines in self._lines(start, backwards=backwards):
            part += lines
            while len(part) >= size:
                yield part[:size]
                size, part = min(size * 2, _MOST_AT_ONCE), part[size:]
        if part:
            yield part

    def _confirmed(self, lines: Sequence[str]) -> list[str]:
        """Ids of the people whom these lines propose and the caller's statement has, each at their first line only."""
        places = [int(line.rsplit("\t", 1)[1]) for line in lines]
        known = self._at(places, self._asked_for)
        hits: list[str] = []
        for place, line in zip(places, lines, strict=True):
            person_id, terms = known.get(place, ("", ""))
            if not person_id or person_id in self._exact or first_match(terms, self._word) != line.split("\t", 1)[0]:
                continue
            if all(first_match(terms, word) is not None for word in self._others):
                hits.append(person_id)
        return hits

    def _person_at(self, lines: Sequence[str]) -> str | None:
        """The last of these lines that is still somebody's first match: where reading may go on."""
        places = [int(line.rsplit("\t", 1)[1]) for line in lines]
        people: People = select(Person.id)
        if self._organizations is not None:
            # Organizations share tags: of the others, nobody is a place to go on from.
            own = within(among(self._session, sorted(self._organizations)))
            people = people.join(Principal, Principal.id == Person.id).where(own)
        known = self._at(places, _placed(people, self._is_sqlite))
        for place, line in zip(reversed(places), reversed(lines), strict=True):
            person_id, terms = known.get(place, ("", ""))
            if person_id and first_match(terms, self._word) == line.split("\t", 1)[0]:
                return person_id
        return None

    def _at(self, places: Sequence[int], statement: People) -> dict[int, tuple[str, str]]:
        """Id and terms of those who have these places (`_placed`)."""
        wanted = sorted(set(places))
        value = f"[{','.join(map(str, wanted))}]" if self._is_sqlite else wanted
        piece = in_one_piece(statement, is_sqlite=self._is_sqlite)
        found = execute_planned(self._session.connection(), piece, {"places": value}).scalar()
        return {int(place): (person_id.decode(), terms.decode()) for place, person_id, terms in taken_apart(found)}

    def _lines(self, start: _Place | None, *, backwards: bool) -> Iterator[Sequence[str]]:
        ranks = RANKS[::-1] if backwards else RANKS
        for rank in ranks if start is None else ranks[ranks.index(start.line[0]) :]:
            word = tail_of(self._word) if rank == "r" else self._word
            if word:
                is_first = start is not None and start.line[0] == rank
                yield from self._of_rank(rank + word, start if is_first else None, backwards=backwards)

    def _of_rank(self, beginning: str, start: _Place | None, *, backwards: bool) -> Iterator[Sequence[str]]:
        low, high = beginning, beginning + _AFTER_ALL
        shelves = self._shelves[::-1] if backwards else self._shelves
        if start is not None:
            index = bisect_left(self._shelves, start.shelf_id)
            shelves = self._shelves[: index + 1][::-1] if backwards else self._shelves[index:]
            if shelves and shelves[0] == start.shelf_id:
                bounds = _beyond(start.line, low, high, backwards)
                yield from self._of_shelf(shelves[0], bounds, beginning, backwards=backwards)
                shelves = shelves[1:]
        width, done = _FIRST_SHELVES, 0
        while done < len(shelves):
            part = shelves[done : done + width]
            most = _FIRST_BLOCKS + 2 * len(part)
            blocks = self._blocks(part, (low, high, beginning), backwards=backwards, most=most)
            reached = part[-1]
            for number, (shelf_id, body) in enumerate(blocks):
                lines = _within(body, low, high, backwards=backwards)
                yield self._of_organizations(lines)
                if number == most - 1:
                    # There may be more in this shelf.
                    reached = shelf_id
                    if lines:
                        bounds = _beyond(lines[-1], low, high, backwards)
                        yield from self._of_shelf(shelf_id, bounds, beginning, backwards=backwards)
            done += part.index(reached) + 1
            width = min(width * 8, _MOST_SHELVES)

    def _of_shelf(
        self, shelf_id: int, bounds: tuple[str, str], beginning: str, *, backwards: bool
    ) -> Iterator[Sequence[str]]:
        (low, high), most = bounds, _FIRST_BLOCKS
        while True:
            blocks = self._blocks([shelf_id], (low, high, beginning), backwards=backwards, most=most)
            lines: list[str] = []
            for _, body in blocks:
                lines += _within(body, low, high, backwards=backwards)
            yield self._of_organizations(lines)
            if len(blocks) < most or not lines:
                return
            low, high = _beyond(lines[-1], low, high, backwards)
            most = min(most * 2, 64)

    def _of_organizations(self, lines: Sequence[str]) -> Sequence[str]:
        tags = self._tags
        return lines if tags is None else [line for line in lines if line.rsplit("\t", 2)[1] in tags]

    def _blocks(
        self, shelves: Sequence[int], bounds: tuple[str, str, str], *, backwards: bool, most: int
    ) -> Sequence[tuple[int, str]]:
        """(shelf, body) of blocks that may hold lines from one text to below another; no more than `most`.

        Args:
            bounds: both, and what all such lines begin with.
        """
        low, high, beginning = bounds
        asked = {"shelves": shelves, "low": low, "high": high, "most": most, "inside": f"\n{beginning}"}
        rows = execute_planned(self._session.connection(), _blocks_statement(self._is_sqlite, backwards), asked)
        return [(shelf_id, text) for shelf_id, text in rows]


def _placed(people: People, is_sqlite: bool, words: Sequence[str] = ()) -> People:
    """Place, id and terms of those of `people` who have one of the `places`, one bound value whatever their number.

    Whoever has not all of the `words` too is left out as far as the database can tell, and need not be read.
    """
    statement = people.with_only_columns(Person.search_place, Person.id, Person.search_terms)
    if is_sqlite:
        each = func.json_each(bindparam("places", type_=Text)).table_valued("value")
        statement = statement.where(Person.search_place.in_(select(each.c.value)))
    else:
        places = bindparam("places", type_=ARRAY(BigInteger))
        statement = statement.where(Person.search_place == any_(cast(places, ARRAY(BigInteger))))
    place_of = func.instr if is_sqlite else func.strpos
    # What may be the end of a mobile number is stored backwards.
    told = [word for word in words if not tail_of(word)]
    return statement.where(*(place_of(Person.search_terms, f" {word}") > 0 for word in told))


_SHELVES: Select[int] = select(SearchShelf.id).order_by(SearchShelf.id)


@cache
def _blocks_statement(is_sqlite: bool, backwards: bool) -> Any:
    """Blocks of some shelves, in order, found by one walk down the tree a shelf."""
    inner = aliased(SearchBlock)
    low, high, most = bindparam("low", type_=Text), bindparam("high", type_=Text), bindparam("most", type_=Integer)
    block_before = (
        select(func.max(inner.first))
        .where(inner.shelf_id == SearchShelf.id, inner.first <= low)
        .correlate(SearchShelf)
        .scalar_subquery()
    )
    # A shelf nearly always has a block before: most of them say nothing of it, and need not be sent.
    inside = (func.instr if is_sqlite else func.strpos)(SearchBlock.body, bindparam("inside", type_=Text)) > 0
    wanted = (
        or_(SearchBlock.first >= low, inside),
        SearchBlock.shelf_id == SearchShelf.id,
        SearchBlock.first >= func.coalesce(block_before, low),
        SearchBlock.first < high,
    )
    first: Any = SearchBlock.first
    statement: Any
    if is_sqlite:
        statement = select(SearchShelf.id, SearchBlock.body).join(SearchBlock, true()).where(*wanted)
    else:
        # PostgreSQL would read every block of every shelf to sort them.
        part = lateral(
            select(SearchBlock.first, SearchBlock.body)
            .where(*wanted)
            .order_by(first.desc() if backwards else first)
            .limit(most)
            .correlate(SearchShelf)
        )
        first = part.c.first
        statement = select(SearchShelf.id, part.c.body).join(part, true())
    order_by = (SearchShelf.id.desc(), first.desc()) if backwards else (SearchShelf.id, first)
    shelves: ColumnElement[bool]
    if is_sqlite:
        shelves = SearchShelf.id.in_(bindparam("shelves", expanding=True))
    else:
        shelves = SearchShelf.id == any_(cast(bindparam("shelves", type_=ARRAY(BigInteger)), ARRAY(BigInteger)))
    return statement.where(shelves).order_by(*order_by).limit(most)


def _within(body: str, low: str, high: str, *, backwards: bool) -> list[str]:
    """Lines of a block from `low` to below `high`, in the direction of reading."""
    lines = body.split("\n")
    lines = lines[bisect_left(lines, low) : bisect_left(lines, high)]
    if backwards:
        lines.reverse()
    return lines


def _beyond(line: str, low: str, high: str, backwards: bool) -> tuple[str, str]:
    """What remains between `low` and `high` beyond a line, in the direction of reading."""
    # No character of a line is as low as this one (NUL would be, but PostgreSQL takes none).
    return (low, line) if backwards else (line + "\x01", high)
