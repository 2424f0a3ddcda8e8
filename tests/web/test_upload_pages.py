"""An HR file in a browser: brought, previewed, confirmed or given up, by the door and rules of the command."""

import html
import io
import zipfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from openpyxl import Workbook
from sqlalchemy import delete, func, select

from audit.tables import audit_events
from idhub.authority import HubRole, assign_role, remove_role
from idhub.changes import Actor
from idhub.directory.tables import Employment, Organization, Person, Principal
from idhub.errors import Conflict, Unavailable
from idhub.keys import Keyring
from idhub.lifecycle import hr_uploads
from idhub.lifecycle.tables import HeldChange, HrUpload, HrUploadPart, SourceRun
from idhub.web.uploads import PATH
from tests.support.row_counts import row_counts
from tests.web.conftest import SignIn
from tests.web.html import token_of
from tests.web.sample import SampleHub

HR, ADMIN, AUDITOR, LEAVER, OTHER = "沈佳宁", "高远", "何慕青", "郑可欣", "马诗涵"
HEAD = (
    "employee_number,name,given_name,family_name,email,mobile,company,department,title,manager_employee_number,"
    "employment_type,start_date,end_date,status"
)
COMPANY = "启岳乘用车"
NEW = f"N-1,新来的人,,,,,{COMPANY},制造中心,,,regular,2026-01-05,,active"
BROKEN = f"N-2,=cmd,,,,,{COMPANY},制造中心,,,regular,2026-13-05,,aktiv"


def _words(page: str) -> str:
    return html.unescape(page)


def left(hub: SampleHub, name: str) -> str:
    """The row by which the file says that somebody has left."""
    with hub.database.read() as session:
        post = session.execute(
            select(Employment.employee_number, Employment.starts_on, Organization.name)
            .join(Organization, Organization.id == Employment.organization_id)
            .where(Employment.principal_id == hub.people[name])
        ).one()
    return f"{post.employee_number},{name},,,,,{post.name},研发中心,,,regular,{post.starts_on},2026-11-20,left"


def send(client: Any, *rows: str, mode: str = "changes", content: bytes | None = None, name: str = "hr.csv") -> Any:
    """Bring a file in; nobody has looked at it yet."""
    body = "\n".join((HEAD, *rows, "")).encode() if content is None else content
    fields = {"csrf_token": token_of(client.get(PATH).text), "mode": mode}
    return client.post(PATH, data=fields, files={"file": (name, body, "text/csv")})


def work(hub: SampleHub, *, beat: Callable[[], None] = lambda: None) -> bool:
    """What the worker's process does."""
    return hr_uploads.work_next(hub.database, hub.services.keyring, clock=hub.clock, beat=beat)


def decide(client: Any, address: str, step: str) -> Any:
    return client.post(address, data={"csrf_token": token_of(client.get(address).text), "step": step})


def previewed(hub: SampleHub, client: Any, *rows: str, **more: Any) -> tuple[str, str]:
    """The address and the page of a file whose preview is there."""
    address = send(client, *rows, **more).headers["location"]
    assert work(hub)
    return address, client.get(address).text


def brought_in(hub: SampleHub, client: Any, *rows: str, **more: Any) -> str:
    """The page of a file that was confirmed and taken in."""
    address, _ = previewed(hub, client, *rows, **more)
    assert decide(client, address, "confirm").status_code == 303
    assert work(hub)
    return _words(client.get(address).text)


def parts(hub: SampleHub) -> int:
    with hub.database.read() as session:
        return session.execute(select(func.count()).select_from(HrUploadPart)).scalar_one()


def events(hub: SampleHub, kind: str) -> list[Any]:
    with hub.database.read() as session:
        named = select(audit_events.c.actor_id, audit_events.c.outcome).where(audit_events.c.type == kind)
        return [tuple(row) for row in session.execute(named.order_by(audit_events.c.event_id))]


def test_preview_says_what_the_file_does_and_writes_nothing(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    before = row_counts(hub.database)
    address = send(client, NEW, BROKEN, left(hub, LEAVER)).headers["location"]
    waiting = client.get(address).text
    assert work(hub)
    answer = client.get(address)
    page = _words(answer.text)
    ours = {"hr_uploads", "hr_upload_parts", "audit_events", "audit_personal"}

    assert 'data-test="working"' in waiting
    assert answer.status_code == 200
    assert {table: count for table, count in row_counts(hub.database).items() if table not in ours} == {
        table: count for table, count in before.items() if table not in ours
    }
    assert 'data-test="new">1<' in answer.text
    assert 'data-test="leaving">1<' in answer.text
    assert LEAVER in page
    assert "Left, says the file" in page
    assert "not a calendar date of the form YYYY-MM-DD" in page
    assert "the status must be active, left or suspended" in page
    assert events(hub, "import.uploaded") == [(hub.people[HR], "success")]
    assert not work(hub)


def test_confirmed_file_goes_in_under_the_name_of_whoever_brought_it_and_is_forgotten(
    hub: SampleHub, sign_in: SignIn
) -> None:
    page = brought_in(hub, sign_in(HR), NEW, left(hub, LEAVER))
    with hub.database.read() as session:
        names = set(session.scalars(select(Person.display_name)))
        standing = session.scalars(select(Principal.standing).where(Principal.id == hub.people[LEAVER])).one()
        run = session.scalars(select(SourceRun.id)).one()

    assert "新来的人" in names
    assert standing == "left"
    assert events(hub, "import.confirmed") == [(hub.people[HR], "success")]
    assert events(hub, "import.finished") == [(hub.people[HR], "success")]
    assert "2 rows read: 1 new posts, " in page
    assert " 1 left, 0 refused, 0 held back." in page
    assert 'data-test="to-receipts"' in page
    assert 'data-test="to-held"' not in page
    assert parts(hub) == 0
    assert run in str(_row(hub).outcome)


def _row(hub: SampleHub) -> HrUpload:
    with hub.database.read() as session:
        return session.scalars(select(HrUpload).order_by(HrUpload.id.desc()).limit(1)).one()


def test_file_lies_sealed_as_long_as_it_lies(hub: SampleHub, sign_in: SignIn) -> None:
    content = (HEAD + "\n" + "\n".join(NEW.replace("N-1", f"N-{n}") for n in range(6_000)) + "\n").encode()
    send(sign_in(HR), content=content)
    with hub.database.read() as session:
        sealed = list(session.scalars(select(HrUploadPart.sealed).order_by(HrUploadPart.place)))

    assert len(content) > 256 * 1024
    assert len(sealed) > 1
    assert not any("新来的人".encode() in part or HEAD.encode() in part for part in sealed)


@pytest.mark.parametrize("when", ["receiving", "previewed"])
def test_file_that_is_given_up_is_forgotten_at_once(hub: SampleHub, sign_in: SignIn, when: str) -> None:
    client = sign_in(HR)
    address = send(client, NEW).headers["location"]
    if when == "previewed":
        work(hub)
    answer = decide(client, address, "cancel")
    page = _words(client.get(address).text)

    assert answer.status_code == 303
    assert parts(hub) == 0
    assert "You gave this file up." in page
    assert events(hub, "import.ended") == [(hub.people[HR], "success")]
    assert not work(hub)
    assert decide_late(client, address, "confirm") == 409
    assert events(hub, "import.finished") == []


def decide_late(client: Any, address: str, step: str) -> int:
    status: int = client.post(address, data={"csrf_token": token_of(client.get(PATH).text), "step": step}).status_code
    return status


@pytest.mark.parametrize("step", ["confirm", "cancel"])
def test_confirmed_file_is_neither_confirmed_nor_given_up_again(hub: SampleHub, sign_in: SignIn, step: str) -> None:
    client = sign_in(HR)
    address, _ = previewed(hub, client, NEW)
    assert decide(client, address, "confirm").status_code == 303

    assert decide_late(client, address, step) == 409
    assert work(hub)
    assert decide_late(client, address, step) == 409
    assert len(events(hub, "import.finished")) == 1


def test_step_that_no_button_sends_gives_nothing_up(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    address, _ = previewed(hub, client, NEW)

    assert decide_late(client, address, "Confirm") == 400
    assert parts(hub) > 0
    assert decide(client, address, "confirm").status_code == 303


def test_file_without_a_word_on_whom_it_lists_is_refused(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    fields = {"csrf_token": token_of(client.get(PATH).text), "mode": "everybody"}

    assert client.post(PATH, data=fields, files={"file": ("hr.csv", NEW.encode())}).status_code == 400
    assert parts(hub) == 0


def test_preview_that_another_import_made_old_is_made_anew(hub: SampleHub, sign_in: SignIn) -> None:
    first, second = sign_in(HR), sign_in(LEAVER)
    _make_hr(hub, LEAVER, "root")
    address, _ = previewed(hub, first, NEW)
    brought_in(hub, second, NEW.replace("N-1", "N-9"))
    answer = decide(first, address, "confirm")

    assert answer.status_code == 303
    assert len(events(hub, "import.confirmed")) == 1
    assert 'data-test="working"' in first.get(address).text
    assert work(hub)
    assert 'data-test="confirm"' in first.get(address).text


def test_another_file_of_the_same_person_takes_the_place_of_one_that_is_not_confirmed(
    hub: SampleHub, sign_in: SignIn
) -> None:
    client = sign_in(HR)
    address, _ = previewed(hub, client, NEW)
    other = send(client, NEW, BROKEN)
    assert other.status_code == 303
    assert 'data-test="ended"' in client.get(address).text
    work(hub)
    decide(client, other.headers["location"], "confirm")
    refused = send(client, NEW)

    assert refused.status_code == 409
    assert "Your last file is being brought in." in _words(refused.text)


def test_nobody_ends_themself_or_the_last_administrator_by_a_file_alone(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    rows = (left(hub, HR), left(hub, ADMIN), left(hub, LEAVER))
    address, preview = previewed(hub, client, *rows)
    decide(client, address, "confirm")
    assert work(hub)
    with hub.database.read() as session:
        held = set(session.scalars(select(HeldChange.principal_id)))
        left_people = set(session.scalars(select(Principal.id).where(Principal.standing == "left")))

    assert 'data-test="held">2<' in preview
    assert 'data-test="brake"' in preview
    assert 'data-test="to-held"' in client.get(address).text
    assert held == {hub.people[HR], hub.people[ADMIN]}
    assert left_people == {hub.people[LEAVER]}


# ------------------------------------------------------------------ whose company


def _make_hr(hub: SampleHub, name: str, organization: str) -> None:
    with hub.database.transaction() as session:
        scope = hub.organizations[organization]
        assign_role(
            session, hub.people[name], HubRole.HR, organization_id=scope, now=hub.clock(), assigned_by="test"
        )  # fmt: skip


def test_hr_of_a_company_brings_its_own_people_in(hub: SampleHub, sign_in: SignIn) -> None:
    _make_hr(hub, OTHER, "QYC")
    page = brought_in(hub, sign_in(OTHER), NEW)

    assert 'data-test="imported"' in page
    assert "1 row read: 1 new posts, " in page


@pytest.mark.parametrize(
    "row",
    [
        NEW.replace(COMPANY, "启岳零部件"),
        NEW.replace(COMPANY, "一家新公司"),
        NEW.replace("2026-01-05", "2026-13-05").replace(COMPANY, "启岳零部件"),
    ],
    ids=["another", "new", "another in a refused row"],
)
def test_hr_of_a_company_speaks_for_no_other(hub: SampleHub, sign_in: SignIn, row: str) -> None:
    _make_hr(hub, OTHER, "QYC")
    client = sign_in(OTHER)
    address, page = previewed(hub, client, NEW, row)

    assert "The file names a company that you are not responsible for." in _words(page)
    assert 'data-test="confirm"' not in page
    assert parts(hub) == 0
    assert decide_late(client, address, "confirm") == 409


def test_hr_of_a_company_asks_nothing_through_a_managers_number(hub: SampleHub, sign_in: SignIn) -> None:
    _make_hr(hub, OTHER, "QYC")
    content = f"{HEAD},manager_company\n{NEW.replace(',,,regular', ',,QY-1,regular')},启岳零部件\n".encode()
    _, page = previewed(hub, sign_in(OTHER), content=content)

    assert "The file names a company that you are not responsible for." in _words(page)


def test_hr_of_a_company_gets_no_hold_over_an_administrator_of_the_group(hub: SampleHub, sign_in: SignIn) -> None:
    """Mail, mobile and number are what they sign in with; that they left, the company may say (decision 0033)."""
    with hub.database.read() as session:
        post = session.execute(
            select(Employment.employee_number, Employment.starts_on, Organization.name, Organization.code)
            .join(Organization, Organization.id == Employment.organization_id)
            .where(Employment.principal_id == hub.people[ADMIN])
        ).one()
    _make_hr(hub, OTHER, post.code)
    mail = "mine@qiyue.example"
    row = f"{post.employee_number},{ADMIN},,,{mail},,{post.name},研发中心,,,regular,{post.starts_on},,active"
    page = brought_in(hub, sign_in(OTHER), row)
    with hub.database.read() as session:
        kept = session.scalars(select(Person.email).where(Person.id == hub.people[ADMIN])).one()

    assert "this person holds a role over the hub that reaches further than yours" in page
    assert kept != mail


def test_right_that_was_lost_confirms_nothing_and_gives_nothing_up(hub: SampleHub, sign_in: SignIn) -> None:
    """The file is still their own; what to do with it is not theirs to say any more."""
    client = sign_in(HR)
    address, page = previewed(hub, client, NEW)
    with hub.database.transaction() as session:
        assert remove_role(session, hub.people[HR], HubRole.HR, now=hub.clock()) > 0

    for step in ("confirm", "cancel"):
        assert client.post(address, data={"csrf_token": token_of(page), "step": step}).status_code == 404
    with hub.database.read() as session:
        assert session.scalars(select(HrUpload.state)).one() == "previewed"


def test_right_that_was_lost_meanwhile_is_none(hub: SampleHub, sign_in: SignIn) -> None:
    _make_hr(hub, OTHER, "QYC")
    client = sign_in(OTHER)
    address, _ = previewed(hub, client, NEW)
    decide(client, address, "confirm")
    with hub.database.transaction() as session:
        remove_role(session, hub.people[OTHER], HubRole.HR, now=hub.clock())
    assert work(hub)

    assert client.get(address).status_code == 404
    assert _row(hub).outcome["rule"] == "upload.not_permitted"
    assert parts(hub) == 0
    assert events(hub, "import.finished") == []


def test_file_is_nobody_elses(hub: SampleHub, sign_in: SignIn) -> None:
    address, _ = previewed(hub, sign_in(HR), NEW)
    _make_hr(hub, OTHER, "root")
    colleague = sign_in(OTHER)

    assert colleague.get(address).status_code == 404
    assert decide_late(colleague, address, "confirm") == 404
    assert decide_late(colleague, address, "cancel") == 404
    assert parts(hub) == 1


# ------------------------------------------------------------------ how long it is kept, and what interrupts


def test_file_that_nobody_confirms_is_forgotten(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    address, _ = previewed(hub, client, NEW)
    assert hr_uploads.purge(hub.database, now=hub.clock()) == 0
    later = hub.clock() + timedelta(hours=1, seconds=1)
    assert hr_uploads.purge(hub.database, now=later) == 1

    assert parts(hub) == 0
    assert "Nobody confirmed this file in time." in _words(client.get(address).text)
    assert events(hub, "import.ended") == [("hub", "success")]
    assert hr_uploads.purge(hub.database, now=later + timedelta(days=7, seconds=1)) == 1
    assert client.get(address).status_code == 404


class _Killed(Exception):
    pass


def test_import_that_was_interrupted_goes_on_and_does_nothing_twice(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    address, _ = previewed(hub, client, *(NEW.replace("N-1", f"N-{n}") for n in range(600)))
    decide(client, address, "confirm")
    steps = 0

    def beat() -> None:
        nonlocal steps
        steps += 1
        if steps > 3:
            raise _Killed

    with pytest.raises(_Killed):
        work(hub, beat=beat)
    with hub.database.read() as session:
        some = session.execute(select(func.count()).select_from(Person)).scalar_one()
    assert work(hub)
    with hub.database.read() as session:
        numbers = session.scalars(
            select(Employment.employee_number).where(Employment.employee_number.like("N-%"))
        ).all()

    assert some > len(hub.people)
    assert len(numbers) == len(set(numbers)) == 600
    assert 'data-test="imported"' in client.get(address).text


def test_process_that_was_taken_for_dead_does_nothing_more(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    address, _ = previewed(hub, client, *(NEW.replace("N-1", f"N-{n}") for n in range(300)))
    decide(client, address, "confirm")
    begun = False

    def beat() -> None:
        nonlocal begun
        if not begun:
            begun = True
            assert work(hub)

    with pytest.raises(hr_uploads.Superseded):
        work(hub, beat=beat)
    assert len(events(hub, "import.finished")) == 1
    assert 'data-test="imported"' in client.get(address).text


def test_file_that_ends_its_process_each_time_is_given_up(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    address = send(client, NEW).headers["location"]

    def beat() -> None:
        raise _Killed

    for _ in range(hr_uploads.MOST_ATTEMPTS):
        with pytest.raises(_Killed):
            work(hub, beat=beat)
    assert not work(hub)

    assert "five times" in _words(client.get(address).text)
    assert parts(hub) == 0


def test_file_that_was_given_up_while_it_came_leaves_nothing(hub: SampleHub) -> None:
    def bring(keyring: Keyring) -> str:
        return hr_uploads.receive(
            hub.database, keyring, HEAD.encode(), file_name="hr.csv", is_snapshot=True,
            by=Actor(kind="person", id=hub.people[HR], name=HR), now=hub.clock(), request_id=None,
        )  # fmt: skip

    class Overtaken(Keyring):
        """Seals when another file of the same person has come."""

        def seal(self, context: str, plaintext: bytes) -> bytes:
            bring(hub.services.keyring)
            return super().seal(context, plaintext)

    with pytest.raises(Conflict) as raised:
        bring(Overtaken(hub.services.keyring.master, ()))
    assert raised.value.rule == "upload.given_up"
    assert parts(hub) == 1


def test_process_that_reads_and_ends_is_no_reason_to_refuse_a_file(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    address, _ = previewed(hub, client, NEW)
    decide(client, address, "confirm")
    steps: list[None] = []

    def beat() -> None:
        steps.append(None)
        if len(steps) > 1:
            raise Unavailable("The process that reads the HR file has ended.")

    with pytest.raises(Unavailable):
        work(hub, beat=beat)
    assert 'data-test="working"' in client.get(address).text
    assert work(hub)
    assert 'data-test="imported"' in client.get(address).text


def test_part_that_was_changed_at_rest_is_found(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    content = (HEAD + "\n" + "\n".join(NEW.replace("N-1", f"N-{n}") for n in range(6_000)) + "\n").encode()
    address = send(client, content=content).headers["location"]
    with hub.database.transaction() as session:
        last = session.execute(select(func.max(HrUploadPart.place))).scalar_one()
        session.execute(delete(HrUploadPart).where(HrUploadPart.place == last))
    assert work(hub)

    assert "The file that is kept is not the one that came." in _words(client.get(address).text)


# ------------------------------------------------------------------ files that are none, and forms that are


@pytest.mark.parametrize(("language", "words"), [("en", "Missing columns: status"), ("zh-CN", "缺少列：status")])
def test_file_that_is_none_is_refused_in_words(hub: SampleHub, sign_in: SignIn, language: str, words: str) -> None:
    client = sign_in(HR)
    client.headers["accept-language"] = language
    _, page = previewed(hub, client, content=HEAD.removesuffix(",status").encode() + b"\n")

    assert words in _words(page)
    assert parts(hub) == 0


def _workbook(rows: int = 1, cell: str = "新来的人") -> bytes:
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(HEAD.split(","))
    for n in range(rows):
        sheet.append([f"X-{n}", cell, None, None, None, None, COMPANY, "制造中心", None, None, "regular",
                      "2026-01-05", None, "active"])  # fmt: skip
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _bomb() -> bytes:
    """A workbook whose sheet is a gigabyte of zeros when it is unpacked."""
    good = zipfile.ZipFile(io.BytesIO(_workbook()))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name in good.namelist():
            if name != "xl/worksheets/sheet1.xml":
                made.writestr(name, good.read(name))
        with made.open("xl/worksheets/sheet1.xml", "w") as sheet:
            for _ in range(1_024):
                sheet.write(bytes(1 << 20))
    return out.getvalue()


def test_workbook_goes_in_and_its_formulas_do_not(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    page = brought_in(hub, client, content=_workbook(), name="hr.xlsx")
    assert "1 row read: 1 new posts, " in page
    _, preview = previewed(hub, client, content=_workbook(cell="=HYPERLINK(1)"), name="hr.xlsx")

    assert 'data-test="refused">1<' in preview


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_workbook_that_unpacks_without_end_is_refused(hub: SampleHub, sign_in: SignIn) -> None:
    content = _bomb()
    _, page = previewed(hub, sign_in(HR), content=content, name="hr.xlsx")

    assert len(content) < 2 << 20
    assert 'data-test="ended"' in page


def test_name_of_a_file_hides_nothing(hub: SampleHub, sign_in: SignIn) -> None:
    address = send(sign_in(HR), NEW, name="..\\..\\a\u202egnp.<b>x").headers["location"]

    assert _row(hub).file_name == "agnp.<b>x"
    assert "<b>x" not in sign_in(HR).get(address).text


def test_form_without_a_file_says_so(hub: SampleHub, sign_in: SignIn) -> None:
    client = sign_in(HR)
    fields = {"csrf_token": token_of(client.get(PATH).text), "mode": "whole"}
    answer = client.post(PATH, data=fields, files={"file": ("", b"", "application/octet-stream")})

    assert answer.status_code == 422
    assert "Choose a file." in _words(answer.text)


@pytest.mark.parametrize("name", [ADMIN, AUDITOR, LEAVER])
def test_file_of_whoever_may_not_is_not_read(hub: SampleHub, sign_in: SignIn, name: str) -> None:
    client = sign_in(name)
    answer = client.post(PATH, content=b"never read", headers={"content-type": "multipart/form-data; boundary=x"})

    assert client.get(PATH).status_code == 404
    assert answer.status_code == 404


def test_file_without_the_token_of_the_form_is_refused(hub: SampleHub, sign_in: SignIn) -> None:
    answer = sign_in(HR).post(PATH, data={"csrf_token": "", "mode": "whole"}, files={"file": ("hr.csv", b"x")})

    assert answer.status_code == 403
    assert parts(hub) == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'--x\r\ncontent-disposition: form-data; name="mode"\r\n\r\na\r\n' * 2 + b"--x--\r\n", 400),
        (
            b"--x\r\ncontent-disposition: form-data; name=%s\r\n\r\na\r\n" % b'"file"; filename="hr.csv"'
            + b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\na\r\n--x--\r\n',
            400,
        ),
        (b'--x\r\ncontent-disposition: form-data; name="mode"\r\n\r\n' + b"a" * 4096 + b"\r\n--x--\r\n", 400),
        (b"no boundary at all", 400),
        (b'--x\r\ncontent-disposition: form-data; name="file"; filename="hr.csv"\r\n\r\nhalf of i', 400),
        (b"--x\r\n" + b"a" * (33 * 1024 * 1024), 413),
    ],
    ids=["doubled", "file and text", "long", "malformed", "cut off", "large"],
)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_broken_upload_is_refused_clearly(hub: SampleHub, sign_in: SignIn, body: bytes, status: int) -> None:
    client = sign_in(HR)
    # More often than there are places for files at once: each is given back.
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answers = [client.post(PATH, content=body, headers=headers) for _ in range(5)]

    assert {answer.status_code for answer in answers} == {status}
    assert "Nothing was changed" in _words(answers[0].text)
