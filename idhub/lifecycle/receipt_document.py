"""The receipt as a document: what is signed, and how anybody verifies it with nothing but the published keys.

Pure: no database, no hub. Personal data are commitments, so that erasing them keeps the signature valid.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from audit.verify import named_once

TYP = "idhub-receipt+jws"
ALGORITHM = "ES256"
SCHEMA = 1
_SALT_BYTES = 16
_MAX_BYTES = 5_000_000
_SHOWN = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiptRow:
    """One account, session participant or application of a receipt; times are ISO 8601 in UTC."""

    id: str
    application: str
    application_name: str
    channel: str
    account: str | None
    state: str
    """pending, done, dead, elapsed."""
    grade: int
    required_grade: int
    ceiling: int
    planned_at: str | None = None
    sent_at: str | None = None
    answered_at: str | None = None
    finished_at: str | None = None
    deadline_at: str | None = None
    attempts: int = 0
    residual_until: str | None = None
    note: str | None = None
    error: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """At or above the required grade, and nothing outstanding."""
        return self.state == "done" and self.grade >= self.required_grade


def is_complete(rows: Sequence[ReceiptRow]) -> bool:
    """A whole is never better than its worst part: every row has reached its required grade."""
    return all(row.is_done for row in rows)


def commit(values: Mapping[str, str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Salted commitments of personal values, and what opens them: name -> [salt, value]."""
    commitments, disclosures = {}, {}
    for name, value in values.items():
        salt = secrets.token_hex(_SALT_BYTES)
        commitments[name] = commitment(name, salt, value)
        disclosures[name] = [salt, value]
    return commitments, disclosures


def commitment(name: str, salt: str, value: str) -> str:
    """SHA-256 over salt, name and value, parted by NUL."""
    return hashlib.sha256(b"\0".join((salt.encode(), name.encode(), value.encode()))).hexdigest()


def payload(
    *,
    issuer: str,
    case_id: str,
    number: str,
    version: int,
    kind: str,
    person_id: str,
    commitments: Mapping[str, str],
    effective_at: datetime,
    local_done_at: datetime | None,
    ended: Mapping[str, Any],
    rows: Sequence[ReceiptRow],
    as_of: datetime,
    log: Mapping[str, Any] | None,
    last_reconcile_at: datetime | None,
) -> dict[str, Any]:
    """The signed content of one version, as JSON can hold it; what is None or empty of a row is left out.

    Args:
        version: from 1; each replaces the one before.
        commitments: personal value's name -> salted hash (`commitment`), never the value.
        ended: counts of what ended at once.
        log: where the log stood when this was signed; None: whoever signed did not know.
        last_reconcile_at: None: accounts have never been compared.
    """
    return {
        "schema": SCHEMA,
        "iss": issuer,
        "case": case_id,
        "number": number,
        "version": version,
        "kind": kind,
        "person": person_id,
        "personal": dict(commitments),
        "effective_at": effective_at.isoformat(),
        "local_done_at": local_done_at.isoformat() if local_done_at else None,
        "ended": dict(ended),
        "scope": {
            "statement": "accounts and sessions known to the hub",
            "last_reconcile_at": last_reconcile_at.isoformat() if last_reconcile_at else None,
        },
        "complete": is_complete(rows),
        "rows": [
            {name: getattr(row, name) for name in ReceiptRow.__slots__ if getattr(row, name) not in (None, {})}
            for row in rows
        ],
        "as_of": as_of.isoformat(),
        "log": dict(log) if log else None,
    }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verification found. `problems` is empty exactly when the receipt is valid."""

    problems: tuple[str, ...]
    claims: Mapping[str, Any] = field(default_factory=dict)
    disclosed: Mapping[str, str] = field(default_factory=dict)
    kid: str = ""
    sha256: str = ""
    """`digest` of what was signed, where the signature holds."""

    @property
    def is_valid(self) -> bool:
        """Whether signature, form and disclosures hold."""
        return not self.problems


class Unreadable(Exception):
    """The file or the key set is not what it should be; nothing can be said of it."""


def wrap(token: str, disclosures: Mapping[str, Sequence[str]]) -> bytes:
    """The file that people keep: the signed receipt, and what opens its personal commitments."""
    document = {"receipt": token, "disclosures": {name: list(pair) for name, pair in disclosures.items()}}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"


def digest(token: str) -> str:
    """What the log's event says of a signed receipt: SHA-256 of the compact JWS."""
    return hashlib.sha256(token.encode()).hexdigest()


def verify(content: bytes, jwks: Mapping[str, Any], *, is_logged: bool = False) -> Verdict:
    """Verify a receipt file with the published keys alone. Keys inside the file are never looked at.

    Args:
        is_logged: the log is known to hold this very receipt, so that it is ours although its key was revoked since.

    Raises:
        Unreadable: not a receipt file, or not a key set.
    """
    token, disclosures = _read(content)
    keys, revoked = _keys(jwks)
    unverified = _unverified_header(token)
    unverified_kid = str(unverified["kid"])[:_SHOWN]
    is_revoked = str(unverified["kid"]) in revoked
    key = (revoked if is_revoked else keys).get(str(unverified["kid"]))
    if key is None:
        return Verdict((f"no published receipt key is named {unverified_kid!r}",), kid=unverified_kid)
    if unverified.get("alg") != ALGORITHM:
        # RFC 8725 section 3.1: the algorithm is the key's, whatever the file says.
        return Verdict((f"alg is {str(unverified.get('alg'))[:_SHOWN]!r}, not {ALGORITHM!r}",), kid=unverified_kid)
    try:
        signed = jws.deserialize_compact(token, key, algorithms=[ALGORITHM])
    except (JoseError, ValueError, TypeError, KeyError) as error:
        return Verdict((f"the signature does not verify ({type(error).__name__})",), kid=unverified_kid)
    problems: list[str] = []
    if is_revoked and not is_logged:
        problems.append(
            f"{unverified_kid!r} was revoked: others may have it. Ask for the proof that the log holds this"
        )
    header = signed.headers()
    if header.get("typ") != TYP:
        problems.append(f"typ is {header.get('typ')!r}, not {TYP!r}")
    if set(header) - {"alg", "kid", "typ"}:
        problems.append("the header has unknown members")
    try:
        claims = orjson.loads(signed.payload)
    except orjson.JSONDecodeError:
        return Verdict(("the signed content is not JSON",), kid=unverified_kid)
    problems += _check_claims(claims)
    if not isinstance(claims, dict):
        return Verdict(tuple(problems), kid=unverified_kid)
    disclosed = {}
    for name, (salt, value) in disclosures.items():
        personal = claims.get("personal")
        expected = personal.get(name) if isinstance(personal, dict) else None
        if not isinstance(expected, str) or not hmac.compare_digest(commitment(name, salt, value), expected):
            problems.append(f"the disclosed {name} is not what was signed")
        else:
            disclosed[name] = value
    return Verdict(tuple(problems), claims, disclosed, unverified_kid, digest(token))


def _read(content: bytes) -> tuple[str, dict[str, tuple[str, str]]]:
    if len(content) > _MAX_BYTES:
        raise Unreadable("the file is too large for a receipt")
    try:
        document = orjson.loads(content)
        # Again, for what orjson passes over: RFC 8259 section 4, one reader takes the first and another the last.
        json.loads(content, object_pairs_hook=named_once)
    except (ValueError, RecursionError) as error:
        raise Unreadable("the file is not JSON, or a name stands twice in it") from error
    if not isinstance(document, dict) or not isinstance(document.get("disclosures"), dict):
        raise Unreadable("the file is not a receipt: it needs `receipt` and `disclosures`")
    if set(document) - {"receipt", "disclosures"}:
        raise Unreadable("the file says more than was signed: it has only `receipt` and `disclosures`")
    token, disclosures = document.get("receipt"), document["disclosures"]
    if not isinstance(token, str) or token.count(".") != 2 or not token.isascii():
        raise Unreadable("`receipt` is not a compact JWS")
    for name, pair in disclosures.items():
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise Unreadable(f"the disclosure of {name[:_SHOWN]!r} is not a salt and a value")
    return token, {name: (pair[0], pair[1]) for name, pair in disclosures.items()}


def _keys(jwks: Any) -> tuple[dict[str, ECKey], dict[str, ECKey]]:
    """Receipt keys by name: those that count, and those that were revoked."""
    if not isinstance(jwks, Mapping):
        raise Unreadable("the key file is not a JWK set")
    keys, revoked = _receipt_keys(jwks.get("keys")), _receipt_keys(jwks.get("revoked", []))
    if not keys and not revoked:
        raise Unreadable("the key set holds no receipt key")
    return keys, revoked


def _receipt_keys(listed: Any) -> dict[str, ECKey]:
    keys: dict[str, ECKey] = {}
    if not isinstance(listed, list):
        raise Unreadable("the key file is not a JWK set")
    for entry in listed:
        if not isinstance(entry, dict) or entry.get("idhub_purpose") != "receipt" or entry.get("kty") != "EC":
            continue
        try:
            keys[str(entry["kid"])] = ECKey.import_key({n: entry[n] for n in ("kty", "crv", "x", "y")})
        except (JoseError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise Unreadable(f"a receipt key of the set cannot be used: {str(entry.get('kid'))[:_SHOWN]!r}") from error
    return keys


def _unverified_header(token: str) -> dict[str, Any]:
    head = token.partition(".")[0]
    try:
        header = orjson.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (binascii.Error, ValueError) as error:
        raise Unreadable("the receipt's header is not JSON") from error
    if not isinstance(header, dict) or not isinstance(header.get("kid"), str):
        raise Unreadable("the receipt names no key")
    return header


def _check_claims(claims: Any) -> list[str]:
    if not isinstance(claims, dict) or claims.get("schema") != SCHEMA or not isinstance(claims.get("rows"), list):
        return ["the signed content is not a receipt of a known schema"]
    done = all(_is_done(row) for row in claims["rows"])
    problems = [] if claims.get("complete") is done else ["`complete` contradicts the rows"]
    if any(not _is_within_ceiling(row) for row in claims["rows"]):
        problems.append("a grade is above what its channel can prove")
    return problems


def _grade(row: Any, name: str) -> int | None:
    value = row.get(name, 0) if isinstance(row, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_done(row: Any) -> bool:
    grade, required = _grade(row, "grade"), _grade(row, "required_grade")
    return grade is not None and required is not None and row.get("state") == "done" and grade >= required


def _is_within_ceiling(row: Any) -> bool:
    grade, ceiling = _grade(row, "grade"), _grade(row, "ceiling")
    return grade is not None and ceiling is not None and grade <= ceiling
