"""Sample relying parties and receivers of event tokens, broken on purpose in one way each, named after its check."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt

EVENT = "http://schemas.openid.net/event/backchannel-logout"
ISSUER = "https://hub.example"


@dataclass
class Receiver:
    """What both kinds have in common: one rule of a good one left out, or a wrong answer given."""

    jwks: Mapping[str, Any]
    now: float
    fault: str = ""
    token: str = "receiver-token"
    seen: set[str] = field(default_factory=set)
    lives: bool = True

    def claims(self, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
        header = jwt.get_unverified_header(token)
        if header.get("alg") == "none":
            if self.fault != "alg_none":
                raise jwt.InvalidSignatureError("alg none")
            return header, dict(jwt.decode(token, options={"verify_signature": False}))
        keys = {key["kid"]: jwt.PyJWK(key) for key in self.jwks["keys"]}
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
            "wrong_issuer": claims.get("iss") == ISSUER,
            "wrong_audience": claims.get("aud") == "office",
            "nonce_present": "nonce" not in claims,
            "events_missing": EVENT in claims.get("events", {}),
            "subject_missing": bool(claims.get("sub") or claims.get("sid")),
            "expired": claims.get("exp", 0) > self.now,
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
            return self._error("wrong" if self.fault == "not_a_set" else "invalid_request")
        if claims.get("iss") != ISSUER and self.fault != "wrong_issuer":
            return self._error("invalid_issuer")
        if claims.get("aud") != "https://receiver.example" and self.fault != "wrong_audience":
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


@contextmanager
def serving(receivers: Mapping[str, Receiver]) -> Iterator[str]:
    """Every receiver under its name; yields the address they share."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            _, name, kind = self.path.split("/")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            receiver = receivers[name]
            self._say(*(receiver.logout(body) if kind == "logout" else receiver.push(body, self.headers)))

        def do_GET(self) -> None:
            receiver = receivers[self.path.split("/")[1]]
            self._say(200 if receiver.lives and self.headers.get("Cookie") == "s=1" else 401, {}, b"")

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

        def _say(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    while not thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
