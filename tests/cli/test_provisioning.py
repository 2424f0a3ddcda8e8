"""`idhub provisioning` and `idhub apply` as processes, beside a worker: from a wrong token to accounts in order."""

import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from typing import Any

from tests.cli.conftest import Command, Done
from tests.provisioning.stand_ins import StandIn
from tests.support.processes import die_with_parent

APPS = """
applications:
  - slug: office
    name: {{en: Office, zh: 办公}}
    owner: QY1
    criticality: high
    scim: {{base_url: "{base_url}", token_file: scim.token}}
    entitle: [{{role: member, rule: 'employments.type eq "regular"'}}]
"""


@contextmanager
def worker(idhub: Command, environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "idhub.cli", "worker"],
        cwd=idhub.folder,
        env={**idhub.environment, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl call, safe between fork and exec
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def test_from_a_wrong_token_to_accounts_in_order(staffed: Command) -> None:
    with StandIn() as service:
        environment = {"IDHUB_OUTBOUND_ALLOW": f"127.0.0.1:{service.port}"}

        def idhub(*arguments: str) -> Done:
            return staffed(*arguments, env=environment)

        def status() -> Any:
            done = idhub("provisioning", "status", "office", "--json")
            assert done.code == 0, done.err
            return done.json

        def until(holds: Callable[[Any], bool]) -> Any:
            deadline = time.monotonic() + 120
            while not holds(found := status()):
                assert time.monotonic() < deadline, found
                time.sleep(0.4)
            return found

        def applied(token: str) -> Done:
            staffed.write("scim.token", token)
            text = APPS.format(base_url=service.base_url)
            done = idhub("apply", str(staffed.write("apps.yaml", text)))
            assert done.code == 0, done.err
            assert token not in done.out + done.err
            return done

        applied("wrong-token-4711")
        refused = idhub("provisioning", "discover", "office", "--json")
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.startswith("error: The application answered 401")
        assert "wrong-token-4711" not in refused.err
        with worker(staffed, environment):
            held = until(lambda found: bool(found["holds"]))
            assert (held["holds"][0]["reason"], held["progress"]["alive"]) == ("unauthorized", 0)
            # What was not accepted waits in order, and is no dead letter: the credential is at fault.
            assert (held["progress"]["waiting"], held["progress"]["dead"]) == (2, 0)
            said = idhub("provisioning", "status", "office").out
            assert "held (unauthorized): The application refuses" in said
            assert "in order. Tried again at 20" in said

            applied(service.token)
            well = until(lambda found: found["progress"]["alive"] == 2)
            assert well["holds"] == []
            assert len(service.users) == 2

            again = idhub("provisioning", "resync", "office", "--json")
            assert (again.code, again.json["state"], again.json["total"]) == (0, "running", 2)
            until(lambda found: found["progress"]["state"] == "done")
            assert len(service.users) == 2

            service.token = "rotated-token"
            stage = ("provisioning", "token", "stage", "office", str(staffed.write("next", "rotated-token")))
            wrong = idhub(*stage, "--expires", "soon")
            assert (wrong.code, wrong.err) == (1, "error [expires]: --expires is a date such as 2027-01-31.\n")
            assert idhub(*stage, "--expires", (date.today() + timedelta(days=3)).isoformat()).code == 0  # noqa: DTZ011
            assert idhub("provisioning", "token", "try", "office").code == 0
            assert idhub("provisioning", "token", "try", "office", "--present").code == 1
            assert idhub("provisioning", "token", "switch", "office").code == 0
            assert idhub("provisioning", "token", "try", "office", "--present").code == 0
            assert status()["token_expires_at"] is not None
            assert "the token ends on " in idhub("provisioning", "status", "office").out
            assert "no end of the token" not in idhub("provisioning", "status", "office").out

        unknown = idhub("provisioning", "status", "nothing")
        assert (unknown.code, unknown.err) == (1, "error [application]: There is no application 'nothing'.\n")
    gone = staffed("provisioning", "discover", "office", env=environment)
    assert (gone.code, gone.err.startswith("error: No connection to 127.0.0.1:")) == (1, True)


def on_a_terminal(idhub: Command, environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Run the command with its talk on a terminal; exit status, data, talk."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "idhub.cli", *arguments],
        cwd=idhub.folder,
        env={**idhub.environment, **environment, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        talk = b""
        # Reading a terminal whose other side is closed is an error on Linux, not an end.
        with suppress(OSError):
            while part := os.read(ours, 4096):
                talk += part
        os.close(ours)
        assert process.stdout is not None
        data = process.stdout.read().decode()
    return process.returncode, data, talk.decode()


def test_what_was_given_up_is_sent_again_after_repair_and_runs_show_how_far_they_are(staffed: Command) -> None:
    with StandIn(refuses_creates="employeeNumber is not allowed here") as service:
        environment = {"IDHUB_OUTBOUND_ALLOW": f"127.0.0.1:{service.port}"}

        def idhub(*arguments: str) -> Done:
            return staffed(*arguments, env=environment)

        staffed.write("scim.token", service.token)
        apps = staffed.write("apps.yaml", APPS.format(base_url=service.base_url))
        assert idhub("apply", str(apps)).code == 0

        wanted = idhub("provisioning", "preview", "office", "QY1", "--json").json
        assert (wanted["is_wanted"], wanted["is_known"]) == (True, False)
        assert wanted["resource"]["userName"] == "wl@qiyue.example"
        assert "+ title: None -> 'Engineer'" in idhub("provisioning", "preview", "office", "QY1").out
        assert service.seen == []

        with worker(staffed, environment):
            given_up = idhub("provisioning", "watch", "office", "--json")
            assert (given_up.code, given_up.json["dead"], given_up.json["alive"]) == (2, 2, 0)
            # Not on a terminal: lines, no control characters.
            assert "\x1b" not in given_up.err

            service.refuses_creates = None
            again = idhub("provisioning", "retry", "office", "--json")
            assert (again.code, again.json) == (0, {"retried": 2, "overtaken": 0})
            loaded = idhub("provisioning", "watch", "office")
            assert (loaded.code, loaded.out) == (
                0, "2 of 2 accounts confirmed, 0 deliveries wait, 0 are dead\n",
            )  # fmt: skip
            assert len(service.users) == 2
            assert idhub("provisioning", "retry", "office", "--json").json == {"retried": 0, "overtaken": 0}
            requeued = idhub("audit", "search", "--action", "delivery.requeued", "--json").json["events"]
            assert [event["door"] for event in requeued] == ["cli", "cli"]

            assert idhub("provisioning", "resync", "office").out == "running, 0 of 2\n"
            code, data, talk = on_a_terminal(staffed, environment, "provisioning", "watch", "office")
            assert (code, data) == (
                0, "run done: 2 of 2; 2 of 2 accounts confirmed, 0 deliveries wait, 0 are dead\n",
            )  # fmt: skip
            assert "accounts" in talk
            assert "/2" in talk
            assert len(service.users) == 2

        same = idhub("provisioning", "preview", "office", "QY1")
        assert "Engineer" in same.out
        assert not any(line.startswith(("+", "~", "!")) for line in same.out.splitlines())
