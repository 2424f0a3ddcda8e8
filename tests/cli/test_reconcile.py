"""`idhub reconcile` as a process, against an application that holds somebody whom nobody knows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

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


def _found(idhub: Command, environment: dict[str, str], *options: str) -> list[dict[str, object]]:
    done = idhub("findings", "list", "--json", *options, env=environment)
    assert done.code == 0, done.err
    rows: list[dict[str, object]] = done.json["findings"]
    return rows


def test_findings_are_listed_page_by_page_and_decided(connected: tuple[Command, StandIn, dict[str, str]]) -> None:
    idhub, service, environment = connected
    for name in ("ghost-a", "ghost-b", "ghost-c"):
        service.add(name)
    assert idhub("findings", "list", env=environment).out == "nothing found\n"
    assert idhub("reconcile", "office", env=environment).code == 0
    first = idhub("findings", "list", "--application", "office", "--kind", "ghost", "--size", "3", env=environment)
    assert first.code == 0, first.err
    assert [line.split()[:5:2] for line in first.out.splitlines()[1:]] == [
        [row["id"], "open", row["subject"]] for row in _found(idhub, environment)[:3]
    ]
    cursor = first.err.split("more: --after ")[1].split()[0]
    rest = _found(idhub, environment, "--after", cursor)
    assert len(rest) == 1
    assert {row["subject"] for row in _found(idhub, environment)} == {"nobody", "ghost-a", "ghost-b", "ghost-c"}
    one, other = (str(row["id"]) for row in _found(idhub, environment)[:2])
    shown = idhub("findings", "show", one, env=environment)
    assert (shown.code, "kind: ghost" in shown.out, 'actions: ["disable"]' in shown.out) == (0, True, True)
    late = idhub("findings", "dismiss", one, "--reason", "a robot", "--until", "2099-01-01", env=environment)
    assert (late.code, late.err) == (1, "error [until]: An exception ends: on a day within the next year.\n")
    until = (datetime.now(UTC) + timedelta(days=30)).date().isoformat()
    dismissed = idhub("findings", "dismiss", one, "--reason", "a robot", "--until", until, env=environment)
    assert dismissed.code == 0, dismissed.err
    assert idhub("findings", "accept", other, env=environment).code == 0
    assert [row["id"] for row in _found(idhub, environment, "--state", "dismissed")] == [one]
    assert one not in [row["id"] for row in _found(idhub, environment)]
    again = idhub("findings", "accept", other, env=environment)
    assert (again.code, again.err) == (1, "error [finding]: This finding has been decided already.\n")
    assert idhub("findings", "take-back", other, env=environment).code == 0
    undecided = idhub("findings", "take-back", other, env=environment)
    assert (undecided.code, undecided.err) == (1, "error [finding]: Nothing was decided about this finding.\n")
    unknown = idhub("findings", "show", "fnd_0", env=environment)
    assert (unknown.code, unknown.err) == (1, "error [finding]: There is no such finding.\n")
    for arguments, field in (
        (("list", "--after", "\udcff"), "after"),
        (("list", "--application", "\udcff"), "application"),
        (("show", "\udcff"), "finding"),
        (("dismiss", other, "--reason", "\udcff", "--until", until), "reason"),
    ):
        refused = idhub("findings", *arguments, env=environment)
        assert (refused.code, refused.err.startswith(f"error [{field}]: ")) == (1, True), refused.err
    log = idhub("audit", "search", "--action", "finding.dismissed", "--json", env=environment).json["events"]
    assert [(event["target_id"], event["actor"]["kind"], event["details"]["reason"]) for event in log] == [
        (one, "cli", "a robot")
    ]


def test_a_remedy_is_tried_without_effect_then_carried_out_and_braked(
    connected: tuple[Command, StandIn, dict[str, str]],
) -> None:
    idhub, service, environment = connected
    for number in range(21):
        service.add(f"ghost-{number}")
    assert idhub("reconcile", "office", env=environment).code == 0
    ids = [str(row["id"]) for row in _found(idhub, environment)]
    assert len(ids) == 22
    tried = idhub("findings", "act", "disable", *ids, "--dry-run", "--json", env=environment)
    assert (tried.code, len(tried.json["deliveries"]), len(tried.json["held"])) == (3, 20, 2)
    assert {row["state"] for row in _found(idhub, environment)} == {"open"}
    assert idhub("audit", "search", "--action", "finding.accepted", "--json", env=environment).json["events"] == []
    wrong = idhub("findings", "act", "link", ids[0], env=environment)
    assert (wrong.code, wrong.err) == (1, "error [action]: This cannot be done about this finding (any more).\n")
    done = idhub("findings", "act", "disable", *ids, env=environment)
    assert (done.code, done.out.count("is under way"), done.out.count("held by the brake")) == (3, 20, 2)
    assert len(_found(idhub, environment, "--state", "accepted")) == 20
    held = idhub("findings", "list", "--state", "open", env=environment)
    assert [line.split()[2] for line in held.out.splitlines()[1:]] == ["held", "held"]
