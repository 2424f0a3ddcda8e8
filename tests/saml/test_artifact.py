"""Answers by artifact: who gets them, once, soon, and under the use predicate of the moment when they are fetched."""

import base64
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from lxml import etree
from sqlalchemy import select

from idhub.credentials import artifacts
from idhub.credentials.purge import purge_expired
from idhub.credentials.tables import SamlArtifact, SessionParticipant
from idhub.errors import Invalid
from idhub.lifecycle.doors import Door
from providers.saml_wire import names
from providers.saml_wire.artifacts import check_artifact, make_artifact
from providers.saml_wire.bindings import read_soap, write_soap
from providers.saml_wire.certificates import read_certificate
from providers.saml_wire.errors import WireError
from providers.saml_wire.signatures import sign, verify
from providers.saml_wire.writing import Node, render
from tests.flows.every_door import NUMBER, SUSPENSIONS
from tests.saml.conftest import Scene, open_scene
from tests.saml.hostile import DOWNGRADES, WRAPPINGS
from tests.saml.partner import NS, Answer, Partner, make_signer, read_answer, read_artifact
from tests.saml.test_attacks import _at_once, _other_process
from tests.saml.test_sign_on import _shown
from tests.support.databases import DatabaseKind, Databases

ARTIFACT_ACS = "https://partner.example/artifact"
CONSUMERS = ["https://partner.example/acs", {"url": ARTIFACT_ACS, "index": 4, "binding": "artifact"}]
ASKED: dict[str, Any] = {"AssertionConsumerServiceURL": ARTIFACT_ACS, "ProtocolBinding": names.ARTIFACT}


@pytest.fixture
def again(scene: Scene) -> Scene:
    scene.connect(acs_urls=CONSUMERS)
    return scene


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    kind: DatabaseKind = request.param
    for opened in open_scene(kind, databases, tmp_path_factory.mktemp("saml")):
        opened.connect(acs_urls=CONSUMERS)
        yield opened


def _artifact(scene: Scene, browser: Any, **changes: Any) -> str:
    page = scene.ask(browser, relay_state="rs", **{**ASKED, **changes})
    assert page.status_code == 200, page.text[:1000]
    place, artifact, relay_state = read_artifact(page)
    assert (place, relay_state) == (ARTIFACT_ACS, "rs")
    assert "SAMLResponse" not in page.text
    return artifact


def _post(client: Any, message: Node | bytes) -> Any:
    content = message if isinstance(message, bytes) else write_soap(message)
    return client.post("/saml/artifact", content=content, headers={"content-type": "text/xml"})


def _resolve(scene: Scene, artifact: str, *, client: Any = None, partner: Partner | None = None) -> Answer | None:
    """What the artifact stood for; None: nothing. What says so is always signed, and about this question."""
    used = partner or scene.partner
    question = used.artifact_resolve(scene.now, artifact)
    answer = _post(client or scene.browser(), sign(question, used.signer))
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    element = verify(read_soap(answer.content), [read_certificate(scene.certificate).public_key])
    assert element.tag == f"{{{names.PROTOCOL}}}ArtifactResponse"
    assert element.get("InResponseTo") == question.attributes["ID"]
    assert [one.get("Value") for one in element.iterfind("samlp:Status/samlp:StatusCode", NS)] == [names.SUCCESS]
    found = element.find("samlp:Response", NS)
    return None if found is None else Answer(ARTIFACT_ACS, None, etree.tostring(found))


def _refused(scene: Scene) -> str:
    portal = scene.stage.machine.portal
    assert portal is not None
    portal.call(scene.stage.app.state.services.journal.flush)
    return str(scene.events("authorization.refused")[-1]["reason"])


# ---------------------------------------------------------------------- what is fetched


def test_the_response_is_fetched_in_place_of_being_carried(again: Scene) -> None:
    artifact = _artifact(again, again.signed_in())
    answer = _resolve(again, artifact)
    assert answer is not None and answer.status == ["Success"]
    answer.verify(again.certificate)
    answer.verify(again.certificate, ".//saml:Assertion")
    assert answer.root.get("Destination") == ARTIFACT_ACS
    assert answer.attribute(".//saml:SubjectConfirmationData", "Recipient") == ARTIFACT_ACS
    assert answer.attributes["employeeNumber"] == [NUMBER]
    assert again.events("assertion.issued")[-1]["person_id"] == again.stage.person


def test_an_artifact_holds_nothing_of_the_person_and_is_kept_as_a_hash(again: Scene) -> None:
    artifact = _artifact(again, again.signed_in())
    octets = base64.b64decode(artifact)
    assert (len(octets), octets[:4]) == (44, b"\x00\x04\x00\x00")
    with again.stage.hub.database.read() as session:
        row = session.execute(select(SamlArtifact).order_by(SamlArtifact.created_at.desc()).limit(1)).scalar_one()
        stored = f"{row.artifact_hash} {row.answer}"
    assert artifact not in stored
    assert octets[24:].hex() not in stored
    assert not {"林晓雯", NUMBER, f"{NUMBER.lower()}@qiyue.example"} & set(stored.split("'"))


def test_the_application_joins_the_session_when_it_fetches(again: Scene) -> None:
    """Until then it knows nothing, and has nothing to be told at a logout."""
    browser = again.signed_in()
    artifact = _artifact(again, browser)

    def indexes() -> set[str]:
        with again.stage.hub.database.read() as session:
            return set(session.execute(select(SessionParticipant.sid)).scalars())

    before = indexes()
    answer = _resolve(again, artifact)
    assert answer is not None
    assert indexes() - before == {answer.attribute(".//saml:AuthnStatement", "SessionIndex")}


def test_a_refusal_is_fetched_too(again: Scene) -> None:
    answer = _resolve(again, _artifact(again, again.browser(), IsPassive="true"))
    assert answer is not None and answer.status == ["Responder", "NoPassive"]
    answer.verify(again.certificate)
    again.connect(acs_urls=CONSUMERS, name_id_format="email", attributes={"mail": "email"})
    unsupported = [Node("samlp:NameIDPolicy", {"Format": "urn:x"})]
    page = again.browser().get(again.partner.redirect(again.partner.authn_request(again.now, unsupported, **ASKED)))
    answer = _resolve(again, read_artifact(page)[1])
    assert answer is not None and answer.status == ["Requester", "InvalidNameIDPolicy"]


def test_an_encrypted_assertion_stays_encrypted(again: Scene) -> None:
    again.connect(
        acs_urls=CONSUMERS, encrypt_assertion=True, encryption_certificates=[again.partner.signer.certificate]
    )
    answer = _resolve(again, _artifact(again, again.signed_in()))
    assert answer is not None and answer.root.find("saml:EncryptedAssertion", NS) is not None
    assert answer.root.find(".//saml:Assertion", NS) is None


def test_after_signing_in_the_browser_carries_an_artifact(again: Scene) -> None:
    from tests.flows.every_door import PASSWORD, submit

    browser = again.browser()
    sent = again.ask(browser, **ASKED)
    page = browser.get(sent.headers["location"])
    signed = submit(browser, page, "/login", username=NUMBER, password=PASSWORD)
    answer = _resolve(again, read_artifact(browser.get(signed.headers["location"]))[1])
    assert answer is not None and answer.status == ["Success"]


# ---------------------------------------------------------------------- who is answered by artifact


def test_who_is_answered_so(again: Scene) -> None:
    """What the request says, else what the application prefers; never a place that does not take it."""
    browser = again.signed_in()
    by_url = again.sign_on(browser)
    assert by_url.action == again.partner.acs
    page = again.ask(browser, AssertionConsumerServiceURL=None, AssertionConsumerServiceIndex="4")
    assert read_artifact(page)[0] == ARTIFACT_ACS
    page = again.ask(browser, AssertionConsumerServiceURL=None, ProtocolBinding=names.ARTIFACT)
    assert read_artifact(page)[0] == ARTIFACT_ACS
    assert again.sign_on(browser, AssertionConsumerServiceURL=None).action == again.partner.acs
    again.connect(acs_urls=CONSUMERS, response_binding="artifact", idp_initiated=True)
    assert read_artifact(again.ask(browser, AssertionConsumerServiceURL=None))[0] == ARTIFACT_ACS
    assert read_artifact(browser.get("/saml/launch/partner"))[0] == ARTIFACT_ACS
    page = again.ask(browser, AssertionConsumerServiceURL=None, ProtocolBinding=names.POST)
    assert read_answer(page).action == again.partner.acs


def test_one_address_may_take_both(again: Scene) -> None:
    """As SimpleSAMLphp's does: the binding decides, then the preference."""
    both = [again.partner.acs, {"url": again.partner.acs, "index": 4, "binding": "artifact"}]
    again.connect(acs_urls=both)
    browser = again.signed_in()
    assert again.sign_on(browser).action == again.partner.acs
    assert read_artifact(again.ask(browser, ProtocolBinding=names.ARTIFACT))[0] == again.partner.acs
    again.connect(acs_urls=both, response_binding="artifact")
    assert read_artifact(again.ask(browser))[0] == again.partner.acs
    assert read_answer(again.ask(browser, ProtocolBinding=names.POST)).action == again.partner.acs


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"AssertionConsumerServiceURL": "https://partner.example/acs"}, "saml.binding"),
        ({"ProtocolBinding": names.POST}, "saml.binding"),
        ({"ProtocolBinding": "urn:oasis:names:tc:SAML:2.0:bindings:PAOS"}, "saml.binding"),
        ({"AssertionConsumerServiceURL": f"{ARTIFACT_ACS}/x"}, "saml.consumer_url"),
        ({"AssertionConsumerServiceURL": None, "AssertionConsumerServiceIndex": "0"}, "saml.binding"),
    ],
)
def test_an_artifact_goes_where_it_is_taken(again: Scene, changes: dict[str, Any], cause: str) -> None:
    _shown(again, again.ask(again.browser(), **{**ASKED, **changes}), cause)


def test_who_cannot_prove_who_it_is_gets_no_artifacts(again: Scene) -> None:
    metadata = again.partner.metadata().decode()
    start, end = (
        metadata.index("<md:KeyDescriptor>"),
        metadata.index("</md:KeyDescriptor>") + len("</md:KeyDescriptor>"),
    )
    keyless = (metadata[:start] + metadata[end:]).replace('AuthnRequestsSigned="true"', "")
    (again.stage.folder / "keyless.xml").write_text(keyless)
    again.apply({"slug": "partner", "name": "partner", "saml": {"metadata_file": "keyless.xml"}})
    request = again.partner.authn_request(again.now, **ASKED)
    _shown(again, again.browser().get(again.partner.redirect(request, signed=False)), "saml.artifact_key")


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"response_binding": "artifact"}, "saml.response_binding", "saml.binding"),
        ({"acs_urls": CONSUMERS, "certificates": [], "logout": []}, "saml.certificates", "saml.certificate"),
        ({"acs_urls": [{"url": ARTIFACT_ACS, "index": 0, "binding": "soap"}]}, None, "configuration."),
    ],
)
def test_configuration_that_cannot_be_used(again: Scene, changes: dict[str, Any], field: str | None, rule: str) -> None:
    with pytest.raises(Invalid) as caught:
        again.connect("broken", partner=Partner(again.partner.issuer, "https://broken.example/sp"), **changes)
    assert str(caught.value.rule).startswith(rule)
    if field is not None:
        assert caught.value.field == f"applications.broken.{field}"


def test_metadata_names_the_places_that_take_artifacts(again: Scene) -> None:
    (again.stage.folder / "sp.xml").write_bytes(again.partner.metadata())
    block = {"metadata_file": "sp.xml", "response_binding": "artifact"}
    again.apply({"slug": "partner", "name": "partner", "saml": block})
    assert not again.apply({"slug": "partner", "name": "partner", "saml": block}).changes
    page = again.ask(again.signed_in(), AssertionConsumerServiceURL=None)
    assert page.status_code == 303, "withdrawn with the rule that was left out"
    from idhub.api.export import export_configuration

    with again.stage.hub.database.read() as session:
        document = export_configuration(session)
    assert "binding: artifact" in document and "response_binding: artifact" in document


# ---------------------------------------------------------------------- what is refused


def test_an_artifact_works_once(again: Scene) -> None:
    artifact = _artifact(again, again.signed_in())
    assert _resolve(again, artifact) is not None
    assert _resolve(again, artifact) is None
    assert _refused(again) == "saml.artifact.spent"


def test_an_artifact_is_for_one_service_provider_and_stays_its_own(again: Scene) -> None:
    """Bindings 3.6.5.2: as if it did not exist, and it is not spent by that."""
    other = Partner(again.partner.issuer, "https://other.example/sp", "https://other.example/acs", make_signer("other"))
    again.connect("other", partner=other)
    artifact = _artifact(again, again.signed_in())
    assert _resolve(again, artifact, partner=other) is None
    assert _refused(again) == "saml.artifact.of_another"
    assert _resolve(again, artifact) is not None


def test_an_artifact_is_short_lived(again: Scene) -> None:
    artifact = _artifact(again, again.signed_in())
    again.stage.clock.advance(artifacts.LIFETIME)
    assert _resolve(again, artifact) is None
    assert _refused(again) == "saml.artifact.expired"
    purge_expired(again.stage.hub.database, now=again.now)
    assert _resolve(again, artifact) is None
    assert _refused(again) == "saml.artifact.expired", "recognised for a day"
    again.stage.clock.advance(days=1, seconds=1)
    purge_expired(again.stage.hub.database, now=again.now)
    assert _resolve(again, artifact) is None
    assert _refused(again) == "saml.artifact.unknown"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda octets: b"\x00\x01" + octets[2:], "saml.artifact.form"),
        (lambda octets: octets[:-1], "saml.artifact.form"),
        (lambda octets: octets + b"x", "saml.artifact.form"),
        (lambda octets: b"", "saml.artifact.form"),
        (lambda octets: octets[:4] + b"x" * 20 + octets[24:], "saml.artifact.source"),
        (lambda octets: octets[:-1] + bytes([octets[-1] ^ 1]), "saml.artifact.unknown"),
    ],
)
def test_what_is_no_artifact_of_ours_is_answered_with_nothing(again: Scene, spoil: Any, reason: str) -> None:
    artifact = _artifact(again, again.signed_in())
    assert _resolve(again, base64.b64encode(spoil(base64.b64decode(artifact))).decode()) is None
    assert _refused(again) == reason
    assert _resolve(again, "no base64!") is None
    assert _resolve(again, f"\n {artifact[:20]}\n{artifact[20:]} ") is not None, (
        "its one spelling, however it is broken"
    )


def test_who_asks_must_sign(again: Scene) -> None:
    artifact = _artifact(again, again.signed_in())
    question = again.partner.artifact_resolve(again.now, artifact)
    thief = make_signer("thief")
    for message in (question, sign(question, thief)):
        answer = _post(again.browser(), message)
        assert answer.status_code == 400
        assert b"<soap:Fault>" in answer.content and b"Response" not in answer.content
    assert _refused(again) == "shown.signature.key"
    for changes, cause in (
        ({"Destination": f"{again.partner.issuer}/saml/slo/soap"}, "saml.destination"),
        ({"Version": "1.1"}, "saml.version"),
        ({"IssueInstant": "2026-11-22T02:00:00Z"}, "saml.issue_instant"),
        ({"ID": "x' or '1'='1"}, "xml.id"),
    ):
        spoiled = again.partner.artifact_resolve(again.now, artifact, **changes)
        assert _post(again.browser(), sign(spoiled, again.partner.signer)).status_code == 400
        assert _refused(again) == f"shown.{cause}"
    logout = again.partner.logout_request(again.now, "x", destination=f"{again.partner.issuer}/saml/artifact")
    assert _post(again.browser(), sign(logout, again.partner.signer)).status_code == 400
    assert _resolve(again, artifact) is not None, "none of them spent it"
    artifact = _artifact(again, again.signed_in())
    unaddressed = again.partner.artifact_resolve(again.now, artifact, Destination=None)
    answer = _post(again.browser(), sign(unaddressed, again.partner.signer))
    assert b"samlp:Response" in answer.content, "as Shibboleth asks: the artifact names whom it is for"


@pytest.mark.parametrize("content", [b"", b"x", b"<a/>", b"<!DOCTYPE a><a/>", b"\xff", b"<a>" * 1_000, b"x" * 600_000])
def test_what_is_no_soap_message_is_a_fault(again: Scene, content: bytes) -> None:
    answer = _post(again.browser(), content)
    assert (answer.status_code, b"<soap:Fault>" in answer.content) == (400, True)


@pytest.mark.parametrize("name", [*WRAPPINGS, *DOWNGRADES])
def test_a_wrapped_or_downgraded_question_fetches_nothing(again: Scene, name: str) -> None:
    """S01, S03, S24: a question of the attacker's own around the artifact of somebody else."""
    artifact = _artifact(again, again.signed_in())
    mine = render(sign(again.partner.artifact_resolve(again.now, make_artifact(again.entity_id)), again.partner.signer))

    def spoil(evil: Any) -> None:
        evil.find("samlp:Artifact", NS).text = artifact

    if name in WRAPPINGS:
        document = etree.tostring(WRAPPINGS[name](mine.encode(), spoil))
    else:
        mine = render(sign(again.partner.artifact_resolve(again.now, artifact), again.partner.signer))
        document = DOWNGRADES[name](mine.encode())
    envelope = write_soap(Node("samlp:x")).replace(
        b'<samlp:x xmlns:samlp="%s"></samlp:x>' % names.PROTOCOL.encode(), document
    )
    assert document in envelope
    assert _post(again.browser(), envelope).status_code == 400
    assert _resolve(again, artifact) is not None


def test_artifacts_of_others_are_not_taken(again: Scene) -> None:
    """A request by artifact: said clearly in the log, answered to nobody."""
    browser = again.signed_in()
    value = make_artifact(again.partner.entity_id)
    _shown(again, browser.get("/saml/sso", params={"SAMLart": value}), "binding.artifact")
    _shown(again, browser.post("/saml/sso", data={"SAMLart": value, "RelayState": "rs"}), "binding.artifact")
    form = again.partner.form(again.partner.authn_request(again.now), SAMLart=value)
    _shown(again, browser.post("/saml/sso", data=form), "binding.artifact")
    _shown(again, browser.get("/saml/slo", params={"SAMLart": value}), "binding.artifact")


def test_a_registration_that_changed_meanwhile_gets_nothing(again: Scene) -> None:
    artifact = _artifact(again, again.signed_in())
    again.connect(acs_urls=["https://partner.example/acs"])
    assert _resolve(again, artifact) is None
    assert _refused(again) == "saml.invalid_consumer"


def test_what_is_no_artifact_at_all() -> None:
    for text in ("", "AAQ", "====", make_artifact("https://other.example")):
        with pytest.raises(WireError):
            check_artifact(text, "https://hub.example")
    artifact = make_artifact("https://hub.example", index=3)
    assert check_artifact(f" {artifact}\n", "https://hub.example") == artifact
    assert len({make_artifact("https://hub.example") for _ in range(1_000)}) == 1_000


# ---------------------------------------------------------------------- leavers, processes, restarts, both databases


def test_it_works_once_over_processes_and_restarts(fresh: Scene) -> None:
    """Of many that ask at once, in two processes, exactly one is told; so is nobody after a restart."""
    browser = fresh.signed_in()
    held = [_artifact(fresh, browser) for _ in range(4)]
    last = _artifact(fresh, browser)

    def ask(client: Any, artifact: str) -> Any:
        question = fresh.partner.artifact_resolve(fresh.now, artifact)
        answer = _post(client, sign(question, fresh.partner.signer))
        assert answer.status_code == 200, answer.text
        answer.status_code = 200 if b"samlp:Response" in answer.content else 404
        return answer

    with _other_process(fresh) as other:
        for artifact in held:
            asks = [partial(ask, client, artifact) for client in (browser, other, browser, other)]
            assert _at_once(asks) == [200, 404, 404, 404]
    with _other_process(fresh) as restarted:
        assert [ask(restarted, artifact).status_code for artifact in held] == [404] * len(held)
        assert ask(restarted, last).status_code == 200


def test_who_left_meanwhile_is_not_spoken_of(fresh: Scene) -> None:
    """Between the artifact and its use: signed out, not entitled any more, suspended."""
    browser = fresh.signed_in()
    artifact = _artifact(fresh, browser)
    from tests.flows.every_door import submit

    submit(browser, browser.get("/logout"), "/logout")
    assert _resolve(fresh, artifact) is None
    assert _refused(fresh) == "saml.session_ended"

    artifact = _artifact(fresh, fresh.signed_in())
    fresh.connect(acs_urls=CONSUMERS, entitle=[{"role": "member", "rule": 'employments.companyCode eq "nobody"'}])
    assert _resolve(fresh, artifact) is None
    assert _refused(fresh) == "saml.not_entitled"

    fresh.connect(acs_urls=CONSUMERS)
    artifact = _artifact(fresh, fresh.signed_in())
    issued = len(fresh.events("assertion.issued"))
    SUSPENSIONS[Door.CLI][0](fresh.stage)
    assert _resolve(fresh, artifact) is None
    assert _refused(fresh) in {"saml.session_ended", "saml.standing", "saml.epoch"}
    assert len(fresh.events("assertion.issued")) == issued
