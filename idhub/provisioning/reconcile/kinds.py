"""What can be found, what is proposed about it, and what a finding can be. Closed sets."""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum


class Kind(StrEnum):
    """What does not agree."""

    GHOST = "ghost"
    """An account that is alive, and nobody behind it."""
    LEFT_ALIVE = "left_alive"
    """Left in the register, alive in the application."""
    GHOST_PAID = "ghost_paid"
    """On the payroll, and left or unknown."""
    DUPLICATE_PERSON = "duplicate_person"
    """Two people of the register who share a key that only one human has."""
    REENABLED = "reenabled"
    """The hub had switched it off; somebody switched it on again."""
    UNENTITLED = "unentitled"
    """Alive, and its person has no right to the application (any more)."""
    DUPLICATE = "duplicate"
    """A further account of somebody who has one there."""
    ORPHAN = "orphan"
    """The account of a known person, which the hub has no link to."""
    MISSING = "missing"
    """Should be there, was there, and is not."""
    DISABLED_THERE = "disabled_there"
    """Should be alive and was switched off there."""
    DRIFT = "drift"
    """Its attributes are not what they should be."""
    QUESTION = "question"
    """Undecided: something is alike, or what would decide it is not complete."""


class Proposal(StrEnum):
    """What is proposed; the first three can be carried out by the hub."""

    DISABLE = "disable"
    RESTORE = "restore"
    LINK = "link"
    ASK = "ask"
    STOP_PAY = "stop_pay"
    MERGE = "merge"


class State(StrEnum):
    """What a finding can be."""

    OPEN = "open"
    ACCEPTED = "accepted"
    DONE = "done"
    DISMISSED = "dismissed"
    REOPENED = "reopened"


class Policy(StrEnum):
    """What an application wants done by itself."""

    REPORT = "report"
    """Nothing: findings are listed."""
    ASK = "ask"
    """Findings have the owner's name and half the time."""
    DISABLE = "disable"
    """Accounts that nobody may have are switched off, up to the brake."""


LIVE = (State.OPEN, State.ACCEPTED, State.REOPENED)
DISABLING = frozenset({Kind.GHOST, Kind.LEFT_ALIVE, Kind.REENABLED, Kind.UNENTITLED})
"""Kinds whose account may be switched off by policy, where nothing speaks against it."""
PROPOSALS: Mapping[Kind, Proposal] = {
    Kind.GHOST: Proposal.DISABLE,
    Kind.LEFT_ALIVE: Proposal.DISABLE,
    Kind.GHOST_PAID: Proposal.STOP_PAY,
    Kind.DUPLICATE_PERSON: Proposal.MERGE,
    Kind.REENABLED: Proposal.DISABLE,
    Kind.UNENTITLED: Proposal.DISABLE,
    Kind.DUPLICATE: Proposal.ASK,
    Kind.ORPHAN: Proposal.LINK,
    Kind.MISSING: Proposal.RESTORE,
    Kind.DISABLED_THERE: Proposal.RESTORE,
    Kind.DRIFT: Proposal.RESTORE,
    Kind.QUESTION: Proposal.ASK,
}
DEADLINES: Mapping[Kind, timedelta] = {
    Kind.LEFT_ALIVE: timedelta(days=1),
    Kind.REENABLED: timedelta(days=1),
    Kind.GHOST: timedelta(days=7),
    Kind.GHOST_PAID: timedelta(days=7),
    Kind.UNENTITLED: timedelta(days=7),
}
LONGEST_DEADLINE = timedelta(days=30)
EVERY = timedelta(days=1)
"""How often an application is compared when nothing else is said."""
