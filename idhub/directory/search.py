"""Finding people by name, pinyin, initials, number, mail or mobile, a page at a time, whatever their number.

Each word of a query matches the beginning of a term (`search_terms`). Hits come in a fixed order that the index can
deliver from any place on: first whoever the whole query names exactly (number, mail, mobile), then names and numbers
that begin with it, then inner parts of names, then ends of mobile numbers. The index only proposes: every hit is read
from its person's row, within the caller's statement, which decides what may be seen. PostgreSQL keeps the plans of both
within `Database.read(keeps_plans=True)`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    func,
    select,
)
from sqlalchemy.orm import Session

from idhub.db import among, execute_planned, given, given_value, in_one_piece, taken_apart
from idhub.directory.names import login_name_candidates, may_name
from idhub.directory.search_blocks import Blocks, Part, Place, blocks_statement, is_one_of, lines_within
from idhub.directory.search_index import RUN, TAG_LENGTH, tag_of
from idhub.directory.search_terms import LONGEST_TERM, RANKS, first_match, tail_of, words_of
from idhub.directory.tables import LoginName, Organization, Person, Principal, SearchRun, SearchShelf
from idhub.kept import Planned, Told, together

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
_FIRST_BLOCKS_FOR_MANY = 24
_MOST_BLOCKS = 96
_BLOCKS_FOR_COUNT = 128


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
    values: Mapping[str, Any] | None = None,
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
        values: of the parameters of `people`, when that is one of a few statements that are made once: they are kept.
    """
    words = words_of(text) if len(text) <= LONGEST_QUERY and may_name(text) else []
    if not words or max(map(len, words)) > LONGEST_TERM:
        return Hits((), has_more=False)
    search = _Search(session, words, people, organizations, values)
    names = login_name_candidates(text) if exactly else ()
    start = search.begin(names, beside, is_counted=count_to > 0 and (is_narrowed or len(words) > 1))
    exact = search.exact
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


class _Search:
    """One query: what it looks for, and where."""

    def __init__(
        self,
        session: Session,
        words: Sequence[str],
        people: People,
        organizations: Collection[str] | None,
        values: Mapping[str, Any] | None,
    ) -> None:
        self._session = session
        self.exact: dict[str, int | None] = {}
        """Whom the query names exactly, and their places."""
        # The word that says most leads; the others are checked on whom it finds. A Chinese character says more.
        self._word = max(words, key=lambda word: (len(word.encode()), word))
        self._others = [word for word in words if word != self._word]
        self._is_sqlite = session.get_bind().dialect.name == "sqlite"
        self._people, self._values = people, values
        self._organizations = None if organizations is None else frozenset(organizations)
        self._tags = None if organizations is None else {tag_of(organization) for organization in organizations}
        self._shelves: list[int] | None = None
        """Shelves that may hold people of the asker's organizations; None: all of them."""
        self._first_blocks = _FIRST_BLOCKS
        self._first_looks = 0
        self._blocks_read = 0

    def begin(self, names: Sequence[str], beside: str | None, *, is_counted: bool) -> Place | None:
        """Find whom the query names exactly, the shelves, and where to begin: asked for in one exchange.

        Args:
            names: login names that the query may be.
            beside: see `find_people`.
            is_counted: whether hits are counted by reading people.
        """
        if beside is None and is_counted:
            # So many are looked at in any case.
            self._first_looks, self._first_blocks = _LOOKS_FOR_COUNT, _FIRST_BLOCKS_FOR_MANY
        session = self._session
        with together(session):
            named = _NAMED.ask(session, {"names": list(names)}) if names else None
            shelves = _SHELVES.ask(session, {}) if self._tags is not None else None
            place = _PLACE.ask(session, {"person": beside}) if beside is not None else None
        if shelves is not None and (tags := self._tags) is not None:
            self._shelves = [
                shelf_id for shelf_id, held in shelves.rows() if not held or not tags.isdisjoint(held.split(" "))
            ]
        if named is not None and (ids := sorted({row[0] for row in named.rows()})):
            self._see_exact(ids)
        return None if place is None else self._place(place)

    def _see_exact(self, ids: Sequence[str]) -> None:
        """Of those who have this very number, mail or mobile, whom the caller may see; a handful at most, of several
        companies.
        """
        # Asked for by their ids: nearly no query names anybody so, and PostgreSQL would begin with the people.
        found = self._people.with_only_columns(Person.id, Person.search_place).where(Person.id.in_(ids))
        places: dict[str, int | None] = {
            row.id: row.search_place for row in self._session.execute(found, self._values or {})
        }
        seen = [person_id for person_id in ids if person_id in places]
        self.exact = {person_id: places[person_id] for person_id in seen[:_MOST_EXACT]}

    def _place(self, asked: Told) -> Place | None:
        """Where in the order of hits a person stands; None when they are no hit, or none of the asker's organizations:
        from where a page begins beside them, whoever knows an id would learn what its person is called.
        """
        for terms, place, organization_id, shelf_id in asked.rows():
            if self._organizations is not None and organization_id not in self._organizations:
                return None
            term = first_match(terms, self._word)
            return None if term is None else Place(shelf_id, f"{term}\t{tag_of(organization_id)}\t{place}")
        return None

    def page(self, start: Place | None, *, backwards: bool, limit: int, most_looks: int) -> "_Read":
        """Hits in the direction of reading."""
        read = _Read(_Proposals(self._lines(start, backwards=backwards), is_once=not backwards))
        # Some lines are of people who were there before, or whom the caller does not want.
        size = max(limit + 1 + limit // 4, min(self._first_looks, most_looks))
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
            exact = {place for place in self.exact.values() if place is not None}
            nowhere = len(self.exact) - len(exact)
            while len(proposals.places | exact) + nowhere <= most and self._blocks_read < _BLOCKS_FOR_COUNT:
                if not proposals.read_on():
                    return len(proposals.places | exact) + nowhere, True
            return min(len(proposals.places | exact) + nowhere, most + 1), False
        found = len(self.exact) + len(read.hits) + max(read.beyond, 0)
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
        tag = func.substr(Organization.id, func.length(Organization.id) - TAG_LENGTH + 1)
        alike = select(func.count()).select_from(Organization).where(tag.in_(among(self._session, sorted(self._tags))))
        return self._session.execute(alike).scalar_one() == len(self._organizations)

    def _confirmed(self, lines: Sequence[str]) -> list[str]:
        """Ids of the people whom these lines propose and the caller's statement has, each at their first line only."""
        known = self._among(lines)
        hits: list[str] = []
        for line in lines:
            found = known.get(line[line.rindex("\t") + 1 :])
            if found is None:
                continue
            person_id, terms = found
            if person_id in self.exact or first_match(terms, self._word) != line.split("\t", 1)[0]:
                continue
            if all(first_match(terms, word) is not None for word in self._others):
                hits.append(person_id)
        return hits

    def _person_at(self, lines: Sequence[str]) -> str | None:
        """The last of these lines that is still somebody's first match: where reading may go on."""
        is_limited = self._organizations is not None
        values = {"organizations": given_value(sorted(self._organizations))} if self._organizations is not None else {}
        statement = _at_places(_people_of(is_limited, self._is_sqlite), self._is_sqlite, 0)
        # Nearly always the last one is.
        for some in (lines[-_LAST:], lines[:-_LAST]):
            if not some:
                break
            known = self._known(statement.all(self._session, {**values, "places": self._numbers(_places_in(some))}))
            for line in reversed(some):
                person_id, terms = known.get(line[line.rindex("\t") + 1 :], ("", ""))
                if person_id and first_match(terms, self._word) == line.split("\t", 1)[0]:
                    return person_id
        return None

    def _among(self, lines: Sequence[str]) -> dict[str, tuple[str, str]]:
        """By their places, id and terms of those whom these lines propose and the caller's statement has."""
        # What may be the end of a mobile number is stored backwards.
        told = [word for word in self._others if not tail_of(word)]
        values: dict[str, Any] = {f"word{number}": f" {word}" for number, word in enumerate(told)}
        values["places"] = self._numbers(_places_in(lines))
        if self._values is not None:
            statement = _at_places(self._people, self._is_sqlite, len(told))
            return self._known(statement.all(self._session, {**self._values, **values}))
        once = in_one_piece(_placed(self._people, self._is_sqlite, len(told)), is_sqlite=self._is_sqlite)
        return self._known(execute_planned(self._session.connection(), once, values).all())

    def _known(self, rows: Sequence[Any]) -> dict[str, tuple[str, str]]:
        return {
            place.decode(): (person_id.decode(), terms.decode()) for place, person_id, terms in taken_apart(rows[0][0])
        }

    def _numbers(self, numbers: Sequence[int]) -> str:
        """Numbers as one value (`_among_numbers`)."""
        written = ",".join(map(str, numbers))
        return f"[{written}]" if self._is_sqlite else f"{{{written}}}"

    def _lines(self, start: Place | None, *, backwards: bool) -> Iterator[Sequence[str]]:
        """Lines in the order of hits, some at a time."""
        if self._shelves == []:
            return
        ranks = RANKS[::-1] if backwards else RANKS
        parts: list[Part] = []
        for rank in ranks if start is None else ranks[ranks.index(start.line[0]) :]:
            word = tail_of(self._word) if rank == "r" else self._word
            if word:
                is_first = start is not None and start.line[0] == rank
                parts.append(Part(rank + word, start if is_first else None))
        while parts:
            # Of all ranks at once: an exchange with PostgreSQL costs more than some blocks.
            firsts = self._blocks(parts, self._first_blocks, backwards=backwards)
            for first in firsts:
                yield from self._lines_of(parts.pop(0), first, backwards=backwards)
                if len(first) >= self._first_blocks:
                    # Those behind it were not looked for.
                    break

    def _lines_of(self, part: Part, first: Blocks, *, backwards: bool) -> Iterator[Sequence[str]]:
        """Lines of a part, block by block, given its first blocks."""
        blocks, most, rest = first, self._first_blocks, part
        while blocks:
            end = rest
            for shelf_id, body in blocks:
                low, high = rest.bounds(shelf_id, backwards=backwards)
                lines = lines_within(body, low, high, backwards=backwards)
                yield self._of_organizations(lines)
                end = end.beyond(shelf_id, lines, backwards=backwards)
            if len(blocks) < most:
                return
            # There may be more in the last shelf, and in others.
            rest, most = end, min(most * 4, _MOST_BLOCKS)
            (blocks,) = self._blocks([rest], most, backwards=backwards)

    def _of_organizations(self, lines: Sequence[str]) -> Sequence[str]:
        tags = self._tags
        return lines if tags is None else [line for line in lines if line.rsplit("\t", 2)[1] in tags]

    def _blocks(self, parts: Sequence[Part], most: int, *, backwards: bool) -> list[Blocks]:
        """Of each part its first blocks, no more than `most`, in the direction of reading; none of those that stand
        behind one with so many.
        """
        asked: dict[str, Any] = {"most": most}
        for number, part in enumerate(parts):
            asked |= {f"{name}{number}": value for name, value in part.asked(backwards=backwards).items()}
        if self._shelves is not None:
            asked["shelves"] = self._numbers(self._shelves)
        statement = blocks_statement(
            len(parts), is_sqlite=self._is_sqlite, backwards=backwards, is_listed=self._shelves is not None
        )
        found: list[Blocks] = [[] for _ in parts]
        for number, shelf_id, body in statement.all(self._session, asked):
            found[number].append((shelf_id, body))
            self._blocks_read += 1
        return found


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


def _places_in(lines: Iterable[str]) -> list[int]:
    return sorted({_place_in(line) for line in lines})


@lru_cache(64)
def _at_places(people: People, is_sqlite: bool, words: int) -> Planned:
    """`_placed`, kept."""
    return Planned(in_one_piece(_placed(people, is_sqlite, words), is_sqlite=is_sqlite))


@cache
def _people_of(is_limited: bool, is_sqlite: bool) -> People:
    """Everybody, or those of the `organizations`: these share tags, and of others nobody is a place to go on from."""
    people: People = select(Person.id)
    if not is_limited:
        return people
    return people.join(Principal, Principal.id == Person.id).where(within(given("organizations", is_sqlite=is_sqlite)))


def _placed(people: People, is_sqlite: bool, words: int) -> People:
    """Place, id and terms of those of `people` who have one of the `places`, one bound value whatever their number.

    Whoever has not all of the words `word0`... too is left out as far as the database can tell, and need not be read.
    """
    place_of = func.instr if is_sqlite else func.strpos
    statement = people.with_only_columns(Person.search_place, Person.id, Person.search_terms)
    return statement.where(
        is_one_of(Person.search_place, "places", is_sqlite),
        *(place_of(Person.search_terms, bindparam(f"word{number}", type_=Text)) > 0 for number in range(words)),
    )


_NAMED = Planned(
    select(LoginName.principal_id)
    .where(LoginName.value.in_(bindparam("names", expanding=True)))
    .limit(_MOST_OF_ONE_NAME)
)
_SHELVES = Planned(select(SearchShelf.id, SearchShelf.tags).order_by(SearchShelf.id))
_PLACE = Planned(
    select(Person.search_terms, Person.search_place, Principal.organization_id, SearchRun.shelf_id)
    .join(Principal, Principal.id == Person.id)
    .join(SearchRun, SearchRun.id == Person.search_place // RUN)
    .where(Person.id == bindparam("person"))
)
