"""Migrations: an empty database becomes exactly what the code's tables say, once, whoever asks."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

import idhub.migrations
from idhub.db import Database, create_database
from idhub.migrations import HEAD, current_revision, head_revision, is_current, migrate
from idhub.migrations.schema import target_metadata
from idhub.settings import Settings

# An index of an expression is not compared: that it is there and used, plans show (tests/api/test_scim_plans.py,
# tests/delivery/test_queue.py).
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
    assert is_current(database)
    assert migrate(database) == head_revision()
    assert is_current(database)


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
