"""What the audit spoke refuses.

AuditError
|-- InvalidEvent      an event that has no canonical form (a float, a wrong type, too deep)
|-- InvalidQuery      a search that cannot be answered (a broken cursor, an impossible range)
|-- InvalidNote       a checkpoint that cannot be read or whose signature nobody known made
|   |-- ForeignLog    a checkpoint of another log
|   `-- RevokedKey    a checkpoint that a revoked key signed
|-- StaleSequencer    the lease or the head has passed to another sequencer
|-- NotRetainable     a range that may not be removed yet
`-- NoSuchEvent       an event that is not in the tables
"""

from __future__ import annotations

from typing import Any


class AuditError(Exception):
    """Base of all refusals of this package; the text is safe to show."""


class InvalidEvent(AuditError, ValueError):
    """An event has no canonical form."""


class InvalidQuery(AuditError, ValueError):
    """A search cannot be answered as asked."""


class InvalidNote(AuditError, ValueError):
    """A signed note cannot be read, or no known key signed it."""


class StaleSequencer(AuditError):
    """Another sequencer has taken the lease or moved the head; nothing was written."""


class NotRetainable(AuditError, ValueError):
    """A range of events may not be removed."""


class ForeignLog(InvalidNote):
    """A signed note is well, but of another log."""


class RevokedKey(InvalidNote):
    """The signature holds, but of a key that was revoked: whoever has it may have made it.

    Args:
        signed: the checkpoint that the note states.
    """

    def __init__(self, signed: Any, kid: str) -> None:
        super().__init__(f"the checkpoint of size {signed.size} was signed with {kid}, a key that was revoked")
        self.signed = signed


class NoSuchEvent(AuditError):
    """An event is not in the tables, or not any more."""
