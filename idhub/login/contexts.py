"""How well a person proved who they are, and what a request asks of it. Pure: the one rule for every protocol.

RequestedAuthnContext of SAML and `acr_values` of OpenID Connect name classes; a session holds those that its methods
(`amr`) amount to. What is stated is always one that the session holds.

SAML Core 3.3.2.2.1; OIDC Core 3.1.2.1, 5.5.1.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from providers.saml_wire import names

UNSPECIFIED: Final = names.CONTEXT_UNSPECIFIED
PASSWORD: Final = names.PASSWORD
PASSWORD_PROTECTED: Final = names.PASSWORD_PROTECTED
MULTIFACTOR: Final = "http://schemas.microsoft.com/claims/multipleauthn"
"""What identity providers of companies call it; the hub's own sign-in has one factor."""
LADDER: Final = (UNSPECIFIED, PASSWORD, PASSWORD_PROTECTED, MULTIFACTOR)
"""Weakest first. Whoever names another class asks for what cannot be promised."""
Comparison = Literal["exact", "minimum", "maximum", "better"]
COMPARISONS: Final[frozenset[str]] = frozenset({"exact", "minimum", "maximum", "better"})

OWN_SIGN_INS: Final[Sequence[Sequence[str]]] = (("pwd",),)
"""Methods of the sign-ins that the hub offers by itself."""
OTHERS_SIGN_INS: Final[Sequence[Sequence[str]]] = (("fed",), ("fed", "pwd"), ("fed", "mfa"))
"""Methods that an identity provider may say were used."""


def held(amr: Sequence[str]) -> tuple[str, ...]:
    """The classes that hold of a session with these methods (RFC 8176), weakest first.

    A password of ours never travels without TLS: a plain http issuer is allowed on the machine itself alone.
    """
    found = [UNSPECIFIED]
    if "pwd" in amr:
        found += [PASSWORD, PASSWORD_PROTECTED]
    if "mfa" in amr:
        found.append(MULTIFACTOR)
    return tuple(found)


def achieved(amr: Sequence[str]) -> str:
    """The strongest class that holds of the session."""
    return held(amr)[-1]


@dataclass(frozen=True, slots=True)
class ContextRequest:
    """Classes that a request names, and how what is stated must compare with them.

    Args:
        is_essential: without it there is no answer; else it is asked for once and then goes on as it is.
    """

    classes: tuple[str, ...]
    comparison: Comparison = "exact"
    is_essential: bool = True

    def stated(self, amr: Sequence[str]) -> str | None:
        """The class to state of a session with these methods; None: none of them is what was asked for."""
        classes = held(amr)
        strongest = classes[-1]
        known = [LADDER.index(one) for one in self.classes if one in LADDER]
        if not known:
            return None
        if self.comparison == "exact":
            return next((one for one in reversed(classes) if one in self.classes), None)
        if self.comparison == "maximum":
            # Not more than was done may be hidden: the strongest itself must be within the limit.
            return strongest if LADDER.index(strongest) <= max(known) else None
        if self.comparison == "minimum":
            return strongest if LADDER.index(strongest) >= min(known) else None
        # Better than each of them, the unknown ones included.
        is_better = len(known) == len(self.classes) and LADDER.index(strongest) > max(known)
        return strongest if is_better else None

    def is_within_reach(self, sign_ins: Sequence[Sequence[str]]) -> bool:
        """Whether one of these sign-ins could give what was asked for: else it is useless to ask for one."""
        return any(self.stated(amr) is not None for amr in sign_ins)
