"""What every part of a running hub shares, and how a hub is opened: database, keys, registries.

Stands beside `app` and `worker` in the import order: the composition root, without HTTP.
"""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from audit.checkpoint import Ed25519Signer, SyslogWitness
from audit.sequencer import Sequencer
from idhub.changes import use_sealer
from idhub.db import Database, create_database, new_id, wait_alone
from idhub.directory.organizations import install
from idhub.directory.tables import Installation
from idhub.errors import Unavailable
from idhub.keys import Keyring, MasterKey, has_keys, load_keyring
from idhub.lifecycle.ports import Follower, Planner, use_follower, use_planners
from idhub.migrations import Fit, fit, head_revision, migrate
from idhub.recovery import Log, enter_when_behind, witness_of
from idhub.settings import Settings

if TYPE_CHECKING:
    from idhub.credentials.revoke import EndedParticipant
    from idhub.delivery.channel import Channel
    from idhub.delivery.http import OutboundHttp

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The clock of a running hub; routes, commands and the worker read it once and hand it down as `now`."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Hub:
    """An open installation."""

    settings: Settings
    database: Database
    keyring: Keyring
    clock: Clock
    node: str
    """Names this process in leases."""

    def tell_participants(self, session: Session, participants: Sequence["EndedParticipant"], *, now: datetime) -> None:
        """Plan the logouts of sessions that ended otherwise than by a transition."""
        # Imported late, here and below: most commands end no session, change nobody and send nothing.
        from idhub.lifecycle.logouts import tell_participants

        tell_participants(session, participants, now=now)

    def channels(self, http: "OutboundHttp") -> Mapping[str, "Channel"]:
        """Every channel by name: the registry that the worker sends through."""
        from idhub.cas.channel import CasLogoutChannel
        from idhub.provisioning.outbound.channel import ScimChannel
        from idhub.saml.channel import SamlLogoutChannel
        from idhub.signals.backchannel import BackchannelLogoutChannel

        listed: list[Channel] = [
            ScimChannel(self.database, self.keyring, http, timeout=self.settings.delivery_timeout),
            BackchannelLogoutChannel(
                self.database,
                self.keyring,
                http,
                issuer=self.settings.issuer,
                timeout=self.settings.delivery_timeout,
            ),
            SamlLogoutChannel(
                self.database,
                self.keyring,
                http,
                issuer=self.settings.issuer,
                timeout=self.settings.delivery_timeout,
            ),
            CasLogoutChannel(self.database, http, timeout=self.settings.delivery_timeout),
        ]
        return {channel.name: channel for channel in listed}

    def sequencer(self) -> Sequencer:
        """The sequencer of the audit log, one candidate a process."""
        return Sequencer(
            self.database.transaction,
            Ed25519Signer(self.keyring.signing_key("checkpoint").private),
            [
                witness_of(self.log, node=self.node, clock=self.clock),
                *filter(None, [syslog_witness(self.settings)]),
            ],
            self.node,
            origin=log_origin(self.settings),
            reads=self.database.read,
        )

    @property
    def log(self) -> Log:
        """The audit log and its witness, as recovery looks at them."""
        return Log(self.database, self.keyring, self.settings.effective_witness_file, log_origin(self.settings))

    def close(self) -> None:
        """Close the database."""
        self.database.dispose()


def is_empty(database: Database) -> bool:
    """Whether no hub was ever started on this database."""
    if not inspect(database.engine).has_table("installation"):
        return True
    with database.read() as session:
        return session.execute(select(Installation.id)).first() is None


def syslog_witness(settings: Settings) -> SyslogWitness | None:
    """The receiver of syslog that is sent checkpoints, where the settings name one."""
    if not settings.witness_syslog:
        return None
    parts = urlsplit(settings.witness_syslog)
    if parts.scheme == "unix":
        return SyslogWitness(parts.path, transport="unix", host_name=socket.gethostname())
    transport: Literal["tcp", "udp"] = "udp" if parts.scheme == "udp" else "tcp"
    return SyslogWitness((parts.hostname or "", parts.port or 0), transport=transport, host_name=socket.gethostname())


def log_origin(settings: Settings) -> str:
    """Name of this installation's log in its checkpoints."""
    return settings.issuer.partition("://")[2] + "/audit"


def open_hub(settings: Settings, *, clock: Clock = utc_now) -> Hub:
    """Open the installation that `settings` name; make it on an empty database.

    One that is behind its witness enters recovery mode (`idhub.recovery`).

    An empty database is migrated and gets keys; on SQLite an older schema is brought up to date too, on PostgreSQL
    that is `idhub migrate`.

    Raises:
        Unavailable: the schema is old, or keys and database do not belong together; the sentence says what to do.
    """
    database = create_database(settings)
    try:
        with _looked_at(database, settings) as is_new:
            return _open(database, settings, is_new=is_new, clock=clock)
    except BaseException:
        database.dispose()
        raise


@contextmanager
def _looked_at(database: Database, settings: Settings) -> Iterator[bool]:
    """Whether the database is empty. As long as it is, one process of a data folder at a time goes on: another would
    find a master key whose keys are being made, and take it for one whose database is gone.
    """
    if not is_empty(database):
        yield False
        return
    folder = settings.effective_master_key_file.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield is_empty(database)
    finally:
        os.close(descriptor)


def _open(database: Database, settings: Settings, *, is_new: bool, clock: Clock) -> Hub:
    if is_new or database.dialect == "sqlite":
        migrate(database)
    fits = fit(database)
    if fits is Fit.BEYOND:
        raise Unavailable(
            f"The database is of a later version than the one after this ({head_revision()}). Start that version."
        )
    if fits is Fit.BEHIND:
        raise Unavailable(f"The database schema is not {head_revision()}. Run `idhub migrate`, then start again.")
    if is_new and settings.master_key_file is None:
        _refuse_orphaned_key(database, settings)
    master = MasterKey.load(settings.effective_master_key_file, create=is_new and not has_keys(database))
    now = clock()
    keyring = load_keyring(database, master, now=now)
    use_sealer(database, keyring)
    if not is_new:
        enter_when_behind(Log(database, keyring, settings.effective_witness_file, log_origin(settings)), now=now)
    use_planners(database, lambda: _planners(settings.delivery_timeout))
    use_follower(database, _feed)
    if is_new:
        with database.transaction() as session:
            wait_alone(session, "install")
            install(session, time_zone=settings.time_zone, now=now)
    return Hub(settings, database, keyring, clock, f"{socket.gethostname()[:24]}-{new_id('node')[5:]}")


def _planners(attempt_deadline: timedelta) -> Sequence[Planner]:
    from idhub.cas.planner import CasPlanner
    from idhub.provisioning.outbound.planner import ScimPlanner
    from idhub.saml.planner import SamlPlanner
    from idhub.signals.planner import BackchannelPlanner

    return [planner(attempt_deadline) for planner in (ScimPlanner, BackchannelPlanner, SamlPlanner, CasPlanner)]


def _feed() -> Follower:
    from idhub.provisioning.events.feed import Feed

    return Feed()


def _refuse_orphaned_key(database: Database, settings: Settings) -> None:
    """A key in the data folder whose database is gone: starting would quietly begin an empty hub in its place.

    A key that was provided from outside (`IDHUB_MASTER_KEY_FILE`) may well be there before the first start.

    Raises:
        Unavailable: the sentence says what to do.
    """
    path = settings.effective_master_key_file
    if path.exists() and not has_keys(database):
        raise Unavailable(
            f"The database is empty, but there is a master key {path}: the database that it belongs to is missing. "
            "Restore it, or remove the key if this is a new installation."
        )
