"""A worker process of its own, for tests that stop or kill it. Arguments: database, master key file, port, name."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from idhub.changes import use_sealer
from idhub.db import create_database
from idhub.delivery.channel import Grade, LeasedDelivery, Outcome
from idhub.delivery.http import OutboundError, OutboundHttp
from idhub.delivery.loop import DeliveryLoop
from idhub.keys import MasterKey
from idhub.settings import Settings

TIMEOUT = timedelta(seconds=1.5)
LEASE = timedelta(seconds=3)


class PostChannel:
    """Posts the delivery's id to the test's server."""

    name = "scim"
    ceiling = Grade.E1

    def __init__(self, http: OutboundHttp, port: int, worker: str) -> None:
        self._http = http
        self._url = f"http://127.0.0.1:{port}/{worker}"

    async def send(self, delivery: LeasedDelivery, *, now: datetime) -> Outcome:
        try:
            answer = await self._http.request("POST", self._url, data={"id": delivery.id}, timeout=TIMEOUT)
        except OutboundError as error:
            return Outcome(kind="retry", error=error.description)
        return Outcome(kind="done", grade=Grade.E1, status_code=answer.status, evidence={"by": self._url[-2:]})


async def main(url: str, key_file: str, port: int, worker: str) -> None:
    settings = Settings(
        database_url=url,
        delivery_timeout=TIMEOUT,
        delivery_lease=LEASE,
        outbound_allow=f"127.0.0.1:{port}",
        database_pool_size=4,
    )
    database = create_database(settings)
    use_sealer(database, MasterKey.load(Path(key_file), create=False))
    async with OutboundHttp(settings) as http:
        channel = PostChannel(http, port, worker)
        loop = DeliveryLoop(database, settings, {channel.name: channel}, clock=lambda: datetime.now(UTC), worker=worker)
        print("ready", flush=True)
        await loop.run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
