"""The SQL of the narrow store: written once over the tables, compiled once for the driver that runs it.

A statement has a name and named parameters. Instants are passed as aware datetimes and bound as the microseconds that
both databases store; results come back as the drivers give them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Literal

from sqlalchemy import Dialect, Executable, Text, bindparam, insert, or_, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.sql.compiler import SQLCompiler

from idhub.access.tables import Application, OidcClient
from idhub.credentials.predicate import grant_criteria, grant_source, installation_epoch, labelled, may_act
from idhub.credentials.tables import AccessToken, AuthorizationCode, Grant, RefreshToken, SessionParticipant, SsoSession
from idhub.db import Base, Instant, to_micros
from idhub.directory.kinds import EmploymentState
from idhub.directory.tables import Department, Employment, Organization, Person, Principal

DialectName = Literal["sqlite", "postgresql"]


@dataclass(frozen=True, slots=True)
class Statement:
    """Compiled text, and how to bind named parameters to its places."""

    sql: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]

    def bind(self, parameters: Mapping[str, Any]) -> list[Any]:
        """Values in the order of their places. A parameter that is missing is a defect (KeyError)."""
        constants = self.constants
        return [constants[name] if name in constants else _plain(parameters[name]) for name in self.names]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_micros(value)
    return value


def compile_statements(dialect: DialectName) -> dict[str, Statement]:
    """Every statement of the store for one database, by name."""
    target: Dialect = sqlite.dialect(paramstyle="qmark") if dialect == "sqlite" else PGDialect_asyncpg()  # type: ignore[no-untyped-call]
    return {name: _compile(statement, target) for name, statement in _statements().items()}


def _compile(statement: Executable, dialect: Dialect) -> Statement:
    compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
    assert isinstance(compiled, SQLCompiler)  # noqa: S101 - what SQLAlchemy returns for these constructs
    constants = {
        name: value.value if isinstance(value, Enum) else value
        for name, value in compiled.params.items()
        if not compiled.binds[name].required and value is not None
    }
    return Statement(compiled.string, tuple(compiled.positiontup or ()), constants)


def _insert(model: type[Base]) -> Executable:
    return insert(model).values({column.name: _at(column.name, column.type) for column in model.__table__.columns})


def _at(name: str, kind: Any = None) -> Any:
    # JSON never passes through here; an Instant is bound by `Statement.bind`.
    return bindparam(name, type_=kind, required=True)


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
    usable = labelled(grant_criteria(now))
    token_columns = (
        AccessToken.client_id.label("token_client_id"),
        AccessToken.scope,
        AccessToken.audience,
        AccessToken.issued_at,
        AccessToken.expires_at,
        AccessToken.revoked_at,
    )
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
        )
        .join(Application, Application.id == OidcClient.application_id)
        .where(OidcClient.client_id == _at("client_id", Text())),
        # ---- locks and the predicate
        "principal.lock": select(Principal.id)
        .where(Principal.id == _at("principal_id", Text()))
        .with_for_update(read=True),
        "grant.use": select(*grant_columns, *usable).select_from(grants).where(grant_id),
        # ---- codes
        "code.find": select(
            AuthorizationCode.grant_id,
            AuthorizationCode.client_id,
            AuthorizationCode.redirect_uri,
            AuthorizationCode.code_challenge,
            AuthorizationCode.nonce,
            AuthorizationCode.expires_at,
            AuthorizationCode.spent_at,
            Grant.principal_id,
            Grant.application_id,
        )
        .join(Grant, Grant.id == AuthorizationCode.grant_id)
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
        "access.use": select(*grant_columns, *token_columns, *usable)
        .select_from(grants.join(AccessToken.__table__, AccessToken.grant_id == Grant.id))
        .where(AccessToken.token_hash == token_hash),
        "refresh.use": select(
            *grant_columns,
            RefreshToken.client_id.label("token_client_id"),
            RefreshToken.scope,
            RefreshToken.issued_at,
            RefreshToken.idle_expires_at,
            RefreshToken.expires_at,
            RefreshToken.spent_at,
            RefreshToken.revoked_at,
            *usable,
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
        "service.find": select(Grant.id.label("grant_id"))
        .join(Principal, Principal.id == Grant.principal_id)
        .where(*service_grant)
        .limit(1),
        "service.epochs": select(
            Principal.access_epoch,
            Principal.enrolment_epoch,
            installation_epoch().label("installation_epoch"),
            may_act(now).label("ok_standing"),
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
        .where(Employment.principal_id == _at("principal_id", Text()), Employment.state == EmploymentState.ACTIVE)
        .order_by(Employment.id),
    }
