"""The index of people: whoever is there is found, in one order, page by page both ways, and gone when forgotten."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from idhub.db import Database
from idhub.directory.search import Hits, find_people, named
from idhub.directory.search_index import (
    LOOSE,
    forget_people,
    index_missing,
    index_people,
    reindex_people,
    tag_of,
    tend,
)
from idhub.directory.search_terms import Searchable, first_match, words_of
from idhub.directory.tables import LoginName, Organization, Person, Principal, SearchBlock, SearchRun, SearchShelf

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
COMPANIES = tuple(f"org_{n:026}" for n in range(3))
PEOPLE = select(Person.id).join(Principal, Principal.id == Person.id)
SIZES = (1, 150, 1, 64, 70, 2, 400, 5)


class Crowd:
    """People in the database, some put there by the hundred, some one by one."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.count = 0
        self._chance = random.Random(7)
        with database.transaction() as session:
            common = {"kind": "company", "time_zone": "UTC", "created_at": NOW}
            rows = [{"id": company, "code": company, "name": company, **common} for company in COMPANIES]
            session.execute(insert(Organization), rows)

    def add(self, people: Sequence[Searchable]) -> list[str]:
        ids = [f"per_{self.count + n:026}" for n in range(len(people))]
        self.count += len(people)
        epochs = {"access_epoch": 1, "enrolment_epoch": 1, "version": 1, "created_at": NOW, "changed_at": NOW}
        with self.database.transaction() as session:
            indexed = index_people(session, people)
            session.execute(
                insert(Principal),
                [
                    {
                        "id": id_, "kind": "person", "organization_id": one.organization_id, "standing": "active",
                        "access_starts_at": NOW, **epochs,
                    }
                    for id_, one in zip(ids, people, strict=True)
                ],
            )  # fmt: skip
            session.execute(
                insert(Person),
                [
                    {
                        "id": id_, "display_name": one.display_name, "email": one.email, "mobile": one.mobile,
                        "attribute_sources": {}, **its._asdict(),
                    }
                    for id_, one, its in zip(ids, people, indexed, strict=True)
                ],
            )  # fmt: skip
            names = [
                {"value": value, "principal_id": id_, "kind": kind}
                for id_, one in zip(ids, people, strict=True)
                for kind, value in (("employee_number", one.numbers[0].lower()), ("mobile", one.mobile))
                if value
            ]
            session.execute(insert(LoginName), names)
        return ids

    def strangers(self, count: int) -> list[Searchable]:
        pick = self._chance.choice
        return [
            Searchable(
                COMPANIES[n % 3], pick("王李张刘") + pick("小大明华") + pick("明华磊雯"),
                numbers=(f"QY{n:06}",), email=f"m{n}@qiyue.example", mobile=f"138{n:08}",
            )
            for n in range(self.count, self.count + count)
        ]  # fmt: skip

    def find(self, text: str, company: str | None = None, limit: int = 40) -> list[str]:
        """Every hit, page by page; checks that reading back from the last page gives the same."""
        with self.database.read() as session:

            def page(beside: str | None, *, backwards: bool = False) -> Hits:
                people = PEOPLE if company is None else PEOPLE.where(Principal.organization_id == company)
                within = None if company is None else [company]
                return find_people(
                    session, text, people, organizations=within, beside=beside, backwards=backwards, limit=limit
                )

            pages = [page(None)]
            while pages[-1].has_more:
                pages.append(page(pages[-1].last))
            found = [person for one in pages for person in one.ids]
            back: list[str] = []
            beside: str | None = pages[-1].ids[0] if len(pages) > 1 and pages[-1].ids else None
            while beside is not None:
                one = page(beside, backwards=True)
                back = [*one.ids, *back]
                beside = one.last if one.has_more else None
            if len(pages) > 1 and pages[-1].ids:
                assert back == found[: len(found) - len(pages[-1].ids)]
            assert len(found) == len(set(found))
            return found


@pytest.fixture
def crowd(database: Database) -> Crowd:
    return Crowd(database)


QUERIES = (
    "王", "明", "小明", "王小明", "wang", "w", "ming", "lihuaming", "lhm", "qy0000", "138", "0012", "王 qy00012",
    "li hua", "zhang wang", "nobody", "x",
)  # fmt: skip


def test_a_page_that_begins_beside_somebody_of_another_company_tells_nothing_of_them(crowd: Crowd) -> None:
    """Whoever knows an id could else ask what it is called, a letter or a digit at a time."""
    names = ["王一", "王二", "王三", "李四"]
    own = crowd.add([Searchable(COMPANIES[0], name, numbers=(f"A{n}",)) for n, name in enumerate(names)])
    foreign = crowd.add(
        [
            Searchable(COMPANIES[1], "王二", numbers=("A2X",), mobile="13812345678"),
            Searchable(COMPANIES[1], "赵五", numbers=("B9",)),
        ]
    )
    with crowd.database.read() as session:

        def page(text: str, beside: str | None, *, backwards: bool = False) -> Hits:
            people = PEOPLE.where(Principal.organization_id == COMPANIES[0])
            return find_people(
                session, text, people, organizations=COMPANIES[:1], beside=beside, backwards=backwards, exactly=False
            )

        for text in ("王", "a", "wang", "a2x"):
            for backwards in (False, True):
                beside_nobody, *others = (page(text, each, backwards=backwards) for each in ("per_none", *foreign))
                assert others == [beside_nobody] * 2, text
        assert page("王", own[0]) != page("王", "per_none"), "of their own company they do"


def test_everybody_who_matches_is_found_once_before_and_after_shelves_are_merged(crowd: Crowd) -> None:
    for size in SIZES:
        crowd.add(crowd.strangers(size))
    with crowd.database.read() as session:
        terms = {row[0]: row[1] for row in session.execute(select(Person.id, Person.search_terms))}
        homes = {row[0]: row[1] for row in session.execute(select(Principal.id, Principal.organization_id))}
    orders: list[list[list[str]]] = []
    for _ in range(2):
        orders.append([])
        for text in QUERIES:
            for company in (None, COMPANIES[1]):
                found = crowd.find(text, company)
                orders[-1].append(found)
                assert set(found) == {
                    person
                    for person, stored in terms.items()
                    if all(first_match(stored, word) for word in words_of(text)) and company in (None, homes[person])
                }
        with crowd.database.transaction() as session:
            # As if they were many more: enough to be merged.
            session.execute(update(SearchShelf).values(people=SearchShelf.people * 12))
            session.execute(update(SearchRun).where(SearchRun.shelf_id == LOOSE).values(people=SearchRun.people * 60))
        tend(crowd.database)
    with crowd.database.read() as session:
        lines = session.execute(select(func.count()).select_from(SearchBlock)).scalar_one()
        loose = session.execute(select(SearchBlock.first).where(SearchBlock.shelf_id == LOOSE)).all()
        shelves = session.execute(select(func.count()).select_from(SearchShelf)).scalar_one()
    assert loose == []
    assert shelves < len(SIZES)
    assert lines < crowd.count


@pytest.mark.parametrize("seed", range(6))
def test_pages_both_ways_and_counts_are_those_of_looking_at_everybody(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever a block holds, how many are fetched at once, and who has gone since."""
    chance = random.Random(seed)
    monkeypatch.setattr("idhub.directory.search_index._LINES_A_BLOCK", chance.choice((1, 2, 3, 7)))
    monkeypatch.setattr("idhub.directory.search._FIRST_BLOCKS", chance.choice((3, 5)))
    monkeypatch.setattr("idhub.directory.search._MOST_BLOCKS", chance.choice((3, 9)))
    monkeypatch.setattr("idhub.directory.search._MOST_LOOKS", chance.choice((3, 20, 1_000)))
    ids = [id_ for size in (66, 1, 64, 3) for id_ in crowd.add(crowd.strangers(size))]
    with crowd.database.transaction() as session:
        forget_people(session, chance.sample(ids, 50))
    with crowd.database.read() as session:
        terms = {row[0]: row[1] for row in session.execute(select(Person.id, Person.search_terms))}
        homes = {row[0]: row[1] for row in session.execute(select(Principal.id, Principal.organization_id))}
    for text in chance.sample(QUERIES, 6):
        for company in (None, COMPANIES[chance.randrange(3)]):
            expected = {
                person
                for person, stored in terms.items()
                if all(first_match(stored, word) for word in words_of(text)) and company in (None, homes[person])
            }
            found = crowd.find(text, company, limit=chance.choice((5, 25)))
            assert set(found) == expected, (text, company)
            _is_counted(crowd, text, company, expected)


def _is_counted(crowd: Crowd, text: str, company: str | None, expected: set[str]) -> None:
    people = PEOPLE if company is None else PEOPLE.where(Principal.organization_id == company)
    places = None if company is None else [company]
    with crowd.database.read() as session:
        for most in (5, 1_000):
            for is_narrowed in (False, True):
                hits = find_people(
                    session, text, people, organizations=places, limit=3, count_to=most, is_narrowed=is_narrowed
                )
                if hits.is_all:
                    assert hits.found == len(expected), (text, company, most, is_narrowed)
                else:
                    assert hits.found <= len(expected), (text, company, most, is_narrowed)
                if not is_narrowed and len(words_of(text)) == 1 and len(expected) <= most:
                    assert hits.is_all, (text, company, most)


def test_nobody_of_a_company_with_the_same_tag_is_counted(crowd: Crowd) -> None:
    """Lines name a company by the end of its id alone: a count of lines would tell who is called what elsewhere."""
    alike = "org_1" + COMPANIES[0][5:]
    assert tag_of(alike) == tag_of(COMPANIES[0])
    with crowd.database.transaction() as session:
        other = {"kind": "company", "time_zone": "UTC", "created_at": NOW}
        session.execute(insert(Organization), [{"id": alike, "code": alike, "name": alike, **other}])
    crowd.add([Searchable(COMPANIES[0], "王一", numbers=(f"A{n}",)) for n in range(5)])
    crowd.add([Searchable(alike, "王一", numbers=(f"B{n}",)) for n in range(90)])
    with crowd.database.read() as session:
        own = PEOPLE.where(Principal.organization_id == COMPANIES[0])
        for text, count in (("王", 5), ("b", 0)):
            hits = find_people(
                session, text, own, organizations=[COMPANIES[0]], limit=2, count_to=1_000, is_narrowed=False
            )
            assert (hits.found, hits.is_all) == (count, True)


def test_counting_what_must_be_looked_at_is_bounded_and_says_so(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idhub.directory.search._LOOKS_FOR_COUNT", 50)
    crowd.add(crowd.strangers(400))
    with crowd.database.read() as session:
        hits = find_people(session, "138", PEOPLE, limit=10, count_to=1_000)
        assert (hits.found, hits.is_all) == (50, False)
        hits = find_people(session, "138", PEOPLE, limit=10, count_to=20)
        assert (hits.found, hits.is_all) == (21, False)


def test_shelves_whose_people_changed_since_they_were_read_are_left_for_the_next_time(crowd: Crowd) -> None:
    class Hasty(Database):
        """Lets somebody be forgotten between what is read and what is written."""

        @contextmanager
        def transaction(self, *, durable: bool = True, patience: float | None = None) -> Iterator[Session]:
            with crowd.database.transaction() as session:
                forget_people(session, [gone])
            with super().transaction(durable=durable, patience=patience) as session:
                yield session

    gone, *_ = crowd.add(crowd.strangers(64))
    for _ in range(7):
        crowd.add(crowd.strangers(64))
    with crowd.database.transaction() as session:
        # As if they were many more: enough to be merged.
        session.execute(update(SearchShelf).values(people=SearchShelf.people * 12))
    shelves = _shelves(crowd)

    tend(Hasty(crowd.database.engine))
    assert _shelves(crowd) == shelves
    assert _holds(crowd, "qy000000") == 0

    tend(crowd.database)
    assert len(_shelves(crowd)) < len(shelves)
    assert len(crowd.find("138")) == 8 * 64


def test_whoever_is_named_exactly_comes_first_then_beginnings_then_inner_parts(crowd: Crowd) -> None:
    inner, number, beginning, tail = crowd.add(
        [
            Searchable(COMPANIES[0], "Anna Lee-9138", numbers=("A1",)),
            Searchable(COMPANIES[2], "赵一", numbers=("9138",)),
            Searchable(COMPANIES[1], "赵二", numbers=("91380",)),
            Searchable(COMPANIES[0], "赵三", numbers=("A2",), mobile="13900009138"),
        ]
    )
    assert crowd.find("9138") == [number, beginning, inner, tail]


def test_a_number_that_many_companies_have_finds_the_own_person(crowd: Crowd) -> None:
    """Whoever is not in the index yet is found by it alone."""
    crowd.add([Searchable(COMPANIES[1], "赵一", numbers=("1001",))] * 25)
    (own,) = crowd.add([Searchable(COMPANIES[0], "王一", numbers=("1001",))])
    with crowd.database.transaction() as session:
        session.execute(update(Person).where(Person.id == own).values(search_place=None))
    with crowd.database.read() as session:
        people = PEOPLE.where(Principal.organization_id == COMPANIES[0])
        assert list(find_people(session, "1001", people, organizations=COMPANIES[:1]).ids) == [own]
        assert len(find_people(session, "1001", PEOPLE, limit=1).ids) == 21


@pytest.mark.parametrize("text", ["%", "_", "%王%", "王%", "' OR 1=1 --", "\\", "*", "王*", "[a-z]", '"', "(", "a\tb"])
def test_a_query_is_taken_literally(crowd: Crowd, text: str) -> None:
    crowd.add(crowd.strangers(70))
    assert crowd.find(text) == []


@pytest.mark.parametrize("text", ["", "   ", "王" * 101, "\ud800", "a\0b"])
def test_what_cannot_name_anybody_finds_nobody(crowd: Crowd, text: str) -> None:
    crowd.add(crowd.strangers(1))
    assert crowd.find(text) == []


@pytest.mark.parametrize("others", [0, 200])
def test_a_changed_name_is_found_by_the_new_one_only(crowd: Crowd, others: int) -> None:
    person, *_ = crowd.add([Searchable(COMPANIES[0], "单雄信", numbers=("N1",)), *crowd.strangers(others)])
    changed = Searchable(COMPANIES[1], "单明", numbers=("N1",))
    with crowd.database.transaction() as session:
        (indexed,) = reindex_people(session, {person: changed}).values()
        session.execute(update(Person).where(Person.id == person).values(**indexed._asdict()))
        session.execute(update(Principal).where(Principal.id == person).values(organization_id=COMPANIES[1]))

    assert crowd.find("雄") == crowd.find("shanxiong") == []
    assert crowd.find("shanming") == crowd.find("n1", COMPANIES[1]) == [person]
    assert crowd.find("n1", COMPANIES[0]) == []
    assert _holds(crowd, "雄信") == 0


@pytest.mark.parametrize("others", [0, 200])
def test_terms_go_with_the_person(crowd: Crowd, others: int) -> None:
    person, *_ = crowd.add(
        [Searchable(COMPANIES[0], "诸葛雄", numbers=("N1",), mobile="13912345678"), *crowd.strangers(others)]
    )
    before = _lines(crowd)
    with crowd.database.transaction() as session:
        forget_people(session, [person])

    assert [_holds(crowd, text) for text in ("诸葛", "zhuge", "nn1\t", "13912345678", "87654321931")] == [0] * 5
    assert before - _lines(crowd) == 10
    assert crowd.find("诸葛") == []


def test_who_stands_behind_the_first_of_a_block_is_found_when_that_one_has_gone(crowd: Crowd) -> None:
    before = [Searchable(COMPANIES[0], f"李一{n}", numbers=(f"A{n:03}",)) for n in range(64)]
    first, second = (Searchable(COMPANIES[0], "王一", numbers=(number,)) for number in ("B1", "B2"))
    ids = crowd.add([*before, first, second])
    for gone in ids[:-1]:
        with crowd.database.transaction() as session:
            forget_people(session, [gone])
    assert crowd.find("王一") == crowd.find("b2") == [ids[-1]]


def test_people_without_a_place_are_indexed_later(crowd: Crowd) -> None:
    """As version N-1 leaves them."""
    person, *_ = crowd.add([Searchable(COMPANIES[0], "诸葛雄", numbers=("N1",)), *crowd.strangers(3)])
    with crowd.database.transaction() as session:
        forget_people(session, [person])
        session.execute(update(Person).where(Person.id == person).values(search_terms=" 诸葛雄 zhugexiong "))
    assert crowd.find("诸葛") == []

    tend(crowd.database)

    assert crowd.find("诸葛") == [person]
    with crowd.database.transaction() as session:
        assert index_missing(session) == 0


def test_the_index_shows_nobody_whom_the_statement_does_not_have(crowd: Crowd) -> None:
    crowd.add(crowd.strangers(90))
    with crowd.database.read() as session:
        none = PEOPLE.where(Principal.standing == "left")
        assert list(find_people(session, "qy000001", none).ids) == []
        assert list(find_people(session, "w", none, organizations=COMPANIES).ids) == []


def test_looking_is_bounded_and_says_where_to_go_on(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idhub.directory.search._MOST_LOOKS", 50)
    ids = crowd.add(crowd.strangers(400))
    with crowd.database.transaction() as session:
        session.execute(update(Principal).where(Principal.id == ids[-1]).values(standing="left"))
    with crowd.database.read() as session:
        rare = PEOPLE.where(Principal.standing == "left")
        pages = [find_people(session, "138", rare, limit=20)]
        while pages[-1].has_more:
            pages.append(find_people(session, "138", rare, beside=pages[-1].last, limit=20))
    assert list(pages[0].ids) == []
    assert [person for page in pages for person in page.ids] == [ids[-1]]
    assert len(pages) > 2


def test_a_criterion_for_other_lists_takes_few_and_many(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idhub.directory.search._FEW", 20)
    ids = crowd.add(crowd.strangers(100))
    with crowd.database.read() as session:
        assert session.execute(PEOPLE.where(named(session, "qy000007"))).scalars().all() == [ids[7]]
        assert len(session.execute(PEOPLE.where(named(session, "138"))).all()) == 100


def _shelves(crowd: Crowd) -> list[int]:
    with crowd.database.read() as session:
        return list(session.execute(select(SearchShelf.id).order_by(SearchShelf.id)).scalars())


def _lines(crowd: Crowd) -> int:
    with crowd.database.read() as session:
        return sum(body.count("\n") + 1 for body in session.execute(select(SearchBlock.body)).scalars())


def _holds(crowd: Crowd, text: str) -> int:
    with crowd.database.read() as session:
        bodies = session.execute(select(SearchBlock.body)).scalars()
        return sum(text in line for body in bodies for line in body.split("\n"))
