"""What lifecycle asks of channels: their delivery rows for a transition. `idhub.app` registers the planners."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Protocol

from sqlalchemy.orm import Session

from idhub.db import Database
from idhub.delivery.channel import Grade, PlannedDelivery

if TYPE_CHECKING:
    from idhub.credentials.revoke import EndedParticipant
    from idhub.lifecycle.records import Written

_PLANNERS_KEY = "idhub.planners"
_FOLLOWER_KEY = "idhub.follower"


@dataclass(frozen=True, slots=True)
class ApplicationTerms:
    """What an application demands of a leave, frozen into the plan."""

    id: str
    revocation_deadline: timedelta
    required_grade: Grade | None

    def required(self, ceiling: Grade) -> Grade:
        """The grade that a row must reach: what is demanded, never above the channel's ceiling."""
        return ceiling if self.required_grade is None else min(self.required_grade, ceiling)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What a transition changed, for channels to follow.

    Args:
        gained: (principal, application) pairs that have access now and had none.
        lost: pairs that had access and have none now.
        changed: pairs that keep access while attributes of the person changed.
        reviewed: pairs that keep access and were only looked at again: an account that is missing is to be made.
        leavers: people who left: every account they ever had must end, entitled or not.
        cases: principal id -> case whose receipt the rows belong to.
        participants: applications that used a session or grant which ended.
    """

    gained: Sequence[tuple[str, str]] = ()
    lost: Sequence[tuple[str, str]] = ()
    changed: Sequence[tuple[str, str]] = ()
    reviewed: Sequence[tuple[str, str]] = ()
    leavers: Sequence[str] = ()
    cases: Mapping[str, str] = field(default_factory=dict)
    participants: Sequence["EndedParticipant"] = ()
    terms: Mapping[str, ApplicationTerms] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewRow:
    """One line of a preview: what would happen to one account or session participant, worst case and best evidence."""

    application_id: str
    channel: str
    action: str
    """deactivate_account, end_sessions, nothing_known."""
    ceiling: Grade
    exposure: timedelta | None
    """Worst case until it can no longer be used; None: unknown, with the reason in `notes`."""
    account_id: str | None = None
    account_name: str | None = None
    notes: Sequence[str] = ()
    """Stable codes: held (its queue stands still), failing, not_told, never_confirmed."""


class Planner(Protocol):
    """Plans a channel's deliveries within the transition's transaction, set-based, and previews them."""

    @property
    def channel(self) -> str:
        """Name of the channel."""

    @property
    def ceiling(self) -> Grade:
        """Best grade the channel can prove."""

    def plan(self, session: Session, batch: Batch, *, now: datetime) -> list[PlannedDelivery]:
        """Deliveries that follow from `batch`; writes account rows it needs, sends nothing."""

    def preview(self, session: Session, principal_id: str, *, now: datetime) -> list[PreviewRow]:
        """What a leave of the principal would do through this channel; writes nothing."""


def use_planners(database: Database, make: Callable[[], Sequence[Planner]]) -> None:
    """Register the planners that every transition on this database asks; they are made for the first that does."""
    database.session_info[_PLANNERS_KEY] = cache(make)


def planners_of(session: Session) -> tuple[Planner, ...]:
    """The registered planners."""
    registered: Callable[[], Sequence[Planner]] | None = session.info.get(_PLANNERS_KEY)
    return () if registered is None else tuple(registered())


class Follower(Protocol):
    """Hears of every change of people within the transaction that makes it, whichever door it came through."""

    def listens(self, session: Session) -> bool:
        """Whether anybody wants to hear of changes now. Asked by every transition: it costs nothing."""

    def follow(self, session: Session, written: Sequence["Written"], *, now: datetime) -> None:
        """Write down what is to be told; sends nothing."""


def use_follower(database: Database, make: Callable[[], Follower]) -> None:
    """Register who hears of every transition on this database; made for the first."""
    database.session_info[_FOLLOWER_KEY] = cache(make)


def follower_of(session: Session) -> Follower | None:
    """The registered follower."""
    registered: Callable[[], Follower] | None = session.info.get(_FOLLOWER_KEY)
    return None if registered is None else registered()


def listener_of(session: Session) -> Follower | None:
    """The registered follower, if it wants to hear of changes now."""
    follower = follower_of(session)
    return follower if follower is not None and follower.listens(session) else None
