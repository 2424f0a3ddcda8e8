"""A SCIM sender of a hub that a whole module shares: what a test made, it takes away again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from idhub.db import create_database
from idhub.keys import MasterKey, load_keyring
from idhub.settings import Settings
from tests.api.test_scim import Scim
from tests.api.world import Api, serving
from tests.lifecycle.world import World
from tests.support.clock import Clock
from tests.support.databases import DatabaseKind, Databases


@contextmanager
def shared_hub(databases: Databases, kind: DatabaseKind, folder: Path) -> Iterator[Api]:
    """The small group's API on a database of its own."""
    with databases.fresh(kind, folder, migrated=True) as url:
        settings = Settings(
            data_dir=folder, database_url=url, database_pool_size=8, argon2_memory_kib=1024, argon2_time_cost=1
        )
        shutil.copy(databases.master_key_file, settings.effective_master_key_file)
        database, clock = create_database(settings), Clock()
        try:
            keyring = load_keyring(
                database, MasterKey.load(settings.effective_master_key_file, create=False), now=clock()
            )
            with serving(World(database, keyring, clock), settings) as api:
                yield api
        finally:
            database.dispose()


def clear(scim: Scim) -> None:
    """Delete every resource that the sender sees."""
    for kind in ("Groups", "Users"):
        for resource in scim.ok("GET", f"/{kind}", params={"count": 1000})["Resources"]:
            assert scim.call("DELETE", f"/{kind}/{resource['id']}").status_code == 204
