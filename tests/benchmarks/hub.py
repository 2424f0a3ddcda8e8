"""The hub of `make bench`: a database with applications and people in it, and how its process is started.

    python -m tests.benchmarks.hub PORT     `idhub serve` with cheap password hashes (8 KiB, one pass)

The settings refuse hashes as cheap as that, and rightly so; only the line "login without hashing" is measured with
them. Everything else runs `idhub serve` as it is.
"""

import hashlib
import secrets
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from passlib.hash import argon2  # type: ignore[import-untyped]
from sqlalchemy import insert
from sqlalchemy.orm import Session

from idhub.access.tables import Application, Criticality, Entitlement, OidcClient
from idhub.changes import Actor
from idhub.cli.serve import run
from idhub.credentials.tables import Password
from idhub.db import new_id
from idhub.directory.kinds import EmploymentType, PrincipalKind, Standing
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Principal
from idhub.lifecycle.intake import EmploymentFacts, Onboard, PersonFacts
from idhub.lifecycle.transition import transition
from idhub.services import open_hub
from idhub.settings import Settings, load_settings

SECRET = secrets.token_urlsafe(32)
PASSWORD = "quiet harbour lantern"
CALLBACK = "https://office.example/callback"
PEOPLE = 200
CLI = Actor(kind="cli", id="cli")
_CHEAP = {"argon2_memory_kib": 8, "argon2_time_cost": 1}


@dataclass(frozen=True)
class Names:
    """Login names, by the cost of their hashes."""

    cheap: list[str]
    real: list[str]


def cheap(settings: Settings) -> Settings:
    """The settings with hashes that cost nothing: a copy, since none that are read may be so."""
    return settings.model_copy(update=_CHEAP)


def prepare(folder: Path, database_url: str = "") -> Names:
    """Make a hub with three services, one application and people who may enter it."""
    settings = Settings(data_dir=folder, database_url=database_url)
    hub = open_hub(settings)
    now = datetime.now(UTC)
    try:
        with hub.database.transaction() as session:
            for client_id, values in {
                "opaque": {"access_token_format": "opaque"},
                "es256": {"access_token_format": "jwt"},
                "rs256": {"access_token_format": "jwt", "id_token_alg": "RS256"},
            }.items():
                service = _service(session, now)
                _client(session, now, client_id, service_principal_id=service, scopes=["jobs:run"],
                        grant_types=["client_credentials"], **values)  # fmt: skip
            web = _client(session, now, "web", scopes=["openid", "profile", "email"])
        names = Names(*(_people(hub.database, now, web, prefix, one)
                        for prefix, one in (("QC", cheap(settings)), ("QR", settings))))  # fmt: skip
    finally:
        hub.close()
    return names


def _service(session: Session, now: datetime) -> str:
    principal_id = new_id("svc")
    values: dict[str, Any] = {
        "id": principal_id,
        "kind": PrincipalKind.SERVICE,
        "organization_id": root_organization(session),
    }
    values |= {"standing": Standing.ACTIVE, "access_epoch": 1, "enrolment_epoch": 1, "access_starts_at": now}
    session.execute(insert(Principal).values(**values, version=1, created_at=now, changed_at=now))
    return principal_id


def _client(session: Session, now: datetime, client_id: str, **changes: Any) -> str:
    application_id = new_id("app")
    session.execute(
        insert(Application).values(
            id=application_id,
            slug=client_id,
            name=client_id,
            organization_id=root_organization(session),
            criticality=Criticality.NORMAL,
            revocation_deadline_seconds=3600,
            is_enabled=True,
            created_at=now,
            changed_at=now,
        )
    )
    values: dict[str, Any] = {
        "client_id": client_id,
        "application_id": application_id,
        "auth_method": "client_secret_basic",
        "secret_hash": hashlib.sha256(SECRET.encode()).hexdigest(),
        "redirect_uris": [CALLBACK],
        "post_logout_redirect_uris": [],
        "grant_types": ["authorization_code"],
        "access_token_format": "opaque",
        "id_token_alg": "ES256",
        "rotates_refresh": True,
        "requires_consent": False,
        "is_native": False,
        "backchannel_logout_session_required": True,
        "is_enabled": True,
        "created_at": now,
        "changed_at": now,
    }
    session.execute(insert(OidcClient).values(**{**values, **changes}))
    return application_id


def _people(database: Any, now: datetime, application_id: str, prefix: str, settings: Settings) -> list[str]:
    hashing = argon2.using(
        type="ID", memory_cost=settings.argon2_memory_kib, time_cost=settings.argon2_time_cost, parallelism=1,
        salt_size=16, digest_size=32,
    )  # fmt: skip
    numbers = [f"{prefix}{number:06d}" for number in range(PEOPLE)]
    ids = [new_id("per") for _ in numbers]
    with database.transaction() as session:
        root = root_organization(session)
        changes = [
            Onboard(
                principal_id=principal_id,
                person=PersonFacts(display_name="Employee", email=f"{number.lower()}@qiyue.example"),
                employment=EmploymentFacts(
                    organization_id=root, employee_number=number, type=EmploymentType.REGULAR,
                    starts_on=date(2020, 1, 1),
                ),
            )
            for principal_id, number in zip(ids, numbers, strict=True)
        ]  # fmt: skip
        transition(session, changes, now=now, actor=CLI, door="cli")
        session.execute(
            insert(Entitlement),
            [
                {"id": new_id("ent"), "principal_id": one, "application_id": application_id, "role": "member",
                 "reason_kind": "direct", "reason_ref": "bench", "valid_from": now, "recorded_at": now}
                for one in ids
            ],
        )  # fmt: skip
        # One password for all would look like spraying.
        stored = [hashing.hash(f"{PASSWORD} {number}") for number in numbers]
        rows = [
            {"principal_id": one, "hash": hashed, "enrolment_epoch": 1, "set_at": now}
            for one, hashed in zip(ids, stored, strict=True)
        ]
        session.execute(insert(Password), rows)
    return numbers


def main() -> None:
    """Serve with cheap hashes on the port that is named."""
    run(cheap(load_settings()), host="127.0.0.1", port=int(sys.argv[1]), with_worker=True)


if __name__ == "__main__":
    main()
