"""Verification of an export, or of one event's proof, by whoever doubts it: `python -m audit.verify FILE --keys JWKS`.

Reads nothing but the files it is given and needs nothing but the standard library and `cryptography`. Of an export
every event is hashed, the tree is built anew, and its root must be the one in each signed checkpoint, so that
successive checkpoints are consistent by construction; a witness's checkpoints must fit as well. A proof shows that one
event stands below one signed checkpoint (RFC 9162 section 2.1.3) and tells nothing of the others. Keys inside a file
are never used.

Exit status: 0 valid, 1 invalid, 2 unreadable.
"""

from __future__ import annotations

import argparse
import binascii
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

from audit.checker import (
    FINDINGS_LIMIT,
    RANGES,
    TILE,
    TILE_SIZE,
    Finding,
    LogChecker,
    VerifyResult,
    witnessed_checkpoints,
)
from audit.checkpoint import Checkpoint, FileWitness, ReadableWitness, VerifyingKey, load_keys, verify_note
from audit.errors import AuditError, InvalidNote
from audit.merkle import HASH_SIZE, LEAF_BEGUN, leaf_hash, verify_inclusion

FORMAT: Final = "idhub-audit-export"
PROOF_FORMAT: Final = "idhub-audit-proof"
FORMAT_VERSION: Final = 1
_LINE_LIMIT: Final = 1 << 20
_READ_AT_ONCE: Final = 1 << 16
_Form = tuple[tuple[str, ...], tuple[str, ...]]
"""Names of a line, and of the object in it, in their order."""
_HEADER: Final[_Form] = (("format", "version", "origin", "size", "first"), ())
_PERSONAL: Final[_Form] = (("personal",), ("position", "values"))
_CHECKPOINT: Final[_Form] = (("checkpoint",), ())
_FORMS: Final[tuple[_Form, ...]] = (
    (("tile", "hashes"), ()),
    (("tile", "withheld", "hashes"), ()),
    _PERSONAL,
    _CHECKPOINT,
    (("statement",), ()),
    (("end",), ("size",)),
)
_PROOF_HEADER: Final[_Form] = (("format", "version", "origin", "size"), ())
_PATH: Final[_Form] = (("path",), ())
# `type` is the last name of a canonical body, so that such an event is known without reading it.
_PRUNED: Final = b'"type":"audit.pruned"}'


class Unreadable(AuditError):
    """What was to be verified is no export and no proof, or its key or witness file cannot be read."""


@dataclass(slots=True)
class ProofResult:
    """The outcome for one event. What it says of the event holds only where nothing is wrong."""

    findings: list[Finding] = field(default_factory=list)
    position: int | None = None
    event: Mapping[str, Any] = field(default_factory=dict)
    origin: str | None = None
    size: int = 0
    root: str | None = None
    signed_at: str | None = None
    revealed: dict[str, str] = field(default_factory=dict)
    """Personal values of the event that are the ones committed to."""
    is_witnessed: bool | None = None
    """Whether the witness has seen this very checkpoint; None: no witness was asked."""

    @property
    def is_valid(self) -> bool:
        """True when nothing is wrong."""
        return not self.findings

    @property
    def exit_code(self) -> int:
        """0 valid, 1 invalid."""
        return 0 if self.is_valid else 1

    def report(self, kind: str, text: str) -> None:
        """Note a fault."""
        self.findings.append(Finding(kind, text, self.position))


class _ExportReader:
    """Reads an export line by line; events on a fast path that parses no JSON."""

    def __init__(self, checker: LogChecker) -> None:
        self._checker = checker
        self._result = checker.result
        self._skipped: set[int] = set()
        self._last_body: bytes | None = None
        self._last_position = -1
        self._beside: set[bytes] = set()
        self._beside_position = -1
        self._has_end = False
        self._pruned = 0
        """Below which position a decision in the log let events go."""

    def read(self, file: BinaryIO) -> None:
        """Read a whole export.

        Raises:
            Unreadable: it is not one.
        """
        line = file.readline(_LINE_LIMIT)
        header = _json_object(line)
        if header.get("format") != FORMAT or header.get("version") != FORMAT_VERSION:
            raise Unreadable("this is not an export of an audit trail, or of a newer version")
        origin = header.get("origin")
        self._result.origin = origin if isinstance(origin, str) else None
        checker = self._checker
        if not _is_written(line, header, _HEADER):
            checker.report("edited", "the header is not written as the hub writes one")
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
        elif (header.get("size"), header.get("first")) != (checker.position, self._result.withheld):
            text = f"the header says {header.get('first')} to {header.get('size')}, which is not what is here"
            checker.report("edited", text, checker.position)
        if self._result.withheld > self._pruned:
            text = f"events below {self._result.withheld} were removed by a decision that is not in the log"
            checker.report("retention", text, self._pruned, self._result.withheld)

    def _note_decision(self, body: bytes) -> None:
        try:
            through = json.loads(body)["details"]["through_position"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if type(through) is int:
            self._pruned = max(self._pruned, through)

    def _other(self, line: bytes) -> None:
        if self._stands_twice(line):
            self._checker.report("inserted", "a line stands twice", self._checker.position)
            return
        if line.startswith(TILE) and line == self._checker.tile_line() and not self._has_end:
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
        if not any(_is_written(line, value, form) for form in _FORMS):
            self._misplaced(value)
        elif "tile" in value:
            self._tile(value)
        elif "checkpoint" in value:
            self._checkpoint(str(value["checkpoint"]))
        elif "personal" in value:
            self._personal(value["personal"])
        elif "statement" in value:
            self._checker.export_statement(str(value["statement"]))
        else:
            self._end(value["end"])

    def _stands_twice(self, line: bytes) -> bool:
        """Whether this line stood here before, since the last event."""
        if self._beside_position != self._last_position:
            self._beside_position = self._last_position
            self._beside.clear()
        stands = line in self._beside
        self._beside.add(line)
        return stands

    def _checkpoint(self, note: str) -> None:
        before = self._result.size
        signed = self._checker.checkpoint(note)
        if signed is not None and signed.size <= before:
            text = f"a checkpoint of size {signed.size} stands after the one of {before}"
            self._checker.report("order", text, signed.size, before)

    def _tile(self, value: Mapping[str, Any]) -> None:
        checker = self._checker
        try:
            packed = _of_hex(value["hashes"])
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
        if value["tile"] * TILE_SIZE + len(claimed) != checker.position and checker.result.is_valid:
            checker.report("edited", f"a tile says that it is number {value['tile']}", checker.position)
        if len(checker.leaves) != len(claimed):
            checker.skip_to(value["tile"] * TILE_SIZE + len(claimed))

    def _personal(self, value: Any) -> None:
        checker = self._checker
        try:
            body = json.loads(self._last_body or b"{}")
            for name, _, is_kept in _opened(value, body):
                if not is_kept:
                    checker.report("commitment", f"{name} is not the value committed to", self._last_position)
                self._result.revealed += 1
            if value["position"] != self._last_position:
                checker.report("commitment", "personal values stand beside another event", self._last_position)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            checker.report("commitment", "personal values cannot be read", self._last_position)

    def _end(self, value: Any) -> None:
        self._has_end = True
        size = value.get("size") if isinstance(value, Mapping) else None
        if type(size) is not int or size != self._checker.position:
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
            self._skipped.update(range(expected, min(found, expected + FINDINGS_LIMIT)))
            checker.skip_to(found + 1)
        elif found in self._skipped:
            checker.report("swapped", f"event {found} stands in the wrong place", found)
        else:
            checker.report("inserted", f"event {found} appears again", found)
            checker.break_off()


def _opened(personal: Any, body: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """The personal values beside an event: name, value, and whether it is the one that the event committed to.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: they do not have the form.
    """
    commitments = body.get("personal", {})
    opened = []
    for name, (text, salt) in personal["values"].items():
        # The rule of `audit.personal.commitment`.
        digest = sha256(_of_hex(salt) + name.encode() + b"\x00" + text.encode()).hexdigest()
        opened.append((name, text, commitments.get(name) == digest))
    return opened


def _is_written(line: bytes, value: Mapping[str, Any], form: _Form) -> bool:
    """Whether a line has the names of a form, no others, and the one spelling that the hub gives it.

    What nothing here checks would else stand in a file that is called valid, for other readers to believe.
    """
    names, inner = form
    held = next(iter(value.values()), None) if inner else None
    if tuple(value) != names or (inner and (not isinstance(held, Mapping) or tuple(held) != inner)):
        return False
    return line.removesuffix(b"\n") == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _of_hex(text: str) -> bytes:
    """Bytes out of hex in its one spelling.

    Raises:
        ValueError, TypeError, AttributeError: it is something else.
    """
    found = bytes.fromhex(text)
    if found.hex() != text:
        raise ValueError("hex is written small, without blanks")
    return found


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=named_once)
    except (ValueError, RecursionError) as error:
        raise Unreadable("a line is not JSON") from error
    if not isinstance(value, dict):
        raise Unreadable("a line is not a JSON object")
    return value


def named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of a JSON text, for `json.loads(object_pairs_hook=)`: another reader would see another value of a name
    that stands twice (RFC 8259 section 4).

    Raises:
        ValueError: one does.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


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
        by = " by a key that was not revoked" if result.revoked else ""
        checker.report("signature", f"the export holds no checkpoint{by}: nothing in it is proven")
    if made_after is not None and (result.made_at is None or datetime.fromisoformat(result.made_at) < made_after):
        when = result.made_at or "no signed time"
        checker.report("stale", f"the export is of {when}, not after {made_after.isoformat()}", checker.position)
    if origin is not None and result.origin != origin:
        checker.report("origin", f"this is the log {result.origin}, not {origin}")
    return result


def _written(line: bytes, form: _Form) -> dict[str, Any]:
    value = _json_object(line)
    if not _is_written(line, value, form):
        raise Unreadable("a line is not written as the hub writes one")
    return value


def is_proof(path: Path) -> bool:
    """Tell whether a file says that it is the proof of one event.

    Raises:
        Unreadable: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _json_object(file.readline(_LINE_LIMIT)).get("format") == PROOF_FORMAT
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _Proof:
    """What the lines of a proof say, of which nothing has been checked but how they are written."""

    position: int
    leaf: bytes
    body: Mapping[str, Any]
    opened: list[tuple[str, str, bool]]
    nodes: list[bytes]
    note: str


def _proof_of(lines: Sequence[bytes]) -> _Proof:
    """Read the lines after the header: those that the hub writes, in their order, and nothing after them.

    Raises:
        Unreadable, ValueError, KeyError, TypeError, AttributeError, OverflowError: they are others.
    """
    event, *beside, path, note, after = lines
    position = _json_object(event)["position"]
    start = b'{"position":%d,"body":' % position
    if after or not event.startswith(start) or not event.endswith(b"}"):
        raise Unreadable("the event is not written as it was proven")
    body = json.loads(event[len(start) : -1])
    personal = [_written(line, _PERSONAL)["personal"] for line in beside]
    if len(personal) > 1 or any(each["position"] != position for each in personal):
        raise Unreadable("the personal values are not those of the event")
    return _Proof(
        position=position,
        leaf=leaf_hash(event[len(start) : -1]),
        body=body,
        opened=[one for each in personal for one in _opened(each, body)],
        nodes=[_of_hex(node) for node in _written(path, _PATH)["path"]],
        note=str(_written(note, _CHECKPOINT)["checkpoint"]),
    )


def verify_proof(
    path: Path,
    *,
    keys: Sequence[VerifyingKey],
    witness: ReadableWitness | None = None,
    origin: str | None = None,
    made_after: datetime | None = None,
) -> ProofResult:
    """Verify the proof of one event against public keys and, if given, a witness that must have seen its checkpoint.

    Raises:
        Unreadable: the file is not such a proof.
        InvalidNote: the witness holds what no known key signed.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LINE_LIMIT + 1)
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from error
    header, *lines = content.split(b"\n")
    said = _json_object(header)
    if said.get("format") != PROOF_FORMAT or said.get("version") != FORMAT_VERSION:
        raise Unreadable("this is not the proof of an event, or of a newer version")
    result = ProofResult()
    try:
        if len(content) > _LINE_LIMIT or not _is_written(header, said, _PROOF_HEADER):
            raise Unreadable("the proof is larger, or has another header, than the hub writes")
        proof = _proof_of(lines)
    except (Unreadable, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        result.report("edited", "the proof is not written as the hub writes one")
        return result
    position = proof.position
    result.position, result.event = position, proof.body
    try:
        signed = verify_note(proof.note, keys)
    except InvalidNote as error:
        result.report("signature", str(error))
        return result
    result.origin, result.size, result.root = signed.origin, signed.size, signed.root.hex()
    result.signed_at = signed.signed_at.isoformat()
    if (said["origin"], said["size"]) != (signed.origin, signed.size):
        result.report("edited", "the header is of another checkpoint")
    if not verify_inclusion(proof.leaf, index=position, size=signed.size, proof=proof.nodes, root=signed.root):
        result.report("proof", f"this event does not stand at {position} below the checkpoint of size {signed.size}")
    _reveal(result, proof.opened)
    if origin is not None and signed.origin != origin:
        result.report("origin", f"this is the log {signed.origin}, not {origin}")
    if made_after is not None and signed.signed_at < made_after:
        result.report("stale", f"its checkpoint is of {result.signed_at}, not after {made_after.isoformat()}")
    if witness is not None:
        _compare_with(result, signed, witness, keys)
    return result


def _reveal(result: ProofResult, opened: Sequence[tuple[str, str, bool]]) -> None:
    for name, text, is_kept in opened:
        if is_kept:
            result.revealed[name] = text
        else:
            result.report("commitment", f"{name} is not the value committed to")


def _compare_with(
    result: ProofResult, signed: Checkpoint, witness: ReadableWitness, keys: Sequence[VerifyingKey]
) -> None:
    roots = {one.root for one in witnessed_checkpoints(witness, keys)[0] if one.size == signed.size}
    result.is_witnessed = signed.root in roots
    if roots - {signed.root}:
        result.report("forked", f"the witness has seen another root for size {signed.size}")
    elif not roots:
        text = f"the witness has not seen the checkpoint of size {signed.size}; have the event proven anew"
        result.report("unwitnessed", text)


def read_keys(path: Path) -> list[VerifyingKey]:
    """Return the checkpoint keys of a JWKS file.

    Raises:
        Unreadable: the file cannot be read or holds no Ed25519 key.
    """
    try:
        keys = load_keys(_json_object(path.read_bytes()))
    except (OSError, InvalidNote, Unreadable) as error:
        raise Unreadable(f"the key file {path} cannot be read: {error}") from error
    if all(key.is_revoked for key in keys):
        raise Unreadable(f"the key file {path} holds no Ed25519 key, or only such as were revoked")
    return keys


def outcome_of(result: VerifyResult | ProofResult) -> dict[str, Any]:
    """Return the outcome as data."""
    first = {"first_bad": result.first_bad} if isinstance(result, VerifyResult) else {}
    return {"valid": result.is_valid, **first, **asdict(result)}


def told(result: VerifyResult | ProofResult) -> str:
    """Return the outcome in lines of text."""
    return describe(result) if isinstance(result, VerifyResult) else describe_proof(result)


def describe(result: VerifyResult) -> str:
    """Return the outcome in lines of text."""
    lines = []
    for one in sorted(result.findings, key=lambda one: (one.kind in RANGES, one.position or 0)):
        where = "" if one.position is None else f" at {one.position}"
        where = where if one.until is None else f" between {one.position} and {one.until - 1}"
        lines.append(f"INVALID{where} ({one.kind}): {one.text}")
    if result.is_valid:
        lines.append(
            f"valid: {result.events} events, {result.checkpoints} checkpoints of {result.origin}, "
            f"the last of size {result.size} at {result.signed_at}, root {result.root}"
        )
    if result.revoked:
        lines.append(f"note: {result.revoked} checkpoints are by a key that was revoked since; they count for nothing")
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


def describe_proof(result: ProofResult) -> str:
    """Return the outcome of a proof in lines of text."""
    lines = [f"INVALID ({one.kind}): {one.text}" for one in result.findings]
    if result.is_valid:
        event = result.event
        lines += [
            f"valid: event {event.get('event_id')} stands at {result.position} of {result.origin}",
            f"checkpoint: of size {result.size}, signed at {result.signed_at}, root {result.root}",
            f"event: {event.get('type')} of {_when(event.get('at'))}, {event.get('outcome')}",
        ]
        lines += [f"{name}: {text}, as the event committed to" for name, text in result.revealed.items()]
    if result.is_witnessed:
        lines.append("witness: has seen this checkpoint")
    return "\n".join(lines)


def _when(micros: Any) -> str:
    return datetime.fromtimestamp(micros / 1_000_000, UTC).isoformat() if type(micros) is int else "no time"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="audit.verify", description="Verify an export of the audit trail, or one event's proof."
    )
    parser.add_argument("export", type=Path, help="the JSONL export, or the proof of one event")
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
        verify = verify_proof if is_proof(chosen.export) else verify_export
        result = verify(
            chosen.export,
            keys=read_keys(chosen.keys),
            witness=witness,
            origin=chosen.origin,
            made_after=chosen.made_after,
        )
    except (AuditError, binascii.Error) as error:
        sys.stderr.write(f"unreadable: {error}\n")
        return 2
    sys.stdout.write(json.dumps(outcome_of(result), ensure_ascii=False) if chosen.json else told(result))
    sys.stdout.write("\n")
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
