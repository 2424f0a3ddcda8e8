"""Writing the index of people: cheap in bulk, found at once, gone with the person.

The index is kept in shelves of sorted lines, packed in blocks of some fifty: a batch of people costs a sort and a few
inserts, where a row per term would cost a tree insert each (decision 0014). A batch gets a shelf of its own; the few
who come one by one share shelf 0, a line a block. `tend` merges small shelves later, since a search looks into each.

Lines are `rank term TAB tag TAB place`: `place` names the person (`Person.search_place`), `tag` is the end of the id of
their organization, by which a search within few organizations passes over others. Neither decides what may be seen.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, bindparam, delete, func, insert, select, update
from sqlalchemy.orm import Session

from idhub.db import Database, chunked, insert_rows
from idhub.directory.search_terms import RANKS, Searchable, ranked_terms, terms_of
from idhub.directory.tables import Employment, Person, Principal, SearchBlock, SearchRun, SearchShelf
from idhub.kept import Kept

RUN = 4096
"""Places of a run; `place // RUN` is the run's id."""
TAG_LENGTH = 4
"""Characters of the name that lines have for an organization (`tag_of`)."""
FULL_SHELF = 8192
"""People of a merged shelf, at most."""
LOOSE = 0
"""The shelf of those who come one by one."""
_BULK = 64
_MOST_SMALL_SHELVES = 8
_MANY_LOOSE = 512
_MOST_TAGS = 200
_LINES_A_BLOCK = 48
_BLOCK_COLUMNS = ("shelf_id", "first", "body")
_OF_SHELF = SearchBlock.shelf_id == bindparam("shelf_id")
_FIRSTS = Kept(select(SearchBlock.first).where(_OF_SHELF).order_by(SearchBlock.first))
_BODIES = Kept(
    select(SearchBlock.first, SearchBlock.body)
    .where(_OF_SHELF, SearchBlock.first.in_(bindparam("firsts", expanding=True)))
    .with_for_update()
)


class Indexed(NamedTuple):
    """What the person's row keeps of the index: `Person.search_terms` and `Person.search_place`."""

    search_terms: str
    search_place: int


class Prepared(NamedTuple):
    """New people of a batch as the index takes them in, made before any lock is held (`prepare_people`)."""

    terms: list[str]
    """What `terms_of` makes of each, in the order given."""
    lines: list[str]
    """Every line but for the place at its end, sorted."""
    owners: list[int]
    """Beside each line, whose it is: a number in the order given."""
    tags: list[str]


def prepare_people(people: Sequence[Searchable]) -> Prepared:
    """Work out what the index holds of new people; at most `RUN` of them."""
    return prepare_terms([(terms_of(person), person.organization_id) for person in people])


def prepare_terms(people: Sequence[tuple[str, str]]) -> Prepared:
    """`prepare_people`, given each one's stored terms (`terms_of`) and organization."""
    listed: list[str] = []
    owners: list[int] = []
    tags: set[str] = set()
    for number, (stored, organization_id) in enumerate(people):
        tag = tag_of(organization_id)
        tags.add(tag)
        end = f"\t{tag}\t"
        # A blank stands between terms and nowhere in them: what is between two lines is put in its place.
        for rank, terms in zip(RANKS, stored[1:-1].split("  "), strict=True):
            if terms:
                listed.append(rank + terms.replace(" ", f"{end}\n{rank}") + end)
                owners += [number] * (terms.count(" ") + 1)
    lines = "\n".join(listed).split("\n") if listed else []
    # Equal lines stay in the order of their owners.
    order = sorted(range(len(lines)), key=lines.__getitem__)
    return Prepared(
        [stored for stored, _ in people], [lines[one] for one in order], [owners[one] for one in order], sorted(tags)
    )


def index_prepared(session: Session, groups: Sequence[Prepared]) -> list[list[int]]:
    """Put prepared people into the index, all groups together. Returns the place of each, group by group.

    The caller stores places and terms in the people's rows (`Indexed`).
    """
    people = sum(len(group.terms) for group in groups)
    if not people:
        return [[] for _ in groups]
    connection = session.connection()
    shelf_id = LOOSE
    if people >= _BULK:
        tags = _joined({tag for group in groups for tag in group.tags})
        shelf_id = connection.execute(
            insert(SearchShelf).values(people=people, tags=tags).returning(SearchShelf.id)
        ).scalar_one()
    places: list[list[int]] = []
    lines: list[str] = []
    for group in groups:
        size = len(group.terms)
        run_id = connection.execute(
            insert(SearchRun).values(shelf_id=shelf_id, people=size).returning(SearchRun.id)
        ).scalar_one()
        first = run_id * RUN
        places.append(list(range(first, first + size)))
        lines += [f"{line}{first + owner}" for line, owner in zip(group.lines, group.owners, strict=True)]
    # Sorted but for the places, group by group: this merges them.
    lines.sort()
    blocks = _blocks_of(lines, size=1 if shelf_id == LOOSE else _LINES_A_BLOCK)
    insert_rows(session, SearchBlock, _BLOCK_COLUMNS, [(shelf_id, *block) for block in blocks])
    return places


def index_people(session: Session, people: Sequence[Searchable]) -> list[Indexed]:
    """Put new people into the index. The caller stores what is returned, in the same order, in their rows."""
    groups = [prepare_people(part) for part in chunked(people, RUN)]
    return [
        Indexed(terms, place)
        for group, places in zip(groups, index_prepared(session, groups), strict=True)
        for terms, place in zip(group.terms, places, strict=True)
    ]


def reindex_people(session: Session, people: Mapping[str, Searchable]) -> dict[str, Indexed]:
    """Index people anew, by id, where what they are found by or their organization has changed.

    The caller stores what is returned. Runs where the caller's change of them is already locked against others.
    """
    gone: list[Indexed] = []
    for part in chunked(list(people)):
        gone += _indexed(session, part)
    _remove(session, gone)
    return dict(zip(people, index_people(session, list(people.values())), strict=True))


def forget_people(session: Session, person_ids: Iterable[str]) -> None:
    """Take people out of the index, and every term of theirs with them."""
    for part in chunked(sorted(set(person_ids))):
        _remove(session, _indexed(session, part))
        session.execute(
            update(Person)
            .where(Person.id.in_(part))
            .values(search_terms="", search_place=None)
            .execution_options(synchronize_session=False)
        )


def index_missing(session: Session, limit: int = 1_000) -> int:
    """Index some of the people who are not in the index: from before there was one, or written by an older version.

    Returns how many; 0 when nobody is left.
    """
    ids = (
        session.execute(
            select(Person.id)
            .where(Person.search_place.is_(None))
            .order_by(Person.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        .scalars()
        .all()
    )
    if not ids:
        return 0
    numbers: dict[str, list[str]] = {}
    for person_id, number in session.execute(
        select(Employment.principal_id, Employment.employee_number).where(Employment.principal_id.in_(ids))
    ):
        numbers.setdefault(person_id, []).append(number)
    rows = session.execute(
        select(
            Person.id, Principal.organization_id, Person.display_name, Person.given_name, Person.family_name,
            Person.email, Person.mobile,
        )
        .join(Principal, Principal.id == Person.id)
        .where(Person.id.in_(ids))
    ).all()  # fmt: skip
    people = [Searchable(*row[1:5], tuple(numbers.get(row[0], ())), *row[5:]) for row in rows]
    table: Any = Person.__table__
    session.connection().execute(
        update(table)
        .where(table.c.id == bindparam("key"))
        .values(search_terms=bindparam("terms"), search_place=bindparam("place")),
        [
            {"key": row[0], "terms": indexed.search_terms, "place": indexed.search_place}
            for row, indexed in zip(rows, index_people(session, people), strict=True)
        ],
    )
    return len(rows)


def tend(database: Database) -> None:
    """Index who is missing, and merge small shelves: what a worker does now and then.

    Transactions stay short: what a merged shelf holds is worked out before one begins.
    """
    while True:
        with database.read() as session:
            is_owed = _is_owed(session)
            small = None if is_owed else _read_small(session)
        if not is_owed and small is None:
            return
        merged = [] if small is None else _blocks_of(_in_order(small.bodies))
        database.give_way()
        with database.transaction(durable=False) as session:
            if small is None:
                has_done = bool(index_missing(session)) or _pack_loose(session)
            else:
                has_done = _put_in_place(session, small, merged)
        if not has_done:
            return


def _is_owed(session: Session) -> bool:
    """Whether somebody is missing, or many stand on the shelf of those who come one by one."""
    if session.execute(select(Person.id).where(Person.search_place.is_(None)).limit(1)).first():
        return True
    loose = session.execute(
        select(func.coalesce(func.sum(SearchRun.people), 0)).where(SearchRun.shelf_id == LOOSE)
    ).scalar_one()
    return int(loose) >= _MANY_LOOSE


class _Small(NamedTuple):
    """Small shelves to be merged, as they were read."""

    shelf_ids: list[int]
    people: int
    tags: str
    bodies: Sequence[str]


def _read_small(session: Session) -> _Small | None:
    shelf_ids, people, tags = _small_shelves(session)
    if not shelf_ids:
        return None
    bodies = session.execute(select(SearchBlock.body).where(SearchBlock.shelf_id.in_(shelf_ids))).scalars().all()
    return _Small(shelf_ids, people, _joined(tags), bodies)


def _in_order(bodies: Iterable[str]) -> list[str]:
    """Every line, sorted; a few at a time, since a long sort would keep every other thread waiting."""
    begun: dict[str, list[str]] = {}
    for body in bodies:
        for line in body.split("\n"):
            begun.setdefault(line[:2], []).append(line)
    return [line for beginning in sorted(begun) for line in sorted(begun[beginning])]


def _put_in_place(session: Session, small: _Small, merged: Sequence[tuple[str, str]]) -> bool:
    """Put a merged shelf in the place of small ones. Returns whether it did.

    Waits for nobody: while people of these shelves are being changed, or were since they were read, they are left for
    the next time.
    """
    # Whoever changes indexed people holds their runs (`_remove`), so that lines do not move under them.
    runs = _locked_runs(session, SearchRun.shelf_id.in_(small.shelf_ids))
    if runs is None:
        return False
    # A shelf only ever loses lines: as long as it is as long as it was, it is what it was.
    is_now = session.execute(
        select(func.count(), func.coalesce(func.sum(func.length(SearchBlock.body)), 0)).where(
            SearchBlock.shelf_id.in_(small.shelf_ids)
        )
    ).one()
    if tuple(is_now) != (len(small.bodies), sum(map(len, small.bodies))):
        return False
    connection = session.connection()
    connection.execute(delete(SearchBlock).where(SearchBlock.shelf_id.in_(small.shelf_ids)))
    _put_together(session, merged, runs, people=small.people, tags=small.tags)
    # After the new one has its id: ids are not given out twice.
    connection.execute(delete(SearchShelf).where(SearchShelf.id.in_(small.shelf_ids)))
    return True


def _pack_loose(session: Session) -> bool:
    """Give those who came one by one a shelf of their own, once they are many. Returns whether it did."""
    runs = _locked_runs(session, SearchRun.shelf_id == LOOSE)
    if runs is None or sum(runs.values()) < _MANY_LOOSE:
        return False
    lines = [
        line
        for line in session.execute(select(SearchBlock.body).where(SearchBlock.shelf_id == LOOSE)).scalars()
        if int(line.rsplit("\t", 1)[1]) // RUN in runs
    ]
    connection = session.connection()
    for part in chunked(lines):
        connection.execute(delete(SearchBlock).where(SearchBlock.shelf_id == LOOSE, SearchBlock.first.in_(part)))
    tags = _joined({line.rsplit("\t", 2)[1] for line in lines})
    _put_together(session, _blocks_of(sorted(lines)), runs, people=sum(runs.values()), tags=tags)
    return True


def _locked_runs(session: Session, criterion: ColumnElement[bool]) -> dict[int, int] | None:
    """Runs and their people, locked until the transaction ends; None when somebody else holds one of them."""
    locked = session.execute(
        select(SearchRun.id, SearchRun.people).where(criterion).order_by(SearchRun.id).with_for_update(skip_locked=True)
    ).all()
    present = session.execute(select(func.count()).select_from(SearchRun).where(criterion)).scalar_one()
    return {run.id: run.people for run in locked} if len(locked) == present else None


def _put_together(
    session: Session, blocks: Sequence[tuple[str, str]], runs: Mapping[int, int], *, people: int, tags: str
) -> None:
    """Make a shelf of blocks, and let runs stand there."""
    connection = session.connection()
    shelf_id = connection.execute(
        insert(SearchShelf).values(people=people, tags=tags).returning(SearchShelf.id)
    ).scalar_one()
    for part in chunked(sorted(runs)):
        connection.execute(update(SearchRun).where(SearchRun.id.in_(part)).values(shelf_id=shelf_id))
    insert_rows(session, SearchBlock, _BLOCK_COLUMNS, [(shelf_id, *block) for block in blocks])


def tag_of(organization_id: str) -> str:
    """How lines name an organization: the end of its id; two may share one, which costs a look."""
    return organization_id[-TAG_LENGTH:]


def _small_shelves(session: Session) -> tuple[list[int], int, set[str]]:
    """Shelves to merge now, oldest first, with their people and tags; none while it is not worth the work."""
    found: list[int] = []
    people = 0
    tags: set[str] = set()
    is_mixed = False
    rows = session.execute(
        select(SearchShelf.id, SearchShelf.people, SearchShelf.tags)
        .where(SearchShelf.people <= FULL_SHELF // 2, SearchShelf.id != LOOSE)
        .order_by(SearchShelf.people, SearchShelf.id)
        .limit(FULL_SHELF // _BULK)
    )
    for shelf_id, size, shelf_tags in rows:
        if people + size > FULL_SHELF:
            break
        found.append(shelf_id)
        people += size
        tags.update(shelf_tags.split())
        is_mixed = is_mixed or not shelf_tags
    if len(found) < _MOST_SMALL_SHELVES and people <= FULL_SHELF // 2:
        return [], 0, set()
    return found, people, set() if is_mixed else tags


def _blocks_of(lines: Sequence[str], size: int = _LINES_A_BLOCK) -> list[tuple[str, str]]:
    """Sorted lines in blocks: the first line of each, and its body."""
    return [(part[0], "\n".join(part)) for part in chunked(lines, size)]


def _joined(tags: set[str]) -> str:
    return " ".join(sorted(tags)) if len(tags) <= _MOST_TAGS else ""


def _indexed(session: Session, person_ids: Sequence[str]) -> list[Indexed]:
    rows = session.execute(select(Person.search_terms, Person.search_place).where(Person.id.in_(person_ids)))
    return [Indexed(terms, place) for terms, place in rows if place is not None]


def _remove(session: Session, gone: Sequence[Indexed]) -> None:
    """Take lines out of their blocks: of each person those of every stored term."""
    if not gone:
        return
    shelves: dict[int, int] = {}
    for part in chunked(sorted({place // RUN for _, place in gone})):
        rows = session.execute(
            select(SearchRun.id, SearchRun.shelf_id)
            .where(SearchRun.id.in_(part))
            .order_by(SearchRun.id)
            .with_for_update(read=True)
        )
        shelves.update((run_id, shelf_id) for run_id, shelf_id in rows)
    wanted: dict[int, list[tuple[str, str]]] = {}
    for terms, place in gone:
        end = f"\t{place}"
        beginnings = [
            f"{rank}{term}\t" for rank, found in zip(RANKS, ranked_terms(terms), strict=True) for term in found
        ]
        wanted.setdefault(shelves[place // RUN], []).extend((beginning, end) for beginning in beginnings)
    for shelf_id in sorted(wanted):
        _remove_lines(session, shelf_id, wanted[shelf_id])


def _remove_lines(session: Session, shelf_id: int, wanted: Sequence[tuple[str, str]]) -> None:
    connection = session.connection()
    table: Any = SearchBlock.__table__
    of_shelf = table.c.shelf_id == shelf_id
    firsts = _FIRSTS.scalars(session, shelf_id=shelf_id)
    touched: dict[int, list[tuple[str, str]]] = {}
    for beginning, end in wanted:
        # All lines of one term of one person; how they name the organization is not known here.
        start = max(bisect_right(firsts, beginning) - 1, 0)
        stop = bisect_right(firsts, beginning + "\U0010ffff")
        for number in range(start, stop):
            touched.setdefault(number, []).append((beginning, end))
    changed: list[dict[str, Any]] = []
    emptied: list[str] = []
    for part in chunked([firsts[number] for number in sorted(touched)], 500):
        for first, body in _BODIES.all(session, shelf_id=shelf_id, firsts=part):
            kept = _without_lines(body, touched[bisect_right(firsts, first) - 1])
            if not kept:
                emptied.append(first)
            elif len(kept) < len(body):
                changed.append({"key": first, "lines": kept})
    if changed:
        # `first` stays though its line may be gone: it still bounds what the block holds.
        connection.execute(
            update(table).where(of_shelf, table.c.first == bindparam("key")).values(body=bindparam("lines")), changed
        )
    for part in chunked(emptied):
        connection.execute(delete(table).where(of_shelf, table.c.first.in_(part)))


def _without_lines(body: str, wanted: Iterable[tuple[str, str]]) -> str:
    """The body of a block without the lines that begin and end so."""
    # Found as text: to look at each of the lines would cost ten times as much, and nearly all are somebody else's.
    text = f"\n{body}\n"
    for beginning, end in wanted:
        at = text.find(f"\n{beginning}")
        while at >= 0:
            stop = text.index("\n", at + 1)
            if text.endswith(end, 0, stop):
                text, stop = text[:at] + text[stop:], at
            at = text.find(f"\n{beginning}", stop)
    return text[1:-1]
