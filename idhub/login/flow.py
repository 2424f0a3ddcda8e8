"""What comes next in a sign-in. Pure: facts in, decision out; no database, network or framework.

Every protocol asks here, so that there is one answer to "is this session good enough for this request".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from idhub.login.contexts import ContextRequest


class Step(StrEnum):
    """What the browser is shown next."""

    SIGN_IN = "sign_in"
    CONSENT = "consent"
    RESUME = "resume"
    """Nothing is missing: back to the protocol."""
    REFUSE = "refuse"


class Refusal(StrEnum):
    """Why it cannot go on; the values are OIDC Core 3.1.2.6, RFC 6749 section 4.1.2.1 and registered codes."""

    LOGIN_REQUIRED = "login_required"
    CONTEXT_UNMET = "unmet_authentication_requirements"
    """The person signed in for this request, and not as well as it asks."""
    CONSENT_REQUIRED = "consent_required"
    ACCESS_DENIED = "access_denied"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """A usable session: the use predicate held for it just now.

    Args:
        amr: methods of its sign-in (RFC 8176).
    """

    session_id: str
    principal_id: str
    authenticated_at: datetime
    amr: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionFacts:
    """What has happened in this sign-in so far.

    Args:
        session_id: the session that a sign-in within this transaction established; None: none happened yet.
        consent: what was answered on the consent page of this transaction.
    """

    session_id: str | None = None
    consent: Literal["allow", "deny"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What the request asks of the sign-in.

    Args:
        prompt: values of OIDC Core 3.1.2.1; empty: none given.
        max_age: longest time since the person proved who they are; None: any.
        principal_id: whom the request is about (`id_token_hint`); None: whoever signs in.
        context: how well the person must have proved who they are; None: any way.
        needs_consent: the client asks for scopes that this person has not allowed it yet.
        is_entitled: the person may enter the application. Unknown before there is a session: pass True.
    """

    prompt: frozenset[str] = frozenset()
    max_age: timedelta | None = None
    principal_id: str | None = None
    context: ContextRequest | None = None
    needs_consent: bool = False
    is_entitled: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step, with the reason of a refusal."""

    step: Step
    reason: Refusal | None = None


def next_step(
    transaction: TransactionFacts, session: SessionFacts | None, requirements: Requirements, *, now: datetime
) -> Decision:
    """Decide what comes next. OIDC Core 3.1.2.1 (prompt, max_age, acr_values), 3.1.2.3, 3.1.2.4; SAML Core 3.4.1.

    A sign-in that happened within this very transaction answers `prompt=login` and `max_age`; one from before does not,
    so that going back and forth neither loops nor skips the proof.
    """
    is_silent = "none" in requirements.prompt
    if session is None or not _is_good_enough(transaction, session, requirements, now=now):
        # OIDC Core 3.1.2.1: who was named did not sign in; asking the other person again would go round for ever.
        is_settled = session is not None and transaction.session_id == session.session_id
        if is_settled and session is not None and requirements.principal_id in {None, session.principal_id}:
            return Decision(Step.REFUSE, Refusal.CONTEXT_UNMET)
        if is_silent or is_settled:
            return Decision(Step.REFUSE, Refusal.LOGIN_REQUIRED)
        return Decision(Step.SIGN_IN)
    if not requirements.is_entitled:
        return Decision(Step.REFUSE, Refusal.ACCESS_DENIED)
    if transaction.consent == "deny":
        return Decision(Step.REFUSE, Refusal.ACCESS_DENIED)
    if transaction.consent is None and (requirements.needs_consent or "consent" in requirements.prompt):
        if is_silent:
            return Decision(Step.REFUSE, Refusal.CONSENT_REQUIRED)
        return Decision(Step.CONSENT)
    return Decision(Step.RESUME)


def _is_good_enough(
    transaction: TransactionFacts, session: SessionFacts, requirements: Requirements, *, now: datetime
) -> bool:
    if requirements.principal_id not in {None, session.principal_id}:
        return False
    is_settled = transaction.session_id == session.session_id
    if not _is_context_met(session, requirements, is_settled=is_settled):
        return False
    if is_settled:
        return True
    if requirements.prompt & {"login", "select_account"}:
        return False
    # Exactly max_age old is still good; a clock that went back is not.
    age = now - session.authenticated_at
    return requirements.max_age is None or timedelta(0) <= age <= requirements.max_age


def _is_context_met(session: SessionFacts, requirements: Requirements, *, is_settled: bool) -> bool:
    wanted = requirements.context
    if wanted is None or wanted.stated(session.amr) is not None:
        return True
    # Where it is a wish, asking once is enough, and asking is not allowed everywhere.
    return not wanted.is_essential and (is_settled or "none" in requirements.prompt)
