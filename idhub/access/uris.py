"""Rules for addresses of applications: what may be registered, and what a request may name."""

import re
from ipaddress import IPv4Address, ip_address
from urllib.parse import SplitResult, urlsplit

from idhub.errors import Invalid

MAX_URI = 2_000
_FORBIDDEN_SCHEMES = frozenset({"javascript", "data", "vbscript", "file", "about", "blob", "ftp", "ws", "wss"})
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_CUSTOM_SCHEME_DOTS = 1
# What `urlsplit` drops in silence (`[::1]x:9`) or browsers decode (`app%2etest`) must not be read in two ways.
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[1-9][0-9]*)?")
# RFC 3986 section 2. What browsers encode or drop by themselves (`"`, `<`, `{`, a lone %) would have two readings.
_CHARACTERS = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
# URL Standard, "ends in a number": browsers read `2130706433`, `127.1` and `0x7f.1` as IPv4 addresses.
_NUMBER = re.compile(r"(?:[0-9]+|0[xX][0-9A-Fa-f]*)")


def check_web_uri(value: str, *, field: str) -> str:
    """An https address, or http on loopback; no credentials, fragment, wildcard, backslash or dot segments.

    Raises:
        Invalid: it breaks one of these; the sentence says which.
    """
    _check_characters(value, field=field)
    parts = _split(value, field=field)
    if parts.scheme not in {"http", "https"}:
        raise Invalid(f"{field} must begin with https://.", field=field, rule="uri.scheme")
    host = parts.hostname
    if not host:
        raise Invalid(f"{field} names no host.", field=field, rule="uri.host")
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise Invalid(f"{field} must carry no user name or password.", field=field, rule="uri.userinfo")
    if not _AUTHORITY.fullmatch(parts.netloc):
        raise Invalid(f"{field} has a host that cannot be one.", field=field, rule="uri.host")
    if host.endswith(".") or ".." in host:
        raise Invalid(f"{field} has a host with an empty part.", field=field, rule="uri.host")
    if _NUMBER.fullmatch(host.rpartition(".")[2]) and not _is_ipv4(host):
        raise Invalid(f"{field} has a host that browsers read as another.", field=field, rule="uri.host")
    if parts.scheme == "http" and not is_loopback(host):
        raise Invalid(f"{field} must be https; plain http is for loopback only.", field=field, rule="uri.http")
    _check_path(parts.path, field=field)
    return value


def check_redirect_uri(value: str, *, field: str, is_native: bool = False) -> str:
    """A redirect URI that may be registered: a web address, or of installed applications a private scheme.

    RFC 6749 section 3.1.2; RFC 8252 section 7.1; RFC 9700 section 2.1.

    Raises:
        Invalid: it may not.
    """
    _check_characters(value, field=field)
    parts = _split(value, field=field)
    if parts.scheme in {"http", "https"}:
        return check_web_uri(value, field=field)
    if not is_native or parts.scheme in _FORBIDDEN_SCHEMES or parts.scheme.count(".") < _CUSTOM_SCHEME_DOTS:
        raise Invalid(
            f"{field} must be https; installed applications may use a scheme of their own with a dot in it.",
            field=field,
            rule="uri.scheme",
        )
    if "@" in parts.netloc:
        raise Invalid(f"{field} must carry no user name or password.", field=field, rule="uri.userinfo")
    _check_path(parts.path, field=field)
    return value


def is_loopback(host: str) -> bool:
    """Whether the host is this machine."""
    if host in _LOOPBACK:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_ipv4(host: str) -> bool:
    try:
        return str(IPv4Address(host)) == host
    except ValueError:
        return False


def _check_characters(value: str, *, field: str) -> None:
    if not value or len(value) > MAX_URI:
        raise Invalid(f"{field} must have 1 to {MAX_URI} characters.", field=field, rule="uri.length")
    if not _CHARACTERS.fullmatch(value):
        raise Invalid(f"{field} has characters that no address has.", field=field, rule="uri.characters")
    if "*" in value:
        raise Invalid(f"{field} must not contain *; name each address.", field=field, rule="uri.wildcard")
    if "#" in value:
        raise Invalid(f"{field} must have no fragment.", field=field, rule="uri.fragment")


def _split(value: str, *, field: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise Invalid(f"{field} cannot be read as an address.", field=field, rule="uri.form") from error
    if port == 0:
        raise Invalid(f"{field} names port 0.", field=field, rule="uri.port")
    return parts


def _check_path(path: str, *, field: str) -> None:
    lowered = path.lower()
    segments = lowered.replace("%2f", "/").replace("%2e", ".").replace("%5c", "/").split("/")
    if any(segment.split(";")[0] in {".", ".."} for segment in segments):
        raise Invalid(f"{field} must have no dot segments.", field=field, rule="uri.dots")
