"""Every row of the dialect table, and every quirk, against a service that has it: hire, change, group, disable."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from idhub.db import new_id
from idhub.delivery.channel import Grade
from idhub.directory.tables import Group, GroupMember, Person
from idhub.provisioning.outbound.tables import OutboundGroup
from scim.dialects import DIALECTS, Dialect
from tests.provisioning.conftest import Scene
from tests.provisioning.quirky import Quirks

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


@dataclass(frozen=True)
class Kind:
    """A kind of service: its row, what it is like, and the options that it needs."""

    dialect: str
    quirks: Quirks
    options: dict[str, Any] = field(default_factory=dict)
    groups: bool = True
    changes: bool = True
    """Whether a person's own attributes follow the directory."""
    state: str = "inactive"
    """How a leaver's account is found."""


KINDS = [
    Kind("generic", Quirks()),
    Kind("generic", Quirks(small_names=True)),
    Kind("generic", Quirks(created_200=True, number_ids=True)),
    Kind("no-external-id", Quirks(no_external_id=True)),
    Kind("generic", Quirks(no_discovery=True)),
    Kind("generic", Quirks(keeps_versions=True, no_patch=True, says_patch=False)),
    Kind("generic", Quirks(no_filter=True, says_filter=False, page=2)),
    Kind("put", Quirks(no_patch=True)),
    Kind("no-filter", Quirks(no_filter=True, page=2)),
    Kind("text-booleans", Quirks(text_booleans=True, capital_operations=True)),
    Kind("github-enterprise", Quirks(required=("userName", "externalId", "displayName", "emails"))),
    Kind(
        "github-organization",
        Quirks(
            gone_when_off=True, no_groups=True, required=("userName", "name.givenName", "name.familyName", "emails")
        ),
        groups=False,
        state="gone",
    ),
    Kind(
        "gitlab",
        Quirks(
            no_groups=True,
            id_is_external_id=True,
            only_created=("userName", "name", "emails"),
            required=("userName", "externalId", "emails", "name.formatted"),
        ),
        groups=False,
        changes=False,
    ),
    Kind("slack", Quirks(small_user_names=True, soft_delete=True, required=("userName", "emails"))),
    Kind(
        "aws-identity-center",
        Quirks(
            active_alone=True,
            single_values=True,
            hides_members=True,
            members_by_value=True,
            most_members=100,
            page=50,
            required=("userName", "name.givenName", "name.familyName", "displayName"),
        ),
    ),
    Kind("atlassian", Quirks(no_rename=True, soft_delete=True, most_members=100, required=("userName", "emails"))),
    Kind(
        "salesforce",
        Quirks(
            no_delete=True,
            wraps_members=True,
            members_by_value=True,
            required=("userName", "emails", "name.familyName", "entitlements"),
        ),
        {"mapping": {'entitlements[type eq "profile"].value': '"00e000"'}},
    ),
    Kind("django-scim2", Quirks(no_filter=True, members_by_value=True, no_rename=True, page=50)),
    Kind("aliyun-cloudsso", Quirks(page=100)),
    Kind("ctyun-sso", Quirks(small_names=True, required=("userName", "name.formatted", "emails"))),
]


def test_every_row_of_the_table_is_driven(database_kind: str) -> None:
    assert database_kind
    assert {kind.dialect for kind in KINDS} == set(DIALECTS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k.dialect}-{KINDS.index(k)}")
def test_hire_change_group_disable(scene: Scene, kind: Kind) -> None:
    service, application = scene.quirks(kind.quirks, kind.dialect, options=kind.options or None)
    (known,) = scene.send(scene.target_delivery(application, "discover"))
    assert (known.kind, known.grade) == ("done", Grade.E1), known.error
    people = [scene.person(name) for name in ("Alice", "bob", "carol")]
    accounts = [scene.entitle(person, application) for person in people]
    for account in accounts:
        created = scene.send_one(account, "provision")
        assert (created.kind, created.evidence.get("action")) == ("done", "created"), created.error
    for account in accounts:
        again = scene.send_one(account, "provision", attempt=2)
        assert (again.kind, again.evidence["action"], again.evidence["changed"]) == ("done", "none", [])
    assert len(service.users) == 3

    with scene.database.transaction() as session:
        session.execute(
            update(Person).where(Person.id == people[0]).values(display_name="爱丽丝二", email="Alice2@corp.example")
        )
    writes = len(service.writes())
    changed = scene.send_one(accounts[0], "provision", attempt=3)
    assert (changed.kind, changed.evidence["action"]) == ("done", "updated" if kind.changes else "none"), changed.error
    if kind.changes:
        user = service.user("alice2@corp.example")
        assert [mail["value"] for mail in user["emails"]] == ["Alice2@corp.example"]
    else:
        assert len(service.writes()) == writes
    assert scene.send_one(accounts[0], "provision", attempt=4).evidence["changed"] == []

    if kind.groups:
        _drive_group(scene, service, application, people, DIALECTS[kind.dialect])

    scene.leave(people[0])
    left = scene.send_one(accounts[0], "deprovision")
    assert (left.kind, left.grade, left.evidence["read_back"]["state"]) == ("done", Grade.E2, kind.state), left.error
    name = "alice2@corp.example" if kind.changes else "alice@corp.example"
    left_there = [one for one in service.users.values() if one["userName"].lower() == name]
    assert [one["active"] for one in left_there] == ([] if kind.state == "gone" else [False])
    assert service.user("bob@corp.example")["active"] is True


def _drive_group(scene: Scene, service: Any, application: str, people: list[str], dialect: Dialect) -> None:
    outbound = _group(scene, application, people[:2])

    def push() -> Any:
        (outcome,) = scene.send(scene.target_delivery(application, "group", group=outbound))
        return outcome

    made = push()
    assert (made.kind, made.evidence["added"]) == ("done", 2), made.error
    (group,) = service.groups.values()
    members = {one["value"] for one in group["members"]}
    ids = {str(one["id"]) for one in service.users.values() if one["userName"].lower()[:3] in {"ali", "bob"}}
    assert members == ids
    _join(scene, people[2])
    _part(scene, people[1])
    with scene.database.transaction() as session:
        session.execute(update(OutboundGroup).where(OutboundGroup.id == outbound).values(name="Team Two"))
    second = push()
    (group,) = service.groups.values()
    if not dialect.renames_groups:
        assert second.kind == "dead"
        with scene.database.transaction() as session:
            session.execute(update(OutboundGroup).where(OutboundGroup.id == outbound).values(name="Team"))
        second = push()
        (group,) = service.groups.values()
    assert second.kind == "done", second.error
    assert group["displayName"] == ("Team Two" if dialect.renames_groups else "Team")
    assert len(group["members"]) == 2
    assert push().evidence["parts"] == 0


def _group(scene: Scene, application: str, people: list[str]) -> str:
    now, outbound = scene.clock(), new_id("ogr")
    with scene.database.transaction() as session:
        session.execute(
            insert(Group).values(id="grp_1", organization_id=scene.organization_id, name="Team", created_at=now)
        )
        session.execute(
            insert(OutboundGroup).values(
                id=outbound,
                application_id=application,
                source_kind="group",
                source_ref="grp_1",
                name="Team",
                known_version=0,
                created_at=now,
            )
        )
    for person in people:
        _join(scene, person)
    return outbound


def _join(scene: Scene, person: str) -> None:
    now = scene.clock()
    with scene.database.transaction() as session:
        session.execute(
            insert(GroupMember).values(
                id=new_id("mem"), group_id="grp_1", principal_id=person, valid_from=now, recorded_at=now
            )
        )


def _part(scene: Scene, person: str) -> None:
    with scene.database.transaction() as session:
        session.execute(
            update(GroupMember).where(GroupMember.principal_id == person).values(superseded_at=scene.clock())
        )


def test_members_go_in_parts_that_the_service_takes(scene: Scene) -> None:
    service, application = scene.quirks(
        Quirks(most_members=100, members_by_value=True, hides_members=True), "aws-identity-center"
    )
    people = [scene.person(f"p{number}") for number in range(130)]
    for number, person in enumerate(people):
        user_id = service.add_user(userName=f"p{number}@corp.example", externalId=person)
        scene.entitle(person, application, external_id=user_id, known_state="active")
    outbound = _group(scene, application, people)
    (outcome,) = scene.send(scene.target_delivery(application, "group", group=outbound))
    assert (outcome.kind, outcome.evidence["parts"]) == ("done", 2), outcome.error
    (group,) = service.groups.values()
    assert len(group["members"]) == 130
    with scene.database.read() as session:
        assert session.scalars(select(OutboundGroup.synced_at)).one() is not None


def test_only_accounts_that_are_alive_there_are_members(scene: Scene) -> None:
    service, application = scene.quirks(Quirks())
    people = [scene.person(name) for name in ("alice", "bob")]
    accounts = [scene.entitle(person, application) for person in people]
    outbound = _group(scene, application, people)
    scene.send_one(accounts[0], "provision")
    scene.send(scene.target_delivery(application, "group", group=outbound))
    (group,) = service.groups.values()
    assert [one["value"] for one in group["members"]] == [service.user("alice@corp.example")["id"]]
    scene.leave(people[0])
    scene.send_one(accounts[0], "deprovision")
    scene.send(scene.target_delivery(application, "group", group=outbound))
    assert next(iter(service.groups.values()))["members"] == []


def test_group_of_somebody_else_is_not_taken_over(scene: Scene) -> None:
    service, application = scene.quirks(Quirks())
    service.groups["g9"] = {"id": "g9", "displayName": "Team", "externalId": "theirs", "members": []}
    outbound = _group(scene, application, [])
    (outcome,) = scene.send(scene.target_delivery(application, "group", group=outbound))
    assert (outcome.kind, "not ours" in str(outcome.error)) == ("dead", True)
    assert service.writes() == []


def test_required_attribute_that_is_missing_needs_somebody(scene: Scene) -> None:
    service, application = scene.quirks(Quirks(required=("entitlements",)), "salesforce")
    outcome = scene.send_one(scene.entitle(scene.person(), application), "provision")
    assert (outcome.kind, "entitlements" in str(outcome.error)) == ("dead", True)
    assert service.writes() == []
