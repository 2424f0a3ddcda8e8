"""SCIM lists over many people: how long a page takes alone and under load, and how fast a bulk load goes in.

    python -m tests.benchmarks.scim_pages [--people 1000000] [--database sqlite] [--database postgresql] [--rounds 200]
                                          [--load 500] [--part walk] [--part pages] ...

What is timed is a request from its bytes to the bytes of its answer: token, terms, query, rendering; without HTTP. The
people are those of `tests.benchmarks.search`; no sender has touched any of them, as after an HR import. Everybody is
walked once before, which keeps their documents ready-made; that is a line of its own. "At 70 % load" means: requests of
every kind arrive at random, at 70 % of what one hub gets done in its reading lanes.

A million people take longer to make than to measure: `--at URL --folder FOLDER` fills a database that stays (a folder
of its own for its keys), for at most `--seconds` a run, and measures once it is full; the next run finds it as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
from sqlalchemy import delete, insert, select

from idhub.admission import Admission
from idhub.api.access import caller_asked_first, caller_of
from idhub.api.scim_desk import Desk
from idhub.api.scim_jobs import Jobs, work_jobs
from idhub.api.scim_lanes import Reading, reading_of
from idhub.credentials import opaque
from idhub.credentials.tables import ApiToken
from idhub.db import new_id
from idhub.directory.tables import Installation, Organization, OrganizationClosure
from idhub.lifecycle.doors import Door
from idhub.provisioning.inbound.shown import cursors_of
from idhub.services import Hub, open_hub
from idhub.settings import Settings
from scim.messages import ScimRequest, ScimResponse
from scim.schemas import BULK_REQUEST, ENTERPRISE_USER, USER
from tests.benchmarks import search
from tests.benchmarks.figures import as_line, folder_in_memory, progress, quantile
from tests.support.databases import DatabaseKind, Databases

SMALL = 20_000
PARTS = ("walk", "pages", "load", "company", "bulk")
_SHARE = 0.7
_THREADS = 16
"""As many as a hub has by default."""
_SWITCH_SECONDS = {"sqlite": 0.005, "postgresql": 0.0005}
"""As `idhub serve` sets it."""
_PAGE = 100
_ARRIVALS = 20
"""Requests that arrive under load, for each round: the p99 of few is that of one moment in which many came."""
_WARM = 20
"""Requests of a kind before the first that is timed: connections and plans are made once."""


def main() -> None:
    """Print the figures as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=SMALL)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--load", type=int, default=500, help="people of the bulk load")
    parser.add_argument("--database", action="append", choices=["sqlite", "postgresql"])
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--at", metavar="URL", help="a database that stays")
    parser.add_argument("--folder", type=Path, help="with --at: the folder of its keys")
    parser.add_argument("--seconds", type=float, default=3600.0, help="with --at: how long to fill it")
    options = parser.parse_args()
    size = Size(options.people, options.rounds, options.load, options.part or PARTS)
    if options.at is None:
        _print(measure(size, databases=options.database or ("sqlite", "postgresql")))
    else:
        hub = open_hub(Settings(data_dir=options.folder, database_url=options.at))
        try:
            missing = fill(hub, size.people, seconds=options.seconds)
            if missing:
                raise SystemExit(f"{missing:,} people are missing; call again.")
            _print({"database": hub.database.dialect, "durability": "-", **row} for row in figures(hub, size))
        finally:
            hub.close()


def _print(rows: Iterable[Mapping[str, Any]]) -> None:
    for row in rows:
        print(as_line(row), flush=True)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    people: int = SMALL
    rounds: int = 200
    load: int = 500
    parts: Sequence[str] = PARTS


def measure(size: Size, *, databases: Sequence[DatabaseKind] = ("sqlite", "postgresql")) -> list[dict[str, Any]]:
    """Fill a database of each kind, and measure."""
    rows: list[dict[str, Any]] = []
    for kind in databases:
        with ExitStack() as stack:
            folder = stack.enter_context(folder_in_memory("scim-pages"))
            made = Databases(folder)
            stack.callback(made.close)
            url = stack.enter_context(made.fresh(kind, folder, migrated=False))
            hub = open_hub(Settings(data_dir=folder, database_url=url))
            stack.callback(hub.close)
            fill(hub, size.people)
            rows += [{"database": kind, "durability": "memory", **row} for row in figures(hub, size)]
    return rows


def fill(hub: Hub, people: int, *, seconds: float | None = None) -> int:
    """Put people into a database until there are so many, or for so long. How many are missing."""
    if not search.count_people(hub.database):
        with hub.database.transaction() as session:
            # The people of the search bring their organizations.
            session.execute(delete(OrganizationClosure))
            session.execute(delete(Organization))
    if search.count_people(hub.database) < people:
        search.fill(hub.database, people, seconds=seconds)
    return max(0, people - search.count_people(hub.database))


def figures(hub: Hub, size: Size) -> Iterator[dict[str, Any]]:
    """The parts that are wanted, of a database that is filled, as they come."""
    # Of a server, whose objects of the start are out of the collector's sight, and seldom looked at.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    sys.setswitchinterval(_SWITCH_SECONDS[hub.database.dialect])
    sender, people, rounds = Sender(hub), size.people, size.rounds
    parts: Mapping[str, Callable[[], Iterable[dict[str, Any]]]] = {
        "walk": lambda: first_walk(sender, people),
        "pages": lambda: latencies(sender, people, rounds=rounds),
        "load": lambda: under_load(sender, people, rounds=rounds * 4, arrivals=rounds * _ARRIVALS),
        "company": lambda: of_one_company(hub, people, rounds=rounds),
        "bulk": lambda: bulk_load(sender, size.load),
    }
    for name in PARTS:
        if name in size.parts:
            yield from parts[name]()


class Sender:
    """A token, and requests that it makes."""

    def __init__(self, hub: Hub, organization_id: str | None = None) -> None:
        self.hub = hub
        self.token_id = new_id("tok")
        with hub.database.transaction() as session:
            epoch = session.execute(select(Installation.epoch)).scalar_one()
            session.execute(
                insert(ApiToken).values(
                    id=self.token_id,
                    token_hash=opaque.hash_of(opaque.make("api")),
                    name="bench",
                    installation_epoch=epoch,
                    scopes=["scim:write"],
                    organization_id=organization_id,
                    created_at=hub.clock(),
                    expires_at=hub.clock() + timedelta(days=1),
                    is_local=True,
                )
            )
        self.lacking: Desk | None = None
        self._cursors = cursors_of(hub.keyring, self.desk()[0].sender, None)

    def desk(self) -> tuple[Desk, Any]:
        """As every request opens it."""
        with self.hub.database.read() as session:
            caller = caller_of(session, self.token_id, door=Door.SCIM, now=self.hub.clock())
        assert caller is not None
        return Desk(self.hub, caller), caller

    def get(self, **query: str) -> ScimResponse:
        """A list."""
        first = caller_asked_first(self.token_id, door=Door.SCIM)
        with self.hub.database.read(keeps_plans=True, first=first) as session:
            caller = caller_of(session, self.token_id, door=Door.SCIM, now=self.hub.clock())
            assert caller is not None
            desk = Desk(self.hub, caller, session)
            wish = ScimRequest(method="GET", path="/Users", query=urlencode(query))
            answer = desk.server.answer(wish, desk.reading)
        self.lacking = desk if desk.has_documents else None
        return answer

    def keep(self) -> None:
        """What a server does behind an answer for which documents had to be made."""
        if self.lacking is not None:
            self.lacking.keep_documents()
            self.lacking = None

    def cursor(self, person_id: str) -> str:
        """Behind a person, in the list of everybody."""
        return self._cursors.write(0, person_id)

    def page(self, **query: str) -> dict[str, Any]:
        """A list that must be had."""
        answer = self.get(**query)
        assert answer.status == 200, answer.body
        document: dict[str, Any] = orjson.loads(answer.body or b"")
        return document


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of request: its parameters, with another value each time."""

    name: str
    wish: Callable[[Sender, random.Random], Mapping[str, str]]

    def ask(self, sender: Sender, chance: random.Random) -> ScimResponse:
        return sender.get(**self.wish(sender, chance))


def kinds(people: int) -> list[_Kind]:
    """What senders ask for."""

    def one(chance: random.Random) -> Any:
        return search._person(chance.randrange(people), people)["searchable"]

    def number(chance: random.Random) -> str:
        return search._id("per", chance.randrange(people))

    def filtered(text: str) -> dict[str, str]:
        return {"filter": text, "cursor": "", "count": str(_PAGE)}

    return [
        _Kind("eq userName", lambda s, c: {"filter": f'userName eq "{one(c).email}"'}),
        _Kind("eq externalId, nobody", lambda s, c: {"filter": f'externalId eq "{one(c).email}"'}),
        _Kind(
            "eq employeeNumber",
            lambda s, c: {"filter": f'{ENTERPRISE_USER}:employeeNumber eq "{one(c).numbers[0]}"'},
        ),
        _Kind("eq work mail", lambda s, c: {"filter": f'emails[type eq "work"].value eq "{one(c).email}"'}),
        _Kind("sw displayName", lambda s, c: filtered(f'displayName sw "{one(c).display_name[:2]}"')),
        _Kind("sw userName", lambda s, c: filtered(f'userName sw "{one(c).email[:8]}"')),
        _Kind("keyset page of 100", lambda s, c: {"cursor": s.cursor(number(c)), "count": str(_PAGE)}),
        _Kind("page of 100 by index", lambda s, c: {"startIndex": str(1 + c.randrange(people)), "count": str(_PAGE)}),
        _Kind("changed since, keyset", lambda s, c: filtered('meta.lastModified ge "2026-11-23T02:00:00Z"')),
        _Kind("co displayName, many", lambda s, c: filtered(f'displayName co "{one(c).display_name[-1]}"')),
        _Kind("co displayName, nobody", lambda s, c: filtered(f'displayName co "龘{c.randrange(9)}"')),
        _Kind("co userName, few", lambda s, c: filtered(f'userName co "{c.randrange(people)}@"')),
    ]  # fmt: skip


def latencies(sender: Sender, people: int, *, rounds: int) -> Iterator[dict[str, Any]]:
    """p50 and p99 in milliseconds of each kind, one request at a time."""
    for kind in kinds(people):
        chance, spent = random.Random(1), []
        for turn in range(rounds + _WARM):
            began = time.perf_counter()
            answer = kind.ask(sender, chance)
            if turn >= _WARM:
                spent.append((time.perf_counter() - began) * 1e3)
            if answer.status != 200:
                raise SystemExit(f"{kind.name}: {answer.status} {answer.body!r}")
        progress(kind.name)
        yield from _percentiles(f"scim: {kind.name}", spent)


def first_walk(sender: Sender, people: int) -> list[dict[str, Any]]:
    """People a second of the first walk over everybody, which keeps their documents."""
    began, cursor, seen = time.perf_counter(), "", 0
    while True:
        page = sender.page(cursor=cursor, count="500")
        sender.keep()
        seen += len(page["Resources"])
        progress(f"first walk: {seen} of {people}")
        if (cursor := page.get("nextCursor", "")) == "":
            break
    return [
        {"name": "scim: first walk over everybody", "value": seen / (time.perf_counter() - began), "unit": "people/s"}
    ]


def of_one_company(hub: Hub, people: int, *, rounds: int) -> list[dict[str, Any]]:
    """Pages of a token that is limited to one company, at any place of its list."""
    with hub.database.read() as session:
        company = session.execute(select(Organization.id).order_by(Organization.id).offset(1).limit(1)).scalar_one()
    sender, chance, spent = Sender(hub, company), random.Random(3), []
    # Companies follow each other; this is the first.
    own = max(1, (people - people // 20) // 20 - _PAGE)
    for turn in range(rounds + _WARM):
        place = sender.cursor(search._id("per", chance.randrange(own)))
        began = time.perf_counter()
        page = sender.page(cursor=place, count=str(_PAGE))
        if turn >= _WARM:
            spent.append((time.perf_counter() - began) * 1e3)
        assert len(page["Resources"]) == _PAGE, "this company has fewer people"
    return _percentiles("scim: keyset page of 100, one company", spent)


def under_load(sender: Sender, people: int, *, rounds: int, arrivals: int) -> list[dict[str, Any]]:
    """The same for what must be quick, when requests arrive at 70 % of what the reading lanes of a hub get done."""
    quick = [kind for kind in kinds(people) if not kind.name.startswith(("co ", "page "))]
    return asyncio.run(_under_load(sender, quick, rounds, arrivals))


async def _under_load(sender: Sender, quick: Sequence[_Kind], rounds: int, arrivals: int) -> list[dict[str, Any]]:
    chance, admission = random.Random(2), Admission(_THREADS, clock=sender.hub.clock)
    wishes = [chance.choice(quick).wish(sender, chance) for _ in range(rounds)]
    others = [chance.choice(quick).wish(sender, chance) for _ in range(arrivals)]

    async def answered(wish: Mapping[str, str], arrival: float) -> float:
        reading = reading_of("GET", "/Users", urlencode(wish), b"")
        lane = admission.reading_long if reading is Reading.LONG else admission.reading
        answer = await lane.run("bench", partial(sender.get, **wish), is_short=reading is Reading.ONE)
        assert answer.status == 200, answer.body
        return (time.perf_counter() - arrival) * 1e3

    async def all_at_once() -> float:
        began, line, free = time.perf_counter(), [], asyncio.Semaphore(_THREADS)
        for wish in wishes:
            await free.acquire()
            line.append(asyncio.ensure_future(answered(wish, began)))
            line[-1].add_done_callback(lambda _: free.release())
        await asyncio.gather(*line)
        return time.perf_counter() - began

    # Twice: connections and plans are made in the first turn.
    await all_at_once()
    interval = await all_at_once() / len(wishes) / _SHARE
    arrival, waited = time.perf_counter(), []
    for wish in others:
        arrival += chance.expovariate(1 / interval)
        await asyncio.sleep(max(0.0, arrival - time.perf_counter()))
        waited.append(asyncio.ensure_future(answered(wish, arrival)))
    spent = list(await asyncio.gather(*waited))
    return [
        {"name": "scim: eq, sw and keyset, most", "value": 1 / interval / _SHARE, "unit": "requests/s"},
        *_percentiles("scim: eq, sw and keyset at 70 % load", spent),
        *_percentiles("scim: of these, eq", [each for wish, each in zip(others, spent, strict=True) if _is_one(wish)]),
    ]


def _is_one(wish: Mapping[str, str]) -> bool:
    return "cursor" not in wish


def bulk_load(sender: Sender, people: int) -> list[dict[str, Any]]:
    """People a second through bulk requests: answered at once, and worked later."""
    rates, run = [], f"{time.time_ns() // 1_000_000:x}"
    for way in ("at once", "worked later"):
        operations = [_newcomer(f"{run}{way[0]}{number}") for number in range(people)]
        body = orjson.dumps({"schemas": [BULK_REQUEST], "Operations": operations})
        desk, caller = sender.desk()
        later = way == "worked later"
        request = ScimRequest(
            method="POST", path="/Bulk", body=body, headers={"prefer": "respond-async"} if later else {}
        )
        began = time.perf_counter()
        answer = desk.server.answer(request, desk.writing, Jobs(desk, caller) if later else None)
        if later:
            work_jobs(sender.hub, seconds=600)
        seconds = time.perf_counter() - began
        assert answer.status == (202 if later else 200), answer.body
        rates.append({"name": f"scim: bulk load, {way}", "value": people / seconds, "unit": "people/s"})
    return rates


def _newcomer(number: str) -> dict[str, Any]:
    data = {
        "schemas": [USER, ENTERPRISE_USER],
        "userName": f"new.{number}@qiyue.example",
        "externalId": f"x{number}",
        "displayName": f"New {number}",
        "name": {"givenName": "New", "familyName": number},
        "emails": [{"value": f"new.{number}@qiyue.example", "type": "work", "primary": True}],
        "active": True,
        ENTERPRISE_USER: {"employeeNumber": f"N{number}", "organization": "C1", "department": "生产部"},
    }
    return {"method": "POST", "path": "/Users", "bulkId": number, "data": data}


def _percentiles(name: str, spent: list[float]) -> list[dict[str, Any]]:
    return [
        {"name": f"{name} {said}", "value": quantile(spent, share), "unit": "ms"}
        for said, share in (("p50", 0.5), ("p99", 0.99))
    ]


if __name__ == "__main__":
    main()
