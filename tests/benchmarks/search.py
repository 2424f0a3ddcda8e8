"""People search at 1,000,000 people: latency of every kind of query, and what the index costs to write and to keep.

    python -m tests.benchmarks.search [--people 1000000] [--database sqlite] [--database postgresql] [--rounds 120]
    python -m tests.benchmarks.search --url URL [--fill-for SECONDS]

People are put into the database directly; the index is written through `directory.search_index`, as an import does.
With `--url` that happens in a database that stays, empty or migrated, and goes on where an earlier run has stopped.
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session
from starlette.datastructures import QueryParams

from idhub.authority import LOCAL, Action, Subject
from idhub.db import Database, chunked, create_database
from idhub.demo.sample_names import (
    CHINESE_SURNAMES,
    CHINESE_SYLLABLES,
    ENGLISH_GIVEN,
    ENGLISH_SURNAMES,
    GERMAN_GIVEN,
    GERMAN_SURNAMES,
)
from idhub.directory.search_index import index_people, tend
from idhub.directory.search_terms import Searchable, terms_of
from idhub.directory.tables import (
    Department,
    DepartmentClosure,
    Employment,
    LoginName,
    Organization,
    OrganizationClosure,
    Person,
    Principal,
)
from idhub.migrations import migrate
from idhub.settings import Settings
from idhub.web import queries_people
from idhub.web.listing import View
from tests.benchmarks.figures import as_line, folder_in_memory, progress, quantile
from tests.support.databases import DatabaseKind, Databases

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
BATCH = 2_000
_ROOT = "org_" + "0" * 26
_COMPANIES = 20
_DEALERS = 300
_CHINESE_SHARE = 0.9
_STANDINGS = ("active",) * 94 + ("left",) * 5 + ("suspended",)


def main() -> None:
    """Print the figures as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--only", default="", help="kinds of query whose name holds this")
    parser.add_argument("--database", action="append", choices=["sqlite", "postgresql"])
    parser.add_argument("--url", help="of a database that stays")
    parser.add_argument("--fill-for", type=float, default=0, help="with --url: seconds after which filling stops")
    options = parser.parse_args()
    if options.url:
        with tempfile.TemporaryDirectory() as folder:
            database = create_database(Settings(data_dir=Path(folder), database_url=options.url))
            migrate(database)
            found = fill(database, options.people, seconds=options.fill_for or None)
            if count_people(database) == options.people:
                found += latencies(database, options.people, rounds=options.rounds, only=options.only)
            rows = [{"database": database.dialect, "durability": "-", **row} for row in found]
            database.dispose()
    else:
        kinds: Sequence[DatabaseKind] = options.database or ("sqlite", "postgresql")
        rows = measure(people=options.people, rounds=options.rounds, databases=kinds)
    for row in rows:
        print(as_line(row))


def measure(
    *, people: int = 1_000_000, rounds: int = 120, databases: Sequence[DatabaseKind] = ("sqlite", "postgresql")
) -> list[dict[str, Any]]:
    """Fill each database, and measure."""
    rows: list[dict[str, Any]] = []
    for kind in databases:
        with ExitStack() as stack:
            folder = stack.enter_context(folder_in_memory("search"))
            made = Databases(folder)
            stack.callback(made.close)
            url = stack.enter_context(made.fresh(kind, folder, migrated=True))
            database = create_database(Settings(data_dir=folder, database_url=url))
            stack.callback(database.dispose)
            found = fill(database, people)
            found += latencies(database, people, rounds=rounds)
            rows += [{"database": kind, "durability": "memory", **row} for row in found]
    return rows


def count_people(database: Database) -> int:
    """How many are in it."""
    with database.read() as session:
        return session.execute(select(func.count()).select_from(Person)).scalar_one()


def fill(database: Database, people: int, *, batch: int = BATCH, seconds: float | None = None) -> list[dict[str, Any]]:
    """Put `people` into a database, company by company. Returns what the index cost.

    Goes on where an earlier call stopped, after so many `seconds`.
    """
    done = before = count_people(database)
    if not done:
        _organizations(database)
    if done == people:
        return []
    spent = spelled = 0.0
    started = time.monotonic()
    for facts in chunked(list(range(done, people)), batch):
        if seconds is not None and time.monotonic() - started > seconds:
            break
        persons = [_person(number, people) for number in facts]
        searchable = [person["searchable"] for person in persons]
        began = time.perf_counter()
        for one in searchable:
            terms_of(one)
        spelled += time.perf_counter() - began
        with database.transaction(durable=False) as session:
            began = time.perf_counter()
            indexed = index_people(session, searchable)
            spent += time.perf_counter() - began
            _insert(session, [{**person, **one._asdict()} for person, one in zip(persons, indexed, strict=True)])
        done += len(persons)
        progress(f"{database.dialect}: {done:,} of {people:,} people")
    began = time.perf_counter()
    tend(database)
    tended = time.perf_counter() - began
    with database.engine.connect() as connection:
        if database.dialect == "postgresql":
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM (ANALYZE)"))
            size = connection.execute(text("SELECT pg_total_relation_size('search_blocks')")).scalar_one()
        else:
            connection.exec_driver_sql("ANALYZE")
            size = connection.execute(
                text("SELECT sum(length(CAST(body AS BLOB)) + 2 * length(CAST(first AS BLOB))) FROM search_blocks")
            ).scalar_one()
    progress("")
    return [
        {
            "name": "index: written with the person, terms included",
            "value": spent / (done - before) * 1e6,
            "unit": "us/person",
        },
        {"name": "index: terms alone", "value": spelled / (done - before) * 1e6, "unit": "us/person"},
        {"name": "index: merged afterwards", "value": tended / (done - before) * 1e6, "unit": "us/person"},
        {"name": "index: size", "value": int(size) / done, "unit": "bytes/person"},
    ]


def queries(people: int) -> list[tuple[str, str, dict[str, str], str | None]]:
    """(kind of query, text, filters, company whose HR asks)."""
    middle = _person(people // 2, people)["searchable"]
    number, mail, mobile = middle.numbers[0], str(middle.email), str(middle.mobile)
    kinds = [
        ("one character, frequent", "王", {}, None),
        ("one character, inner", "明", {}, None),
        ("two characters", "王明", {}, None),
        ("two characters, inner", "建华", {}, None),
        ("three characters", "诸葛明", {}, None),
        ("a character that nobody has", "龘", {}, None),
        ("pinyin, frequent", "wang", {}, None),
        ("pinyin, whole", "wangjianhua", {}, None),
        ("pinyin, with blanks", "wang jian hua", {}, None),
        ("pinyin, reading of a surname (shan)", "shanwei", {}, None),
        ("pinyin, lü", "lümei", {}, None),
        ("pinyin, lv", "lvmei", {}, None),
        ("pinyin, two surnames, nobody", "zhuge ouyang", {}, None),
        ("initials", "wjh", {}, None),
        ("one letter", "a", {}, None),
        ("western name, beginning", "krü", {}, None),
        ("western names", "Daniel Schröder", {}, None),
        ("employee number", number, {}, None),
        ("employee number, beginning", number[:5], {}, None),
        ("mail", mail, {}, None),
        ("mail, local part", mail.split("@", maxsplit=1)[0], {}, None),
        ("mobile", mobile, {}, None),
        ("mobile, with blanks", f"+86 {mobile[:3]} {mobile[3:7]} {mobile[7:]}", {}, None),
        ("mobile, beginning", mobile[:5], {}, None),
        ("mobile, last four digits", mobile[-4:], {}, None),
        ("no hit", "nobodyiscalledso", {}, None),
        ("no hit, two words", "wang nobodyiscalledso", {}, None),
        ("frequent, one company", "wang", {"org": "C7"}, None),
        ("frequent, standing left", "wang", {"state": "left"}, None),
        ("frequent, suspended contractors", "王", {"state": "suspended", "type": "contractor"}, None),
        ("sorted by number", "wangjian", {"sort": "number"}, None),
        ("HR of one company: frequent", "wang", {}, "C7"),
        ("HR of one company: one letter", "w", {}, "C7"),
        ("HR of one company: numbers of another", number[:3], {}, "C7"),
        ("HR of one company: no hit", "nobodyiscalledso", {}, "C7"),
        ("HR of a dealer: frequent", "wang", {}, "D42"),
        ("HR of a dealer: all mobiles", "1", {}, "D42"),
        ("standing active, frequent", "wang", {"state": "active"}, None),
        ("standing active, one character", "王", {"state": "active"}, None),
        ("standing left, one letter", "w", {"state": "left"}, None),
        ("standing left, rare", "诸葛明", {"state": "left"}, None),
        ("standing suspended, initials", "wjh", {"state": "suspended"}, None),
        ("interns, two characters", "王明", {"type": "intern"}, None),
        ("one company, regular, active", "li", {"org": "C7", "type": "regular", "state": "active"}, None),
        ("one company, rare", "诸葛明", {"org": "C7"}, None),
        ("one company, no hit", "nobodyiscalledso", {"org": "C7"}, None),
        ("one dealer, one character", "王", {"org": "D42"}, None),
        ("one company, whole pinyin with blanks", "wang jian hua", {"org": "C7"}, None),
        ("HR of one company: left, one character", "王", {"state": "left"}, "C7"),
        ("HR of one company: suspended contractors", "l", {"state": "suspended", "type": "contractor"}, "C7"),
        ("HR of one company: mail", mail, {}, "C7"),
        ("HR of a dealer: rare", "诸葛明", {}, "D42"),
    ]  # fmt: skip
    return [(name, words, dict(filters), company) for name, words, filters, company in kinds]


# Kinds of query whose second and fiftieth pages are asked for too.
_DEEP = (
    "pinyin, frequent",
    "one letter",
    "standing active, frequent",
    "frequent, one company",
    "HR of one company: freq",
)


def latencies(database: Database, people: int, *, rounds: int = 120, only: str = "") -> list[dict[str, Any]]:
    """p50, p99 and slowest in milliseconds of the list of people (page and count) for every kind of query.

    The p99 of fewer than a hundred rounds is the slowest of them.
    """
    rows: list[dict[str, Any]] = []
    search(database, "a", {})
    # As the hub does before it serves: what is there stays, and to look through it takes a round of 70 to 120 ms.
    gc.freeze()
    for name, words, filters, company in queries(people):
        if only not in name:
            continue
        place: dict[str, str] = {}
        for number in (1, 2, 50) if name.startswith(_DEEP) else (1,):
            place = _place_of(database, (words, filters, company), number)
            spent: list[float] = []
            listing = search(database, words, filters, company, **place)
            for _ in range(rounds):
                began = time.perf_counter()
                listing = search(database, words, filters, company, **place)
                spent.append((time.perf_counter() - began) * 1e3)
            found = listing.found
            shown = "?" if found is None else f"{found.number:,}" if found.is_all else f"over {found.number:,}"
            label = f"search: {name} [{shown}]" + (f", page {number}" if number > 1 else "")
            for measure, share in (("p50", 0.5), ("p99", 0.99), ("slowest", 1.0)):
                rows.append({"name": f"{label} {measure}", "value": quantile(spent, share), "unit": "ms"})
        progress(f"{database.dialect}: {name}")
    progress("")
    return rows


def _place_of(database: Database, asked: tuple[str, dict[str, str], str | None], number: int) -> dict[str, str]:
    """Where a page begins, whose number counts from 1."""
    words, filters, company = asked
    place: dict[str, str] = {}
    for _ in range(number - 1):
        following = search(database, words, filters, company, **place).page.next
        if following is None:
            break
        place = {"after": following}
    return place


def search(
    database: Database, words: str, filters: dict[str, str], company: str | None = None, **place: str
) -> queries_people.Listing:
    """What `/hr/people` does for a query."""
    view = View(queries_people.PEOPLE, QueryParams({"q": words, **filters, **place}), lambda message: message)
    subject = LOCAL
    if company is not None:
        subject = Subject(actions=frozenset({Action.PEOPLE_READ}), organization_id=_id("org", _company(company)))
    with database.read(keeps_plans=True) as session:
        return queries_people.list_people(view, session, subject)


def _organizations(database: Database) -> None:
    codes = [f"C{n}" for n in range(_COMPANIES)] + [f"D{n}" for n in range(_DEALERS)]
    common = {"time_zone": "Asia/Shanghai", "created_at": NOW}
    rows = [{"id": _ROOT, "parent_id": None, "kind": "group", "code": "G", "name": "集团", **common}]
    closure = [{"ancestor_id": _ROOT, "descendant_id": _ROOT, "depth": 0}]
    departments: list[dict[str, Any]] = []
    for code in codes:
        company = _id("org", _company(code))
        rows.append(
            {"id": company, "parent_id": _ROOT, "kind": "company", "code": code, "name": f"公司{code}", **common}
        )
        closure += [{"ancestor_id": a, "descendant_id": company, "depth": d} for a, d in ((_ROOT, 1), (company, 0))]
        department = _id("dep", _company(code))
        departments.append(
            {"id": department, "organization_id": company, "name": "生产部", "path": "生产部", "created_at": NOW}
        )
    with database.transaction() as session:
        connection = session.connection()
        connection.execute(insert(Organization), rows)
        connection.execute(insert(OrganizationClosure), closure)
        connection.execute(insert(Department), departments)
        connection.execute(
            insert(DepartmentClosure),
            [{"ancestor_id": d["id"], "descendant_id": d["id"], "depth": 0} for d in departments],
        )


def _company(code: str) -> int:
    return int(code[1:]) + 1 + (_COMPANIES if code[0] == "D" else 0)


def _id(prefix: str, number: int) -> str:
    return f"{prefix}_{number:026}"


def _person(number: int, people: int) -> dict[str, Any]:
    """A person by number, always the same; companies follow each other, dealers (5 %) come last."""
    chance = random.Random(number)
    dealers = people // 20
    if number < people - dealers:
        company = 1 + number * _COMPANIES // (people - dealers)
    else:
        company = 1 + _COMPANIES + (number - people + dealers) * _DEALERS // max(dealers, 1)
    if chance.random() < _CHINESE_SHARE:
        surname = CHINESE_SURNAMES[min(int(chance.expovariate(0.12)), len(CHINESE_SURNAMES) - 1)]
        given = [chance.choice(CHINESE_SYLLABLES) for _ in range(1 if chance.random() < 0.15 else 2)]
        display = surname[0] + "".join(g[0] for g in given)
        names = ("".join(g[1] for g in given).capitalize(), surname[1].capitalize())
    else:
        german = chance.random() < 0.5
        names = (
            chance.choice(GERMAN_GIVEN if german else ENGLISH_GIVEN),
            chance.choice(GERMAN_SURNAMES if german else ENGLISH_SURNAMES),
        )
        display = " ".join(names)
    mail = f"{names[0]}.{names[1]}{number}@qiyue.example".lower().replace("'", "")
    searchable = Searchable(
        _id("org", company), display, *names, (f"{company:03}{number:07}",), mail, f"1{3_000_000_000 + number * 6:010}"
    )
    kind = chance.choice(("regular", "regular", "regular", "regular", "contractor", "intern", "dispatched"))
    return {"number": number, "searchable": searchable, "standing": chance.choice(_STANDINGS), "type": kind}


def _insert(session: Session, persons: Sequence[dict[str, Any]]) -> None:
    connection = session.connection()
    epochs = {"access_epoch": 1, "enrolment_epoch": 1, "version": 1}
    times = {"created_at": NOW, "changed_at": NOW}
    for table, rows in (
        (Principal, _principals(persons, {**epochs, **times})),
        (Person, _people(persons)),
        (Employment, _employments(persons, times)),
        (LoginName, _login_names(persons)),
    ):
        connection.execute(insert(table), list(rows))


def _principals(persons: Sequence[dict[str, Any]], common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for p in persons:
        yield {
            "id": _id("per", p["number"]), "kind": "person", "organization_id": p["searchable"].organization_id,
            "standing": p["standing"], "access_starts_at": NOW, **common,
        }  # fmt: skip


def _people(persons: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for p in persons:
        one = p["searchable"]
        yield {
            "id": _id("per", p["number"]), "display_name": one.display_name, "given_name": one.given_name,
            "family_name": one.family_name, "email": one.email, "mobile": one.mobile,
            "main_employment_id": _id("emp", p["number"]), "attribute_sources": {},
            "search_terms": p["search_terms"], "search_place": p["search_place"],
        }  # fmt: skip


def _employments(persons: Sequence[dict[str, Any]], times: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for p in persons:
        one = p["searchable"]
        yield {
            "id": _id("emp", p["number"]), "principal_id": _id("per", p["number"]),
            "organization_id": one.organization_id, "department_id": one.organization_id.replace("org", "dep"),
            "employee_number": one.numbers[0], "type": p["type"], "title": "技师",
            "state": "ended" if p["standing"] == "left" else p["standing"],
            "starts_on": date(2020, 1, 1), "starts_at": NOW, **times,
        }  # fmt: skip


def _login_names(persons: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for p in persons:
        one = p["searchable"]
        for kind, value in (("employee_number", one.numbers[0]), ("email", one.email), ("mobile", one.mobile)):
            yield {"value": value, "principal_id": _id("per", p["number"]), "kind": kind}


if __name__ == "__main__":
    main()
