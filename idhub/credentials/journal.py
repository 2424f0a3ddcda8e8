"""What is counted before it is written: reads, and refusals of nobody in particular.

They are counted per target, address and minute and written once a minute, so that junk cannot fill the disk. A refusal
of somebody who is authenticated is an event of its own: its door writes it at once. One journal serves every door.
"""

import asyncio
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import structlog

from idhub.changes import Actor, Event, EventType
from idhub.credentials.operations import Operation, record
from idhub.credentials.spending import Caller
from idhub.credentials.store import Store
from idhub.errors import Unavailable

_WINDOW_SECONDS: Final = 60
_MAX_KEYS: Final = 2_000
_LONGEST_REASON: Final = 60
_LONGEST_TARGET: Final = 200
_MANY: Final = "many"
_LOG = structlog.get_logger(__name__)


class _Key(NamedTuple):
    kind: EventType
    door: str
    target_kind: str
    target_id: str
    reader: str | None
    address: str
    reason: str | None
    minute: int


@dataclass(slots=True)
class _Count:
    first_at: datetime
    last_at: datetime
    count: int = 0


class Journal:
    """Counts in any thread, writes from the event loop. What is left is written when the store closes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._counts: dict[_Key, _Count] = {}
        store.on_flush(self.flush)

    def count(
        self,
        kind: EventType,
        *,
        door: str,
        target_kind: str,
        target_id: str | None,
        address: str,
        now: datetime,
        reason: str | None = None,
        reader: str | None = None,
    ) -> None:
        """Count a read (by the client `reader`), or with a reason an anonymous refusal. Blocks nobody.

        Args:
            target_id: what was asked for, out of a bounded set of names: never the caller's own words.
        """
        minute = int(now.timestamp()) // _WINDOW_SECONDS
        target = (target_id or "unknown")[:_LONGEST_TARGET]
        shortened = None if reason is None else reason[:_LONGEST_REASON]
        key = _Key(kind, door, target_kind, target, reader, address, shortened, minute)
        with self._lock:
            counted = self._counts.get(key)
            if counted is None:
                if len(self._counts) >= _MAX_KEYS:
                    key = _Key(kind, door, target_kind, _MANY, None, _MANY, shortened, minute)
                counted = self._counts.setdefault(key, _Count(now, now))
            counted.count += 1
            counted.last_at = now

    async def refused(self, kind: EventType, *, caller: Caller, reason: str, now: datetime) -> None:
        """Write the refusal of an authenticated client."""
        event = Event(
            type=kind,
            at=now,
            actor=caller.actor,
            door="oidc",
            target_kind="client",
            target_id=caller.client_id,
            outcome="failure",
            reason=reason,
            request_id=caller.request_id,
        )
        await self._store.write(lambda: _append([event]))

    async def run(self) -> None:
        """Write what was counted, once a minute, until cancelled."""
        while True:
            await asyncio.sleep(_WINDOW_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what was counted. When the database does not take it, it is kept for the next time."""
        with self._lock:
            counts, self._counts = self._counts, {}
        events = [_event(key, counted) for key, counted in counts.items()]
        if not events:
            return
        try:
            await self._store.write(lambda: _append(events))
        except Unavailable as error:
            _LOG.warning("journal.kept", events=len(events), error=error.description)
            self._keep(counts)

    def _keep(self, counts: dict[_Key, _Count]) -> None:
        with self._lock:
            for key, counted in counts.items():
                later = self._counts.get(key)
                if later is None:
                    self._counts[key] = counted
                else:
                    later.count += counted.count
                    later.first_at = counted.first_at


def _event(key: _Key, counted: _Count) -> Event:
    ip = None if key.address in {_MANY, ""} else key.address
    return Event(
        type=key.kind,
        at=counted.last_at,
        actor=Actor(kind="client" if key.reader else "anonymous", id=key.reader or "anonymous", ip=ip),
        door=key.door,
        target_kind=key.target_kind,
        target_id=key.target_id,
        outcome="success" if key.reason is None else "failure",
        reason=key.reason,
        details={
            "count": counted.count,
            "first_at": counted.first_at.isoformat(),
            "span_seconds": (counted.last_at - counted.first_at) // timedelta(seconds=1),
        },
    )


def _append(events: list[Event]) -> Operation[None]:
    yield record(events)
