"""A whole hub with people of every role in it, in two companies, and the table of its routes."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from idhub.app import create_app
from idhub.authority import HubRole, assign_role
from idhub.directory.kinds import OrganizationKind
from idhub.directory.organizations import create_organization, find_organization, root_organization
from idhub.directory.people import find_person
from idhub.oidc.metadata import HOT_PATHS
from idhub.services import open_hub
from idhub.settings import Settings
from tests.flows.every_door import COMPANY, Stage, _row
from tests.support.clock import Clock
from tests.support.databases import DatabaseKind, Databases

OTHER_COMPANY = "BER"
STAFF: Mapping[str, tuple[str, HubRole | None, str | None]] = {
    "employee": ("QY000010", None, None),
    "hr": ("QY000011", HubRole.HR, None),
    "administrator": ("QY000012", HubRole.ADMINISTRATOR, None),
    "auditor": ("QY000013", HubRole.AUDITOR, None),
    "leaver": ("QY000014", None, None),
    "target": ("QY000015", None, None),
    "hr_of_other": ("BE000001", HubRole.HR, OTHER_COMPANY),
}
"""Who there is: number, hub role, and the company that the role is limited to."""


@dataclass
class Hall:
    """The hub, and a signed-in browser of everybody."""

    stage: Stage
    browsers: dict[str, TestClient] = field(default_factory=dict)
    people: dict[str, str] = field(default_factory=dict)

    @property
    def app(self) -> FastAPI:
        return self.stage.app

    def stranger(self) -> TestClient:
        return self.stage.browser()

    def request(self, browser: TestClient, method: str, address: str, **values: Any) -> Any:
        """A request of this browser. What machines call shares the running loop, whose connections it uses."""
        client = self.stage.machine if address.partition("?")[0] in HOT_PATHS else browser
        return client.request(method, address, **values)

    def furnish(self) -> None:
        stage = self.stage
        stage.furnish()
        with stage.hub.database.transaction() as session:
            create_organization(
                session, code=OTHER_COMPANY, name="柏林", kind=OrganizationKind.COMPANY,
                parent_id=root_organization(session), time_zone="Europe/Berlin", now=stage.clock(),
            )  # fmt: skip
        stage.import_rows(
            [
                _row(number, f"林晓{number[-2:]}", company=OTHER_COMPANY if number.startswith("BE") else COMPANY)
                for number, _, _ in STAFF.values()
            ],
            snapshot=False,
        )
        for name, (number, role, company) in STAFF.items():
            with stage.hub.database.transaction() as session:
                person = self.people[name] = find_person(session, number)
                if role is not None:
                    scope = find_organization(session, company) if company else root_organization(session)
                    assign_role(session, person, role, organization_id=scope, now=stage.clock(), assigned_by="test")
            stage._set_password(person)
            self.browsers[name] = browser = stage.browser()
            assert stage.sign_in(browser, number)


@contextmanager
def open_stage(kind: DatabaseKind, databases: Databases, folder: Path, **settings: Any) -> Iterator[Stage]:
    """A whole hub on a database of its own, with nobody in it yet."""
    clock = Clock()
    with databases.fresh(kind, folder, migrated=True) as url:
        chosen = Settings(
            data_dir=folder, database_url=url, database_pool_size=8, argon2_memory_kib=1024, argon2_time_cost=1,
            **settings,
        )  # fmt: skip
        shutil.copy(databases.master_key_file, chosen.effective_master_key_file)
        hub = open_hub(chosen, clock=clock)
        app = create_app(hub, with_worker=False)
        with TestClient(app, base_url=chosen.issuer, follow_redirects=False, raise_server_exceptions=False) as http:
            yield Stage(hub, app, clock, folder, http)
        hub.close()


@contextmanager
def open_hall(kind: DatabaseKind, databases: Databases, folder: Path, **settings: Any) -> Iterator[Hall]:
    """A furnished hub on a database of its own."""
    with open_stage(kind, databases, folder, **settings) as stage:
        hall = Hall(stage)
        hall.furnish()
        yield hall
