"""A hub with a story in it, made through the hub's own doors: people, applications, a leave that is half proven."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from fastapi import FastAPI
from sqlalchemy import select
from starlette.requests import Request
from starlette.types import ASGIApp

from audit.checkpoint import Ed25519Signer, FileWitness
from audit.sequencer import Sequencer
from idhub.access.applications import ApplicationWish, OidcWish, ScimWish, configure
from idhub.access.partners import logout_services
from idhub.access.service_providers import ProviderFacts, SamlWish
from idhub.access.tables import Account, Application, Criticality
from idhub.app import translate_the_rest
from idhub.authority import LOCAL, HubRole, assign_role
from idhub.changes import COMMAND_LINE, use_sealer
from idhub.credentials.journal import Journal
from idhub.credentials.sessions import read_epochs, start_session
from idhub.credentials.store import create_store
from idhub.db import Database, new_id
from idhub.delivery import queue
from idhub.delivery.channel import Grade, LeasedDelivery, Outcome
from idhub.directory.kinds import EmploymentType, OrganizationKind
from idhub.directory.organizations import create_organization, ensure_departments, install, root_organization
from idhub.keys import Keyring
from idhub.lifecycle import receipts
from idhub.lifecycle.commands import Caller, offboard, suspend
from idhub.lifecycle.intake import EmploymentFacts, Onboard, PersonFacts
from idhub.lifecycle.ports import use_planners
from idhub.lifecycle.tables import Case
from idhub.lifecycle.transition import transition
from idhub.pages import Pages, create_pages
from idhub.provisioning.outbound.planner import ScimPlanner
from idhub.settings import Settings
from idhub.signals.planner import BackchannelPlanner
from idhub.web.routes import create_router
from providers.saml_wire import names
from providers.saml_wire.metadata import Endpoint
from tests.saml.partner import make_signer
from tests.support.clock import Clock
from tests.support.databases import Furnishing

NAMES = (
    ("吴建国", "Jianguo", "Wu", "高级技师"),
    ("林晓雯", "Xiaowen", "Lin", "高级底盘工程师"),
    ("赵明轩", "Mingxuan", "Zhao", "主任工程师"),
    ("周子昂", "Ziang", "Zhou", "班组长"),
    ("徐浩然", "Haoran", "Xu", "质量工程师"),
    ("何志强", "Zhiqiang", "He", "试验员"),
    ("阿依古丽·买买提", "Ayguli", "Maimaiti", "区域经理"),
    ("Daniel Krüger", "Daniel", "Krüger", "首席设计师"),
    ("郑可欣", "Kexin", "Zheng", "高级经理"),
    ("刘思远", "Siyuan", "Liu", "见习生"),
    ("马诗涵", "Shihan", "Ma", "服务经理"),
    ("沈佳宁", "Jianing", "Shen", "集团人事"),
    ("高远", "Yuan", "Gao", "身份平台工程师"),
    ("何慕青", "Muqing", "He", "审计员"),
    ("魏东来", "Donglai", "Wei", "底盘开发部部长"),
)  # fmt: skip
APPLICATIONS = (
    ("mail", "Corporate mail", "企业邮箱", True, True),
    ("plm", "PLM product data", "PLM 产品数据", True, True),
    ("sap", "SAP S/4HANA", "SAP S/4HANA", True, True),
    ("gitlab", "GitLab source code", "代码库 GitLab", True, True),
    ("jira", "Jira projects", "Jira 项目", True, False),
    ("expenses", "Expenses", "费控报销", True, True),
    ("bi", "BI analytics", "经营分析 BI", False, True),
)  # fmt: skip


@dataclass
class SampleServices:
    """What pages are handed, with time under control."""

    settings: Settings
    database: Database
    keyring: Keyring
    pages: Pages
    clock: Callable[[], datetime]
    journal: Journal


@dataclass(frozen=True)
class SampleIds:
    """Whom a filled database holds, by name and by code."""

    people: Mapping[str, str]
    organizations: Mapping[str, str]


class SampleHub:
    """The sample installation and the application that serves its pages."""

    def __init__(self, settings: Settings, database: Database, keyring: Keyring, clock: Callable[[], datetime]) -> None:
        use_sealer(database, keyring)
        use_planners(
            database, lambda: [ScimPlanner(settings.delivery_timeout), BackchannelPlanner(settings.delivery_timeout)]
        )
        journal = Journal(create_store(settings, database, keyring))
        pages = create_pages(settings, keyring.master.csrf_secret)
        self.services = SampleServices(settings, database, keyring, pages, clock, journal)
        self.database, self.settings, self.clock = database, settings, clock
        self.people: dict[str, str] = {}
        self.organizations: dict[str, str] = {}
        self.app = FastAPI(redirect_slashes=False)
        self.app.router.routes += create_router(self.services).routes
        translate_the_rest(self.app, self.services)
        self.app.add_middleware(_RequestNumbers)

    def fill(self) -> "SampleHub":
        """Organizations, applications with rules, people, hub roles."""
        now = self.clock()
        with self.database.transaction() as session:
            install(session, time_zone="Asia/Shanghai", now=now)
            root = root_organization(session)
            self.organizations = {"root": root}
            for code, name, english in (
                ("QYC", "启岳乘用车", "Qiyue Passenger Cars"),
                ("QYM", "启岳智行科技", "Qiyue Mobility"),
            ):
                self.organizations[code] = create_organization(
                    session, code=code, name=name, name_en=english, kind=OrganizationKind.COMPANY, parent_id=root,
                    time_zone="Asia/Shanghai", now=now,
                )  # fmt: skip
            for slug, name, name_zh, scim, oidc in APPLICATIONS:
                configure(session, self._wish(slug, name, name_zh, scim, oidc), seal=_seal, now=now)
            departments, _ = ensure_departments(session, [(self.organizations["QYC"], "研发中心/底盘开发部")], now=now)
            changes = [
                self._onboard(n, name, given, family, title, next(iter(departments.values())))
                for n, (name, given, family, title) in enumerate(NAMES)
            ]
            transition(session, changes, now=now, actor=COMMAND_LINE, door="cli")
            for name, role in (
                ("沈佳宁", HubRole.HR),
                ("高远", HubRole.ADMINISTRATOR),
                ("何慕青", HubRole.AUDITOR),
            ):
                assign_role(session, self.people[name], role, organization_id=root, now=now, assigned_by="cli")
        return self

    def know(self, ids: "SampleIds") -> None:
        """Begin with a database that was filled before."""
        self.people, self.organizations = dict(ids.people), dict(ids.organizations)

    def _wish(self, slug: str, name: str, name_zh: str, scim: bool, oidc: bool) -> ApplicationWish:
        return ApplicationWish(
            slug=slug,
            name=name,
            name_zh=name_zh,
            description=None,
            home_url=f"https://{slug}.qiyue.example/",
            organization_id=self.organizations["root"],
            owner_id=None,
            criticality=Criticality.HIGH,
            revocation_deadline=timedelta(minutes=46 if slug == "expenses" else 15),
            required_grade=None,
            is_enabled=True,
            oidc=OidcWish(
                client_id=slug, secret="s" * 43, auth_method="client_secret_basic",
                redirect_uris=(f"https://{slug}.qiyue.example/callback",), post_logout_redirect_uris=(),
                grant_types=("authorization_code", "refresh_token"), scopes=("openid", "profile"),
                backchannel_logout_uri=f"https://{slug}.qiyue.example/logout",
            ) if oidc else None,
            scim=ScimWish(base_url=f"https://{slug}.qiyue.example/scim/v2", token="t" * 40) if scim else None,
            service_providers=(self._service_provider(slug),) if slug == "jira" else (),
            rules=(("member", 'employments.type ne "contractor"'),) if slug != "bi" else (),
        )  # fmt: skip

    def _service_provider(self, slug: str) -> SamlWish:
        """By SAML, with a certificate that runs out in three weeks."""
        address = f"https://{slug}.qiyue.example"
        signer = make_signer(f"{slug}.qiyue.example", now=self.clock() - timedelta(days=344), days=365)
        return SamlWish(
            entity_id=f"{address}/saml",
            facts=ProviderFacts(
                consumer_services=({"index": 0, "location": f"{address}/plugins/servlet/samlsso", "is_default": True},),
                artifact_consumers=({"index": 1, "location": f"{address}/saml/artifact", "is_default": False},),
                logout_services=logout_services(
                    [Endpoint(names.REDIRECT, f"{address}/saml/logout")], field="saml.logout"
                ),
                signing_certificates=(signer.certificate,),
            ),
            attributes={"uid": "employee_number", "mail": "email", "cn": "name", "title": "title"},
        )

    def _onboard(self, n: int, name: str, given: str, family: str, title: str, department: str) -> Onboard:
        person_id = self.people[name] = new_id("per")
        organization = self.organizations["QYM" if n % 5 == 3 else "QYC"]
        return Onboard(
            principal_id=person_id,
            person=PersonFacts(
                display_name=name, given_name=given, family_name=family, email=f"p{n}@qiyue.example",
                mobile=f"1380013{n:04d}",
            ),
            employment=EmploymentFacts(
                organization_id=organization,
                department_id=department if organization == self.organizations["QYC"] else None,
                employee_number=f"QY-{418273 + n * 7919:07d}",
                type=list(EmploymentType)[n % 4 if n in {5, 9, 10} else 0],
                starts_on=date(2017 + n % 8, 1 + n % 12, 1 + n),
                ends_on=date(2026, 12, 15) if n == 9 else None,
                title=title,
            ),
        )  # fmt: skip

    def deliver(self, *, rounds: int = 20, outcome: Callable[[LeasedDelivery], Outcome] | None = None) -> None:
        """Send what is due, with outcomes of the test's choice; without one everything is read back."""
        now = self.clock()
        for _ in range(rounds):
            leased = queue.lease(self.database, worker="test", now=now, limit=200, settings=self.settings)
            if not leased:
                return
            results = [(one, (outcome or _read_back)(one)) for one in leased]
            queue.settle_all(self.database, results, now=now, settings=self.settings)

    def application_slugs(self) -> dict[str, str]:
        """Slug by application id."""
        with self.database.read() as session:
            rows = session.execute(select(Application.id, Application.slug))
            return {row.id: row.slug for row in rows}

    def know_accounts(self) -> None:
        """Let every account that is wanted active be known to be."""
        with self.database.transaction() as session:
            for account in session.execute(select(Account).where(Account.desired_state == "active")).scalars():
                account.known_state = "active"
                account.user_name = account.user_name or f"user-{account.id[-6:]}"
                account.external_id = account.external_id or account.id

    def leave(self, name: str, *, at: datetime | None = None, is_emergency: bool = False) -> str:
        """Offboard a person; returns the receipt's number."""
        with self.database.transaction() as session:
            result = offboard(
                session, Caller(subject=LOCAL, actor=COMMAND_LINE, door="cli"), self.people[name], now=self.clock(),
                at=at, is_emergency=is_emergency, reason="Resigned",
            )  # fmt: skip
            number = session.execute(select(Case.number).where(Case.id == result.cases[self.people[name]])).scalar_one()
        return number

    def suspend(self, name: str) -> None:
        """Hold a person's access back."""
        with self.database.transaction() as session:
            suspend(session, Caller(subject=LOCAL, actor=COMMAND_LINE, door="cli"), self.people[name], now=self.clock())

    def sign_receipts(self) -> None:
        """Sign what is due."""
        receipts.sign_due(
            self.database, self.services.keyring, issuer=self.settings.issuer, now=self.clock(), log_size=1200
        )

    def seal_log(self) -> None:
        """Take every event into the tree and sign a checkpoint."""
        signer = Ed25519Signer(self.services.keyring.signing_key("checkpoint").private)
        witness = FileWitness(self.settings.effective_witness_file)
        sequencer = Sequencer(self.database.engine, signer, [witness], "sample", origin="sample/audit")
        sequencer.run_once(self.clock(), checkpoint=True)

    def sign_in(self, name: str) -> str:
        """Start a session; returns the value of its cookie."""
        person_id = self.people[name]
        with self.database.transaction() as session:
            epochs = read_epochs(session, person_id)
            assert epochs is not None
            token, _ = start_session(
                session, person_id, epochs_read=epochs, amr=["pwd"], now=self.clock(), ip="10.20.4.17",
                user_agent="test", settings=self.settings,
            )  # fmt: skip
        return token


class Story:
    """What happened in the sample: one left and is not proven everywhere, one is scheduled, one is suspended."""

    LEAVER, SCHEDULED, SUSPENDED = "徐浩然", "林晓雯", "何志强"

    def __init__(self, hub: SampleHub, clock: Clock) -> None:
        self.hub, self._clock = hub, clock
        self.receipt = self.scheduled = ""

    def tell(self) -> "Story":
        """Let it happen, in an hour and a half."""
        hub = self.hub
        hub.deliver()
        hub.know_accounts()
        applications = hub.application_slugs()
        self._clock.advance(hours=1)
        hub.suspend(self.SUSPENDED)
        self.receipt = hub.leave(self.LEAVER)
        self.scheduled = hub.leave(self.SCHEDULED, at=self._clock() + timedelta(days=7, hours=8))

        def answer(delivery: LeasedDelivery) -> Outcome:
            slug = applications[delivery.application_id]
            if slug == "expenses":
                words = "503 Service Unavailable: maintenance until 18:00"
                return Outcome(kind="retry", error=words, status_code=503, retry_after=timedelta(hours=1))
            if slug == "gitlab" and delivery.operation == "deprovision":
                return Outcome(kind="dead", error="409 uniqueness: userName is taken", status_code=409)
            return _read_back(delivery)

        self._clock.advance(seconds=4)
        hub.deliver(outcome=answer)
        hub.sign_receipts()
        hub.seal_log()
        self._clock.advance(minutes=52)
        return self


class _RequestNumbers:
    """Gives each request a number, as the application's own middleware does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        if scope["type"] == "http":
            Request(scope).state.request_id = "7f2c-91d4"
        await self.app(scope, receive, send)


def _seal(context: str, plaintext: bytes) -> bytes:
    return context.encode() + plaintext


def _read_back(delivery: LeasedDelivery) -> Outcome:
    grade = Grade.E1 if delivery.channel == "backchannel_logout" else Grade.E2
    read_back = {"status_code": 200, "read_back": {"active": delivery.operation != "deprovision"}}
    evidence = {"status_code": 200} if grade == Grade.E1 else read_back
    return Outcome(kind="done", grade=grade, evidence=evidence, status_code=200)


def _fill(settings: Settings, database: Database, keyring: Keyring, clock: Callable[[], datetime]) -> SampleIds:
    hub = SampleHub(settings, database, keyring, clock).fill()
    hub.deliver()
    hub.know_accounts()
    return SampleIds(hub.people, hub.organizations)


SAMPLE = Furnishing("sample", _fill)
"""A database of the sample in which every account is provisioned."""
