"""The process that takes in HR files brought by a page: begun by the worker, killed, begun anew, bounded."""

import os
import signal
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import func, select, update

from idhub.authority import HubRole, assign_role
from idhub.changes import COMMAND_LINE, Actor
from idhub.db import Database, new_id
from idhub.directory.kinds import EmploymentType
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Employment, Installation
from idhub.errors import Unavailable
from idhub.hr_process import HrProcess
from idhub.lifecycle import hr_uploads, intake
from idhub.lifecycle.tables import HrUpload, HrUploadPart
from idhub.lifecycle.transition import transition
from idhub.services import Hub, open_hub
from idhub.settings import Settings
from providers.hr_file import COLUMNS
from tests.delivery.servers import until
from tests.support.processes import is_there
from tests.support.working import with_worker

LONG = 120
HR = Actor(kind="person", id="per_hr", name="沈佳宁")


@pytest.fixture
def hub(database: Database, settings: Settings) -> Iterator[Hub]:
    """A hub with somebody of HR."""
    opened = open_hub(settings)
    now = datetime.now(UTC)
    with opened.database.transaction() as session:
        root = root_organization(session)
        post = intake.EmploymentFacts(
            organization_id=root, employee_number="1", type=EmploymentType.REGULAR, starts_on=date(2020, 1, 1)
        )
        person = intake.PersonFacts(display_name=HR.name, given_name=None, family_name=None, email=None, mobile=None)
        wish = intake.Onboard(principal_id=HR.id, person=person, employment=post)
        transition(session, [wish], now=now, actor=COMMAND_LINE, door="cli")
        assign_role(session, HR.id, HubRole.HR, organization_id=root, now=now, assigned_by="test")
    try:
        yield opened
    finally:
        opened.close()


def bring(hub: Hub, rows: int, *, confirmed: bool = False) -> str:
    """A file of so many new people of one company."""
    head = list(COLUMNS)
    lines = [",".join(head)]
    for n in range(rows):
        said = {
            "employee_number": f"N{n}", "name": f"人{n}", "company": "新公司", "department": "部门",
            "employment_type": "regular", "start_date": "2026-01-05", "status": "active",
        }  # fmt: skip
        lines.append(",".join(said.get(name, "") for name in head))
    upload_id = hr_uploads.receive(
        hub.database, hub.keyring, ("\n".join(lines) + "\n").encode(), file_name="hr.csv", is_snapshot=True, by=HR,
        now=hub.clock(), request_id=None,
    )  # fmt: skip
    if confirmed:
        assert hr_uploads.work_next(hub.database, hub.keyring, clock=hub.clock)
        confirm(hub, upload_id)
    return upload_id


def confirm(hub: Hub, upload_id: str) -> None:
    with hub.database.transaction() as session:
        hr_uploads.confirm(session, upload_id, by=HR, now=hub.clock(), request_id=None)


def row(hub: Hub, upload_id: str) -> HrUpload:
    with hub.database.read() as session:
        return session.execute(select(HrUpload).where(HrUpload.id == upload_id)).scalar_one()


def count(hub: Hub, what: Any) -> int:
    with hub.database.read() as session:
        return session.execute(select(func.count()).select_from(what)).scalar_one()


def test_file_is_previewed_and_taken_in_by_a_process_that_ends_then(hub: Hub) -> None:
    process, pids = HrProcess(hub.settings, hub.database), set[int]()

    async def story() -> None:
        upload_id = bring(hub, 12_000)
        await until(lambda: process.pid is not None, seconds=LONG)
        pids.add(process.pid or 0)
        await until(lambda: row(hub, upload_id).state == "previewed", seconds=LONG)
        assert row(hub, upload_id).preview["new"] == 12_000
        confirm(hub, upload_id)
        await until(lambda: row(hub, upload_id).state == "done", seconds=LONG)
        assert count(hub, Employment) == 12_001
        assert count(hub, HrUploadPart) == 0
        await until(lambda: process.pid is None, seconds=LONG)

    with_worker(hub, story, importer=process)
    assert not any(is_there(pid) for pid in pids)


def test_import_goes_on_after_its_process_was_killed_and_after_the_hub_ended(
    hub: Hub,
) -> None:
    upload_id = bring(hub, 12_000, confirmed=True)
    first, second = HrProcess(hub.settings, hub.database), HrProcess(hub.settings, hub.database)
    seen: list[int] = []

    async def begun(process: HrProcess) -> None:
        await until(lambda: count(hub, Employment) > 1 or row(hub, upload_id).state == "done", seconds=LONG)
        seen.append(process.pid or 0)

    async def killed() -> None:
        await begun(first)
        os.kill(seen[0], signal.SIGKILL)
        await until(lambda: first.pid is None, seconds=LONG)

    async def goes_on() -> None:
        await until(lambda: row(hub, upload_id).state == "done", seconds=LONG)

    with_worker(hub, killed, importer=first)
    assert row(hub, upload_id).state == "confirmed"
    with_worker(hub, goes_on, importer=second)

    assert count(hub, Employment) == 12_001
    assert row(hub, upload_id).attempts == 2
    assert not is_there(seen[0])


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_process_ends_with_the_hub(hub: Hub) -> None:
    upload_id = bring(hub, 12_000, confirmed=True)
    process, pids = HrProcess(hub.settings, hub.database), list[int]()

    async def story() -> None:
        await until(lambda: count(hub, Employment) > 1, seconds=LONG)
        pids.append(process.pid or 0)

    with_worker(hub, story, importer=process)
    assert process.pid is None
    assert pids[0] and not is_there(pids[0])
    process.look()
    assert process.pid is None
    assert row(hub, upload_id).state in {"confirmed", "done"}


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_process_that_takes_too_long_is_ended(hub: Hub) -> None:
    bring(hub, 10)
    process = HrProcess(hub.settings, hub.database, longest=0.0)
    process.look()
    pid = process.pid
    assert pid
    process.look()

    assert process.pid is None
    assert not is_there(pid)
    process.look()
    assert process.pid is None, "not again at once"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_lay_here_before_a_backup_was_restored_is_not_taken_in(hub: Hub) -> None:
    upload_id = bring(hub, 10, confirmed=True)
    with hub.database.transaction() as session:
        session.execute(update(Installation).values(epoch=Installation.epoch + 1))
    assert hr_uploads.work_next(hub.database, hub.keyring, clock=hub.clock)

    assert row(hub, upload_id).state == "expired"
    assert count(hub, Employment) == 1


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_parts_are_bound_to_their_place(hub: Hub) -> None:
    first, second = bring(hub, 10), new_id("upl")
    with hub.database.transaction() as session:
        sealed = session.execute(select(HrUploadPart.sealed).where(HrUploadPart.upload_id == first)).scalar_one()

    with pytest.raises(Unavailable):
        hub.keyring.open(f"hr_upload_parts:{second}:0", sealed)
