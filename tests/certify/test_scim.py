"""Every broken sample is caught by the check named after it, and by no other; what is well made comes out well."""

import asyncio

import pytest

from scim.certify import CHECKS, Certificate, certify
from scim.samples.providers import FAULTS, TOKEN, InProcess, Sample

_NEVER_FAIL = {"enterprise_kept"}
"""What is only noted: the standard and the dialects know services without it."""


def graded(sample: Sample, token: str | None = TOKEN) -> Certificate:
    return asyncio.run(certify(InProcess(sample), "http://sample.example/v2", token))


def test_every_check_has_its_broken_sample() -> None:
    assert set(FAULTS) == {check.name for check in CHECKS} - _NEVER_FAIL
    assert all(check.section.startswith("RFC ") for check in CHECKS)


def test_good_sample_passes_every_check_and_is_left_as_it_was() -> None:
    sample = Sample()
    certificate = graded(sample)
    assert [(one.check.name, one.verdict, one.detail) for one in certificate.results if one.verdict != "pass"] == []
    assert (certificate.grade, certificate.dialect, certificate.deviations) == ("A", "generic", [])
    assert sample.store._held.get("User", {}) == {}
    assert sample.store._held.get("Group", {}) == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_sample_is_caught_by_its_check_alone(fault: str) -> None:
    certificate = graded(Sample(fault))
    assert {one.check.name for one in certificate.broken} == {fault}
    levels = {check.name: check.level for check in CHECKS}
    assert certificate.grade == ("C" if levels[fault] == "must" else "B")


def test_dialect_follows_from_what_works() -> None:
    assert graded(Sample("patch")).dialect == "put"
    assert graded(Sample("update")).dialect is None
    assert "active_form: text" in graded(Sample("active_boolean")).deviations or graded(
        Sample("active_boolean")
    ).dialect not in {"generic", None}


def test_wrong_token_is_told_and_not_shown() -> None:
    certificate = graded(Sample(), token="wrong-secret-token")
    assert certificate.grade == "C"
    assert "wrong-secret-token" not in str(certificate.results)
