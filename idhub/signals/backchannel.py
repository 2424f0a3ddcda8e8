"""The channel `backchannel_logout`: tells a relying party that a session has ended.

What it proves is that the relying party accepted the logout token (E1). Access tokens that it verifies by itself go on
until they expire; the evidence states how long.

OIDC Back-Channel Logout 1.0.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import select

from idhub.access.tables import OidcClient
from idhub.db import Database
from idhub.delivery.channel import Grade, LeasedDelivery, Outcome
from idhub.delivery.http import OutboundError, OutboundHttp, OutboundRefused
from idhub.keys import Keyring
from idhub.lifecycle.logouts import CEILING
from idhub.signals.planner import CHANNEL

EVENT = "http://schemas.openid.net/event/backchannel-logout"
# OIDC Back-Channel Logout 1.0 section 4: at most two minutes.
_TOKEN_LIFETIME = timedelta(minutes=2)
# Section 2.8: 200, and 204 by implementations that say "no content".
_ACCEPTED = (200, 204)


class _Client(NamedTuple):
    uri: str | None
    alg: str


class BackchannelLogoutChannel:
    """Sends logout tokens. The payload of a delivery names `client_id`, `sub`, `sid` and `residual_until`.

    Args:
        issuer: `iss` of the tokens.
        timeout: total deadline of one request.
    """

    name: Final = CHANNEL
    ceiling: Final = CEILING

    def __init__(
        self, database: Database, keyring: Keyring, http: OutboundHttp, *, issuer: str, timeout: timedelta
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._http = http
        self._issuer = issuer
        self._timeout = timeout

    async def send(self, delivery: LeasedDelivery, *, now: datetime) -> Outcome:
        """POST a fresh logout token; its `jti` is the delivery's id, so that a repeated one is recognised.

        OIDC Back-Channel Logout 1.0 sections 2.5 and 2.8.
        """
        client = await asyncio.to_thread(self._client, str(delivery.payload["client_id"]))
        evidence: dict[str, Any] = {
            "client_id": delivery.payload["client_id"],
            "sent_at": now.isoformat(),
            **_residual(delivery, now=now),
        }
        if client is None or client.uri is None:
            return Outcome(
                kind="dead", evidence=evidence, error="The client has no back-channel logout address any more."
            )
        token = self._keyring.sign_jws(
            "event", "logout+jwt", logout_claims(delivery, self._issuer, now=now), alg=client.alg
        )
        try:
            answer = await self._http.request("POST", client.uri, data={"logout_token": token}, timeout=self._timeout)
        except OutboundRefused as refused:
            return Outcome(kind="dead", evidence=evidence, error=refused.description)
        except OutboundError as error:
            return Outcome(kind="retry", evidence=evidence, error=error.description)
        evidence["status"] = answer.status
        if answer.status in _ACCEPTED:
            return Outcome(kind="done", grade=Grade.E1, evidence=evidence, status_code=answer.status)
        return Outcome(
            kind="retry",
            evidence=evidence,
            status_code=answer.status,
            error=f"The relying party answered {answer.status}.",
            retry_after=answer.retry_after(now=now),
        )

    def _client(self, client_id: str) -> _Client | None:
        with self._database.read() as session:
            found = session.execute(
                select(OidcClient.backchannel_logout_uri, OidcClient.id_token_alg).where(
                    OidcClient.client_id == client_id
                )
            ).first()
        return None if found is None else _Client(*found)


def logout_claims(delivery: LeasedDelivery, issuer: str, *, now: datetime) -> dict[str, Any]:
    """Claims of the logout token: `sub` and `sid`, no nonce. OIDC Back-Channel Logout 1.0 section 2.4."""
    issued_at = int(now.timestamp())
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": delivery.payload["client_id"],
        "iat": issued_at,
        "exp": issued_at + int(_TOKEN_LIFETIME.total_seconds()),
        "jti": delivery.id,
        "events": {EVENT: {}},
    }
    claims |= {name: delivery.payload[name] for name in ("sub", "sid") if delivery.payload.get(name)}
    return claims


def _residual(delivery: LeasedDelivery, *, now: datetime) -> dict[str, Any]:
    """How long self-contained access tokens outlive the session at verifiers that never ask."""
    text = delivery.payload.get("residual_until")
    if not text:
        return {"residual_until": None, "residual_seconds": 0}
    left = datetime.fromisoformat(str(text)) - now
    return {"residual_until": str(text), "residual_seconds": max(0, -(-left // timedelta(seconds=1)))}
