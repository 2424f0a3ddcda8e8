"""`idhub reconcile`: what applications hold, against what they should."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.access.applications import find_application
from idhub.access.tables import Application, ScimTarget
from idhub.cli.console import JsonOption, app, caller, open_here, plain, show, table
from idhub.errors import Conflict
from idhub.provisioning.reconcile.register import check_register, match_payroll
from idhub.provisioning.reconcile.run import Report
from idhub.provisioning.reconcile.run import reconcile as reconcile_one
from idhub.services import Hub

DONE, INCOMPLETE, HELD = 0, 2, 3


@app.command()
def reconcile(
    application: Annotated[str | None, typer.Argument(help="Slug or id; default: every application with SCIM.")] = None,
    payroll: Annotated[
        Path | None, typer.Option(help="Payroll as CSV or XLSX; columns in docs/operate/reconcile.md.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; tell what would be found.")] = False,
    json: JsonOption = False,
) -> None:
    """Compare what applications hold with what they should; find ghosts.

    Exit status 0: all was read; 2: something was not read whole; 3: the brake holds remedies back.
    """
    with (
        open_here() as hub,
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        reports = _run(hub, bar, application, payroll, dry_run=dry_run)
    show({"runs": [_data(report) for report in reports]}, as_json=json, lines=_lines(reports))
    complete = all(report.is_complete for report in reports)
    sys.exit(HELD if any(report.held for report in reports) else DONE if complete else INCOMPLETE)


def _run(hub: Hub, bar: Progress, application: str | None, payroll: Path | None, *, dry_run: bool) -> list[Report]:
    from idhub.delivery.http import OutboundHttp

    with hub.database.read() as session:
        targets = _targets(session, application)
    who = caller().actor
    reports: list[Report] = []
    http = OutboundHttp(hub.settings)
    for application_id, slug in targets:
        task = bar.add_task(slug, total=None)
        try:
            report = reconcile_one(
                hub.database,
                hub.keyring,
                http,
                application_id,
                clock=hub.clock,
                actor=who,
                dry_run=dry_run,
                progress=_progress(bar, task),
            )
        except Conflict as error:
            if application is not None:
                raise
            # The worker is at it: the others are compared all the same.
            now = hub.clock()
            report = Report(run_id="", application_id=application_id, application=slug, started_at=now)
            report.gaps = (error.description,)
        reports.append(report)
    if payroll is not None:
        task = bar.add_task("payroll", total=None)
        reports.append(
            match_payroll(
                hub.database,
                hub.keyring,
                payroll,
                clock=hub.clock,
                actor=who,
                dry_run=dry_run,
                progress=_progress(bar, task),
            )
        )
    if application is None:
        reports.append(check_register(hub.database, clock=hub.clock, actor=who, dry_run=dry_run))
    return reports


def _progress(bar: Progress, task: TaskID) -> Any:
    return lambda read, total: bar.update(task, completed=read, total=total)


def _targets(session: Session, application: str | None) -> list[tuple[str, str]]:
    statement = select(Application.id, Application.slug).order_by(Application.slug)
    if application is not None:
        statement = statement.where(Application.id == find_application(session, application))
    else:
        statement = statement.join(ScimTarget, ScimTarget.application_id == Application.id).where(
            Application.is_enabled
        )
    return [(row.id, row.slug) for row in session.execute(statement)]


def _data(report: Report) -> dict[str, Any]:
    data: dict[str, Any] = plain(report)
    data["dry_run"] = data.pop("is_dry_run")
    data["complete"] = data.pop("is_complete")
    return data


def _lines(reports: list[Report]) -> list[str]:
    rows = [
        [
            report.application or report.source,
            "complete" if report.is_complete else "incomplete",
            str(report.read),
            ", ".join(f"{kind} {count}" for kind, count in report.found.items()) or "-",
            str(report.opened + report.reopened),
            str(report.closed),
            str(report.disabled),
            str(report.held),
        ]
        for report in reports
    ]
    lines = table(rows, ("source", "read", "accounts", "found", "new", "closed", "disabled", "held"))
    for report in reports:
        lines += [f"{report.application or report.source}: {gap}" for gap in report.gaps]
    return lines
