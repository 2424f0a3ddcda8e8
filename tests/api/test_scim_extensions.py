"""Extensions that an installation registers: described, stored, filtered, unique, and applied as code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from idhub.api.configuration import Applied, apply
from idhub.api.export import export_configuration
from idhub.changes import COMMAND_LINE
from idhub.errors import Conflict, Invalid
from scim.extensions import InvalidExtension, describe, read_extension
from scim.schemas import ENTERPRISE_USER, PATCH_OP, USER
from tests.api.test_scim import Scim
from tests.api.world import Api

URN = "urn:ietf:params:scim:schemas:extension:contoso:1.0:User"
ATTRIBUTES: list[dict[str, Any]] = [
    {"name": "HireDate", "type": "dateTime", "mutability": "immutable"},
    {"name": "JobCode", "caseExact": True},
    {"name": "BadgeId", "uniqueness": "server"},
    {"name": "Level", "type": "integer", "uniqueness": "server"},
    {"name": "Skills", "multiValued": True, "description": "What the person can do"},
    {"name": "Secretive", "returned": "request"},
    {"name": "Photo", "type": "binary"},
    {"name": "Rate", "type": "decimal"},
    {"name": "Remote", "type": "boolean"},
]


def _apply(api: Api, folder: Path, *extensions: Any, dry_run: bool = False) -> Applied:
    file = folder / "apps.yaml"
    file.write_text(yaml.safe_dump({"applications": [], "scim_extensions": list(extensions)}))
    return apply(
        api.world.database,
        api.world.keyring,
        file,
        clock=api.world.clock,
        actor=COMMAND_LINE,
        door="cli",
        dry_run=dry_run,
    )


def _contoso(*attributes: Any) -> dict[str, Any]:
    return {"schema": URN, "name": "ContosoUser", "attributes": list(attributes or ATTRIBUTES)}


@pytest.fixture
def scim(api: Api, tmp_path: Path) -> Scim:
    """A sender of a hub with the extension."""
    _apply(api, tmp_path, _contoso())
    return Scim(api, organization_id=api.world.hq)


def _user(scim: Scim, name: str = "bjensen@corp.example", **values: Any) -> Any:
    return scim.user(name, **{URN: values})


# --- describing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_extension_is_described_where_clients_look(scim: Scim) -> None:
    kind = scim.ok("GET", "/ResourceTypes/User")
    schema = scim.ok("GET", f"/Schemas/{URN}")

    assert {"schema": URN, "required": False} in kind["schemaExtensions"]
    badge = next(each for each in schema["attributes"] if each["name"] == "BadgeId")
    assert (badge["type"], badge["uniqueness"], badge["mutability"]) == ("string", "server", "readWrite")
    assert [each["name"] for each in schema["attributes"]] == [each["name"] for each in ATTRIBUTES]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_extension_is_unknown_before_it_is_registered(api: Api) -> None:
    scim = Scim(api, organization_id=api.world.hq)

    user = _user(scim, JobCode="x")

    assert URN not in user
    assert scim.call("GET", "/Users", params={"filter": f'{URN}:JobCode eq "x"'}).json()["scimType"] == "invalidFilter"


# --- values -----------------------------------------------------------------------------------------------------------


def test_values_are_kept_shown_changed_and_taken_away(scim: Scim) -> None:
    values: dict[str, Any] = {
        "HireDate": "2021-05-01T00:00:00-05:00",
        "JobCode": "TG-1001",
        "BadgeId": "b1",
        "Level": 3,
        "Skills": ["welding", "driving"],
        "Photo": "aGk=",
        "Rate": 1.5,
        "Remote": False,
    }
    user = _user(scim, **values, Unknown="passed over")
    shown = scim.ok("GET", f"/Users/{user['id']}")
    patched = scim.patch(
        user,
        {"op": "replace", "path": f"{URN}:JobCode", "value": "TG-2"},
        {"op": "add", "path": f"{URN}:Skills", "value": ["painting"]},
        {"op": "remove", "path": f"{URN}:Rate"},
    )
    put = scim.ok("PUT", f"/Users/{user['id']}", {"schemas": [USER], "userName": user["userName"]})

    assert shown[URN] == values
    assert URN in shown["schemas"]
    assert (patched[URN]["JobCode"], patched[URN]["Skills"]) == ("TG-2", ["welding", "driving", "painting"])
    assert "Rate" not in patched[URN]
    # What is immutable outlives a PUT that leaves it out (RFC 7644 section 3.5.1).
    assert put[URN] == {"HireDate": values["HireDate"]}


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_projection_knows_the_extension(scim: Scim) -> None:
    user = _user(scim, JobCode="x", Secretive="y")

    assert user[URN] == {"JobCode": "x"}
    assert scim.ok("GET", f"/Users/{user['id']}", params={"attributes": f"{URN}:Secretive"})[URN] == {"Secretive": "y"}
    assert URN not in scim.ok("GET", f"/Users/{user['id']}", params={"excludedAttributes": URN})


FILTERS = {
    f'{URN}:JobCode eq "TG-1001"': True,
    f'{URN}:JobCode eq "tg-1001"': False,
    f'{URN}:BadgeId eq "B1"': True,
    f"{URN}:Level eq 3": True,
    f"{URN}:Level gt 2 and {URN}:Remote eq true": True,
    f'{URN}:Skills eq "WELDING"': True,
    f'{URN}:Skills co "eld"': True,
    f'{URN}:HireDate lt "2021-05-01T06:00:00Z"': True,
    f"{URN}:Rate pr": False,
    f'not ({URN}:JobCode eq "TG-1001")': False,
    f'{URN}:JobCode eq "TG-1001" and {ENTERPRISE_USER}:costCenter eq "1"': False,
}
"""Filters, and whether they find the person below."""


def test_filter_over_the_extension(scim: Scim) -> None:
    values: dict[str, Any] = {"JobCode": "TG-1001", "BadgeId": "b1", "Level": 3, "Skills": ["welding"], "Remote": True}
    user = _user(scim, **values, HireDate="2021-05-01T00:00:00-05:00")
    other = _user(scim, "other@corp.example", JobCode="else")

    found = {filter_: {each["id"] for each in scim.found("Users", filter_)} for filter_ in FILTERS}

    assert {filter_: user["id"] in ids for filter_, ids in found.items()} == FILTERS
    assert [filter_ for filter_, ids in found.items() if other["id"] in ids] == [f'not ({URN}:JobCode eq "TG-1001")']


def test_unique_value_belongs_to_one_until_it_is_given_up(scim: Scim) -> None:
    user = _user(scim, BadgeId="B1", Level=1)
    before = scim.api.state()

    taken = [
        scim.call("POST", "/Users", {"schemas": [USER], "userName": "a", URN: {"BadgeId": "b1"}}),
        scim.call("POST", "/Users", {"schemas": [USER], "userName": "a", URN: {"Level": 1}}),
    ]
    state = scim.api.state()
    kept = scim.patch(user, {"op": "replace", "path": f"{URN}:BadgeId", "value": "b1"})
    scim.patch(user, {"op": "remove", "path": f"{URN}:BadgeId"})
    other = _user(scim, "other@corp.example", BadgeId="B1")
    scim.call("DELETE", f"/Users/{other['id']}")

    assert [(each.status_code, each.json()["scimType"]) for each in taken] == [(409, "uniqueness")] * 2
    assert state == before
    assert kept[URN]["BadgeId"] == "b1"
    assert _user(scim, "third@corp.example", BadgeId="B1")[URN]["BadgeId"] == "B1"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_value_that_is_none_is_refused_and_named(scim: Scim) -> None:
    before = scim.api.state()
    wrong: list[Any] = [
        {"HireDate": "yesterday"},
        {"Level": "3"},
        {"Remote": "perhaps"},
        {"Photo": "?"},
        {"JobCode": ["a", "b"]},
        {"JobCode": "x" * 5000},
        "text",
    ]

    for values in wrong:
        answer = scim.call("POST", "/Users", {"schemas": [USER], "userName": "a@corp.example", URN: values})
        assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidValue"), values

    assert scim.api.state() == before


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_immutable_value_is_set_once(scim: Scim) -> None:
    user = _user(scim, HireDate="2021-05-01T00:00:00Z")
    change = {"op": "replace", "path": f"{URN}:HireDate", "value": "2022-05-01T00:00:00Z"}

    patched = scim.call("PATCH", f"/Users/{user['id']}", {"schemas": [PATCH_OP], "Operations": [change]})
    put = scim.call(
        "PUT",
        f"/Users/{user['id']}",
        {"schemas": [USER], "userName": user["userName"], URN: {"HireDate": "2022-05-01T00:00:00Z"}},
    )

    assert [each.json()["scimType"] for each in (patched, put)] == ["mutability", "mutability"]


# --- configuration as code --------------------------------------------------------------------------------------------


def test_registering_is_idempotent_recorded_and_exported(api: Api, tmp_path: Path) -> None:
    trial = _apply(api, tmp_path, _contoso(), dry_run=True)
    first = _apply(api, tmp_path, _contoso())
    second = _apply(api, tmp_path, _contoso())
    more = _apply(api, tmp_path, _contoso(*ATTRIBUTES, {"name": "Site"}))
    with api.world.database.read() as session:
        exported = yaml.safe_load(export_configuration(session))

    assert [each["new"] for each in (*trial.changes, *first.changes)] == [True, True]
    assert (second.changes, [each["new"] for each in more.changes]) == ([], [False])
    assert len(api.events("scim_extension.changed")) == 2
    assert _apply(api, tmp_path, *exported["scim_extensions"]).changes == []


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_attribute_does_not_become_another(api: Api, tmp_path: Path) -> None:
    _apply(api, tmp_path, _contoso())

    for change in ({"type": "integer"}, {"multiValued": True}, {"caseExact": False}, {"uniqueness": "server"}):
        with pytest.raises(Conflict):
            _apply(api, tmp_path, _contoso({"name": "JobCode", "caseExact": True, **change}))


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"schema": "contoso"}, "schema"),
        ({"schema": USER}, "schema"),
        ({"schema": ENTERPRISE_USER.upper().replace("URN", "urn")}, "schema"),
        ({"schema": "urn:x:" + "y" * 200}, "schema"),
        ({"name": "1"}, "name"),
        ({"attributes": []}, "attributes"),
        ({"attributes": "JobCode"}, "attributes"),
        ({"attributes": [{"name": f"A{n}"} for n in range(101)]}, "attributes"),
        ({"attributes": [{"name": "a b"}]}, "attributes.name"),
        ({"attributes": ["JobCode"]}, "attributes.name"),
        ({"attributes": [{"name": "A"}, {"name": "a"}]}, "attributes.a"),
        ({"attributes": [{"name": "A", "type": "complex"}]}, "attributes.A.type"),
        ({"attributes": [{"name": "A", "returned": "never"}]}, "attributes.A.returned"),
        ({"attributes": [{"name": "A", "mutability": "readOnly"}]}, "attributes.A.mutability"),
        ({"attributes": [{"name": "A", "uniqueness": "global"}]}, "attributes.A.uniqueness"),
        ({"attributes": [{"name": "A", "type": "boolean", "uniqueness": "server"}]}, "attributes.A.uniqueness"),
        ({"attributes": [{"name": "A", "multiValued": True, "uniqueness": "server"}]}, "attributes.A.uniqueness"),
        ({"attributes": [{"name": "A", "required": "yes"}]}, "attributes.A.required"),
        ({"attributes": [{"name": "A", "canonicalValues": "x"}]}, "attributes.A.canonicalValues"),
        ({"attributes": [{"name": "A", "description": "x" * 501}]}, "attributes.A"),
        ({"attributes": [{"name": "A", "colour": "red"}]}, "attributes.A.colour"),
    ],
)
def test_description_that_is_none_names_the_part(document: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidExtension) as error:
        read_extension({**_contoso(), **document})

    assert error.value.field == field


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_refusal_of_a_file_names_the_part_and_writes_nothing(api: Api, tmp_path: Path) -> None:
    with pytest.raises(Invalid) as error:
        _apply(api, tmp_path, _contoso(), {"schema": "nothing", "attributes": []})

    assert error.value.field == "scim_extensions.schema"
    assert Scim(api, organization_id=api.world.hq).call("GET", f"/Schemas/{URN}").status_code == 404


def test_description_survives_being_written_down() -> None:
    schema = read_extension(_contoso())

    assert read_extension(describe(schema)) == schema
