"""Which addresses may be registered: the rows of known attacks, and properties that hold for any text."""

from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from idhub.access.uris import MAX_URI, check_redirect_uri, check_web_uri, is_loopback
from idhub.errors import Invalid

GOOD = (
    "https://app.test/cb",
    "https://app.test/cb?next=/a",
    "https://app.test:8443/a/b;v=1/cb",
    "https://xn--fiq228c.example/cb",
    "http://127.0.0.1:9001/callback",
    "http://[::1]:9001/callback",
    "http://localhost/callback",
)
REFUSED = (
    # A03: a traversal that one server resolves and another does not.
    ("https://app.test/cb/..;/evil", "uri.dots"),
    ("https://app.test/cb/../evil", "uri.dots"),
    ("https://app.test/cb/%2e%2e/evil", "uri.dots"),
    ("https://app.test/cb/%2E%2e%2Fevil", "uri.dots"),
    ("https://app.test/cb/.%2e;x=1/evil", "uri.dots"),
    ("https://app.test/cb/./evil", "uri.dots"),
    ("https://app.test/cb\\..\\evil", "uri.characters"),
    ("https://app.test/cb/%5c..%5cevil", "uri.dots"),
    ("https://app.test./cb", "uri.host"),
    ("https://app..test/cb", "uri.host"),
    # A04: wildcards have no boundary.
    ("https://app.test*", "uri.wildcard"),
    ("https://*.app.test/cb", "uri.wildcard"),
    ("https://app.test/*", "uri.wildcard"),
    # A05: schemes that run code or read files, in any case, behind any blank.
    ("JaVaScRiPt:alert(1)", "uri.scheme"),
    ("javascript://app.test/%0aalert(1)", "uri.scheme"),
    ("data:text/html,x", "uri.scheme"),
    ("vbscript:x", "uri.scheme"),
    ("file:///etc/passwd", "uri.scheme"),
    ("\tjavascript:alert(1)", "uri.characters"),
    ("java\nscript:alert(1)", "uri.characters"),
    ("\x00javascript:alert(1)", "uri.characters"),
    # A07: malformed, oversized, not text.
    ("http://[::1", "uri.form"),
    # Some versions of Python refuse this themselves, others drop the `x` in silence.
    ("http://[::1]x:9/cb", "uri.host or uri.form"),
    ("https://app.test:port/cb", "uri.form"),
    ("https://app.test:99999/cb", "uri.form"),
    ("https://app.test:0/cb", "uri.port"),
    ("https://app.test/" + "a" * 65_536, "uri.length"),
    ("https://app.test/\ud800", "uri.characters"),
    ("", "uri.length"),
    # Whoever is before the @ is not the host.
    ("http://127.0.0.1@evil.test/cb", "uri.userinfo"),
    ("https://app.test:x@evil.test/cb", "uri.userinfo"),
    ("https://@evil.test/cb", "uri.userinfo"),
    ("http://127.0.0.1.evil.test/cb", "uri.http"),
    ("http://app.test/cb", "uri.http"),
    ("https://app.test/cb#fragment", "uri.fragment"),
    ("https:///cb", "uri.host"),
    ("https://app%2etest/cb", "uri.host"),
    ("https://app.test<x>/cb", "uri.characters"),
    ("https://app.test/a{b}", "uri.characters"),
    ("https://app.test/%zz", "uri.characters"),
    # What browsers read as an IPv4 address.
    ("https://2130706433/cb", "uri.host"),
    ("https://0x7f.1/cb", "uri.host"),
    ("https://app.1/cb", "uri.host"),
    ("https://app.test:080/cb", "uri.host"),
    ("//app.test/cb", "uri.scheme"),
    ("app.test/cb", "uri.scheme"),
    ("https://app.test/路径", "uri.characters"),
    ("https://app.test/a b", "uri.characters"),
)


@pytest.mark.parametrize("uri", GOOD)
def test_an_address_of_an_application_may_be_registered(uri: str) -> None:
    assert check_redirect_uri(uri, field="redirect_uris") == uri
    assert check_web_uri(uri, field="home_url") == uri


@pytest.mark.parametrize(("uri", "rule"), REFUSED, ids=[f"{rule}-{i}" for i, (_, rule) in enumerate(REFUSED)])
@pytest.mark.parametrize("is_native", [False, True])
def test_a_dangerous_address_is_refused_by_its_rule(uri: str, rule: str, is_native: bool) -> None:
    with pytest.raises(Invalid) as refused:
        check_redirect_uri(uri, field="redirect_uris", is_native=is_native)
    assert refused.value.field == "redirect_uris"
    assert refused.value.rule in rule.split(" or ")
    with pytest.raises(Invalid):
        check_web_uri(uri, field="home_url")


def test_an_installed_application_may_have_a_scheme_with_a_dot() -> None:
    """RFC 8252 section 7.1."""
    assert check_redirect_uri("com.example.app:/cb", field="f", is_native=True) == "com.example.app:/cb"
    for uri in ("com.example.app:/cb", "example:/cb", "com.example.app:/../cb"):
        with pytest.raises(Invalid):
            check_redirect_uri(uri, field="f", is_native=uri.endswith("../cb"))
    with pytest.raises(Invalid, match="scheme of their own with a dot"):
        check_redirect_uri("example:/cb", field="f", is_native=True)


@pytest.mark.parametrize(
    ("host", "is_it"),
    [("localhost", True), ("127.8.8.8", True), ("::1", True), ("127.0.0.1.evil.test", False), ("10.0.0.1", False)],
)
def test_loopback_is_this_machine_alone(host: str, is_it: bool) -> None:
    assert is_loopback(host) is is_it


@given(st.text(max_size=200) | st.builds(lambda head, tail: head + tail, st.sampled_from(GOOD), st.text(max_size=60)))
@example("http://[::1")
@example("https://a%2eb/")
def test_any_text_is_accepted_harmless_or_refused_by_name(text: str) -> None:
    """Never another exception, and what passes leads where it says."""
    try:
        check_redirect_uri(text, field="uri")
    except Invalid as refused:
        assert refused.field == "uri"
        assert refused.rule is not None
        assert refused.rule.startswith("uri.")
        assert len(refused.description) < 200, "the refused text is not repeated"
        return
    parts = urlsplit(text)
    assert text.isascii()
    assert len(text) <= MAX_URI
    assert parts.scheme == "https" or is_loopback(parts.hostname or "")
    assert not parts.fragment
    assert "@" not in parts.netloc
    assert not {"..", "."} & set(parts.path.split("/"))


@given(st.binary(max_size=60))
def test_any_bytes_as_a_path_never_raise_another_error(raw: bytes) -> None:
    try:
        check_web_uri("https://app.test/" + raw.decode("latin-1"), field="uri")
    except Invalid as refused:
        assert refused.field == "uri"
