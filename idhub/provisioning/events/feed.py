"""What happens to people and groups, written down for whoever listens, in the transaction that makes it happen.

People's changes come from the one door (`lifecycle.ports.Follower`); the SCIM server's store tells what it keeps beside
the directory, and groups. Where nobody listens nothing is read and nothing written: who listens is asked once a second.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from time import monotonic
from typing import Any, Final

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from idhub.db import after_commit, bulk_insert, chunked, new_id
from idhub.directory.kinds import Standing
from idhub.lifecycle.ports import follower_of
from idhub.lifecycle.records import Written
from idhub.lifecycle.rules import Post, State, main_post
from idhub.provisioning.events.streams import Listener, listeners
from idhub.provisioning.events.tables import EventRow
from idhub.provisioning.inbound.person_resource import SHOWN_ACTIVE
from idhub.provisioning.inbound.tables import ScimUser
from scim.events import Happening, Kind
from scim.schemas import ENTERPRISE_USER

_TRANSACTION, _REPLACED = "idhub.scim_feed.transaction", "idhub.scim_feed.replaced"
_KNOWN_FOR: Final = 1.0
_OF_PERSON: Final[Mapping[str, Sequence[str]]] = {
    "display_name": ("displayName", "name.formatted"),
    "given_name": ("name.givenName",),
    "family_name": ("name.familyName",),
    "email": ("emails",),
    "mobile": ("phoneNumbers",),
    "locale": ("locale",),
}
_OF_POST: Final[Mapping[str, str]] = {
    "type": "userType",
    "title": "title",
    "employee_number": f"{ENTERPRISE_USER}:employeeNumber",
    "organization_id": f"{ENTERPRISE_USER}:organization",
    "department_id": f"{ENTERPRISE_USER}:department",
    "manager_id": f"{ENTERPRISE_USER}:manager",
}


class Feed:
    """Writes events of one database down."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self._read_at = -_KNOWN_FOR

    def listeners(self, session: Session) -> tuple[Listener, ...]:
        """Who listens, as it was at most a second ago."""
        now = monotonic()
        if now - self._read_at >= _KNOWN_FOR:
            self._listeners = listeners(session)
            self._read_at = now
        return self._listeners

    def forget(self) -> None:
        """Look anew who listens."""
        self._read_at = -_KNOWN_FOR

    def listens(self, session: Session) -> bool:
        """See `lifecycle.ports.Follower`."""
        return any(each.hears("User") for each in self.listeners(session))

    def follow(self, session: Session, written: Sequence[Written], *, now: datetime) -> None:
        """See `lifecycle.ports.Follower`."""
        changed = [each for each in written if each.before != each.after]
        deleted = _deleted(session, [each.after.id for each in changed if each.before is not None])
        people = [_Person(each, deleted) for each in changed]
        for listener in self.listeners(session) if people else ():
            if listener.hears("User"):
                scope = listener.scope(session)
                told = ((each.id, each.happenings(session, scope)) for each in people)
                self._write(session, listener, "User", told, now=now)

    def tell(
        self,
        session: Session,
        resource: str,
        happenings: Mapping[str, Sequence[Happening]],
        *,
        organizations: Mapping[str, str],
        now: datetime,
    ) -> None:
        """Write down what happened to resources of one type.

        Args:
            happenings, organizations: by the resource's id.
        """
        for listener in self.listeners(session):
            if listener.hears(resource):
                scope = listener.scope(session)
                seen = {i: each for i, each in happenings.items() if _is_within(organizations[i], scope)}
                self._write(session, listener, resource, seen.items(), now=now)

    def _write(
        self,
        session: Session,
        listener: Listener,
        resource: str,
        happenings: Iterable[tuple[str, Iterable[Happening]]],
        *,
        now: datetime,
    ) -> None:
        transaction = transaction_of(session)
        bulk_insert(
            session,
            EventRow,
            (
                _row(listener, transaction, resource, resource_id, told, now=now)
                for resource_id, listed in happenings
                for told in map(listener.told, listed)
                if told is not None
            ),
        )

    def answer(
        self,
        session: Session,
        sender: tuple[str, str | None],
        job_id: str,
        answers: Sequence[tuple[int, Mapping[str, Any]]],
        *,
        now: datetime,
    ) -> None:
        """Write down, not to be told yet, that operations of a sender's asynchronous request are done.

        Args:
            sender: name and company of its token.
            answers: place of each operation, and what is known of it.
        """
        for listener in self.listeners(session):
            if (listener.token_name, listener.organization_id) == sender and Kind.ANSWERED in listener.kinds:
                rows = [
                    _row(
                        listener,
                        f"{job_id}:{place}",
                        "Bulk",
                        job_id,
                        Happening(kind=Kind.ANSWERED, payload=known),
                        now=now,
                    )
                    for place, known in answers
                ]
                bulk_insert(session, EventRow, [{**row, "is_ready": False} for row in rows])


def _row(
    listener: Listener, transaction: str, resource: str, resource_id: str, told: Happening, *, now: datetime
) -> dict[str, Any]:
    name = f"{listener.id}\n{transaction}\n{resource}\n{resource_id}"
    return {
        "stream_id": listener.id,
        # One token for all that a transaction does to a resource, and the same one however often it is sent.
        "token_id": hashlib.sha256(name.encode()).hexdigest()[:32],
        "transaction_id": transaction,
        "resource": resource,
        "resource_id": resource_id,
        "kind": told.kind.value,
        "details": told.payload or list(told.attributes),
        "happened_at": now,
    }


def forget_listeners(session: Session) -> None:
    """Streams have changed: look anew, once the transaction has committed."""
    feed = follower_of(session)
    if isinstance(feed, Feed):
        after_commit(session, feed.forget)


def feed_of(session: Session) -> Feed | None:
    """The feed, where anybody listens now."""
    feed = follower_of(session)
    return feed if isinstance(feed, Feed) and feed.listeners(session) else None


def tell_one(
    session: Session,
    resource: str,
    resource_id: str,
    kind: Kind,
    attributes: Sequence[str] = (),
    *,
    organization_id: str,
    now: datetime,
) -> None:
    """Write down one thing that happened to one resource; nothing, where attributes were to be named and none is."""
    feed = feed_of(session)
    if feed is None or (kind is Kind.PATCHED and not attributes):
        return
    told = Happening(kind=_said(session, resource_id, kind), attributes=attributes)
    feed.tell(session, resource, {resource_id: [told]}, organizations={resource_id: organization_id}, now=now)


def transaction_of(session: Session) -> str:
    """`txn` of the session's transaction."""
    if _TRANSACTION not in session.info:
        session.info[_TRANSACTION] = new_id("txn")
    found: str = session.info[_TRANSACTION]
    return found


def name_transaction(session: Session, name: str) -> None:
    """Say what the session's transaction is called in events."""
    session.info[_TRANSACTION] = name


@contextmanager
def replacing(session: Session, resource_id: str) -> Iterator[None]:
    """What changes of a resource meanwhile is changed by a PUT."""
    session.info[_REPLACED] = resource_id
    try:
        yield
    finally:
        del session.info[_REPLACED]


def _said(session: Session, resource_id: str, kind: Kind) -> Kind:
    is_put = kind is Kind.PATCHED and session.info.get(_REPLACED) == resource_id
    return Kind.REPLACED if is_put else kind


_ANSWERED = (
    update(EventRow)
    .where(
        EventRow.resource_id == bindparam("of_job"),
        EventRow.transaction_id == bindparam("of_transaction"),
        EventRow.is_ready.is_(False),
    )
    .values(details=bindparam("known"), is_ready=True)
)


def complete_answers(session: Session, job_id: str, answers: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
    """All is known of operations that were written down as done: they may be told."""
    if feed_of(session) is not None and answers:
        session.connection().execute(
            _ANSWERED,
            [
                {"of_job": job_id, "of_transaction": f"{job_id}:{place}", "known": dict(known)}
                for place, known in answers
            ],
        )


def release_answers(session: Session, job_id: str) -> None:
    """A request is over: what an interruption kept from being completed is told as far as it is known."""
    if feed_of(session) is not None:
        session.execute(
            update(EventRow)
            .where(EventRow.resource_id == job_id, EventRow.is_ready.is_(False))
            .values(is_ready=True)
            .execution_options(synchronize_session=False)
        )


# --- people -----------------------------------------------------------------------------------------------------------


class _Person:
    """What a transition did to one person, as SCIM shows people."""

    def __init__(self, written: Written, deleted: Mapping[str, bool]) -> None:
        before, after = written.before, written.after
        self.id, self._before, self._after = after.id, before, after
        # Known to senders at all; and whether one of them deleted the person.
        self._is_named, is_deleted = after.id in deleted, deleted.get(after.id, False)
        self._was_shown = before is not None and (before.standing in SHOWN_ACTIVE or not is_deleted)
        self._is_shown = after.standing in SHOWN_ACTIVE or not is_deleted

    def happenings(self, session: Session, scope: Collection[str] | None) -> list[Happening]:
        """What somebody hears of it who hears of these organizations."""
        before, after = self._before, self._after
        is_within = _is_within(_place(after), scope)
        is_seen = self._is_shown and is_within
        was_seen = self._was_shown and before is not None and _is_within(_place(before), scope)
        if before is None or not was_seen:
            if not is_seen:
                return []
            is_new = before is None or not self._was_shown
            seen = Happening(kind=Kind.CREATED, attributes=_made(after)) if is_new else Happening(kind=Kind.ADDED)
            begins = [Happening(kind=Kind.ACTIVATED)] if is_new and after.standing is Standing.ACTIVE else []
            return [seen, *begins]
        if not is_seen:
            return [Happening(kind=Kind.DELETED if is_within else Kind.REMOVED)]
        told = []
        if names := _changed(before, after, is_named=self._is_named):
            told.append(Happening(kind=_said(session, self.id, Kind.PATCHED), attributes=names))
        if after.standing is Standing.ACTIVE and before.standing is not Standing.ACTIVE:
            told.append(Happening(kind=Kind.ACTIVATED))
        elif before.standing in SHOWN_ACTIVE and after.standing not in SHOWN_ACTIVE:
            told.append(Happening(kind=Kind.DEACTIVATED))
        return told


def _place(state: State) -> str:
    return main_post(state.posts).organization_id


def _is_within(organization_id: str, scope: Collection[str] | None) -> bool:
    return scope is None or organization_id in scope


def _deleted(session: Session, ids: Sequence[str]) -> dict[str, bool]:
    """Of people whom senders have named: whether one has deleted them since."""
    found: dict[str, bool] = {}
    for part in chunked(ids):
        rows = session.execute(
            select(ScimUser.principal_id, ScimUser.deleted_at.is_not(None)).where(ScimUser.principal_id.in_(part))
        )
        found.update((row[0], row[1]) for row in rows)
    return found


def _made(state: State) -> list[str]:
    post = main_post(state.posts)
    person = [name for key, names in _OF_PERSON.items() if state.person.get(key) for name in names]
    placed = [name for key, name in _OF_POST.items() if getattr(post, key)]
    return ["id", "userName", "active", *person, *placed]


def _changed(before: State, after: State, *, is_named: bool) -> list[str]:
    """Paths of what SCIM shows otherwise now."""
    keys = {key for key in _OF_PERSON if before.person.get(key) != after.person.get(key)}
    was, now = main_post(before.posts), main_post(after.posts)
    names = [name for key, listed in _OF_PERSON.items() if key in keys for name in listed]
    names += [name for key, name in _OF_POST.items() if _differs(was, now, key)]
    if (before.standing in SHOWN_ACTIVE) is not (after.standing in SHOWN_ACTIVE):
        names.insert(0, "active")
    if not is_named and ("email" in keys or _differs(was, now, "employee_number")):
        # Whom no sender has named goes by mail or number.
        names.insert(0, "userName")
    return names


def _differs(was: Post, now: Post, key: str) -> bool:
    return bool(getattr(was, key) != getattr(now, key))
