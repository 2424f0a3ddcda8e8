"""Every role at every page: the whole matrix, generated from the route table (ASVS 8.2.1 to 8.2.3, 8.4.1)."""

import html
import re
from collections.abc import Mapping

import orjson
import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from audit.tables import audit_events
from idhub.access.tables import Application
from idhub.delivery.tables import Delivery
from idhub.directory.tables import IdentityLink, Principal
from idhub.lifecycle import commands
from idhub.lifecycle.tables import Case, HrUpload
from idhub.login.tables import IdentityProvider
from idhub.provisioning.events.tables import EventStream
from idhub.provisioning.reconcile import findings
from idhub.provisioning.reconcile.judge import Verdict
from idhub.provisioning.reconcile.kinds import Kind, Policy, Proposal
from idhub.provisioning.reconcile.tables import Finding
from tests.lifecycle.world import CALLER
from tests.security.hall import STAFF, Hall
from tests.support.routes import methods_of

STRANGER = "stranger"
ROLES = (STRANGER, *(name for name in STAFF if name not in {"leaver", "target"}))
ALL = frozenset(ROLES)
SIGNED_IN = ALL - {STRANGER}
HR = frozenset({"hr"})
READERS = frozenset({"hr", "administrator", "auditor"})
OTHER = frozenset({"hr_of_other"})
ADMINISTRATORS = frozenset({"administrator"})
AUDITORS = frozenset({"auditor"})

MACHINES = ("/api/", "/scim/", "/oauth2/", "/saml/", "/cas/", "/wsfed", "/FederationMetadata/", "/.well-known/",
            "/healthz", "/readyz", "/metrics")  # fmt: skip
"""Where a role opens nothing: tokens and clients have tables of their own (tests/api/test_authority.py)."""

CELLS: Mapping[tuple[str, str], frozenset[str]] = {
    ("GET", "/"): SIGNED_IN,
    ("GET", "/account"): ALL,
    ("GET", "/account/links"): SIGNED_IN,
    ("POST", "/account/links/add"): SIGNED_IN,
    ("POST", "/account/links/remove"): SIGNED_IN,
    ("GET", "/account/security"): SIGNED_IN,
    ("POST", "/account/security"): SIGNED_IN,
    ("GET", "/account/sessions"): SIGNED_IN,
    ("POST", "/account/sessions/end"): SIGNED_IN,
    ("POST", "/account/sessions/end-others"): SIGNED_IN,
    ("GET", "/admin"): ALL,
    ("GET", "/admin/apps"): ADMINISTRATORS | AUDITORS,
    ("GET", "/admin/apps/{slug}"): ADMINISTRATORS | AUDITORS,
    ("GET", "/admin/apps/{slug}/provisioning"): ADMINISTRATORS | AUDITORS,
    ("POST", "/admin/apps/{slug}/provisioning"): ADMINISTRATORS,
    ("GET", "/admin/apps/{slug}/saml"): ADMINISTRATORS | AUDITORS,
    ("GET", "/admin/apps/{slug}/wsfed"): ADMINISTRATORS | AUDITORS,
    ("GET", "/admin/deliveries"): ADMINISTRATORS | AUDITORS,
    ("GET", "/admin/deliveries/{delivery_id}"): ADMINISTRATORS | AUDITORS,
    ("POST", "/admin/deliveries/{delivery_id}/retry"): ADMINISTRATORS,
    ("GET", "/admin/ghosts"): READERS | OTHER,
    ("POST", "/admin/ghosts/held/{slug}"): HR | ADMINISTRATORS,
    ("POST", "/admin/ghosts/run"): ADMINISTRATORS,
    ("GET", "/admin/ghosts/{finding_id}"): READERS,
    ("POST", "/admin/ghosts/{finding_id}/accept"): HR | ADMINISTRATORS,
    ("GET", "/admin/ghosts/{finding_id}/act"): HR | ADMINISTRATORS,
    ("POST", "/admin/ghosts/{finding_id}/act"): HR | ADMINISTRATORS,
    ("POST", "/admin/ghosts/{finding_id}/take-back"): HR | ADMINISTRATORS,
    ("POST", "/admin/ghosts/{finding_id}/dismiss"): HR | ADMINISTRATORS,
    ("GET", "/admin/providers"): ADMINISTRATORS | AUDITORS,
    ("GET", "/admin/providers/{provider}"): ADMINISTRATORS | AUDITORS,
    ("GET", "/admin/streams"): ADMINISTRATORS | AUDITORS,
    ("POST", "/admin/streams"): ADMINISTRATORS,
    ("GET", "/admin/streams/{stream_id}"): ADMINISTRATORS | AUDITORS,
    ("POST", "/admin/streams/{stream_id}"): ADMINISTRATORS,
    ("GET", "/audit"): ALL,
    ("GET", "/audit/events"): AUDITORS,
    ("GET", "/audit/events/{event_id}/download"): AUDITORS,
    ("GET", "/consent"): ALL,
    ("POST", "/consent"): ALL,
    ("GET", "/error"): ALL,
    ("GET", "/hr"): ALL,
    ("POST", "/hr/offboarding/{person_id}/cancel"): HR,
    ("GET", "/hr/offboarding/{person_id}/preview"): HR,
    ("POST", "/hr/offboarding/{person_id}/preview"): HR,
    ("GET", "/hr/people"): READERS | OTHER,
    ("GET", "/hr/people/new"): HR | OTHER,
    ("POST", "/hr/people/new"): HR | OTHER,
    ("GET", "/hr/people/{person_id}"): READERS,
    ("GET", "/hr/people/{person_id}/links/{provider_id}"): HR | ADMINISTRATORS,
    ("POST", "/hr/people/{person_id}/links/{provider_id}"): HR | ADMINISTRATORS,
    ("GET", "/hr/people/{person_id}/move"): HR,
    ("POST", "/hr/people/{person_id}/move"): HR,
    ("POST", "/hr/people/{person_id}/reactivate"): HR,
    ("GET", "/hr/people/{person_id}/rehire"): HR,
    ("POST", "/hr/people/{person_id}/rehire"): HR,
    ("POST", "/hr/people/{person_id}/suspend"): HR,
    ("GET", "/hr/pick/companies"): HR | OTHER,
    ("GET", "/hr/pick/people"): HR | OTHER,
    ("GET", "/hr/receipts"): READERS | OTHER,
    ("GET", "/hr/receipts/{number}"): READERS,
    ("GET", "/hr/receipts/{number}/download"): READERS,
    ("GET", "/hr/receipts/{number}/events"): READERS,
    ("GET", "/hr/sources"): READERS | OTHER,
    ("GET", "/hr/sources/import"): HR | OTHER,
    ("POST", "/hr/sources/import"): HR | OTHER,
    ("GET", "/hr/sources/import/{upload_id}"): HR,
    ("POST", "/hr/sources/import/{upload_id}"): HR,
    ("POST", "/hr/sources/release"): HR | OTHER,
    ("GET", "/login"): ALL,
    ("POST", "/login"): ALL,
    ("GET", "/login/first"): ALL,
    ("POST", "/login/first"): ALL,
    ("POST", "/login/saml/acs"): ALL,
    ("GET", "/login/saml/finish"): ALL,
    ("GET", "/login/saml/metadata"): ALL,
    ("GET", "/login/saml/slo"): ALL,
    ("POST", "/login/saml/slo"): ALL,
    ("POST", "/login/saml/slo/soap"): ALL,
    ("GET", "/login/with/{slug}"): ALL,
    ("GET", "/logout"): ALL,
    ("POST", "/logout"): ALL,
    ("POST", "/preferences"): ALL,
    ("GET", "/static/{version}/{name:path}"): ALL,
}
"""Who finds something there. Front doors lead on, to pages that ask for themselves. What the addresses name is of HQ,
which `hr_of_other` may not see."""

_ELSEWHERE = {
    ("POST", "/logout"), ("POST", "/account/sessions/end"), ("POST", "/account/sessions/end-others"), ("GET", "/login"),
    ("GET", "/hr/receipts/{number}/events"), ("GET", "/hr/receipts/{number}/download"),
    ("GET", "/admin/ghosts/{finding_id}/act"), ("POST", "/hr/sources/release"),
}  # fmt: skip
"""They end sessions, or answer by what is in them (tests/web/test_login_pages.py), or never end, or need
a worker that signs (tests/web/test_offboarding_pages.py), or name what to preview (tests/web/test_ghost_pages.py) or
to release (tests/web/test_source_pages.py)."""
_POST = (
    "reason", "display_name", "given_name", "family_name", "email", "mobile", "company", "employee_number",
    "employment_type", "department", "title", "manager", "start_date", "end_date", "employment", "fingerprint", "step",
    "confirm_name", "effective_at", "effective", "current_password", "new_password", "session", "transaction", "token",
    "password", "username", "consent", "provider", "language", "theme", "return_to", "version",
)  # fmt: skip
_CSRF = re.compile(r'name="csrf_token" value="([^"]+)"')


@pytest.fixture
def values(hall: Hall) -> Mapping[str, str]:
    """Objects of HQ: somebody here, a receipt of one who left, and a delivery of that leave."""
    stage, leaver = hall.stage, hall.people["leaver"]
    with stage.hub.database.read() as session:
        number = session.execute(select(Case.number).where(Case.principal_id == leaver)).scalar()
    if number is None:
        # An application takes part in their session, so that the leave has somebody to tell.
        assert stage.redeem("jwt-app", stage.code(hall.browsers["leaver"], "jwt-app")).status_code == 200
        with stage.hub.database.transaction() as session:
            result = commands.offboard(session, CALLER, leaver, now=stage.clock())
            number = session.execute(select(Case.number).where(Case.id == result.cases[leaver])).scalar_one()
    with stage.hub.database.read() as session:
        delivery = session.execute(select(Delivery.id).limit(1)).scalar_one()
        jwt_app = session.execute(select(Application.id).where(Application.slug == "jwt-app")).scalar_one()
    with stage.hub.database.transaction() as session:
        place = findings.place_of(session, jwt_app, run_id="rec_x", policy=Policy.REPORT)
        verdict = Verdict(Kind.GHOST, "nobody", "nobody", "none", {}, None, None, Proposal.DISABLE)
        findings.write(session, place, [verdict], now=stage.clock())
        finding = session.execute(select(Finding.id).where(Finding.subject == "nobody")).scalar_one()
        session.execute(update(Finding).values(held_at=stage.clock(), state="open", first_approver=None))
        provider = session.execute(select(IdentityProvider.id).limit(1)).scalar_one()
        epoch = session.execute(select(Principal.enrolment_epoch).where(Principal.id == stage.person)).scalar_one()
        session.merge(
            IdentityLink(
                provider=provider, upstream_subject="somebody", principal_id=stage.person, enrolment_epoch=epoch,
                created_at=stage.clock(),
            )
        )  # fmt: skip
        at = stage.clock()
        session.merge(
            EventStream(
                id="evs_roles", token_name="none", requested=[], created_at=at, next_attempt_at=at,
                failures=0, refused=0, lost=0,
            )
        )  # fmt: skip
        session.merge(
            HrUpload(
                id="upl_roles", uploaded_by=hall.people["hr"], epoch=0, file_name="hr.csv", size=1, digest="x",
                is_snapshot=True, state="cancelled", created_at=at, expires_at=at, finished_at=at,
            )
        )  # fmt: skip
    # Only what is under a signed checkpoint can be proven.
    stage.hub.sequencer().run_once(stage.clock(), checkpoint=True)
    with stage.hub.database.read() as session:
        about_them = audit_events.c.person_id == stage.person
        event = session.execute(select(audit_events.c.event_id).where(about_them).limit(1)).scalar_one()
    return {
        "event_id": event,
        "stream_id": "evs_roles",
        "upload_id": "upl_roles",
        "finding_id": finding,
        "person_id": stage.person,
        "number": number,
        "slug": "jwt-app",
        "provider": "upstream",
        "provider_id": provider,
        "delivery_id": delivery,
        "version": "x",
        "name:path": "nothing.css",
    }


def pages_of(hall: Hall) -> set[tuple[str, str]]:
    return {
        (method, path)
        for path, methods in methods_of(hall.app).items()
        if not path.startswith(MACHINES)
        for method in methods
    }


def test_every_page_has_its_row(small_hall: Hall) -> None:
    assert pages_of(small_hall) == set(CELLS)


def _open(browser: TestClient, method: str, address: str) -> tuple[int, str]:
    if method == "GET":
        answer = browser.get(address)
        return answer.status_code, answer.headers.get("location", "")
    found = _CSRF.search(browser.get("/account/security").text) or _CSRF.search(browser.get("/login").text)
    fields = {**dict.fromkeys(_POST, ""), "csrf_token": html.unescape(found[1]) if found else ""}
    answer = browser.post(address, data=fields, headers={"origin": str(browser.base_url).rstrip("/")})
    return answer.status_code, answer.headers.get("location", "")


@pytest.mark.parametrize(
    ("database_kind", "role"),
    [*(("sqlite", role) for role in ROLES), ("postgresql", "hr"), ("postgresql", "hr_of_other")],
    indirect=["database_kind"],
)
def test_a_role_finds_what_is_its_own_and_nothing_else(hall: Hall, values: Mapping[str, str], role: str) -> None:
    """What is not somebody's is not there: 404 as for what does not exist; a stranger is asked to sign in."""
    browser = hall.stranger() if role == STRANGER else hall.browsers[role]
    wrong = []
    for (method, path), who in sorted(CELLS.items()):
        address = path
        for name, value in values.items():
            address = address.replace("{" + name + "}", value)
        if (method, path) in _ELSEWHERE:
            continue
        status, location = _open(browser, method, address)
        if path.startswith("/static/"):
            found = status == 404
        elif role == STRANGER and role not in who:
            found = not (status == 303 and location.startswith("/login?return_to="))
        else:
            found = status != 404
        if found != (role in who):
            wrong.append((role, method, path, status, location))
    assert not wrong


_FORMS_OF_THEIR_OWN = {
    "/login", "/login/first", "/consent", "/logout", "/preferences", "/login/saml/acs", "/login/saml/slo",
    "/login/saml/slo/soap",
}  # fmt: skip
"""They answer a refusal by a page of their own (tests/web/test_login_pages.py), set a cookie of the browser's, or are
what a provider sends (tests/saml/test_upstream.py)."""
FORMS = sorted(path for method, path in CELLS if method == "POST" and path not in _FORMS_OF_THEIR_OWN)


def _token_of(browser: TestClient) -> str:
    found = _CSRF.search(browser.get("/account/security").text)
    assert found
    return html.unescape(found[1])


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("none", "csrf.token"),
        ("of_another_session", "csrf.token"),
        ("made_up", "csrf.token"),
        ("other_origin", "csrf.cross_site"),
        ("other_site", "csrf.cross_site"),
    ],
)
def test_no_form_is_taken_that_this_browser_was_not_given(
    hall: Hall, values: Mapping[str, str], how: str, reason: str
) -> None:
    """Each form of each page, by somebody who may (T02, T03, A25; ASVS 3.5.1)."""
    assert len(FORMS) > 15
    own = str(hall.stage.hub.settings.issuer)
    wrong = []
    for path in FORMS:
        who = next(role for role in ("administrator", "hr", "auditor", "employee") if role in CELLS["POST", path])
        browser, other = hall.browsers[who], hall.browsers["auditor" if who != "auditor" else "hr"]
        address = path
        for name, value in values.items():
            address = address.replace("{" + name + "}", value)
        token = {"none": "", "made_up": f"{'A' * 22}.{'0' * 64}", "of_another_session": _token_of(other)}.get(how)
        headers = {"origin": "https://evil.example" if how == "other_origin" else own}
        if how == "other_site":
            headers |= {"sec-fetch-site": "cross-site"}
        fields = {**dict.fromkeys((*_POST, "run"), ""), "csrf_token": _token_of(browser) if token is None else token}
        with hall.stage.hub.database.read() as session:
            last = session.execute(select(func.max(audit_events.c.id))).scalar_one()
        files = None
        if path == "/hr/sources/import":
            fields, files = {"csrf_token": fields["csrf_token"], "mode": "whole"}, {"file": ("hr.csv", b"x")}
        answer = browser.post(address, data=fields, files=files, headers=headers)
        with hall.stage.hub.database.read() as session:
            rows = session.execute(select(audit_events.c.body).where(audit_events.c.id > last)).scalars()
            events = [orjson.loads(body) for body in rows]
        told = [(event["type"], event.get("reason"), event["actor"]["id"]) for event in events]
        if answer.status_code != 403 or told != [("request.refused", reason, hall.people[who])]:
            wrong.append((path, who, answer.status_code, told))
    assert not wrong
    assert all(hall.browsers[name].get("/").status_code == 200 for name in ("hr", "administrator", "auditor"))
