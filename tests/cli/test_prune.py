"""`idhub audit prune`: old events go once an export holds them, and the log can be proven all the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from audit.checkpoint import load_keys
from audit.retention import Decision, decide
from audit.verify import verify_export
from idhub.changes import SYSTEM, Event, EventType, record
from idhub.services import open_hub
from idhub.settings import Settings
from tests.cli.conftest import Command

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=500)


def _append(command: Command, count: int, at: datetime) -> None:
    """Events of a hub that has run for so long."""
    hub = open_hub(Settings(data_dir=command.folder / "data"))
    try:
        with hub.database.transaction() as session:
            record(
                session,
                [
                    Event(
                        type=EventType.HUB_STARTED,
                        at=at + timedelta(seconds=number),
                        actor=SYSTEM,
                        door="system",
                        target_kind="node",
                        target_id=f"n{number}",
                        personal={"name": "张三"},
                    )
                    for number in range(count)
                ],
            )
    finally:
        hub.close()


@pytest.fixture
def old(idhub: Command) -> Command:
    """600 events of last year, then some of today."""
    assert idhub("doctor").code in {0, 1}
    _append(idhub, 600, OLD)
    _append(idhub, 300, NOW - timedelta(minutes=10))
    return idhub


def _export(command: Command, *arguments: str) -> str:
    done = command("audit", "export", *arguments)
    assert done.code == 0, done.err
    return str(command.write("log.jsonl", done.out))


def test_old_events_go_once_an_export_holds_them(old: Command) -> None:
    log = _export(old, "--reveal")
    told = old("audit", "prune", log, "--dry-run", "--json")
    assert (told.code, told.json["events"], told.json["removed"]) == (0, 512, 0), told
    assert told.json["newest"] < NOW.isoformat()
    assert old("audit", "prune", log, "--older-than", "600").out.startswith("nothing: ")

    done = old("audit", "prune", log, "--reason", "the year is over")
    assert done.code == 0, done
    assert done.out.startswith("events 0 to 511 removed: 512, the newest of ")
    assert "no personal values" not in done.out
    verified = old("audit", "verify", "--json").json
    assert (verified["valid"], verified["withheld"]) == (True, 512)
    (event,) = old("audit", "search", "--action", "audit.pruned", "--json").json["events"]
    assert event["details"] == {"through_position": 512, "reason": "the year is over"}
    assert old("audit", "prune", log).out.startswith("nothing: "), "they are gone already"
    # What is exported from now on says what it lacks, and holds for the next time.
    _append(old, 300, NOW)
    again = _export(old)
    assert old("audit", "prune", again, "--json").json["removed"] == 0


def test_nothing_goes_without_a_valid_export_of_this_log(old: Command) -> None:
    log = Path(_export(old))
    text = log.read_text()
    assert "no personal values" in old("audit", "prune", str(log), "--dry-run").out
    changed = old.write("changed.jsonl", text.replace('"target":{"id":"n3"', '"target":{"id":"n4"', 1))
    assert changed.read_text() != text
    done = old("audit", "prune", str(changed))
    assert (done.code, done.out) == (1, "") and "INVALID" in done.err, done
    for path in ("nothing.jsonl", str(old.write("junk", b"\xff\x00"))):
        done = old("audit", "prune", path)
        assert done.code == 2 and done.err.startswith("unreadable: "), done
    assert old("audit", "prune", str(log), "--older-than", "100").code == 2, "the law wants six months"
    verified = old("audit", "verify", "--json").json
    assert (verified["valid"], verified["withheld"]) == (True, 0)


def test_a_removal_that_was_cut_off_goes_on(old: Command) -> None:
    log = Path(_export(old))
    hub = open_hub(Settings(data_dir=old.folder / "data"))
    try:
        exported = verify_export(log, keys=load_keys(hub.keyring.jwks("checkpoint")))
        with hub.database.transaction() as session:
            decision = Decision(256, SYSTEM, "began", NOW)
            decide(session.connection(), decision, exported=exported, sealer=hub.keyring)
    finally:
        hub.close()
    assert old("audit", "prune", str(log), "--older-than", "600", "--json").json["removed"] == 256
    assert old("audit", "verify", "--json").json["withheld"] == 256


def test_a_decision_that_is_not_sealed_yet_is_told_and_goes_on_later(
    old: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _export(old)
    with monkeypatch.context() as nobody_seals:
        # The command runs in a fork of this process. Another has the sequencer's lease, and stands still.
        nobody_seals.setattr("idhub.cli.audit.sequence_at_once", lambda _hub: None)
        done = old("audit", "prune", log)
    assert done.code == 1 and done.err.startswith("error [export]: the decision has no checkpoint over it yet"), done
    assert old("audit", "prune", log, "--json").json["removed"] == 512
