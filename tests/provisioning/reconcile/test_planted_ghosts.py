"""Planted ghosts: every one is found by its name, and nobody is accused falsely; 500 people, four applications.

The full size is `make ghosts`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from idhub.changes import use_sealer
from idhub.db import Database
from idhub.keys import Keyring
from idhub.settings import Settings
from tests.benchmarks import ghosts


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)
def test_every_planted_ghost_is_found_and_nobody_else(
    database: Database, keyring: Keyring, settings: Settings, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    use_sealer(database, keyring)
    world = ghosts.World(people=500, applications=4, planted=3)
    with ghosts.serve(world) as base:
        ghosts.build(database, keyring, world)
        ghosts.connect(database, world, base)
        outcome = ghosts.find(database, keyring, settings, world, base)
    assert set(world.plants.values()) == set(ghosts.ACCOUNT_KINDS)
    assert outcome.missed == {}
    assert outcome.false == {}
    assert outcome.reports[-1].found == {}, "the last application is the clean one"
    planted, found = ghosts.payroll(database, keyring, world, tmp_path)
    assert planted
    assert found == planted
    figure(f"planted ghosts: {outcome.planted + len(planted)} of {outcome.accounts} accounts found, 0 false")
