"""`idhub.login.flow`: one decision for every protocol."""

from datetime import UTC, datetime, timedelta

import pytest

from idhub.login.flow import Decision, Refusal, Requirements, SessionFacts, Step, TransactionFacts, next_step

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
SESSION = SessionFacts(session_id="ses_1", principal_id="per_1", authenticated_at=NOW - timedelta(minutes=10))
NOTHING_YET = TransactionFacts()


def decide(
    requirements: Requirements, *, session: SessionFacts | None = SESSION, transaction: TransactionFacts = NOTHING_YET
) -> Decision:
    return next_step(transaction, session, requirements, now=NOW)


def test_without_a_session_the_next_step_is_to_sign_in() -> None:
    assert decide(Requirements(), session=None) == Decision(Step.SIGN_IN)


def test_a_usable_session_resumes_without_another_proof() -> None:
    assert decide(Requirements()) == Decision(Step.RESUME)


def test_prompt_none_without_a_session_is_login_required() -> None:
    """OIDC Core 3.1.2.1."""
    refused = Decision(Step.REFUSE, Refusal.LOGIN_REQUIRED)
    assert decide(Requirements(prompt=frozenset({"none"})), session=None) == refused


def test_prompt_none_with_consent_missing_is_consent_required() -> None:
    requirements = Requirements(prompt=frozenset({"none"}), needs_consent=True)
    assert decide(requirements) == Decision(Step.REFUSE, Refusal.CONSENT_REQUIRED)


@pytest.mark.parametrize("prompt", ["login", "select_account"])
def test_prompt_login_is_not_answered_by_an_older_session(prompt: str) -> None:
    assert decide(Requirements(prompt=frozenset({prompt}))) == Decision(Step.SIGN_IN)


@pytest.mark.parametrize("prompt", ["login", "select_account"])
def test_prompt_login_is_answered_once_by_the_sign_in_of_this_transaction(prompt: str) -> None:
    established = TransactionFacts(session_id="ses_1")
    assert decide(Requirements(prompt=frozenset({prompt})), transaction=established) == Decision(Step.RESUME)


def test_a_sign_in_of_another_session_does_not_answer_prompt_login() -> None:
    established = TransactionFacts(session_id="ses_other")
    assert decide(Requirements(prompt=frozenset({"login"})), transaction=established) == Decision(Step.SIGN_IN)


@pytest.mark.parametrize(("max_age", "step"), [(600, Step.RESUME), (599, Step.SIGN_IN), (0, Step.SIGN_IN)])
def test_max_age_is_honoured_to_the_second(max_age: int, step: Step) -> None:
    """OIDC Core 3.1.2.1; ASVS 7.6.1."""
    assert decide(Requirements(max_age=timedelta(seconds=max_age))) == Decision(step)


def test_max_age_zero_is_answered_by_the_sign_in_of_this_transaction() -> None:
    established = TransactionFacts(session_id="ses_1")
    assert decide(Requirements(max_age=timedelta(0)), transaction=established) == Decision(Step.RESUME)


def test_a_session_from_the_future_is_no_proof_of_age() -> None:
    session = SessionFacts(session_id="ses_1", principal_id="per_1", authenticated_at=NOW + timedelta(seconds=1))
    assert decide(Requirements(max_age=timedelta(hours=1)), session=session) == Decision(Step.SIGN_IN)


def test_prompt_none_with_an_old_session_is_login_required() -> None:
    requirements = Requirements(prompt=frozenset({"none"}), max_age=timedelta(seconds=1))
    assert decide(requirements) == Decision(Step.REFUSE, Refusal.LOGIN_REQUIRED)


def test_a_hint_at_somebody_else_asks_for_another_sign_in() -> None:
    assert decide(Requirements(principal_id="per_2")) == Decision(Step.SIGN_IN)


def test_a_sign_in_by_somebody_else_than_the_hint_names_is_refused() -> None:
    """OIDC Core 3.1.2.1; asking once more would go round for ever."""
    established = TransactionFacts(session_id="ses_1")
    refused = Decision(Step.REFUSE, Refusal.LOGIN_REQUIRED)
    assert decide(Requirements(principal_id="per_2"), transaction=established) == refused


def test_somebody_who_may_not_enter_is_refused_before_being_asked_for_consent() -> None:
    requirements = Requirements(needs_consent=True, is_entitled=False)
    assert decide(requirements) == Decision(Step.REFUSE, Refusal.ACCESS_DENIED)


def test_consent_is_asked_for_once() -> None:
    requirements = Requirements(needs_consent=True)
    assert decide(requirements) == Decision(Step.CONSENT)
    assert decide(requirements, transaction=TransactionFacts(consent="allow")) == Decision(Step.RESUME)


def test_prompt_consent_asks_though_it_was_given_before() -> None:
    assert decide(Requirements(prompt=frozenset({"consent"}))) == Decision(Step.CONSENT)


def test_denied_consent_refuses_also_where_none_was_needed() -> None:
    denied = TransactionFacts(consent="deny")
    assert decide(Requirements(), transaction=denied) == Decision(Step.REFUSE, Refusal.ACCESS_DENIED)
