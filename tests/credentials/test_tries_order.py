"""Failed tries of several processes at once: counters are held in one order, so that no two wait for each other."""

import asyncio
import random
import threading
from typing import Any

import pytest
from sqlalchemy import text

from idhub.credentials import pinned
from idhub.credentials.operations import Operation
from idhub.credentials.store import Store
from idhub.login import throttling
from tests.credentials.test_store import using
from tests.oidc.world import World

pytestmark = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
_PROCESSES = 3
_ROUNDS = 30


def _deadlocks(world: World) -> int:
    with world.database.read() as session:
        asked = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(session.execute(text(asked)).scalar_one())


def test_tries_of_several_processes_wait_in_no_circle(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same people tried from the same addresses with the same passwords, some of them right."""
    # A circle is found out before anybody loses patience.
    settings = {**pinned._SERVER_SETTINGS, "lock_timeout": "5000", "deadlock_timeout": "10"}
    monkeypatch.setattr(pinned, "_SERVER_SETTINGS", settings)
    now, admitted = world.clock(), [0] * _PROCESSES

    def process(number: int) -> None:
        dice = random.Random(number)

        def succeeding(attempt: throttling.Attempt) -> Operation[None]:
            counters = yield throttling.looking(world.keyring, attempt)
            seen = throttling.judge(world.keyring, attempt, counters, now=now)
            yield from throttling.succeeding(world.keyring, attempt, seen, now=now)

        async def trying(store: Store) -> None:
            name, address = f"per_{dice.randrange(12)}:0", f"203.0.113.{dice.randrange(12)}"
            attempt = throttling.Attempt(name, address, password=f"{dice.randrange(3):04x}")
            admission: Any = await store.write(lambda: throttling.claiming(world.keyring, attempt, now=now))
            admitted[number] += admission.is_admitted
            if dice.random() < 0.9:
                await store.write(lambda: succeeding(attempt))

        async def work(store: Store) -> None:
            for _ in range(_ROUNDS):
                await asyncio.gather(*(trying(store) for _ in range(12)))

        using(world, work)

    before = _deadlocks(world)
    threads = [threading.Thread(target=process, args=(number,)) for number in range(_PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert min(admitted) > 0
    # What a connection has seen is told when it is closed.
    assert _deadlocks(world) == before
