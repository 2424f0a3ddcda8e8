"""Redirect URIs: what a browser would navigate to is what was registered and compared, for any text.

The judge is a parser that nobody here wrote: the URL Standard's, as browsers have it, in Node. RFC 9700 section 2.1,
RFC 8252 section 7.3; A01, A03, A04, A05, A07, J18 of the attack rows.
"""

import json
import os
import shutil
import string
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from idhub.access.uris import check_redirect_uri, is_loopback
from idhub.errors import Invalid
from idhub.oidc.authorize import redirect_matches, response_url
from idhub.oidc.clients import Client
from tests.oidc.world import App, World

REGISTERED = (
    "https://office.example/callback",
    "https://office.example:8443/a/b;v=1/cb?next=/x",
    "http://127.0.0.1/cb",
    "http://[::1]/cb",
    "com.example.app:/oauth",
)
# The same in every run of `make test`; `make fuzz` looks further.
_SEARCHES = "FUZZ_SECONDS" in os.environ
_BOUNDED = settings(
    max_examples=20_000 if _SEARCHES else 400,
    derandomize=not _SEARCHES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class Browser:
    """How a browser reads addresses."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def read(self, address: str) -> dict[str, str] | None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(address) + "\n")
        self._process.stdin.flush()
        found: dict[str, str] | None = json.loads(self._process.stdout.readline())
        return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    node = shutil.which("node")
    assert node, "node is missing: `make test` installs it"
    script = Path(__file__).with_name("whatwg.mjs")
    with subprocess.Popen([node, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Browser(process)
        assert process.stdin
        process.stdin.close()
        process.wait(10)


def client(*, is_native: bool, uris: tuple[str, ...] = REGISTERED) -> Client:
    return Client(
        client_id="office", application_id="app", service_principal_id=None, auth_method="none", secret_hash=None,
        redirect_uris=uris, post_logout_redirect_uris=uris, grant_types=frozenset({"authorization_code"}),
        scopes=frozenset({"openid"}), access_token_format="jwt", access_token_seconds=None, id_token_alg="ES256",
        audience="office", rotates_refresh=True, requires_consent=False, sector=None, is_native=is_native,
        is_enabled=True,
    )  # fmt: skip


# ---------------------------------------------------------------------- mutations of a registered address

_INSERTED = st.sampled_from(
    [
        "", " ", "\t", "\n", "\r", "\0", "\\", "/", "//", "/.", "/..", "/../", "/%2e%2e/", "/.%2e/", "..;/", ";", ":",
        ":443", ":80", ":0", ":65535", ":65536", ":99999", ":080", ":8o", "@", "@evil.example", "evil.example",
        ".evil.example", "?", "?x=1", "&x=1", "#", "#x", "%", "%00", "%0a", "%2f", "%5c", "%23", "%40", "*", ".", "-",
        "\u3002", "\uff0e", "\u2044", "\uff0f", "\u200b", "\u202e", "\ud800", "é", "xn--", "[", "]", "|", "^", "<", ">",
        "javascript:", "data:", "https://", "0", "1", "a" * 3_000,
    ]
)  # fmt: skip


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """A registered address after a few changes of the kinds that parsers disagree on."""
    text = draw(st.sampled_from(REGISTERED))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        match draw(st.sampled_from(("insert", "delete", "case", "encode", "replace"))):
            case "insert":
                text = text[:at] + draw(_INSERTED) + text[at:]
            case "delete":
                text = text[:at] + text[at + draw(st.integers(1, 4)) :]
            case "case":
                text = text[:at] + text[at : at + 3].swapcase() + text[at + 3 :]
            case "encode":
                text = text[:at] + "".join(f"%{ord(c):02x}" for c in text[at : at + 2] if c < "\x80") + text[at + 2 :]
            case _:
                text = text[:at] + draw(_INSERTED) + text[at + 1 :]
    return text


@_BOUNDED
@given(mutants(), st.booleans())
@example("http://127.0.0.1:49152/cb", True)
@example("http://127.0.0.1.evil.example/cb", True)
@example("http://127.0.0.1@evil.example/cb", True)
@example("http://127.0.0.1:80@evil.example/cb", True)
@example("http://[::1]:9@evil.example/cb", True)
@example("http://127.1/cb", True)
@example("http://[::ffff:127.0.0.1]/cb", True)
@example("http://127.0.0.1:1\u0661/cb", True)
def test_only_what_is_registered_or_another_loopback_port_is_redirected_to(
    browser: Browser, address: str, is_native: bool
) -> None:
    """A text that passes leads a browser to the registered scheme, host and path, and nowhere else."""
    if not redirect_matches(client(is_native=is_native), address):
        return
    if address in REGISTERED:
        return
    assert is_native, "a web application's address is compared as it is"
    seen = browser.read(address)
    assert seen is not None
    candidates = [browser.read(one) for one in REGISTERED if one.startswith("http://")]
    assert {**seen, "port": ""} in candidates, address
    assert seen["username"] == seen["password"] == seen["hash"] == ""


@_BOUNDED
@given(st.text(max_size=30) | st.none())
def test_an_answer_leads_to_the_registered_place_whatever_the_state(browser: Browser, state: str | None) -> None:
    """Code, state and issuer are query values and never become another part of the address."""
    for registered in REGISTERED:
        where = response_url(
            registered, "https://id.example", state and state.encode("utf-8", "replace").decode(), code="c"
        )
        seen, known = browser.read(where), browser.read(registered)
        assert seen is not None and known is not None
        for part in ("protocol", "username", "password", "hostname", "port", "pathname", "hash"):
            assert seen[part] == known[part], where
        assert seen["search"].startswith(known["search"])


# ---------------------------------------------------------------------- registration

_HOSTS = st.sampled_from(
    [
        "app.example", "APP.example", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "[0:0::1]",
        "[::ffff:127.0.0.1]", "localhost", "127.0.0.1.", "1.2.3", "app.1", "app.0x1", "xn--fiq228c.example",
        "a_b.example",
        "-a.example", "256.1.1.1", "[::1%25lo]", "app..example", "1e3.example", "app.example.0", "08.1.1.1",
        "999999999999",
    ]
)  # fmt: skip
_PATHS = st.lists(
    st.sampled_from(
        [*"/a.;%\\?&'\"<>{}|^`~!$()+,=:@[]*#\t", "..", "%2e", "%2E", "%2f", "%5c", "%zz", "x=1"]
    ),
    max_size=6,
).map("".join)  # fmt: skip
_SCHEMES = st.sampled_from(
    [
        "https://",
        "http://",
        "HTTPS://",
        "https:/",
        "https:",
        "https:\\\\",
        "//",
        "com.example.app:/",
        "com.example.app://",
    ]
)
_PORTS = st.sampled_from(["", ":443", ":80", ":8443", ":", ":0", ":00443", ":65536", ":1e3"])
_USERS = st.sampled_from(["", "", "", "user@", "user:x@", "@", "a%40b@"])
addresses = (
    st.builds(lambda *parts: "".join(parts), _SCHEMES, _USERS, _HOSTS, _PORTS, _PATHS)
    | mutants()
    | st.text(st.sampled_from(string.printable), max_size=40)
)


@_BOUNDED
@given(addresses, st.booleans())
@example("https://0x7f.1/cb", False)
@example("https://2130706433/cb", False)
@example("https://app.example/a|b^c`{}", False)
@example("https://app.example/%zz", False)
@example("com.example.app://user@app.example", True)
def test_what_may_be_registered_is_read_alike_by_a_browser(browser: Browser, address: str, is_native: bool) -> None:
    """No accepted address has a second reading: host, path and query are, letter by letter, what was written."""
    try:
        accepted = check_redirect_uri(address, field="redirect_uris", is_native=is_native)
    except Invalid as error:
        assert error.field == "redirect_uris"
        assert error.rule
        return
    seen = browser.read(accepted)
    if seen is None:
        # Labels that are no IDNA name: a browser goes nowhere with them.
        assert "xn--" in accepted.lower() or not is_web(accepted), accepted
        return
    assert seen["username"] == seen["password"] == seen["hash"] == ""
    if not is_web(accepted):
        assert is_native
        assert seen["protocol"] not in {"javascript:", "data:", "file:", "blob:", "vbscript:", "about:"}
        return
    rest = accepted.partition("://")[2]
    authority = rest.replace("?", "/", 1).partition("/")[0]
    host = authority.rpartition("]")[0] + "]" if "]" in authority else authority.partition(":")[0]
    assert seen["hostname"] == host.lower() or host.startswith("["), accepted
    assert seen["protocol"] == "https:" or is_loopback(seen["hostname"].strip("[]")), accepted
    written = rest[len(authority) :]
    # A browser writes an apostrophe of the query as %27, and leaves out a question mark that nothing follows.
    read = (seen["pathname"] + seen["search"]).replace("%27", "'")
    assert read.lstrip("/") == written.replace("%27", "'").rstrip("?").lstrip("/"), accepted


def is_web(address: str) -> bool:
    return address.lower().startswith(("https://", "http://"))


# ---------------------------------------------------------------------- through the endpoint


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_no_mutation_is_ever_redirected_by_the_endpoints(world: World, office: App) -> None:
    """The same through HTTP: authorization and logout answer with a page, or go exactly where is registered."""
    world.sign_in(world.employee(office))
    assert office.redirect_uri in REGISTERED
    registered = office.redirect_uri

    @settings(_BOUNDED, max_examples=2_000 if _SEARCHES else 120)
    @given(mutants())
    def refused(address: str) -> None:
        text = quote(address.encode("utf-8", "surrogatepass"), safe="")
        request = world.request(office, redirect_uri=None)
        query = "&".join(f"{name}={quote(value)}" for name, value in request.items())
        answers: list[Any] = [
            world.http.get(f"/oauth2/authorize?{query}&redirect_uri={text}", follow_redirects=False),
            world.http.get(f"/oauth2/logout?client_id=office&post_logout_redirect_uri={text}", follow_redirects=False),
        ]
        authorized, logged_out = answers
        if address == registered:
            assert authorized.headers["location"].startswith(f"{registered}?")
        else:
            assert (authorized.status_code, "location" in authorized.headers) == (400, False), address
        # A value that is empty counts as none: then there is no address to return to (RFC 6749 section 3.1).
        if address:
            assert (logged_out.status_code, "location" in logged_out.headers) == (400, False), address

    refused()
