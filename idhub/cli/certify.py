"""`idhub certify`: how well the other side speaks SCIM, ends sessions, takes events."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import typer

from idhub.cli.console import JsonOption, app, open_here, say, settings, show, table
from idhub.errors import Invalid
from scim.certify import Certificate, Result
from scim.errors import RemoteError

T = TypeVar("T")
PASSED, BROKEN, DEVIATES = 0, 1, 2
_SIGNS: Mapping[str, str] = {"pass": "ok", "fail": "FAIL", "absent": "-", "skipped": "skipped"}
_MAX_SECRET = 4_096

certify = typer.Typer(
    help="Grade the other side: a SCIM service provider, a relying party's logout, an SSF receiver.",
    no_args_is_help=True,
)
app.add_typer(certify, name="certify")


@certify.command("scim")
def certify_scim(
    url: Annotated[str, typer.Argument(help="Base address, up to and without /Users.")],
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token.")] = None,
    json: JsonOption = False,
) -> None:
    """Grade a SCIM service provider. Makes users and groups of its own there, and removes them.

    Exit status 0: as written; 1: something a leave rests on does not work; 2: usable, with deviations.
    """
    from idhub.provisioning.outbound.channel import ScimHttp
    from scim.certify import certify as run

    token = _secret(token_file)
    try:
        certificate = _with_http(
            url,
            lambda http: run(ScimHttp(http), url, token, progress=say if sys.stderr.isatty() else None),
        )
    except RemoteError as error:
        raise Invalid(error.description, field="url", rule="certify.refused") from error
    show(_certificate(certificate), as_json=json, lines=_certificate_lines(certificate))
    sys.exit({"A": PASSED, "B": DEVIATES, "C": BROKEN}[certificate.grade])


@certify.command("oidc-logout")
def certify_oidc_logout(
    url: Annotated[str, typer.Argument(help="The relying party's back-channel logout address.")],
    client_id: Annotated[str, typer.Option(help="Its client_id: `aud` of the tokens.")],
    person: Annotated[str | None, typer.Option(help="Whose session there may end; it must be signed in there.")] = None,
    sub: Annotated[str | None, typer.Option(help="Subject of that session, in place of a person.")] = None,
    sid: Annotated[str | None, typer.Option(help="Session id; with --sub.")] = None,
    alg: Annotated[
        str | None, typer.Option(help="How its tokens are signed: ES256 or RS256. Default: as the client has it.")
    ] = None,
    probe_url: Annotated[str | None, typer.Option(help="A page there that only a live session gets (2xx).")] = None,
    probe_cookie_file: Annotated[Path | None, typer.Option(help="File with the Cookie header of that session.")] = None,
    json: JsonOption = False,
) -> None:
    """Grade a relying party's back-channel logout with tokens of this hub. Ends the session that is named.

    Exit status 0: as written; 1: something a leave rests on does not work; 2: usable, with deviations.
    """
    from idhub.directory.people import find_person
    from idhub.signals.certify import Session, alg_of, session_of
    from idhub.signals.certify import certify_logout as run

    _known(alg)
    if (person is None) == (sub is None) or (person and sid):
        raise Invalid("Say whose session ends: --person, or --sub and --sid.", field="person", rule="certify.person")
    cookie = _secret(probe_cookie_file)
    with open_here() as hub:
        with hub.database.read() as reading:
            chosen = alg or alg_of(reading, client_id)
            if person is not None:
                session = session_of(reading, client_id, find_person(reading, person))
            else:
                session = Session(client_id=client_id, sub=sub or "", sid=sid)
        session = replace(session, probe=(probe_url, cookie) if probe_url and cookie else None)
        results = _with_http(
            url,
            lambda http: run(
                http, url, session, keyring=hub.keyring, issuer=hub.settings.issuer, alg=chosen, now=hub.clock()
            ),
            *([probe_url] if probe_url else []),
        )
    _finish(results, json=json)


@certify.command("ssf")
def certify_ssf(
    url: Annotated[str, typer.Argument(help="Where the receiver takes pushed event tokens.")],
    audience: Annotated[str, typer.Option(help="`aud` that the receiver expects.")],
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token of the receiver.")] = None,
    alg: Annotated[
        str | None, typer.Option(help="How the tokens are signed: ES256 or RS256. Default: as streams are, ES256.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Grade a receiver of security event tokens (RFC 8935) with verification events of this hub.

    Exit status 0: as written; 1: something a leave rests on does not work; 2: usable, with deviations.
    """
    from idhub.signals.certify import certify_ssf as run

    _known(alg)
    token = _secret(token_file)
    with open_here() as hub:
        results = _with_http(
            url,
            lambda http: run(
                *(http, url, audience),
                token=token,
                keyring=hub.keyring,
                issuer=hub.settings.issuer,
                now=hub.clock(),
                alg=alg,
            ),
        )
    _finish(results, json=json)


def _known(alg: str | None) -> None:
    if alg not in {None, "ES256", "RS256"}:
        raise Invalid("alg must be ES256 or RS256.", field="alg", rule="certify.alg")


class Sample(StrEnum):
    """What a sample plays."""

    SCIM = "scim"
    OIDC_LOGOUT = "oidc-logout"
    SSF = "ssf"


@certify.command("sample")
def serve_sample(
    kind: Annotated[Sample, typer.Argument(help="What it plays.")],
    fault: Annotated[str | None, typer.Argument(help="Name of the check that it fails; default: a good one.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port on the loopback; 0: a free one.")] = 8182,
    faults: Annotated[bool, typer.Option("--faults", help="Print the names of all faults instead.")] = False,
) -> None:
    """Serve a sample to try grading on, broken in one way, until it is interrupted.

    It listens on the loopback alone and forgets everything when it ends. Those that take tokens take this hub's.
    """
    from idhub.signals import certify as signals
    from scim.samples import providers

    checks = {Sample.OIDC_LOGOUT: signals.LOGOUT_CHECKS, Sample.SSF: signals.SSF_CHECKS}
    known = sorted(providers.FAULTS if kind == Sample.SCIM else (check.name for check in checks[kind]))
    if faults:
        show({}, as_json=False, lines=known)
        return
    if fault is not None and fault not in known:
        raise Invalid(
            f"There is no such fault; `idhub certify sample {kind} --faults` prints them.",
            field="fault",
            rule="certify.fault",
        )
    try:
        server = _scim_sample(fault, port) if kind == Sample.SCIM else _receiver_sample(kind, fault, port)
    except OSError as error:
        raise Invalid(f"Port {port} cannot be had: {error.strerror}.", field="port", rule="certify.port") from error
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


def _scim_sample(fault: str | None, port: int) -> ThreadingHTTPServer:
    from scim.samples import providers

    server = providers.serve(providers.Sample(fault or ""), port)
    say(f"try: idhub certify scim {_address(server)}/v2 --token-file FILE   (FILE holds: {providers.TOKEN})")
    return server


def _receiver_sample(kind: Sample, fault: str | None, port: int) -> ThreadingHTTPServer:
    from idhub.signals import samples

    with open_here() as hub:
        receiver = samples.Receiver(hub.keyring.jwks("event"), hub.settings.issuer, hub.clock, fault or "")
    server = samples.serve({"sample": receiver}, port)
    address = f"{_address(server)}/sample"
    if kind == Sample.SSF:
        say(
            f"try: idhub certify ssf {address}/events --audience {samples.AUDIENCE} --token-file FILE   "
            f"(FILE holds: {samples.TOKEN})"
        )
    else:
        say(
            f"try: idhub certify oidc-logout {address}/logout --client-id {samples.CLIENT_ID} --sub anybody "
            f"--probe-url {address}/page --probe-cookie-file FILE   (FILE holds: {samples.COOKIE})"
        )
    return server


def _address(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def _with_http(url: str, work: Callable[[Any], Awaitable[T]], *more: str) -> T:
    """Run with the guarded client, which lets through what the operator named on the command line.

    Raises:
        Invalid: an address is none, or nobody answers there.
    """
    from idhub.delivery.http import OutboundError, OutboundHttp

    chosen = settings()
    named = [_place_of(each) for each in (url, *more)]
    allowed = ",".join(filter(None, (chosen.outbound_allow, *named)))

    async def run() -> T:
        async with OutboundHttp(chosen.model_copy(update={"outbound_allow": allowed})) as http:
            return await work(http)

    try:
        return asyncio.run(run())
    except OutboundError as error:
        raise Invalid(error.description, field="url", rule="certify.unanswered") from error


def _place_of(url: str) -> str:
    """Host and port of an address.

    Raises:
        Invalid: it is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        parts, port = urlsplit(""), None
    if not parts.hostname or port is None:
        raise Invalid("That is no http or https address.", field="url", rule="certify.url")
    return f"[{parts.hostname}]:{port}" if ":" in parts.hostname else f"{parts.hostname}:{port}"


def _secret(path: Path | None) -> str | None:
    """The first line of a file.

    Raises:
        Invalid: it is empty or no text.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_SECRET).decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not text.", field="file", rule="certify.secret") from error
    if not text or "\n" in text:
        raise Invalid(f"{path} must hold one line.", field="file", rule="certify.secret")
    return text


def _row(result: Result) -> dict[str, str]:
    check = result.check
    return {
        "check": check.name,
        "section": check.section,
        "title": check.title,
        "level": check.level,
        "verdict": result.verdict,
        "detail": result.detail,
    }


def _certificate(certificate: Certificate) -> dict[str, Any]:
    return {
        "grade": certificate.grade,
        "dialect": certificate.dialect,
        "deviations": list(certificate.deviations),
        "checks": [_row(result) for result in certificate.results],
    }


def _lines(results: Sequence[Result]) -> list[str]:
    rows = [[_SIGNS[r.verdict], r.check.name, r.check.level, r.check.section, r.check.title, r.detail] for r in results]
    return table(rows, ("", "check", "level", "section", "the other side ...", "what was seen"))


def _certificate_lines(certificate: Certificate) -> list[str]:
    fits = certificate.dialect or "none"
    return [
        f"grade {certificate.grade}: {len(certificate.broken)} of {len(certificate.results)} checks failed",
        f"dialect that fits: {fits}"
        + (f" (but {'; '.join(certificate.deviations)})" if certificate.deviations else ""),
        "",
        *_lines(certificate.results),
    ]


def _finish(results: Sequence[Result], *, json: bool) -> None:
    broken = [result for result in results if result.verdict == "fail"]
    levels = {result.check.level for result in broken}
    grade = "C" if "must" in levels else "B" if levels else "A"
    data = {"grade": grade, "checks": [_row(result) for result in results]}
    lines = [f"grade {grade}: {len(broken)} of {len(results)} checks failed", "", *_lines(results)]
    show(data, as_json=json, lines=lines)
    sys.exit({"A": PASSED, "B": DEVIATES, "C": BROKEN}[grade])
