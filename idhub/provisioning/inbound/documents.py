"""People's SCIM documents, made once and kept: pages splice them instead of making them anew.

A document says what it was made of: the versions of the person and of what senders said, how often companies and
departments were renamed, whether the mail was another's, and the rules (`rules_of`). Whoever reads it compares that in
the same snapshot (`page.Met`); so nobody who changes a person has to know of documents, and none can be stale. It is
made and kept by whoever first reads a page without it, behind the answer. What differs from sender to sender is not
part of it: external ids and groups are added when it is shown, and terms of a token leave out of it what they must.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, Final

import orjson
from sqlalchemy.orm import Session

from idhub.db import from_micros, upsert_on
from idhub.directory.names import stored_login_name
from idhub.provisioning.inbound.person_resource import Row, shown_part, user_resource
from idhub.provisioning.inbound.tables import ScimDocument
from scim.reading import Projection
from scim.schemas import ENTERPRISE_USER, USER, Resource
from scim.server import Stored, complete
from scim.standard import USER_TYPE

RULES: Final = 2
"""Counted up when `person_resource.user_resource` makes another document of the same person than before."""
_NOTHING_SAID: Final[Mapping[str, Any]] = {}
_DEFAULT_VIEW: Final = Projection(USER_TYPE)
_ID: Final = b',"id":"'
_WORDS: Final = (
    f'{{"schemas":["{USER}","{ENTERPRISE_USER}"],"userName":"',
    f',"{ENTERPRISE_USER}":{{"employeeNumber":"',
    ',"meta":{"resourceType":"User","created":"',
    '","lastModified":"',
    '","version":"W/\\"',
    '"displayName":"',
    ',"active":true',
    ',"name":{"formatted":"',
    '","familyName":"',
    '","givenName":"',
    ',"userType":"Regular"',
    ',"emails":[{"value":"',
    '","type":"work"}]',
    ',"phoneNumbers":[{"value":"',
    '","type":"mobile"}]',
    '","organization":"',
    '","department":"',
    '"manager":{"value":"',
)
"""The longest of what most documents have in common; the order is part of the form."""


@dataclass(frozen=True, slots=True)
class Form:
    """How documents are kept.

    Args:
        rules: what they are made by, of one installation: the rules, the address that is part of them, and this form.
        words: characters that stand for a text, and the text. No JSON has such a character.
    """

    rules: str
    words: tuple[tuple[bytes, bytes], ...]

    def short(self, document: bytes) -> bytes:
        """A document as it is kept."""
        for character, word in self.words:
            document = document.replace(word, character)
        return document

    def full(self, kept: bytes) -> bytes:
        """Documents as they are shown, out of a text that has any number of them."""
        for character, word in self.words:
            kept = kept.replace(character, word)
        return kept


def form_of(base_url: str) -> Form:
    """How documents of an address are kept."""
    return _form(base_url, RULES)


@cache
def _form(base_url: str, rules: int) -> Form:
    texts = [*_WORDS, f'"location":"{base_url}/Users/', f'"$ref":"{base_url}/Users/']
    words = tuple((bytes((number,)), text.encode()) for number, text in enumerate(texts, start=1))
    said = f"{rules}\n{base_url}\n{words}".encode()
    return Form(hashlib.sha256(said).hexdigest()[:16], words)


@dataclass(frozen=True, slots=True)
class Document:
    """What every sender has of a person.

    Args:
        whole: with what is not shown and filters see all the same.
        resource: what is shown; `body` is the same as JSON, without `id` and `meta`.
        complete: the same with them.
        is_plain: it has nothing but what RFC 7643 names and shows by default.
    """

    row: Row
    whole: Resource
    resource: Resource
    body: bytes
    complete: bytes
    digest: str
    is_plain: bool


def make_document(row: Row, user_name: str, *, base_url: str) -> Document:
    """The document of a person who was read whole."""
    extras = orjson.loads(row.extras) if row.extras else _NOTHING_SAID
    whole = user_resource(row, user_name, extras, base_url=base_url)
    resource = shown_part(whole, extras) if extras else whole
    body = orjson.dumps(resource)
    digest = hashlib.sha256(body).hexdigest()[:16]
    stored = Stored(
        id=row.id,
        resource=resource,
        version=version_of(row, digest),
        created_at=instant(row.created_at),
        changed_at=instant(max(row.changed_at, row.said_at or 0)),
        body=body,
    )
    made = complete(stored, USER_TYPE, base_url=base_url)
    return Document(row, whole, resource, body, made, digest, _DEFAULT_VIEW.shows_all(resource))


def version_of(row: Row, digest: str) -> str:
    """The version of a resource with a part that has this digest."""
    return f"{row.version}.{row.said_version or 0}.{digest}"


@lru_cache(maxsize=4_096)
def instant(micros: int) -> datetime:
    """An instant as it is stored. People who came together have theirs in common."""
    return from_micros(micros)


def id_of(document: bytes) -> str:
    """Whose complete document it is."""
    start = document.rindex(_ID) + len(_ID)
    return document[start : document.index(b'"', start)].decode()


def without_id(document: bytes) -> bytes:
    """A complete document without `id` and `meta`, as a part of others is put behind it."""
    # No text of JSON holds a quote as it is, and behind the id there is no other.
    return b"%b}" % document[: document.rindex(_ID)]


def joined(body: bytes, digest: str, own: Resource) -> tuple[bytes, str]:
    """A document with what one sender has beside it, and the digest of both."""
    if not own:
        return body, digest
    part = orjson.dumps(own)
    return b"%b,%b" % (body[:-1], part[1:]), hashlib.sha256(digest.encode() + part).hexdigest()[:16]


def keep_documents(session: Session, made: Sequence[Document], *, form: Form) -> None:
    """Keep documents that were made in a snapshot.

    Those that are older than what is kept do no harm: they hold no more, and are made again.
    """
    rows = [_values(each, form) for each in sorted(made, key=lambda each: each.row.id)]
    statement = upsert_on(session.get_bind().dialect.name, ScimDocument)
    changed = {name: statement.excluded[name] for name in rows[0] if name != "principal_id"}
    session.connection().execute(statement.on_conflict_do_update(index_elements=["principal_id"], set_=changed), rows)


def _values(document: Document, form: Form) -> dict[str, Any]:
    row = document.row
    # How letters beyond ASCII fold is not for the database to say: it compares the form that is kept.
    mail_key = None if row.said_name is not None or row.email is None else stored_login_name("email", row.email)
    return {
        "principal_id": row.id,
        "person_version": row.version,
        "said_version": row.said_version or 0,
        "names_version": row.names_version or 0,
        "rules": form.rules,
        "mail_key": mail_key,
        "is_mail_taken": None if mail_key is None else document.whole["userName"] != row.email,
        "is_plain": document.is_plain,
        "is_all": document.resource == document.whole,
        "digest": document.digest,
        "body": form.short(document.complete),
    }
