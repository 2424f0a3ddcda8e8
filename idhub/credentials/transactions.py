"""Login transactions: a sign-in in progress, bound to one browser, on its way back to what asked for it.

    protocol route --begin--> /login ... --establish--> resume_url --complete--> the application

Pages never call each other: each ends by sending the browser to `resume_url`, and the protocol decides what is next.

A sign-in of which nothing has to be remembered yet is no row: its id is the request itself, sealed for its browser
(`sealed`), and whoever only looked at the page has left nothing behind. It becomes a row when something is noted of it
(`keep`), or when it is answered, which so happens once as well (`completing`).
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import orjson
from sqlalchemy import update
from sqlalchemy.orm import Session

from idhub.credentials import opaque
from idhub.credentials.operations import Operation, run_in
from idhub.credentials.tables import LoginTransaction
from idhub.db import from_micros, to_micros
from idhub.errors import Unavailable
from idhub.keys import Keyring
from idhub.settings import Settings

Protocol = Literal["oidc", "oidc_logout", "saml", "saml_logout", "wsfed", "wsfed_logout", "cas", "cas_logout", "none"]
_RESUME: dict[str, str] = {
    "oidc": "/oauth2/authorize/resume",
    "oidc_logout": "/oauth2/logout/resume",
    "saml": "/saml/sso/resume",
    "saml_logout": "/saml/logout",
    "wsfed": "/wsfed/resume",
    "wsfed_logout": "/wsfed/signout",
    "cas": "/cas/login/resume",
    "cas_logout": "/cas/logout/resume",
}


@dataclass(frozen=True, slots=True)
class Transaction:
    """A login transaction as its browser may see it."""

    id: str
    """The opaque value itself, or the sealed one, as it stands in URLs."""
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
    consent_session_id: str | None
    created_at: datetime
    expires_at: datetime


_SEALED = "idh_stx_"
_MOST_SEALED = 1_400
MAX_ID = 2_000
"""Characters of the longest id."""
_COLUMNS = tuple(name for name in Transaction.__dataclass_fields__ if name != "id")


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
    return run_in(
        session,
        beginning(
            protocol=protocol, browser_token=browser_token, request=request, client_id=client_id,
            application_id=application_id, now=now, settings=settings,
        ),
    )  # fmt: skip


def beginning(
    *,
    protocol: Protocol,
    browser_token: str,
    request: dict[str, Any],
    client_id: str | None = None,
    application_id: str | None = None,
    now: datetime,
    settings: Settings,
) -> Operation[str]:
    """See `begin`."""
    transaction_id = opaque.make("tx")
    yield (
        "transaction.insert",
        {
            "id_hash": opaque.hash_of(transaction_id),
            "browser_hash": opaque.hash_of(browser_token),
            "protocol": protocol,
            "client_id": client_id,
            "application_id": application_id,
            "request": orjson.dumps(request, option=orjson.OPT_SORT_KEYS).decode(),
            "session_id": None,
            "refusal": None,
            "upstream": None,
            "consent": None,
            "consent_session_id": None,
            "created_at": now,
            "expires_at": now + settings.login_transaction_lifetime,
            "completed_at": None,
        },
    )
    return transaction_id


def begun(
    transaction_id: str,
    *,
    protocol: Protocol,
    request: dict[str, Any],
    client_id: str,
    application_id: str,
    application_name: str,
    application_name_zh: str | None,
    application_owner: str | None,
    now: datetime,
    settings: Settings,
) -> Transaction:
    """What `load` would say of a transaction that was begun just now."""
    return Transaction(
        transaction_id, protocol, client_id, application_id, application_name, application_name_zh, application_owner,
        request, session_id=None, refusal=None, consent=None, consent_session_id=None, created_at=now,
        expires_at=now + settings.login_transaction_lifetime,
    )  # fmt: skip


def sealed(
    keyring: Keyring,
    *,
    protocol: Protocol,
    browser_token: str,
    request: dict[str, Any],
    client_id: str,
    application_id: str,
    now: datetime,
) -> str | None:
    """A sign-in in progress that its browser holds, as an id that `unsealed` reads; None: too long for an address."""
    content = orjson.dumps([protocol, client_id, application_id, to_micros(now), request])
    if len(content) > _MOST_SEALED:
        return None
    return _SEALED + base64.urlsafe_b64encode(keyring.seal(_context(browser_token), content)).rstrip(b"=").decode()


def unsealed(
    keyring: Keyring, transaction_id: str, browser_token: str | None, *, now: datetime, settings: Settings
) -> Transaction | None:
    """The sign-in that a sealed id holds, for the browser that it was sealed for; None: another's, expired, none.

    Whether it was answered already is not known here. What the application is called is not in it.
    """
    if not browser_token or not is_sealed(transaction_id):
        return None
    text = transaction_id.removeprefix(_SEALED)
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        # What else decodes to the same would be another id of the same sign-in.
        if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
            return None
        content = keyring.open(_context(browser_token), raw)
    except (ValueError, Unavailable):
        return None
    protocol, client_id, application_id, created_micros, request = orjson.loads(content)
    created_at = from_micros(created_micros)
    expires_at = created_at + settings.login_transaction_lifetime
    if expires_at <= now:
        return None
    return Transaction(
        transaction_id, protocol, client_id, application_id, None, None, None, request, session_id=None, refusal=None,
        consent=None, consent_session_id=None, created_at=created_at, expires_at=expires_at,
    )  # fmt: skip


def is_sealed(transaction_id: str) -> bool:
    """Whether the id has the form of a sealed one."""
    return transaction_id.startswith(_SEALED) and len(transaction_id) <= MAX_ID and transaction_id.isascii()


def keep(session: Session, transaction: Transaction, browser_token: str) -> None:
    """Make a row of a sign-in that its browser holds: something will be noted of it. One that is there stays."""
    run_in(session, _keeping(transaction, browser_token))


def _keeping(transaction: Transaction, browser_token: str) -> Operation[None]:
    yield "transaction.keep", _row_of(transaction, browser_token)


def is_known(transaction_id: str) -> Operation[bool]:
    """Whether there is a row of this id, open or over."""
    return bool((yield "transaction.known", {"id_hash": opaque.hash_of(transaction_id)}))


def naming(transaction: Transaction) -> Operation[Transaction]:
    """The same with what its application is called now."""
    rows = yield "application.named", {"application_id": transaction.application_id}
    return replace(transaction, **dict(rows[0])) if rows else transaction


def _row_of(transaction: Transaction, browser_token: str) -> dict[str, Any]:
    return {
        "id_hash": opaque.hash_of(transaction.id),
        "browser_hash": opaque.hash_of(browser_token),
        "protocol": transaction.protocol,
        "client_id": transaction.client_id,
        "application_id": transaction.application_id,
        "request": orjson.dumps(transaction.request, option=orjson.OPT_SORT_KEYS).decode(),
        "session_id": None,
        "refusal": None,
        "upstream": None,
        "consent": None,
        "consent_session_id": None,
        "created_at": transaction.created_at,
        "expires_at": transaction.expires_at,
        "completed_at": None,
    }


def _context(browser_token: str) -> str:
    return f"login_transactions:{browser_token}"


def load(session: Session, transaction_id: str, browser_token: str | None, *, now: datetime) -> Transaction | None:
    """The transaction, for the browser that began it; None when unknown, of another browser, expired or complete."""
    return run_in(session, loading(transaction_id, browser_token, now=now))


def loading(transaction_id: str, browser_token: str | None, *, now: datetime) -> Operation[Transaction | None]:
    """See `load`."""
    if not browser_token or not _looks_valid(transaction_id):
        return None
    rows = yield "transaction.find", _open(transaction_id, browser_token, now)
    if not rows:
        return None
    row: dict[str, Any] = {name: rows[0][name] for name in _COLUMNS}
    row["request"] = orjson.loads(row["request"])
    row |= {name: from_micros(row[name]) for name in ("created_at", "expires_at")}
    return Transaction(id=transaction_id, **row)


def claim(session: Session, transaction_id: str, given_token: str, browser_token: str, *, now: datetime) -> bool:
    """Bind a transaction that was begun without the browser's cookies to the browser that comes with `given_token`.

    A form that another site posts comes without them (SameSite). The value is in the address that it is sent to next,
    once; whoever could read it there could as well have posted the form.
    """
    changed = session.execute(
        update(LoginTransaction)
        .where(
            LoginTransaction.id_hash == opaque.hash_of(transaction_id),
            LoginTransaction.browser_hash == opaque.hash_of(given_token),
            LoginTransaction.completed_at.is_(None),
            LoginTransaction.expires_at > now,
        )
        .values(browser_hash=opaque.hash_of(browser_token))
        .returning(LoginTransaction.id_hash)
    ).first()
    return changed is not None


def establish(
    session: Session, transaction_id: str, browser_token: str | None, *, session_id: str, now: datetime
) -> str | None:
    """Note that a fresh sign-in in this transaction made `session_id`; returns where the browser goes on.

    None when the transaction is not open for this browser.

    Forgets an earlier refusal and consent: they were another person's, perhaps.
    """
    return run_in(session, establishing(transaction_id, browser_token, session_id=session_id, now=now))


def refuse(session: Session, transaction_id: str, browser_token: str, *, reason: str, now: datetime) -> bool:
    """Note why the sign-in cannot go on, for `/error?transaction=`. It stays open: someone else may try."""
    return run_in(session, refusing(transaction_id, browser_token, reason=reason, now=now))


def answer_consent(
    session: Session,
    transaction_id: str,
    browser_token: str,
    *,
    answer: Literal["allow", "deny"],
    session_id: str,
    now: datetime,
) -> bool:
    """Note what the person of a session answered; the protocol acts on it when that session's browser resumes."""
    return run_in(
        session, _changing("answer", transaction_id, browser_token, now, answer=answer, session_id=session_id)
    )


def consent_of(transaction: Transaction, session_id: str) -> str | None:
    """What the person of this session answered; None when nobody did, or in another session."""
    return transaction.consent if transaction.consent_session_id == session_id else None


def complete(session: Session, transaction_id: str, browser_token: str, *, now: datetime) -> bool:
    """Close the transaction. True for exactly one caller: only that one may answer the application."""
    return run_in(session, completing(transaction_id, browser_token, now=now))


def resume_url(transaction: Transaction) -> str:
    """Local URL where the browser goes when a page is done."""
    return _resume_url(transaction.id, transaction.protocol, transaction.request)


def _resume_url(transaction_id: str, protocol: str, request: Mapping[str, Any]) -> str:
    if protocol == "none":
        return str(request.get("path") or "/")
    return f"{_RESUME[protocol]}?transaction={transaction_id}"


def establishing(
    transaction_id: str, browser_token: str | None, *, session_id: str, now: datetime
) -> Operation[str | None]:
    """See `establish`."""
    if not browser_token or not _looks_valid(transaction_id):
        return None
    opened = {**_open(transaction_id, browser_token, now), "session_id": session_id}
    changed = yield "transaction.establish", opened
    if not changed:
        return None
    return _resume_url(transaction_id, changed[0]["protocol"], orjson.loads(changed[0]["request"]))


def refusing(transaction_id: str, browser_token: str, *, reason: str, now: datetime) -> Operation[bool]:
    """See `refuse`."""
    return _changing("refuse", transaction_id, browser_token, now, reason=reason)


def establishing_one(
    transaction: Transaction, browser_token: str, *, session_id: str, now: datetime
) -> Operation[str | None]:
    """`establishing`, also of a sign-in that its browser holds."""
    if is_sealed(transaction.id):
        yield from _keeping(transaction, browser_token)
    return (yield from establishing(transaction.id, browser_token, session_id=session_id, now=now))


def completing(transaction_id: str, browser_token: str, *, now: datetime) -> Operation[bool]:
    """See `complete`."""
    return _changing("complete", transaction_id, browser_token, now)


def completing_one(
    transaction: Transaction, browser_token: str, *, now: datetime, is_first: bool = False
) -> Operation[bool]:
    """`completing`, also of a sign-in that its browser holds: what is left of it is that it was answered.

    Args:
        is_first: it has no row, as far as anybody knows: then nothing is asked of the database before the end of the
            transaction. Where it has one after all, the operation fails (`Taken`), and begins anew without this.
    """
    if not is_sealed(transaction.id):
        return (yield from completing(transaction.id, browser_token, now=now))
    row = {**_row_of(transaction, browser_token), "request": "{}", "completed_at": now, "now": now}
    if is_first:
        yield "transaction.close", row
        return True
    return bool((yield "transaction.answered", row))


def _looks_valid(transaction_id: str) -> bool:
    return opaque.looks_valid("tx", transaction_id) or is_sealed(transaction_id)


def _open(transaction_id: str, browser_token: str, now: datetime) -> dict[str, Any]:
    return {"id_hash": opaque.hash_of(transaction_id), "browser_hash": opaque.hash_of(browser_token), "now": now}


def _changing(what: str, transaction_id: str, browser_token: str, now: datetime, **values: str) -> Operation[bool]:
    changed = yield f"transaction.{what}", {**_open(transaction_id, browser_token, now), **values}
    return bool(changed)
