"""`idhub serve`, `worker`, `migrate`, `doctor`: running it."""

import asyncio
import gc
import resource
import signal
import sys
from typing import Annotated

import typer

from idhub.changes import Event, EventType, record
from idhub.cli.console import JsonOption, app, open_here, plain, say, settings, show, table
from idhub.cli.loading import uncollected
from idhub.db import create_database
from idhub.logs import configure_logging
from idhub.migrations import head_revision
from idhub.migrations import migrate as migrate_database
from idhub.services import Hub, open_hub
from idhub.settings import Settings

_GRACE_SECONDS = 10
_KEEP_ALIVE_SECONDS = 65
_OBJECTS_BEFORE_COLLECTION = 10_000
_OPEN_FILES = 65_536
_SWITCH_SECONDS = 0.0005
"""How long the worker's threads may compute before the event loop goes on, where that waits for each exchange with
PostgreSQL. On SQLite it computes all the time itself, and being interrupted ten times as often cost a fifth of it."""


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 8000,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Run the worker in this process too.")] = True,
) -> None:
    """Serve the hub; on an empty data folder it migrates and makes keys first."""
    run(settings(), host=host, port=port, with_worker=worker)


def run(settings: Settings, *, host: str, port: int, with_worker: bool) -> None:
    """Serve until a signal ends it."""
    with uncollected():
        import uvicorn

        from idhub.app import create_app
        from idhub.cli.protocol import BoundedProtocol

    configure_logging(settings)
    raise_open_files()
    hub = open_hub(settings)
    try:
        if hub.database.dialect == "postgresql":
            sys.setswitchinterval(_SWITCH_SECONDS)
        _started(hub, "serve")
        # What is there then stays until the end: looking through it again and again would only delay requests.
        with uncollected():
            application = create_app(hub, with_worker=with_worker)
        gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)
        say(f"idhub on http://{host}:{port} as {settings.issuer}")
        uvicorn.run(
            application,
            host=host,
            port=port,
            loop="uvloop",
            http=BoundedProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            lifespan="on",
        )
    finally:
        hub.close()


def raise_open_files() -> None:
    """Allow as many open files, and so connections, as the system lets this process have.

    A shell or systemd gives 1,024 at first, of more that a process may take: applications that do not answer would use
    them up, and then nobody else could be called or answered either.
    """
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(_OPEN_FILES, most)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _started(hub: Hub, what: str) -> None:
    from idhub.changes import SYSTEM

    with hub.database.transaction() as session:
        event = Event(
            type=EventType.HUB_STARTED,
            at=hub.clock(),
            actor=SYSTEM,
            door="system",
            target_kind="node",
            target_id=hub.node,
            details={"command": what},
        )
        record(session, [event])


@app.command("worker")
def run_worker() -> None:
    """Run the worker alone: deliveries, due dates, audit sealing, receipts. Any number may run."""
    with uncollected():
        from idhub.delivery.http import OutboundHttp
        from idhub.hr_process import HrProcess
        from idhub.worker import Worker

    chosen = settings()
    configure_logging(chosen)
    raise_open_files()
    hub = open_hub(chosen)
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for received in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(received, stop.set)
        http = OutboundHttp(chosen)
        running = Worker(hub, http, importer=HrProcess(chosen, hub.database))
        await running.start()
        say(f"worker {hub.node} is running")
        await stop.wait()
        await running.stop()
        await http.close()

    try:
        _started(hub, "worker")
        asyncio.run(run())
    finally:
        hub.close()


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    database = create_database(settings())
    try:
        before = migrate_database(database)
    finally:
        database.dispose()
    after = head_revision()
    say(f"schema {before or 'empty'} -> {after}" if before != after else f"schema {after} already")


@app.command()
def doctor(json: JsonOption = False) -> None:
    """Look at the installation and say what is wrong and what to do. Exit status 0 when nothing is."""
    from idhub.health import check

    with open_here() as hub:
        findings = check(hub, now=hub.clock())
    rows = [["ok" if f.is_ok else "PROBLEM", f.name, f.detail] for f in findings]
    show(plain(findings), as_json=json, lines=table(rows, ("state", "part", "detail")))
    sys.exit(0 if all(f.is_ok for f in findings) else 1)
