"""Logging: one JSON line an event on stderr, without secrets, whatever the event contains.

Everything goes through here, the standard library's loggers included. What could end a line, move a cursor or turn the
direction of a text is escaped; what looks like a credential is cut out of every value, wherever it was put.
"""

import asyncio
import logging
import re
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, cast

import orjson
import structlog

from idhub.entropy import random_bytes
from idhub.settings import Settings

# ASGI 3.0, in words of its own: nothing at this level knows a web framework.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

request_id: ContextVar[str | None] = ContextVar("idhub_request_id", default=None)
"""Id of the request being answered, in every log line and audit event of it."""

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_REDACTED = "[redacted]"
_PATH_LIMIT = 300
_QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST"})
_BROKEN_OFF = 499
"""In place of the status, where the client went before the request was there: nobody was answered."""

_SECRET_KEYS = re.compile(
    r"(?i)^(?:.*[_-])?(?:authorization|cookie|passwords?|passwd|secret|tokens?|assertion|api[_-]?key|private[_-]?key"
    r"|credentials?|verifier|nonce|otp|pin)(?:[_-](?:value|header))?$|^code$|^x-api-key$"
)
_SECRET_TEXTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL), _REDACTED),
    # Our own opaque values: typed prefix, so that they are found wherever they turn up.
    (re.compile(r"\b(idh_[a-z0-9]{2,5}_)[A-Za-z0-9_.-]{8,}"), rf"\1{_REDACTED}"),
    # JOSE compact forms begin with the base64url of `{"`.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){1,4}"), _REDACTED),
    (re.compile(r"(?i)\b(bearer|basic|dpop|digest)\s+[A-Za-z0-9+/=._~-]{4,}"), rf"\1 {_REDACTED}"),
    (re.compile(r"(?i)\b((?:set-)?cookie|(?:proxy-)?authorization)\b([\"']?\s*[:=]\s*).+"), rf"\1\2{_REDACTED}"),
    (re.compile(r"(://)[^/\s@\"']+@"), rf"\1{_REDACTED}@"),
    (
        re.compile(
            r"(?i)\b((?:[a-z]+_)*(?:password|passwd|secret|token|assertion|verifier|api_key|code)[\"']?\s*[=:]\s*[\"']?)"
            r"(?![\s\"'])[^\s&\"',;]+"
        ),
        rf"\1{_REDACTED}",
    ),
)
# Everything below has no business in a line: controls, separators, bidirectional and invisible characters, surrogates.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\uffff"
    "\U000e0000-\U000e007f]"
)

_write_lock = threading.Lock()


def configure_logging(settings: Settings) -> None:
    """Send every event of this process to stderr, one line each, as `log_level` and `log_format` say.

    May be called again. The console format is for reading, with the same escapes and redactions.
    """
    threshold, form = _LEVELS[settings.log_level], settings.log_format
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _Renderer(form),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_StderrLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.Handler(threshold)
    handler.emit = _Bridge(form)  # type: ignore[method-assign]
    root = logging.getLogger()
    root.handlers = [handler]
    # Libraries say at info what is of use only to their own authors.
    root.setLevel(max(threshold, logging.WARNING))
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    # The access log is ours, without query strings.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").setLevel(threshold)
    logging.captureWarnings(True)


def redact(value: Any) -> Any:
    """`value` without what looks like a credential: by key in mappings, by form in texts."""
    if isinstance(value, str):
        for pattern, replacement in _SECRET_TEXTS:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, Mapping):
        return {
            _text(key): _REDACTED if _SECRET_KEYS.match(_text(key)) and one not in (None, "") else redact(one)
            for key, one in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(one) for one in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"[{len(value)} bytes]"
    return redact(_text(value))


def escape(text: str) -> str:
    """`text` on one line, in the escapes of JSON."""
    return _UNSAFE.sub(lambda found: _escape_character(found.group()), text)


def _escape_character(character: str) -> str:
    number = ord(character)
    if number <= 0xFFFF:
        return f"\\u{number:04x}"
    number -= 0x10000
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(value)


class _Renderer:
    """Last processor: an event to its line."""

    def __init__(self, form: Literal["json", "console"]) -> None:
        self._form = form

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        level = event.pop("level", "info")
        name = event.pop("event", "")
        current = request_id.get()
        if current is not None:
            event.setdefault("request_id", current)
        rest = redact(event)
        said = redact(name)
        if self._form == "console":
            pairs = " ".join(f"{key}={value}" for key, value in rest.items())
            return escape(f"{now} {level:<7} {said} {pairs}".rstrip())
        return escape(_json({"at": now, "level": level, "event": said, **rest}))


def _json(values: Mapping[str, Any]) -> str:
    try:
        return orjson.dumps(values).decode()
    except TypeError:
        # Lone surrogates and integers beyond 64 bits: rare, and not worth losing an event for.
        import json

        return json.dumps(values, ensure_ascii=False, default=str)


class _StderrLogger:
    """Writes lines. Finds stderr at each write, so that whoever redirects it gets them."""

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, message: str) -> None:
        """Write one line in one call, so that lines of threads do not mix."""
        stream = cast("TextIO | None", sys.stderr)
        if stream is None or stream.closed:
            return
        line = message.encode("utf-8", "backslashreplace").decode() + "\n"
        # A line that finds no room (the disk is full, the reader is gone) must not stop what it tells of.
        with _write_lock, suppress(OSError):
            try:
                stream.write(line)
            except UnicodeEncodeError:
                stream.write(line.encode("ascii", "backslashreplace").decode())
            stream.flush()

    log = debug = info = warn = warning = error = critical = fatal = exception = msg


class _AccessLines:
    """Lines of answered requests: those of one turn of the event loop are written in one call."""

    def __init__(self, plain_paths: frozenset[str]) -> None:
        self._plain_paths = plain_paths
        self._lines: list[str] = []
        self._second = 0
        self._shown_second = ""

    def add(self, *, method: str, path: str, status: int, milliseconds: float, client: str | None, name: str) -> None:
        """Write a line soon, in the form and with the redactions of every other."""
        # A path of ours, a known method, a number, the address of a socket: nothing to redact and nothing to escape.
        if path in self._plain_paths and method in _METHODS:
            shown = "null" if client is None else f'"{client}"'
            line = (
                f'{{"at":"{self._now()}","level":"info","event":"http.answered","method":"{method}","path":"{path}",'
                f'"status":{status},"milliseconds":{milliseconds},"client":{shown},"request_id":"{name}"}}'
            )
        else:
            values = {"method": method, "path": path, "status": status, "milliseconds": milliseconds, "client": client}
            known = {"at": self._now(), "level": "info", "event": "http.answered"}
            line = escape(_json({**known, **redact(values), "request_id": name}))
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write)
        self._lines.append(line)

    def _now(self) -> str:
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if seconds != self._second:
            self._second = seconds
            self._shown_second = datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "")
        return f"{self._shown_second}.{nanoseconds // 1_000_000:03d}Z"

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        _StderrLogger().msg("\n".join(lines))


class _Bridge:
    """A record of the standard library to an event."""

    def __init__(self, form: Literal["json", "console"]) -> None:
        self._render = _Renderer(form)

    def __call__(self, record: logging.LogRecord) -> None:
        event: dict[str, Any] = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = logging.Formatter().formatException(record.exc_info)
        _StderrLogger().msg(self._render(None, record.levelname, event))


class RequestLog:
    """ASGI middleware: gives every request an id and writes one line when it is answered.

    The id comes from here, never from outside, and goes back as X-Request-Id. Query strings are not logged. Behind
    trusted proxies the address is theirs; who is behind them is in the audit events.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, plain_paths: Iterable[str] = ()) -> None:
        """Args:
        plain_paths: paths of the hub that have no part of the caller's choice; their lines need no redaction.
        """
        self._app = app
        self._is_debugging = settings.log_level == "debug"
        self._is_logging = _LEVELS[settings.log_level] <= _LEVELS["info"]
        self._lines = _AccessLines(frozenset(plain_paths)) if settings.log_format == "json" else None
        self._log = structlog.get_logger("idhub.http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = self.new_id()
        mark = request_id.set(identity)
        # Where pages and events read it: the number a person reads out is the one in the log.
        scope.setdefault("state", {})["request_id"] = identity
        began = time.perf_counter()
        status = _BROKEN_OFF

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                marked = (b"x-request-id", identity.encode())
                message = {**message, "headers": [*message.get("headers", ()), marked]}
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except BaseException:
            status = 500 if status == _BROKEN_OFF else status
            raise
        finally:
            client = scope["client"][0] if scope.get("client") else None
            self.tell(
                method=scope["method"], path=scope["path"], status=status, seconds=time.perf_counter() - began,
                client=client, identity=identity,
            )  # fmt: skip
            request_id.reset(mark)

    @staticmethod
    def new_id() -> str:
        """An id for a request. Later ones are larger: an index of them grows at its end instead of everywhere."""
        return f"req_{time.time_ns() // 1_000_000:012x}{random_bytes(10).hex()}"

    def tell(self, *, method: str, path: str, status: int, seconds: float, client: str | None, identity: str) -> None:
        """Write the line of a request that was answered."""
        if not self._is_logging or (path in _QUIET_PATHS and status < 400 and not self._is_debugging):
            return
        path, milliseconds = path[:_PATH_LIMIT], round(seconds * 1000, 1)
        if self._lines is not None:
            self._lines.add(
                method=method, path=path, status=status, milliseconds=milliseconds, client=client, name=identity
            )
            return
        self._log.info(
            "http.answered", method=method, path=path, status=status, milliseconds=milliseconds, client=client
        )
