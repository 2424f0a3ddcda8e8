"""A sample application in a process of its own: an OIDC relying party with one page.

It imports nothing of the hub and knows nothing but the hub's address and its own client credentials; run twice it is
Office and Wiki. Sign-in is Authlib's, back-channel logout is validated here. Sessions live in this process, found by
a cookie with the application's own name, because a browser sends cookies to every port of a host.

    python -m idhub.demo.relying_party --slug wiki --title Wiki --title-zh 知识库 --port 9002 \\
        --issuer http://127.0.0.1:8000 --client-id wiki --client-secret-file wiki.secret
"""

import argparse
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import uvicorn
from authlib.integrations.base_client import OAuthError
from authlib.integrations.starlette_client import OAuth
from joserfc import jws, jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from idhub.demo.logout_token import MAX_AGE_SECONDS, LogoutTokenError, check_logout_claims

_ALGORITHMS = ["ES256", "RS256"]
_SESSION_LIMIT = 10_000


@dataclass(frozen=True)
class Identity:
    """Who signed in, and what the hub handed out for it."""

    sub: str
    sid: str
    claims: Mapping[str, Any]
    token: Mapping[str, Any]
    since: float


@dataclass
class LocalSession:
    """One browser's session with this application. `data` is where Authlib keeps a sign-in in progress."""

    data: dict[str, Any] = field(default_factory=dict)
    identity: Identity | None = None
    ended_by_hub_at: float | None = None


class Sessions:
    """Every session of this application, in memory. What a leaver's tokens were is kept for the observer alone."""

    def __init__(self) -> None:
        self._by_id: dict[str, LocalSession] = {}
        self.seen_token_ids: dict[str, float] = {}
        self.ended: list[dict[str, Any]] = []

    def find(self, session_id: str | None) -> tuple[str, LocalSession]:
        """The session with this id, or a new one under a new id."""
        if session_id is not None and session_id in self._by_id:
            return session_id, self._by_id[session_id]
        if len(self._by_id) >= _SESSION_LIMIT:
            self._by_id.pop(next(iter(self._by_id)))
        new_id = secrets.token_urlsafe(32)
        self._by_id[new_id] = LocalSession()
        return new_id, self._by_id[new_id]

    def renew(self, old_id: str) -> str:
        """Give a session a new id, so that an id known before sign-in is worth nothing after it."""
        new_id = secrets.token_urlsafe(32)
        self._by_id[new_id] = self._by_id.pop(old_id)
        return new_id

    def live(self) -> list[Identity]:
        """Who is signed in, one entry a session."""
        return [session.identity for session in self._by_id.values() if session.identity is not None]

    def end(self, *, sub: str | None, sid: str | None, now: float) -> int:
        """End the sessions of the hub's session `sid`, or all of `sub` when no `sid` is named. Returns how many."""
        count = 0
        for session in self._by_id.values():
            identity = session.identity
            if (
                identity is None
                or (sub is not None and identity.sub != sub)
                or (sid is not None and identity.sid != sid)
            ):
                continue
            session.identity, session.ended_by_hub_at = None, now
            self.ended.append({"sub": identity.sub, "sid": identity.sid, "at": now})
            count += 1
        return count


class SessionMiddleware:
    """Puts the local session into `request.state`, and Authlib's part of it into `request.session`."""

    def __init__(self, app: ASGIApp, *, sessions: Sessions, cookie: str) -> None:
        self._app = app
        self._sessions = sessions
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request with its session."""
        if scope["type"] != "http" or scope["path"] in {"/backchannel-logout", "/state", "/style.css"}:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        cookies: SimpleCookie = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        sent_id = cookies[self._cookie].value if self._cookie in cookies else None
        session_id, session = self._sessions.find(sent_id)
        state = scope.setdefault("state", {})
        state["session_id"], state["local"] = session_id, session
        scope["session"] = session.data

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and state["session_id"] != sent_id:
                value = f"{self._cookie}={state['session_id']}; Path=/; HttpOnly; SameSite=Lax"
                message["headers"] = [*message["headers"], (b"set-cookie", value.encode())]
            await send(message)

        await self._app(scope, receive, send_with_cookie)


@dataclass(frozen=True)
class Options:
    """How this instance presents itself and where the hub is."""

    slug: str
    title: str
    title_zh: str
    port: int
    issuer: str
    client_id: str
    client_secret: str
    observer_key: str | None = None

    @property
    def address(self) -> str:
        """Base URL of this application."""
        return f"http://127.0.0.1:{self.port}"


class RelyingParty:
    """The application: its pages and its two conversations with the hub."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.sessions = Sessions()
        # Authlib: discovery, PKCE S256, state, nonce, ID token with signature, iss, aud, exp, nonce and at_hash.
        self.hub: Any = OAuth().register(
            "hub",
            client_id=options.client_id,
            client_secret=options.client_secret,
            server_metadata_url=f"{options.issuer}/.well-known/openid-configuration",
            client_kwargs={"scope": "openid profile email offline_access", "code_challenge_method": "S256"},
        )

    def application(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route("/", self.home),
            Route("/login", self.login),
            Route("/callback", self.callback),
            Route("/logout", self.logout, methods=["POST"]),
            Route("/signed-out", self.signed_out),
            Route("/backchannel-logout", self.backchannel_logout, methods=["POST"]),
            Route("/state", self.state),
            Route("/style.css", stylesheet),
        ]
        cookie = f"{self.options.slug}_session"
        return SessionMiddleware(Starlette(routes=routes), sessions=self.sessions, cookie=cookie)

    async def home(self, request: Request) -> Response:
        """Say who is signed in; offer to sign in or out."""
        local: LocalSession = request.state.local
        if local.identity is not None:
            return self._page(_signed_in(local.identity))
        return self._page(_signed_out(local.ended_by_hub_at))

    async def login(self, request: Request) -> Response:
        """Send the browser to the hub, with state, nonce and PKCE S256."""
        answer: Response = await self.hub.authorize_redirect(request, f"{self.options.address}/callback")
        return answer

    async def callback(self, request: Request) -> Response:
        """Take the hub's answer: check its issuer, redeem the code, check the ID token, begin a local session."""
        # RFC 9207 section 2.4: an answer from another issuer is refused before anything is redeemed.
        if request.query_params.get("iss") != self.options.issuer:
            return self._refusal("invalid_request", "The answer does not name the hub as its issuer.")
        try:
            token = await self.hub.authorize_access_token(request)
        except (OAuthError, JoseError) as error:
            return self._refusal(getattr(error, "error", "invalid_request"), str(getattr(error, "description", error)))
        claims = dict(token.pop("userinfo", None) or {})  # Authlib's name for the ID token's checked claims
        if "sub" not in claims:
            return self._refusal("invalid_token", "The hub sent no ID token.")
        try:
            userinfo = dict(await self.hub.userinfo(token=token))
        except httpx2.HTTPError:
            return self._refusal("temporarily_unavailable", "The hub did not say who you are.")
        # OIDC Core 5.3.2: the subject must be the ID token's, or the answer is not about this person.
        if userinfo.get("sub") != claims["sub"]:
            return self._refusal("invalid_token", "The hub spoke of somebody else.")
        claims |= userinfo
        request.state.session_id = self.sessions.renew(request.state.session_id)
        local: LocalSession = request.state.local
        local.data.clear()
        local.ended_by_hub_at = None
        local.identity = Identity(claims["sub"], str(claims.get("sid", "")), claims, token, time.time())
        return RedirectResponse("/", status_code=303)

    async def logout(self, request: Request) -> Response:
        """End the local session, then ask the hub to end its own (RP-Initiated Logout 1.0)."""
        # SameSite=Lax keeps the cookie off foreign POSTs; the origin is checked on top.
        origin = request.headers.get("origin")
        if origin not in {None, self.options.address}:
            return self._refusal("invalid_request", "Signing out starts on this page.")
        local: LocalSession = request.state.local
        identity, local.identity = local.identity, None
        if identity is None:
            return RedirectResponse("/", status_code=303)
        target = await self.hub.create_logout_url(
            post_logout_redirect_uri=f"{self.options.address}/signed-out",
            id_token_hint=identity.token.get("id_token"),
            client_id=self.options.client_id,
        )
        return RedirectResponse(target["url"], status_code=303)

    async def signed_out(self, request: Request) -> Response:
        """Where the hub sends the browser after RP-initiated logout."""
        return self._page(_signed_out(None, note=("已退出登录。", "You are signed out.")))

    async def backchannel_logout(self, request: Request) -> Response:
        """Take a logout token and end the sessions it names (Back-Channel Logout 1.0 section 2.5)."""
        headers = {"cache-control": "no-store"}
        form = await request.form()
        unverified_token = form.get("logout_token")
        try:
            if not isinstance(unverified_token, str):
                raise LogoutTokenError("logout_token is missing")
            claims = await self._verified_logout_claims(unverified_token)
        except LogoutTokenError as error:
            body = {"error": "invalid_request", "error_description": str(error)}
            return JSONResponse(body, status_code=400, headers=headers)
        self.sessions.end(sub=claims.get("sub"), sid=claims.get("sid"), now=time.time())
        return Response(status_code=200, headers=headers)

    async def _verified_logout_claims(self, unverified_token: str) -> dict[str, Any]:
        try:
            token = await self._verify_signature(unverified_token)
        except (JoseError, ValueError) as error:
            raise LogoutTokenError("the signature is not the hub's") from error
        claims = token.claims
        check_logout_claims(
            token.header, claims, issuer=self.options.issuer, client_id=self.options.client_id, now=time.time()
        )
        # Section 2.6 step 8: the same token is not accepted twice.
        seen = self.sessions.seen_token_ids
        if claims["jti"] in seen:
            raise LogoutTokenError("jti was seen before")
        now = time.time()
        for old in [jti for jti, at in seen.items() if at < now - 2 * MAX_AGE_SECONDS]:
            del seen[old]
        seen[claims["jti"]] = now
        return claims

    async def _verify_signature(self, unverified_token: str) -> jwt.Token:
        registry = jws.JWSRegistry(algorithms=_ALGORITHMS, strict_check_header=False)
        for force in (False, True):
            keys = KeySet.import_key_set(await self.hub.fetch_jwk_set(force=force))
            try:
                return jwt.decode(unverified_token, keys, registry=registry)
            except InvalidKeyIdError:
                # An unknown key may be a new one: fetch once more, then give up.
                if force:
                    raise
        raise AssertionError("unreachable")

    async def state(self, request: Request) -> Response:
        """What this application holds, for whoever started it and knows the observer key."""
        expected = f"Bearer {self.options.observer_key}"
        given = request.headers.get("authorization", "")
        if self.options.observer_key is None or not secrets.compare_digest(given.encode(), expected.encode()):
            return JSONResponse({"error": "invalid_token"}, status_code=401)
        live = self.sessions.live()
        return JSONResponse(
            {
                "sessions": [
                    {"sub": i.sub, "sid": i.sid, "since": i.since, "claims": dict(i.claims), "token": dict(i.token)}
                    for i in live
                ],
                "ended": self.sessions.ended,
            },
            headers={"cache-control": "no-store"},
        )

    def _refusal(self, code: str, description: str) -> Response:
        body = f"""<h1>没有登录成功 <small lang="en">Not signed in</small></h1>
<p><code>{escape(code)}</code></p><p>{escape(description)}</p>
<p><a class="button" href="/login">再试一次 · Try again</a></p>"""
        return self._page(body, status_code=403 if code == "access_denied" else 400)

    def _page(self, body: str, *, status_code: int = 200) -> Response:
        title = f"{escape(self.options.title_zh)} · {escape(self.options.title)}"
        html = f"""<!doctype html><html lang="zh-CN"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/style.css"></head>
<body><header><strong>{title}</strong></header><main>{body}</main></body></html>"""
        # Sign-out leads through the hub: its form may submit to both origins.
        hub = urlsplit(self.options.issuer)
        policy = f"default-src 'none'; style-src 'self'; form-action 'self' {hub.scheme}://{hub.netloc}"
        return HTMLResponse(
            html,
            status_code=status_code,
            headers={
                "content-security-policy": f"{policy}; frame-ancestors 'none'; base-uri 'none'",
                "cache-control": "no-store",
                "referrer-policy": "no-referrer",
                "x-content-type-options": "nosniff",
            },
        )


def _signed_in(identity: Identity) -> str:
    claims = identity.claims
    name = escape(str(claims.get("name") or claims.get("preferred_username") or identity.sub))
    shown = (
        ("工号", "Username", claims.get("preferred_username")),
        ("邮箱", "Email", claims.get("email")),
        ("标识", "Subject", identity.sub),
    )
    rows = "".join(
        f'<dt>{zh} <small lang="en">{en}</small></dt><dd>{escape(str(value))}</dd>' for zh, en, value in shown if value
    )
    return f"""<h1>您好，<span id="name">{name}</span></h1>
<p>您已通过企业身份登录。<small lang="en">You are signed in with your company identity.</small></p>
<dl>{rows}</dl>
<form method="post" action="/logout"><button>退出登录 · Sign out</button></form>"""


def _signed_out(ended_by_hub_at: float | None, *, note: tuple[str, str] | None = None) -> str:
    if ended_by_hub_at is not None:
        note = ("您的会话已被身份中心终止。", "Your session was ended by the identity hub.")
    said = f'<p class="note">{note[0]} <small lang="en">{note[1]}</small></p>' if note else ""
    return f"""<h1>尚未登录 <small lang="en">Not signed in</small></h1>{said}
<p><a class="button" href="/login">使用企业身份登录 · Sign in</a></p>"""


async def stylesheet(request: Request) -> Response:
    """The page's few rules."""
    return Response(_STYLE, media_type="text/css", headers={"cache-control": "max-age=3600"})


_STYLE = """
:root { color-scheme: light dark; font: 16px/1.6 system-ui, "Noto Sans CJK SC", sans-serif; }
body { margin: 0; }
header { padding: 1rem 2rem; border-bottom: 1px solid #8884; }
main { max-width: 40rem; margin: 3rem auto; padding: 0 2rem; }
small { opacity: .75; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.5rem; }
dd { margin: 0; overflow-wrap: anywhere; }
button, .button { font: inherit; padding: .5rem 1rem; border: 1px solid #8888; border-radius: .5rem; }
.button { text-decoration: none; }
.note { border-left: 4px solid #c80; padding-left: 1rem; }
"""


def parse_options(arguments: list[str] | None = None) -> Options:
    """Read the command line; the observer key comes from the environment, where `ps` does not show it."""
    parser = argparse.ArgumentParser(prog="python -m idhub.demo.relying_party", description=__doc__)
    parser.add_argument("--slug", required=True, help="short name; names the cookie")
    parser.add_argument("--title", required=True)
    parser.add_argument("--title-zh", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--issuer", required=True, help="address of the hub")
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--client-secret-file", type=Path, required=True)
    given = parser.parse_args(arguments)
    return Options(
        slug=given.slug,
        title=given.title,
        title_zh=given.title_zh,
        port=given.port,
        issuer=given.issuer.rstrip("/"),
        client_id=given.client_id,
        client_secret=given.client_secret_file.read_text().strip(),
        observer_key=os.environ.get("RELYING_PARTY_OBSERVER_KEY"),
    )


def main() -> None:
    """Serve until told to stop."""
    options = parse_options()
    uvicorn.run(RelyingParty(options).application(), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
