"""Relying parties in `apps.yaml`, and what an administrator sees of them."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from idhub.api.export import export_configuration
from idhub.authority import HubRole, assign_role
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Principal
from idhub.errors import Conflict, Invalid
from idhub.saml.refresh import warnings
from tests.flows.every_door import HR_NUMBER, NUMBER
from tests.saml.conftest import ENTITLED
from tests.saml.partner import Partner
from tests.wsfed.relying_party import CLAIMS, REALM, REPLY, Parties

PATH = "/admin/apps/portal/wsfed"


@pytest.fixture
def again(parties: Parties) -> Parties:
    parties.connect()
    return parties


def test_what_is_exported_can_be_applied_and_changes_nothing(again: Parties) -> None:
    again.connect(
        token="saml1.1", token_lifetime="1h", name_id_format="email", attributes={f"{CLAIMS}/upn": "email"},
        cleanup_url=f"{REPLY}?x=1",
    )  # fmt: skip
    with again.scene.stage.hub.database.read() as session:
        blocks = {one["slug"]: one for one in yaml.safe_load(export_configuration(session))["applications"]}
    assert blocks["portal"]["wsfed"] == {
        "realm": REALM,
        "reply_urls": [REPLY],
        "cleanup_url": f"{REPLY}?x=1",
        "token": "saml1.1",
        "token_lifetime": 3600,
        "name_id_format": "email",
        "attributes": {f"{CLAIMS}/upn": "email"},
    }
    assert "saml" not in blocks["portal"]
    applied = again.scene.apply(blocks["portal"])
    assert [one for one in applied.differences if not one.is_empty] == []


def test_a_change_is_told_by_its_field(again: Parties) -> None:
    (difference,) = again.connect(token="saml1.1").differences
    assert [name for name, _, _ in difference.changes] == ["wsfed.assertion_version"]
    assert again.scene.events("application.changed")[-1]["details"]["changes"][0]["field"] == "wsfed.assertion_version"


def test_one_that_is_no_longer_named_is_switched_off_and_comes_back_as_it_was(again: Parties) -> None:
    browser = again.scene.signed_in()
    name = again.read(again.ask(browser)).text(".//{*}NameID")
    again.scene.apply({"slug": "portal", "name": "portal", "entitle": ENTITLED})
    assert again.ask(browser).status_code == 400
    again.connect()
    assert again.read(again.ask(browser)).text(".//{*}NameID") == name


def test_an_audience_is_one_registration_whatever_it_speaks(again: Parties) -> None:
    """With one key behind both, an assertion for the one must not do for the other."""
    partner = Partner(again.scene.partner.issuer, REALM, "https://other.example/acs")
    with pytest.raises(Conflict) as taken:
        again.scene.connect("thief", partner=partner)
    assert (taken.value.field, taken.value.rule) == ("saml.entity_id", "saml.taken")
    again.scene.connect()
    with pytest.raises(Conflict) as taken:
        again.connect("thief", realm=again.scene.partner.entity_id)
    assert (taken.value.field, taken.value.rule) == ("wsfed.realm", "wsfed.taken")
    with pytest.raises(Conflict):
        again.scene.apply(
            {"slug": "portal", "name": "portal", "saml": partner.block(),
             "wsfed": {"realm": REALM, "reply_urls": [REPLY]}, "entitle": ENTITLED}
        )  # fmt: skip


def test_an_application_may_speak_both_and_move_from_one_to_the_other(again: Parties) -> None:
    partner = Partner(again.scene.partner.issuer, "https://portal.example/saml", "https://portal.example/acs")
    both = {"slug": "portal", "name": "portal", "saml": partner.block(),
            "wsfed": {"realm": REALM, "reply_urls": [REPLY]}, "entitle": ENTITLED}  # fmt: skip
    again.scene.apply(both)
    browser = again.scene.signed_in()
    assert again.scene.sign_on(browser, partner=partner).status == ["Success"]
    again.read(again.ask(browser))
    moved = Partner(again.scene.partner.issuer, REALM, "https://portal.example/acs")
    again.scene.apply({"slug": "portal", "name": "portal", "saml": moved.block(), "entitle": ENTITLED})
    assert again.ask(browser).status_code == 400
    assert again.scene.sign_on(browser, partner=moved).status == ["Success"]


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"reply_urls": ["http://portal.example/"]}, "wsfed.reply_urls", "uri.http"),
        ({"reply_urls": ["javascript:alert(1)"]}, "wsfed.reply_urls", "uri.scheme"),
        ({"reply_urls": ["https://portal.example/*", "https://user@portal.example/"]}, "wsfed.reply_urls", None),
        ({"reply_urls": [REPLY, REPLY]}, "wsfed.reply_urls", "wsfed.twice"),
        ({"reply_urls": []}, None, None),
        ({"cleanup_url": "data:text/html,x"}, "wsfed.cleanup_url", "uri.scheme"),
        ({"realm": ""}, None, None),
        ({"realm": "nul\0"}, None, None),
        ({"realm": "x" * 1025}, None, None),
        ({"token": "jwt"}, None, None),
        ({"token": "saml1.1", "attributes": {"mail": "email"}}, "wsfed.attributes", "wsfed.claim"),
        ({"token": "saml1.1", "attributes": {"/mail": "email"}}, "wsfed.attributes", "wsfed.claim"),
        ({"attributes": {"mail": "password"}}, None, None),
        ({"token_lifetime": "4m"}, "wsfed.token_lifetime", "wsfed.lifetime"),
        ({"token_lifetime": "13h"}, "wsfed.token_lifetime", "wsfed.lifetime"),
        ({"token_lifetime": "soon"}, "wsfed.token_lifetime", "duration"),
        ({"encrypt": True}, None, None),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_field_and_rule(
    again: Parties, changes: dict[str, Any], field: str | None, rule: str | None
) -> None:
    with pytest.raises(Invalid) as refused:
        again.connect("refused", **{"realm": "urn:refused", **changes})
    if field is not None:
        assert refused.value.field == f"applications.refused.{field}"
    if rule is not None:
        assert refused.value.rule == rule
    assert again.ask(again.scene.signed_in(), wtrealm="urn:refused").status_code == 400


def test_nothing_of_it_runs_out(again: Parties) -> None:
    with again.scene.stage.hub.database.read() as session:
        assert [one for one in warnings(session, now=again.now) if one.startswith("portal")] == []


# ---------------------------------------------------------------------- pages


@pytest.fixture(scope="module")
def administrator(parties: Parties) -> Iterator[TestClient]:
    """A colleague who runs the hub."""
    from sqlalchemy import select

    scene = parties.scene
    with scene.stage.hub.database.transaction() as session:
        other = session.scalars(select(Principal.id).where(Principal.id != scene.stage.person)).one()
        assign_role(
            session, other, HubRole.ADMINISTRATOR, organization_id=root_organization(session), now=scene.now,
            assigned_by="test",
        )  # fmt: skip
    yield scene.signed_in(HR_NUMBER)


def test_lists_and_marks_know_it(again: Parties, administrator: TestClient) -> None:
    listed = administrator.get("/admin/apps", params={"protocol": "wsfed"}).text
    line = listed.partition('data-test="portal"')[2].partition("</tr>")[0]
    assert '<span class="proto">WS-Fed</span>' in line
    assert '<span class="proto">SAML</span>' not in line
    assert "Not told" in line, "nobody's browser is at hand when somebody leaves"
    assert 'data-test="saml-app"' not in listed
    assert 'data-test="portal"' not in administrator.get("/admin/apps", params={"protocol": "saml"}).text
    page = administrator.get("/admin/apps/portal").text
    assert f'href="{PATH}"' in page
    assert REALM in page
    assert "not told of a leave" in page


def test_the_page_shows_how_it_is_connected_and_what_a_token_would_say(
    again: Parties, administrator: TestClient
) -> None:
    again.connect(token="saml1.1", token_lifetime="1h")
    page = administrator.get(PATH, params={"person": NUMBER})
    assert page.status_code == 200
    for shown in (REALM, REPLY, "SAML 1.1", "WS-Federation · portal", f"{CLAIMS}/emailaddress", "wsignoutcleanup1.0"):
        assert shown in page.text, shown
    for hidden in ("Certificates", "Sign-in from the portal", "Encrypted"):
        assert hidden not in page.text, hidden
    assert administrator.get("/admin/apps/portal/saml").status_code == 409
    assert administrator.get("/admin/apps/saml-app/wsfed").status_code == 409
