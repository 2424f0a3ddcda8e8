"""Singletons: work that one process does at a time, by lease rows with fencing instead of session locks.

A lease that its holder does not renew passes to whoever asks next, with a higher token. The holder learns of it at the
latest when it writes: `still_held`, asked in the transaction of the write, is the fence.

One that would last longer than any was taken on a clock that has gone back since, or goes wrong: it too passes on, or
nothing would be done until that time comes.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from idhub.db import Database
from idhub.delivery.tables import Lease

CLOCKS_DIFFER: Final = timedelta(minutes=1)
"""By so much at most, of machines that work together."""


@dataclass(frozen=True, slots=True)
class HeldLease:
    """Proof of holding `name`; dead once another process has a higher token."""

    name: str
    holder: str
    token: int


def hold(database: Database, name: str, holder: str, *, now: datetime, lifetime: timedelta) -> HeldLease | None:
    """Take the lease, or renew it when it is this holder's; None while another holds it.

    Opens its own transactions, and writes only when half of the lifetime is over; such a commit may be forgotten by a
    loss of power. A lease that ends further ahead than any could by now was taken by a wrong clock, and is free.

    Args:
        holder: the same text at every call of one process.
    """
    with database.read() as session:
        row = session.execute(select(Lease.holder, Lease.token, Lease.until).where(Lease.name == name)).first()
    if row is not None and now < row.until <= now + lifetime + CLOCKS_DIFFER:
        if row.holder != holder:
            return None
        if row.until - now > lifetime / 2:
            return HeldLease(name, holder, row.token)
    return database.run(lambda session: _take(session, name, holder, now=now, lifetime=lifetime), durable=False)


def _take(session: Session, name: str, holder: str, *, now: datetime, lifetime: timedelta) -> HeldLease | None:
    until = now + lifetime
    mine = (Lease.name == name, Lease.holder == holder, Lease.until > now)
    token = session.execute(update(Lease).where(*mine).values(until=until).returning(Lease.token)).scalar()
    if token is None:
        expired = (Lease.name == name, or_(Lease.until <= now, Lease.until > until + CLOCKS_DIFFER))
        values = {"holder": holder, "token": Lease.token + 1, "until": until}
        token = session.execute(update(Lease).where(*expired).values(values).returning(Lease.token)).scalar()
    if token is None:
        first = {"name": name, "holder": holder, "token": 1, "until": until}
        is_postgresql = session.connection().dialect.name == "postgresql"
        statement = (
            postgresql_insert(Lease).values(first).on_conflict_do_nothing().returning(Lease.token)
            if is_postgresql
            else sqlite_insert(Lease).values(first).on_conflict_do_nothing().returning(Lease.token)
        )
        token = session.execute(statement).scalar()
    return None if token is None else HeldLease(name, holder, token)


def still_held(session: Session, lease: HeldLease) -> bool:
    """Whether nobody has taken the lease over; locks it until the caller's transaction ends."""
    row = session.execute(select(Lease.holder, Lease.token).where(Lease.name == lease.name).with_for_update()).first()
    return row is not None and row.holder == lease.holder and row.token == lease.token


def release(database: Database, lease: HeldLease, *, now: datetime) -> None:
    """Let the next one have it at once. The row stays, so that tokens never go down."""
    with database.transaction(durable=False) as session:
        session.execute(
            update(Lease)
            .where(Lease.name == lease.name, Lease.holder == lease.holder, Lease.token == lease.token)
            .values(until=now)
        )
