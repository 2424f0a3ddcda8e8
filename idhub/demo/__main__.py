"""`python -m idhub.demo`: the story, and then a hub to look at. `make demo` runs it."""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx2

from idhub.demo import joining, leaving
from idhub.demo.narrator import Narrator, StoryFailed
from idhub.demo.stage import Stage

Step = Callable[[Stage], None]
STEPS: tuple[Step, ...] = (
    joining.the_hub_starts,
    joining.an_hr_file_goes_in,
    joining.applications_are_connected,
    joining.one_sign_in_opens_both,
    leaving.hr_offboards_her,
    leaving.an_application_is_silent,
    leaving.the_receipt_is_proven,
    leaving.she_is_rehired,
)
_ROLES = {"employee": None, "hr": "hr", "administrator": "administrator", "auditor": "auditor"}


def tell(steps: Sequence[Step] = STEPS, *, ci: bool) -> int:
    """Tell the story. Returns 0 only if every step held."""
    narrator = Narrator(steps=len(steps))
    folder = Path(tempfile.mkdtemp(prefix="idhub-demo-"))
    stage = Stage(narrator, folder)
    status = 1
    try:
        for step in steps:
            step(stage)
        narrator.close(f"Every step held: {narrator.held} claims, each checked where it matters.", good=True)
        status = 0
        if not ci:
            _stay(stage)
    except (StoryFailed, TimeoutError, RuntimeError, httpx2.HTTPError, KeyError) as error:
        narrator.close(f"The story failed: {type(error).__name__}: {error}", good=False)
        for server in (stage.hub.server, stage.office.server, stage.wiki.server, stage.scim.server):
            if tail := server.tail():
                narrator.fact(f"--- {server.name}: {server.log}\n{tail}")
    except KeyboardInterrupt:
        narrator.fact("Ending.")
    finally:
        stage.close()
        if status == 0:
            shutil.rmtree(folder, ignore_errors=True)
    return status


def _stay(stage: Stage) -> None:
    """Prepare sample sign-ins, print addresses, and wait for Ctrl-C."""
    password = "look around with open eyes"
    rows = []
    with stage.tell.working("sample sign-ins are prepared"):
        for part, role in _ROLES.items():
            person = stage.cast(part)
            if role:
                stage.hub.run("role", "assign", person.employee_number, role)
            stage.first_password(person, password=password)
            rows.append((part, person.name, person.employee_number, password))
    stage.tell.table(("sign-in", "name", "username", "password"), rows)
    stage.tell.table(
        ("address", "what"),
        [
            (f"{stage.hub.address}/", "own applications · 我的应用"),
            (f"{stage.hub.address}/hr/people", "people and offboarding (HR) · 人员与离职"),
            (f"{stage.hub.address}/admin/apps", "applications, deliveries (administrator) · 应用与下发"),
            (f"{stage.hub.address}/audit/events", "event log (auditor) · 审计日志"),
            (f"{stage.office.address}/", "Office · 办公"),
            (f"{stage.wiki.address}/", "Wiki · 知识库"),
        ],
    )
    stage.tell.fact("Ctrl-C ends it; nothing is left behind.")
    signal.pause()


def main() -> None:
    """Read the command line and tell."""
    parser = argparse.ArgumentParser(prog="python -m idhub.demo", description=__doc__)
    parser.add_argument("--ci", action="store_true", help="end when the story is told")
    # `kill` and a closed terminal end it as Ctrl-C does: processes first.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    sys.exit(tell(ci=parser.parse_args().ci))


if __name__ == "__main__":
    main()
