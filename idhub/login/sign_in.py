"""Signing in with a name and a password: a look before the hashing, a transaction after it.

    prepare (pure read)              who is meant, epochs, stored hash; whether a try is left
    HashingPool.verify               no transaction open
    finish (short transaction)       principal locked, standing and tries asked again, session minted, events
    refuse (short transaction)       the try is counted, and recorded, before it is answered

Whoever is unknown, ambiguous, without a password, not yet started, suspended or gone gets the same work and the same
answer as for a wrong password; the reason is in the audit log alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Executable, and_, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from idhub.authority import RoleAssignment
from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import opaque
from idhub.credentials.operations import Operation, Row, Step, run_in, together
from idhub.credentials.operations import record as recording
from idhub.credentials.predicate import installation_epoch
from idhub.credentials.sessions import (
    Epochs,
    asking_to_start,
    check_start,
    end_session,
    lock_principal,
    read_epochs,
    start_session,
    starting_now,
)
from idhub.credentials.statements import add_statements
from idhub.credentials.statements_browser import every_column, instant, text
from idhub.credentials.tables import Grant, Password, RememberedDevice, SessionParticipant, SsoSession
from idhub.db import Instant
from idhub.directory.kinds import PrincipalKind, Standing
from idhub.directory.names import login_name_candidates
from idhub.directory.tables import LoginName, OrganizationClosure, Principal
from idhub.errors import NotPermitted
from idhub.keys import Keyring
from idhub.lifecycle.intake import EndCredentials
from idhub.lifecycle.transition import transition
from idhub.login import throttling
from idhub.login.passwords import Verification, read_password, store_password
from idhub.login.throttling import Admission, Attempt
from idhub.settings import Settings

MAX_USERNAME = 254
"""Characters of the longest login name."""
REMEMBERED = timedelta(days=180)
"""How long a browser that its person called their own is known."""
SEEN = timedelta(days=30)
"""How long any other browser is known after a sign-in; its cookie ends with the browser."""
_MOST_NAMESAKES = 200
PASSWORD_AMR = ("pwd",)
"""RFC 8176."""


class Refusal(StrEnum):
    """Why a sign-in was refused: for the audit log. People are told the same sentence for all of them."""

    UNKNOWN_NAME = "login.unknown_name"
    AMBIGUOUS_NAME = "login.ambiguous_name"
    NO_PASSWORD = "login.no_password"  # noqa: S105 - a reason
    WRONG_PASSWORD = "login.wrong_password"  # noqa: S105 - a reason
    STANDING = "login.standing"
    EPOCH = "login.epoch"
    RECOVERY = "login.recovery"


_REASONS = {"session.standing": Refusal.STANDING, "session.recovery": Refusal.RECOVERY}
"""What `start_session` refused, in the words of this log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Browser:
    """What a request tells about where it comes from. `address` is `throttling.client_address`'s."""

    address: str
    user_agent: str | None = None
    device_token: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A try: everything that was true before the password was looked at.

    `stored_hash` is None for everyone who cannot sign in with a password; verify it all the same.
    """

    attempt: Attempt
    admission: Admission
    principal_id: str | None
    stored_hash: str | None
    epochs: Epochs | None
    reason: Refusal
    """The reason to record unless the password matches."""
    name_index: str


@dataclass(frozen=True, slots=True)
class Minted:
    """A new session: the values of the cookies that the browser gets, and nobody else."""

    token: str
    session_id: str
    principal_id: str
    device_token: str | None = None
    device_lifetime: timedelta | None = None
    """How long the device cookie lives; None: until the browser is closed."""


def prepare(
    session: Session, keyring: Keyring, username: str, *, browser: Browser, now: datetime, password: str | None = None
) -> Prepared:
    """Find out who is meant, read the epochs, and look whether a try is left. A pure read.

    Whoever is not admitted is refused (`refuse`) without their password being looked at.

    Args:
        password: what was typed, for the count of names that one password is tried for; not verified here.
    """
    return run_in(session, preparing(keyring, username, browser=browser, now=now, password=password))


def preparing(
    keyring: Keyring, username: str, *, browser: Browser, now: datetime, password: str | None = None
) -> Operation[Prepared]:
    """See `prepare`."""
    names = login_name_candidates(username)
    rows = yield "login.find", {"name_1": names[0], "name_2": names[-1]}
    # A number is given to somebody else once its owner has left: only who is still here can be meant.
    # A person may be found by both names.
    people = list({row["id"]: row for row in rows}.values())
    here: Sequence[Row] = [one for one in people if one["standing"] != Standing.LEFT] or people
    if len(here) > 1:
        here = yield from _meant_by_role(here, names)
    person = here[0] if len(here) == 1 else None
    name_index = keyring.blind_index("login_name", names[-1])
    device = yield from _device_of(browser.device_token, person["id"] if person is not None else "", now)
    attempt = Attempt(
        name=throttling.name_of(person["id"], person["access_epoch"]) if person is not None else name_index,
        address=browser.address,
        device_hash=device,
        password=None if password is None else throttling.password_bucket(keyring, password),
    )
    admission = throttling.judge(keyring, attempt, (yield throttling.looking(keyring, attempt)), now=now).admission
    if person is None:
        reason = Refusal.AMBIGUOUS_NAME if rows else Refusal.UNKNOWN_NAME
        return Prepared(attempt, admission, None, None, None, reason, name_index)
    reason = Refusal.WRONG_PASSWORD
    if person["hash"] is None:
        reason = Refusal.STANDING if person["standing"] == Standing.LEFT else Refusal.NO_PASSWORD
    epochs = Epochs(person["access_epoch"], person["enrolment_epoch"], person["installation_epoch"])
    return Prepared(attempt, admission, person["id"], person["hash"], epochs, reason, name_index)


def _meant_by_role(people: Sequence[Row], names: Sequence[str]) -> Operation[Sequence[Row]]:
    """Of several who go by a name, the one whose hub role reaches furthest; all of them where it is not one.

    Numbers, addresses and mobiles are each company's to write: whoever may there could keep an administrator out.
    """
    reach: dict[str, int] = {}
    for row in (yield "login.roles", {"name_1": names[0], "name_2": names[-1]}):
        reach[row["id"]] = min(row["depth"], reach.get(row["id"], row["depth"]))
    first = [one for one in people if one["id"] in reach and reach[one["id"]] == min(reach.values())]
    return first if len(first) == 1 else people


def finish(
    session: Session,
    keyring: Keyring,
    settings: Settings,
    prepared: Prepared,
    verification: Verification,
    *,
    browser: Browser,
    old_session_id: str | None,
    remember: bool,
    now: datetime,
) -> Minted | Refusal | Admission:
    """Mint a session if the password matched and the person may act now; record either outcome.

    An admission that was not given: tries were used up while the password was looked at.

    Args:
        old_session_id: of the session this browser still has. It dies; what rests on it goes on under the new one when
            it is the same person's, and ends with a logout to its applications when it is another's.
        remember: the person called this browser their own.
    """
    principal_id, old_owner = prepared.principal_id, None
    if verification.matches and principal_id is not None:
        old_owner = lock_both(session, principal_id, old_session_id)
    outcome, _ = run_in(
        session, finishing(keyring, settings, prepared, verification, browser=browser, remember=remember, now=now)
    )
    if not isinstance(outcome, Minted):
        return refuse(session, keyring, prepared, outcome, browser=browser, now=now)
    if old_session_id is not None and old_owner is not None:
        replace_session(session, old_session_id, outcome.session_id, is_same_person=old_owner == principal_id, now=now)
    return outcome


def finishing(
    keyring: Keyring,
    settings: Settings,
    prepared: Prepared,
    verification: Verification,
    *,
    browser: Browser,
    remember: bool,
    now: datetime,
    also: Sequence[Step] = (),
) -> Operation[tuple[Minted | Refusal | Admission, Sequence[Sequence[Row]]]]:
    """See `finish`; for a browser that has no session yet. What is not minted is still to be counted and recorded.

    Args:
        also: what is asked of the database under the lock, if it comes to that; its answers come second.
    """
    principal_id, epochs, attempt = prepared.principal_id, prepared.epochs, prepared.attempt
    looking = throttling.looking(keyring, attempt)
    if not verification.matches or principal_id is None or epochs is None:
        seen = throttling.judge(keyring, attempt, (yield looking), now=now)
        return prepared.reason if seen.admission.is_admitted else seen.admission, ()
    asking = asking_to_start(principal_id, now=now)
    _, standing, counters, *answers = yield together(*asking, looking, *also)
    seen = throttling.judge(keyring, attempt, counters, now=now)
    if not seen.admission.is_admitted:
        # A right guess among more than are allowed is told as a wrong one is.
        return seen.admission, ()
    try:
        check_start(standing, epochs)
    except NotPermitted as refused:
        return _REASONS.get(refused.rule or "", Refusal.EPOCH), ()
    token, session_id = yield from starting_now(
        principal_id, epochs_read=epochs, amr=PASSWORD_AMR, now=now, ip=browser.address, user_agent=browser.user_agent,
        settings=settings, request_id=browser.request_id, said={"lane": seen.admission.lane},
    )  # fmt: skip
    if verification.replacement is not None:
        renewed = {"principal_id": principal_id, "old": prepared.stored_hash, "new": verification.replacement}
        yield "password.renew", renewed
    yield from throttling.succeeding(keyring, attempt, seen, now=now)
    device_token, lifetime = yield from _know_device(
        principal_id, epochs.enrolment, browser.device_token, attempt.device_hash, remember=remember, now=now
    )
    return Minted(token, session_id, principal_id, device_token, lifetime), answers


def refuse(
    session: Session,
    keyring: Keyring,
    prepared: Prepared,
    cause: Refusal | Admission,
    *,
    browser: Browser,
    now: datetime,
) -> Refusal | Admission:
    """Count a try that failed or was not admitted, and record it: before anybody is told.

    Returns what they are told: no more than the limit are told that they failed, however many tried at once.
    """
    admission = run_in(session, throttling.claiming(keyring, prepared.attempt, now=now))
    return run_in(session, refusing(prepared, cause, admission, browser=browser, now=now))


def refusing(
    prepared: Prepared, cause: Refusal | Admission, admission: Admission, *, browser: Browser, now: datetime
) -> Operation[Refusal | Admission]:
    """`refuse`, once the try was counted.

    Args:
        admission: of the count (`throttling.claiming`).
    """
    told = cause if admission.is_admitted else admission
    if isinstance(told, Refusal):
        yield recording([_event(EventType.LOGIN_FAILED, prepared, browser, reason=told, now=now)])
    elif told.limit is not None:
        reason = f"login.limit_{told.limit.name}"
        yield recording([_event(EventType.LOGIN_THROTTLED, prepared, browser, reason=reason, now=now)])
    return told


# ---------------------------------------------------------------- changing one's own password


@dataclass(frozen=True, slots=True)
class PasswordChange:
    """A claimed try at the current password of somebody who is signed in."""

    principal_id: str
    session_id: str
    attempt: Attempt
    admission: Admission
    stored_hash: str | None


def prepare_change(
    session: Session, keyring: Keyring, principal_id: str, session_id: str, *, browser: Browser, now: datetime
) -> PasswordChange:
    """Claim one try at the current password. Counted by session: whoever stole one cannot lock its person out."""
    attempt = Attempt(principal_id, browser.address, device_hash=session_id)
    admission = throttling.claim(session, keyring, attempt, now=now)
    stored = read_password(session, principal_id)
    change = PasswordChange(principal_id, session_id, attempt, admission, stored.hash if stored else None)
    if admission.limit is not None:
        record(session, [_change_event(EventType.LOGIN_THROTTLED, change, browser, "login.limit_person", now=now)])
    return change


def refuse_change(session: Session, change: PasswordChange, *, browser: Browser, now: datetime) -> None:
    """Record that the current password was wrong."""
    record(session, [_change_event(EventType.LOGIN_FAILED, change, browser, Refusal.WRONG_PASSWORD, now=now)])


def change_password(
    session: Session,
    keyring: Keyring,
    settings: Settings,
    change: PasswordChange,
    new_hash: str,
    *,
    browser: Browser,
    now: datetime,
) -> Minted:
    """Store the new hash, end everything issued before, and sign this browser in anew.

    The caller has verified the current password against `change.stored_hash` and the new one against the policy.

    Raises:
        NotPermitted: meanwhile the session ended, the person may no longer act, or the password was changed elsewhere.
    """
    principal_id = change.principal_id
    # FOR UPDATE at once: the transition below takes it, and two sharers that both want more would wait for each other.
    session.execute(select(Principal.id).where(Principal.id == principal_id).with_for_update())
    alive = session.execute(
        select(SsoSession.id).where(SsoSession.id == change.session_id, SsoSession.ended_at.is_(None))
    ).first()
    stored = read_password(session, principal_id)
    if alive is None or stored is None or stored.hash != change.stored_hash:
        raise NotPermitted("Something about your access changed meanwhile. Sign in again.", rule="session.ended")
    token, session_id = replace_credentials(
        session, settings, principal_id, new_hash, reason="password_changed", browser=browser, now=now,
    )  # fmt: skip
    seen = throttling.look(session, keyring, change.attempt, now=now)
    throttling.succeed(session, keyring, change.attempt, seen, now=now)
    record(session, [_change_event(EventType.PASSWORD_CHANGED, change, browser, None, now=now)])
    return Minted(token, session_id, principal_id)


def replace_credentials(
    session: Session,
    settings: Settings,
    principal_id: str,
    new_hash: str,
    *,
    reason: str,
    browser: Browser,
    now: datetime,
) -> tuple[str, str]:
    """Set a password, end everything issued before through the one door, and start a session; principal is locked.

    Raises:
        NotPermitted: rule `session.standing`: the person may not act now.
    """
    actor = Actor(kind="person", id=principal_id, ip=browser.address)
    change = EndCredentials(principal_id=principal_id, reason=reason)
    transition(session, [change], now=now, actor=actor, door="login", request_id=browser.request_id).only()
    epochs = read_epochs(session, principal_id)
    if epochs is None:
        raise NotPermitted("Signing in is not possible at this time.", rule="session.standing")
    store_password(session, principal_id, new_hash, enrolment_epoch=epochs.enrolment, now=now)
    return start_session(
        session, principal_id, epochs_read=epochs, amr=PASSWORD_AMR, now=now, ip=browser.address,
        user_agent=browser.user_agent, settings=settings, request_id=browser.request_id, said={"after": reason},
    )  # fmt: skip


# ---------------------------------------------------------------- parts


def lock_both(session: Session, principal_id: str, old_session_id: str | None) -> str | None:
    """Lock whoever signs in and whoever the browser belonged to, in one order; returns the latter."""
    old_owner = None
    if old_session_id is not None:
        old_owner = session.execute(
            select(SsoSession.principal_id).where(SsoSession.id == old_session_id, SsoSession.ended_at.is_(None))
        ).scalar()
    for locked in sorted({principal_id, old_owner or principal_id}):
        lock_principal(session, locked)
    return old_owner


def replace_session(session: Session, old_id: str, new_id: str, *, is_same_person: bool, now: datetime) -> None:
    """End the session that a new sign-in takes the place of.

    Of the same person, applications and grants go on in the new session; of another, they end with the old one.
    """
    if is_same_person:
        # Proving again who one is must not throw one out of the applications that are open.
        for table in (SessionParticipant, Grant):
            session.execute(
                update(table)
                .where(table.session_id == old_id, table.ended_at.is_(None))
                .values(session_id=new_id)
                .execution_options(synchronize_session=False)
            )
    end_session(session, old_id, reason="replaced", now=now)


def _device_of(token: str | None, principal_id: str, now: datetime) -> Operation[str | None]:
    """Hash of the device cookie if it belongs to this very person in this enrolment; None otherwise."""
    if not token or not opaque.looks_valid("dev", token):
        return None
    found = yield (
        "device.find",
        {"token_hash": opaque.hash_of(token), "principal_id": principal_id, "now": now},
    )
    return found[0]["token_hash"] if found else None


def _know_device(
    principal_id: str, enrolment_epoch: int, token: str | None, known: str | None, *, remember: bool, now: datetime
) -> Operation[tuple[str, timedelta | None]]:
    """Remember the browser from now on.

    Args:
        known: hash of `token` if it was found to be this person's before the password was looked at; the enrolment
            is the same since, or there would be no session.
    """
    expires_at = now + (REMEMBERED if remember else SEEN)
    if known is not None and token is not None:
        yield "device.extend", {"token_hash": known, "expires_at": expires_at, "now": now}
        return token, REMEMBERED if remember else None
    made = opaque.make("dev")
    yield (
        "device.insert",
        {
            "token_hash": opaque.hash_of(made),
            "principal_id": principal_id,
            "enrolment_epoch": enrolment_epoch,
            "created_at": now,
            "expires_at": expires_at,
        },
    )
    return made, REMEMBERED if remember else None


def _event(kind: EventType, prepared: Prepared, browser: Browser, *, reason: str, now: datetime) -> Event:
    """What happened to a try. The typed name is never kept: people type passwords there; its keyed hash is."""
    return Event(
        type=kind,
        at=now,
        actor=Actor(kind="anonymous", id="anonymous", ip=browser.address),
        door="login",
        target_kind="person",
        target_id=prepared.principal_id or "unknown",
        outcome="failure",
        reason=str(reason),
        person_id=prepared.principal_id,
        request_id=browser.request_id,
        details={"name_index": prepared.name_index, "lane": prepared.admission.lane},
    )


def _change_event(
    kind: EventType, change: PasswordChange, browser: Browser, reason: str | None, *, now: datetime
) -> Event:
    return Event(
        type=kind,
        at=now,
        actor=Actor(kind="person", id=change.principal_id, session_id=change.session_id, ip=browser.address),
        door="login",
        target_kind="person",
        target_id=change.principal_id,
        outcome="success" if reason is None else "failure",
        reason=None if reason is None else str(reason),
        person_id=change.principal_id,
        request_id=browser.request_id,
    )


def _statements(is_sqlite: bool) -> dict[str, Executable]:
    now = bindparam("now", type_=Instant, required=True)
    token_hash, principal_id = text("token_hash"), text("principal_id")
    return {
        "login.find": select(
            Principal.id,
            Principal.access_epoch,
            Principal.enrolment_epoch,
            installation_epoch().label("installation_epoch"),
            Principal.standing,
            Password.hash,
        )
        .join(LoginName, LoginName.principal_id == Principal.id)
        .outerjoin(
            Password, and_(Password.principal_id == Principal.id, Password.enrolment_epoch == Principal.enrolment_epoch)
        )
        .where(
            or_(LoginName.value == text("name_1"), LoginName.value == text("name_2")),
            Principal.kind == PrincipalKind.PERSON,
        )
        .limit(2 * _MOST_NAMESAKES),
        # How deep in the tree each role begins that somebody of these names holds; the root is nowhere deep.
        "login.roles": select(
            Principal.id,
            select(func.max(OrganizationClosure.depth))
            .where(OrganizationClosure.descendant_id == RoleAssignment.organization_id)
            .scalar_subquery()
            .label("depth"),
        )
        .join(LoginName, LoginName.principal_id == Principal.id)
        .join(RoleAssignment, RoleAssignment.principal_id == Principal.id)
        .where(
            or_(LoginName.value == text("name_1"), LoginName.value == text("name_2")),
            RoleAssignment.removed_at.is_(None),
            RoleAssignment.enrolment_epoch == Principal.enrolment_epoch,
            Principal.standing != Standing.LEFT,
        ),
        "password.renew": update(Password)
        .where(Password.principal_id == principal_id, Password.hash == text("old"))
        .values(hash=text("new")),
        "device.find": select(RememberedDevice.token_hash)
        .join(Principal, Principal.id == RememberedDevice.principal_id)
        .where(
            RememberedDevice.token_hash == token_hash,
            RememberedDevice.principal_id == principal_id,
            RememberedDevice.enrolment_epoch == Principal.enrolment_epoch,
            RememberedDevice.expires_at > now,
        ),
        "device.extend": update(RememberedDevice)
        .where(
            RememberedDevice.token_hash == token_hash,
            RememberedDevice.expires_at > now,
            RememberedDevice.expires_at < instant("expires_at"),
        )
        .values(expires_at=instant("expires_at")),
        "device.insert": every_column(RememberedDevice),
    }


add_statements(_statements)
