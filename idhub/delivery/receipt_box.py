"""Letter box of `lifecycle`: cases whose deliveries changed, so that their receipts are signed again.

The table belongs to `idhub.lifecycle`, which stands above this package; only its two columns are known here.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import String, bindparam, column, select, table
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from idhub.db import Instant, chunked
from idhub.delivery.wake import announce_receipts

_receipts_due = table("receipts_due", column("case_id", String), column("since", Instant))
_cases = table("cases", column("id", String))
_ANY = select(_receipts_due.c.case_id).limit(1)
_KNOWN = select(_cases.c.id).where(_cases.c.id.in_(bindparam("ids", expanding=True)))


def has_due(session: Session) -> bool:
    """Whether a receipt waits to be signed again."""
    return session.connection().execute(_ANY).first() is not None


def touch_cases(session: Session, case_ids: Iterable[str | None], *, now: datetime) -> None:
    """Mark cases as having changed.

    The conflicting row is updated rather than left alone: the update waits for a signer that holds it, so that a
    change is never swallowed by a receipt being signed from an older state.
    """
    # Sorted: two settling workers must lock in one order.
    wanted = sorted({case_id for case_id in case_ids if case_id})
    is_postgresql = session.connection().dialect.name == "postgresql"
    for part in chunked(wanted):
        known = sorted(session.connection().execute(_KNOWN, {"ids": part}).scalars())
        if not known:
            continue
        values = [{"case_id": case_id, "since": now} for case_id in known]
        statement: Any = (postgresql_insert if is_postgresql else sqlite_insert)(_receipts_due)
        statement = statement.on_conflict_do_update(
            index_elements=[_receipts_due.c.case_id], set_={"since": _receipts_due.c.since}
        )
        session.connection().execute(statement, values)
        announce_receipts(session)
