"""A hub that runs as operators run it, one for each database, with people of their own for each test."""

import csv
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml

from idhub.demo import signing_in
from idhub.demo.browser import Browser
from idhub.demo.hub import Hub
from idhub.demo.processes import free_port
from providers.hr_file import COLUMNS
from tests.flows.cluster_races import Crowd
from tests.support.cluster import Cluster, running_cluster
from tests.support.databases import Databases

COMPANY = "总部"
PASSWORD = "a-long-quiet-sentence-9"
CONTRACTOR = "QY000001"
PEOPLE = {CONTRACTOR: ("Jo Contractor", "contractor")} | {
    f"QY{number:06}": (f"林晓{number}", "regular") for number in range(100, 120)
}


@dataclass
class RunningHub:
    """A hub with people, and clients `portal-basic` and `portal-post` at the address `application`."""

    hub: Hub
    application: str
    application_port: int
    client_secret: str
    unused: list[str] = field(default_factory=lambda: [number for number in PEOPLE if number != CONTRACTOR])

    def new_employee(self) -> str:
        """The number of an employee whom no test has met, with a password."""
        number = self.unused.pop()
        self.give_password(number)
        return number

    def give_password(self, number: str) -> None:
        """Let a person choose the password."""
        link = self.hub.run("people", "invite", number).stdout.strip()
        with Browser() as browser:
            signing_in.set_first_password(browser, link, PASSWORD)

    def sign_in(self, browser: Browser, start: str, number: str) -> signing_in.SignedIn:
        """Open an address that asks for sign-in and follow the pages."""
        return signing_in.sign_in(browser, start, number, PASSWORD)


def write_people(path: Path) -> None:
    """A small HR file."""
    start = (date.today() - timedelta(days=400)).isoformat()  # noqa: DTZ011 - the machine's own day will do
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for number, (name, kind) in PEOPLE.items():
            writer.writerow(
                {
                    "employee_number": number,
                    "name": name,
                    "email": f"{number.lower()}@qiyue.example",
                    "company": COMPANY,
                    "department": "信息技术部/平台",
                    "employment_type": kind,
                    "start_date": start,
                    "status": "active",
                }
            )


def _application(method: str, address: str) -> dict[str, object]:
    return {
        "slug": f"portal-{method}",
        "name": {"en": "Portal", "zh": "门户"},
        "owner": "QY000100",
        "oidc": {
            "client_id": f"portal-{method}",
            "client_secret_file": "portal.secret",
            "auth_method": f"client_secret_{method}",
            "redirect_uris": [f"{address}/callback"],
            "post_logout_redirect_uris": [f"{address}/signed-out"],
        },
        "entitle": [{"role": "member", "rule": 'employments.type ne "contractor"'}],
    }


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def running_hub(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningHub]:
    """`idhub serve` on an empty database of either kind, with people and one application that has two clients."""
    folder = tmp_path_factory.mktemp("hub")
    port = free_port()
    application = f"http://127.0.0.1:{port}"
    secret = secrets.token_urlsafe(32)
    (folder / "portal.secret").write_text(secret + "\n")
    document = {"applications": [_application(method, application) for method in ("basic", "post")]}
    (folder / "apps.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    write_people(folder / "people.csv")
    with databases.fresh(request.param, folder, migrated=False) as url:
        hub = Hub(folder, outbound_allow=f"127.0.0.1:{port}", settings={"IDHUB_DATABASE_URL": url})
        try:
            hub.start()
            hub.run("people", "import", folder / "people.csv")
            hub.run("apply", folder / "apps.yaml")
            yield RunningHub(hub, application, port, secret)
        finally:
            hub.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def cluster(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Two processes on one database, or as many as the module's `PROCESSES` says."""
    processes: int = getattr(request.module, "PROCESSES", 2)
    with running_cluster(request.param, databases, tmp_path_factory.mktemp("cluster"), processes=processes) as made:
        yield made


@pytest.fixture
def crowd(cluster: Cluster) -> Iterator[Crowd]:
    """People who go home when the test ends."""
    made = Crowd(cluster)
    try:
        yield made
    finally:
        made.close()
