"""The demo's browser: what submitting an untouched form sends, and that nothing hidden is read as text."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from idhub.demo.browser import Browser

_PAGE = """<!doctype html><title>Sign in</title><script>secret()</script><p>Hello&nbsp;there
<form method="post" action="/echo"><input type="hidden" name="csrf" value="t&amp;1"><input name="username">
<input type="password" name="password"><input type="checkbox" name="a" checked><input type="checkbox" name="b">
<select name="s"><option value="1">x</option><option value="2" selected>y</option></select>
<textarea name="note">as it was</textarea><input name="gone" disabled value="1">
<button name="go" value="yes">Go</button><button name="go" value="no">No</button></form>"""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(_PAGE)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self._answer(f"{body} cookie={self.headers.get('cookie')} origin={self.headers.get('origin')}")

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("set-cookie", f"seen={self.headers['host'].replace(':', '-')}; Path=/")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_form_is_sent_as_it_stands_with_the_button_pressed(address: str) -> None:
    with Browser() as browser:
        page = browser.get(address)
        form = page.login_form
        assert form is not None
        answer = browser.submit(page, form, {"username": "QY1", "password": "p w"}, button="no")

    cookie = f"seen={address.removeprefix('http://').replace(':', '-')}"
    assert answer.html == (
        f"csrf=t%261&username=QY1&password=p+w&a=on&s=2&note=as+it+was&go=no cookie={cookie} origin={address}"
    )


def test_text_is_what_a_person_reads(address: str) -> None:
    with Browser() as browser:
        page = browser.get(address)

    assert "Hello there" in page.text
    assert "secret()" not in page.text
