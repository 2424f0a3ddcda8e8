"""Export of the log, or of one event with its proof, as JSON lines that `audit.verify` checks without a database.

Lines of the log, in this order: a header; for each event `{"position":N,"body":CANONICAL}` with the stored bytes as
they are, followed, if personal values are revealed, by `{"personal":...}` with values and salts; after each 256 events
a tile of their leaf hashes, which lets a verifier name the place of a fault; each signed checkpoint right after the
last event it covers; the hub's signed statement that the export is whole; an end line. Tiles of events that retention
removed come alone, marked `withheld`.

The export ends at the newest checkpoint: what is not proven yet is not exported as if it were.

Lines of a proof: a header; the event as in an export, with its personal values if they are revealed; the path of the
tree from its leaf to the root; the signed checkpoint with that root. It tells nothing of other events but hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import orjson
from sqlalchemy import Connection, func, select

from audit.checker import TILE_SIZE
from audit.checkpoint import Checkpoint, Signer, parse_note, sign_checkpoint
from audit.errors import AuditError
from audit.merkle import leaf_hash, verify_inclusion
from audit.personal import Sealer
from audit.reveal import reveal
from audit.tables import audit_checkpoints, audit_events, audit_positions
from audit.tiles import StoredCheckpoints, prove, stored_tile
from audit.verify import FORMAT, FORMAT_VERSION, PROOF_FORMAT

_PAGE: Final = 1_024


def export_jsonl(
    connection: Connection,
    *,
    reveal_with: Sealer | None = None,
    sign_with: Signer | None = None,
    now: datetime | None = None,
) -> Iterator[bytes]:
    """Yield the lines of an export; memory stays flat. Call it in one snapshot (a read transaction).

    With `reveal_with` personal values that have not been erased are opened and exported beside their events. With
    `sign_with` and `now` the hub states that the export is whole: a verifier can then tell it from one that was cut
    short, although its witness has seen more since.

    Raises:
        AuditError: the log holds no checkpoint yet, or has a hole; sequence first, verify the database then.
    """
    newest = connection.execute(
        select(audit_checkpoints).order_by(audit_checkpoints.c.size.desc()).limit(1)
    ).one_or_none()
    if newest is None:
        raise AuditError("the log has no checkpoint yet; there is nothing that an export could prove")
    first = connection.execute(select(func.min(audit_positions.c.position))).scalar_one()
    withheld: int = newest.size - newest.size % TILE_SIZE if first is None else min(first, newest.size)
    origin = parse_note(newest.note)[0].origin
    yield _line({"format": FORMAT, "version": FORMAT_VERSION, "origin": origin, "size": newest.size, "first": withheld})
    notes = StoredCheckpoints(connection)
    yield from _withheld_lines(connection, notes, withheld)
    yield from _event_lines(connection, notes, start=withheld, end=newest.size, sealer=reveal_with)
    if sign_with is not None and now is not None:
        whole = Checkpoint(origin, newest.size, bytes(newest.root), now, "export")
        yield _line({"statement": sign_checkpoint(whole, sign_with)})
    yield _line({"end": {"size": newest.size}})


def export_proof(connection: Connection, event_id: str, *, reveal_with: Sealer | None = None) -> bytes | None:
    """Return the proof of an event below the newest checkpoint; None while no checkpoint covers it.

    Call it in one snapshot (a read transaction).

    Raises:
        NoSuchEvent: it is not in the tables.
        AuditError: the tables contradict the checkpoint; verify the database then.
    """
    proof = prove(connection, event_id)
    if proof is None:
        return None
    signed, _ = parse_note(proof.note)
    if leaf_hash(proof.body) != proof.leaf_hash or not verify_inclusion(
        proof.leaf_hash, index=proof.position, size=signed.size, proof=proof.path, root=signed.root
    ):
        raise AuditError(f"event {proof.position} is not what was signed; verify the database")
    opened = reveal(connection, [event_id], reveal_with) if reveal_with else {}
    lines = [
        _line({"format": PROOF_FORMAT, "version": FORMAT_VERSION, "origin": signed.origin, "size": signed.size}),
        _event_line(proof.position, proof.body),
        *(_personal_line(proof.position, values) for values in opened.values()),
        _line({"path": [node.hex() for node in proof.path]}),
        _line({"checkpoint": proof.note}),
    ]
    return b"".join(lines)


def _event_line(position: int, body: bytes) -> bytes:
    return b'{"position":%d,"body":%b}\n' % (position, body)


def _personal_line(position: int, opened: Mapping[str, tuple[str, bytes]]) -> bytes:
    values = {name: [text, salt.hex()] for name, (text, salt) in opened.items()}
    return _line({"personal": {"position": position, "values": values}})


def _withheld_lines(connection: Connection, notes: StoredCheckpoints, end: int) -> Iterator[bytes]:
    for number in range(end // TILE_SIZE):
        hashes = stored_tile(connection, number)
        if hashes is None:
            raise AuditError(f"the log has a hole at {number * TILE_SIZE}; verify the database")
        yield _line({"tile": number, "withheld": True, "hashes": b"".join(hashes).hex()})
        yield from _note_lines(notes, (number + 1) * TILE_SIZE)


def _event_lines(
    connection: Connection, notes: StoredCheckpoints, *, start: int, end: int, sealer: Sealer | None
) -> Iterator[bytes]:
    hashes: list[bytes] = []
    position = start
    for page in _pages(connection, start=start, end=end):
        revealed = reveal(connection, [row.event_id for row in page], sealer) if sealer else {}
        for row in page:
            if row.position != position:
                raise AuditError(f"the log has a hole at {position}; verify the database")
            yield _event_line(position, bytes(row.body))
            if row.event_id in revealed:
                yield _personal_line(position, revealed[row.event_id])
            hashes.append(bytes(row.leaf_hash))
            position += 1
            if len(hashes) == TILE_SIZE or position == end:
                yield _line({"tile": (position - 1) // TILE_SIZE, "hashes": b"".join(hashes).hex()})
                hashes = []
            yield from _note_lines(notes, position)


def _note_lines(notes: StoredCheckpoints, size: int) -> Iterator[bytes]:
    for stored in notes.up_to(size):
        yield _line({"checkpoint": stored.note})


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"


def _pages(connection: Connection, *, start: int, end: int) -> Iterator[list[Any]]:
    """Yield events in pages by keyset."""
    place = audit_positions.c.position
    columns = (place, audit_events.c.event_id, audit_events.c.body, audit_events.c.leaf_hash)
    while start < end:
        page = connection.execute(
            select(*columns)
            .where(audit_events.c.id == audit_positions.c.event_row, place >= start, place < end)
            .order_by(place)
            .limit(_PAGE)
        ).all()
        if not page:
            raise AuditError(f"the log has a hole at {start}; verify the database")
        yield list(page)
        start = page[-1].position + 1
