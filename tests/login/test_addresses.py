"""`idhub.login.addresses`: whose address a request has, behind whatever proxies."""

import pytest

from idhub.login.addresses import client_address, trusted_networks

TRUSTED = trusted_networks("10.0.0.0/8, 2001:db8:f::/48")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1, 10.2.3.4"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, garbage"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, "], "10.0.0.1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["127.0.0.1%lo"], "10.0.0.1"),
        ("10.0.0.1", ["' OR 1=1 --"], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("2001:db8:f::1", ["2001:DB8:9:0::5"], "2001:db8:9::5"),
        ("testclient", ["198.51.100.1"], "testclient"),
    ],
)
def test_only_trusted_proxies_are_believed_and_garbage_skips_nothing(
    peer: str, forwarded: list[str], address: str
) -> None:
    """T06, B07."""
    assert client_address(peer, forwarded, TRUSTED) == address


def test_without_trusted_proxies_nothing_forwarded_is_read() -> None:
    assert client_address("10.0.0.1", ["198.51.100.1"], ()) == "10.0.0.1"


def test_an_unreadable_list_of_proxies_is_an_error_not_an_empty_list() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/99"):
        trusted_networks("10.0.0.0/99")
