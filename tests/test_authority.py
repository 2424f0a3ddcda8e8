"""Authority over the hub: by subtree, read on every use, gone with the leave, and reachable from nowhere else."""

from datetime import date
from typing import Any

import pytest
from sqlalchemy import select

from idhub.access.rules import PERSON_ATTRIBUTES, compile_rule, set_rules
from idhub.authority import (
    LOCAL,
    ROLE_ACTIONS,
    Action,
    HubRole,
    RoleAssignment,
    Subject,
    administrators,
    assign_role,
    authorize,
    is_last_administrator,
    may,
    remove_role,
    roles_of,
    visible_organizations,
)
from idhub.changes import Actor
from idhub.credentials.tables import ApiToken
from idhub.db import Database, new_id
from idhub.directory.kinds import PrincipalKind, Standing
from idhub.directory.organizations import bump_rules_version, root_organization
from idhub.directory.tables import Organization, Principal
from idhub.errors import Conflict, Invalid, NotPermitted
from idhub.keys import Keyring
from idhub.lifecycle import commands, intake
from idhub.lifecycle.commands import Caller
from idhub.lifecycle.reevaluation import reevaluate_pending
from tests.lifecycle.world import World
from tests.support.clock import Clock


@pytest.fixture
def world(database: Database, keyring: Keyring, clock: Clock) -> World:
    """A fresh group."""
    return World(database, keyring, clock)


def _give(world: World, person: str, role: HubRole, organization: str | None = None) -> bool:
    with world.database.transaction() as session:
        return assign_role(
            session,
            person,
            role,
            organization_id=organization or root_organization(session),
            now=world.clock(),
            assigned_by="test",
        )


def _may(world: World, person: str, action: Action, organization: str | None = None) -> bool:
    with world.database.read() as session:
        return may(session, Subject(principal_id=person), action, organization_id=organization)


def _roles(world: World, person: str) -> list[tuple[HubRole, str]]:
    with world.database.read() as session:
        return roles_of(session, person)


def _visible(world: World, subject: Subject, action: Action) -> set[str] | None:
    with world.database.read() as session:
        query = visible_organizations(session, subject, action)
        return None if query is None else set(session.execute(query).scalars())


# ---------------------------------------------------------------------- subtrees


def test_role_reaches_its_subtree_and_nothing_beside_or_above(world: World) -> None:
    person = world.hire()
    _give(world, person, HubRole.HR, world.berlin)
    with world.database.read() as session:
        root = root_organization(session)
    assert _may(world, person, Action.PEOPLE_OFFBOARD, world.berlin)
    assert not _may(world, person, Action.PEOPLE_OFFBOARD, world.hq)
    assert not _may(world, person, Action.PEOPLE_OFFBOARD, root)
    assert not _may(world, person, Action.PEOPLE_OFFBOARD, "org_unknown")
    assert _may(world, person, Action.PEOPLE_OFFBOARD)
    assert _visible(world, Subject(principal_id=person), Action.PEOPLE_READ) == {world.berlin}


def test_role_at_the_root_reaches_everything(world: World) -> None:
    person = world.hire()
    _give(world, person, HubRole.HR)
    with world.database.read() as session:
        every = set(session.execute(select(Organization.id)).scalars())
    assert _visible(world, Subject(principal_id=person), Action.PEOPLE_READ) == every


@pytest.mark.parametrize("role", HubRole)
def test_role_permits_its_actions_and_no_other(world: World, role: HubRole) -> None:
    person = world.hire()
    _give(world, person, role)
    with world.database.read() as session:
        permitted = {
            action for action in Action if may(session, Subject(principal_id=person), action, organization_id=world.hq)
        }
    assert permitted == ROLE_ACTIONS[role]


def test_no_role_both_acts_and_audits_and_hr_assigns_no_roles() -> None:
    changing = {
        Action.PEOPLE_CHANGE,
        Action.PEOPLE_OFFBOARD,
        Action.PEOPLE_INVITE,
        Action.IMPORT_RUN,
        Action.IMPORT_RELEASE,
        Action.APPLICATION_CHANGE,
        Action.DELIVERY_RETRY,
        Action.ROLE_ASSIGN,
    }
    assert not ROLE_ACTIONS[HubRole.AUDITOR] & changing
    for role in (HubRole.HR, HubRole.ADMINISTRATOR):
        assert not ROLE_ACTIONS[role] & {Action.AUDIT_READ, Action.AUDIT_EXPORT}
    assert Action.ROLE_ASSIGN not in ROLE_ACTIONS[HubRole.HR]
    assert not ROLE_ACTIONS[HubRole.ADMINISTRATOR] & {Action.PEOPLE_CHANGE, Action.PEOPLE_OFFBOARD}


def test_nobody_and_everybody_without_a_role_may_nothing(world: World) -> None:
    person = world.hire()
    for subject in (
        Subject(),
        Subject(principal_id=person),
        Subject(principal_id="per_unknown"),
        Subject(actions=frozenset()),
    ):
        for action in Action:
            with world.database.read() as session, pytest.raises(NotPermitted) as refusal:
                authorize(session, subject, action)
            assert refusal.value.rule == f"authority.{action.value}"
        assert _visible(world, subject, Action.PEOPLE_READ) == set()
    assert _visible(world, LOCAL, Action.PEOPLE_READ) is None


def test_token_limited_to_a_company_sees_and_touches_that_company_alone(world: World) -> None:
    limited = Subject(actions=frozenset({Action.PEOPLE_READ}), organization_id=world.berlin)
    with world.database.read() as session:
        assert may(session, limited, Action.PEOPLE_READ, organization_id=world.berlin)
        assert not may(session, limited, Action.PEOPLE_READ, organization_id=world.hq)
        assert not may(session, limited, Action.PEOPLE_CHANGE, organization_id=world.berlin)
    assert _visible(world, limited, Action.PEOPLE_READ) == {world.berlin}
    assert _visible(world, limited, Action.AUDIT_READ) == set()


# ---------------------------------------------------------------------- exclusion


@pytest.mark.parametrize("other", [HubRole.HR, HubRole.ADMINISTRATOR])
@pytest.mark.parametrize("auditor_first", [True, False])
def test_auditor_excludes_every_other_role_also_over_other_companies(
    world: World, other: HubRole, auditor_first: bool
) -> None:
    person = world.hire()
    _give(world, world.hire(), HubRole.ADMINISTRATOR)
    first, second = (HubRole.AUDITOR, other) if auditor_first else (other, HubRole.AUDITOR)
    _give(world, person, first, world.hq)
    with pytest.raises(Conflict) as refusal:
        _give(world, person, second, world.berlin)
    assert refusal.value.rule == "role.exclusive"
    assert [role for role, _ in _roles(world, person)] == [first]
    with world.database.transaction() as session:
        remove_role(session, person, first, now=world.clock())
    assert _give(world, person, second, world.berlin)


def test_role_given_twice_is_given_once(world: World) -> None:
    person = world.hire()
    assert _give(world, person, HubRole.HR, world.hq)
    assert not _give(world, person, HubRole.HR, world.hq)
    assert _give(world, person, HubRole.HR, world.berlin)
    assert len(_roles(world, person)) == 2


def test_roles_are_for_people_who_have_not_left(world: World) -> None:
    person = world.hire()
    world.change(intake.Offboard(principal_id=person))
    service = new_id("svc")
    with world.database.transaction() as session:
        session.add(
            Principal(
                id=service,
                kind=PrincipalKind.SERVICE,
                organization_id=world.hq,
                standing=Standing.ACTIVE,
                access_starts_at=world.clock(),
                created_at=world.clock(),
                changed_at=world.clock(),
            )
        )
    for principal in (person, service):
        with pytest.raises(Conflict) as refusal:
            _give(world, principal, HubRole.HR)
        assert refusal.value.rule == "role.standing"


# ---------------------------------------------------------------------- the end of a role


def test_removed_role_is_gone_at_the_next_use(world: World) -> None:
    person = world.hire()
    _give(world, person, HubRole.HR, world.hq)
    _give(world, person, HubRole.HR, world.berlin)
    with world.database.transaction() as session:
        assert remove_role(session, person, HubRole.HR, now=world.clock()) == 2
    assert not _may(world, person, Action.PEOPLE_READ, world.hq)
    assert _roles(world, person) == []


def test_role_dies_with_the_leave_and_does_not_come_back_with_the_rehire(world: World) -> None:
    person = world.hire()
    _give(world, person, HubRole.ADMINISTRATOR)
    world.change(intake.Offboard(principal_id=person))
    assert _roles(world, person) == []
    world.clock.advance(days=1)
    world.change(intake.AddEmployment(principal_id=person, employment=world.facts())).only()
    assert world.principal(person).standing == Standing.ACTIVE
    assert _roles(world, person) == []
    with world.database.transaction() as session:
        assert administrators(session) == []
    assert _give(world, person, HubRole.AUDITOR), "what was held before the leave excludes nothing"
    assert _roles(world, person) == [(HubRole.AUDITOR, _root(world))]


def _root(world: World) -> str:
    with world.database.read() as session:
        return root_organization(session)


def test_role_sleeps_while_its_holder_is_suspended(world: World) -> None:
    person = world.hire()
    _give(world, person, HubRole.HR)
    world.change(intake.Suspend(principal_id=person))
    assert not _may(world, person, Action.PEOPLE_READ)
    world.change(intake.Reactivate(principal_id=person))
    assert _may(world, person, Action.PEOPLE_READ)


def test_last_administrator_stays(world: World) -> None:
    one, two = world.hire(), world.hire()
    _give(world, one, HubRole.ADMINISTRATOR)
    with world.database.transaction() as session:
        assert is_last_administrator(session, one)
        assert not is_last_administrator(session, two)
    with pytest.raises(Conflict) as refusal, world.database.transaction() as session:
        remove_role(session, one, HubRole.ADMINISTRATOR, now=world.clock())
    assert refusal.value.rule == "last_administrator"
    _give(world, two, HubRole.ADMINISTRATOR, world.berlin)
    with world.database.transaction() as session:
        assert remove_role(session, one, HubRole.ADMINISTRATOR, now=world.clock()) == 1
    # A suspended one does not count as somebody who could help.
    _give(world, one, HubRole.ADMINISTRATOR)
    world.change(intake.Suspend(principal_id=two))
    with world.database.transaction() as session:
        assert is_last_administrator(session, one)


# ---------------------------------------------------------------------- no other way in


_ROLE_NAMES = ["administrator", "hr", "auditor", "idhub:administrator", "role.assign", "*"]


@pytest.mark.parametrize("role", _ROLE_NAMES)
def test_birthright_rule_that_names_a_hub_role_gives_none(world: World, role: str) -> None:
    person = world.hire()
    with world.database.transaction() as session:
        set_rules(session, world.office, [(role, "employments.companyCode pr")], now=world.clock())
        bump_rules_version(session, reevaluate=True)
    reevaluate_pending(world.database, clock=world.clock)
    assert world.office in world.entitled(person)
    assert _roles(world, person) == []
    assert not any(_may(world, person, action) for action in Action)


@pytest.mark.parametrize(
    "text",
    [
        'roles eq "administrator"',
        "roles pr",
        'role eq "hr"',
        'groups.value eq "administrators"',
        'standing eq "active"',
        "accessEpoch gt 0",
        'employments.role eq "administrator"',
        'entitlements.value eq "administrator"',
        'urn:ietf:params:scim:schemas:core:2.0:User:roles eq "administrator"',
        "password pr",
        "nationalId pr",
    ],
)
def test_rule_cannot_ask_for_what_belongs_to_authority(text: str) -> None:
    with pytest.raises(Invalid) as refusal:
        compile_rule(text)
    assert refusal.value.rule == "rule.syntax"


def test_rules_see_a_fixed_list_of_attributes() -> None:
    assert set(PERSON_ATTRIBUTES) == {"id", "displayName", "email", "locale", "employments"}


@pytest.mark.parametrize("name", [*_ROLE_NAMES, "管理员"])
def test_values_of_an_hr_file_that_read_like_roles_are_values(world: World, name: str) -> None:
    person = world.hire(name, title=name)
    assert _roles(world, person) == []
    with world.database.read() as session:
        assert session.execute(select(RoleAssignment.id)).first() is None
        assert session.execute(select(ApiToken.id)).first() is None


@pytest.mark.parametrize(
    "values", [{"role": "administrator"}, {"roles": "hr"}, {"standing": "active"}, {"access_epoch": "0"}, {"id": "x"}]
)
def test_attributes_of_a_person_reach_no_authority(world: World, values: dict[str, str]) -> None:
    person = world.hire()
    with pytest.raises(Invalid) as refusal, world.database.transaction() as session:
        commands.update_person(session, _hr(world, Action.PEOPLE_CHANGE), person, values=values, now=world.clock())
    assert refusal.value.rule == "attribute.unknown"


def _hr(world: World, *actions: Action, organization: str | None = None) -> Caller:
    subject = Subject(actions=frozenset(actions), organization_id=organization)
    return Caller(subject=subject, actor=Actor(kind="service", id="tok_1"), door="api")


# ---------------------------------------------------------------------- people of others


@pytest.mark.parametrize(
    "what", ["suspend", "reactivate", "offboard", "cancel_offboarding", "update", "move", "rehire"]
)
def test_hr_of_one_company_does_nothing_to_people_of_another(world: World, what: str) -> None:
    person = world.hire()
    caller = _hr(world, *Action, organization=world.berlin)
    post = world.employments(person)[0]
    before = world.principal(person)
    more: dict[str, Any] = {
        "update": {"values": {"display_name": "x"}},
        "move": {"employment_id": post.id, "values": {"title": "x"}},
        "rehire": {
            "organization_id": world.berlin,
            "employee_number": "B1",
            "employment_type": "regular",
            "starts_on": post.starts_on,
        },
    }
    function = getattr(commands, {"update": "update_person"}.get(what, what))
    with pytest.raises(NotPermitted), world.database.transaction() as session:
        function(session, caller, person, now=world.clock(), **more.get(what, {}))
    assert world.principal(person) == before


def test_hr_of_one_company_makes_nobody_in_another_also_among_their_own(world: World) -> None:
    caller = _hr(world, Action.PEOPLE_CHANGE, organization=world.berlin)
    newcomers = [
        intake.Onboard(
            principal_id=f"per_{place}",
            person=intake.PersonFacts(display_name="x"),
            employment=world.facts(organization_id=place),
        )
        for place in (world.berlin, world.hq)
    ]
    with pytest.raises(NotPermitted), world.database.transaction() as session:
        commands.onboard_all(session, caller, newcomers, now=world.clock())
    with world.database.transaction() as session:
        assert (
            session.execute(select(Principal.id).where(Principal.id.in_(p.principal_id for p in newcomers))).all() == []
        )
        commands.onboard_all(session, caller, newcomers[:1], now=world.clock())
    assert world.principal(newcomers[0].principal_id).organization_id == world.berlin


def test_hr_moves_nobody_into_or_within_a_company_of_others(world: World) -> None:
    person = world.hire(organization_id=world.berlin, starts_on=date(2019, 1, 1))
    world.change(intake.AddEmployment(principal_id=person, employment=world.facts())).only()
    by_company = {e.company_code: e for e in world.employments(person)}
    assert world.principal(person).organization_id == world.berlin
    caller = _hr(world, Action.PEOPLE_CHANGE, organization=world.berlin)
    refused: list[tuple[str, dict[str, Any]]] = [
        (by_company["BER"].id, {"organization_id": world.hq}),
        (by_company["HQ"].id, {"title": "x"}),
        (by_company["HQ"].id, {"organization_id": world.berlin}),
    ]
    for employment_id, values in refused:
        with pytest.raises(NotPermitted), world.database.transaction() as session:
            commands.move(session, caller, person, employment_id=employment_id, values=values, now=world.clock())
    with world.database.transaction() as session:
        commands.move(
            session,
            caller,
            person,
            employment_id=by_company["BER"].id,
            values={"title": "x"},
            now=world.clock(),
        )
