"""Several real `idhub serve` processes on one database, people to play with, and the database beside them."""

import base64
import hashlib
import html
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from urllib.parse import urlencode

from sqlalchemy import func, insert, select

from audit.tables import audit_events
from idhub.access.applications import ApplicationWish, OidcWish, configure
from idhub.access.tables import Criticality
from idhub.changes import COMMAND_LINE
from idhub.credentials import opaque, sessions
from idhub.credentials.tables import ApiToken
from idhub.db import new_id
from idhub.demo.processes import answers, die_with_parent, free_port, wait_until
from idhub.directory.kinds import EmploymentType, OrganizationKind
from idhub.directory.organizations import create_organization, find_organization, root_organization
from idhub.directory.tables import Employment, Principal
from idhub.lifecycle import intake
from idhub.lifecycle.transition import transition
from idhub.login import invitations
from idhub.login.passwords import HashingPool, store_password
from idhub.services import Hub, open_hub
from idhub.settings import Settings
from tests.support.databases import DatabaseKind, Databases
from tests.support.wire import form, get

NEW_PASSWORD = "seven slow green trams"
COMPANY = "HQ"
VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')
_START_SECONDS = 60.0
_IN_A_BATCH = 200


@dataclass(frozen=True, slots=True)
class Someone:
    """An employee with a password."""

    id: str
    number: str

    @property
    def password(self) -> str:
        """Nobody else's: one password that many names get wrong is refused unread."""
        return f"quiet harbour lantern {self.number}"


@dataclass
class Cluster:
    """One installation, served by several processes. Every address of theirs is 127.0.0.1 with a port of its own.

    `applications` maps a slug to its client secret: `office` (self-contained tokens, not for contractors), `wiki`
    (opaque tokens, for everybody) and `desk` (opaque, asks for consent).
    """

    hub: Hub
    folder: Path
    environment: Mapping[str, str]
    ports: list[int]
    logout_port: int
    applications: dict[str, str] = field(default_factory=dict)
    api_token: str = ""
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    # ------------------------------------------------------------------ processes

    def start(self) -> None:
        """Start every process, all at once, and wait until each is ready."""
        program = Path(sys.executable).parent / "idhub"
        for number, port in enumerate(self.ports):
            with (self.folder / f"serve-{number}.log").open("ab") as log:
                self.processes.append(
                    subprocess.Popen(
                        [program, "serve", "--host", "127.0.0.1", "--port", str(port)],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=dict(self.environment),
                        start_new_session=True,
                        preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl call
                    )
                )
        try:
            for process, port in zip(self.processes, self.ports, strict=True):
                wait_until(
                    lambda p=process, a=port: p.poll() is not None or answers(a),  # type: ignore[misc]
                    seconds=_START_SECONDS,
                    what="every process answers",
                )
                if process.poll() is not None:
                    raise RuntimeError(f"a process ended at once:\n{self.logs()[-4000:]}")
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End every process politely."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL every process: nothing that they kept in memory is written any more."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        self.processes.clear()

    def logs(self) -> str:
        """What the processes wrote."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("serve-*.log")))

    # ------------------------------------------------------------------ people

    def employees(self, wanted: int) -> list[Someone]:
        """New people with passwords, entitled to every application."""
        made: list[Someone] = []
        pool = HashingPool(self.hub.settings)
        while len(made) < wanted:
            numbers = [f"QY{next(self.numbers):06d}" for _ in range(min(_IN_A_BATCH, wanted - len(made)))]
            blank = self.blank_post()
            posts = [replace(blank, employee_number=number) for number in numbers]
            now = self.hub.clock()
            with self.hub.database.transaction() as session:
                changes = [
                    intake.Onboard(
                        principal_id=new_id("per"),
                        person=intake.PersonFacts(display_name=f"林{n}", email=f"{n.lower()}@qiyue.example"),
                        employment=post,
                    )
                    for n, post in zip(numbers, posts, strict=True)
                ]
                transition(session, changes, now=now, actor=COMMAND_LINE, door="cli").only()
                people = [Someone(c.principal_id, n) for c, n in zip(changes, numbers, strict=True)]
                for person in people:
                    stored = pool.hash(person.password).result()
                    store_password(session, person.id, stored, enrolment_epoch=1, now=now)
            made += people
        pool.close()
        return made

    def employee(self) -> Someone:
        """One new person."""
        return self.employees(1)[0]

    def blank_post(self) -> intake.EmploymentFacts:
        """A post at the company, still without its number."""
        with self.hub.database.read() as session:
            company = find_organization(session, COMPANY)
        return intake.EmploymentFacts(
            organization_id=company,
            employee_number="",
            type=EmploymentType.REGULAR,
            starts_on=date(2020, 1, 1),
        )

    def sign_in(self, people: list[Someone]) -> list[str]:
        """A session of each, as a password would start it; returns the tokens."""
        now, tokens = self.hub.clock(), []
        with self.hub.database.transaction(durable=False) as session:
            for person in people:
                epochs = sessions.read_epochs(session, person.id)
                assert epochs is not None
                token, _ = sessions.start_session(
                    session, person.id, epochs_read=epochs, amr=["pwd"], now=now, ip="127.0.0.1", user_agent=None,
                    settings=self.hub.settings,
                )  # fmt: skip
                tokens.append(token)
        return tokens

    def invite(self, person: Someone, purpose: invitations.Purpose = "first_password") -> str:
        """A one-time link's token."""
        with self.hub.database.transaction() as session:
            return invitations.invite(
                session, person.id, purpose=purpose, now=self.hub.clock(), settings=self.hub.settings,
                actor=COMMAND_LINE,
            )  # fmt: skip

    def api_token_of(self, person: Someone | None, *, scopes: tuple[str, ...] = ("people:read", "people:write")) -> str:
        """A token for the administration API: of a person, or made by the command line."""
        value = opaque.make("api")
        with self.hub.database.transaction() as session:
            epoch = None
            if person is not None:
                epoch = session.execute(select(Principal.enrolment_epoch).where(Principal.id == person.id)).scalar_one()
            session.execute(
                insert(ApiToken).values(
                    id=new_id("tok"), token_hash=opaque.hash_of(value), name="test", enrolment_epoch=epoch,
                    principal_id=None if person is None else person.id, installation_epoch=1,
                    scopes=list(scopes), created_at=self.hub.clock(), is_local=person is None,
                )
            )  # fmt: skip
        return value

    # ------------------------------------------------------------------ applications

    def wish(self, slug: str, *, secret: str | None = None, is_enabled: bool = True) -> ApplicationWish:
        """What an application is to be."""
        with self.hub.database.read() as session:
            root = root_organization(session)
        rule = 'employments.type ne "contractor"' if slug == "office" else "employments.companyCode pr"
        return ApplicationWish(
            slug=slug,
            name=slug.title(),
            name_zh=None,
            description=None,
            home_url=None,
            organization_id=root,
            owner_id=None,
            criticality=Criticality.HIGH,
            revocation_deadline=timedelta(hours=1),
            required_grade=None,
            is_enabled=is_enabled,
            oidc=OidcWish(
                client_id=slug,
                secret=secret or self.applications[slug],
                auth_method="client_secret_basic",
                redirect_uris=[callback(slug)],
                post_logout_redirect_uris=[],
                grant_types=["authorization_code", "refresh_token"],
                scopes=["openid", "profile", "email", "offline_access"],
                access_token_format="jwt" if slug == "office" else "opaque",
                requires_consent=slug == "desk",
                backchannel_logout_uri=f"http://127.0.0.1:{self.logout_port}/{slug}",
            ),
            scim=None,
            rules=[("member", rule)],
        )

    def configure(self, wish: ApplicationWish) -> None:
        """Make it so, as `idhub apply` would."""
        with self.hub.database.transaction() as session:
            configure(session, wish, seal=self.hub.keyring.seal, now=self.hub.clock())

    # ------------------------------------------------------------------ what can be seen

    def events(self, kind: str, person: Someone) -> int:
        """How many events of a kind there are about a person."""
        events = audit_events.c
        with self.hub.database.read() as session:
            return session.execute(
                select(func.count()).where(events.person_id == person.id, events.type == kind)
            ).scalar_one()

    def employment_of(self, person: Someone) -> str:
        """Id of the person's first employment."""
        with self.hub.database.read() as session:
            return session.execute(
                select(Employment.id).where(Employment.principal_id == person.id).order_by(Employment.id).limit(1)
            ).scalar_one()


def callback(slug: str) -> str:
    """Where an application takes codes."""
    return f"https://{slug}.example/callback"


# ---------------------------------------------------------------------- requests


def session_cookie(token: str) -> dict[str, str]:
    """The cookie of a session."""
    return {"idhub_session": token}


def authorize(slug: str, session_token: str, *, scope: str = "openid offline_access", prompt: str = "") -> bytes:
    """An authorization request of a browser with a session."""
    fields = {
        "response_type": "code",
        "client_id": slug,
        "redirect_uri": callback(slug),
        "scope": scope,
        "state": "s",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }
    if prompt:
        fields["prompt"] = prompt
    return get("/oauth2/authorize?" + urlencode(fields), cookies=session_cookie(session_token))


def redeem(slug: str, secret: str, code: str) -> bytes:
    """A code's redemption."""
    fields = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": callback(slug),
        "code_verifier": VERIFIER,
    }
    return form("/oauth2/token", fields, basic=(slug, secret))


def refresh(slug: str, secret: str, token: str) -> bytes:
    """A refresh token's use."""
    return form("/oauth2/token", {"grant_type": "refresh_token", "refresh_token": token}, basic=(slug, secret))


def introspect(slug: str, secret: str, token: str) -> bytes:
    """The question whether a token is active."""
    return form("/oauth2/introspect", {"token": token}, basic=(slug, secret))


def revoke(slug: str, secret: str, token: str) -> bytes:
    """A token's revocation."""
    return form("/oauth2/revoke", {"token": token}, basic=(slug, secret))


def userinfo(token: str) -> bytes:
    """A read of userinfo."""
    return get("/oauth2/userinfo", bearer=token)


def hidden_fields(page: str) -> dict[str, str]:
    """The hidden fields of a page's forms."""
    return {name: html.unescape(value) for name, value in _HIDDEN.findall(page)}


# ---------------------------------------------------------------------- making one


@contextmanager
def running_cluster(
    kind: DatabaseKind, databases: Databases, folder: Path, *, processes: int, settings: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """A furnished installation, served by `processes` processes until the block ends. Hashing is made cheap."""
    with databases.fresh(kind, folder, migrated=True) as url:
        shutil.copy(databases.master_key_file, folder / "master.key")
        ports = [free_port() for _ in range(processes)]
        logout_port = free_port()
        values = {
            "IDHUB_ISSUER": f"http://127.0.0.1:{ports[0]}",
            "IDHUB_DATABASE_URL": url,
            "IDHUB_DATA_DIR": str(folder),
            "IDHUB_OUTBOUND_ALLOW": f"127.0.0.1:{logout_port}",
            "IDHUB_DATABASE_POOL_SIZE": "8",
            "IDHUB_ARGON2_MEMORY_KIB": "1024",
            "IDHUB_ARGON2_TIME_COST": "1",
            "IDHUB_HASH_QUEUE_SECONDS": "30",
            "IDHUB_LOG_LEVEL": "warning",
            **(settings or {}),
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("IDHUB_")}
        own = Settings(
            issuer=values["IDHUB_ISSUER"], database_url=url, data_dir=folder, argon2_memory_kib=1024,
            argon2_time_cost=1, database_pool_size=4,
        )  # fmt: skip
        hub = open_hub(own, clock=lambda: datetime.now(UTC))
        cluster = Cluster(hub, folder, {**inherited, **values}, ports, logout_port)
        try:
            _furnish(cluster)
            cluster.start()
            yield cluster
        finally:
            cluster.kill()
            hub.close()


def _furnish(cluster: Cluster) -> None:
    hub = cluster.hub
    with hub.database.transaction() as session:
        create_organization(
            session, code=COMPANY, name="总部", kind=OrganizationKind.COMPANY,
            parent_id=root_organization(session), time_zone="Asia/Shanghai", now=hub.clock(),
        )  # fmt: skip
    for slug in ("office", "wiki", "desk"):
        cluster.applications[slug] = secrets.token_urlsafe(32)
        cluster.configure(cluster.wish(slug))
    cluster.api_token = cluster.api_token_of(None)
