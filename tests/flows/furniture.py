"""A stage that was furnished once: its database is copied for every test that begins with it."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.testclient import TestClient

from idhub.app import create_app
from idhub.db import Database
from idhub.keys import Keyring
from idhub.services import open_hub
from idhub.settings import Settings
from tests.flows.every_door import Stage
from tests.support.clock import Clock
from tests.support.databases import Furnishing


@dataclass(frozen=True)
class Furniture:
    """What a stage knows that was furnished: whose it is, and values that its database holds as hashes."""

    person: str
    secrets: Mapping[str, str]
    api_token: str
    cookies: Mapping[str, str]

    def move_in(self, stage: Stage) -> None:
        """What `Stage.furnish` does, of a database that was furnished before."""
        stage.person, stage.api_token, stage.secrets = self.person, self.api_token, dict(self.secrets)
        for slug, value in self.secrets.items():
            (stage.folder / f"{slug}.secret").write_text(value)
        stage.hr_browser = stage.browser()
        stage.hr_browser.cookies.update(dict(self.cookies))


def _furnish(settings: Settings, database: Database, keyring: Keyring, clock: Clock) -> Furniture:
    folder = settings.data_dir / f"stage-{database.dialect}"
    folder.mkdir()
    chosen = settings.model_copy(
        update={"data_dir": folder, "database_pool_size": 8, "argon2_memory_kib": 1024, "argon2_time_cost": 1}
    )
    shutil.copy(settings.effective_master_key_file, chosen.effective_master_key_file)
    hub = open_hub(chosen, clock=clock)
    try:
        app = create_app(hub, with_worker=False)
        with TestClient(app, base_url=chosen.issuer, follow_redirects=False) as machine:
            stage = Stage(hub, app, clock, folder, machine)
            stage.furnish()
            assert stage.hr_browser is not None
            return Furniture(stage.person, stage.secrets, stage.api_token, dict(stage.hr_browser.cookies))
    finally:
        hub.close()


STAGE = Furnishing("stage", _furnish)
"""A database of `Stage.furnish`, at the instant at which `Clock` starts."""
