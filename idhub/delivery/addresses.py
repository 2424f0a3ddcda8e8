"""Where the hub may connect to: the rules behind the SSRF guard. Pure; the guarded client is `idhub.delivery.http`.

Public addresses by https are allowed. Anything else only when `settings.outbound_allow` names its `host:port`; plain
http in addition only when that host is this machine itself.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from idhub.errors import Invalid

_NEVER_IN_A_URL = re.compile(r'[\x00-\x20\\"<>^`{|}\x7f]')
# Scheme and authority: all of a URL that the rules look at, beside its characters and its length.
_ORIGIN = re.compile(r"[a-z]+://[^/?#]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LOWEST_UNPRIVILEGED_PORT = 1024
_MAX_URL = 4096
_MOST_REMEMBERED = 4_096
# Special purposes that older Pythons count as global: IANA special-purpose address registries.
_SPECIAL = tuple(
    ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "2001::/23", "100::/64", "3fff::/20", "5f00::/16")
)
# Addresses that carry an IPv4 address inside: RFC 6052 section 2.1, RFC 8215.
_TRANSLATED = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
# Deprecated, yet routed to whatever a site made of them: RFC 4291 section 2.5.5.1.
_V4_COMPATIBLE = ip_network("::/96")


class OutboundRefused(Invalid):
    """The hub does not connect there: scheme, port or address is not allowed. Trying again does not help."""

    def __init__(self, description: str, *, rule: str) -> None:
        super().__init__(description, field="url", rule=rule)


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL leads to, once it has passed the rules that need no name resolution."""

    scheme: str
    host: str
    port: int
    is_named: bool
    """`settings.outbound_allow` names this host and port."""

    @property
    def authority(self) -> str:
        """host:port, as it may be shown and logged."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class OutboundPolicy:
    """The rules, with the exceptions that the settings name.

    Raises:
        Invalid: an entry of `allow` is not `host:port`.
    """

    def __init__(self, allow: str) -> None:
        self._allowed: set[tuple[str, int, str]] = set()
        """What has passed the rules for addresses, which never change."""
        self._origins: dict[str, Target] = {}
        """What has passed the rules for URLs."""
        self._named = frozenset(_parse_entry(entry) for entry in allow.split(",") if entry.strip())

    def check_url(self, url: str) -> Target:
        """Apply every rule that needs no name resolution. For whoever stores a URL, and before each request.

        Raises:
            OutboundRefused: the URL is malformed or leads where the hub does not connect.
        """
        if len(url) > _MAX_URL or not url.isascii() or _NEVER_IN_A_URL.search(url):
            raise OutboundRefused("The URL is too long or has characters that a URL cannot have.", rule="outbound.url")
        origin = _ORIGIN.match(url)
        known = self._origins.get(origin[0]) if origin else None
        if known is not None:
            return known
        target = self._checked(url)
        if origin:
            if len(self._origins) >= _MOST_REMEMBERED:
                self._origins.clear()
            self._origins[origin[0]] = target
        return target

    def _checked(self, url: str) -> Target:
        target = self._parse(url)
        if target.scheme == "http" and not (target.is_named and _is_this_machine(target.host)):
            raise OutboundRefused(
                f"Plain http to {target.authority} is refused; use https.", rule="outbound.plain_http"
            )
        if target.port != 443 and target.port < _LOWEST_UNPRIVILEGED_PORT and not target.is_named:
            raise OutboundRefused(f"Port {target.port} is refused; use 443 or one above 1023.", rule="outbound.port")
        literal = _literal(target.host)
        if literal is not None:
            self.check_address(target.host, target.port, str(literal))
        return target

    def check_address(self, host: str, port: int, address: str) -> None:
        """Apply the rules to one address that `host` resolved to, right before connecting to exactly that address.

        A name in the allow-list opens private and loopback addresses, not link-local ones: metadata services of
        clouds live there, and are reached only when the list names the address itself.

        Raises:
            OutboundRefused: the hub does not connect there.
        """
        if (host, port, address) in self._allowed:
            return
        self._check_address(host, port, address)
        if len(self._allowed) >= _MOST_REMEMBERED:
            self._allowed.clear()
        self._allowed.add((host, port, address))

    def _check_address(self, host: str, port: int, address: str) -> None:
        found = ip_address(address.partition("%")[0])
        is_named = (host, port) in self._named
        if _is_this_machine(host) and not _plain(found).is_loopback:
            raise OutboundRefused(f"{host} does not lead to this machine.", rule="outbound.address")
        if is_named and (_literal(host) is not None or not _is_never_by_name(found)):
            return
        if not _is_public(found):
            raise OutboundRefused(
                f"{host} leads to an address inside; outbound_allow does not name {host}:{port}.",
                rule="outbound.address",
            )

    def _parse(self, url: str) -> Target:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise OutboundRefused("The URL is malformed.", rule="outbound.url") from error
        if parts.scheme not in _DEFAULT_PORTS:
            raise OutboundRefused("Only https is called.", rule="outbound.scheme")
        host = (parts.hostname or "").removesuffix(".")
        if not host or "@" in parts.netloc or "%" in parts.netloc or port == 0:
            raise OutboundRefused("The URL must name a host, and no user.", rule="outbound.url")
        effective = port or _DEFAULT_PORTS[parts.scheme]
        return Target(parts.scheme, host, effective, (host, effective) in self._named)


def _parse_entry(entry: str) -> tuple[str, int]:
    try:
        parts = urlsplit("//" + entry.strip())
        port = parts.port
    except ValueError as error:
        raise Invalid(
            f"{entry.strip()!r} in outbound_allow is not host:port.", field="outbound_allow", rule="settings.invalid"
        ) from error
    if not parts.hostname or port is None or parts.path or "@" in parts.netloc:
        raise Invalid(
            f"{entry.strip()!r} in outbound_allow is not host:port.", field="outbound_allow", rule="settings.invalid"
        )
    return parts.hostname, port


# Pure, and asked several times for each of thousands of requests to few hosts.
@lru_cache(maxsize=4_096)
def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


@lru_cache(maxsize=4_096)
def _is_this_machine(host: str) -> bool:
    literal = _literal(host)
    if literal is not None:
        return literal.is_loopback
    # RFC 6761 section 6.3.
    return host == "localhost" or host.endswith(".localhost")


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address inside an IPv4-mapped one."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _is_never_by_name(address: IPv4Address | IPv6Address) -> bool:
    plain = _plain(address)
    if plain.is_loopback:
        return False
    return plain.is_link_local or plain.is_multicast or plain.is_unspecified or plain.is_reserved


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    plain = _plain(address)
    if isinstance(plain, IPv6Address):
        if plain.sixtofour is not None or plain.teredo is not None or plain.is_site_local or plain in _V4_COMPATIBLE:
            return False
        if any(plain in network for network in _TRANSLATED):
            return False
    if any(plain in network for network in _SPECIAL if network.version == plain.version):
        return False
    return plain.is_global and not (plain.is_multicast or plain.is_reserved or plain.is_unspecified)
