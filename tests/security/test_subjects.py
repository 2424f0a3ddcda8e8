"""Rows that belong to no endpoint alone: names, actors, faults, comparisons, downloads."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson
import pytest
import structlog
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from audit.tables import audit_events
from idhub.access.tables import OidcClient
from idhub.api.configuration_file import OidcBlock
from idhub.app import create_app
from idhub.authority import RoleAssignment
from idhub.credentials.store import SqliteStore
from idhub.credentials.tables import ApiToken, Invitation, Password
from idhub.db import Database
from idhub.directory.tables import Person, SubjectIdentifier
from idhub.services import open_hub
from idhub.settings import Settings
from tests.flows.every_door import submit
from tests.security.hall import Hall
from tests.security.test_headers import addresses
from tests.support.routes import methods_of

_ROOT = Path(__file__).resolve().parents[2]


def test_a_client_id_is_never_a_subject(hall: Hall) -> None:
    """RFC 9700 section 4.15: who may choose a client id may not become a person by it."""
    browser = hall.browsers["employee"]
    for slug in ("jwt-app", "opaque-app"):
        assert hall.stage.redeem(slug, hall.stage.code(browser, slug)).status_code == 200
    with hall.stage.hub.database.read() as session:
        subjects = session.execute(select(SubjectIdentifier.sub)).scalars().all()
    assert subjects
    pattern = next(one.pattern for one in OidcBlock.model_fields["client_id"].metadata if getattr(one, "pattern", None))
    assert pattern
    for sub in subjects:
        assert len(sub) >= 20, "not to be guessed"
        assert sub not in {"jwt-app", "opaque-app"}


def test_a_fresh_hub_has_no_account_and_no_password(tmp_path: Path) -> None:
    """ASVS 6.3.2: no admin/admin, root or sa; the first administrator is made on the machine itself."""
    hub = open_hub(Settings(data_dir=tmp_path))
    try:
        with hub.database.read() as session:
            for table in (Person, Password, ApiToken, Invitation, RoleAssignment, OidcClient):
                assert session.execute(select(func.count()).select_from(table)).scalar_one() == 0
        app = create_app(hub, with_worker=False)
        with TestClient(app, base_url=hub.settings.issuer, follow_redirects=False) as http:
            for name in ("admin", "root", "sa", "administrator", "idhub"):
                answer = submit(http, http.get("/login"), "/login", username=name, password=name)
                assert (answer.status_code, "idhub_session" in http.cookies) == (403, False)
                own = (name, name)
                token = http.post("/oauth2/token", data={"grant_type": "client_credentials"}, auth=own)
                assert token.status_code == 401
                for address in ("/api/v1/people", "/scim/v2/Users"):
                    assert http.get(address, auth=own).status_code == 401
                    assert http.get(address, headers={"authorization": f"Bearer {name}"}).status_code == 401
    finally:
        hub.close()


def test_a_role_taken_away_is_gone_at_the_next_request(hall: Hall) -> None:
    """ASVS 8.3.2: nothing about roles is cached."""
    browser, person = hall.browsers["hr"], hall.people["hr"]
    assert browser.get("/hr/people").status_code == 200
    statement = update(RoleAssignment).where(RoleAssignment.principal_id == person)
    with hall.stage.hub.database.transaction() as session:
        session.execute(statement.values(removed_at=hall.stage.clock()))
    try:
        assert browser.get("/hr/people").status_code == 404
        assert browser.get(f"/hr/people/{hall.stage.person}").status_code == 404
    finally:
        with hall.stage.hub.database.transaction() as session:
            session.execute(statement.values(removed_at=None))
    assert browser.get("/hr/people").status_code == 200


def test_the_actor_of_an_event_is_who_was_authenticated(hall: Hall) -> None:
    """G04: neither headers nor fields of a request name the actor."""
    forged = {"x-user": "QY000012", "x-forwarded-user": "QY000012", "x-actor": hall.people["administrator"]}
    browser = hall.browsers["hr"]
    target = hall.people["target"]
    page = browser.get(f"/hr/people/{target}")
    for action in ("suspend", "reactivate"):
        browser.headers.update(forged)
        try:
            answer = submit(
                browser, page, f"/hr/people/{target}/{action}", reason="test", actor=hall.people["administrator"]
            )
        finally:
            for name in forged:
                del browser.headers[name]
        assert answer.status_code == 303, answer.text
    with hall.stage.hub.database.read() as session:
        bodies = session.execute(
            select(audit_events.c.body).where(audit_events.c.type.in_(("person.suspended", "person.reactivated")))
        ).scalars()
        actors = {orjson.loads(body)["actor"]["id"] for body in bodies}
    assert actors == {hall.people["hr"]}
    token = {"authorization": f"Bearer {hall.stage.api_token}", **forged}
    body = {"reason": "x", "actor": hall.people["administrator"]}
    refused = hall.stage.machine.post(f"/api/v1/people/{target}/suspend", json=body, headers=token)
    assert (refused.status_code, refused.json()["field"]) == (422, "actor")


def test_a_fault_says_its_number_and_nothing_else(small_hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """G05, ASVS 16.5.4: the last handler, for a page and for the API."""
    secret = "postgresql://idhub:hunter2@db.inside.example/idhub"

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"cannot reach {secret}")

    # A part that everything needs, broken as no test of ours would break it: the fault is real, its cause is not.
    monkeypatch.setattr(Database, "read", fail)
    http = small_hall.stage.machine
    # What is logged has tests of its own (tests/test_logs.py).
    with structlog.testing.capture_logs():
        answers = [
            http.get("/hr/people", headers={"cookie": "idhub_session=x"}),
            http.get("/api/v1/people", headers={"authorization": f"Bearer {small_hall.stage.api_token}"}),
        ]
    for answer in answers:
        assert answer.status_code == 500, answer.url
        assert "hunter2" not in answer.text
        assert "inside.example" not in answer.text
        assert "Traceback" not in answer.text
        assert "RuntimeError" not in answer.text
        number = answer.headers["x-request-id"]
        assert number.startswith("req_")
        assert number in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_no_route_tells_what_a_fault_was(small_hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """G05 at every door: strangers, a signed-in colleague and a machine, when everything that is stored is away."""
    secret = "postgresql://idhub:hunter2@db.inside.example/idhub"

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"cannot reach {secret}")

    for owner, names in ((Database, ("read", "transaction", "run")), (SqliteStore, ("read", "write"))):
        for name in names:
            monkeypatch.setattr(owner, name, fail)
    machine, cookies = small_hall.stage.machine, small_hall.browsers["hr"].cookies
    callers: list[dict[str, str]] = [
        {},
        {"cookie": f"idhub_session={cookies['idhub_session']}"},
        {"authorization": f"Bearer {small_hall.stage.api_token}"},
    ]
    faults = set()
    with structlog.testing.capture_logs():
        for headers in callers:
            for method, path, address in addresses(small_hall):
                answer = machine.request(method, address, headers=headers)
                told = f"{answer.text} {dict(answer.headers)}"
                for word in ("hunter2", "inside.example", "Traceback", "RuntimeError", "cannot reach"):
                    assert word not in told, (method, path)
                if answer.status_code == 500:
                    assert answer.headers["x-request-id"].startswith("req_"), (method, path)
                    faults.add(path.split("/")[1])
    assert faults >= {"admin", "api", "audit", "hr", "oauth2", "saml", "scim"}, faults


_COMPARED = ("secret", "token", "password", "mac", "signature", "hash")


def _comparisons(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """`==` and `!=` between two names that sound like secrets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
            names = [side for side in sides if side[:1] not in "'\"0123456789("]
            if len(names) == len(sides) > 1 and all(any(word in name.lower() for word in _COMPARED) for name in names):
                yield node.lineno, " ? ".join(sides)


REVIEWED: Mapping[str, str] = {
    "target.token_hash ? _token_hash(wish.token)": "whether a configuration file changes something",
    "row.token ? lease.token": "a number that fences workers, no secret",
    "held.token ? self.lease.token": "the same number",
    "job.token_id ? self._caller.token_id": "ids of tokens, which every event shows",
    "len(set(hashes)) ? len(hashes)": "numbers",
    "table.c.lease_token ? bindparam('b_token')": "a statement",
    "stored.hash ? change.stored_hash": "both out of the database: whether somebody else changed it meanwhile",
    "leaf_hash(body) ? stored_bytes(row.leaf_hash)": "hashes of the log, which are published",
    "leaf_hash(stored_bytes(row.body)) ? stored_bytes(row.leaf_hash)": "hashes of the log, which are published",
    "leaf_hash(bytes(row.body)) ? bytes(row.leaf_hash)": "hashes of the log, which are published",
    "leaf_hash(proof.body) ? proof.leaf_hash": "hashes of the log, which are published",
}
"""Comparisons that sound like secrets and are none that anybody could guess at."""


def test_secrets_are_compared_in_constant_time() -> None:
    """B05, CVE-2016-7036: outside of SQL no secret is compared with ==."""
    found = []
    for folder in ("idhub", "audit", "scim", "providers"):
        for file in sorted((_ROOT / folder).rglob("*.py")):
            if "migrations" in file.parts:
                continue
            for line, text in _comparisons(ast.parse(file.read_text(encoding="utf-8"))):
                # A column of a table on one side makes it a statement.
                is_statement = any(part[:1].isupper() and "." in part for part in text.split(" ? "))
                if not is_statement and text not in REVIEWED:
                    found.append(f"{file.relative_to(_ROOT)}:{line}: {text}")
    assert found == []


def test_no_download_is_a_spreadsheet(hall: Hall) -> None:
    """X01: nothing that the hub hands out is opened by a program that calculates; if that changes, X01 is due."""
    sources = [
        file.read_text(encoding="utf-8")
        for folder in ("idhub/api", "idhub/web", "idhub/oidc")
        for file in (_ROOT / folder).rglob("*.py")
    ]
    assert not [text for text in sources if "text/csv" in text or "csv.writer" in text or "spreadsheetml" in text]
    downloads = {path for path in methods_of(hall.app) if path.endswith(("/download", "/export"))}
    assert downloads == {
        "/audit/events/{event_id}/download",
        "/hr/receipts/{number}/download",
        "/api/v1/receipts/{case}/export",
    }
