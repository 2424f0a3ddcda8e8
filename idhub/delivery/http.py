"""The one client through which the hub calls out: guarded, bounded, and silent about secrets.

Every request passes the rules of `idhub.delivery.addresses`, twice: its URL, and each address that its name resolves
to, which is then the address connected to (a name cannot point elsewhere in between). Redirects are not followed,
cookies not used, and no proxy but one that the caller names. Time and size are bounded; the size is counted after
decompression.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import weakref
import zlib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Self, cast
from urllib.parse import urlencode

import orjson

from idhub import faults
from idhub.delivery.addresses import OutboundPolicy, OutboundRefused
from idhub.errors import Unavailable
from idhub.settings import Settings

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult

__all__ = [
    "OutboundError",
    "OutboundHttp",
    "OutboundPolicy",
    "OutboundRefused",
    "OutboundResponse",
    "OutboundTimeout",
    "OutboundUntrusted",
    "Resolve",
]

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Name and port to addresses. Replaced in tests; the system's resolver otherwise."""

_DNS_THREADS = 16
_DNS_CACHE_SECONDS = 10
_KEEP_ALIVE_SECONDS = 30
_READ_SIZE = 65_536
_LONGEST_WAIT = timedelta(hours=1)


class OutboundError(Unavailable):
    """The other side could not be reached, broke off, or answered what cannot be read."""


class OutboundUntrusted(OutboundError):
    """The other side's certificate is not trusted, or it speaks no TLS that we accept. Nothing was sent."""


class OutboundTimeout(OutboundError):
    """The total deadline passed. Whether the other side acted is not known."""


@dataclass(frozen=True, slots=True)
class OutboundResponse:
    """What came back. `headers` compares names without case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """2xx."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            OutboundError: it is not JSON.
        """
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise OutboundError(f"The answer ({self.status}) is not JSON.") from error

    def retry_after(self, *, now: datetime) -> timedelta | None:
        """How long the other side asks to wait: RFC 9110 section 10.2.3; at most one hour, unreadable is None."""
        value = self.headers.get("Retry-After", "").strip()
        if value.isascii() and value.isdigit():
            return min(timedelta(seconds=int(value[:9])), _LONGEST_WAIT)
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return min(max(at - now, timedelta(0)), _LONGEST_WAIT)


class OutboundHttp:
    """Guarded HTTP client. Safe to use from several event loops; each has its own connections.

    Args:
        settings: `outbound_allow` names what is let through beside public addresses.
        resolve: name resolution; the system's by default.
        tls: trust for https; the system's by default.
    """

    def __init__(
        self, settings: Settings, *, resolve: Resolve | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.policy = OutboundPolicy(settings.outbound_allow)
        self._resolve = resolve
        self._tls = tls
        self._threads = ThreadPoolExecutor(_DNS_THREADS, "outbound-dns")
        self._sessions: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[str | None, aiohttp.ClientSession]
        ] = weakref.WeakKeyDictionary()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections of the running event loop. The client may be used again."""
        for session in (self._sessions.pop(asyncio.get_running_loop(), None) or {}).values():
            await session.close()

    async def request(
        self,
        method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"],
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: bytes | Mapping[str, str] | None = None,
        timeout: timedelta,  # noqa: ASYNC109 - it is the total deadline, part of every outbound call
        max_bytes: int = 1_000_000,
        proxy: str | None = None,
        egress_address: str | None = None,
    ) -> OutboundResponse:
        """Send one request and read the whole answer, whatever its status; a redirect is an answer.

        Args:
            json: body, sent as application/json unless `headers` names another Content-Type.
            data: raw body, or a form.
            timeout: total deadline: resolving, connecting, sending and reading together.
            max_bytes: most the body may measure after decompression.
            proxy: address of an HTTP proxy to go through. It resolves the name then: the guard sees the URL and the
                proxy's own address, no more.
            egress_address: own address to connect from.

        Raises:
            OutboundRefused: the guard does not let it through.
            OutboundUntrusted: no TLS that can be trusted.
            OutboundTimeout: the deadline passed.
            OutboundError: no connection, a broken or oversized answer.
        """
        target = self.policy.check_url(url)
        if proxy is not None:
            self.policy.check_url(proxy)
        if "aiohttp" not in sys.modules:
            # At the first call, in a thread: 8 MB and a tenth of a second that a hub which calls nobody does not need.
            await asyncio.to_thread(import_module, "aiohttp")
        import aiohttp
        from yarl import URL

        from idhub.delivery.connections import allowance

        sent_headers, body = _body(headers, json, data)
        faults.at("send.before")
        try:
            with allowance(max_bytes):
                async with (
                    asyncio.timeout(timeout.total_seconds()),
                    self._session(egress_address).request(
                        method,
                        # `encoded`: what was vetted is what is sent, byte for byte.
                        URL(url, encoded=True),
                        headers=sent_headers,
                        data=body,
                        allow_redirects=False,
                        proxy=None if proxy is None else URL(proxy, encoded=True),
                    ) as response,
                ):
                    content = await _read(response, max_bytes)
                    return OutboundResponse(response.status, response.headers, content)
        except TimeoutError as error:
            raise OutboundTimeout(f"{target.authority} did not answer within {timeout.total_seconds():g} s.") from error
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            why = _tls_problem(error)
            raise OutboundUntrusted(f"The certificate or TLS of {target.authority} is not accepted{why}.") from error
        except aiohttp.ClientHttpProxyError as error:
            raise OutboundError(f"The proxy on the way to the application answered {error.status}.") from error
        except aiohttp.ClientConnectorError as error:
            raise OutboundError(f"No connection to {target.authority}.") from error
        except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
            raise OutboundError(f"{target.authority} broke off ({type(error).__name__}).") from error
        except ValueError as error:
            # The client refuses line breaks in header values and unreadable URLs this way.
            raise OutboundRefused(
                f"The request to {target.authority} is malformed.", rule="outbound.request"
            ) from error
        finally:
            # Passed whatever came of it: also after a time-out, when the other side may have acted.
            faults.at("send.after")

    def _session(self, egress_address: str | None) -> aiohttp.ClientSession:
        import aiohttp

        from idhub.delivery.connections import OneAnswerConnector

        of_loop = self._sessions.setdefault(asyncio.get_running_loop(), {})
        session = of_loop.get(egress_address)
        if session is None or session.closed:
            connector = OneAnswerConnector(
                # It has the form of one; the class it would come from is imported late.
                resolver=cast("AbstractResolver", _VettedResolver(self.policy, self._resolve or self._system_resolve)),
                ssl=self._tls if self._tls is not None else True,
                ttl_dns_cache=_DNS_CACHE_SECONDS,
                keepalive_timeout=_KEEP_ALIVE_SECONDS,
                limit=0,  # the queue's bulkhead bounds what is in flight
                local_addr=(egress_address, 0) if egress_address is not None else None,
            )
            session = aiohttp.ClientSession(
                connector=connector,
                headers={"User-Agent": "idhub", "Accept-Encoding": "gzip, deflate"},
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                auto_decompress=False,
                trust_env=False,
            )
            of_loop[egress_address] = session
        return session

    async def _system_resolve(self, host: str, port: int) -> list[str]:
        # Threads of its own: a name server that is silent must not stop other work that needs the default ones.
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        )
        return [str(address[0]) for *_, address in found]


class _VettedResolver:
    """Resolves names and lets through only what the policy allows. One bad address refuses the name."""

    def __init__(self, policy: OutboundPolicy, resolve: Resolve) -> None:
        self._policy = policy
        self._resolve = resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        from aiohttp.abc import ResolveResult

        addresses = list(dict.fromkeys(await self._resolve(host, port)))
        if not addresses:
            raise OSError(f"{host} has no address")
        for address in addresses:
            self._policy.check_address(host.removesuffix("."), port, address)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


def _tls_problem(error: aiohttp.ClientConnectorError) -> str:
    """What is wrong with the certificate, in the words of the TLS library: expired, another name, an unknown issuer."""
    found: BaseException | None = getattr(error, "certificate_error", None) or error.os_error
    message = getattr(found, "verify_message", "") or ""
    return f" ({message})" if message else ""


def _body(
    headers: Mapping[str, str] | None, json: Any, data: bytes | Mapping[str, str] | None
) -> tuple[dict[str, str], bytes | None]:
    sent = dict(headers or {})
    named = {name.lower() for name in sent}
    if json is not None:
        body: bytes | None = orjson.dumps(json)
        kind = "application/json"
    elif isinstance(data, Mapping):
        body, kind = urlencode(data).encode(), "application/x-www-form-urlencoded"
    else:
        body, kind = data, "application/octet-stream"
    if body is not None and "content-type" not in named:
        sent["Content-Type"] = kind
    return sent, body


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Read the body, at most `max_bytes` of it after decompression; a small bomb is stopped before it is large."""
    import aiohttp

    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in {"gzip", "x-gzip"}:
        decoder: Any = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    elif encoding == "deflate":
        decoder = zlib.decompressobj()
    elif encoding in {"", "identity"}:
        decoder = None
    else:
        raise aiohttp.ClientPayloadError("encoding that was not asked for")
    content = bytearray()
    async for chunk in response.content.iter_chunked(_READ_SIZE):
        try:
            # One byte more than allowed tells "too much" without unpacking the rest.
            content += decoder.decompress(chunk, max_bytes + 1 - len(content)) if decoder else chunk
        except zlib.error as error:
            raise aiohttp.ClientPayloadError("broken compression") from error
        if len(content) > max_bytes:
            response.close()
            raise OutboundError(f"The answer is larger than {max_bytes} bytes.")
        if decoder and decoder.unused_data:
            # Each further piece would be kept, and copied with all before it.
            raise aiohttp.ClientPayloadError("more after the end of the compression")
    if decoder and content and not decoder.eof:
        raise aiohttp.ClientPayloadError("compression cut short")
    return bytes(content)
