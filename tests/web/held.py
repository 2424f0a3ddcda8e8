"""What the brake holds after a file that wanted more people gone than is plausible."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from idhub.db import new_id
from idhub.directory.kinds import Standing
from idhub.directory.tables import Employment, Person, Principal
from idhub.keys import Keyring
from idhub.lifecycle.hr_brake import hold
from idhub.lifecycle.hr_plan import Leaving
from idhub.lifecycle.intake import SourceMark
from idhub.lifecycle.tables import SourceRun
from tests.web.sample import SampleHub

LEAVERS = 3


@dataclass(frozen=True, slots=True)
class Held:
    """The run, the company, and the posts that it would end."""

    run: str
    company: str
    posts: tuple[Any, ...]


def plant(hub: SampleHub, keyring: Keyring, *, spare: Collection[str]) -> Held:
    """Hold three leaves of one company, of nobody among `spare` (names)."""
    run, now = new_id("run"), hub.clock()
    with hub.database.transaction() as session:
        posts = session.execute(
            select(Employment.id, Employment.principal_id, Employment.organization_id, Employment.employee_number)
            .join(Principal, Principal.id == Employment.principal_id)
            .join(Person, Person.id == Employment.principal_id)
            .where(
                Principal.standing == Standing.ACTIVE,
                Employment.state == "active",
                Person.display_name.not_in(spare),
            )
            .order_by(Employment.employee_number.desc())
        ).all()
        company = posts[0].organization_id
        chosen = tuple(post for post in posts if post.organization_id == company)[:LEAVERS]
        session.add(
            SourceRun(
                id=run, provider="hr_file", started_at=now, finished_at=now, is_complete=True,
                counts={"rows": 120, "quarantined": LEAVERS, "refused": 1},
                problems=[{"line": 7, "field": "status", "rule": "unknown_status"}], started_by="cli",
            )
        )  # fmt: skip
        session.flush()
        leaving = [
            Leaving(
                kind="absent", organization_id=company, principal_id=post.principal_id, employment_id=post.id,
                last_day=now.date() - timedelta(days=1),
                mark=SourceMark(
                    provider="hr_file", key=post.employee_number, scope=company, content_hash="x", generation=run,
                    state="left", raw_sealed=None,
                ),
            )
            for post in chosen
        ]  # fmt: skip
        hold(session, leaving, keyring, run_id=run, now=now)
    return Held(run, company, chosen)
