"""Attacks on the identity provider as a whole; those on messages alone are in tests/providers/test_saml_wire.py."""

import base64
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from starlette.testclient import TestClient

from idhub.app import create_app
from idhub.services import open_hub
from providers.saml_wire.bindings import post_value, write_soap
from providers.saml_wire.signatures import sign
from providers.saml_wire.writing import render
from tests.flows.every_door import NUMBER
from tests.saml.conftest import Scene, open_scene
from tests.saml.differentials import READ_AS_SIGNED, REFUSED
from tests.saml.hostile import DOWNGRADES, WRAPPINGS
from tests.saml.partner import NS, quoted, read_answer
from tests.saml.test_logout import _is_signed_in, _named
from tests.support.databases import DatabaseKind, Databases

_REFUSED = "https://partner.example/second"


@pytest.fixture(scope="module")
def strict(scene: Scene) -> Scene:
    """Signed requests only, and a second place to answer to: what an attacker would like to choose."""
    scene.connect(want_signed_requests=True, acs_urls=[scene.partner.acs, _REFUSED])
    return scene


def _signed(scene: Scene, node: Any) -> bytes:
    return render(sign(node, scene.partner.signer)).encode()


def _post(scene: Scene, browser: TestClient, path: str, document: bytes) -> Any:
    return browser.post(path, data={"SAMLRequest": post_value(document.decode())})


def _elsewhere(evil: Any) -> None:
    evil.set("AssertionConsumerServiceURL", _REFUSED)


@pytest.mark.parametrize("name", WRAPPINGS)
def test_a_wrapped_sign_on_is_refused(strict: Scene, name: str) -> None:
    """S01."""
    document = etree.tostring(WRAPPINGS[name](_signed(strict, strict.partner.authn_request(strict.now)), _elsewhere))
    answer = _post(strict, strict.browser(), "/saml/sso", document)
    assert answer.status_code == 400, name


@pytest.mark.parametrize("name", WRAPPINGS)
def test_a_wrapped_logout_ends_nobodys_session(strict: Scene, name: str) -> None:
    """S01, by POST and by SOAP."""
    browser = strict.signed_in()
    victim, index = _named(strict.sign_on(browser))

    def spoil(evil: Any) -> None:
        evil.find("saml:NameID", NS).text = victim
        evil.find("samlp:SessionIndex", NS).text = index

    mine = strict.partner.logout_request(strict.now, "attacker", "_attacker")
    document = etree.tostring(WRAPPINGS[name](_signed(strict, mine), spoil))
    assert _post(strict, browser, "/saml/slo", document).status_code == 400
    mine = strict.partner.logout_request(strict.now, "attacker", "_a", destination=f"{strict.partner.slo}/soap")
    document = etree.tostring(WRAPPINGS[name](_signed(strict, mine), spoil))
    envelope = write_soap(mine).decode()
    start, end = envelope.index("<soap:Body>") + len("<soap:Body>"), envelope.index("</soap:Body>")
    answer = browser.post("/saml/slo/soap", content=(envelope[:start] + document.decode() + envelope[end:]).encode())
    assert answer.status_code == 400
    assert _is_signed_in(browser)


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_could_be_read_in_two_ways_is_refused(strict: Scene, name: str) -> None:
    """S01 to S03, and what parsers were found to disagree about since: of a sign-on, and of a logout."""
    good = _signed(strict, strict.partner.authn_request(strict.now)).decode()
    document = REFUSED[name](good, good.replace(strict.partner.acs, _REFUSED)).encode()
    assert _post(strict, strict.browser(), "/saml/sso", document).status_code == 400
    browser = strict.signed_in()
    victim, index = _named(strict.sign_on(browser))
    good = _signed(strict, strict.partner.logout_request(strict.now, "attacker", "_attacker")).decode()
    document = REFUSED[name](good, good.replace("_attacker", index).replace("attacker", victim)).encode()
    assert _post(strict, browser, "/saml/slo", document).status_code == 400
    assert _is_signed_in(browser)


@pytest.mark.parametrize("name", READ_AS_SIGNED)
def test_a_request_that_is_written_otherwise_is_answered_where_its_partner_wanted_it(strict: Scene, name: str) -> None:
    good = _signed(strict, strict.partner.authn_request(strict.now)).decode()
    document = READ_AS_SIGNED[name](good, good.replace(strict.partner.acs, _REFUSED)).encode()
    browser = strict.signed_in()
    answer = _post(strict, browser, "/saml/sso", document)
    while answer.status_code == 303:
        answer = browser.get(answer.headers["location"])
    assert read_answer(answer).action == strict.partner.acs


@pytest.mark.parametrize("name", DOWNGRADES)
def test_a_downgraded_signature_is_refused(strict: Scene, name: str) -> None:
    """S03, S24."""
    document = DOWNGRADES[name](_signed(strict, strict.partner.authn_request(strict.now)))
    assert _post(strict, strict.browser(), "/saml/sso", document).status_code == 400


def test_a_split_issuer_is_read_whole(strict: Scene) -> None:
    """S02: a comment in the middle makes it no other service provider."""
    text = render(strict.partner.authn_request(strict.now))
    for inner in ("<!---->", "<?x?>", "<![CDATA[]]>"):
        split = text.replace("partner.example/sp</", f"partner{inner}.example/sp</")
        assert _post(strict, strict.browser(), "/saml/sso", split.encode()).status_code == 400
        other = text.replace("https://partner.example/sp</", f"https://partner.example/sp{inner}.evil.example</")
        assert _post(strict, strict.browser(), "/saml/sso", other.encode()).status_code == 400


def test_documents_that_reach_out_or_blow_up(strict: Scene) -> None:
    """S13, S14: by every binding, at once, and without a fault."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(b"<a>" + b"x" * 30_000_000) + packer.flush()
    laughs = b'<!DOCTYPE a [<!ENTITY l0 "lol"><!ENTITY l1 "&l0;&l0;&l0;&l0;">]><a>&l1;</a>'
    outer = b'<!DOCTYPE a [<!ENTITY x SYSTEM "http://127.0.0.1:9/">]><a>&x;</a>'
    deep = b"<a>" * 50_000
    browser = strict.browser()
    for document in (laughs, outer, deep):
        began = time.process_time()
        packed = zlib.compress(document)[2:-4]
        for answer in (
            browser.get(f"/saml/sso?SAMLRequest={quoted(base64.b64encode(packed).decode())}"),
            browser.post("/saml/slo", data={"SAMLRequest": base64.b64encode(document).decode()}),
            browser.post("/saml/slo/soap", content=document),
        ):
            assert answer.status_code == 400
        assert time.process_time() - began < 2
    answer = browser.get(f"/saml/sso?SAMLRequest={quoted(base64.b64encode(bomb[:20_000]).decode())}")
    assert answer.status_code == 400
    assert browser.post("/saml/slo/soap", content=b"x" * 1_000_000).status_code == 400
    assert browser.post("/saml/sso", data={"SAMLRequest": "A" * 1_000_000}).status_code == 400


def test_what_is_carried_to_the_application_is_escaped(strict: Scene) -> None:
    """S15, S27: RelayState is somebody else's text; it goes back as it came, and runs nowhere."""
    hostile = '"><script>alert(1)</script><input value="'
    request = strict.partner.authn_request(strict.now)
    page = strict.signed_in().get(strict.partner.redirect(request, relay_state=hostile))
    assert "<script>alert" not in page.text
    assert read_answer(page).relay_state == hostile
    for state in ("javascript:alert(1)", "//evil.example", "https://evil.example/"):
        page = strict.signed_in().get(
            strict.partner.redirect(strict.partner.authn_request(strict.now), relay_state=state)
        )
        answer = read_answer(page)
        assert (answer.action, answer.relay_state) == (strict.partner.acs, state)
        assert "evil.example" not in page.headers["content-security-policy"]


def test_a_refusal_tells_no_reason(strict: Scene) -> None:
    """Security considerations: the status, and nothing beside it."""
    page = strict.ask(strict.browser(), IsPassive="true")
    answer = read_answer(page)
    status = answer.root.find("samlp:Status", NS)
    assert [etree.QName(one).localname for one in status.iter()] == ["Status", "StatusCode", "StatusCode"]


@pytest.mark.parametrize(
    ("name_id_format", "number"), [("email", "TW-1"), ("unspecified", NUMBER), ("unspecified", NUMBER.lower())]
)
def test_two_people_of_one_name_are_not_taken_for_each_other(
    databases: Databases, tmp_path: Path, name_id_format: str, number: str
) -> None:
    """A second company writes the mail address, or the number, of somebody in the first into its own people's rows."""
    for scene in open_scene("sqlite", databases, tmp_path):
        twin = {
            "employee_number": number, "name": "另一人",
            "company": "TWIN", "department": "x", "status": "active", "employment_type": "regular",
            "email": f"{NUMBER.upper()}@qiyue.example", "start_date": "2020-01-01",
        }  # fmt: skip
        scene.connect(name_id_format=name_id_format)
        browser = scene.signed_in()
        named = scene.sign_on(browser).text(".//saml:NameID")
        scene.stage.import_rows([twin], snapshot=False)
        assert scene.sign_on(browser).text(".//saml:NameID") == named, "who may not enter cannot be mistaken for"
        scene.connect(name_id_format=name_id_format, entitle=[{"role": "m", "rule": 'employments.type eq "regular"'}])
        refused = scene.sign_on(browser)
        assert refused.text(".//saml:NameID") is None
        assert refused.status == ["Responder", "InvalidNameIDPolicy"]
        assert scene.events("authorization.refused")[-1]["reason"] == "ambiguous_name_id"


# ---------------------------------------------------------------------- many processes, restarts, both databases


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    kind: DatabaseKind = request.param
    for opened in open_scene(kind, databases, tmp_path_factory.mktemp("saml")):
        opened.connect()
        yield opened


@contextmanager
def _other_process(scene: Scene) -> Iterator[TestClient]:
    """Another hub on the same database."""
    hub = open_hub(scene.stage.hub.settings, clock=scene.stage.clock)
    try:
        app = create_app(hub, with_worker=False)
        with TestClient(app, base_url=scene.partner.issuer, follow_redirects=False) as client:
            yield client
    finally:
        hub.close()


def _at_once(acts: Sequence[Callable[[], Any]]) -> list[int]:
    """Status codes of requests that are made at the same moment."""
    with ThreadPoolExecutor(len(acts)) as pool:
        return sorted(one.result().status_code for one in [pool.submit(act) for act in acts])


def test_a_message_works_once_over_processes_and_restarts(fresh: Scene) -> None:
    """S10: what was seen is in the database; of two processes that get it at once one answers."""
    browser = fresh.signed_in()
    with _other_process(fresh) as other:
        other.cookies.set("idhub_session", str(browser.cookies["idhub_session"]))
        urls = [fresh.partner.redirect(fresh.partner.authn_request(fresh.now)) for _ in range(4)]
        for url in urls:
            assert _at_once([partial(client.get, url) for client in (browser, other)]) == [200, 400]
        name, index = _named(fresh.sign_on(browser))
        logout = fresh.partner.redirect(fresh.partner.logout_request(fresh.now, name, index))
        assert other.get(logout).status_code == 303
        assert browser.get(logout).status_code == 400
    with _other_process(fresh) as client:
        assert [client.get(url).status_code for url in urls] == [400] * len(urls)
        assert client.get(logout).status_code == 400


def test_two_resumptions_of_one_sign_on_answer_once(fresh: Scene) -> None:
    """Of two that go on with one transaction exactly one is answered."""
    browser = fresh.signed_in()
    form = fresh.partner.form(fresh.partner.authn_request(fresh.now))
    sent = fresh.browser().post("/saml/sso", data=form)
    claimed = browser.get(sent.headers["location"]).headers["location"]
    assert _at_once([partial(browser.get, claimed)] * 6) == [200, *[400] * 5]


def test_names_are_of_one_person_for_ever(fresh: Scene) -> None:
    """Invariant 7 and Core 8.3.7: after a leave and a rehire the same person, and nobody else, has the name."""
    first = fresh.sign_on(fresh.signed_in(NUMBER)).text(".//saml:NameID")
    colleague = fresh.sign_on(fresh.signed_in("QY000002")).text(".//saml:NameID")
    assert first is not None and colleague not in {None, first}
