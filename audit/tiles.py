"""The stored tree: complete tiles of 256 hashes, read for proofs and written by the sequencer.

Tile (level, n) holds the nodes of tree level 8 * level from n * 256 on. The right edge, where tiles are not complete
yet, is read from the leaf hashes beside the events and from the roots of the tiles below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, insert, select

from audit.checkpoint import TreeHead
from audit.errors import AuditError, NoSuchEvent
from audit.merkle import EMPTY_ROOT, HASH_SIZE, inclusion_proof, pair_up
from audit.tables import audit_checkpoints, audit_events, audit_head, audit_positions, audit_tiles, event_place

_PAGE: Final = 1_024
TILE_LEVELS: Final = 8
TILE_SIZE: Final = 1 << TILE_LEVELS


def split_hashes(packed: bytes) -> list[bytes]:
    """Return the hashes of a packed tile."""
    return [packed[start : start + HASH_SIZE] for start in range(0, len(packed), HASH_SIZE)]


def stored_tile(connection: Connection, number: int) -> list[bytes] | None:
    """Return the leaf hashes of a complete tile, None when it is not there."""
    stored = connection.execute(
        select(audit_tiles.c.hashes).where(audit_tiles.c.level == 0, audit_tiles.c.tile == number)
    ).scalar_one_or_none()
    return None if stored is None else split_hashes(bytes(stored))


def tile_root(hashes: Sequence[bytes]) -> bytes:
    """Return the node above the hashes of a complete subtree."""
    nodes = list(hashes)
    while len(nodes) > 1:
        nodes = pair_up(nodes)
    return nodes[0]


class StoredTree:
    """Reads nodes of the tree through one connection, each tile once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def node(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree (an `audit.merkle.NodeReader`).

        Raises:
            AuditError: the tables do not hold it.
        """
        height, inner = divmod(level, TILE_LEVELS)
        tile, offset = divmod(index << inner, TILE_SIZE)
        nodes = self._hashes(height, tile)[offset : offset + (1 << inner)]
        if len(nodes) != 1 << inner:
            raise AuditError(f"the tree has no node {index} on level {level}")
        return tile_root(nodes)

    def whole(self, level: int, tile: int) -> list[bytes]:
        """Return the hashes of a tile that has just become complete.

        Raises:
            AuditError: it is not complete.
        """
        hashes = self._read(level, tile)
        if len(hashes) != TILE_SIZE:
            raise AuditError(f"tile {tile} on level {level} has a hole")
        return hashes

    def edge(self, start: int, size: int) -> list[bytes]:
        """Return the leaf hashes from `start`, where the last incomplete tile begins, up to `size`.

        Raises:
            AuditError: the events between are not all there.
        """
        hashes = self._read(0, start // TILE_SIZE)[: size - start]
        if len(hashes) != size - start:
            raise AuditError("the end of the log has a hole")
        return hashes

    def _hashes(self, height: int, tile: int) -> list[bytes]:
        if (height, tile) not in self._tiles:
            self._tiles[height, tile] = self._read(height, tile)
        return self._tiles[height, tile]

    def _read(self, height: int, tile: int) -> list[bytes]:
        stored = self._connection.execute(
            select(audit_tiles.c.hashes).where(audit_tiles.c.level == height, audit_tiles.c.tile == tile)
        ).scalar_one_or_none()
        if stored is not None:
            return split_hashes(bytes(stored))
        first = tile * TILE_SIZE
        if height == 0:
            place = audit_positions.c.position
            numbered: Any = select(place, audit_events.c.leaf_hash).where(
                audit_events.c.id == audit_positions.c.event_row, place >= first, place < first + TILE_SIZE
            )
            numbered = numbered.order_by(place)
        else:
            numbered = select(audit_tiles.c.tile, audit_tiles.c.root).where(
                audit_tiles.c.level == height - 1, audit_tiles.c.tile >= first, audit_tiles.c.tile < first + TILE_SIZE
            )
            numbered = numbered.order_by(audit_tiles.c.tile)
        hashes: list[bytes] = []
        for number, hashed in self._connection.execute(numbered).all():
            if number != first + len(hashes):
                break
            hashes.append(bytes(hashed))
        return hashes


def store_complete_tiles(connection: Connection, *, old_size: int, leaves: Sequence[bytes]) -> None:
    """Write the tiles that `leaves`, appended to a tree of `old_size`, make complete. Their events are in place."""
    size = old_size + len(leaves)
    rows = []
    tree = StoredTree(connection)
    start = old_size - old_size % TILE_SIZE
    known = tree.edge(start, old_size) + list(leaves) if size - start >= TILE_SIZE else []
    for tile in range(start // TILE_SIZE, size // TILE_SIZE):
        at = tile * TILE_SIZE - start
        rows.append(_tile_row(0, tile, known[at : at + TILE_SIZE]))
    level = 0
    while rows:
        connection.execute(insert(audit_tiles), rows)
        finished = {row["tile"] // TILE_SIZE for row in rows if row["tile"] % TILE_SIZE == TILE_SIZE - 1}
        level += 1
        reader = StoredTree(connection)
        rows = [_tile_row(level, tile, reader.whole(level, tile)) for tile in sorted(finished)]


def _tile_row(level: int, tile: int, hashes: Sequence[bytes]) -> dict[str, Any]:
    return {"level": level, "tile": tile, "root": tile_root(hashes), "hashes": b"".join(hashes)}


def read_head(connection: Connection) -> TreeHead:
    """Return the tree as it stands."""
    row = connection.execute(select(audit_head.c.size, audit_head.c.root)).one_or_none()
    tree = StoredTree(connection)
    return TreeHead(row.size, bytes(row.root), tree.node) if row else TreeHead(0, EMPTY_ROOT, tree.node)


class StoredCheckpoint(NamedTuple):
    """A signed note, and what the columns beside it say: size, root, time."""

    size: int
    note: str
    columns: tuple[int, bytes, int]


class StoredCheckpoints:
    """The signed notes in order of size, read a page at a time; `next` is the one that is due."""

    def __init__(self, connection: Connection) -> None:
        self._stored = self._read(connection)
        self.next: StoredCheckpoint | None = next(self._stored, None)

    def up_to(self, size: int) -> Iterator[StoredCheckpoint]:
        """Yield, and move past, the notes that cover at most `size` events."""
        while self.next is not None and self.next[0] <= size:
            due = self.next
            self.next = next(self._stored, None)
            yield due

    @staticmethod
    def _read(connection: Connection) -> Iterator[StoredCheckpoint]:
        size = -1
        while True:
            page = connection.execute(
                select(audit_checkpoints)
                .where(audit_checkpoints.c.size > size)
                .order_by(audit_checkpoints.c.size)
                .limit(_PAGE)
            ).all()
            for row in page:
                root = row.root if isinstance(row.root, bytes | memoryview) else b""
                yield StoredCheckpoint(row.size, row.note, (row.size, bytes(root), row.signed_at))
            if len(page) < _PAGE:
                return
            size = page[-1].size


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """Shows to whoever trusts the checkpoint's key that an event stands in the log at `position`."""

    position: int
    body: bytes
    leaf_hash: bytes
    path: tuple[bytes, ...]
    note: str


def prove(connection: Connection, event_id: str) -> InclusionProof | None:
    """Return the proof of an event against the newest checkpoint, None while no checkpoint covers it.

    Raises:
        NoSuchEvent: it is not in the tables.
        AuditError: the stored tree has a hole.
    """
    event = connection.execute(
        select(event_place, audit_events.c.body, audit_events.c.leaf_hash).where(audit_events.c.event_id == event_id)
    ).one_or_none()
    if event is None:
        raise NoSuchEvent("there is no such event")
    newest = connection.execute(
        select(audit_checkpoints.c.size, audit_checkpoints.c.note).order_by(audit_checkpoints.c.size.desc()).limit(1)
    ).one_or_none()
    if event.position is None or newest is None or newest.size <= event.position:
        return None
    path = inclusion_proof(event.position, newest.size, StoredTree(connection).node)
    return InclusionProof(event.position, bytes(event.body), bytes(event.leaf_hash), tuple(path), newest.note)
