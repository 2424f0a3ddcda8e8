"""SAML on the wire: what is read, what is refused, and that what is written is canonical."""

import base64
import time
import tracemalloc
import zlib
from typing import Any
from urllib.parse import quote

import pytest
import xmlsec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from providers.saml_wire import bindings, names, parsing, signatures
from providers.saml_wire.bindings import inflate, read_post, read_redirect, write_redirect
from providers.saml_wire.certificates import read_certificate, read_pem
from providers.saml_wire.encryption import encrypt
from providers.saml_wire.errors import WireError
from providers.saml_wire.metadata import read_service_provider
from providers.saml_wire.parsing import MAX_MESSAGE, parse
from providers.saml_wire.signatures import sign, verify
from providers.saml_wire.writing import Node, render
from tests.saml.differentials import READ_AS_SIGNED, REFUSED
from tests.saml.hostile import DOWNGRADES, WRAPPINGS, mutants
from tests.saml.partner import NS, Partner, make_signer, one_signer, pem_of
from tests.support.clock import Clock

NOW = Clock()()
PARTNER = Partner("https://hub.example")
KEY = read_certificate(one_signer().certificate).public_key


def _reason(act: Any) -> str:
    with pytest.raises(WireError) as caught:
        act()
    return caught.value.reason


def _signed(node: Node | None = None) -> bytes:
    return render(sign(node or PARTNER.logout_request(NOW, "somebody", "_1"), one_signer())).encode()


# ---------------------------------------------------------------------- reading XML


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "xml.form"),
        (b"text", "xml.form"),
        (b"<a>", "xml.form"),
        (b"<a/><b/>", "xml.form"),
        (b"\xff\xfe<\x00a\x00/\x00>\x00", "xml.encoding"),
        ('<?xml version="1.0" encoding="UTF-16"?><a/>'.encode("utf-16"), "xml.encoding"),
        (b"<a>\x00</a>", "xml.encoding"),
        (b"<!DOCTYPE a><a/>", "xml.dtd"),
        (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "xml.dtd"),
        (b'<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x.dtd"><a/>', "xml.dtd"),
        (b'<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:1/x">%x;]><a/>', "xml.dtd"),
        (b"<a>&x;</a>", "xml.form"),
        (b"<a><?php x?></a>", "xml.instruction"),
        (b'<a ID="_1"><b ID="_1"/></a>', "xml.repeated_id"),
        (b'<a ID="_1"><b Id="_1"/></a>', "xml.repeated_id"),
        (b'<a ID="_1"><b xml:id="_1"/></a>', "xml.repeated_id"),
        (b"<a>" * 400 + b"</a>" * 400, "xml.form"),
        (b"<a>" * 4_000 + b"</a>" * 4_000, "xml.form"),
        (b"<a>" + b"<b/>" * 30_000 + b"</a>", "xml.size"),
        # Before it is read: a parser would say of this that it is no XML.
        (b"<a>" + b"<b/>" * 10_000, "xml.size"),
        (b"<a>" + b"<b/>" * 9_000, "xml.form"),
        (b"<a>" + b"x" * MAX_MESSAGE + b"</a>", "xml.size"),
    ],
)
def test_documents_that_are_not_read(document: bytes, reason: str) -> None:
    """S13, S14: at once, without a network and without growing."""
    began = time.process_time()
    assert _reason(lambda: parse(document)) == reason
    assert time.process_time() - began < 0.5


def test_billion_laughs_and_their_siblings() -> None:
    laughs = b"".join(b'<!ENTITY l%d "%s">' % (i, b"&l%d;" % (i - 1) * 10) for i in range(1, 10))
    bomb = b'<!DOCTYPE a [<!ENTITY l0 "lol">' + laughs + b"]><a>&l9;</a>"
    assert _reason(lambda: parse(bomb)) == "xml.dtd"
    hidden = b"<a b='" + b"&l9;" * 10 + b"'/>"
    assert _reason(lambda: parse(hidden)) == "xml.form"
    include = b'<a xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="file:///etc/passwd" parse="text"/></a>'
    assert etree.tostring(parse(include)).count(b"root:") == 0


@pytest.mark.parametrize(
    "text",
    ["admin@corp<!---->.evil", "admin@corp<!-- x -->.evil", "<!-- a -->admin@corp.evil", "<![CDATA[admin@corp]]>.evil"],
)
def test_a_text_is_read_whole(text: str) -> None:
    """S02: CVE-2017-11427 and its siblings."""
    element = parse(f"<a>{text}</a>".encode())
    assert parsing.text_of(element) == "admin@corp.evil"


@pytest.mark.parametrize("blank", ["\u00a0", "\u3000", "\u2003", "\u0085", "\u2028", "\u205f", "\u1680"])
def test_only_blanks_of_xml_are_taken_off_a_text(blank: str) -> None:
    """S02: to a provider `lin` and `lin` with a no-break space are two people; read as one, each was the other."""
    assert parsing.text_of(parse(b"<a>\n\t lin \r\n</a>")) == "lin"
    for text in (f"lin{blank}", f"{blank}lin", f"\n{blank}lin\n"):
        assert parsing.text_of(parse(f"<a>{text}</a>".encode())) == text.strip("\n")


def test_a_value_that_holds_elements_is_none() -> None:
    assert _reason(lambda: parsing.text_of(parse(b"<a>x<b/>y</a>"))) == "xml.value"


@pytest.mark.parametrize(
    "text",
    ["2026-11-23T02:00:00", "2026-11-23 02:00:00Z", "2026-11-23T02:00:00+01:00", "2026-13-01T00:00:00Z", "", "x",
     "2026-11-23T24:00:01Z", "10000-01-01T00:00:00Z", "2026-11-23T02:00:00.Z"],
)  # fmt: skip
def test_what_is_no_instant(text: str) -> None:
    assert _reason(lambda: parsing.read_instant(text, "NotOnOrAfter")) == "xml.instant"


def test_instants_with_fractions() -> None:
    assert parsing.read_instant("2026-11-23T02:00:00Z", "x") == NOW
    assert parsing.read_instant("2026-11-23T02:00:00.123456789Z", "x").microsecond == 123_456


# ---------------------------------------------------------------------- writing


_TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
_NODES: st.SearchStrategy[Node] = st.recursive(
    st.builds(
        Node, st.sampled_from(["saml:A", "samlp:B", "ds:C"]),
        st.dictionaries(st.sampled_from(["Z", "b", "ID", "xml:lang"]), _TEXTS), st.lists(_TEXTS, max_size=2),
    ),
    lambda inner: st.builds(
        Node, st.sampled_from(["saml:A", "samlp:B", "md:D", "xenc:E"]),
        st.dictionaries(st.sampled_from(["Z", "b", "ID"]), _TEXTS), st.lists(st.one_of(_TEXTS, inner), max_size=3),
    ),
    max_leaves=12,
)  # fmt: skip


@given(_NODES)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_exclusive_canonical_xml(node: Node) -> None:
    """The canonicalizer of libxml2 changes nothing of it, so that what we hash is what others hash."""
    document = render(node).encode()
    parsed = etree.fromstring(document)
    assert etree.tostring(parsed, method="c14n", exclusive=True, with_comments=False) == document


def _nameless(part: Node | str) -> Node | str:
    """The same tree without IDs, of which each may stand in a document once."""
    if isinstance(part, str):
        return part
    attributes = {name: value for name, value in part.attributes.items() if name != "ID"}
    return Node(part.tag, attributes, [_nameless(one) for one in part.content])


_NAMELESS: st.SearchStrategy[Node] = _NODES.map(_nameless)  # type: ignore[arg-type]


def _unfolded(part: Node | str) -> Node | str:
    """The same tree without what was written before."""
    if isinstance(part, str):
        return part
    return Node(part.tag, part.attributes, [_unfolded(one) for one in part.content])


@given(_NAMELESS, st.lists(_NAMELESS, min_size=1, max_size=3), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_what_was_written_and_signed_before_stands_in_others_as_if_written_there(
    around: Node, inner: list[Node], at: int
) -> None:
    """Whatever surrounds it, declared or not: the form is canonical, and each signature holds."""
    signer = one_signer()
    signed = [
        sign(Node(one.tag, {**one.attributes, "ID": f"_{i}"}, one.content), signer) for i, one in enumerate(inner)
    ]
    whole = sign(Node(around.tag, {**around.attributes, "ID": "_w"}, [*around.content[:at], *signed]), signer)
    document = render(whole)
    unfolded = _unfolded(whole)
    assert isinstance(unfolded, Node)
    assert document == render(unfolded)
    parsed = etree.fromstring(document.encode())
    assert etree.tostring(parsed, method="c14n", exclusive=True, with_comments=False) == document.encode()
    assert verify(parse(document.encode()), [KEY]).get("ID") == "_w"
    for i in range(len(inner)):
        (element,) = (one for one in parse(document.encode()).iter() if one.get("ID") == f"_{i}")
        assert verify(element, [KEY]).get("ID") == f"_{i}"


# ---------------------------------------------------------------------- signatures


def test_a_signed_element_is_read_from_its_octets() -> None:
    verified = verify(parse(_signed()), [KEY])
    assert verified.findtext("saml:NameID", None, NS) == "somebody"
    assert verified.find("ds:Signature", NS) is None


def test_the_key_is_the_partners_never_the_messages() -> None:
    """S12: KeyInfo of an attacker, and a signature lifted from elsewhere."""
    thief = make_signer("thief")
    message = PARTNER.logout_request(NOW, "somebody")
    assert _reason(lambda: verify(parse(render(sign(message, thief)).encode()), [KEY])) == "signature.key"
    assert _reason(lambda: verify(parse(_signed()), [])) == "signature.key"
    lifted = etree.fromstring(PARTNER_METADATA).find("ds:Signature", NS)
    assert lifted is not None
    root = etree.fromstring(render(message).encode())
    root.insert(1, lifted)
    assert _reason(lambda: verify(parse(etree.tostring(root)), [KEY])) == "signature.reference"
    root.set("ID", "_m")
    assert _reason(lambda: verify(parse(etree.tostring(root)), [KEY])) == "signature.digest"


PARTNER_METADATA = _signed(Node("md:EntityDescriptor", {"ID": "_m", "entityID": "x"}, []))


@pytest.mark.parametrize("name", WRAPPINGS)
def test_signature_wrapping(name: str) -> None:
    """S01: nothing but what was signed is ever returned."""

    def spoil(evil: Any) -> None:
        evil.find("saml:NameID", NS).text = "victim"

    document = etree.tostring(WRAPPINGS[name](_signed(), spoil))
    with pytest.raises(WireError):
        verify(parse(document), [KEY])


@pytest.mark.parametrize("name", WRAPPINGS)
def test_signature_wrapping_of_an_assertion_in_a_response(name: str) -> None:
    """S01, S07: the consumer reads the element that it verified, which is the one that was signed, or nothing."""
    subject = Node("saml:Subject", {}, [Node("saml:NameID", {}, ["somebody"])])
    assertion = Node("saml:Assertion", {"ID": "_a"}, [Node("saml:Issuer", {}, ["x"]), subject])

    def spoil(evil: Any) -> None:
        evil.find(".//saml:NameID", NS).text = "victim"

    wrapped = WRAPPINGS[name](_signed(assertion), spoil)
    response = etree.fromstring(render(Node("samlp:Response", {"ID": "_r"}, [])).encode())
    response.append(wrapped)
    with pytest.raises(WireError):
        root = parse(etree.tostring(response))
        verify(parsing.required_child(root, f"{{{names.ASSERTION}}}Assertion"), [KEY])


def _evil(signed: bytes) -> tuple[str, str]:
    good = signed.decode()
    evil = good.replace(">somebody<", ">victim<")
    assert evil != good
    return good, evil


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(name: str) -> None:
    """S01 to S03, and what parsers were found to disagree about since."""
    good, evil = _evil(_signed())
    assert verify(parse(good.encode()), [KEY]) is not None
    with pytest.raises(WireError):
        verify(parse(REFUSED[name](good, evil).encode()), [KEY])


@pytest.mark.parametrize("name", READ_AS_SIGNED)
def test_what_may_be_written_otherwise_is_read_as_it_was_signed(name: str) -> None:
    good, evil = _evil(_signed())
    document = READ_AS_SIGNED[name](good, evil)
    read = etree.tostring(verify(parse(document.encode()), [KEY]), method="c14n", exclusive=True)
    assert read == etree.tostring(verify(parse(good.encode()), [KEY]), method="c14n", exclusive=True)
    assert b"evil" not in read and b"victim" not in read


@pytest.mark.parametrize("name", [*REFUSED, *WRAPPINGS])
def test_metadata_of_which_something_else_was_signed_is_refused(name: str) -> None:
    """S01: whoever can write metadata names the keys and the addresses."""
    service = Node(
        "md:AssertionConsumerService", {"Binding": names.POST, "Location": "https://sp.example/acs", "index": "0"}
    )
    role = Node("md:SPSSODescriptor", {"protocolSupportEnumeration": names.PROTOCOL}, [service])
    described = Node(
        "md:EntityDescriptor", {"ID": "_1", "entityID": "https://sp.example"},
        [Node("md:Extensions", {}, [Node("saml:Issuer", {}, ["x"])]), role],
    )  # fmt: skip
    good = _signed(described).decode()
    assert read_service_provider(good.encode(), now=NOW, pinned=[KEY]).entity_id == "https://sp.example"

    def spoil(evil: Any) -> None:
        evil.find(".//{*}AssertionConsumerService").set("Location", "https://evil.example/acs")

    if name in WRAPPINGS:
        document = etree.tostring(WRAPPINGS[name](good.encode(), spoil))
    else:
        document = REFUSED[name](good, good.replace("https://sp.example/acs", "https://evil.example/acs")).encode()
    with pytest.raises(WireError):
        read_service_provider(document, now=NOW, pinned=[KEY])


@pytest.mark.parametrize("name", DOWNGRADES)
def test_other_algorithms_and_forms_are_refused(name: str) -> None:
    """S03, S24: before any of it is computed where it can be."""
    with pytest.raises(WireError) as caught:
        verify(parse(DOWNGRADES[name](_signed())), [KEY])
    assert caught.value.reason.partition(".")[0] in {"signature", "xml"}


def test_a_signature_without_its_element_and_elements_without_theirs() -> None:
    assert _reason(lambda: verify(parse(b'<a ID="_1"/>'), [KEY])) == "signature.missing"
    two = etree.fromstring(_signed())
    second = two.find("ds:Signature", NS)
    assert second is not None
    two.append(etree.fromstring(etree.tostring(second)))
    assert _reason(lambda: verify(parse(etree.tostring(two)), [KEY])) == "signature.form"


def test_text_around_the_signature_is_part_of_what_was_signed() -> None:
    document = _signed().replace(b"</ds:Signature>", b"</ds:Signature>x")
    assert _reason(lambda: verify(parse(document), [KEY])) == "signature.digest"


def test_elliptic_curves_and_a_signature_of_zeros() -> None:
    """J23 in XML: R and S of zero are no signature; a key serves its own kind of algorithm alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    algorithm = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256"
    r, s = decode_dss_signature(key.sign(b"octets", ec.ECDSA(SHA256())))
    value = r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def refused(value: bytes, algorithm: str, public_key: signatures.PublicKey) -> str:
        return _reason(lambda: signatures.verify_octets(b"octets", value, algorithm, [public_key]))

    signatures.verify_octets(b"octets", value, algorithm, [key.public_key()])
    for bad in (bytes(64), value[:-1], value + b"\0", b"", value[32:] + value[:32]):
        assert refused(bad, algorithm, key.public_key()) == "signature.key"
    assert refused(value, algorithm, KEY) == "signature.key"
    assert refused(one_signer().sign(b"octets"), signatures.RSA_SHA256, key.public_key()) == "signature.key"


def _private_key() -> Any:
    private = one_signer().private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return xmlsec.Key.from_memory(private, xmlsec.constants.KeyDataFormatPem)


def test_an_inclusive_prefix_list_is_honoured() -> None:
    """OpenSAML signs so: `xs` is declared outside and named in a value. Signed here by xmlsec."""
    root = etree.fromstring(
        f'<samlp:LogoutRequest xmlns:samlp="{names.PROTOCOL}" xmlns:xs="{names.XS}" xmlns:xsi="{names.XSI}" ID="_1">'
        '<a xsi:type="xs:string">x</a></samlp:LogoutRequest>'
    )
    constants = xmlsec.constants
    signature = xmlsec.template.create(root, constants.TransformExclC14N, constants.TransformRsaSha256)
    root.append(signature)
    reference = xmlsec.template.add_reference(signature, constants.TransformSha256, uri="#_1")
    xmlsec.template.add_transform(reference, constants.TransformEnveloped)
    exclusive = xmlsec.template.add_transform(reference, constants.TransformExclC14N)
    xmlsec.template.transform_add_c14n_inclusive_namespaces(exclusive, "xs")
    xmlsec.tree.add_ids(root, ["ID"])
    context = xmlsec.SignatureContext()
    context.key = _private_key()
    context.sign(signature)
    signed = etree.tostring(root)
    assert b'PrefixList="xs"' in signed
    assert verify(parse(signed), [KEY]).findtext("a") == "x"
    spoiled = signed.replace(b'PrefixList="xs"', b'PrefixList="xsi"')
    assert _reason(lambda: verify(parse(spoiled), [KEY])) == "signature.key"
    # In a document around it the prefix is declared outside of what was signed.
    around = f'<o xmlns:xs="{names.XS}">'.encode() + signed.replace(f' xmlns:xs="{names.XS}"'.encode(), b"") + b"</o>"
    assert verify(parse(around)[0], [KEY]).findtext("a") == "x"


@pytest.mark.parametrize("seed", range(3))
def test_no_mutant_is_believed_and_none_crashes(seed: int) -> None:
    """A sample of random changes to what was signed: characters, elements, attributes, whole subtrees."""
    document = _signed()
    original = etree.tostring(verify(parse(document), [KEY]), method="c14n")
    for mutant, _ in zip(mutants(document, seed=seed), range(500), strict=False):
        try:
            verified = verify(parse(mutant), [KEY])
        except WireError:
            continue
        assert etree.tostring(verified, method="c14n") == original, mutant


# ---------------------------------------------------------------------- bindings


def test_redirect_there_and_back() -> None:
    message = render(PARTNER.logout_request(NOW, "somebody"))
    url = write_redirect(
        "https://hub.example/slo?x=1", "SAMLRequest", message, relay_state="a b+c&d=%", signer=one_signer()
    )
    received = read_redirect(url.partition("?")[2].encode())
    received.verify_query([KEY])
    assert (received.document.decode(), received.relay_state) == (message, "a b+c&d=%")


_OTHER = quote(base64.b64encode(zlib.compress(b"<b/>")[2:-4]), safe="")


def _query(**changes: str | None) -> bytes:
    url = write_redirect("", "SAMLRequest", "<a/>", relay_state="rs", signer=one_signer())
    fields = dict(part.split("=", 1) for part in url[1:].split("&"))
    fields |= {name: value for name, value in changes.items() if value is not None}
    return "&".join(f"{n}={v}" for n, v in fields.items() if changes.get(n, "") is not None).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"RelayState": "other"}, {"RelayState": None}, {"SAMLRequest": _OTHER},
        {"Signature": quote(base64.b64encode(b"x" * 256), safe="")}, {"RelayState": "r%73"},
    ],
)  # fmt: skip
def test_a_query_that_was_changed_is_not_what_was_signed(changes: dict[str, str | None]) -> None:
    """Bindings 3.4.4.1: over the octets as they were sent; another spelling of the same value is another query."""
    received = read_redirect(_query(**changes))
    assert _reason(lambda: received.verify_query([KEY])) == "signature.key"


def test_algorithms_of_the_redirect_binding() -> None:
    for algorithm in (names.DS + "rsa-sha1", names.DS + "hmac-sha1", "", "none"):
        received = read_redirect(_query(SigAlg=quote(algorithm, safe="")) if algorithm else _query(SigAlg="x"))
        assert _reason(lambda received=received: received.verify_query([KEY])) == "signature.algorithm"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (b"", "binding.message"),
        (b"RelayState=x", "binding.message"),
        (b"SAMLRequest=x&SAMLResponse=y", "binding.message"),
        (b"SAMLRequest=PA&SAMLRequest=PA", "binding.repeated"),
        (b"SAMLRequest", "binding.repeated"),
        (b"SAMLRequest=!!!!", "binding.base64"),
        (b"SAMLRequest=AAAA", "binding.deflate"),
        (b"SAMLRequest=" + quote(base64.b64encode(zlib.compress(b"<a/>")), safe="").encode(), "binding.deflate"),
        (_query(Signature=None), "signature.form"),
        (_query(SigAlg=None), "signature.form"),
        (_query(SAMLEncoding="urn%3Ax"), "binding.encoding"),
        (_query(RelayState="%ff"), "binding.encoding"),
        (_query(RelayState="x" * 2_000), "binding.relay_state"),
        (b"SAMLRequest=" + b"A" * 600_000, "xml.size"),
    ],
)
def test_queries_that_are_not_read(query: bytes, reason: str) -> None:
    assert _reason(lambda: read_redirect(query)) == reason


def test_an_encoded_name_is_no_second_parameter() -> None:
    received = read_redirect(_query() + b"&%53AMLRequest=x&SAMLrequest=y")
    received.verify_query([KEY])


@pytest.mark.parametrize(
    "fields", [{}, {"SAMLRequest": "PA==", "SAMLResponse": "PA=="}, {"SAMLRequest": "*"}, {"SAMLRequest": "é"}]
)
def test_forms_that_are_not_read(fields: dict[str, str]) -> None:
    assert _reason(lambda: read_post(fields)).startswith("binding.")


def test_inflate_bombs_are_stopped_before_they_are_large() -> None:
    """S14: a gigabyte in a megabyte, and pieces that do not belong."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(packer.compress(b"\0" * 1_000_000) for _ in range(200)) + packer.flush()
    assert len(bomb) < 250_000
    tracemalloc.start()
    began = time.process_time()
    assert _reason(lambda: inflate(bomb)) == "xml.size"
    assert time.process_time() - began < 0.5
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    packed = zlib.compress(b"<a/>")[2:-4]
    for broken in (packed[:-1], packed + b"x", b"", b"\0"):
        assert _reason(lambda broken=broken: inflate(broken)) == "binding.deflate"


@pytest.mark.parametrize(
    "document",
    [b"<a/>", b"", f'<s:Envelope xmlns:s="{names.SOAP}"/>'.encode(),
     f'<s:Envelope xmlns:s="{names.SOAP}"><s:Body/></s:Envelope>'.encode(),
     f'<s:Envelope xmlns:s="{names.SOAP}"><s:Body><a/><b/></s:Body></s:Envelope>'.encode(),
     f'<s:Envelope xmlns:s="{names.SOAP}"><s:Body><a/></s:Body><s:Body><b/></s:Body></s:Envelope>'.encode()],
)  # fmt: skip
def test_what_is_no_envelope(document: bytes) -> None:
    with pytest.raises(WireError):
        bindings.read_soap(document)


# ---------------------------------------------------------------------- metadata and certificates


def _read(document: bytes, **values: Any) -> Any:
    return read_service_provider(document, now=NOW, **values)


def test_metadata_of_a_service_provider() -> None:
    read = _read(PARTNER.metadata())
    assert (read.entity_id, read.signs_requests) == (PARTNER.entity_id, True)
    assert [(one.index, one.location, one.is_default, one.binding) for one in read.consumer_services] == [
        (3, PARTNER.acs, True, names.POST),
        (4, "https://partner.example/artifact", False, names.ARTIFACT),
    ]
    assert [one.binding for one in read.logout_services] == [names.REDIRECT]
    assert [one.der for one in read.signing] == [one.der for one in read.encryption] == [PARTNER.signer.certificate]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"<a/>", "metadata.form"),
        (PARTNER.metadata(attributes='validUntil="2026-11-23T01:59:59Z"'), "metadata.expired"),
        (PARTNER.metadata().replace(b"SPSSODescriptor", b"IDPSSODescriptor"), "metadata.role"),
        (PARTNER.metadata().replace(names.PROTOCOL.encode(), b"urn:oasis:names:tc:SAML:1.1:protocol"), "metadata.role"),
        (PARTNER.metadata().replace(b":HTTP-POST", b":x").replace(b":HTTP-Artifact", b":x"), "metadata.acs"),
        (PARTNER.metadata().replace(b'index="4"', b'index="3"'), "metadata.form"),
        (PARTNER.metadata().replace(b'index="3"', b'index="x"'), "metadata.form"),
        (PARTNER.metadata().replace(b'index="3"', b'index="000000%s"' % (b"9" * 400)), "metadata.form"),
        (PARTNER.metadata().replace(b'index="3"', b'index="000000%s"' % (b"9" * 5_000)), "metadata.form"),
        (PARTNER.metadata().replace(b'index="3"', b""), "xml.missing"),
        (PARTNER.metadata().replace(PARTNER.signer.certificate.encode(), b"AAAA"), "certificate.form"),
        (PARTNER.metadata().replace(b"<md:KeyDescriptor>", b'<md:KeyDescriptor use="x">'), "metadata.form"),
        (PARTNER.metadata().replace(b'entityID="https', b'entityID="\xe2\x80\xaehttps'), "metadata.entity"),
        (b"<!DOCTYPE a>" + PARTNER.metadata().partition(b"?>")[2], "xml.dtd"),
    ],
)
def test_metadata_that_is_not_taken(document: bytes, reason: str) -> None:
    assert _reason(lambda: _read(document)) == reason


def test_metadata_is_of_whom_it_must_be_and_signed_by_the_pinned_key() -> None:
    assert _reason(lambda: _read(PARTNER.metadata(), entity_id="https://other.example")) == "metadata.entity"
    assert _reason(lambda: _read(PARTNER.metadata(), pinned=[KEY])) == "signature.missing"
    inner = PARTNER.metadata().partition(b"?>")[2].decode()
    opened = f'<md:EntitiesDescriptor xmlns:md="{names.METADATA}" validUntil="2026-11-24T00:00:00Z">'
    around = f"{opened}{inner}</md:EntitiesDescriptor>"
    read = _read(around.encode(), entity_id=PARTNER.entity_id)
    assert read.valid_until is not None and read.valid_until.day == 24
    two = around.replace("</md:EntitiesDescriptor>", inner.replace('ID="_m"', 'ID="_n"') + "</md:EntitiesDescriptor>")
    assert _reason(lambda: _read(two.encode())) == "metadata.entity"
    federation = make_signer("federation")
    root = Node("md:EntitiesDescriptor", {"ID": "_f"}, [])
    signed = render(sign(root, federation))
    assert _reason(lambda: _read(signed.encode(), pinned=[KEY])) == "signature.key"
    federation_key = read_certificate(federation.certificate).public_key
    assert _reason(lambda: _read(signed.encode(), pinned=[federation_key])) == "metadata.entity"


def test_keys_that_are_too_weak() -> None:
    assert _reason(lambda: read_certificate(make_signer(bits=1024).certificate)) == "certificate.key"
    for text in ("", "x", "-----BEGIN CERTIFICATE-----", pem_of(one_signer().certificate) * 2):
        assert _reason(lambda text=text: read_pem(text)) == "certificate.form"
    assert read_pem(pem_of(one_signer().certificate)).der == one_signer().certificate


# ---------------------------------------------------------------------- encryption


def test_an_encrypted_assertion_is_opened_by_xmlsec_and_no_nonce_comes_twice() -> None:
    """S23: GCM, a fresh key and nonce each time."""
    node = Node("saml:Assertion", {"ID": "_a"}, ["x"])
    document = etree.fromstring(
        render(Node("saml:EncryptedAssertion", {}, [encrypt(node, one_signer().certificate)])).encode()
    )
    manager = xmlsec.KeysManager()
    manager.add_key(_private_key())
    opened = xmlsec.EncryptionContext(manager).decrypt(document[0])
    assert opened.get("ID") == "_a"
    path = "./xenc:CipherData/xenc:CipherValue"
    seen = set()
    for _ in range(200):
        made = etree.fromstring(render(encrypt(node, one_signer().certificate)).encode())
        seen.add(base64.b64decode(made.findtext(path, "", {"xenc": names.XENC}))[:12])
    assert len(seen) == 200
