"""A hub that runs as operators run it, with a few people and one application."""

import csv
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml

from idhub.demo import signing_in
from idhub.demo.browser import Browser
from idhub.demo.hub import Hub
from idhub.demo.processes import free_port
from providers.hr_file import COLUMNS

COMPANY = "总部"
PASSWORD = "a-long-quiet-sentence-9"
PEOPLE = {"QY000001": ("林晓", "regular"), "QY000002": ("王芳", "regular"), "QY000003": ("Jo Contractor", "contractor")}


@dataclass(frozen=True)
class RunningHub:
    """A hub with people who have passwords, and clients `portal-basic` and `portal-post` at address `application`."""

    hub: Hub
    application: str
    application_port: int
    client_secret: str

    def sign_in(self, browser: Browser, start: str, number: str = "QY000001") -> signing_in.SignedIn:
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
        "owner": "QY000002",
        "oidc": {
            "client_id": f"portal-{method}",
            "client_secret_file": "portal.secret",
            "auth_method": f"client_secret_{method}",
            "redirect_uris": [f"{address}/callback"],
            "post_logout_redirect_uris": [f"{address}/signed-out"],
        },
        "entitle": [{"role": "member", "rule": 'employments.type ne "contractor"'}],
    }


@pytest.fixture
def running_hub(database_url: str, tmp_path: Path) -> Iterator[RunningHub]:
    """`idhub serve` on an empty database of either kind, with people, passwords and one application."""
    port = free_port()
    application = f"http://127.0.0.1:{port}"
    secret = secrets.token_urlsafe(32)
    (tmp_path / "portal.secret").write_text(secret + "\n")
    document = {"applications": [_application(method, application) for method in ("basic", "post")]}
    (tmp_path / "apps.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    write_people(tmp_path / "people.csv")
    hub = Hub(tmp_path, outbound_allow=f"127.0.0.1:{port}", settings={"IDHUB_DATABASE_URL": database_url})
    try:
        hub.start()
        hub.run("people", "import", tmp_path / "people.csv")
        hub.run("apply", tmp_path / "apps.yaml")
        for number in PEOPLE:
            with Browser() as browser:
                link = hub.run("people", "invite", number).stdout.strip()
                signing_in.set_first_password(browser, link, PASSWORD)
        yield RunningHub(hub, application, port, secret)
    finally:
        hub.close()
