"""Verification of an export by whoever doubts it: `python -m audit.verify EXPORT --keys JWKS [--witness FILE]`.

Reads nothing but the files it is given and needs nothing but the standard library and `cryptography`. Every event is
hashed, the tree is built anew, and its root must be the one in each signed checkpoint, so that successive checkpoints
are consistent by construction; a witness's checkpoints must fit as well. Keys inside the export are never used.

Exit status: 0 valid, 1 invalid, 2 unreadable.
"""

from __future__ import annotations

import argparse
import binascii
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

from audit.checkpoint import (
    Checkpoint,
    FileWitness,
    LostHistory,
    ReadableWitness,
    VerifyingKey,
    load_keys,
    verify_note,
    witnessed,
)
from audit.errors import AuditError, InvalidNote
from audit.merkle import HASH_SIZE, LEAF_BEGUN, Frontier

FORMAT: Final = "idhub-audit-export"
FORMAT_VERSION: Final = 1
TILE_SIZE: Final = 256
_FINDINGS_LIMIT: Final = 50
_LINE_LIMIT: Final = 1 << 20
_READ_AT_ONCE: Final = 1 << 16
# `type` is the last name of a canonical body, so that such an event is known without reading it.
_PRUNED: Final = b'"type":"audit.pruned"}'
_TILE: Final = b'{"tile":'
# Findings that only say between which positions something is wrong.
_RANGES: Final = frozenset({"root", "order", "tile", "retention"})


class Unreadable(AuditError):
    """What was to be verified is not an export, or its key or witness file cannot be read."""


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
        exact = [one.position for one in self.findings if one.kind not in _RANGES and one.position is not None]
        ranges = [
            one.position
            for one in self.findings
            if one.kind in _RANGES and not any((one.position or 0) <= place < (one.until or 0) for place in exact)
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
        if len(self.result.findings) < _FINDINGS_LIMIT:
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
        return b'%b%d,"hashes":"%b"}\n' % (_TILE, self._tile_start // TILE_SIZE, hashes.encode())

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
        try:
            signed = verify_note(note, self._keys)
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


class _ExportReader:
    """Reads an export line by line; events on a fast path that parses no JSON."""

    def __init__(self, checker: LogChecker) -> None:
        self._checker = checker
        self._result = checker.result
        self._skipped: set[int] = set()
        self._last_body: bytes | None = None
        self._last_position = -1
        self._has_end = False
        self._pruned = 0
        """Below which position a decision in the log let events go."""

    def read(self, file: BinaryIO) -> None:
        """Read a whole export.

        Raises:
            Unreadable: it is not one.
        """
        header = _json_object(file.readline(_LINE_LIMIT))
        if header.get("format") != FORMAT or header.get("version") != FORMAT_VERSION:
            raise Unreadable("this is not an export of an audit trail, or of a newer version")
        origin = header.get("origin")
        self._result.origin = origin if isinstance(origin, str) else None
        checker = self._checker
        due = checker.witness_due()
        begin = LEAF_BEGUN.copy
        leaves = checker.leaves
        body: bytes | None = None
        position = 0
        events = 0
        for line in file:
            start = b'{"position":%d,"body":' % position
            if line.startswith(start) and line.endswith(b"}\n"):
                body = line[len(start) : -2]
                if len(leaves) == TILE_SIZE:
                    checker.next_tile()
                    leaves = checker.leaves
                leaf = begin()
                leaf.update(body)
                leaves.append(leaf.digest())
                if body.endswith(_PRUNED):
                    self._note_decision(body)
                position += 1
                events += 1
                if position == due:
                    checker.compare_witness()
                    due = checker.witness_due()
                continue
            self._last_body = body
            self._last_position = position - 1
            self._other(line)
            leaves = checker.leaves
            position = checker.position
            due = checker.witness_due()
        self._result.events += events
        if not self._has_end:
            checker.report("truncated", "the export has no end line", checker.position)
        if self._result.withheld > self._pruned:
            text = f"events below {self._result.withheld} were removed by a decision that is not in the log"
            checker.report("retention", text, self._pruned, self._result.withheld)

    def _note_decision(self, body: bytes) -> None:
        try:
            through = json.loads(body)["details"]["through_position"]
        except (ValueError, KeyError, TypeError):
            return
        if type(through) is int:
            self._pruned = max(self._pruned, through)

    def _other(self, line: bytes) -> None:
        if line.startswith(_TILE) and line == self._checker.tile_line() and not self._has_end:
            return
        if len(line) > _LINE_LIMIT or not line.endswith(b"\n"):
            self._checker.report("truncated", "a line is cut short or too long", self._checker.position)
            return
        if self._has_end:
            self._checker.report("inserted", "there are lines after the end", self._checker.position)
            return
        try:
            value = _json_object(line)
        except Unreadable:
            self._checker.report("edited", "a line cannot be read", self._checker.position)
            # Count it as the event that was due, so that the rest can be looked at.
            self._checker.skip_to(self._checker.position + 1)
            return
        if "tile" in value:
            self._tile(value)
        elif "checkpoint" in value:
            self._checker.checkpoint(str(value["checkpoint"]))
        elif "personal" in value:
            self._personal(value["personal"])
        elif "statement" in value:
            self._checker.export_statement(str(value["statement"]))
        elif "end" in value:
            self._end(value["end"])
        else:
            self._misplaced(value)

    def _tile(self, value: Mapping[str, Any]) -> None:
        checker = self._checker
        try:
            packed = bytes.fromhex(value["hashes"])
        except (KeyError, TypeError, ValueError):
            packed = b""
        if not packed or len(packed) > TILE_SIZE * HASH_SIZE or type(value["tile"]) is not int or value["tile"] < 0:
            checker.report("edited", "a tile cannot be read", checker.position)
            return
        claimed = [packed[start : start + HASH_SIZE] for start in range(0, len(packed), HASH_SIZE)]
        if value.get("withheld") is True:
            # Retention removes whole tiles from the beginning; in the middle it would be a deletion.
            if self._result.events or self._last_body is not None or checker.position != value["tile"] * TILE_SIZE:
                checker.report("missing", "events are withheld in the middle of the log", checker.position)
                checker.break_off()
                return
            if checker.leaves:
                checker.next_tile()
            checker.leaves.extend(claimed)
            self._result.withheld += len(claimed)
            checker.compare_witness()
            return
        checker.compare_tile(claimed)
        if len(checker.leaves) != len(claimed):
            checker.skip_to(value["tile"] * TILE_SIZE + len(claimed))

    def _personal(self, value: Any) -> None:
        checker = self._checker
        try:
            body = json.loads(self._last_body or b"{}")
            commitments = body.get("personal", {})
            for name, (text, salt) in value["values"].items():
                # The rule of `audit.personal.commitment`.
                digest = sha256(bytes.fromhex(salt) + name.encode() + b"\x00" + text.encode()).hexdigest()
                if commitments.get(name) != digest:
                    checker.report("commitment", f"{name} is not the value committed to", self._last_position)
                self._result.revealed += 1
            if value["position"] != self._last_position:
                checker.report("commitment", "personal values stand beside another event", self._last_position)
        except (ValueError, KeyError, TypeError, AttributeError):
            checker.report("commitment", "personal values cannot be read", self._last_position)

    def _end(self, value: Any) -> None:
        self._has_end = True
        size = value.get("size") if isinstance(value, Mapping) else None
        if size != self._checker.position:
            text = f"the export ends at {self._checker.position}, its end line says {size}"
            self._checker.report("truncated", text, self._checker.position)

    def _misplaced(self, value: Mapping[str, Any]) -> None:
        checker = self._checker
        found, expected = value.get("position"), checker.position
        if not isinstance(found, int) or isinstance(found, bool) or "body" not in value:
            checker.report("edited", "a line is not an event", expected)
        elif found == expected:
            checker.report("edited", f"event {expected} is not written as it was exported", expected)
            checker.skip_to(expected + 1)
        elif found > expected:
            checker.report("missing", f"events {expected} to {found - 1} are missing", expected, found)
            self._skipped.update(range(expected, min(found, expected + _FINDINGS_LIMIT)))
            checker.skip_to(found + 1)
        elif found in self._skipped:
            checker.report("swapped", f"event {found} stands in the wrong place", found)
        else:
            checker.report("inserted", f"event {found} appears again", found)
            checker.break_off()


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Unreadable("a line is not JSON") from error
    if not isinstance(value, dict):
        raise Unreadable("a line is not a JSON object")
    return value


def witnessed_checkpoints(
    witness: ReadableWitness, keys: Sequence[VerifyingKey]
) -> tuple[list[Checkpoint], list[LostHistory]]:
    """Return what a witness holds, with every signature checked, and the histories that recoveries gave up.

    Raises:
        InvalidNote: a note that no known key signed is among them.
    """
    held = list(witnessed(witness, keys))
    return [one for one in held if isinstance(one, Checkpoint)], [one for one in held if isinstance(one, LostHistory)]


def verify_export(
    path: Path,
    *,
    keys: Sequence[VerifyingKey],
    witness: ReadableWitness | None = None,
    origin: str | None = None,
    made_after: datetime | None = None,
) -> VerifyResult:
    """Verify an export file against public keys and, if given, a witness.

    A witness goes on after an export was made. What tells that from an export that was cut short is the hub's signed
    statement in it; what tells an old export from a new one is `made_after`, an instant that it must not be older than.

    Raises:
        Unreadable: the file is not an export.
        InvalidNote: the witness holds what no known key signed.
    """
    seen, lost = witnessed_checkpoints(witness, keys) if witness else ([], [])
    return _verified(path, LogChecker(keys, seen, lost), origin=origin, made_after=made_after)


def verify_export_of(path: Path, *, keys: Sequence[VerifyingKey], beginning: Checkpoint, origin: str) -> VerifyResult:
    """Verify an export that must begin with what `beginning` says and may go on from there. Raises as above."""
    checker = LogChecker(keys, [beginning] if beginning.size else [])
    result = _verified(path, checker, origin=origin, made_after=None)
    if result.size < beginning.size and result.is_valid:
        checker.report("truncated", f"the export ends at {result.size}, before {beginning.size}", result.size)
    return result


def _verified(path: Path, checker: LogChecker, *, origin: str | None, made_after: datetime | None) -> VerifyResult:
    try:
        with path.open("rb", buffering=_READ_AT_ONCE) as file:
            _ExportReader(checker).read(file)
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from error
    result = checker.finish(allow_tail=False)
    if not result.checkpoints and not result.findings:
        checker.report("signature", "the export holds no checkpoint: nothing in it is proven")
    if made_after is not None and (result.made_at is None or datetime.fromisoformat(result.made_at) < made_after):
        when = result.made_at or "no signed time"
        checker.report("stale", f"the export is of {when}, not after {made_after.isoformat()}", checker.position)
    if origin is not None and result.origin != origin:
        checker.report("origin", f"this is the log {result.origin}, not {origin}")
    return result


def read_keys(path: Path) -> list[VerifyingKey]:
    """Return the checkpoint keys of a JWKS file.

    Raises:
        Unreadable: the file cannot be read or holds no Ed25519 key.
    """
    try:
        keys = load_keys(_json_object(path.read_bytes()))
    except (OSError, InvalidNote, Unreadable) as error:
        raise Unreadable(f"the key file {path} cannot be read: {error}") from error
    if not keys:
        raise Unreadable(f"the key file {path} holds no Ed25519 key")
    return keys


def describe(result: VerifyResult) -> str:
    """Return the outcome in lines of text."""
    lines = []
    for one in sorted(result.findings, key=lambda one: (one.kind in _RANGES, one.position or 0)):
        where = "" if one.position is None else f" at {one.position}"
        where = where if one.until is None else f" between {one.position} and {one.until - 1}"
        lines.append(f"INVALID{where} ({one.kind}): {one.text}")
    if result.is_valid:
        lines.append(
            f"valid: {result.events} events, {result.checkpoints} checkpoints of {result.origin}, "
            f"the last of size {result.size} at {result.signed_at}, root {result.root}"
        )
    if result.withheld:
        lines.append(f"note: events 0 to {result.withheld - 1} were removed by retention; their hashes are here")
    if result.unproven:
        lines.append(f"note: {result.unproven} events have no checkpoint over them yet")
    for start, end, when in result.lost:
        lines.append(
            f"RECOVERED: what the witness saw as events {start} to {end - 1} was lost with a restored backup; the hub "
            f"signed at {when} that it goes on from {start}"
        )
    if result.made_at is not None:
        lines.append(f"whole: the hub signed that it exported these {result.size} events at {result.made_at}")
    if result.witnessed_size is not None:
        lines.append(f"witness: has seen {result.witnessed_size} events")
    if result.beyond and result.witnessed_size is not None:
        first, last = result.witnessed_size - result.beyond, result.witnessed_size - 1
        lines.append(f"note: events {first} to {last} came after this export and are not in it")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="audit.verify", description="Verify an export of the audit trail.")
    parser.add_argument("export", type=Path, help="the JSONL export")
    parser.add_argument("--keys", type=Path, required=True, help="JWKS with the public checkpoint keys")
    parser.add_argument("--witness", type=Path, help="a witness's file of checkpoints")
    parser.add_argument("--origin", help="the log that it must be")
    parser.add_argument("--made-after", type=datetime.fromisoformat, help="the export must not be older (ISO, zone)")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.witness is not None and not chosen.witness.is_file():
            raise Unreadable(f"the witness file {chosen.witness} cannot be read")
        witness = FileWitness(chosen.witness) if chosen.witness else None
        if chosen.made_after is not None and chosen.made_after.tzinfo is None:
            raise Unreadable("--made-after needs a time zone")
        result = verify_export(
            chosen.export,
            keys=read_keys(chosen.keys),
            witness=witness,
            origin=chosen.origin,
            made_after=chosen.made_after,
        )
    except (AuditError, binascii.Error) as error:
        sys.stderr.write(f"unreadable: {error}\n")
        return 2
    if chosen.json:
        outcome = {"valid": result.is_valid, "first_bad": result.first_bad, **asdict(result)}
        sys.stdout.write(json.dumps(outcome, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(describe(result) + "\n")
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
