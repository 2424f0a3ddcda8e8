"""`/admin/ghosts`: what does not agree between register, directory, applications and payroll, and deciding about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from idhub.access.tables import Application
from idhub.authority import Action, may, visible_organizations
from idhub.changes import Event, EventType, record
from idhub.delivery import queue
from idhub.errors import Conflict, IdhubError, Invalid, NotFound
from idhub.pages import N_
from idhub.provisioning.reconcile import findings, remedy, schedule
from idhub.provisioning.reconcile.kinds import LIVE, Kind, State
from idhub.provisioning.reconcile.tables import Finding
from idhub.web import finding_words, queries_findings
from idhub.web.drawing import mark_of
from idhub.web.finding_words import Cell, cells_of
from idhub.web.forms import Form, form_of
from idhub.web.instants import parse_date
from idhub.web.labels import Translate, translated
from idhub.web.listing import View
from idhub.web.person import DOOR
from idhub.web.queries_findings import FindingRow
from idhub.web.refusals import refusal_words
from idhub.web.services import WebServices
from idhub.web.visit import Visitor, frame_of, page_router, request_id, require, visitor_of

_ACTIONS: Sequence[remedy.Action] = ("disable", "restore", "link")
_ASKED = frozenset(str(number) for number in range(1, 1_000))
_NO_DAY = N_("Name the last day of the exception, within the next year.")


@dataclass(frozen=True, slots=True)
class Line:
    """One finding as the list shows it."""

    row: FindingRow
    cells: dict[str, Cell]
    application: str
    mark: tuple[str, int]
    is_overdue: bool


_DECISION = form_of("csrf_token", optional={"reason": 2_000, "until": 40, "action": 20})


def create_router(services: WebServices) -> APIRouter:
    """Routes of the account match."""
    router = page_router(services)
    # Before the routes of one finding: an application may be called `act`.
    _add_list(router, services)
    _add_one(router, services)
    _add_decisions(router, services)
    return router


def _add_list(router: APIRouter, services: WebServices) -> None:
    pages = services.pages

    @router.get("/admin/ghosts")
    def ghosts(request: Request) -> Response:
        """Sources with their completeness, classes as tabs, one row per finding and one column per source."""
        return _list(services, request)

    @router.post("/admin/ghosts/held/{slug}")
    def release(request: Request, slug: str, form: Annotated[Form, Depends(_DECISION)]) -> Response:
        """Say yes to what the brake holds of an application; two different people must."""
        now = services.clock()
        with services.database.transaction() as session:
            visitor = visitor_of(session, request, services, now=now)
            pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
            require(session, visitor, Action.FINDING_RELEASE)
            application = session.execute(
                select(Application.id, Application.organization_id).where(Application.slug == slug)
            ).one_or_none()
            if application is None:
                raise NotFound("There is no such application.", rule="application.unknown")
            require(session, visitor, Action.FINDING_RELEASE, organization_id=application.organization_id)
            try:
                remedy.approve(session, application.id, approver=visitor.actor, now=now, door=DOOR)
            except Conflict as error:
                words = refusal_words(error, pages.translator(request))
            else:
                words = ""
        if words:
            return _list(services, request, error=words, status=409)
        queue.wake()
        return RedirectResponse("/admin/ghosts", status_code=303)

    @router.post("/admin/ghosts/run")
    def run(request: Request, form: Annotated[Form, Depends(_DECISION)]) -> Response:
        """Let the worker compare every application now, one after the other."""
        now = services.clock()
        with services.database.transaction() as session:
            visitor = visitor_of(session, request, services, now=now)
            pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
            require(session, visitor, Action.RECONCILE_RUN)
            within = visible_organizations(session, visitor.subject, Action.RECONCILE_RUN)
            asked, words = 0, ""
            try:
                asked = schedule.ask(session, within=within, now=now, actor=visitor.actor, door=DOOR)
            except Conflict as error:
                words = refusal_words(error, pages.translator(request))
        if words:
            return _list(services, request, error=words, status=409)
        return RedirectResponse(f"/admin/ghosts?asked={min(asked, 999)}", status_code=303)


def _add_one(router: APIRouter, services: WebServices) -> None:
    @router.get("/admin/ghosts/{finding_id}")
    def ghost(request: Request, finding_id: str) -> Response:
        """One finding: evidence, what is proposed, whose move it is, its trace."""
        return _show(services, request, finding_id, {}, {}, 200)

    @router.get("/admin/ghosts/{finding_id}/act")
    def preview(request: Request, finding_id: str, action: str = "") -> Response:
        """What a remedy would do, before it does it. Writes nothing."""
        return _preview(services, request, finding_id, action, {}, 200)

    @router.post("/admin/ghosts/{finding_id}/act")
    def act(request: Request, finding_id: str, form: Annotated[Form, Depends(_DECISION)]) -> Response:
        """Carry the remedy out, as the preview showed it."""
        action = next((one for one in _ACTIONS if one == form["action"]), None)

        def work(session: Session, finding: Finding, visitor: Visitor) -> None:
            if action is None:
                raise Invalid("There is no such remedy.", field="action", rule="finding.action")
            remedy.act(session, [finding], action, now=services.clock(), actor=visitor.actor, door=DOOR)

        answer = _decide(services, request, finding_id, form, work)
        queue.wake()
        return answer


def _add_decisions(router: APIRouter, services: WebServices) -> None:
    @router.post("/admin/ghosts/{finding_id}/accept")
    def accept(request: Request, finding_id: str, form: Annotated[Form, Depends(_DECISION)]) -> Response:
        """Somebody sees to it."""

        def work(session: Session, finding: Finding, visitor: Visitor) -> None:
            findings.accept(session, finding, now=services.clock(), actor=visitor.actor, door=DOOR)

        return _decide(services, request, finding_id, form, work)

    @router.post("/admin/ghosts/{finding_id}/dismiss")
    def dismiss(request: Request, finding_id: str, form: Annotated[Form, Depends(_DECISION)]) -> Response:
        """Register an exception: with a reason, and an end."""
        now = services.clock()

        def work(session: Session, finding: Finding, visitor: Visitor) -> None:
            until = parse_date(form["until"], services.settings.time_zone, now=now, field="until")
            if until is None:
                raise Invalid(_NO_DAY, field="until", rule="finding.until")
            findings.dismiss(
                session, finding, reason=form["reason"], until=until, now=now, actor=visitor.actor, door=DOOR
            )

        return _decide(services, request, finding_id, form, work)

    @router.post("/admin/ghosts/{finding_id}/take-back")
    def take_back(request: Request, finding_id: str, form: Annotated[Form, Depends(_DECISION)]) -> Response:
        """What was decided does not hold: the finding is open again."""

        def work(session: Session, finding: Finding, visitor: Visitor) -> None:
            findings.take_back(session, finding, now=services.clock(), actor=visitor.actor, door=DOOR)

        return _decide(services, request, finding_id, form, work)


def _list(services: WebServices, request: Request, *, error: str = "", status: int = 200) -> Response:
    now = services.clock()
    pages = services.pages
    t = pages.translator(request)
    view = View(queries_findings.FINDINGS, request.query_params, t)
    with services.database.read() as session:
        visitor = visitor_of(session, request, services, now=now)
        require(session, visitor, Action.FINDING_READ)
        statement = queries_findings.findings_statement(session, visitor.subject)
        page = queries_findings.list_findings(view, session, queries_findings.filtered(view, session, statement))
        counts = queries_findings.counts(session, visitor.subject)
        sources = queries_findings.sources(session, visitor.subject)
        held = queries_findings.held(session, visitor.subject, Action.FINDING_READ)
        options = queries_findings.application_options(session, visitor.subject)
        people = sorted({row.principal_id for row in page.rows if row.principal_id})
        alive = queries_findings.alive_accounts(session, people)
        can_release = may(session, visitor.subject, Action.FINDING_RELEASE)
        can_run = may(session, visitor.subject, Action.RECONCILE_RUN)
        within = visible_organizations(session, visitor.subject, Action.FINDING_READ)
        turns = schedule.turns(session, within=within, now=now)
    english = pages.language(request) == "en"
    fmt = pages.formatter(request)
    kinds = [(kind.value, t(finding_words.KIND[kind.value].text)) for kind in Kind]
    states = [
        (code, t(finding_words.STATE[code].text))
        for code in queries_findings.FINDINGS.choices["state"]
        if code != "all"
    ]
    states.append(("all", t(N_("every state"))))
    apps = [(row.slug, row.name if english else row.name_zh or row.name) for row in options]
    live = sum(count for kind, count in counts.items() if kind != "dismissed")
    names = {"class": dict(kinds), "state": dict(states), "app": dict(apps)}
    chips = [(view.value("q"), view.href(q=None))] if view.value("q") else []
    chips += [
        (names[name].get(value, value), view.href(**{name: None}))
        for name in ("class", "state", "app")
        if (value := view.value(name))
    ]
    incomplete = next((cell for cell in sources if cell.problem is not None), None)
    context = {
        "frame": frame_of(visitor, request, services),
        "now": now,
        "view": view,
        "page": page,
        "lines": [_line(row, alive, english, t, fmt, now=now) for row in page.rows],
        "counts": counts,
        "live": live,
        "sources": sources,
        "incomplete": incomplete,
        "held": held,
        "kinds": kinds,
        "states": states,
        "apps": apps,
        "chips": chips,
        "error": error,
        "can_release": can_release,
        "can_run": can_run,
        "turns": turns,
        "asked": int(asked) if (asked := request.query_params.get("asked", "")) in _ASKED else 0,
        "visitor_id": visitor.principal_id,
        "as_of": max((cell.as_of for cell in sources if cell.as_of is not None), default=None),
        **_words(t),
    }
    return pages.render(request, "ghosts.html", context, status, session_id=visitor.session_id)


def _line(row: FindingRow, alive: dict[str, int], english: bool, t: Translate, fmt: Any, *, now: Any) -> Line:
    name = (row.name if english else row.name_zh or row.name) or ""
    return Line(
        row,
        cells_of(row, alive.get(row.principal_id or "", 0), t, fmt),
        name,
        mark_of(name, row.slug or "") if name else ("", 0),
        row.state in LIVE and row.deadline_at < now,
    )


def _words(t: Translate) -> dict[str, Any]:
    return {
        "badges": translated(finding_words.KIND, t),
        "state_badges": translated(finding_words.STATE, t),
        "bases": {code: t(words) for code, words in finding_words.BASIS.items()},
        "proposals": {code: t(words) for code, words in finding_words.PROPOSAL.items()},
        "actions": {code: t(words) for code, words in finding_words.ACTION.items()},
        "whys": {code: t(words) for code, words in finding_words.WHY.items()},
    }


def _visible(session: Session, visitor: Visitor, finding_id: str, action: Action) -> FindingRow:
    require(session, visitor, Action.FINDING_READ)
    statement = queries_findings.findings_statement(session, visitor.subject)
    row = queries_findings.one_finding(statement, session, finding_id)
    if row is None:
        raise NotFound("There is no such finding.", rule="finding.unknown")
    require(session, visitor, action, organization_id=row.organization_id)
    return row


def _context(
    services: WebServices, request: Request, session: Session, visitor: Visitor, row: FindingRow
) -> dict[str, Any]:
    t = services.pages.translator(request)

    now = services.clock()
    english = services.pages.language(request) == "en"
    alive = queries_findings.alive_accounts(session, [row.principal_id] if row.principal_id else [])
    finding = session.execute(select(Finding).where(Finding.id == row.id)).scalar_one()
    may_decide = may(session, visitor.subject, Action.FINDING_DECIDE, organization_id=row.organization_id)
    is_open = row.state in {State.OPEN, State.REOPENED}
    return {
        "frame": frame_of(visitor, request, services),
        "now": now,
        "line": _line(row, alive, english, t, services.pages.formatter(request), now=now),
        "row": row,
        "finding": finding,
        "possible": remedy.actions_for(finding) if may_decide else [],
        "can_accept": may_decide and is_open,
        "can_dismiss": may_decide and (is_open or row.state == State.ACCEPTED),
        "can_take_back": may_decide
        and (row.state == State.DISMISSED or (row.state == State.ACCEPTED and row.delivery_id is None)),
        "may_audit": may(session, visitor.subject, Action.AUDIT_READ),
        "may_deliver": may(session, visitor.subject, Action.DELIVERY_READ),
        **_words(t),
    }


def _show(
    services: WebServices,
    request: Request,
    finding_id: str,
    errors: dict[str, str],
    form: Form | dict[str, str],
    status: int,
) -> Response:
    now = services.clock()
    with services.database.transaction() as session:
        visitor = visitor_of(session, request, services, now=now)
        row = _visible(session, visitor, finding_id, Action.FINDING_READ)
        context = _context(services, request, session, visitor, row)
        if request.method == "GET":
            record(session, [_viewed(visitor, row, request, now=now)])
    context |= {"errors": errors, "form": form}
    return services.pages.render(request, "ghost.html", context, status, session_id=visitor.session_id)


def _viewed(visitor: Visitor, row: FindingRow, request: Request, *, now: Any) -> Event:
    return Event(
        type=EventType.PAGE_VIEWED,
        at=now,
        actor=visitor.actor,
        door=DOOR,
        target_kind="finding",
        target_id=row.id,
        person_id=row.principal_id,
        organization_id=row.organization_id,
        request_id=request_id(request),
        details={"page": "finding"},
    )


def _preview(
    services: WebServices, request: Request, finding_id: str, action: str, errors: dict[str, str], status: int
) -> Response:
    now = services.clock()
    with services.database.read() as session:
        visitor = visitor_of(session, request, services, now=now)
        row = _visible(session, visitor, finding_id, Action.FINDING_DECIDE)
        context = _context(services, request, session, visitor, row)
        chosen = next((one for one in context["possible"] if one == action), None)
        room = None
        if chosen == "disable" and context["finding"].application_id:
            room = remedy.allowance(session, context["finding"].application_id, now=now)
    if chosen is None:
        raise NotFound("This cannot be done about this finding (any more).", rule="finding.action")
    context |= {"errors": errors, "action": chosen, "room": room}
    return services.pages.render(request, "ghost_act.html", context, status, session_id=visitor.session_id)


def _decide(services: WebServices, request: Request, finding_id: str, form: Form, work: Any) -> Response:
    now = services.clock()
    errors: dict[str, str] = {}
    t = services.pages.translator(request)
    with services.database.transaction() as session:
        visitor = visitor_of(session, request, services, now=now)
        services.pages.check_form(request, form["csrf_token"], session_id=visitor.session_id)
        row = _visible(session, visitor, finding_id, Action.FINDING_DECIDE)
        finding = findings.get(session, row.id)
        try:
            work(session, finding, visitor)
        except (Conflict, Invalid) as error:
            errors[_field_of(error)] = refusal_words(error, t)
    if errors:
        return _show(services, request, finding_id, errors, form, 409)
    return RedirectResponse(f"/admin/ghosts/{finding_id}", status_code=303)


def _field_of(error: IdhubError) -> str:
    return error.field if error.field in {"reason", "until"} else ""
