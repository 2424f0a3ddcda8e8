"""How fast an application is filled: a run over all accounts, through queue, channel and client, and its group.

    python -m tests.benchmarks.initial_load [--accounts 2000]

The service is one of this process (`tests/provisioning/quirky.py`), so that what is measured is the hub's own part of
an account: lease, look-up, create, note, settle, and the group's membership changes in parts.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from idhub.access.tables import Account
from idhub.changes import SYSTEM, use_sealer
from idhub.db import create_database
from idhub.delivery.loop import DeliveryLoop
from idhub.keys import MasterKey, load_keyring
from idhub.migrations import migrate
from idhub.provisioning.outbound import sync, upkeep
from idhub.provisioning.outbound.channel import ScimChannel
from idhub.provisioning.outbound.groups import set_wanted
from idhub.provisioning.outbound.options import WantedGroup
from idhub.provisioning.outbound.tables import OutboundMember
from idhub.settings import Settings
from tests.provisioning.conftest import Scene
from tests.provisioning.quirky import Quirks, QuirkyHttp
from tests.support.clock import Clock

_LIMIT = 600.0


def measure(accounts: int = 2_000) -> list[dict[str, Any]]:
    """Accounts and members a second on the embedded default, as lines of `make bench`."""
    with tempfile.TemporaryDirectory() as folder:
        loaded, joined = _loaded(Path(folder), f"sqlite:///{folder}/idhub.db", accounts)
    figures = (("initial load", loaded, "accounts/s"), ("group of all", joined, "members/s"))
    return [
        {"name": name, "value": round(value), "unit": unit, "database": "sqlite", "durability": "normal"}
        for name, value, unit in figures
    ]


def _loaded(folder: Path, url: str, accounts: int) -> tuple[float, float]:
    settings = Settings(data_dir=folder, database_url=url)
    database = create_database(settings)
    migrate(database)
    now = datetime.now(UTC)
    keyring = load_keyring(database, MasterKey.load(folder / "master.key", create=True), now=now)
    use_sealer(database, keyring)
    clock = Clock(now)
    scene = Scene(database, keyring, clock, settings)
    scene.company()
    service, application = scene.quirks(Quirks())
    for number in range(accounts):
        scene.entitle(scene.person(f"p{number}"), application)
    with database.transaction() as session:
        sync.start(session, application, now=now, actor=SYSTEM, door="cli")
    channel = ScimChannel(database, keyring, QuirkyHttp(service), timeout=timedelta(seconds=10))

    def real() -> datetime:
        return datetime.now(UTC)

    loop = DeliveryLoop(database, settings, {"scim": channel}, clock=real, worker="bench")

    async def until(done: Any) -> float:
        stop = asyncio.Event()
        working = asyncio.create_task(loop.run(stop))
        began = time.perf_counter()
        while time.perf_counter() - began < _LIMIT and not await asyncio.to_thread(done):
            await asyncio.to_thread(upkeep.tend, database, now=real())
            await asyncio.sleep(0.02)
        took = time.perf_counter() - began
        stop.set()
        await working
        return took

    def all_there() -> bool:
        with database.read() as session:
            alive = select(func.count()).where(Account.application_id == application, Account.known_state == "active")
            return session.scalar(alive) == accounts

    def all_members() -> bool:
        with database.read() as session:
            return session.scalar(select(func.count()).select_from(OutboundMember)) == accounts

    loaded = accounts / asyncio.run(until(all_there))
    with database.transaction() as session:
        set_wanted(session, application, [WantedGroup("role", "member", "Everybody")], now=real())
    loop = DeliveryLoop(database, settings, {"scim": channel}, clock=real, worker="bench")
    joined = accounts / asyncio.run(until(all_members))
    database.dispose()
    if len(service.users) != accounts:
        raise SystemExit(f"{len(service.users)} accounts instead of {accounts}")
    return loaded, joined


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=2_000)
    options = parser.parse_args()
    for row in measure(options.accounts):
        print(f"{row['database']:<11} {row['name']}: {row['value']:,} {row['unit']}")


if __name__ == "__main__":
    main()
