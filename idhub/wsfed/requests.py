"""Requests of relying parties: parameters read and checked in order. No database, no framework.

Until realm and reply address are verified, and afterwards too, what is wrong is shown to the person: the profile has no
answer that says no. Nothing of a request is signed; what it may do is therefore only what its browser's person may.

WS-Federation 13.2.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from idhub.gateway import ShownError
from idhub.login import contexts
from idhub.login.contexts import ContextRequest
from idhub.saml.errors import SamlError, responder
from idhub.saml.providers import ServiceProvider
from idhub.saml.requests import AuthnRequest
from providers.saml_wire import names, parsing
from providers.saml_wire.errors import WireError
from providers.saml_wire.metadata import MAX_ENTITY_ID

SIGN_IN: Final = "wsignin1.0"
SIGN_OUT: Final = frozenset({"wsignout1.0", "wsignoutcleanup1.0"})
MAX_FIELDS: Final = 30
"""Libraries add parameters of their own, which mean nothing here."""
_MAX_CONTEXT: Final = 8_192
_MAX_ADDRESS: Final = 2_048
_MAX_MINUTES: Final = 9
"""Digits of `wfresh`."""
# What carries a request of its own (a RequestSecurityToken, or where to fetch one) asks for more than is read here.
_UNREAD: Final = ("wreq", "wreqptr")
# Classes of SAML 1.1 by those that they amount to; the others go by the same names.
_CLASSES: Final[Mapping[str, str]] = {
    names.PASSWORD11: contexts.PASSWORD_PROTECTED,
    names.UNSPECIFIED11: contexts.UNSPECIFIED,
}

Find = Callable[[str], ServiceProvider | None]


def read_sign_in(
    fields: Mapping[str, str], find: Find, *, sign_ins: Sequence[Sequence[str]] = contexts.OWN_SIGN_INS
) -> AuthnRequest:
    """The wish to sign in: who asks, where the answer goes, then what is asked for.

    `wctx` is handed back as it came; `wct` says when the request was made, which proves nothing of a request that
    nobody signed, so it must be a time and no more; `whr` and other parameters are not looked at.

    Raises:
        ShownError: unknown realm, unregistered reply address, or a parameter that cannot be read.
    """
    realm = fields.get("wtrealm", "")
    provider = find(realm) if 0 < len(realm) <= MAX_ENTITY_ID and realm.isprintable() else None
    if provider is None:
        raise ShownError("unknown_service_provider", "wsfed.realm")
    reply = fields.get("wreply")
    consumer = provider.default_consumer() if reply is None else provider.consumer(reply)
    if consumer is None:
        raise ShownError("invalid_consumer", "wsfed.reply")
    context = fields.get("wctx")
    # A form cannot carry control characters unchanged (line ends become CR LF), and unchanged is what it must be.
    if context is not None and (len(context) > _MAX_CONTEXT or any(c < " " or c == "\x7f" for c in context)):
        raise ShownError("request_malformed", "wsfed.context")
    try:
        if "wct" in fields:
            parsing.read_instant(fields["wct"], "wct")
    except WireError as error:
        raise ShownError("request_malformed", "wsfed.time") from error
    if any(name in fields for name in _UNREAD):
        raise ShownError("request_malformed", "wsfed.request")
    fresh = fields.get("wfresh")
    if fresh is not None and not (fresh.isascii() and fresh.isdigit() and len(fresh) <= _MAX_MINUTES):
        raise ShownError("request_malformed", "wsfed.fresh")
    minutes = None if fresh is None else int(fresh)
    refusal: SamlError | None = None
    wauth, wanted = fields.get("wauth"), None
    if wauth is not None:
        wanted = ContextRequest((_CLASSES.get(wauth, wauth),))
        if not wanted.is_within_reach(sign_ins):
            refusal = responder(names.NO_AUTHN_CONTEXT, "wsfed.authentication")
    return AuthnRequest(
        id=None,
        provider=provider,
        consumer=consumer.location,
        relay_state=context,
        name_id_format=provider.name_id_format,
        context=wanted,
        is_forced=minutes == 0,
        max_age=timedelta(minutes=minutes) if minutes else None,
        refusal=refusal,
    )


def read_sign_out(fields: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Realm and address that a wish to sign out names, neither of them verified yet.

    Raises:
        ShownError: one of them can be none.
    """
    realm, reply = fields.get("wtrealm"), fields.get("wreply")
    if realm is not None and not (realm.isprintable() and len(realm) <= MAX_ENTITY_ID):
        raise ShownError("invalid_logout_request", "wsfed.realm")
    if reply is not None and not (reply.isprintable() and len(reply) <= _MAX_ADDRESS):
        raise ShownError("invalid_logout_request", "wsfed.reply")
    return realm, reply


def may_return(provider: ServiceProvider, reply: str) -> bool:
    """Whether a sign-out may end there: exactly at a reply address of the relying party, or at its home."""
    return provider.consumer(reply) is not None or reply == provider.home_url
