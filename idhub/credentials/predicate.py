"""The use predicate: whether a session or a grant may be used at this moment. Written once, here.

Synchronous code puts these criteria into its queries; the hot store compiles the same criteria to text once. They are
asked of the database on every use. Each criterion has a name, so that a refusal can say in the audit log which one
failed; what is told to the other side never depends on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Exists,
    Label,
    ScalarSelect,
    Text,
    and_,
    case,
    exists,
    literal_column,
    null,
    or_,
    select,
    true,
)
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.selectable import Join

from idhub.access.tables import Application, Entitlement, OidcClient
from idhub.credentials.tables import Grant, SsoSession
from idhub.directory.kinds import Standing
from idhub.directory.tables import Installation, Principal

Now = datetime | BindParameter[datetime]
Criteria = dict[str, ColumnElement[bool]]
"""Name of the criterion -> condition that must be true, in the order in which a refusal names them. The name is its
stable reason."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A use that was refused. `reason` is a stable code for the audit log, never told to the other side as such."""

    reason: str


def refusal(criteria: Criteria) -> Label[str | None]:
    """The name of the first criterion that does not hold, as the result column that `first_failing` reads.

    NULL when all hold; a criterion that is NULL does not. One column: the driver for SQLite takes as long for each as
    SQLite itself.
    """
    failing: list[tuple[ColumnElement[bool], ColumnElement[str]]] = [
        (criterion.is_not(true()), literal_column(f"'{name}'", Text())) for name, criterion in criteria.items()
    ]
    return case(*failing, else_=null()).label("refusal")


def first_failing(row: Mapping[str, Any]) -> Refused | None:
    """The first criterion of the row that does not hold."""
    name = row["refusal"]
    return None if name is None else Refused(name)


def installation_epoch() -> ScalarSelect[int]:
    """The installation's epoch, as a scalar subquery."""
    return select(Installation.epoch).where(Installation.id == 1).scalar_subquery()


def may_act(now: Now) -> ColumnElement[bool]:
    """The principal's standing is active and its access window holds now (the end is the first instant without)."""
    return and_(
        Principal.standing == Standing.ACTIVE,
        Principal.access_starts_at <= now,
        or_(Principal.access_ends_at.is_(None), Principal.access_ends_at > now),
    )


def epochs_hold(stamped: type[SsoSession] | type[Grant]) -> ColumnElement[bool]:
    """The epochs on the credential are the principal's and the installation's of this moment."""
    return and_(
        stamped.access_epoch == Principal.access_epoch,
        stamped.enrolment_epoch == Principal.enrolment_epoch,
        stamped.installation_epoch == installation_epoch(),
    )


def entitled(
    now: Now,
    *,
    principal_id: InstrumentedAttribute[str] | BindParameter[str] | str,
    application_id: InstrumentedAttribute[str] | BindParameter[str] | str,
) -> Exists:
    """Some entitlement of the principal to the application is believed now and holds now."""
    return exists().where(
        Entitlement.principal_id == principal_id,
        Entitlement.application_id == application_id,
        Entitlement.superseded_at.is_(None),
        Entitlement.valid_from <= now,
        or_(Entitlement.valid_to.is_(None), Entitlement.valid_to > now),
    )


def session_criteria(now: Now) -> Criteria:
    """What an SSO session needs. The query joins `SsoSession` and `Principal`."""
    return {
        "session_ended": SsoSession.ended_at.is_(None),
        "session_expired": and_(SsoSession.idle_expires_at > now, SsoSession.expires_at > now),
        "standing": may_act(now),
        "epoch": epochs_hold(SsoSession),
    }


def grant_criteria(now: Now) -> Criteria:
    """What a grant, and so every code and token under it, needs. The query selects from `grant_source()`.

    A grant dies when its session is ended. That a session merely runs out is not asked here: tokens that must not
    outlive it (all without `offline_access`) carry an expiry that does not exceed the session's.
    """
    return {
        "grant_ended": Grant.ended_at.is_(None),
        "session_ended": or_(
            Grant.session_id.is_(None), and_(SsoSession.id.is_not(None), SsoSession.ended_at.is_(None))
        ),
        "standing": may_act(now),
        "epoch": epochs_hold(Grant),
        "client_disabled": OidcClient.is_enabled.is_(True),
        "application_disabled": Application.is_enabled.is_(True),
        # A service identity acting through its own registration needs no entitlement beside that registration.
        "not_entitled": or_(
            and_(Grant.session_id.is_(None), OidcClient.service_principal_id == Grant.principal_id),
            entitled(now, principal_id=Grant.principal_id, application_id=Grant.application_id),
        ),
    }


def grant_source() -> Join:
    """Everything that `grant_criteria` looks at, joined from `Grant`."""
    joined: Join = (
        Grant.__table__.join(Principal.__table__, Principal.id == Grant.principal_id)
        .join(OidcClient.__table__, OidcClient.client_id == Grant.client_id)
        .join(Application.__table__, Application.id == Grant.application_id)
        .outerjoin(SsoSession.__table__, SsoSession.id == Grant.session_id)
    )
    return joined


def usable_session(now: Now) -> ColumnElement[bool]:
    """All of `session_criteria`."""
    return and_(*session_criteria(now).values())
