"""Runs that end before their end: found soon, on whatever host, and waited for by nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from idhub.db import new_id
from idhub.directory.kinds import Standing
from idhub.directory.tables import Organization
from idhub.errors import Conflict, Unavailable
from idhub.lifecycle import hr_runs
from idhub.lifecycle.hr_release import approve, carry_out, has_work, held_groups
from idhub.lifecycle.hr_runs import SILENCE, Pulse
from idhub.lifecycle.tables import SourceRun
from idhub.settings import Settings
from tests.lifecycle.hr_hub import HR, Hub, people, person

_PROGRAM = """
import sys, time
from pathlib import Path

from idhub.changes import COMMAND_LINE
from idhub.lifecycle.hr_import import import_file
from idhub.services import open_hub
from idhub.settings import load_settings

def progress(rows):
    print(rows, flush=True)
    time.sleep(600)

hub = open_hub(load_settings(None))
import_file(
    hub.database, Path(sys.argv[1]), keyring=hub.keyring, snapshot=True, dry_run=False, now=hub.clock(),
    actor=COMMAND_LINE, progress=progress, allow_replay=True,
)
"""


def held(hub: Hub) -> tuple[str, Any, Any]:
    """A run that holds the leaves of 30 people; and two of another company who may release them."""
    others = [person(number, company="柏林") for number in ("00001", "00002")]
    hub.read(*people(32), *others)
    hub.clock.advance(timedelta(hours=1))
    report = hub.read(*people(2), *others)
    assert report.quarantined == 30
    return report.run_id, hub.approver("00001", "柏林"), hub.approver("00002", "柏林")


def states(hub: Hub) -> list[str]:
    """Of the runs, newest first."""
    with hub.database.read() as session:
        return [run.state for run in hr_runs.last_runs(session, now=hub.clock())]


def begun(hub: Hub, within: frozenset[str] | None = None, *, every: float = 60) -> Pulse:
    """A newer run. It is under way while one is in its block."""
    return Pulse(
        hub.database, new_id("run"), is_snapshot=True, digest="", within=within, actor=HR, now=hub.clock(),
        request_id=None, every=every,
    )  # fmt: skip


def killed(hub: Hub) -> None:
    """A newer run whose process was killed now: nothing is said of it any more."""
    begun(hub)


def finish(hub: Hub) -> None:
    """What is under way has come to its end."""
    with hub.database.transaction() as session:
        session.execute(update(SourceRun).where(SourceRun.finished_at.is_(None)).values(finished_at=hub.clock()))


def test_release_does_not_wait_for_an_import_whose_process_was_killed(hub: Hub, settings: Settings) -> None:
    run, one, other = held(hub)
    hub.release(run, one)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IDHUB_")}
    environment |= {
        "IDHUB_DATA_DIR": str(settings.data_dir),
        "IDHUB_DATABASE_URL": hub.database.url,
        "IDHUB_MASTER_KEY_FILE": str(settings.effective_master_key_file),
        "IDHUB_ISSUER": "http://127.0.0.1:9",
        "IDHUB_LOG_LEVEL": "error",
    }
    others = [person(number, company="柏林") for number in ("00001", "00002")]
    path = hub.write(*people(2), *others)
    process = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(path)], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with hub.database.read() as session:
        began_at = session.execute(select(SourceRun.seen_at).order_by(SourceRun.id.desc()).limit(1)).scalar_one()
    assert began_at is not None
    hub.clock.now = began_at + timedelta(seconds=1)
    assert states(hub)[0] == "under way"
    with pytest.raises(Conflict, match="newer file"):
        hub.release(run, other)
    hub.clock.advance(SILENCE)
    assert states(hub)[0] == "broken off"
    assert hub.release(run, other).left == 30
    assert hub.standing("00020") == Standing.LEFT


def test_worker_carries_out_what_waited_for_a_killed_import_and_the_log_says_that_it_ended(hub: Hub) -> None:
    run, one, other = held(hub)
    with hub.database.transaction() as session:
        companies = [group.organization_id for group in held_groups(session, run_id=run)]
        for who in (one, other):
            approve(session, run, companies, approver=who, now=hub.clock())
    killed(hub)
    finished = hub.events("import.finished")
    assert carry_out(hub.database, hub.keyring, now=hub.clock()) == 0
    hub.clock.advance(SILENCE)
    assert carry_out(hub.database, hub.keyring, now=hub.clock()) == 30
    assert hub.events("import.finished") == finished + 1
    assert carry_out(hub.database, hub.keyring, now=hub.clock()) == 0
    assert hub.events("import.finished") == finished + 1


def test_killed_import_is_work_for_the_worker_until_it_is_noted(hub: Hub) -> None:
    hub.read(*people(2))
    killed(hub)
    assert not has_work(hub.database, now=hub.clock())
    hub.clock.advance(SILENCE)
    assert has_work(hub.database, now=hub.clock())
    carry_out(hub.database, hub.keyring, now=hub.clock())
    assert not has_work(hub.database, now=hub.clock())
    assert states(hub) == ["broken off", "finished"]


def test_release_waits_no_moment_for_an_import_that_failed(hub: Hub) -> None:
    run, one, other = held(hub)
    hub.release(run, one)

    def broken(_rows: int) -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        hub.read(*people(32), progress=broken)
    assert states(hub)[0] == "broken off"
    assert hub.release(run, other).left == 30


def test_run_that_says_that_it_goes_on_is_waited_for_however_long_it_takes(hub: Hub) -> None:
    run, one, _other = held(hub)
    with begun(hub, every=0.02):
        with hub.database.read() as session:
            first = session.execute(select(SourceRun.seen_at).order_by(SourceRun.id.desc()).limit(1)).scalar_one()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with hub.database.read() as session:
                query = select(SourceRun.seen_at).order_by(SourceRun.id.desc()).limit(1)
                if session.execute(query).scalar_one() != first:
                    break
        else:
            pytest.fail("it said nothing")
        with hub.database.transaction() as session:
            # Begun long ago, and heard of now.
            session.execute(
                update(SourceRun).where(SourceRun.finished_at.is_(None)).values(started_at=hub.clock() - SILENCE * 90)
            )
        with pytest.raises(Conflict, match="newer file"):
            hub.release(run, one)


def test_run_that_was_silent_and_lives_gives_up_and_leaves_nobody_go(hub: Hub) -> None:
    """What it passed over as unchanged was let go meanwhile."""
    run, one, other = held(hub)
    hub.release(run, one)

    def meanwhile(_rows: int) -> None:
        hub.clock.advance(SILENCE + timedelta(seconds=1))
        assert hub.release(run, other).left == 30

    others = [person("00001", company="柏林")]
    with pytest.raises(Unavailable, match="Import the file again"):
        hub.read(*people(32), *others, progress=meanwhile, allow_replay=True)
    assert states(hub)[0] == "broken off"
    assert hub.standing("00002", "柏林") == Standing.ACTIVE
    hub.read(*people(32), *others, allow_replay=True)
    assert hub.standing("00020") == Standing.ACTIVE


def test_run_hears_at_its_next_word_that_it_was_taken_for_ended(hub: Hub) -> None:
    hub.read(*people(2))
    with pytest.raises(Unavailable), begun(hub, every=0.02) as pulse:
        pulse.check()
        with hub.database.transaction() as session:
            hr_runs.end_silent(session, now=hub.clock() + SILENCE * 2)
        for _ in range(1_000):
            pulse.check()
            time.sleep(0.02)


def test_release_waits_for_no_file_that_may_not_speak_for_its_company(hub: Hub) -> None:
    run, one, other = held(hub)
    hub.release(run, one)
    with hub.database.read() as session:
        ids = {row.name: row.id for row in session.execute(select(Organization.name, Organization.id))}
    with begun(hub, frozenset({ids["总部"], ids["柏林"]})), pytest.raises(Conflict):
        hub.release(run, other)
    finish(hub)
    with begun(hub, frozenset({ids["柏林"]})):
        assert hub.release(run, other).left == 30


def test_what_is_approved_waits_for_no_file_that_may_not_speak_for_its_company(hub: Hub) -> None:
    run, one, other = held(hub)
    with hub.database.transaction() as session:
        ids = {row.name: row.id for row in session.execute(select(Organization.name, Organization.id))}
        for who in (one, other):
            approve(session, run, [ids["总部"]], approver=who, now=hub.clock())
    with begun(hub, frozenset({ids["总部"]})):
        assert carry_out(hub.database, hub.keyring, now=hub.clock()) == 0
    finish(hub)
    with begun(hub, frozenset({ids["柏林"]})):
        assert carry_out(hub.database, hub.keyring, now=hub.clock()) == 30


@pytest.mark.parametrize(("ago", "state"), [(timedelta(minutes=59), "under way"), (timedelta(hours=1), "broken off")])
def test_run_of_the_version_before_has_an_hour(hub: Hub, ago: timedelta, state: str) -> None:
    """It does not say that it goes on."""
    hub.read(*people(2))
    killed(hub)
    began = {"seen_at": None, "started_at": hub.clock() - ago}
    with hub.database.transaction() as session:
        session.execute(update(SourceRun).where(SourceRun.finished_at.is_(None)).values(began))
    assert states(hub)[0] == state
    with hub.database.read() as session:
        assert len(hr_runs.open_after(session, "", now=hub.clock())) == (state == "under way")


@pytest.mark.parametrize(("ahead", "state"), [(timedelta(seconds=60), "under way"), (timedelta(hours=2), "broken off")])
def test_word_from_a_clock_that_was_wrong_holds_nothing_back(hub: Hub, ahead: timedelta, state: str) -> None:
    hub.read(*people(2))
    killed(hub)
    with hub.database.transaction() as session:
        session.execute(
            update(SourceRun).where(SourceRun.finished_at.is_(None)).values(seen_at=hub.clock() + ahead)
        )  # fmt: skip
    assert states(hub)[0] == state
    with hub.database.read() as session:
        assert hr_runs.has_silent(session, now=hub.clock()) == (state == "broken off")


def test_dry_run_is_no_run(hub: Hub, tmp_path: Path) -> None:
    hub.read(*people(2), dry_run=True)
    assert states(hub) == []
