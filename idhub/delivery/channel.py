"""What a channel is: the way one kind of effect reaches an application, and what it can prove."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any, Literal, Protocol


class Grade(IntEnum):
    """Evidence grade: what came back, never what was hoped."""

    E0 = 0
    """Nothing came back."""
    E1 = 1
    """Accepted: 2xx, or a proof uploaded by a person."""
    E2 = 2
    """Read back: inactive or gone."""
    E3 = 3
    """Probed: the application's own access, which worked before, was refused."""


Operation = Literal["provision", "deprovision", "delete", "group", "discover", "logout"]

Failure = Literal["unauthorized", "tls", "unreachable", "failing", "rate_limit"]
"""How an attempt failed that is the connection's fault, not the delivery's: it counts towards a hold of the queue."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedDelivery:
    """One effect to be stored with the change that wants it.

    `lane` orders deliveries: one at a time, in order of planning, within the same lane (an account, a participant).
    `required_grade` is frozen here; a receipt row is done at or above it.
    """

    application_id: str
    channel: str
    lane: str
    operation: Operation
    payload: Mapping[str, Any] = field(default_factory=dict)
    principal_id: str | None = None
    account_id: str | None = None
    participant_id: str | None = None
    case_id: str | None = None
    required_grade: Grade = Grade.E1
    deadline_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LeasedDelivery:
    """A delivery that this worker alone may send until its lease ends.

    `id` is also the idempotency key shown to the application. `quiet_after` is the instant by which every earlier
    attempt in the lane had ended or passed its total deadline: only a read-back begun after it is evidence.
    """

    id: str
    application_id: str
    channel: str
    lane: str
    operation: Operation
    payload: Mapping[str, Any]
    attempt: int
    principal_id: str | None
    account_id: str | None
    participant_id: str | None
    case_id: str | None
    required_grade: Grade
    deadline_at: datetime | None
    quiet_after: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one attempt achieved.

    Args:
        kind: done (enough was proven), retry (try again later), review (nothing is wrong, but somebody has to decide
            first), dead (trying again will not help).
        grade: what this attempt proved, whatever its kind.
        evidence: what was sent, answered and read back, with times; no secret; shown in the receipt.
        error: the other side's own words or ours, one line, bounded.
        retry_after: what the application asked to wait, where it did.
        failure: what is wrong with the connection, where that is why it failed.
    """

    kind: Literal["done", "retry", "review", "dead"]
    grade: Grade = Grade.E0
    evidence: Mapping[str, Any] = field(default_factory=dict)
    status_code: int | None = None
    error: str | None = None
    retry_after: timedelta | None = None
    failure: Failure | None = None


class Channel(Protocol):
    """A way to reach applications. Registered in `idhub.app`; `lifecycle` and `delivery` know no other thing of it."""

    @property
    def name(self) -> str:
        """Stable name, stored on deliveries: "scim", "backchannel_logout"."""

    @property
    def ceiling(self) -> Grade:
        """The best grade that this channel can ever prove."""

    async def send(self, delivery: LeasedDelivery, *, now: datetime) -> Outcome:
        """Bring about the effect and prove it. Sending twice has the effect once.

        No transaction is open while it talks; it may open short ones of its own before and after.
        """
