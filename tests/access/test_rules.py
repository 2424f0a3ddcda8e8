"""Birthright rules: what they may ask, whom they entitle, how they change."""

from typing import Any

import pytest
from sqlalchemy import select

from idhub.access.rules import compile_rule, current_rules, set_rules, wanted_by_rules
from idhub.access.tables import Application, EntitlementRule
from idhub.db import Database, new_id
from idhub.directory.organizations import install, root_organization
from idhub.errors import Invalid
from tests.support.clock import Clock

HQ = {
    "company": "总部",
    "companyCode": "HQ",
    "within": ["HQ", "GROUP"],
    "type": "regular",
    "departmentPath": "研发/底盘",
}


def person(*employments: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {
        "id": "per_1",
        "displayName": "王磊",
        "email": "wl@qiyue.example",
        "employments": list(employments),
        **values,
    }


@pytest.mark.parametrize(
    ("rule", "is_entitled"),
    [
        ('employments.company eq "总部" and employments.type ne "contractor"', True),
        ('employments.companyCode eq "hq"', True),
        ('employments.within eq "GROUP"', True),
        ('employments.departmentPath sw "研发/"', True),
        ('employments[companyCode eq "HQ" and type eq "regular"]', True),
        ('employments[companyCode eq "HQ" and type eq "contractor"]', False),
        ("employments pr", True),
        ('not (employments.companyCode eq "HQ")', False),
        ('email ew "@qiyue.example"', True),
        ("mobile_number_is_absent eq 1", None),
    ],
)
def test_a_rule_asks_what_scim_filters_can_ask(rule: str, is_entitled: bool | None) -> None:
    if is_entitled is None:
        with pytest.raises(Invalid):
            compile_rule(rule)
        return
    assert compile_rule(rule)(person(HQ)) is is_entitled


def test_a_value_filter_looks_at_one_employment_at_a_time() -> None:
    """RFC 7644 section 3.5.2: the conditions in brackets hold of one and the same value."""
    both = person(HQ, {**HQ, "companyCode": "BER", "within": ["BER", "GROUP"], "type": "contractor"})
    assert compile_rule('employments[companyCode eq "BER" and type eq "contractor"]')(both)
    assert not compile_rule('employments[companyCode eq "BER" and type eq "regular"]')(both)


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "employments.company",
        'employments.salary gt "1"',
        'hub_role eq "administrator"',
        'employments.company eq "总部" and',
        "(" * 3_000 + "id pr" + ")" * 3_000,
        'employments.company eq "\x00',
        "'; DROP TABLE people; --",
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_by_name(rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        compile_rule(rule)
    assert refused.value.rule == "rule.syntax"
    assert refused.value.field == "rule"


def _application(database: Database, clock: Clock, *, is_enabled: bool = True) -> str:
    application_id = new_id("app")
    with database.transaction() as session:
        install(session, time_zone="Asia/Shanghai", now=clock())
        session.add(
            Application(
                id=application_id, slug=application_id, name="Office", organization_id=root_organization(session),
                criticality="high", revocation_deadline_seconds=900, is_enabled=is_enabled, created_at=clock(),
                changed_at=clock(),
            )
        )  # fmt: skip
    return application_id


def test_setting_the_same_rules_twice_changes_nothing(database: Database, clock: Clock) -> None:
    application = _application(database, clock)
    wanted = [("member", "id pr"), ("admin", 'displayName eq "王磊"')]
    with database.transaction() as session:
        assert set_rules(session, application, wanted, now=clock())
    with database.transaction() as session:
        assert not set_rules(session, application, list(reversed(wanted)), now=clock.advance(hours=1))
        assert session.execute(select(EntitlementRule.id)).scalars().all().__len__() == 2


def test_a_rule_that_ends_stays_readable_with_its_end(database: Database, clock: Clock) -> None:
    """Both time axes: what held, and what was believed."""
    application, begun = _application(database, clock), clock()
    with database.transaction() as session:
        set_rules(session, application, [("member", "id pr")], now=begun)
    ended = clock.advance(days=1)
    with database.transaction() as session:
        assert set_rules(session, application, [], now=ended)
        assert current_rules(session) == []
        rows = session.execute(select(EntitlementRule).order_by(EntitlementRule.recorded_at)).scalars().all()
        facts = [(row.valid_from, row.valid_to, row.recorded_at, row.superseded_at) for row in rows]
    assert facts == [(begun, None, begun, ended), (begun, ended, ended, None)]


def test_a_bad_rule_leaves_every_rule_as_it_was(database: Database, clock: Clock) -> None:
    application = _application(database, clock)
    with database.transaction() as session:
        set_rules(session, application, [("member", "id pr")], now=clock())
    with pytest.raises(Invalid), database.transaction() as session:
        set_rules(session, application, [("member", "displayName pr"), ("x", "no such thing")], now=clock())
    with database.read() as session:
        assert [rule.role for rule in current_rules(session)] == ["member"]


def test_a_disabled_application_entitles_nobody(database: Database, clock: Clock) -> None:
    application = _application(database, clock, is_enabled=False)
    with database.transaction() as session:
        set_rules(session, application, [("member", "id pr")], now=clock())
        assert current_rules(session) == []


def test_of_several_rules_for_one_role_the_first_is_the_reason(database: Database, clock: Clock) -> None:
    application = _application(database, clock)
    with database.transaction() as session:
        set_rules(session, application, [("member", "id pr"), ("member", "displayName pr")], now=clock())
        rules = current_rules(session)
    assert wanted_by_rules(rules, person(HQ)) == {(application, "member"): rules[0].id}
    assert wanted_by_rules(rules, {}) == {}
