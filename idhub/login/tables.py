"""Tables of signing in elsewhere: identity providers of companies."""

from typing import Any

from sqlalchemy import Boolean, ForeignKey, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from idhub.access.tables import SamlPartner
from idhub.db import Base, JsonText


class IdentityProvider(SamlPartner, Base):
    """A company's own SAML identity provider: what its metadata and the configuration say.

    Another entity is another row, whatever its slug: links of the one are none of the other.
    """

    __tablename__ = "identity_providers"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    slug: Mapped[str] = mapped_column(String(60), index=True)
    """One enabled row a slug."""
    name: Mapped[str] = mapped_column(String(200))
    name_zh: Mapped[str | None] = mapped_column(String(200))
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), index=True)
    """It speaks for people of this organization and of those below it, for nobody else."""
    domains: Mapped[Any] = mapped_column(JsonText)
    """Mail domains that it is authoritative for."""
    rules: Mapped[Any] = mapped_column(JsonText)
    """How a subject that is not linked yet is recognised: [{match, attribute}] in order; empty: never."""
    subject_attribute: Mapped[str | None] = mapped_column(Text)
    """The attribute that names a subject for good; null: the NameID."""
    entity_id: Mapped[str] = mapped_column(Text, unique=True)
    sign_on_services: Mapped[Any] = mapped_column(JsonText)
    """Where requests go: [{binding, location, response_location}]. Empty: its metadata was not read yet."""
    signature_policy: Mapped[str] = mapped_column(String(16))
    """any, assertion, response, both: what must be signed."""
    name_id_format: Mapped[str | None] = mapped_column(String(100))
    """What requests ask for; null: as the provider is set."""
    contexts: Mapped[Any] = mapped_column(JsonText)
    """Authentication contexts that are asked for, and of which one must be stated; empty: any."""
    max_age_seconds: Mapped[int | None] = mapped_column(Integer)
    """Longest time since somebody proved to the provider who they are; null: any."""
    allows_unsolicited: Mapped[bool] = mapped_column(Boolean)
    """What it sends unasked begins a sign-in that asks; it is never believed as it is."""
    is_shown: Mapped[bool] = mapped_column(Boolean)
    """On the sign-in page; else reached by mail domain or address alone."""
