"""`idhub provisioning`: what an application's accounts would be, how far it is, and what keeps it from going on."""

import sys
import time as clock
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from idhub.access.applications import find_application
from idhub.access.tables import ScimTarget
from idhub.cli.console import JsonOption, app, caller, open_here, plain, say, show
from idhub.delivery import queue
from idhub.delivery.holds import Hold, holds
from idhub.directory.people import find_person
from idhub.errors import Invalid
from idhub.provisioning.outbound import adoption, discovering, sync, tokens
from idhub.provisioning.outbound.direct import Direct
from idhub.provisioning.outbound.options import TargetOptions
from idhub.provisioning.outbound.preview import preview as preview_of
from idhub.services import Hub

provisioning = typer.Typer(help="Accounts in applications, over SCIM.", no_args_is_help=True)
app.add_typer(provisioning, name="provisioning")

Application = Annotated[str, typer.Argument(help="Slug or id of the application.")]
SOME_DEAD = 2
"""Exit status of `watch` when some deliveries were given up."""
_LOOK_EVERY = 0.5
_SAY_EVERY = 5.0


def _direct(hub: Hub) -> Direct:
    return Direct(hub.database, hub.keyring, hub.settings, hub.clock)


def _application(hub: Hub, text: str) -> str:
    with hub.database.read() as session:
        return find_application(session, text)


@provisioning.command("preview")
def preview(
    application: Application,
    person: Annotated[str, typer.Argument(help="Id, employee number, company/number, mail or mobile.")],
    json: JsonOption = False,
) -> None:
    """Print what would be sent for one person, and what of it is new to the application. Sends nothing."""
    with open_here() as hub, hub.database.read() as session:
        found = preview_of(
            session, find_application(session, application), find_person(session, person), now=hub.clock()
        )
    lines = orjson.dumps(found.resource, option=orjson.OPT_INDENT_2).decode().splitlines()
    for line in found.lines:
        if line.is_changed:
            lines.append(f"{'~' if found.is_known else '+'} {line.path}: {line.known!r} -> {line.value!r}")
    lines += [f"! {path} is required there, and this person has none" for path in found.missing]
    if not found.is_wanted:
        lines.append("! not entitled now: nothing is sent")
    show(plain(found), as_json=json, lines=lines)


@provisioning.command("discover")
def discover(application: Application, json: JsonOption = False) -> None:
    """Ask an application what it can do, now, and keep the answer."""
    with open_here() as hub:
        found = _direct(hub).discover(_application(hub, application))
    facts = found.capabilities.document()
    lines = [f"{name}: {_said(value)}" for name, value in facts.items()]
    lines.append(f"attributes of users: {len(found.attributes)}")
    show({"capabilities": facts, "attributes": sorted(found.attributes)}, as_json=json, lines=lines)


def _said(value: object) -> object:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "not said"
    return "not said" if value is None else value


@provisioning.command("status")
def status(application: Application, json: JsonOption = False) -> None:
    """Print how far an application's accounts are, what holds them up, and what waits for somebody."""
    with open_here() as hub, hub.database.read() as session:
        application_id = find_application(session, application)
        progress = sync.progress(session, application_id)
        held = holds(session, [application_id])
        reviews = len(adoption.open_reviews(session, application_id))
        known = discovering.known(session, application_id)
        target = session.get(ScimTarget, application_id)
        way = TargetOptions.of_document(target.options if target else None)
        token_ends_at = target.token_expires_at if target else None
    lines = [
        (
            f"accounts: {progress.alive} of {progress.accounts} confirmed, {progress.waiting} deliveries wait, "
            f"{progress.dead} are dead"
        )
    ]
    if progress.state is not None:
        lines.append(f"run: {progress.state}, {progress.done} of {progress.total}")
    lines += [_held_line(hold) for hold in held]
    lines.append(f"the token ends on {token_ends_at.date()}" if token_ends_at else "no end of the token is noted")
    if way.proxy:
        lines.append(f"through the proxy {way.proxy}")
    if way.egress_address:
        lines.append(f"from the address {way.egress_address}")
    if way.requests_per_minute:
        lines.append(f"at most {way.requests_per_minute} requests a minute")
    lines.append(f"accounts to review: {reviews}")
    lines.append(f"asked what it can do: {known.fetched_at.isoformat() if known else 'not yet'}")
    data: dict[str, Any] = {
        "progress": plain(progress),
        "holds": plain(held),
        "reviews": reviews,
        "discovered_at": plain(known.fetched_at) if known else None,
        "token_expires_at": plain(token_ends_at) if token_ends_at else None,
        "proxy": way.proxy,
        "egress_address": way.egress_address,
        "requests_per_minute": way.requests_per_minute,
    }
    show(data, as_json=json, lines=lines)


@provisioning.command("watch")
def watch(application: Application, json: JsonOption = False) -> None:
    """Stay until an initial load or a run is over, and show how far it is. Exit status 2: some deliveries are dead.

    Ends early when the run is paused. It only looks: to stop it stops nothing else.
    """
    with open_here() as hub:
        application_id = _application(hub, application)
        progress = _follow(hub, application_id)
    show(plain(progress), as_json=json, lines=[_progress_line(progress)])
    sys.exit(SOME_DEAD if progress.dead else 0)


def _follow(hub: Hub, application_id: str) -> sync.Progress:
    """Look until nothing goes on: a bar on a terminal, otherwise a line now and then; a hold is said when it begins."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    is_terminal = sys.stderr.isatty()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not is_terminal) as bar:
        task = bar.add_task("accounts", total=None)
        tell: Callable[[str], None] = bar.console.print if is_terminal else say
        told: set[str] = set()
        said, said_at = "", float("-inf")
        while True:
            with hub.database.read() as session:
                progress = sync.progress(session, application_id)
                held = {_held_line(hold) for hold in holds(session, [application_id])}
            for line in sorted(held - told):
                tell(line)
            told = held
            done, total = (
                (progress.done, progress.total)
                if progress.state in {"running", "paused"}
                else (progress.alive, progress.accounts)
            )
            bar.update(task, completed=done, total=total)
            if progress.state == "paused" or (progress.state != "running" and not progress.waiting):
                return progress
            line = _progress_line(progress)
            if not is_terminal and line != said and clock.monotonic() - said_at >= _SAY_EVERY:
                say(line)
                said, said_at = line, clock.monotonic()
            clock.sleep(_LOOK_EVERY)


def _held_line(hold: Hold) -> str:
    """What holds a queue up, and when it is tried again."""
    again = f" Tried again at {hold.next_probe_at.isoformat(timespec='seconds')}." if hold.next_probe_at else ""
    return f"held ({hold.reason}): {hold.note or ''}{again}"


def _progress_line(progress: sync.Progress) -> str:
    accounts = (
        f"{progress.alive} of {progress.accounts} accounts confirmed, {progress.waiting} deliveries wait, "
        f"{progress.dead} are dead"
    )
    return (
        accounts if progress.state is None else f"run {progress.state}: {progress.done} of {progress.total}; {accounts}"
    )


@provisioning.command("resync")
def resync(
    application: Application,
    pause: Annotated[bool, typer.Option("--pause", help="Stop the run that is under way for now.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a paused run.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="End the run that is under way.")] = False,
    json: JsonOption = False,
) -> None:
    """Bring every account of an application up to date, a few at a time; a worker does it."""
    chosen = [step for step, is_chosen in (("pause", pause), ("resume", resume), ("cancel", cancel)) if is_chosen]
    if len(chosen) > 1:
        raise Invalid("Choose one of --pause, --resume and --cancel.", field="step", rule="sync.step")
    who = caller()
    with open_here() as hub, hub.database.transaction() as session:
        now, application_id = hub.clock(), find_application(session, application)
        if not chosen:
            sync.start(session, application_id, now=now, actor=who.actor, door=who.door)
        for step in sync.STEPS:
            if step in chosen:
                sync.take_step(session, application_id, step, now=now, actor=who.actor, door=who.door)
        progress = sync.progress(session, application_id)
    show(plain(progress), as_json=json, lines=[f"{progress.state}, {progress.done} of {progress.total}"])


@provisioning.command("adopt")
def adopt(application: Application, json: JsonOption = False) -> None:
    """Go through all accounts that an application has: link what the rules fit, put the rest to review."""
    with open_here() as hub:
        application_id = _application(hub, application)
        found = _direct(hub).adopt(
            application_id, actor=caller().actor, progress=lambda count: say(f"{count} accounts read")
        )
    lines = [f"{found.read} read, {found.known} linked before, {found.linked} linked now, {found.to_review} to review"]
    show(plain(found), as_json=json, lines=lines)


@provisioning.command("retry")
def retry(application: Application, json: JsonOption = False) -> None:
    """Send an application's dead deliveries again, and try at once what is held."""
    who = caller()
    with open_here() as hub, hub.database.transaction() as session:
        application_id = find_application(session, application)
        revived, left = queue.send_dead_again(session, application_id, now=hub.clock(), actor=who.actor, door=who.door)
        held = holds(session, [application_id])
    lines = [f"{revived} are sent again, {left} were overtaken and stay dead", *map(_held_line, held)]
    show({"retried": revived, "overtaken": left}, as_json=json, lines=lines)


review = typer.Typer(help="Accounts found in an application that may be a person's.", no_args_is_help=True)
provisioning.add_typer(review, name="review")


@review.command("list")
def list_reviews(application: Application, json: JsonOption = False) -> None:
    """Print the accounts that wait for somebody to decide, the oldest first."""
    with open_here() as hub, hub.database.read() as session:
        found = adoption.open_reviews(session, find_application(session, application))
        rows = [
            {
                "id": one.id,
                "user_id": one.user_id,
                "user_name": one.user_name,
                "email": one.email,
                "problem": one.problem,
                "rule": one.rule,
                "candidates": one.candidates,
            }
            for one in found
        ]
    lines = [
        f"{row['id']}  {row['user_name'] or row['user_id']}  {row['problem']}  {row['candidates']}" for row in rows
    ]
    show({"reviews": rows}, as_json=json, lines=lines or ["nothing waits"])


@review.command("confirm")
def confirm_review(
    application: Application,
    review_id: Annotated[str, typer.Argument(metavar="REVIEW", help="Id of the review.")],
    person: Annotated[str, typer.Argument(help="Whose the account is: id, employee number, mail or mobile.")],
) -> None:
    """Link the account to a person, and bring it up to date."""
    who = caller()
    with open_here() as hub, hub.database.transaction() as session:
        adoption.confirm(
            session,
            review_id,
            find_person(session, person),
            application_id=find_application(session, application),
            now=hub.clock(),
            actor=who.actor,
            door=who.door,
        )
    say("linked")


@review.command("reject")
def reject_review(
    application: Application,
    review_id: Annotated[str, typer.Argument(metavar="REVIEW", help="Id of the review.")],
) -> None:
    """Leave the account alone; whoever waited for it gets one of their own."""
    who = caller()
    with open_here() as hub, hub.database.transaction() as session:
        adoption.reject(
            session,
            review_id,
            application_id=find_application(session, application),
            now=hub.clock(),
            actor=who.actor,
            door=who.door,
        )
    say("left alone")


token = typer.Typer(help="An application's own token: a new one beside the old, tried, then switched to.")
provisioning.add_typer(token, name="token", no_args_is_help=True)


@token.command("stage")
def stage_token(
    application: Application,
    file: Annotated[Path, typer.Argument(help="File that holds the new token in its first line.")],
    expires: Annotated[str | None, typer.Option(help="Date from which it does not work any more.")] = None,
) -> None:
    """Store a new token beside the present one."""
    try:
        value = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} cannot be read.", field="file", rule="secret.unreadable") from error
    try:
        expires_at = datetime.combine(date.fromisoformat(expires), time(), tzinfo=UTC) if expires else None
    except ValueError as error:
        raise Invalid("--expires is a date such as 2027-01-31.", field="expires", rule="date") from error
    who = caller()
    with open_here() as hub, hub.database.transaction() as session:
        tokens.stage(
            session,
            find_application(session, application),
            value,
            expires_at=expires_at,
            seal=hub.keyring.seal,
            now=hub.clock(),
            actor=who.actor,
            door=who.door,
        )
    say("stored; try it with `idhub provisioning token try`, then `switch`")


@token.command("try")
def try_token(
    application: Application,
    present: Annotated[bool, typer.Option("--present", help="Try the one in use instead of the new one.")] = False,
) -> None:
    """Ask the application for one user with the new token."""
    with open_here() as hub:
        _direct(hub).try_token(_application(hub, application), next_one=not present)
    say("accepted")


@token.command("switch")
def switch_token(
    application: Application,
    untried: Annotated[bool, typer.Option("--untried", help="Do not try it first.")] = False,
) -> None:
    """Let the new token take the place of the old one, after trying it."""
    who = caller()
    with open_here() as hub:
        application_id = _application(hub, application)
        if not untried:
            _direct(hub).try_token(application_id, next_one=True)
        with hub.database.transaction() as session:
            tokens.switch(
                session,
                application_id,
                seal=hub.keyring.seal,
                open_sealed=hub.keyring.open,
                now=hub.clock(),
                actor=who.actor,
                door=who.door,
            )
    say("switched")
