"""All accounts of an application, as a plain iterator: the reading of `scim.listing` in an event loop of its own.

No transaction is open while it reads; the loop lives for the length of one run, in the thread of that run.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from idhub.access.applications import scim_token_context
from idhub.access.tables import Application
from idhub.db import Database
from idhub.delivery.http import OutboundHttp
from idhub.errors import NotFound
from idhub.keys import Keyring
from idhub.provisioning.outbound import records
from idhub.provisioning.outbound.budget import Budgets
from idhub.provisioning.outbound.channel import ScimHttp, pace_of
from idhub.provisioning.outbound.mapping_rules import ApplicationMapping
from idhub.provisioning.outbound.options import TargetOptions
from scim.client import ScimClient
from scim.dialects import DIALECTS, GENERIC, Dialect
from scim.listing import ListingProof, UserListing, UserPage, paging_of

MAX_PAGE_BYTES: Final = 16_000_000
PAGE_TIMEOUT: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Source:
    """Where an application's accounts are read."""

    application_id: str
    slug: str
    base_url: str
    token_sealed: bytes | None
    dialect: Dialect
    mapping: ApplicationMapping
    control_user_name: str | None
    options: TargetOptions


def source_of(session: Session, application_id: str) -> Source:
    """The application's SCIM target.

    Raises:
        NotFound: it has none.
    """
    slug = session.scalar(select(Application.slug).where(Application.id == application_id))
    target = records.targets(session, [application_id]).get(application_id)
    if slug is None or target is None:
        raise NotFound(
            "This application has no SCIM target: there is nothing to compare.",
            field="application",
            rule="reconcile.no_target",
        )
    return Source(
        application_id,
        slug,
        target.base_url,
        target.token_sealed,
        DIALECTS.get(target.dialect, GENERIC).learned(target.capabilities),
        target.mapping,
        target.control_user_name,
        target.options,
    )


class AccountReader:
    """One read of all accounts: `for page in reader.pages(): ...`, then `reader.proof(distinct=...)`.

    Raises:
        Unavailable: the sealed credential cannot be opened.
        RemoteRefused: the credential cannot be sent.
    """

    def __init__(
        self,
        source: Source,
        database: Database,
        keyring: Keyring,
        http: OutboundHttp,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        token = None
        if source.token_sealed is not None:
            token = keyring.open(scim_token_context(source.application_id), source.token_sealed).decode()
        self._http = http
        self._client = ScimClient(
            ScimHttp(
                http,
                max_bytes=MAX_PAGE_BYTES,
                proxy=source.options.proxy,
                egress_address=source.options.egress_address,
            ),
            source.base_url,
            token,
            time_left=lambda: PAGE_TIMEOUT,
            now=clock,
            dialect=source.dialect,
            pace=pace_of(Budgets(database), source.application_id, source.options),
        )
        self._clock = clock
        self._listing: UserListing | None = None

    @property
    def total(self) -> int | None:
        """How many accounts there are, as the application said."""
        return None if self._listing is None else self._listing.total

    @property
    def read(self) -> int:
        """How many were read so far."""
        return 0 if self._listing is None else self._listing.read

    def pages(self) -> Iterator[UserPage]:
        """Every page, once."""
        with asyncio.Runner() as runner:
            try:
                listing = UserListing(self._client, now=self._clock, paging=runner.run(paging_of(self._client)))
                self._listing = listing
                while (page := runner.run(listing.next_page())) is not None:
                    # Kept for evidence of single deliveries; of a long read it would only grow.
                    self._client.exchanges.clear()
                    yield page
            finally:
                runner.run(self._http.close())

    def proof(self, *, distinct: int) -> ListingProof:
        """What was proven."""
        if self._listing is None:
            return ListingProof("index", None, 0, 0, ("Nothing was read.",))
        return self._listing.proof(distinct=distinct)
