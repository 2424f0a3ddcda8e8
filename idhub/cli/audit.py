"""`idhub audit`: search, export, prove, verify, prune."""

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from audit.checker import VerifyResult
from audit.checkpoint import Ed25519Signer, FileWitness, load_keys
from audit.errors import AuditError, InvalidQuery, NoSuchEvent
from audit.export import export_jsonl, export_proof
from audit.live import verify_database
from audit.retention import Decision, decide, decided_through, removable, remove
from audit.search import Query, search
from audit.tiles import TILE_SIZE
from audit.verify import ProofResult, describe, is_proof, outcome_of, read_keys, told, verify_export, verify_proof
from idhub.changes import Event, EventType, record
from idhub.cli.console import JsonOption, app, caller, open_here, plain, say, show, table
from idhub.directory.calendar import parse_instant
from idhub.directory.organizations import recovery_reason
from idhub.errors import Conflict, Invalid, NotFound
from idhub.lifecycle.receipts import find_case
from idhub.services import Hub, log_origin
from idhub.turns import bulk_work

audit = typer.Typer(help="The audit log: search, export, prove, verify, prune.", no_args_is_help=True)
app.add_typer(audit, name="audit")
VALID, INVALID, UNREADABLE = 0, 1, 2
_PATIENCE_SECONDS = 15.0
"""Longer than the lease of a sequencer that died."""
_LOOK_AGAIN_SECONDS = 0.1
# Six months: what the Cybersecurity Law of China, article 21, asks of logs.
_FEWEST_DAYS = 184


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
    if not rows and action and not any(kind.startswith(action) for kind in EventType):
        # A log may hold what an older version wrote, so this is no refusal.
        near = get_close_matches(action, EventType, n=3)
        say(f"No event of this version begins with {action!r}." + (f" Near: {', '.join(near)}" if near else ""))
    if page.next_cursor:
        say(f"more: --after {page.next_cursor}")
    show({"events": plain(page.records), "next": page.next_cursor}, as_json=json, lines=lines)


@audit.command("export")
def export_events(
    reveal: Annotated[bool, typer.Option("--reveal", help="With personal values beside their commitments.")] = False,
) -> None:
    """Print the whole log with its checkpoints as JSONL; `idhub audit verify` needs nothing else."""
    with open_here() as hub:
        now = hub.clock()
        _note_export(hub, "log", log_origin(hub.settings), is_revealed=reveal)
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


def _note_export(hub: Hub, kind: str, target: str, *, is_revealed: bool) -> None:
    with hub.database.transaction() as session:
        event = Event(
            type=EventType.AUDIT_EXPORTED,
            at=hub.clock(),
            actor=caller().actor,
            door="cli",
            target_kind=kind,
            target_id=target,
            details={"revealed": is_revealed},
        )
        record(session, [event])


@audit.command("prove")
def prove_event(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Event id, or a receipt: that its version was issued.")],
    reveal: Annotated[bool, typer.Option("--reveal", help="With personal values beside their commitments.")] = False,
) -> None:
    """Print the proof that an event is in the log and unchanged; it tells nothing of other events.

    `idhub audit verify` checks it with the published keys alone, and a receipt with it by `idhub receipt verify`.
    """
    with open_here() as hub:
        event_id = _event_named(hub, event)
        if reveal:
            _note_export(hub, "event", event_id, is_revealed=True)
        proof = _proven(hub, event_id, reveal=reveal)
        if proof is None:
            # Asked within a second of the event, or while no worker runs.
            _sequence(hub)
            proof = _proven(hub, event_id, reveal=reveal)
    if proof is None:
        raise Conflict(f"No signed checkpoint covers {event_id} yet. Ask again in a second.", rule="audit.unproven")
    sys.stdout.buffer.write(proof)
    sys.stdout.buffer.flush()


def _event_named(hub: Hub, text: str) -> str:
    """The event itself, or that the newest version of this receipt was issued."""
    if text.startswith("evt_"):
        return text
    with hub.database.read() as session:
        case_id = find_case(session, text)
        issued = Query(action=EventType.RECEIPT_ISSUED, case_id=case_id, size=1)
        found = search(session.connection(), issued, sealer=hub.keyring).records
    if not found:
        raise Conflict(f"No version of the receipt {text} has been signed yet.", field="event", rule="receipt.unsigned")
    return found[0].event_id


def _proven(hub: Hub, event_id: str, *, reveal: bool) -> bytes | None:
    with hub.database.read() as session:
        try:
            return export_proof(session.connection(), event_id, reveal_with=hub.keyring if reveal else None)
        except NoSuchEvent as error:
            said = f"There is no event {event_id} here. One that was pruned is proven by the export that holds it."
            raise NotFound(said, field="event", rule="audit.event") from error
        except AuditError as error:
            raise Invalid(str(error), field="event", rule="audit.proof") from error


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
    export: Annotated[
        Path | None, typer.Argument(help="An exported log, or the proof of an event; default: the live database.")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="Published keys (JWK set); needed for a file.")] = None,
    witness: Annotated[Path | None, typer.Option(help="A witness's file of checkpoints.")] = None,
    made_after: Annotated[str | None, typer.Option(help="The file must not be older; ISO time with zone.")] = None,
    json: JsonOption = False,
) -> None:
    """Verify that no event was changed, removed, inserted or moved. Exit status 0 valid, 1 invalid, 2 unreadable."""
    try:
        seen_by = FileWitness(witness) if witness is not None else None
        if witness is not None and not witness.is_file():
            raise AuditError(f"the witness file {witness} cannot be read")
        if export is not None:
            if keys is None:
                raise AuditError("a file is verified with --keys; keys inside it are never trusted")
            oldest = parse_instant(made_after, field="made_after") if made_after else None
            verify_file = verify_proof if is_proof(export) else verify_export
            result: VerifyResult | ProofResult = verify_file(
                export, keys=read_keys(keys), witness=seen_by, made_after=oldest
            )
        else:
            result = _verify_live(keys, seen_by)
    except (AuditError, OSError) as error:
        say(f"unreadable: {error}")
        sys.exit(UNREADABLE)
    show(plain(outcome_of(result)), as_json=json, lines=told(result).splitlines())
    sys.exit(VALID if result.is_valid else INVALID)


@audit.command("prune")
def prune_events(
    export: Annotated[Path, typer.Argument(help="An exported log that holds them: verified first, and kept by you.")],
    older_than: Annotated[int, typer.Option(min=_FEWEST_DAYS, help="Days that events stay in the database.")] = 400,
    reason: Annotated[str, typer.Option(help="Why; it is part of the log.")] = "their time is over",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; tell what would be.")] = False,
    json: JsonOption = False,
) -> None:
    """Remove old events that an export holds. The rest of the log can be proven as before.

    Exit status 0: done, or there was nothing; 1: the export is not valid; 2: unreadable.
    """
    with open_here() as hub:
        now = hub.clock()
        with hub.database.read() as session:
            if recovery_reason(session) is not None:
                raise Conflict("The hub waits for its recovery: until then nothing of the log goes.", rule="recovery")
        try:
            exported = _verified(hub, export)
        except (AuditError, OSError) as error:
            say(f"unreadable: {error}")
            sys.exit(UNREADABLE)
        if not exported.is_valid:
            say(describe(exported))
            sys.exit(INVALID)
        with hub.database.read() as session:
            connection = session.connection()
            before, at_most = decided_through(connection), exported.size - exported.size % TILE_SIZE
            found = removable(connection, before=now - timedelta(days=older_than), at_most=at_most)
        # A removal that was cut off goes on, whatever is asked now.
        through = max(found.through_position, before)
        decision = Decision(through, caller().actor, reason, now) if through > before else None
        try:
            removed = (
                0 if dry_run or through == found.first else _remove(hub, exported, decision, through - found.first)
            )
        except AuditError as error:
            raise Invalid(str(error), field="export", rule="audit.retention") from error
    data = {
        "first": found.first,
        "through": through,
        "newest": found.newest.isoformat(timespec="seconds") if found.newest else None,
        "events": through - found.first,
        "removed": removed,
        "dry_run": dry_run,
    }
    show(data, as_json=json, lines=_pruned_lines(data, older_than=older_than, are_revealed=bool(exported.revealed)))


def _verified(hub: Hub, export: Path) -> VerifyResult:
    """What becomes of an export by the hub's own keys and witness."""
    own = hub.settings.effective_witness_file
    witness = FileWitness(own) if own.is_file() else None
    with _progress() as bar:
        bar.add_task("verifying the export", total=None)
        result = verify_export(export, keys=load_keys(hub.keyring.jwks("checkpoint")), witness=witness)
    if result.is_valid and result.origin != log_origin(hub.settings):
        raise Invalid(f"It is a log of {result.origin}, not of this hub.", field="export", rule="audit.origin")
    return result


def _remove(hub: Hub, exported: VerifyResult, decision: Decision | None, count: int) -> int:
    """Remove what is decided, or was before (None), in transactions of some hundred events between which others write.

    Raises:
        AuditError: the decision cannot be made, or is not sealed yet: the same command goes on then.
    """
    if decision is not None:
        hub.database.run(lambda session: decide(session.connection(), decision, exported=exported, sealer=hub.keyring))
    # It has to be under a checkpoint before anything goes.
    sequence_at_once(hub)
    removed = 0
    with _progress() as bar, bulk_work():
        task = bar.add_task("removing", total=count)
        while some := hub.database.run(lambda session: remove(session.connection())):
            removed += some
            bar.update(task, completed=removed)
    return removed


def _progress() -> Progress:
    return Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def _pruned_lines(data: Mapping[str, Any], *, older_than: int, are_revealed: bool) -> list[str]:
    if not data["events"]:
        return [f"nothing: no 256 events from the beginning are older than {older_than} days and in this export"]
    what = "would be removed" if data["dry_run"] else "removed"
    newest = f", the newest of {data['newest']}" if data["newest"] else ""
    lines = [f"events {data['first']} to {data['through'] - 1} {what}: {data['events']}{newest}"]
    if not are_revealed:
        lines.append("note: the export holds no personal values; those of these events are in no other place")
    if not data["dry_run"]:
        lines.append("keep the export: it alone holds them now. Their place in the database is used again")
    return lines


def _verify_live(keys: Path | None, witness: FileWitness | None) -> VerifyResult:
    with open_here() as hub:
        trusted = read_keys(keys) if keys is not None else load_keys(hub.keyring.jwks("checkpoint"))
        own = hub.settings.effective_witness_file
        seen_by = witness or (FileWitness(own) if own.is_file() else None)
        with hub.database.read() as session:
            connection = session.connection()
            return verify_database(connection, trusted, seen_by, sealer=hub.keyring, now=hub.clock())
