"""`/admin/apps/{slug}/saml`: what an administrator sees of a service provider, and of a person's assertion."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from idhub.authority import HubRole, assign_role
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Principal
from tests.flows.every_door import HR_NUMBER, NUMBER
from tests.saml.conftest import Scene
from tests.saml.partner import Partner, make_signer

PATH = "/admin/apps/partner/saml"


@pytest.fixture(scope="module")
def administrator(scene: Scene) -> Iterator[TestClient]:
    """A colleague who runs the hub."""
    with scene.stage.hub.database.transaction() as session:
        other = session.scalars(select(Principal.id).where(Principal.id != scene.stage.person)).one()
        assign_role(
            session, other, HubRole.ADMINISTRATOR, organization_id=root_organization(session), now=scene.now,
            assigned_by="test",
        )  # fmt: skip
    yield scene.signed_in(HR_NUMBER)


def test_the_page_of_the_application_leads_there(scene: Scene, administrator: TestClient) -> None:
    page = administrator.get("/admin/apps/partner").text
    assert f'href="{PATH}"' in page
    assert scene.partner.entity_id in page
    assert "Not connected." not in page
    shown = administrator.get(PATH)
    assert shown.status_code == 200
    assert scene.partner.acs in shown.text
    assert administrator.get("/admin/apps/jwt-app/saml").status_code == 409
    assert administrator.get("/admin/apps/no-such-app/saml").status_code == 404


def test_the_list_of_applications_knows_how_it_is_connected_and_told(scene: Scene, administrator: TestClient) -> None:
    """One that takes logouts by SOAP is told; by the browser alone it is told by nobody when somebody leaves."""

    def line() -> str:
        page = administrator.get("/admin/apps", params={"protocol": "saml"}).text
        return page.partition('data-test="partner"')[2].partition("</tr>")[0]

    scene.connect(logout=[{"binding": "soap", "url": "https://partner.example/soap"}])
    try:
        assert '<span class="proto">SAML</span>' in line()
        assert "Not told" not in line()
    finally:
        scene.connect()
    assert "Not told" in line()
    assert 'data-test="jwt-app"' not in administrator.get("/admin/apps", params={"protocol": "saml"}).text


def test_looking_takes_no_turn_of_the_writer(scene: Scene, administrator: TestClient) -> None:
    with scene.stage.hub.database.transaction():
        assert administrator.get(PATH).status_code == 200


def test_the_preview_says_what_the_assertion_says(scene: Scene, administrator: TestClient) -> None:
    scene.connect(attributes={"uid": "employee_number", "mail": "email", "groups": "roles", "post": "title"})
    page = administrator.get(PATH, params={"person": NUMBER})
    assert page.status_code == 200
    preview = page.text.partition('data-test="assertion"')[2].partition("</tbody>")[0]
    answer = scene.sign_on(scene.signed_in())
    assert answer.attributes == {"uid": [NUMBER], "mail": [f"{NUMBER.lower()}@qiyue.example"], "groups": ["member"]}
    for name, values in answer.attributes.items():
        line = preview.partition(f">{name}<")[2].partition("</tr>")[0]
        assert f">{values[0]}<" in line
    assert ">—<" in preview.partition(">post<")[2].partition("</tr>")[0], "no value: left out of the assertion"
    seen = scene.events("page.viewed")[-1]
    assert (seen["person_id"], seen["details"]) == (scene.stage.person, {"page": "person.preview"})
    unknown = administrator.get(PATH, params={"person": "nobody-of-this-name"})
    assert (unknown.status_code, 'data-test="errors"' in unknown.text) == (200, True)


def test_the_preview_says_when_nothing_would_be_said(scene: Scene, administrator: TestClient) -> None:
    scene.connect(entitle=[{"role": "member", "rule": 'employments.companyCode eq "nobody"'}])
    try:
        assert 'data-test="not-entitled"' in administrator.get(PATH, params={"person": NUMBER}).text
    finally:
        scene.connect()
    assert 'data-test="not-entitled"' not in administrator.get(PATH, params={"person": NUMBER}).text


@pytest.mark.parametrize(("days", "state"), [(-1, "over"), (20, "ending"), (40, None)])
def test_a_certificate_that_runs_out_is_told(
    scene: Scene, administrator: TestClient, days: int, state: str | None
) -> None:
    signer = make_signer("short", now=scene.now - timedelta(days=10), days=10 + days)
    partner = Partner(scene.partner.issuer, "https://short.example/sp", "https://short.example/acs", signer)
    scene.connect("short", partner=partner)
    page = administrator.get("/admin/apps/short/saml").text
    found = {one for one in ("over", "ending") if f'data-test="certificate-{one}"' in page}
    assert found == ({state} if state else set())
