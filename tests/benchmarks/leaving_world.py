"""The group that the leaving benchmarks end: people, applications, accounts, sessions, and a history of leaves.

Rows are written as the hub would have, by SQL in sets, so that 120,000 people stand within seconds.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx2
import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from audit.tables import audit_events
from idhub.access.applications import scim_token_context
from idhub.access.tables import Account, Application, Entitlement, OidcClient, ScimTarget
from idhub.credentials.tables import Grant, RefreshToken, SessionParticipant, SsoSession
from idhub.db import bulk_insert, to_micros
from idhub.delivery.tables import Delivery, DeliveryAttempt
from idhub.directory.organizations import root_organization
from idhub.directory.tables import Employment, EmploymentPeriod, LoginName, Person, Principal
from idhub.lifecycle.tables import Case, CaseRow, Receipt
from idhub.login.passwords import HashingPool, store_password
from idhub.provisioning.outbound.tables import ScimDiscovery
from idhub.services import Hub
from scim.discovery import Capabilities
from tests.support.databases import analyze

_PART = 5_000
_HISTORY_PART = 20_000
# Beyond every place that the log gives out meanwhile.
_FAR = 1 << 40
TYPICAL_ACCOUNTS = 15
SESSIONS = 3


@dataclass(frozen=True)
class Applications:
    """The running services behind the applications of the group."""

    ports: Sequence[int]

    @property
    def allow(self) -> str:
        """What the hub's `outbound_allow` must be."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def seen(self) -> list[dict[str, Any]]:
        """What has arrived, application by application."""
        answer = httpx2.get(f"http://127.0.0.1:{self.ports[0]}/control/seen").json()
        return [answer[str(port)] for port in self.ports]

    def reset(self) -> None:
        """Forget what has arrived."""
        httpx2.get(f"http://127.0.0.1:{self.ports[0]}/control/reset").raise_for_status()

    def hang(self, number: int) -> None:
        """Let one application take requests and never answer."""
        httpx2.get(f"http://127.0.0.1:{self.ports[0]}/control/hang/{self.ports[number]}").raise_for_status()


@contextmanager
def instant_applications(count: int, *, are_empty: bool = False) -> Iterator[Applications]:
    """Run the services, in a process of their own, until the block ends."""
    command = [sys.executable, "-m", "tests.benchmarks.instant_applications", str(count), *["empty"] * are_empty]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield Applications(orjson.loads(process.stdout.readline()))
        finally:
            process.terminate()


def person_id(number: int) -> str:
    """Principal id of a person of the group."""
    return f"per_{number:026d}"


def application_id(number: int) -> str:
    """Id of an application of the group."""
    return f"app_{number:026d}"


def seed_people(session: Session, count: int, *, now: datetime) -> None:
    """People of one company, each with one post."""
    organization = root_organization(session)
    since = now - timedelta(days=300)
    for start in range(0, count, _PART):
        numbers = range(start, min(count, start + _PART))
        bulk_insert(
            session,
            Principal,
            (
                {
                    "id": person_id(n), "kind": "person", "organization_id": organization, "standing": "active",
                    "access_epoch": 1, "enrolment_epoch": 1, "access_starts_at": since, "version": 1,
                    "created_at": since, "changed_at": since,
                }
                for n in numbers
            ),
        )  # fmt: skip
        bulk_insert(
            session,
            Person,
            (
                {
                    "id": person_id(n), "display_name": f"Person {n}", "email": f"p{n}@corp.example",
                    "main_employment_id": f"emp_{n:026d}", "search_terms": f"person p{n} {n}", "attribute_sources": {},
                }
                for n in numbers
            ),
        )  # fmt: skip
        post = {"organization_id": organization, "type": "regular", "title": "工程师", "state": "active"}
        bulk_insert(
            session,
            Employment,
            (
                {
                    "id": f"emp_{n:026d}", "principal_id": person_id(n), "employee_number": f"QY{n:07d}", **post,
                    "starts_on": since.date(), "starts_at": since, "created_at": since, "changed_at": since,
                }
                for n in numbers
            ),
        )  # fmt: skip
        bulk_insert(
            session,
            EmploymentPeriod,
            (
                {
                    "id": f"prd_{n:026d}", "employment_id": f"emp_{n:026d}", "valid_from": since, "valid_to": None,
                    "recorded_at": since, "superseded_at": None,
                    "facts": {**post, "employee_number": f"QY{n:07d}", "department_id": None, "manager_id": None},
                }
                for n in numbers
            ),
        )  # fmt: skip
        bulk_insert(
            session,
            LoginName,
            ({"value": f"qy{n:07d}", "principal_id": person_id(n), "kind": "employee_number"} for n in numbers),
        )


def seed_applications(session: Session, hub: Hub, applications: Applications, *, now: datetime) -> None:
    """One application a service: SCIM target and OIDC client."""
    organization = root_organization(session)
    numbers = range(len(applications.ports))
    bulk_insert(
        session,
        Application,
        (
            {
                "id": application_id(n), "slug": f"app-{n}", "name": f"Application {n}",
                "organization_id": organization, "criticality": "high", "revocation_deadline_seconds": 300,
                "is_enabled": True, "created_at": now, "changed_at": now,
            }
            for n in numbers
        ),
    )  # fmt: skip
    bulk_insert(
        session,
        ScimTarget,
        (
            {
                "application_id": application_id(n), "base_url": f"http://127.0.0.1:{port}/scim/v2",
                "token_sealed": hub.keyring.seal(scim_token_context(application_id(n)), b"token-of-the-service"),
                "user_name_attribute": "email", "dialect": "generic", "control_user_name": None, "changed_at": now,
            }
            for n, port in enumerate(applications.ports)
        ),
    )  # fmt: skip
    # Asked a day ago at most, as in a group that has run for a while: else the worker asks them all meanwhile.
    bulk_insert(
        session,
        ScimDiscovery,
        (
            {
                "application_id": application_id(n), "base_url": f"http://127.0.0.1:{port}/scim/v2",
                "capabilities": Capabilities().document(), "attributes": {}, "fetched_at": now,
            }
            for n, port in enumerate(applications.ports)
        ),
    )  # fmt: skip
    bulk_insert(
        session,
        OidcClient,
        (
            {
                "client_id": f"client-{n}", "application_id": application_id(n), "auth_method": "none",
                "redirect_uris": [], "post_logout_redirect_uris": [], "grant_types": ["authorization_code"],
                "scopes": ["openid"], "access_token_format": "jwt", "id_token_alg": "ES256", "rotates_refresh": True,
                "requires_consent": False, "is_native": False, "backchannel_logout_session_required": True,
                "is_enabled": True, "created_at": now, "changed_at": now,
            }
            for n in numbers
        ),
    )  # fmt: skip


def seed_access(
    session: Session, people: Sequence[int], applications: Sequence[int], *, now: datetime, are_made: bool = True
) -> None:
    """Entitlements and accounts of these people in these applications: confirmed ones, or some still to be made."""
    confirmed = {"known_state": "active", "known_hash": "0" * 64, "observed_at": now}
    planned = {"known_state": "absent", "known_hash": None, "observed_at": None}
    for start in range(0, len(people), 500):
        pairs = [(n, a) for n in people[start : start + 500] for a in applications]
        bulk_insert(
            session,
            Entitlement,
            (
                {
                    "id": f"ent_{n:016d}{a:010d}", "principal_id": person_id(n), "application_id": application_id(a),
                    "role": "member", "reason_kind": "direct", "reason_ref": "seed", "valid_from": now,
                    "recorded_at": now,
                }
                for n, a in pairs
            ),
        )  # fmt: skip
        bulk_insert(
            session,
            Account,
            (
                {
                    "id": f"acc_{n:016d}{a:010d}", "application_id": application_id(a), "principal_id": person_id(n),
                    "slot": "main", "kind": "linked", "external_id": f"u.{person_id(n)}" if are_made else None,
                    "user_name": f"p{n}@corp.example" if are_made else None, "desired_state": "active",
                    **(confirmed if are_made else planned), "created_at": now, "changed_at": now,
                }
                for n, a in pairs
            ),
        )  # fmt: skip


def seed_sessions(session: Session, people: Sequence[int], applications: Sequence[int], *, now: datetime) -> None:
    """Three sessions a person, each with a grant, a participant and a refresh token in every third application."""
    epochs = {"access_epoch": 1, "enrolment_epoch": 1, "installation_epoch": 1}
    later = now + timedelta(hours=8)
    sessions, grants, participants, tokens = [], [], [], []
    for n in people:
        for s in range(SESSIONS):
            key = f"{n:014d}{s:02d}"
            sessions.append(
                {
                    "id": f"ses_{key}", "token_hash": f"{key:0>64}", "principal_id": person_id(n), **epochs,
                    "authenticated_at": now, "amr": ["pwd"], "created_at": now, "last_seen_at": now,
                    "idle_expires_at": later, "expires_at": later,
                }
            )  # fmt: skip
            for a in applications[s::SESSIONS]:
                common = {
                    "id": f"x{key}{a:06d}", "principal_id": person_id(n), "application_id": application_id(a),
                    "client_id": f"client-{a}", "session_id": f"ses_{key}",
                }  # fmt: skip
                grants.append({**common, "scope": "openid", **epochs, "authenticated_at": now, "created_at": now})
                participants.append(
                    {**common, "sid": f"{key}{a:06d}", "sub": person_id(n), "joined_at": now, "last_used_at": now}
                )
                tokens.append(
                    {
                        "token_hash": f"r{key}{a:06d}", "family_id": f"f{key}{a:06d}", "grant_id": common["id"],
                        "client_id": f"client-{a}", "scope": "openid", "issued_at": now, "idle_expires_at": later,
                        "expires_at": later,
                    }
                )  # fmt: skip
    bulk_insert(session, SsoSession, sessions)
    bulk_insert(session, Grant, grants)
    bulk_insert(session, SessionParticipant, participants)
    bulk_insert(session, RefreshToken, tokens)


PASSWORD = "quiet harbour lantern"
CLIENT_SECRET = "a-secret-of-the-benchmark-that-is-long-enough"


def seed_probes(session: Session, hub: Hub, number: int, *, now: datetime) -> None:
    """What the interactive load uses: a client that acts for itself, and a person's password."""
    service = {
        "id": "svc_probe", "kind": "service", "organization_id": root_organization(session), "standing": "active",
        "access_epoch": 1, "enrolment_epoch": 1, "access_starts_at": now, "version": 1, "created_at": now,
        "changed_at": now,
    }  # fmt: skip
    bulk_insert(session, Principal, [service])
    right = {
        "id": "ent_probe", "principal_id": "svc_probe", "application_id": application_id(0), "role": "service",
        "reason_kind": "direct", "reason_ref": "service", "valid_from": now, "recorded_at": now,
    }  # fmt: skip
    bulk_insert(session, Entitlement, [right])
    client = {
        "client_id": "probe", "application_id": application_id(0), "service_principal_id": "svc_probe",
        "auth_method": "client_secret_basic", "secret_hash": hashlib.sha256(CLIENT_SECRET.encode()).hexdigest(),
        "redirect_uris": [], "post_logout_redirect_uris": [], "grant_types": ["client_credentials"], "scopes": [],
        "access_token_format": "opaque", "id_token_alg": "ES256", "rotates_refresh": True, "requires_consent": False,
        "is_native": False, "backchannel_logout_session_required": True, "is_enabled": True, "created_at": now,
        "changed_at": now,
    }  # fmt: skip
    bulk_insert(session, OidcClient, [client])
    pool = HashingPool(hub.settings)
    try:
        hashed = pool.hash(PASSWORD).result()
    finally:
        pool.close()
    store_password(session, person_id(number), hashed, enrolment_epoch=1, now=now)


HISTORY_ACCOUNTS = 10
"""Deliveries of each case of the history."""


def seed_history(hub: Hub, deliveries: int, *, people: int, now: datetime) -> None:
    """Leaves of years ago: so many finished deliveries with their attempts, events and plan rows, a tenth as many
    cases, each with a receipt. Commits in parts.
    """
    with hub.database.read() as session:
        organization = root_organization(session)
    then = now - timedelta(days=400)
    evidence = {"action": "deactivated", "read_back": {"state": "inactive", "counts": True, "accounts": 1}}
    for start in range(0, deliveries, _HISTORY_PART):
        numbers = range(start, min(deliveries, start + _HISTORY_PART))
        cases = range(start // HISTORY_ACCOUNTS, numbers[-1] // HISTORY_ACCOUNTS + 1)
        with hub.database.transaction(durable=False) as session:
            bulk_insert(
                session,
                Case,
                (
                    {
                        "id": f"cas_{c:026d}", "number": f"R-2020-01-{c:08d}", "kind": "leaver",
                        "principal_id": person_id(c % people), "organization_id": organization, "state": "complete",
                        "is_emergency": False, "effective_at": then, "local_done_at": then, "completed_at": then,
                        "opened_at": then, "opened_by": "seed", "plan": {}, "ended": {},
                    }
                    for c in cases
                ),
            )  # fmt: skip
            bulk_insert(
                session,
                Receipt,
                (
                    {
                        "case_id": f"cas_{c:026d}", "version": 1, "is_complete": True, "signed_at": then,
                        "jws": "x" * 2_000, "disclosures": {}, "log_size": 1,
                    }
                    for c in cases
                ),
            )  # fmt: skip
            bulk_insert(
                session,
                Delivery,
                (
                    {
                        "id": f"dlv_{n:026d}", "seq": 1, "application_id": application_id(n % HISTORY_ACCOUNTS),
                        "channel": "scim", "lane": f"scim:history_{n}", "operation": "deprovision", "payload": {},
                        "principal_id": person_id(n // HISTORY_ACCOUNTS % people), "account_id": f"old_{n}",
                        "case_id": f"cas_{n // HISTORY_ACCOUNTS:026d}", "required_grade": 2, "state": "done",
                        "grade": 2, "evidence": evidence, "attempts": 1, "next_attempt_at": then, "lease_token": 1,
                        "planned_at": then, "first_sent_at": then, "answered_at": then, "finished_at": then,
                    }
                    for n in numbers
                ),
            )  # fmt: skip
            bulk_insert(
                session,
                DeliveryAttempt,
                (
                    {
                        "delivery_id": f"dlv_{n:026d}", "number": 1, "started_at": then, "deadline_at": then,
                        "ended_at": then, "outcome": "done", "grade": 2, "status_code": 200, "evidence": evidence,
                    }
                    for n in numbers
                ),
            )  # fmt: skip
            bulk_insert(
                session,
                CaseRow,
                (
                    {
                        "id": f"row_{n:026d}", "case_id": f"cas_{n // HISTORY_ACCOUNTS:026d}",
                        "application_id": application_id(n % HISTORY_ACCOUNTS), "account_id": f"old_{n}",
                        "channel": "scim", "ceiling": 2, "required_grade": 2, "delivery_id": f"dlv_{n:026d}",
                        "deadline_at": then,
                    }
                    for n in numbers
                ),
            )  # fmt: skip
            session.connection().execute(
                audit_events.insert(),
                [
                    {
                        "event_id": f"evt_old_{n}", "at": to_micros(then), "type": "delivery.done", "class": "state",
                        "body": b"{}", "leaf_hash": b"0" * 32, "actor_id": "hub",
                        "target_kind": "delivery", "target_id": f"dlv_{n:026d}", "outcome": "success",
                        "person_id": person_id(n // HISTORY_ACCOUNTS % people),
                        "application_id": application_id(n % HISTORY_ACCOUNTS),
                        "case_id": f"cas_{n // HISTORY_ACCOUNTS:026d}", "delivery_id": f"dlv_{n:026d}",
                    }
                    for n in numbers
                ],
            )  # fmt: skip
    with hub.database.transaction() as session:
        placed = "SELECT :far + id, id FROM audit_events WHERE event_id LIKE 'evt_old_%'"
        session.execute(text(f"INSERT INTO audit_positions (position, event_row) {placed}"), {"far": _FAR})
    analyze(hub.database)
