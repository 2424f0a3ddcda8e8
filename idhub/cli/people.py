"""`idhub people`: import, show, invite."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from idhub.authority import Action, Subject, authorize
from idhub.changes import Actor
from idhub.cli.console import JsonOption, app, caller, open_here, plain, say, show, table
from idhub.directory.people import find_person, show_person, sources_of

people = typer.Typer(help="People: import an HR file, show somebody, make a first-sign-in link.", no_args_is_help=True)
app.add_typer(people, name="people")
_SHOWN_PROBLEMS = 50
_DRAWN_SECONDS = 0.1
ALL_IN, REFUSED, QUARANTINED = 0, 2, 3


@people.command("import")
def import_people(
    file: Annotated[Path, typer.Argument(help="CSV or XLSX, UTF-8 or GB18030; columns in docs/reference/hr-file.md.")],
    changes: Annotated[bool, typer.Option("--changes", help="Only the rows listed act; nobody is absent.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; tell what would happen.")] = False,
    json: JsonOption = False,
) -> None:
    """Bring an HR file in. Exit status 0: all in; 2: some rows refused; 3: some changes quarantined."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from idhub.lifecycle.hr_import import import_file

    with (
        open_here() as hub,
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=_stderr(),
            transient=True,
            # Drawn by us: a thread would keep the import from copying this process (`hr_apart`).
            auto_refresh=False,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        task = bar.add_task("importing", total=None)
        drawn = 0.0

        def progress(rows: int) -> None:
            nonlocal drawn
            is_due = time.monotonic() - drawn > _DRAWN_SECONDS
            bar.update(task, completed=rows, refresh=is_due)
            if is_due:
                drawn = time.monotonic()

        report = import_file(
            hub.database,
            file,
            snapshot=not changes,
            dry_run=dry_run,
            now=hub.clock(),
            actor=caller().actor,
            keyring=hub.keyring,
            progress=progress,
        )
    data = {**plain(report), "refused": plain(report.problems), "refused_rows": report.refused}
    del data["problems"]
    data["dry_run"] = data.pop("is_dry_run")
    show(data, as_json=json, lines=_import_lines(data))
    sys.exit(QUARANTINED if report.quarantined else REFUSED if report.refused else ALL_IN)


def _import_lines(data: dict[str, Any]) -> list[str]:
    lines = [f"{name}: {value}" for name, value in data.items() if isinstance(value, int | str | bool)]
    for name in ("created_companies", "companies_not_named", "absence_unproven", "gaps", "unknown_columns"):
        if data.get(name):
            lines.append(f"{name}: {', '.join(data[name])}")
    refused = data.get("refused") or []
    if refused:
        rows = [[str(r.get("line", "")), str(r.get("field", "")), str(r.get("rule", ""))] for r in refused]
        lines += ["", "refused rows:", *table(rows[:_SHOWN_PROBLEMS], ("line", "field", "rule"))]
        if len(rows) > _SHOWN_PROBLEMS:
            lines.append(f"... and {len(rows) - _SHOWN_PROBLEMS} more (--json lists them all)")
    return lines


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


@people.command("runs")
def show_runs(json: JsonOption = False) -> None:
    """Show the last reads of the HR file: under way, finished, or broken off before their end."""
    from idhub.lifecycle.hr_runs import last_runs

    with open_here() as hub, hub.database.read() as session:
        runs = last_runs(session, now=hub.clock())
    rows = [
        [run.id, f"{run.started_at:%Y-%m-%d %H:%M:%S}", run.state, str(run.counts.get("rows", "-")), run.started_by]
        for run in runs
    ]
    show(plain(runs), as_json=json, lines=table(rows, ("run", "began (UTC)", "state", "rows", "by")))


@people.command("held")
def show_held(json: JsonOption = False) -> None:
    """Show what the mass-change brake holds back, by run."""
    from idhub.lifecycle.hr_release import list_held

    with open_here() as hub, hub.database.read() as session:
        held = list_held(session)
    rows = [[h.run_id, h.display_name, h.employee_number, h.kind, h.first_approver or "-"] for h in held]
    show(plain(held), as_json=json, lines=table(rows, ("run", "name", "number", "kind", "first approver")))


@people.command("release")
def release_held(
    run: Annotated[str, typer.Argument(help="The run, as `people held` names it.")],
    approver: Annotated[str, typer.Option(help="Who approves: a person with the right to; two are needed.")],
    json: JsonOption = False,
) -> None:
    """Approve leaves that the brake holds. The first approval waits; the second, of another person, releases them."""
    from idhub.lifecycle.hr_release import approve_release, held_groups

    with open_here() as hub:
        with hub.database.read() as session:
            person = show_person(session, find_person(session, approver))
            subject = Subject(principal_id=person.id)
            authorize(session, subject, Action.IMPORT_RELEASE)
            for group in held_groups(session, run_id=run):
                authorize(session, subject, Action.IMPORT_RELEASE, organization_id=group.organization_id)
        who = Actor(kind="person", id=person.id, name=person.display_name)
        release = approve_release(hub.database, run, keyring=hub.keyring, approver=who, now=hub.clock())
    data = plain(release)
    show(data, as_json=json, lines=[f"{name}: {value}" for name, value in data.items()])


@people.command("show")
def show_one(
    person: Annotated[str, typer.Argument(help="Id, employee number, company/number, mail or mobile.")],
    json: JsonOption = False,
) -> None:
    """Show one person: standing, employments, sources."""
    with open_here() as hub, hub.database.read() as session:
        view = show_person(session, find_person(session, person))
        sources = sources_of(session, view.id)
    data = {**plain(view), "sources": plain(sources)}
    rows = [
        [e.company, e.department or "", e.employee_number, e.type, e.state, str(e.starts_on), str(e.ends_on or "")]
        for e in view.employments
    ]
    head = ("company", "department", "number", "type", "state", "from", "to")
    lines = [
        f"{view.display_name}  {view.id}",
        f"standing: {view.standing}  epochs: {view.access_epoch}/{view.enrolment_epoch}",
        f"mail: {view.email or '-'}  mobile: {view.mobile or '-'}",
        *table(rows, head),
    ]
    show(data, as_json=json, lines=lines)


@people.command("invite")
def invite_one(
    person: Annotated[str, typer.Argument(help="Id, employee number, company/number, mail or mobile.")],
    reset: Annotated[bool, typer.Option("--reset", help="For somebody who has a password already.")] = False,
) -> None:
    """Print a one-time link with which a person sets a first password. Earlier links of theirs stop working."""
    from idhub.login.invitations import invite, link

    with open_here() as hub:
        with hub.database.transaction() as session:
            principal_id = find_person(session, person)
            token = invite(
                session,
                principal_id,
                purpose="reset_password" if reset else "first_password",
                now=hub.clock(),
                settings=hub.settings,
                actor=caller().actor,
            )
        print(link(hub.settings, token))
    say("Hand this link to the person alone; it works once.")
