"""Whose role or token is limited to a company sees the same before and after anything happens in another one.

Whatever a page, a list or a refusal tells by way of a count, an order, a filter, a header or its words shows here as
a difference: nothing is looked for by name (ASVS 8.2, CVE-2026-14613).
"""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from idhub.access.tables import Application
from idhub.authority import HubRole, assign_role
from idhub.changes import COMMAND_LINE
from idhub.credentials import opaque
from idhub.credentials.tables import ApiToken
from idhub.delivery.tables import Delivery
from idhub.directory.organizations import find_organization
from idhub.directory.people import find_person
from idhub.lifecycle import commands
from idhub.lifecycle.hr_import import import_file
from idhub.lifecycle.tables import Case, HeldChange
from idhub.login.tables import IdentityProvider
from idhub.provisioning.reconcile import findings
from idhub.provisioning.reconcile.findings import Place
from idhub.provisioning.reconcile.judge import Verdict
from idhub.provisioning.reconcile.kinds import Kind, Policy, Proposal
from idhub.provisioning.reconcile.register import check_register
from idhub.provisioning.reconcile.tables import Finding
from providers.hr_file import COLUMNS
from tests.flows.every_door import COMPANY, _row
from tests.lifecycle.world import CALLER
from tests.security.hall import OTHER_COMPANY, Hall, open_hall
from tests.security.test_roles import pages_of
from tests.support.databases import DatabaseKind, Databases

MOBILE = "13800000009"
WORDS = ("林", "BE000001", MOBILE, "nobody", "总部")
SORTS = ("number", "-start", "-effective", "found")
STATES = ("active", "suspended", "left", "running", "all")
FILTERS = ("org={code}", "app={slug}", "company={code}", "object={person_id}")
API_SCOPES = ("people:write", "applications:write", "receipts:read", "findings:write", "audit:read")
API = (
    "/people", "/people?q=%E6%9E%97", f"/people?q={MOBILE}", "/people/BE000002", "/people/BE000002/links",
    "/people/BE000002/offboarding", "/people/{person_id}", "/people/QY000100", "/people/QY000100/offboarding",
    "/receipts/{number}", "/applications", "/applications/{slug}/reviews", "/applications/{slug}/preview/BE000002",
    "/findings", "/findings?kind=duplicate_person", "/findings?application={slug}", "/findings/{finding_id}",
)  # fmt: skip
SCIM = (
    "/Users", "/Users?count=0", "/Users?sortBy=displayName", "/Users?startIndex=2&count=2", "/Users/{person_id}",
    "/Users?filter=displayName%20sw%20%22%E6%9E%97%22", f"/Users?filter=phoneNumbers.value%20eq%20%22{MOBILE}%22",
    "/Users?filter=userName%20eq%20%22qy000100%40qiyue.example%22", "/Users?filter=groups%20pr", "/Groups",
    "/Groups?filter=displayName%20pr", "/Groups?count=0", "/Groups?filter=members.value%20eq%20%22{person_id}%22",
    "/Me",
)  # fmt: skip
# The last is how long the log is, which stands in every receipt too.
_OWN = re.compile(r'name="csrf_token" value="[^"]+"|req_[0-9a-z]+|<div class="banner warn" role="status">.*')
_NOT_COMPARED = frozenset({"content-length", "content-security-policy", "date", "set-cookie", "x-request-id"})


class Company:
    """One company's people of every role, with a browser each, and its tokens."""

    def __init__(self, hall: Hall) -> None:
        self.hall, self.stage = hall, hall.stage
        stage = hall.stage
        numbers = {HubRole.ADMINISTRATOR: "BE000002", HubRole.AUDITOR: "BE000003"}
        stage.import_rows(
            [_row(f"BE00000{n}", f"林晓{n}", company=OTHER_COMPANY, mobile=f"1380000000{n}") for n in (2, 3, 4, 9)],
            snapshot=False,
        )
        self.browsers: dict[str, TestClient] = {"hr": hall.browsers["hr_of_other"]}
        with stage.hub.database.transaction() as session:
            self.company = find_organization(session, OTHER_COMPANY)
            people = {role: find_person(session, number) for role, number in numbers.items()}
            for role, person in people.items():
                assign_role(session, person, role, organization_id=self.company, now=stage.clock(), assigned_by="test")
            commands.offboard(session, CALLER, find_person(session, "BE000004"), now=stage.clock())
            _find(session, stage.clock(), self.company, "nobody")
        for role, person in people.items():
            stage._set_password(person)
            browser = self.browsers[role] = stage.browser()
            assert stage.sign_in(browser, numbers[role])
        self.api = self._token(API_SCOPES)
        self.scim = self._token(("scim:read", "scim:write"))

    def _token(self, scopes: tuple[str, ...]) -> str:
        value = self.stage._api_token(None, scopes=scopes)
        with self.stage.hub.database.transaction() as session:
            of_token = update(ApiToken).where(ApiToken.token_hash == opaque.hash_of(value))
            session.execute(of_token.values(organization_id=self.company))
        return value

    def look(self, names: Mapping[str, str], *, only_named: bool = False) -> dict[tuple[str, str], tuple[int, str]]:
        """Everything that this company's people and tokens are told.

        Args:
            only_named: at addresses that name something; what was named is taken out of what they are told.
        """
        seen: dict[tuple[str, str], tuple[int, str]] = {}
        for who, browser in self.browsers.items():
            for path in self._addresses():
                base = path.partition("?")[0]
                # A list that somebody may not have is asked for once.
                if (path == base or seen[who, base][0] != 404) if not only_named else "{" in path:
                    seen[who, path] = _told(browser.get(_filled(path, names)), names)
        for base, token, paths in (("/api/v1", self.api, API), ("/scim/v2", self.scim, SCIM)):
            for path in paths:
                if only_named and "{" not in path:
                    continue
                headers = {"authorization": f"Bearer {token}"}
                answer = self.stage.machine.get(base + _filled(path, names), headers=headers)
                seen["token", base + path] = _told(answer, names)
        return seen

    def _addresses(self) -> Iterator[str]:
        pages = {path for method, path in pages_of(self.hall) if method == "GET"}
        for path in sorted(page for page in pages if page.startswith(("/hr", "/admin", "/audit"))):
            yield path
            if "{" not in path:
                yield from (f"{path}?q={word}" for word in (*WORDS, "{person_id}", "{number}"))
                yield from (f"{path}?sort={sort}" for sort in SORTS)
                yield from (f"{path}?state={state}" for state in STATES)
                yield from (f"{path}?{filter_}" for filter_ in FILTERS)


def _filled(path: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        path = path.replace("{" + name + "}", value)
    return path


def _told(answer: Any, names: Mapping[str, str]) -> tuple[int, str]:
    told = [f"{name}: {value}" for name, value in answer.headers.items() if name not in _NOT_COMPARED]
    text = "\n".join([*told, "", _OWN.sub("", answer.text)])
    for name, value in names.items():
        text = text.replace(value, name) if len(value) > 1 else text
    return answer.status_code, text


def _find(session: Any, now: Any, organization_id: str, subject: str) -> None:
    place = Place("rec_x", "payroll", None, organization_id, None)
    verdict = Verdict(Kind.GHOST_PAID, subject, subject, "none", {}, None, None, Proposal.STOP_PAY)
    findings.write(session, place, [verdict], now=now)


def _much_happens(hall: Hall) -> dict[str, str]:
    """In the other company: people come, go and are held back, applications and findings come. What can be named."""
    stage = hall.stage
    clock, hub = stage.clock, stage.hub
    # One has a number, a mobile and a name of this company.
    rows = [_row(f"QY0001{n:02d}", f"林晓雯{n}", mobile=f"139000000{n:02d}") for n in range(40)]
    stage.import_rows([*rows, _row("BE000001", "林晓9", email="", mobile=MOBILE)], snapshot=False)
    with hub.database.transaction() as session:
        for number in ("QY000101", "QY000102"):
            commands.offboard(session, CALLER, find_person(session, number), now=clock())
        later = clock() + timedelta(days=3)
        commands.offboard(session, CALLER, find_person(session, "QY000103"), now=clock(), at=later)
        commands.suspend(session, CALLER, find_person(session, "QY000104"), now=clock())
        application = session.execute(select(Application.id).where(Application.slug == "jwt-app")).scalar_one()
        place = findings.place_of(session, application, run_id="rec_y", policy=Policy.REPORT)
        ghosts = [Verdict(Kind.GHOST, f"n{n}", f"n{n}", "none", {}, None, None, Proposal.DISABLE) for n in range(3)]
        findings.write(session, place, ghosts, now=clock())
        _find(session, clock(), find_organization(session, COMPANY), "nobody of HQ")
    path = stage.folder / "held.csv"
    path.write_text(",".join(COLUMNS) + "\n" + ",".join(_row("QY000001", "林晓雯").get(c, "") for c in COLUMNS) + "\n")
    import_file(hub.database, path, keyring=hub.keyring, snapshot=True, dry_run=False, now=clock(), actor=COMMAND_LINE)
    check_register(hub.database, clock=clock, actor=COMMAND_LINE)
    with hub.database.read() as session:
        assert session.execute(select(HeldChange.id)).first() is not None, "the brake holds some of them"
        assert session.execute(select(Finding.id).where(Finding.kind == Kind.QUESTION)).first() is not None
        person = find_person(session, "QY000100")
    scim = {"authorization": f"Bearer {stage._api_token(None, scopes=('scim:read', 'scim:write'))}"}
    group = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "displayName": "all"}
    answer = stage.machine.post("/scim/v2/Groups", json={**group, "members": [{"value": person}]}, headers=scim)
    assert answer.status_code == 201, answer.text
    assert stage.redeem("jwt-app", stage.code(hall.browsers["leaver"], "jwt-app")).status_code == 200
    with hub.database.transaction() as session:
        commands.offboard(session, CALLER, hall.people["leaver"], now=clock())
        number = session.execute(select(Case.number).where(Case.principal_id == hall.people["leaver"])).scalar_one()
        return {
            "person_id": person,
            "code": COMPANY,
            "number": number,
            "slug": "jwt-app",
            "delivery_id": session.execute(select(Delivery.id).limit(1)).scalar_one(),
            "finding_id": session.execute(select(Finding.id).where(Finding.subject == "nobody of HQ")).scalar_one(),
            "provider": "upstream",
            "provider_id": session.execute(select(IdentityProvider.id).limit(1)).scalar_one(),
        }


_NAMES = ("person_id", "number", "slug", "delivery_id", "finding_id", "provider", "provider_id", "code")


def test_what_happens_in_another_company_is_told_nobody_of_this_one(
    database_kind: DatabaseKind, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with open_hall(database_kind, databases, tmp_path_factory.mktemp("elsewhere")) as hall:
        here, nothing = Company(hall), dict.fromkeys(_NAMES, "x")
        before = here.look(nothing)
        assert {told[0] for told in before.values()} >= {200, 404}
        names = _much_happens(hall)
        after = here.look(nothing)
        assert sorted(asked for asked in before if after[asked] != before[asked]) == []
        # What is there, and what is named by nobody: the same answer.
        absent = {name: value[:-1] + ("0" if value[-1] != "0" else "1") for name, value in names.items()}
        there, gone = here.look(names, only_named=True), here.look(absent, only_named=True)
        assert sorted(asked for asked in there if gone[asked] != there[asked]) == []
