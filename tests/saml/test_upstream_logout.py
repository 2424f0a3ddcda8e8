"""Logouts that begin at an identity provider: whose sessions end, and whose do not."""

import zlib
from base64 import b64decode
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import pytest
from lxml import etree
from starlette.testclient import TestClient

from providers.saml_wire.bindings import post_value, write_redirect, write_soap
from providers.saml_wire.signatures import sign
from providers.saml_wire.writing import Node, render
from tests.saml.conftest import Scene
from tests.saml.hostile import WRAPPINGS
from tests.saml.partner import NS, make_signer, query_of, read_answer
from tests.saml.upstream import Upstream, is_in, sign_in

PATH = "/login/saml/slo"
SLO = "https://idp.acme.example/slo"


@pytest.fixture(scope="module")
def upstream(scene: Scene) -> Iterator[Upstream]:
    scene.stage.clock.advance(timedelta(seconds=1))
    made = Upstream(scene.stage.hub.settings.issuer)
    scene.configure(providers=[made.block(saml={"logout": [{"binding": "redirect", "url": SLO}]})])
    yield made


def _signed_in(scene: Scene, upstream: Upstream, index: str = "_one") -> TestClient:
    browser = scene.browser()
    sign_in(browser, upstream, scene.now, session_index=index)
    assert is_in(browser)
    return browser


def _redirect(upstream: Upstream, request: Node, *, signed: bool = True, state: str | None = "rs") -> str:
    signer = upstream.signer if signed else None
    return write_redirect(PATH, "SAMLRequest", render(request), relay_state=state, signer=signer)


def _answered(location: str) -> list[str]:
    """Status codes, from the top down, of an answer by Redirect."""
    assert location.startswith(SLO), location
    root = etree.fromstring(zlib.decompress(b64decode(unquote(query_of(location)["SAMLResponse"])), -15))
    return [str(one.get("Value")).rpartition(":")[2] for one in root.iterfind(".//samlp:StatusCode", NS)]


def test_a_logout_by_redirect_ends_the_session_and_is_answered(scene: Scene, upstream: Upstream) -> None:
    browser, other = _signed_in(scene, upstream), _signed_in(scene, upstream, "_two")
    own = scene.signed_in()
    answer = scene.browser().get(_redirect(upstream, upstream.logout_request(scene.now, "7f3c-subject", "_one")))
    assert (answer.status_code, _answered(answer.headers["location"])) == (303, ["Success"])
    assert query_of(answer.headers["location"])["RelayState"] == "rs"
    assert "Signature" in query_of(answer.headers["location"])
    assert not is_in(browser)
    assert is_in(other), "another session of the subject"
    assert is_in(own), "a session of the same person that rests on their password"
    asked = scene.events("logout.requested")[-1]
    assert (asked["person_id"], asked["details"]) == (scene.stage.person, {"provider": "acme"})
    # Without an index: every session that rests on the provider.
    answer = scene.browser().get(_redirect(upstream, upstream.logout_request(scene.now, "7f3c-subject")))
    assert (is_in(other), is_in(own)) == (False, True)


def test_applications_that_only_a_browser_can_tell_make_it_partial(scene: Scene, upstream: Upstream) -> None:
    browser = _signed_in(scene, upstream)
    read_answer(scene.ask(browser))
    answer = scene.browser().get(_redirect(upstream, upstream.logout_request(scene.now, "7f3c-subject", "_one")))
    assert _answered(answer.headers["location"]) == ["Success", "PartialLogout"]
    assert not is_in(browser)


def test_a_logout_by_soap(scene: Scene, upstream: Upstream) -> None:
    browser = _signed_in(scene, upstream)
    request = upstream.logout_request(scene.now, "7f3c-subject", "_one", path=f"{PATH}/soap")
    envelope = write_soap(sign(request, upstream.signer))
    answer = scene.browser().post(f"{PATH}/soap", content=envelope)
    assert (answer.status_code, "status:Success" in answer.text) == (200, True)
    assert not is_in(browser)
    again = scene.browser().post(f"{PATH}/soap", content=envelope)
    assert (again.status_code, "<soap:Fault>" in again.text) == (400, True)


def test_a_logout_of_nobody_says_so(scene: Scene, upstream: Upstream) -> None:
    answer = scene.browser().get(_redirect(upstream, upstream.logout_request(scene.now, "stranger")))
    assert _answered(answer.headers["location"]) == ["Requester", "UnknownPrincipal"]


def test_what_is_not_the_providers_own_word_ends_nothing(scene: Scene, upstream: Upstream) -> None:
    """S18, S01: unsigned, signed by another, for another address, too old, of an unknown provider, wrapped."""
    browser = _signed_in(scene, upstream)
    evil = Upstream(upstream.issuer, "evil", "https://evil.example/idp", SLO, make_signer("evil"))
    posing = Upstream(upstream.issuer, "acme", upstream.entity_id, SLO, evil.signer)
    subject, now = "7f3c-subject", scene.now
    old = {"IssueInstant": "2026-11-01T00:00:00.000Z"}
    over = {"NotOnOrAfter": "2026-11-01T00:00:00.000Z"}
    requests: list[str] = [
        _redirect(upstream, upstream.logout_request(now, subject), signed=False),
        _redirect(posing, upstream.logout_request(now, subject)),
        _redirect(evil, evil.logout_request(now, subject)),
        _redirect(upstream, upstream.logout_request(now, subject, path="/elsewhere")),
        _redirect(upstream, upstream.logout_request(now, subject, Destination=None)),
        _redirect(upstream, upstream.logout_request(now, subject, **old)),
        _redirect(upstream, upstream.logout_request(now, subject, **over)),
        _redirect(upstream, upstream.logout_request(now, subject), state="x" * 2_000),
    ]
    for address in requests:
        assert scene.browser().get(address).status_code == 400, address

    def spoil(wrapped: Any) -> None:
        wrapped.find("saml:NameID", NS).text = subject

    mine = render(sign(upstream.logout_request(now, "attacker"), upstream.signer)).encode()
    for name, wrap in WRAPPINGS.items():
        document = etree.tostring(wrap(mine, spoil)).decode()
        scene.browser().post(PATH, data={"SAMLRequest": post_value(document)})
        assert is_in(browser), name
    unsigned = {"SAMLRequest": post_value(render(upstream.logout_request(now, subject)))}
    assert scene.browser().post(PATH, data=unsigned).status_code == 400
    assert scene.browser().post(PATH, data={"SAMLResponse": unsigned["SAMLRequest"]}).status_code == 400
    assert is_in(browser)


def test_a_subject_of_another_provider_is_not_this_ones_to_end(scene: Scene, upstream: Upstream) -> None:
    browser = _signed_in(scene, upstream)
    other = Upstream(upstream.issuer, "other", "https://other.example/idp", "https://other.example/sso", make_signer())
    scene.configure(providers=[other.block(saml={"logout": [{"binding": "post", "url": SLO}]})])
    answer = scene.browser().get(_redirect(other, other.logout_request(scene.now, "7f3c-subject")))
    assert read_answer(answer).status == ["Requester", "UnknownPrincipal"]
    assert is_in(browser)
