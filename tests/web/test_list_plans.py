"""Lists cost what they show, however much there is: no list of the consoles reads a growing table whole."""

import pytest

from tests.support.plans import scanned, statements_of
from tests.web.conftest import SignIn
from tests.web.sample import SampleHub

# Indexes in the order that a list is asked for in: it stops after one page.
_WALKED = frozenset({
    "ix_deliveries_planned", "ix_employments_employee_number", "ix_employments_starts_at", "ix_cases_effective",
    "sqlite_autoindex_audit_checkpoints_1",
    # Holds nothing in an honest log.
    "audit_refused",
    # One row holds thousands of people; kept in memory by whoever searches.
    "search_shelves",
})  # fmt: skip
_LISTS = (
    ("沈佳宁", "/hr/people"),
    ("沈佳宁", "/hr/people?sort=-start"),
    ("沈佳宁", "/hr/people?q=wu&org=QYC&type=regular&state=active"),
    ("沈佳宁", "/hr/people?state=left"),
    ("沈佳宁", "/hr/receipts"),
    ("沈佳宁", "/hr/receipts?q=xu&month=2026-11&state=running"),
    ("高远", "/admin/apps?q=mail&protocol=oidc&state=ok&sort=-name"),
    ("高远", "/admin/deliveries"),
    ("高远", "/admin/deliveries?q=refused"),
    ("高远", "/admin/deliveries?q=xu&kind=deprovision&state=done&app=mail"),
    ("何慕青", "/audit/events?range=7d"),
    ("何慕青", "/audit/events?q=xu&result=success&view=table"),
)
_NAMED = "idp_01j0000000000000000000000"


@pytest.mark.parametrize("query", [f"object={_NAMED}", f"q={_NAMED}", "q=something"])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_events_that_name_something_are_looked_up(hub: SampleHub, sign_in: SignIn, query: str) -> None:
    """`ix_audit_events_target` leaves some kinds out: who does not say so walks every event of the time asked for."""
    client = sign_in("何慕青")
    with statements_of(hub.database.engine) as sent:
        assert client.get(f"/audit/events?range=7d&{query}").status_code == 200
    (page,) = [each for each in sent if "target_id =" in each and "LIMIT" in each and "EXISTS" not in each]
    with hub.database.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {page}", sent[page]).all()
    assert any("ix_audit_events_target" in row[3] for row in plan), plan


def test_no_list_reads_a_growing_table_whole(hub: SampleHub, sign_in: SignIn) -> None:
    hub.leave("徐浩然")
    hub.deliver()
    hub.sign_receipts()
    found: dict[str, list[str]] = {}
    for who, path in _LISTS:
        client = sign_in(who)
        with statements_of(hub.database.engine) as sent:
            assert client.get(path).status_code == 200, path
        assert sent, path
        for statement, parameters in sent.items():
            if scans := scanned(hub.database, statement, parameters, walked=_WALKED):
                found[f"{path}: {statement}"] = scans
    assert found == {}, "\n".join(f"{scans} {statement}" for statement, scans in found.items())
