"""SQL of what browsers do: sessions, sign-ins in progress, codes. Joined to the other statements by `statements`."""

from sqlalchemy import Executable, Text, and_, bindparam, func, insert, null, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.sql.elements import BindParameter

from idhub.access.tables import Application, OidcClient
from idhub.credentials.predicate import entitled, refusal, session_criteria, usable_session
from idhub.credentials.tables import (
    AuthorizationCode,
    Consent,
    Grant,
    LoginTransaction,
    SessionParticipant,
    SsoSession,
)
from idhub.db import Base, Instant
from idhub.directory.tables import Person, Principal, SubjectIdentifier

PUBLIC_SECTOR = "public"
"""Sector of every client that names none."""


def text(name: str) -> BindParameter[str]:
    """A parameter that is text."""
    return bindparam(name, type_=Text(), required=True)


def instant(name: str) -> BindParameter[object]:
    """A parameter that is an instant."""
    return bindparam(name, type_=Instant(), required=True)


def every_column(model: type[Base]) -> Executable:
    """INSERT of one row, all columns given."""
    return insert(model).values(_all(model))


def _all(model: type[Base]) -> dict[str, BindParameter[object]]:
    columns = model.__table__.columns
    return {one.name: bindparam(one.name, type_=one.type, required=True) for one in columns}


def conflicting(model: type[Base], is_sqlite: bool) -> SqliteInsert | PostgresInsert:
    """An INSERT that takes `on_conflict_...`, for the database it is compiled for."""
    return sqlite.insert(model) if is_sqlite else postgresql.insert(model)


def browser_statements(*, is_sqlite: bool) -> dict[str, Executable]:
    """Name -> statement."""
    now = bindparam("now", type_=Instant, required=True)
    session_id, client_id = text("session_id"), text("client_id")
    open_transaction = (
        LoginTransaction.id_hash == text("id_hash"),
        LoginTransaction.browser_hash == text("browser_hash"),
        LoginTransaction.completed_at.is_(None),
        LoginTransaction.expires_at > now,
    )
    entry_criteria = {
        "client_disabled": OidcClient.is_enabled.is_(True),
        "application_disabled": Application.is_enabled.is_(True),
    }
    # What a code needs beside a usable session.
    criteria = {
        **session_criteria(now),
        **entry_criteria,
        "not_entitled": entitled(now, principal_id=SsoSession.principal_id, application_id=OidcClient.application_id),
    }
    signed_in = (
        select(
            SsoSession.id,
            SsoSession.principal_id,
            SsoSession.amr,
            SsoSession.authenticated_at,
            SsoSession.last_seen_at,
            SsoSession.expires_at,
            Person.display_name,
            Person.locale,
        )
        .join(Principal, Principal.id == SsoSession.principal_id)
        .join(Person, Person.id == SsoSession.principal_id)
        .where(SsoSession.token_hash == text("token_hash"), usable_session(now))
    )
    subject = SubjectIdentifier.principal_id == text("principal_id"), SubjectIdentifier.sector == text("sector")
    return {
        # ---- sessions
        "session.find": signed_in,
        "session.insert": every_column(SsoSession),
        "session.extend": update(SsoSession)
        .where(SsoSession.id == session_id, SsoSession.ended_at.is_(None), SsoSession.idle_expires_at > now)
        .values(last_seen_at=now, idle_expires_at=instant("idle_expires_at")),
        # ---- entering an application
        "session.enter": signed_in.add_columns(
            select(Consent.scope)
            .where(
                Consent.principal_id == SsoSession.principal_id,
                Consent.client_id == client_id,
                Consent.enrolment_epoch == Principal.enrolment_epoch,
            )
            .scalar_subquery()
            .label("consented"),
            entitled(now, principal_id=SsoSession.principal_id, application_id=text("application_id")).label(
                "is_entitled"
            ),
        ),
        "subject.named": select(SubjectIdentifier.principal_id).where(
            SubjectIdentifier.sector == text("sector"), SubjectIdentifier.sub == text("sub")
        ),
        "subject.find": select(SubjectIdentifier.sub).where(*subject),
        "subject.insert": conflicting(SubjectIdentifier, is_sqlite)
        .values(_all(SubjectIdentifier))
        .on_conflict_do_nothing(index_elements=["principal_id", "sector"]),
        "code.check": select(
            SsoSession.principal_id,
            SsoSession.access_epoch,
            SsoSession.enrolment_epoch,
            SsoSession.installation_epoch,
            SsoSession.authenticated_at,
            OidcClient.application_id,
            func.coalesce(OidcClient.sector, PUBLIC_SECTOR).label("sector"),
            SubjectIdentifier.sub,
            SessionParticipant.id.label("participant_id"),
            SessionParticipant.ended_at.label("participant_ended_at"),
            refusal(criteria),
        )
        .join(Principal, Principal.id == SsoSession.principal_id)
        .join(OidcClient, OidcClient.client_id == client_id)
        .join(Application, Application.id == OidcClient.application_id)
        .outerjoin(
            SubjectIdentifier,
            and_(
                SubjectIdentifier.principal_id == SsoSession.principal_id,
                SubjectIdentifier.sector == func.coalesce(OidcClient.sector, PUBLIC_SECTOR),
            ),
        )
        .outerjoin(
            SessionParticipant,
            and_(SessionParticipant.session_id == SsoSession.id, SessionParticipant.client_id == OidcClient.client_id),
        )
        .where(SsoSession.id == session_id),
        # What a code needs beside a session that begins in the same transaction.
        "code.enter": select(
            OidcClient.application_id,
            func.coalesce(OidcClient.sector, PUBLIC_SECTOR).label("sector"),
            SubjectIdentifier.sub,
            refusal(
                {
                    **entry_criteria,
                    "not_entitled": entitled(
                        now, principal_id=text("principal_id"), application_id=OidcClient.application_id
                    ),
                }
            ),
        )
        .join(Application, Application.id == OidcClient.application_id)
        .outerjoin(
            SubjectIdentifier,
            and_(
                SubjectIdentifier.principal_id == text("principal_id"),
                SubjectIdentifier.sector == func.coalesce(OidcClient.sector, PUBLIC_SECTOR),
            ),
        )
        .where(OidcClient.client_id == client_id),
        "participant.insert": every_column(SessionParticipant),
        "participant.use": update(SessionParticipant)
        .where(SessionParticipant.id == text("participant_id"))
        .values(last_used_at=now),
        "participant.return": update(SessionParticipant)
        .where(SessionParticipant.id == text("participant_id"))
        .values(last_used_at=now, ended_at=null(), sid=text("sid"), joined_at=now, token_expires_at=null()),
        "grant.issue": every_column(Grant),
        "code.insert": every_column(AuthorizationCode),
        "consent.give": _with_update(conflicting(Consent, is_sqlite)),
        "principal.enrolment": select(Principal.enrolment_epoch).where(Principal.id == text("principal_id")),
        # ---- sign-ins in progress
        "transaction.insert": every_column(LoginTransaction),
        "transaction.keep": conflicting(LoginTransaction, is_sqlite)
        .values(_all(LoginTransaction))
        .on_conflict_do_nothing(index_elements=[LoginTransaction.id_hash]),
        "application.named": select(
            Application.name.label("application_name"),
            Application.name_zh.label("application_name_zh"),
            Person.display_name.label("application_owner"),
        )
        .outerjoin(Person, Person.id == Application.owner_id)
        .where(Application.id == text("application_id")),
        "transaction.known": select(LoginTransaction.id_hash).where(LoginTransaction.id_hash == text("id_hash")),
        "transaction.close": every_column(LoginTransaction),
        # Of one that is no row yet, and of one that is one and open.
        "transaction.answered": conflicting(LoginTransaction, is_sqlite)
        .values(_all(LoginTransaction))
        .on_conflict_do_update(
            index_elements=[LoginTransaction.id_hash], set_={"completed_at": now}, where=and_(*open_transaction)
        )
        .returning(LoginTransaction.id_hash),
        "transaction.find": select(
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
            LoginTransaction.consent_session_id,
            LoginTransaction.created_at,
            LoginTransaction.expires_at,
        )
        .outerjoin(Application, Application.id == LoginTransaction.application_id)
        .outerjoin(Person, Person.id == Application.owner_id)
        .where(*open_transaction),
        "transaction.establish": update(LoginTransaction)
        .where(*open_transaction)
        .values(session_id=session_id, refusal=null(), consent=null(), consent_session_id=null())
        .returning(LoginTransaction.protocol, LoginTransaction.request),
        "transaction.refuse": update(LoginTransaction)
        .where(*open_transaction)
        .values(refusal=text("reason"))
        .returning(LoginTransaction.id_hash),
        "transaction.answer": update(LoginTransaction)
        .where(*open_transaction)
        .values(consent=text("answer"), consent_session_id=session_id)
        .returning(LoginTransaction.id_hash),
        "transaction.complete": update(LoginTransaction)
        .where(*open_transaction)
        .values(completed_at=now)
        .returning(LoginTransaction.id_hash),
    }


def _with_update(statement: SqliteInsert | PostgresInsert) -> Executable:
    changed = {name: statement.excluded[name] for name in ("scope", "enrolment_epoch", "given_at")}
    return statement.values(_all(Consent)).on_conflict_do_update(
        index_elements=["principal_id", "client_id"], set_=changed
    )
