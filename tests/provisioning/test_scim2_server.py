"""The channel against scim2-server: a service that nobody here wrote, in a process of its own."""

import asyncio
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from idhub.db import Database
from idhub.delivery.channel import Grade
from idhub.delivery.http import OutboundHttp
from idhub.directory.tables import Person
from idhub.provisioning.outbound.channel import ScimHttp
from scim.client import ScimClient
from scim.dialects import PUT_ONLY, Dialect
from scim.errors import RemoteConflict, RemoteNotFound, RemoteUnauthorized
from scim.schemas import ENTERPRISE_USER, is_active
from tests.provisioning.conftest import IMPATIENT, Scene
from tests.support.processes import Server, free_port, running

TOKEN = "scim2-server-token"


@pytest.fixture
def scim2_server(tmp_path: Path) -> Iterator[Server]:
    port = free_port()
    command: list[str | Path] = [
        Path(sys.executable).parent / "scim2-server",
        "--port",
        str(port),
        "--bearer-token",
        TOKEN,
    ]
    with running(command, port=port, log=tmp_path / "scim2-server.log") as server:
        yield server


@pytest.fixture
def application(scene: Scene, scim2_server: Server) -> str:
    return scene.application(base_url=f"{scim2_server.address}/v2", token=TOKEN)


def users_of(scene: Scene, server: Server) -> list[dict[str, Any]]:
    """What the service itself lists, asked without our client."""

    async def listed() -> list[dict[str, Any]]:
        settings = scene.settings.model_copy(update={"outbound_allow": ",".join(scene.allowed)})
        async with OutboundHttp(settings) as http:
            answer = await http.request(
                "GET",
                f"{server.address}/v2/Users",
                headers={"Authorization": f"Bearer {TOKEN}"},
                timeout=timedelta(seconds=5),
            )
            found: list[dict[str, Any]] = answer.json().get("Resources", [])
            return found

    return asyncio.run(listed())


def test_life_of_an_account(scene: Scene, scim2_server: Server, application: str, database: Database) -> None:
    boss = scene.person("boss")
    boss_account = scene.entitle(boss, application)
    assert scene.send_one(boss_account, "provision").evidence["action"] == "created"
    person = scene.person(manager_id=boss)
    account = scene.entitle(person, application)

    created = scene.send_one(account, "provision")
    assert (created.kind, created.grade, created.status_code) == ("done", Grade.E1, 201)
    user = next(user for user in users_of(scene, scim2_server) if user["userName"] == "alice@corp.example")
    assert user["externalId"] == person
    assert user[ENTERPRISE_USER]["department"] == "底盘"
    assert user[ENTERPRISE_USER]["manager"]["value"] == scene.account(boss_account)["external_id"]

    again = scene.send_one(account, "provision", attempt=2)
    assert (again.kind, again.evidence["action"]) == ("done", "none")

    with database.transaction() as session:
        session.execute(update(Person).where(Person.id == person).values(display_name="爱丽丝二", mobile=None))
    updated = scene.send_one(account, "provision", attempt=3)
    assert updated.evidence["changed"] == ["displayName", "name", "phoneNumbers"]
    assert scene.send_one(account, "provision", attempt=4).evidence["action"] == "none"

    scene.leave(person)
    left = scene.send_one(account, "deprovision")
    assert (left.kind, left.grade, left.evidence["read_back"]["state"]) == ("done", Grade.E2, "inactive")
    states = {user["userName"]: user["active"] for user in users_of(scene, scim2_server)}
    assert states == {"alice@corp.example": False, "boss@corp.example": True}
    assert scene.events(account) == ["account.provisioned", "account.updated", "account.deactivated"]


def test_account_that_the_service_deleted_is_proven_gone_beside_a_living_one(
    scene: Scene, scim2_server: Server, application: str
) -> None:
    boss_account = scene.entitle(scene.person("boss"), application)
    scene.send_one(boss_account, "provision")
    person = scene.person()
    account = scene.entitle(person, application, external_id="0f8fad5b", known_state="active")
    scene.leave(person)
    gone = scene.send_one(account, "deprovision")
    assert (gone.kind, gone.grade, gone.evidence["read_back"]["state"]) == ("done", Grade.E2, "gone")
    assert gone.evidence["control_read"]["succeeded"] is True


def test_stopped_service_keeps_the_leave_pending_and_completes_when_it_continues(
    scene: Scene, scim2_server: Server, application: str
) -> None:
    person = scene.person()
    account = scene.entitle(person, application)
    scene.send_one(account, "provision")
    scene.leave(person)
    scim2_server.freeze()
    began = time.monotonic()
    pending = scene.send_one(account, "deprovision", timeout=IMPATIENT)
    assert time.monotonic() - began < IMPATIENT.total_seconds() + 30
    assert (pending.kind, pending.grade, pending.status_code) == ("retry", Grade.E0, None)
    scim2_server.thaw()
    done = scene.send_one(account, "deprovision", attempt=2, quiet_after=scene.clock())
    assert (done.kind, done.grade) == ("done", Grade.E2)


def test_create_that_lands_after_its_time_out_is_adopted(scene: Scene, scim2_server: Server, application: str) -> None:
    """D13 with a real stall: a POST held by SIGSTOP is applied after SIGCONT, when our attempt is long over."""
    person = scene.person()
    account = scene.entitle(person, application)

    async def post_into_the_stall() -> None:
        settings = scene.settings.model_copy(update={"outbound_allow": ",".join(scene.allowed)})
        async with OutboundHttp(settings) as http:
            await http.request(
                "POST",
                f"{scim2_server.address}/v2/Users",
                headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/scim+json"},
                json={
                    "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
                    "userName": "alice@corp.example",
                    "externalId": person,
                    "active": True,
                },
                timeout=timedelta(seconds=0.5),
            )

    scim2_server.freeze()
    with pytest.raises(Exception, match="did not answer"):
        asyncio.run(post_into_the_stall())
    assert scene.send_one(account, "provision", timeout=IMPATIENT).kind == "retry"
    scim2_server.thaw()
    second = scene.send_one(account, "provision", attempt=2)
    assert (second.kind, second.evidence["action"]) == ("done", "adopted")
    assert len(users_of(scene, scim2_server)) == 1


def test_wrong_token_is_refused_without_showing_it(scene: Scene, scim2_server: Server) -> None:
    application = scene.application(base_url=f"{scim2_server.address}/v2", token="not-the-token")
    outcome = scene.send_one(scene.entitle(scene.person(), application), "provision")
    assert (outcome.kind, outcome.status_code) == ("retry", 401)
    assert "not-the-token" not in f"{outcome.evidence}{outcome.error}"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("dialect", [Dialect(name="generic"), PUT_ONLY])
def test_client_speaks_with_a_service_of_others(
    scene: Scene, scim2_server: Server, application: str, dialect: Dialect
) -> None:
    async def talk() -> None:
        settings = scene.settings.model_copy(update={"outbound_allow": ",".join(scene.allowed)})
        async with OutboundHttp(settings) as http:

            def client(token: str = TOKEN) -> ScimClient:
                return ScimClient(
                    ScimHttp(http),
                    f"{scim2_server.address}/v2",
                    token,
                    time_left=lambda: timedelta(seconds=5),
                    now=scene.clock,
                    dialect=dialect,
                )

            scim = client()
            name = 'o"brien\\张'
            assert await scim.find_user(external_id="per_1", user_name=name) == []
            attributes = {"userName": name, "externalId": "per_1", "active": True, "title": "x"}
            created = await scim.create_user(attributes)
            assert is_active(created) is True
            with pytest.raises(RemoteConflict):
                await scim.create_user({"userName": name.upper()})
            assert [user["id"] for user in await scim.find_by_external_id("per_1")] == [created["id"]]
            assert [user["id"] for user in await scim.find_by_user_name(name.upper())] == [created["id"]]
            assert await scim.find_by_external_id("PER_1") == []
            await scim.update_user(created, {"title": None, f"{ENTERPRISE_USER}:department": "研发"})
            await scim.set_active(await scim.get_user(created["id"]), False)
            user = await scim.get_user(created["id"])
            assert (is_active(user), user.get("title")) == (False, None)
            assert user[ENTERPRISE_USER]["department"] == "研发"
            with pytest.raises(RemoteNotFound):
                await scim.get_user("nobody")
            with pytest.raises(RemoteUnauthorized):
                await client("wrong").get_user(created["id"])

    asyncio.run(talk())
