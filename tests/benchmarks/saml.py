"""Signed SAML responses a second on one core, PySAML2's beside the hub's; and how long a person waits for one.

    python -m tests.benchmarks.saml

Rates are by processor time of this process and of those that it starts (PySAML2 runs xmlsec1 for each signature). Both
make the same response: one person, nine attributes, response and assertion signed with RSA-2048 and SHA-256. The floor
is two such signatures and nothing else.

Latencies are of one browser at `idhub serve` on SQLite: from the submitted sign-in form (argon2id as it is set) to the
page that carries the response, and from a signed request to that page where there is a session already.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import select

from idhub.access.service_providers import ProviderFacts, SamlWish, configure_service_providers
from idhub.access.tables import Application
from idhub.saml import messages
from idhub.services import open_hub
from idhub.settings import Settings
from providers.saml_wire import names
from providers.saml_wire.bindings import post_value
from providers.saml_wire.signatures import Signer
from providers.saml_wire.writing import render
from tests.benchmarks import hub
from tests.benchmarks.figures import quantile
from tests.saml.partner import Partner, make_signer, pem_of
from tests.support.processes import free_port, running

_ROUNDS = 3
_SIGN_INS = 100
_SIGN_ONS = 5
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


def _ours(signer: Signer, *, signs_response: bool = True) -> Callable[[], object]:
    protection = messages.Protection(signer=signer, signs_response=signs_response, signs_assertion=True)

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


def _connect(folder: Path, issuer: str, partner: Partner) -> list[str]:
    """A hub with the service provider on an application that everybody may enter; returns their login names."""
    people = hub.prepare(folder).real
    opened = open_hub(Settings(data_dir=folder, issuer=issuer))
    try:
        with opened.database.transaction() as session:
            application_id = session.execute(select(Application.id).where(Application.slug == "web")).scalar_one()
            facts = ProviderFacts(
                consumer_services=[{"index": 0, "location": partner.acs, "is_default": True}],
                signing_certificates=[partner.signer.certificate],
            )
            wish = SamlWish(entity_id=partner.entity_id, facts=facts, wants_signed_requests=True)
            configure_service_providers(session, application_id, [wish], now=datetime.now(UTC))
    finally:
        opened.close()
    return people


def _milliseconds(act: Callable[[], httpx2.Response]) -> float:
    began = time.perf_counter()
    page = act()
    took = (time.perf_counter() - began) * 1_000
    assert page.status_code == 200 and "SAMLResponse" in page.text, (page.status_code, page.text[:500])
    return took


def _latencies(folder: Path) -> dict[str, list[float]]:
    """Milliseconds of sign-ins and of sign-ons with a session, one after another."""
    port = free_port()
    issuer = f"http://127.0.0.1:{port}"
    partner = Partner(issuer, _SP, _ACS, make_signer("latency"))
    people = _connect(folder, issuer, partner)
    environment = {"IDHUB_DATA_DIR": str(folder), "IDHUB_ISSUER": issuer}
    command: list[str | Path] = [Path(sys.executable).parent / "idhub", "serve", "--port", str(port)]
    found: dict[str, list[float]] = {"sign-in": [], "sign-on": []}
    with running(command, port=port, log=folder / "serve.log", env=environment):
        for number in people[:_SIGN_INS]:
            with httpx2.Client(base_url=issuer, follow_redirects=True, trust_env=False) as browser:
                page = browser.get(partner.redirect(partner.authn_request(datetime.now(UTC))))
                fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
                fields |= {"username": number, "password": f"{hub.PASSWORD} {number}"}
                origin = {"origin": issuer}
                submit = partial(browser.post, "/login", data=fields, headers=origin)
                found["sign-in"].append(_milliseconds(submit))
                for _ in range(_SIGN_ONS):
                    url = partner.redirect(partner.authn_request(datetime.now(UTC)))
                    found["sign-on"].append(_milliseconds(partial(browser.get, url)))
    return found


def _rows_of_latencies() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as made:
        found = _latencies(Path(made))
    said = {
        "sign-in": "SAML: from the sign-in form to the response",
        "sign-on": "SAML: from a request to the response, with a session",
    }
    rows = []
    for kind, values in found.items():
        for mark, share in (("p50", 0.5), ("p99", 0.99)):
            rows.append(
                {
                    "name": f"{said[kind]}, {mark} of {len(values)}", "value": round(quantile(values, share), 1),
                    "unit": "ms", "database": "sqlite", "durability": "sessions normal",
                }
            )  # fmt: skip
    return rows


def measure() -> list[dict[str, Any]]:
    """Rows that `make bench` collects: medians of rounds that take turns, and latencies."""
    signer = make_signer("benchmark")
    with tempfile.TemporaryDirectory() as made:
        subjects: dict[str, tuple[Callable[[], object], int]] = {
            "idhub": (_ours(signer), 1_000),
            "once": (_ours(signer, signs_response=False), 1_000),
            "floor": (lambda: (signer.sign(b"x" * 500), signer.sign(b"y" * 500)), 1_000),
            "pysaml2": (_pysaml2(signer, Path(made)), 10),
        }
        rates: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(_ROUNDS):
            for name, (make, number) in subjects.items():
                rates[name].append(_rate(make, number))
    found = {name: statistics.median(values) for name, values in rates.items()}
    rows = (
        ("SAML responses, doubly signed", found["idhub"], "per second and core"),
        ("SAML responses, the assertion alone signed", found["once"], "per second and core"),
        ("SAML responses against the floor of two signatures", found["idhub"] / found["floor"], "times"),
        ("the same by PySAML2", found["pysaml2"], "per second and core"),
        ("SAML responses against PySAML2", found["idhub"] / found["pysaml2"], "times"),
    )
    return [
        {"name": name, "value": round(value, 2), "unit": unit, "database": "none", "durability": "none"}
        for name, value, unit in rows
    ] + _rows_of_latencies()


if __name__ == "__main__":
    for row in measure():
        print(f"{row['name']}: {row['value']} {row['unit']}")
