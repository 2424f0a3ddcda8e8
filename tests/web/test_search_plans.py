"""A search looks at thousands of people: whatever narrows it, the database begins with whom the index proposes."""

from typing import Any

from sqlalchemy import insert, text, update
from starlette.datastructures import QueryParams

from idhub.authority import LOCAL
from idhub.db import Database
from idhub.directory.tables import OrganizationClosure, Principal
from idhub.web import queries_people
from idhub.web.listing import View
from tests.directory.test_search import COMPANIES, Crowd
from tests.support.plans import scanned, statements_of

_BY_PLACE = "uq_people_search_place"
_SEARCHES: tuple[dict[str, str], ...] = (
    {},
    {"state": "active"},
    {"state": "left"},
    {"type": "intern"},
    {"org": COMPANIES[0]},
    {"org": COMPANIES[0], "state": "suspended", "type": "contractor"},
)


def test_whoever_a_search_proposes_is_looked_at_by_place_whatever_narrows_it(database: Database) -> None:
    crowd = Crowd(database)
    crowd.add(crowd.strangers(2_000))
    with database.transaction() as session:
        itself = [{"ancestor_id": company, "descendant_id": company, "depth": 0} for company in COMPANIES]
        session.execute(insert(OrganizationClosure), itself)
        for ending, standing in (("7", "left"), ("3", "suspended")):
            session.execute(update(Principal).where(Principal.id.endswith(ending)).values(standing=standing))
    if database.dialect == "postgresql":
        # SQLite plans without figures, as in every installation: nobody makes them there.
        with database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    for filters in _SEARCHES:
        if "type" in filters and database.dialect == "postgresql":
            # It knows that nobody in this crowd has a post, and begins there.
            continue
        for words in ("wang", "w", "wang xiao"):
            view = View(queries_people.PEOPLE, QueryParams({"q": words, **filters}), lambda message: message)
            with statements_of(database.engine) as sent, database.read() as session:
                queries_people.list_people(view, session, LOCAL)
            looks = {statement: values for statement, values in sent.items() if "search_place" in statement}
            assert looks
            for statement, values in looks.items():
                plan = _plan(database, statement, values)
                assert plan and all(_BY_PLACE in step for step in plan), (filters, statement, plan)
                assert scanned(database, statement, values) == [], (filters, statement)


def _plan(database: Database, statement: str, values: Any) -> list[str]:
    """The step that the database begins with; on PostgreSQL, which shows an inner one first, those that read people."""
    with database.engine.connect() as connection:
        if database.dialect == "sqlite":
            rows = [row[3] for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, values)]
            return [row for row in rows if row.startswith(("SEARCH", "SCAN")) and "VIRTUAL TABLE" not in row][:1]
        # Half of so few people it would rather find by reading all of them; of a million half a thousand are few.
        connection.execute(text("SET enable_seqscan = off"))
        some = values["places"].strip("{}").split(",")[:5]
        few = {**values, "places": f"{{{','.join(some)}}}"}
        rows = [row[0] for row in connection.exec_driver_sql("EXPLAIN " + statement, few)]
        return [row for row in rows if "Scan" in row and " on people" in row]
