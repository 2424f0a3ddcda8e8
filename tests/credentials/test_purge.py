"""What is forgotten, and what must not be yet."""

from datetime import timedelta

import pytest
from sqlalchemy import Table, UniqueConstraint, insert, select

from idhub.access.tables import OidcClient
from idhub.credentials.assertions import is_first_use
from idhub.credentials.purge import purge_expired
from idhub.credentials.tables import (
    AccessToken,
    AuthorizationCode,
    Grant,
    Invitation,
    LoginTransaction,
    RefreshToken,
    RememberedDevice,
    SessionParticipant,
    SsoSession,
    Throttle,
    UpstreamSession,
)
from idhub.db import Base, Database
from idhub.directory.tables import Principal
from idhub.login.tables import IdentityProvider
from tests.delivery.conftest import hub
from tests.oidc.world import App, World
from tests.support.clock import Clock

__all__ = ["hub"]

PURGED = (
    SsoSession,
    SessionParticipant,
    Grant,
    AuthorizationCode,
    AccessToken,
    RefreshToken,
    LoginTransaction,
    RememberedDevice,
    Invitation,
    Throttle,
    UpstreamSession,
)


def seed_credentials(database: Database, clock: Clock) -> None:
    """A session, grant, participant and one of each token, all expiring now, and as many that live."""
    with database.transaction() as session:
        session.execute(
            insert(Principal).values(
                id="per_1",
                kind="person",
                organization_id="org_1",
                standing="active",
                access_epoch=1,
                enrolment_epoch=1,
                access_starts_at=clock(),
                created_at=clock(),
                changed_at=clock(),
            )
        )
        session.execute(
            insert(OidcClient).values(
                client_id="rp",
                application_id="app_a",
                auth_method="none",
                redirect_uris=[],
                post_logout_redirect_uris=[],
                grant_types=[],
                scopes=[],
                access_token_format="jwt",
                id_token_alg="ES256",
                created_at=clock(),
                changed_at=clock(),
            )
        )
        session.execute(
            insert(IdentityProvider).values(
                id="idp_1",
                slug="acme",
                name="Acme",
                organization_id="org_1",
                domains=[],
                rules=[],
                entity_id="https://idp.example",
                sign_on_services=[],
                logout_services=[],
                signing_certificates=[],
                signature_policy="any",
                contexts=[],
                allows_unsolicited=False,
                is_shown=True,
                created_at=clock(),
                changed_at=clock(),
            )
        )
        epochs = {"access_epoch": 1, "enrolment_epoch": 1, "installation_epoch": 1}
        for name, ends_at in (("old", clock()), ("live", clock() + timedelta(days=400))):
            person = {"principal_id": "per_1"}
            client = {"client_id": "rp", "application_id": "app_a"}
            session.add(
                SsoSession(
                    id=f"ses_{name}",
                    token_hash=name,
                    authenticated_at=clock(),
                    amr=[],
                    created_at=clock(),
                    last_seen_at=clock(),
                    idle_expires_at=ends_at,
                    expires_at=ends_at,
                    **person,
                    **epochs,
                )
            )
            session.flush()
            session.add(UpstreamSession(session_id=f"ses_{name}", provider_id="idp_1", name_id=name))
            session.add(
                SessionParticipant(
                    id=f"par_{name}",
                    session_id=f"ses_{name}",
                    sid=name,
                    sub="s",
                    joined_at=clock(),
                    last_used_at=clock(),
                    **person,
                    **client,
                )
            )
            session.add(
                Grant(
                    id=f"grt_{name}",
                    session_id=f"ses_{name}",
                    scope="openid",
                    created_at=clock(),
                    **person,
                    **client,
                    **epochs,
                )
            )
            session.flush()
            token = {"grant_id": f"grt_{name}", "client_id": "rp"}
            session.execute(
                insert(AuthorizationCode).values(
                    code_hash=name, redirect_uri="x", code_challenge="x", expires_at=ends_at, **token
                )
            )
            issued = {"scope": "openid", "issued_at": clock(), "expires_at": ends_at, **token}
            session.execute(insert(AccessToken).values(token_hash=name, audience="rp", **issued))
            session.execute(
                insert(RefreshToken).values(token_hash=name, family_id=name, idle_expires_at=ends_at, **issued)
            )
            session.execute(
                insert(LoginTransaction).values(
                    id_hash=name, browser_hash="b", protocol="none", request={}, created_at=clock(), expires_at=ends_at
                )
            )
            session.execute(
                insert(RememberedDevice).values(
                    token_hash=name, enrolment_epoch=1, created_at=clock(), expires_at=ends_at, **person
                )
            )
            session.execute(
                insert(Invitation).values(
                    token_hash=name,
                    purpose="first_password",
                    created_at=clock(),
                    expires_at=ends_at,
                    **person,
                    **epochs,
                )
            )
            session.execute(insert(Throttle).values(key=name, window_started_at=ends_at, failures=1))


def left(database: Database) -> dict[str, list[str]]:
    with database.read() as session:
        return {
            table.__tablename__: sorted(
                str(value) for value in session.execute(select(next(iter(table.__table__.primary_key)))).scalars()
            )
            for table in PURGED
        }


def test_a_saml_message_that_was_seen_is_known_for_longer_than_it_is_valid(hub: Database, clock: Clock) -> None:
    """D19, S10: another process, or a clock that goes right again, may find it valid still."""
    expires_at = clock() + timedelta(minutes=10)
    with hub.transaction() as session:
        assert is_first_use(session, "sp", "_1", expires_at=expires_at)
    clock.advance(hours=24)
    assert purge_expired(hub, now=clock()) == {}
    with hub.transaction() as session:
        assert not is_first_use(session, "sp", "_1", expires_at=expires_at)
    clock.advance(minutes=11)
    assert purge_expired(hub, now=clock()) == {"saml_requests": 1}


def test_only_what_is_long_dead_is_purged(hub: Database, clock: Clock) -> None:
    seed_credentials(hub, clock)
    clock.advance(hours=23)
    assert purge_expired(hub, now=clock()) == {}, "a late replay must still be recognised"

    clock.advance(hours=2)
    removed = purge_expired(hub, now=clock())
    assert removed == {
        "authorization_codes": 1,
        "access_tokens": 1,
        "refresh_tokens": 1,
        "login_transactions": 1,
        "remembered_devices": 1,
    }
    assert left(hub)["sessions"] == ["ses_live", "ses_old"]

    clock.advance(days=90)
    assert purge_expired(hub, now=clock()) == {
        "grants": 1,
        "invitations": 1,
        "session_participants": 1,
        "sessions": 1,
        "throttles": 1,
        "upstream_sessions": 1,
    }
    assert {
        name: [one.removeprefix("ses_").removeprefix("par_").removeprefix("grt_") for one in ids]
        for name, ids in left(hub).items()
    } == {name: ["live"] for name in left(hub)}
    assert purge_expired(hub, now=clock()) == {}


@pytest.mark.parametrize("table", Base.metadata.sorted_tables, ids=lambda table: table.name)
def test_what_refers_to_what_is_purged_is_found_by_it(table: Table) -> None:
    """Without an index the database would look at the whole table for each row that goes."""
    firsts = {next(iter(index.columns)).name for index in table.indexes} | {table.primary_key.columns[0].name}
    firsts |= {c.columns[0].name for c in table.constraints if isinstance(c, UniqueConstraint)}
    purged = {each.__tablename__ for each in PURGED}

    referring = {key.parent.name for key in table.foreign_keys if key.column.table.name in purged}
    assert referring <= firsts


def test_purging_is_bounded_and_goes_on_next_time(hub: Database, clock: Clock) -> None:
    rows = [
        {
            "id_hash": f"t{i}",
            "browser_hash": "b",
            "protocol": "none",
            "request": {},
            "created_at": clock(),
            "expires_at": clock(),
        }
        for i in range(1203)
    ]
    with hub.transaction() as session:
        session.execute(insert(LoginTransaction), rows)
    clock.advance(days=2)

    assert purge_expired(hub, now=clock()) == {"login_transactions": 1203}


def test_what_has_long_expired_is_forgotten_and_the_rest_stays(world: World, office: App) -> None:
    world.sign_in(world.employee(office))
    world.tokens(office)
    world.authorize(office, prompt="login")
    assert purge_expired(world.database, now=world.clock() + timedelta(hours=23)) == {}
    world.clock.advance(days=2)
    world.sign_in(world.employee(office))
    fresh = world.tokens(office)
    assert purge_expired(world.database, now=world.clock()) == {
        "access_tokens": 1,
        "authorization_codes": 1,
        "login_transactions": 1,
        "refresh_tokens": 1,
    }
    for table in (AccessToken, AuthorizationCode, RefreshToken):
        assert world.count(table) == 1, table
    assert world.count(LoginTransaction) == 0
    assert world.count(Grant) == 2
    assert world.is_active(office, fresh["access_token"])
