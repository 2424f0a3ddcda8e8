"""The sequencer: nobody is passed over, nobody gets two places, nothing forked is signed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, text

from audit.checkpoint import compare_with_witness, verify_note
from audit.errors import AuditError, StaleSequencer
from audit.live import verify_database
from audit.merkle import Frontier, root_at, verify_inclusion
from audit.sequencer import Sequencer, lag
from audit.tables import (
    audit_checkpoints,
    audit_events,
    audit_head,
    audit_lease,
    audit_positions,
    audit_reach,
    audit_refused,
    event_place,
)
from audit.tiles import StoredTree, prove, read_head
from audit.trail import append
from tests.audit.support import NOW, ORIGIN, Trail, event


def positions(trail: Trail) -> dict[str, int | None]:
    with trail.engine.connect() as connection:
        rows = connection.execute(select(audit_events.c.event_id, event_place))
        return {row.event_id: row.position for row in rows}


def assert_sound(trail: Trail, expected: int) -> None:
    with trail.engine.connect() as connection:
        result = verify_database(connection, trail.keys, trail.witness)
    assert result.findings == []
    assert result.events == expected


def test_events_get_their_places_and_a_signature(trail: Trail) -> None:
    ids = trail.append(*[event(number) for number in range(10)])
    result = trail.sequencer.run_once(NOW)
    assert (result.appended, result.size, result.lag.pending, result.is_leader) == (10, 10, 0, True)
    assert result.checkpoint is not None
    assert verify_note(result.checkpoint, trail.keys).size == 10
    assert positions(trail) == {one: number for number, one in enumerate(ids)}
    assert_sound(trail, 10)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 600])
def test_the_stored_tree_is_the_tree_of_the_leaves(trail: Trail, size: int) -> None:
    trail.fill(size // 2)
    ids = trail.append(*[event(number) for number in range(size - size // 2)])
    trail.seal()
    with trail.engine.connect() as connection:
        leaves = [bytes(one) for one in
                  connection.scalars(select(audit_events.c.leaf_hash).order_by(event_place))]  # fmt: skip
        whole = Frontier()
        whole.extend(leaves)
        head = read_head(connection)
        assert (head.size, head.root) == (size, whole.root())
        assert root_at(size, StoredTree(connection).node) == whole.root()
        proof = prove(connection, ids[-1])
    assert proof is not None
    assert verify_inclusion(proof.leaf_hash, index=size - 1, size=size, proof=proof.path, root=whole.root())


def test_tiles_of_tiles(sqlite_trail: Trail) -> None:
    """Level 1 exists from 65,536 events on; proofs through it hold."""
    trail = sqlite_trail
    ids = trail.append(*[event(number) for number in range(66_000)])
    trail.seal()
    with trail.engine.connect() as connection:
        head = read_head(connection)
        assert root_at(head.size, head.node) == head.root
        for number in (0, 300, 65_535, 65_999):
            proof = prove(connection, ids[number])
            assert proof is not None
            assert verify_inclusion(proof.leaf_hash, index=number, size=66_000, proof=proof.path, root=head.root)


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_long_transaction_is_waited_for_and_never_passed_over(trail: Trail) -> None:
    """Identity order is not commit order: what a slow transaction inserted first commits last, and still gets in."""
    with trail.engine.connect() as slow:
        slow_ids = append(slow, [event(1)], sealer=trail.sealer)
        quick_ids = trail.append(event(2), event(3))
        result = trail.sequencer.run_once(NOW)
        assert (result.appended, result.lag.pending) == (0, 2)
        slow.commit()
    later_ids = trail.append(event(4))
    assert trail.sequencer.run_once(NOW).appended == 4
    assert set(positions(trail)) == {*slow_ids, *quick_ids, *later_ids}
    assert None not in positions(trail).values()
    assert_sound(trail, 4)


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_transaction_that_rolls_back_leaves_no_hole(trail: Trail) -> None:
    with trail.engine.connect() as undone:
        append(undone, [event(1)], sealer=trail.sealer)
        trail.append(event(2))
        assert trail.sequencer.run_once(NOW).appended == 0
        undone.rollback()
    assert trail.sequencer.run_once(NOW).appended == 1
    assert_sound(trail, 1)


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_writers_side_by_side_lose_nothing(trail: Trail) -> None:
    """Every acknowledged event is in the log exactly once while a sequencer runs among eight writers."""
    acknowledged: list[str] = []
    guard = threading.Lock()

    def write(writer: int) -> None:
        for number in range(20):
            with trail.engine.connect() as connection:
                ids = append(connection, [event(writer * 100 + number)] * 3, sealer=trail.sealer)
                if number % 5 == 4:
                    connection.rollback()
                    continue
                connection.commit()
            with guard:
                acknowledged.extend(ids)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for one in writers:
        one.start()
    while any(one.is_alive() for one in writers):
        trail.sequencer.run_once(NOW)
    trail.seal()
    placed = positions(trail)
    assert set(placed) == set(acknowledged)
    assert sorted(number for number in placed.values() if number is not None) == list(range(len(acknowledged)))
    assert_sound(trail, len(acknowledged))


def test_only_the_holder_of_the_lease_works(trail: Trail) -> None:
    other = trail.new_sequencer("node-b")
    trail.append(event(1))
    assert trail.sequencer.run_once(NOW).appended == 1
    trail.append(event(2))
    refused = other.run_once(NOW + timedelta(seconds=1))
    assert (refused.appended, refused.is_leader, refused.lag.pending) == (0, False, 1)
    taken_over = other.run_once(NOW + timedelta(seconds=11))
    assert (taken_over.appended, taken_over.is_leader) == (1, True)
    assert trail.sequencer.run_once(NOW + timedelta(seconds=12), checkpoint=True).is_leader
    trail.append(event(3))
    assert not trail.sequencer.run_once(NOW + timedelta(seconds=12)).is_leader
    assert_sound(trail, 2)


def test_a_stalled_sequencer_that_wakes_up_late_is_refused(trail: Trail) -> None:
    """Fencing: it stalls after taking the lease, another takes over and works, then it goes on."""
    other = trail.new_sequencer("node-b")
    stalled = _Stalling(trail, stall_before=3, meanwhile=lambda: other.run_once(NOW + timedelta(seconds=60)))
    sequencer = Sequencer(stalled.transaction, trail.signer, [], "node-a", origin=ORIGIN)
    trail.append(*[event(number) for number in range(5)])
    stalled.then = lambda: trail.append(event(9))
    with pytest.raises(StaleSequencer, match="passed to another sequencer"):
        sequencer.run_once(NOW)
    assert_sound(trail, 5)
    assert list(positions(trail).values()).count(None) == 1


class _Stalling:
    """A factory of transactions that lets something else happen before one of them."""

    def __init__(self, trail: Trail, *, stall_before: int, meanwhile: object) -> None:
        self._trail = trail
        self._count = 0
        self._stall_before = stall_before
        self._meanwhile = meanwhile
        self.then: object = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        self._count += 1
        if self._count == self._stall_before:
            assert callable(self._meanwhile)
            assert callable(self.then)
            self._meanwhile()
            self.then()
        with self._trail.engine.connect() as connection:
            if not self._trail.is_postgresql:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()


def test_two_sequencers_at_once_make_one_log(trail: Trail) -> None:
    """Both believe in the lease, as after a clock jump: the head decides, and no place is given twice."""
    one, other = trail.new_sequencer("node-a", piece=7), trail.new_sequencer("node-b", piece=5)
    trail.append(*[event(number) for number in range(200)])
    stale: list[Exception] = []

    def run(sequencer: Sequencer, offset: int) -> None:
        for step in range(8):
            try:
                sequencer.run_once(NOW + timedelta(seconds=offset + 20 * step))
            except StaleSequencer as error:
                stale.append(error)

    threads = [threading.Thread(target=run, args=(one, 0)), threading.Thread(target=run, args=(other, 11))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trail.sequencer = trail.new_sequencer("node-c")
    trail.now = NOW + timedelta(hours=1)
    trail.seal()
    assert sorted(number for number in positions(trail).values() if number is not None) == list(range(200))
    assert_sound(trail, 200)


def test_an_event_changed_before_it_was_sequenced_is_an_alarm_and_gets_no_place(trail: Trail) -> None:
    ids = trail.append(event(1), event(2), event(3))
    with trail.without_guards() as connection:
        connection.execute(
            audit_events.update().where(audit_events.c.event_id == ids[1]).values(body=b'{"forged":true}')
        )
    result = trail.sequencer.run_once(NOW)
    assert result.mismatched == (ids[1],)
    assert (result.appended, result.lag.pending) == (2, 1)
    assert trail.sequencer.run_once(NOW + timedelta(seconds=1)).mismatched == (ids[1],)
    with trail.engine.connect() as connection:
        findings = verify_database(connection, trail.keys, trail.witness).findings
    assert [one.kind for one in findings] == ["edited"]


def test_many_changed_events_do_not_stop_the_others(trail: Trail) -> None:
    ids = trail.append(*[event(number) for number in range(12)])
    with trail.without_guards() as connection:
        connection.execute(audit_events.update().where(audit_events.c.event_id.in_(ids[:9])).values(body=b"{}"))
    result = trail.new_sequencer("node-a", piece=3).run_once(NOW)
    assert (result.appended, len(result.mismatched)) == (3, 9)


def test_a_forged_head_is_never_signed(trail: Trail) -> None:
    trail.fill(5)
    forged = Frontier()
    forged.extend([bytes(32)] * 6)
    with trail.without_guards() as connection:
        connection.execute(audit_head.update().values(size=6, root=forged.root(), frontier=forged.to_bytes()))
    with pytest.raises(AuditError):
        trail.sequencer.run_once(NOW + timedelta(minutes=1))
    with trail.engine.connect() as connection:
        assert connection.scalars(select(audit_checkpoints.c.size)).all() == [5]


def test_a_head_that_contradicts_itself_stops_the_log(trail: Trail) -> None:
    trail.fill(5)
    with trail.without_guards() as connection:
        connection.execute(audit_head.update().values(root=bytes(32)))
    trail.append(event(9))
    with pytest.raises(AuditError, match="contradicts itself"):
        trail.sequencer.run_once(NOW + timedelta(minutes=1))


def test_checkpoints_wait_for_their_interval_except_on_demand(trail: Trail) -> None:
    trail.append(event(1))
    assert trail.sequencer.run_once(NOW).checkpoint is not None
    trail.append(event(2))
    assert trail.sequencer.run_once(NOW + timedelta(milliseconds=500)).checkpoint is None
    assert trail.sequencer.run_once(NOW + timedelta(milliseconds=501), checkpoint=True).checkpoint is not None
    trail.append(event(3))
    assert trail.sequencer.run_once(NOW + timedelta(seconds=2)).checkpoint is not None
    assert trail.sequencer.run_once(NOW + timedelta(seconds=4), checkpoint=True).checkpoint is None


def test_a_clock_that_goes_back_stops_neither_the_log_nor_its_signatures(trail: Trail) -> None:
    """D19: it was a day ahead; the one that has the lease may be gone."""
    later = NOW + timedelta(days=1)
    trail.append(event(1))
    assert trail.sequencer.run_once(later).checkpoint is not None
    trail.append(event(2))
    own = trail.sequencer.run_once(NOW)
    assert (own.appended, own.is_leader) == (1, True)
    assert own.checkpoint is not None
    trail.append(event(3))
    trail.sequencer.run_once(later)
    trail.append(event(4))
    successor = trail.new_sequencer("node-b").run_once(NOW)
    assert (successor.appended, successor.is_leader) == (1, True)
    assert successor.checkpoint is not None
    trail.append(event(5))
    assert not trail.sequencer.run_once(NOW).is_leader, "nobody works beside the new one"
    assert trail.new_sequencer("node-b").run_once(NOW + timedelta(seconds=2)).size == 5
    assert_sound(trail, 5)


def test_an_idle_log_writes_nothing(trail: Trail) -> None:
    trail.fill(1)
    with trail.engine.connect() as connection:
        before = connection.execute(select(audit_lease)).one()
    trail.sequencer.run_once(NOW + timedelta(days=1))
    with trail.engine.connect() as connection:
        assert connection.execute(select(audit_lease)).one() == before


def test_lag_tells_how_many_wait_and_how_long(trail: Trail) -> None:
    with trail.engine.connect() as connection:
        assert lag(connection, NOW) == lag(connection, NOW)
        assert lag(connection, NOW).pending == 0
    trail.append(event(0), event(1))
    with trail.engine.connect() as connection:
        waiting = lag(connection, NOW + timedelta(seconds=3))
        assert (waiting.pending, waiting.oldest) == (2, timedelta(seconds=3))
        assert lag(connection, NOW - timedelta(seconds=3)).oldest == timedelta()


class _Unreachable:
    name = "http:auditor"

    def __init__(self) -> None:
        self.is_down = True
        self.notes: list[str] = []

    def publish(self, note: str, /) -> None:
        if self.is_down:
            raise ConnectionRefusedError("refused")
        self.notes.append(note)


def test_a_witness_that_is_down_gets_the_newest_checkpoint_later(trail: Trail) -> None:
    witness = _Unreachable()
    sequencer = Sequencer(trail.engine, trail.signer, [witness], "node-a", origin=ORIGIN)
    trail.append(event(1))
    result = sequencer.run_once(NOW)
    assert result.unreached == (("http:auditor", "refused"),)
    assert result.checkpoint is not None
    witness.is_down = False
    assert sequencer.run_once(NOW + timedelta(seconds=1)).unreached == ()
    assert witness.notes == [result.checkpoint]
    sequencer.run_once(NOW + timedelta(seconds=2))
    assert len(witness.notes) == 1


class _Hanging:
    """A witness that fails after some time, as one does whose machine is gone."""

    name = "syslog:gone"

    def __init__(self) -> None:
        self.asked = 0

    def publish(self, note: str, /) -> None:
        self.asked += 1
        time.sleep(0.1)
        raise OSError("timed out")


def test_a_witness_that_lets_others_wait_is_left_alone_for_a_while(sqlite_trail: Trail) -> None:
    hanging = _Hanging()
    sequencer = Sequencer(
        sqlite_trail.engine, sqlite_trail.signer, [hanging, sqlite_trail.witness], "node-a", origin=ORIGIN
    )
    for second in range(20):
        sqlite_trail.append(event(second))
        result = sequencer.run_once(NOW + timedelta(seconds=second), checkpoint=True)
        assert next(sqlite_trail.witness.notes()) == result.checkpoint, "the other is not kept waiting"
    assert hanging.asked == 1


def test_a_restored_backup_is_behind_its_witness(trail: Trail, tmp_path: Path) -> None:
    trail.fill(5)
    with trail.engine.connect() as connection:
        old = {table.name: connection.execute(select(table)).mappings().all()
               for table in (audit_events, audit_positions, audit_reach, audit_head, audit_checkpoints)}  # fmt: skip
        assert compare_with_witness(read_head(connection), trail.witness, keys=trail.keys).state == "equal"
    trail.fill(4)
    trail.append(event(77))
    trail.now += timedelta(hours=1)
    trail.witness.publish(next(trail.witness.notes()))
    with trail.without_guards() as connection:
        for table in (audit_events, audit_positions, audit_reach, audit_head, audit_checkpoints):
            connection.execute(table.delete())
            connection.execute(table.insert(), [dict(row) for row in old[table.name]])
    with trail.engine.connect() as connection:
        compared = compare_with_witness(read_head(connection), trail.witness, keys=trail.keys)
        assert (compared.state, compared.size, compared.witnessed_size) == ("behind", 5, 9)
        findings = verify_database(connection, trail.keys, trail.witness).findings
        assert [(one.kind, one.position) for one in findings] == [("truncated", 5)]
    # Going on as if nothing had been lost makes a fork, which the witness shows.
    trail.append(*[event(500 + number) for number in range(6)])
    trail.sequencer = Sequencer(trail.engine, trail.signer, [], "node-a", origin=ORIGIN)
    trail.seal()
    with trail.engine.connect() as connection:
        assert compare_with_witness(read_head(connection), trail.witness, keys=trail.keys).state == "forked"


def test_a_log_ahead_of_its_witness_is_well(trail: Trail) -> None:
    trail.fill(5)
    trail.sequencer = Sequencer(trail.engine, trail.signer, [], "node-a", origin=ORIGIN)
    trail.append(event(6))
    trail.seal()
    with trail.engine.connect() as connection:
        compared = compare_with_witness(read_head(connection), trail.witness, keys=trail.keys)
        assert (compared.state, compared.witnessed_size) == ("ahead", 5)


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_events_that_came_with_a_dump_are_taken_in(trail: Trail) -> None:
    """Another cluster's transaction numbers may lie ahead of this one's; they are over all the same."""
    trail.append(event(1))
    with trail.without_guards() as connection:
        connection.execute(text("UPDATE audit_events SET xid = 9000000000000"))
    assert trail.sequencer.run_once(NOW).appended == 1
    trail.append(event(2))
    assert trail.sequencer.run_once(NOW + timedelta(seconds=1)).appended == 1
    trail.sequencer.resign()
    assert trail.new_sequencer("node-b").run_once(NOW + timedelta(seconds=2)).appended == 0
    assert_sound(trail, 2)


def test_a_log_that_came_from_further_on_goes_on_here(trail: Trail) -> None:
    """A dump from a cluster whose transactions have higher numbers; on SQLite, a point that no event has reached."""
    trail.fill(3)
    with trail.without_guards() as connection:
        connection.execute(audit_reach.update().values(xid=9_000_000_000_000, event_row=9_000_000_000_000))
    ids = trail.append(event(8), event(9))
    with trail.engine.connect() as connection:
        assert lag(connection, NOW).pending == 2
    assert trail.sequencer.run_once(NOW + timedelta(minutes=1)).appended == 2
    assert positions(trail)[ids[1]] == 4
    trail.append(event(10))
    assert trail.sequencer.run_once(NOW + timedelta(minutes=2)).appended == 1
    assert_sound(trail, 6)


def test_a_point_reached_that_somebody_set_back_gives_no_place_twice(trail: Trail) -> None:
    trail.fill(3)
    with trail.without_guards() as connection:
        connection.execute(audit_reach.delete())
    trail.append(event(9))
    assert trail.sequencer.run_once(NOW + timedelta(minutes=1)).appended == 1
    assert_sound(trail, 4)


def test_a_changed_event_that_is_put_right_gets_its_place(trail: Trail) -> None:
    ids = trail.append(event(1), event(2))
    with trail.engine.connect() as connection:
        body = connection.scalars(select(audit_events.c.body).where(audit_events.c.event_id == ids[0])).one()
    for written in (b"{}", body):
        with trail.without_guards() as connection:
            connection.execute(audit_events.update().where(audit_events.c.event_id == ids[0]).values(body=written))
        trail.sequencer.run_once(NOW)
    result = trail.sequencer.run_once(NOW)
    assert (result.appended, result.mismatched, result.lag.pending) == (0, (), 0)
    assert positions(trail) == {ids[1]: 0, ids[0]: 1}
    with trail.engine.connect() as connection:
        assert connection.execute(select(audit_refused)).all() == []
    assert_sound(trail, 2)
