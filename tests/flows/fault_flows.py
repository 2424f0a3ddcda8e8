"""What is asked of a hub that may die: an import, a sign-in, an offboarding and a rehire, each to its end.

A flow asks as a patient client does: what was not acknowledged is asked again. Then everything must come to rest by
itself, and what the flow wanted must be so, once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import orjson
from sqlalchemy import select

from idhub.directory.tables import Employment, Principal
from tests.flows.fault_scene import (
    COMPANY,
    LEAVER,
    OWNER,
    RETURNER,
    SIGNER,
    Role,
    Scene,
    sign_in,
    write_people,
)

CROWD = 110
"""People of the file whom no application knows: enough for more than one batch."""


@dataclass(frozen=True)
class Flow:
    """One flow: whose deaths it is tried with, what it asks, what must be so in the end."""

    name: str
    roles: tuple[Role, ...]
    act: Callable[[Scene], None]
    check: Callable[[Scene], None]


def _account(scene: Scene, number: str) -> list[dict[str, object]]:
    """What the SCIM service holds of a person; a correct hub never makes two."""
    with scene.look() as database, database.read() as session:
        person = session.execute(
            select(Employment.principal_id).where(Employment.employee_number == number)
        ).scalar_one()
    return [user for user in scene.scim.users.values() if user.get("externalId") == person]


def _standing(scene: Scene, number: str) -> tuple[str, int, int]:
    with scene.look() as database, database.read() as session:
        row = session.execute(
            select(Principal.standing, Principal.access_epoch, Principal.enrolment_epoch)
            .join(Employment, Employment.principal_id == Principal.id)
            .where(Employment.employee_number == number)
        ).first()
    assert row is not None
    return str(row.standing), row.access_epoch, row.enrolment_epoch


# ---- import


def _import(scene: Scene) -> None:
    people: dict[str, dict[str, str]] = {
        OWNER: {},
        LEAVER: {"status": "left", "end_date": "2026-11-01"},
        RETURNER: {"status": "left", "end_date": "2026-11-01"},
        SIGNER: {"department": "信息技术部/安全"},
        "QY000200": {},
        "QY000201": {},
    }
    people |= {f"QZ{n:06}": {"employment_type": "contractor"} for n in range(CROWD)}
    write_people(scene.folder / "people.csv", people)
    status = scene.run("people", "import", scene.folder / "people.csv")
    assert status == 0, f"{status}\n{scene.tail()}"


def _imported(scene: Scene) -> None:
    assert _standing(scene, LEAVER)[0] == "left"
    assert [user["active"] for user in _account(scene, LEAVER)] == [False]
    for number in ("QY000200", "QY000201"):
        assert _standing(scene, number)[0] == "active"
        assert [user["active"] for user in _account(scene, number)] == [True]
    assert scene.run("people", "import", scene.folder / "people.csv", "--json") == 0, scene.tail()
    report = orjson.loads(scene.out.read_bytes())
    assert report["rows"] == report["unchanged"] == CROWD + 6, report


# ---- sign-in


def _sign_in(scene: Scene) -> None:
    while True:
        tokens = sign_in(scene, SIGNER, enters_again=True)
        before = scene.unknown
        answer = scene.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        if answer.is_success:
            break
        # The answer of an earlier attempt was lost: the hub must take the repetition for a theft.
        assert scene.unknown > before, answer.text
    scene.acknowledged = answer.json()["access_token"]
    assert scene.is_active(scene.acknowledged)


def _signed_in(scene: Scene) -> None:
    assert scene.is_active(scene.acknowledged), "what was acknowledged is still so"


# ---- offboarding


def _offboard(scene: Scene) -> None:
    if "serve" in scene.children:
        assert scene.api("POST", f"/people/{LEAVER}/offboarding", json={}).json()["case"]
        return
    status = scene.run("offboard", LEAVER, "--json")
    assert status == 0, f"{status}\n{scene.tail()}"


def _offboarded(scene: Scene) -> None:
    assert _standing(scene, LEAVER)[0] == "left"
    assert [user["active"] for user in _account(scene, LEAVER)] == [False]
    assert len(scene.receiver.ended_at) == 1, "her session at the application has ended"
    held = scene.prepared.held
    assert held is not None
    if "serve" in scene.children:
        assert not scene.is_active(held.access_token)
        refused = scene.token(grant_type="refresh_token", refresh_token=held.refresh_token)
        assert refused.status_code == 400


# ---- rehire


def _rehire(scene: Scene) -> None:
    today = date.today().isoformat()  # noqa: DTZ011 - the machine's own day will do
    if "serve" in scene.children:
        post = {"employee_number": RETURNER, "company": COMPANY, "employment_type": "regular", "start_date": today}
        body = {"display_name": "林晓", "employment": post}
        before = scene.unknown
        answer = scene.api("POST", "/people", json=body, also=(409,))
        assert answer.status_code == 201 or scene.unknown > before, answer.text
        return
    command = ("--employee-number", RETURNER, "--company", COMPANY, "--name", "林晓", "--start-date", today)
    status = scene.run("onboard", *command)
    assert status == 0 or scene.deaths, f"{status}\n{scene.tail()}"


def _rehired(scene: Scene) -> None:
    standing, access, enrolment = _standing(scene, RETURNER)
    assert standing == "active"
    assert min(access, enrolment) > 0, "under new epochs"
    assert [user["active"] for user in _account(scene, RETURNER)] == [True]


FLOWS = (
    Flow("import", ("command", "worker"), _import, _imported),
    Flow("sign-in", ("serve", "worker"), _sign_in, _signed_in),
    Flow("offboarding", ("serve", "command", "worker"), _offboard, _offboarded),
    Flow("rehire", ("serve", "command", "worker"), _rehire, _rehired),
)
