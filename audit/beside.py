"""Verification of what stands beside the events: personal values, their keys, and search terms.

Rows may go by erasure alone, and an erasure is an event: values that are missing without one are a finding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, LargeBinary, cast, exists, select

from audit.checker import LogChecker
from audit.errors import AuditError
from audit.events import EventClass, EventType
from audit.personal import Sealer, fits, index_term, open_key, open_values
from audit.tables import audit_events, audit_person_keys, audit_personal, audit_terms

_IN_LIST: Final = 500


class SideTables:
    """Compares the side tables with events, page by page. Without a sealer the sealed values stay closed."""

    def __init__(self, connection: Connection, checker: LogChecker, sealer: Sealer | None) -> None:
        self._connection = connection
        self._checker = checker
        self._sealer = sealer
        self._erased_people, self._erased_events = _erasures(connection)

    def compare(self, events: Sequence[tuple[int, str, dict[str, Any]]]) -> None:
        """Compare the rows beside some events; each is (position, id, parsed body)."""
        for start in range(0, len(events), _IN_LIST):
            some = events[start : start + _IN_LIST]
            ids = [event_id for _, event_id, _ in some]
            values = self._values(ids)
            terms = self._terms(ids)
            for position, event_id, body in some:
                opened = self._event(position, event_id, body, values.get(event_id))
                if opened is not None:
                    self._indexed(position, event_id, body, opened, terms.get(event_id, []))

    def finish(self) -> None:
        """Find rows that belong to no event."""
        for table, key in ((audit_personal, "event_id"), (audit_terms, "event_id")):
            column = table.c[key]
            orphan = self._connection.execute(
                select(column).where(~exists().where(audit_events.c.event_id == column)).limit(1)
            ).first()
            if orphan is not None:
                self._checker.report("inserted", f"{table.name} holds a row of an event that is not there, {orphan[0]}")
        unused = self._connection.execute(
            select(audit_person_keys.c.id)
            .where(~exists().where(audit_personal.c.key_id == audit_person_keys.c.id))
            .limit(1)
        ).first()
        if unused is not None:
            self._checker.report("inserted", f"audit_person_keys holds a key that nothing uses, {unused[0]}")

    def _event(
        self, position: int, event_id: str, body: dict[str, Any], stored: Any
    ) -> dict[str, tuple[str, bytes]] | None:
        """Return the opened values of an event, None where there are none or they are no use."""
        commitments = body.get("personal") or {}
        person_id = body.get("person_id")
        if stored is None:
            if commitments and person_id not in self._erased_people and event_id not in self._erased_events:
                text = f"the personal values of event {event_id} are gone, and no erasure is in the log"
                self._checker.report("missing", text, position)
            return {} if not commitments else None
        if (stored.person_id, stored.key_person_id) != (person_id, person_id) or not commitments:
            text = f"the personal values beside event {event_id} belong to another person or event"
            self._checker.report("edited", text, position)
            return None
        if self._sealer is None:
            return None
        try:
            cipher: AESGCM = open_key(stored.key_id, _bytes(stored.sealed_key), self._sealer)
            values = open_values(event_id, _bytes(stored.sealed_values), cipher)
        except AuditError as error:
            text = f"the personal values beside event {event_id} cannot be opened ({error})"
            self._checker.report("edited", text, position)
            return None
        if not fits(values, commitments) or set(values) != set(commitments):
            text = f"the personal values beside event {event_id} are not the ones committed to"
            self._checker.report("commitment", text, position)
            return None
        return values

    def _indexed(
        self,
        position: int,
        event_id: str,
        body: dict[str, Any],
        values: dict[str, tuple[str, bytes]],
        terms: list[Any],
    ) -> None:
        """The rule of `audit.personal.is_indexed`: these terms, no others."""
        is_indexed = body.get("person_id") is None or body["class"] != EventClass.CHANGE.value
        wanted = sorted(
            (index_term(value, self._sealer), body.get("person_id") or "", body["at"])
            for value, _ in values.values()
            if value and is_indexed and self._sealer is not None
        )
        if sorted((term.term, term.person_id or "", term.at) for term in terms) != wanted:
            text = f"the search terms of event {event_id} are not those of its values"
            self._checker.report("edited", text, position)

    def _values(self, event_ids: Sequence[str]) -> dict[str, Any]:
        own, keys = audit_personal.c, audit_person_keys.c
        rows = self._connection.execute(
            select(
                own.event_id,
                own.key_id,
                own.person_id,
                cast(own.sealed_values, LargeBinary).label("sealed_values"),
                keys.person_id.label("key_person_id"),
                cast(keys.sealed_key, LargeBinary).label("sealed_key"),
            )
            .outerjoin(audit_person_keys, keys.id == own.key_id)
            .where(own.event_id.in_(event_ids))
        )
        return {row.event_id: row for row in rows}

    def _terms(self, event_ids: Sequence[str]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = defaultdict(list)
        for row in self._connection.execute(select(audit_terms).where(audit_terms.c.event_id.in_(event_ids))):
            found[row.event_id].append(row)
        return found


def _erasures(connection: Connection) -> tuple[set[str], set[str]]:
    """Whose values, and the values of which events, were erased according to the log."""
    people: set[str] = set()
    events: set[str] = set()
    rows = connection.execute(
        select(audit_events.c.person_id, cast(audit_events.c.body, LargeBinary).label("body")).where(
            audit_events.c.type == EventType.PERSON_ERASED.value
        )
    )
    for row in rows:
        if row.person_id is not None:
            people.add(row.person_id)
            continue
        try:
            events.update(orjson.loads(_bytes(row.body))["details"]["event_ids"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            continue
    return people, events


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise AuditError("a sealed value is not there or has another type")
