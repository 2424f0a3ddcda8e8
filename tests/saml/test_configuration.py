"""Service providers in `apps.yaml`: metadata at hand, at an address, or guided entry; and what is read again."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from idhub.access.tables import SamlServiceProvider
from idhub.api.export import export_configuration
from idhub.errors import Conflict, Invalid, Unavailable
from idhub.saml.refresh import refresh_due, warnings
from providers.saml_wire import names, parsing
from providers.saml_wire.certificates import read_certificate
from providers.saml_wire.signatures import verify
from tests.saml.conftest import ENTITLED, Scene
from tests.saml.partner import Partner, make_signer, pem_of, read_answer


@pytest.fixture
def partner(scene: Scene, request: pytest.FixtureRequest) -> Iterator[Partner]:
    """An application of this test alone."""
    name = request.node.name[:40].replace("[", "-").replace("]", "").replace("_", "-").lower().strip("-")
    yield Partner(scene.partner.issuer, f"https://{name}.example/sp", f"https://{name}.example/acs")


def _apply(scene: Scene, saml: dict[str, Any], slug: str = "configured") -> Any:
    return scene.apply({"slug": slug, "name": slug, "saml": saml, "entitle": ENTITLED})


def _write(scene: Scene, name: str, content: bytes | str) -> str:
    path = scene.stage.folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def _row(scene: Scene, entity_id: str) -> SamlServiceProvider:
    with scene.stage.hub.database.read() as session:
        row = session.execute(
            select(SamlServiceProvider).where(SamlServiceProvider.entity_id == entity_id)
        ).scalar_one()
        session.expunge_all()
        return row


def test_metadata_at_hand_is_enough(scene: Scene, partner: Partner) -> None:
    name = _write(scene, "sp.xml", partner.metadata())
    applied = _apply(scene, {"metadata_file": name})
    assert applied.changes
    assert not _apply(scene, {"metadata_file": name}).changes, "idempotent"
    row = _row(scene, partner.entity_id)
    assert row.wants_signed_requests, "as its metadata says"
    assert read_answer(scene.ask(scene.signed_in(), partner=partner)).status == ["Success"]


@pytest.mark.parametrize(
    ("block", "field", "rule"),
    [
        ({}, "saml", "saml.source"),
        ({"metadata_file": "sp.xml", "acs_urls": ["https://a.example"]}, "saml", "saml.source"),
        ({"metadata_url": "https://a.example/m", "certificates": ["x"], "entity_id": "x"}, "saml", "saml.source"),
        ({"metadata_url": "https://a.example/m"}, "saml.entity_id", "required"),
        ({"metadata_url": "http://a.example/m", "entity_id": "x"}, "saml.metadata_url", "uri.http"),
        ({"acs_urls": ["https://a.example/"]}, "saml.entity_id", "required"),
        ({"acs_urls": ["javascript:alert(1)"], "entity_id": "x"}, "saml.acs_urls", "uri.scheme"),
        ({"acs_urls": ["http://a.example/"], "entity_id": "x"}, "saml.acs_urls", "uri.http"),
        ({"acs_urls": ["https://a.example/", {"url": "https://b.example/", "index": 0}], "entity_id": "x"},
         "saml.acs_urls", "saml.index"),
        ({"acs_urls": ["https://a.example/"], "entity_id": "x", "want_signed_requests": True},
         "saml.want_signed_requests", "saml.certificate"),
        ({"acs_urls": ["https://a.example/"], "entity_id": "x", "encrypt_assertion": True},
         "saml.encrypt_assertion", "saml.certificate"),
        ({"acs_urls": ["https://a.example/"], "entity_id": "x", "encrypt_assertion": True, "sign": "response"},
         "saml.sign", "saml.sign"),
        ({"acs_urls": ["https://a.example/"], "entity_id": "x",
          "logout": [{"binding": "post", "url": "https://a.example/slo"}]}, "saml.logout", "saml.certificate"),
        ({"acs_urls": ["https://a.example/"], "entity_id": "x", "certificates": ["nothing.pem"]},
         "saml.certificates", "file.unreadable"),
        ({"acs_urls": ["https://a.example/"], "entity_id": "x", "certificates": ["MII="]},
         "saml.certificates", "certificate.form"),
        ({"metadata_file": "nothing.xml"}, "saml.metadata_file", "file.unreadable"),
        ({"acs_urls": ["https://a.example/"], "entity_id": "x", "metadata_certificate_file": "x"},
         "saml.metadata_certificate_file", "saml.source"),
    ],
)  # fmt: skip
def test_a_block_that_cannot_be_used(scene: Scene, block: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(Invalid) as caught:
        _apply(scene, block, "broken")
    assert (caught.value.field, caught.value.rule) == (f"applications.broken.{field}", rule)


@pytest.mark.parametrize(
    "block",
    [
        {"attributes": {"x": "password"}}, {"name_id_format": "kerberos"}, {"sign": "none"}, {"unknown": 1},
        {"not_entitled": "silence"}, {"entity_id": "a\nb"}, {"attributes": {"": "email"}},
    ],
)  # fmt: skip
def test_a_value_that_is_none(scene: Scene, block: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        _apply(scene, {**scene.partner.block(), **block}, "broken")
    assert str(caught.value.rule).startswith("configuration.")


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        (b"<!DOCTYPE a><a/>", "xml.dtd"),
        (b"<a/>", "metadata.form"),
        (Partner("x").metadata(acs="javascript:alert(1)"), "uri.scheme"),
        (Partner("x").metadata(acs="http://plain.example/acs"), "uri.http"),
        (Partner("x").metadata(attributes='validUntil="2020-01-01T00:00:00Z"'), "metadata.expired"),
    ],
)
def test_metadata_that_cannot_be_used(scene: Scene, document: bytes, rule: str) -> None:
    """S13, S15: before anything is written."""
    name = _write(scene, "bad.xml", document)
    with pytest.raises(Invalid) as caught:
        _apply(scene, {"metadata_file": name}, "broken")
    assert caught.value.rule == rule


def test_a_pinned_certificate_decides_whose_metadata_it_is(scene: Scene, partner: Partner) -> None:
    federation = make_signer("federation")
    pem = _write(scene, "federation.pem", pem_of(federation.certificate))
    block = {"metadata_file": _write(scene, "sp.xml", partner.metadata()), "metadata_certificate_file": pem}
    with pytest.raises(Invalid) as caught:
        _apply(scene, block)
    assert caught.value.rule == "signature.missing"


def test_an_entity_id_belongs_to_one_application(scene: Scene, partner: Partner) -> None:
    _apply(scene, partner.block())
    with pytest.raises(Conflict) as caught:
        _apply(scene, partner.block(), "thief")
    assert caught.value.rule == "saml.taken"


def test_a_service_provider_that_is_left_out_is_switched_off(scene: Scene, partner: Partner) -> None:
    _apply(scene, partner.block())
    scene.apply({"slug": "configured", "name": "configured", "entitle": ENTITLED})
    assert not _row(scene, partner.entity_id).is_enabled
    assert scene.ask(scene.signed_in(), partner=partner).status_code == 400
    _apply(scene, partner.block())
    assert scene.ask(scene.signed_in(), partner=partner).status_code == 200


def test_export_is_what_apply_takes(scene: Scene, partner: Partner) -> None:
    _apply(scene, partner.block(sign="assertion", idp_initiated=True, attributes={"uid": "employee_number"}))
    with scene.stage.hub.database.read() as session:
        document = export_configuration(session)
    assert partner.entity_id in document
    path = scene.stage.folder / "export.yaml"
    path.write_text(document, encoding="utf-8")
    from idhub.api.configuration import apply
    from idhub.changes import COMMAND_LINE

    for slug in ("jwt-app", "opaque-app"):
        assert (scene.stage.folder / f"{slug}.secret").exists()
    hub = scene.stage.hub
    applied = apply(hub.database, hub.keyring, path, clock=scene.stage.clock, actor=COMMAND_LINE, door="cli")
    assert applied.changes == []


# ---------------------------------------------------------------------- metadata at an address


def test_metadata_at_an_address_is_read_by_the_worker_and_again(scene: Scene, partner: Partner) -> None:
    url = "https://federation.example/sp.xml"
    _apply(scene, {"metadata_url": url, "entity_id": partner.entity_id})
    assert scene.ask(scene.signed_in(), partner=partner).status_code == 400, "not read yet"
    database = scene.stage.hub.database
    with database.read() as session:
        assert any("never read" in sentence for sentence in warnings(session, now=scene.now))
    answers: dict[str, bytes] = {url: partner.metadata(attributes='validUntil="2026-12-01T00:00:00Z"')}

    def fetch(address: str) -> bytes:
        if address not in answers:
            raise Unavailable("No connection to federation.example.")
        return answers[address]

    assert refresh_due(database, fetch, now=scene.now) == 1
    assert scene.ask(scene.signed_in(), partner=partner).status_code == 200
    assert refresh_due(database, fetch, now=scene.now) == 0, "not due"
    assert refresh_due(database, fetch, now=scene.now - timedelta(days=1)) == 1, "it was read on a clock that was wrong"
    assert refresh_due(database, fetch, now=scene.now) == 1

    answers.clear()
    scene.stage.clock.advance(hours=6)
    assert refresh_due(database, fetch, now=scene.now) == 1
    assert scene.ask(scene.signed_in(), partner=partner).status_code == 200, "what was known stays in force"
    with database.read() as session:
        assert any("No connection to federation.example." in one for one in warnings(session, now=scene.now))
    failures = [e for e in scene.events("application.changed") if e["outcome"] == "failure"]
    scene.stage.clock.advance(minutes=15)
    refresh_due(database, fetch, now=scene.now)
    again = [e for e in scene.events("application.changed") if e["outcome"] == "failure"]
    assert len(again) == len(failures), "one event for one cause"

    answers[url] = partner.metadata(attributes='validUntil="2026-12-01T00:00:00Z"', acs=f"{partner.acs}/new")
    scene.stage.clock.advance(minutes=15)
    refresh_due(database, fetch, now=scene.now)
    moved = scene.ask(scene.signed_in(), partner=partner, AssertionConsumerServiceURL=None)
    assert read_answer(moved).action == f"{partner.acs}/new"
    answers[url] = Partner("x", "https://another.example/sp").metadata()
    scene.stage.clock.advance(hours=7)
    refresh_due(database, fetch, now=scene.now)
    assert "another entity" in (_row(scene, partner.entity_id).metadata_error or "")

    scene.stage.clock.now = scene.stage.clock.now.replace(month=12, day=1)
    assert scene.ask(scene.signed_in(), partner=partner).status_code == 400, "no longer valid by its own word"
    with database.read() as session:
        assert any("no longer valid" in sentence for sentence in warnings(session, now=scene.now))


def test_metadata_that_breaks_the_reader_keeps_no_others_from_being_read(scene: Scene, partner: Partner) -> None:
    """The one that is due longest is read first: what it broke off stayed due, and nobody else was read any more."""
    bad, good = "https://bad.example/sp.xml", "https://good.example/sp.xml"
    _apply(scene, {"metadata_url": bad, "entity_id": f"{partner.entity_id}/bad"}, slug="breaks")
    _apply(scene, {"metadata_url": good, "entity_id": partner.entity_id}, slug="reads")

    def fetch(address: str) -> bytes:
        if address == bad:
            raise ZeroDivisionError("what nobody thought of")
        if address == good:
            return partner.metadata()
        raise Unavailable("Of another test.")

    database = scene.stage.hub.database
    assert refresh_due(database, fetch, now=scene.now) >= 2
    assert scene.ask(scene.signed_in(), partner=partner).status_code == 200
    row = _row(scene, f"{partner.entity_id}/bad")
    assert row.metadata_error == "The metadata could not be read (ZeroDivisionError)."
    assert row.metadata_due_at is not None and row.metadata_due_at > scene.now
    assert refresh_due(database, fetch, now=scene.now) == 0
    for slug in ("breaks", "reads"):
        scene.apply({"slug": slug, "name": slug, "entitle": []})


def test_certificates_that_run_out_are_told_in_time(scene: Scene, partner: Partner) -> None:
    soon = make_signer("soon", now=scene.now, days=20)
    _apply(scene, partner.block(certificates=[soon.certificate]))
    with scene.stage.hub.database.read() as session:
        said = [one for one in warnings(session, now=scene.now) if one.startswith("configured:")]
        later = [one for one in warnings(session, now=scene.now + timedelta(days=21)) if one.startswith("configured:")]
    assert len(said) == len(later) == 1
    assert "signing certificate" in said[0] and "expires on" in said[0]
    assert "expired on" in later[0]
    shared = Partner(partner.issuer, partner.entity_id, partner.acs, soon)
    scene.stage.clock.advance(days=21)
    assert scene.ask(scene.signed_in(), partner=shared).status_code == 200, "a certificate is a carrier of a key"


# ---------------------------------------------------------------------- our own metadata


def test_our_metadata_is_signed_and_names_what_there_is(scene: Scene) -> None:
    answer = scene.browser().get("/saml/metadata")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/samlmetadata+xml")
    key = read_certificate(scene.certificate).public_key
    entity = verify(parsing.parse(answer.content), [key])
    assert entity.get("entityID") == scene.entity_id
    spaces = {"md": names.METADATA, "ds": names.DS}
    services = {
        (one.tag.rpartition("}")[2], (one.get("Binding") or "").rpartition(":")[2]): one.get("Location")
        for one in entity.iter()
        if one.get("Binding")
    }
    issuer = scene.partner.issuer
    assert services == {
        ("ArtifactResolutionService", "SOAP"): f"{issuer}/saml/artifact",
        ("SingleSignOnService", "HTTP-Redirect"): f"{issuer}/saml/sso",
        ("SingleSignOnService", "HTTP-POST"): f"{issuer}/saml/sso",
        ("SingleLogoutService", "HTTP-Redirect"): f"{issuer}/saml/slo",
        ("SingleLogoutService", "HTTP-POST"): f"{issuer}/saml/slo",
        ("SingleLogoutService", "SOAP"): f"{issuer}/saml/slo/soap",
    }
    assert [one.text for one in entity.iterfind(".//ds:X509Certificate", spaces)] == [scene.certificate]
