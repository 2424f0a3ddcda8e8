"""How fast the audit log is, and that it loses nothing around a long transaction: `python -m tests.benchmarks.audit`.

`measure()` returns a list of `{name, value, unit, database, durability}`; larger is better unless the unit is seconds.
Sizes are those of the targets; `IDHUB_BENCH_SCALE=0.1` runs a tenth.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import uvloop
from sqlalchemy import create_engine, select
from sqlalchemy.engine import make_url

from audit.arrivals import count_waiting
from audit.checkpoint import VerifyingKey
from audit.errors import StaleSequencer
from audit.events import Actor, Event, EventType
from audit.live import verify_database
from audit.tables import audit_events, event_place
from audit.trail import append, event_rows, insert
from audit.verify import verify_export
from idhub.credentials.operations import DURABLE, Operation, record
from idhub.credentials.store import create_store
from idhub.db import begin_immediate, create_database
from idhub.keys import MasterKey
from idhub.settings import Settings
from tests.audit.support import Trail
from tests.benchmarks.copied_log import log_copied
from tests.support.databases import DatabaseKind
from tests.support.postgres import postgres_server

Figure = dict[str, Any]
_SCALE: Final = float(os.environ.get("IDHUB_BENCH_SCALE", "1"))
_BATCH: Final = 1_000
_ROUNDS: Final = 3
_WRITERS_OF_BATCHES: Final = 3
_REQUESTS: Final = 64
_NOW: Final = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
_WAITING: Final = "SELECT count(*) FROM audit_events WHERE id NOT IN (SELECT event_row FROM audit_positions)"
_MASTER: Final = MasterKey(bytes(range(32)))


def token_event(_: int = 0) -> Event:
    """A credential that was issued: what a busy hub writes most."""
    return Event(
        type=EventType.TOKEN_ISSUED,
        at=_NOW,
        actor=Actor("client", "cli_06h0f61bu001f66bd6o9u4ugng", "office"),
        door="token",
        target_kind="client",
        target_id="cli_06h0f61bu001f66bd6o9u4ugng",
        application_id="app_06h0f61bu001f66bd6o9u4ugng",
        details={"grant": "client_credentials", "scope": "read"},
    )


def hired_event(number: int) -> Event:
    """A person of an import, with five personal values: what an HR file writes most."""
    person_id = f"per_06h0f61bu001f66bd6o{number:07d}"
    return Event(
        type=EventType.PERSON_ONBOARDED,
        at=_NOW,
        actor=Actor("service", "svc_hr", "HR feed"),
        door="hr_file",
        target_kind="person",
        target_id=person_id,
        person_id=person_id,
        organization_id="org_06h0f61bu001f66bd6o9u4ugng",
        details={"standing": "active", "number": f"QY{number}", "starts_at": "2020-01-01T00:00:00+08:00"},
        personal={
            "display_name": "王磊",
            "given_name": "磊",
            "family_name": "王",
            "email": f"p{number}@qiyue.example",
            "mobile": "13800138000",
        },
    )


@contextmanager
def trail_on(kind: DatabaseKind, *, durable: bool = True) -> Iterator[Trail]:
    """An empty trail; on the disk of this machine when `durable`, with every flush that the database makes."""
    folder = Path(tempfile.mkdtemp(prefix="idhub-bench-", dir="/var/tmp" if durable else None))  # noqa: S108 - own folder
    try:
        if kind == "sqlite":
            path = folder / "trail.db"
            opened = sqlite3.connect(path)
            opened.execute("PRAGMA journal_mode=WAL")
            opened.close()
            yield _made(f"sqlite:///{path}", folder)
            return
        flushed = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"} if durable else {}
        with postgres_server(on_disk=durable, **flushed) as server:
            yield _made(server.create("bench").replace("postgresql://", "postgresql+psycopg://"), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _made(url: str, folder: Path) -> Trail:
    trail = Trail(url, folder)
    trail.sealer = _MASTER
    return trail


def _best(work: Callable[[], tuple[int, float]]) -> float:
    """Things a second in the median of three rounds, each of which says how many in how many seconds."""
    rates = []
    for _ in range(_ROUNDS):
        gc.collect()
        done, seconds = work()
        rates.append(done / seconds)
    return sorted(rates)[len(rates) // 2]


def _timed(work: Callable[[], int]) -> Callable[[], tuple[int, float]]:
    def timed() -> tuple[int, float]:
        started = time.perf_counter()
        done = work()
        return done, time.perf_counter() - started

    return timed


def _figure(name: str, value: float, unit: str = "events/s", database: str = "-", durability: str = "-") -> Figure:
    return {"name": name, "value": round(value, 3), "unit": unit, "database": database, "durability": durability}


def building() -> list[Figure]:
    """Rows made of events, without a database."""
    figures = []
    for name, make in (("token", token_event), ("person with five personal values", hired_event)):
        events = [make(number) for number in range(_BATCH)]

        def build(events: list[Event] = events) -> int:
            for _ in range(10):
                event_rows(events, sealer=_MASTER)
            return 10 * len(events)

        figures.append(_figure(f"audit: rows built, {name}", _best(_timed(build))))
    return figures


def _append_batches(
    url: str, batches: int, size: int, make: Callable[[int], Event], begin: Callable[[], object] = lambda: None
) -> int:
    """Append batches on one connection, when everything is ready and `begin` has returned."""
    engine = create_engine(make_url(url))
    events = [make(number) for number in range(size)]
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA busy_timeout=30000")
            connection.exec_driver_sql("PRAGMA synchronous=FULL")
            # As in `serve`: somebody else copies the log back (`log_copied`).
            connection.exec_driver_sql("PRAGMA wal_autocheckpoint=0")
        connection.commit()
    begin()
    for _ in range(batches):
        # Before the transaction, as whoever has many does it: on SQLite one writes at a time.
        rows = event_rows(events, sealer=_MASTER)
        with engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                begin_immediate(connection.connection.driver_connection, engine.url.database or "")
            insert(connection, rows)
            connection.commit()
    engine.dispose()
    return batches * size


def _recorded(trail: Trail, requests: int, each: int) -> tuple[int, float]:
    """Single events of so many requests at once, by the hub's store: each is answered when its event is durable."""
    settings = Settings(data_dir=trail.folder, database_url=trail.engine.url.render_as_string(hide_password=False))
    database = create_database(settings)

    def operation() -> Operation[None]:
        yield DURABLE, {}
        yield record([token_event()])

    async def work() -> float:
        store = create_store(settings, database, _MASTER)

        async def request() -> None:
            for _ in range(each):
                await store.write(operation)

        try:
            await store.write(operation)
            began = time.perf_counter()
            await asyncio.gather(*[request() for _ in range(requests)])
            return time.perf_counter() - began
        finally:
            await store.close()

    try:
        # The loop that serves: timers and threads cost less.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return requests * each, runner.run(work())
    finally:
        database.dispose()


def _path_of(url: str) -> str | None:
    """The file of an SQLite database; None: it is none."""
    return make_url(url).database if url.startswith("sqlite") else None


def _in_processes(count: int, work: Callable[[Callable[[], object]], int]) -> tuple[int, float]:
    """Run the same work in processes of their own: how much all did, in how many seconds from when all were ready."""
    context = multiprocessing.get_context("fork")
    ready, queue = context.Barrier(count + 1), context.Queue()
    running = [context.Process(target=lambda: queue.put(work(ready.wait))) for _ in range(count)]
    for one in running:
        one.start()
    ready.wait(timeout=60)
    started = time.perf_counter()
    done = sum(queue.get(timeout=600) for _ in running)
    seconds = time.perf_counter() - started
    for one in running:
        one.join()
        if one.exitcode:
            raise RuntimeError("a writer failed")
    return done, seconds


def appending(kind: DatabaseKind) -> list[Figure]:
    """Events into the tables: in batches, and each in a transaction of its own."""
    figures = []
    durability = "FULL" if kind == "sqlite" else "synchronous_commit=on"
    processes = _WRITERS_OF_BATCHES
    singles = 1 if kind == "sqlite" else 8
    with trail_on(kind) as trail:
        url = trail.engine.url.render_as_string(hide_password=False)

        def batched() -> tuple[int, float]:
            batches = max(1, round(60 * _SCALE / processes))
            return _in_processes(processes, lambda begin: _append_batches(url, batches, _BATCH, token_event, begin))

        def alone() -> tuple[int, float]:
            each = max(50, round(3_000 * _SCALE / singles))
            return _in_processes(singles, lambda begin: _append_batches(url, each, 1, token_event, begin))

        def at_once() -> tuple[int, float]:
            return _recorded(trail, _REQUESTS, max(5, round(200 * _SCALE)))

        named: list[tuple[str, Callable[[], tuple[int, float]]]] = [
            (f"audit: appended, batches of 1,000 tokens, {processes} writers", batched),
            (f"audit: appended, each durable by itself, {singles} writers", alone),
            (f"audit: appended, each durable by itself, {_REQUESTS} requests of the hub at once", at_once),
        ]
        if kind == "sqlite":
            people = _timed(lambda: _append_batches(url, 5, 1_000, hired_event))
            named.append(("audit: appended, batches of 1,000 people", people))
        with log_copied(_path_of(url)):
            for name, work in named:
                figures.append(_figure(name, _best(work), database=kind, durability=durability))
        started = time.perf_counter()
        result = trail.sequencer.run_once(_NOW, checkpoint=True)
        rate = result.appended / (time.perf_counter() - started)
        figures.append(_figure("audit: sequenced", rate, database=kind, durability=durability))
    return figures


def verifying() -> list[Figure]:
    """An export of tokens, verified in one process."""
    with trail_on("sqlite", durable=False) as trail:
        batches = max(1, round(30 * _SCALE))
        count = batches * 10_000
        for _ in range(batches):
            trail.append(*[token_event()] * 10_000)
            trail.sequencer.run_once(_NOW, checkpoint=True)
        path = trail.export()

        def verify() -> int:
            result = verify_export(path, keys=trail.keys)
            if not result.is_valid or result.events != count:
                raise RuntimeError(f"the export is not valid: {result.findings[:3]}")
            return count

        export = _figure("audit: verified, an export", _best(_timed(verify)))

        def verify_live() -> int:
            with trail.engine.connect() as connection:
                result = verify_database(connection, trail.keys, trail.witness, sealer=_MASTER)
            if not result.is_valid:
                raise RuntimeError(f"the tables are not valid: {result.findings[:3]}")
            return result.events

        return [export, _figure("audit: verified, live tables", _best(_timed(verify_live)), database="sqlite")]


@dataclass(frozen=True, slots=True)
class Around:
    """What came of events that were committed around a transaction held open."""

    committed: int
    seconds: float
    longest_lag: float
    """Seconds that a committed event waited for its place, at most, while nothing was held."""
    waiting_while_held: int
    placed: list[str]
    """Ids in order of their places."""
    acknowledged: list[list[str]]
    """For each writer, the ids in the order in which it was told that they are durable."""
    held: list[str]


def around_a_held_transaction(
    trail: Trail, *, events: int, writers: int = 4, candidates: int = 3, hold_for: float = 1.0
) -> Around:
    """Commit `events` from several processes while a transaction is held open and several sequencers compete.

    On PostgreSQL the transaction has written an event itself and commits last. On SQLite, where a held writer lets
    nobody else write, it is a reader's snapshot.
    """
    url = trail.engine.url.render_as_string(hide_password=False)
    each, size = events // writers, 50
    context = multiprocessing.get_context("fork")
    queue: Any = context.Queue()
    stop = context.Event()
    held_ids: list[str] = []
    longest = waiting = 0.0
    with trail.engine.connect() as holder:
        if trail.is_postgresql:
            held_ids = append(holder, [token_event()], sealer=_MASTER)
        else:
            holder.exec_driver_sql("BEGIN")
            holder.execute(select(audit_events.c.id).limit(1)).all()
        started = time.perf_counter()
        running = [context.Process(target=_write, args=(url, each, size, queue)) for _ in range(writers)]
        rivals = [
            context.Process(target=_compete, args=(url, trail.signer, str(trail.folder), f"rival-{n}", stop))
            for n in range(candidates)
        ]
        for process in (*running, *rivals):
            process.start()
        acknowledged = []
        released = threading.Timer(hold_for, lambda: None)
        released.start()
        released.join()
        with trail.engine.connect() as look:
            waiting = look.exec_driver_sql(_WAITING).scalar_one()
        holder.commit()
        for _ in running:
            acknowledged.append(queue.get(timeout=600))
        committed = time.perf_counter() - started
        for process in running:
            process.join()
    caught_up_from = time.perf_counter()
    while True:
        with trail.engine.connect() as look:
            left, _ = count_waiting(look)
        if not left:
            break
        if time.perf_counter() - caught_up_from > 300:
            raise RuntimeError(f"{left} events have no place after five minutes")
        time.sleep(0.02)
    longest = time.perf_counter() - caught_up_from
    stop.set()
    for process in rivals:
        process.join()
    with trail.engine.connect() as look:
        placed = list(
            look.execute(
                select(audit_events.c.event_id).where(event_place.is_not(None)).order_by(event_place)
            ).scalars()
        )
    return Around(len(placed), committed, longest, int(waiting), placed, acknowledged, held_ids)


def _write(url: str, count: int, size: int, queue: Any) -> None:
    engine = create_engine(make_url(url))
    ids: list[str] = []
    for _ in range(count // size):
        with engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA busy_timeout=60000")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            made = append(connection, [token_event()] * size, sealer=_MASTER)
            connection.commit()
        ids += made
    queue.put(ids)
    engine.dispose()


def _compete(url: str, signer: Any, folder: str, owner: str, stop: Any) -> None:
    trail = Trail.__new__(Trail)
    trail.engine = create_engine(make_url(url), connect_args={"timeout": 60} if url.startswith("sqlite") else {})
    trail.signer, trail.folder = signer, Path(folder)
    from audit.checkpoint import FileWitness

    trail.witness = FileWitness(trail.folder / "witness.jsonl")
    sequencer = trail.new_sequencer(owner)
    while not stop.is_set():
        try:
            sequencer.run_once(datetime.now(UTC))
        except StaleSequencer:
            continue
        time.sleep(0.05)
    trail.engine.dispose()


def holding(kind: DatabaseKind) -> list[Figure]:
    """10^5 events around a held transaction; raises when one is skipped or doubled."""
    with trail_on(kind, durable=False) as trail:
        came = around_a_held_transaction(trail, events=round(100_000 * _SCALE), hold_for=10 * _SCALE)
        check_around(trail, came, trail.keys)
    named = f"audit: {came.committed:,} events around a held transaction"
    return [
        _figure(f"{named}, committed", came.committed / came.seconds, database=kind, durability="off"),
        _figure(f"{named}, waiting while it was held", came.waiting_while_held, "events", kind, "off"),
        _figure(f"{named}, all placed after the last commit", came.longest_lag, "seconds", kind, "off"),
    ]


def check_around(trail: Trail, came: Around, keys: list[VerifyingKey]) -> None:
    """None skipped, none doubled, each writer's events in its order, and the log verifies.

    Raises:
        AssertionError: what does not hold.
    """
    told = [one for ids in came.acknowledged for one in ids] + came.held
    if sorted(told) != sorted(came.placed):
        raise AssertionError(f"{len(told)} events were acknowledged, {len(came.placed)} have a place")
    place = {one: number for number, one in enumerate(came.placed)}
    for ids in came.acknowledged:
        if [place[one] for one in ids] != sorted(place[one] for one in ids):
            raise AssertionError("a writer's events are not in the order in which it committed them")
    trail.sequencer = trail.new_sequencer("last")
    trail.sequencer.run_once(datetime(2099, 1, 1, tzinfo=UTC), checkpoint=True)
    with trail.engine.connect() as connection:
        result = verify_database(connection, keys, trail.witness)
    if result.findings or result.size != len(told):
        raise AssertionError(f"the log does not verify: {result.findings[:3]}")


def measure() -> list[Figure]:
    """Every figure of the audit log."""
    figures = [*building(), *verifying()]
    kinds: tuple[DatabaseKind, ...] = ("sqlite", "postgresql")
    for kind in kinds:
        figures += appending(kind)
    for kind in kinds:
        figures += holding(kind)
    return figures


def main() -> None:
    """Print the figures as JSON lines, each as soon as it is known."""
    parts: dict[str, Callable[[], list[Figure]]] = {
        "building": building,
        "verifying": verifying,
        "sqlite": lambda: appending("sqlite"),
        "postgresql": lambda: appending("postgresql"),
        "hold-sqlite": lambda: holding("sqlite"),
        "hold-postgresql": lambda: holding("postgresql"),
    }
    for name in sys.argv[1:] or parts:
        for figure in parts[name]():
            print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
