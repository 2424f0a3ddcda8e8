"""A service provider by python3-saml or pysaml2, as a process of its own: JSON orders and answers, a line each.

Orders: `login` (an address to send the browser to), `consume` (a response), `logout` (an address), `logged_out` (the
answer to it). Nothing of the hub is imported here.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit


def onelogin(order: dict[str, Any]) -> dict[str, Any]:
    from onelogin.saml2.auth import OneLogin_Saml2_Auth
    from onelogin.saml2.idp_metadata_parser import OneLogin_Saml2_IdPMetadataParser

    settings = OneLogin_Saml2_IdPMetadataParser.merge_settings(
        {
            "strict": True,
            "sp": {
                "entityId": order["entity_id"],
                "assertionConsumerService": {"url": order["acs"]},
                "singleLogoutService": {"url": order["slo"]},
                "NameIDFormat": "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent",
                "x509cert": order["certificate"],
                "privateKey": order["key"],
            },
            "security": {
                "authnRequestsSigned": True,
                "logoutRequestSigned": True,
                "wantMessagesSigned": True,
                "wantAssertionsSigned": True,
                "signatureAlgorithm": "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256",
                "digestAlgorithm": "http://www.w3.org/2001/04/xmlenc#sha256",
                "rejectDeprecatedAlgorithm": True,
            },
        },
        OneLogin_Saml2_IdPMetadataParser.parse(order["metadata"]),
    )
    url = order.get("url", order["acs"])
    request = {
        "https": "on",
        "http_host": urlsplit(url).netloc,
        "script_name": urlsplit(url).path,
        "get_data": dict(parse_qsl(urlsplit(url).query)),
        "query_string": urlsplit(url).query,
        "validate_signature_from_qs": True,
        "post_data": {"SAMLResponse": order["response"]} if "response" in order else {},
    }
    auth = OneLogin_Saml2_Auth(request, settings)
    if order["do"] == "login":
        location = auth.login(return_to=order["relay_state"])
        return {"location": location, "id": auth.get_last_request_id()}
    if order["do"] == "consume":
        auth.process_response(order["id"])
        return {
            "errors": [*auth.get_errors(), *([auth.get_last_error_reason()] if auth.get_errors() else [])],
            "name_id": auth.get_nameid(),
            "session_index": auth.get_session_index(),
            "attributes": auth.get_attributes(),
        }
    if order["do"] == "logout":
        location = auth.logout(
            return_to=order["relay_state"], name_id=order["name_id"], session_index=order["session_index"],
            name_id_format="urn:oasis:names:tc:SAML:2.0:nameid-format:persistent",
        )  # fmt: skip
        return {"location": location, "id": auth.get_last_request_id()}
    auth.process_slo(request_id=order["id"], keep_local_session=True)
    return {"errors": [*auth.get_errors(), *([auth.get_last_error_reason()] if auth.get_errors() else [])]}


def pysaml2(order: dict[str, Any]) -> dict[str, Any]:
    from saml2 import BINDING_HTTP_POST, BINDING_HTTP_REDIRECT
    from saml2.client import Saml2Client
    from saml2.config import SPConfig

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in ("key", "certificate", "metadata"):
            (folder / name).write_text(order[name], encoding="utf-8")
        config = SPConfig()
        config.load(
            {
                "entityid": order["entity_id"],
                "key_file": str(folder / "key"),
                "cert_file": str(folder / "certificate"),
                "metadata": {"local": [str(folder / "metadata")]},
                "allow_unknown_attributes": True,
                "accepted_time_diff": 30,
                "service": {
                    "sp": {
                        "endpoints": {
                            "assertion_consumer_service": [(order["acs"], BINDING_HTTP_POST)],
                            "single_logout_service": [(order["slo"], BINDING_HTTP_REDIRECT)],
                        },
                        "authn_requests_signed": True,
                        "want_response_signed": True,
                        "want_assertions_signed": True,
                        "signing_algorithm": "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256",
                        "digest_algorithm": "http://www.w3.org/2001/04/xmlenc#sha256",
                    }
                },
            }
        )
        client = Saml2Client(config)
        if order["do"] == "login":
            request_id, info = client.prepare_for_authenticate(
                relay_state=order["relay_state"], binding=BINDING_HTTP_REDIRECT
            )
            return {"location": dict(info["headers"])["Location"], "id": request_id}
        response = client.parse_authn_request_response(
            order["response"], BINDING_HTTP_POST, outstanding={order["id"]: "/"}
        )
        return {
            "errors": [],
            "name_id": response.name_id.text,
            "session_index": response.session_info()["session_index"],
            "attributes": response.ava,
        }


def main() -> None:
    products = {"python3-saml": onelogin, "pysaml2": pysaml2}
    for line in sys.stdin:
        try:
            answer = products[sys.argv[1]](json.loads(line))
        except Exception as error:  # what the product raises is its answer
            answer = {"raised": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
