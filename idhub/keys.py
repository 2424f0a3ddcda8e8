"""Keys by purpose: made on an empty hub, sealed at rest under the master key, parsed once.

Purposes keep apart what must never be confused: a token key signs no receipt. Sealing binds a ciphertext to a logical
name (`context`), so that values cannot be swapped between rows; migrations keep those names.
"""

import base64
import binascii
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.util import base64_to_int
from sqlalchemy import LargeBinary, String, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from idhub.db import Base, Database, Instant, JsonText, wait_alone
from idhub.entropy import random_bytes
from idhub.errors import Conflict, Invalid, NotFound, Unavailable

Purpose = Literal["token", "event", "receipt", "checkpoint", "saml"]
PURPOSES: Mapping[Purpose, tuple[str, ...]] = {
    "token": ("ES256", "RS256"),
    "event": ("ES256", "RS256"),
    "receipt": ("ES256",),
    "checkpoint": ("Ed25519",),
    "saml": ("RS256",),
}
ANNOUNCED: frozenset[Purpose] = frozenset({"saml"})
"""Purposes whose partners keep keys for days: a new key is published first and signs after the next rotation."""
_CERTIFICATE_LIFETIME = timedelta(days=3650)
_RSA_BITS = 2048
_MASTER_KEY_BYTES = 32
_NONCE_BYTES = 12
_SEAL_VERSION = b"\x01"
_HASH_BLOCK = 64
"""Bytes that SHA-256 takes in at once."""


class SigningKeyRow(Base):
    """A private key, sealed under the master key with context `signing_keys:{kid}:private`."""

    __tablename__ = "signing_keys"

    kid: Mapped[str] = mapped_column(String(64), primary_key=True)
    purpose: Mapped[str] = mapped_column(String(24))
    alg: Mapped[str] = mapped_column(String(16))
    private_sealed: Mapped[bytes] = mapped_column(LargeBinary)
    public_jwk: Mapped[Any] = mapped_column(JsonText)
    created_at: Mapped[datetime] = mapped_column(Instant)
    retired_at: Mapped[datetime | None] = mapped_column(Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)
    """Since when nothing that it signs counts; then it is retired as well."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A parsed private key. `alg` is fixed with the key (RFC 8725 section 3.1)."""

    kid: str
    purpose: Purpose
    alg: str
    key: ECKey | RSAKey | OKPKey
    public_jwk: Mapping[str, Any]

    @property
    def private(self) -> Any:
        """The `cryptography` private key object."""
        return self.key.private_key

    def sign_jws(self, typ: str, payload: bytes) -> str:
        """Compact JWS (RFC 7515 section 7.1) over `payload` with `typ`, `alg` and `kid` in its header."""
        signed = _header(self.alg, self.kid, typ) + _base64url(payload)
        return (signed + b"." + _base64url(_SIGN[self.alg](self.private, signed))).decode()


@cache
def _header(alg: str, kid: str, typ: str) -> bytes:
    """The protected header of every token of this kind, encoded, with the dot behind it."""
    return _base64url(orjson.dumps({"alg": alg, "kid": kid, "typ": typ})) + b"."


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


_ES256 = ec.ECDSA(SHA256())
_RS256 = padding.PKCS1v15()


def _sign_es256(key: Any, signed: bytes) -> bytes:
    # RFC 7518 section 3.4: R and S as 32 bytes each, not the DER form that libraries return.
    r, s = decode_dss_signature(key.sign(signed, _ES256))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


_SIGN: Mapping[str, Callable[[Any, bytes], bytes]] = {
    "ES256": _sign_es256,
    "RS256": lambda key, signed: bytes(key.sign(signed, _RS256, SHA256())),
    "Ed25519": lambda key, signed: bytes(key.sign(signed)),
}


class MasterKey:
    """The key that seals everything else. Lives in a file that the database's owner need not be able to read."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        """The key itself, for a process of our own that seals too (`lifecycle.hr_apart`); never for a log or a disk."""
        self._sealing = AESGCM(_derive(raw, "idhub seal 1"))
        # RFC 2104 section 2: of either hash the key's block is taken in once. An HMAC of OpenSSL's takes three times as
        # long for a text, even the copy of one that was begun.
        key = _derive(raw, "idhub blind index 1").ljust(_HASH_BLOCK, b"\0")
        self._blind_inner, self._blind_outer = (
            hashlib.sha256(bytes(byte ^ pad for byte in key)) for pad in (0x36, 0x5C)
        )
        self.csrf_secret = _derive(raw, "idhub csrf 1")
        """Secret of form tokens; the same on every node."""
        self._check = hashlib.sha256(_derive(raw, "idhub check 1")).hexdigest()

    @classmethod
    def load(cls, path: Path, *, create: bool) -> "MasterKey":
        """Read the master key; make it (mode 0600) only on an empty installation.

        Raises:
            Unavailable: it is missing or unreadable beside an existing database; a new one is never made silently.
            Invalid: the file does not hold 32 bytes in base64.
        """
        if create and not path.exists():
            _make_file(path, base64.b64encode(os.urandom(_MASTER_KEY_BYTES)) + b"\n")
        try:
            text = path.read_bytes().strip()
        except OSError as error:
            raise Unavailable(
                f"The master key {path} cannot be read. Restore it beside the database it belongs to."
            ) from error
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Invalid(f"The master key {path} is not base64.", field="master_key_file", rule="key.form") from error
        if len(raw) != _MASTER_KEY_BYTES:
            raise Invalid(f"The master key {path} must be 32 bytes.", field="master_key_file", rule="key.length")
        return cls(raw)

    @property
    def fingerprint(self) -> str:
        """Tells whether a database was sealed with this key, without telling the key."""
        return self._check

    def seal(self, context: str, plaintext: bytes) -> bytes:
        """AES-256-GCM with `context` as bound name."""
        nonce = random_bytes(_NONCE_BYTES)
        return _SEAL_VERSION + nonce + self._sealing.encrypt(nonce, plaintext, context.encode())

    def seal_all(self, plaintexts: Iterable[tuple[str, bytes]]) -> list[bytes]:
        """`seal` for many (context, plaintext): random bytes are drawn together; a call costs more than they do."""
        given = list(plaintexts)
        drawn, encrypt = os.urandom(_NONCE_BYTES * len(given)), self._sealing.encrypt
        nonces = (drawn[start : start + _NONCE_BYTES] for start in range(0, len(drawn), _NONCE_BYTES))
        return [
            _SEAL_VERSION + nonce + encrypt(nonce, plaintext, context.encode())
            for nonce, (context, plaintext) in zip(nonces, given, strict=True)
        ]

    def open(self, context: str, sealed: bytes) -> bytes:
        """Undo `seal`.

        Raises:
            Unavailable: sealed under another key or context, or changed.
        """
        if sealed[:1] != _SEAL_VERSION or len(sealed) < 1 + _NONCE_BYTES + 16:
            raise Unavailable("A sealed value has an unknown form.")
        try:
            return self._sealing.decrypt(sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :], context.encode())
        except InvalidTag as error:
            raise Unavailable("A sealed value cannot be opened with this master key.") from error

    def blind_index(self, context: str, text: str) -> str:
        """Keyed hash (hex) of `text` within `context`: equal texts compare equal, nothing else can be learned."""
        inner, outer = self._blind_inner.copy(), self._blind_outer.copy()
        inner.update(context.encode() + b"\0" + text.encode())
        outer.update(inner.digest())
        return outer.hexdigest()


def _make_file(path: Path, content: bytes) -> None:
    """Write a file (0600) that is there whole or not at all, also after a loss of power; one that is there stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _derive(raw: bytes, name: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=name.encode()).derive(raw)


class Keyring:
    """Signing keys of the installation, parsed and held. Thread-safe."""

    def __init__(
        self,
        master: MasterKey,
        keys: Iterable[SigningKey],
        retired: Iterable[Mapping[str, Any]] = (),
        revoked: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self.master = master
        # Newest first, so that the first of a purpose and algorithm signs.
        self._keys = list(keys)
        self._retired = [dict(key) for key in retired]
        self._revoked = [dict(key) for key in revoked]
        self._published: dict[tuple[Purpose, ...], list[dict[str, Any]]] = {}

    def seal(self, context: str, plaintext: bytes) -> bytes:
        """See `MasterKey.seal`."""
        return self.master.seal(context, plaintext)

    def seal_all(self, plaintexts: Iterable[tuple[str, bytes]]) -> list[bytes]:
        """See `MasterKey.seal_all`."""
        return self.master.seal_all(plaintexts)

    def open(self, context: str, sealed: bytes) -> bytes:
        """See `MasterKey.open`."""
        return self.master.open(context, sealed)

    def blind_index(self, context: str, text: str) -> str:
        """See `MasterKey.blind_index`."""
        return self.master.blind_index(context, text)

    def signing_key(self, purpose: Purpose, alg: str | None = None) -> SigningKey:
        """The key that signs for `purpose` now, by default with the purpose's first algorithm.

        Raises:
            NotFound: no key of that algorithm serves the purpose.
        """
        wanted = alg or PURPOSES[purpose][0]
        for key in reversed(self._keys) if purpose in ANNOUNCED else self._keys:
            if key.purpose == purpose and key.alg == wanted:
                return key
        raise NotFound(f"There is no {wanted} key for {purpose}.", rule="key.missing")

    def certificates(self, purpose: Purpose) -> list[str]:
        """Base64 DER of the certificates of the purpose's keys; first the one that signs, then those to come."""
        return [str(key.public_jwk["x5c"][0]) for key in reversed(self._keys) if key.purpose == purpose]

    def private_keys(self, purpose: Purpose) -> list[Any]:
        """The `cryptography` keys of the purpose that are not retired, those to come included: what may decrypt."""
        return [key.private for key in self._keys if key.purpose == purpose]

    def sign_jws(
        self, purpose: Purpose, typ: str, payload: Mapping[str, Any] | bytes, *, alg: str | None = None
    ) -> str:
        """Compact JWS by the purpose's current key."""
        body = payload if isinstance(payload, bytes) else orjson.dumps(payload)
        return self.signing_key(purpose, alg).sign_jws(typ, body)

    def jwks(self, *purposes: Purpose) -> dict[str, Any]:
        """Public keys of the purposes, retired ones included as long as they are kept, newest first.

        Revoked ones stand apart, in a member of that name: who does not know it knows no such key (RFC 7517 section 5).
        """
        revoked = [{n: v for n, v in r.items() if n != "purpose"} for r in self._revoked if r["purpose"] in purposes]
        return {"keys": [dict(key) for key in self.published(*purposes)]} | ({"revoked": revoked} if revoked else {})

    def published(self, *purposes: Purpose) -> list[dict[str, Any]]:
        """The keys of `jwks`, not to be changed: the same object as long as this keyring publishes the same."""
        found = self._published.get(purposes)
        if found is None:
            found = [dict(k.public_jwk) for k in self._keys if k.purpose in purposes]
            found += [
                {n: v for n, v in r.items() if n != "purpose"} for r in self._retired if r.get("purpose") in purposes
            ]
            self._published[purposes] = found
        return found

    def verification_keys(self, *purposes: Purpose) -> dict[str, tuple[str, Any]]:
        """kid -> (algorithm, key object) of what verifies signatures of the purposes, retired keys included."""
        current = {k.kid: (k.alg, k.key) for k in self._keys if k.purpose in purposes}
        retired = {
            r["kid"]: ("Ed25519" if r["alg"] == "EdDSA" else r["alg"], _import(r))
            for r in self._retired
            if r["purpose"] in purposes
        }
        return {**retired, **current}


def load_keyring(database: Database, master: MasterKey, *, now: datetime) -> Keyring:
    """Load all signing keys, making the missing ones (on an empty hub: all of them)."""
    with database.read() as session:
        loaded = _load(session, master)
    missing = [
        (purpose, alg)
        for purpose, algs in PURPOSES.items()
        for alg in algs
        if not any(k.purpose == purpose and k.alg == alg for k in loaded[0])
    ]
    if missing:
        with database.transaction() as session:
            # Two nodes that start at once on an empty database make one set of keys.
            wait_alone(session, "signing keys")
            present = {(k.purpose, k.alg) for k in _load(session, master)[0]}
            for purpose, alg in missing:
                if (purpose, alg) not in present:
                    _create(session, master, purpose, alg, now=now)
        with database.read() as session:
            loaded = _load(session, master)
    return Keyring(master, *loaded)


def has_keys(database: Database) -> bool:
    """Whether keys were ever made in this database. The schema must be there."""
    with database.read() as session:
        return session.execute(select(SigningKeyRow.kid).limit(1)).first() is not None


def rotate(session: Session, keyring: Keyring, purpose: Purpose, alg: str, *, now: datetime) -> str:
    """Make a new key of the purpose; the older ones stay published as retired. Returns the new kid.

    Of an announced purpose the first rotation publishes a new key beside the one that signs, and the next one lets it
    sign and retires the old one; returned is the kid that was made, or the one that signs from now on.

    Takes effect in a process when it loads its keyring again.
    """
    if purpose in ANNOUNCED:
        return _rotate_announced(session, keyring, purpose, alg, now=now)
    session.execute(
        update(SigningKeyRow)
        .where(SigningKeyRow.purpose == purpose, SigningKeyRow.alg == alg, SigningKeyRow.retired_at.is_(None))
        .values(retired_at=now)
    )
    return _create(session, keyring.master, purpose, alg, now=now)


def revoke(session: Session, keyring: Keyring, kid: str, *, now: datetime) -> str | None:
    """Let nothing count that a key signs: others may have it. What it signed before cannot be told from theirs.

    When no other key signs in its place, one is made. Returns its kid. Takes effect in a process when it loads its
    keyring again.

    Raises:
        NotFound: there is no such key.
        Conflict: it was revoked before.
    """
    wait_alone(session, "signing keys")
    found = session.execute(
        select(SigningKeyRow.purpose, SigningKeyRow.alg, SigningKeyRow.retired_at, SigningKeyRow.revoked_at).where(
            SigningKeyRow.kid == kid
        )
    ).first()
    if found is None:
        raise NotFound(f"There is no key {kid}.", rule="key.unknown")
    if found.revoked_at is not None:
        raise Conflict(f"{kid} was revoked at {found.revoked_at.isoformat(timespec='seconds')}.", rule="key.revoked")
    session.execute(
        update(SigningKeyRow)
        .where(SigningKeyRow.kid == kid)
        # Retired too: a version that knows no revocation lets it sign nothing.
        .values(revoked_at=now, retired_at=found.retired_at or now)
    )
    others = select(SigningKeyRow.kid).where(
        SigningKeyRow.purpose == found.purpose, SigningKeyRow.alg == found.alg, SigningKeyRow.retired_at.is_(None)
    )
    if session.execute(others.limit(1)).first() is not None:
        return None
    return _create(session, keyring.master, found.purpose, found.alg, now=now)


@dataclass(frozen=True, slots=True)
class KeyState:
    """A signing key as an operator sees it."""

    kid: str
    purpose: str
    alg: str
    created_at: datetime
    retired_at: datetime | None
    revoked_at: datetime | None


def list_keys(session: Session) -> list[KeyState]:
    """Every signing key that there was, by purpose and algorithm, newest first."""
    columns = (getattr(SigningKeyRow, name) for name in KeyState.__slots__)
    order = (SigningKeyRow.purpose, SigningKeyRow.alg, SigningKeyRow.created_at.desc(), SigningKeyRow.kid)
    return [KeyState(*row) for row in session.execute(select(*columns).order_by(*order))]


def _rotate_announced(session: Session, keyring: Keyring, purpose: Purpose, alg: str, *, now: datetime) -> str:
    wait_alone(session, "signing keys")
    of_purpose = SigningKeyRow.purpose == purpose, SigningKeyRow.alg == alg, SigningKeyRow.retired_at.is_(None)
    kids = session.execute(
        select(SigningKeyRow.kid).where(*of_purpose).order_by(SigningKeyRow.created_at, SigningKeyRow.kid.desc())
    ).scalars()
    oldest, *announced = kids
    if not announced:
        return _create(session, keyring.master, purpose, alg, now=now)
    session.execute(update(SigningKeyRow).where(SigningKeyRow.kid == oldest).values(retired_at=now))
    return announced[0]


def _load(session: Session, master: MasterKey) -> tuple[list[SigningKey], list[dict[str, Any]], list[dict[str, Any]]]:
    rows = session.execute(
        select(
            SigningKeyRow.kid,
            SigningKeyRow.purpose,
            SigningKeyRow.alg,
            SigningKeyRow.private_sealed,
            SigningKeyRow.public_jwk,
            SigningKeyRow.retired_at,
            SigningKeyRow.revoked_at,
        ).order_by(SigningKeyRow.created_at.desc(), SigningKeyRow.kid)
    ).all()
    keys, retired, revoked = [], [], []
    for row in rows:
        if row.revoked_at is not None:
            # The form of OpenID Federation's historical keys (section 8.7.2).
            told = {"revoked_at": int(row.revoked_at.timestamp())}
            revoked.append({**row.public_jwk, "purpose": row.purpose, "revoked": told})
        elif row.retired_at is not None:
            retired.append({**row.public_jwk, "purpose": row.purpose})
        else:
            private = orjson.loads(master.open(_key_context(row.kid), row.private_sealed))
            keys.append(SigningKey(row.kid, row.purpose, row.alg, _import(private), row.public_jwk))
    return keys, retired, revoked


def _create(session: Session, master: MasterKey, purpose: Purpose, alg: str, *, now: datetime) -> str:
    private: Any
    if alg == "ES256":
        private = ec.generate_private_key(ec.SECP256R1())
        key: ECKey | RSAKey | OKPKey = ECKey.import_key(_pem(private))
    elif alg == "RS256":
        private = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
        key = RSAKey.import_key(_pem(private))
    else:
        private = ed25519.Ed25519PrivateKey.generate()
        key = OKPKey.import_key(_pem(private))
    kid = f"{purpose}-{now:%Y%m%d}-{key.thumbprint()[:12]}"
    public = {**key.as_dict(private=False), "kid": kid, "use": "sig", "alg": "EdDSA" if alg == "Ed25519" else alg}
    if purpose in {"receipt", "checkpoint"}:
        public["idhub_purpose"] = purpose
    if purpose == "saml":
        # RFC 7517 section 4.7: partners know the key by a certificate, in which they trust nothing but the key.
        public["x5c"] = [_certificate(private, kid, now=now)]
    session.add(
        SigningKeyRow(
            kid=kid,
            purpose=purpose,
            alg=alg,
            private_sealed=master.seal(_key_context(kid), orjson.dumps(key.as_dict(private=True))),
            public_jwk=public,
            created_at=now,
        )
    )
    session.flush()
    return kid


def _certificate(private: Any, name: str, *, now: datetime) -> str:
    """Base64 DER of a certificate that the key signs for itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"idhub {name}"[:64])])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _CERTIFICATE_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, SHA256())
    )
    return base64.b64encode(made.public_bytes(Encoding.DER)).decode()


def _pem(private: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _import(jwk: Mapping[str, Any]) -> ECKey | RSAKey | OKPKey:
    if jwk["kty"] == "EC":
        return ECKey.import_key(dict(jwk))
    if jwk["kty"] == "RSA":
        return RSAKey.import_key(_rsa_private(jwk) if "d" in jwk else dict(jwk))
    return OKPKey.import_key(dict(jwk))


def _rsa_private(jwk: Mapping[str, str]) -> rsa.RSAPrivateKey:
    d, p, q, dp, dq, qi, n, e = (base64_to_int(jwk[name]) for name in ("d", "p", "q", "dp", "dq", "qi", "n", "e"))
    numbers = rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, rsa.RSAPublicNumbers(e, n))
    # Proving both factors prime costs more than the rest of a start; we made this key and sealed it (AES-GCM).
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def _key_context(kid: str) -> str:
    return f"signing_keys:{kid}:private"
