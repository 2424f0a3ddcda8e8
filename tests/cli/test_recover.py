"""Recovery mode: a real older backup is put back, and the hub notices, holds still and is led out of it."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, cast

import orjson
import psycopg
import pytest
from sqlalchemy import select, update

from idhub.changes import COMMAND_LINE, Event, EventType, record
from idhub.credentials.tables import Password
from idhub.db import JsonText
from idhub.delivery.http import OutboundHttp
from idhub.delivery.receipt_box import has_due
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Employment, IdentityLink, Principal
from idhub.keys import Keyring, Purpose
from idhub.login.invitations import invite, redeem
from idhub.login.links import unlink
from idhub.login.sign_in import Browser
from idhub.login.tables import IdentityProvider
from idhub.services import Hub, open_hub
from idhub.settings import Settings
from idhub.worker import Worker
from tests.cli.conftest import HEADER, Command, command_in
from tests.support.databases import DatabaseKind, Databases
from tests.support.postgres import _programs

PEOPLE = tuple(
    f"QY{n},员工{n},,,p{n}@qiyue.example,,总部,研发,Engineer,,regular,2020-01-01,,active" for n in range(1, 5)
)


class Backup:
    """Takes and puts back a backup by the database's own means."""

    def __init__(self, kind: DatabaseKind, url: str, folder: Path) -> None:
        self._kind, self._url, self._folder = kind, url, folder

    def take(self) -> None:
        if self._kind == "sqlite":
            source, copy = (
                sqlite3.connect(self._folder / "data" / "idhub.db"),
                sqlite3.connect(self._folder / "copy.db"),
            )
            source.backup(copy)
            source.close()
            copy.close()
        else:
            self._run("pg_dump", "--format=custom", f"--file={self._folder / 'copy.dump'}", self._url)

    def put_back(self) -> None:
        if self._kind == "sqlite":
            for path in (self._folder / "data").glob("idhub.db*"):
                path.unlink()
            shutil.copy(self._folder / "copy.db", self._folder / "data" / "idhub.db")
        else:
            with psycopg.connect(self._url, autocommit=True) as connection:
                connection.execute("DROP SCHEMA public CASCADE")
                connection.execute("CREATE SCHEMA public")
            self._run("pg_restore", f"--dbname={self._url}", str(self._folder / "copy.dump"))

    @staticmethod
    def _run(program: str, *arguments: str) -> None:
        done = subprocess.run([_programs() / program, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0 or 'schema "public" already exists' in done.stderr, done.stderr


Staffing = Callable[[DatabaseKind], tuple[Path, str]]


@pytest.fixture(scope="session")
def staffing(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Staffing:
    """A folder and a database in which four people were imported, made once of a kind, to be copied."""

    @cache
    def made(kind: DatabaseKind) -> tuple[Path, str]:
        name, folder = "template_recover", tmp_path_factory.mktemp("recover")
        url = _sqlite_in(folder) if kind == "sqlite" else databases.server.create(name)
        idhub = at(folder, url)
        assert idhub("people", "import", str(idhub.hr_file(*PEOPLE))).code == 0
        for number in ("QY1", "QY4"):
            assert idhub("role", "assign", number, "administrator").code == 0
        assert idhub("audit", "export").code == 0
        return folder, name

    return made


def _sqlite_in(folder: Path) -> str:
    return f"sqlite:///{folder / 'data' / 'idhub.db'}"


def at(folder: Path, url: str) -> Command:
    """The command in a folder, on the database of that address."""
    here = command_in(folder)
    return Command(folder, {**here.environment, "IDHUB_DATABASE_URL": url})


@pytest.fixture
def hub(
    staffing: Staffing, database_kind: DatabaseKind, databases: Databases, tmp_path: Path
) -> Iterator[tuple[Command, Backup]]:
    """A hub with four people, and the means to set it back."""
    folder, template = staffing(database_kind)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    if database_kind == "sqlite":
        url = _sqlite_in(tmp_path)
        yield at(tmp_path, url), Backup(database_kind, url, tmp_path)
        return
    with databases.copy_of(template) as url:
        yield at(tmp_path, url), Backup(database_kind, url, tmp_path)


def exported(idhub: Command, name: str = "after.jsonl") -> str:
    done = idhub("audit", "export")
    assert done.code == 0, done.err
    return str(idhub.write(name, done.out))


def standing(idhub: Command, number: str) -> str:
    return str(idhub("people", "show", number, "--json").json["standing"])


def set_back(hub: tuple[Command, Backup], meanwhile: Callable[[Command], Any]) -> str:
    """What happens to a hub between a backup and its return; the path of the last export of the lost time."""
    idhub, backup = hub
    backup.take()
    meanwhile(idhub)
    export = exported(idhub)
    backup.put_back()
    return export


def a_busy_day(idhub: Command) -> None:
    assert idhub("offboard", "QY2").code == 0
    assert idhub("suspend", "QY3").code == 0
    assert idhub("role", "remove", "QY4", "administrator").code == 0


def test_a_restored_backup_is_noticed_and_led_out_of(hub: tuple[Command, Backup]) -> None:
    idhub, _ = hub
    export = set_back(hub, a_busy_day)

    past = idhub("people", "show", "QY2", "--json")
    assert past.json["standing"] == "active"
    assert "recovery.entered" in past.err
    assert "witnessed events are missing" in reason(idhub)

    blind = idhub("recover", "--json").json
    assert (blind["leave"], blind["done"], blind["known_through"]) == ([], False, blind["size"])
    assert blind["witnessed_size"] > blind["size"]
    seen = idhub("recover", "--from", export, "--json").json
    assert seen["leave"] == [past.json["id"]]
    assert (len(seen["suspend"]), [role for _, role in seen["roles"]]) == (1, ["administrator"])
    assert seen["known_through"] == seen["witnessed_size"]

    other = idhub("recover", "--from", export, "--plan", blind["plan"])
    assert (other.code, "not the plan that was shown" in other.err) == (1, True)
    done = idhub("recover", "--from", export, "--plan", seen["plan"], "--json")
    assert (done.code, done.json["people_changed"]) == (0, 2), done.err

    assert [standing(idhub, n) for n in ("QY2", "QY3")] == ["left", "suspended"]
    assert "was not administrator" in idhub("role", "remove", "QY4", "administrator").out
    assert reason(idhub) == "not in recovery mode"

    # The log goes on; what was lost is said by whoever has the witness, from now on.
    live = idhub("audit", "verify", "--json")
    assert (live.code, live.json["findings"]) == (0, [])
    assert [(start, end) for start, end, _ in live.json["lost"]] == [(blind["size"], seen["witnessed_size"])]
    found = idhub("audit", "search", "--action", "hub.recovery", "--json").json["events"]
    assert [one["details"]["step"] for one in found] == ["left", "entered"]


@pytest.mark.parametrize("is_witnessed", [True, False])
def test_no_two_receipts_that_people_hold_have_one_number(hub: tuple[Command, Backup], is_witnessed: bool) -> None:
    """A receipt of the lost time is signed, and whoever was given it has it still."""
    idhub, _ = hub
    lost: list[str] = []

    def busy(idhub: Command) -> None:
        for number in ("QY2", "QY3"):
            assert idhub("offboard", number).code == 0
            lost.append(idhub("receipt", "show", number, "--json").json["number"])

    set_back(hub, busy)
    if not is_witnessed:
        (idhub.folder / "data" / "witness.log").unlink()
        assert idhub("recover", "--enter", "the machine was set back").code == 0
    # The other of the two, and while nothing is decided yet.
    assert idhub("offboard", "QY3").code == 0
    again = idhub("receipt", "show", "QY3", "--json").json["number"]
    assert len({*lost, again}) == 3
    assert again > max(lost)


def test_who_left_and_came_back_gets_nothing_from_before_the_leave(hub: tuple[Command, Backup]) -> None:
    """Invariant 7: the backup is of before the leave, and so are the enrolment, the role and the password in it."""
    idhub, _ = hub
    before = idhub("people", "show", "QY4", "--json").json

    def comes_back(idhub: Command) -> None:
        assert idhub("offboard", "QY4").code == 0
        again = idhub(
            "onboard",
            "--name",
            "员工QY4",
            "--company",
            "总部",
            "--employee-number",
            "QY4",
            "--start-date",
            "2020-01-01",
        )
        assert again.code == 0, again.err

    export = set_back(hub, comes_back)
    seen = idhub("recover", "--from", export, "--json").json
    assert (seen["leave"], seen["returned"]) == ([], [before["id"]])
    done = idhub("recover", "--from", export, "--plan", seen["plan"], "--json")
    assert (done.code, done.json["people_changed"]) == (0, 1), done.err
    after = idhub("people", "show", "QY4", "--json").json
    assert after["standing"] == "active"
    assert after["employments"][0]["department"] == before["employments"][0]["department"]
    assert "QY4" not in idhub("role", "list").out
    with opened(idhub) as here, here.database.read() as session:
        epochs = session.execute(select(Principal.enrolment_epoch).where(Principal.id == before["id"])).scalar_one()
    assert epochs == 2
    assert idhub("audit", "verify").code == 0


def _with_posts(idhub: Command, *posts: tuple[str, str, str, str, str]) -> None:
    """Rows of one human: number, company, first day, last day, status."""
    for number, company, start, end, status in posts:
        row = f"{number},员工2,,,p2@qiyue.example,,{company},研发,Engineer,,regular,{start},{end},{status},SAME"
        file = idhub.write("posts.csv", f"{HEADER},national_id\n{row}\n")
        done = idhub("people", "import", "--changes", str(file))
        assert done.code == 0, done.err


def _posts(idhub: Command, person: str) -> dict[str, tuple[Any, ...]]:
    names = ("company", "department", "title", "type", "starts_on", "ends_on", "state")
    found = idhub("people", "show", person, "--json").json["employments"]
    return {post["employee_number"]: tuple(post[name] for name in names) for post in found}


def _recovered(idhub: Command, export: str) -> Any:
    seen = idhub("recover", "--from", export, "--json").json
    done = idhub("recover", "--from", export, "--plan", seen["plan"], "--json")
    assert done.code == 0, done.err
    return done.json


_FIVE = (
    ("QY2", "总部", "2020-01-01", "", "active"),
    ("QY2B", "分公司", "2020-02-01", "2099-01-31", "active"),
    ("QY2C", "分公司", "2099-02-01", "", "active"),
    ("QY2D", "总部", "2020-03-01", "", "active"),
    ("QY2E", "总部", "2020-04-01", "", "active"),
)


def test_who_came_back_is_in_the_posts_that_they_came_back_into(hub: tuple[Command, Backup]) -> None:
    """Of several posts: one with an end, one to begin, one that is held, one that stayed ended, one held before."""
    idhub, _ = hub
    person = idhub("people", "show", "QY2", "--json").json["id"]
    _with_posts(idhub, *_FIVE, ("QY2D", "总部", "2020-03-01", "", "suspended"))
    before = _posts(idhub, person)
    assert [before[post[0]][-1] for post in _FIVE] == ["active", "active", "staged", "suspended", "active"]

    def comes_back(idhub: Command) -> None:
        assert idhub("offboard", person).code == 0
        for number, company, start, end, _ in (_FIVE[0], _FIVE[1], _FIVE[2], _FIVE[4]):
            dates = ("--start-date", start, *(("--end-date", end) if end else ()))
            again = idhub(
                "onboard", "--name", "员工2", "--company", company, "--employee-number", number, *dates,
                "--department", "研发", "--title", "Engineer",
            )  # fmt: skip
            assert again.code == 0, again.err
        _with_posts(idhub, ("QY2E", "总部", "2020-04-01", "", "suspended"))

    export = set_back(hub, comes_back)
    done = _recovered(idhub, export)
    assert (done["returned"], done["leave"], done["people_changed"]) == ([person], [], 1)
    after = _posts(idhub, person)
    kept = ("QY2", "QY2B", "QY2C")
    assert {number: after[number] for number in kept} == {number: before[number] for number in kept}
    assert (after["QY2D"][-1], after["QY2E"][-1]) == ("ended", "suspended")


def test_who_came_back_and_is_suspended_is_suspended(hub: tuple[Command, Backup]) -> None:
    idhub, _ = hub
    person = idhub("people", "show", "QY2", "--json").json["id"]
    assert idhub("suspend", "QY2").code == 0

    def comes_back(idhub: Command) -> None:
        assert idhub("offboard", person).code == 0
        again = ("--company", "总部", "--employee-number", "QY2", "--start-date", "2020-01-01")
        assert idhub("onboard", "--name", "员工2", *again).code == 0
        assert idhub("suspend", person).code == 0

    done = _recovered(idhub, set_back(hub, comes_back))
    assert done["returned"] == [person]
    assert standing(idhub, person) == "suspended"


def test_posts_that_ended_or_were_held_end_and_are_held_again(hub: tuple[Command, Backup]) -> None:
    """Of somebody who did not leave: what one post gave alone is gone again, and what is to end by a date ends."""
    idhub, _ = hub
    people = {n: idhub("people", "show", n, "--json").json["id"] for n in ("QY2", "QY3", "QY4")}
    _with_posts(idhub, *_FIVE)

    def changes(idhub: Command) -> None:
        _with_posts(
            idhub,
            ("QY2B", "分公司", "2020-02-01", "2099-01-31", "left"),
            ("QY2D", "总部", "2020-03-01", "", "suspended"),
            ("QY2E", "总部", "2020-04-01", "2098-12-31", "active"),
        )
        assert idhub("offboard", "QY3", "--at", "2098-01-01T00:00:00+08:00").code == 0
        assert idhub("offboard", "QY4", "--at", "2098-01-01T00:00:00+08:00").code == 0
        assert idhub("offboard", "QY4", "--cancel").code == 0

    done = _recovered(idhub, set_back(hub, changes))
    assert (done["leave"], done["returned"], done["suspend"]) == ([], [], [])
    after = _posts(idhub, people["QY2"])
    assert [after[n][-1] for n in ("QY2", "QY2B", "QY2D", "QY2E")] == ["active", "ended", "suspended", "active"]
    assert after["QY2E"][-2] == "2098-12-31"
    assert done["scheduled"] == [[people["QY3"], "2097-12-31T16:00:00+00:00"]]
    # A leave that is scheduled is taken back by whoever cancels it alone, not by a file that does not know of it.
    assert idhub("people", "import", "--changes", str(idhub.hr_file(PEOPLE[2].replace("员工3", "员三")))).code == 0
    assert idhub("people", "show", "QY3", "--json").json["access_ends_at"] == "2097-12-31T16:00:00+00:00"
    assert idhub("people", "show", "QY4", "--json").json["access_ends_at"] is None


def test_a_role_that_was_taken_and_given_elsewhere_is_taken(hub: tuple[Command, Backup]) -> None:
    """Nothing that was given is given again, and the wider role of the backup had ended."""
    idhub, _ = hub

    def narrows(idhub: Command) -> None:
        assert idhub("role", "remove", "QY4", "administrator").code == 0
        assert idhub("role", "assign", "QY4", "administrator", "--organization", "总部").code == 0

    done = _recovered(idhub, set_back(hub, narrows))
    assert [role for _, role in done["roles"]] == ["administrator"]
    assert "QY4" not in idhub("role", "list").out


def test_whose_password_a_link_has_set_anew_is_told(hub: tuple[Command, Backup]) -> None:
    """A reset after an attack above all: the password that was known to others is the one in the backup."""
    idhub, _ = hub
    people = {n: idhub("people", "show", n, "--json").json["id"] for n in ("QY2", "QY3")}

    def redeems(here: Hub, person: str, purpose: Any) -> None:
        with here.database.transaction() as session:
            token = invite(
                session, person, purpose=purpose, now=here.clock(), settings=here.settings, actor=COMMAND_LINE
            )
        with here.database.transaction() as session:
            assert redeem(session, here.settings, token, "hash", browser=Browser(address="192.0.2.1"), now=here.clock())

    with opened(idhub) as here:
        redeems(here, people["QY2"], "first_password")

    def changes(idhub: Command) -> None:
        with opened(idhub) as here:
            redeems(here, people["QY2"], "reset_password")
            redeems(here, people["QY3"], "first_password")

    done = _recovered(idhub, set_back(hub, changes))
    assert done["passwords"] == [people["QY2"]]


def test_what_is_due_or_was_approved_waits_until_the_mode_is_left(hub: tuple[Command, Backup]) -> None:
    """A contract that was prolonged since has its old end in the backup, and a newer file may have spoken since."""
    idhub, _ = hub
    with opened(idhub) as here:
        today = here.clock().date()
        with here.database.transaction() as session:
            person = session.execute(
                select(Employment.principal_id).where(Employment.employee_number == "QY2")
            ).scalar_one()
            session.execute(
                update(Employment)
                .where(Employment.principal_id == person)
                .values(ends_on=today - timedelta(days=2), ends_at=here.clock() - timedelta(days=1))
            )
    plan = idhub("recover", "--enter", "restored", "--json").json["plan"]

    def apply_due() -> None:
        with opened(idhub) as here:
            Worker(here, cast(OutboundHttp, None))._apply_due()

    apply_due()
    assert standing(idhub, "QY2") == "active"
    assert idhub("recover", "--plan", plan).code == 0
    apply_due()
    assert standing(idhub, "QY2") == "left"


def test_a_role_that_was_taken_is_taken_also_from_who_is_the_last_here(hub: tuple[Command, Backup]) -> None:
    """Who was named administrator since is not known to the backup: it must not keep the mode from being left."""
    idhub, _ = hub
    assert idhub("role", "remove", "QY4", "administrator").code == 0

    def hands_over(idhub: Command) -> None:
        assert idhub("role", "assign", "QY2", "administrator").code == 0
        assert idhub("role", "remove", "QY1", "administrator").code == 0

    export = set_back(hub, hands_over)
    plan = idhub("recover", "--from", export, "--json").json["plan"]
    done = idhub("recover", "--from", export, "--plan", plan)
    assert done.code == 0, done.err
    assert "administrator" not in idhub("role", "list").out
    assert idhub("role", "assign", "QY2", "administrator").code == 0


def test_ways_in_that_changed_since_are_taken_or_told(hub: tuple[Command, Backup]) -> None:
    """A link that was taken away is taken away again; an old password works again, and whose is said."""
    idhub, _ = hub
    people = {number: idhub("people", "show", number, "--json").json["id"] for number in ("QY2", "QY3")}
    with opened(idhub) as here, here.database.transaction() as session:
        now = here.clock()
        blank: dict[str, Any] = {
            "rules": [], "domains": [], "contexts": [], "entity_id": "https://idp.example", "slug": "idp",
            "organization_id": root_organization(session), "sign_on_services": [], "signature_policy": "any",
            "allows_unsolicited": False, "is_shown": True, "is_enabled": True, "name": "IdP",
        }  # fmt: skip
        columns = {c.name for c in IdentityProvider.__table__.columns if not c.nullable} - blank.keys() - {"id"}
        fill = {name: _nothing(IdentityProvider.__table__.columns[name], now) for name in columns}
        session.add(IdentityProvider(id="idp_1", **blank, **fill))
        session.flush()
        session.add(Password(principal_id=people["QY3"], hash="old", enrolment_epoch=1, set_at=now))
        for subject, person in enumerate(people.values()):
            session.add(
                IdentityLink(
                    provider="idp_1", upstream_subject=str(subject), principal_id=person, enrolment_epoch=1,
                    created_at=now,
                )
            )  # fmt: skip

    def changes(idhub: Command) -> None:
        with opened(idhub) as here, here.database.transaction() as session:
            unlink(session, "idp_1", "idp", people["QY2"], actor=COMMAND_LINE, request_id=None, now=here.clock())
            changed = Event(
                type=EventType.PASSWORD_CHANGED, at=here.clock(), actor=COMMAND_LINE, door="login",
                target_kind="person", target_id=people["QY3"], person_id=people["QY3"],
            )  # fmt: skip
            record(session, [changed])

    export = set_back(hub, changes)
    seen = idhub("recover", "--from", export, "--json").json
    assert (seen["links"], seen["passwords"]) == ([[people["QY2"], "idp_1"]], [people["QY3"]])
    assert seen["not_replayed"] == {"password.changed": 1}
    said = idhub("recover", "--from", export).out
    assert f"{people['QY2']} idp_1" in said
    assert f"old one again: 1  {people['QY3']}" in said
    assert idhub("recover", "--from", export, "--plan", seen["plan"]).code == 0
    with opened(idhub) as here, here.database.read() as session:
        assert session.scalars(select(IdentityLink.principal_id)).all() == [people["QY3"]]


def _nothing(column: Any, now: Any) -> Any:
    kind = column.type.python_type if not isinstance(column.type, JsonText) else list
    return {bool: False, int: 0, str: "", bytes: b"", list: []}.get(kind, now)


def test_no_receipt_is_signed_meanwhile(hub: tuple[Command, Backup]) -> None:
    """A later version of it may be out already, which the backup does not know."""
    idhub, _ = hub
    assert idhub("offboard", "QY2").code == 0
    plan = idhub("recover", "--enter", "restored", "--json").json["plan"]
    with opened(idhub) as here:
        worker = Worker(here, cast(OutboundHttp, None))
        assert worker._sign_receipts() is False
        with here.database.read() as session:
            assert has_due(session)
    assert idhub("recover", "--plan", plan).code == 0
    with opened(idhub) as here:
        assert Worker(here, cast(OutboundHttp, None))._sign_receipts() is True


@contextmanager
def opened(idhub: Command) -> Iterator[Hub]:
    """The hub in this process."""
    hub = open_hub(Settings(data_dir=idhub.folder / "data", database_url=idhub.environment["IDHUB_DATABASE_URL"]))
    try:
        yield hub
    finally:
        hub.close()


def reason(idhub: Command) -> str:
    return str(next(one for one in idhub("doctor", "--json").json if one["name"] == "recovery")["detail"])


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_nothing_issued_before_works_and_nobody_signs_in_meanwhile(hub: tuple[Command, Backup]) -> None:
    from starlette.testclient import TestClient

    from idhub.app import create_app

    idhub, backup = hub
    token = idhub("token", "create", "--scope", "people:read").out.strip()
    backup.take()
    assert idhub("offboard", "QY2").code == 0
    exported(idhub)
    settings = Settings(data_dir=idhub.folder / "data", database_url=idhub.environment["IDHUB_DATABASE_URL"])
    headers = {"Authorization": f"Bearer {token}"}

    def answers() -> tuple[int, int, Any]:
        opened = open_hub(settings)
        try:
            with TestClient(create_app(opened, with_worker=False), base_url=settings.issuer) as client:
                ready = client.get("/readyz")
                people = client.get("/api/v1/people", headers=headers)
            return people.status_code, ready.status_code, ready.json()["failing"]
        finally:
            opened.close()

    assert answers()[0] == 200
    backup.put_back()
    status, ready, failing = answers()
    assert (status, ready, "recovery" in failing) == (401, 503, True)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_recovery_that_the_witness_did_not_hear_of_is_told_to_it(hub: tuple[Command, Backup]) -> None:
    """A crash between the commit and the witness, or a second machine with a witness of its own."""
    idhub, _ = hub
    set_back(hub, lambda idhub: idhub("offboard", "QY2"))
    lost = (idhub.folder / "data" / "witness.log").read_bytes()
    plan = idhub("recover", "--json").json["plan"]
    assert idhub("recover", "--plan", plan).code == 0
    (idhub.folder / "data" / "witness.log").write_bytes(lost)
    assert reason(idhub) == "not in recovery mode"
    live = idhub("audit", "verify", "--json").json
    assert (live["valid"], len(live["lost"])) == (True, 1)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_hub_that_nobody_set_back_is_left_alone(hub: tuple[Command, Backup]) -> None:
    idhub, _ = hub
    assert idhub("offboard", "QY2").code == 0
    exported(idhub)
    refused = idhub("recover")
    assert (refused.code, "not in recovery mode" in refused.err) == (1, True)
    # By hand, where the witness was lost with the rest.
    entered = idhub("recover", "--enter", "the old machine burnt", "--json")
    assert (entered.code, entered.json["reason"]) == (0, "the old machine burnt")
    assert idhub("recover", "--plan", entered.json["plan"]).code == 0
    assert idhub("audit", "verify").code == 0


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_an_export_that_does_not_fit_is_refused(hub: tuple[Command, Backup]) -> None:
    idhub, _ = hub
    before = exported(idhub, "before.jsonl")
    export = set_back(hub, a_busy_day)
    lines = Path(export).read_bytes().splitlines(keepends=True)
    forged = idhub.write("forged.jsonl", b"".join(line.replace(b"QY2", b"QY1") for line in lines))
    for path in (str(forged), str(idhub.write("nonsense", "x")), str(idhub.folder / "absent")):
        refused = idhub("recover", "--from", path)
        assert (refused.code, "[from]" in refused.err) == (1, True), refused.err
    assert os.path.exists(before)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_checkpoint_key_made_after_the_backup_is_lost_history_too(hub: tuple[Command, Backup]) -> None:
    idhub, _ = hub

    def rotate(idhub: Command) -> None:
        assert idhub("keys", "rotate", "checkpoint").code == 0
        assert idhub("offboard", "QY2").code == 0

    set_back(hub, rotate)
    seen = idhub("recover", "--json").json
    assert "cannot be matched" in seen["reason"]
    assert seen["witnessed_size"] is None
    assert idhub("recover", "--plan", seen["plan"]).code == 0
    live = idhub("audit", "verify", "--json").json
    assert (live["valid"], len(live["lost"])) == (True, 1)


def ring_of(idhub: Command) -> Keyring:
    """The keys that a process has which begins now."""
    with opened(idhub) as here:
        return here.keyring


def _revoked(idhub: Command, purpose: Purpose) -> str:
    kid = ring_of(idhub).signing_key(purpose).kid
    assert idhub("keys", "revoke", kid).code == 0
    return kid


def test_a_key_that_was_revoked_since_the_backup_is_revoked_again(hub: tuple[Command, Backup]) -> None:
    """The key of the backup is the one that others have."""
    idhub, _ = hub
    kids: list[str] = []
    export = set_back(hub, lambda command: kids.append(_revoked(command, "token")))
    assert ring_of(idhub).signing_key("token").kid == kids[0]
    seen = idhub("recover", "--from", export, "--json").json
    assert seen["keys"] == kids
    assert kids[0] in idhub("recover", "--from", export).out
    done = idhub("recover", "--from", export, "--plan", seen["plan"])
    assert done.code == 0, done.err
    assert kids[0] not in {key["kid"] for key in ring_of(idhub).published("token")}


@pytest.mark.parametrize("is_revoked", [False, True])
def test_an_export_by_a_checkpoint_key_made_since_is_read_with_keys_that_somebody_kept(
    hub: tuple[Command, Backup], is_revoked: bool
) -> None:
    """Else nobody who left since would leave again, after each rotation and above all after a theft."""
    idhub, _ = hub
    old: list[str] = []

    def changes_key(command: Command) -> None:
        kid = ring_of(command).signing_key("checkpoint").kid
        old.append(kid)
        assert (
            command("keys", "revoke", kid).code == 0
            if is_revoked
            else command("keys", "rotate", "checkpoint").code == 0
        )
        assert command("offboard", "QY2").code == 0
        command.write("kept.json", orjson.dumps(ring_of(command).jwks("checkpoint")))

    export = set_back(hub, changes_key)
    refused = idhub("recover", "--from", export)
    assert (refused.code, "[from]" in refused.err) == (1, True), refused
    kept = str(idhub.folder / "kept.json")
    seen = idhub("recover", "--from", export, "--keys", kept, "--json").json
    assert (len(seen["leave"]), seen["keys"]) == (1, old if is_revoked else [])
    done = idhub("recover", "--from", export, "--keys", kept, "--plan", seen["plan"])
    assert done.code == 0, done.err
    assert standing(idhub, "QY2") == "left"
    assert (old[0] in {key["kid"] for key in ring_of(idhub).published("checkpoint")}) is not is_revoked
    live = idhub("audit", "verify", "--json").json
    assert (live["valid"], live["unproven"]) == (True, 0), live
    for wrong in ("[]", "{", '{"keys": 1}'):
        refused = idhub("recover", "--keys", str(idhub.write("wrong.json", wrong)), "--from", export)
        assert refused.code == 1, refused


def test_whose_configuration_is_the_old_one_again_is_told(hub: tuple[Command, Backup]) -> None:
    """A secret that was replaced because others have it works again, and what was switched off is on."""
    idhub, _ = hub

    def applied(is_enabled: bool, secret: str) -> None:
        for slug in ("office", "wiki"):
            idhub.write(f"{slug}.secret", secret if slug == "office" else "w" * 43)
        blocks = (
            f"{{slug: {slug}, name: {slug}, enabled: {str(is_enabled or slug == 'wiki').lower()}, "
            f"oidc: {{client_id: {slug}, client_secret_file: {slug}.secret, "
            f"redirect_uris: ['http://127.0.0.1:9/{slug}']}}}}"
            for slug in ("office", "wiki")
        )
        done = idhub("apply", str(idhub.write("apps.yaml", f"applications: [{', '.join(blocks)}]")))
        assert done.code == 0, done.err

    applied(True, "o" * 43)
    export = set_back(hub, lambda _: applied(False, "n" * 43))
    seen = idhub("recover", "--from", export, "--json").json
    assert seen["configuration"] == ["application office"]
    assert (
        "old one again: application office; secrets that were replaced work" in idhub("recover", "--from", export).out
    )


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_witness_file_that_was_lost_is_begun_anew_and_not_without_a_word(
    hub: tuple[Command, Backup], how: str
) -> None:
    """As when a whole machine is set back: nothing is there that a restored database could be compared with."""
    idhub, _ = hub

    def begun() -> list[dict[str, Any]]:
        assert idhub("audit", "export").code == 0
        found = idhub("audit", "search", "--action", "hub.witness_begun", "--json").json["events"]
        return [event["details"] for event in found]

    def said() -> tuple[bool, str]:
        doctor = {one["name"]: one for one in idhub("doctor", "--json").json}
        return doctor["witness"]["is_ok"], doctor["witness"]["detail"]

    assert begun() == [], "a fresh installation has no witness file either"
    assert said() == (True, "readable")
    witness = idhub.folder / "data" / "witness.log"
    size = len(witness.read_text().splitlines())
    assert size
    if how == "missing":
        witness.unlink()
    else:
        witness.write_bytes(b"")
    first = idhub("audit", "export")
    assert first.code == 0
    assert "recovery.no_witness" in first.err
    (told,) = begun()
    assert told["size"] > 0
    is_ok, detail = said()
    assert (is_ok, "nothing before is compared" in detail) == (False, True)
    assert "recovery.no_witness" not in idhub("audit", "export").err
    assert len(begun()) == 1
