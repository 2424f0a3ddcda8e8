"""Fixtures that every test may use.

A test that takes `database_url` or `database` runs twice: on SQLite and on a real PostgreSQL server, each time with a
database of its own. To run on one only: `@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)`.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support.clock import Clock

if TYPE_CHECKING:
    from idhub.db import Database
    from idhub.keys import Keyring
    from idhub.settings import Settings
    from tests.support.databases import DatabaseKind, Databases, Furnishing


_LONGEST_ID = 24
# How long an example takes is the machine's business: the first loads dictionaries, and others work beside it.
hypothesis.settings.register_profile("idhub", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("idhub")
# What these say when they fail is all that is known of a trial.
pytest.register_assert_rewrite("tests.flows.fault_checks", "tests.flows.fault_flows", "tests.flows.fault_scene")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Ids that every process of a run agrees on: what is long or random is named by its place alone."""
    if isinstance(val, str | bytes) and len(val) > _LONGEST_ID:
        return argname
    return None


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say what was measured: a line at the end of the run, whichever process of it ran the test."""
    return lambda line: request.node.user_properties.append(("figure", line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests have said."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    said = {
        line: None
        for report in reports
        for name, line in getattr(report, "user_properties", ())
        if name == "figure" and getattr(report, "when", "") == "call"
    }
    if said:
        terminalreporter.section("figures")
        for line in said:
            terminalreporter.line(str(line))


def pytest_collection_finish() -> None:
    """Leave what was collected and imported out of every later collection of garbage: it stays until the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    """Settings in the caller's environment must not decide what a test sees."""
    for name in [name for name in os.environ if name.startswith("IDHUB_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Maker of databases; owns the PostgreSQL server of this run."""
    from tests.support.databases import Databases

    made = Databases(tmp_path_factory.mktemp("databases"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> DatabaseKind:
    """Which of the two databases this run of the test is on."""
    kind: DatabaseKind = request.param
    return kind


@pytest.fixture
def furnishing() -> Furnishing | None:
    """What the test's database begins with: packages whose tests all begin with the same say it here."""
    return None


@pytest.fixture
def database_url(
    request: pytest.FixtureRequest,
    database_kind: DatabaseKind,
    databases: Databases,
    tmp_path: Path,
    furnishing: Furnishing | None,
) -> Iterator[str]:
    """Address of a database of the test's own: migrated when the test also takes `database`, else empty."""
    migrated = "database" in request.fixturenames
    with databases.fresh(database_kind, tmp_path, migrated=migrated, furnishing=furnishing) as url:
        yield url


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a hub in the test's folder, on the test's database where it takes one. Hashing is made cheap."""
    from idhub.settings import Settings

    url: str = request.getfixturevalue("database_url") if "database_url" in request.fixturenames else ""
    return Settings(
        data_dir=tmp_path, database_url=url, database_pool_size=8, argon2_memory_kib=1024, argon2_time_cost=1
    )


@pytest.fixture
def database(database_url: str, databases: Databases, settings: Settings) -> Iterator[Database]:
    """An open, migrated database with nothing in it but signing keys; their master key lies where settings say."""
    from idhub.db import create_database

    shutil.copy(databases.master_key_file, settings.effective_master_key_file)
    opened = create_database(settings)
    try:
        yield opened
    finally:
        opened.dispose()


@pytest.fixture
def clock() -> Clock:
    """Time under control; starts on Monday 23 November 2026, 02:00 UTC (10:00 in Shanghai)."""
    return Clock()


@pytest.fixture
def keyring(database: Database, settings: Settings, clock: Clock) -> Keyring:
    """Keys of every purpose, loaded from the test's database."""
    from idhub.keys import MasterKey, load_keyring

    return load_keyring(database, MasterKey.load(settings.effective_master_key_file, create=False), now=clock())
