"""Every door there is, every kind of credential there is: how each is opened, obtained and tried."""

import base64
import csv
import hashlib
import html
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from fastapi import FastAPI
from sqlalchemy import insert, select
from starlette.testclient import TestClient

from idhub.api.configuration import apply
from idhub.authority import HubRole, assign_role
from idhub.changes import COMMAND_LINE
from idhub.credentials import opaque
from idhub.credentials.predicate import may_act
from idhub.credentials.tables import ApiToken, RememberedDevice
from idhub.db import new_id
from idhub.directory.kinds import EmploymentType, OrganizationKind
from idhub.directory.organizations import create_organization, find_organization, root_organization
from idhub.directory.people import show_person
from idhub.directory.tables import Principal
from idhub.lifecycle import commands, intake
from idhub.lifecycle.commands import Caller
from idhub.lifecycle.doors import Door
from idhub.lifecycle.due import apply_due
from idhub.lifecycle.hr_import import import_file
from idhub.lifecycle.reevaluation import reevaluate_pending
from idhub.lifecycle.transition import transition
from idhub.login import invitations
from idhub.services import Hub
from providers.hr_file import COLUMNS
from providers.saml_wire import names
from providers.saml_wire.bindings import write_soap
from providers.saml_wire.signatures import sign
from tests.lifecycle.world import CALLER
from tests.saml import upstream
from tests.saml.partner import Answer, Partner, one_signer, read_answer, read_artifact
from tests.saml.upstream import Upstream
from tests.support.clock import Clock

PASSWORD = "quiet harbour lantern"
CALLBACK = "https://{slug}.example/callback"
ARTIFACT_ACS = "https://saml-app.example/artifact"
WSFED_REALM = "urn:wsfed-app"
VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
COMPANY = "HQ"
CAS_SERVICE = "https://cas-app.example/login"
NUMBER = "QY000001"
HR_NUMBER = "QY000002"
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')
_SECONDS_BEFORE_THE_END = timedelta(minutes=1)


@dataclass
class Stage:
    """A whole hub in this process, one person who holds one credential of every kind, and an HR colleague."""

    hub: Hub
    app: FastAPI
    clock: Clock
    folder: Path
    machine: TestClient
    person: str = ""
    secrets: dict[str, str] = field(default_factory=dict)
    hr_browser: TestClient | None = None
    api_token: str = ""

    # ------------------------------------------------------------------ setting up

    def furnish(self) -> None:
        """The company, two applications (JWT and opaque tokens), the person and the HR colleague."""
        now = self.clock()
        with self.hub.database.transaction() as session:
            create_organization(
                session,
                code=COMPANY,
                name="总部",
                kind=OrganizationKind.COMPANY,
                parent_id=root_organization(session),
                time_zone="Asia/Shanghai",
                now=now,
            )
        self._connect_applications()
        self.import_rows([_row(NUMBER, "林晓雯"), _row(HR_NUMBER, "沈佳宁")])
        with self.hub.database.read() as session:
            people = session.execute(select(Principal.id).order_by(Principal.id)).scalars().all()
            by_number = {show_person(session, p).employee_number: p for p in people}
        self.person, colleague = by_number[NUMBER], by_number[HR_NUMBER]
        for principal_id in (self.person, colleague):
            self._set_password(principal_id)
        with self.hub.database.transaction() as session:
            assign_role(
                session,
                colleague,
                HubRole.HR,
                organization_id=root_organization(session),
                now=now,
                assigned_by="test",
            )
        self.hr_browser = self.browser()
        assert self.sign_in(self.hr_browser, HR_NUMBER)
        self.api_token = self._api_token(None)

    @property
    def partner(self) -> Partner:
        """The SAML application."""
        address = "https://saml-app.example"
        return Partner(self.hub.settings.issuer, f"{address}/sp", f"{address}/acs", one_signer())

    @property
    def upstream(self) -> Upstream:
        """The identity provider of the company, which recognises people by their number."""
        return Upstream(self.hub.settings.issuer, "upstream", "https://idp.example/metadata", "https://idp.example/sso")

    def saml_answer(self, browser: TestClient, **changes: Any) -> Answer | None:
        """What the SAML application is answered about the person of this browser; None: a page, or a sign-in."""
        partner = self.partner
        page = browser.get(partner.redirect(partner.authn_request(self.clock(), IsPassive="true", **changes)))
        return read_answer(page) if page.status_code == 200 else None

    def saml_artifact(self, browser: TestClient) -> str:
        """An artifact of a sign-on of this browser, not fetched yet."""
        request = self.partner.authn_request(
            self.clock(), AssertionConsumerServiceURL=ARTIFACT_ACS, ProtocolBinding=names.ARTIFACT
        )
        return read_artifact(browser.get(self.partner.redirect(request)))[1]

    def resolve_artifact(self, artifact: str) -> bool:
        """Whether the SAML application gets a response for it."""
        question = sign(self.partner.artifact_resolve(self.clock(), artifact), self.partner.signer)
        answer = self.machine.post("/saml/artifact", content=write_soap(question))
        assert answer.status_code == 200, answer.text
        return "samlp:Response" in answer.text

    def wsfed_page(self, browser: TestClient, **fields: str) -> Any:
        """What the application of WS-Federation is answered about the person of this browser."""
        return browser.get("/wsfed", params={"wa": "wsignin1.0", "wtrealm": WSFED_REALM, **fields})

    def cas_ticket(self, browser: TestClient, **parameters: str) -> str | None:
        """The ticket that this browser brings the CAS application without asking its person; None: it has none."""
        answer = browser.get("/cas/login", params={"service": CAS_SERVICE, "gateway": "true", **parameters})
        return parse_qs(urlsplit(answer.headers.get("location", "")).query).get("ticket", [None])[0]

    def cas_user(self, ticket: str, service: str = CAS_SERVICE) -> str | None:
        """Whom the CAS application is told that a ticket is of."""
        answer = self.machine.get("/cas/validate", params={"ticket": ticket, "service": service})
        verdict, _, user = answer.text.partition("\n")
        return user.strip() if verdict == "yes" else None

    def _connect_applications(self) -> None:
        applications: list[dict[str, Any]] = []
        for slug, form in (("jwt-app", "jwt"), ("opaque-app", "opaque")):
            self.secrets[slug] = secrets.token_urlsafe(32)
            (self.folder / f"{slug}.secret").write_text(self.secrets[slug])
            applications.append(
                {
                    "slug": slug,
                    "name": slug,
                    "oidc": {
                        "client_id": slug,
                        "client_secret_file": f"{slug}.secret",
                        "redirect_uris": [CALLBACK.format(slug=slug)],
                        "backchannel_logout_uri": f"https://{slug}.example/logout",
                        "access_token": form,
                    },
                    "entitle": [{"role": "member", "rule": f'employments.companyCode eq "{COMPANY}"'}],
                }
            )
        applications.append(
            {
                "slug": "saml-app",
                "name": "saml-app",
                "saml": self.partner.block(
                    acs_urls=[self.partner.acs, {"url": ARTIFACT_ACS, "index": 1, "binding": "artifact"}]
                ),
                "entitle": [{"role": "member", "rule": f'employments.companyCode eq "{COMPANY}"'}],
            }
        )
        applications.append(
            {
                "slug": "wsfed-app",
                "name": "wsfed-app",
                "wsfed": {
                    "realm": WSFED_REALM,
                    "reply_urls": ["https://wsfed-app.example/reply"],
                    "cleanup_url": "https://wsfed-app.example/reply",
                },
                "entitle": [{"role": "member", "rule": f'employments.companyCode eq "{COMPANY}"'}],
            }
        )
        applications.append(
            {
                "slug": "cas-app",
                "name": "cas-app",
                "cas": {"services": [CAS_SERVICE], "user": "employee_number", "logout": "service"},
                "entitle": [{"role": "member", "rule": f'employments.companyCode eq "{COMPANY}"'}],
            }
        )
        path = self.folder / "apps.yaml"
        path.write_text(yaml.safe_dump({"applications": applications, "providers": [self.upstream.block()]}))
        apply(self.hub.database, self.hub.keyring, path, clock=self.clock, actor=COMMAND_LINE, door="cli")
        reevaluate_pending(self.hub.database, clock=self.clock)

    def import_rows(self, rows: list[dict[str, str]], *, snapshot: bool = True) -> None:
        """An HR file with these rows."""
        path = self.folder / f"people-{secrets.token_hex(4)}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(rows)
        report = import_file(
            self.hub.database,
            path,
            keyring=self.hub.keyring,
            snapshot=snapshot,
            dry_run=False,
            now=self.clock(),
            actor=COMMAND_LINE,
        )
        assert not report.refused, report.problems

    def _set_password(self, principal_id: str) -> None:
        browser = self.browser()
        token = self.invite(principal_id)
        page = browser.get("/login/first", params={"token": token})
        assert page.status_code == 200, page.text
        answer = submit(browser, page, "/login/first", password=PASSWORD)
        assert answer.status_code == 303, answer.text

    def invite(self, principal_id: str) -> str:
        """A one-time link's token."""
        with self.hub.database.transaction() as session:
            return invitations.invite(
                session, principal_id, now=self.clock(), settings=self.hub.settings, actor=COMMAND_LINE
            )

    def _api_token(
        self,
        principal_id: str | None,
        *,
        scopes: Sequence[str] = ("people:read", "people:write"),
        terms: Mapping[str, str] | None = None,
    ) -> str:
        value = opaque.make("api")
        with self.hub.database.transaction() as session:
            epoch = None
            if principal_id is not None:
                epoch = session.execute(
                    select(Principal.enrolment_epoch).where(Principal.id == principal_id)
                ).scalar_one()
            session.execute(
                insert(ApiToken).values(
                    id=new_id("tok"),
                    token_hash=opaque.hash_of(value),
                    name="test",
                    principal_id=principal_id,
                    enrolment_epoch=epoch,
                    installation_epoch=1,
                    scopes=list(scopes),
                    terms=terms,
                    created_at=self.clock(),
                    is_local=principal_id is None,
                )
            )
        return value

    # ------------------------------------------------------------------ browsers and applications

    def browser(self) -> TestClient:
        """A browser without cookies; shares the running application."""
        made = TestClient(self.app, base_url=self.hub.settings.issuer, follow_redirects=False)
        # In the one running loop, whose database connections the fast endpoints use.
        made.portal = self.machine.portal
        return made

    def sign_in(self, browser: TestClient, number: str, password: str = PASSWORD) -> bool:
        """Fill in the sign-in form; whether it opened a session."""
        page = browser.get("/login")
        answer = submit(browser, page, "/login", username=number, password=password)
        return answer.status_code == 303 and "idhub_session" in browser.cookies

    def authorize(self, browser: TestClient, slug: str) -> Any:
        """The answer to an authorization request in this browser."""
        return browser.get(
            "/oauth2/authorize",
            params={
                "response_type": "code",
                "client_id": slug,
                "redirect_uri": CALLBACK.format(slug=slug),
                "scope": "openid offline_access",
                "state": "s",
                "code_challenge": CHALLENGE,
                "code_challenge_method": "S256",
            },
        )

    def code(self, browser: TestClient, slug: str) -> str:
        """A fresh authorization code."""
        answer = self.authorize(browser, slug)
        assert answer.status_code == 303, answer.text
        location: str = answer.headers["location"]
        return parse_qs(urlsplit(location).query)["code"][0]

    def token(self, slug: str, **fields: str) -> Any:
        """The answer of the token endpoint."""
        return self.machine.post("/oauth2/token", data=fields, auth=(slug, self.secrets[slug]))

    def redeem(self, slug: str, code: str) -> Any:
        """Redeem a code."""
        return self.token(
            slug,
            grant_type="authorization_code",
            code=code,
            redirect_uri=CALLBACK.format(slug=slug),
            code_verifier=VERIFIER,
        )

    def is_active(self, slug: str, token: str) -> bool:
        """What introspection says."""
        answer = self.machine.post("/oauth2/introspect", data={"token": token}, auth=(slug, self.secrets[slug]))
        return bool(answer.json()["active"])


def hidden_fields(page: Any) -> dict[str, str]:
    """Hidden fields of the page's form."""
    return {name: html.unescape(value) for name, value in _HIDDEN.findall(page.text)}


def submit(browser: TestClient, page: Any, action: str, **fields: str) -> Any:
    """Send the page's form with its hidden fields."""
    origin = str(browser.base_url).rstrip("/")
    return browser.post(action, data={**hidden_fields(page), **fields}, headers={"origin": origin})


def _row(number: str, name: str, **values: str) -> dict[str, str]:
    return {
        "employee_number": number,
        "name": name,
        "email": f"{number.lower()}@qiyue.example",
        "company": COMPANY,
        "department": "底盘开发部",
        "employment_type": "regular",
        "start_date": "2020-01-01",
        "status": "active",
        **values,
    }


# ---------------------------------------------------------------------- kinds of credential


@dataclass(frozen=True)
class Kind:
    """How a credential is obtained, and whether it still opens anything."""

    obtain: Callable[[Stage], Any]
    works: Callable[[Stage, Any], bool]
    survives_suspension: bool = False
    """Whether it works again once a suspension is over: factors do, access does not."""


def _signed_in(stage: Stage) -> TestClient:
    browser = stage.browser()
    assert stage.sign_in(browser, NUMBER)
    return browser


def _session_works(stage: Stage, browser: TestClient) -> bool:
    page = browser.get("/")
    opened = stage.authorize(browser, "jwt-app")
    code = parse_qs(urlsplit(opened.headers.get("location", "")).query).get("code")
    return page.status_code == 200 or code is not None


def _pending_sign_in(stage: Stage) -> tuple[TestClient, str]:
    """A sign-in that stands at the password page."""
    browser = stage.browser()
    answer = stage.authorize(browser, "jwt-app")
    assert answer.status_code == 200, answer.text
    return browser, f"/login?transaction={hidden_fields(answer)['transaction']}"


def _pending_sign_in_works(stage: Stage, pending: tuple[TestClient, str]) -> bool:
    browser, location = pending
    page = browser.get(location)
    submit(browser, page, "/login", username=NUMBER, password=PASSWORD)
    return "idhub_session" in browser.cookies


def _tokens(slug: str) -> Callable[[Stage], dict[str, str]]:
    def obtain(stage: Stage) -> dict[str, str]:
        answer = stage.redeem(slug, stage.code(_signed_in(stage), slug))
        assert answer.status_code == 200, answer.text
        tokens: dict[str, str] = answer.json()
        return tokens

    return obtain


def _access_works(slug: str) -> Callable[[Stage, dict[str, str]], bool]:
    def works(stage: Stage, tokens: dict[str, str]) -> bool:
        token = tokens["access_token"]
        userinfo = stage.machine.get("/oauth2/userinfo", headers={"authorization": f"Bearer {token}"})
        return stage.is_active(slug, token) or userinfo.status_code == 200

    return works


def _refresh_works(stage: Stage, tokens: dict[str, str]) -> bool:
    token = tokens["refresh_token"]
    active = stage.is_active("opaque-app", token)
    answer = stage.token("opaque-app", grant_type="refresh_token", refresh_token=token)
    return active or answer.status_code == 200


def _invitation_works(stage: Stage, token: str) -> bool:
    browser = stage.browser()
    page = browser.get("/login/first", params={"token": token})
    if page.status_code != 200 or 'name="password"' not in page.text:
        return False
    return bool(submit(browser, page, "/login/first", password=PASSWORD).status_code == 303)


def _remembered(stage: Stage) -> str:
    browser = _signed_in(stage)
    value = browser.cookies.get("idhub_device")
    assert value, "signing in remembers the browser"
    return str(value)


def _remembered_works(stage: Stage, value: str) -> bool:
    with stage.hub.database.read() as session:
        row = session.execute(
            select(
                RememberedDevice.enrolment_epoch,
                RememberedDevice.expires_at,
                Principal.enrolment_epoch.label("now"),
                may_act(stage.clock()).label("may_act"),
            )
            .join(Principal, Principal.id == RememberedDevice.principal_id)
            .where(RememberedDevice.token_hash == opaque.hash_of(value))
        ).one()
    return bool(row.enrolment_epoch == row.now and row.expires_at > stage.clock() and row.may_act)


def _saml_works(stage: Stage, browser: TestClient) -> bool:
    answer = stage.saml_answer(browser)
    return answer is not None and answer.status == ["Success"]


def _saml_request(stage: Stage) -> tuple[TestClient, str]:
    """A request that another site's form brought, not yet taken up by its browser, and that browser."""
    partner = stage.partner
    sent = stage.browser().post("/saml/sso", data=partner.form(partner.authn_request(stage.clock())))
    assert sent.status_code == 303, sent.text
    return _signed_in(stage), sent.headers["location"]


def _saml_request_works(stage: Stage, held: tuple[TestClient, str]) -> bool:
    browser, location = held
    page = browser.get(location)
    if page.status_code == 303:
        page = browser.get(page.headers["location"])
    return page.status_code == 200 and "SAMLResponse" in page.text


def _asked_upstream(stage: Stage) -> tuple[TestClient, bytes]:
    """A browser whose person went to the identity provider, and the answer that came back, not delivered yet."""
    # What was asked at the very instant of an ending is not of after it.
    stage.clock.advance(timedelta(seconds=1))
    browser = stage.browser()
    request = upstream.begin(browser, stage.upstream)
    return browser, stage.upstream.document(stage.upstream.answer(request, stage.clock()))


def _upstream_works(stage: Stage, held: tuple[TestClient, bytes]) -> bool:
    browser, document = held
    upstream.follow(browser, upstream.deliver(browser, document))
    return "idhub_session" in browser.cookies


def _linked(stage: Stage) -> str:
    """A link that a first sign-in made."""
    assert _upstream_works(stage, _asked_upstream(stage))
    return "by its subject alone"


def _link_works(stage: Stage, _: str) -> bool:
    stage.clock.advance(timedelta(seconds=1))
    browser = stage.browser()
    upstream.sign_in(browser, stage.upstream, stage.clock(), attributes={})
    return "idhub_session" in browser.cookies


def _wsfed_request(stage: Stage) -> tuple[TestClient, str]:
    """The same of WS-Federation."""
    sent = stage.browser().post("/wsfed", data={"wa": "wsignin1.0", "wtrealm": WSFED_REALM})
    assert sent.status_code == 303, sent.text
    return _signed_in(stage), sent.headers["location"]


def _wsfed_request_works(stage: Stage, held: tuple[TestClient, str]) -> bool:
    browser, location = held
    page = browser.get(location)
    if page.status_code == 303:
        page = browser.get(page.headers["location"])
    return page.status_code == 200 and "wresult" in page.text


def _cas_works(stage: Stage, browser: TestClient) -> bool:
    ticket = stage.cas_ticket(browser)
    return ticket is not None and stage.cas_user(ticket) == NUMBER


def _cas_ticket(stage: Stage) -> str:
    ticket = stage.cas_ticket(_signed_in(stage))
    assert ticket
    return ticket


def _api_token_works(stage: Stage, token: str) -> bool:
    answer = stage.machine.get("/api/v1/people", headers={"authorization": f"Bearer {token}"})
    return bool(answer.status_code == 200)


KINDS: Mapping[str, Kind] = {
    "ses": Kind(_signed_in, _session_works),
    "tx": Kind(_pending_sign_in, _pending_sign_in_works, survives_suspension=True),
    "ac": Kind(
        lambda stage: stage.code(_signed_in(stage), "jwt-app"),
        lambda stage, code: bool(stage.redeem("jwt-app", code).status_code == 200),
    ),
    "at": Kind(_tokens("opaque-app"), _access_works("opaque-app")),
    "jwt": Kind(_tokens("jwt-app"), _access_works("jwt-app")),
    "rt": Kind(_tokens("opaque-app"), _refresh_works),
    "saml": Kind(_signed_in, _saml_works),
    "saml request": Kind(_saml_request, _saml_request_works),
    "saml artifact": Kind(
        lambda stage: stage.saml_artifact(_signed_in(stage)), lambda stage, artifact: stage.resolve_artifact(artifact)
    ),
    "identity link": Kind(_linked, _link_works, survives_suspension=True),
    "upstream response": Kind(_asked_upstream, _upstream_works),
    "wsfed": Kind(_signed_in, lambda stage, browser: "wresult" in stage.wsfed_page(browser).text),
    "wsfed request": Kind(_wsfed_request, _wsfed_request_works),
    "cas": Kind(_signed_in, _cas_works),
    "cas ticket": Kind(_cas_ticket, lambda stage, ticket: stage.cas_user(ticket) is not None),
    # The password that an invitation sets ends what was there before: it comes after those.
    "inv": Kind(lambda stage: stage.invite(stage.person), _invitation_works),
    "dev": Kind(_remembered, _remembered_works, survives_suspension=True),
    "api": Kind(lambda stage: stage._api_token(stage.person), _api_token_works, survives_suspension=True),
    "password": Kind(
        lambda _: PASSWORD,
        lambda stage, password: stage.sign_in(stage.browser(), NUMBER, password),
        survives_suspension=True,
    ),
}
"""Opaque kinds by their prefix (`opaque.KINDS`), JWT access tokens, SAML, CAS, and the password."""


# ---------------------------------------------------------------------- doors


def _console_leave(stage: Stage) -> None:
    assert stage.hr_browser is not None
    address = f"/hr/offboarding/{stage.person}/preview"
    page = stage.hr_browser.get(address)
    assert page.status_code == 200, page.text
    action = re.search(r'<form[^>]*method="post"[^>]*action="([^"]*offboarding[^"]*)"', page.text)
    assert action, "the preview has its form"
    answer = submit(
        stage.hr_browser, page, html.unescape(action[1]), confirm_name="林晓雯", effective_at="", reason="left"
    )
    assert answer.status_code == 303, answer.text


def _console_post(what: str) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        assert stage.hr_browser is not None
        page = stage.hr_browser.get(f"/hr/people/{stage.person}")
        assert page.status_code == 200, page.text
        answer = submit(stage.hr_browser, page, f"/hr/people/{stage.person}/{what}", reason="test")
        assert answer.status_code == 303, answer.text

    return act


def _api(method: str, path: str, **body: Any) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        answer = stage.machine.request(
            method,
            f"/api/v1/people/{stage.person}/{path}",
            json=body,
            headers={"authorization": f"Bearer {stage.api_token}"},
        )
        assert answer.status_code in {200, 201}, answer.text

    return act


def _scim(method: str, terms: Mapping[str, str] | None = None, **active: Any) -> Callable[[Stage], None]:
    """A sender that is limited to nothing: DELETE, or a change of `active`, on the terms of its token."""

    def act(stage: Stage) -> None:
        body = {
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
            "Operations": [{"op": "replace", "value": active}],
        }
        answer = stage.machine.request(
            method,
            f"/scim/v2/Users/{stage.person}",
            json=body if active else None,
            headers={"authorization": f"Bearer {stage._api_token(None, scopes=['scim:write'], terms=terms)}"},
        )
        assert answer.status_code in {200, 204}, answer.text

    return act


def _command(act: Callable[[Any, Caller, str, datetime], Any]) -> Callable[[Stage], None]:
    def run(stage: Stage) -> None:
        with stage.hub.database.transaction() as session:
            act(session, CALLER, stage.person, stage.clock())

    return run


def _post_of(stage: Stage) -> dict[str, Any]:
    with stage.hub.database.read() as session:
        organization_id = find_organization(session, COMPANY)
    return {
        "organization_id": organization_id,
        "employee_number": NUMBER,
        "employment_type": "regular",
        "starts_on": date(2020, 1, 1),
    }


def _cli_rehire(stage: Stage) -> None:
    with stage.hub.database.transaction() as session:
        commands.rehire(session, CALLER, stage.person, now=stage.clock(), **_post_of(stage))


def _hr_file(**values: str) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        rows = [_row(NUMBER, "林晓雯", **values), _row(HR_NUMBER, "沈佳宁")]
        stage.import_rows(rows)

    return act


def _hr_file_absent(stage: Stage) -> None:
    stage.import_rows([_row(HR_NUMBER, "沈佳宁")])


def _schedule_leave(stage: Stage) -> None:
    with stage.hub.database.transaction() as session:
        commands.offboard(session, CALLER, stage.person, now=stage.clock(), at=stage.clock() + _SECONDS_BEFORE_THE_END)
    stage.clock.advance(_SECONDS_BEFORE_THE_END)
    assert apply_due(stage.hub.database, now=stage.clock()) == 1


def _schedule_leave_with_a_dead_worker(stage: Stage) -> None:
    """The end has come and nobody has looked: access is over all the same."""
    with stage.hub.database.transaction() as session:
        commands.offboard(session, CALLER, stage.person, now=stage.clock(), at=stage.clock() + _SECONDS_BEFORE_THE_END)
    stage.clock.advance(_SECONDS_BEFORE_THE_END)


def _one_of_many(stage: Stage) -> None:
    """The leave as one of a batch."""
    with stage.hub.database.transaction() as session:
        company = find_organization(session, COMPANY)
        newcomers = [
            intake.Onboard(
                principal_id=new_id("per"),
                person=intake.PersonFacts(display_name=f"员工{i}"),
                employment=intake.EmploymentFacts(
                    organization_id=company,
                    employee_number=f"B{i}",
                    type=EmploymentType.REGULAR,
                    starts_on=date(2020, 1, 1),
                ),
            )
            for i in range(5)
        ]
        changes: list[intake.Change] = [*newcomers, intake.Offboard(principal_id=stage.person)]
        transition(session, changes, now=stage.clock(), actor=COMMAND_LINE, door=Door.HR_FILE).only()


LEAVES: Mapping[tuple[Door, str], Callable[[Stage], None]] = {
    (Door.CONSOLE, "preview confirmed"): _console_leave,
    (Door.API, "now"): _api("POST", "offboarding"),
    (Door.API, "emergency"): _api("POST", "offboarding", emergency=True),
    (Door.SCIM, "deleted"): _scim("DELETE"),
    (Door.SCIM, "inactive, which means so"): _scim("PATCH", {"inactive": "leave"}, active=False),
    (Door.CLI, "now"): _command(lambda s, c, p, now: commands.offboard(s, c, p, now=now)),
    (Door.HR_FILE, "status left"): _hr_file(status="left", end_date="2026-11-22"),
    (Door.HR_FILE, "end date passed"): _hr_file(end_date="2026-11-22"),
    (Door.HR_FILE, "no longer listed"): _hr_file_absent,
    (Door.HR_FILE, "one of many"): _one_of_many,
    (Door.SCHEDULE, "offboarding at a time"): _schedule_leave,
    (Door.SCHEDULE, "time has come, worker dead"): _schedule_leave_with_a_dead_worker,
}
"""Every way in which each door ends an employment."""

SUSPENSIONS: Mapping[Door, tuple[Callable[[Stage], None], Callable[[Stage], None]]] = {
    Door.CONSOLE: (_console_post("suspend"), _console_post("reactivate")),
    Door.API: (_api("POST", "suspend"), _api("POST", "reactivate")),
    Door.SCIM: (_scim("PATCH", active=False), _scim("PATCH", active=True)),
    Door.CLI: (
        _command(lambda s, c, p, now: commands.suspend(s, c, p, now=now)),
        _command(lambda s, c, p, now: commands.reactivate(s, c, p, now=now)),
    ),
    Door.HR_FILE: (_hr_file(status="suspended"), _hr_file(status="active", title="again")),
}
"""Doors that suspend, and how the same door reactivates."""

REHIRES: Mapping[Door, Callable[[Stage], None]] = {
    Door.API: _api("POST", "employments", company=COMPANY, employee_number=NUMBER, start_date="2020-01-01"),
    Door.SCIM: _scim("PATCH", active=True),
    Door.CLI: _cli_rehire,
    Door.HR_FILE: _hr_file(start_date="2026-11-24"),
}
"""Doors that rehire."""
