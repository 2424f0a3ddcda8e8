"""Signing in with a company's own identity provider: who gets in, and who does not."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from idhub.api.export import export_configuration
from idhub.authority import HubRole, RoleAssignment, assign_role, remove_role
from idhub.credentials import opaque
from idhub.credentials.tables import ApiToken, SsoSession
from idhub.credentials.transactions import is_sealed
from idhub.directory.kinds import OrganizationKind
from idhub.directory.organizations import create_organization, find_organization, root_organization
from idhub.directory.tables import Principal
from idhub.errors import Invalid
from idhub.lifecycle import commands
from idhub.login.links import links_of
from idhub.saml.refresh import refresh_due, warnings
from providers.saml_wire import names
from tests.flows.every_door import COMPANY, HR_NUMBER, PASSWORD, hidden_fields, submit
from tests.lifecycle.world import CALLER
from tests.saml.conftest import Scene
from tests.saml.partner import make_signer
from tests.saml.upstream import Upstream, begin, deliver, follow, is_in, sign_in


@pytest.fixture(scope="module")
def upstream(scene: Scene) -> Iterator[Upstream]:
    """A provider that recognises by employee number."""
    scene.stage.clock.advance(timedelta(seconds=1))
    made = Upstream(scene.stage.hub.settings.issuer)
    provide(scene, made.block())
    yield made


def provide(scene: Scene, *blocks: dict[str, Any]) -> Any:
    return scene.configure(providers=list(blocks))


def test_a_person_signs_in_and_lands_where_they_were_going(scene: Scene, upstream: Upstream) -> None:
    browser = scene.browser()
    page = browser.get("/account/sessions")
    assert page.status_code == 303
    shown = browser.get(page.headers["location"])
    assert 'data-test="provider"' in shown.text
    request = begin(browser, upstream, return_to="/account/sessions")
    assert request.root.get("ForceAuthn") is None
    kept = deliver(browser, upstream.document(upstream.answer(request, scene.now)))
    assert kept.headers["location"].startswith("/login/saml/finish?transaction=")
    assert kept.headers.get("set-cookie") is None
    page = browser.get(kept.headers["location"])
    assert (page.status_code, page.headers["location"]) == (303, "/account/sessions")
    assert is_in(browser)
    signed = scene.events("login.succeeded")[-1]
    assert (signed["person_id"], signed["details"]) == (
        scene.stage.person, {"amr": ["fed", "pwd"], "provider": "acme"}
    )  # fmt: skip
    assert signed["target"] == {"kind": "session", "id": signed["actor"]["session_id"]}


def test_an_application_gets_its_answer(scene: Scene, upstream: Upstream) -> None:
    browser = scene.browser()
    sent = scene.ask(browser)
    assert sent.status_code == 303
    transaction = sent.headers["location"].partition("transaction=")[2]
    request = begin(browser, upstream, transaction=transaction)
    page = follow(browser, deliver(browser, upstream.document(upstream.answer(request, scene.now))))
    assert page.status_code == 200
    assert "SAMLResponse" in page.text


def test_a_first_visit_of_an_oidc_application_gets_its_answer(scene: Scene, upstream: Upstream) -> None:
    """The sign-in stands in the page alone until a provider is asked; what that one is asked has a short name."""
    browser = scene.browser()
    fields = hidden_fields(scene.stage.authorize(browser, "jwt-app"))
    assert is_sealed(fields["transaction"])
    request = begin(browser, upstream, transaction=fields["transaction"])
    assert len(request.id) < 100
    # Who comes back from there instead of signing in finds the page as it was.
    wrong = browser.post(
        "/login",
        data={**fields, "username": "QY", "password": "wrong"},
        headers={"origin": scene.stage.hub.settings.issuer},
    )
    assert (wrong.status_code, hidden_fields(wrong)["transaction"]) == (403, fields["transaction"])
    request = begin(browser, upstream, transaction=fields["transaction"])
    page = follow(browser, deliver(browser, upstream.document(upstream.answer(request, scene.now))))
    sent = urlsplit(page.headers["location"])
    assert (page.status_code, sent.netloc) == (303, "jwt-app.example")
    tokens = scene.stage.redeem("jwt-app", parse_qs(sent.query)["code"][0])
    assert tokens.status_code == 200


def test_an_encrypted_assertion(scene: Scene, upstream: Upstream) -> None:
    browser = scene.browser()
    sign_in(browser, upstream, scene.now, encrypts_for=scene.certificate)
    assert is_in(browser)


# ---------------------------------------------------------------------- the answer and its browser


def test_an_answer_put_into_another_browser_opens_nothing(scene: Scene, upstream: Upstream) -> None:
    """Login CSRF: the attacker's own sound answer, delivered by the victim's browser."""
    attacker, victim = scene.browser(), scene.browser()
    begin(victim, upstream)
    request = begin(attacker, upstream)
    kept = deliver(victim, upstream.document(upstream.answer(request, scene.now)))
    refused = victim.get(kept.headers["location"])
    assert (refused.status_code, 'data-test="notice-transaction_gone"' in refused.text) == (400, True)
    assert not is_in(victim)
    # Whoever asked is not shut out by it.
    follow(attacker, attacker.get(kept.headers["location"]))
    assert is_in(attacker)


def test_whoever_got_somebody_to_open_their_request_is_not_let_in_as_them(scene: Scene, upstream: Upstream) -> None:
    """A victim who is signed in at the provider follows the attacker's request there and brings its answer here."""
    attacker, victim = scene.browser(), scene.browser()
    before = len(scene.events("login.succeeded"))
    request = begin(attacker, upstream)
    kept = deliver(victim, upstream.document(upstream.answer(request, scene.now)))
    transaction = parse_qs(urlsplit(kept.headers["location"]).query)["transaction"][0]
    for guess in ({}, {"given": ""}, {"given": transaction}, {"given": "é\x00"}):
        refused = attacker.get("/login/saml/finish", params={"transaction": transaction, **guess})
        assert (refused.status_code, 'data-test="notice-transaction_gone"' in refused.text) == (400, True)
    assert not is_in(attacker)
    assert len(scene.events("login.succeeded")) == before


def test_an_answer_counts_once(scene: Scene, upstream: Upstream) -> None:
    """S10, ASVS 6.8.3: delivered again, also under another wrapping, before and after it was taken up."""
    browser = scene.browser()
    answer = upstream.answer(begin(browser, upstream), scene.now)
    kept = deliver(browser, upstream.document(answer))
    again = deliver(browser, upstream.document(answer))
    assert (again.status_code, 'data-test="notice-upstream_answer"' in again.text) == (400, True)
    follow(browser, kept)
    assert is_in(browser)
    assert deliver(scene.browser(), upstream.document(answer)).status_code == 400
    assert browser.get(kept.headers["location"]).status_code == 400
    # A second assertion to the same request is none either.
    second = upstream.document(replace(answer, assertion_id="_second"))
    assert deliver(browser, second).status_code == 400


def test_an_assertion_of_one_request_does_not_answer_another(scene: Scene, upstream: Upstream) -> None:
    browser = scene.browser()
    first = upstream.answer(begin(browser, upstream), scene.now)
    second = begin(browser, upstream)
    crossed = replace(first, in_response_to=second.id)
    assert deliver(browser, upstream.document(crossed)).status_code == 400
    confirmed = replace(first, confirmed_request=second.id)
    assert deliver(browser, upstream.document(confirmed)).status_code == 400


def test_asking_again_in_the_same_sign_in_gives_the_first_request_up(scene: Scene, upstream: Upstream) -> None:
    browser = scene.browser()
    transaction = scene.ask(browser).headers["location"].partition("transaction=")[2]
    first = begin(browser, upstream, transaction=transaction)
    second = begin(browser, upstream, transaction=transaction)
    assert first.id != second.id
    assert deliver(browser, upstream.document(upstream.answer(first, scene.now))).status_code == 400
    page = follow(browser, deliver(browser, upstream.document(upstream.answer(second, scene.now))))
    assert "SAMLResponse" in page.text


def test_what_nobody_asked_for_is_believed_by_nobody(scene: Scene, upstream: Upstream) -> None:
    """S10: off by default; where it is on, it begins a sign-in that asks, and is itself thrown away."""
    browser = scene.browser()
    unasked = upstream.document(upstream.answer(None, scene.now))
    refused = deliver(browser, unasked)
    assert (refused.status_code, 'data-test="notice-upstream_answer"' in refused.text) == (400, True)
    provide(scene, upstream.block(saml={"unsolicited": True}))
    try:
        begun = follow(browser, deliver(browser, unasked))
        assert not is_in(browser)
        request = upstream.read(begun.headers["location"])
        follow(browser, deliver(browser, upstream.document(upstream.answer(request, scene.now))))
        assert is_in(browser)
    finally:
        provide(scene, upstream.block())


def test_a_refusal_of_the_provider_is_said_and_leaves_the_sign_in_open(scene: Scene, upstream: Upstream) -> None:
    browser = scene.browser()
    request = begin(browser, upstream)
    failed = upstream.answer(request, scene.now, status=names.RESPONDER, detail=names.AUTHN_FAILED)
    page = deliver(browser, upstream.document(failed))
    assert (page.status_code, 'data-test="notice-upstream_refused"' in page.text) == (400, True)
    follow(browser, deliver(browser, upstream.document(upstream.answer(request, scene.now))))
    assert is_in(browser)


def test_an_answer_of_another_provider_is_none(scene: Scene, upstream: Upstream) -> None:
    """The one that was asked answers, nobody else, though its keys are known too (ASVS 6.8.1)."""
    other = Upstream(upstream.issuer, "other", "https://other.example/idp", "https://other.example/sso", make_signer())
    provide(scene, upstream.block(), other.block())
    request = begin(scene.browser(), upstream)
    assert deliver(scene.browser(), other.document(other.answer(request, scene.now))).status_code == 400
    posing = other.answer(request, scene.now, issuer=upstream.entity_id, response_issuer=upstream.entity_id)
    assert deliver(scene.browser(), other.document(posing)).status_code == 400


def test_a_provider_that_was_switched_off_answers_nothing_more(scene: Scene, upstream: Upstream) -> None:
    browser, waiting = scene.browser(), scene.browser()
    request = begin(browser, upstream)
    kept = deliver(waiting, upstream.document(upstream.answer(begin(waiting, upstream), scene.now)))
    provide(scene, upstream.block(enabled=False))
    try:
        assert deliver(browser, upstream.document(upstream.answer(request, scene.now))).status_code == 400
        assert waiting.get(kept.headers["location"]).status_code == 400
        assert browser.get(f"/login/with/{upstream.slug}").status_code == 400
        assert 'href="/login/with/acme' not in browser.get("/login").text
    finally:
        provide(scene, upstream.block())


# ---------------------------------------------------------------------- links


def _reason(scene: Scene) -> str:
    return str(scene.events("login.failed")[-1]["reason"])


def _refused(scene: Scene, upstream: Upstream, **changes: Any) -> str:
    """The recorded reason why nobody is let in; the page says the same sentence whatever it is."""
    browser = scene.browser()
    page = sign_in(browser, upstream, scene.now, **changes)
    assert (page.status_code, 'data-test="notice-upstream_person"' in page.text) == (403, True), page.text[:500]
    assert not is_in(browser)
    return _reason(scene)


def test_a_transient_name_links_nobody(scene: Scene, upstream: Upstream) -> None:
    assert _refused(scene, upstream, name_id_format=names.TRANSIENT) == "federation.subject"


def test_a_mail_address_is_a_name_only_in_a_domain_of_the_provider(scene: Scene, upstream: Upstream) -> None:
    mail: dict[str, Any] = {"name_id_format": names.EMAIL, "attributes": {}}
    assert _refused(scene, upstream, name_id="qy000001@qiyue.example", **mail) == "federation.subject"
    by_mail = upstream.block(
        slug="mail", domains=["qiyue.example"], link=[{"match": "email", "attribute": "name_id"}],
        saml={"entity_id": "https://mail.example/idp", "sign_on": [{"binding": "redirect", "url": upstream.sso}]},
    )  # fmt: skip
    provide(scene, by_mail)
    other = replace(upstream, slug="mail", entity_id="https://mail.example/idp")
    assert _refused(scene, other, name_id="qy000001@evil.example", **mail) == "federation.subject"
    assert _refused(scene, other, name_id="qy000001@evil.example@qiyue.example", **mail) == "federation.subject"
    assert _refused(scene, other, name_id="nobody@qiyue.example", **mail) == "federation.no_link"
    # A provider that lets people choose: what is folded to the same name at the sign-in form is another address.
    for lookalike in ("\uff31Y000001@qiyue.example", "qy00000\u2460@qiyue.example", "\uff51y000001@qiyue.example"):
        assert _refused(scene, other, name_id=lookalike, **mail) == "federation.no_link"
    browser = scene.browser()
    sign_in(browser, other, scene.now, name_id="QY000001@Qiyue.example", **mail)
    assert is_in(browser)


def test_a_rule_by_mail_needs_a_domain(scene: Scene, upstream: Upstream) -> None:
    with pytest.raises(Invalid) as caught:
        provide(scene, upstream.block(link=[{"match": "email", "attribute": "mail"}]))
    assert (caught.value.field, caught.value.rule) == ("providers.acme.link", "provider.domains")


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, "federation.no_link"),
        ({"employeeNumber": ["NOBODY"]}, "federation.no_link"),
        ({"employeeNumber": ["qy000001"]}, "federation.no_link"),
        ({"employeeNumber": ["QY000001", "QY000002"]}, "federation.no_link"),
        ({"employeenumber": ["QY000001"]}, "federation.no_link"),
        ({"mail": ["qy000001@qiyue.example"]}, "federation.no_link"),
        ({"employeeNumber": ["QY000001' OR 1=1"]}, "federation.no_link"),
    ],
)
def test_a_subject_that_no_rule_recognises_is_nobody(
    scene: Scene, upstream: Upstream, attributes: dict[str, Any], reason: str
) -> None:
    assert _refused(scene, upstream, name_id="stranger", attributes=attributes) == reason


def test_a_second_subject_is_not_linked_beside_the_first(scene: Scene, upstream: Upstream) -> None:
    """Whoever can write an employee number into another account of the provider becomes nobody by it."""
    sign_in(scene.browser(), upstream, scene.now)
    assert _refused(scene, upstream, name_id="another-subject") == "federation.other_account"
    failed = scene.events("login.failed")[-1]
    assert failed["person_id"] == scene.stage.person
    assert failed["details"]["provider"] == "acme"
    assert "another-subject" not in str(failed)


def test_the_link_decides_and_no_attribute(scene: Scene, upstream: Upstream) -> None:
    """Once linked, what the assertion says beside the subject makes nobody anybody else."""
    sign_in(scene.browser(), upstream, scene.now)
    browser = scene.browser()
    sign_in(browser, upstream, scene.now, attributes={"employeeNumber": ["QY000002"]})
    assert is_in(browser)
    assert scene.events("login.succeeded")[-1]["person_id"] == scene.stage.person


def test_the_same_subject_of_two_providers_is_two(scene: Scene, upstream: Upstream) -> None:
    """ASVS 6.8.1."""
    sign_in(scene.browser(), upstream, scene.now)
    other = replace(upstream, slug="second", entity_id="https://second.example/idp")
    provide(scene, other.block())
    assert _refused(scene, other, attributes={}) == "federation.no_link"


def test_another_entity_under_the_same_slug_inherits_no_link(scene: Scene, upstream: Upstream) -> None:
    sign_in(scene.browser(), upstream, scene.now)
    moved = replace(upstream, entity_id="https://moved.example/idp")
    provide(scene, moved.block())
    try:
        assert _refused(scene, moved, attributes={}) == "federation.no_link"
    finally:
        provide(scene, upstream.block())
    sign_in(browser := scene.browser(), upstream, scene.now, attributes={})
    assert is_in(browser)


def test_a_provider_speaks_for_its_own_company_alone(scene: Scene, upstream: Upstream) -> None:
    with scene.stage.hub.database.transaction() as session:
        create_organization(
            session, code="SUB", name="子公司", kind=OrganizationKind.COMPANY, parent_id=root_organization(session),
            time_zone="Asia/Shanghai", now=scene.now,
        )  # fmt: skip
    sign_in(scene.browser(), upstream, scene.now)
    other = replace(upstream, slug="sub", entity_id="https://sub.example/idp")
    provide(scene, other.block(organization="SUB"))
    assert _refused(scene, other) == "federation.no_link"
    provide(scene, upstream.block(organization="SUB"))
    try:
        # Linked, and of another company since: the link alone opens nothing.
        assert _refused(scene, upstream) == "federation.scope"
    finally:
        provide(scene, upstream.block())


def test_a_subject_by_attribute(scene: Scene, upstream: Upstream) -> None:
    provide(scene, upstream.block(slug="entra", saml={"entity_id": "https://entra.example", "subject": "oid"}))
    entra = replace(upstream, slug="entra", entity_id="https://entra.example")
    named = {"oid": ["0000-1111"], "employeeNumber": ["QY000001"]}
    transient: dict[str, Any] = {"name_id_format": names.TRANSIENT}
    for oid in ([], ["a", "b"], [""], ["x" * 256]):
        reason = _refused(scene, entra, attributes={**named, "oid": oid}, **transient)
        assert reason == "federation.subject"
    for _ in range(2):
        sign_in(browser := scene.browser(), entra, scene.now, attributes=named, **transient)
        assert is_in(browser)
        named = {"oid": ["0000-1111"]}


# ---------------------------------------------------------------------- what happens meanwhile


def test_an_answer_that_was_asked_for_before_a_suspension_is_none_after_it(scene: Scene, upstream: Upstream) -> None:
    """Invariant 7: the proof is as old as the question; also when it was delivered before, or is delivered after."""
    early, late = scene.browser(), scene.browser()
    kept = deliver(early, upstream.document(upstream.answer(begin(early, upstream), scene.now)))
    request = begin(late, upstream)
    scene.stage.clock.advance(timedelta(seconds=1))
    with scene.stage.hub.database.transaction() as session:
        commands.suspend(session, CALLER, scene.stage.person, now=scene.now)
        commands.reactivate(session, CALLER, scene.stage.person, now=scene.now)
    scene.stage.clock.advance(timedelta(seconds=1))
    assert early.get(kept.headers["location"]).status_code == 403
    assert _reason(scene) == "login.epoch"
    page = follow(late, deliver(late, upstream.document(upstream.answer(request, scene.now))))
    assert page.status_code == 403
    assert _reason(scene) == "login.epoch"
    sign_in(browser := scene.browser(), upstream, scene.now)
    assert is_in(browser)


def test_the_session_is_as_old_as_the_proof(scene: Scene, upstream: Upstream) -> None:
    """`auth_time`: a provider that lets somebody through on a session of its own proves nothing new."""
    browser = scene.browser()
    sign_in(browser, upstream, scene.now, authenticated_at=scene.now - timedelta(hours=2))
    with scene.stage.hub.database.read() as session:
        proven = session.execute(select(func.min(SsoSession.authenticated_at))).scalar_one()
    assert proven == scene.now - timedelta(hours=2)


def test_an_application_that_wants_a_fresh_proof_gets_one(scene: Scene, upstream: Upstream) -> None:
    browser = scene.browser()
    transaction = scene.ask(browser, ForceAuthn="true").headers["location"].partition("transaction=")[2]
    request = begin(browser, upstream, transaction=transaction)
    assert request.root.get("ForceAuthn") == "true"
    stale = upstream.answer(request, scene.now, authenticated_at=scene.now - timedelta(minutes=5))
    assert deliver(browser, upstream.document(stale)).status_code == 400
    page = follow(browser, deliver(browser, upstream.document(upstream.answer(request, scene.now))))
    assert "SAMLResponse" in page.text


def test_a_mail_address_leads_to_its_provider(scene: Scene, upstream: Upstream) -> None:
    provide(scene, upstream.block(domains=["acme.example"]))
    try:
        browser = scene.browser()
        page = browser.get("/login")
        assert "https://idp.acme.example" in page.headers["content-security-policy"]
        sent = submit(browser, page, "/login", username="lin@acme.example", password="")
        assert (sent.status_code, sent.headers["location"]) == (303, "/login/with/acme?return_to=%2F")
        other = submit(browser, page, "/login", username="lin@other.example", password="")
        assert other.status_code == 400
    finally:
        provide(scene, upstream.block())


# ---------------------------------------------------------------------- metadata, and the page


def _metadata(upstream: Upstream, *, sso: str | None = None, attributes: str = "", role: str = "IDP") -> bytes:
    return f"""<?xml version="1.0"?>
<md:EntityDescriptor xmlns:md="{names.METADATA}" xmlns:ds="{names.DS}" ID="_m"
  entityID="{upstream.entity_id}" {attributes}>
 <md:{role}SSODescriptor protocolSupportEnumeration="{names.PROTOCOL}" WantAuthnRequestsSigned="true">
  <md:KeyDescriptor use="signing"><ds:KeyInfo><ds:X509Data><ds:X509Certificate>{upstream.signer.certificate}
  </ds:X509Certificate></ds:X509Data></ds:KeyInfo></md:KeyDescriptor>
  <md:SingleSignOnService Binding="{names.SOAP_BINDING}" Location="https://idp.example/soap"/>
  <md:SingleSignOnService Binding="{names.REDIRECT}" Location="{sso or upstream.sso}"/>
 </md:{role}SSODescriptor>
</md:EntityDescriptor>""".encode()


def test_metadata_is_read_again_and_says_how_it_stands(scene: Scene, upstream: Upstream) -> None:
    url, database = "https://idp.example/metadata.xml", scene.stage.hub.database
    read = replace(upstream, slug="read", entity_id="https://read.example/idp", sso="https://read.example/sso")
    saml = {"metadata_url": url, "entity_id": read.entity_id}
    block = read.block()
    provide(scene, {**block, "saml": saml})
    assert scene.browser().get("/login/with/read").status_code == 400, "not read yet"
    assert "/login/with/read" not in scene.browser().get("/login").text
    with database.read() as session:
        assert any("provider read: its metadata was never read" in one for one in warnings(session, now=scene.now))
    until = f'validUntil="{scene.now + timedelta(days=5):%Y-%m-%dT%H:%M:%SZ}"'
    answers = {url: _metadata(read, attributes=until)}
    assert refresh_due(database, lambda address: answers[address], now=scene.now) == 1
    browser = scene.browser()
    # Linked by nothing yet: the rule recognises.
    sign_in(browser, read, scene.now)
    assert is_in(browser)
    answers[url] = _metadata(read, sso="https://read.example/moved")
    scene.stage.clock.advance(hours=6)
    assert refresh_due(database, lambda address: answers[address], now=scene.now) == 1
    sent = scene.browser().get("/login/with/read").headers["location"]
    assert sent.startswith("https://read.example/moved?")
    changed = scene.events("provider.changed")[-1]
    assert changed["details"]["changes"][0]["field"] == "saml.sign_on_services"
    for wrong in (_metadata(upstream), _metadata(read, sso="javascript:alert(1)"), _metadata(read, role="SP"), b"<a/>"):
        answers[url] = wrong
        scene.stage.clock.advance(hours=6)
        assert refresh_due(database, lambda address: answers[address], now=scene.now) == 1
        with database.read() as session:
            assert any("could not be read" in one for one in warnings(session, now=scene.now))
        assert scene.browser().get("/login/with/read").status_code == 303, "what was known stays in force"


def test_metadata_must_be_of_an_identity_provider(scene: Scene, upstream: Upstream) -> None:
    block = upstream.block()
    path = scene.stage.folder / "idp.xml"
    for document, rule in (
        (_metadata(upstream, role="SP"), "metadata.role"),
        (_metadata(upstream).replace(b"HTTP-Redirect", b"HTTP-Artifact"), "metadata.sso"),
        (_metadata(upstream).replace(b'use="signing"', b'use="encryption"'), "metadata.certificate"),
        (_metadata(upstream, attributes='validUntil="2020-01-01T00:00:00Z"'), "metadata.expired"),
        (_metadata(upstream, sso="http://idp.example/sso"), "uri.http"),
    ):
        path.write_bytes(document)
        with pytest.raises(Invalid) as caught:
            provide(scene, {**block, "saml": {"metadata_file": "idp.xml"}})
        assert caught.value.rule == rule
    path.write_bytes(_metadata(upstream))
    provide(scene, {**block, "saml": {"metadata_file": "idp.xml"}})
    applied = provide(scene, {**block, "saml": {"metadata_file": "idp.xml"}})
    assert applied.changes == [], "the same file again changes nothing"
    provide(scene, block)


def test_what_is_exported_makes_the_same_provider_again(scene: Scene, upstream: Upstream) -> None:
    saml = {"sign": "both", "subject": "oid", "contexts": ["urn:x"], "max_age": 3600, "unsolicited": True}
    provide(scene, upstream.block(domains=["acme.example"], shown=False, saml=saml))
    with scene.stage.hub.database.read() as session:
        exported = yaml.safe_load(export_configuration(session))["providers"]
    try:
        assert provide(scene, *exported).changes == []
    finally:
        provide(scene, upstream.block())


@pytest.fixture(scope="module")
def administrator(scene: Scene) -> TestClient:
    with scene.stage.hub.database.transaction() as session:
        other = session.scalars(select(Principal.id).where(Principal.id != scene.stage.person)).one()
        root = root_organization(session)
        assign_role(session, other, HubRole.ADMINISTRATOR, organization_id=root, now=scene.now, assigned_by="test")
    return scene.signed_in(HR_NUMBER)


def test_the_page_shows_the_provider_and_what_runs_out(
    scene: Scene, upstream: Upstream, administrator: TestClient
) -> None:
    sign_in(scene.browser(), upstream, scene.now)
    page = administrator.get("/admin/providers/acme")
    assert page.status_code == 200
    for shown in (upstream.entity_id, upstream.sso, "employeeNumber", "/login/saml/metadata", "/login/with/acme"):
        assert shown in page.text, shown
    assert '<dd data-test="linked">1</dd>' in page.text
    assert 'data-test="certificate-' not in page.text
    ending = make_signer("ending", now=scene.now - timedelta(days=10), days=20)
    other = replace(upstream, slug="ending", entity_id="https://ending.example", signer=ending)
    provide(scene, other.block())
    assert 'data-test="certificate-ending"' in administrator.get("/admin/providers/ending").text
    listed = administrator.get("/admin/providers").text
    assert "Needs attention" in listed.partition('data-test="ending"')[2].partition("</tr>")[0]
    assert administrator.get("/admin/providers/none").status_code == 404
    with scene.stage.hub.database.transaction():
        assert administrator.get("/admin/providers/acme").status_code == 200, "looking takes no turn of the writer"


# ---------------------------------------------------------------------- one's own links


def _add(browser: TestClient, slug: str) -> Any:
    return submit(browser, browser.get("/account/links"), "/account/links/add", provider=slug)


def test_a_person_links_their_own_account_and_takes_the_link_away(scene: Scene, upstream: Upstream) -> None:
    own = replace(upstream, slug="own", entity_id="https://own.example/idp", sso="https://own.example/sso")
    provide(scene, own.block(link=[]))
    assert _refused(scene, own, name_id="mine") == "federation.no_link"
    browser = scene.signed_in()
    page = browser.get("/account/links")
    assert 'data-test="link-own"' in page.text
    assert "https://own.example" in page.headers["content-security-policy"]
    scene.stage.clock.advance(timedelta(seconds=1))
    request = own.read(_add(browser, "own").headers["location"])
    done = follow(browser, deliver(browser, own.document(own.answer(request, scene.now, name_id="mine"))))
    assert 'data-test="linked"' in done.text
    linked = scene.events("identity.linked")[-1]
    assert (linked["person_id"], linked["details"]) == (scene.stage.person, {"provider": "own", "by": "person"})
    sign_in(other := scene.browser(), own, scene.now, name_id="mine", attributes={})
    assert is_in(other)
    gone = submit(browser, browser.get("/account/links"), "/account/links/remove", provider="own")
    assert 'data-test="unlinked"' in browser.get(gone.headers["location"]).text
    assert not is_in(other), "what rests on the link ends with it"
    assert is_in(browser)
    assert scene.events("identity.unlinked")[-1]["person_id"] == scene.stage.person
    assert _refused(scene, own, name_id="mine", attributes={}) == "federation.no_link"


def test_a_link_is_of_the_session_that_wanted_it(scene: Scene, upstream: Upstream) -> None:
    """An attacker's account is not linked to a victim, nor a victim's to an attacker."""
    own = replace(upstream, slug="own2", entity_id="https://own2.example/idp", sso="https://own2.example/sso")
    provide(scene, own.block(link=[]))
    scene.stage.clock.advance(timedelta(seconds=1))
    attacker, victim = scene.signed_in(HR_NUMBER), scene.signed_in()
    scene.stage.clock.advance(timedelta(seconds=1))
    request = own.read(_add(attacker, "own2").headers["location"])
    kept = deliver(victim, own.document(own.answer(request, scene.now, name_id="evil")))
    assert victim.get(kept.headers["location"]).status_code == 400
    # The browser is now somebody else's: what the other session began is not done for this one.
    attacker.cookies.delete("idhub_session")
    scene.stage.sign_in(attacker, "QY000001")
    assert attacker.get(kept.headers["location"]).status_code == 403
    assert _reason(scene) == "federation.session"
    assert scene.events("identity.linked")[-1]["details"].get("provider") != "own2"


def test_whoever_got_somebody_to_open_a_request_to_link_does_not_get_their_account(
    scene: Scene, upstream: Upstream
) -> None:
    """The victim's account there would sign them in as the attacker here, or the attacker would keep what is theirs."""
    own = replace(upstream, slug="own6", entity_id="https://own6.example/idp", sso="https://own6.example/sso")
    provide(scene, own.block(link=[]))
    scene.stage.clock.advance(timedelta(seconds=1))
    attacker = scene.signed_in(HR_NUMBER)
    scene.stage.clock.advance(timedelta(seconds=1))
    request = own.read(_add(attacker, "own6").headers["location"])
    kept = deliver(scene.browser(), own.document(own.answer(request, scene.now, name_id="victim")))
    transaction = parse_qs(urlsplit(kept.headers["location"]).query)["transaction"][0]
    assert attacker.get("/login/saml/finish", params={"transaction": transaction}).status_code == 400
    assert scene.events("identity.linked")[-1]["details"].get("provider") != "own6"


def test_linking_wants_a_proof_of_lately(scene: Scene, upstream: Upstream) -> None:
    """A session that somebody left open makes no other way in (ASVS 7.5.1)."""
    own = replace(upstream, slug="own3", entity_id="https://own3.example/idp", sso="https://own3.example/sso")
    provide(scene, own.block(link=[]))
    browser = scene.signed_in()
    scene.stage.clock.advance(timedelta(minutes=11))
    asked = _add(browser, "own3")
    assert asked.headers["location"].startswith("/login?transaction=")
    shown = browser.get(asked.headers["location"])
    signed = submit(browser, shown, "/login", username="QY000001", password=PASSWORD)
    assert signed.headers["location"] == "/account/links"
    assert _add(browser, "own3").headers["location"].startswith("https://own3.example/sso?")
    assert _add(browser, "nobody").status_code == 400


# ---------------------------------------------------------------------- somebody else's link


def _linked_and_in(scene: Scene, own: Upstream) -> TestClient:
    """A browser of the person that came in by a link of this provider."""
    sign_in(browser := scene.browser(), own, scene.now)
    assert is_in(browser)
    return browser


def _provider_id(scene: Scene, slug: str) -> str:
    with scene.stage.hub.database.read() as session:
        return next(one.id for one in links_of(session, scene.stage.person) if one.slug == slug)


def test_hr_takes_somebodys_link_away_and_its_sessions_end(scene: Scene, upstream: Upstream) -> None:
    own = replace(upstream, slug="own4", entity_id="https://own4.example/idp", sso="https://own4.example/sso")
    provide(scene, own.block(name={"en": "Own four", "zh": "自有四"}))
    held, hr = _linked_and_in(scene, own), scene.signed_in(HR_NUMBER)
    by_password = scene.signed_in()
    person = f"/hr/people/{scene.stage.person}"
    address = f"{person}/links/{_provider_id(scene, 'own4')}"
    shown = hr.get(person)
    assert f'href="{address}"' in shown.text
    asked = hr.get(address)
    assert "Own four" in asked.text
    assert "their next sign-in there makes a new link" in asked.text
    assert "自有四" in hr.get(address, headers={"accept-language": "zh-CN"}).text
    assert is_in(held), "asking ends nothing"
    without = hr.post(address, data={"csrf_token": "x"}, headers={"origin": str(hr.base_url).rstrip("/")})
    assert without.status_code == 403
    assert is_in(held)
    gone = submit(hr, asked, address)
    assert (gone.status_code, gone.headers["location"]) == (303, person)
    assert not is_in(held)
    assert is_in(by_password), "what rests on another proof goes on"
    assert f'href="{address}"' not in hr.get(person).text
    event = scene.events("identity.unlinked")[-1]
    assert (event["door"], event["person_id"], event["details"]) == (
        "console",
        scene.stage.person,
        {"provider": "own4"},
    )
    assert event["actor"]["id"] != scene.stage.person
    assert submit(hr, asked, address).status_code == 404
    assert by_password.get(address).status_code == 404, "not a colleague's to take, nor one's own here"


def test_a_token_lists_links_and_takes_one_away(scene: Scene, upstream: Upstream) -> None:
    own = replace(upstream, slug="own5", entity_id="https://own5.example/idp", sso="https://own5.example/sso")
    provide(scene, own.block())
    held, stage = _linked_and_in(scene, own), scene.stage
    path = f"/api/v1/people/{stage.person}/links"
    headers = {"authorization": f"Bearer {stage.api_token}"}
    listed = stage.machine.get(path, headers=headers).json()
    (link,) = [one for one in listed["links"] if one["slug"] == "own5"]
    assert (listed["person"], link["is_enabled"]) == (stage.person, True)
    provide(scene, own.block(enabled=False))
    for wrong, status in (("idp_nothing", 404), ("own5", 404), ("%00", 422), ("x" * 41, 422)):
        assert stage.machine.delete(f"{path}/{wrong}", headers=headers).status_code == status, wrong
    assert is_in(held)
    removed = stage.machine.delete(f"{path}/{link['provider']}", headers=headers)
    assert (removed.status_code, removed.json()["removed"]["slug"]) == (200, "own5"), "of one that is switched off too"
    assert not is_in(held)
    assert scene.events("identity.unlinked")[-1]["door"] == "api"
    assert stage.machine.delete(f"{path}/{link['provider']}", headers=headers).status_code == 404


def _give(scene: Scene, role: HubRole, place: str | None = None) -> None:
    with scene.stage.hub.database.transaction() as session:
        assign_role(
            session, scene.stage.person, role, organization_id=place or root_organization(session), now=scene.now,
            assigned_by="test",
        )  # fmt: skip


@pytest.fixture
def roles(scene: Scene) -> Iterator[Any]:
    """Gives the person hub roles, for one test."""
    yield lambda role, place=None: _give(scene, role, place)
    with scene.stage.hub.database.transaction() as session:
        for role in HubRole:
            remove_role(session, scene.stage.person, role, now=scene.now)


def test_no_rule_links_whoever_holds_a_role_over_the_hub(scene: Scene, upstream: Upstream, roles: Any) -> None:
    """Numbers and mail addresses are written by HR and by the provider: neither may become an administrator by them."""
    own = replace(upstream, slug="own6", entity_id="https://own6.example/idp", sso="https://own6.example/sso")
    provide(scene, own.block())
    with scene.stage.hub.database.read() as session:
        roles(HubRole.AUDITOR, find_organization(session, COMPANY))
    assert _refused(scene, own) == "federation.hub_role"
    # Signed in, and having proved who they are, they link themselves.
    browser = scene.signed_in()
    scene.stage.clock.advance(timedelta(seconds=1))
    request = own.read(_add(browser, "own6").headers["location"])
    done = follow(browser, deliver(browser, own.document(own.answer(request, scene.now))))
    assert 'data-test="linked"' in done.text, (_reason(scene), done.text[:3000])
    sign_in(by_link := scene.browser(), own, scene.now)
    assert is_in(by_link)


def test_a_provider_of_one_company_does_not_speak_for_authority_beyond_it(
    scene: Scene, upstream: Upstream, roles: Any
) -> None:
    own = replace(upstream, slug="own7", entity_id="https://own7.example/idp", sso="https://own7.example/sso")
    provide(scene, own.block(organization=COMPANY))
    sign_in(browser := scene.browser(), own, scene.now)
    assert is_in(browser)
    with scene.stage.hub.database.read() as session:
        company = find_organization(session, COMPANY)
    roles(HubRole.HR, company)
    sign_in(browser := scene.browser(), own, scene.now)
    assert is_in(browser), "the role is within the company"
    roles(HubRole.HR)
    assert _refused(scene, own) == "federation.hub_role"


def test_a_link_of_whoever_has_authority_beyond_it_is_not_a_companys_to_take(
    scene: Scene, upstream: Upstream, roles: Any
) -> None:
    own = replace(upstream, slug="own8", entity_id="https://own8.example/idp", sso="https://own8.example/sso")
    provide(scene, own.block())
    held, stage = _linked_and_in(scene, own), scene.stage
    with stage.hub.database.read() as session:
        company = find_organization(session, COMPANY)
    roles(HubRole.AUDITOR)
    path = f"/people/{stage.person}/links/{_provider_id(scene, 'own8')}"
    token = stage._api_token(None)
    with stage.hub.database.transaction() as session:
        limited = update(ApiToken).where(ApiToken.token_hash == opaque.hash_of(token))
        session.execute(limited.values(organization_id=company))
    headers = {"authorization": f"Bearer {token}"}
    refused = stage.machine.delete(f"/api/v1{path}", headers=headers)
    assert (refused.status_code, refused.json()["rule"]) == (403, "authority.beyond")
    assert is_in(held)
    assert scene.events("authorization.denied")[-1]["reason"] == "authority.beyond"
    hr = scene.signed_in(HR_NUMBER)
    assert hr.get(f"/hr{path}").status_code == 200, "the role of group HR covers it"
    with stage.hub.database.read() as session:
        root = root_organization(session)
    _others_roles_at(scene, company)
    try:
        assert f"/hr{path}" not in hr.get(f"/hr/people/{stage.person}").text
        assert hr.get(f"/hr{path}").status_code == 404
        assert is_in(held)
    finally:
        _others_roles_at(scene, root)


def _others_roles_at(scene: Scene, place: str) -> None:
    with scene.stage.hub.database.transaction() as session:
        others = update(RoleAssignment).where(RoleAssignment.principal_id != scene.stage.person)
        session.execute(others.values(organization_id=place))
