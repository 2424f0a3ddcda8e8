"""SAML artifacts: an answer that its service provider fetches for itself, once and soon.

Nothing about the person is kept with one. The assertion is made when it is fetched, under the use predicate of that
moment: whoever left meanwhile is not spoken of.

SAML Bindings 3.6.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from idhub.credentials.predicate import Refused
from idhub.credentials.tables import SamlArtifact

LIFETIME: Final = timedelta(seconds=60)
"""A browser carries it from one page to the next, and the application asks at once."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An artifact that was spent just now.

    Args:
        session_id: whose assertion it is; None: the answer is a refusal.
        answer: what `keep` was given.
    """

    session_id: str | None
    principal_id: str | None
    answer: dict[str, Any]


def keep(
    session: Session,
    artifact: str,
    service_provider_id: str,
    *,
    session_id: str | None,
    principal_id: str | None,
    answer: Mapping[str, Any],
    now: datetime,
) -> None:
    """Store what the service provider will fetch by the artifact. No use of the session is made yet."""
    session.execute(
        insert(SamlArtifact).values(
            artifact_hash=_hash_of(artifact),
            service_provider_id=service_provider_id,
            session_id=session_id,
            principal_id=principal_id,
            answer=dict(answer),
            created_at=now,
            expires_at=now + LIFETIME,
            spent_at=None,
        )
    )


def spend(session: Session, artifact: str, service_provider_id: str, *, now: datetime) -> Kept | Refused:
    """Claim the artifact for the service provider that it was made for; of two that ask at once exactly one gets it.

    Bindings 3.6.5.2: another one's is answered as one that does not exist, and is not spent by that.
    """
    artifact_hash = _hash_of(artifact)
    claimed = session.execute(
        update(SamlArtifact)
        .where(
            SamlArtifact.artifact_hash == artifact_hash,
            SamlArtifact.service_provider_id == service_provider_id,
            SamlArtifact.spent_at.is_(None),
            SamlArtifact.expires_at > now,
        )
        .values(spent_at=now)
        .returning(SamlArtifact.session_id, SamlArtifact.principal_id, SamlArtifact.answer)
        .execution_options(synchronize_session=False)
    ).first()
    if claimed is not None:
        return Kept(claimed.session_id, claimed.principal_id, claimed.answer)
    known = session.execute(
        select(SamlArtifact.service_provider_id, SamlArtifact.spent_at).where(
            SamlArtifact.artifact_hash == artifact_hash
        )
    ).first()
    if known is None:
        return Refused("artifact.unknown")
    if known.service_provider_id != service_provider_id:
        return Refused("artifact.of_another")
    return Refused("artifact.expired" if known.spent_at is None else "artifact.spent")


def _hash_of(artifact: str) -> str:
    return hashlib.sha256(artifact.encode()).hexdigest()
