"""Sign-in, one-time links, logout, consent, errors and own sessions, through HTTP and without script."""

import re
import unicodedata
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from httpx2 import Response
from sqlalchemy import event, select, update

from idhub.admission import Lane
from idhub.credentials import opaque, transactions
from idhub.credentials.tables import LoginTransaction, SsoSession
from idhub.db import Database
from idhub.delivery.tables import Delivery
from idhub.errors import Unavailable
from idhub.keys import Keyring
from idhub.lifecycle.intake import Offboard, Suspend
from idhub.login import counters
from idhub.login.passwords import HashingPool
from idhub.pages import new_browser_token
from idhub.settings import Settings
from idhub.web import protocol_pages
from tests.login.world import PASSWORD, World, make_world
from tests.support.clock import Clock
from tests.web.hub import CALLBACK, begin, browser_of, create_app, join, make_application, write_counts

NO_MATCH = "工号、手机号、邮箱或密码不正确，核对后再试。"
ORIGIN = "http://127.0.0.1:8000"
_INPUT = re.compile(r'<input[^>]*name="([^"]+)"[^>]*>')


class Person:
    """A browser without script: keeps cookies, fills in forms."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.app = create_app(world)
        self.client = browser_of(world, self.app, ORIGIN)

    def cookie(self, name: str) -> str | None:
        return self.client.cookies.get(f"idhub_{name}")

    def set_cookie(self, name: str, value: str) -> None:
        self.client.cookies.set(f"idhub_{name}", value, domain="127.0.0.1", path="/")

    def get(self, path: str, **options: Any) -> Response:
        return self.client.get(path, **options)

    def token(self, path: str = "/login") -> str:
        return hidden(self.get(path).text, "csrf_token", last=True)

    def sign_in(self, username: str, password: str = PASSWORD, *, path: str = "/login", **fields: str) -> Response:
        page = self.get(path).text
        for name in ("transaction", "return_to"):
            if f'name="{name}"' in page:
                fields.setdefault(name, hidden(page, name, last=True))
        data = {
            "username": username,
            "password": password,
            "csrf_token": hidden(page, "csrf_token", last=True),
            **fields,
        }
        return self.client.post("/login", data=data)

    def post_raw(self, path: str, body: bytes, content_type: str = "application/x-www-form-urlencoded") -> Response:
        return self.client.post(path, content=body, headers={"content-type": content_type})


def hidden(page: str, name: str, *, last: bool = False) -> str:
    found = re.findall(rf'<input type="hidden" name="{name}" value="([^"]*)"', page)
    assert found, page
    return str(found[-1 if last else 0])


@pytest.fixture
def world(database: Database, keyring: Keyring, settings: Settings, clock: Clock) -> Iterator[World]:
    with make_world(database, keyring, settings, clock) as made:
        yield made


@pytest.fixture
def person(world: World) -> Person:
    return Person(world)


on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


# ---------------------------------------------------------------- signing in


def test_a_name_and_a_password_sign_in_and_lead_to_the_portal(world: World, person: Person) -> None:
    _, number = world.person(name="王磊")
    answer = person.sign_in(number)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert answer.headers["cache-control"] == "no-store"
    assert person.get("/").text == "portal of 王磊"


@on_sqlite
def test_the_session_cookie_is_for_the_hub_alone(world: World, person: Person) -> None:
    _, number = world.person()
    cookies = [c for c in person.sign_in(number).headers.get_list("set-cookie") if c.startswith("idhub_session=")]
    assert len(cookies) == 1
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= {part.strip() for part in cookies[0].split(";")}
    assert "max-age" not in cookies[0].lower() and "domain" not in cookies[0].lower()


@on_sqlite
def test_with_https_cookies_are_host_bound_and_secure(world: World) -> None:
    world.settings = world.settings.model_copy(update={"issuer": "https://id.qiyue.example"})
    _, number = world.person()
    client = browser_of(world, create_app(world), "https://id.qiyue.example")
    page = client.get("/login").text
    data = {
        "username": number,
        "password": PASSWORD,
        "csrf_token": hidden(page, "csrf_token", last=True),
        "remember": "on",
    }
    answer = client.post("/login", data=data)
    assert answer.status_code == 303
    given = [c for c in answer.headers.get_list("set-cookie") if "max-age=0" not in c.lower()]
    assert {c.split("=")[0] for c in given} == {"__Host-idhub_session", "__Host-idhub_device"}
    assert all("; Secure" in c and "Path=/" in c and "HttpOnly" in c for c in given)


@on_sqlite
def test_every_cause_of_refusal_looks_the_same(world: World, person: Person) -> None:
    """B03, ASVS 6.3.8: same status, same page."""
    _, known = world.person()
    _, without = world.onboard()
    suspended_id, suspended = world.person()
    world.change(Suspend(principal_id=suspended_id))
    left_id, left = world.person()
    world.change(Offboard(principal_id=left_id))
    leader, _ = world.person(mobile="13900000003")
    world.person(mobile="139-0000-0003")
    pages = set()
    for name, password in [
        (known, "wrong"),
        ("nobody", PASSWORD),
        (without, PASSWORD),
        (suspended, PASSWORD),
        (left, PASSWORD),
        ("13900000003", PASSWORD),
    ]:
        answer = person.sign_in(name, password)
        assert answer.status_code == 403
        assert NO_MATCH in answer.text
        pages.add(re.sub(r'name="csrf_token" value="[^"]*"', "", answer.text).replace(name, "NAME"))
        assert "idhub_session" not in str(answer.headers)
    assert len(pages) == 1
    # Of several who go by a name, the one with a role over the hub is meant.
    world.assign(leader, None)
    assert person.sign_in("13900000003", PASSWORD).status_code == 303


def test_a_refused_sign_in_keeps_the_name_and_forgets_the_password(world: World, person: Person) -> None:
    answer = person.sign_in("QY000001", "wrong password here")
    assert 'value="QY000001"' in answer.text
    assert "wrong password here" not in answer.text
    assert 'role="alert"' in answer.text


@on_sqlite
@pytest.mark.parametrize(
    ("username", "password", "field"),
    [("", PASSWORD, "username"), ("  ", PASSWORD, "username"), ("QY1", "", "password")],
)
def test_an_empty_field_is_named(person: Person, username: str, password: str, field: str) -> None:
    answer = person.sign_in(username, password)
    assert answer.status_code == 400
    assert f'href="#f-{field}"' in answer.text and f'id="e-{field}"' in answer.text


@on_sqlite
def test_a_password_is_compared_whole_and_untrimmed(world: World, person: Person) -> None:
    """ASVS 6.2.8."""
    _, number = world.person(password=PASSWORD)
    for tried in (PASSWORD + " ", " " + PASSWORD, PASSWORD.title()):
        assert person.sign_in(number, tried).status_code == 403
    assert person.sign_in(number, unicodedata.normalize("NFD", PASSWORD)).status_code == 303


def test_too_many_tries_say_how_long_to_wait_and_for_unknown_names_alike(world: World, person: Person) -> None:
    _, number = world.person()
    answers = {}
    for name in (number, "nobody-here"):
        world.clock.advance(hours=2)
        for _ in range(counters.PERSON.count):
            assert person.sign_in(name, "wrong").status_code == 403
        answers[name] = person.sign_in(name, "wrong")
    for answer in answers.values():
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "90"
        assert "尝试次数过多，1 分 30 秒" in answer.text


@on_sqlite
def test_a_busy_hub_answers_503_and_counts_no_try(world: World, person: Person) -> None:
    """B04."""
    _, number = world.person()
    busy = Person(world)
    fill(busy)
    for _ in range(counters.PERSON.count + 2):
        answer = busy.sign_in(number)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "3"
        assert "此刻登录的人很多，3 秒" in answer.text
    assert person.sign_in(number).status_code == 303


def test_a_busy_hub_asks_the_database_nothing_takes_no_thread_and_tells_nobody_apart(
    world: World, person: Person
) -> None:
    """B03, B04: refusals that cost something would be what keeps everybody else waiting."""
    _, number = world.person()
    application = make_application(world)
    transaction, browser = begin(
        world, protocol="oidc", request={"redirect_uri": CALLBACK}, client_id="office", application_id=application
    )
    person.set_cookie("browser", browser)
    token = person.token(f"/login?transaction={transaction}")
    asked: list[str] = []
    event.listen(world.database.engine, "before_cursor_execute", lambda *values: asked.append(values[2]))
    fill(person)
    services = person.app.state.services
    object.__setattr__(services, "store", SilentStore())
    services.admission.sign_ins_aside = Lane(0, 0)
    pages = set()
    for name, password in ((number, PASSWORD), (number, "wrong"), ("nobody-here", PASSWORD)):
        data = {"username": name, "password": password, "transaction": transaction, "csrf_token": token}
        answer = person.client.post("/login", data=data)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
        assert f'href="/login?transaction={transaction}"' in answer.text
        pages.add(re.sub(r'name="csrf_token" value="[^"]*"', "", answer.text))
    assert (asked, len(pages)) == ([], 1)


@on_sqlite
def test_what_a_busy_hub_sends_back_to_is_an_address_of_its_own(person: Person) -> None:
    """X01: both come from the form as it was posted."""
    token = person.token()
    fill(person)
    for field, value in (("return_to", "//evil.example/"), ("transaction", '"><script>alert(1)</script>')):
        data = {"username": "QY1", "password": PASSWORD, "csrf_token": token, field: value}
        answer = person.client.post("/login", data=data)
        assert answer.status_code == 503
        assert "evil" not in answer.text and "<script>alert" not in answer.text
        assert 'class="btn primary" href="/login?' in answer.text


@on_sqlite
def test_a_form_of_another_site_is_refused_as_such_by_a_busy_hub(person: Person) -> None:
    """T03."""
    token = person.token()
    fill(person)
    data = {"username": "QY1", "password": PASSWORD, "csrf_token": token}
    answer = person.client.post("/login", data=data, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403


@on_sqlite
def test_a_busy_hub_spends_no_link_and_counts_no_try_at_the_own_password(world: World, person: Person) -> None:
    _, number = world.person()
    person.sign_in(number)
    form = {"current_password": PASSWORD, "new_password": "seven copper bridges"}
    form["csrf_token"] = person.token("/account/security")
    principal_id, _ = world.onboard()
    link = world.invite(principal_id)
    first = Person(world)
    chosen = {"token": link, "password": "seven copper bridges"}
    chosen["csrf_token"] = first.token(f"/login/first?token={link}")
    roomy = fill(person), fill(first)
    for _ in range(counters.PERSON.count + 2):
        assert person.client.post("/account/security", data=form).status_code == 503
        assert first.client.post("/login/first", data=chosen).status_code == 503
    for one, pool in zip((person, first), roomy, strict=True):
        object.__setattr__(one.app.state.services, "hashing", pool)
    assert person.client.post("/account/security", data=form).status_code == 303
    assert first.client.post("/login/first", data=chosen).status_code == 303


@on_sqlite
def test_every_place_in_the_hashing_queue_is_left_again(world: World, person: Person) -> None:
    """Refused, throttled, admitted, cut off by a database that fails: none keeps a place."""
    _, number = world.person()
    for _ in range(counters.PERSON.count + 2):
        person.sign_in(number, "wrong")
    assert person.sign_in(number).status_code == 429
    assert person.sign_in(world.person()[1]).status_code == 303
    broken = Person(world)
    token = broken.token()
    object.__setattr__(broken.app.state.services, "store", SilentStore())
    data = {"username": number, "password": PASSWORD, "csrf_token": token}
    assert broken.client.post("/login", data=data).status_code == 503
    assert world.pool.depth == 0


def fill(person: Person) -> HashingPool:
    """No room for passwords any more; returns the pool that had some."""
    services = person.app.state.services
    roomy: HashingPool = services.hashing
    object.__setattr__(services, "hashing", FullPool())
    return roomy


class FullPool:
    """A hashing pool whose queue is full."""

    def enter(self) -> None:
        raise Unavailable("full", retry_after=timedelta(seconds=3))


class SilentStore:
    """A store whose database does not answer."""

    async def read(self, operation: object) -> None:
        raise Unavailable("silent")

    async def write(self, operation: object) -> None:
        raise Unavailable("silent")


def test_a_cookie_set_before_signing_in_gets_no_session(world: World, person: Person) -> None:
    """T01: fixation."""
    _, number = world.person()
    planted = opaque.make("ses")
    person.set_cookie("session", planted)
    person.sign_in(number)
    with world.database.read() as session:
        hashes = set(session.execute(select(SsoSession.token_hash).where(SsoSession.ended_at.is_(None))).scalars())
    assert opaque.hash_of(planted) not in hashes


def test_signing_in_as_somebody_else_ends_the_former_session(world: World, person: Person) -> None:
    """T10."""
    _, one = world.person(name="王磊")
    _, two = world.person(name="李娜")
    application = make_application(world)
    person.sign_in(one)
    former = person.cookie("session") or ""
    transaction, browser = begin(
        world, protocol="oidc", request={"redirect_uri": CALLBACK}, client_id="office", application_id=application
    )
    person.set_cookie("browser", browser)
    page = person.get(f"/login?transaction={transaction}")
    assert "你已登录为 王磊。" in page.text
    assert person.sign_in(two, path=f"/login?transaction={transaction}").status_code == 303
    assert world.session_of(former) is None
    assert person.get("/").text == "portal of 李娜"


@on_sqlite
def test_somebody_signed_in_is_sent_on_at_once(world: World, person: Person) -> None:
    _, number = world.person()
    person.sign_in(number)
    answer = person.get("/login?return_to=/hr/people%3Fq%3Dx")
    assert (answer.status_code, answer.headers["location"]) == (303, "/hr/people?q=x")


@on_sqlite
def test_a_page_that_needs_sign_in_is_returned_to(world: World, person: Person) -> None:
    _, number = world.person()
    asked = person.get("/account/sessions")
    assert asked.headers["location"] == "/login?return_to=%2Faccount%2Fsessions"
    answer = person.sign_in(number, path=asked.headers["location"])
    assert answer.headers["location"] == "/account/sessions"


@on_sqlite
@pytest.mark.parametrize(
    "target",
    [
        "//evil.example", "/\\evil.example", "/%09/evil.example", "https:evil.example", "https://evil.example",
        "/login", "/logout", "javascript:alert(1)", "\t//evil.example", "/%5Cevil.example", "///evil.example",
        "evil.example", "/a\r\nset-cookie: x=y",
    ],
)  # fmt: skip
def test_nobody_is_sent_to_another_site_after_signing_in(world: World, person: Person, target: str) -> None:
    """T12."""
    _, number = world.person()
    assert person.sign_in(number, return_to=target).headers["location"] == "/"
    assert person.get(f"/login?return_to={quote(target)}").headers["location"] == "/"


# ---------------------------------------------------------------- a protocol asked


def protocol(world: World, **request: str) -> tuple[str, str]:
    application = make_application(world, scopes=["openid", "profile", "files.read", "offline_access"])
    values = {"redirect_uri": CALLBACK, **request}
    return begin(world, protocol="oidc", request=values, client_id="office", application_id=application)


def test_the_page_names_the_application_and_the_sign_in_resumes_there(world: World, person: Person) -> None:
    _, number = world.person()
    transaction, browser = protocol(world, login_hint=number)
    person.set_cookie("browser", browser)
    page = person.get(f"/login?transaction={transaction}", headers={"accept-language": "zh"})
    assert "办公" in page.text and f'value="{number}"' in page.text
    assert "https://office.example" in page.headers["content-security-policy"].partition("form-action")[2]
    assert "https://office.example/callback" not in page.headers["content-security-policy"]
    answer = person.sign_in(number, path=f"/login?transaction={transaction}")
    assert answer.headers["location"] == f"/oauth2/authorize/resume?transaction={transaction}"
    with world.database.read() as session:
        loaded = transactions.load(session, transaction, browser, now=world.clock())
    signed_in = world.session_of(person.cookie("session") or "")
    assert loaded is not None and signed_in is not None and loaded.session_id == signed_in.session_id


@on_sqlite
def test_a_sign_in_may_end_in_an_installed_application(world: World, person: Person) -> None:
    """RFC 8252 section 7.1; without its scheme in `form-action` the browser would stop at the last step."""
    transaction, browser = protocol(world, redirect_uri="com.example.office:/callback")
    person.set_cookie("browser", browser)
    page = person.get(f"/login?transaction={transaction}")
    assert page.headers["content-security-policy"].endswith("form-action 'self' com.example.office:")


@pytest.mark.parametrize(
    "reason",
    ["unknown_client", "invalid_redirect_uri", "transaction_gone", "request_malformed", "invalid_logout_request"],
)
def test_every_error_that_is_shown_has_its_sentences(reason: str) -> None:
    assert reason in protocol_pages._NOTICES


@on_sqlite
def test_a_transaction_of_another_browser_is_not_shown(world: World, person: Person) -> None:
    """T03: a sign-in begun elsewhere cannot be finished here."""
    _, number = world.person()
    transaction, _ = protocol(world)
    person.set_cookie("browser", new_browser_token())
    page = person.get(f"/login?transaction={transaction}")
    assert page.status_code == 400
    assert "notice-transaction_gone" in page.text
    assert "办公" not in page.text
    answer = person.sign_in(number, transaction=transaction)
    assert answer.headers["location"] == "/"
    with world.database.read() as session:
        assert session.execute(select(LoginTransaction.session_id)).scalar_one() is None


@on_sqlite
def test_going_back_after_signing_in_resumes_instead_of_asking_again(world: World, person: Person) -> None:
    _, number = world.person()
    transaction, browser = protocol(world)
    person.set_cookie("browser", browser)
    person.sign_in(number, path=f"/login?transaction={transaction}")
    again = person.get(f"/login?transaction={transaction}")
    assert again.headers["location"] == f"/oauth2/authorize/resume?transaction={transaction}"


@on_sqlite
def test_somebody_without_entitlement_gets_a_page_that_helps_and_may_be_somebody_else(
    world: World, person: Person
) -> None:
    owner, _ = world.onboard(name="陈晨")
    application = make_application(world, owner_id=owner)
    transaction, browser = begin(
        world, protocol="oidc", request={"redirect_uri": CALLBACK}, client_id="office", application_id=application
    )
    _, number = world.person()
    person.set_cookie("browser", browser)
    person.sign_in(number, path=f"/login?transaction={transaction}")
    with world.database.transaction() as session:
        transactions.refuse(session, transaction, browser, reason="not_entitled", now=world.clock())
    page = person.get(f"/error?transaction={transaction}")
    assert page.status_code == 403
    assert "你不能打开 办公" in page.text and "陈晨" in page.text
    assert f'href="/login?transaction={transaction}"' in page.text
    assert person.get(f"/login?transaction={transaction}").status_code == 200


@on_sqlite
@pytest.mark.parametrize(
    "query", ["", "?transaction=x", "?transaction=<script>alert(1)</script>", "?error_description=owned"]
)
def test_the_error_page_never_shows_what_came_with_the_request(person: Person, query: str) -> None:
    page = person.get(f"/error{query}")
    assert page.status_code == 400
    assert "alert(1)" not in page.text and "owned" not in page.text


# ---------------------------------------------------------------- forged and broken forms


@on_sqlite
@pytest.mark.parametrize(
    "headers", [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "https://evil.example"}]
)
def test_a_form_of_another_site_signs_nobody_in(world: World, person: Person, headers: dict[str, str]) -> None:
    """T03: login CSRF."""
    _, number = world.person()
    data = {"username": number, "password": PASSWORD, "csrf_token": person.token()}
    answer = person.client.post("/login", data=data, headers=headers)
    assert answer.status_code == 403
    assert person.cookie("session") is None
    write_counts(person.client)
    assert world.events("request.refused")[-1][1] == "csrf.cross_site"


@on_sqlite
def test_a_form_without_this_browsers_token_signs_nobody_in(world: World, person: Person) -> None:
    _, number = world.person()
    for token in ("", "x" * 64, Person(world).token()):
        person.token()
        answer = person.client.post("/login", data={"username": number, "password": PASSWORD, "csrf_token": token})
        assert answer.status_code == 403
        assert "页面打开太久，请重新输入密码。" in answer.text
        assert person.cookie("session") is None


BROKEN: list[tuple[bytes, str, int, str]] = [
    (b"password=x&csrf_token=t", "username", 400, "form.missing"),
    (b"username=x&csrf_token=t", "password", 400, "form.missing"),
    (b"username=a&username=b&password=x&csrf_token=t", "username", 400, "form.doubled"),
    (b"username=a&password=x&password=y&csrf_token=t", "password", 400, "form.doubled"),
    (b"username=a&password=x&csrf_token=t&csrf_token=t", "csrf_token", 400, "form.doubled"),
    (b"username=" + b"a" * 255 + b"&password=x&csrf_token=t", "username", 400, "form.too_long"),
    (b"username=a&password=" + b"p" * 1025 + b"&csrf_token=t", "password", 400, "form.too_long"),
    (b"username=a&password=" + b"p" * 1_000_000 + b"&csrf_token=t", "", 413, "form.too_large"),
    (b"username=a%00b&password=x&csrf_token=t", "username", 400, "form.characters"),
    (b"username=a&password=x%00&csrf_token=t", "password", 400, "form.characters"),
    (b"username=%ff%fe&password=x&csrf_token=t", "username", 400, "form.characters"),
    (b"username=a&password=%ed%a0%80&csrf_token=t", "password", 400, "form.characters"),
    (b"%ff=a", "", 400, "form.malformed"),
    (b"&".join(b"a%d=1" % n for n in range(200)), "", 400, "form.malformed"),
    (b"", "username", 400, "form.missing"),
    (b"\x00\x01\x02", "", 400, "form.malformed"),
]


@on_sqlite
@pytest.mark.parametrize(("body", "field", "status", "rule"), BROKEN)
def test_a_broken_form_is_refused_by_name_of_its_field_and_recorded(
    world: World, person: Person, body: bytes, field: str, status: int, rule: str
) -> None:
    answer = person.post_raw("/login", body)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert field in answer.text
    write_counts(person.client)
    assert world.events("request.refused") == [("failure", rule, None)]


@on_sqlite
@pytest.mark.parametrize(
    "path", ["/login", "/login/first", "/logout", "/consent", "/account/sessions/end", "/account/security"]
)
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json", "multipart/form-data; boundary=x", "", "application/xml"]
)
def test_every_form_takes_only_what_a_form_sends(person: Person, path: str, content_type: str) -> None:
    """T02."""
    answer = person.post_raw(path, b'{"username":"a"}', content_type)
    assert answer.status_code == 415
    assert answer.headers["content-type"].startswith("text/html")


@on_sqlite
@pytest.mark.parametrize(
    "path",
    [
        "/login",
        "/login/first",
        "/logout",
        "/consent",
        "/account/sessions/end",
        "/account/sessions/end-others",
        "/account/security",
    ],
)
@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xff", b"csrf_token=%00", b"csrf_token=a&csrf_token=b", b"=&=&=", b"%", b"csrf_token=" + b"x" * 70_000],
)
def test_no_broken_form_is_our_fault(person: Person, path: str, body: bytes) -> None:
    answer = person.post_raw(path, body)
    assert 400 <= answer.status_code < 500


@on_sqlite
def test_refusals_of_one_caller_are_recorded_once_a_minute_with_their_number(world: World, person: Person) -> None:
    for _ in range(50):
        person.post_raw("/login", b"")
    write_counts(person.client)
    assert len(world.events("request.refused")) == 1
    world.clock.advance(seconds=61)
    person.post_raw("/login", b"")
    write_counts(person.client)
    assert len(world.events("request.refused")) == 2


@on_sqlite
@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("transaction=" + "a" * 60_000, 400),
        ("transaction=%00", 400),
        ("transaction=%ff", 400),
        ("return_to=%00%00", 200),
        ("transaction=a&transaction=b", 400),
    ],
)
def test_a_broken_address_is_answered_in_words(person: Person, query: str, status: int) -> None:
    answer = person.get(f"/login?{query}")
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")


@on_sqlite
def test_a_secret_typed_as_a_name_is_kept_nowhere(world: World, person: Person) -> None:
    person.sign_in("hunter2-typed-in-the-wrong-field", "x")
    with world.database.read() as session:
        dump = str(session.connection().exec_driver_sql("SELECT body FROM audit_events").all())
    assert "hunter2" not in dump


# ---------------------------------------------------------------- one-time links


def test_a_link_shows_a_form_sets_the_password_and_signs_in(world: World, person: Person) -> None:
    principal_id, number = world.onboard(name="李娜")
    token = world.invite(principal_id)
    page = person.get(f"/login/first?token={token}")
    assert page.status_code == 200 and "欢迎，李娜。" in page.text
    assert page.headers["referrer-policy"] == "no-referrer" and page.headers["cache-control"] == "no-store"
    data = {"token": token, "password": PASSWORD, "csrf_token": hidden(page.text, "csrf_token", last=True)}
    answer = person.client.post("/login/first", data=data)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert person.get("/").text == "portal of 李娜"
    gone = person.get(f"/login/first?token={token}")
    assert gone.status_code == 410 and 'type="password"' not in gone.text
    assert Person(world).sign_in(number).status_code == 303


@on_sqlite
@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("short", "密码至少 15 个字符"),
        ("passwordpassword", "攻击者最先尝试"),
        ("my name is 李娜 and I live", "公司名称"),
        ("tab\tin the password", "键盘无法输入"),
        ("界" * 400, "密码过长"),
    ],
)
def test_a_password_against_the_policy_is_refused_by_name_of_reason_and_spends_nothing(
    world: World, person: Person, password: str, words: str
) -> None:
    principal_id, _ = world.onboard(name="李娜")
    token = world.invite(principal_id)
    page = person.get(f"/login/first?token={token}").text
    data = {"token": token, "password": password, "csrf_token": hidden(page, "csrf_token", last=True)}
    answer = person.client.post("/login/first", data=data)
    assert answer.status_code == 400
    assert words in answer.text and password not in answer.text
    assert person.get(f"/login/first?token={token}").status_code == 200


@on_sqlite
@pytest.mark.parametrize("token", ["", "x", opaque.make("inv"), "idh_inv_" + "A" * 48, "a" * 5000])
def test_a_made_up_link_is_answered_in_words(person: Person, token: str) -> None:
    page = person.get(f"/login/first?token={token}")
    assert page.status_code == 410
    assert "链接无法使用" in page.text
    if len(token) <= 100:
        answer = person.client.post(
            "/login/first", data={"token": token, "password": PASSWORD, "csrf_token": person.token()}
        )
        assert answer.status_code == 410


@on_sqlite
def test_a_link_of_another_site_sets_nothing(world: World, person: Person) -> None:
    token = world.invite(world.onboard()[0])
    data = {"token": token, "password": PASSWORD, "csrf_token": "forged"}
    assert person.client.post("/login/first", data=data).status_code == 403
    assert person.get(f"/login/first?token={token}").status_code == 200


@on_sqlite
def test_somebody_who_starts_later_is_told_so(world: World, person: Person) -> None:
    principal_id, _ = world.onboard(starts_on=date(2026, 12, 1))
    token = world.invite(principal_id)
    page = person.get(f"/login/first?token={token}").text
    data = {"token": token, "password": PASSWORD, "csrf_token": hidden(page, "csrf_token", last=True)}
    answer = person.client.post("/login/first", data=data)
    assert answer.status_code == 200 and "你的访问还没有开始" in answer.text
    assert person.cookie("session") is None


# ---------------------------------------------------------------- logout


def test_logout_shows_what_it_ends_and_ends_it_when_posted(world: World, person: Person) -> None:
    principal_id, number = world.person(name="王磊")
    office, wiki = make_application(world), make_application(world, "wiki", is_told=False)
    person.sign_in(number)
    token = person.cookie("session") or ""
    signed_in = world.session_of(token)
    assert signed_in is not None
    join(world, signed_in.session_id, principal_id, office, "office")
    join(world, signed_in.session_id, principal_id, wiki, "wiki")
    page = person.get("/logout")
    assert "退出将同时结束 2 个应用" in page.text and "办公" in page.text and "Wiki" in page.text
    assert world.session_of(token) is not None
    answer = person.client.post("/logout", data={"csrf_token": hidden(page.text, "csrf_token", last=True)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/logout")
    assert world.session_of(token) is None
    assert person.cookie("session") is None
    done = person.get("/logout").text
    assert "你已退出" in done and "正在通知" in done and "未通知" in done
    with world.database.transaction() as session:
        session.execute(update(Delivery).values(state="done"))
    assert "已确认你在那里退出。" in person.get("/logout").text
    person.set_cookie("session", token)
    assert person.get("/").status_code == 303


@on_sqlite
def test_nobody_is_signed_out_by_a_link_or_another_sites_form(world: World, person: Person) -> None:
    """ASVS 10.6.2."""
    _, number = world.person()
    person.sign_in(number)
    token = person.cookie("session") or ""
    person.get("/logout")
    assert person.client.post("/logout", data={"csrf_token": "forged"}).status_code == 403
    good = hidden(person.get("/logout").text, "csrf_token", last=True)
    crossed = person.client.post("/logout", data={"csrf_token": good}, headers={"sec-fetch-site": "cross-site"})
    assert crossed.status_code == 403
    assert world.session_of(token) is not None


@on_sqlite
def test_logging_out_twice_is_no_error(world: World, person: Person) -> None:
    _, number = world.person()
    person.sign_in(number)
    token = hidden(person.get("/logout").text, "csrf_token", last=True)
    assert person.client.post("/logout", data={"csrf_token": token}).status_code == 303
    assert person.client.post("/logout", data={"csrf_token": token}).status_code == 303
    assert person.get("/logout").status_code == 200


@on_sqlite
def test_a_logout_that_an_application_asked_for_resumes_there(world: World, person: Person) -> None:
    _, number = world.person()
    application = make_application(world)
    person.sign_in(number)
    transaction, browser = begin(
        world, protocol="oidc_logout", request={"post_logout_redirect_uri": "https://office.example/bye"},
        client_id="office", application_id=application,
    )  # fmt: skip
    person.set_cookie("browser", browser)
    page = person.get(f"/logout?transaction={transaction}")
    assert "办公 请求让你退出。" in page.text
    assert "https://office.example" in page.headers["content-security-policy"]
    data = {"csrf_token": hidden(page.text, "csrf_token", last=True), "transaction": transaction}
    answer = person.client.post("/logout", data=data)
    assert answer.headers["location"] == f"/oauth2/logout/resume?transaction={transaction}"


@on_sqlite
def test_what_ended_is_shown_to_its_browser_alone(world: World, person: Person) -> None:
    principal_id, number = world.person()
    office = make_application(world)
    person.sign_in(number)
    signed_in = world.session_of(person.cookie("session") or "")
    assert signed_in is not None
    join(world, signed_in.session_id, principal_id, office, "office")
    person.client.post("/logout", data={"csrf_token": hidden(person.get("/logout").text, "csrf_token", last=True)})
    stranger = Person(world)
    for value in (signed_in.session_id, "x", opaque.make("ses")):
        stranger.set_cookie("ended", value)
        assert "办公" not in stranger.get("/logout").text
    assert "办公" in person.get("/logout").text


# ---------------------------------------------------------------- consent


def consent(world: World, person: Person) -> tuple[str, str, str]:
    _, number = world.person()
    transaction, browser = protocol(world, scope="openid profile offline_access files.read payroll.write")
    person.set_cookie("browser", browser)
    person.sign_in(number, path=f"/login?transaction={transaction}")
    page = person.get(f"/consent?transaction={transaction}").text
    return transaction, browser, page


@pytest.mark.parametrize(
    ("answer", "stored", "event"),
    [("allow", "allow", "consent.given"), ("deny", "deny", "consent.denied"), ("maybe", "deny", "consent.denied")],
)
def test_consent_is_asked_in_plain_words_and_noted(
    world: World, person: Person, answer: str, stored: str, event: str
) -> None:
    transaction, browser, page = consent(world, person)
    assert (
        "允许 办公 访问？" in page
        and "查看你的姓名和工号" in page
        and "files.read" in page
        # What this client may not have is not given, so it is not asked about.
        and "payroll.write" not in page
        and "openid" not in page.split("<main")[1]
    )
    data = {"csrf_token": hidden(page, "csrf_token", last=True), "transaction": transaction, "consent": answer}
    resumed = person.client.post("/consent", data=data)
    assert resumed.headers["location"] == f"/oauth2/authorize/resume?transaction={transaction}"
    with world.database.read() as session:
        loaded = transactions.load(session, transaction, browser, now=world.clock())
    assert loaded is not None and loaded.consent == stored
    assert [outcome for outcome, _, _ in world.events(event)] == ["success"]


@on_sqlite
def test_consent_cannot_be_forged_or_given_by_nobody(world: World, person: Person) -> None:
    transaction, browser, page = consent(world, person)
    data = {"csrf_token": "forged", "transaction": transaction, "consent": "allow"}
    assert person.client.post("/consent", data=data).status_code == 403
    stranger = Person(world)
    stranger.set_cookie("browser", browser)
    assert stranger.get(f"/consent?transaction={transaction}").headers["location"].startswith("/login")
    data["csrf_token"] = hidden(page, "csrf_token", last=True)
    assert stranger.client.post("/consent", data=data).headers["location"].startswith("/login")
    with world.database.read() as session:
        loaded = transactions.load(session, transaction, browser, now=world.clock())
    assert loaded is not None and loaded.consent is None


# ---------------------------------------------------------------- own account


def test_own_sessions_are_listed_and_ended_one_by_one_or_all_others(world: World, person: Person) -> None:
    """ASVS 7.5.2."""
    _, number = world.person()
    others = [Person(world) for _ in range(3)]
    for browser in (person, *others):
        browser.sign_in(number)
    tokens = [browser.cookie("session") or "" for browser in others]
    page = person.get("/account/sessions").text
    assert page.count('data-test="ses_') == 5 and page.count("本机") == 1  # one more began with the one-time link
    first = world.session_of(tokens[0])
    assert first is not None
    data = {"session": first.session_id, "csrf_token": hidden(page, "csrf_token", last=True)}
    assert person.client.post("/account/sessions/end", data=data).headers["location"] == "/account/sessions?ended=1"
    assert world.session_of(tokens[0]) is None and world.session_of(tokens[1]) is not None
    person.client.post("/account/sessions/end-others", data={"csrf_token": hidden(page, "csrf_token", last=True)})
    assert [world.session_of(token) for token in tokens] == [None, None, None]
    assert person.get("/").status_code == 200
    assert "只有这一个会话。" in person.get("/account/sessions").text


@on_sqlite
def test_the_session_of_somebody_else_cannot_be_ended(world: World, person: Person) -> None:
    _, one = world.person()
    _, two = world.person()
    person.sign_in(one)
    other = world.minted(two)
    page = person.get("/account/sessions").text
    answers = [
        person.client.post(
            "/account/sessions/end", data={"session": session_id, "csrf_token": hidden(page, "csrf_token", last=True)}
        )
        for session_id in (other.session_id, "ses_nothing")
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert world.session_of(other.token) is not None


def test_a_changed_password_keeps_this_browser_and_ends_the_others(world: World, person: Person) -> None:
    _, number = world.person()
    other = Person(world)
    for browser in (person, other):
        browser.sign_in(number)
    before = person.cookie("session")
    page = person.get("/account/security").text
    new = "seven copper bridges"
    data = {"current_password": PASSWORD, "new_password": new, "csrf_token": hidden(page, "csrf_token", last=True)}
    answer = person.client.post("/account/security", data=data)
    assert answer.headers["location"] == "/account/security?changed=1"
    assert "密码已修改" in person.get("/account/security?changed=1").text
    assert person.cookie("session") != before
    assert other.get("/").status_code == 303
    assert Person(world).sign_in(number, PASSWORD).status_code == 403
    assert Person(world).sign_in(number, new).status_code == 303


@on_sqlite
@pytest.mark.parametrize(
    ("current", "new", "status", "field"),
    [
        ("wrong", "seven copper bridges", 403, "current_password"),
        ("", "seven copper bridges", 403, "current_password"),
        (PASSWORD, "short", 400, "new_password"),
        (PASSWORD, PASSWORD, 400, "new_password"),
    ],
)
def test_a_password_is_changed_only_with_the_current_one_and_within_the_policy(
    world: World, person: Person, current: str, new: str, status: int, field: str
) -> None:
    """ASVS 6.2.3."""
    _, number = world.person()
    person.sign_in(number)
    page = person.get("/account/security").text
    data = {"current_password": current, "new_password": new, "csrf_token": hidden(page, "csrf_token", last=True)}
    answer = person.client.post("/account/security", data=data)
    assert answer.status_code == status
    assert f'id="e-{field}"' in answer.text
    assert person.get("/").status_code == 200
    assert Person(world).sign_in(number).status_code == 303


def test_whoever_sits_at_a_session_guesses_its_password_as_little_as_at_the_door(world: World, person: Person) -> None:
    """V6.2.3, ASVS 6.3.1: the page that asks for the current password counts with the one that signs in."""
    _, number = world.person()
    person.sign_in(number)
    page = person.get("/account/security").text
    data = {"new_password": "seven copper bridges", "csrf_token": hidden(page, "csrf_token", last=True)}

    def change(current: str) -> int:
        answer = person.client.post("/account/security", data={**data, "current_password": current})
        return int(answer.status_code)

    tried = [change("wrong") for _ in range(counters.PERSON.count + 1)]
    assert tried == [403] * counters.PERSON.count + [429]
    assert change(PASSWORD) == 429, "the right one is not looked at either"
    assert person.get("/").status_code == 200
    world.clock.advance(hours=2)
    assert change(PASSWORD) == 303


# ---------------------------------------------------------------- every page


@on_sqlite
@pytest.mark.parametrize("language", ["zh-CN", "en"])
def test_pages_carry_their_policy_and_no_inline_script_or_style(world: World, person: Person, language: str) -> None:
    _, number = world.person()
    token = world.invite(world.onboard()[0])
    person.set_cookie("lang", language)
    paths = ["/login", f"/login/first?token={token}", "/logout", "/error"]
    texts = [person.get(path) for path in paths]
    person.sign_in(number)
    texts += [person.get(path) for path in ("/logout", "/account/sessions", "/account/security")]
    for page in texts:
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert f'<html lang="{language}"' in page.text
        assert page.text.count("<h1") == 1
        assert not re.search(r"\sstyle=|\son[a-z]+=|<style|<script>", page.text)
