"""`idhub reconcile` as a process, against an application that holds somebody whom nobody knows."""

from collections.abc import Iterator

import pytest

from tests.cli.conftest import Command
from tests.provisioning.stand_ins import StandIn

APPS = """
applications:
  - slug: office
    name: {{en: Office, zh: 办公}}
    owner: QY1
    scim: {{base_url: "{base_url}", token_file: scim.token}}
    reconcile: {{every: 6h, policy: ask, service_accounts: [robot]}}
    entitle: [{{role: member, rule: 'employments.type eq "regular"'}}]
"""


@pytest.fixture
def connected(staffed: Command) -> Iterator[tuple[Command, StandIn, dict[str, str]]]:
    with StandIn() as service:
        staffed.write("scim.token", service.token)
        environment = {"IDHUB_OUTBOUND_ALLOW": f"127.0.0.1:{service.port}"}
        done = staffed(
            "apply", str(staffed.write("apps.yaml", APPS.format(base_url=service.base_url))), env=environment
        )
        assert done.code == 0, done.err
        service.add("nobody")
        service.add("robot")
        yield staffed, service, environment


def test_ghost_is_found_and_a_dry_run_writes_nothing(connected: tuple[Command, StandIn, dict[str, str]]) -> None:
    idhub, _, environment = connected
    dry = idhub("reconcile", "office", "--dry-run", "--json", env=environment)
    assert dry.code == 0, dry.err
    run = dry.json["runs"][0]
    assert (run["found"], run["complete"], run["dry_run"], run["opened"]) == ({"ghost": 1}, True, True, 0)
    done = idhub("reconcile", "office", env=environment)
    assert done.code == 0, done.err
    assert "ghost 1" in done.out
    again = idhub("reconcile", "--json", env=environment).json["runs"]
    assert [one["source"] for one in again] == ["scim", "register"]
    assert (again[0]["opened"], again[0]["found"]) == (0, {"ghost": 1})
    log = idhub("audit", "search", "--action", "finding.opened", "--json")
    assert log.out.count('"finding.opened"') == 1


def test_incomplete_read_and_payroll_have_their_status(connected: tuple[Command, StandIn, dict[str, str]]) -> None:
    idhub, service, environment = connected
    payroll = idhub.write("pay.csv", "company,employee_number\n总部,QY1\n总部,QY404\n")
    done = idhub("reconcile", "office", "--payroll", str(payroll), "--json", env=environment)
    assert done.code == 0, done.err
    assert done.json["runs"][1]["found"] == {"ghost_paid": 1}
    service.on_list = lambda _asked, page: {**page, "totalResults": 9}
    broken = idhub("reconcile", "office", env=environment)
    assert broken.code == 2
    assert "office: " in broken.out
    refused = idhub("reconcile", "nothing", env=environment)
    assert refused.code == 1
    assert refused.err.startswith("error [application]: ")
    wrong = idhub("reconcile", "office", "--payroll", str(idhub.write("x.csv", "a,b\n")), env=environment)
    assert (wrong.code, wrong.err.splitlines()[-1].startswith("error [payroll]: ")) == (1, True)


def test_plan_is_configuration(connected: tuple[Command, StandIn, dict[str, str]]) -> None:
    idhub, _, environment = connected
    exported = idhub("export").out
    assert "policy: ask" in exported
    assert "every: 21600" in exported
    text = APPS.format(base_url=connected[1].base_url).replace("6h", "1m")
    refused = idhub("apply", str(idhub.write("apps.yaml", text)), env=environment)
    assert (refused.code, "applications.office.reconcile.every" in refused.err) == (1, True)
