"""Random PATCH sequences come to what a PUT of their result comes to, and a refused one leaves the record as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scim.schemas import ENTERPRISE_USER, PATCH_OP, USER
from tests.api.shared_hub import shared_hub
from tests.api.test_scim import Scim
from tests.scim.examples import times
from tests.support.databases import DatabaseKind, Databases

E = f"{ENTERPRISE_USER}:"
ME = "@me"
"""Stands for what tells the two people apart: names and numbers must be unique."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def pair(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Scim, str, str]]:
    """A sender, one person who is patched, and one who gets the result by PUT."""
    kind: DatabaseKind = request.param
    with shared_hub(databases, kind, tmp_path_factory.mktemp("patch")) as api:
        sender = Scim(api, organization_id=api.world.hq)
        ids = [sender.ok("POST", "/Users", _start(name))["id"] for name in ("anna", "bert")]
        yield sender, ids[0], ids[1]


def _start(name: str) -> dict[str, Any]:
    started: dict[str, Any] = _for(
        name,
        {
            "schemas": [USER, ENTERPRISE_USER],
            "userName": f"{ME}@corp.example",
            "externalId": f"x-{ME}",
            "displayName": "Ada",
            "name": {"givenName": "Ada", "familyName": "L"},
            "active": True,
            "userType": "Employee",
            "emails": [
                {"value": f"{ME}@corp.example", "type": "work", "primary": True},
                {"value": f"{ME}@home.example", "type": "home"},
            ],
            "roles": [{"value": "a"}, {"value": "b", "primary": True}],
            ENTERPRISE_USER: {"employeeNumber": f"N-{ME}", "organization": "HQ", "costCenter": "1"},
        },
    )
    return started


def _for(name: str, document: Any) -> Any:
    return json.loads(json.dumps(document).replace(ME, name))


# --- drawing ----------------------------------------------------------------------------------------------------------

_word = st.sampled_from(["a", "b", "Ada", "李", f"{ME}-1", "", "x" * 201])
_address = st.sampled_from([f"{ME}@corp.example", f"{ME}@home.example", f"{ME}.new@corp.example", "no address"])
_email = st.fixed_dictionaries(
    {}, optional={"value": _address, "type": st.sampled_from(["work", "home"]), "primary": st.booleans()}
)
_role = st.fixed_dictionaries({}, optional={"value": _word, "display": _word, "primary": st.booleans()})
_texts = (
    "displayName",
    "title",
    "nickName",
    "locale",
    "name.givenName",
    "name.familyName",
    "name.formatted",
    "userType",
)
_values: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys((*_texts, f"{E}costCenter", f"{E}department", f"{E}division"), _word),
    "userType": st.sampled_from(["Employee", "contractor", "Volunteer", ""]),
    "userName": st.sampled_from([f"{ME}@corp.example", f"{ME}.2@corp.example", "", None]),
    "externalId": st.sampled_from([f"x-{ME}", f"y-{ME}", None]),
    "active": st.sampled_from([True, False, "True", "False", "maybe"]),
    "name": st.fixed_dictionaries({}, optional={"givenName": _word, "familyName": _word | st.none()}),
    "emails": st.lists(_email, max_size=3) | _email | st.none(),
    'emails[type eq "work"]': _email,
    'emails[type eq "work"].value': _address,
    'emails[type eq "home"].primary': st.booleans(),
    "roles": st.lists(_role, max_size=3) | _word,
    'roles[value eq "a"].display': _word,
    "roles[primary eq true]": _role,
    "roles.display": _word,
    ENTERPRISE_USER: st.fixed_dictionaries({}, optional={"costCenter": _word, "division": _word}),
    "id": _word,
    "meta.version": _word,
    "groups": st.just([{"value": "x"}]),
    "nothing": _word,
}


@st.composite
def _operation(draw: st.DrawFn) -> dict[str, Any]:
    verb = draw(st.sampled_from(["add", "replace", "remove", "Replace"]))
    if verb != "remove" and draw(st.integers(0, 4)) == 0:
        paths = draw(
            st.lists(st.sampled_from([p for p in _values if "[" not in p]), min_size=1, max_size=3, unique=True)
        )
        return {"op": verb, "value": {path: draw(_values[path]) for path in paths}}
    # Paths that nobody may change are drawn seldom: most sequences should do something.
    path = draw(st.sampled_from([*list(_values)[:-4] * 3, *list(_values)[-4:]]))
    operation: dict[str, Any] = {"op": verb, "path": path}
    if verb != "remove":
        operation["value"] = draw(_values[path])
    return operation


def _comparable(resource: dict[str, Any], own_id: str) -> Any:
    shown = {key: value for key, value in resource.items() if key not in {"id", "meta"}}
    return json.loads(json.dumps(shown).replace(own_id, "ID"))


@settings(
    max_examples=times(15),
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(operations=st.lists(_operation(), min_size=1, max_size=5))
def test_patches_come_to_what_a_put_of_their_result_comes_to(
    pair: tuple[Scim, str, str], operations: list[dict[str, Any]]
) -> None:
    sender, anna, bert = pair
    before = sender.ok("PUT", f"/Users/{anna}", _start("anna"))
    sender.ok("PUT", f"/Users/{bert}", _start("bert"))
    state = sender.api.state()

    body = _for("anna", {"schemas": [PATCH_OP], "Operations": operations})
    answer = sender.call("PATCH", f"/Users/{anna}", body)

    if answer.status_code != 200:
        assert answer.status_code in {400, 409}, answer.text
        assert sender.api.state() == state
        assert sender.ok("GET", f"/Users/{anna}") == before
        return
    patched = answer.json()
    result = {key: value for key, value in patched.items() if key not in {"id", "meta", "groups"}}
    put = sender.ok("PUT", f"/Users/{bert}", json.loads(json.dumps(result).replace("anna", "bert")))
    assert _comparable(patched, anna) == json.loads(json.dumps(_comparable(put, bert)).replace("bert", "anna"))
    again = sender.ok("PUT", f"/Users/{anna}", result)
    assert again["meta"]["version"] == patched["meta"]["version"]
    assert sender.ok("GET", f"/Users/{anna}") == patched
