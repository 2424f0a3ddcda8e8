"""`idhub audit`: search, export, verify."""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from audit.checkpoint import Ed25519Signer, FileWitness, load_keys
from audit.errors import AuditError, InvalidQuery
from audit.export import export_jsonl
from audit.live import verify_database
from audit.search import Query, search
from audit.verify import VerifyResult, describe, read_keys, verify_export
from idhub.changes import Event, EventType, record
from idhub.cli.console import JsonOption, app, caller, open_here, plain, say, show, table
from idhub.directory.calendar import parse_instant
from idhub.directory.organizations import recovery_reason
from idhub.errors import Invalid
from idhub.services import Hub, log_origin

audit = typer.Typer(help="The audit log: search, export, verify.", no_args_is_help=True)
app.add_typer(audit, name="audit")
VALID, INVALID, UNREADABLE = 0, 1, 2
_PATIENCE_SECONDS = 15.0
"""Longer than the lease of a sequencer that died."""
_LOOK_AGAIN_SECONDS = 0.1


@audit.command("search")
def search_events(
    action: Annotated[str | None, typer.Option(help="Event type, or a prefix such as `person.`.")] = None,
    person: Annotated[str | None, typer.Option(help="Id of the person concerned.")] = None,
    actor: Annotated[str | None, typer.Option(help="Id of who did it.")] = None,
    application: Annotated[str | None, typer.Option(help="Id of the application.")] = None,
    case: Annotated[str | None, typer.Option(help="Id of the case.")] = None,
    outcome: Annotated[str | None, typer.Option(help="success or failure.")] = None,
    request: Annotated[str | None, typer.Option(help="Request number.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="ISO time with zone.")] = None,
    to: Annotated[str | None, typer.Option(help="ISO time with zone.")] = None,
    after: Annotated[str | None, typer.Option(help="Cursor of the page before.")] = None,
    size: Annotated[int, typer.Option(min=1, max=500, help="Events a page.")] = 50,
    json: JsonOption = False,
) -> None:
    """Search events, newest first."""
    query = Query(
        from_at=parse_instant(from_, field="from") if from_ else None,
        to_at=parse_instant(to, field="to") if to else None,
        actor_id=actor,
        action=action,
        outcome=outcome,
        request_id=request,
        person_id=person,
        application_id=application,
        case_id=case,
        after=after,
        size=size,
    )
    with open_here() as hub, hub.database.read() as session:
        try:
            page = search(session.connection(), query, sealer=hub.keyring)
        except InvalidQuery as error:
            raise Invalid(str(error), field="query", rule="audit.query") from error
    rows = [
        [r.at.isoformat(timespec="seconds"), r.type, r.outcome, r.actor.get("id", ""), f"{r.target_kind}:{r.target_id}"]
        for r in page.records
    ]
    lines = table(rows, ("at", "type", "outcome", "actor", "target"))
    if page.next_cursor:
        say(f"more: --after {page.next_cursor}")
    show({"events": plain(page.records), "next": page.next_cursor}, as_json=json, lines=lines)


@audit.command("export")
def export_events(
    reveal: Annotated[bool, typer.Option("--reveal", help="With personal values beside their commitments.")] = False,
) -> None:
    """Print the whole log with its checkpoints as JSONL; `idhub audit verify` needs nothing else."""
    with open_here() as hub:
        with hub.database.transaction() as session:
            now = hub.clock()
            event = Event(
                type=EventType.AUDIT_EXPORTED,
                at=now,
                actor=caller().actor,
                door="cli",
                target_kind="log",
                target_id=log_origin(hub.settings),
                details={"revealed": reveal},
            )
            record(session, [event])
        try:
            _sequence(hub)
            with hub.database.read() as session:
                sealer = hub.keyring if reveal else None
                signer = Ed25519Signer(hub.keyring.signing_key("checkpoint").private)
                for line in export_jsonl(session.connection(), reveal_with=sealer, sign_with=signer, now=now):
                    sys.stdout.buffer.write(line)
        except AuditError as error:
            raise Invalid(str(error), field="log", rule="audit.export") from error
        sys.stdout.buffer.flush()


def _sequence(hub: Hub) -> None:
    """Take in what is settled, so that an export is up to date even without a running worker.

    Not in recovery mode: what is sealed before it is decided how the log goes on would be a fork.
    """
    with hub.database.read() as session:
        if recovery_reason(session) is not None:
            return
    sequence_at_once(hub)


def sequence_at_once(hub: Hub) -> None:
    """Take in what is settled and sign it. While another process has the work, wait for it: it does the same."""
    sequencer = hub.sequencer()
    patience = time.monotonic() + _PATIENCE_SECONDS
    result = sequencer.run_once(hub.clock(), checkpoint=True)
    while not result.is_leader and result.lag.pending and time.monotonic() < patience:
        time.sleep(_LOOK_AGAIN_SECONDS)
        result = sequencer.run_once(hub.clock(), checkpoint=True)
    sequencer.resign()


@audit.command("verify")
def verify_log(
    export: Annotated[Path | None, typer.Argument(help="An exported log; default: the live database.")] = None,
    keys: Annotated[Path | None, typer.Option(help="Published keys (JWK set); needed for an export.")] = None,
    witness: Annotated[Path | None, typer.Option(help="A witness's file of checkpoints.")] = None,
    made_after: Annotated[str | None, typer.Option(help="The export must not be older; ISO time with zone.")] = None,
    json: JsonOption = False,
) -> None:
    """Verify that no event was changed, removed, inserted or moved. Exit status 0 valid, 1 invalid, 2 unreadable."""
    try:
        seen_by = FileWitness(witness) if witness is not None else None
        if witness is not None and not witness.is_file():
            raise AuditError(f"the witness file {witness} cannot be read")
        if export is not None:
            if keys is None:
                raise AuditError("an export is verified with --keys; keys inside it are never trusted")
            oldest = parse_instant(made_after, field="made_after") if made_after else None
            result = verify_export(export, keys=read_keys(keys), witness=seen_by, made_after=oldest)
        else:
            result = _verify_live(keys, seen_by)
    except (AuditError, OSError) as error:
        say(f"unreadable: {error}")
        sys.exit(UNREADABLE)
    data = {"valid": result.is_valid, "first_bad": result.first_bad, **plain(asdict(result))}
    show(data, as_json=json, lines=describe(result).splitlines())
    sys.exit(VALID if result.is_valid else INVALID)


def _verify_live(keys: Path | None, witness: FileWitness | None) -> VerifyResult:
    with open_here() as hub:
        trusted = read_keys(keys) if keys is not None else load_keys(hub.keyring.jwks("checkpoint"))
        own = hub.settings.effective_witness_file
        seen_by = witness or (FileWitness(own) if own.is_file() else None)
        with hub.database.read() as session:
            connection = session.connection()
            return verify_database(connection, trusted, seen_by, sealer=hub.keyring, now=hub.clock())
