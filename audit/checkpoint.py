"""Signed checkpoints of the log and the witnesses that keep them.

A checkpoint is a C2SP signed note: origin, size, base64 root, one extension line with the time, an empty line, and
the signature line `— ORIGIN base64(key id || Ed25519 signature)`. The public key is looked up in a JWKS by its key id;
nothing inside a note is ever trusted as a key.

A witness keeps checkpoints where the database's owner cannot change them. Standard library and `cryptography` only.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import hashlib
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.errors import AuditError, ForeignLog, InvalidNote, RevokedKey
from audit.merkle import HASH_SIZE, NodeReader, consistency_proof, root_at, verify_consistency

_SIGNATURE_MARK: Final = "\u2014 "
_ED25519: Final = b"\x01"
_TIME_PREFIX: Final = "time "
_TAIL_BYTES: Final = 1 << 16
_NOTE_BEGUN: Final = b'{"note": "'
Purpose = Literal["checkpoint", "export", "recovery"]


class Signer(Protocol):
    """What signs checkpoints; the key may be out of this process."""

    @property
    def public_key(self) -> bytes:
        """The 32 raw bytes of the Ed25519 public key."""
        ...

    def sign(self, message: bytes, /) -> bytes:
        """Return the Ed25519 signature of `message`."""
        ...


class Ed25519Signer:
    """Signs with a private key held in this process."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_key = private.public_key().public_bytes_raw()

    def sign(self, message: bytes, /) -> bytes:
        """Return the signature of `message`."""
        return self._private.sign(message)


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key out of a JWKS."""

    kid: str
    raw: bytes
    key: Ed25519PublicKey
    is_revoked: bool = False
    """Others may have it: what it signed is known as that, and proves nothing."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the log was at a moment: its first `size` events hash to `root`.

    With purpose `export` it says that an export was made which ends there; with `recovery`, that the log goes on from
    there after a backup was restored, and that what was signed beyond it before is of a history that is lost. One never
    passes for the other.
    """

    origin: str
    size: int
    root: bytes
    signed_at: datetime
    purpose: Purpose = "checkpoint"

    def body(self) -> str:
        """Return the text that is signed."""
        at = self.signed_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        root = base64.b64encode(self.root).decode()
        purpose = "" if self.purpose == "checkpoint" else f"{self.purpose}\n"
        return f"{self.origin}\n{self.size}\n{root}\n{_TIME_PREFIX}{at}\n{purpose}"


def load_keys(jwks: Mapping[str, Any]) -> list[VerifyingKey]:
    """Return the Ed25519 keys of a JWKS that may sign checkpoints; keys for something else are passed over.

    Those in its member `revoked` come as such, also where they stand among `keys` too.

    Raises:
        InvalidNote: the JWKS has no form, or an Ed25519 key in it is broken.
    """
    revoked = _ed25519_keys(jwks.get("revoked", []), are_revoked=True)
    gone = {key.raw for key in revoked}
    return [*(key for key in _ed25519_keys(jwks.get("keys")) if key.raw not in gone), *revoked]


def _ed25519_keys(entries: Any, *, are_revoked: bool = False) -> list[VerifyingKey]:
    if not isinstance(entries, list):
        raise InvalidNote("the key file is not a JWKS")
    keys = []
    for entry in entries:
        if not isinstance(entry, Mapping) or entry.get("kty") != "OKP" or entry.get("crv") != "Ed25519":
            continue
        if entry.get("idhub_purpose", "checkpoint") != "checkpoint":
            continue
        try:
            raw = base64.urlsafe_b64decode(str(entry["x"]) + "=" * (-len(str(entry["x"])) % 4))
            public = Ed25519PublicKey.from_public_bytes(raw)
            keys.append(VerifyingKey(str(entry.get("kid", "")), raw, public, are_revoked))
        except (KeyError, ValueError) as error:
            raise InvalidNote("an Ed25519 key in the key file is broken") from error
    return keys


def key_id(name: str, public_key: bytes) -> bytes:
    """Return the four bytes by which a signature line names its key (C2SP signed-note)."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:4]


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> str:
    """Return the signed note of a checkpoint: text of several lines, the last of them the signature (C2SP signed-note).

    Raises:
        InvalidNote: the origin cannot stand in a note.
    """
    if any(character.isspace() or character == "+" for character in checkpoint.origin) or not checkpoint.origin:
        raise InvalidNote("an origin must not be empty nor hold blanks or '+'")
    body = checkpoint.body()
    signature = key_id(checkpoint.origin, signer.public_key) + signer.sign(body.encode())
    return f"{body}\n{_SIGNATURE_MARK}{checkpoint.origin} {base64.b64encode(signature).decode()}\n"


def parse_note(note: str, purpose: Purpose = "checkpoint") -> tuple[Checkpoint, list[tuple[str, bytes]]]:
    """Return the *unverified* checkpoint of a note and its signatures (key name, key id and signature).

    Raises:
        InvalidNote: the note does not have the form.
    """
    body, gap, signature_block = note.partition("\n\n")
    lines = body.split("\n")
    if not gap or len(lines) < 4 or not signature_block.endswith("\n"):
        raise InvalidNote("a checkpoint needs origin, size, root, time and a signature")
    origin, size, root_text, time_line = lines[:4]
    if not (size.isascii() and size.isdecimal()) or (size != "0" and size.startswith("0")) or len(size) > 18:
        raise InvalidNote("a checkpoint's size is not a number")
    try:
        root = base64.b64decode(root_text, validate=True)
        signed_at = datetime.fromisoformat(time_line.removeprefix(_TIME_PREFIX))
    except (binascii.Error, ValueError) as error:
        raise InvalidNote("a checkpoint's root or time cannot be read") from error
    if len(root) != HASH_SIZE or not time_line.startswith(_TIME_PREFIX) or signed_at.tzinfo is None:
        raise InvalidNote("a checkpoint's root or time cannot be read")
    signatures = [_parse_signature(line) for line in signature_block[:-1].split("\n")]
    checkpoint = Checkpoint(origin, int(size), root, signed_at, purpose)
    if checkpoint.body() != body + "\n":
        raise InvalidNote("a checkpoint is not written as it would be signed")
    return checkpoint, signatures


def _parse_signature(line: str) -> tuple[str, bytes]:
    name, _, encoded = line.removeprefix(_SIGNATURE_MARK).partition(" ")
    try:
        signature = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidNote("a checkpoint's signature cannot be read") from error
    if not line.startswith(_SIGNATURE_MARK) or len(signature) < 4 or base64.b64encode(signature).decode() != encoded:
        raise InvalidNote("a checkpoint's signature cannot be read")
    return name, signature


def verify_note(note: str, keys: Iterable[VerifyingKey], purpose: Purpose = "checkpoint") -> Checkpoint:
    """Return the checkpoint of a note that one of `keys` signed under the note's own origin.

    Raises:
        RevokedKey: only one that was revoked did.
        InvalidNote: the note has no form or another purpose, or none of the keys signed it.
    """
    checkpoint, signatures = parse_note(note, purpose)
    message = checkpoint.body().encode()
    known = sorted(keys, key=lambda key: key.is_revoked)
    revoked: VerifyingKey | None = None
    for name, signature in signatures:
        if name != checkpoint.origin:
            continue
        for candidate in known:
            if key_id(name, candidate.raw) == signature[:4]:
                with contextlib.suppress(InvalidSignature):
                    candidate.key.verify(signature[4:], message)
                    if not candidate.is_revoked:
                        return checkpoint
                    revoked = candidate
    if revoked is not None:
        raise RevokedKey(checkpoint, revoked.kid)
    raise InvalidNote(f"no known key signed the checkpoint of size {checkpoint.size}")


class Witness(Protocol):
    """Where checkpoints go. An HTTP witness is a class with these two members around the hub's HTTP client."""

    @property
    def name(self) -> str:
        """How operators know it."""
        ...

    def publish(self, note: str, /) -> None:
        """Hand over a signed checkpoint, at least once; the same note may come again.

        Raises:
            OSError, AuditError: it was not taken; it is offered again.
        """
        ...


class ReadableWitness(Witness, Protocol):
    """A witness that can be asked what it holds."""

    def notes(self) -> Iterator[str]:
        """Return the notes it holds, newest first."""
        ...


class FileWitness:
    """One JSON line a checkpoint in a file that is only ever appended to, flushed to the disk before it counts.

    A line that a crash cut short is passed over when reading and closed when the next one is written. Lines into which
    a syslog receiver wrote what `SyslogWitness` sent are read too.
    """

    def __init__(self, path: Path, *, end: int | None = None) -> None:
        self._path = path
        self._end = end
        self.name = f"file:{path}"

    def as_of_now(self) -> FileWitness:
        """Return a witness of what the file holds at this moment: read it before the log that it is compared with."""
        try:
            return FileWitness(self._path, end=self._path.stat().st_size)
        except FileNotFoundError:
            return FileWitness(self._path, end=0)

    def publish(self, note: str, /) -> None:
        """Append a note, unless it is the last one already; it is on the disk when this returns.

        Raises:
            OSError: no room, or the file cannot be written; half a line of it is passed over by who reads.
        """
        if next(self.notes(), None) == note:
            return
        line = json.dumps({"note": note}, ensure_ascii=True).encode() + b"\n"
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            if file.write(line) != len(line):
                # What is there of it is passed over when reading; the note is offered again.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            os.fsync(file.fileno())

    def notes(self) -> Iterator[str]:
        """Return the notes of the file, newest first; the end of a large file is read first.

        Raises:
            InvalidNote: a whole line is not one of ours.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            end = file.seek(0, os.SEEK_END)
            end = end if self._end is None else min(end, self._end)
            rest = b""
            while end > 0:
                start = max(0, end - _TAIL_BYTES)
                file.seek(start)
                lines = (file.read(end - start) + rest).split(b"\n")
                rest = lines.pop(0) if start else b""
                end = start
                for line in reversed(lines):
                    if line and (note := self._note(line)) is not None:
                        yield note

    def _note(self, line: bytes) -> str | None:
        try:
            # A receiver of syslog puts time and names before it.
            note = json.loads(line[max(line.find(_NOTE_BEGUN), 0) :])["note"]
        except (ValueError, KeyError, TypeError, RecursionError):
            # A torn write: what the crash left is not a JSON line, and nothing in it was acknowledged. Or, where a
            # receiver of syslog wrote the file, what somebody else sent it.
            return None
        if not isinstance(note, str):
            raise InvalidNote(f"a line of {self._path.name} is not a checkpoint")
        return note


class SyslogWitness:
    """Sends each checkpoint as one RFC 5424 message, facility 13 (log audit), severity 5 (notice).

    `address` is a socket path or (host, port). TCP frames by octet counting (RFC 6587 section 3.4.1); UDP gives no
    assurance of arrival, so it never is the only witness.
    """

    def __init__(
        self,
        address: str | tuple[str, int],
        *,
        transport: Literal["tcp", "udp", "unix"] = "tcp",
        host_name: str = "-",
        timeout: float = 2.0,
    ) -> None:
        self._address = address
        self._transport = transport
        self._host_name = host_name
        self._timeout = timeout
        self.name = f"syslog:{address}" if isinstance(address, str) else f"syslog:{address[0]}:{address[1]}"

    def probe(self) -> None:
        """Reach the receiver without sending anything; of UDP only its name is looked up.

        Raises:
            OSError: it cannot be reached.
        """
        if self._transport == "tcp":
            socket.create_connection(self._inet(), timeout=self._timeout).close()
        elif self._transport == "udp":
            socket.getaddrinfo(*self._inet(), type=socket.SOCK_DGRAM)
        else:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
                datagram.connect(self._address)

    def publish(self, note: str, /) -> None:
        """Send a note."""
        checkpoint, _ = parse_note(note)
        at = checkpoint.signed_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        content = json.dumps({"note": note}, ensure_ascii=True)
        message = f"<109>1 {at} {self._host_name} idhub - checkpoint - {content}".encode()
        if self._transport == "tcp":
            with socket.create_connection(self._inet(), timeout=self._timeout) as stream:
                stream.sendall(b"%d %s" % (len(message), message))
            return
        family = socket.AF_UNIX if self._transport == "unix" else socket.AF_INET
        if self._transport == "udp":
            family = socket.getaddrinfo(*self._inet(), type=socket.SOCK_DGRAM)[0][0]
        with socket.socket(family, socket.SOCK_DGRAM) as datagram:
            datagram.settimeout(self._timeout)
            datagram.sendto(message, self._address)

    def _inet(self) -> tuple[str, int]:
        if isinstance(self._address, str):
            raise AuditError("this transport needs a host and a port")
        return self._address


@dataclass(frozen=True, slots=True)
class TreeHead:
    """The tree that a database holds now, with the means to look into it."""

    size: int
    root: bytes
    node: NodeReader


@dataclass(frozen=True, slots=True)
class WitnessComparison:
    """How a tree relates to what a witness has seen.

    `equal` and `ahead` are well. `behind`: events that were witnessed are not here, as after restoring a backup.
    `forked`: the tree says something else about a time that was witnessed. `empty`: the witness holds nothing yet.
    """

    state: Literal["equal", "ahead", "behind", "forked", "empty"]
    size: int
    witnessed_size: int
    detail: str


@dataclass(frozen=True, slots=True)
class LostHistory:
    """Events `start` to `end - 1` that a witness saw, and that a recovery at `recovered_at` gave up."""

    start: int
    end: int
    recovered_at: datetime


def witnessed(
    witness: ReadableWitness, keys: Iterable[VerifyingKey], *, origin: str | None = None
) -> Iterator[Checkpoint | LostHistory]:
    """Yield what a witness holds, newest first and every signature checked; a lost history as one range.

    A checkpoint by a revoked key was seen all the same: it only asks for more. That a history was given up is believed
    of such a key only where a note by another one came after it.

    Raises:
        InvalidNote: a note at the witness was signed by no known key or for another log.
    """
    known = list(keys)
    floor: Checkpoint | None = None
    lost = 0
    is_confirmed = False
    for note in witness.notes():
        try:
            seen = verify_note(note, known, note_purpose(note))
            is_confirmed = True
        except RevokedKey as error:
            seen = error.signed
            if seen.purpose == "recovery" and not is_confirmed:
                raise
        except InvalidNote:
            if floor is None:
                raise
            # Signed by a key that was lost together with the history it signed.
            lost = max(lost, parse_note(note, note_purpose(note))[0].size)
            continue
        if origin is not None and seen.origin != origin:
            raise ForeignLog(f"the witness holds a checkpoint of another log, {seen.origin}")
        if floor is not None and seen.size > floor.size:
            lost = max(lost, seen.size)
            continue
        if floor is not None and lost > floor.size:
            yield LostHistory(floor.size, lost, floor.signed_at)
            floor, lost = None, 0
        if seen.purpose == "recovery":
            floor = seen
        yield seen
    if floor is not None and lost > floor.size:
        yield LostHistory(floor.size, lost, floor.signed_at)


def note_purpose(note: str) -> Purpose:
    """Return what a note claims to be for; its signature covers the claim."""
    lines = note.partition("\n\n")[0].split("\n")
    return "recovery" if len(lines) > 4 and lines[4] == "recovery" else "checkpoint"


def compare_with_witness(
    head: TreeHead, witness: ReadableWitness, *, keys: Sequence[VerifyingKey], origin: str | None = None
) -> WitnessComparison:
    """Tell how `head` relates to the newest checkpoint of a witness, by consistency proof.

    Raises:
        InvalidNote: a note at the witness was signed by no known key or for another log.
    """
    newest: Checkpoint | None = None
    for seen in witnessed(witness, keys, origin=origin):
        if isinstance(seen, LostHistory):
            continue
        newest = newest or seen
        if seen.size > head.size:
            continue
        if not _extends(head, seen):
            detail = f"the first {seen.size} events are not the ones that were witnessed"
            return WitnessComparison("forked", head.size, newest.size, detail)
        break
    if newest is None:
        return WitnessComparison("empty", head.size, 0, "the witness holds nothing yet")
    if newest.size > head.size:
        detail = f"{newest.size - head.size} witnessed events are missing"
        return WitnessComparison("behind", head.size, newest.size, detail)
    if newest.size == head.size:
        return WitnessComparison("equal", head.size, newest.size, "the witness has seen exactly this")
    return WitnessComparison("ahead", head.size, newest.size, f"{head.size - newest.size} events are newer")


def _extends(head: TreeHead, seen: Checkpoint) -> bool:
    if seen.size == 0:
        return True
    try:
        proof = consistency_proof(seen.size, head.size, head.node)
        own_root = root_at(head.size, head.node)
    except (AuditError, LookupError):
        return False
    return own_root == head.root and verify_consistency(
        old_size=seen.size, size=head.size, old_root=seen.root, root=head.root, proof=proof
    )
