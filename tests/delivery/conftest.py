"""A database with two applications to deliver to."""

from collections.abc import Callable, Iterator

import pytest
import structlog
from sqlalchemy import insert

from idhub.access.tables import Application, Criticality
from idhub.changes import use_sealer
from idhub.db import Database
from idhub.directory.kinds import OrganizationKind
from idhub.directory.tables import Organization
from idhub.keys import Keyring
from tests.support.clock import Clock


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    """Structlog's own way of showing exceptions draws tables of local variables, which takes seconds."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
    yield
    structlog.reset_defaults()


@pytest.fixture
def hub(database: Database, keyring: Keyring, clock: Clock) -> Database:
    """The test's database, able to record events, with the applications `app_a` and `app_b`."""
    use_sealer(database, keyring)
    with database.transaction() as session:
        session.execute(
            insert(Organization).values(
                id="org_1",
                kind=OrganizationKind.GROUP,
                code="G",
                name="集团",
                time_zone="Asia/Shanghai",
                created_at=clock(),
            )
        )
    add_applications(database, ["app_a", "app_b"], clock)
    return database


def add_applications(database: Database, ids: list[str], clock: Callable[[], object]) -> None:
    """Make applications with these ids."""
    rows = [
        {
            "id": name,
            "slug": name.replace("_", "-"),
            "name": name,
            "organization_id": "org_1",
            "criticality": Criticality.NORMAL,
            "revocation_deadline_seconds": 3600,
            "is_enabled": True,
            "created_at": clock(),
            "changed_at": clock(),
        }
        for name in ids
    ]
    with database.transaction() as session:
        session.execute(insert(Application), rows)
