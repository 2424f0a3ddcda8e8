"""What waits to be told: read in order, made into tokens, and forgotten once the receiver has it."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.orm import Session

from idhub.db import Database, chunked
from idhub.provisioning.events.tables import EventRow, EventStream
from idhub.provisioning.inbound.sender import ExternalIds
from scim.events import Full, Happening, Kind, payloads, token_claims

KEPT: Final = timedelta(days=7)
"""How long an event waits for its receiver."""
_PURGED_AT_ONCE: Final = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A token that is to be made: what one transaction did to one resource."""

    token_id: str
    transaction: str
    resource: str
    resource_id: str
    happened_at: datetime
    happenings: Sequence[Happening]

    def claims(self, *, issuer: str, audience: str, external_id: str | None, full: Full) -> dict[str, Any]:
        """The token's claims, the same each time, unless data that it carries are others by now: then it is another.

        Args:
            external_id: what the receiver calls the resource.
            full: data of events that carry them.
        """
        events = payloads(self.happenings, full)
        return token_claims(
            issuer=issuer,
            audience=audience,
            token_id=_named(self.token_id, events),
            issued_at=int(self.happened_at.timestamp()),
            transaction=self.transaction,
            subject=self._subject(external_id),
            events=events,
        )

    def _subject(self, external_id: str | None) -> dict[str, Any]:
        if self.resource != "Bulk":
            named = {"uri": f"/{self.resource}s/{self.resource_id}", "id": self.resource_id}
            return named if external_id is None else {**named, "externalId": external_id}
        (answer,) = self.happenings
        location = str(answer.payload.get("location") or "")
        # Where a POST failed there is no resource; its request is what the answer is about.
        below = "/".join(location.rsplit("/", 2)[-2:]) if location else f"Bulk/{self.resource_id}"
        return {"uri": f"/{below}"}


def _named(token_id: str, events: Mapping[str, Mapping[str, Any]]) -> str:
    """`jti`: of a token that carries data, of these data, so that no two tokens with one name say different things."""
    if not any("data" in payload for payload in events.values()):
        return token_id
    digest = hashlib.sha256(orjson.dumps(events, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return f"{token_id}.{digest[:16]}"


_NEXT = (
    select(EventRow.place, EventRow.token_id)
    .where(
        EventRow.stream_id == bindparam("of_stream"),
        EventRow.place > bindparam("behind"),
        EventRow.is_ready.is_(True),
    )
    .order_by(EventRow.place)
    .limit(bindparam("most"))
)


def waiting_for(session: Session, stream_id: str, *, most: int) -> list[Waiting]:
    """The tokens that are next, oldest first."""
    ids: dict[str, None] = {}
    behind = 0
    while len(ids) < most:
        page = session.execute(_NEXT, {"of_stream": stream_id, "behind": behind, "most": most}).all()
        for row in page:
            if len(ids) < most:
                ids[row.token_id] = None
        if len(page) < most:
            break
        behind = page[-1].place
    # With what else the same transactions did to these resources; it may stand far behind.
    rows: dict[str, list[EventRow]] = {}
    for part in chunked(list(ids)):
        found = session.execute(select(EventRow).where(EventRow.token_id.in_(part)).order_by(EventRow.place))
        for one in found.scalars():
            rows.setdefault(one.token_id, []).append(one)
    return [_waiting(rows[token_id]) for token_id in ids]


def _waiting(rows: Sequence[EventRow]) -> Waiting:
    first = rows[0]
    return Waiting(
        token_id=first.token_id,
        transaction=first.transaction_id,
        resource=first.resource,
        resource_id=first.resource_id,
        happened_at=first.happened_at,
        happenings=[_happening(row) for row in rows],
    )


def _happening(row: EventRow) -> Happening:
    kind = Kind(row.kind)
    if kind is Kind.ANSWERED:
        return Happening(kind=kind, payload=row.details)
    return Happening(kind=kind, attributes=row.details)


def external_ids(session: Session, provider: str, waiting: Sequence[Waiting]) -> Mapping[str, str]:
    """What a sender calls the resources of these tokens."""
    found: dict[str, str] = {}
    for kind in ("User", "Group"):
        ids = sorted({each.resource_id for each in waiting if each.resource == kind})
        for part in chunked(ids):
            found |= ExternalIds(session, provider, kind).of(part)
    return found


def take_away(
    session: Session, stream_id: str, taken: Collection[str], refused: Collection[str] = (), *, now: datetime
) -> None:
    """The receiver has these tokens, or will not have them: they are not told again."""
    gone: set[str] = set()
    taken, refused = ({name.partition(".")[0] for name in names} for names in (taken, refused))
    for part in chunked(sorted(taken | refused)):
        rows = session.execute(
            delete(EventRow)
            .where(EventRow.stream_id == stream_id, EventRow.token_id.in_(part), EventRow.is_ready.is_(True))
            .returning(EventRow.token_id)
        ).scalars()
        gone.update(rows)
    if gone:
        session.execute(
            update(EventStream)
            .where(EventStream.id == stream_id)
            .values(heard_at=now, refused=EventStream.refused + len(gone & refused))
            .execution_options(synchronize_session=False)
        )


def purge_events(database: Database, *, now: datetime) -> int:
    """Forget events that have waited for a week, and those of streams that were removed; returns how many."""
    with database.transaction(durable=False) as session:
        rows = session.execute(
            select(EventRow.place, EventRow.stream_id)
            .where(EventRow.happened_at < now - KEPT)
            .order_by(EventRow.happened_at)
            .limit(_PURGED_AT_ONCE)
        ).all()
        for part in chunked([row.place for row in rows]):
            session.execute(delete(EventRow).where(EventRow.place.in_(part)))
        for stream_id in {row.stream_id for row in rows}:
            lost = sum(row.stream_id == stream_id for row in rows)
            session.execute(
                update(EventStream)
                .where(EventStream.id == stream_id)
                .values(lost=EventStream.lost + lost)
                .execution_options(synchronize_session=False)
            )
        orphans = select(EventRow.place).where(EventRow.stream_id.not_in(select(EventStream.id)))
        session.execute(delete(EventRow).where(EventRow.place.in_(orphans.limit(_PURGED_AT_ONCE))))
    return len(rows)
