"""Opening the personal values of events for those who may read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, select

from audit.personal import Sealer, open_key, open_values
from audit.tables import audit_person_keys, audit_personal

_IN_LIST: Final = 500


def reveal(connection: Connection, event_ids: Sequence[str], sealer: Sealer) -> dict[str, dict[str, tuple[str, bytes]]]:
    """Return event id -> field -> (value, salt) of what has not been erased.

    Raises:
        AuditError: sealed values were changed.
    """
    revealed: dict[str, dict[str, tuple[str, bytes]]] = {}
    ciphers: dict[str, AESGCM] = {}
    for start in range(0, len(event_ids), _IN_LIST):
        rows = connection.execute(
            select(
                audit_personal.c.event_id,
                audit_personal.c.key_id,
                audit_personal.c.sealed_values,
                audit_person_keys.c.sealed_key,
            )
            .join(audit_person_keys, audit_person_keys.c.id == audit_personal.c.key_id)
            .where(audit_personal.c.event_id.in_(event_ids[start : start + _IN_LIST]))
        )
        for row in rows:
            cipher = ciphers.get(row.key_id)
            if cipher is None:
                cipher = ciphers[row.key_id] = open_key(row.key_id, bytes(row.sealed_key), sealer)
            revealed[row.event_id] = open_values(row.event_id, bytes(row.sealed_values), cipher)
    return revealed
