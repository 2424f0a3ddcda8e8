"""Authorization requests: an ordered table of checks, then the next step of a sign-in. No database, no framework.

Before client and redirect URI are verified an error is shown (`ShownError`); afterwards it goes back to the client
(`OAuthError`), with `state` and `iss` (RFC 9207).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Literal
from urllib.parse import quote_plus

from idhub.gateway import ShownError
from idhub.login import flow
from idhub.login.contexts import OWN_SIGN_INS, ContextRequest
from idhub.login.flow import SessionFacts, TransactionFacts
from idhub.oidc.claims import SCOPES
from idhub.oidc.clients import Client
from idhub.oidc.errors import OAuthError, invalid_request
from idhub.oidc.parameters import Parameters, scope_values
from idhub.oidc.tokens import TokenReader

_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_PROMPTS: Final = frozenset({"none", "login", "consent", "select_account"})
# RFC 8252 section 7.3: loopback by IP literal; the port is the system's choice at run time.
_LOOPBACK: Final = re.compile(r"http://(127\.0\.0\.1|\[::1\])(?::([0-9]{1,5}))?(/[^\x00-\x20\\#]*)?")
_UNSUPPORTED: Final = {
    "request": "request_not_supported",
    "request_uri": "request_uri_not_supported",
    "registration": "registration_not_supported",
}


@dataclass(slots=True)
class AuthorizationRequest:
    """A request as far as it has been checked; complete when `validate` returns it."""

    client: Client
    redirect_uri: str
    state: str | None = None
    scope: str = ""
    nonce: str | None = None
    code_challenge: str = ""
    prompts: frozenset[str] = frozenset()
    max_age: timedelta | None = None
    context: ContextRequest | None = None
    login_hint: str | None = None
    hinted_sub: str | None = None
    raw: dict[str, str] = field(default_factory=dict)
    """The parameters as they came; what is stored, and checked again, when the sign-in resumes."""


def verify_destination(parameters: Parameters, client: Client | None) -> AuthorizationRequest:
    """Verify client and redirect URI: from here on errors may be redirected.

    Raises:
        ShownError: they cannot be trusted; nothing is redirected (RFC 6749 section 4.1.2.1).
    """
    if client is None or not client.is_enabled:
        raise ShownError("unknown_client")
    if "authorization_code" not in client.grant_types:
        raise ShownError("unknown_client")
    if "redirect_uri" in parameters.faults or "redirect_uri" not in parameters.values:
        raise ShownError("invalid_redirect_uri")
    redirect_uri = parameters.values["redirect_uri"]
    if not redirect_matches(client, redirect_uri):
        raise ShownError("invalid_redirect_uri")
    # state goes back as it came, or not at all.
    return AuthorizationRequest(client, redirect_uri, state=parameters.values.get("state"), raw=dict(parameters.values))


def redirect_matches(client: Client, redirect_uri: str) -> bool:
    """Exact comparison of texts; nothing is parsed or normalized (RFC 9700 section 2.1).

    Only for an installed application may the port of a loopback address differ (RFC 8252 section 7.3).
    """
    if redirect_uri in client.redirect_uris:
        return True
    if not client.is_native:
        return False
    given = _LOOPBACK.fullmatch(redirect_uri)
    if given is None or (given[2] is not None and not 0 < int(given[2]) <= 65_535):
        return False
    for registered in client.redirect_uris:
        known = _LOOPBACK.fullmatch(registered)
        if known is not None and (known[1], known[3]) == (given[1], given[3]):
            return True
    return False


def validate(draft: AuthorizationRequest, parameters: Parameters, reader: TokenReader) -> AuthorizationRequest:
    """Run the table of checks over a request whose destination is verified.

    Raises:
        OAuthError: to be redirected to the client.
    """
    for check in _CHECKS:
        check(draft, parameters)
    _check_id_token_hint(draft, parameters, reader)
    return draft


def _check_faults(draft: AuthorizationRequest, parameters: Parameters) -> None:
    # RFC 6749 section 3.1: parameters must not be included more than once.
    parameters.check()


def _check_unsupported(draft: AuthorizationRequest, parameters: Parameters) -> None:
    # OIDC Core sections 6.1, 6.2, 7.2.1.
    for name, error in _UNSUPPORTED.items():
        if name in parameters.values:
            raise OAuthError(error, f"{name} is not supported.")
    if "claims" in parameters.values:
        raise invalid_request("claims is not supported; use scope.", reason="parameter.claims")


def _check_response_type(draft: AuthorizationRequest, parameters: Parameters) -> None:
    if parameters.require("response_type") != "code":
        raise OAuthError("unsupported_response_type", "response_type must be code.")


def _check_response_mode(draft: AuthorizationRequest, parameters: Parameters) -> None:
    if parameters.get("response_mode") not in {None, "query"}:
        raise invalid_request("response_mode must be query.", reason="parameter.response_mode")


def _check_scope(draft: AuthorizationRequest, parameters: Parameters) -> None:
    # OIDC Core section 3.1.2.1: values that are not understood are ignored; one that is not this client's is refused.
    wanted = scope_values(parameters.get("scope") or "")
    refused = [value for value in wanted if value in SCOPES and value not in draft.client.scopes]
    if refused:
        raise OAuthError("invalid_scope", f"This client may not ask for {refused[0]}.", reason="not_registered")
    draft.scope = permitted_scope(draft.client, wanted)
    if not draft.scope:
        raise OAuthError("invalid_scope", "scope names nothing that this client may ask for.", reason="empty")


def permitted_scope(client: Client, wanted: Iterable[str]) -> str:
    """What of the wanted scope this client may have, in the order asked for."""
    return " ".join(value for value in wanted if value in client.scopes)


def _check_pkce(draft: AuthorizationRequest, parameters: Parameters) -> None:
    # RFC 9700 section 2.1.1: for every client; RFC 7636 section 4.2: S256 only, plain protects from nobody.
    challenge = parameters.get("code_challenge")
    if challenge is None:
        raise invalid_request("code_challenge is missing: PKCE is required.", reason="parameter.code_challenge")
    if parameters.get("code_challenge_method") != "S256":
        raise invalid_request("code_challenge_method must be S256.", reason="parameter.code_challenge_method")
    if not _CHALLENGE.fullmatch(challenge):
        raise invalid_request("code_challenge must be 43 base64url characters.", reason="parameter.code_challenge")
    draft.code_challenge = challenge


def _check_nonce(draft: AuthorizationRequest, parameters: Parameters) -> None:
    draft.nonce = parameters.get("nonce")


def _check_prompt(draft: AuthorizationRequest, parameters: Parameters) -> None:
    prompts = frozenset((parameters.get("prompt") or "").split(" ")) - {""}
    if not prompts <= _PROMPTS:
        raise invalid_request("prompt has an unknown value.", reason="parameter.prompt")
    # OIDC Core section 3.1.2.1: none excludes the others.
    if "none" in prompts and len(prompts) > 1:
        raise invalid_request("prompt none cannot be combined.", reason="parameter.prompt")
    draft.prompts = prompts


def _check_max_age(draft: AuthorizationRequest, parameters: Parameters) -> None:
    value = parameters.get("max_age")
    if value is None:
        return
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise invalid_request("max_age must be a number of seconds.", reason="parameter.max_age")
    draft.max_age = timedelta(seconds=int(value))


def _check_acr_values(draft: AuthorizationRequest, parameters: Parameters) -> None:
    # OIDC Core section 3.1.2.1: a wish, in order of preference; what no sign-in gives is no reason to ask for one.
    values = tuple(one for one in (parameters.get("acr_values") or "").split(" ") if one)
    wanted = ContextRequest(values, is_essential=False)
    if wanted.is_within_reach(OWN_SIGN_INS):
        draft.context = wanted


def _check_login_hint(draft: AuthorizationRequest, parameters: Parameters) -> None:
    draft.login_hint = parameters.get("login_hint")


def _check_id_token_hint(draft: AuthorizationRequest, parameters: Parameters, reader: TokenReader) -> None:
    unverified_hint = parameters.get("id_token_hint")
    if unverified_hint is None:
        return
    claims = reader.id_token_hint(unverified_hint)
    # A hint that was issued to another client says nothing about this one's person.
    if claims is None or claims["aud"] != draft.client.client_id:
        raise invalid_request("id_token_hint is not an ID token of this client.", reason="parameter.id_token_hint")
    draft.hinted_sub = str(claims["sub"])


_CHECKS: Final[tuple[Callable[[AuthorizationRequest, Parameters], None], ...]] = (
    _check_faults,
    _check_unsupported,
    _check_response_type,
    _check_response_mode,
    _check_scope,
    _check_pkce,
    _check_nonce,
    _check_prompt,
    _check_max_age,
    _check_acr_values,
    _check_login_hint,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known of the browser and the person when the next step is chosen.

    Args:
        session: of the signed-in person, None when nobody is.
        transaction: what has happened in this sign-in so far.
        hinted_principal_id: whom `id_token_hint` names; None: there is no hint; empty: nobody any more.
        remembered_scope: scopes that the person allowed this client before.
    """

    session: SessionFacts | None = None
    transaction: TransactionFacts = field(default_factory=TransactionFacts)
    is_entitled: bool = False
    hinted_principal_id: str | None = None
    remembered_scope: frozenset[str] = frozenset()


Page = Literal["login", "no_entry", "consent", "issue"]
NOT_ENTITLED: Final = "not_entitled"
_PAGES: Final[Mapping[flow.Step, Page]] = {
    flow.Step.SIGN_IN: "login",
    flow.Step.CONSENT: "consent",
    flow.Step.RESUME: "issue",
}


def next_page(request: AuthorizationRequest, situation: Situation, *, now: datetime) -> Page:
    """What comes next for this request, as `login.flow` decides: signing in, a page that helps, asking, or a code.

    Raises:
        OAuthError: login_required, consent_required, access_denied: to be redirected to the client.
    """
    decision = flow.next_step(
        situation.transaction,
        situation.session,
        flow.Requirements(
            prompt=request.prompts,
            max_age=request.max_age,
            context=request.context,
            principal_id=situation.hinted_principal_id,
            needs_consent=_needs_consent(request, situation),
            is_entitled=situation.is_entitled,
        ),
        now=now,
    )
    if decision.step is not flow.Step.REFUSE:
        return _PAGES[decision.step]
    if decision.reason is flow.Refusal.ACCESS_DENIED and not situation.is_entitled:
        if "none" in request.prompts:
            raise no_entry()
        return "no_entry"
    raise _refusal(decision, situation)


def _refusal(decision: flow.Decision, situation: Situation) -> OAuthError:
    if decision.reason is flow.Refusal.ACCESS_DENIED:
        return OAuthError("access_denied", "The person did not allow it.", reason="consent_denied")
    if decision.reason is flow.Refusal.CONSENT_REQUIRED:
        return OAuthError("consent_required", "The person must allow it.")
    session, hinted = situation.session, situation.hinted_principal_id
    if session is not None and hinted not in {None, session.principal_id}:
        # OIDC Core section 3.1.2.1: never the tokens of whoever happens to be signed in.
        return OAuthError("login_required", "Another person is signed in than id_token_hint names.", reason="hint")
    return OAuthError("login_required", "The person must sign in.")


def no_entry() -> OAuthError:
    """What the client hears of a person without entitlement, only where it forbade pages."""
    return OAuthError("access_denied", "The person may not use this application.", reason=NOT_ENTITLED)


def _needs_consent(request: AuthorizationRequest, situation: Situation) -> bool:
    # Whoever knows a public client's id can speak for it: the person is asked each time.
    if request.client.is_public:
        return True
    return request.client.requires_consent and not set(request.scope.split()) <= situation.remembered_scope


def response_url(redirect_uri: str, issuer: str, state: str | None, **values: Any) -> str:
    """Where the browser goes with the answer; `iss` in every one, errors too (RFC 9207 section 2)."""
    fields = [*(f"{name}={_encoded(str(value))}" for name, value in values.items()), f"iss={_encoded_issuer(issuer)}"]
    if state is not None:
        fields.append(f"state={_encoded(state)}")
    # A registered URI may have a query of its own, which stays (RFC 6749 section 3.1.2).
    return redirect_uri + ("&" if "?" in redirect_uri else "?") + "&".join(fields)


def _encoded(text: str) -> str:
    return text if _UNRESERVED.fullmatch(text) else quote_plus(text)


# The same in every answer.
_encoded_issuer = lru_cache(maxsize=4)(quote_plus)
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9_.~-]*")


def error_url(draft: AuthorizationRequest, issuer: str, error: OAuthError) -> str:
    """Where the browser goes with a refusal."""
    return response_url(draft.redirect_uri, issuer, draft.state, error=error.error, error_description=error.description)
