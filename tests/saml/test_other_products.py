"""Service providers that nobody here wrote, each in a process of its own: sign-on, attributes, logout."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.flows.every_door import NUMBER
from tests.saml.conftest import Scene
from tests.saml.partner import Partner, one_signer, pem_of, read_answer
from tests.saml.test_logout import _follow, _is_signed_in

_SCRIPT = Path(__file__).with_name("service_provider.py")
_SLO = "https://product.example/slo"


class Product:
    """The process, whose imports take longer than its answers."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self.name, self._process = name, process

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Its answer to an order."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "raised" not in answer, answer["raised"]
        return answer


@pytest.fixture(scope="module", params=["python3-saml", "pysaml2"])
def product(request: pytest.FixtureRequest) -> Iterator[Product]:
    command = [sys.executable, str(_SCRIPT), request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Product(request.param, process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def running(scene: Scene, product: Product) -> Partner:
    """The product's registration. It reads the machine's clock, so the hub does too."""
    scene.stage.clock.now = max(scene.stage.clock.now, datetime.now(UTC))
    partner = Partner(scene.partner.issuer, f"https://{product.name}.example/sp", f"https://{product.name}.example/acs")
    scene.connect(
        product.name, partner=partner, logout=[{"binding": "redirect", "url": _SLO}], want_signed_requests=True
    )
    return partner


def _order(scene: Scene, product: Product, partner: Partner, do: str, **values: Any) -> dict[str, Any]:
    key = one_signer().private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    metadata = scene.browser().get("/saml/metadata").text
    order = {
        "do": do, "entity_id": partner.entity_id, "acs": partner.acs, "slo": _SLO, "key": key,
        "certificate": pem_of(one_signer().certificate), "metadata": metadata, **values,
    }  # fmt: skip
    return product.ask(order)


def test_sign_on_attributes_and_logout(scene: Scene, product: Product, running: Partner) -> None:
    browser = scene.signed_in()
    asked = _order(scene, product, running, "login", relay_state="rs-1")
    page = browser.get(asked["location"].removeprefix(scene.partner.issuer))
    assert page.status_code == 200, page.text[:2000]
    carried = read_answer(page)
    assert (carried.action, carried.relay_state, carried.status) == (running.acs, "rs-1", ["Success"])
    response = base64.b64encode(carried.document).decode()
    taken = _order(scene, product, running, "consume", response=response, id=asked["id"])
    assert taken["errors"] == []
    assert taken["attributes"]["employeeNumber"] == [NUMBER]
    assert taken["attributes"]["roles"] == ["member"]
    assert taken["name_id"] == carried.text(".//saml:NameID")
    if product.name == "pysaml2":
        return
    out = _order(
        scene, product, running, "logout", relay_state="bye", name_id=taken["name_id"],
        session_index=taken["session_index"],
    )  # fmt: skip
    back = _follow(browser, browser.get(out["location"].removeprefix(scene.partner.issuer)))
    assert back.status_code == 303, back.text[:2000]
    assert back.headers["location"].startswith(_SLO)
    assert not _is_signed_in(browser)
    assert _order(scene, product, running, "logged_out", url=back.headers["location"], id=out["id"])["errors"] == []


def test_a_response_that_was_changed_is_refused_by_the_product(
    scene: Scene, product: Product, running: Partner
) -> None:
    """Without this, the test above could pass with a product that verifies nothing."""
    browser = scene.signed_in()
    asked = _order(scene, product, running, "login", relay_state="rs-1")
    carried = read_answer(browser.get(asked["location"].removeprefix(scene.partner.issuer)))
    changed = carried.document.replace(b">member<", b">admin<")
    assert changed != carried.document
    order = {"response": base64.b64encode(changed).decode(), "id": asked["id"]}
    try:
        taken = _order(scene, product, running, "consume", **order)
    except AssertionError as refused:
        assert "ignature" in str(refused)
        return
    assert taken["errors"]
