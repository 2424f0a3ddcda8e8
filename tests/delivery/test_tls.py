"""TLS, proxies and egress addresses of the guarded client, on real sockets."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from idhub.delivery.http import OutboundError, OutboundHttp, OutboundResponse, OutboundUntrusted
from idhub.settings import Settings
from tests.delivery.servers import raw_server

HOST = "app.localhost"
SECRET = "Bearer secret-4711"
_DAY = timedelta(days=1)


class Authority:
    """A certificate authority of a test."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._signed(self._name, self._key.public_key(), until=_DAY, authority=True, host=None)

    def _signed(self, subject: x509.Name, key: Any, *, until: timedelta, authority: bool, host: str | None) -> Any:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * _DAY)
            .not_valid_after(now + until)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if host is not None:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return made.sign(self._key, hashes.SHA256())

    def server(self, folder: Path, *, host: str = HOST, until: timedelta = _DAY) -> ssl.SSLContext:
        """What a server of that name presents."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._signed(name, key.public_key(), until=until, authority=False, host=host)
        path = folder / f"{x509.random_serial_number()}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def trust(self) -> ssl.SSLContext:
        """Trust in this authority alone."""
        return ssl.create_default_context(cadata=self.certificate.public_bytes(serialization.Encoding.PEM).decode())


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("Test authority")


@dataclass
class Seen:
    """What came to the application, and what to the proxy."""

    peers: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    proxied: list[bytes] = field(default_factory=list)
    proxy_peers: list[str] = field(default_factory=list)


@asynccontextmanager
async def application(tls: ssl.SSLContext, seen: Seen) -> AsyncIterator[int]:
    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        seen.peers.append(request.transport.get_extra_info("peername")[0])
        seen.authorizations.append(request.headers.get("Authorization"))
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connect_proxy(seen: Seen, *, to: int, answer: bytes = b"200 OK") -> AsyncIterator[int]:
    """A proxy that knows CONNECT and leads to one port, whatever it was asked for."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.proxy_peers.append(writer.get_extra_info("peername")[0])
        seen.proxied.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 " + answer + b"\r\n\r\n")
        await writer.drain()
        if answer.startswith(b"200"):
            inner, outer = await asyncio.open_connection("127.0.0.1", to, local_addr=("127.0.0.3", 0))
            try:
                await asyncio.gather(pump(reader, outer), pump(inner, writer))
            finally:
                outer.close()

    async with raw_server(serve) as port:
        yield port


async def loopback(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


Ask = Callable[..., Awaitable[OutboundResponse]]


def ask(
    tls: ssl.SSLContext,
    trust: ssl.SSLContext,
    use: Callable[[Ask, Seen], Awaitable[Any]],
    *,
    proxy: bytes | None = None,
) -> Seen:
    """Let `use` ask an application that presents `tls`, through a proxy that answers `proxy`."""
    seen = Seen()

    async def run() -> None:
        async with application(tls, seen) as port, connect_proxy(seen, to=port, answer=proxy or b"200 OK") as way:
            settings = Settings(outbound_allow=f"{HOST}:{port},127.0.0.1:{way}")
            async with OutboundHttp(settings, resolve=loopback, tls=trust) as http:

                async def asked(**more: Any) -> OutboundResponse:
                    if proxy is not None:
                        more["proxy"] = f"http://127.0.0.1:{way}"
                    return await http.request(
                        "GET",
                        f"https://{HOST}:{port}/v2/Users",
                        headers={"Authorization": SECRET},
                        timeout=timedelta(seconds=30),
                        **more,
                    )

                await use(asked, seen)

    asyncio.run(run())
    return seen


async def _is_answered(asked: Ask, _seen: Seen) -> None:
    assert (await asked()).body == b"hello"


@pytest.mark.parametrize("proxy", [None, b"200 OK"])
def test_a_certificate_of_a_trusted_authority_for_this_name_is_accepted(
    authority: Authority, tmp_path: Path, proxy: bytes | None
) -> None:
    seen = ask(authority.server(tmp_path), authority.trust(), _is_answered, proxy=proxy)

    assert seen.authorizations == [SECRET]


@pytest.mark.parametrize("proxy", [None, b"200 OK"], ids=["direct", "through a proxy"])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("expired", "certificate has expired"),
        ("another name", f"Hostname mismatch, certificate is not valid for '{HOST}'."),
        ("unknown authority", "unable to get local issuer certificate"),
    ],
)
def test_a_certificate_that_is_not_to_be_trusted_is_refused_with_its_reason_and_nothing_is_sent(
    authority: Authority, tmp_path: Path, fault: str, reason: str, proxy: bytes | None
) -> None:
    tls = authority.server(
        tmp_path,
        host="other.localhost" if fault == "another name" else HOST,
        until=-_DAY if fault == "expired" else _DAY,
    )
    trust = Authority("Another authority").trust() if fault == "unknown authority" else authority.trust()
    said: list[str] = []

    async def is_refused(asked: Ask, _seen: Seen) -> None:
        with pytest.raises(OutboundUntrusted) as error:
            await asked()
        said.append(error.value.description)

    seen = ask(tls, trust, is_refused, proxy=proxy)

    assert seen.authorizations == []
    assert said[0].startswith(f"The certificate or TLS of {HOST}:")
    assert said[0].endswith(f" is not accepted ({reason}).")


def test_a_proxy_sees_the_name_and_port_and_no_credential(authority: Authority, tmp_path: Path) -> None:
    seen = ask(authority.server(tmp_path), authority.trust(), _is_answered, proxy=b"200 OK")

    assert seen.proxied[0].startswith(f"CONNECT {HOST}:".encode())
    assert SECRET.encode() not in b"".join(seen.proxied)
    assert seen.peers == ["127.0.0.3"]


def test_a_proxy_that_refuses_is_named_with_its_answer(authority: Authority, tmp_path: Path) -> None:
    said: list[str] = []

    async def is_refused(asked: Ask, _seen: Seen) -> None:
        with pytest.raises(OutboundError) as error:
            await asked()
        said.append(error.value.description)

    seen = ask(authority.server(tmp_path), authority.trust(), is_refused, proxy=b"407 Proxy Authentication Required")

    assert said == ["The proxy on the way to the application answered 407."]
    assert seen.authorizations == []


@pytest.mark.parametrize("proxy", [None, b"200 OK"], ids=["direct", "through a proxy"])
def test_connections_come_from_the_address_that_the_connector_names(
    authority: Authority, tmp_path: Path, proxy: bytes | None
) -> None:
    """Each connector has its own; another one beside it is not changed by that."""

    async def from_both(asked: Ask, _seen: Seen) -> None:
        assert (await asked(egress_address="127.0.0.2")).is_success
        assert (await asked()).is_success
        assert (await asked(egress_address="127.0.0.2")).is_success

    seen = ask(authority.server(tmp_path), authority.trust(), from_both, proxy=proxy)

    came_from = seen.peers if proxy is None else seen.proxy_peers
    # A connection that is kept open is used again.
    assert list(dict.fromkeys(came_from)) == ["127.0.0.2", "127.0.0.1"]


def test_an_egress_address_that_is_not_this_machines_is_an_error(authority: Authority, tmp_path: Path) -> None:
    async def is_refused(asked: Ask, _seen: Seen) -> None:
        with pytest.raises(OutboundError) as error:
            await asked(egress_address="192.0.2.7")
        assert error.value.description.startswith(f"No connection to {HOST}:")

    ask(authority.server(tmp_path), authority.trust(), is_refused)
