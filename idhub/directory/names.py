"""One normal form of what people type to name themselves, shared by whoever stores it and whoever looks it up."""

import re
import unicodedata
from typing import Literal

LoginNameKind = Literal["employee_number", "email", "mobile"]
_TELEPHONE = re.compile(r"\+?[0-9][0-9 ()-]{3,30}")
_HOME_PREFIX = "+86"
_BETWEEN_DIGITS = str.maketrans("", "", " ()-")


LONGEST = 400
"""No name of a person, organization or department that is looked up is longer."""


def may_name(text: str) -> bool:
    """Whether a database could hold `text` as a name: not over-long, no NUL (PostgreSQL), no lone surrogate."""
    return len(text) <= LONGEST and "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def _folded(text: str) -> str:
    if text.isascii():
        return text.strip().lower()
    return unicodedata.normalize("NFKC", text).strip().casefold()


def _digits(folded: str) -> str:
    plain = folded.removeprefix(_HOME_PREFIX)
    # As most are written.
    return plain if plain.isdigit() else folded.translate(_BETWEEN_DIGITS).removeprefix(_HOME_PREFIX)


def stored_login_name(kind: LoginNameKind, value: str) -> str:
    """The form in which a name is stored: NFKC, case-folded; of a mobile number the digits alone, home prefix cut."""
    folded = value.strip().lower() if value.isascii() else _folded(value)
    return _digits(folded) if kind == "mobile" else folded


def login_name_candidates(text: str) -> tuple[str, ...]:
    """The stored forms that `text` may mean: as it is, and as a telephone number when it looks like one."""
    folded = _folded(text)
    if _TELEPHONE.fullmatch(folded):
        return tuple(dict.fromkeys((folded, _digits(folded))))
    return (folded,)
