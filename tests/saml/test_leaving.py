"""What a leave says of SAML applications: told by SOAP with its grade, or not told, with what remains."""

from sqlalchemy import select

from idhub.access.tables import Application
from idhub.lifecycle.doors import Door
from idhub.lifecycle.ports import planners_of
from idhub.lifecycle.tables import CaseRow
from tests.flows.every_door import LEAVES
from tests.saml.conftest import Scene
from tests.saml.partner import Partner

LEAVER = "QY000001"


def test_a_leave_has_a_row_for_each_application_with_ceiling_and_residual(scene: Scene) -> None:
    told = Partner(scene.partner.issuer, "https://told.example/sp", "https://told.example/acs")
    scene.connect("told", partner=told, logout=[{"binding": "soap", "url": "https://told.example/soap"}])
    browser = scene.signed_in(LEAVER)
    scene.sign_on(browser)
    scene.sign_on(browser, partner=told)
    with scene.stage.hub.database.read() as session:
        preview = {
            row.application_id: row
            for planner in planners_of(session)
            for row in planner.preview(session, scene.stage.person, now=scene.now)
            if planner.channel == "saml_logout"
        }
        slugs = {row.id: row.slug for row in session.execute(select(Application.id, Application.slug))}
    seen = {slugs[key]: (row.channel, int(row.ceiling), list(row.notes)) for key, row in preview.items()}
    assert seen == {"told": ("saml_logout", 1, []), "partner": ("none", 0, ["not_told"])}

    LEAVES[Door.CLI, "now"](scene.stage)

    with scene.stage.hub.database.read() as session:
        rows = session.execute(
            select(Application.slug, CaseRow.channel, CaseRow.ceiling, CaseRow.required_grade, CaseRow.note,
                   CaseRow.residual_until, CaseRow.delivery_id, CaseRow.participant_id)
            .join(Application, Application.id == CaseRow.application_id)
            .where(Application.slug.in_(["told", "partner"]))
        ).all()  # fmt: skip
    found = {row.slug: row for row in rows}
    assert set(found) == {"told", "partner"}
    assert (found["told"].channel, found["told"].ceiling, found["told"].required_grade) == ("saml_logout", 1, 1)
    assert found["told"].delivery_id is not None
    assert (found["partner"].channel, found["partner"].ceiling, found["partner"].note) == ("none", 0, "not_told")
    # Its own session may go on until the assertion said: the residual is stated, not hidden.
    assert found["partner"].residual_until is not None
    assert found["partner"].residual_until > scene.now
    assert browser.get("/saml/sso").status_code == 400
    assert scene.ask(browser).headers["location"].startswith("/login")
