"""The audit event of a change, in the caller's transaction.

The one place where the hub meets `audit`: an effect and its events commit together or not at all.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy.orm import Session

from audit.events import Actor, Event, EventType
from audit.trail import Packed, Sealer, append, insert_packed
from idhub.db import Database

__all__ = [
    "COMMAND_LINE",
    "SYSTEM",
    "Actor",
    "Event",
    "EventType",
    "Packed",
    "record",
    "record_ready",
    "use_sealer",
]

COMMAND_LINE = Actor(kind="cli", id="cli", name="command line")
SYSTEM = Actor(kind="system", id="hub", name="idhub")

_SEALER_KEY = "idhub.sealer"


def use_sealer(database: Database, sealer: Sealer) -> None:
    """Let every session of `database` seal the personal values of its events with `sealer`."""
    database.session_info[_SEALER_KEY] = sealer


def record(session: Session, events: Sequence[Event]) -> None:
    """Append events to the log in the caller's transaction, in order.

    One call for a batch: a few statements, however many events.
    """
    if events:
        append(session.connection(), events, sealer=session.info[_SEALER_KEY])


def record_ready(session: Session, parts: Iterable[Packed]) -> None:
    """Append events whose rows bulk work has made ahead, in the caller's transaction."""
    insert_packed(session.connection(), parts)
