"""The SQL of the narrow store: written once over the tables, compiled once for the driver that runs it.

A statement has a name and named parameters. Instants are passed as aware datetimes and bound as the microseconds that
both databases store; results come back as the drivers give them.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, Literal

from sqlalchemy import ColumnElement, Dialect, Executable, Text, bindparam, insert, literal_column, or_, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql.compiler import SQLCompiler

from idhub.access.tables import Application, OidcClient
from idhub.credentials.predicate import grant_criteria, grant_source, installation_epoch, may_act, refusal
from idhub.credentials.statements_browser import browser_statements
from idhub.credentials.tables import AccessToken, AuthorizationCode, Grant, RefreshToken, SessionParticipant, SsoSession
from idhub.db import Base, Instant, to_micros
from idhub.directory.kinds import EmploymentState
from idhub.directory.tables import Department, Employment, Installation, Organization, Person, Principal

DriverName = Literal["sqlite", "postgresql", "psycopg"]
"""sqlite3; libpq, which numbers its places; psycopg, which does not."""
# In the text, not bound: there is an index of the active ones, and SQLite plans a statement anew each time that a value
# is bound which decides whether such an index serves.
_ACTIVE: ColumnElement[EmploymentState] = literal_column(f"'{EmploymentState.ACTIVE}'")
AT_ONCE = "_at_once"
"""Behind the name of a statement that locks: the one that does not wait, and has no row when somebody else holds it."""


@dataclass(frozen=True, slots=True)
class Statement:
    """Compiled text, and how to bind named parameters to its places."""

    sql: str
    template: tuple[Any, ...]
    """Constants at their places, None where a parameter goes."""
    places: tuple[tuple[int, str], ...]

    def bind(self, parameters: Mapping[str, Any]) -> list[Any]:
        """Values in the order of their places. A parameter that is missing is a defect (KeyError)."""
        values = list(self.template)
        instant, micros = None, 0
        for place, name in self.places:
            value = parameters[name]
            if type(value) is datetime:
                # An instant is stored as microseconds on both databases; mostly it is the same one at several places.
                if value is not instant:
                    instant, micros = value, to_micros(value)
                value = micros
            values[place] = value
        return values


_SOURCES: list[Callable[[bool], Mapping[str, Executable]]] = []


def add_statements(source: Callable[[bool], Mapping[str, Executable]]) -> None:
    """Let operations of a package above this one yield statements of its own. Called when that is imported.

    Args:
        source: makes statements by name; is told whether they are for SQLite.
    """
    _SOURCES.append(source)


class _Statements(dict[str, Statement]):
    """Statements of one driver, compiled when first asked for a name that came later."""

    def __init__(self, target: Dialect, is_sqlite: bool) -> None:
        super().__init__()
        self._target = target
        self._is_sqlite = is_sqlite
        self._known = 0
        self._adding = threading.Lock()
        self._add({**_statements(), **browser_statements(is_sqlite=is_sqlite)})

    def _add(self, statements: Mapping[str, Executable]) -> None:
        self.update({name: _compile(statement, self._target) for name, statement in statements.items()})

    def __missing__(self, name: str) -> Statement:
        # Threads that ask for the first time at once: each source is taken once, and nobody goes before it is there.
        with self._adding:
            while self._known < len(_SOURCES):
                self._add(_SOURCES[self._known](self._is_sqlite))
                self._known += 1
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found


@cache
def compile_statements(driver: DriverName) -> Mapping[str, Statement]:
    """Every statement of the store for one driver, by name; compiled once a process."""
    target: Dialect
    if driver == "sqlite":
        target = sqlite.dialect(paramstyle="qmark")
    else:
        style = "format" if driver == "psycopg" else "numeric_dollar"
        target = PGDialect_psycopg(paramstyle=style)  # type: ignore[no-untyped-call]
    return _Statements(target, driver == "sqlite")


def _compile(statement: Executable, dialect: Dialect) -> Statement:
    compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
    assert isinstance(compiled, SQLCompiler)  # noqa: S101 - what SQLAlchemy returns for these constructs
    constants = {
        name: value.value if isinstance(value, Enum) else value
        for name, value in compiled.params.items()
        if not compiled.binds[name].required and value is not None
    }
    names = tuple(compiled.positiontup or ())
    template = tuple(constants.get(name) for name in names)
    places = tuple((place, name) for place, name in enumerate(names) if name not in constants)
    return Statement(compiled.string, template, places)


def _insert(model: type[Base]) -> Executable:
    return insert(model).values({column.name: _at(column.name, column.type) for column in model.__table__.columns})


def _at(name: str, kind: Any = None) -> Any:
    # JSON never passes through here; an Instant is bound by `Statement.bind`.
    return bindparam(name, type_=kind, required=True)


def _locking(name: str, lock: Callable[[bool], Executable]) -> dict[str, Executable]:
    """The statement that waits, and the one that does not."""
    return {name: lock(False), name + AT_ONCE: lock(True)}


def _lock_of_principal(at_once: bool) -> Executable:
    return (
        select(Principal.id.label("principal_id"))
        .where(Principal.id == _at("principal_id", Text()))
        .with_for_update(read=True, skip_locked=at_once)
    )


def _lock_of_code(at_once: bool) -> Executable:
    """The principal first, as a transition locks, and then the code."""
    held = (
        select(Principal.id.label("principal_id"), AuthorizationCode.code_hash)
        .join(Grant, Grant.principal_id == Principal.id)
        .join(AuthorizationCode, AuthorizationCode.grant_id == Grant.id)
        .where(AuthorizationCode.code_hash == _at("code_hash", Text()))
        .with_for_update(read=True, of=Principal, skip_locked=at_once)
        .subquery("held")
    )
    return (
        select(held.c.principal_id)
        .join(AuthorizationCode, AuthorizationCode.code_hash == held.c.code_hash)
        .with_for_update(key_share=True, of=AuthorizationCode, skip_locked=at_once)
    )


def _lock_of_session(at_once: bool) -> Executable:
    """The principal first, as a transition locks, and then the session's row."""
    held = (
        select(Principal.id.label("principal_id"), SsoSession.id.label("session_id"))
        .join(SsoSession, SsoSession.principal_id == Principal.id)
        .where(SsoSession.id == _at("session_id", Text()))
        .with_for_update(read=True, of=Principal, skip_locked=at_once)
        .subquery("held")
    )
    return (
        select(held.c.principal_id)
        .join(SsoSession, SsoSession.id == held.c.session_id)
        .with_for_update(key_share=True, of=SsoSession, skip_locked=at_once)
    )


def _statements() -> dict[str, Executable]:
    now = bindparam("now", type_=Instant, required=True)
    grant_id = Grant.id == _at("grant_id", Text())
    grant_columns = (
        Grant.id.label("grant_id"),
        Grant.principal_id,
        Principal.kind.label("principal_kind"),
        Grant.client_id,
        Grant.application_id,
        Grant.session_id,
        Grant.participant_id,
        Grant.scope.label("grant_scope"),
        Grant.authenticated_at,
        SsoSession.amr,
        SsoSession.expires_at.label("session_expires_at"),
        SessionParticipant.sub,
        SessionParticipant.sid,
    )
    grants = grant_source().outerjoin(SessionParticipant.__table__, SessionParticipant.id == Grant.participant_id)
    usable = refusal(grant_criteria(now))
    subject_columns = (Grant.principal_id, SessionParticipant.sub)
    refresh_columns = (
        RefreshToken.family_id,
        RefreshToken.grant_id,
        RefreshToken.client_id.label("token_client_id"),
        RefreshToken.scope,
        RefreshToken.issued_at,
        RefreshToken.idle_expires_at,
        RefreshToken.expires_at,
        RefreshToken.spent_at,
        RefreshToken.revoked_at,
        Grant.principal_id,
        Grant.application_id,
    )
    token_hash = _at("token_hash", Text())
    service_grant = (
        Grant.client_id == _at("client_id", Text()),
        Grant.principal_id == _at("principal_id", Text()),
        Grant.session_id.is_(None),
        Grant.ended_at.is_(None),
        Grant.scope == _at("scope", Text()),
        Grant.access_epoch == Principal.access_epoch,
        Grant.enrolment_epoch == Principal.enrolment_epoch,
        Grant.installation_epoch == installation_epoch(),
    )
    return {
        # ---- configuration
        "client.find": select(
            *OidcClient.__table__.columns,
            Application.is_enabled.label("application_is_enabled"),
            Application.name.label("application_name"),
            Application.name_zh.label("application_name_zh"),
            Person.display_name.label("application_owner"),
        )
        .join(Application, Application.id == OidcClient.application_id)
        .outerjoin(Person, Person.id == Application.owner_id)
        .where(OidcClient.client_id == _at("client_id", Text())),
        # ---- locks and the predicate
        **_locking("principal.lock", _lock_of_principal),
        **_locking("code.lock", _lock_of_code),
        **_locking("session.lock", _lock_of_session),
        "grant.use": select(*grant_columns, usable).select_from(grants).where(grant_id),
        # ---- codes
        "code.use": select(
            AuthorizationCode.client_id.label("code_client_id"),
            AuthorizationCode.redirect_uri,
            AuthorizationCode.code_challenge,
            AuthorizationCode.nonce,
            AuthorizationCode.expires_at,
            AuthorizationCode.spent_at,
            *grant_columns,
            usable,
        )
        .select_from(grants.join(AuthorizationCode.__table__, AuthorizationCode.grant_id == Grant.id))
        .where(AuthorizationCode.code_hash == _at("code_hash", Text())),
        "code.claim": update(AuthorizationCode)
        .where(AuthorizationCode.code_hash == _at("code_hash", Text()), AuthorizationCode.spent_at.is_(None))
        .values(spent_at=now)
        .returning(AuthorizationCode.code_hash),
        # ---- refresh tokens
        "refresh.find": select(*refresh_columns)
        .join(Grant, Grant.id == RefreshToken.grant_id)
        .where(RefreshToken.token_hash == token_hash),
        "refresh.claim": update(RefreshToken)
        .where(
            RefreshToken.token_hash == token_hash, RefreshToken.spent_at.is_(None), RefreshToken.revoked_at.is_(None)
        )
        .values(spent_at=now)
        .returning(RefreshToken.token_hash),
        "refresh.extend": update(RefreshToken)
        .where(
            RefreshToken.token_hash == token_hash, RefreshToken.spent_at.is_(None), RefreshToken.revoked_at.is_(None)
        )
        .values(idle_expires_at=_at("idle_expires_at", Instant()))
        .returning(RefreshToken.token_hash),
        "refresh.insert": _insert(RefreshToken),
        "family.revoke": update(RefreshToken)
        .where(RefreshToken.grant_id == _at("grant_id", Text()), RefreshToken.revoked_at.is_(None))
        .values(revoked_at=now),
        # ---- access tokens
        "access.find": select(
            AccessToken.grant_id,
            AccessToken.client_id.label("token_client_id"),
            Grant.principal_id,
            Grant.application_id,
        )
        .join(Grant, Grant.id == AccessToken.grant_id)
        .where(AccessToken.token_hash == token_hash),
        # What is asked most often: these columns and no others.
        "access.use": select(
            *subject_columns,
            AccessToken.client_id.label("token_client_id"),
            AccessToken.scope,
            AccessToken.audience,
            AccessToken.issued_at,
            AccessToken.expires_at,
            AccessToken.revoked_at,
            usable,
        )
        .select_from(grants.join(AccessToken.__table__, AccessToken.grant_id == Grant.id))
        .where(AccessToken.token_hash == token_hash),
        "refresh.use": select(
            *subject_columns,
            RefreshToken.client_id.label("token_client_id"),
            RefreshToken.scope,
            RefreshToken.issued_at,
            RefreshToken.idle_expires_at,
            RefreshToken.expires_at,
            RefreshToken.spent_at,
            RefreshToken.revoked_at,
            usable,
        )
        .select_from(grants.join(RefreshToken.__table__, RefreshToken.grant_id == Grant.id))
        .where(RefreshToken.token_hash == token_hash),
        "access.insert": _insert(AccessToken),
        "access.revoke": update(AccessToken)
        .where(AccessToken.token_hash == token_hash, AccessToken.revoked_at.is_(None))
        .values(revoked_at=now)
        .returning(AccessToken.token_hash),
        # ---- grants
        "grant.end": update(Grant)
        .where(grant_id, Grant.ended_at.is_(None))
        .values(ended_at=now, end_reason=_at("reason", Text()))
        .returning(Grant.id),
        "grant.insert": _insert(Grant),
        "service.use": select(*grant_columns, usable).select_from(grants).where(*service_grant).limit(1),
        "principal.epochs": select(
            Principal.access_epoch,
            Principal.enrolment_epoch,
            installation_epoch().label("installation_epoch"),
            may_act(now).label("ok_standing"),
            # Why the hub is in recovery mode, NULL when it is not.
            select(Installation.recovery_reason).where(Installation.id == 1).scalar_subquery().label("recovery_reason"),
        ).where(Principal.id == _at("principal_id", Text())),
        "participant.residual": update(SessionParticipant)
        .where(
            SessionParticipant.id == _at("participant_id", Text()),
            or_(
                SessionParticipant.token_expires_at.is_(None),
                SessionParticipant.token_expires_at < _at("expires_at", Instant()),
            ),
        )
        .values(last_used_at=now, token_expires_at=_at("expires_at", Instant())),
        # ---- claims
        "person.find": select(
            Person.id,
            Person.display_name,
            Person.given_name,
            Person.family_name,
            Person.email,
            Person.mobile,
            Person.locale,
            Person.main_employment_id,
            Principal.changed_at,
        )
        .join(Principal, Principal.id == Person.id)
        .where(Person.id == _at("principal_id", Text())),
        "employments.find": select(
            Employment.id,
            Employment.employee_number,
            Employment.type,
            Employment.title,
            Organization.code.label("organization_code"),
            Organization.name.label("organization_name"),
            Department.path.label("department_path"),
        )
        .join(Organization, Organization.id == Employment.organization_id)
        .outerjoin(Department, Department.id == Employment.department_id)
        .where(Employment.principal_id == _at("principal_id", Text()), Employment.state == _ACTIVE),
    }
