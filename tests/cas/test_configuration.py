"""`cas:` in a configuration file, its export, and the pages that show it."""

from typing import Any

import pytest
import yaml
from sqlalchemy import select

from idhub.api.export import export_configuration
from idhub.authority import HubRole, assign_role
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Person
from idhub.errors import Conflict, IdhubError, Invalid
from tests.cas.conftest import SERVICE, CasScene
from tests.flows.every_door import HR_NUMBER

PLAIN: dict[str, Any] = {"services": ["https://made.example/login"], "user": "pairwise"}


def _changes(applied: Any) -> dict[str, tuple[Any, Any]]:
    return {name: (before, after) for d in applied.differences for name, before, after in d.changes}


def test_applying_again_changes_nothing_and_a_change_is_told(cas: CasScene) -> None:
    made = cas.connect("made", **PLAIN)
    assert _changes(made)["cas"] == (None, ["https://made.example/login"])
    assert _changes(cas.connect("made", **PLAIN)) == {}
    other = {"services": [{"url": "https://made.example/", "match": "below"}], "user": "email", "logout": "service"}
    assert _changes(cas.connect("made", **other)) == {
        "cas.user_value": ("pairwise", "email"),
        "cas.logout": ("none", "service"),
        "cas.services": ([["https://made.example/login", "query"]], [["https://made.example/", "below"]]),
    }
    gone = cas.scene.apply({"slug": "made", "name": "made"})
    assert "cas" in _changes(gone)
    assert _changes(cas.scene.apply({"slug": "made", "name": "made"})) == {}
    assert "cas.is_enabled" in _changes(cas.connect("made", **other))


def test_what_is_exported_makes_the_same_again(cas: CasScene) -> None:
    services = [
        {"url": "https://export.example/a?b=c", "match": "exact"},
        {"url": "https://export.example/wiki/", "match": "below"},
        "https://export.example/zz",
    ]
    block = {
        "services": services,
        "user": "email",
        "attributes": {"mail": "email"},
        "logout": "https://export.example/o",
    }
    cas.connect("export", **block)
    with cas.stage.hub.database.read() as session:
        document = yaml.safe_load(export_configuration(session))
    (exported,) = [one for one in document["applications"] if one["slug"] == "export"]
    assert exported["cas"] == block
    assert _changes(cas.scene.apply(exported)) == {}


@pytest.mark.parametrize(
    ("block", "rule"),
    [
        ({"services": ["https://app.example/other"]}, "configuration.missing"),
        ({"services": [], "user": "email"}, "configuration.too_short"),
        ({"services": ["https://x.example/"], "user": "name"}, "configuration.literal_error"),
        ({"services": ["http://x.example/"], "user": "email"}, "uri.http"),
        ({"services": ["https://x.example/", "https://X.example:443/"], "user": "email"}, "cas.repeated"),
        ({**PLAIN, "attributes": {"a b": "email"}}, "configuration.string_pattern_mismatch"),
        ({**PLAIN, "attributes": {"cas:x": "email"}}, "configuration.string_pattern_mismatch"),
        ({**PLAIN, "attributes": {"xmlId": "email"}}, "cas.attribute"),
        ({**PLAIN, "attributes": {"isFromNewLogin": "email"}}, "cas.attribute"),
        ({**PLAIN, "attributes": {"x": "password"}}, "configuration.literal_error"),
        ({**PLAIN, "logout": "javascript:alert(1)"}, "uri.scheme"),
        ({**PLAIN, "logout": "http://127.0.0.1:1/"}, "outbound"),
        ({**PLAIN, "logout": "service", "services": ["http://127.0.0.1:1/"]}, "outbound"),
        ({**PLAIN, "pgt": True}, "configuration.extra_forbidden"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(cas: CasScene, block: dict[str, Any], rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        cas.scene.apply({"slug": "refused", "name": "refused", "cas": block})
    assert str(refused.value.rule).startswith(rule), (refused.value.rule, refused.value.description)
    assert refused.value.field


def test_an_address_belongs_to_one_application(cas: CasScene) -> None:
    with pytest.raises(Conflict) as refused:
        cas.connect("second", services=["https://APP.example:443/login"])
    assert refused.value.rule == "cas.taken"
    assert SERVICE in refused.value.description
    with pytest.raises(IdhubError):
        cas.connect("second", services=[{"url": SERVICE, "match": "exact"}])


def test_the_pages_know_it(cas: CasScene) -> None:
    stage = cas.stage
    with stage.hub.database.transaction() as session:
        colleague = session.scalars(select(Person.id).where(Person.display_name == "沈佳宁")).one()
        assign_role(
            session, colleague, HubRole.ADMINISTRATOR, organization_id=root_organization(session), now=stage.clock(),
            assigned_by="test",
        )  # fmt: skip
    administrator = cas.signed_in(HR_NUMBER)
    cas.connect("paged", services=["https://paged.example/"], logout="service")

    def line() -> str:
        listed = administrator.get("/admin/apps", params={"protocol": "cas", "size": "200"}).text
        assert 'data-test="saml-app"' not in listed
        return listed.partition('data-test="paged"')[2].partition("</tr>")[0]

    assert '<span class="proto">CAS</span>' in line()
    assert "Not told" not in line()
    page = administrator.get("/admin/apps/paged").text
    assert "https://paged.example/" in page
    assert "told of logouts by CAS" in page
    cas.connect("paged", services=["https://paged.example/"])
    assert "Not told" in line()
    assert "not told of a leave" in administrator.get("/admin/apps/paged").text
