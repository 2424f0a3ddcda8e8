"""What people, sign-ins, tokens and events of the log take on disk: `python -m tests.benchmarks.disk`.

Imports people with their search index and their events, then signs somebody in and asks for tokens at a real `serve`,
and reads off the tables what each of them added. A figure of one thing is its rows with all their indexes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import text

from idhub.db import Database, create_database
from idhub.demo.sample import write_hr_file
from idhub.settings import Settings
from tests.benchmarks.import_people import TODAY, Bench
from tests.support.databases import DatabaseKind, Databases

_SIZES = {
    "sqlite": """
        SELECT s.tbl_name, sum(d.pgsize) FROM dbstat d JOIN sqlite_schema s ON s.name = d.name
        GROUP BY 1""",
    "postgresql": """
        SELECT relname, pg_total_relation_size(oid) FROM pg_class
        WHERE relkind = 'r' AND relnamespace = CAST('public' AS regnamespace)""",
}
KINDS: tuple[DatabaseKind, ...] = ("sqlite", "postgresql")
_LOG = "audit_"


def sizes(database: Database) -> Mapping[str, int]:
    """Bytes of each table with its indexes."""
    with database.engine.connect() as connection:
        if database.dialect == "postgresql":
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))
        return {name: int(size) for name, size in connection.execute(text(_SIZES[database.dialect]))}


def events(database: Database) -> int:
    """How many the log has."""
    with database.read() as session:
        return int(session.execute(text("SELECT count(*) FROM audit_events")).scalar_one())


def measure(kind: DatabaseKind, folder: Path, url: str, *, people: int, logins: int, tokens: int) -> None:
    """Print every figure; the folder and the database are empty before."""
    write_hr_file(folder / "people.csv", today=TODAY, people=people, faults=0)
    bench = Bench(kind, url, folder, with_rules=False)
    bench.invite()
    database = create_database(Settings(data_dir=folder, database_url=url))
    try:
        marks = [(sizes(database), events(database))]

        def note(what: str, times: int) -> None:
            marks.append((sizes(database), events(database)))
            (before, counted), (after, now) = marks[-2:]
            grown = {name: size - before.get(name, 0) for name, size in after.items()}
            log = sum(size for name, size in grown.items() if name.startswith(_LOG))
            bench.note(f"{what}, without the log", (sum(grown.values()) - log) / times, "bytes")
            bench.note(f"{what}, its events of the log", log / times, "bytes")
            bench.note(f"{what}: events", (now - counted) / times, "")
            for name, size in sorted(grown.items(), key=lambda each: -each[1])[:8]:
                print(f"      {name:<30} {size / times:10,.0f} bytes")

        bench.take("import", folder / "people.csv")
        note("a person", people)
        bench.use(logins=20, tokens=20)  # and the search index is tended
        marks.append((sizes(database), events(database)))
        bench.use(logins=logins)
        note("a sign-in at the portal", logins)
        bench.use(tokens=tokens)
        note("a token", tokens)
    finally:
        database.dispose()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--logins", type=int, default=1_000)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--database", choices=KINDS, nargs="*", default=KINDS)
    options = parser.parse_args()
    for kind in options.database:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idhub-disk-")))
            databases = Databases(folder / "server")
            stack.callback(databases.close)
            url = stack.enter_context(databases.fresh(kind, folder, migrated=False))
            measure(kind, folder, url, people=options.people, logins=options.logins, tokens=options.tokens)


if __name__ == "__main__":
    main()
