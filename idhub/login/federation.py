"""Signing in with a company's own identity provider: what was asked, what was answered, and whose it is.

    ask       the login transaction remembers the request: provider, identifier, instant
    keep      a verified answer to it is remembered there, once, whoever's browser brought it
    finish    the browser that asked comes for it, with what the answer's bringer was given: person, link, session

An assertion is delivered by a form of another site, which brings no cookies (SameSite): so the answer is kept first,
and taken up by the browser's next request, with them. A response that is put into another browser opens nothing there,
and nothing in the browser that asked either.

Nobody is made here. Who is meant is said by an identity link, or, the first time, by a rule of the provider's
configuration; a link binds the provider's own name of the subject to the person, within one enrolment.
"""

import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from idhub.authority import are_roles_within, holds_any_role
from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import opaque, transactions
from idhub.credentials.assertions import is_first_use
from idhub.credentials.sessions import Epochs, SignedIn, read_epochs, start_session
from idhub.credentials.tables import LoginTransaction, UpstreamSession
from idhub.db import from_micros, to_micros, wait_alone
from idhub.directory.names import stored_login_name
from idhub.directory.tables import Employment, Installation, LoginName, Principal
from idhub.errors import NotPermitted
from idhub.keys import Keyring
from idhub.login import sign_in
from idhub.login.links import link, linked, linked_at, posts_under
from idhub.login.providers import NAME_ID, LinkRule, Provider, find_provider
from idhub.login.sign_in import Browser, Minted
from idhub.settings import Settings
from providers.saml import MAX_SUBJECT, Asserted
from providers.saml_wire import names

Purpose = Literal["sign_in", "link"]
FEDERATED_AMR: Final = "fed"
_AMR: Final[Mapping[str, Sequence[str]]] = {
    names.PASSWORD: ("pwd",),
    names.PASSWORD_PROTECTED: ("pwd",),
    "urn:oasis:names:tc:SAML:2.0:ac:classes:TimeSyncToken": ("otp",),
    "urn:oasis:names:tc:SAML:2.0:ac:classes:Smartcard": ("sc",),
    "urn:oasis:names:tc:SAML:2.0:ac:classes:SmartcardPKI": ("sc",),
    "urn:oasis:names:tc:SAML:2.0:ac:classes:Kerberos": ("wia",),
    "urn:federation:authentication:windows": ("wia",),
    "http://schemas.microsoft.com/claims/multipleauthn": ("mfa",),
    "https://refeds.org/profile/mfa": ("mfa",),
}
"""RFC 8176 values beside `fed`: what the provider says was used."""


class Refusal(StrEnum):
    """Why a proven subject was not let in: for the audit log. People are told one sentence for all of them."""

    SUBJECT = "federation.subject"
    """The subject has no name that lasts (transient), or a mail address of a foreign domain."""
    NO_LINK = "federation.no_link"
    AMBIGUOUS = "federation.ambiguous"
    SCOPE = "federation.scope"
    """The person has no post in the provider's organization."""
    OTHER_ACCOUNT = "federation.other_account"
    """The person is linked to another subject of the same provider."""
    TAKEN = "federation.taken"
    """The subject is another person's."""
    NOT_SIGNED_IN = "federation.session"
    """The session that wanted the link is over."""
    HUB_ROLE = "federation.hub_role"
    """The person holds a role over the hub: no rule links them, and a company's provider does not speak beyond it."""
    STANDING = "login.standing"
    EPOCH = "login.epoch"
    RECOVERY = "login.recovery"


_REASONS = {"session.standing": Refusal.STANDING, "session.recovery": Refusal.RECOVERY}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """An open request to a provider.

    Args:
        request_id: of the AuthnRequest; it holds the login transaction's opaque name, so that its answer finds it.
        epoch: the installation's, at that moment.
        session_id: of purpose `link`, the session that wants it.
    """

    request_id: str
    provider_id: str
    asked_at: datetime
    epoch: int
    is_forced: bool
    purpose: Purpose = "sign_in"
    session_id: str | None = None

    def stored(self) -> dict[str, Any]:
        """For the login transaction."""
        return {
            "request_id": opaque.hash_of(self.request_id),
            "provider_id": self.provider_id,
            "asked_at": to_micros(self.asked_at),
            "epoch": self.epoch,
            "is_forced": self.is_forced,
            "purpose": self.purpose,
            "session_id": self.session_id,
        }


def _restored(stored: Mapping[str, Any], request_id: str) -> Asked:
    return Asked(**{**stored, "asked_at": from_micros(stored["asked_at"]), "request_id": request_id})


@dataclass(frozen=True, slots=True)
class Finished:
    """A sign-in, or a link, that came to its end.

    Args:
        minted: the new session; None: an account was linked to the one there is.
        goes_on: where the browser goes.
    """

    minted: Minted | None
    goes_on: str


class GoneError(Exception):
    """There is nothing to finish for this browser: never begun in it, taken up already, or over."""


# ---------------------------------------------------------------- asking


def ask(
    session: Session,
    transaction_id: str,
    browser_token: str,
    provider: Provider,
    *,
    is_forced: bool,
    now: datetime,
    linking: SignedIn | None = None,
) -> Asked | None:
    """Remember a new request in the login transaction of this browser; an earlier one in it is forgotten.

    Returns None when the transaction is not open for this browser.
    """
    epoch = session.execute(select(Installation.epoch)).scalar_one()
    asked = Asked(
        # Its own name in every try (Core 1.3.4), and the transaction's, which is worth nothing without the cookie.
        request_id=f"_{transaction_id}.{secrets.token_hex(10)}",
        provider_id=provider.id,
        asked_at=now,
        epoch=epoch,
        is_forced=is_forced,
        purpose="sign_in" if linking is None else "link",
        session_id=None if linking is None else linking.session_id,
    )
    changed = session.execute(
        update(LoginTransaction)
        .where(*_open(transaction_id, now), LoginTransaction.browser_hash == opaque.hash_of(browser_token))
        .values(upstream={"asked": asked.stored()})
        .returning(LoginTransaction.id_hash)
    ).first()
    return None if changed is None else asked


def find_asked(session: Session, request_id: str | None, *, now: datetime) -> Asked | None:
    """The open request of that identifier, whoever brings it; None when there is none, or none any more."""
    transaction_id = _transaction_of(request_id)
    if request_id is None or not opaque.looks_valid("tx", transaction_id):
        return None
    upstream = session.execute(select(LoginTransaction.upstream).where(*_open(transaction_id, now))).scalar()
    asked = (upstream or {}).get("asked")
    if asked is None or asked["request_id"] != opaque.hash_of(request_id):
        return None
    return _restored(asked, request_id)


def _transaction_of(request_id: str | None) -> str:
    return (request_id or "").removeprefix("_").partition(".")[0]


def _open(transaction_id: str, now: datetime) -> tuple[Any, ...]:
    return (
        LoginTransaction.id_hash == opaque.hash_of(transaction_id),
        LoginTransaction.completed_at.is_(None),
        LoginTransaction.expires_at > now,
    )


# ---------------------------------------------------------------- keeping


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a verified answer waits.

    Args:
        transaction_id: the login transaction of the browser that asked.
        token: what the browser that brought the answer takes it up with, told to no other.
    """

    transaction_id: str
    token: str


def keep(session: Session, asked: Asked, provider: Provider, asserted: Asserted, *, now: datetime) -> Kept | None:
    """Remember a verified answer to an open request; returns where its browser takes it up.

    None when the assertion was seen before, or the request was answered already: of two deliveries one counts,
    whichever process they come to, also after a restart.
    """
    if not is_first_use(session, provider.id, asserted.assertion_id, expires_at=asserted.expires_at):
        return None
    kept = Kept(_transaction_of(asked.request_id), secrets.token_urlsafe(32))
    answer = {
        "token": opaque.hash_of(kept.token),
        "subject": subject_of(provider, asserted),
        "values": [_value(asserted, rule) for rule in provider.rules],
        "authenticated_at": to_micros(min(asserted.authenticated_at, now)),
        "amr": [FEDERATED_AMR, *_AMR.get(asserted.context, ())],
        "name_id": asserted.name_id,
        "session_index": asserted.session_index,
    }
    changed = session.execute(
        update(LoginTransaction)
        .where(*_open(kept.transaction_id, now), LoginTransaction.upstream == {"asked": asked.stored()})
        .values(upstream={"asked": asked.stored(), "answer": answer})
        .returning(LoginTransaction.id_hash)
    ).first()
    return None if changed is None else kept


def subject_of(provider: Provider, asserted: Asserted) -> str | None:
    """The provider's lasting name of the subject, by which it is linked; None when it gives none.

    A transient NameID names a session, not a person (Core 8.3.8). A mail address is given to somebody else one day, and
    is a name only where the provider says whose the domain's addresses are.
    """
    if provider.subject_attribute is not None:
        values = [value for value in asserted.attributes.get(provider.subject_attribute, ()) if value]
        # Its name stands before it: another attribute of the same value is another subject.
        subject = f"{provider.subject_attribute}={values[0]}" if len(set(values)) == 1 else ""
        return subject if 0 < len(subject) <= MAX_SUBJECT else None
    if asserted.name_id_format == names.TRANSIENT:
        return None
    if asserted.name_id_format == names.EMAIL and not _is_of_domain(provider, asserted.name_id):
        return None
    return asserted.name_id


def _is_of_domain(provider: Provider, address: str) -> bool:
    local, at, domain = address.rpartition("@")
    return bool(local and at) and "@" not in local and domain.lower() in provider.domains


def _value(asserted: Asserted, rule: LinkRule) -> str | None:
    """The one value that a rule compares; several are none."""
    if rule.attribute == NAME_ID:
        return None if asserted.name_id_format == names.TRANSIENT else asserted.name_id
    values = {value for value in asserted.attributes.get(rule.attribute, ()) if value}
    return values.pop() if len(values) == 1 else None


# ---------------------------------------------------------------- finishing


@dataclass(frozen=True, slots=True)
class _Taken:
    """An answer that is being taken up, with everything its refusal is recorded with."""

    session: Session
    keyring: Keyring
    asked: Asked
    answer: Mapping[str, Any]
    provider: Provider
    browser: Browser
    now: datetime

    def refuse(self, reason: Refusal, principal_id: str | None = None) -> Refusal:
        """Record why it opens nothing. The subject's name is personal: its keyed hash is kept."""
        subject = self.answer["subject"]
        failed = Event(
            type=EventType.LOGIN_FAILED,
            at=self.now,
            actor=Actor(kind="anonymous", id="anonymous", ip=self.browser.address),
            door="login",
            target_kind="person",
            target_id=principal_id or "unknown",
            outcome="failure",
            reason=str(reason),
            person_id=principal_id,
            request_id=self.browser.request_id,
            details={
                "provider": self.provider.slug,
                "subject_index": None if subject is None else self.keyring.blind_index("upstream_subject", subject),
            },
        )
        record(self.session, [failed])
        return reason

    def link(self, principal_id: str, epochs: Epochs, actor: Actor) -> None:
        """Link the subject to the person, unless it is."""
        link(
            self.session, self.provider, self.answer["subject"], principal_id, enrolment=epochs.enrolment,
            by="rule" if self.asked.purpose == "sign_in" else "person", actor=actor,
            request_id=self.browser.request_id, now=self.now,
        )  # fmt: skip


def finish(
    session: Session,
    keyring: Keyring,
    settings: Settings,
    kept: Kept,
    browser_token: str | None,
    *,
    browser: Browser,
    old: SignedIn | None,
    now: datetime,
) -> Finished | Refusal:
    """Take up the answer that waits in this browser's transaction: find the person, and let them in or link them.

    The browser that asked must be the one that brought the answer: else whoever gets somebody to open a request of
    theirs at the provider would be let in as that person. The answer is spent either way, by one conditional update. A
    refusal keeps its writes.

    Args:
        old: who is signed in in this browser now.

    Raises:
        GoneError: there is no answer for this browser; nothing was written.
    """
    transaction_id = kept.transaction_id
    if not browser_token or not opaque.looks_valid("tx", transaction_id):
        raise GoneError
    mine = (*_open(transaction_id, now), LoginTransaction.browser_hash == opaque.hash_of(browser_token))
    upstream = session.execute(select(LoginTransaction.upstream).where(*mine)).scalar() or {}
    if not hmac.compare_digest(upstream.get("answer", {}).get("token", ""), opaque.hash_of(kept.token)):
        raise GoneError
    asked = _restored(upstream["asked"], "")
    provider = find_provider(session, now=now, id=asked.provider_id)
    if provider is None:
        raise GoneError
    taken = _Taken(session, keyring, asked, upstream["answer"], provider, browser, now)
    found = _person_of(taken, old)
    old_owner = None
    if isinstance(found, str):
        # People first, the transaction's row after them: the order of every other sign-in.
        old_owner = sign_in.lock_both(session, found, old.session_id if old is not None else None)
    spent = session.execute(
        update(LoginTransaction)
        .where(*mine, LoginTransaction.upstream == upstream)
        .values(upstream=None)
        .returning(LoginTransaction.id_hash)
    ).first()
    if spent is None:
        raise GoneError
    if isinstance(found, Refusal):
        return taken.refuse(found)
    return _enter(taken, settings, transaction_id, browser_token, found, old, old_owner)


def _person_of(taken: _Taken, old: SignedIn | None) -> str | Refusal:
    subject = taken.answer["subject"]
    if subject is None:
        return Refusal.SUBJECT
    owner = linked(taken.session, taken.provider.id, subject)
    if taken.asked.purpose == "link":
        if old is None or old.session_id != taken.asked.session_id:
            return Refusal.NOT_SIGNED_IN
        return old.principal_id if owner in {None, old.principal_id} else Refusal.TAKEN
    return owner or _recognised(taken.session, taken.provider, taken.answer["values"])


def _recognised(session: Session, provider: Provider, values: Sequence[str | None]) -> str | Refusal:
    """Whom the first rule that finds anybody finds."""
    # A configuration that changed since the answer came decides nothing with values of another rule.
    for rule, value in zip(provider.rules, values, strict=False):
        if value is None:
            continue
        found = session.execute(_FIND[rule.match](provider, value).limit(2)).scalars().all()
        if len(found) > 1:
            return Refusal.AMBIGUOUS
        if found:
            return str(found[0])
    return Refusal.NO_LINK


def _by_number(provider: Provider, value: str) -> Select[Any]:
    return posts_under(provider).where(Employment.employee_number == value)


def _by_email(provider: Provider, value: str) -> Select[Any]:
    stored = stored_login_name("email", value)
    # Where two addresses look alike (full width, digits in circles) they fold to one name; whoever has one has not the
    # other. Letter case alone may differ.
    if not _is_of_domain(provider, value) or value.lower() != stored:
        return posts_under(provider).where(Employment.id.is_(None))
    named = select(LoginName.principal_id).where(LoginName.value == stored, LoginName.kind == "email")
    return posts_under(provider).where(Employment.principal_id.in_(named))


_FIND: Mapping[str, Callable[[Provider, str], Select[Any]]] = {"employee_number": _by_number, "email": _by_email}


def _enter(
    taken: _Taken,
    settings: Settings,
    transaction_id: str,
    browser_token: str,
    principal_id: str,
    old: SignedIn | None,
    old_owner: str | None,
) -> Finished | Refusal:
    """With the person locked: everything that may have changed is asked again, then the effects are written."""
    session, now, provider = taken.session, taken.now, taken.provider
    if linked(session, provider.id, taken.answer["subject"]) is None:
        # New links of a provider are made one by one: of two that want one subject, or one person, one is first.
        wait_alone(session, f"identity links of {provider.id}")
    epochs = read_epochs(session, principal_id)
    refused = _cannot_enter(taken, principal_id, epochs)
    if refused is not None or epochs is None:
        return taken.refuse(refused or Refusal.STANDING, principal_id)
    if taken.asked.purpose == "link":
        if old_owner != principal_id:
            return taken.refuse(Refusal.NOT_SIGNED_IN, principal_id)
        taken.link(principal_id, epochs, Actor(kind="person", id=principal_id, session_id=taken.asked.session_id))
        goes_on = session.execute(
            select(LoginTransaction.request).where(LoginTransaction.id_hash == opaque.hash_of(transaction_id))
        ).scalar_one()
        transactions.complete(session, transaction_id, browser_token, now=now)
        return Finished(None, str(goes_on.get("path") or "/"))
    try:
        token, session_id = start_session(
            session, principal_id, epochs_read=epochs, amr=taken.answer["amr"], now=now, ip=taken.browser.address,
            user_agent=taken.browser.user_agent, settings=settings,
            authenticated_at=from_micros(taken.answer["authenticated_at"]), request_id=taken.browser.request_id,
            said={"provider": provider.slug},
        )  # fmt: skip
    except NotPermitted as error:
        return taken.refuse(_REASONS.get(error.rule or "", Refusal.EPOCH), principal_id)
    actor = Actor(kind="person", id=principal_id, session_id=session_id, ip=taken.browser.address)
    taken.link(principal_id, epochs, actor)
    session.add(
        UpstreamSession(
            session_id=session_id, provider_id=provider.id, name_id=taken.answer["name_id"],
            session_index=taken.answer["session_index"],
        )
    )  # fmt: skip
    if old is not None and old_owner is not None:
        sign_in.replace_session(session, old.session_id, session_id, is_same_person=old_owner == principal_id, now=now)
    goes_on = transactions.establish(session, transaction_id, browser_token, session_id=session_id, now=now)
    return Finished(Minted(token, session_id, principal_id), goes_on or "/")


def _cannot_enter(taken: _Taken, principal_id: str, epochs: Epochs | None) -> Refusal | None:
    session, provider, subject = taken.session, taken.provider, taken.answer["subject"]
    raised_at = session.execute(select(Principal.epoch_raised_at).where(Principal.id == principal_id)).scalar()
    # The proof is as old as the question: access that ended since then is not opened by it, also after a return.
    if epochs is None or epochs.installation != taken.asked.epoch:
        return Refusal.EPOCH
    if raised_at is not None and raised_at >= taken.asked.asked_at:
        return Refusal.EPOCH
    if session.execute(posts_under(provider).where(Employment.principal_id == principal_id)).first() is None:
        return Refusal.SCOPE
    if not are_roles_within(session, principal_id, [provider.organization_id]):
        return Refusal.HUB_ROLE
    owner = linked(session, provider.id, subject)
    if owner not in {None, principal_id}:
        return Refusal.TAKEN
    if owner is None and linked_at(session, provider.id, principal_id) is not None:
        return Refusal.OTHER_ACCOUNT
    if owner is None and taken.asked.purpose == "sign_in":
        # A link that was taken away since it was looked at speaks for nobody; a rule may.
        found = _recognised(session, provider, taken.answer["values"])
        if found != principal_id:
            return found if isinstance(found, Refusal) else Refusal.NO_LINK
        # Numbers and mail addresses are HR's to write, and whoever writes them must not become an administrator.
        if holds_any_role(session, principal_id):
            return Refusal.HUB_ROLE
    return None
