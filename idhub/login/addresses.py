"""Whose address a request has, behind whatever proxies, and what counts as one place."""

import ipaddress
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAX_FORWARDED = 20
_MAX_REMEMBERED = 100
_IPV6_SITE = 64


@cache
def trusted_networks(setting: str) -> tuple[Network, ...]:
    """The networks of `settings.trusted_proxies`.

    Raises:
        ValueError: an entry is no network; the hub must not start with a policy that it cannot read.
    """
    return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in setting.split(",") if part.strip())


def client_address(peer: str, forwarded_for: Iterable[str], trusted: Sequence[Network]) -> str:
    """The address that limits and logs go by.

    X-Forwarded-For is read from its end, and only as far as the one who wrote an entry is a trusted proxy. What cannot
    be read counts for the proxy that sent it: garbage never escapes a limit.
    """
    lines = tuple(forwarded_for)
    if len(peer) + sum(map(len, lines)) <= _MAX_REMEMBERED:
        return _remembered(peer, lines, tuple(trusted))
    return _resolved(peer, lines, trusted)


def _resolved(peer: str, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    address = _parse(peer)
    if address is None:
        return peer[:45]
    entries = [part for line in forwarded_for for part in line.split(",")][-_MAX_FORWARDED:]
    while entries and any(address in network for network in trusted):
        claimed = _parse(entries.pop())
        if claimed is None:
            break
        address = claimed
    return str(address)


_remembered = lru_cache(maxsize=2_048)(_resolved)
"""The same few proxies and places ask again and again; short texts only, so that nobody fills the memory."""


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        return parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed))
    return parsed


def site_of(address: str) -> str:
    """What counts as one place: an IPv4 address, or an IPv6 /64, which one household has to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _IPV6_SITE), strict=False))
    return str(parsed)
