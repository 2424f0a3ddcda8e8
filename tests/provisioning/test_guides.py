"""The connect guides of GitLab and GitHub, followed: their own configuration, against what their makers describe."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import update

from idhub.delivery.channel import Grade
from idhub.directory.tables import Person
from scim.dialects import DIALECTS
from tests.provisioning.conftest import Scene
from tests.provisioning.vendors import GitHub, GitLab, Vendor

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
GUIDES = Path(__file__).parents[2] / "docs/connect"
PATCH_OP = "urn:ietf:params:scim:api:messages:2.0:PatchOp"


def guide(name: str) -> dict[str, Any]:
    """The `scim:` block that the page tells to write."""
    text = (GUIDES / f"{name}.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(scim:.*?)```", text, re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(block)["scim"]
    return found


def connect(scene: Scene, vendor: Vendor, page: str, base_url: str, dialect: str | None = None) -> str:
    """An application as the page registers it, at another address."""
    block = guide(page)
    scene.quirky = vendor  # type: ignore[assignment]
    options = {key: block[key] for key in ("mapping", "adopt", "requests_per_minute") if key in block}
    return scene.application(
        base_url=base_url, token=vendor.token, dialect=dialect or block["dialect"], options=options
    )


@pytest.mark.parametrize("page", ["github", "gitlab", "slack", "aws-identity-center", "atlassian", "salesforce"])
def test_the_page_names_a_dialect_that_there_is(page: str, database_kind: str) -> None:
    assert database_kind
    assert guide(page)["dialect"] in DIALECTS


@pytest.mark.parametrize("group", [None, "qiyue/dev"])
def test_life_of_an_account_in_gitlab(scene: Scene, group: str | None) -> None:
    """As recorded: each write, whole."""
    gitlab = GitLab(group=group)
    home = "/api/scim/v2/application" if group is None else f"/api/scim/v2/groups/{group}"
    application = connect(scene, gitlab, "gitlab", f"https://gitlab.example{home}")
    person = scene.person()
    account = scene.entitle(person, application)
    other = scene.entitle(scene.person("bob"), application)
    assert scene.send_one(other, "provision").evidence["action"] == "created"
    gitlab.writes()

    assert scene.send_one(account, "provision").evidence["action"] == "created"
    ((method, path, body),) = gitlab.writes()
    assert (method, path) == ("POST", f"{home}/Users")
    assert body == {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "externalId": person,
        "userName": "alice",
        "name": {"formatted": "爱丽丝", "familyName": "爱", "givenName": "丽丝"},
        "emails": [{"value": "alice@corp.example", "type": "work", "primary": True}],
        "active": True,
    }
    with scene.database.transaction() as session:
        session.execute(update(Person).where(Person.id == person).values(display_name="爱丽丝二"))
    assert scene.send_one(account, "provision", attempt=2).evidence["action"] == "none"
    assert gitlab.writes() == []

    scene.leave(person)
    left = scene.send_one(account, "deprovision")
    assert (left.kind, left.grade, left.evidence["read_back"]["state"]) == ("done", Grade.E2, "inactive")
    switched = {"schemas": [PATCH_OP], "Operations": [{"op": "replace", "path": "active", "value": False}]}
    assert gitlab.writes() == [("PATCH", f"{home}/Users/{person}", switched)]
    assert scene.send_one(account, "deprovision", attempt=2).evidence["action"] == "none"
    assert gitlab.writes() == []
    assert [one["active"] for one in gitlab.users.values()] == [True, False]


def test_gitlab_says_why_the_last_owner_of_a_group_stays(scene: Scene) -> None:
    """412 is every refusal of GitLab, and not that a value is taken, nor that somebody else changed the account."""
    gitlab = GitLab(group="qiyue", last_owner="alice")
    application = connect(scene, gitlab, "gitlab", "https://gitlab.example/api/scim/v2/groups/qiyue")
    person = scene.person()
    account = scene.entitle(person, application)
    scene.send_one(account, "provision")
    scene.leave(person)
    left = scene.send_one(account, "deprovision")
    assert left.kind == "dead"
    assert left.error == "The application answered 412: Error updating 爱丽丝: Cannot remove last group owner."


def test_gitlab_refuses_a_create_that_it_cannot_keep_and_says_why(scene: Scene) -> None:
    gitlab = GitLab(registered={"taken@corp.example": "alice"})
    application = connect(scene, gitlab, "gitlab", "https://gitlab.example/api/scim/v2/application")
    outcome = scene.send_one(scene.entitle(scene.person(), application), "provision")
    assert outcome.kind == "dead"
    assert str(outcome.error).startswith("The application refuses a new account. The application answered 409: ")


def test_gitlab_gives_a_joiner_the_account_that_had_their_mail(scene: Scene) -> None:
    gitlab = GitLab(registered={"alice@corp.example": "alice.old"})
    application = connect(scene, gitlab, "gitlab", "https://gitlab.example/api/scim/v2/application")
    account = scene.entitle(scene.person(), application)
    assert scene.send_one(account, "provision").evidence["action"] == "created"
    assert scene.account(account)["user_name"] == "alice.old"
    assert scene.send_one(account, "provision", attempt=2).evidence["action"] == "none"


def test_life_of_an_account_in_an_enterprise_of_github(scene: Scene) -> None:
    github = GitHub()
    home = "/scim/v2/enterprises/corp"
    application = connect(scene, github, "github", f"https://api.github.com{home}")
    person = scene.person()
    account = scene.entitle(person, application)
    assert scene.send_one(account, "provision").evidence["action"] == "created"
    ((_, path, body),) = github.writes()
    assert (path, body) == (
        f"{home}/Users",
        {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
            "externalId": person,
            "userName": "alice",
            "displayName": "爱丽丝",
            "name": {"formatted": "爱丽丝", "familyName": "爱", "givenName": "丽丝"},
            "emails": [{"value": "alice@corp.example", "type": "work", "primary": True}],
            "roles": [{"type": "work", "value": "user"}],
            "active": True,
        },
    )
    assert scene.send_one(account, "provision", attempt=2).evidence["action"] == "none"
    with scene.database.transaction() as session:
        session.execute(update(Person).where(Person.id == person).values(display_name="爱丽丝二"))
    assert scene.send_one(account, "provision", attempt=3).evidence["changed"] == ["displayName", "name"]
    github.writes()
    scene.leave(person)
    left = scene.send_one(account, "deprovision")
    assert (left.kind, left.grade, left.evidence["read_back"]["state"]) == ("done", Grade.E2, "inactive")
    ((_, path, body),) = github.writes()
    assert (path, body["Operations"]) == (
        f"{home}/Users/7fce0001",
        [{"op": "replace", "path": "active", "value": False}],
    )


def test_life_of_an_account_in_an_organization_of_github(scene: Scene) -> None:
    """Its documentation switches off by an operation without a path."""
    github = GitHub(enterprise=None)
    home = "/scim/v2/organizations/corp"
    application = connect(scene, github, "github", f"https://api.github.com{home}", "github-organization")
    person = scene.person()
    account = scene.entitle(person, application)
    other = scene.entitle(scene.person("bob"), application)
    assert scene.send_one(other, "provision").evidence["action"] == "created"
    assert scene.send_one(account, "provision").evidence["action"] == "created"
    with scene.database.transaction() as session:
        session.execute(update(Person).where(Person.id == person).values(email="alice2@corp.example"))
    assert scene.send_one(account, "provision", attempt=2).evidence["changed"] == ["emails", "userName"]
    github.writes()
    scene.leave(person)
    left = scene.send_one(account, "deprovision")
    assert (left.kind, left.grade, left.evidence["read_back"]["state"]) == ("done", Grade.E2, "gone"), left.error
    assert github.writes() == [
        (
            "PATCH",
            f"{home}/Users/7fce0002",
            {"schemas": [PATCH_OP], "Operations": [{"op": "replace", "value": {"active": False}}]},
        )
    ]


def test_a_limit_that_github_says_by_403_is_a_limit(scene: Scene) -> None:
    """It is no refused credential: the delivery waits until the time that the service named, with the whole queue."""
    github = GitHub(left=1, reset_at=int((scene.clock() + timedelta(minutes=20)).timestamp()))
    application = connect(scene, github, "github", "https://api.github.com/scim/v2/enterprises/corp")
    outcome = scene.send_one(scene.entitle(scene.person(), application), "provision")
    assert (outcome.kind, outcome.failure, outcome.status_code) == ("retry", "rate_limit", 403)
    assert outcome.error == "The application answered 403: API rate limit exceeded"
    assert outcome.retry_after is not None
    assert timedelta(minutes=19) < outcome.retry_after <= timedelta(minutes=19, seconds=30)
