"""`idhub findings`: what reconciliation found, and what is decided about it."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import orjson
import typer
from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.access.applications import find_application
from idhub.access.tables import Application
from idhub.cli.console import JsonOption, app, caller, open_here, plain, say, show, table, write
from idhub.delivery import queue
from idhub.directory.calendar import parse_day
from idhub.directory.names import may_name
from idhub.errors import Invalid
from idhub.provisioning.reconcile import findings as found_before
from idhub.provisioning.reconcile import remedy
from idhub.provisioning.reconcile.kinds import LIVE, Kind, State
from idhub.provisioning.reconcile.tables import Finding

findings = typer.Typer(help="What reconciliation found, and what is decided about it.", no_args_is_help=True)
app.add_typer(findings, name="findings")

OneFinding = Annotated[str, typer.Argument(metavar="FINDING", help="Id of the finding.")]
SomeFindings = Annotated[list[str], typer.Argument(metavar="FINDING...", help="Ids of findings of one application.")]
HELD = 3
"""Exit status of `act` when the brake holds something back."""


class Remedy(StrEnum):
    """What the hub can do."""

    DISABLE = "disable"
    RESTORE = "restore"
    LINK = "link"


@findings.command("list")
def list_findings(
    kind: Annotated[list[Kind] | None, typer.Option(help="Of this kind; say it again for more.")] = None,
    state: Annotated[
        list[State] | None, typer.Option(help="In this state; say it again for more. Default: not over.")
    ] = None,
    application: Annotated[str | None, typer.Option(help="Slug or id of the application.")] = None,
    after: Annotated[str | None, typer.Option(help="Cursor of the page before.")] = None,
    size: Annotated[int, typer.Option(min=1, max=500, help="Findings a page.")] = 50,
    json: JsonOption = False,
) -> None:
    """Print findings in order of discovery."""
    if after is not None and not may_name(after):
        raise Invalid("That is no cursor of this list.", field="after", rule="finding.cursor")
    with open_here() as hub, hub.database.read() as session:
        page, following = found_before.page(
            session,
            kinds=kind or [],
            states=state or list(LIVE),
            application_id=find_application(session, application) if application else None,
            after=after,
            limit=size,
        )
        slugs = _slugs(session, page)
        rows = [
            [
                one.id,
                one.kind,
                "held" if one.held_at else one.state,
                slugs.get(one.application_id or "", one.source),
                one.subject,
                one.proposal,
                f"{one.deadline_at:%Y-%m-%d}",
            ]
            for one in page
        ]
        data = [plain(found_before.as_data(one)) for one in page]
    if following:
        say(f"more: --after {following}")
    lines = table(rows, ("id", "kind", "state", "where", "subject", "proposed", "due")) if rows else ["nothing found"]
    show({"findings": data, "next": following}, as_json=json, lines=lines)


@findings.command("show")
def show_finding(finding: OneFinding, json: JsonOption = False) -> None:
    """Print one finding with its evidence, and what the hub could do about it."""
    with open_here() as hub, hub.database.read() as session:
        one = found_before.get(session, finding, lock=False)
        data = plain(found_before.as_data(one))
        data["actions"] = list(remedy.actions_for(one))
    lines = [f"{name}: {_text(value)}" for name, value in data.items() if value not in (None, [], {})]
    show(data, as_json=json, lines=lines)


@findings.command("accept")
def accept_finding(finding: OneFinding) -> None:
    """Say that somebody sees to it, outside of the hub."""
    who = caller()
    with open_here() as hub, hub.database.transaction() as session:
        one = found_before.get(session, finding)
        found_before.accept(session, one, now=hub.clock(), actor=who.actor, door=who.door)
    say("accepted")


@findings.command("dismiss")
def dismiss_finding(
    finding: OneFinding,
    reason: Annotated[str, typer.Option(help="Why it is right as it is.")],
    until: Annotated[str, typer.Option(help="Last day on which it is, within a year.")],
) -> None:
    """Say that it is right as it is, until a day."""
    who = caller()
    day = parse_day(until, field="until")
    with open_here() as hub, hub.database.transaction() as session:
        one = found_before.get(session, finding)
        found_before.dismiss(session, one, reason=reason, until=day, now=hub.clock(), actor=who.actor, door=who.door)
    say("dismissed")


@findings.command("take-back")
def take_back_decision(finding: OneFinding) -> None:
    """Say that what was decided does not hold: neither the exception, nor that somebody sees to it."""
    who = caller()
    with open_here() as hub, hub.database.transaction() as session:
        one = found_before.get(session, finding)
        found_before.take_back(session, one, now=hub.clock(), actor=who.actor, door=who.door)
    say("open again")


@findings.command("act")
def act_on_findings(
    action: Annotated[Remedy, typer.Argument(help="What the hub shall do.")],
    found: SomeFindings,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do nothing; print what would be done.")] = False,
    json: JsonOption = False,
) -> None:
    """Let the hub carry out a remedy, for all of them or for none; a worker sends it.

    Exit status 3: the brake holds something back, until two people have released it on /admin/ghosts.
    """
    who = caller()
    ids = sorted(set(found))

    def act(session: Session, now: datetime) -> dict[str, Any]:
        some = [found_before.get(session, each) for each in ids]
        slugs = _slugs(session, some)
        named = {one.id: f"{one.subject} ({slugs.get(one.application_id or '', one.source)})" for one in some}
        acted = remedy.act(session, some, action.value, now=now, actor=who.actor, door=who.door)
        return {"named": named, "deliveries": acted.deliveries, "held": acted.held}

    with open_here() as hub:
        done = write(hub, act, dry_run=dry_run)
        if not dry_run:
            queue.wake()
    named: dict[str, str] = done.pop("named")
    would = "would be " if dry_run else ""
    lines = [f"{one}: {action.value} {named[one]}{'' if dry_run else ' is under way'}" for one in done["deliveries"]]
    lines += [f"{one}: {would}held by the brake: {action.value} {named[one]}" for one in done["held"]]
    if dry_run:
        done["deliveries"] = dict.fromkeys(done["deliveries"])
    show({**done, "action": action.value, "dry_run": dry_run}, as_json=json, lines=lines)
    if done["held"]:
        raise typer.Exit(HELD)


def _slugs(session: Session, some: Sequence[Finding]) -> dict[str, str]:
    """Names of the applications that findings are about, by id."""
    ids = {one.application_id for one in some if one.application_id}
    rows = session.execute(select(Application.id, Application.slug).where(Application.id.in_(ids)))
    return {row.id: row.slug for row in rows}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
