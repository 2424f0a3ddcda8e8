"""Which address belongs to an application: what stands between a ticket and a stranger (decision 0025)."""

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from starlette.testclient import TestClient

from idhub.access.cas_services import check_service_address, find_service
from idhub.access.tables import Application
from idhub.access.uris import check_web_uri
from idhub.errors import Invalid
from tests.cas.conftest import CasScene

EXACT = "https://exact.example/in?site=1"
QUERY = "https://query.example/accounts/login"
BELOW = "https://below.example/wiki/"
LOOPBACK = "http://127.0.0.1:8081/"


@pytest.fixture(scope="module", autouse=True)
def _connected(cas: CasScene) -> None:
    cas.connect("exact", services=[{"url": EXACT, "match": "exact"}])
    cas.connect("query", services=[QUERY])
    cas.connect("below", services=[{"url": BELOW, "match": "below"}])
    cas.connect("loopback", services=[{"url": LOOPBACK, "match": "below"}])
    cas.connect("part", services=["https://below.example/wiki/part/login"])


@pytest.fixture(scope="module")
def somebody(cas: CasScene) -> TestClient:
    return cas.signed_in()


TAKEN = (
    (EXACT, "exact"),
    (QUERY, "query"),
    (f"{QUERY}?next=%2Fadmin%2F", "query"),
    (f"{QUERY}?next=/a&required=*", "query"),
    ("https://QUERY.example:443/accounts/login", "query"),
    (BELOW, "below"),
    (f"{BELOW}a/b?c=d", "below"),
    (f"{BELOW}%E6%96%87", "below"),
    (f"{LOOPBACK}any", "loopback"),
    ("https://below.example/wiki/part/login?x=1", "part"),
)
REFUSED = (
    "x",
    "/accounts/login",
    "//query.example/accounts/login",
    # Another origin, however it is dressed up.
    "https://query.example@evil.example/accounts/login",
    "https://query.example:x@evil.example/accounts/login",
    "https://evil.example/https://query.example/accounts/login",
    "https://query.example.evil.example/accounts/login",
    "https://evilquery.example/accounts/login",
    "https://query.example:8443/accounts/login",
    "https://query.example./accounts/login",
    "https://query.example\\@evil.example/accounts/login",
    "https://query.example%2f@evil.example/accounts/login",
    "https://query.example%00.evil.example/accounts/login",
    "https://evil.example#@query.example/accounts/login",
    "https://evil.example?@query.example/accounts/login",
    "https://evil.example\\query.example/accounts/login",
    "https://[query.example]/accounts/login",
    "https:query.example/accounts/login",
    "https:///query.example/accounts/login",
    "http://query.example/accounts/login",
    "ftp://query.example/accounts/login",
    "javascript:alert(1)//query.example/accounts/login",
    "JaVaScRiPt://query.example/accounts/login",
    "data:text/html,https://query.example/accounts/login",
    "http://127.0.0.1:8082/",
    "http://127.1:8081/",
    "http://2130706433:8081/",
    "http://localhost:8081/",
    # Another path of the same host.
    f"{QUERY}/",
    f"{QUERY}x",
    f"{QUERY}/../../evil",
    f"{QUERY};x",
    "https://query.example/Accounts/login",
    "https://query.example/accounts//login",
    "https://query.example//accounts/login",
    "https://query.example/accounts/%6cogin",
    "https://query.example/",
    # Beneath, and out again.
    "https://below.example/wiki",
    "https://below.example/wikipedia/",
    f"{BELOW}../admin",
    f"{BELOW}%2e%2e/admin",
    f"{BELOW}..%2fadmin",
    f"{BELOW}%2e%2e%2fadmin",
    f"{BELOW}..;/admin",
    f"{BELOW}..%5cadmin",
    f"{BELOW}..\\admin",
    f"{BELOW}%252e%252e/admin",
    f"{BELOW}./x",
    "https://below.example/WIKI/",
    # An exact address is exact.
    "https://exact.example/in",
    f"{EXACT}&next=/",
    "https://exact.example/in?site=2",
    # What would be read in two ways.
    f"{QUERY}#fragment",
    f"{QUERY}\n",
    f" {QUERY}",
    f"{QUERY}?a=\r\nSet-Cookie:x=1",
    f"{QUERY}?a=<script>",
    f"{QUERY}?a=%",
    f"{QUERY}?{'a' * 2_000}",
    # A ticket of somebody else's, before ours.
    f"{QUERY}?ticket=ST-1",
    f"{QUERY}?Ticket=ST-1",
    f"{QUERY}?next=/&%74icket=ST-1",
    f"{QUERY}?SAMLart=ST-1",
    f"{QUERY}?" + "&".join(["a=1"] * 300),
)


@pytest.mark.parametrize(("url", "slug"), TAKEN)
def test_an_address_of_an_application_gets_a_ticket(cas: CasScene, somebody: TestClient, url: str, slug: str) -> None:
    answer = cas.ask(somebody, url)
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith(url), "to the letter"
    ticket = answer.headers["location"].rpartition("ticket=")[2]
    assert cas.validate(ticket, url).user == "QY000001"
    with cas.stage.hub.database.read() as session:
        application_id = session.execute(select(Application.id).where(Application.slug == slug)).scalar_one()
    assert cas.scene.events("ticket.issued")[-1]["application_id"] == application_id


@pytest.mark.parametrize("url", REFUSED)
def test_an_address_of_nobody_gets_a_page_and_nothing_is_sent_there(
    cas: CasScene, somebody: TestClient, url: str
) -> None:
    stranger = cas.browser()
    answers = [cas.ask(somebody, url, **more) for more in ({}, {"renew": "true"}, {"method": "POST"})]
    answers += [cas.ask(stranger, url, **more) for more in ({}, {"gateway": "true"})]
    answers += [one.get("/cas/logout", params={"service": url}) for one in (somebody, stranger)]
    for answer in answers:
        assert answer.status_code == 400, answer.headers.get("location")
        assert "location" not in answer.headers
        assert "refresh" not in answer.headers


@given(st.text(max_size=80), st.sampled_from([QUERY, BELOW, LOOPBACK, EXACT]), st.integers(0, 60))
def test_whatever_is_written_into_an_address_a_ticket_stays_with_its_origin(
    cas: CasScene, text: str, base: str, position: int
) -> None:
    """Whatever passes is, to whoever reads it, an address of the application's own origin and path."""
    url = base[:position] + text + base[position:]
    with cas.stage.hub.database.read() as session:
        found = find_service(session, url)
    if found is None:
        return
    check_web_uri(url.replace("*", "%2A"), field="service")
    parts, registered = urlsplit(url), urlsplit(base)
    assert (parts.scheme, parts.hostname) == (registered.scheme, registered.hostname)
    assert parts.path.startswith(registered.path) if base in {BELOW, LOOPBACK} else parts.path == registered.path


@pytest.mark.parametrize(
    ("url", "match", "rule"),
    [
        ("https://app.example/a?b=c", "query", "cas.query"),
        ("https://app.example/a/?b=c", "below", "cas.query"),
        ("https://app.example/a", "below", "cas.below"),
        ("https://app.example/a?ticket=x", "exact", "cas.ticket"),
        ("https://*.example/", "below", "uri.wildcard"),
        ("https://app.example@evil.example/", "below", "uri.userinfo"),
        ("http://app.example/", "below", "uri.http"),
        ("https://app.example/#x", "exact", "uri.fragment"),
        ("https://app.example/../", "below", "uri.dots"),
    ],
)
def test_what_may_not_be_registered(url: str, match: str, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_service_address(url, match, field="f")  # type: ignore[arg-type]
    assert refused.value.rule == rule


def test_a_root_may_stand_for_all_beneath_it() -> None:
    assert check_service_address("https://app.example", "below", field="f").path == "/"
