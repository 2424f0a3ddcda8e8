"""Read-only queries of applications and deliveries, and of what a person may open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, case, exists, func, or_, select, union_all
from sqlalchemy.orm import Session

from idhub.access.tables import (
    Account,
    Application,
    CasService,
    Entitlement,
    OidcClient,
    SamlServiceProvider,
    ScimTarget,
)
from idhub.authority import Action, Subject, visible_organizations
from idhub.delivery.tables import Delivery, DeliveryAttempt
from idhub.directory.search import named
from idhub.directory.tables import Person
from idhub.lifecycle.tables import Case
from idhub.web.listing import Page, Spec, Statement, View, page_of, values

APPLICATIONS = Spec(
    path="/admin/apps",
    sorts=("slug", "name"),
    choices={"protocol": ("oidc", "saml", "wsfed", "cas", "scim"), "state": ("ok", "trouble", "disabled")},
)
DELIVERIES = Spec(
    path="/admin/deliveries",
    sorts=("-planned",),
    choices={
        "state": ("pending", "leased", "done", "review", "dead", "superseded"),
        "kind": ("provision", "deprovision", "logout"),
    },
    texts=("app", "person", "case"),
)
_DAY = timedelta(days=1)
_CURRENT = (Entitlement.superseded_at.is_(None), Entitlement.valid_to.is_(None))


@dataclass(frozen=True, slots=True)
class Tile:
    """An application that a person may open."""

    slug: str
    name: str
    name_zh: str | None
    description: str | None
    home_url: str | None
    is_enabled: bool
    account_state: str | None
    has_account: bool


def portal_tiles(session: Session, person_id: str) -> list[Tile]:
    """Applications that the person is entitled to now, by name; at most 500."""
    statement = (
        select(
            Application.slug,
            Application.name,
            Application.name_zh,
            Application.description,
            Application.home_url,
            Application.is_enabled,
            func.min(Account.known_state),
            func.count(ScimTarget.application_id) > 0,
        )
        .join(Entitlement, Entitlement.application_id == Application.id)
        .outerjoin(ScimTarget, ScimTarget.application_id == Application.id)
        .outerjoin(Account, (Account.application_id == Application.id) & (Account.principal_id == person_id))
        .where(Entitlement.principal_id == person_id, *_CURRENT)
        .group_by(Application.id)
        .order_by(Application.slug)
        .limit(500)
    )
    return [Tile(*values(row)) for row in session.execute(statement)]


@dataclass(frozen=True, slots=True)
class ApplicationRow:
    """One line of the applications list."""

    id: str
    slug: str
    name: str
    name_zh: str | None
    description: str | None
    home_url: str | None
    is_enabled: bool
    criticality: str
    deadline_seconds: int
    required_grade: int | None
    owner: str | None
    owner_id: str | None
    has_scim: bool
    clients: int
    told_clients: int
    has_saml: bool
    has_saml_logout: bool
    has_wsfed: bool
    has_cas: bool
    has_cas_logout: bool

    @property
    def spoken(self) -> list[str]:
        """How it is connected, as the choices of the list name it."""
        ways = {
            "oidc": self.clients > 0,
            "saml": self.has_saml,
            "wsfed": self.has_wsfed,
            "cas": self.has_cas,
            "scim": self.has_scim,
        }
        return [name for name, holds in ways.items() if holds]

    @property
    def is_told(self) -> bool:
        """Whether the hub tells it when somebody's access ends."""
        return self.has_scim or self.told_clients > 0 or self.has_saml_logout or self.has_cas_logout


def applications_statement(view: View, session: Session, subject: Subject) -> Statement:
    """Applications within the subject's scope that the view asks for, without order."""
    clients = (
        select(
            OidcClient.application_id,
            func.count().label("clients"),
            func.count(OidcClient.backchannel_logout_uri).label("told"),
        )
        .where(OidcClient.is_enabled)
        .group_by(OidcClient.application_id)
        .subquery()
    )
    registered = exists().where(SamlServiceProvider.application_id == Application.id, SamlServiceProvider.is_enabled)
    provider, relying_party = (registered.where(SamlServiceProvider.protocol == name) for name in ("saml", "wsfed"))
    cas_service = exists().where(CasService.application_id == Application.id, CasService.is_enabled)
    statement: Statement = (
        select(
            Application.id,
            Application.slug,
            Application.name,
            Application.name_zh,
            Application.description,
            Application.home_url,
            Application.is_enabled,
            Application.criticality,
            Application.revocation_deadline_seconds,
            Application.required_grade,
            Person.display_name,
            Application.owner_id,
            ScimTarget.application_id.is_not(None),
            func.coalesce(clients.c.clients, 0),
            func.coalesce(clients.c.told, 0),
            provider.label("has_saml"),
            provider.where(SamlServiceProvider.soap_logout_url.is_not(None)).label("has_saml_logout"),
            relying_party.label("has_wsfed"),
            cas_service.label("has_cas"),
            cas_service.where(CasService.logout != "none").label("has_cas_logout"),
        )
        .outerjoin(Person, Person.id == Application.owner_id)
        .outerjoin(ScimTarget, ScimTarget.application_id == Application.id)
        .outerjoin(clients, clients.c.application_id == Application.id)
    )
    visible = visible_organizations(session, subject, Action.APPLICATION_READ)
    if visible is not None:
        statement = statement.where(Application.organization_id.in_(visible))
    if text := view.value("q"):
        pattern = f"%{_literal(text.lower())}%"
        statement = statement.where(
            or_(
                Application.slug.like(pattern, escape="\\"),
                func.lower(Application.name).like(pattern, escape="\\"),
                Application.name_zh.like(pattern, escape="\\"),
                Application.id.in_(select(OidcClient.application_id).where(OidcClient.client_id == text)),
                Application.id == text,
            )
        )
    if protocol := view.value("protocol"):
        connected = {
            "oidc": clients.c.clients.is_not(None),
            "saml": provider,
            "wsfed": relying_party,
            "cas": cas_service,
            "scim": ScimTarget.application_id.is_not(None),
        }
        statement = statement.where(connected[protocol])
    if state := view.value("state"):
        troubled = Application.id.in_(select(Delivery.application_id).where(Delivery.state == "dead"))
        statement = statement.where(
            {
                "disabled": Application.is_enabled.is_(False),
                "trouble": troubled,
                "ok": Application.is_enabled.is_(True) & ~troubled,
            }[state]
        )
    return statement


def list_applications(view: View, session: Session, statement: Statement) -> Page[ApplicationRow]:
    """One page of applications."""
    by_name = view.sort == "name"
    return page_of(
        view,
        lambda s: [ApplicationRow(*values(row)) for row in session.execute(s)],
        statement,
        by=(Application.name if by_name else Application.slug).expression,
        id_=Application.id,
        key=lambda row: (row.name if by_name else row.slug, row.id),
    )


def one_application(session: Session, statement: Statement, slug: str) -> ApplicationRow | None:
    """The application of that slug or id, if it is within the statement's scope."""
    row = session.execute(statement.where(or_(Application.slug == slug, Application.id == slug))).first()
    return None if row is None else ApplicationRow(*values(row))


@dataclass(frozen=True, slots=True)
class Health:
    """Deliveries of one application: what waits, what is dead, and the last day's result."""

    waiting: int = 0
    dead: int = 0
    reviewing: int = 0
    """Nothing is wrong with them: somebody has to say first whose an account is. Not among the dead."""
    done_today: int = 0
    failed_today: int = 0
    oldest_waiting: datetime | None = None
    next_attempt: datetime | None = None
    retrying: int = 0

    @property
    def success(self) -> float | None:
        """Share of the day's finished deliveries that were done; None when none finished."""
        finished = self.done_today + self.failed_today
        return None if not finished else self.done_today / finished


def health(session: Session, application_ids: Sequence[str], *, now: datetime) -> Mapping[str, Health]:
    """Health by application, of those that have deliveries waiting, in review, dead or finished within a day."""
    found: dict[str, dict[str, Any]] = {}
    mine = Delivery.application_id.in_(application_ids)
    # Walks along an index each; in one query with OR they would be a walk through all there ever was.
    for application_id, *numbers in session.execute(
        select(
            Delivery.application_id,
            func.count(),
            func.min(Delivery.planned_at),
            func.min(Delivery.next_attempt_at),
            func.sum(case((Delivery.attempts > 0, 1), else_=0)),
        )
        .where(Delivery.state.in_(("pending", "leased")), mine)
        .group_by(Delivery.application_id)
    ):
        names = ("waiting", "oldest_waiting", "next_attempt", "retrying")
        found.setdefault(application_id, {}).update(zip(names, numbers, strict=True))
    is_recent = Delivery.finished_at >= now - _DAY
    for name, *conditions in (
        ("dead", Delivery.state == "dead"),
        ("reviewing", Delivery.state == "review"),
        ("done_today", Delivery.state == "done", is_recent),
        ("failed_today", Delivery.state == "dead", is_recent),
    ):
        counts = select(Delivery.application_id, func.count()).where(*conditions, mine)
        for application_id, count in session.execute(counts.group_by(Delivery.application_id)):
            found.setdefault(application_id, {})[name] = count
    return {application_id: Health(**numbers) for application_id, numbers in found.items()}


def people_counts(session: Session, application_ids: Sequence[str]) -> Mapping[str, int]:
    """People entitled now, by application."""
    rows = session.execute(
        select(Entitlement.application_id, func.count(func.distinct(Entitlement.principal_id)))
        .where(Entitlement.application_id.in_(application_ids), *_CURRENT)
        .group_by(Entitlement.application_id)
    )
    return {application_id: int(count) for application_id, count in rows}


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One delivery."""

    id: str
    application_id: str
    slug: str
    name: str
    name_zh: str | None
    channel: str
    operation: str
    person_id: str | None
    person: str | None
    case_id: str | None
    case_number: str | None
    state: str
    grade: int
    required_grade: int
    attempts: int
    last_error: str | None
    last_status: int | None
    planned_at: datetime
    next_attempt_at: datetime
    first_sent_at: datetime | None
    answered_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None
    organization_id: str
    lane: str
    evidence: Any


@dataclass(frozen=True, slots=True)
class ApplicationName:
    """An application by id, slug and names."""

    id: str
    slug: str
    name: str
    name_zh: str | None


def delivery_applications(session: Session, subject: Subject) -> list[ApplicationName]:
    """Applications whose deliveries the subject may see; at most 1,000."""
    statement: Statement = select(Application.id, Application.slug, Application.name, Application.name_zh)
    visible = visible_organizations(session, subject, Action.DELIVERY_READ)
    if visible is not None:
        statement = statement.where(Application.organization_id.in_(visible))
    return [ApplicationName(*values(row)) for row in session.execute(statement.order_by(Application.slug).limit(1000))]


def deliveries_statement(session: Session, subject: Subject) -> Statement:
    """Deliveries to applications within the subject's scope, without order."""
    statement: Statement = (
        select(
            Delivery.id,
            Delivery.application_id,
            Application.slug,
            Application.name,
            Application.name_zh,
            Delivery.channel,
            Delivery.operation,
            Delivery.principal_id,
            Person.display_name,
            Delivery.case_id,
            Case.number,
            Delivery.state,
            Delivery.grade,
            Delivery.required_grade,
            Delivery.attempts,
            Delivery.last_error,
            Delivery.last_status,
            Delivery.planned_at,
            Delivery.next_attempt_at,
            Delivery.first_sent_at,
            Delivery.answered_at,
            Delivery.finished_at,
            Delivery.deadline_at,
            Application.organization_id,
            Delivery.lane,
            Delivery.evidence,
        )
        .join(Application, Application.id == Delivery.application_id)
        .outerjoin(Person, Person.id == Delivery.principal_id)
        .outerjoin(Case, Case.id == Delivery.case_id)
    )
    visible = visible_organizations(session, subject, Action.DELIVERY_READ)
    return statement if visible is None else statement.where(Application.organization_id.in_(visible))


def filtered_deliveries(view: View, session: Session, statement: Statement) -> Statement:
    """The deliveries that the view asks for."""
    if state := view.value("state"):
        statement = statement.where(Delivery.state == state)
    if kind := view.value("kind"):
        statement = statement.where(Delivery.operation == kind)
    if slug := view.value("app"):
        statement = statement.where(Application.slug == slug)
    if person := view.value("person"):
        statement = statement.where(Delivery.principal_id == person)
    if number := view.value("case"):
        statement = statement.where(Case.number == number)
    if text := view.value("q"):
        statement = statement.where(Delivery.id.in_(_searched(session, text)))
    return statement


def _searched(session: Session, text: str) -> Select[str]:
    """Deliveries that the text names; by their error only those that somebody still has to do with."""
    pattern = f"%{_literal(text.lower())}%"
    ways = (
        select(Delivery.id).where(Delivery.id == text),
        select(Delivery.id).join(Case, Case.id == Delivery.case_id).where(Case.number == text.upper()),
        select(Delivery.id).join(Application).where(Application.slug == text.lower()),
        select(Delivery.id).join(Person, Person.id == Delivery.principal_id).where(named(session, text)),
        select(Delivery.id).where(
            Delivery.state.in_(("pending", "leased", "review", "dead")),
            func.lower(Delivery.last_error).like(pattern, escape="\\"),
        ),
    )
    found = union_all(*ways).subquery()
    return select(found.c.id)


def list_deliveries(view: View, session: Session, statement: Statement) -> Page[DeliveryRow]:
    """One page of deliveries, newest first."""
    return page_of(
        view,
        lambda s: [DeliveryRow(*values(row)) for row in session.execute(s)],
        statement,
        by=Delivery.planned_at.expression,
        id_=Delivery.id,
        key=lambda row: (row.planned_at, row.id),
    )


def dead_letters(session: Session, statement: Statement, limit: int = 50) -> list[DeliveryRow]:
    """Newest dead letters."""
    dead = (
        statement.where(Delivery.state == "dead", Delivery.finished_at.is_not(None))
        .order_by(Delivery.finished_at.desc(), Delivery.id)
        .limit(limit)
    )
    return [DeliveryRow(*values(row)) for row in session.execute(dead)]


def one_delivery(session: Session, statement: Statement, delivery_id: str) -> DeliveryRow | None:
    """A delivery by id, if it is within the statement's scope."""
    row = session.execute(statement.where(Delivery.id == delivery_id)).first()
    return None if row is None else DeliveryRow(*values(row))


def recent_deliveries(session: Session, subject: Subject, application_id: str, limit: int = 20) -> list[DeliveryRow]:
    """The application's newest deliveries within the subject's scope."""
    statement = deliveries_statement(session, subject).where(Delivery.application_id == application_id)
    ordered = statement.order_by(Delivery.planned_at.desc(), Delivery.id.desc()).limit(limit)
    return [DeliveryRow(*values(row)) for row in session.execute(ordered)]


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One try of a delivery."""

    number: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    grade: int | None
    status_code: int | None
    error: str | None
    evidence: Any


def attempts_of(session: Session, delivery_id: str) -> list[AttemptRow]:
    """Attempts of a delivery, newest first; at most 100."""
    rows = session.execute(
        select(
            DeliveryAttempt.number,
            DeliveryAttempt.started_at,
            DeliveryAttempt.ended_at,
            DeliveryAttempt.outcome,
            DeliveryAttempt.grade,
            DeliveryAttempt.status_code,
            DeliveryAttempt.error,
            DeliveryAttempt.evidence,
        )
        .where(DeliveryAttempt.delivery_id == delivery_id)
        .order_by(DeliveryAttempt.number.desc())
        .limit(100)
    )
    return [AttemptRow(*values(row)) for row in rows]


def _literal(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
