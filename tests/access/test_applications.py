"""`configure` makes an application what a wish says, tells the difference, and shows no secret."""

import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from idhub.access.applications import (
    ApplicationWish,
    Difference,
    OidcWish,
    ScimWish,
    configure,
    find_application,
    scim_token_context,
)
from idhub.access.tables import Application, Criticality, OidcClient, ScimTarget
from idhub.db import Database
from idhub.directory.organizations import install, root_organization
from idhub.directory.tables import Principal, SubjectIdentifier
from idhub.errors import Conflict, NotFound
from idhub.keys import Keyring
from tests.support.clock import Clock

SECRET, TOKEN = "correct-horse-battery-staple-0123456789", "scim-bearer-token"
OIDC = OidcWish(
    client_id="office",
    secret=SECRET,
    auth_method="client_secret_basic",
    redirect_uris=["https://office.example/cb"],
    post_logout_redirect_uris=[],
    grant_types=["authorization_code"],
    scopes=["openid"],
)
SCIM = ScimWish(base_url="https://office.example/scim/v2", token=TOKEN)


class Applications:
    """Wishes, each in a transaction of its own."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self.database, self.keyring, self.clock = database, keyring, clock
        with database.transaction() as session:
            install(session, time_zone="Asia/Shanghai", now=clock())
            root = root_organization(session)
        self.wish = ApplicationWish(
            slug="office",
            name="Office",
            name_zh="办公",
            description=None,
            home_url=None,
            organization_id=root,
            owner_id=None,
            criticality=Criticality.HIGH,
            revocation_deadline=timedelta(hours=1),
            required_grade=None,
            is_enabled=True,
            oidc=OIDC,
            scim=SCIM,
            rules=[("member", "id pr")],
        )

    def make(self, wish: ApplicationWish) -> Difference:
        with self.database.transaction() as session:
            return configure(session, wish, seal=self.keyring.seal, now=self.clock())


@pytest.fixture
def applications(database: Database, keyring: Keyring, clock: Clock) -> Applications:
    return Applications(database, keyring, clock)


def test_a_new_application_is_told_with_its_channels(applications: Applications) -> None:
    difference = applications.make(applications.wish)
    assert difference.is_new
    assert difference.scim_added
    assert difference.rules_changed
    assert [name for name, _, _ in difference.changes] == ["oidc", "scim", "entitle"]


def test_a_new_target_is_told_with_its_mapping_and_adoption(applications: Applications) -> None:
    """Whoever looks before applying sees what will be sent."""
    options = {"mapping": {"nickName": "lower(given_name)"}, "adopt": {"automatic": ["external_id"], "review": []}}
    difference = applications.make(replace(applications.wish, scim=replace(SCIM, options=options)))

    told = {name: (before, after) for name, before, after in difference.changes}
    assert told["scim.mapping"] == (None, options["mapping"])
    assert told["scim.adopt"] == (None, options["adopt"])


def test_the_same_wish_twice_changes_nothing(applications: Applications) -> None:
    applications.make(applications.wish)
    applications.clock.advance(hours=1)
    again = applications.make(applications.wish)
    assert again.is_empty
    assert again.changes == []
    with applications.database.read() as session:
        row = session.execute(select(Application)).scalar_one()
        assert row.changed_at == row.created_at


def test_a_change_is_told_field_by_field_before_and_after(applications: Applications) -> None:
    applications.make(applications.wish)
    changed = replace(
        applications.wish,
        name="Office suite",
        is_enabled=False,
        oidc=replace(OIDC, scopes=["openid", "email"]),
        scim=replace(SCIM, base_url="https://new.example/v2"),
    )
    difference = applications.make(changed)
    assert not difference.is_new
    assert difference.changes == [
        ("name", "Office", "Office suite"),
        ("is_enabled", True, False),
        ("oidc.scopes", ["openid"], ["openid", "email"]),
        ("scim.base_url", "https://office.example/scim/v2", "https://new.example/v2"),
    ]


def test_secrets_change_without_being_shown(applications: Applications) -> None:
    applications.make(applications.wish)
    other = "another-secret-of-forty-characters-0123456789"
    difference = applications.make(
        replace(applications.wish, oidc=replace(OIDC, secret=other), scim=replace(SCIM, token="another-token"))
    )
    assert difference.changes == [
        ("oidc.secret_hash", "(secret)", "(new secret)"),
        ("scim.token", "(secret)", "(new secret)"),
    ]
    assert all(hidden not in repr(difference) for hidden in (SECRET, TOKEN, other, "another-token"))
    assert hashlib.sha256(other.encode()).hexdigest() not in repr(difference)


def test_a_client_secret_is_stored_hashed_and_a_scim_token_sealed_under_its_context(applications: Applications) -> None:
    application_id = applications.make(applications.wish).application_id
    with applications.database.read() as session:
        client = session.execute(select(OidcClient)).scalar_one()
        target = session.execute(select(ScimTarget)).scalar_one()
        assert client.secret_hash == hashlib.sha256(SECRET.encode()).hexdigest()
        assert target.token_sealed is not None
        assert TOKEN.encode() not in target.token_sealed
        opened = applications.keyring.open(scim_token_context(application_id), target.token_sealed)
    assert opened == TOKEN.encode()


def test_a_client_id_of_another_application_is_refused(applications: Applications) -> None:
    applications.make(applications.wish)
    with pytest.raises(Conflict, match="belongs to another application") as refused:
        applications.make(replace(applications.wish, slug="wiki", scim=None))
    assert refused.value.rule == "client.taken"
    with applications.database.read() as session, pytest.raises(NotFound):
        find_application(session, "wiki")


def test_a_client_id_that_names_a_principal_is_refused(applications: Applications) -> None:
    """RFC 9700 section 4.15: whoever looks at `sub` alone would take the client for a person or for another service."""
    now = applications.clock()
    with applications.database.transaction() as session:
        root = root_organization(session)
        for kind in ("person", "service"):
            session.add(
                Principal(
                    id=f"prn_{kind}", kind=kind, standing="active", organization_id=root, access_starts_at=now,
                    created_at=now, changed_at=now,
                )
            )  # fmt: skip
        session.flush()
        session.add(SubjectIdentifier(principal_id="prn_person", sector="", sub="S" * 22, created_at=now))
    for taken in ("S" * 22, "prn_person", "prn_service"):
        with pytest.raises(Conflict, match="is the identifier of somebody") as refused:
            applications.make(replace(applications.wish, oidc=replace(OIDC, client_id=taken)))
        assert (refused.value.field, refused.value.rule) == ("client_id", "client.subject")
    with applications.database.read() as session:
        assert session.execute(select(OidcClient.client_id)).first() is None
    assert applications.make(replace(applications.wish, oidc=replace(OIDC, client_id="S" * 21))).is_new


def test_a_client_that_is_not_wanted_any_more_is_disabled_and_comes_back(applications: Applications) -> None:
    applications.make(applications.wish)
    applications.make(replace(applications.wish, oidc=replace(OIDC, client_id="office-2")))
    with applications.database.read() as session:
        rows = session.execute(select(OidcClient.client_id, OidcClient.is_enabled).order_by(OidcClient.client_id))
        assert [tuple(row) for row in rows] == [("office", False), ("office-2", True)]
    back = applications.make(applications.wish)
    assert ("oidc.is_enabled", False, True) in back.changes


def test_a_scim_target_cannot_be_left_out(applications: Applications) -> None:
    applications.make(applications.wish)
    with pytest.raises(Conflict, match="disable the application instead") as refused:
        applications.make(replace(applications.wish, scim=None))
    assert refused.value.rule == "scim.removed"


def test_an_application_is_found_by_slug_or_id(applications: Applications) -> None:
    application_id = applications.make(applications.wish).application_id
    with applications.database.read() as session:
        assert find_application(session, "office") == find_application(session, application_id) == application_id
        with pytest.raises(NotFound) as refused:
            find_application(session, "nothing")
    assert refused.value.rule == "application.unknown"
