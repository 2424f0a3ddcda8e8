"""Three service providers that nobody here wrote, in processes of their own: hire, change, group, disable, delete."""

import asyncio
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from idhub.delivery.channel import Grade
from idhub.delivery.http import OutboundHttp
from idhub.directory.tables import Person
from idhub.provisioning.outbound.channel import ScimHttp
from idhub.provisioning.outbound.groups import set_wanted
from idhub.provisioning.outbound.options import WantedGroup
from idhub.provisioning.outbound.tables import OutboundGroup, ScimDiscovery
from scim.certify import Certificate, certify
from tests.provisioning.conftest import Scene
from tests.support.processes import Server, free_port, running

TOKEN = "of-the-provider"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Provider:
    """How it is started and spoken to. `port` stands where the command's port goes."""

    command: tuple[str | Path, ...]
    base: str
    dialect: str = "generic"
    mapping: dict[str, str | None] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


PROVIDERS = {
    "scim2-server": Provider(
        (Path(sys.executable).parent / "scim2-server", "--port", "port", "--bearer-token", TOKEN), "/v2"
    ),
    "scimmy": Provider(("node", HERE / "scimmy.mjs", "port", TOKEN), "/scim/v2"),
    "django-scim2": Provider(
        (sys.executable, "-m", "django_site.serve", "port"),
        "/scim/v2",
        "django-scim2",
        # It makes the whole name out of the parts, in its own order.
        {"name.formatted": None},
        {"PROVIDER_TOKEN": TOKEN, "PYTHONPATH": str(HERE), "PYTHONWARNINGS": "ignore"},
    ),
}


@pytest.fixture(scope="module", params=PROVIDERS)
def provider(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Server]]:
    chosen, port = PROVIDERS[request.param], free_port()
    command = [str(port) if part == "port" else part for part in chosen.command]
    log = tmp_path_factory.mktemp("provider") / "server.log"
    with running(command, port=port, log=log, env=chosen.env or None) as server:
        yield request.param, server


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_hire_change_group_disable_delete(scene: Scene, provider: tuple[str, Server]) -> None:
    name, server = provider
    chosen = PROVIDERS[name]
    base_url = f"{server.address}{chosen.base}"
    application = scene.application(
        base_url=base_url,
        token=TOKEN,
        dialect=chosen.dialect,
        options={"mapping": chosen.mapping} if chosen.mapping else None,
    )
    (found,) = scene.send(scene.target_delivery(application, "discover"))
    assert found.kind == "done", found.error
    with scene.database.read() as session:
        assert session.scalars(select(ScimDiscovery.base_url)).one() == base_url

    people = [scene.person("alice"), scene.person("bob")]
    accounts = [scene.entitle(person, application) for person in people]
    for account in accounts:
        created = scene.send_one(account, "provision")
        assert (created.kind, created.evidence.get("action")) == ("done", "created"), created.error
        again = scene.send_one(account, "provision", attempt=2)
        assert (again.kind, again.evidence["changed"]) == ("done", []), again.error
    with scene.database.transaction() as session:
        session.execute(update(Person).where(Person.id == people[0]).values(family_name="艾", email="al@corp.example"))
    changed = scene.send_one(accounts[0], "provision", attempt=3)
    assert (changed.kind, changed.evidence["action"]) == ("done", "updated"), changed.error
    assert scene.send_one(accounts[0], "provision", attempt=4).evidence["changed"] == []
    users = {user["userName"]: user for user in listed(scene, base_url, "Users")}
    assert set(users) == {"al@corp.example", "bob@corp.example"}
    assert users["al@corp.example"]["name"]["familyName"] == "艾"

    with scene.database.transaction() as session:
        set_wanted(session, application, [WantedGroup("role", "member", "Members")], now=scene.clock())
        group_id = session.scalars(select(OutboundGroup.id)).one()
    assert pushed(scene, application, group_id) == {str(user["id"]) for user in users.values()}

    scene.leave(people[0])
    left = scene.send_one(accounts[0], "deprovision")
    assert (left.kind, left.grade, left.evidence["read_back"]["state"]) == ("done", Grade.E2, "inactive"), left.error
    assert pushed(scene, application, group_id) == {str(users["bob@corp.example"]["id"])}
    deleted = scene.send_one(accounts[0], "delete")
    assert (deleted.kind, deleted.evidence["action"]) == ("done", "deleted"), deleted.error
    assert [user["userName"] for user in listed(scene, base_url, "Users")] == ["bob@corp.example"]


CERTIFIED = {
    "scim2-server": ("A", "generic", set()),
    "scimmy": ("C", "generic", {"filter_case", "filter_quotes", "filter_invalid", "list_paging", "etag"}),
    "django-scim2": ("B", "django-scim2", {"filter_quotes", "filter_external_id", "group_member_removed"}),
}
"""Grade, dialect, and what does not work there: each was looked at by hand."""


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_certify_says_of_them_what_is_so(scene: Scene, provider: tuple[str, Server]) -> None:
    name, server = provider
    base_url = f"{server.address}{PROVIDERS[name].base}"
    scene.application(base_url=base_url, token=TOKEN)
    before = listed(scene, base_url, "Users")

    async def graded() -> Certificate:
        settings = scene.settings.model_copy(update={"outbound_allow": ",".join(scene.allowed)})
        async with OutboundHttp(settings) as http:
            return await certify(ScimHttp(http), base_url, TOKEN)

    certificate = asyncio.run(graded())
    broken = {one.check.name for one in certificate.broken}
    assert (certificate.grade, certificate.dialect, broken) == CERTIFIED[name]
    assert listed(scene, base_url, "Users") == before, "what it made is removed"


def pushed(scene: Scene, application: str, group_id: str) -> set[str]:
    """Push the group and see whom it has, asked without our client."""
    (outcome,) = scene.send(scene.target_delivery(application, "group", group=group_id))
    assert outcome.kind == "done", outcome.error
    with scene.database.read() as session:
        there = session.scalars(select(OutboundGroup.external_id)).one()
    base_url = scene.base_url_of(application)
    (group,) = [one for one in listed(scene, base_url, "Groups") if str(one["id"]) == there]
    return {str(member["value"]) for member in group.get("members") or ()}


def listed(scene: Scene, base_url: str, what: str) -> list[dict[str, Any]]:
    """What the service itself lists."""

    async def asked() -> list[dict[str, Any]]:
        settings = scene.settings.model_copy(update={"outbound_allow": ",".join(scene.allowed)})
        async with OutboundHttp(settings) as http:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            answer = await http.request("GET", f"{base_url}/{what}", headers=headers, timeout=timedelta(seconds=5))
            found: list[dict[str, Any]] = answer.json().get("Resources", [])
            return found

    return asyncio.run(asked())
