"""One-time links: the first sign-in of a person, and the reset of a forgotten password.

A link proves one thing once. Opening it changes nothing, since mail scanners open links; only posting the new password
spends it, by one conditional statement under the principal's lock. It dies when it expires, when a newer one is made,
when the person is suspended or leaves, and when their credentials or the installation's are ended.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from urllib.parse import urlencode

from sqlalchemy import ColumnElement, and_, insert, select, update
from sqlalchemy.orm import Session

from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import opaque
from idhub.credentials.predicate import installation_epoch, may_act
from idhub.credentials.sessions import read_epochs
from idhub.credentials.tables import Invitation
from idhub.directory.kinds import PrincipalKind, Standing
from idhub.directory.tables import Employment, Person, Principal
from idhub.errors import Conflict, NotFound
from idhub.login.passwords import store_password
from idhub.login.sign_in import Browser, Minted, replace_credentials
from idhub.settings import Settings

Purpose = Literal["first_password", "reset_password"]
_INVITABLE = (Standing.STAGED, Standing.ACTIVE)


@dataclass(frozen=True, slots=True)
class Invited:
    """Whom a link is for, as its page greets them."""

    principal_id: str
    display_name: str
    purpose: Purpose
    expires_at: datetime
    login_name: str | None
    """What the person types to sign in; of several, the employee number."""


def invite(
    session: Session,
    principal_id: str,
    *,
    purpose: Purpose = "first_password",
    now: datetime,
    settings: Settings,
    actor: Actor,
    door: str | None = None,
) -> str:
    """Make a one-time link's token for a person; earlier ones of theirs stop working. The caller has asked `authorize`.

    Raises:
        NotFound: there is no such person.
        Conflict: rule `invitation.standing`: the person is suspended or has left.
    """
    row = session.execute(
        select(Principal.standing, Principal.organization_id)
        .where(Principal.id == principal_id, Principal.kind == PrincipalKind.PERSON)
        .with_for_update()
    ).one_or_none()
    epochs = read_epochs(session, principal_id)
    if row is None or epochs is None:
        raise NotFound("There is no such person.", field="person", rule="person.unknown")
    if row.standing not in _INVITABLE:
        raise Conflict(
            "A link can be made only for someone who is active or about to start.",
            field="person",
            rule="invitation.standing",
        )
    _supersede(session, principal_id, now=now)
    token = opaque.make("inv")
    session.execute(
        insert(Invitation).values(
            token_hash=opaque.hash_of(token),
            principal_id=principal_id,
            purpose=purpose,
            enrolment_epoch=epochs.enrolment,
            access_epoch=epochs.access,
            installation_epoch=epochs.installation,
            created_at=now,
            expires_at=now + settings.invitation_lifetime,
        )
    )
    record(
        session,
        [
            Event(
                type=EventType.INVITATION_ISSUED,
                at=now,
                actor=actor,
                door=door or ("cli" if actor.kind == "cli" else "console"),
                target_kind="person",
                target_id=principal_id,
                person_id=principal_id,
                organization_id=row.organization_id,
                details={"purpose": purpose},
            )
        ],
    )
    return token


def link(settings: Settings, token: str) -> str:
    """The address to hand to the person. Built from the issuer alone, whatever host a request named."""
    return f"{settings.issuer}/login/first?{urlencode({'token': token})}"


def look_up(session: Session, token: str, *, now: datetime) -> Invited | None:
    """Whom the link is for, or None when it cannot be used (any more). A pure read: opening a link spends nothing."""
    if not opaque.looks_valid("inv", token):
        return None
    row = session.execute(
        select(
            Invitation.principal_id,
            Person.display_name,
            Person.email,
            Person.mobile,
            Employment.employee_number,
            Invitation.purpose,
            Invitation.expires_at,
        )
        .join(Principal, Principal.id == Invitation.principal_id)
        .join(Person, Person.id == Invitation.principal_id)
        .outerjoin(Employment, Employment.id == Person.main_employment_id)
        .where(_usable(token, now))
    ).one_or_none()
    if row is None:
        return None
    login_name = row.employee_number or row.email or row.mobile
    return Invited(row.principal_id, row.display_name, row.purpose, row.expires_at, login_name)


def redeem(
    session: Session,
    settings: Settings,
    token: str,
    new_hash: str,
    *,
    browser: Browser,
    now: datetime,
) -> Minted | Invited | None:
    """Spend a link: set the password, end what was issued before, and sign the person in.

    Of any number of parallel callers exactly one succeeds; the others get None, as for every unusable link. Someone who
    may not act yet (starts on a later day) has the password set and gets `Invited`, without a session.
    """
    invited = look_up(session, token, now=now)
    if invited is None:
        _record_refusal(session, token, browser=browser, now=now)
        return None
    principal_id = invited.principal_id
    # The principal first, then the link: the order of every transition, which spends links too.
    session.execute(select(Principal.id).where(Principal.id == principal_id).with_for_update())
    spent = session.execute(
        update(Invitation)
        .where(
            Invitation.token_hash == opaque.hash_of(token),
            Invitation.spent_at.is_(None),
            Invitation.token_hash.in_(
                select(Invitation.token_hash)
                .join(Principal, Principal.id == Invitation.principal_id)
                .where(_usable(token, now))
            ),
        )
        .values(spent_at=now)
        .returning(Invitation.token_hash)
        .execution_options(synchronize_session=False)
    ).first()
    if spent is None:
        _record_refusal(session, token, browser=browser, now=now)
        return None
    outcome: Minted | Invited = invited
    if session.execute(select(may_act(now)).where(Principal.id == principal_id)).scalar():
        started = replace_credentials(
            session, settings, principal_id, new_hash, reason="password_reset", browser=browser, now=now
        )
        outcome = Minted(*started, principal_id)
    else:
        epochs = read_epochs(session, principal_id)
        assert epochs is not None  # noqa: S101 - the row is locked
        store_password(session, principal_id, new_hash, enrolment_epoch=epochs.enrolment, now=now)
    _supersede(session, principal_id, now=now)
    record(
        session,
        [_event(kind, invited, browser, now=now) for kind in (EventType.INVITATION_USED, EventType.PASSWORD_SET)],
    )
    return outcome


def _usable(token: str, now: datetime) -> ColumnElement[bool]:
    """Everything that must hold for a link at the moment it is used. Joined with its principal."""
    return and_(
        Invitation.token_hash == opaque.hash_of(token),
        Invitation.spent_at.is_(None),
        Invitation.expires_at > now,
        Principal.standing.in_(_INVITABLE),
        Invitation.access_epoch == Principal.access_epoch,
        Invitation.enrolment_epoch == Principal.enrolment_epoch,
        Invitation.installation_epoch == installation_epoch(),
    )


def _supersede(session: Session, principal_id: str, *, now: datetime) -> None:
    session.execute(
        update(Invitation)
        .where(Invitation.principal_id == principal_id, Invitation.spent_at.is_(None))
        .values(spent_at=now)
        .execution_options(synchronize_session=False)
    )


def _event(kind: EventType, invited: Invited, browser: Browser, *, now: datetime) -> Event:
    return Event(
        type=kind,
        at=now,
        actor=Actor(kind="person", id=invited.principal_id, ip=browser.address),
        door="login",
        target_kind="person",
        target_id=invited.principal_id,
        person_id=invited.principal_id,
        request_id=browser.request_id,
        details={"purpose": invited.purpose},
    )


def _record_refusal(session: Session, token: str, *, browser: Browser, now: datetime) -> None:
    """A link that cannot be used is a refused sign-in. A made-up one names nobody and is only counted by the routes."""
    principal_id = session.execute(
        select(Invitation.principal_id).where(Invitation.token_hash == opaque.hash_of(token))
    ).scalar()
    record(
        session,
        [
            Event(
                type=EventType.LOGIN_FAILED,
                at=now,
                actor=Actor(kind="anonymous", id="anonymous", ip=browser.address),
                door="login",
                target_kind="person",
                target_id=principal_id or "unknown",
                outcome="failure",
                reason="invitation.unusable",
                person_id=principal_id,
                request_id=browser.request_id,
            )
        ],
    )
