"""What says whether a log holds: leaves in order, and everything that was said about them.

`LogChecker` builds the tree anew from the leaves that a reader hands it, of an export (`audit.verify`) or of live
tables (`audit.live`), and compares its roots with signed checkpoints and with what a witness saw. Standard library and
`cryptography` only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from audit.checkpoint import Checkpoint, LostHistory, ReadableWitness, VerifyingKey, verify_note, witnessed
from audit.errors import InvalidNote, RevokedKey
from audit.merkle import Frontier

TILE_SIZE: Final = 256
TILE: Final = b'{"tile":'
FINDINGS_LIMIT: Final = 50
# Findings that only say between which positions something is wrong.
RANGES: Final = frozenset({"root", "order", "tile", "retention"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `position` is where; `until` closes the range when the place is not known exactly."""

    kind: str
    text: str
    position: int | None = None
    until: int | None = None


@dataclass(slots=True)
class VerifyResult:
    """The outcome.

    `unproven` events have no checkpoint over them yet; `withheld` ones were removed by retention. An export that the
    hub signed as whole at `size` is valid although the witness has seen `beyond` more by now: they are not in it.
    """

    findings: list[Finding] = field(default_factory=list)
    events: int = 0
    size: int = 0
    checkpoints: int = 0
    revoked: int = 0
    """Checkpoints by a key that was revoked since: they fit, and prove nothing."""
    origin: str | None = None
    root: str | None = None
    signed_at: str | None = None
    withheld: int = 0
    revealed: int = 0
    unproven: int = 0
    witnessed_size: int | None = None
    made_at: str | None = None
    """When the hub signed that this export is whole; None without such a statement."""
    lost: list[tuple[int, int, str]] = field(default_factory=list)
    """Histories (from, until, when) that the witness saw and a restored backup lost, as the hub signed."""
    beyond: int = 0
    """Events that the witness has seen and that came after this export was made."""

    @property
    def is_valid(self) -> bool:
        """True when nothing is wrong."""
        return not self.findings

    @property
    def first_bad(self) -> int | None:
        """The first position at which something is wrong, None when all is well or the place is unknown.

        A checkpoint that does not fit gives a range; where an exact finding lies within it, that one is the place.
        """
        exact = [one.position for one in self.findings if one.kind not in RANGES and one.position is not None]
        ranges = [
            one.position
            for one in self.findings
            if one.kind in RANGES and not any((one.position or 0) <= place < (one.until or 0) for place in exact)
        ]
        return min([place for place in [*exact, *ranges] if place is not None], default=None)

    @property
    def exit_code(self) -> int:
        """0 valid, 1 invalid."""
        return 0 if self.is_valid else 1


class LogChecker:
    """Builds the tree anew from leaves in order and compares it with everything that was said about it.

    Used for exports and for live tables. After a structural fault hashes can no longer be compared with roots; the
    faults are still listed, up to fifty.
    """

    def __init__(
        self, keys: Sequence[VerifyingKey], seen: Iterable[Checkpoint] = (), lost: Sequence[LostHistory] = ()
    ) -> None:
        self.result = VerifyResult(lost=[(one.start, one.end, one.recovered_at.isoformat()) for one in lost])
        self.leaves: list[bytes] = []
        """Leaf hashes since the last tile boundary; appended to by the reader."""
        self._keys = keys
        self._before_tile = Frontier()
        self._tile_start = 0
        self._agreed = 0
        self._proven = 0
        self._is_broken = False
        self._witnessed: dict[int, bytes] = {}
        self._signed: dict[int, Checkpoint] = {}
        self._newest_seen = 0
        for one in sorted(seen, key=lambda one: one.size):
            if self._witnessed.setdefault(one.size, one.root) != one.root:
                self.report("forked", f"the witness holds two roots for size {one.size}", one.size - 1)
            self._newest_seen = one.size
        self._sizes_seen = sorted(self._witnessed, reverse=True)
        if self._sizes_seen:
            self.result.witnessed_size = self._sizes_seen[0]

    @property
    def position(self) -> int:
        """The position that the next leaf gets."""
        return self._tile_start + len(self.leaves)

    def report(self, kind: str, text: str, position: int | None = None, until: int | None = None) -> None:
        """Note a fault."""
        if len(self.result.findings) < FINDINGS_LIMIT:
            self.result.findings.append(Finding(kind, text, position, until))

    def break_off(self) -> None:
        """Stop comparing with roots: positions are missing or doubled."""
        self._is_broken = True

    def skip_to(self, position: int) -> None:
        """Go on at another position after a structural fault."""
        self.break_off()
        self._tile_start = position - position % TILE_SIZE
        self.leaves = [b""] * (position % TILE_SIZE)

    def frontier(self) -> Frontier | None:
        """Return the tree of everything read so far, None after a structural fault."""
        if self._is_broken:
            return None
        made = self._before_tile.copy()
        made.extend(self.leaves)
        return made

    def next_tile(self) -> None:
        """Begin the next tile: 256 leaves are there, and all that was said about them has been compared."""
        if not self._is_broken:
            self._before_tile.extend(self.leaves)
        self._tile_start += len(self.leaves)
        self.leaves = []

    def tile_line(self) -> bytes:
        """Return the line that an export holds here, when nothing is wrong, for the leaves since the tile's beginning.

        Empty where there can be none.
        """
        if self._is_broken or not self.leaves:
            return b""
        hashes = b"".join(self.leaves).hex()
        return b'%b%d,"hashes":"%b"}\n' % (TILE, self._tile_start // TILE_SIZE, hashes.encode())

    def compare_tile(self, claimed: Sequence[bytes]) -> None:
        """Compare the leaves since the tile's beginning with the hashes that were stored for them."""
        own = self.leaves
        if own == list(claimed):
            return
        for offset in range(max(len(own), len(claimed))):
            mine = own[offset] if offset < len(own) else None
            theirs = claimed[offset] if offset < len(claimed) else None
            if mine in (theirs, b""):
                continue
            position = self._tile_start + offset
            kind, other = _classify(own, claimed, offset)
            texts = {
                "edited": f"event {position} is not the one that was sequenced there",
                "swapped": f"events {position} and {self._tile_start + other} have changed places",
                "missing": f"event {position} is missing; those after it have moved up",
                "inserted": f"event {position} was put in; those after it have moved down",
                "truncated": f"events from {position} on are missing",
            }
            self.report(kind, texts[kind], position)
            if kind not in ("edited", "swapped"):
                self.break_off()
                return
        if not self.result.findings:
            self.report("edited", "a tile of hashes does not fit its events", self._tile_start)

    def checkpoint(self, note: str) -> Checkpoint | None:
        """Check a signed checkpoint that covers the last event read, or one of the same tile before it.

        Returns it when its signature holds and it stands where it belongs.
        """
        is_revoked = False
        try:
            signed = verify_note(note, self._keys)
        except RevokedKey as error:
            signed, is_revoked = error.signed, True
        except InvalidNote as error:
            self.report("signature", str(error), max(0, self.position - 1))
            return None
        result = self.result
        if result.origin is not None and signed.origin != result.origin:
            self.report("origin", f"a checkpoint of another log, {signed.origin}, is among these", self.position)
            return None
        result.origin = signed.origin
        if not self._tile_start < signed.size <= self.position:
            text = f"a checkpoint of size {signed.size} stands after {self.position} events"
            self.report("order", text, self._agreed, signed.size)
            self.break_off()
            return None
        self._compare(signed.size, signed.root, "checkpoint")
        if is_revoked:
            result.revoked += 1
            return None
        result.checkpoints += 1
        result.size = signed.size
        result.root = signed.root.hex()
        result.signed_at = signed.signed_at.isoformat()
        self._proven = max(self._proven, signed.size)
        return signed

    def export_statement(self, note: str) -> None:
        """Check the signed statement that the export ends here and is whole."""
        try:
            signed = verify_note(note, self._keys, "export")
        except InvalidNote as error:
            self.report("signature", str(error), max(0, self.position - 1))
            return
        if self.result.origin is not None and signed.origin != self.result.origin:
            self.report("origin", f"the export of another log, {signed.origin}, was signed", self.position)
            return
        if signed.size != self.position:
            text = f"the export was signed with {signed.size} events, {self.position} are here"
            kind = "truncated" if signed.size > self.position else "inserted"
            self.report(kind, text, min(signed.size, self.position))
            return
        self._compare(signed.size, signed.root, "export's own statement")
        self.result.made_at = signed.signed_at.isoformat()

    def witness_due(self) -> int | None:
        """Return the next size at which a witness's checkpoint must be compared."""
        return self._sizes_seen[-1] if self._sizes_seen else None

    def compare_witness(self) -> None:
        """Compare with everything that the witness saw up to here."""
        while self._sizes_seen and self._sizes_seen[-1] <= self.position:
            size = self._sizes_seen.pop()
            if size:
                self._compare(size, self._witnessed[size], "witness")

    def finish(self, *, allow_tail: bool) -> VerifyResult:
        """Return the result; events that no checkpoint covers are a fault unless `allow_tail`."""
        result = self.result
        self.compare_witness()
        if self._sizes_seen and result.made_at is not None:
            result.beyond = self._newest_seen - self.position
        elif self._sizes_seen:
            text = f"the witness has seen {self._newest_seen} events, here are {self.position}"
            self.report("truncated", text, self.position)
        tail = self.position - self._proven
        if tail > 0 and not self._is_broken:
            if not allow_tail and result.is_valid:
                self.report("unproven", f"{tail} events stand after the last checkpoint", self._proven)
            result.unproven += tail
        return result

    def _compare(self, size: int, root: bytes, said_by: str) -> None:
        if self._is_broken:
            return
        frontier = self._before_tile.copy()
        frontier.extend(self.leaves[: size - self._tile_start])
        if frontier.root() == root:
            self._agreed = size
            return
        self.report(
            "root",
            f"the first {size} events are not what the {said_by} of size {size} says; "
            f"the first {self._agreed} still are",
            self._agreed,
            size,
        )
        self.break_off()


def _classify(own: Sequence[bytes], claimed: Sequence[bytes], offset: int) -> tuple[str, int]:
    """Name what happened at the first offset where two lists of leaf hashes differ."""
    mine = own[offset] if offset < len(own) else None
    theirs = claimed[offset] if offset < len(claimed) else None
    if mine is None:
        return "truncated", offset
    for other in range(offset + 1, min(len(own), len(claimed))):
        if own[other] == theirs and claimed[other] == mine:
            return "swapped", other
    if offset + 1 < len(claimed) and claimed[offset + 1] == mine:
        return "missing", offset
    if theirs is None or (offset + 1 < len(own) and own[offset + 1] == theirs):
        return "inserted", offset
    return "edited", offset


def witnessed_checkpoints(
    witness: ReadableWitness, keys: Sequence[VerifyingKey]
) -> tuple[list[Checkpoint], list[LostHistory]]:
    """Return what a witness holds, with every signature checked, and the histories that recoveries gave up.

    Raises:
        InvalidNote: a note that no known key signed is among them.
    """
    held = list(witnessed(witness, keys))
    return [one for one in held if isinstance(one, Checkpoint)], [one for one in held if isinstance(one, LostHistory)]
