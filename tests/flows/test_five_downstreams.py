"""A leave in five applications: good, slow, failing, lying and silent. The receipt grades each right, never early."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import orjson
import pytest
import yaml

from idhub.api.configuration import apply
from idhub.changes import COMMAND_LINE
from idhub.db import Database
from idhub.delivery.http import OutboundHttp
from idhub.directory.organizations import root_organization
from idhub.lifecycle import commands
from idhub.lifecycle.receipt_document import Unreadable, verify
from idhub.lifecycle.receipts import ReceiptView, current, export
from idhub.lifecycle.reevaluation import reevaluate_pending
from idhub.services import Hub, open_hub
from idhub.settings import Settings
from idhub.worker import Worker
from tests.lifecycle.world import CALLER
from tests.provisioning.stand_ins import Behaviour, StandIn

KINDS: tuple[Behaviour, ...] = ("good", "slow", "failing", "lying", "silent")


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Group:
    """A hub and five downstream applications, each a SCIM service that may misbehave later."""

    hub: Hub
    services: dict[str, StandIn]
    person: str = ""
    colleague: str = ""

    def receipt(self, case_id: str) -> ReceiptView:
        with self.hub.database.read() as session:
            return current(session, case_id, now=utc_now())

    def work_until(self, condition: Callable[[], bool], *, seconds: float = 60) -> None:
        """Run the real worker until the condition holds."""

        async def run() -> None:
            async with OutboundHttp(self.hub.settings) as http:
                worker = Worker(self.hub, http)
                await worker.start()
                try:
                    async with asyncio.timeout(seconds):
                        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - it is in the database
                            await asyncio.sleep(0.05)
                finally:
                    await worker.stop()

        asyncio.run(run())

    def hire(self, name: str, number: str) -> str:
        with self.hub.database.transaction() as session:
            return commands.onboard(
                session,
                CALLER,
                person={"display_name": name, "email": f"{number.lower()}@qiyue.example"},
                organization_id=root_organization(session),
                employee_number=number,
                employment_type="regular",
                starts_on=date(2020, 1, 1),
                now=utc_now(),
            )


@pytest.fixture
def group(database: Database, settings: Settings, tmp_path: Path) -> Iterator[Group]:
    with ExitStack() as stack:
        services: dict[str, StandIn] = {kind: stack.enter_context(StandIn(delay=0.05, retry_after=1)) for kind in KINDS}
        (tmp_path / "scim.token").write_text("stand-in-token")
        applications = [
            {
                "slug": kind,
                "name": kind.title(),
                "criticality": "high",
                "scim": {"base_url": service.base_url, "token_file": "scim.token"},
                "entitle": [{"role": "member", "rule": "employments.company pr"}],
            }
            for kind, service in services.items()
        ]
        (tmp_path / "apps.yaml").write_text(yaml.safe_dump({"applications": applications}))
        allowed = ",".join(f"127.0.0.1:{service.port}" for service in services.values())
        chosen = settings.model_copy(
            update={
                "outbound_allow": allowed,
                "delivery_timeout": timedelta(seconds=2),
                "delivery_lease": timedelta(seconds=8),
                "database_url": database.url if database.dialect == "postgresql" else settings.database_url,
            }
        )
        hub = open_hub(chosen)
        made = Group(hub, services)
        apply(
            hub.database,
            hub.keyring,
            tmp_path / "apps.yaml",
            clock=utc_now,
            actor=COMMAND_LINE,
            door="cli",
            outbound_allow=allowed,
        )
        reevaluate_pending(hub.database, clock=utc_now)
        made.person, made.colleague = made.hire("林晓雯", "QY1"), made.hire("王磊", "QY2")
        made.work_until(lambda: all(len(service.users) == 2 for service in services.values()))
        yield made
        hub.close()


def test_receipt_grades_five_downstreams_right_and_is_never_complete_early(group: Group) -> None:
    hub = group.hub
    for kind, service in group.services.items():
        service.behaviour = kind  # type: ignore[assignment]
    with hub.database.transaction() as session:
        result = commands.offboard(session, CALLER, group.person, now=utc_now())
    case_id = result.cases[group.person]

    def stands() -> dict[str, tuple[str, int]]:
        return {row.application: (row.state, row.grade) for row in group.receipt(case_id).rows}

    expected = {
        "good": ("done", 2),
        "slow": ("done", 2),
        "failing": ("pending", 0),
        "lying": ("pending", 1),
        "silent": ("pending", 0),
    }
    seen_complete: list[bool] = []

    def graded() -> bool:
        view = group.receipt(case_id)
        seen_complete.append(view.is_complete)
        tried = all(row.attempts >= 1 for row in view.rows) and view.rows != []
        return tried and stands() == expected and view.version > 0

    group.work_until(graded)
    view = group.receipt(case_id)
    assert not any(seen_complete)
    assert (view.state, view.completed_at) == ("running", None)
    verdict = verify(export(view), hub.keyring.jwks("receipt"))
    assert verdict.is_valid, verdict.problems
    assert verdict.claims["complete"] is False

    for service in group.services.values():
        service.behaviour = "good"
    group.work_until(lambda: group.receipt(case_id).is_complete and group.receipt(case_id).state == "complete")
    final = group.receipt(case_id)
    assert {row.grade for row in final.rows} == {2}
    assert all(row.evidence for row in final.rows)
    verdict = verify(export(final), hub.keyring.jwks("receipt"))
    assert (verdict.is_valid, verdict.claims["complete"]) == (True, True)
    assert verdict.disclosed == {"name": "林晓雯", "employee_number": "QY1"}
    # Told of nobody else: the colleague's accounts live on everywhere.
    for service in group.services.values():
        by_owner = {user.get("externalId"): user["active"] for user in service.users.values()}
        assert by_owner == {group.person: False, group.colleague: True}


def test_receipt_whose_bytes_were_changed_does_not_verify(group: Group) -> None:
    with group.hub.database.transaction() as session:
        result = commands.offboard(session, CALLER, group.person, now=utc_now())
    case_id = result.cases[group.person]
    group.work_until(lambda: group.receipt(case_id).is_complete and group.receipt(case_id).version > 0)
    group.work_until(lambda: b'"receipt"' in export(group.receipt(case_id)))
    content = export(group.receipt(case_id))
    document = orjson.loads(content)
    token: str = document["receipt"]
    keys = group.hub.keyring.jwks("receipt")
    head, body, signature = token.split(".")
    for part in range(3):
        pieces = [head, body, signature]
        flipped = pieces[part]
        middle = len(flipped) // 2
        pieces[part] = flipped[:middle] + ("A" if flipped[middle] != "A" else "B") + flipped[middle + 1 :]
        changed = orjson.dumps({**document, "receipt": ".".join(pieces)})
        try:
            is_valid = verify(changed, keys).is_valid
        except Unreadable:
            is_valid = False
        assert not is_valid
