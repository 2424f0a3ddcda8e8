"""What the hot endpoints tell the audit log beside what their transactions record.

Reads and refusals of nobody in particular are counted per client, address and minute and written once a minute, so
that junk cannot fill the disk. A refusal of an authenticated client is an event of its own.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from idhub.changes import Actor, Event, EventType
from idhub.credentials.spending import Caller
from idhub.credentials.store import Operation, Store, record
from idhub.errors import Unavailable
from idhub.oidc.errors import OAuthError

_WINDOW_SECONDS: Final = 60
_MAX_KEYS: Final = 2_000
_MANY: Final = "many"
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Key:
    kind: EventType
    client_id: str
    address: str
    reason: str | None
    minute: int


@dataclass(slots=True)
class _Count:
    first_at: datetime
    last_at: datetime
    count: int = 0


class Journal:
    """Counts and writes. Belongs to one event loop. What is left is written when the store closes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counts: dict[_Key, _Count] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: set[asyncio.Task[None]] = set()
        store.on_flush(self.flush)

    def count(
        self, kind: EventType, *, client_id: str | None, address: str, now: datetime, reason: str | None = None
    ) -> None:
        """Count a read, or (with a reason) an anonymous refusal."""
        minute = int(now.timestamp()) // _WINDOW_SECONDS
        key = _Key(kind, client_id or "unknown", address, reason, minute)
        if key not in self._counts and len(self._counts) >= _MAX_KEYS:
            key = _Key(kind, _MANY, _MANY, reason, minute)
        counted = self._counts.setdefault(key, _Count(now, now))
        counted.count += 1
        counted.last_at = now
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WINDOW_SECONDS, self._begin_flush)

    async def refused(
        self, error: OAuthError, *, kind: EventType, caller: Caller | None, address: str, now: datetime
    ) -> None:
        """Note a refusal: of an authenticated caller at once, of anybody else in the count."""
        if caller is None:
            self.count(kind, client_id=error.client_id, address=address, now=now, reason=error.reason)
            return
        event = Event(
            type=kind,
            at=now,
            actor=caller.actor,
            door="oidc",
            target_kind="client",
            target_id=caller.client_id,
            outcome="failure",
            reason=error.reason,
            request_id=caller.request_id,
        )
        await self._store.write(lambda: _append([event]))

    async def flush(self) -> None:
        """Write what was counted. When the database does not take it, it is kept for the next time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        counts, self._counts = self._counts, {}
        events = [_event(key, counted) for key, counted in counts.items()]
        if not events:
            return
        try:
            await self._store.write(lambda: _append(events))
        except Unavailable as error:
            _LOG.warning("journal.kept", events=len(events), error=error.description)
            for key, counted in counts.items():
                later = self._counts.get(key)
                if later is None:
                    self._counts[key] = counted
                else:
                    later.count += counted.count
                    later.first_at = counted.first_at
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_WINDOW_SECONDS, self._begin_flush)

    def _begin_flush(self) -> None:
        self._timer = None
        task = asyncio.get_running_loop().create_task(self.flush())
        self._flushing.add(task)
        task.add_done_callback(self._flushing.discard)


def _event(key: _Key, counted: _Count) -> Event:
    is_known = key.client_id not in {"unknown", _MANY}
    is_read = key.reason is None
    ip = None if key.address in {_MANY, ""} else key.address
    actor_id = key.client_id if is_known and is_read else "anonymous"
    return Event(
        type=key.kind,
        at=counted.last_at,
        actor=Actor(kind="client" if actor_id != "anonymous" else "anonymous", id=actor_id, ip=ip),
        door="oidc",
        target_kind="client",
        target_id=key.client_id,
        outcome="success" if is_read else "failure",
        reason=key.reason,
        details={
            "count": counted.count,
            "first_at": counted.first_at.isoformat(),
            "span_seconds": (counted.last_at - counted.first_at) // timedelta(seconds=1),
        },
    )


def _append(events: list[Event]) -> Operation[None]:
    yield record(events)
