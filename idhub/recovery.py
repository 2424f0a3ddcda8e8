"""Recovery mode: the hub finds itself behind its witness, as after restoring a backup.

A restored database is a past: people who have left since are there again, and what was sent since is not known. So
every process, before anything else, compares the log with its witness (`enter_when_behind`). Behind or forked, the
installation epoch goes up, so that nothing issued before works; nobody signs in, deliveries are held, and the log is
not sealed, until somebody has seen the `preview` and decided (`leave`).

What is known of the lost time comes from an export of the log that outlived it (`lost_time`): every end that can be is
made again, so that nothing that ended works again. The log goes on from where the backup stood; a note signed for the
witness says so for ever.
"""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from audit.checkpoint import (
    Checkpoint,
    Ed25519Signer,
    FileWitness,
    Witness,
    WitnessComparison,
    compare_with_witness,
    load_keys,
    sign_checkpoint,
)
from audit.errors import AuditError, ForeignLog, InvalidNote
from audit.events import from_micros
from audit.tables import audit_events
from audit.tiles import read_head
from audit.verify import describe, verify_export_of
from idhub.authority import HubRole, remove_role
from idhub.changes import SYSTEM, Event, EventType, record
from idhub.db import Database
from idhub.directory.kinds import EmploymentState
from idhub.directory.organizations import recovery_reason
from idhub.directory.tables import Installation, Principal
from idhub.errors import Conflict, Invalid
from idhub.keys import Keyring, load_keyring, revoke
from idhub.lost_time import PostWord, Preview, folded, is_here

if TYPE_CHECKING:
    from idhub.lifecycle.commands import Caller

_LOG = structlog.get_logger("idhub.recovery")
_REASON = "Restored backup: left according to the exported log."
_SCHEDULED = "Restored backup: to leave then according to the exported log."
_UNKNOWN_LOSS = 10_000
"""Events that are taken for lost where nothing says how many are."""
_TAKEN = "Restored backup: held or ended according to the exported log."


@dataclass(frozen=True, slots=True)
class Log:
    """The log of this installation and its witness on this machine."""

    database: Database
    keyring: Keyring
    witness_file: Path
    origin: str

    def compare(self) -> WitnessComparison:
        """How the log stands to what the witness has seen.

        Raises:
            InvalidNote: the witness holds what no key of this installation signed.
        """
        # First the witness, then the log: what is sealed in between must not look missing.
        witness = FileWitness(self.witness_file).as_of_now()
        keys = load_keys(self.keyring.jwks("checkpoint"))
        with self.database.read() as session:
            return compare_with_witness(read_head(session.connection()), witness, keys=keys, origin=self.origin)


def enter_when_behind(log: Log, *, now: datetime) -> None:
    """Compare the log with its witness; enter recovery mode when events that were witnessed are not here.

    A witness file that is not there says nothing (`witness_of`); one of another log is logged and left alone.
    """
    if not log.witness_file.exists():
        return
    try:
        compared = log.compare()
        if compared.state in ("behind", "forked") and _tell_of_earlier_recoveries(log):
            compared = log.compare()
    except ForeignLog as error:
        _LOG.error("recovery.foreign_witness", detail=str(error))
        return
    except InvalidNote as error:
        # A checkpoint key that was made after the backup: what it signed is not here either.
        enter(log.database, f"The witness cannot be matched: {error}.", now=now)
        return
    if compared.state in ("behind", "forked"):
        said = f"The log does not hold what its witness has seen: {compared.detail}."
        missing = compared.witnessed_size - compared.size if compared.state == "behind" else _UNKNOWN_LOSS
        enter(log.database, said, now=now, lost=missing)


def witness_of(log: Log, *, node: str, clock: Callable[[], datetime]) -> Witness:
    """The witness file, for a process that seals. Where it is not there although there is a log, its beginning is told.

    A fresh installation has no file either, and no log. Where there is one, a restore may have taken place that nothing
    can be compared with: it is in the log, and `idhub doctor` says it.
    """
    witness = FileWitness(log.witness_file)
    try:
        if next(witness.notes(), None) is not None:
            return witness
    except (InvalidNote, OSError):
        # Something is there, which is compared when the hub opens.
        return witness
    with log.database.read() as session:
        size = read_head(session.connection()).size
    if not size:
        return witness
    _LOG.error("recovery.no_witness", witness=log.witness_file.name, size=size)
    return _NewWitness(witness, log.database, size, node, clock)


class _NewWitness:
    """A witness file that is begun anew behind so many events; the first checkpoint in it is an event."""

    def __init__(
        self, witness: FileWitness, database: Database, size: int, node: str, clock: Callable[[], datetime]
    ) -> None:
        self._witness, self._database, self._size, self._node, self._clock = witness, database, size, node, clock
        self._is_told = False
        self.name = witness.name

    def publish(self, note: str, /) -> None:
        """Append a note, and the first time say that it is the first.

        Raises:
            OSError: it cannot be written.
        """
        self._witness.publish(note)
        if self._is_told:
            return
        event = Event(
            type=EventType.WITNESS_BEGUN,
            at=self._clock(),
            actor=SYSTEM,
            door="system",
            target_kind="log",
            target_id="events",
            details={"size": self._size, "node": self._node},
        )
        with self._database.transaction() as session:
            record(session, [event])
        self._is_told = True


def last_new_witness(session: Session) -> tuple[datetime, int] | None:
    """When a witness file was last begun anew, and behind how many events."""
    begun = (
        select(audit_events.c.at, audit_events.c.body)
        .where(audit_events.c.type == EventType.WITNESS_BEGUN.value)
        .order_by(audit_events.c.id.desc())
        .limit(1)
    )
    row = session.execute(begun).first()
    if row is None:
        return None
    return from_micros(row.at), orjson.loads(row.body)["details"]["size"]


def enter(database: Database, reason: str, *, now: datetime, lost: int = _UNKNOWN_LOSS) -> bool:
    """Enter recovery mode: nothing issued before works any more. Returns False when the hub was in it already.

    Args:
        lost: events that are not here. So many cases may have had numbers, under which people hold signed receipts.
    """
    # Imported late: every process looks for a restored backup, hardly any finds one.
    from idhub.lifecycle.cases import skip_numbers

    with database.transaction() as session:
        row = session.execute(select(Installation.epoch, Installation.recovery_reason).with_for_update()).first()
        if row is None or row.recovery_reason is not None:
            return False
        session.execute(update(Installation).values(epoch=row.epoch + 1, recovery_reason=reason[:500]))
        skip_numbers(session, lost, now=now)
        details = {"step": "entered", "reason": reason, "installation_epoch": row.epoch + 1}
        record(session, [_event(details, now=now)])
    _LOG.error("recovery.entered", reason=reason)
    return True


def preview(log: Log, export: Path | None, *, now: datetime, keys: Mapping[str, Any] | None = None) -> Preview:
    """What is lost, and what of it an export of the log lets the hub make again. Writes nothing.

    Args:
        keys: a JWK set that the hub published before and that somebody kept: a checkpoint key that was made since the
            backup is not in it. Who hands it over answers for it.

    Raises:
        Conflict: the hub is not in recovery mode.
        Invalid: the export is not a valid one of this log, or does not begin as the log does.
    """
    with log.database.read() as session:
        reason = recovery_reason(session)
        head = read_head(session.connection())
    if reason is None:
        raise Conflict("The hub is not in recovery mode; there is nothing to recover.", rule="recovery.none")
    try:
        witnessed: int | None = log.compare().witnessed_size
    except InvalidNote:
        witnessed = None
    seen = Preview(reason, head.size, witnessed, head.size)
    if export is None:
        return seen
    _refuse_other_exports(log, export, Checkpoint(log.origin, head.size, head.root, now), keys or {})
    with log.database.read() as session:
        return folded(session, seen, _events(export, start=head.size))


def leave(log: Log, caller: "Caller", seen: Preview, *, now: datetime) -> int:
    """Make what was previewed, then leave recovery mode. Returns how many people changed.

    Every step is a transaction of its own and may be repeated: after a fault, preview and leave once more.

    Raises:
        Conflict: the hub left recovery mode meanwhile.
    """
    # Imported late: every process looks for a restored backup, hardly any finds one.
    from idhub.lifecycle import commands

    changed, words = 0, seen.words()
    for principal_id in seen.leave:
        with log.database.transaction() as session:
            changed += bool(commands.offboard(session, caller, principal_id, now=now, reason=_REASON).left)
    for principal_id in seen.returned:
        with log.database.transaction() as session:
            changed += _leave_and_return(session, caller, principal_id, words.pop(principal_id, []), now=now)
    for principal_id in seen.suspend:
        with log.database.transaction() as session:
            changed += bool(commands.suspend(session, caller, principal_id, now=now, reason=_REASON).changed)
    for principal_id, at in seen.scheduled:
        with log.database.transaction() as session:
            commands.offboard(session, caller, principal_id, now=now, at=datetime.fromisoformat(at), reason=_SCHEDULED)
    for posts in words.values():
        with log.database.transaction() as session:
            changed += _take_posts(session, caller, posts, now=now)
    for principal_id, role in seen.roles:
        _take_role(log.database, caller, principal_id, HubRole(role), now=now)
    for principal_id, provider_id in seen.links:
        with log.database.transaction() as session:
            _take_link(session, caller, principal_id, provider_id, now=now)
    for kid in seen.keys:
        _revoke_key(log, caller, kid, now=now)
    # By a key that counts, should the one that this process began with be among them.
    log = replace(log, keyring=load_keyring(log.database, log.keyring.master, now=now))
    note = _sign_off(log, caller, seen, now=now)
    FileWitness(log.witness_file).publish(note)
    _LOG.warning("recovery.left", size=seen.size, witnessed=seen.witnessed_size, people=changed)
    return changed


def _sign_off(log: Log, caller: "Caller", seen: Preview, *, now: datetime) -> str:
    """End the mode, and sign from where the log goes on. The note is in the event, should the witness not get it."""
    with log.database.transaction() as session:
        locked = session.execute(select(Installation.recovery_reason).with_for_update()).scalar()
        if locked is None:
            raise Conflict("The hub left recovery mode meanwhile.", rule="recovery.none")
        head = read_head(session.connection())
        signer = Ed25519Signer(log.keyring.signing_key("checkpoint").private)
        note = sign_checkpoint(Checkpoint(log.origin, head.size, head.root, now, "recovery"), signer)
        session.execute(update(Installation).values(recovery_reason=None))
        details = {
            "step": "left",
            "size": head.size,
            "witnessed_size": seen.witnessed_size,
            "known_through": seen.known_through,
            "people_left": len(seen.leave),
            "people_suspended": len(seen.suspend),
            "people_returned": len(seen.returned),
            "leaves_scheduled": len(seen.scheduled),
            "posts_ended": len(seen.posts),
            "roles_taken": len(seen.roles),
            "links_taken": len(seen.links),
            "keys_revoked": len(seen.keys),
            "note": base64.b64encode(note.encode()).decode(),
        }
        record(session, [_event(details, now=now, caller=caller)])
    return note


def _tell_of_earlier_recoveries(log: Log) -> bool:
    """Give the witness the notes of recoveries that it has not heard of; return whether there were any.

    A crash came between, or another machine recovered: each machine has a witness of its own.
    """
    with log.database.read() as session:
        bodies = session.execute(
            select(audit_events.c.body)
            .where(audit_events.c.type == EventType.HUB_RECOVERY.value)
            .order_by(audit_events.c.id)
        ).scalars()
        notes = [base64.b64decode(note) for body in bodies if (note := orjson.loads(body)["details"].get("note"))]
    witness = FileWitness(log.witness_file)
    held = set(witness.notes())
    missing = [note for note in (one.decode() for one in notes) if note not in held]
    for note in missing:
        witness.publish(note)
    return bool(missing)


def _refuse_other_exports(log: Log, export: Path, here: Checkpoint, kept: Mapping[str, Any]) -> None:
    own = log.keyring.jwks("checkpoint")
    try:
        keys = load_keys({name: [*own.get(name, []), *kept.get(name, [])] for name in ("keys", "revoked")})
        result = verify_export_of(export, keys=keys, beginning=here, origin=log.origin)
    except (AuditError, OSError) as error:
        raise Invalid(f"{export} cannot be read: {error}", field="from", rule="recovery.export") from error
    if not result.is_valid:
        first = describe(result).splitlines()[0]
        raise Invalid(f"{export} is not a valid export of this log: {first}", field="from", rule="recovery.export")


def _events(export: Path, *, start: int) -> Iterator[dict[str, Any]]:
    """Bodies of the events from `start` on; the export has been verified."""
    with export.open("rb") as file:
        for line in file:
            if line.startswith(b'{"position":'):
                value = orjson.loads(line)
                if value["position"] >= start:
                    yield value["body"]


def _leave_and_return(
    session: Session, caller: "Caller", principal_id: str, words: Sequence[PostWord], *, now: datetime
) -> int:
    """The leave, and the posts again into which the person came back: under new epochs, with nothing from before."""
    from idhub.directory.people import show_person
    from idhub.lifecycle import commands

    ended = {word.employment_id for word in words if word.state == EmploymentState.ENDED}
    posts = [post for post in show_person(session, principal_id).employments if post.state != EmploymentState.ENDED]
    if not commands.offboard(session, caller, principal_id, now=now, reason=_REASON).left:
        return 0
    for post in posts:
        if post.id in ended:
            continue
        commands.rehire(
            session, caller, principal_id, organization_id=post.organization_id, employee_number=post.employee_number,
            employment_type=post.type, starts_on=post.starts_on, ends_on=post.ends_on, department_id=post.department_id,
            title=post.title, manager_id=_manager_who_is_here(session, post.manager_id), now=now,
        )  # fmt: skip
    _take_posts(session, caller, [word for word in words if word.employment_id not in ended], now=now)
    return 1


def _take_posts(session: Session, caller: "Caller", words: Sequence[PostWord], *, now: datetime) -> int:
    """End or hold posts of one person as the lost time did. Returns whether something changed."""
    from idhub.lifecycle import intake
    from idhub.lifecycle.transition import transition

    changes: list[intake.Change] = []
    for word in words:
        who: dict[str, Any] = {"principal_id": word.principal_id, "employment_id": word.employment_id}
        if word.state == EmploymentState.ENDED or word.ends_at:
            at = datetime.fromisoformat(word.ends_at) if word.ends_at else None
            changes.append(intake.EndEmployment(**who, at=at, reason=_TAKEN))
        if word.state == EmploymentState.SUSPENDED:
            changes.append(intake.Suspend(**who, reason=_TAKEN))
    # Somebody whose time has come meanwhile cannot be held any more, and need not be: that refusal stands in the log.
    return len(transition(session, changes, now=now, actor=caller.actor, door=caller.door).changed)


def _manager_who_is_here(session: Session, manager_id: str | None) -> str | None:
    standing = session.execute(select(Principal.standing).where(Principal.id == manager_id)).scalar()
    return manager_id if is_here(standing) else None


def _take_link(session: Session, caller: "Caller", principal_id: str, provider_id: str, *, now: datetime) -> None:
    from idhub.login.links import links_of, unlink

    slug = next((link.slug for link in links_of(session, principal_id) if link.id == provider_id), None)
    if slug is not None:
        unlink(session, provider_id, slug, principal_id, actor=caller.actor, door=caller.door, request_id=None, now=now)


def _take_role(database: Database, caller: "Caller", principal_id: str, role: HubRole, *, now: datetime) -> None:
    with database.transaction() as session:
        # Also of the last one: who was named since is not in this database, and the command line names another.
        if remove_role(session, principal_id, role, now=now, keeps_last=False):
            event = Event(
                type=EventType.ROLE_REMOVED,
                at=now,
                actor=caller.actor,
                door=caller.door,
                target_kind="person",
                target_id=principal_id,
                person_id=principal_id,
                reason="recovery",
                details={"role": role.value},
            )
            record(session, [event])


def _revoke_key(log: Log, caller: "Caller", kid: str, *, now: datetime) -> None:
    with log.database.transaction() as session:
        made = revoke(session, log.keyring, kid, now=now)
        event = Event(
            type=EventType.KEY_REVOKED, at=now, actor=caller.actor, door=caller.door, target_kind="key",
            target_id=kid, reason="recovery", details={"made": made},
        )  # fmt: skip
        record(session, [event])


def _event(details: dict[str, Any], *, now: datetime, caller: "Caller | None" = None) -> Event:
    return Event(
        type=EventType.HUB_RECOVERY,
        at=now,
        actor=SYSTEM if caller is None else caller.actor,
        door="system" if caller is None else caller.door,
        target_kind="log",
        target_id="events",
        details=details,
    )
