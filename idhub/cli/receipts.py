"""`idhub receipt`: show, export, verify."""

import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from audit.errors import AuditError
from audit.events import EventType
from audit.verify import ProofResult, read_keys, verify_proof
from idhub.cli.console import JsonOption, app, open_here, plain, say, show, table
from idhub.directory.people import find_person
from idhub.errors import Conflict, NotFound
from idhub.lifecycle.receipt_document import Unreadable, Verdict, verify
from idhub.lifecycle.receipts import ReceiptView, current, export, find_case

receipt = typer.Typer(help="Receipts of offboardings.", no_args_is_help=True)
app.add_typer(receipt, name="receipt")
CaseArgument = Annotated[str, typer.Argument(help="Receipt number, case id, or the person.")]
VALID, INVALID, UNREADABLE = 0, 1, 2


def _load(case: str) -> ReceiptView:
    with open_here() as hub, hub.database.read() as session:
        try:
            case_id = find_case(session, case)
        except NotFound:
            try:
                case_id = find_case(session, find_person(session, case))
            except (NotFound, Conflict) as error:
                raise NotFound(f"There is no receipt {case!r}.", field="case", rule="receipt.unknown") from error
        return current(session, case_id, now=hub.clock())


@receipt.command("show")
def show_one(case: CaseArgument, json: JsonOption = False) -> None:
    """Show a receipt as it stands: a row per account with evidence grade, required grade and times."""
    view = _load(case)
    data = {**plain(view), "complete": view.is_complete, "done": view.done, "total": len(view.rows)}
    rows = [
        [
            row.application_name,
            row.channel,
            f"E{row.grade}",
            f"E{row.required_grade}",
            row.state,
            (row.sent_at or "-")[11:19],
            (row.finished_at or "-")[11:19],
            row.note or row.error or "",
        ]
        for row in view.rows
    ]
    head = ("application", "channel", "grade", "required", "state", "sent", "finished", "note")
    state = "complete" if view.is_complete else f"open, {view.done} of {len(view.rows)} rows done"
    lines = [
        f"{view.number}  version {view.version}  {state}",
        f"nothing here worked any more at {view.local_done_at.isoformat() if view.local_done_at else 'a time to come'}",
        *table(rows, head),
    ]
    show(data, as_json=json, lines=lines)


@receipt.command("export")
def export_one(case: CaseArgument) -> None:
    """Print the signed receipt: the file that anybody can verify."""
    sys.stdout.buffer.write(export(_load(case)))


@receipt.command("verify")
def verify_file(
    file: Annotated[Path, typer.Argument(help="An exported receipt.")],
    keys: Annotated[Path, typer.Option(help="The hub's published keys (JWK set); keys in the file are never used.")],
    proof: Annotated[
        Path | None, typer.Option(help="What `idhub audit prove RECEIPT` printed: that the log holds this version.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Verify a receipt with the published keys and nothing else. Exit status 0 valid, 1 invalid, 2 unreadable."""
    try:
        logged = verify_proof(proof, keys=read_keys(keys)) if proof is not None else None
        # What the proof is of is looked at below, by the digest of what was signed.
        verdict = verify(_bytes_of(file), _keys_of(keys), is_logged=logged is not None)
    except (Unreadable, AuditError) as error:
        say(f"unreadable: {error}")
        sys.exit(UNREADABLE)
    problems = [*verdict.problems, *_problems_of(logged, verdict)]
    data = {
        "valid": not problems,
        "problems": problems,
        "kid": verdict.kid,
        "number": verdict.claims.get("number"),
        "version": verdict.claims.get("version"),
        "complete": verdict.claims.get("complete"),
        "as_of": verdict.claims.get("as_of"),
        "position": logged.position if logged is not None else None,
    }
    if not problems:
        state = "complete" if data["complete"] else "open"
        lines = [f"valid: {data['number']} version {data['version']}, {state} as of {data['as_of']}, key {verdict.kid}"]
        if logged is not None:
            lines.append(
                f"in the log: at {logged.position} of {logged.origin}, below the checkpoint of {logged.signed_at}"
            )
    else:
        lines = [f"INVALID: {problem}" for problem in problems]
    show(data, as_json=json, lines=lines)
    sys.exit(INVALID if problems else VALID)


def _problems_of(logged: ProofResult | None, verdict: Verdict) -> list[str]:
    """What is wrong with a proof that the log holds this receipt."""
    if logged is None or not verdict.is_valid:
        return []
    if not logged.is_valid:
        return [f"the proof: {one.text}" for one in logged.findings]
    details = logged.event.get("details", {})
    if logged.event.get("type") != EventType.RECEIPT_ISSUED or details.get("number") != verdict.claims.get("number"):
        return ["the proof is of another event, not of this receipt"]
    if details.get("sha256") != verdict.sha256:
        return [f"the proof is of version {details.get('version')}, or of a receipt that says something else"]
    return []


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Unreadable(f"{file}: {error.strerror}") from error


def _keys_of(file: Path) -> dict[str, Any]:
    try:
        keys = orjson.loads(_bytes_of(file))
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"the key file {file} is not JSON") from error
    if not isinstance(keys, dict):
        raise Unreadable(f"the key file {file} is not a JWK set")
    return keys
