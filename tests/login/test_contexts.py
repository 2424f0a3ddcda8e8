"""Classes of sign-ins: what a session holds, and what a request takes. SAML Core 3.3.2.2.1."""

import itertools
from typing import Any

import pytest

from idhub.login.contexts import (
    COMPARISONS,
    LADDER,
    MULTIFACTOR,
    OTHERS_SIGN_INS,
    OWN_SIGN_INS,
    PASSWORD,
    PASSWORD_PROTECTED,
    UNSPECIFIED,
    ContextRequest,
    achieved,
    held,
)

OWN, UNKNOWN, OTHERS_PASSWORD, FACTORS = ("pwd",), ("fed",), ("fed", "pwd"), ("fed", "mfa")
STRANGE = "urn:oasis:names:tc:SAML:2.0:ac:classes:TimeSyncToken"


@pytest.mark.parametrize(
    ("amr", "classes"),
    [
        ((), (UNSPECIFIED,)),
        (UNKNOWN, (UNSPECIFIED,)),
        (("fed", "wia"), (UNSPECIFIED,)),
        (OWN, (UNSPECIFIED, PASSWORD, PASSWORD_PROTECTED)),
        (OTHERS_PASSWORD, (UNSPECIFIED, PASSWORD, PASSWORD_PROTECTED)),
        (FACTORS, (UNSPECIFIED, MULTIFACTOR)),
    ],
)
def test_what_a_session_holds(amr: tuple[str, ...], classes: tuple[str, ...]) -> None:
    assert held(amr) == classes
    assert achieved(amr) == classes[-1]


@pytest.mark.parametrize(
    ("comparison", "classes", "stated"),
    [
        # stated: of a password of ours, of an identity provider that says nothing, of one that says several factors
        ("exact", [PASSWORD], (PASSWORD, None, None)),
        ("exact", [PASSWORD, PASSWORD_PROTECTED], (PASSWORD_PROTECTED, None, None)),
        ("exact", [UNSPECIFIED], (UNSPECIFIED, UNSPECIFIED, UNSPECIFIED)),
        ("exact", [MULTIFACTOR, PASSWORD], (PASSWORD, None, MULTIFACTOR)),
        ("exact", [STRANGE], (None, None, None)),
        ("exact", [STRANGE, PASSWORD], (PASSWORD, None, None)),
        ("minimum", [PASSWORD], (PASSWORD_PROTECTED, None, MULTIFACTOR)),
        ("minimum", [MULTIFACTOR], (None, None, MULTIFACTOR)),
        ("minimum", [STRANGE], (None, None, None)),
        ("maximum", [PASSWORD], (None, UNSPECIFIED, None)),
        ("maximum", [PASSWORD_PROTECTED], (PASSWORD_PROTECTED, UNSPECIFIED, None)),
        ("maximum", [MULTIFACTOR], (PASSWORD_PROTECTED, UNSPECIFIED, MULTIFACTOR)),
        ("better", [UNSPECIFIED], (PASSWORD_PROTECTED, None, MULTIFACTOR)),
        ("better", [PASSWORD_PROTECTED], (None, None, MULTIFACTOR)),
        ("better", [PASSWORD, STRANGE], (None, None, None)),
        ("better", [MULTIFACTOR], (None, None, None)),
        ("exact", [], (None, None, None)),
    ],
)
def test_what_is_stated(comparison: Any, classes: list[str], stated: tuple[str | None, ...]) -> None:
    wanted = ContextRequest(tuple(classes), comparison)
    assert tuple(wanted.stated(amr) for amr in (OWN, UNKNOWN, FACTORS)) == stated


def test_nothing_is_stated_that_does_not_hold() -> None:
    sign_ins = [*OWN_SIGN_INS, *OTHERS_SIGN_INS, ()]
    for comparison in COMPARISONS:
        for number in (1, 2, 3):
            for classes in itertools.permutations([*LADDER, STRANGE], number):
                wanted = ContextRequest(classes, comparison)  # type: ignore[arg-type]
                found = [wanted.stated(amr) for amr in sign_ins]
                for amr, one in zip(sign_ins, found, strict=True):
                    assert one is None or one in held(amr)
                assert wanted.is_within_reach(sign_ins) == any(one is not None for one in found)


def test_what_is_within_reach_depends_on_who_signs_people_in() -> None:
    factors = ContextRequest((MULTIFACTOR,))
    assert not factors.is_within_reach(OWN_SIGN_INS)
    assert factors.is_within_reach([*OWN_SIGN_INS, *OTHERS_SIGN_INS])
