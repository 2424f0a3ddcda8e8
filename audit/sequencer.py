"""The sequencer gives events their place in the log, grows the tree and signs checkpoints.

Any number may run; one works at a time, by a lease row with a fencing number instead of a session lock, so that it
works through PgBouncer. The lease only saves work. What keeps the log right is that every piece moves the head by
compare-and-swap on its size, together with the fencing number, in the transaction that gives out the positions.

The order is a contract: events of one transaction stand in the order in which they were appended, and transactions of
one writer in the order of their commits. Between writers there is no order but the one given here.

A row is taken when its transaction is surely over (`audit.arrivals`): a long one delays those after it, but is never
passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, case, delete, exists, func, insert, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from audit.arrivals import Reach, arrivals, count_waiting, refused
from audit.checkpoint import Checkpoint, Signer, Witness, sign_checkpoint
from audit.errors import AuditError, StaleSequencer
from audit.events import from_micros, to_micros
from audit.merkle import EMPTY_ROOT, Frontier, consistency_proof, leaf_hash, verify_consistency
from audit.tables import LEASE, audit_checkpoints, audit_head, audit_lease, audit_reach, audit_refused
from audit.tiles import StoredTree, store_complete_tiles

TransactionFactory = Callable[[], AbstractContextManager[Connection | Session]]

_LEASE_TIME: Final = timedelta(seconds=10)
_CLOCKS_DIFFER: Final = timedelta(minutes=1)
"""A lease that would last longer than any, and so much, was taken on a clock that has gone back since: it is over."""
# About 10 ms a piece on SQLite, where a commit must not keep other writers waiting for more than 50.
_PIECE: Final = {"sqlite": 500, "postgresql": 2_000}
_PIECES_A_RUN: Final = 200
_REST_TIMES: Final = 30
"""How many times as long as its failure took a witness is left alone: it has a thirtieth of the time at most."""


@dataclass(frozen=True, slots=True)
class Lag:
    """Events without a place in the log: how many (counted up to 10,000) and the age of the first."""

    pending: int
    oldest: timedelta


@dataclass(frozen=True, slots=True)
class SequencerResult:
    """What one run did.

    `mismatched` names events whose stored bytes are not those that were appended: somebody changed them before they
    were sequenced. They get no place, stay in `lag`, and are an alarm. `unreached` names witnesses with their error.
    """

    appended: int
    size: int
    lag: Lag
    is_leader: bool = True
    checkpoint: str | None = None
    mismatched: tuple[str, ...] = ()
    unreached: tuple[tuple[str, str], ...] = ()


def lag(connection: Connection, now: datetime) -> Lag:
    """Return how far the log is behind what has been committed, for `/readyz`."""
    pending, since = count_waiting(connection)
    if since is None:
        # None; or between two statements another sequencer took them all in.
        return Lag(0, timedelta())
    return Lag(pending, max(timedelta(), now - from_micros(since)))


@dataclass(slots=True)
class _Piece:
    """Rows of one transaction, and what becomes of each."""

    is_last: bool = False
    through: Reach | None = None
    """How far it comes in the order of arrival; None: nothing is to be done."""
    placed: list[int] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    healed: list[int] = field(default_factory=list)
    """Once refused, and now what was appended."""
    mismatched: list[str] = field(default_factory=list)

    def sort_in(self, rows: Sequence[Any], *, were_refused: bool = False) -> None:
        """Give each row a leaf, or none when its bytes are not those that were appended."""
        # Columns by place: by name they take longer than the hash.
        for id_, _, event_id, body, appended, *_ in rows:
            leaf = leaf_hash(body)
            if leaf == appended:
                self.placed.append(id_)
                self.leaves.append(leaf)
                if were_refused:
                    self.healed.append(id_)
                continue
            self.mismatched.append(event_id)
            if not were_refused:
                self.refused.append(id_)


class Sequencer:
    """One candidate for the work. Not thread-safe; one a process is enough."""

    def __init__(
        self,
        transactions: Engine | TransactionFactory,
        signer: Signer,
        witnesses: Sequence[Witness],
        owner_id: str,
        *,
        origin: str,
        checkpoint_interval: timedelta = timedelta(milliseconds=900),
        piece: int | None = None,
        reads: TransactionFactory | None = None,
    ) -> None:
        """Take what it works with.

        Args:
            transactions: an engine, or a factory of write transactions that commit when their block ends and roll back
                when it raises; `BEGIN IMMEDIATE` on SQLite.
            signer: the checkpoint key.
            witnesses: get every new checkpoint, after it is committed.
            owner_id: names this process in the lease; unique among the running ones.
            origin: names the log in its checkpoints, such as `hub.example.com/audit`; never changes.
            checkpoint_interval: at most one checkpoint in this time, on-demand ones aside.
            piece: events a commit; by default what fits 50 ms.
            reads: a factory of transactions that only read, and take no turn of a writer; by default `transactions`.
        """
        self._transactions = _immediate(transactions) if isinstance(transactions, Engine) else transactions
        self._reads = reads or self._transactions
        self._signer = signer
        self._witnesses = tuple(witnesses)
        self._owner_id = owner_id
        self._origin = origin
        self._interval = checkpoint_interval
        self._piece = piece
        self._published: dict[str, int] = {}
        self._rests_until: dict[str, float] = {}
        """Witnesses that failed, and when (monotonic) they are asked again."""
        self._has_looked_everywhere = False
        """What a dump may have brought from another cluster was looked for."""
        self._signed_at: datetime | None = None
        """When this one signed the last of its checkpoints."""

    def run_once(self, now: datetime, *, checkpoint: bool = False) -> SequencerResult:
        """Take every settled event in, then sign and publish a checkpoint when one is due.

        With `checkpoint` one is signed at once, as at an offboarding. A run is bounded; call again while `lag` is not
        zero. When another sequencer has the lease, nothing happens and `is_leader` is False.

        Raises:
            StaleSequencer: another sequencer took over meanwhile; what this one had committed stands.
            AuditError: the stored tree contradicts itself; nothing is signed.
        """
        with self._reading() as connection:
            waiting = lag(connection, now)
            size = connection.execute(select(audit_head.c.size)).scalar_one_or_none() or 0
            has_events = bool(waiting.pending) or self._is_astray(connection)
            has_work = has_events or self._has_unsigned(connection, size)
            fencing = self._held(connection, now) if has_work else None
        if has_work and fencing is None:
            with self._transaction() as connection:
                fencing = self._hold_lease(connection, now)
        if has_work and fencing is None:
            return SequencerResult(0, size, waiting, is_leader=False)
        appended, mismatched = 0, list[str]()
        if fencing is not None and has_events:
            for piece in self._pieces(fencing, now):
                appended += len(piece.placed)
                mismatched += piece.mismatched
        note = self._checkpoint(now, is_due=checkpoint)
        with self._reading() as connection:
            newest = connection.execute(_newest_checkpoint()).one_or_none()
            size = connection.execute(select(audit_head.c.size)).scalar_one_or_none() or 0
            waiting = lag(connection, now)
        unreached = self._publish(newest)
        return SequencerResult(
            appended, size, waiting, checkpoint=note, mismatched=tuple(mismatched), unreached=tuple(unreached)
        )

    def resign(self) -> None:
        """Give the lease up, if it is this one's: the next sequencer need not wait until it runs out."""
        with self._transaction() as connection:
            connection.execute(
                update(audit_lease)
                .where(audit_lease.c.name == LEASE, audit_lease.c.owner_id == self._owner_id)
                .values(expires_at=0)
            )

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._transactions() as opened:
            yield opened.connection() if isinstance(opened, Session) else opened

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._reads() as opened:
            yield opened.connection() if isinstance(opened, Session) else opened

    def _held(self, connection: Connection, now: datetime) -> int | None:
        """Return the fencing number of the lease while it is ours for long enough; None: take or renew it."""
        held = connection.execute(select(audit_lease).where(audit_lease.c.name == LEASE)).one_or_none()
        if held is None or held.owner_id != self._owner_id:
            return None
        if not to_micros(now + _LEASE_TIME / 2) < held.expires_at <= to_micros(now + _LEASE_TIME + _CLOCKS_DIFFER):
            return None
        fencing: int = held.fencing
        return fencing

    def _is_astray(self, connection: Connection) -> bool:
        """Tell whether there may be events beside the order of arrival: of another cluster, or of this one after it."""
        here = arrivals(connection)
        foreign = here.came_along(1)
        if here.has_moved or foreign is None:
            return here.has_moved
        return not self._has_looked_everywhere and connection.execute(foreign).first() is not None

    def _has_unsigned(self, connection: Connection, size: int) -> bool:
        """Tell whether there is a head to sign: an idle hub writes nothing."""
        return size > (connection.execute(select(func.max(audit_checkpoints.c.size))).scalar_one() or 0)

    def _hold_lease(self, connection: Connection, now: datetime) -> int | None:
        """Return the fencing number under which to work, None when the lease is another's."""
        on_conflict = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        micros = to_micros(now)
        if (mine := self._held(connection, now)) is not None:
            return mine
        if connection.execute(select(audit_lease.c.name).where(audit_lease.c.name == LEASE)).first() is None:
            # A lease that somebody removed begins where the head stands, or nobody could move that ever again.
            reached = connection.execute(select(audit_head.c.fencing)).scalar_one_or_none() or 0
            empty_lease = {"name": LEASE, "owner_id": "", "fencing": reached, "expires_at": 0}
            connection.execute(on_conflict(audit_lease).values(empty_lease).on_conflict_do_nothing())
            empty_head = {"id": 1, "size": 0, "frontier": b"", "root": EMPTY_ROOT, "fencing": 0, "updated_at": micros}
            connection.execute(on_conflict(audit_head).values(empty_head).on_conflict_do_nothing())
        is_renewal = (audit_lease.c.owner_id == self._owner_id) & (audit_lease.c.expires_at > micros)
        return connection.execute(
            update(audit_lease)
            .where(
                audit_lease.c.name == LEASE,
                or_(
                    audit_lease.c.owner_id == self._owner_id,
                    audit_lease.c.expires_at <= micros,
                    audit_lease.c.expires_at > to_micros(now + _LEASE_TIME + _CLOCKS_DIFFER),
                ),
            )
            .values(
                owner_id=self._owner_id,
                fencing=audit_lease.c.fencing + case((is_renewal, 0), else_=1),
                expires_at=to_micros(now + _LEASE_TIME),
            )
            .returning(audit_lease.c.fencing)
        ).scalar_one_or_none()

    def _pieces(self, fencing: int, now: datetime) -> Iterator[_Piece]:
        for number in range(_PIECES_A_RUN):
            with self._transaction() as connection:
                # Read first: nobody can have placed what is read after it when the head is still here in the end.
                head = connection.execute(select(audit_head)).one()
                piece = self._next_piece(connection, is_first=number == 0)
                if piece.through is not None:
                    self._move_head(connection, head, piece, fencing=fencing, now=now)
                    _note_reach(connection, piece.through)
            yield piece
            if piece.is_last:
                self._has_looked_everywhere = True
                return

    def _next_piece(self, connection: Connection, *, is_first: bool) -> _Piece:
        limit = self._piece or _PIECE.get(connection.dialect.name, 500)
        here = arrivals(connection)
        if here.has_moved:
            self._has_looked_everywhere = False
        rows = list(connection.execute(here.settled(limit)).all())
        piece = _Piece(is_last=len(rows) < limit)
        through = here.horizon if piece.is_last else Reach(rows[-1].xid or 0, rows[-1].id)
        foreign = here.came_along(limit) if piece.is_last and not self._has_looked_everywhere else None
        if foreign is not None:
            came = connection.execute(foreign).all()
            piece.is_last = len(came) < limit
            rows += came
        piece.sort_in(rows)
        if is_first:
            piece.sort_in(refused(connection), were_refused=True)
        if rows or piece.healed or here.has_moved:
            piece.through = through
        return piece

    def _move_head(self, connection: Connection, head: Any, piece: _Piece, *, fencing: int, now: datetime) -> None:
        frontier = Frontier.from_bytes(head.size, bytes(head.frontier))
        if frontier.root() != bytes(head.root):
            raise AuditError("the head of the log contradicts itself")
        frontier.extend(piece.leaves)
        moved = connection.execute(
            update(audit_head)
            .where(
                audit_head.c.id == 1,
                audit_head.c.size == head.size,
                audit_head.c.root == head.root,
                audit_head.c.fencing <= fencing,
                exists().where(
                    audit_lease.c.name == LEASE,
                    audit_lease.c.owner_id == self._owner_id,
                    audit_lease.c.fencing == fencing,
                ),
            )
            .values(
                size=frontier.size,
                frontier=frontier.to_bytes(),
                root=frontier.root(),
                fencing=fencing,
                updated_at=to_micros(now),
            )
        )
        if moved.rowcount != 1:
            raise StaleSequencer("the lease or the head of the log has passed to another sequencer")
        _give_positions(connection, piece.placed, first=head.size)
        store_complete_tiles(connection, old_size=head.size, leaves=piece.leaves)
        if piece.refused:
            connection.execute(insert(audit_refused), [{"event_row": one} for one in piece.refused])
        if piece.healed:
            connection.execute(delete(audit_refused).where(audit_refused.c.event_row.in_(piece.healed)))

    def _checkpoint(self, now: datetime, *, is_due: bool) -> str | None:
        if not is_due and self._signed_at is not None and timedelta() <= now - self._signed_at < self._interval:
            return None
        with self._reading() as connection:
            head = connection.execute(select(audit_head)).one_or_none()
            last = connection.execute(_newest_checkpoint()).one_or_none()
            if head is None or head.size <= (last.size if last else 0):
                return None
            # One that was signed later than now says that the clock went back, and keeps nobody waiting for it.
            passed = timedelta(microseconds=to_micros(now) - last.signed_at) if last else self._interval
            if not is_due and timedelta() <= passed < self._interval:
                return None
            if last:
                _refuse_fork(connection, head, last)
        # Signed outside of any transaction: the key may be in another process.
        signed = Checkpoint(self._origin, head.size, bytes(head.root), now)
        note = sign_checkpoint(signed, self._signer)
        row = {"size": head.size, "root": bytes(head.root), "signed_at": to_micros(now), "note": note}
        with self._transaction() as connection:
            taken = connection.execute(
                select(audit_checkpoints.c.note).where(audit_checkpoints.c.size == head.size)
            ).scalar_one_or_none()
            if taken is not None:
                return None
            connection.execute(insert(audit_checkpoints), [row])
        self._signed_at = now
        return note

    def _publish(self, newest: Any) -> list[tuple[str, str]]:
        """Offer the newest checkpoint to each witness that has not taken it; return those that failed."""
        unreached: list[tuple[str, str]] = []
        for witness in self._witnesses:
            if newest is None or self._published.get(witness.name, 0) >= newest.size:
                continue
            began = time.monotonic()
            if began < self._rests_until.get(witness.name, 0):
                continue
            try:
                witness.publish(newest.note)
            except (OSError, AuditError) as error:
                unreached.append((witness.name, str(error)))
                # One that lets everybody wait for its failure must not hold up what is sealed next.
                ended = time.monotonic()
                self._rests_until[witness.name] = ended + _REST_TIMES * (ended - began)
            else:
                self._published[witness.name] = newest.size
        return unreached


def _newest_checkpoint() -> Any:
    return select(audit_checkpoints).order_by(audit_checkpoints.c.size.desc()).limit(1)


def _note_reach(connection: Connection, through: Reach) -> None:
    on_conflict = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    values = {"xid": through.xid, "event_row": through.id}
    connection.execute(
        on_conflict(audit_reach).values(id=1, **values).on_conflict_do_update(index_elements=["id"], set_=values)
    )


def _give_positions(connection: Connection, ids: list[int], *, first: int) -> None:
    if not ids:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(
            text(
                "INSERT INTO audit_positions (position, event_row) SELECT :first + given.place - 1, given.id"
                " FROM unnest(CAST(:ids AS bigint[])) WITH ORDINALITY AS given(id, place)"
            ),
            {"first": first, "ids": ids},
        )
        return
    # By the driver: to name and sort the values of each row takes longer than to insert it.
    connection.exec_driver_sql(
        "INSERT INTO audit_positions (position, event_row) VALUES (?, ?)", list(enumerate(ids, first))
    )


def _refuse_fork(connection: Connection, head: Any, last: Any) -> None:
    """Never sign a tree that does not begin with the one that was signed before."""
    proof = consistency_proof(last.size, head.size, StoredTree(connection).node)
    extends = verify_consistency(
        old_size=last.size, size=head.size, old_root=bytes(last.root), root=bytes(head.root), proof=proof
    )
    if not extends:
        raise AuditError(f"the log no longer begins with what was signed at size {last.size}; nothing is signed")


def _immediate(engine: Engine) -> TransactionFactory:
    @contextmanager
    def transaction() -> Iterator[Connection]:
        with engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                # What a witness has flushed must not be newer than what is on the disk here.
                connection.exec_driver_sql("PRAGMA synchronous=FULL")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    return transaction
