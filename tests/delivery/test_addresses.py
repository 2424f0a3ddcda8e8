"""The rules of the SSRF guard: security rows R01, R07."""

import pytest

from idhub.delivery.addresses import OutboundPolicy, OutboundRefused
from idhub.errors import Invalid

INSIDE = [
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_refused_whatever_name_leads_to_it(address: str) -> None:
    with pytest.raises(OutboundRefused) as refused:
        OutboundPolicy("").check_address("app.example", 443, address)

    assert refused.value.rule == "outbound.address"
    assert refused.value.description == (
        "app.example leads to an address inside; outbound_allow does not name app.example:443."
    )


@pytest.mark.parametrize("address", [a for a in INSIDE if "%" not in a])
def test_a_url_that_names_an_address_inside_is_refused_before_any_connection(address: str) -> None:
    host = f"[{address}]" if ":" in address else address

    with pytest.raises(OutboundRefused):
        OutboundPolicy("").check_url(f"https://{host}/v2/Users")


@pytest.mark.parametrize("address", ["8.8.8.8", "114.114.114.114", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_a_public_address_is_let_through(address: str) -> None:
    OutboundPolicy("").check_address("app.example", 443, address)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("file:///etc/passwd", "outbound.scheme"),
        ("gopher://app.example/", "outbound.scheme"),
        ("ftp://app.example/", "outbound.scheme"),
        ("data:text/plain,x", "outbound.scheme"),
        ("//app.example/", "outbound.scheme"),
        ("https:///path", "outbound.url"),
        ("https://user@app.example/", "outbound.url"),
        ("https://app.example@127.0.0.1/", "outbound.url"),
        ("https://app%2eexample/", "outbound.url"),
        ("https://[::1/", "outbound.url"),
        ("https://app.example:99999/", "outbound.url"),
        ("https://app.example:0/", "outbound.url"),
        ("https://app.example/\r\nX-Evil: 1", "outbound.url"),
        ("https://app.example\\@127.0.0.1/", "outbound.url"),
        ("https://ａpp.example/", "outbound.url"),
        ("https://app.example/" + "a" * 5000, "outbound.url"),
        ("https://app.example:22/", "outbound.port"),
        ("https://app.example:25/", "outbound.port"),
        ("http://app.example/", "outbound.plain_http"),
        ("http://127.0.0.1:8181/", "outbound.plain_http"),
    ],
)
def test_a_url_that_could_lead_elsewhere_is_refused(url: str, rule: str) -> None:
    with pytest.raises(OutboundRefused) as refused:
        OutboundPolicy("").check_url(url)

    assert refused.value.rule == rule


def test_plain_http_is_let_through_to_named_loopback_only() -> None:
    policy = OutboundPolicy("127.0.0.1:8181, localhost:9001,[::1]:9002,10.0.0.5:8080,inside.example:8080")

    policy.check_url("http://127.0.0.1:8181/v2")
    policy.check_url("http://localhost:9001/logout")
    policy.check_url("http://[::1]:9002/")
    policy.check_url("https://10.0.0.5:8080/")
    for refused in ("http://127.0.0.1:8182/", "http://10.0.0.5:8080/", "http://inside.example:8080/"):
        with pytest.raises(OutboundRefused):
            policy.check_url(refused)


def test_a_named_host_may_be_inside_but_never_where_metadata_services_live() -> None:
    policy = OutboundPolicy("scim.corp.example:443")

    policy.check_address("scim.corp.example", 443, "10.1.2.3")
    for address in ("169.254.169.254", "fe80::1", "::", "224.0.0.1", "::ffff:169.254.169.254"):
        with pytest.raises(OutboundRefused):
            policy.check_address("scim.corp.example", 443, address)
    with pytest.raises(OutboundRefused):
        policy.check_address("scim.corp.example", 8443, "10.1.2.3")


def test_localhost_must_be_this_machine_even_when_named() -> None:
    policy = OutboundPolicy("localhost:9001")

    policy.check_address("localhost", 9001, "::1")
    with pytest.raises(OutboundRefused):
        policy.check_address("localhost", 9001, "10.0.0.1")


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.1:x", "http://a:1", "a:1/path", "u@a:1"])
def test_an_entry_of_the_allow_list_without_host_and_port_is_refused(entry: str) -> None:
    with pytest.raises(Invalid) as invalid:
        OutboundPolicy(entry)

    assert invalid.value.field == "outbound_allow"


def test_a_place_that_was_let_through_opens_no_other_url() -> None:
    policy = OutboundPolicy("127.0.0.1:8181")
    good = policy.check_url("http://127.0.0.1:8181/v2/Users?filter=a")
    assert policy.check_url("http://127.0.0.1:8181/v2/Groups") == good
    for url in (
        "http://127.0.0.1:8181/v2 /Users",
        "http://127.0.0.1:8181/v2\\Users",
        "http://127.0.0.1:8181/" + "a" * 5_000,
        "http://127.0.0.1:8182/v2",
        "http://user@127.0.0.1:8181/v2",
        "http://127.0.0.1:8181@198.51.100.7/v2",
        "http://127.0.0.1:8181.evil.example/v2",
    ):
        with pytest.raises(OutboundRefused):
            policy.check_url(url)
