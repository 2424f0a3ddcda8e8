"""Planted ghosts: a group with every kind of contradiction in its applications, and what reconciliation finds of it.

    python -m tests.benchmarks.ghosts [--people 120000] [--applications 20] [--planted 20] [--database sqlite]

Everybody is in the first application and in one other. What is planted is known by account and kind; whatever else is
found is false. Prints recall, false positives, accounts a second and the growth of memory; exit status 1 when a ghost
was missed or somebody was accused falsely.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
from sqlalchemy import insert, select

from idhub.access.tables import Account, Application, Entitlement, ScimTarget
from idhub.changes import COMMAND_LINE, use_sealer
from idhub.db import Database, bulk_insert, create_database
from idhub.delivery.http import OutboundHttp
from idhub.directory.organizations import install, root_organization
from idhub.directory.tables import Employment, LoginName, Organization, OrganizationClosure, Person, Principal
from idhub.keys import Keyring, MasterKey, load_keyring
from idhub.lifecycle.hr_ahead import NATIONAL_ID
from idhub.provisioning.reconcile.register import check_register, match_payroll
from idhub.provisioning.reconcile.run import Report, reconcile
from idhub.provisioning.reconcile.tables import Finding
from idhub.settings import Settings
from tests.support.databases import DatabaseKind, Databases, analyze

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
BEFORE = NOW - timedelta(days=30)
COMPANY = "org_" + "1" * 26
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
_BATCH = 5_000
_LEFT_EVERY = 50
"""Every so-manyth person has left, and their accounts are off: nothing to find."""
ACCOUNT_KINDS = (
    "ghost", "ghost_alike", "left_linked", "left_by_mail", "reenabled", "unentitled", "orphan", "duplicate", "missing",
    "disabled_there", "drift", "question",
)  # fmt: skip
_FINDING_OF = {"ghost_alike": "ghost", "left_linked": "left_alive", "left_by_mail": "left_alive"}


@dataclass
class World:
    """Who there is and what was planted, by formula: the same on both sides of the wire."""

    people: int
    applications: int
    planted: int
    plants: dict[tuple[int, int], str] = field(default_factory=dict)
    """(application, person) to what is wrong with that account."""

    def __post_init__(self) -> None:
        step = len(ACCOUNT_KINDS)
        for application in range(self.applications - 1):
            # The last application is the clean one.
            # Nobody is planted twice: who left in one application has left in all.
            members = [
                person
                for person in self.members(application)
                if not self.has_left(person) and (0, person) not in self.plants
            ]
            wanted = min(self.planted * step, len(members) // 3)
            for place, person in enumerate(members[:: max(len(members) // max(wanted, 1), 1)][:wanted]):
                self.plants[application, person] = ACCOUNT_KINDS[place % step]

    def members(self, application: int) -> range:
        """Everybody is in the first application, and in one other."""
        if application == 0:
            return range(self.people)
        return range(application - 1, self.people, max(self.applications - 1, 1))

    @staticmethod
    def has_left(person: int) -> bool:
        """Whether they are among those who left properly."""
        return person % _LEFT_EVERY == 7

    def kind(self, application: int, person: int) -> str:
        """What is planted there; empty where nothing is."""
        return self.plants.get((application, person), "")

    def planted_left(self, person: int) -> bool:
        """Whether somebody left because one of their accounts was planted so: in all of theirs they are gone."""
        return any(
            self.plants.get((application, person), "").startswith(("left_", "reenabled"))
            for application in (0, person % max(self.applications - 1, 1) + 1)
        )

    def users(self, application: int) -> Iterator[dict[str, Any]]:
        """What the application holds."""
        for person in self.members(application):
            yield from self._users_of(application, person)

    def _users_of(self, application: int, person: int) -> Iterator[dict[str, Any]]:
        kind = self.kind(application, person)
        is_off = self.has_left(person) or kind == "disabled_there"
        is_off = is_off or (self.planted_left(person) and not kind.startswith(("left_", "reenabled")))
        user = {
            "id": f"{application}-{person}",
            "externalId": person_id(person),
            "userName": mail(person),
            "name": {"formatted": name(person)},
            "displayName": name(person),
            "title": "Director" if kind == "drift" else "工程师",
            "active": not is_off,
            "emails": [{"value": mail(person), "type": "work", "primary": True}],
            ENTERPRISE: {"employeeNumber": number(person), "organization": "整车公司"},
        }
        if kind == "missing":
            return
        if kind in {"orphan", "left_by_mail"}:
            # Made by hand, before the hub: without our externalId.
            user |= {"id": f"x{application}-{person}", "userName": f"old.{person}"}
            del user["externalId"]
            if kind == "left_by_mail":
                del user[ENTERPRISE]
        yield user
        if kind in {"ghost", "ghost_alike", "duplicate", "question"}:
            extra: dict[str, Any] = {"id": f"x{application}-{person}", "userName": f"svc-{person}", "active": True}
            if kind == "ghost_alike":
                extra["displayName"] = name(person)
            if kind == "duplicate":
                extra["externalId"] = person_id(person)
            if kind == "question":
                other = (person + 1) % self.people
                extra |= {"externalId": person_id(person), "emails": [{"value": mail(other), "type": "work"}]}
            yield extra

    def expected(self) -> dict[tuple[int, str], str]:
        """(application, its id of the account) to kind: all that is to be found, and nothing else."""
        found = {}
        for (application, person), kind in self.plants.items():
            own = kind in {"ghost", "ghost_alike", "duplicate", "question", "orphan", "left_by_mail"}
            found[application, f"x{application}-{person}" if own else f"{application}-{person}"] = _FINDING_OF.get(
                kind, kind
            )
        return found


def person_id(person: int) -> str:
    return f"per_{person:026d}"


def mail(person: int) -> str:
    return f"p{person}@qiyue.example"


def number(person: int) -> str:
    return f"QY{person:06d}"


def name(person: int) -> str:
    return f"员工{person:06d}"


# ---- the hub's side


def build(database: Database, keyring: Keyring, world: World) -> None:
    """People, entitlements, accounts, applications: as a hub holds them that has run for a while."""
    with database.transaction() as session:
        install(session, time_zone="Asia/Shanghai", now=BEFORE)
        root = root_organization(session)
        session.execute(
            insert(Organization).values(
                id=COMPANY, parent_id=root, kind="company", code="VEH", name="整车公司", time_zone="Asia/Shanghai",
                created_at=BEFORE,
            )
        )  # fmt: skip
        pairs = [(root, COMPANY, 1), (COMPANY, COMPANY, 0)]
        bulk_insert(
            session,
            OrganizationClosure,
            [{"ancestor_id": a, "descendant_id": d, "depth": depth} for a, d, depth in pairs],
        )
        for application in range(world.applications):
            session.execute(
                insert(Application).values(
                    id=f"app_{application:026d}", slug=f"app{application:02d}", name=f"Application {application}",
                    organization_id=root, criticality="normal", revocation_deadline_seconds=3600, is_enabled=True,
                    created_at=BEFORE, changed_at=BEFORE,
                )
            )  # fmt: skip
    for start in range(0, world.people, _BATCH):
        part = range(start, min(start + _BATCH, world.people))
        with database.transaction(durable=False) as session:
            _people(session, world, keyring, part)
    for application in range(world.applications):
        members = world.members(application)
        for start in range(0, len(members), _BATCH):
            with database.transaction(durable=False) as session:
                _accounts(session, world, application, members[start : start + _BATCH])


def _people(session: Any, world: World, keyring: Keyring, people: range) -> None:
    gone = {person for person in people if world.has_left(person) or world.planted_left(person)}
    bulk_insert(
        session,
        Principal,
        [
            {
                "id": person_id(p), "kind": "person", "organization_id": COMPANY,
                "standing": "left" if p in gone else "active", "access_starts_at": BEFORE,
                "access_ends_at": NOW - timedelta(days=9) if p in gone else None, "created_at": BEFORE,
                "changed_at": BEFORE, "access_epoch": 1, "enrolment_epoch": 1, "version": 1,
            }
            for p in people
        ],
    )  # fmt: skip
    bulk_insert(
        session,
        Person,
        [
            {
                "id": person_id(p), "display_name": name(p), "email": mail(p), "main_employment_id": f"emp_{p:026d}",
                "national_id_hash": keyring.blind_index(NATIONAL_ID, f"ID{p}"), "search_terms": "",
                "attribute_sources": {},
            }
            for p in people
        ],
    )  # fmt: skip
    bulk_insert(
        session,
        Employment,
        [
            {
                "id": f"emp_{p:026d}", "principal_id": person_id(p), "organization_id": COMPANY,
                "employee_number": number(p), "type": "regular", "title": "工程师",
                "state": "ended" if p in gone else "active", "starts_on": date(2026, 1, 1), "starts_at": BEFORE,
                "ends_on": date(2026, 9, 30) if p in gone else None,
                "ends_at": NOW - timedelta(days=9) if p in gone else None, "created_at": BEFORE, "changed_at": BEFORE,
            }
            for p in people
        ],
    )  # fmt: skip
    bulk_insert(session, LoginName, [{"value": mail(p), "principal_id": person_id(p), "kind": "email"} for p in people])


def _accounts(session: Any, world: World, application: int, people: range) -> None:
    rows, rights = [], []
    for person in people:
        kind = world.kind(application, person)
        gone = world.has_left(person) or world.planted_left(person)
        if not gone and kind != "unentitled":
            rights.append(
                {
                    "id": f"ent_{application:06d}{person:020d}", "principal_id": person_id(person),
                    "application_id": f"app_{application:026d}", "role": "member", "reason_kind": "direct",
                    "valid_from": BEFORE, "recorded_at": BEFORE,
                }
            )  # fmt: skip
        if kind in {"orphan", "left_by_mail"}:
            continue
        is_known_off = (gone and kind != "left_linked") or kind == "reenabled"
        rows.append(
            {
                "id": f"acc_{application:06d}{person:020d}", "application_id": f"app_{application:026d}",
                "principal_id": person_id(person), "slot": "main", "kind": "linked",
                "external_id": f"{application}-{person}", "user_name": mail(person),
                "desired_state": "inactive" if gone else "active",
                "known_state": "inactive" if is_known_off else "active", "observed_at": BEFORE, "created_at": BEFORE,
                "changed_at": BEFORE,
            }
        )  # fmt: skip
    bulk_insert(session, Account, rows)
    bulk_insert(session, Entitlement, rights)


def connect(database: Database, world: World, base: str) -> None:
    """Give every application its address."""
    with database.transaction() as session:
        bulk_insert(
            session,
            ScimTarget,
            [
                {
                    "application_id": f"app_{application:026d}", "base_url": f"{base}/{application}", "changed_at": NOW,
                    "user_name_attribute": "email", "dialect": "generic",
                }
                for application in range(world.applications)
            ],
        )  # fmt: skip


# ---- the applications' side


@contextmanager
def serve(world: World) -> Iterator[str]:
    """All applications behind one address; yields it."""
    pages: dict[int, list[dict[str, Any]]] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            _, application, what = parts.path.split("/", 2)
            if what != "Users":
                self._answer(404, {})
                return
            users = pages.get(int(application))
            if users is None:
                # One application at a time is read.
                pages.clear()
                users = pages[int(application)] = list(world.users(int(application)))
            query = {key: int(value[0]) for key, value in parse_qs(parts.query).items()}
            start = query["startIndex"] - 1
            page = users[start : start + query["count"]]
            self._answer(200, {"totalResults": len(users), "startIndex": start + 1, "Resources": page})

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            content = orjson.dumps(body)
            self.send_response(status)
            self.send_header("Content-Type", "application/scim+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def serve_apart(world: World) -> Iterator[str]:
    """The same in a process of its own, so that neither its memory nor its time is counted as the hub's."""
    import subprocess

    arguments = [str(world.people), str(world.applications), str(world.planted)]
    program = [sys.executable, "-m", "tests.benchmarks.ghosts", "--serve", *arguments]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


# ---- what is found


@dataclass
class Outcome:
    """What came of a run over all applications."""

    reports: list[Report]
    seconds: float
    grown_mb: float
    planted: int
    missed: dict[Any, str]
    false: dict[Any, str]

    @property
    def accounts(self) -> int:
        """How many were read."""
        return sum(report.read for report in self.reports)


def find(database: Database, keyring: Keyring, settings: Settings, world: World, base: str) -> Outcome:
    """Reconcile every application and hold the findings against what was planted."""
    allowed = settings.model_copy(update={"outbound_allow": urlsplit(base).netloc})
    http = OutboundHttp(allowed)
    before, began = _peak_mb(), time.perf_counter()
    reports = [
        reconcile(
            database,
            keyring,
            http,
            f"app_{application:026d}",
            clock=lambda: NOW + timedelta(seconds=time.perf_counter() - began),
            actor=COMMAND_LINE,
        )
        for application in range(world.applications)
    ]
    seconds = time.perf_counter() - began
    grown = _peak_mb() - before
    incomplete = [report for report in reports if not report.is_complete]
    if incomplete:
        raise SystemExit(f"{incomplete[0].application} was not read whole: {incomplete[0].gaps}")
    expected: Mapping[Any, str] = world.expected()
    with database.read() as session:
        rows = session.execute(
            select(Finding.application_id, Finding.external_id, Finding.kind).where(Finding.application_id.is_not(None))
        )
        found = {(int(str(row[0])[4:]), str(row[1])): str(row[2]) for row in rows}
    missed = {key: kind for key, kind in expected.items() if found.get(key) != kind}
    false = {key: kind for key, kind in found.items() if expected.get(key) != kind}
    return Outcome(reports, seconds, grown, len(expected), missed, false)


def payroll(database: Database, keyring: Keyring, world: World, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """A payroll of everybody with planted ghosts; returns (planted, found) by subject."""
    planted: dict[str, str] = {}
    file = folder / "payroll.csv"
    with file.open("w", encoding="utf-8") as stream:
        stream.write("company,employee_number,period,national_id\n")
        for person in range(world.people):
            gone = world.has_left(person) or world.planted_left(person)
            if not gone:
                stream.write(f"VEH,{number(person)},2026-11,ID{person}\n")
            elif person % (_LEFT_EVERY * 4) == 7:
                stream.write(f"VEH,{number(person)},2026-11,\n")
                planted[f"整车公司/{number(person)}"] = "ghost_paid"
        for place in range(world.planted):
            stream.write(f"VEH,NOBODY{place},2026-11,\n")
            planted[f"整车公司/NOBODY{place}"] = "ghost_paid"
    report = match_payroll(database, keyring, file, clock=lambda: NOW, actor=COMMAND_LINE)
    if not report.is_complete:
        raise SystemExit(f"the payroll was not read whole: {report.gaps}")
    check_register(database, clock=lambda: NOW, actor=COMMAND_LINE)
    with database.read() as session:
        rows = session.execute(select(Finding.subject, Finding.kind).where(Finding.application_id.is_(None)))
        return planted, {str(row[0]): str(row[1]) for row in rows}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def hub(kind: DatabaseKind) -> Iterator[tuple[Database, Keyring, Settings, Path]]:
    """An empty hub in a folder of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ghosts-")))
        databases = Databases(folder / "server")
        stack.callback(databases.close)
        url = stack.enter_context(databases.fresh(kind, folder, migrated=True))
        settings = Settings(data_dir=folder, database_url=url)
        database = create_database(settings)
        stack.callback(database.dispose)
        master = MasterKey.load(databases.master_key_file, create=False)
        keyring = load_keyring(database, master, now=BEFORE)
        use_sealer(database, keyring)
        yield database, keyring, settings, folder


def measure() -> list[dict[str, Any]]:
    """One line for `make bench`: accounts reconciled a second, each judged against the register."""
    world = World(people=20_000, applications=2, planted=10)
    with hub("sqlite") as (database, keyring, settings, _folder), serve_apart(world) as base:
        build(database, keyring, world)
        connect(database, world, base)
        analyze(database)
        outcome = find(database, keyring, settings, world, base)
    if outcome.missed or outcome.false:
        raise SystemExit(f"missed {len(outcome.missed)}, false {len(outcome.false)}")
    return [
        {
            "name": f"reconcile, {outcome.accounts:,} accounts read over SCIM and judged",
            "value": round(outcome.accounts / outcome.seconds),
            "unit": "accounts/s",
            "database": "sqlite",
            "durability": "FULL",
        },
        {
            "name": "reconcile, growth of memory",
            "value": round(outcome.grown_mb),
            "unit": "MB",
            "database": "sqlite",
            "durability": "FULL",
        },
    ]


def main() -> None:
    """Build, serve, reconcile, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=120_000)
    parser.add_argument("--applications", type=int, default=20)
    parser.add_argument("--planted", type=int, default=20, help="of each kind in each application")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--serve", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        with serve(World(*options.serve)) as base:
            print(base, flush=True)
            sys.stdin.read()
        return
    world = World(options.people, options.applications, options.planted)
    with hub(options.database) as (database, keyring, settings, folder), serve_apart(world) as base:
        began = time.perf_counter()
        build(database, keyring, world)
        connect(database, world, base)
        analyze(database)
        print(f"built {world.people:,} people in {time.perf_counter() - began:.0f} s", flush=True)
        outcome = find(database, keyring, settings, world, base)
        began = time.perf_counter()
        planted, found = payroll(database, keyring, world, folder)
        seconds = time.perf_counter() - began
    print(
        f"{outcome.accounts:,} accounts in {world.applications} applications: {outcome.seconds:.0f} s, "
        f"{outcome.accounts / outcome.seconds:,.0f} a second, memory +{outcome.grown_mb:.0f} MB ({options.database})"
    )
    print(f"planted {outcome.planted:,}: missed {len(outcome.missed)}, false {len(outcome.false)}")
    missed = sum(found.get(subject) != kind for subject, kind in planted.items())
    false = sum(planted.get(subject) != kind for subject, kind in found.items())
    print(f"payroll: planted {len(planted):,}: missed {missed}, false {false}; {seconds:.0f} s")
    for words, these in (("missed", outcome.missed), ("false", outcome.false)):
        for key, kind in list(these.items())[:10]:
            print(f"  {words}: {key} {kind}")
    if outcome.missed or outcome.false or missed or false:
        sys.exit(1)


if __name__ == "__main__":
    main()
