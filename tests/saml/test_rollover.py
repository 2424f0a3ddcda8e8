"""A new key of the hub: its certificate is published first, and signs after the next rotation."""

from contextlib import ExitStack
from pathlib import Path

from lxml import etree
from signxml.exceptions import InvalidSignature
from starlette.testclient import TestClient

from idhub.app import create_app
from idhub.keys import rotate
from idhub.services import open_hub
from idhub.settings import Settings
from tests.saml.conftest import Scene, furnished
from tests.saml.partner import NS, read_answer
from tests.support.clock import Clock
from tests.support.databases import Databases


def _restarted(scene: Scene) -> tuple[list[str], str]:
    """Certificates of the metadata, and who signed a response, after the hub was started again."""
    stage = scene.stage
    hub = open_hub(stage.hub.settings, clock=stage.clock)
    try:
        app = create_app(hub, with_worker=False)
        with TestClient(app, base_url=hub.settings.issuer, follow_redirects=False) as browser:
            metadata = etree.fromstring(browser.get("/saml/metadata").content)
            published = [str(one.text) for one in metadata.iterfind(".//md:KeyDescriptor//ds:X509Certificate", NS)]
            assert stage.sign_in(browser, "QY000001")
            answer = read_answer(scene.ask(browser))
    finally:
        hub.close()
    signed_by = []
    for certificate in published:
        try:
            answer.verify(certificate)
            signed_by.append(certificate)
        except InvalidSignature:
            continue
    (signer,) = signed_by
    return published, signer


def test_old_metadata_verifies_until_the_key_changes_and_new_metadata_before_and_after(
    databases: Databases, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(databases.fresh("sqlite", tmp_path, migrated=True))
        settings = Settings(data_dir=tmp_path, database_url=url, argon2_memory_kib=1024, argon2_time_cost=1)
        scene = stack.enter_context(furnished(settings, databases, Clock()))
        scene.connect()
        old, signer = _restarted(scene)
        assert old == [signer]
        _rotate(scene)
        both, signer = _restarted(scene)
        assert (both[0], len(both)) == (old[0], 2)
        assert signer == old[0], "who has the old metadata goes on, who has the new one too"
        _rotate(scene)
        new, signer = _restarted(scene)
        assert new == [both[1]]
        assert signer == both[1], "who read the metadata meanwhile knows it already"


def _rotate(scene: Scene) -> None:
    hub = scene.stage.hub
    scene.stage.clock.advance(hours=12)
    with hub.database.transaction() as session:
        rotate(session, hub.keyring, "saml", "RS256", now=scene.now)
