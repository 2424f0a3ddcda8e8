"""The service provider's reading of responses: what is believed, and everything that is not."""

import base64
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from lxml import etree

from providers import saml
from providers.saml import Asserted, Expected, NotSignedInError, Trusted, read_response
from providers.saml_wire import names
from providers.saml_wire.certificates import read_certificate
from providers.saml_wire.errors import WireError
from providers.saml_wire.metadata import read_service_provider
from providers.saml_wire.signatures import sign
from providers.saml_wire.writing import Node, render
from tests.saml.differentials import READ_AS_SIGNED, REFUSED
from tests.saml.hostile import DOWNGRADES, WRAPPINGS, mutants
from tests.saml.partner import NS, make_signer, one_signer
from tests.saml.upstream import Answer, Request, Upstream, assertion_of, response_of
from tests.support.clock import Clock

NOW = Clock()()
UPSTREAM = Upstream("https://hub.example")
KEY = read_certificate(one_signer().certificate).public_key
TRUSTED = Trusted(entity_id=UPSTREAM.entity_id, keys=[KEY])
ASKED = Request("_request-1", None, UPSTREAM.sso)
EXPECTED = Expected(
    entity_id=UPSTREAM.audience, consumer=UPSTREAM.acs, request_id=ASKED.id, asked_at=NOW - timedelta(minutes=1),
    decryption_keys=[one_signer().private_key],
)  # fmt: skip
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
OURS = one_signer().certificate


def _answer(**changes: Any) -> Answer:
    return UPSTREAM.answer(ASKED, NOW, **changes)


def _read(
    document: bytes | Answer, *, trusted: Trusted = TRUSTED, expected: Expected = EXPECTED, now: Any = NOW
) -> Asserted:
    if isinstance(document, Answer):
        document = UPSTREAM.document(document)
    return read_response(document, trusted, expected, now=now)


def _reason(act: Callable[[], Any]) -> str:
    with pytest.raises(WireError) as caught:
        act()
    return caught.value.reason


def test_a_sound_response_is_read() -> None:
    answer = _answer(attributes={"mail": ["a@acme.example", "b@acme.example"]}, session_ends_at=NOW + 60 * MINUTE)
    read = _read(answer)
    assert (read.name_id, read.name_id_format, read.assertion_id) == (
        answer.name_id, names.PERSISTENT, answer.assertion_id
    )  # fmt: skip
    assert read.attributes == {"mail": ("a@acme.example", "b@acme.example")}
    assert (read.authenticated_at, read.context) == (NOW, names.PASSWORD_PROTECTED)
    assert (read.session_index, read.session_ends_at) == (answer.session_index, NOW + 60 * MINUTE)
    # As long as it could come again: no assertion is younger than that and still believed.
    assert read.expires_at >= NOW + saml.LIFETIME + saml.SKEW


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer of the response": ({"response_issuer": "https://evil.example"}, "saml.issuer"),
    "another issuer of the assertion": ({"issuer": "https://evil.example"}, "saml.issuer"),
    "issuer with a slash more": ({"issuer": UPSTREAM.entity_id + "/"}, "saml.issuer"),
    "another destination": ({"destination": "https://other.example/acs"}, "saml.destination"),
    "destination of another case": ({"destination": UPSTREAM.acs.upper()}, "saml.destination"),
    "no destination, signed": ({"destination": None, "signs_response": True}, "saml.destination"),
    "another recipient": ({"recipient": "https://other.example/acs"}, "saml.recipient"),
    "no recipient": ({"recipient": None}, "saml.recipient"),
    "another audience": ({"audience": ["https://other.example"]}, "saml.audience"),
    "our issuer as audience": ({"audience": ["https://hub.example"]}, "saml.audience"),
    "no audience": ({"audience": None}, "saml.audience"),
    "an empty restriction": ({"audience": []}, "saml.audience"),
    "a response to another request": ({"in_response_to": "_other"}, "saml.in_response_to"),
    "a response to none": ({"in_response_to": None}, "saml.in_response_to"),
    "confirmed for another request": ({"confirmed_request": "_other"}, "saml.in_response_to"),
    "confirmed for none": ({"confirmed_request": None}, "saml.in_response_to"),
    "not bearer": ({"method": "urn:oasis:names:tc:SAML:2.0:cm:sender-vouches"}, "saml.confirmation"),
    "confirmation with NotBefore": ({"confirmation_not_before": NOW}, "saml.confirmation"),
    "confirmation without an end": ({"confirmed_until": None}, "xml.missing"),
    "confirmation over": ({"confirmed_until": NOW - MINUTE}, "saml.expired"),
    "conditions over": ({"not_on_or_after": NOW - MINUTE}, "saml.expired"),
    "not valid yet": ({"not_before": NOW + MINUTE + SECOND}, "saml.not_before"),
    "response too old": ({"issued_at": NOW - 6 * MINUTE - SECOND}, "saml.issue_instant"),
    "response of the future": ({"issued_at": NOW + MINUTE + SECOND}, "saml.issue_instant"),
    "assertion too old": ({"assertion_issued_at": NOW - 6 * MINUTE - SECOND}, "saml.issue_instant"),
    "assertion of the future": ({"assertion_issued_at": NOW + MINUTE + SECOND}, "saml.issue_instant"),
    "proven in the future": ({"authenticated_at": NOW + MINUTE + SECOND}, "saml.authn_instant"),
    "its session over": ({"session_ends_at": NOW - MINUTE}, "saml.expired"),
    "an unknown condition": ({"conditions": [Node("saml:Condition")]}, "saml.condition"),
    "SAML 1.1": ({"version": "1.1"}, "saml.version"),
    "nameless": ({"name_id": ""}, "saml.subject"),
    "a name too long": ({"name_id": "x" * 256}, "saml.subject"),
    "ID no name": ({"assertion_id": "x' or '1'='1"}, "xml.id"),
    "nothing signed": ({"signs_assertion": False}, "signature.missing"),
    "signed by somebody else": ({"signer": make_signer("evil")}, "signature.key"),
    "response signed by somebody else": (
        {"signer": make_signer("evil"), "signs_assertion": False, "signs_response": True}, "signature.key"
    ),
    "encrypted, the response alone signed": (
        {"encrypts_for": OURS, "signs_assertion": False, "signs_response": True}, "signature.missing"
    ),
    "encrypted, nothing signed": ({"encrypts_for": OURS, "signs_assertion": False}, "signature.missing"),
    "encrypted for somebody else": ({"encrypts_for": make_signer("other").certificate}, "encryption.failed"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_each_thing_that_does_not_hold_is_refused_by_name(name: str) -> None:
    """S07, S10, S11, S21, ASVS 6.8.2: everything else about the response is sound."""
    changes, reason = CHANGES[name]
    assert _reason(lambda: _read(_answer(**changes))) == reason


@pytest.mark.parametrize(
    "changes",
    [
        {"issued_at": NOW + MINUTE}, {"issued_at": NOW - 6 * MINUTE}, {"confirmed_until": NOW - MINUTE + SECOND},
        {"not_on_or_after": NOW - MINUTE + SECOND}, {"not_before": NOW + MINUTE}, {"authenticated_at": NOW + MINUTE},
        {"response_issuer": None}, {"destination": None}, {"name_id_format": None}, {"attributes": {}},
        {"audience": ["https://other.example", UPSTREAM.audience]}, {"conditions": [Node("saml:OneTimeUse")]},
        {"signs_response": True}, {"signs_response": True, "signs_assertion": False}, {"encrypts_for": OURS},
        {"encrypts_for": OURS, "signs_response": True}, {"authenticated_at": NOW - timedelta(days=30)},
    ],
)  # fmt: skip
def test_what_may_differ_may(changes: dict[str, Any]) -> None:
    """Clocks by a minute; what the specification leaves open. Without these, the tests above could pass for nothing."""
    assert _read(_answer(**changes)).name_id == _answer().name_id


@pytest.mark.parametrize(
    ("policy", "assertion", "response", "holds"),
    [
        ("any", True, False, True), ("any", False, True, True), ("assertion", False, True, False),
        ("assertion", True, False, True), ("response", True, False, False), ("response", False, True, True),
        ("both", True, False, False), ("both", False, True, False), ("both", True, True, True),
    ],
)  # fmt: skip
def test_what_has_to_be_signed_is_said_by_the_policy(policy: Any, assertion: bool, response: bool, holds: bool) -> None:
    answer = _answer(signs_assertion=assertion, signs_response=response)
    trusted = replace(TRUSTED, policy=policy)
    if holds:
        assert _read(answer, trusted=trusted).name_id
    else:
        assert _reason(lambda: _read(answer, trusted=trusted)) == "signature.missing"


def test_a_fresh_proof_is_fresh() -> None:
    """ForceAuthn: what was proven before the question is no answer to it (ASVS 6.8.4)."""
    forced = replace(EXPECTED, is_forced=True)
    assert _read(_answer(authenticated_at=NOW - 2 * MINUTE), expected=forced).name_id
    old = _answer(authenticated_at=NOW - 2 * MINUTE - SECOND)
    assert _reason(lambda: _read(old, expected=forced)) == "saml.authn_age"
    limited = replace(EXPECTED, max_age=timedelta(hours=1))
    assert _read(_answer(authenticated_at=NOW - timedelta(minutes=61)), expected=limited).name_id
    stale = _answer(authenticated_at=NOW - timedelta(minutes=61, seconds=1))
    assert _reason(lambda: _read(stale, expected=limited)) == "saml.authn_age"


def test_the_way_of_proving_is_the_one_that_was_asked_for() -> None:
    expected = replace(EXPECTED, contexts=frozenset({"https://refeds.org/profile/mfa"}))
    assert _reason(lambda: _read(_answer(), expected=expected)) == "saml.context"
    assert _read(_answer(context="https://refeds.org/profile/mfa"), expected=expected).context


def test_a_refusal_of_the_provider_is_told_apart() -> None:
    for signed in (True, False):
        answer = _answer(status=names.RESPONDER, detail=names.AUTHN_FAILED, signs_response=signed)
        with pytest.raises(NotSignedInError) as caught:
            _read(answer)
        assert caught.value.code == "AuthnFailed"
    with pytest.raises(NotSignedInError) as caught:
        _read(_answer(status='urn:x:<script>"', detail=None))
    assert caught.value.code == ""


def test_one_assertion_and_no_more() -> None:
    """S07: a signed one beside an unsigned one, in either order, also when one is encrypted."""
    good = sign(assertion_of(_answer()), one_signer())
    evil = assertion_of(_answer(name_id="admin", assertion_id="_evil"))
    for pair in ([good, evil], [evil, good], [good, good], []):
        response = response_of(_answer())
        response = replace(response, content=[*response.content[:-1], *pair])
        assert _reason(partial(_read, render(response).encode())) in {"saml.assertions", "xml.repeated_id"}


# ---------------------------------------------------------------------- wrapping, downgrades, splitting


def _spoil(evil: Any) -> None:
    """What an attacker would like to be: somebody else."""
    for name_id in evil.iter(f"{{{names.ASSERTION}}}NameID"):
        name_id.text = "admin"


def _in_response(assertion: Any) -> bytes:
    response = etree.fromstring(render(response_of(_answer())).encode())
    old = response.find("saml:Assertion", NS)
    assert old is not None
    response.replace(old, assertion)
    return etree.tostring(response)


@pytest.mark.parametrize("name", WRAPPINGS)
def test_a_wrapped_assertion_or_response_says_nothing_new(name: str) -> None:
    """S01: eight forms and their siblings, of the assertion's signature and of the response's."""
    signed = render(sign(assertion_of(_answer()), one_signer())).encode()
    whole = UPSTREAM.document(_answer(signs_assertion=False, signs_response=True))
    both = UPSTREAM.document(_answer(signs_response=True))
    documents = [_in_response(WRAPPINGS[name](signed, _spoil))]
    documents += [etree.tostring(WRAPPINGS[name](one, _spoil)) for one in (whole, both)]
    for document in documents:
        try:
            read = _read(document)
        except WireError:
            continue
        assert read.name_id == _answer().name_id, name


def _evil(good: str) -> str:
    evil = good.replace(f">{_answer().name_id}</saml:NameID>", ">admin</saml:NameID>")
    assert evil != good
    return evil


@pytest.mark.parametrize("name", REFUSED)
def test_an_assertion_or_response_that_could_be_read_in_two_ways_is_refused(name: str) -> None:
    """S01 to S03, and what parsers were found to disagree about since."""
    whole = UPSTREAM.document(_answer(signs_assertion=False, signs_response=True)).decode()
    documents = [REFUSED[name](whole, _evil(whole))]
    signed = render(sign(assertion_of(_answer()), one_signer()))
    inner = REFUSED[name](signed, _evil(signed))
    response = render(response_of(_answer()))
    before, _, rest = response.partition("<saml:Assertion")
    documents.append(before + inner + rest.partition("</saml:Assertion>")[2])
    for document in documents:
        with pytest.raises(WireError):
            _read(document.encode())


@pytest.mark.parametrize("name", READ_AS_SIGNED)
def test_a_response_that_is_written_otherwise_says_what_was_signed(name: str) -> None:
    whole = UPSTREAM.document(_answer(signs_assertion=False, signs_response=True)).decode()
    assert _read(READ_AS_SIGNED[name](whole, _evil(whole)).encode()).name_id == _answer().name_id


@pytest.mark.parametrize("name", DOWNGRADES)
def test_a_downgraded_signature_is_refused(name: str) -> None:
    """S03, S12, S24."""
    signed = render(sign(assertion_of(_answer()), one_signer())).encode()
    whole = UPSTREAM.document(_answer(signs_assertion=False, signs_response=True))
    for document in (_in_response(etree.fromstring(DOWNGRADES[name](signed))), DOWNGRADES[name](whole)):
        with pytest.raises(WireError):
            _read(document)


def test_a_key_in_the_message_counts_for_nothing() -> None:
    """S12: whoever signs with a key of their own and brings it along."""
    evil = make_signer("evil")
    assert evil.certificate in UPSTREAM.document(_answer(signer=evil)).decode()
    assert _reason(lambda: _read(_answer(signer=evil))) == "signature.key"
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert _reason(lambda: _read(_answer(), trusted=replace(TRUSTED, keys=[curve]))) == "signature.key"
    assert _reason(lambda: _read(_answer(), trusted=replace(TRUSTED, keys=[]))) == "signature.key"


@pytest.mark.parametrize("inner", ["<!---->", "<?x?>", "<![CDATA[]]>", "<!-- a -->"])
def test_a_name_with_something_in_its_middle_is_read_whole_or_not(inner: str) -> None:
    """S02: `admin@corp<!---->.evil` signed by its own provider is nobody's `admin@corp`."""
    document = UPSTREAM.document(_answer(name_id="admin@acme.example.evil.example"))
    split = document.replace(b"admin@acme.example.evil", f"admin@acme.example{inner}.evil".encode())
    assert split != document
    try:
        assert _read(split).name_id == "admin@acme.example.evil.example"
    except WireError as refused:
        assert refused.reason in {"xml.instruction", "signature.digest"}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "xml.dtd"),
        (b"<a>" * 5_000, "xml.form"),
        (b"<a/>", "saml.message"),
        (b"", "xml.form"),
        (b"x" * 300_000, "xml.size"),
        (b"\xff\xfe", "xml.encoding"),
    ],
)
def test_documents_that_are_none(document: bytes, reason: str) -> None:
    """S13, S14."""
    assert _reason(lambda: _read(document)) == reason
    assert _reason(lambda: saml.peek(document)) == reason


# ---------------------------------------------------------------------- encryption


def _encrypted(
    *,
    data: str = names.XENC11 + "aes256-gcm",
    transport: str = names.XENC + "rsa-oaep-mgf1p",
    digest: str | None = names.DS + "sha1",
    mask: str | None = None,
    hashes: tuple[type[HashAlgorithm], type[HashAlgorithm]] = (SHA1, SHA1),
    bits: int = 256,
    spoil: Callable[[bytes], bytes] = lambda octets: octets,
    spoil_key: Callable[[bytes], bytes] = lambda octets: octets,
    plain: bytes | None = None,
    beside: bool = False,
) -> bytes:
    """A response whose assertion was encrypted by the specification's letter, or against it."""
    key, nonce = os.urandom(bits // 8), os.urandom(12)
    content = plain or render(sign(assertion_of(_answer()), one_signer())).encode()
    if data.endswith("cbc"):
        padded = content + bytes([0] * (15 - len(content) % 16) + [16 - len(content) % 16])
        encryptor = Cipher(algorithms.AES(key), modes.CBC(nonce + b"\0" * 4)).encryptor()
        octets = nonce + b"\0" * 4 + encryptor.update(padded) + encryptor.finalize()
    else:
        octets = nonce + AESGCM(key).encrypt(nonce, content, None)
    scheme: Any = padding.OAEP(padding.MGF1(hashes[1]()), hashes[0](), None)
    if transport.endswith("rsa-1_5"):
        scheme = padding.PKCS1v15()
    sealed = one_signer().private_key.public_key().encrypt(key, scheme)
    methods = [] if digest is None else [Node("ds:DigestMethod", {"Algorithm": digest})]
    methods += [] if mask is None else [Node("xenc11:MGF", {"Algorithm": mask})]
    encrypted_key = Node(
        "xenc:EncryptedKey", {},
        [Node("xenc:EncryptionMethod", {"Algorithm": transport}, methods), _value(spoil_key(sealed))],
    )  # fmt: skip
    inner = [] if beside else [Node("ds:KeyInfo", {}, [encrypted_key])]
    encrypted = Node(
        "xenc:EncryptedData", {"Type": names.XENC + "Element"},
        [Node("xenc:EncryptionMethod", {"Algorithm": data}), *inner, _value(spoil(octets))],
    )  # fmt: skip
    response = response_of(_answer())
    held = Node("saml:EncryptedAssertion", {}, [encrypted, *([encrypted_key] if beside else [])])
    return render(replace(response, content=[*response.content[:-1], held])).encode()


def _value(octets: bytes) -> Node:
    return Node("xenc:CipherData", {}, [Node("xenc:CipherValue", {}, [base64.b64encode(octets).decode()])])


@pytest.mark.parametrize(
    "options",
    [
        {}, {"data": names.XENC11 + "aes128-gcm", "bits": 128}, {"beside": True}, {"digest": None},
        {"digest": names.XENC + "sha256", "hashes": (SHA256, SHA1)},
        {
            "transport": names.XENC11 + "rsa-oaep", "digest": names.XENC + "sha256",
            "mask": names.XENC11 + "mgf1sha256", "hashes": (SHA256, SHA256),
        },
    ],
)  # fmt: skip
def test_each_form_of_encryption_that_we_ask_for_is_read(options: dict[str, Any]) -> None:
    assert _read(_encrypted(**options)).name_id == _answer().name_id


def test_weak_encryption_is_refused_before_a_key_is_touched() -> None:
    """S23, S25, ASVS 11.3.1: no CBC, no RSA with PKCS #1 v1.5, no parameters that nobody reads."""
    for options in (
        {"data": names.XENC + "aes128-cbc", "bits": 128},
        {"data": names.XENC + "aes256-cbc"},
        {"data": names.XENC + "tripledes-cbc", "bits": 192},
        {"transport": names.XENC + "rsa-1_5"},
        {"transport": names.XENC11 + "rsa-oaep", "mask": "urn:x"},
        {"digest": names.DS + "md5"},
    ):
        assert _reason(partial(_read, _encrypted(**options))) == "encryption.algorithm"


def test_what_cannot_be_decrypted_fails_alike() -> None:
    """S25: a wrong key, a changed key, changed content, a short or empty one: one word and one sentence."""
    flips: list[Callable[[bytes], bytes]] = [
        lambda octets: octets[:-1] + bytes([octets[-1] ^ 1]),
        lambda octets: bytes([octets[0] ^ 1]) + octets[1:],
        lambda octets: octets[:20],
        lambda octets: b"",
        lambda octets: os.urandom(len(octets)),
        lambda octets: octets + b"\0",
    ]
    said = set()
    documents = [_encrypted(spoil=flip) for flip in flips] + [_encrypted(spoil_key=flip) for flip in flips]
    documents.append(_encrypted(data=names.XENC11 + "aes128-gcm", bits=256))
    for document in documents:
        with pytest.raises(WireError) as caught:
            _read(document)
        said.add((caught.value.reason, caught.value.description))
    assert said == {("encryption.failed", "The assertion cannot be decrypted with a key of our metadata.")}


def test_what_was_encrypted_is_read_as_hardened_as_the_rest() -> None:
    for plain, reason in (
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "xml.dtd"),
        (b"<a/>", "encryption.form"),
        (b"<a", "xml.form"),
        (b"</within><within>", "xml.form"),
        (b" ", "encryption.form"),
        (render(sign(assertion_of(_answer()), one_signer())).encode() * 2, "xml.repeated_id"),
        (render(assertion_of(_answer())).encode(), "signature.missing"),
    ):
        assert _reason(partial(_read, _encrypted(plain=plain))) == reason


def test_what_was_encrypted_may_use_the_namespaces_around_it() -> None:
    """XML Encryption 4.3.3: xmlsec leaves declarations that the Response has out of what it encrypts."""
    plain = render(sign(assertion_of(_answer()), one_signer())).replace(f' xmlns:saml="{names.ASSERTION}"', "", 1)
    assert _read(_encrypted(plain=plain.encode())).name_id == _answer().name_id


def test_a_key_of_before_and_one_to_come_decrypt() -> None:
    """Rollover: whoever encrypts for a certificate that our metadata held lately is read."""
    answer = _answer(encrypts_for=OURS)
    other = make_signer("other").private_key
    keys = [other, one_signer().private_key]
    assert _read(answer, expected=replace(EXPECTED, decryption_keys=keys)).name_id
    assert _reason(lambda: _read(answer, expected=replace(EXPECTED, decryption_keys=[other]))) == "encryption.failed"
    assert _reason(lambda: _read(answer, expected=replace(EXPECTED, decryption_keys=[]))) == "encryption.form"


# ---------------------------------------------------------------------- mutants

MUTANTS = 400 * int(os.environ.get("UPSTREAM_PROOF_TIMES", "1"))
SHAPES: dict[str, dict[str, Any]] = {
    "assertion": {}, "response": {"signs_assertion": False, "signs_response": True}, "both": {"signs_response": True},
    "encrypted": {"encrypts_for": OURS},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_no_mutant_says_anything_else(shape: str) -> None:
    """Random changes of a sound response: none is believed that does not say exactly what was signed, none crashes."""
    document = UPSTREAM.document(_answer(**SHAPES[shape]))
    original = _read(document)
    refused = 0
    for mutant, _ in zip(mutants(document, seed=len(shape)), range(MUTANTS), strict=False):
        try:
            read = _read(mutant)
        except WireError:
            refused += 1
            continue
        assert read == original, mutant
    assert refused > MUTANTS // 2


# ---------------------------------------------------------------------- what we write


def test_our_metadata_says_what_we_do() -> None:
    other = make_signer("next")
    node = saml.metadata(
        UPSTREAM.audience, UPSTREAM.acs, [OURS, other.certificate], logout={names.REDIRECT: "https://hub.example/slo"},
        cache="PT6H",
    )  # fmt: skip
    document = render(sign(node, one_signer())).encode()
    read = read_service_provider(document, now=NOW, pinned=[KEY])
    assert (read.entity_id, [one.location for one in read.consumer_services]) == (UPSTREAM.audience, [UPSTREAM.acs])
    assert [one.der for one in read.signing] == [OURS, other.certificate]
    # The one that lasts longer: it opens what comes from whoever reads this only once in a while.
    assert [one.der for one in read.encryption] == [other.certificate]
    assert read.signs_requests and read.wants_signed_assertions


def test_the_request_says_where_the_answer_goes() -> None:
    node = saml.authn_request(
        UPSTREAM.audience, UPSTREAM.acs, request_id="_r", destination=UPSTREAM.sso, now=NOW, is_forced=True,
        name_id_format=names.PERSISTENT, contexts=["urn:a", "urn:b"],
    )  # fmt: skip
    root = etree.fromstring(render(node))
    assert (root.get("AssertionConsumerServiceURL"), root.get("Destination"), root.get("ForceAuthn")) == (
        UPSTREAM.acs, UPSTREAM.sso, "true"
    )  # fmt: skip
    assert root.findtext("saml:Issuer", None, NS) == UPSTREAM.audience
    assert [one.text for one in root.iterfind(".//saml:AuthnContextClassRef", NS)] == ["urn:a", "urn:b"]
    plain = saml.authn_request(
        UPSTREAM.audience, UPSTREAM.acs, request_id="_r", destination=UPSTREAM.sso, now=NOW
    )  # fmt: skip
    assert etree.fromstring(render(plain)).find("samlp:NameIDPolicy", NS) is None
