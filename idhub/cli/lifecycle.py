"""`idhub onboard`, `move`, `suspend`, `reactivate`, `offboard`: the lifecycle of one person."""

from datetime import datetime
from typing import Annotated, Any

import typer
from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.cli.console import JsonOption, app, caller, open_here, plain, show, table, write
from idhub.directory.calendar import parse_day, parse_instant
from idhub.directory.organizations import ensure_department, find_organization
from idhub.directory.people import find_person, show_person
from idhub.directory.tables import Employment
from idhub.errors import Invalid
from idhub.lifecycle import commands
from idhub.lifecycle.plan import Plan, preview
from idhub.lifecycle.transition import TransitionResult

PersonArgument = Annotated[str, typer.Argument(help="Id, employee number, company/number, mail or mobile.")]
ReasonOption = Annotated[str | None, typer.Option(help="Why; kept in the audit log.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Write nothing; show the plan.")]


@app.command()
def onboard(
    name: Annotated[str, typer.Option(help="Name as it is shown.")],
    company: Annotated[str, typer.Option(help="Code or name of the company.")],
    employee_number: Annotated[str, typer.Option(help="Number within the company; text, zeros kept.")],
    start_date: Annotated[str, typer.Option(help="First day, ISO date at the company's place.")],
    given_name: Annotated[str | None, typer.Option(help="Given name, for applications that want it apart.")] = None,
    family_name: Annotated[str | None, typer.Option(help="Family name, likewise.")] = None,
    email: Annotated[str | None, typer.Option(help="Mail address; they may sign in with it.")] = None,
    mobile: Annotated[str | None, typer.Option(help="Mobile number; they may sign in with it.")] = None,
    department: Annotated[str | None, typer.Option(help="Path with /; made when it is new.")] = None,
    title: Annotated[str | None, typer.Option(help="Job title.")] = None,
    manager: Annotated[str | None, typer.Option(help="Whom they report to: a person.")] = None,
    employment_type: Annotated[str, typer.Option(help="regular, contractor, intern, dispatched.")] = "regular",
    end_date: Annotated[str | None, typer.Option(help="Last working day.")] = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Hire a person. Whoever had this number in this company and left is rehired: nothing from before works again."""

    def act(session: Session, now: datetime) -> str:
        organization_id = find_organization(session, company)
        post: dict[str, Any] = {
            "organization_id": organization_id,
            "employee_number": employee_number,
            "employment_type": employment_type,
            "starts_on": parse_day(start_date, field="start_date"),
            "ends_on": parse_day(end_date, field="end_date") if end_date else None,
            "department_id": _department(session, organization_id, department, now),
            "title": title,
            "manager_id": find_person(session, manager) if manager else None,
        }
        known = session.execute(
            select(Employment.principal_id).where(
                Employment.organization_id == organization_id, Employment.employee_number == employee_number
            )
        ).scalar()
        if known is not None:
            commands.rehire(session, caller(), known, now=now, **post)
            return known
        person = {
            "display_name": name,
            "given_name": given_name,
            "family_name": family_name,
            "email": email,
            "mobile": mobile,
        }
        return commands.onboard(session, caller(), person=person, now=now, **post)

    def seen(session: Session, now: datetime) -> Any:
        return plain(show_person(session, act(session, now)))

    with open_here() as hub:
        data = write(hub, seen, dry_run=dry_run)
    data = {**data, "dry_run": dry_run}
    show(data, as_json=json, lines=[f"{data['display_name']}  {data['id']}  {data['standing']}"])


def _department(session: Session, organization_id: str, path: str | None, now: datetime) -> str | None:
    return ensure_department(session, organization_id, path, now=now) if path else None


@app.command()
def move(
    person: PersonArgument,
    company: Annotated[str | None, typer.Option(help="Code or name of the new company.")] = None,
    department: Annotated[str | None, typer.Option(help="Path with /; made when it is new.")] = None,
    title: Annotated[str | None, typer.Option(help="New job title.")] = None,
    manager: Annotated[str | None, typer.Option(help="Whom they report to now: a person.")] = None,
    employment_type: Annotated[str | None, typer.Option(help="regular, contractor, intern, dispatched.")] = None,
    end_date: Annotated[str | None, typer.Option(help="New last working day; `none` for no end.")] = None,
    employment: Annotated[str | None, typer.Option(help="Which employment; default: the main one.")] = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Change a person's post."""

    def act(session: Session, now: datetime) -> Any:
        view = show_person(session, find_person(session, person))
        post = next((e for e in view.employments if e.id == (employment or view.main_employment_id)), None)
        if post is None:
            raise Invalid("This person has no such employment.", field="employment", rule="employment.unknown")
        values: dict[str, Any] = {}
        organization_id = find_organization(session, company) if company else post.organization_id
        if company:
            values |= {"organization_id": organization_id, "department_id": None}
        if department:
            values["department_id"] = _department(session, organization_id, department, now)
        if title is not None:
            values["title"] = title
        if manager:
            values["manager_id"] = find_person(session, manager)
        if employment_type:
            values["type"] = _employment_type(employment_type)
        if end_date:
            values["ends_on"] = None if end_date == "none" else parse_day(end_date, field="end_date")
        if not values:
            raise Invalid("Say what changes.", field="move", rule="required")
        result = commands.move(session, caller(), view.id, employment_id=post.id, values=values, now=now)
        return {"person": plain(show_person(session, view.id)), **_outcome(result)}

    with open_here() as hub:
        data = write(hub, act, dry_run=dry_run)
    data = {**data, "dry_run": dry_run}
    show(
        data, as_json=json, lines=[f"moved: {data['person']['display_name']}, {data['deliveries']} deliveries planned"]
    )


def _employment_type(text: str) -> Any:
    from idhub.directory.kinds import EmploymentType

    try:
        return EmploymentType(text)
    except ValueError as error:
        names = ", ".join(EmploymentType)
        raise Invalid(
            f"employment_type must be one of {names}.", field="employment_type", rule="employment_type"
        ) from error


def _outcome(result: TransitionResult) -> dict[str, Any]:
    return {
        "changed": bool(result.changed),
        "left": bool(result.left),
        "deliveries": result.deliveries,
        "case": next(iter(result.cases.values()), None),
    }


@app.command()
def suspend(person: PersonArgument, reason: ReasonOption = None, json: JsonOption = False) -> None:
    """Hold a person's access back: sessions and tokens die at once, factors survive."""

    def act(session: Session, now: datetime) -> Any:
        return _outcome(commands.suspend(session, caller(), find_person(session, person), now=now, reason=reason))

    with open_here() as hub:
        data = write(hub, act)
    show(data, as_json=json, lines=["suspended" if data["changed"] else "was suspended already"])


@app.command()
def reactivate(person: PersonArgument, reason: ReasonOption = None, json: JsonOption = False) -> None:
    """Undo a suspension."""

    def act(session: Session, now: datetime) -> Any:
        return _outcome(commands.reactivate(session, caller(), find_person(session, person), now=now, reason=reason))

    with open_here() as hub:
        data = write(hub, act)
    show(data, as_json=json, lines=["reactivated" if data["changed"] else "was active already"])


@app.command()
def offboard(
    person: PersonArgument,
    at: Annotated[str | None, typer.Option(help="ISO time with zone; default: now.")] = None,
    emergency: Annotated[bool, typer.Option("--emergency", help="At once, marked as an emergency.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Take a scheduled offboarding back.")] = False,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """End all access of a person, now or at a time. When it returns, nothing of theirs works here any more."""
    effective_at = parse_instant(at, field="at") if at else None

    def plan(session: Session, now: datetime) -> Plan:
        return preview(session, find_person(session, person), effective_at=effective_at, now=now)

    def act(session: Session, now: datetime) -> Any:
        principal_id = find_person(session, person)
        if cancel:
            return _outcome(commands.cancel_offboarding(session, caller(), principal_id, now=now, reason=reason))
        result = commands.offboard(
            session, caller(), principal_id, now=now, at=effective_at, is_emergency=emergency, reason=reason
        )
        return {**_outcome(result), "person": principal_id}

    with open_here() as hub:
        if dry_run:
            with hub.database.read() as session:
                shown = plan(session, hub.clock())
            show({**plain(shown), "dry_run": True}, as_json=json, lines=_plan_lines(shown))
            return
        data = write(hub, act)
    lines = (
        ["cancelled"] if cancel else [f"case {data['case']}: {'left' if data['left'] else 'scheduled or left before'}"]
    )
    show(data, as_json=json, lines=lines)


def _plan_lines(plan: Plan) -> list[str]:
    rows = [
        [
            row.application_name,
            row.action,
            row.channel,
            "?" if row.exposure is None else f"{int(row.exposure.total_seconds())} s",
            f"E{int(row.required)}",
            ", ".join(row.notes),
        ]
        for row in plan.rows
    ]
    head = ("application", "action", "channel", "exposure", "evidence", "notes")
    return [
        f"{plan.person.display_name}: nothing has been written",
        f"ends at once: {plan.sessions} sessions, {plan.grants} grants, {plan.refresh_tokens} refresh tokens",
        f"plan {plan.fingerprint}",
        *table(rows, head),
    ]
