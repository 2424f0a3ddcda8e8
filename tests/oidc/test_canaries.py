"""G02: secrets put into every field that takes one are nowhere afterwards: no table, no export, no log line."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from sqlalchemy import LargeBinary, cast, select

from audit.checkpoint import Ed25519Signer
from audit.export import export_jsonl
from audit.sequencer import Sequencer
from audit.tables import metadata as audit_tables
from idhub.db import Base
from tests.oidc.world import VERIFIER, App, World


def everything(world: World) -> str:
    """All that the database holds, as text: bytes are read as Latin-1, so that nothing hides in them."""
    found = []
    with world.database.read() as session:
        for table in (*Base.metadata.sorted_tables, *audit_tables.sorted_tables):
            for row in session.execute(select(*[_readable(column) for column in table.columns])):
                found += [one.decode("latin-1") if isinstance(one, bytes) else str(one) for one in row]
    return "\n".join(found)


def _readable(column: Any) -> Any:
    return cast(column, LargeBinary) if isinstance(column.type, LargeBinary) else column


def test_no_credential_of_a_whole_story_is_kept_anywhere(
    world: World, office: App, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    person = world.employee(office)
    world.sign_in(person)
    canaries = {"client_secret": office.auth[1], "verifier": VERIFIER}
    canaries |= {f"cookie {cookie.name}": str(cookie.value) for cookie in world.http.cookies.jar}
    assert len(canaries) > 2
    code = world.code(office)
    first = world.redeem(office, code).json()
    second = world.refresh(office, first["refresh_token"]).json()
    canaries |= {"code": code, "access": first["access_token"], "refresh": first["refresh_token"]}
    canaries |= {"access 2": second["access_token"], "refresh 2": second["refresh_token"]}
    # Spent, replayed, and put where they do not belong.
    world.redeem(office, code)
    world.refresh(office, first["refresh_token"])
    for name in ("username", "password", "scope", "token", "code_verifier"):
        canaries[name] = f"canary-{secrets.token_hex(8)}"
    fields = {name: canaries[name] for name in ("username", "password", "scope", "token", "code_verifier")}
    stranger = {**fields, "client_id": "nobody", "client_secret": canaries["password"]}
    for path in ("/oauth2/token", "/oauth2/introspect", "/oauth2/revoke"):
        world.post(path, office, {**fields, "grant_type": "password", "refresh_token": second["refresh_token"]})
        world.post(path, None, stranger)
    world.http.get("/oauth2/userinfo", headers={"Authorization": f"Bearer {canaries['token']}"})
    world.http.get(f"/oauth2/userinfo?access_token={second['access_token']}")
    world.authorize(office, scope=canaries["scope"])
    world.offboard(person)
    world.flush()

    signer = Ed25519Signer(world.keyring.signing_key("checkpoint").private)
    Sequencer(world.database.engine, signer, [], "node-1", origin="hub.example/audit").run_once(
        world.clock(), checkpoint=True
    )
    kept = everything(world)
    with world.database.read() as session:
        kept += b"".join(export_jsonl(session.connection())).decode()
    printed = capsys.readouterr()
    kept += printed.out + printed.err + caplog.text
    assert "token.issued" in kept  # it was looked at
    assert [name for name, value in canaries.items() if value in kept] == []
