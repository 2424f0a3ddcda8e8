"""A worker that works while a test's story goes on."""

import asyncio
from collections.abc import Awaitable, Callable

from idhub.delivery.http import OutboundHttp
from idhub.services import Hub
from idhub.worker import Importer, Reliever, Worker


def with_worker(
    hub: Hub,
    story: Callable[[], Awaitable[object]],
    *,
    reliever: Reliever | None = None,
    importer: Importer | None = None,
) -> None:
    """Run a story beside the hub's worker, which has stopped when this returns, whatever became of the story."""

    async def main() -> None:
        async with OutboundHttp(hub.settings) as http:
            worker = Worker(hub, http, reliever=reliever, importer=importer)
            await worker.start()
            try:
                await story()
            finally:
                await worker.stop()
                assert not worker.is_running

    asyncio.run(main())
