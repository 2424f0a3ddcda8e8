"""Every broken sample is caught by the check named after it, and by no other; what is well made comes out well."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from scim.certify import CHECKS, Certificate, certify
from scim.samples.providers import FAULTS, TOKEN, Ask, Sample
from tests.provisioning.vendors import GitLab, Vendor

_NEVER_FAIL = {"enterprise_kept"}
"""What is only noted: the standard and the dialects know services without it."""


class _Port(ABC):
    """`scim.client.HttpPort` without a network between."""

    @abstractmethod
    def answer(
        self, method: str, url: str, headers: Mapping[str, str], sent: Any
    ) -> tuple[int, Mapping[str, str], Any]:
        """Status, headers and body of an answer."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        json: Any,
        timeout: timedelta,  # noqa: ASYNC109 - the port's total deadline
    ) -> Any:
        sent = None if json is None else orjson.loads(orjson.dumps(json))
        status, more, body = self.answer(method, url, headers, sent)
        return _Response(status, _Headers(more), b"" if body is None else orjson.dumps(body))


class Vendors(_Port):
    """A stand-in of a maker's service."""

    def __init__(self, vendor: Vendor) -> None:
        self.vendor = vendor

    def answer(
        self, method: str, url: str, headers: Mapping[str, str], sent: Any
    ) -> tuple[int, Mapping[str, str], Any]:
        return self.vendor.answer(method, url, headers, sent)


class InProcess(_Port):
    """A sample."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample

    def answer(
        self, method: str, url: str, headers: Mapping[str, str], sent: Any
    ) -> tuple[int, Mapping[str, str], Any]:
        parts = urlsplit(url)
        lowered = {name.lower(): value for name, value in headers.items()}
        answer = self.sample.answer(Ask(method, parts.path.removeprefix("/v2"), parts.query, lowered, sent))
        return answer.status, answer.headers, answer.body


@dataclass(frozen=True)
class _Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


class _Headers(dict[str, str]):
    def get(self, name: str, default: Any = None) -> Any:
        return next((value for key, value in self.items() if key.lower() == name.lower()), default)


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
    assert graded(Sample("active_boolean")).dialect == "text-booleans"


def test_wrong_token_is_told_and_not_shown() -> None:
    certificate = graded(Sample(), token="wrong-secret-token")
    assert certificate.grade == "C"
    assert "wrong-secret-token" not in str(certificate.results)


def test_service_of_which_active_alone_can_be_changed_is_seen_to_switch_off() -> None:
    """GitLab: what a leave rests on works there, whatever it does with names, and its dialect is found."""
    gitlab = GitLab()
    address = "http://gitlab.example/api/scim/v2/application"
    certificate = asyncio.run(certify(Vendors(gitlab), address, gitlab.token))
    verdicts = {one.check.name: one.verdict for one in certificate.results}
    assert {name: verdicts[name] for name in ("update", "deactivate", "deactivated_listed", "reactivate")} == {
        "update": "pass", "deactivate": "pass", "deactivated_listed": "pass", "reactivate": "pass",
    }  # fmt: skip
    assert verdicts["patch"] == "fail"
    assert (certificate.dialect, certificate.deviations) == ("gitlab", [])
