"""`idhub apply`, `export`, `role`, `keys`: configuration and authority."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from sqlalchemy import select

from idhub.api.configuration import apply as apply_configuration
from idhub.api.export import export_configuration
from idhub.authority import HubRole, assign_role, held_roles, remove_role
from idhub.changes import Event, EventType, record
from idhub.cli.audit import sequence_at_once
from idhub.cli.console import JsonOption, app, caller, open_here, plain, say, show, table
from idhub.directory.organizations import find_organization, root_organization
from idhub.directory.people import find_person, show_people
from idhub.directory.tables import Organization
from idhub.errors import Invalid
from idhub.keys import PURPOSES, KeyState, list_keys, revoke, rotate
from idhub.lifecycle.reevaluation import reevaluate_pending


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="YAML; form in docs/reference/configuration.md.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; print the difference.")] = False,
    json: JsonOption = False,
) -> None:
    """Make applications what a file says. Idempotent; prints the difference."""
    with open_here() as hub:
        who = caller()
        applied = apply_configuration(
            hub.database,
            hub.keyring,
            file,
            clock=hub.clock,
            actor=who.actor,
            door=who.door,
            outbound_allow=hub.settings.outbound_allow,
            dry_run=dry_run,
        )
        looked_at = 0
        if not dry_run:
            with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
                task = bar.add_task("who is entitled", total=None)
                looked_at = reevaluate_pending(
                    hub.database,
                    clock=hub.clock,
                    actor=who.actor,
                    door=who.door,
                    progress=lambda done, total: bar.update(task, completed=done, total=total),
                )
    data = {"changes": applied.changes, "people_looked_at": looked_at, "dry_run": dry_run}
    show(data, as_json=json, lines=_difference_lines(applied.changes))


def _named(change: dict[str, Any]) -> str:
    return str(change.get("application") or change.get("provider") or change["scim_extension"])


def _difference_lines(changes: list[dict[str, Any]]) -> list[str]:
    lines = []
    for change in changes:
        lines.append(f"{'+' if change['new'] else '~'} {_named(change)}")
        lines += [f"    {c['field']}: {c['before']} -> {c['after']}" for c in change["changes"]]
    return lines or ["nothing to change"]


@app.command()
def export() -> None:
    """Print the applications as a configuration file, without secrets."""
    with open_here() as hub, hub.database.read() as session:
        print(export_configuration(session), end="")


role = typer.Typer(help="Hub roles of people.", no_args_is_help=True)
app.add_typer(role, name="role")


def _role(text: str) -> HubRole:
    try:
        return HubRole(text)
    except ValueError as error:
        raise Invalid(f"role must be one of {', '.join(HubRole)}.", field="role", rule="role.unknown") from error


@role.command("list")
def list_roles(json: JsonOption = False) -> None:
    """Show who holds which role over the hub, over what, since when, and who gave it."""
    with open_here() as hub, hub.database.read() as session:
        held = held_roles(session)
        people = show_people(session, sorted({one.principal_id for one in held}))
        wanted = {one.organization_id for one in held}
        found = select(Organization.id, Organization.name).where(Organization.id.in_(wanted))
        names = {row[0]: row[1] for row in session.execute(found)}
    data = [
        {
            "person": one.principal_id,
            "name": people[one.principal_id].display_name,
            "standing": people[one.principal_id].standing,
            "role": one.role,
            "organization": one.organization_id,
            "organization_name": names[one.organization_id],
            "assigned_at": one.assigned_at,
            "assigned_by": one.assigned_by,
        }
        for one in held
    ]
    columns = ("role", "name", "person", "standing", "organization_name", "assigned_at", "assigned_by")
    rows = [[str(plain(one[column])) for column in columns] for one in data]
    head = ("role", "name", "person", "standing", "over", "since", "by")
    show(plain(data), as_json=json, lines=table(rows, head) if rows else ["nobody holds a role"])


@role.command("assign")
def assign(
    person: Annotated[str, typer.Argument(help="Id, employee number, company/number, mail or mobile.")],
    name: Annotated[str, typer.Argument(metavar="ROLE", help="administrator, hr, auditor.")],
    organization: Annotated[str | None, typer.Option(help="Over this subtree; default: everything.")] = None,
    json: JsonOption = False,
) -> None:
    """Give a person a role over the hub."""
    with open_here() as hub, hub.database.transaction() as session:
        now, who = hub.clock(), caller()
        principal_id = find_person(session, person)
        root = find_organization(session, organization) if organization else root_organization(session)
        is_new = assign_role(
            session, principal_id, _role(name), organization_id=root, now=now, assigned_by=who.actor.id
        )
        if is_new:
            details = {"role": name, "organization": root}
            record(session, [_role_event(EventType.ROLE_ASSIGNED, principal_id, details, now)])
    text = f"{principal_id} is {name} now" if is_new else f"{principal_id} was {name} already"
    show({"person": principal_id, "role": name, "organization": root, "changed": is_new}, as_json=json, lines=[text])


@role.command("remove")
def remove(
    person: Annotated[str, typer.Argument(help="Id, employee number, company/number, mail or mobile.")],
    name: Annotated[str, typer.Argument(metavar="ROLE", help="administrator, hr, auditor.")],
    json: JsonOption = False,
) -> None:
    """Take a role over the hub from a person, wherever they hold it; gone at their next request."""
    with open_here() as hub, hub.database.transaction() as session:
        now = hub.clock()
        principal_id = find_person(session, person)
        removed = remove_role(session, principal_id, _role(name), now=now)
        if removed:
            record(session, [_role_event(EventType.ROLE_REMOVED, principal_id, {"role": name}, now)])
    text = f"{principal_id} is {name} no more" if removed else f"{principal_id} was not {name}"
    show({"person": principal_id, "role": name, "changed": bool(removed)}, as_json=json, lines=[text])


def _role_event(kind: EventType, principal_id: str, details: dict[str, Any], now: Any) -> Event:
    return Event(
        type=kind,
        at=now,
        actor=caller().actor,
        door="cli",
        target_kind="person",
        target_id=principal_id,
        person_id=principal_id,
        details=details,
    )


keys = typer.Typer(help="Signing keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@keys.command("rotate")
def rotate_key(
    purpose: Annotated[str, typer.Argument(help=", ".join(PURPOSES))],
    alg: Annotated[str | None, typer.Option(help="Which algorithm's key; default: the purpose's first.")] = None,
    json: JsonOption = False,
) -> None:
    """Make a new signing key; the old one stays published. Running servers take it up when they start again."""
    for known, algs in PURPOSES.items():
        if known == purpose:
            chosen = alg or algs[0]
            if chosen not in algs:
                raise Invalid(f"{purpose} keys are {', '.join(algs)}.", field="alg", rule="key.algorithm")
            with open_here() as hub, hub.database.transaction() as session:
                now = hub.clock()
                kid = rotate(session, hub.keyring, known, chosen, now=now)
                record(session, [_key_event(EventType.KEY_ROTATED, kid, {"purpose": purpose, "alg": chosen}, now)])
            show({"kid": kid, "purpose": purpose, "alg": chosen}, as_json=json, lines=[kid])
            return
    raise Invalid(f"purpose must be one of {', '.join(PURPOSES)}.", field="purpose", rule="key.purpose")


@keys.command("list")
def list_all(json: JsonOption = False) -> None:
    """Every signing key that there was, and what became of it."""
    with open_here() as hub, hub.database.read() as session:
        found = list_keys(session)
    rows = [[one.kid, one.purpose, one.alg, _became(one)] for one in found]
    show([plain(one) for one in found], as_json=json, lines=table(rows, ["kid", "purpose", "alg", ""]))


def _became(key: KeyState) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at.isoformat(timespec='seconds')}"
    return "in use" if key.retired_at is None else f"retired {key.retired_at.isoformat(timespec='seconds')}"


@keys.command("revoke")
def revoke_key(
    kid: Annotated[str, typer.Argument(help="As `idhub keys list` names it.")],
    reason: Annotated[str, typer.Option(help="Why; stands in the log.")] = "compromised",
    json: JsonOption = False,
) -> None:
    """Let nothing count that a key signs, because others may have it. Start every server and worker again after it."""
    with open_here() as hub, hub.database.transaction() as session:
        now = hub.clock()
        made = revoke(session, hub.keyring, kid, now=now)
        record(session, [_key_event(EventType.KEY_REVOKED, kid, {"made": made}, now, reason=reason)])
    # With the keys of now: a checkpoint by one that counts lies over everything again.
    with open_here() as hub:
        sequence_at_once(hub)
    say("running servers and workers sign with the keys that they began with: start each of them again")
    show({"kid": kid, "made": made}, as_json=json, lines=[made or "another key signs in its place"])


def _key_event(
    kind: EventType, kid: str, details: dict[str, Any], now: datetime, *, reason: str | None = None
) -> Event:
    return Event(
        type=kind, at=now, actor=caller().actor, door="cli", target_kind="key", target_id=kid, reason=reason,
        details=details,
    )  # fmt: skip
