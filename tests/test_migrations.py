"""Migrations: an empty database becomes exactly what the code's tables say, once, whoever asks."""

import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

import idhub.migrations
from idhub.db import Database, create_database
from idhub.errors import Unavailable
from idhub.health import readiness
from idhub.migrations import HEAD, Fit, _fit, current_revision, fit, head_revision, migrate
from idhub.migrations.schema import target_metadata
from idhub.services import open_hub
from idhub.settings import Settings
from tests.support.migrating import migrate_to

# An index of an expression is not compared: that it is there and used, plans show (tests/api/test_scim_plans.py,
# tests/delivery/test_queue.py).
_INSTALLED = "INSERT INTO installation (id, epoch, created_at, rules_version, evaluated_version) VALUES (1, 1, 0, 1, 1)"
_BY_EXPRESSION = frozenset({"ix_people_display_name", "ix_deliveries_state"})


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index")
def test_migrated_schema_is_what_the_tables_say(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": False,
                "include_object": lambda _object, name, _kind, _reflected, _other: name not in _BY_EXPRESSION,
            },
        )
        # Several MetaData are accepted; the annotation names one.
        differences = compare_metadata(context, target_metadata)  # type: ignore[arg-type]
    assert differences == []


def test_newest_revision_is_the_one_the_code_names() -> None:
    scripts = ScriptDirectory(str(Path(idhub.migrations.__file__).parent))
    assert scripts.get_current_head() == HEAD


def test_every_table_of_the_hub_is_in_the_migrations() -> None:
    """A table of a module that the list of owners forgets exists only in processes that import it."""
    program = (
        "from idhub.migrations.schema import target_metadata; from idhub.db import Base; "
        "listed = {name for one in target_metadata for name in one.tables}; import idhub.app, idhub.cli.loading; "
        "idhub.cli.loading.load_commands(); "
        "print(*sorted(set(Base.metadata.tables) - listed))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_migrating_again_changes_nothing(database: Database) -> None:
    assert fit(database) is Fit.CURRENT
    assert migrate(database) == head_revision()
    assert fit(database) is Fit.CURRENT


@pytest.mark.parametrize(
    ("revision", "before", "expected"),
    [
        ("r0000", None, Fit.BEHIND),
        ("r9998", HEAD, Fit.NEXT),
        ("r9999", "r9998", Fit.BEYOND),
        ("r9999", None, Fit.BEYOND),
    ],
)
def test_the_version_before_goes_on_with_a_newer_schema_and_no_other(
    database: Database, settings: Settings, revision: str, before: str | None, expected: Fit
) -> None:
    with database.engine.begin() as connection:
        connection.execute(text(_INSTALLED))
        connection.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": revision})
        connection.execute(text("UPDATE installation SET schema_before = :before"), {"before": before})
    assert fit(database) is expected
    if expected is Fit.BEHIND:
        return
    assert migrate(database) == HEAD
    with database.engine.connect() as connection:
        assert current_revision(connection) == revision
    if expected is Fit.NEXT:
        with closing(open_hub(settings)) as hub:
            ready = {finding.name: finding for finding in readiness(hub, now=hub.clock())}["migrations"]
        assert ready.is_ok
        assert ready.detail.startswith("of the version after this one")
    else:
        with pytest.raises(Unavailable, match="of a later version"):
            open_hub(settings)


def test_a_migration_says_from_where_it_came(database_url: str, settings: Settings) -> None:
    migrate_to(database_url, "r0031")
    opened = create_database(settings)
    with opened.engine.begin() as connection:
        connection.execute(text(_INSTALLED))
    assert migrate(opened) == "r0031"
    with opened.engine.connect() as connection:
        assert _fit(connection, "r0031") is Fit.NEXT
        assert _fit(connection, "r0030") is Fit.BEYOND
    opened.dispose()


def test_several_processes_migrate_an_empty_database_once(settings: Settings, database_url: str) -> None:
    assert database_url
    errors: list[BaseException] = []
    start = threading.Barrier(4)

    def work() -> None:
        own = create_database(settings)
        try:
            start.wait()
            migrate(own)
        except BaseException as error:
            errors.append(error)
        finally:
            own.dispose()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    opened = create_database(settings)
    try:
        with opened.engine.connect() as connection:
            assert current_revision(connection) == head_revision()
        assert {"principals", "deliveries", "audit_events"} <= set(inspect(opened.engine).get_table_names())
    finally:
        opened.dispose()
