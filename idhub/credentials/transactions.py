"""Login transactions: a sign-in in progress, bound to one browser, on its way back to what asked for it.

    protocol route --begin--> /login ... --establish--> resume_url --complete--> the application

Pages never call each other: each ends by sending the browser to `resume_url`, and the protocol decides what is next.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, insert, select, update
from sqlalchemy.orm import Session

from idhub.access.tables import Application
from idhub.credentials import opaque
from idhub.credentials.tables import LoginTransaction
from idhub.directory.tables import Person
from idhub.settings import Settings

Protocol = Literal["oidc", "oidc_logout", "none"]
_RESUME: dict[str, str] = {"oidc": "/oauth2/authorize/resume", "oidc_logout": "/oauth2/logout/resume"}


@dataclass(frozen=True, slots=True)
class Transaction:
    """A login transaction as its browser may see it."""

    id: str
    """The opaque value itself, as it stands in URLs."""
    protocol: Protocol
    client_id: str | None
    application_id: str | None
    application_name: str | None
    application_name_zh: str | None
    application_owner: str | None
    """Name of the person who answers for the application."""
    request: dict[str, Any]
    """Validated parameters of the request; of protocol `none`, `{"path": ...}`."""
    session_id: str | None
    """The session that was established in this transaction by a fresh sign-in."""
    refusal: str | None
    consent: str | None
    created_at: datetime
    expires_at: datetime


def begin(
    session: Session,
    *,
    protocol: Protocol,
    browser_token: str,
    request: dict[str, Any],
    client_id: str | None = None,
    application_id: str | None = None,
    now: datetime,
    settings: Settings,
) -> str:
    """Store a sign-in in progress; returns its opaque id for `/login?transaction=`.

    Args:
        request: validated and bounded parameters; of protocol `none`, `{"path": local path}`.
    """
    transaction_id = opaque.make("tx")
    session.execute(
        insert(LoginTransaction).values(
            id_hash=opaque.hash_of(transaction_id),
            browser_hash=opaque.hash_of(browser_token),
            protocol=protocol,
            client_id=client_id,
            application_id=application_id,
            request=request,
            created_at=now,
            expires_at=now + settings.login_transaction_lifetime,
        )
    )
    return transaction_id


def load(session: Session, transaction_id: str, browser_token: str | None, *, now: datetime) -> Transaction | None:
    """The transaction, for the browser that began it; None when unknown, of another browser, expired or complete."""
    if not browser_token or not opaque.looks_valid("tx", transaction_id):
        return None
    row = session.execute(
        select(
            LoginTransaction.protocol,
            LoginTransaction.client_id,
            LoginTransaction.application_id,
            Application.name.label("application_name"),
            Application.name_zh.label("application_name_zh"),
            Person.display_name.label("application_owner"),
            LoginTransaction.request,
            LoginTransaction.session_id,
            LoginTransaction.refusal,
            LoginTransaction.consent,
            LoginTransaction.created_at,
            LoginTransaction.expires_at,
        )
        .outerjoin(Application, Application.id == LoginTransaction.application_id)
        .outerjoin(Person, Person.id == Application.owner_id)
        .where(*_open(transaction_id, browser_token, now))
    ).first()
    return None if row is None else Transaction(id=transaction_id, **row._mapping)


def establish(session: Session, transaction_id: str, browser_token: str, *, session_id: str, now: datetime) -> bool:
    """Note that a fresh sign-in in this transaction made `session_id`; False when the transaction is not open.

    Forgets an earlier refusal and consent: they were another person's, perhaps.
    """
    return _set(session, transaction_id, browser_token, now, session_id=session_id, refusal=None, consent=None)


def refuse(session: Session, transaction_id: str, browser_token: str, *, reason: str, now: datetime) -> bool:
    """Note why the sign-in cannot go on, for `/error?transaction=`. It stays open: someone else may try."""
    return _set(session, transaction_id, browser_token, now, refusal=reason)


def answer_consent(
    session: Session, transaction_id: str, browser_token: str, *, answer: Literal["allow", "deny"], now: datetime
) -> bool:
    """Note the answer of the consent page; the protocol acts on it when the browser resumes."""
    return _set(session, transaction_id, browser_token, now, consent=answer)


def complete(session: Session, transaction_id: str, browser_token: str, *, now: datetime) -> bool:
    """Close the transaction. True for exactly one caller: only that one may answer the application."""
    return _set(session, transaction_id, browser_token, now, completed_at=now)


def resume_url(transaction: Transaction) -> str:
    """Local URL where the browser goes when a page is done."""
    if transaction.protocol == "none":
        return str(transaction.request.get("path") or "/")
    return f"{_RESUME[transaction.protocol]}?transaction={transaction.id}"


def _open(transaction_id: str, browser_token: str, now: datetime) -> list[ColumnElement[bool]]:
    return [
        LoginTransaction.id_hash == opaque.hash_of(transaction_id),
        LoginTransaction.browser_hash == opaque.hash_of(browser_token),
        LoginTransaction.completed_at.is_(None),
        LoginTransaction.expires_at > now,
    ]


def _set(session: Session, transaction_id: str, browser_token: str, now: datetime, **values: object) -> bool:
    changed = session.execute(
        update(LoginTransaction)
        .where(*_open(transaction_id, browser_token, now))
        .values(**values)
        .returning(LoginTransaction.id_hash)
    ).first()
    return changed is not None
