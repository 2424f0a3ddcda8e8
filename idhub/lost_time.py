"""What the time between a backup and its return came to, as far as an export of the log tells: what ends again.

Pure but for what this database says of the people concerned. Nothing that was given is given again; what ended ends
(decision 0034). Entry point: `folded`.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.changes import EventType
from idhub.credentials.tables import Password
from idhub.db import chunked
from idhub.directory.kinds import EmploymentState, Standing
from idhub.directory.tables import Employment, Person, Principal
from idhub.keys import SigningKeyRow

_STANDINGS = {
    EventType.PERSON_OFFBOARDED: Standing.LEFT,
    EventType.PERSON_SUSPENDED: Standing.SUSPENDED,
    EventType.PERSON_ONBOARDED: Standing.ACTIVE,
    EventType.PERSON_STARTED: Standing.ACTIVE,
    EventType.PERSON_REACTIVATED: Standing.ACTIVE,
    EventType.PERSON_REHIRED: Standing.ACTIVE,
}
_REPLAYED = frozenset(
    {
        *_STANDINGS, EventType.ROLE_REMOVED, EventType.EMPLOYMENT_ENDED, EventType.PERSON_OFFBOARDING_SCHEDULED,
        EventType.KEY_REVOKED,
    }
)  # fmt: skip
_PASSWORDS = frozenset({EventType.PASSWORD_SET, EventType.PASSWORD_CHANGED})
_CONFIGURATION = frozenset({EventType.APPLICATION_CHANGED, EventType.PROVIDER_CHANGED})
_OTHER_WAYS_IN = _PASSWORDS | {EventType.IDENTITY_LINKED}
"""Told beside the changes: the password and the links are those of the backup."""


@dataclass(frozen=True, order=True, slots=True)
class PostWord:
    """What is to become of a post: ended, suspended, or only over at an instant (ISO; empty: none)."""

    principal_id: str
    employment_id: str
    state: str
    ends_at: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What leaving recovery mode would do. Nothing of it has been done."""

    reason: str
    size: int
    """Events in the log."""
    witnessed_size: int | None
    """Events that the witness has seen; None when it cannot be read."""
    known_through: int
    """Events known of: those in the log, or in the export that goes further."""
    leave: tuple[str, ...] = ()
    returned: tuple[str, ...] = ()
    """Who left and came back since: both are made again, so that nothing from before the leave works."""
    suspend: tuple[str, ...] = ()
    scheduled: tuple[tuple[str, str], ...] = ()
    """Person and instant of a leave that was set for later."""
    posts: tuple[PostWord, ...] = ()
    """Posts that ended, are to end sooner or were held; of who left and came back, all that are here."""
    roles: tuple[tuple[str, str], ...] = ()
    """Person and hub role to take."""
    links: tuple[tuple[str, str], ...] = ()
    """Person and identity provider whose link was taken away."""
    keys: tuple[str, ...] = ()
    """Signing keys to revoke: others may have them."""
    passwords: tuple[str, ...] = ()
    """Whose password has changed since: theirs is the old one again."""
    configuration: tuple[str, ...] = ()
    """Applications and providers whose configuration has changed since: secrets that were replaced work again."""
    absent: tuple[str, ...] = ()
    """People of the lost time who are not in this database: they were hired after the backup."""
    not_replayed: dict[str, int] = field(default_factory=dict)
    """Changes of the lost time that are not made again, by type of event."""

    @property
    def fingerprint(self) -> str:
        """Names this preview: what is done is what was seen."""
        seen = [
            self.reason, self.size, self.known_through, self.leave, self.returned, self.suspend, self.scheduled,
            self.posts, self.roles, self.links, self.keys,
        ]  # fmt: skip
        return hashlib.sha256(orjson.dumps(seen)).hexdigest()[:16]

    def words(self) -> dict[str, list[PostWord]]:
        """What is to become of posts, by person."""
        return {person: list(words) for person, words in groupby(self.posts, key=attrgetter("principal_id"))}


@dataclass(slots=True)
class _LostTime:
    """What the lost events came to, by person or post, whatever this database says."""

    standings: dict[str, Standing] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    """Who left, whether they came back or not."""
    scheduled: dict[str, str] = field(default_factory=dict)
    posts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By employment: the `state` and the `ends_at` that it came to, where they changed."""
    roles: set[tuple[str, str]] = field(default_factory=set)
    links: set[tuple[str, str]] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    configuration: set[str] = field(default_factory=set)
    passwords: set[str] = field(default_factory=set)
    others: Counter[str] = field(default_factory=Counter)
    count: int = 0

    def note(self, body: dict[str, Any]) -> None:
        """Take one event in, in the log's order."""
        self.count += 1
        kind, person_id, details = body["type"], body.get("person_id"), body.get("details", {})
        if (body["class"] == "change" and kind not in _REPLAYED) or kind in _OTHER_WAYS_IN:
            self.others[kind] += 1
        if body.get("outcome") == "failure":
            return
        if kind == EventType.KEY_REVOKED:
            self.keys.add(body["target"]["id"])
        elif kind in _CONFIGURATION:
            self.configuration.add(f"{body['target']['kind']} {details.get('slug', body['target']['id'])}")
        elif person_id:
            self._note_of(person_id, kind, details, body)

    def _note_of(self, person_id: str, kind: str, details: dict[str, Any], body: dict[str, Any]) -> None:
        if kind in _STANDINGS:
            self.standings[person_id] = _STANDINGS[EventType(kind)]
            if self.standings[person_id] == Standing.LEFT:
                self.left.add(person_id)
                self.scheduled.pop(person_id, None)
        elif kind == EventType.PERSON_OFFBOARDING_SCHEDULED and details["effective_at"]:
            self.scheduled[person_id] = details["effective_at"]
        elif kind == EventType.PERSON_OFFBOARDING_CANCELLED:
            self.scheduled.pop(person_id, None)
        elif kind == EventType.EMPLOYMENT_ENDED:
            self.posts[details["employment"]] = {"state": EmploymentState.ENDED.value, "ends_at": details["ends_at"]}
        elif kind == EventType.EMPLOYMENT_CHANGED:
            changes = details["changes"]
            came_to = {name: changes[name][1] for name in ("state", "ends_at") if name in changes}
            self.posts.setdefault(details["employment"], {}).update(came_to)
        elif kind == EventType.ROLE_REMOVED:
            # Given again, it may be a narrower one: what was given is for people to give again.
            self.roles.add((person_id, details["role"]))
        elif kind == EventType.IDENTITY_UNLINKED:
            self.links.add((person_id, body["target"]["id"]))
        elif kind in _PASSWORDS:
            self.passwords.add(person_id)


def folded(session: Session, seen: Preview, bodies: Iterable[dict[str, Any]]) -> Preview:
    """What the lost events come to, as far as this database does not say it already."""
    lost = _LostTime()
    for body in bodies:
        lost.note(body)
    standings = lost.standings
    people = sorted({*standings, *lost.scheduled, *lost.passwords, *(p for p, _ in (*lost.roles, *lost.links))})
    known: dict[str, Standing] = {}
    with_password: set[str] = set()
    for part in chunked(people, 500):
        rows = session.execute(select(Principal.id, Principal.standing).where(Principal.id.in_(part)))
        known |= {row.id: row.standing for row in rows}
        with_password.update(session.scalars(select(Password.principal_id).where(Password.principal_id.in_(part))))
    found = replace(
        seen,
        known_through=seen.size + lost.count,
        leave=tuple(p for p in people if standings.get(p) == Standing.LEFT and known.get(p, Standing.LEFT) != "left"),
        returned=tuple(p for p in people if p in lost.left and standings[p] != Standing.LEFT and is_here(known.get(p))),
        roles=tuple(sorted(key for key in lost.roles if key[0] in known)),
        links=tuple(sorted(link for link in lost.links if link[0] in known)),
        keys=tuple(
            session.scalars(
                select(SigningKeyRow.kid)
                .where(SigningKeyRow.kid.in_(sorted(lost.keys)), SigningKeyRow.revoked_at.is_(None))
                .order_by(SigningKeyRow.kid)
            )
        ),
        passwords=tuple(sorted(lost.passwords & with_password)),
        configuration=tuple(sorted(lost.configuration)),
        absent=tuple(p for p in people if p not in known),
        not_replayed=dict(sorted(lost.others.items())),
    )
    found = replace(
        found,
        suspend=tuple(
            p
            for p in people
            if standings.get(p) == Standing.SUSPENDED and known.get(p) == Standing.ACTIVE and p not in found.returned
        ),
        scheduled=tuple((p, lost.scheduled[p]) for p in people if p in lost.scheduled and is_here(known.get(p))),
    )
    return replace(found, posts=_posts_of(session, lost, found))


def is_here(standing: Standing | None) -> bool:
    """Whether somebody of this standing has not left; None: there is nobody."""
    return standing is not None and standing != Standing.LEFT


def _posts_of(session: Session, lost: _LostTime, found: Preview) -> tuple[PostWord, ...]:
    """Posts that this database gives more than they came to; of who returned, all that it knows.

    Nobody leaves by it: whoever is still here and has no other post keeps the main one, until a file says where they
    are now.
    """
    leave, returned, suspend = set(found.leave), set(found.returned), set(found.suspend)
    scheduled = {p for p, _ in found.scheduled}
    people: dict[str, list[Any]] = {}
    columns = (Employment.id, Employment.principal_id, Employment.state, Employment.ends_at, Person.main_employment_id)
    for part in chunked(sorted(lost.posts), 500):
        meant = select(Employment.principal_id).where(Employment.id.in_(part))
        for row in session.execute(
            select(*columns)
            .join(Person, Person.id == Employment.principal_id)
            .where(Employment.principal_id.in_(meant), Employment.state != EmploymentState.ENDED)
        ):
            people.setdefault(row.principal_id, []).append(row)
    words: set[PostWord] = set()
    for principal_id, live in people.items():
        if principal_id in leave:
            continue
        came_to = {row.id: lost.posts.get(row.id, {}) for row in live}
        has_other = any(said.get("state") != EmploymentState.ENDED for said in came_to.values())
        for row in live:
            # Who returned begins anew in every post.
            was = EmploymentState.ACTIVE if principal_id in returned else row.state
            state, ends_at = came_to[row.id].get("state") or "", came_to[row.id].get("ends_at") or ""
            if state == EmploymentState.ENDED:
                if not has_other and row.id == row.main_employment_id:
                    state = ends_at = ""
            elif principal_id in scheduled or (
                row.ends_at and ends_at and row.ends_at <= datetime.fromisoformat(ends_at)
            ):
                ends_at = ""
            if state == EmploymentState.SUSPENDED and (was == state or principal_id in suspend):
                state = ""
            if state in (EmploymentState.ENDED, EmploymentState.SUSPENDED) or ends_at:
                words.add(PostWord(principal_id, row.id, state, ends_at))
    return tuple(sorted(words))
