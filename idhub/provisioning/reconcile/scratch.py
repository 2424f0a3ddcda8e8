"""The notebook of one run: which ids were seen, what was wrong with some of them.

A private temporary SQLite database of the process's own: memory stays flat at any number of accounts, nothing of it is
in the hub's database, and it is gone when it is closed, whatever happens.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Self

import orjson

from idhub.provisioning.reconcile.judge import Verdict
from idhub.provisioning.reconcile.kinds import Kind, Proposal
from idhub.provisioning.reconcile.lookup import Judged

_TABLES = """
CREATE TABLE seen (external_id TEXT PRIMARY KEY, is_skipped INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE alive (principal_id TEXT NOT NULL, external_id TEXT NOT NULL, is_linked INTEGER NOT NULL,
    PRIMARY KEY (principal_id, external_id)) WITHOUT ROWID;
CREATE TABLE verdicts (number INTEGER PRIMARY KEY, external_id TEXT UNIQUE, kind TEXT NOT NULL, name TEXT, phone TEXT,
    body BLOB NOT NULL);
CREATE TABLE found (fingerprint TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_CACHE_KIB = 8_192
_IN = 500


class Scratch:
    """Open for the length of one run, in one thread."""

    def __init__(self) -> None:
        # An empty name: a temporary file that nobody else can open (SQLite, "temporary databases").
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._connection.execute("PRAGMA journal_mode=OFF")
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.executescript(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def add(self, judged: Sequence[Judged]) -> None:
        """Note a page."""
        write = self._connection
        write.execute("BEGIN")
        write.executemany(
            "INSERT OR IGNORE INTO seen VALUES (?, ?)", [(j.seen.external_id, j.is_skipped) for j in judged]
        )
        write.executemany(
            "INSERT OR IGNORE INTO alive VALUES (?, ?, ?)",
            [
                (j.principal_id, j.seen.external_id, j.is_linked)
                for j in judged
                if j.principal_id and j.seen.is_alive and not j.is_skipped
            ],
        )
        self._add_verdicts(
            (j.verdict, j.seen.display_name or None, _phone(j.seen.resource)) for j in judged if j.verdict is not None
        )
        write.execute("COMMIT")

    def add_verdicts(self, verdicts: Iterable[Verdict]) -> None:
        """Note what follows from absence."""
        self._connection.execute("BEGIN")
        self._add_verdicts((verdict, None, None) for verdict in verdicts)
        self._connection.execute("COMMIT")

    def _add_verdicts(self, rows: Iterable[tuple[Verdict, str | None, str | None]]) -> None:
        self._connection.executemany(
            "INSERT OR IGNORE INTO verdicts (external_id, kind, name, phone, body) VALUES (?, ?, ?, ?, ?)",
            [(v.external_id, v.kind.value, name, phone, orjson.dumps(asdict(v))) for v, name, phone in rows],
        )

    def distinct(self) -> int:
        """How many different ids were seen."""
        return int(self._connection.execute("SELECT count(*) FROM seen").fetchone()[0])

    def seen(self, external_ids: Sequence[str]) -> dict[str, bool]:
        """Those of the ids that were seen, and whether nothing is concluded of them."""
        found: dict[str, bool] = {}
        for start in range(0, len(external_ids), _IN):
            part = external_ids[start : start + _IN]
            marks = ",".join("?" * len(part))
            rows = self._connection.execute(
                f"SELECT external_id, is_skipped FROM seen WHERE external_id IN ({marks})",  # noqa: S608 - marks alone
                part,
            )
            found.update((row[0], bool(row[1])) for row in rows)
        return found

    def mark_duplicates(self) -> None:
        """Whoever has a further account: the one without a link is the one to look at."""
        self._connection.execute(
            "UPDATE verdicts SET kind = ? WHERE kind = ? AND external_id IN (SELECT external_id FROM alive"
            " WHERE principal_id IN (SELECT principal_id FROM alive GROUP BY principal_id HAVING count(*) > 1))",
            (Kind.DUPLICATE.value, Kind.ORPHAN.value),
        )

    def ghosts(self) -> Iterator[list[tuple[int, str | None, str | None]]]:
        """(number, name, phone) of accounts that nobody is behind."""
        last = 0
        while rows := self._connection.execute(
            "SELECT number, name, phone FROM verdicts WHERE kind = ? AND number > ? ORDER BY number LIMIT ?",
            (Kind.GHOST.value, last, _IN),
        ).fetchall():
            last = rows[-1][0]
            yield rows

    def ask_about(self, likenesses: Sequence[tuple[int, dict[str, int]]]) -> None:
        """Something is alike: nobody is switched off for being nobody while that is open."""
        for number, alike in likenesses:
            body = orjson.loads(
                self._connection.execute("SELECT body FROM verdicts WHERE number = ?", (number,)).fetchone()[0]
            )
            body["evidence"]["likeness"] = alike
            body["proposal"] = Proposal.ASK.value
            self._connection.execute("UPDATE verdicts SET body = ? WHERE number = ?", (orjson.dumps(body), number))

    def verdicts(self, size: int) -> Iterator[list[Verdict]]:
        """Everything that was found, in order."""
        last = 0
        while rows := self._connection.execute(
            "SELECT number, kind, body FROM verdicts WHERE number > ? ORDER BY number LIMIT ?", (last, size)
        ).fetchall():
            last = rows[-1][0]
            yield [_verdict(kind, orjson.loads(body)) for _, kind, body in rows]

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return dict(self._connection.execute("SELECT kind, count(*) FROM verdicts GROUP BY kind ORDER BY kind"))

    def note_found(self, fingerprints: Sequence[str]) -> None:
        """These findings stand."""
        self._connection.executemany("INSERT OR IGNORE INTO found VALUES (?)", [(f,) for f in fingerprints])

    def is_found(self, fingerprint: str) -> bool:
        """Whether this run found it."""
        return (
            self._connection.execute("SELECT 1 FROM found WHERE fingerprint = ?", (fingerprint,)).fetchone() is not None
        )


def _verdict(kind: str, body: dict[str, Any]) -> Verdict:
    verdict = Verdict(**{**body, "kind": Kind(body["kind"]), "proposal": Proposal(body["proposal"])})
    return verdict if kind == verdict.kind else verdict.but(Kind(kind))


def _phone(resource: Any) -> str | None:
    entries = resource.get("phoneNumbers")
    first = entries[0] if isinstance(entries, list) and entries else None
    value = first.get("value") if isinstance(first, dict) else None
    return value if isinstance(value, str) and len(value) <= 40 else None
