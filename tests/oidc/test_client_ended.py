"""What a client has is ended as a whole: the incident in which its tokens are with somebody else."""

from datetime import timedelta

import pytest
from sqlalchemy import insert, select, update

from idhub.credentials.revoke import end_client_credentials
from idhub.credentials.tables import Grant, SsoSession
from idhub.errors import NotFound
from tests.oidc.world import CLI, App, World


def end(world: World, client_id: str) -> int:
    return end_client_credentials(
        world.database, client_id, reason="tokens in a log", clock=world.clock, actor=CLI, door="cli"
    )


def test_everything_that_a_client_has_ends_and_nobody_is_signed_out(world: World, office: App) -> None:
    wiki = world.app("wiki")
    person = world.employee(office)
    world.entitle(person, wiki)
    world.sign_in(person)
    tokens, others = world.tokens(office, scope="openid offline_access"), world.tokens(wiki)
    code = world.code(office)
    assert end(world, office.client_id) == 2
    assert not world.is_active(office, tokens["access_token"])
    assert world.userinfo(tokens["access_token"]).status_code == 401
    for refused in (world.refresh(office, tokens["refresh_token"]), world.redeem(office, code)):
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert world.is_active(wiki, others["access_token"])
    assert world.refresh(wiki, others["refresh_token"]).status_code == 200
    assert world.count(SsoSession, SsoSession.ended_at.is_not(None)) == 0
    assert world.is_active(office, world.tokens(office)["access_token"]), "the application may ask anew"
    (event,) = world.events("client.credentials_ended")
    assert event["target"] == {"kind": "client", "id": "office"}
    assert event["details"] == {"grants": 2, "reason_given": "tokens in a log"}


def test_what_a_service_identity_was_issued_ends(world: World) -> None:
    plant = world.app("plant", grant_types=["client_credentials"], scopes=["a"], service_principal_id=world.service())
    token = world.token(plant, grant_type="client_credentials").json()["access_token"]
    assert end(world, "plant") == 1
    assert not world.is_active(plant, token)
    again = world.token(plant, grant_type="client_credentials").json()["access_token"]
    assert world.is_active(plant, again)


def test_many_grants_end_in_several_transactions_and_what_had_ended_is_left_alone(world: World, office: App) -> None:
    person = world.employee(office)
    world.sign_in(person)
    world.tokens(office)
    with world.database.transaction() as session:
        row = dict(session.execute(select(Grant.__table__)).one()._mapping)
        session.execute(insert(Grant), [{**row, "id": f"grt_{number:04d}"} for number in range(1_100)])
        before = world.clock() - timedelta(days=1)
        ended = update(Grant).where(Grant.id < "grt_0100").values(ended_at=before, end_reason="logout")
        session.execute(ended)
    assert end(world, office.client_id) == 1_001
    assert [event["details"]["grants"] for event in world.events("client.credentials_ended")] == [500, 500, 1]
    assert world.count(Grant, Grant.ended_at.is_(None)) == 0
    assert world.count(Grant, Grant.end_reason == "logout") == 100
    assert end(world, office.client_id) == 0
    assert len(world.events("client.credentials_ended")) == 3


def test_an_unknown_client_is_refused(world: World) -> None:
    with pytest.raises(NotFound) as refusal:
        end(world, "nobody")
    assert (refusal.value.field, refusal.value.rule) == ("client", "client.unknown")
