"""Finding people by name, pinyin, initials, number, mail or mobile, a page at a time, whatever their number.

Each word of a query matches the beginning of a term (`search_terms`). Hits come in a fixed order that the index can
deliver from any place on: first whoever the whole query names exactly (number, mail, mobile), then names and numbers
that begin with it, then inner parts of names, then ends of mobile numbers. The index only proposes: every hit is read
from its person's row, within the caller's statement, which decides what may be seen. PostgreSQL keeps the plans of both
within `Database.read(keeps_plans=True)`.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
    case,
    cast,
    func,
    lateral,
    literal_column,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.orm import Session, aliased

from idhub.db import among, execute_planned, in_one_piece, json_text, taken_apart
from idhub.directory.names import login_name_candidates, may_name
from idhub.directory.search_index import RUN, tag_of
from idhub.directory.search_terms import LONGEST_TERM, RANKS, first_match, tail_of, words_of
from idhub.directory.tables import LoginName, Organization, Person, Principal, SearchBlock, SearchRun, SearchShelf

People: TypeAlias = Select[*tuple[Any, ...]]
"""A SELECT of people, joined as it needs; what it selects does not matter."""

LONGEST_QUERY = 100
"""Characters of a query; longer ones are refused where they come in."""
_MOST_LOOKS = 1_000
_LOOKS_FOR_COUNT = 500
_MOST_EXACT = 20
_MOST_OF_ONE_NAME = 1_000
_MOST_AT_ONCE = 1_000
_FEW = 500
_LAST = 16
# Of a shelf two blocks may hold nothing that is wanted: with three at once reading goes on.
_FIRST_BLOCKS = 6
_MOST_BLOCKS = 96
_BLOCKS_FOR_COUNT = 128
_AFTER_ALL = "\U0010ffff"
# Shelves count from 0.
_BEFORE_SHELVES, _AFTER_SHELVES = -1, 2**62


@dataclass(frozen=True, slots=True)
class Hits:
    """One page of hits, in order."""

    ids: Sequence[str]
    has_more: bool
    """Whether further hits may follow in the direction of reading."""
    last: str | None = None
    """Where reading ended: the person to go on from. Set also when the page is not full: looking is bounded."""
    found: int = 0
    """How many hits were met, those beyond the page included where they were counted."""
    is_all: bool = False
    """Whether there are no others than these `found`."""


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
    count_to: int = 0,
    is_narrowed: bool = True,
) -> Hits:
    """People named by `text` among `people`, in the order of hits; backwards: those before `beside`, in the same order.

    Args:
        people: who may be found: a SELECT from `Person` with every filter and the asker's scope.
        organizations: ids within which `people` are, when that is known: spares looks into the others' shelves.
        beside: id of the person after (or before) whom the page begins; one who is no hit begins anew.
        limit: of hits; those whom the query names exactly come on top of it.
        exactly: whether those come first; without, every hit stands where one may go on from it.
        most_looks: lines of the index that are looked at, about; None: as many as a page of the console may.
        count_to: how far hits are counted that are not shown, where that is cheap; from the first page only.
        is_narrowed: whether `people` leaves out anybody who is within `organizations`. Of those it does not, hits are
            counted without being read.
    """
    words = words_of(text) if len(text) <= LONGEST_QUERY and may_name(text) else []
    if not words or max(map(len, words)) > LONGEST_TERM:
        return Hits((), has_more=False)
    exact = _exactly_named(session, text, people) if exactly else {}
    search = _Search(session, words, people, organizations, exact)
    start = search.place_of(beside) if beside is not None else None
    is_backwards = backwards and start is not None
    read = search.page(start, backwards=is_backwards, limit=limit, most_looks=most_looks or _MOST_LOOKS)
    if is_backwards:
        read.hits.reverse()
        return Hits([*exact, *read.hits] if read.is_done else read.hits, has_more=not read.is_done, last=read.last)
    if start is not None:
        return Hits(read.hits, has_more=not read.is_done, last=read.last)
    found, is_all = search.count(read, count_to, is_narrowed=is_narrowed)
    return Hits([*exact, *read.hits], has_more=not read.is_done, last=read.last, found=found, is_all=is_all)


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


def _exactly_named(session: Session, text: str, people: People) -> dict[str, int | None]:
    """Whoever has this very number, mail or mobile, and their places; a handful at most, of several companies."""
    names = select(LoginName.principal_id).where(LoginName.value.in_(login_name_candidates(text)))
    # Asked first: nearly no query names anybody so, and PostgreSQL would begin with the people.
    ids = sorted(set(session.execute(names.limit(_MOST_OF_ONE_NAME)).scalars()))
    if not ids:
        return {}
    found = people.with_only_columns(Person.id, Person.search_place).where(Person.id.in_(ids))
    places: dict[str, int | None] = {row.id: row.search_place for row in session.execute(found)}
    seen = [person_id for person_id in ids if person_id in places]
    return {person_id: places[person_id] for person_id in seen[:_MOST_EXACT]}


class _Search:
    """One query: what it looks for, and where."""

    def __init__(
        self,
        session: Session,
        words: Sequence[str],
        people: People,
        organizations: Collection[str] | None,
        exact: Mapping[str, int | None],
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
        self._blocks_read = 0

    def _find_shelves(self) -> list[int] | None:
        """Shelves that may hold people of the asker's organizations; None: all of them."""
        if self._tags is None:
            return None
        rows = self._session.execute(_SHELVES)
        return [shelf_id for shelf_id, tags in rows if not tags or not self._tags.isdisjoint(tags.split(" "))]

    def place_of(self, person_id: str) -> _Place | None:
        """Where in the order of hits a person stands; None when they are no hit, or none of the asker's organizations:
        from where a page begins beside them, whoever knows an id would learn what its person is called.
        """
        row = self._session.execute(
            select(Person.search_terms, Person.search_place, Principal.organization_id, SearchRun.shelf_id)
            .join(Principal, Principal.id == Person.id)
            .join(SearchRun, SearchRun.id == Person.search_place // RUN)
            .where(Person.id == person_id)
        ).first()
        if row is None or (self._organizations is not None and row.organization_id not in self._organizations):
            return None
        term = first_match(row.search_terms, self._word)
        if term is None:
            return None
        return _Place(row.shelf_id, f"{term}\t{tag_of(row.organization_id)}\t{row.search_place}")

    def page(self, start: _Place | None, *, backwards: bool, limit: int, most_looks: int) -> "_Read":
        """Hits in the direction of reading."""
        read = _Read(_Proposals(self._lines(start, backwards=backwards), is_once=not backwards))
        # Some lines are of people who were there before, or whom the caller does not want.
        size = limit + 1 + limit // 4
        while part := read.proposals.take(size):
            read.looks += len(part)
            hits = self._confirmed(part)
            room = limit - len(read.hits)
            read.hits += hits[:room]
            read.beyond = len(hits) - room
            if read.beyond > 0:
                read.last = read.hits[-1]
                return read
            if read.looks >= most_looks and (
                last := read.hits[-1] if len(read.hits) == limit else self._person_at(part)
            ):
                read.last = last
                return read
            size = min(_more(read, limit), max(most_looks - read.looks, limit), _MOST_AT_ONCE)
        read.beyond, read.is_done = 0, True
        read.last = read.hits[-1] if read.hits else None
        return read

    def count(self, read: "_Read", most: int, *, is_narrowed: bool) -> tuple[int, bool]:
        """How many hits there are, no further than one past `most`, given the first page; and whether that is all.

        Bounded: what is not counted by then stays unknown.
        """
        proposals = read.proposals
        if not read.is_done and most and not is_narrowed and not self._others and self._knows_own_by_tags():
            # Lines go and come with the people: who is counted need not be read.
            exact = {place for place in self._exact.values() if place is not None}
            nowhere = len(self._exact) - len(exact)
            while len(proposals.places | exact) + nowhere <= most and self._blocks_read < _BLOCKS_FOR_COUNT:
                if not proposals.read_on():
                    return len(proposals.places | exact) + nowhere, True
            return min(len(proposals.places | exact) + nowhere, most + 1), False
        found = len(self._exact) + len(read.hits) + max(read.beyond, 0)
        if read.is_done or not most:
            return found, read.is_done
        if read.beyond > 0 and (part := proposals.take(_LOOKS_FOR_COUNT - read.looks)):
            found += len(self._confirmed(part))
        is_all = read.beyond > 0 and proposals.are_over()
        return min(found, most + 1), is_all and found <= most

    def _knows_own_by_tags(self) -> bool:
        """Whether no organization that the asker may not see is named in lines as one of theirs."""
        if self._organizations is None or self._tags is None:
            return True
        tag = func.substr(Organization.id, func.length(Organization.id) - len(tag_of(_AFTER_ALL * 9)) + 1)
        alike = select(func.count()).select_from(Organization).where(tag.in_(among(self._session, sorted(self._tags))))
        return self._session.execute(alike).scalar_one() == len(self._organizations)

    def _confirmed(self, lines: Sequence[str]) -> list[str]:
        """Ids of the people whom these lines propose and the caller's statement has, each at their first line only."""
        places = [_place_in(line) for line in lines]
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
        people: People = select(Person.id)
        if self._organizations is not None:
            # Organizations share tags: of the others, nobody is a place to go on from.
            own = within(among(self._session, sorted(self._organizations)))
            people = people.join(Principal, Principal.id == Person.id).where(own)
        statement = _placed(people, self._is_sqlite)
        # Nearly always the last one is.
        for some in (lines[-_LAST:], lines[:-_LAST]):
            known = self._at([_place_in(line) for line in some], statement) if some else {}
            for line in reversed(some):
                person_id, terms = known.get(_place_in(line), ("", ""))
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
        """Lines in the order of hits, some at a time."""
        if self._shelves == []:
            return
        ranks = RANKS[::-1] if backwards else RANKS
        parts: list[_Part] = []
        for rank in ranks if start is None else ranks[ranks.index(start.line[0]) :]:
            word = tail_of(self._word) if rank == "r" else self._word
            if word:
                is_first = start is not None and start.line[0] == rank
                parts.append(_Part(rank + word, start if is_first else None))
        # Of all ranks at once: an exchange with PostgreSQL costs more than some blocks.
        for part, first in zip(parts, self._blocks(parts, _FIRST_BLOCKS, backwards=backwards), strict=True):
            blocks, most, rest = first, _FIRST_BLOCKS, part
            while blocks:
                end = rest
                for shelf_id, body in blocks:
                    low, high = rest.bounds(shelf_id, backwards=backwards)
                    lines = _within(body, low, high, backwards=backwards)
                    yield self._of_organizations(lines)
                    end = end.beyond(shelf_id, lines, backwards=backwards)
                if len(blocks) < most:
                    break
                # There may be more in the last shelf, and in others.
                rest, most = end, min(most * 4, _MOST_BLOCKS)
                (blocks,) = self._blocks([rest], most, backwards=backwards)

    def _of_organizations(self, lines: Sequence[str]) -> Sequence[str]:
        tags = self._tags
        return lines if tags is None else [line for line in lines if line.rsplit("\t", 2)[1] in tags]

    def _blocks(self, parts: Sequence["_Part"], most: int, *, backwards: bool) -> list[list[tuple[int, str]]]:
        """Of each part its first blocks, no more than `most`: (shelf, body), in the direction of reading."""
        asked: dict[str, Any] = {"most": most}
        for number, part in enumerate(parts):
            asked |= {f"{name}{number}": value for name, value in part.asked(backwards=backwards).items()}
        if self._shelves is not None:
            asked["shelves"] = json_text(self._shelves) if self._is_sqlite else self._shelves
        statement = _blocks_statement(
            len(parts), is_sqlite=self._is_sqlite, backwards=backwards, is_listed=self._shelves is not None
        )
        found: list[list[tuple[int, str]]] = [[] for _ in parts]
        for number, shelf_id, body in execute_planned(self._session.connection(), statement, asked):
            found[number].append((shelf_id, body))
            self._blocks_read += 1
        return found


class _Part(NamedTuple):
    """Lines that begin alike, on all shelves or beyond a place."""

    beginning: str
    beside: _Place | None

    def bounds(self, shelf_id: int, *, backwards: bool) -> tuple[str, str]:
        """Between which texts the lines of a shelf are wanted: from the first to below the second."""
        low, high = self.beginning, self.beginning + _AFTER_ALL
        if self.beside is None or self.beside.shelf_id != shelf_id:
            return low, high
        return _beyond(self.beside.line, low, high, backwards)

    def beyond(self, shelf_id: int, lines: Sequence[str], *, backwards: bool) -> "_Part":
        """What remains beyond a block of a shelf, given its lines; it may have none after people have gone."""
        if lines:
            return self._replace(beside=_Place(shelf_id, lines[-1]))
        if self.beside is not None and self.beside.shelf_id == shelf_id:
            return self
        return self._replace(beside=_Place(shelf_id, self.beginning + _AFTER_ALL if backwards else self.beginning))

    def asked(self, *, backwards: bool) -> dict[str, Any]:
        """The values of `_blocks_statement`."""
        edge = self.beside.shelf_id if self.beside else _AFTER_SHELVES if backwards else _BEFORE_SHELVES
        low, high = self.bounds(edge, backwards=backwards)
        return {
            "low": self.beginning,
            "high": self.beginning + _AFTER_ALL,
            "inside": f"\n{self.beginning}",
            "edge": edge,
            "near": high if backwards else low,
        }


class _Proposals:
    """Lines of one walk through the index."""

    def __init__(self, lines: Iterator[Sequence[str]], *, is_once: bool) -> None:
        self._lines = lines
        self._is_once = is_once
        self._ready: list[str] = []
        self.places: set[int] = set()
        """Of all that were met."""

    def read_on(self) -> bool:
        """Meet some more. Returns whether there were any."""
        for lines in self._lines:
            for line in lines:
                place = _place_in(line)
                # A person stands where their first line is: of those that follow, none is.
                if not self._is_once or place not in self.places:
                    self.places.add(place)
                    self._ready.append(line)
            return True
        return False

    def take(self, size: int) -> list[str]:
        """The next lines, as many or all there are."""
        while len(self._ready) < size and self.read_on():
            pass
        part, self._ready = self._ready[: max(size, 0)], self._ready[max(size, 0) :]
        return part

    def are_over(self) -> bool:
        """Whether all were taken."""
        while not self._ready and self.read_on():
            pass
        return not self._ready


@dataclass(slots=True)
class _Read:
    """What was read of the hits."""

    proposals: _Proposals
    hits: list[str] = field(default_factory=list)
    beyond: int = 0
    """Hits behind them that were met."""
    last: str | None = None
    """The person at whom looking ended."""
    is_done: bool = False
    """Whether there is nothing further."""
    looks: int = 0


def _more(read: _Read, limit: int) -> int:
    """How many lines to look at next, by how many of those before were hits."""
    if not read.hits:
        return read.looks * 4
    missing = limit + 1 - len(read.hits)
    return min(missing * read.looks * 5 // (len(read.hits) * 4) + limit // 4, read.looks * 4)


def _place_in(line: str) -> int:
    return int(line[line.rindex("\t") + 1 :])


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


_SHELVES: Select[int, str] = select(SearchShelf.id, SearchShelf.tags).order_by(SearchShelf.id)


@cache
def _blocks_statement(parts: int, *, is_sqlite: bool, backwards: bool, is_listed: bool) -> Any:
    """Blocks that may hold lines of some parts (`_Part.asked`): number of the part, shelf and body.

    Of each shelf found by one walk down the tree, and of no further shelf than is needed.
    """
    each = [
        _blocks_of_part(number, is_sqlite, backwards, is_listed).subquery("blocks_found") for number in range(parts)
    ]
    return union_all(*(select(one) for one in each))


def _blocks_of_part(number: int, is_sqlite: bool, backwards: bool, is_listed: bool) -> Any:
    inner = aliased(SearchBlock)
    beginning, end, near, inside = (
        bindparam(f"{name}{number}", type_=Text) for name in ("low", "high", "near", "inside")
    )
    edge, most = bindparam(f"edge{number}", type_=BigInteger), bindparam("most", type_=Integer)
    bound = case((SearchShelf.id == edge, near), else_=end if backwards else beginning)
    low, high = (beginning, bound) if backwards else (bound, end)
    block_before = (
        select(func.max(inner.first))
        .where(inner.shelf_id == SearchShelf.id, inner.first <= low)
        .correlate(SearchShelf)
        .scalar_subquery()
    )
    # A shelf nearly always has a block before: most of them say nothing of it, and need not be sent.
    # Where the first line has gone since, the next may be one of those.
    is_inside = (func.instr if is_sqlite else func.strpos)(SearchBlock.body, inside) > 0
    is_at_top = func.substr(SearchBlock.body, 1, func.length(beginning)) == beginning
    wanted = (
        or_(SearchBlock.first >= low, is_inside, is_at_top),
        SearchBlock.shelf_id == SearchShelf.id,
        SearchBlock.first >= func.coalesce(block_before, low),
        SearchBlock.first < high,
    )
    first: Any = SearchBlock.first
    statement: Any
    if is_sqlite:
        statement = select(literal_column(str(number)).label("part"), SearchShelf.id, SearchBlock.body)
        statement = statement.join(SearchBlock, true()).where(*wanted)
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
        statement = select(literal_column(str(number)).label("part"), SearchShelf.id, part.c.body).join(part, true())
    if is_listed and is_sqlite:
        shelves = bindparam("shelves", type_=Text)
        statement = statement.where(SearchShelf.id.in_(select(func.json_each(shelves).table_valued("value").c.value)))
    elif is_listed:
        ids = bindparam("shelves", type_=ARRAY(BigInteger))
        statement = statement.where(SearchShelf.id == any_(cast(ids, ARRAY(BigInteger))))
    if backwards:
        return statement.where(SearchShelf.id <= edge).order_by(SearchShelf.id.desc(), first.desc()).limit(most)
    return statement.where(SearchShelf.id >= edge).order_by(SearchShelf.id, first).limit(most)


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
