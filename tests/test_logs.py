"""What reaches the log: one line an event, nothing secret. Security rows G01, G02, G05."""

import asyncio
import json
import logging
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from starlette.types import Message, Receive, Scope, Send

from idhub.logs import RequestLog, configure_logging, redact, request_id
from idhub.settings import Settings

CANARY = "c4n4ry" + secrets.token_hex(16)
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0." + CANARY


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers, root.level = handlers, level


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == "", "talk belongs on stderr"
    return [json.loads(line) for line in captured.err.splitlines()]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "bad",
    [
        "\r\n",
        "\n",
        "\x1b[2J",
        "\u2028",
        "\u2029",
        "\u0085",
        "\u202e",
        "\u2066",
        "\x00",
        "\ud800",
        "\U000e0041",
        "\x7f",
        "\ufeff",
    ],
)
def test_no_value_can_end_or_turn_a_line(capsys: pytest.CaptureFixture[str], bad: str, form: Any) -> None:
    """G01."""
    configure_logging(Settings(log_format=form))
    text = f"admin{bad}level=info event=login.succeeded"

    structlog.get_logger().info("login.failed", username=text, **{f"key{bad}": [text, {"deep": text}]})
    logging.getLogger("library").warning("user %s", text)

    written = capsys.readouterr().err
    assert len(written.splitlines()) == len(written.split("\n")) - 1 == 2
    assert bad not in written.replace("\n", "")
    if form == "json":
        first, second = (json.loads(line) for line in written.splitlines())
        assert first["username"] == text, "escaped, not lost"
        assert second["event"] == f"user {text}"


def test_chinese_is_readable_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings())
    structlog.get_logger().info("person.onboarded", name="李雷")

    assert '"name":"李雷"' in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        f"idh_at_{CANARY}",
        f"idh_ses_{CANARY}.x-y_z",
        f"sent idh_rt_{CANARY}, twice",
        f"https://hub.example/login/first?token=idh_inv_{CANARY}",
        JWT,
        f"Bearer {CANARY}",
        f"bearer  {CANARY}",
        f"Basic {CANARY}=",
        f"DPoP {CANARY}",
        f"Authorization: Bearer {CANARY}",
        f"Authorization: Custom {CANARY}",
        f"'cookie': 'idhub_session={CANARY}; other={CANARY}'",
        f"Set-Cookie: __Host-idhub_session={CANARY}; Path=/",
        f"postgresql://idhub:{CANARY}@db.example/idhub",
        f"https://{CANARY}@app.example/",
        f"/callback?code={CANARY}&state=1",
        f"client_secret={CANARY}",
        f"grant_type=password&password={CANARY}",
        f'{{"access_token": "{CANARY}"}}',
        f"{{'refresh_token': '{CANARY}'}}",
        f"code_verifier={CANARY}",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----",
        f"-----BEGIN EC PRIVATE KEY-----\n{CANARY}",
    ],
)
def test_no_credential_reaches_the_log_wherever_it_was_put(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """G02: canaries in the event, its values, keys' values, exceptions, foreign loggers."""
    configure_logging(Settings(log_level="debug"))
    log = structlog.get_logger()

    log.info(text)
    log.info("x", value=text, deep={"a": [text, (text, {"b": text})]}, raw=text.encode(), error=ValueError(text))
    try:
        raise RuntimeError(text)
    except RuntimeError:
        log.exception("failed")
        logging.getLogger("library").exception("failed %s", text)
    logging.getLogger("py.warnings").warning(text)

    written = capsys.readouterr().err
    assert CANARY not in written
    assert len(written.splitlines()) == 5


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "new_password",
        "Authorization",
        "cookie",
        "set-cookie",
        "client_secret",
        "token",
        "access_token",
        "refresh_token",
        "code",
        "code_verifier",
        "client_assertion",
        "api_key",
        "x-api-key",
        "private_key",
    ],
)
def test_values_of_secret_names_are_never_written(capsys: pytest.CaptureFixture[str], key: str) -> None:
    configure_logging(Settings())

    structlog.get_logger().info("x", **{key: CANARY}, headers={key: CANARY}, pairs=[{key: [CANARY]}])

    assert CANARY not in capsys.readouterr().err


def test_what_is_no_secret_stays() -> None:
    kept = {
        "status_code": 401,
        "error_code": "invalid_grant.code_spent",
        "token_count": 3,
        "reason": "invalid_grant.code_spent",
        "delivery_id": "dlv_06gvl5ql80000u5o3n5c7h2k1c",
        "path": "/oauth2/token",
        "url": "https://app.example/v2/Users",
        "event": "token.issued",
    }

    assert redact(kept) == kept


def test_exceptions_carry_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings())

    def inner(value: str) -> None:
        raise KeyError(len(value))

    try:
        inner(CANARY)
    except KeyError:
        structlog.get_logger().exception("worker.failed")

    (line,) = lines(capsys)
    assert "KeyError: " in line["exception"]
    assert CANARY not in line["exception"]


def test_levels_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_level="warning"))
    log = structlog.get_logger()

    log.info("quiet")
    log.warning("loud")
    logging.getLogger("library").info("quiet")
    logging.getLogger("uvicorn.access").error("ours is the access log")

    assert [line["event"] for line in lines(capsys)] == ["loud"]


def call(app: Any, *, path: str = "/login", query: bytes = b"", fails: bool = False) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": query,
        "headers": [(b"x-request-id", b"forged")],
        "client": ("203.0.113.9", 1234),
    }
    asyncio.run(RequestLog(app, settings=Settings())(scope, receive, send))
    return sent


def test_every_answer_has_one_line_without_its_query(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings())
    seen: list[str | None] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(request_id.get())
        structlog.get_logger().info("inside")
        await send({"type": "http.response.start", "status": 302, "headers": [(b"location", b"/")]})
        await send({"type": "http.response.body", "body": b""})

    sent = call(app, path="/login\r\nGET /x", query=f"code={CANARY}".encode())

    inside, answered = lines(capsys)
    identity = answered["request_id"]
    assert identity.startswith("req_")
    assert inside["request_id"] == seen[0] == identity != "forged"
    assert (answered["event"], answered["status"], answered["method"]) == ("http.answered", 302, "GET")
    assert (answered["path"], answered["client"]) == ("/login\r\nGET /x", "203.0.113.9")
    assert CANARY not in json.dumps(answered)
    assert (b"x-request-id", identity.encode()) in sent[0]["headers"]
    assert request_id.get() is None


def test_a_request_that_fails_is_logged_as_500(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings())

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        call(app)
    assert [line["status"] for line in lines(capsys)] == [500]


def test_health_checks_do_not_fill_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings())

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        status = 503 if scope["path"] == "/readyz" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})

    call(app, path="/healthz")
    call(app, path="/readyz")

    assert [line["path"] for line in lines(capsys)] == ["/readyz"]
