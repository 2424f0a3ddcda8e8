"""How fast an application is filled: a run over all accounts, by the worker of `idhub serve`, and then its group.

    python -m tests.benchmarks.initial_load [--accounts 2000] [--database sqlite|postgresql] [--tenths]

The application answers at once and in a process of its own (`tests/benchmarks/instant_applications.py`), so that what
is measured is the hub's own part of an account: lease, look-up, create, note, settle, seal; and the group's membership
changes in parts. `--tenths` prints how each tenth of the accounts went: rate, processor time and memory of
`serve` and of the process that it calls.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, select

from idhub.access.tables import Account
from idhub.changes import SYSTEM
from idhub.provisioning.outbound import sync
from idhub.provisioning.outbound.groups import set_wanted
from idhub.provisioning.outbound.options import WantedGroup
from idhub.provisioning.outbound.tables import OutboundMember
from tests.benchmarks.leaving import Kind, Row, World, world_of
from tests.benchmarks.leaving_world import application_id, seed_access
from tests.support.databases import analyze

_EVERY = 0.2
"""Seconds between two looks: each counts accounts."""
_SILENCE = 60.0
"""Seconds without anything done after which it is given up."""


def measure(
    accounts: int = 2_000, kinds: Sequence[Kind] = ("sqlite", "postgresql"), *, shows_tenths: bool = False
) -> list[Row]:
    """Accounts and members a second on each database, as lines of `make bench`."""
    rows: list[Row] = []
    for kind in kinds:
        with world_of(kind, accounts, applications=1, are_empty=True) as world:
            _fill(world, accounts, shows_tenths=shows_tenths)
            rows += world.rows
    return rows


def _fill(world: World, accounts: int, *, shows_tenths: bool) -> None:
    database, now, there = world.hub.database, datetime.now(UTC), application_id(0)
    with database.transaction() as session:
        seed_access(session, range(accounts), [0], now=now, are_made=False)
    analyze(database)
    alive = select(func.count()).where(Account.application_id == there, Account.known_state == "active")
    members = select(func.count()).select_from(OutboundMember)

    def counted(statement: object) -> int:
        with database.read() as session:
            return int(session.execute(statement).scalar_one())  # type: ignore[call-overload]

    with world.serve() as served:
        with database.transaction() as session:
            sync.start(session, there, now=datetime.now(UTC), actor=SYSTEM, door="cli")
        before = _used(served.pid)
        told = _Tenths(world, served.pid, accounts) if shows_tenths else None
        took = _until(lambda: counted(alive), accounts, told)
        world.say("initial load", accounts / took, "accounts/s")
        world.say("initial load: processor time of serve", 1e6 * (_used(served.pid) - before) / accounts, "us/account")
        with database.transaction() as session:
            set_wanted(session, there, [WantedGroup("role", "member", "Everybody")], now=datetime.now(UTC))
        world.say("group of all", accounts / _until(lambda: counted(members), accounts), "members/s")
    seen = world.applications.seen()[0]
    if (seen["made"], seen["members"]) != (accounts, accounts):
        raise SystemExit(f"{seen['made']} accounts and {seen['members']} members instead of {accounts}")


def _until(done: Callable[[], int], wanted: int, told: Callable[[int], None] | None = None) -> float:
    """Seconds until so many are done."""
    began = moved = time.monotonic()
    before = 0
    while (many := done()) < wanted:
        if told is not None:
            told(many)
        if many > before:
            before, moved = many, time.monotonic()
        if time.monotonic() - moved > _SILENCE:
            raise SystemExit(f"{many} of {wanted} were done, and no more in {_SILENCE:.0f} s")
        time.sleep(_EVERY)
    if told is not None:
        told(wanted)
    return time.monotonic() - began


class _Tenths:
    """Tells how each tenth went."""

    def __init__(self, world: World, pid: int, accounts: int) -> None:
        self._world, self._pid, self._accounts = world, pid, accounts
        self._shown = 0
        self._mark = (0, time.monotonic(), _used(pid))

    def __call__(self, many: int) -> None:
        if 10 * many < (self._shown + 1) * self._accounts:
            return
        self._shown = 10 * many // self._accounts
        done, at, used = self._mark
        self._mark = (many, time.monotonic(), _used(self._pid))
        part, title = many - done, f"initial load, until account {many:,}"
        self._world.say(title, part / (self._mark[1] - at), "accounts/s")
        self._world.say(f"{title}: processor time of serve", 1e6 * (self._mark[2] - used) / part, "us/account")
        self._world.say(f"{title}: memory of serve", _resident(self._pid), "MB")


def _processes(pid: int) -> list[int]:
    """A process and those it has called."""
    every = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError):
            every += map(int, children.read_text().split())
    return every


def _used(pid: int) -> float:
    """Seconds of processor time that a process has taken, with those it has called."""
    ticks = 0
    for one in _processes(pid):
        with suppress(FileNotFoundError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            # Its own, and of those that have ended.
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    """Memory of a process and those it has called in MB."""
    pages = 0
    for one in _processes(pid):
        with suppress(FileNotFoundError):
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=2_000)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--tenths", action="store_true")
    options = parser.parse_args()
    measure(options.accounts, options.database or ("sqlite", "postgresql"), shows_tenths=options.tenths)


if __name__ == "__main__":
    main()
