"""Reading parameters: strictly, within bounds, each at most once. One reader for query strings and form bodies.

RFC 6749 section 3.1: parameters without a value count as omitted; parameters must not be repeated. What cannot be read
(bytes that are not UTF-8, control characters, over-long values) is a fault of that parameter and is named.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from idhub.oidc.errors import OAuthError, invalid_request

MAX_BODY: Final = 65_536
MAX_QUERY: Final = 32_768
_MAX_PARAMETERS: Final = 60
_DEFAULT_LENGTH: Final = 2_048
_LENGTHS: Final[Mapping[str, int]] = {
    "client_id": 100,
    "client_secret": 512,
    "code": 200,
    "refresh_token": 200,
    "token": 8_192,
    "access_token": 8_192,
    "id_token_hint": 8_192,
    "state": 4_096,
    "nonce": 512,
    "scope": 1_000,
    "code_verifier": 128,
    "code_challenge": 128,
    "claims": 8_192,
    "request": 16_384,
    "login_hint": 254,
    "logout_hint": 254,
    "max_age": 10,
    # As long as any of `credentials.transactions`.
    "transaction": 2_100,
    # What nearly every request has; no name of these is looked at letter by letter.
    "grant_type": _DEFAULT_LENGTH,
    "redirect_uri": _DEFAULT_LENGTH,
    "response_type": _DEFAULT_LENGTH,
    "code_challenge_method": _DEFAULT_LENGTH,
}
_NAMES: Final[Mapping[bytes, str]] = {name.encode(): name for name in _LENGTHS}
# C0, DEL, C1, surrogates; what a log line or a header must not carry.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NAME: Final = re.compile(r"[A-Za-z0-9_.:~-]{1,100}")


@dataclass(slots=True)
class Parameters:
    """What was sent, and what was wrong with it. Faults are raised in the order in which a protocol looks."""

    values: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    """Name -> sentence."""

    def get(self, name: str) -> str | None:
        """The value, None when omitted.

        Raises:
            OAuthError: invalid_request: the parameter is repeated, too long or unreadable.
        """
        if name in self.faults:
            raise invalid_request(self.faults[name], reason=f"parameter.{name}")
        return self.values.get(name)

    def require(self, name: str) -> str:
        """The value.

        Raises:
            OAuthError: invalid_request: missing, repeated, too long or unreadable.
        """
        value = self.get(name)
        if value is None:
            raise invalid_request(f"{name} is missing.", reason=f"parameter.{name}")
        return value

    def check(self) -> None:
        """Refuse if any parameter at all is faulty, known to us or not.

        Raises:
            OAuthError: invalid_request naming the first one.
        """
        for name in self.faults:
            self.get(name)


def parse(raw: bytes) -> Parameters:
    """Read `application/x-www-form-urlencoded` bytes. Never fails: faults are kept per parameter.

    Raises:
        OAuthError: invalid_request: more parameters than any request has.
    """
    parameters = Parameters()
    seen: set[str] = set()
    pairs = [pair for pair in raw.split(b"&") if pair]
    if len(pairs) > _MAX_PARAMETERS:
        raise invalid_request("There are too many parameters.", reason="parameters.many")
    for pair in pairs:
        raw_name, _, raw_value = pair.partition(b"=")
        name = _NAMES.get(raw_name) or _decode(raw_name) or ""
        if name not in _LENGTHS and not _NAME.fullmatch(name):
            parameters.faults["A parameter name"] = "A parameter name is not readable."
            continue
        if name in seen:
            parameters.faults[name] = f"{name} is given more than once."
            continue
        seen.add(name)
        value = _decode(raw_value)
        if value is None or not (value.isprintable() or _CONTROL.search(value) is None):
            parameters.faults[name] = f"{name} contains characters that are not allowed."
        elif len(value) > _LENGTHS.get(name, _DEFAULT_LENGTH):
            parameters.faults[name] = f"{name} is too long."
        elif value:
            parameters.values[name] = value
    return parameters


def _decode(raw: bytes) -> str | None:
    """Percent-decoded UTF-8; None when it is not."""
    try:
        if b"%" not in raw and b"+" not in raw:
            return raw.decode()
        # "+" stands for a blank in this media type (URL Standard, section 5.1).
        return unquote_to_bytes(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        return None


def scope_values(text: str) -> list[str]:
    """Scope values in the order given, each once.

    Raises:
        OAuthError: invalid_scope: characters outside RFC 6749 section 3.3.
    """
    values = list(dict.fromkeys(text.split(" ")))
    values = [value for value in values if value]
    if any(not _SCOPE.fullmatch(value) for value in values):
        raise OAuthError("invalid_scope", "scope contains characters that are not allowed.", reason="form")
    return values


_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
