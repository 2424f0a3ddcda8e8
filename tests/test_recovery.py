"""What recovery mode holds back while it lasts. How it is entered and left: tests/cli/test_recover.py."""

import pytest
from sqlalchemy import select

from idhub.db import Database
from idhub.directory.tables import Installation
from idhub.errors import NotPermitted
from idhub.keys import Keyring
from idhub.recovery import enter
from idhub.settings import Settings
from tests.oidc.world import make_world
from tests.support.clock import Clock


def test_nothing_issued_before_works_and_nobody_signs_in(
    database: Database, keyring: Keyring, settings: Settings, clock: Clock
) -> None:
    with make_world(database, keyring, settings, clock) as world:
        office = world.app()
        person = world.employee(office)
        world.sign_in(person)
        tokens = world.tokens(office)
        code = world.code(office)
        assert world.is_active(office, tokens["access_token"])

        assert enter(database, "restored", now=clock())
        assert not enter(database, "again", now=clock())

        assert not world.is_active(office, tokens["access_token"])
        assert world.redeem(office, code).json()["error"] == "invalid_grant"
        assert world.refresh(office, tokens["refresh_token"]).json()["error"] == "invalid_grant"
        with pytest.raises(NotPermitted) as refused:
            world.sign_in(person)
        assert refused.value.rule == "session.recovery"
        with database.read() as session:
            row = session.execute(select(Installation.epoch, Installation.recovery_reason)).one()
        assert row == (2, "restored")
