"""Steps 5 to 8: a person leaves, an application is silent, the receipt is proven, the person comes back."""

import json
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from idhub.demo.sample import HEADQUARTERS, SampleSignIn
from idhub.demo.signing_in import is_signed_in_at_hub, link_works
from idhub.demo.stage import Remembered, Stage, Watch

_SOON_SECONDS = 1.0
_VALID, _INVALID = 0, 1
_BAD_REQUEST, _UNAUTHORIZED = 400, 401
_SLOWER_FACTOR = 2.0
_SLACK_SECONDS = 0.02


def hr_offboards_her(stage: Stage) -> None:
    """Step 5: dead here when the call returns; known everywhere within the second."""
    person, remembered = stage.cast("leaver"), stage.remembered
    stage.tell.step(
        "办理离职",
        "HR offboards her",
        "When the command returns, everything of hers is dead in the hub; within the second the applications know.",
    )
    account = stage.scim_account(person)
    stage.tell.check("before: scim2-server says that her account is active", account["active"])
    watch = Watch(
        {
            "Office": lambda: not stage.office.has_session(remembered.sub),
            "Wiki": lambda: not stage.wiki.has_session(remembered.sub),
            "scim2-server": lambda: not stage.scim.user(account["id"])["active"],
        }
    )
    result = stage.hub.run("offboard", person.employee_number, "--json")
    returned_at = time.time()
    remembered.case = str(result.data["case"])
    _nothing_works(stage, remembered)
    stage.tell.check("a new sign-in with the right password is refused", not stage.can_sign_in(person))
    seen_at = watch.wait(seconds=30)
    receipt = stage.wait_for_complete_receipt(remembered.case)
    dead_at = datetime.fromisoformat(receipt["local_done_at"]).timestamp()
    for name, at in seen_at.items():
        claim = "says that her account is inactive" if name == "scim2-server" else "has ended her session there"
        stage.tell.check(
            f"{name} itself {claim}, {at - dead_at:.2f} s after her access here had ended",
            at - returned_at <= _SOON_SECONDS,
            seen=f"{at - returned_at:.2f} s after the command returned",
        )
    stage.tell.check("her receipt is complete: every row has the evidence it requires", receipt["complete"])


def _nothing_works(stage: Stage, remembered: Remembered) -> None:
    client, tokens = stage.client, remembered.tokens
    refreshed = client.refresh(tokens["refresh_token"])
    stage.tell.check("her session cookie opens nothing", not is_signed_in_at_hub(remembered.browser, stage.hub.address))
    stage.tell.check(
        "her refresh token is refused: invalid_grant",
        refreshed.status_code == _BAD_REQUEST and refreshed.json()["error"] == "invalid_grant",
        seen=refreshed.text,
    )
    stage.tell.check("introspection calls her access token inactive", not client.is_active(tokens["access_token"]))
    answer = client.userinfo(tokens["access_token"])
    stage.tell.check("userinfo refuses it", answer.status_code == _UNAUTHORIZED, seen=answer.text)


def an_application_is_silent(stage: Stage) -> None:
    """Step 6: the receipt is never ahead of the evidence, and nobody waits for the silent one."""
    person = stage.cast("second_leaver")
    stage.tell.step(
        "应用无响应",
        "An application is silent",
        "The SCIM process is frozen (SIGSTOP) while a second person leaves. The receipt stays open and says why.",
    )
    account = stage.scim_account(person)
    before = stage.seconds_per_call()
    stage.scim.server.freeze()
    try:
        result = stage.hub.run("offboard", person.employee_number, "--json")
        case = str(result.data["case"])
        stage.tell.check(f"offboarding returns all the same, after {result.seconds:.1f} s", True)
        during = stage.seconds_per_call()
        stage.tell.check(
            f"the hub is not slower: {during * 1000:.1f} ms a call, {before * 1000:.1f} ms before",
            during <= before * _SLOWER_FACTOR + _SLACK_SECONDS,
            seen=during,
        )
        receipt = stage.receipt(case)
        pending = [row for row in receipt["rows"] if row["state"] != "done"]
        stage.tell.check("her receipt is open", not receipt["complete"], seen=receipt)
        stage.tell.check(
            "and names the row that is pending: Office's SCIM account",
            [(row["application"], row["channel"]) for row in pending] == [("office", "scim")],
            seen=pending,
        )
    finally:
        stage.scim.server.thaw()
    with stage.tell.working("SIGCONT; the delivery is tried again"):
        receipt = stage.wait_for_complete_receipt(case, seconds=120)
    stage.tell.check("after SIGCONT the receipt completes by itself", receipt["complete"])
    stage.tell.check(
        "scim2-server itself says that the account is inactive", not stage.scim.user(account["id"])["active"]
    )


def the_receipt_is_proven(stage: Stage) -> None:
    """Step 7: signed, verifiable with nothing else; the log as well."""
    case = stage.remembered.case
    stage.tell.step(
        "回执",
        "The receipt is proven",
        "A row per account with evidence, signed. The published keys verify it, with nothing else; changed, it fails.",
    )
    _print_receipt(stage, stage.receipt(case))
    receipt, keys = stage.folder / "receipt.json", stage.folder / "idhub-keys.json"
    receipt.write_text(stage.hub.run("receipt", "export", case).stdout)
    keys.write_text(stage.hub.get("/.well-known/idhub-keys").text)
    stage.hub.run("receipt", "verify", receipt, "--keys", keys, alone=True)
    stage.tell.check(
        "idhub receipt verify receipt.json --keys idhub-keys.json: valid, without the hub's settings", True
    )
    for part in range(3):
        changed = _flip(receipt, part)
        stage.hub.run("receipt", "verify", changed, "--keys", keys, expect=(_INVALID, 2), alone=True)
    stage.hub.run("receipt", "verify", _flip(receipt, 1), "--keys", keys, expect=(_INVALID,), alone=True)
    stage.tell.check("one flipped byte in its header, content or signature, and it is refused", True)
    stage.hub.run("audit", "verify")
    stage.tell.check("idhub audit verify: every event of the log is in place", True)
    export = stage.folder / "audit.jsonl"
    export.write_text(stage.hub.run("audit", "export").stdout, encoding="utf-8")
    stage.hub.run("audit", "verify", export, "--keys", keys, alone=True)
    lines = export.read_text(encoding="utf-8").splitlines(keepends=True)
    del lines[len(lines) // 2]
    export.write_text("".join(lines), encoding="utf-8")
    stage.hub.run("audit", "verify", export, "--keys", keys, expect=(_INVALID,), alone=True)
    stage.tell.check("an export of the log verifies alone; without one of its lines it does not", True)


def _flip(receipt: Path, part: int) -> Path:
    """A copy with one character in the middle of a part of the JWS changed."""
    document = json.loads(receipt.read_text())
    parts = document["receipt"].split(".")
    middle = len(parts[part]) // 2
    other = "A" if parts[part][middle] != "A" else "B"
    parts[part] = parts[part][:middle] + other + parts[part][middle + 1 :]
    changed = receipt.with_name(f"receipt-flipped-{part}.json")
    changed.write_text(json.dumps({**document, "receipt": ".".join(parts)}))
    return changed


def _print_receipt(stage: Stage, receipt: Mapping[str, Any]) -> None:
    rows = [
        [
            row["application_name"],
            row["channel"],
            # A session participant has no account there; its id says nothing to a reader.
            (row.get("account") or "–") if row["channel"] == "scim" else "her session",
            f"E{row['grade']} of E{row['required_grade']}",
            _clock(row.get("sent_at")),
            _clock(row.get("finished_at")),
            row["state"],
        ]
        for row in receipt["rows"]
    ]
    stage.tell.fact(f"{receipt['number']}, version {receipt['version']}, complete: {receipt['complete']}")
    stage.tell.table(("application", "channel", "account", "evidence", "sent (UTC)", "settled (UTC)", "state"), rows)


def _clock(instant: str | None) -> str:
    return instant[11:23] if instant else "–"


def she_is_rehired(stage: Stage) -> None:
    """Step 8: the same person, a new epoch."""
    person, remembered = stage.cast("leaver"), stage.remembered
    stage.tell.step(
        "重新入职",
        "She is rehired",
        "The same person under a new epoch: nothing from before works, a new first-sign-in link does.",
    )
    _rehire(stage, person)
    _nothing_works(stage, remembered)
    stage.tell.check("her old password is refused", not stage.can_sign_in(person))
    stage.tell.check("her old one-time link is dead", not link_works(stage.browser(), remembered.link))
    new_password = stage.password[::-1]
    stage.first_password(person, password=new_password)
    stage.tell.check(
        "a new link and a new password open Office again", stage.can_sign_in(person, password=new_password)
    )
    session = stage.office.session_of(person.name)
    stage.tell.check("under the subject she had before", session and session["sub"] == remembered.sub, seen=session)
    watch = Watch({"scim2-server": lambda: bool(stage.scim_account(person)["active"])})
    watch.wait(seconds=30)
    stage.tell.check("scim2-server itself says: one account of hers, active again", True)


def _rehire(stage: Stage, person: SampleSignIn) -> None:
    stage.hub.run(
        *("onboard", "--employee-number", person.employee_number, "--company", HEADQUARTERS),
        *("--name", person.name, "--start-date", stage.today.isoformat()),
    )
