"""Stand-ins and builders for the tests of the audit spoke."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import make_url

from audit.checkpoint import Ed25519Signer, FileWitness, VerifyingKey
from audit.events import Actor, Event, EventType
from audit.export import export_jsonl
from audit.sequencer import Sequencer
from audit.trail import Sealer, append, install_guards, metadata

# A row of `audit_events` that stands at a place, and the row that gives it the place: for raw SQL.
AT_PLACE = "id IN (SELECT event_row FROM audit_positions WHERE position {})"
NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
ORIGIN = "hub.example/audit"


class MemorySealer:
    """Seals under a key of its own, as the hub's keyring does."""

    def __init__(self) -> None:
        self._cipher = AESGCM(os.urandom(32))
        self._key = os.urandom(32)

    def seal(self, context: str, plaintext: bytes, /) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, plaintext, context.encode())

    def seal_all(self, plaintexts: Iterable[tuple[str, bytes]], /) -> list[bytes]:
        return [self.seal(*one) for one in plaintexts]

    def open(self, context: str, sealed: bytes, /) -> bytes:
        return self._cipher.decrypt(sealed[:12], sealed[12:], context.encode())

    def blind_index(self, context: str, text: str, /) -> str:
        return hmac.new(self._key, f"{context}\0{text}".encode(), hashlib.sha256).hexdigest()


def event(number: int = 0, **changes: Any) -> Event:
    """An event of an HR import; `changes` replace its fields."""
    made = Event(
        type=EventType.PERSON_UPDATED,
        at=NOW + timedelta(milliseconds=number),
        actor=Actor("service", "svc_hr", "HR feed"),
        door="hr_file",
        target_kind="person",
        target_id=f"per_{number}",
        person_id=f"per_{number}",
        organization_id="org_1",
        details={"row": number},
    )
    return made._replace(**changes)


def written(value: object) -> bytes:
    """A line of an export or a proof as the hub spells one."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


class Trail:
    """A database with a trail in it, a sequencer over it, and a witness beside it."""

    def __init__(self, url: str, folder: Path, *, is_migrated: bool = False) -> None:
        self.folder = folder
        self.engine: Engine = create_engine(make_url(url))
        self.sealer: Sealer = MemorySealer()
        private = Ed25519PrivateKey.generate()
        self.signer = Ed25519Signer(private)
        self.keys = [VerifyingKey("checkpoint-1", self.signer.public_key, private.public_key())]
        self.witness = FileWitness(folder / "witness.jsonl")
        self.now = NOW
        if not is_migrated:
            with self.engine.begin() as connection:
                metadata.create_all(connection)
                install_guards(connection)
        self.sequencer = self.new_sequencer("node-a")

    @property
    def is_postgresql(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def new_sequencer(self, owner_id: str, **options: Any) -> Sequencer:
        return Sequencer(self.engine, self.signer, [self.witness], owner_id, origin=ORIGIN, **options)

    def append(self, *events: Event) -> list[str]:
        with self.engine.begin() as connection:
            return append(connection, events, sealer=self.sealer)

    def fill(self, count: int) -> list[str]:
        """Append, sequence and sign `count` events."""
        ids = self.append(*[event(number) for number in range(count)])
        self.seal()
        return ids

    def seal(self) -> None:
        self.now += timedelta(seconds=2)
        result = self.sequencer.run_once(self.now, checkpoint=True)
        assert result.lag.pending == 0
        assert result.unreached == ()

    def export(self, name: str = "export.jsonl", *, reveal: bool = False) -> Path:
        path = self.folder / name
        with self.engine.connect() as connection, path.open("wb") as file:
            sealer = self.sealer if reveal else None
            file.writelines(export_jsonl(connection, reveal_with=sealer, sign_with=self.signer, now=self.now))
        return path

    @contextmanager
    def without_guards(self) -> Iterator[Connection]:
        """A database owner's connection: the triggers are gone while the block runs."""
        with self.engine.begin() as connection:
            if self.is_postgresql:
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
                yield connection
                return
            triggers = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars()
            for trigger in list(triggers):
                connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
            yield connection
            install_guards(connection)
