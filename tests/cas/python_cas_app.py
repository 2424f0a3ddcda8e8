"""An application on PyPI's python-cas: sign-in, validation in the version named, Single Logout, as its clients do it.

Run as `python python_cas_app.py PORT HUB VERSION`. Nothing of the hub is imported.
"""

import json
import sys
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cas

PORT, HUB, VERSION = int(sys.argv[1]), sys.argv[2], sys.argv[3]
HOME = f"http://127.0.0.1:{PORT}"
SESSIONS: dict[str, dict[str, Any]] = {}


class Application(BaseHTTPRequestHandler):
    """`/secret` shows who is in; `/login` is the service; `/logout` begins a logout."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        client = cas.CASClient(version=VERSION, server_url=f"{HUB}/cas/", service_url=f"{HOME}/login?next=%2Fsecret")
        held = SimpleCookie(self.headers.get("cookie", "")).get("app_session")
        known = SESSIONS.get(held.value) if held else None
        if url.path == "/login" and "ticket" in query:
            user, attributes, _ = client.verify_ticket(query["ticket"])
            if user is None:
                self._answer(403, "not believed")
                return
            # Sessions go by their ticket, as a Single Logout names them.
            SESSIONS[query["ticket"]] = {"user": user, "attributes": attributes}
            self._answer(303, "", location="/secret", cookie=f"app_session={query['ticket']}; Path=/; HttpOnly")
        elif url.path == "/logout":
            if held:
                SESSIONS.pop(held.value, None)
            self._answer(303, "", location=client.get_logout_url(f"{HOME}/out"))
        elif url.path == "/out":
            self._answer(200, "out")
        elif known is not None:
            self._answer(200, json.dumps(known, ensure_ascii=False))
        else:
            self._answer(303, "", location=client.get_login_url())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        message = parse_qs(body)["logoutRequest"][0]
        for element in cas.CASClientV3.get_saml_slos(message):
            SESSIONS.pop(element.text, None)
        self._answer(200, "done")

    def _answer(self, status: int, text: str, *, location: str | None = None, cookie: str | None = None) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (("Location", location), ("Set-Cookie", cookie)):
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


ThreadingHTTPServer(("127.0.0.1", PORT), Application).serve_forever()
