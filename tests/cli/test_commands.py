"""Output and exit status of each command, as scripts rely on them."""

import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import typer
from typer.core import TyperGroup

from idhub.cli.console import app
from idhub.cli.loading import MODULES, load_commands
from idhub.credentials import opaque
from idhub.settings import OF_A_SERVICE, Settings, unknown_variables
from tests.cli.conftest import FAULTY, LIN, ROOT, WANG, Command, Done

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TOKEN = re.compile(r"[A-Za-z0-9_.-]+\n")


def one_sentence(done: Done) -> str:
    """A failure: nothing on stdout, one line on stderr, exit status 1."""
    assert done.code == 1, done
    assert done.out == ""
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("error")
    assert "Traceback" not in done.err
    return done.err


def test_every_command_is_found_in_the_module_that_registers_it() -> None:
    load_commands()
    registered = set()
    for name, infos in (
        *((one.name, [one]) for one in app.registered_commands),
        *((one.name, one.typer_instance.registered_commands) for one in app.registered_groups if one.typer_instance),
    ):
        callback = infos[0].callback
        assert callback is not None
        registered.add((name or callback.__name__, callback.__module__.rpartition(".")[2]))

    assert registered == {(name, module) for module, names in MODULES.items() for name in names}


def _leaves(command: Any, name: str = "idhub") -> Iterator[tuple[str, Any]]:
    if isinstance(command, TyperGroup):
        for one in command.list_commands(cast(Any, None)):
            yield from _leaves(command.get_command(cast(Any, None), one), f"{name} {one}")
    else:
        yield name, command


def test_every_command_argument_and_option_says_what_it_is() -> None:
    load_commands()
    silent = [
        f"{name} {parameter.name}" if parameter else name
        for name, command in _leaves(typer.main.get_command(app))
        for parameter in (None, *command.params)
        if not ((parameter or command).help or "").strip()
    ]
    assert silent == []


def test_exit_statuses_beside_done_and_refused_stand_in_the_table() -> None:
    load_commands()
    table = (ROOT / "docs" / "reference" / "commands.md").read_text("utf-8").partition("## serve")[0]
    telling = [name for name, command in _leaves(typer.main.get_command(app)) if "Exit status" in (command.help or "")]
    assert len(telling) > 8
    for name in telling:
        words = name.split()[1:]
        assert f"`{words[0]}`" in table or f"`{' '.join(words)}`" in table, name


def test_a_command_that_is_spelt_wrong_is_told_the_near_one(idhub: Command) -> None:
    done = idhub("peple", "show", "x")
    assert done.code == 2
    assert "No such command 'peple'. Did you mean 'people'" in done.err


def test_token_create_prints_the_token_and_nothing_else_on_an_empty_folder(idhub: Command) -> None:
    done = idhub("token", "create", "--scope", "people:write", "--scope", "audit:read")
    assert done.code == 0, done.err
    assert TOKEN.fullmatch(done.out)
    assert opaque.looks_valid("api", done.out.strip())
    assert done.err == ""
    key = idhub.folder / "data" / "master.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    stored = b"".join(path.read_bytes() for path in key.parent.iterdir() if path.is_file())
    assert done.out.strip().encode() not in stored, "stored as a hash only"


def test_the_command_is_a_program(idhub: Command) -> None:
    """Started as people start it; the other tests fork this process instead, which is the same and faster."""
    done = subprocess.run(
        [sys.executable, "-m", "idhub.cli", "token", "create", "--scope", "audit:read"],
        cwd=idhub.folder,
        env=dict(idhub.environment),
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert TOKEN.fullmatch(done.stdout.decode())


def test_token_create_names_an_unknown_scope(idhub: Command) -> None:
    assert "[scope]" in one_sentence(idhub("token", "create", "--scope", "everything"))
    assert not (idhub.folder / "data" / "idhub.db").exists(), "refused before anything is made"


def test_import_ends_with_what_happened(started: Command) -> None:
    good = started.hr_file(WANG, LIN)
    before = started("people", "import", str(good), "--dry-run", "--json")
    assert before.code == 0
    assert before.json["dry_run"] is True
    assert one_sentence(started("people", "show", "QY1")), "a dry run writes nothing"
    assert started("people", "import", str(good)).code == 0
    assert started("people", "import", str(good)).code == 0, "the same file again changes nothing"
    runs = started("people", "runs", "--json")
    assert [(run["state"], run["counts"]["rows"]) for run in runs.json] == [("finished", 2), ("finished", 2)]
    partly = started("people", "import", str(started.hr_file(WANG, LIN, FAULTY, name="b.csv")), "--json")
    assert partly.code == 2
    problems = {(row["line"], row["field"], row["rule"]) for row in partly.json["refused"]}
    assert {line for line, _, _ in problems} == {4}
    assert {field for _, field, _ in problems} >= {"name", "start_date"}


def test_a_mass_leave_is_quarantined(started: Command) -> None:
    rows = [f"N{i},员工{i},,,,,总部,研发,,,regular,2020-01-01,,active" for i in range(60)]
    assert started("people", "import", str(started.hr_file(*rows))).code == 0
    held = started("people", "import", str(started.hr_file(*rows[:30], name="half.csv")))
    assert held.code == 3, held
    listed = started("people", "held", "--json")
    assert listed.code == 0
    assert len(listed.json) == 30
    assert started("people", "show", "N59", "--json").json["standing"] == "active", "nobody has left yet"
    run = listed.json[0]["run_id"]
    one_sentence(started("people", "release", run, "--approver", "N1"))


@pytest.mark.parametrize("content", [b"", b"name,company\nx,y\n", b"\x00\x01\x02", "工号,姓名\n".encode("utf-16")])
def test_a_file_that_is_no_hr_file_is_refused_in_a_sentence(started: Command, content: bytes) -> None:
    assert "[file]" in one_sentence(started("people", "import", str(started.write("x.csv", content))))


def test_a_file_that_is_not_there_is_said_so(started: Command) -> None:
    assert "missing.csv" in one_sentence(started("people", "import", "missing.csv"))
    assert "missing.yaml" in one_sentence(started("apply", "missing.yaml"))
    one_sentence(started("people", "import", str(started.folder)))


def test_the_lifecycle_of_one_person(staffed: Command) -> None:
    shown = staffed("people", "show", "QY1", "--json").json
    assert (shown["standing"], shown["main_employment_id"]) == ("active", shown["employments"][0]["id"])
    hired = staffed(
        "onboard", "--name", "何志强", "--company", "总部", "--employee-number", "007", "--start-date", "2026-01-05",
        "--department", "试验/整车", "--manager", "QY1", "--json",
    )  # fmt: skip
    assert hired.code == 0, hired.err
    assert hired.json["standing"] == "active"
    assert staffed("suspend", "007", "--json").json["changed"] is True
    assert staffed("suspend", "007").out == "was suspended already\n"
    assert staffed("reactivate", "007").out == "reactivated\n"
    moved = staffed("move", "007", "--title", "Lead", "--json")
    assert moved.json["person"]["employments"][0]["title"] == "Lead"
    plan = staffed("offboard", "007", "--dry-run", "--json").json
    assert plan["dry_run"] is True
    assert staffed("people", "show", "007", "--json").json["standing"] == "active"
    later = staffed("offboard", "007", "--at", "2099-01-01T18:00+08:00", "--json").json
    assert later["left"] is False
    assert staffed("offboard", "007", "--cancel").out == "cancelled\n"
    left = staffed("offboard", "007", "--emergency", "--reason", "dismissed", "--json").json
    assert left["left"] is True
    receipt = staffed("receipt", "show", left["case"], "--json").json
    assert receipt["person_id"] == left["person"]
    assert staffed("receipt", "show", "007", "--json").json["case_id"] == left["case"]
    again = staffed(
        "onboard",
        "--name",
        "何志强",
        "--company",
        "总部",
        "--employee-number",
        "007",
        "--start-date",
        "2026-01-05",
        "--json",
    )
    assert again.json["id"] == left["person"], "a rehire"
    assert again.json["enrolment_epoch"] == 2


def test_a_dry_run_of_a_hire_writes_nothing(staffed: Command) -> None:
    arguments = ("--name", "x", "--company", "总部", "--employee-number", "9", "--start-date", "2026-01-05")
    assert staffed("onboard", *arguments, "--dry-run", "--json").json["dry_run"] is True
    one_sentence(staffed("people", "show", "9"))


REFUSALS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("offboard", "nobody"), "person"),
    (("offboard", "QY1", "--at", "tomorrow"), "at"),
    (("offboard", "QY1", "--at", "2026-01-01T00:00"), "at"),
    (("offboard", "QY1", "--at", "0001-01-01T00:00+08:00"), "at"),
    (("offboard", "QY1", "--at", "2099-01-01T00:00+08:00", "--emergency"), "effective_at"),
    (("move", "QY1"), "move"),
    (("move", "QY1", "--company", "nowhere"), "organization"),
    (("move", "QY1", "--manager", "QY1"), "manager"),
    (("move", "QY1", "--end-date", "9999-12-31"), "end_date"),
    (("move", "QY1", "--department", "a//b"), "department"),
    (("move", "QY1", "--employment-type", "king"), "employment_type"),
    (("role", "assign", "QY1", "emperor"), "role"),
    (("role", "assign", "QY1", "hr", "--organization", "nowhere"), "organization"),
    (("keys", "rotate", "door"), "purpose"),
    (("keys", "rotate", "receipt", "--alg", "none"), "alg"),
    (("audit", "search", "--from", "yesterday"), "from"),
    (("receipt", "show", "R-0"), "case"),
    (("receipt", "export", "QY1"), "case"),
    (("people", "invite", "nobody"), "person"),
)


def test_a_refusal_names_the_field(staffed: Command) -> None:
    for arguments, field in REFUSALS:
        sentence = one_sentence(staffed(*arguments))
        assert f"[{field}]" in sentence, (arguments, sentence)


def test_a_rule_of_onboarding_is_named(staffed: Command) -> None:
    for changed, field in (
        (("--start-date", "2026-02-30"), "start_date"),
        (("--end-date", "2025-01-01"), "end_date"),
        (("--employee-number", "a b"), "employee_number"),
        (("--employee-number", "QY1"), "employee_number"),
        (("--email", "not a mail"), "email"),
        (("--mobile", "=1+1"), "mobile"),
        (("--name", "a\u202eb"), "display_name"),
    ):
        arguments = {"--name": "x", "--company": "总部", "--employee-number": "9", "--start-date": "2026-01-05"}
        arguments[changed[0]] = changed[1]
        sentence = one_sentence(staffed("onboard", *(part for pair in arguments.items() for part in pair)))
        assert f"[{field}]" in sentence, sentence


def test_invite_prints_the_link_alone(staffed: Command) -> None:
    done = staffed("people", "invite", "QY1")
    assert done.code == 0, done.err
    assert re.fullmatch(r"http://127\.0\.0\.1:8000/login/first[^\s]+\n", done.out)
    assert "works once" in done.err


def test_roles_are_given_and_taken(staffed: Command) -> None:
    assert staffed("role", "assign", "QY1", "hr").out.endswith(" is hr now\n")
    assert staffed("role", "assign", "QY1", "hr", "--json").json["changed"] is False
    assert "[role]" in one_sentence(staffed("role", "assign", "QY1", "auditor")), "nobody audits what they did"
    assert staffed("role", "remove", "QY1", "hr", "--json").json["changed"] is True
    assert staffed("role", "assign", "QY1", "administrator").code == 0
    assert "last administrator" in one_sentence(staffed("role", "remove", "QY1", "administrator"))


APPS = """
applications:
  - slug: office
    name: {en: Office, zh: 办公}
    owner: QY1
    oidc: {client_id: office, client_secret_file: office.secret, redirect_uris: ["http://127.0.0.1:9001/callback"]}
    entitle:
      - {role: member, rule: 'employments.company eq "总部"'}
"""


def test_who_holds_a_role_is_listed(staffed: Command) -> None:
    assert staffed("role", "list").out == "nobody holds a role\n"
    for person, role in (("QY1", "administrator"), ("QY2", "auditor"), ("QY1", "hr")):
        assert staffed("role", "assign", person, role, "--organization", "总部").code == 0
    assert staffed("role", "remove", "QY1", "hr").code == 0
    held = staffed("role", "list", "--json").json
    assert [(one["role"], one["name"], one["organization_name"], one["standing"]) for one in held] == [
        ("administrator", "王磊", "总部", "active"),
        ("auditor", "林晓雯", "总部", "active"),
    ]
    assert held[0]["assigned_by"] == "cli"
    assert datetime.now(UTC) - datetime.fromisoformat(held[0]["assigned_at"]) < timedelta(minutes=5)
    assert "林晓雯" in staffed("role", "list").out
    # Who is suspended keeps theirs; whoever leaves has none any more, also as somebody who came back.
    assert staffed("suspend", "QY2").code == 0
    assert [one["standing"] for one in staffed("role", "list", "--json").json] == ["active", "suspended"]
    assert staffed("offboard", "QY2").code == 0
    assert [one["role"] for one in staffed("role", "list", "--json").json] == ["administrator"]


def test_apply_is_told_once_and_export_is_what_it_takes(staffed: Command) -> None:
    staffed.write("office.secret", "s" * 43)
    apps = str(staffed.write("apps.yaml", APPS))
    dry = staffed("apply", apps, "--dry-run", "--json")
    assert dry.code == 0, dry.err
    assert dry.json["changes"][0]["new"] is True
    assert staffed("export").out == "applications: []\n"
    made = staffed("apply", apps)
    assert made.out.startswith("+ office\n")
    assert "s" * 43 not in made.out + made.err
    again = staffed("apply", apps)
    assert again.out == "nothing to change\n"
    exported = staffed("export").out
    back = staffed("apply", str(staffed.write("back.yaml", exported)))
    assert (back.code, back.out) == (0, "nothing to change\n"), back
    plan = staffed("offboard", "QY1", "--dry-run", "--json").json
    assert [row["application"] for row in plan["rows"]] == ["office"], "apply looked at who is entitled"


def test_a_configuration_is_refused_in_a_sentence(staffed: Command) -> None:
    sentence = one_sentence(staffed("apply", str(staffed.write("apps.yaml", APPS))))
    assert "[applications.office.oidc.client_secret_file]" in sentence
    assert sentence.count("client_secret_file") == 1, "the field is named once"


def test_the_log_is_exported_and_verified_with_published_keys(staffed: Command) -> None:
    exported = staffed("audit", "export")
    assert exported.code == 0, exported.err
    log = staffed.write("log.jsonl", exported.out)
    assert staffed("audit", "verify").code == 0
    keys = staffed.write("keys.json", _published_keys(staffed.folder / "data"))
    verified = staffed("audit", "verify", str(log), "--keys", str(keys), "--json")
    assert (verified.code, verified.json["valid"]) == (0, True)
    text = exported.out
    assert "person.onboarded" in text
    bad = staffed.write("bad.jsonl", text.replace("person.onboarded", "person.onboardee", 1))
    assert staffed("audit", "verify", str(bad), "--keys", str(keys)).code == 1
    for arguments in (
        (str(log),),
        (str(log), "--keys", "nothing.json"),
        ("nothing.jsonl", "--keys", str(keys)),
        (str(staffed.write("junk", b"\xff\x00")), "--keys", str(keys)),
        ("--witness", "nothing.log"),
    ):
        done = staffed("audit", "verify", *arguments)
        assert done.code == 2, (arguments, done)
        assert done.err.startswith("unreadable: ")
        assert "Traceback" not in done.err
    done = staffed("audit", "verify", str(log), "--keys", str(staffed.folder / "junk"))
    assert (done.code, f"the key file {staffed.folder / 'junk'} cannot be read" in done.err) == (2, True), done.err


def test_an_event_is_proven_and_checked_with_published_keys(staffed: Command) -> None:
    (event,) = staffed("audit", "search", "--action", "person.onboarded", "--size", "1", "--json").json["events"]
    made = staffed("audit", "prove", event["event_id"])
    assert made.code == 0, made.err
    keys = str(staffed.write("keys.json", _published_keys(staffed.folder / "data")))
    proof = str(staffed.write("proof.jsonl", made.out))
    elsewhere = {"IDHUB_DATA_DIR": str(staffed.folder / "nowhere")}
    good = staffed("audit", "verify", proof, "--keys", keys, "--json", env=elsewhere)
    assert (good.code, good.json["valid"]) == (0, True), good
    assert good.json["event"]["event_id"] == event["event_id"]
    assert good.json["revealed"] == {}
    assert not (staffed.folder / "nowhere").exists(), "nothing but the file and the keys is used"
    witness = str(staffed.folder / "data" / "witness.log")
    assert staffed("audit", "verify", proof, "--keys", keys, "--witness", witness).code == 0
    bad = staffed.write("bad.jsonl", made.out.replace("person.onboarded", "person.onboardee"))
    done = staffed("audit", "verify", str(bad), "--keys", keys)
    assert (done.code, done.out.startswith("INVALID (proof): this event does not stand at ")) == (1, True), done
    revealed = staffed.write("revealed.jsonl", staffed("audit", "prove", event["event_id"], "--reveal").out)
    shown = staffed("audit", "verify", str(revealed), "--keys", keys, "--json").json["revealed"]
    assert {"王磊", "林晓雯"} & set(shown.values()), shown
    (noted,) = staffed("audit", "search", "--action", "audit.exported", "--json").json["events"]
    assert noted["target_id"] == event["event_id"], "who opens personal values is known"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("evt_0000000000000000000000000", "There is no event evt_0000000000000000000000000 here. One that was pruned"),
        ("RC-1", "There is no receipt 'RC-1'"),
        ("", "There is no receipt ''"),
    ],
)
def test_what_cannot_be_proven_is_said_in_a_sentence(staffed: Command, name: str, said: str) -> None:
    done = staffed("audit", "prove", name)
    assert (done.code, done.out) == (1, "")
    assert said in done.err, done.err
    assert "Traceback" not in done.err


def test_the_log_holds_a_receipt_that_was_handed_out(staffed: Command) -> None:
    case = staffed("offboard", "QY1", "--json").json["case"]
    waiting = staffed("audit", "prove", case)
    assert (waiting.code, "has been signed yet" in waiting.err) == (1, True), waiting
    _sign_receipts(staffed.folder / "data")
    keys = str(staffed.write("keys.json", _published_keys(staffed.folder / "data")))
    file = str(staffed.write("receipt.json", staffed("receipt", "export", case).out))
    proof = str(staffed.write("proof.jsonl", staffed("audit", "prove", case).out))
    done = staffed("receipt", "verify", file, "--keys", keys, "--proof", proof)
    assert done.code == 0, done
    assert done.out.splitlines()[1].startswith("in the log: at ")
    other = staffed("offboard", "QY2", "--json").json["case"]
    _sign_receipts(staffed.folder / "data")
    wrong = str(staffed.write("wrong.jsonl", staffed("audit", "prove", other).out))
    done = staffed("receipt", "verify", file, "--keys", keys, "--proof", wrong, "--json")
    assert (done.code, done.json["problems"]) == (1, ["the proof is of another event, not of this receipt"])
    edited = str(
        staffed.write("edited.jsonl", (staffed.folder / "proof.jsonl").read_text().replace("sha256", "sha255"))
    )
    done = staffed("receipt", "verify", file, "--keys", keys, "--proof", edited)
    assert (done.code, done.out.startswith("INVALID: the proof: this event does not stand at")) == (1, True), done
    done = staffed("receipt", "verify", file, "--keys", keys, "--proof", file)
    assert (done.code, done.err.startswith("unreadable: ")) == (2, True), done


def test_a_changed_event_in_the_database_is_found(staffed: Command) -> None:
    assert staffed("audit", "export").code == 0
    with sqlite3.connect(staffed.folder / "data" / "idhub.db") as database:
        # Whoever owns the file can drop the guard; the log must tell all the same.
        guards = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit_events'")
        for (guard,) in guards.fetchall():
            database.execute(f"DROP TRIGGER {guard}")
        database.execute(
            "UPDATE audit_events SET body = CAST(replace(body, 'person.onboarded', 'person.offboarded') AS BLOB) "
            "WHERE id = (SELECT min(id) FROM audit_events WHERE type = 'person.onboarded')"
        )
    database.close()
    done = staffed("audit", "verify", "--json")
    assert (done.code, done.json["valid"]) == (1, False)


def test_a_receipt_is_verified_with_published_keys_alone(staffed: Command) -> None:
    case = staffed("offboard", "QY1", "--json").json["case"]
    _sign_receipts(staffed.folder / "data")
    exported = staffed("receipt", "export", case)
    assert exported.code == 0, exported.err
    file = staffed.write("receipt.json", exported.out)
    keys = str(staffed.write("keys.json", _published_keys(staffed.folder / "data")))
    elsewhere = {"IDHUB_DATA_DIR": str(staffed.folder / "nowhere")}
    good = staffed("receipt", "verify", str(file), "--keys", keys, "--json", env=elsewhere)
    assert (good.code, good.json["valid"], good.json["problems"]) == (0, True, [])
    assert not (staffed.folder / "nowhere").exists(), "nothing but the file and the keys is used"
    flipped = bytearray(exported.out.encode())
    where = exported.out.encode().index(b'receipt": "') + 400
    flipped[where] = ord("A") if flipped[where] != ord("A") else ord("B")
    bad = staffed("receipt", "verify", str(staffed.write("bad.json", bytes(flipped))), "--keys", keys)
    assert bad.code == 1, bad
    assert bad.out.startswith("INVALID: ")
    junk = str(staffed.write("junk", b"\xff\x00"))
    for arguments, said in (
        (("nothing", "--keys", keys), "nothing: No such file"),
        ((str(file), "--keys", "nothing"), "nothing: No such file"),
        ((str(file), "--keys", junk), f"the key file {junk} is not JSON"),
        ((keys, "--keys", keys), "the file is not a receipt"),
        ((str(file), "--keys", str(file)), "the key file is not a JWK set"),
    ):
        done = staffed("receipt", "verify", *arguments)
        assert done.code == 2, (arguments, done)
        assert done.err.startswith(f"unreadable: {said}"), done.err


def test_events_are_searched_page_by_page(staffed: Command) -> None:
    first = staffed("audit", "search", "--action", "person.", "--size", "1", "--json")
    assert first.code == 0, first.err
    assert len(first.json["events"]) == 1
    second = staffed("audit", "search", "--action", "person.", "--size", "1", "--after", first.json["next"], "--json")
    assert second.json["events"][0] != first.json["events"][0]
    one_sentence(staffed("audit", "search", "--after", "junk"))
    unknown = staffed("audit", "search", "--action", "person.onbording")
    assert (unknown.code, "Near: person.onboarded" in unknown.err) == (0, True)
    assert "Near" not in first.err + second.err


def test_keys_rotate_and_migrate_and_doctor(idhub: Command) -> None:
    migrated = idhub("migrate")
    assert (migrated.code, migrated.out) == (0, "")
    assert "schema" in migrated.err
    rotated = idhub("keys", "rotate", "receipt", "--json")
    assert rotated.code == 0, rotated.err
    assert rotated.json["purpose"] == "receipt"
    checked = idhub("doctor", "--json")
    assert {"name", "is_ok", "detail"} <= set(checked.json[0])
    assert checked.code == (0 if all(finding["is_ok"] for finding in checked.json) else 1)


def test_output_that_is_piped_is_not_wrapped(staffed: Command) -> None:
    title = "Engineer-" * 20
    assert staffed("move", "QY1", "--title", title).code == 0
    shown = staffed("people", "show", "QY1", "--json", env={"COLUMNS": "40"})
    assert title in shown.out
    line = next(
        line for line in staffed("people", "show", "QY1", env={"COLUMNS": "40"}).out.splitlines() if "QY1" in line
    )
    assert "总部" in line
    assert "研发/底盘" in line


def test_whoever_has_seen_enough_of_the_output_is_not_shown_a_traceback(staffed: Command) -> None:
    command = f"{sys.executable} -m idhub.cli audit export | head -c 1"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=staffed.folder,
        env=dict(staffed.environment),
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"IDHUB_ISSUER": "http://idp.example"}, "issuer"),
        ({"IDHUB_PASSWORD_MIN_LENGTH": "3"}, "password_min_length"),
        ({"IDHUB_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "database"),
        ({"IDHUB_DATABASE_URL": "oracle://x"}, "error"),
        ({"IDHUB_DATA_DIR": "/proc/idhub"}, "/proc/idhub"),
        ({"IDHUB_MASTER_KEY_FILE": "/proc/master.key"}, "master.key"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(idhub: Command, settings: dict[str, str], said: str) -> None:
    assert said in one_sentence(idhub("doctor", env=settings))


def test_a_variable_that_is_no_setting_is_told_once_with_the_near_one(started: Command) -> None:
    wrong = {"IDHUB_DATABSE_URL": "postgresql://somewhere/idhub", "IDHUB_FOO": "1", "idhub_isuer": "https://x.example"}
    done = started("token", "list", "--json", env=wrong)
    assert (done.code, done.json) == (0, []), "nothing but data on stdout"
    assert done.err.splitlines() == [
        "warning: IDHUB_DATABSE_URL is no setting; IDHUB_DATABASE_URL is.",
        "warning: IDHUB_FOO is no setting.",
        "warning: idhub_isuer is no setting; IDHUB_ISSUER is.",
    ]
    told = started("doctor", "--json", env=wrong)
    (finding,) = [one for one in told.json if one["name"] == "settings"]
    assert (told.code, finding["is_ok"]) == (1, False)
    assert "IDHUB_DATABSE_URL is no setting; IDHUB_DATABASE_URL is." in finding["detail"]
    (finding,) = [one for one in started("doctor", "--json").json if one["name"] == "settings"]
    assert finding["is_ok"]


def test_what_kubernetes_says_of_services_is_neither_noise_nor_a_setting(started: Command) -> None:
    """Service links of a service `idhub`, one `idhub-database` and one `idhub-log-level`."""
    links: dict[str, str] = {}
    for service in ("IDHUB", "IDHUB_DATABASE", "IDHUB_LOG_LEVEL"):
        links |= {
            f"{service}_SERVICE_HOST": "10.0.0.1",
            f"{service}_SERVICE_PORT": "8000",
            f"{service}_SERVICE_PORT_HTTP": "8000",
            f"{service}_PORT": "tcp://10.0.0.1:8000",
            f"{service}_PORT_8000_TCP": "tcp://10.0.0.1:8000",
            f"{service}_PORT_8000_TCP_PROTO": "tcp",
            f"{service}_PORT_8000_TCP_PORT": "8000",
            f"{service}_PORT_8000_TCP_ADDR": "10.0.0.1",
        }
    done = started("token", "list", env=links)
    assert (done.code, done.err) == (0, "")
    (finding,) = [one for one in started("doctor", "--json", env=links).json if one["name"] == "settings"]
    assert finding["is_ok"]


def test_no_setting_is_named_as_kubernetes_names_what_it_says_of_services() -> None:
    names = {f"IDHUB_{name.upper()}": "x" for name in Settings.model_fields}
    assert not [name for name in names if OF_A_SERVICE.fullmatch(name)]
    assert unknown_variables(names) == []


def test_an_unknown_setting_in_the_file_is_named(idhub: Command) -> None:
    config = idhub.write("idhub.toml", 'isuer = "http://127.0.0.1:8000"\n')
    assert "isuer" in one_sentence(idhub("--config", str(config), "doctor"))
    assert "nothing.toml" in one_sentence(idhub("--config", "nothing.toml", "doctor"))
    broken = idhub.write("broken.toml", "issuer = \n")
    one_sentence(idhub("--config", str(broken), "doctor"))


def test_the_environment_beats_the_file(idhub: Command) -> None:
    config = str(idhub.write("idhub.toml", 'data_dir = "from-file"\n'))
    assert idhub("--config", config, "migrate").code == 0
    assert (idhub.folder / "from-file" / "idhub.db").exists()
    assert idhub("--config", config, "migrate", env={"IDHUB_DATA_DIR": "from-env"}).code == 0
    assert (idhub.folder / "from-env" / "idhub.db").exists()


def _published_keys(data: Path) -> bytes:
    """What `/.well-known/idhub-keys` of this data folder would answer."""
    import orjson

    from idhub.services import open_hub
    from idhub.settings import Settings

    hub = open_hub(Settings(data_dir=data))
    try:
        return orjson.dumps(hub.keyring.jwks("receipt", "checkpoint"))
    finally:
        hub.close()


def _sign_receipts(data: Path) -> None:
    """What the worker does within the second."""
    from idhub.lifecycle.receipts import sign_due
    from idhub.services import open_hub
    from idhub.settings import Settings

    hub = open_hub(Settings(data_dir=data))
    try:
        assert sign_due(hub.database, hub.keyring, issuer=hub.settings.issuer, now=datetime.now(UTC)) == 1
    finally:
        hub.close()
