"""Parameters of a request: those that the protocol knows, each once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

MAX_QUERY: Final = 8_192
_MAX_FIELDS: Final = 50
# CAS 2.1.1: whatever its value, it is set when it is there. Clients write all of these for "no".
_UNSET: Final = frozenset({"", "false", "0", "no"})
_KNOWN: Final = frozenset({"service", "renew", "gateway", "method", "ticket", "pgturl", "format", "target"})


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a query said.

    Args:
        is_sound: it could be read, and names nothing twice that the protocol knows.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    is_sound: bool = True

    def get(self, name: str) -> str | None:
        """The value; None: not given, or empty."""
        return self.values.get(name.lower()) or None

    def is_set(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.values.get(name.lower(), "").lower() not in _UNSET


def read_query(query: bytes) -> Parameters:
    """The parameters of an address. What the protocol does not know is passed over (CAS 2.1.1)."""
    if len(query) > MAX_QUERY:
        return Parameters(is_sound=False)
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        return Parameters(is_sound=False)
    known = [(name.lower(), value) for name, value in pairs if name.lower() in _KNOWN]
    values = dict(known)
    return Parameters(values, len(values) == len(known))
