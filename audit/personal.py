"""Personal values of events: committed to in the log, kept beside it where they can be erased.

The canonical body holds `SHA-256(salt || field || 0x00 || value)` for each personal field. Salts and values are
sealed together, one row an event, under a key of the person (of the event, when it names no person); that key is
itself sealed by the hub's `Sealer`. A person gets a new key with each batch of events instead of one key for life, so
that appending only inserts: it reads nothing, waits for nobody and needs no database to prepare its rows.

Erasing a person deletes keys, sealed rows (salts included) and index terms. Commitments, leaves and proofs stay.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final, Protocol

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.errors import AuditError, InvalidEvent
from audit.events import PERSONAL_LIMIT, Event, EventClass, clean_text, identifier

SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_RANDOM_AT_ONCE: Final = 4_096
_FIELD: Final = re.compile(r"[a-z][a-z0-9_.]{0,63}", re.ASCII)
# Field names in use, a dozen in a running hub; bounded, should others choose them.
_PREFIXES: Final[dict[str, bytes]] = {}
_PREFIXES_LIMIT: Final = 1_024
_TERM_CONTEXT: Final = "audit_terms:term"


class Sealer(Protocol):
    """What the hub's keyring does for the trail: authenticated encryption under a bound name, and keyed hashing."""

    def seal(self, context: str, plaintext: bytes, /) -> bytes:
        """Encrypt so that only `open` with the same context returns the plaintext."""
        ...

    def seal_all(self, plaintexts: Iterable[tuple[str, bytes]], /) -> list[bytes]:
        """Do for many (context, plaintext) what `seal` does for one, for less."""
        ...

    def open(self, context: str, sealed: bytes, /) -> bytes:
        """Undo `seal`; raise when the bytes or the context are not the ones that were sealed."""
        ...

    def blind_index(self, context: str, text: str, /) -> str:
        """Return a keyed hash that is equal for equal texts and says nothing else."""
        ...


def commitment(salt: bytes, field: str, value: str) -> str:
    """Return the hexadecimal commitment to a personal value.

    A field name holds no NUL and a cleaned value neither, so that no two pairs share their bytes.
    """
    return sha256(salt + field.encode() + b"\x00" + value.encode()).hexdigest()


def _prefix(field: str) -> bytes:
    """What stands before a value where it is hashed.

    Raises:
        InvalidEvent: the field is not a short lower-case name.
    """
    if not _FIELD.fullmatch(field):
        raise InvalidEvent("the name of a personal value must be short and in lower case")
    prefix = field.encode() + b"\x00"
    if len(_PREFIXES) < _PREFIXES_LIMIT:
        _PREFIXES[field] = prefix
    return prefix


def index_term(text: str, sealer: Sealer) -> str:
    """Return the blind index term under which a personal value is found, whatever its case or width."""
    folded = unicodedata.normalize("NFKC", clean_text(text, PERSONAL_LIMIT)).casefold().strip()
    return sealer.blind_index(_TERM_CONTEXT, folded)


def is_indexed(event: Event) -> bool:
    """Tell whether an event's personal values become search terms.

    Changes to a person are found by the person's id; a term for each value of each imported person would cost more
    than the event. What names no person, and what people typed at sign-in, is found by the text.
    """
    return event.person_id is None or event.type.event_class is not EventClass.CHANGE


class PersonalBatch:
    """Seals the personal values of one batch of events, with one new key for each person in it."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._random = b""
        self._place = 0
        self._ciphers: dict[str, tuple[str, AESGCM]] = {}
        self._keys: list[tuple[str, str | None, bytes]] = []
        self.values: list[tuple[str, str, str | None, bytes]] = []
        self.terms: list[tuple[str, str, str | None, int]] = []

    def add(self, event: Event, event_id: str, at: int) -> dict[str, str]:
        """Take in the personal values of `event`; return the commitments for its canonical body.

        Raises:
            InvalidEvent: a field is not a short lower-case name.
        """
        person_id = None if event.person_id is None else identifier(event.person_id)
        commitments = self.seal(event.personal, event_id, person_id)
        if is_indexed(event):
            for text in event.personal.values():
                if value := clean_text(text, PERSONAL_LIMIT):
                    self.terms.append((index_term(value, self._sealer), event_id, person_id, at))
        return commitments

    def seal(self, personal: Mapping[str, str], event_id: str, person_id: str | None) -> dict[str, str]:
        """Seal values for an event; return their commitments.

        Raises:
            InvalidEvent: a field is not a short lower-case name.
        """
        # Drawn for many events at once: a call to the system costs more than what it returns.
        start, end = self._place, self._place + SALT_BYTES * len(personal) + _NONCE_BYTES + _KEY_BYTES
        if end > len(self._random):
            start, end = 0, end - start
            self._random = os.urandom(max(end, _RANDOM_AT_ONCE) if self.values else end)
        random, self._place = self._random, end
        salts = random[start:end].hex()
        commitments: dict[str, str] = {}
        plain: dict[str, tuple[str, str]] = {}
        shown = 0
        for field, text in personal.items():
            prefix = _PREFIXES.get(field) or _prefix(field)
            if text.isprintable() and len(text) <= PERSONAL_LIMIT:
                # `clean_text`, without its call.
                value = text if text.isascii() else unicodedata.normalize("NFC", text)
            else:
                value = clean_text(text, PERSONAL_LIMIT)
            # `commitment`, without its call.
            commitments[field] = sha256(random[start : start + SALT_BYTES] + prefix + value.encode()).hexdigest()
            plain[field] = (value, salts[shown : shown + 2 * SALT_BYTES])
            start += SALT_BYTES
            shown += 2 * SALT_BYTES
        nonce, fresh_key = random[start : start + _NONCE_BYTES], random[start + _NONCE_BYTES : end]
        key_id, cipher = self._cipher(person_id, event_id, fresh_key)
        sealed = nonce + cipher.encrypt(nonce, orjson.dumps(plain), event_id.encode())
        self.values.append((event_id, key_id, person_id, sealed))
        return commitments

    def sealed_keys(self) -> list[tuple[str, str | None, bytes]]:
        """Return the rows of the keys that were given out."""
        if len(self._keys) == 1:
            ((key_id, person_id, key),) = self._keys
            return [(key_id, person_id, self._sealer.seal(_key_context(key_id), key))]
        sealed = self._sealer.seal_all([(_key_context(key_id), key) for key_id, _, key in self._keys])
        return [(key_id, person_id, one) for (key_id, person_id, _), one in zip(self._keys, sealed, strict=True)]

    def _cipher(self, person_id: str | None, event_id: str, key: bytes) -> tuple[str, AESGCM]:
        """The person's cipher in this batch: a new one with `key`, unless there is one."""
        found = self._ciphers.get(person_id) if person_id is not None else None
        if found is None:
            found = (event_id, AESGCM(key))
            self._keys.append((event_id, person_id, key))
            if person_id is not None:
                self._ciphers[person_id] = found
        return found


def _key_context(key_id: str) -> str:
    return f"audit_person_keys:{key_id}:sealed_key"


def open_key(key_id: str, sealed_key: bytes, sealer: Sealer) -> AESGCM:
    """Return the cipher of a person's key.

    Raises:
        AuditError: the sealed key was changed or belongs elsewhere.
    """
    try:
        return AESGCM(sealer.open(_key_context(key_id), sealed_key))
    except Exception as error:
        # The sealer is the hub's, and so is what it raises; whatever that is, nobody opens this key any more.
        raise AuditError(f"the key {key_id} cannot be opened") from error


def open_values(event_id: str, sealed: bytes, cipher: AESGCM) -> dict[str, tuple[str, bytes]]:
    """Return field -> (value, salt) of an event's sealed values.

    Raises:
        AuditError: the sealed values were changed or belong to another event.
    """
    try:
        plain = cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], event_id.encode())
    except (InvalidTag, ValueError) as error:
        raise AuditError(f"the personal values beside {event_id} cannot be opened") from error
    return {field: (value, bytes.fromhex(salt)) for field, (value, salt) in orjson.loads(plain).items()}


def fits(values: Mapping[str, tuple[str, bytes]], commitments: Mapping[str, str]) -> bool:
    """Tell whether revealed values are the ones an event committed to; fields may have been erased, not added."""
    return all(commitments.get(field) == commitment(salt, field, value) for field, (value, salt) in values.items())
