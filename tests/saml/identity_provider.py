"""An identity provider by pysaml2, as a process of its own: metadata, sign-on by Redirect, a page that asks, logout.

Nothing of the hub is imported here.
"""

import html
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from saml2 import BINDING_HTTP_REDIRECT, samlp
from saml2.authn_context import PASSWORDPROTECTEDTRANSPORT
from saml2.config import IdPConfig
from saml2.metadata import create_metadata_string
from saml2.saml import NAMEID_FORMAT_PERSISTENT, NameID
from saml2.server import Server
from saml2.sigver import ASSERT_XPATH, pre_encryption_part

PORT, FOLDER, NUMBER, PASSWORD, SUBJECT = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:6]
ADDRESS = f"http://127.0.0.1:{PORT}"
SHA256 = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"
AES_GCM = "http://www.w3.org/2009/xmlenc11#aes256-gcm"
CONFIG = {
    "entityid": f"{ADDRESS}/idp",
    "key_file": str(FOLDER / "key.pem"),
    "cert_file": str(FOLDER / "certificate.pem"),
    "metadata": {"local": [str(FOLDER / "hub.xml")]},
    "service": {
        "idp": {
            "endpoints": {"single_sign_on_service": [(f"{ADDRESS}/sso", BINDING_HTTP_REDIRECT)]},
            "want_authn_requests_signed": True,
            "sign_assertion": True,
            "name_id_format": [NAMEID_FORMAT_PERSISTENT],
            "signing_algorithm": SHA256,
            "digest_algorithm": "http://www.w3.org/2001/04/xmlenc#sha256",
            "policy": {"default": {"lifetime": {"minutes": 5}, "attribute_restrictions": None}},
        }
    },
}


def server() -> Any:
    config = IdPConfig()
    config.load(CONFIG)
    return Server(config=config)


IDP = server()


def asked(query: str) -> Any:
    """The request, its signature over the query verified by pysaml2."""
    fields = dict(parse_qsl(query))
    return IDP.parse_authn_request(
        fields["SAMLRequest"], BINDING_HTTP_REDIRECT, relay_state=fields.get("RelayState"),
        sigalg=fields["SigAlg"], signature=fields["Signature"],
    )  # fmt: skip


def answer(query: str) -> tuple[str, str]:
    """Where the response goes, and the response."""
    request = asked(query).message
    encrypts = (FOLDER / "encrypt").exists()
    response = IDP.create_authn_response(
        {"employeeNumber": NUMBER}, in_response_to=request.id, destination=request.assertion_consumer_service_url,
        sp_entity_id=request.issuer.text, name_id=NameID(format=NAMEID_FORMAT_PERSISTENT, text=SUBJECT),
        authn={"class_ref": PASSWORDPROTECTEDTRANSPORT, "authn_auth": ADDRESS}, sign_assertion=True,
        sign_response=False, sign_alg=SHA256, digest_alg="http://www.w3.org/2001/04/xmlenc#sha256",
    )  # fmt: skip
    text = str(response)
    if encrypts:
        found = re.search(r'use="encryption".*?X509Certificate>([^<]+)<', (FOLDER / "hub.xml").read_text(), re.DOTALL)
        assert found
        lines = "".join(found[1].split())
        certificate = "\n".join(lines[at : at + 64] for at in range(0, len(lines), 64))
        path = FOLDER / "hub-encryption.pem"
        path.write_text(f"-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----\n")

        parsed = samlp.response_from_string(text)
        template = str(pre_encryption_part(msg_enc=AES_GCM))
        text = IDP.sec.crypto.encrypt_assertion(
            parsed, str(path), template, key_type="aes-256", node_xpath=ASSERT_XPATH
        )
    return request.assertion_consumer_service_url, text


def page(body: str) -> bytes:
    return f"<!doctype html><title>idp</title><body>{body}</body>".encode()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/metadata":
            made = create_metadata_string(None, config=IDP.config)
            return self._say(made if isinstance(made, bytes) else made.encode(), "application/samlmetadata+xml")
        if url.path == "/sso":
            asked(url.query)
            form = (
                f'<form method="post" action="/sso"><input type="hidden" name="query" value="{html.escape(url.query)}">'
                '<input name="username"><input type="password" name="password"><button>ok</button></form>'
            )
            return self._say(page(form), "text/html")
        return self._say(page("nothing"), "text/html", 404)

    def do_POST(self) -> None:
        fields = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        if (fields["username"][0], fields["password"][0]) != (NUMBER, PASSWORD):
            return self._say(page("no"), "text/html", 403)
        import base64

        target, text = answer(fields["query"][0])
        value = base64.b64encode(text.encode()).decode()
        form = (
            f'<form method="post" action="{html.escape(target)}">'
            f'<input type="hidden" name="SAMLResponse" value="{value}"><button>go</button></form>'
        )
        return self._say(page(form), "text/html")

    def _say(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", int(PORT)), Handler).serve_forever()
