"""Signed SAML responses a second on one core: the hub's, and PySAML2's beside them.

    python -m tests.benchmarks.saml

Time is processor time of this process and of those that it starts (PySAML2 runs xmlsec1 for each signature). Both make
the same response: one person, nine attributes, response and assertion signed with RSA-2048 and SHA-256.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from idhub.saml import messages
from providers.saml_wire import names
from providers.saml_wire.bindings import post_value
from providers.saml_wire.signatures import Signer
from providers.saml_wire.writing import render
from tests.saml.partner import Partner, make_signer, pem_of

_ROUNDS = 3
_ENTITY, _SP, _ACS = "https://hub.example/saml/metadata", "https://partner.example/sp", "https://partner.example/acs"
_ATTRIBUTES = {f"attribute{number}": [f"value {number}"] for number in range(9)}


def _processor_time() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _rate(make: Callable[[], object], number: int) -> float:
    make()
    began = _processor_time()
    for _ in range(number):
        make()
    return number / (_processor_time() - began)


def _ours(signer: Signer) -> Callable[[], object]:
    protection = messages.Protection(signer=signer, signs_response=True, signs_assertion=True)

    def make() -> str:
        now = datetime.now(UTC)
        statement = messages.Statement(
            audience=_SP,
            recipient=_ACS,
            in_response_to=messages.new_id(),
            name_id="5d8f0b6d2c1e4a7f9b3c5d8f0b6d2c1e4a7f9b3c",
            name_id_format=names.PERSISTENT,
            session_index=messages.new_id(),
            session_ends_at=now + timedelta(hours=8),
            authenticated_at=now,
            context=names.PASSWORD_PROTECTED,
            attributes=_ATTRIBUTES,
        )
        return post_value(render(messages.response(_ENTITY, statement, protection, now=now)))

    return make


def _pysaml2(signer: Signer, folder: Path) -> Callable[[], object]:
    from saml2.config import IdPConfig
    from saml2.saml import NAMEID_FORMAT_PERSISTENT, NameID
    from saml2.server import Server

    key = signer.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(key)
    (folder / "certificate.pem").write_text(pem_of(signer.certificate))
    (folder / "metadata.xml").write_bytes(Partner("", _SP, _ACS, signer).metadata())
    config = IdPConfig()
    config.load(
        {
            "entityid": _ENTITY,
            "key_file": str(folder / "key.pem"),
            "cert_file": str(folder / "certificate.pem"),
            "metadata": {"local": [str(folder / "metadata.xml")]},
            "service": {"idp": {"endpoints": {"single_sign_on_service": []}, "policy": {"default": {}}}},
        }
    )
    server = Server(config=config)

    def make() -> object:
        return server.create_authn_response(
            _ATTRIBUTES,
            messages.new_id(),
            _ACS,
            _SP,
            name_id=NameID(format=NAMEID_FORMAT_PERSISTENT, text="somebody"),
            authn={"class_ref": names.PASSWORD_PROTECTED, "authn_auth": _ENTITY},
            sign_assertion=True,
            sign_response=True,
            sign_alg="http://www.w3.org/2001/04/xmldsig-more#rsa-sha256",
            digest_alg="http://www.w3.org/2001/04/xmlenc#sha256",
        )

    return make


def measure() -> list[dict[str, Any]]:
    """Rows that `make bench` collects: medians of rounds that take turns."""
    signer = make_signer("benchmark")
    with tempfile.TemporaryDirectory() as made:
        subjects = {"idhub": (_ours(signer), 1_000), "pysaml2": (_pysaml2(signer, Path(made)), 10)}
        rates: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(_ROUNDS):
            for name, (make, number) in subjects.items():
                rates[name].append(_rate(make, number))
    found = {name: statistics.median(values) for name, values in rates.items()}
    rows = (
        ("SAML responses, doubly signed", found["idhub"], "per second and core"),
        ("the same by PySAML2", found["pysaml2"], "per second and core"),
        ("SAML responses against PySAML2", found["idhub"] / found["pysaml2"], "times"),
    )
    return [
        {"name": name, "value": round(value, 1), "unit": unit, "database": "none", "durability": "none"}
        for name, value, unit in rows
    ]


if __name__ == "__main__":
    for row in measure():
        print(f"{row['name']}: {row['value']} {row['unit']}")
