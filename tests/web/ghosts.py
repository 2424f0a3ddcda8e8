"""Findings planted in the sample hub, one of every class, for pages to show."""

from datetime import timedelta
from typing import Any

from sqlalchemy import insert, select, update

from idhub.access.tables import Application, ScimTarget
from idhub.db import new_id
from idhub.provisioning.reconcile import findings
from idhub.provisioning.reconcile.findings import Place
from idhub.provisioning.reconcile.judge import Verdict
from idhub.provisioning.reconcile.kinds import PROPOSALS, Kind, Policy, Proposal
from idhub.provisioning.reconcile.tables import Finding, ReconcileRun
from tests.web.sample import SampleHub


def plant(hub: SampleHub) -> dict[str, str]:
    """Plant them; returns ids by subject."""
    now = hub.clock()
    left, works = hub.people["徐浩然"], hub.people["林晓雯"]
    with hub.database.transaction() as session:
        apps = {row.slug: row.id for row in session.execute(select(Application.id, Application.slug))}
        for number, slug in enumerate(row[0] for row in session.execute(
            select(Application.slug).join(ScimTarget, ScimTarget.application_id == Application.id)
        ).all()):  # fmt: skip
            is_broken = slug == "sap"
            session.execute(
                insert(ReconcileRun).values(
                    id=new_id("rec"), source="scim", application_id=apps[slug],
                    state="incomplete" if is_broken else "complete", started_at=now + timedelta(seconds=number),
                    finished_at=now, total=40, read=40 - is_broken * 9, counts={}, started_by="hub",
                    gaps=["Page 4: The application answered 503."] if is_broken else [],
                )
            )  # fmt: skip
        session.execute(
            insert(ReconcileRun).values(
                id=new_id("rec"), source="payroll", application_id=None, state="complete", started_at=now,
                finished_at=now, total=15, read=15, counts={}, started_by="cli", gaps=[],
            )
        )  # fmt: skip
        for slug, verdicts in {
            "plm": [
                _verdict(Kind.GHOST, "dev_test07", "none", changed="2026-11-19T13:20:00Z"),
                _verdict(Kind.GHOST, "sapadm2", "none", likeness={"name": 1}),
                _verdict(Kind.LEFT_ALIVE, "xu.haoran", "mail", person=left),
                _verdict(Kind.DRIFT, "lin.xiaowen", "link", person=works, differences=_DIFFERENCES),
            ],
            "gitlab": [
                _verdict(Kind.REENABLED, "xu.h", "link", person=left),
                _verdict(Kind.ORPHAN, "lin", "employee_number", person=works),
                _verdict(Kind.MISSING, "gone", "link", person=works),
                _verdict(Kind.DUPLICATE, "lin2", "external_id", person=works),
                _verdict(Kind.UNENTITLED, "lin3", "mail", person=works),
                _verdict(Kind.DISABLED_THERE, "lin4", "link", person=works),
                _verdict(Kind.QUESTION, "both", "several", why="several_people"),
                *(_verdict(Kind.GHOST, f"bot{n:02d}", "none") for n in range(30)),
            ],
        }.items():
            place = findings.place_of(session, apps[slug], run_id="rec_x", policy=_REPORT)
            findings.write(session, place, verdicts, now=now)
        root = Place("rec_y", "payroll", None, hub.organizations["root"], None)
        paid = {"payroll": {"line": 7, "company": "启岳乘用车", "period": "2026-11"}}
        verdict = _verdict(Kind.GHOST_PAID, "启岳乘用车/QY000005", "national_id", person=left)
        verdicts = [
            verdict.but(Kind.GHOST_PAID, **paid),
            _verdict(Kind.DUPLICATE_PERSON, "a / b", "mail", person=works),
        ]
        findings.write(session, root, verdicts, now=now)
        session.execute(update(Finding).where(Finding.subject == "bot29").values(deadline_at=now - timedelta(days=1)))
        return {row.subject: row.id for row in session.execute(select(Finding.subject, Finding.id))}


_REPORT = Policy.REPORT
_DIFFERENCES = {
    "title": {"should": "高级底盘工程师", "is": "<b>Director</b>"},
    "displayName": {"should": "林", "is": None},
}


def _verdict(
    kind: Kind, subject: str, basis: str, *, person: str | None = None, changed: str = "", **more: Any
) -> Verdict:
    account: dict[str, Any] = {"active": True, "user_name": subject, "display_name": f"{subject} <i>"}
    if changed:
        account["changed"] = changed
    evidence = {"account": account, "seen_at": "2026-11-23T02:00:00+00:00", **more}
    proposal = Proposal.ASK if "likeness" in more else PROPOSALS[kind]
    return Verdict(kind, f"id-{subject}", subject, basis, evidence, person, None, proposal)
