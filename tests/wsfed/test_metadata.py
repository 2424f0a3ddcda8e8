"""Federation metadata: what applications read of the hub, signed, over a rollover of keys."""

from typing import Any

import pytest
from lxml import etree
from signxml.exceptions import InvalidDigest

from idhub.keys import rotate
from idhub.services import open_hub
from idhub.wsfed.metadata import metadata_document
from tests.wsfed.relying_party import Parties, verified

NS = {
    "md": "urn:oasis:names:tc:SAML:2.0:metadata",
    "fed": "http://docs.oasis-open.org/wsfed/federation/200706",
    "wsa": "http://www.w3.org/2005/08/addressing",
    "ds": "http://www.w3.org/2000/09/xmldsig#",
    "auth": "http://docs.oasis-open.org/wsfed/authorization/200706",
}
_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"


def test_metadata_is_signed_and_names_the_place(parties: Parties) -> None:
    """WS-Federation 3.1: a role of the token service, whose type is a name that its namespaces resolve."""
    machine = parties.scene.stage.machine
    page = machine.get("/wsfed/metadata")
    assert page.status_code == 200
    assert page.content == machine.get("/FederationMetadata/2007-06/FederationMetadata.xml").content
    entity = verified(etree.fromstring(page.content), parties.scene.certificate)
    assert entity.get("entityID") == parties.issuer
    role: Any = etree.fromstring(page.content).find("md:RoleDescriptor", NS)
    prefix, _, name = role.get(_TYPE).partition(":")
    assert (role.nsmap[prefix], name) == (NS["fed"], "SecurityTokenServiceType")
    address = f"{parties.scene.stage.hub.settings.issuer}/wsfed"
    assert role.findtext("fed:PassiveRequestorEndpoint//wsa:Address", None, NS) == address
    assert [one.get("Uri") for one in role.iterfind(".//fed:TokenType", NS)] == [
        "urn:oasis:names:tc:SAML:2.0:assertion",
        "urn:oasis:names:tc:SAML:1.0:assertion",
    ]
    adfs = entity.find("md:IDPSSODescriptor", NS)
    assert adfs.find("md:SingleSignOnService", NS).get("Location") == address


def test_what_is_changed_in_signed_metadata_is_noticed(parties: Parties) -> None:
    document = parties.scene.stage.machine.get("/wsfed/metadata").content
    for before, after in ((b"fed:SecurityTokenServiceType", b"fed:ApplicationServiceType"), (b"/wsfed<", b"/other<")):
        assert before in document
        with pytest.raises(InvalidDigest):
            verified(etree.fromstring(document.replace(before, after)), parties.scene.certificate)


def test_both_certificates_are_told_while_a_key_is_replaced(parties: Parties) -> None:
    """As SAML's metadata: the next certificate is announced before it signs."""
    stage = parties.scene.stage
    stage.clock.advance(hours=12)
    with stage.hub.database.transaction() as session:
        rotate(session, stage.hub.keyring, "saml", "RS256", now=parties.now)
    hub = open_hub(stage.hub.settings, clock=stage.clock)
    try:
        certificates = list(hub.keyring.certificates("saml"))
        entity = etree.fromstring(metadata_document(hub.settings.issuer, hub.keyring).encode())
    finally:
        hub.close()
    assert (certificates[0], len(certificates)) == (parties.scene.certificate, 2)
    verified(entity, certificates[0])
    for role in ("md:RoleDescriptor", "md:IDPSSODescriptor"):
        assert [one.text for one in entity.iterfind(f"{role}//ds:X509Certificate", NS)] == certificates
