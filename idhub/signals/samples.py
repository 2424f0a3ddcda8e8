"""Sample relying parties and receivers of event tokens, broken on purpose in one way each, named after its check."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt

from idhub.signals.backchannel import EVENT as LOGOUT_EVENT

CLIENT_ID = "sample"
COOKIE = "s=1"
TOKEN = "sample-token"  # noqa: S105 - of a sample that holds nothing
AUDIENCE = "https://receiver.example"
_MOST = 1_048_576


@dataclass
class Receiver:
    """Both kinds in one: takes logout tokens and pushed events of one issuer. `fault` names the rule it breaks."""

    jwks: Mapping[str, Any]
    issuer: str
    clock: Callable[[], datetime]
    fault: str = ""
    token: str = TOKEN
    seen: set[str] = field(default_factory=set)
    lives: bool = True

    def claims(self, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
        header = jwt.get_unverified_header(token)
        if header.get("alg") == "none":
            if self.fault != "alg_none":
                raise jwt.InvalidSignatureError("alg none")
            return header, dict(jwt.decode(token, options={"verify_signature": False}))
        keys = {key["kid"]: jwt.PyJWK(key) for key in self.jwks["keys"]}
        if header.get("kid") not in keys:
            raise jwt.InvalidSignatureError("unknown key")
        options: Any = {"verify_signature": self.fault != "wrong_signature", "verify_aud": False, "verify_exp": False}
        options |= {"verify_iat": False, "verify_nbf": False}
        key = keys[header["kid"]]
        return header, dict(jwt.decode(token, key, algorithms=["ES256", "RS256", "EdDSA"], options=options))

    def logout(self, form: str) -> tuple[int, dict[str, str], bytes]:
        """Back-Channel Logout 1.0 section 2.6."""
        token = parse_qs(form).get("logout_token", [""])[0]
        try:
            _, claims = self.claims(token)
        except jwt.PyJWTError:
            return self._refuse()
        rules = {
            "wrong_issuer": claims.get("iss") == self.issuer,
            "wrong_audience": claims.get("aud") == CLIENT_ID,
            "nonce_present": "nonce" not in claims,
            "events_missing": LOGOUT_EVENT in claims.get("events", {}),
            "subject_missing": bool(claims.get("sub") or claims.get("sid")),
            "expired": claims.get("exp", 0) > self.clock().timestamp(),
            "replayed_jti": claims.get("jti") not in self.seen,
        }
        if not all(held or self.fault == name for name, held in rules.items()):
            return self._refuse()
        self.seen.add(str(claims.get("jti")))
        if all(rules.values()) and self.fault != "session_ended":
            self.lives = False
        headers = {} if self.fault == "not_cached" else {"Cache-Control": "no-store"}
        return (500 if self.fault == "valid_accepted" else 200), headers, b""

    def _refuse(self) -> tuple[int, dict[str, str], bytes]:
        if self.fault == "session_survives":
            self.lives = False
        return 400, {"Cache-Control": "no-store"}, b""

    def push(self, body: str, headers: Any) -> tuple[int, dict[str, str], bytes]:
        """RFC 8935 sections 2.1 to 2.4."""
        if headers.get("Authorization") != f"Bearer {self.token}" and self.fault != "no_authorization":
            return 401, {}, b""
        if headers.get("Content-Type") != "application/secevent+jwt" and self.fault != "wrong_media_type":
            return 415, {}, b""
        try:
            _, claims = self.claims(body)
        except jwt.InvalidSignatureError:
            return self._error("invalid_key")
        except jwt.PyJWTError:
            return (202, {}, b"") if self.fault == "not_a_set" else self._error("invalid_request")
        if claims.get("iss") != self.issuer and self.fault != "wrong_issuer":
            return self._error("wrong" if self.fault == "error_codes" else "invalid_issuer")
        if claims.get("aud") != AUDIENCE and self.fault != "wrong_audience":
            return self._error("invalid_audience")
        if not claims.get("events") and self.fault != "events_missing":
            return self._error("invalid_request")
        if claims["jti"] in self.seen and self.fault == "duplicate_accepted":
            return self._error("invalid_request")
        self.seen.add(claims["jti"])
        return (200 if self.fault == "valid_accepted" else 202), {}, b""

    def _error(self, code: str) -> tuple[int, dict[str, str], bytes]:
        if self.fault == "error_form":
            return 400, {"Content-Type": "application/json"}, json.dumps({"err": code}).encode()
        document = {"err": code, "description": "no"}
        return 400, {"Content-Type": "application/json"}, json.dumps(document).encode()


def serve(receivers: Mapping[str, Receiver], port: int) -> ThreadingHTTPServer:
    """Put receivers behind HTTP on the loopback, each under its name; the caller runs and closes the server.

    `/NAME/logout` takes logout tokens, `/NAME/events` pushed events; `/NAME/page` is there while the session lives.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver, kind = self._asked()
            length = self.headers.get("Content-Length", "0")
            body = self.rfile.read(min(int(length), _MOST)) if length.isascii() and length.isdigit() else b""
            text = body.decode("utf-8", "replace")
            if receiver is None or kind not in {"logout", "events"}:
                self._say(404, {}, b"")
            else:
                self._say(*(receiver.logout(text) if kind == "logout" else receiver.push(text, self.headers)))

        def do_GET(self) -> None:
            receiver, kind = self._asked()
            if receiver is None or kind != "page":
                self._say(404, {}, b"")
            else:
                self._say(200 if receiver.lives and self.headers.get("Cookie") == COOKIE else 401, {}, b"")

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

        def _asked(self) -> tuple[Receiver | None, str]:
            name, _, kind = self.path.lstrip("/").partition("/")
            return receivers.get(name), kind

        def _say(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)
