"""Databases of a version before: what a migration makes of their rows."""

from alembic import command
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from idhub.migrations import _config


def migrate_to(url: str, revision: str) -> None:
    """Bring a database to a revision, as that revision's version would have left it; `head` is the newest."""
    engine = create_engine(make_url(url))
    with engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
    engine.dispose()
