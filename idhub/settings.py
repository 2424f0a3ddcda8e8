"""Every setting, with its unit and default. Environment `IDHUB_*` beats `idhub.toml`; read once, at start."""

import os
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from idhub.errors import Invalid

_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
_POSTGRESQL = re.compile(r"postgres(?:ql)?(?:\+psycopg)?://(?:([^@/?]*)@)?([^@/?]*)(/[^?]*)?(?:\?(.*))?", re.DOTALL)
_POSTGRESQL_PORT = "5432"
# Of a service called idhub, or idhub-something: `IDHUB_SERVICE_HOST`, `IDHUB_PORT_8000_TCP_ADDR` and the like. No
# setting may be named so.
OF_A_SERVICE = re.compile(
    r"IDHUB_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)"
    r"(?:_(?:PROTO|PORT|ADDR))?)?)"
)
_NEAR = 0.8
_SHOWN = 80


def _as_sqlalchemy_reads(url: str) -> str:
    """An address with the driver named. Several hosts, which libpq takes with commas, are parameters there."""
    found = _POSTGRESQL.fullmatch(url)
    if found is None:
        return url
    user, hosts, name, query = (part or "" for part in found.groups())
    parameters = [query] if query else []
    if "," in hosts:
        each = [host if ":" in host else f"{host}:{_POSTGRESQL_PORT}" for host in hosts.split(",")]
        parameters += [f"host={host}" for host in each]
        hosts = ""
    at, asked = "@" if user else "", "?" if parameters else ""
    return f"postgresql+psycopg://{user}{at}{hosts}{name}{asked}{'&'.join(parameters)}"


class Settings(BaseSettings):
    """Settings of one installation. Each field's description is rendered into docs/reference/settings.md."""

    model_config = SettingsConfigDict(env_prefix="IDHUB_", extra="forbid", frozen=True)

    issuer: str = Field(
        "http://127.0.0.1:8000",
        description="Public base URL of the hub and `iss` of what it signs. Plain http is accepted on loopback only.",
    )
    data_dir: Path = Field(Path("data"), description="Folder of the embedded database, keys, witness file and imports.")
    database_url: str = Field(
        "",
        description="SQLAlchemy URL. Empty: SQLite in the data folder. `postgresql://...` for more than one machine; of"
        " several servers `postgresql://USER@HOST:PORT,HOST:PORT/NAME?target_session_attrs=read-write`.",
    )
    database_direct_url: str = Field(
        "", description="Direct PostgreSQL address for pinned connections when `database_url` goes through a pooler."
    )
    master_key_file: Path | None = Field(
        None,
        description="File with the master key (32 bytes, base64). Empty: `master.key` in the data folder, mode 0600.",
    )
    outbound_allow: str = Field(
        "",
        description="Comma-separated `host:port` that the SSRF guard lets through beside public addresses.",
    )
    time_zone: str = Field("Asia/Shanghai", description="IANA zone of an organization that names none.")
    trusted_proxies: str = Field(
        "", description="Comma-separated networks whose X-Forwarded-For is believed. Empty: none is."
    )
    database_pool_size: int = Field(16, ge=2, le=200, description="Connections of the pool and threads for requests.")
    login_name: str = Field("idhub", max_length=60, description="Name shown on the sign-in page.")

    session_idle: timedelta = Field(timedelta(hours=8), description="SSO session ends after this long without use.")
    session_lifetime: timedelta = Field(timedelta(hours=12), description="SSO session ends this long after sign-in.")
    access_token_lifetime: timedelta = Field(
        timedelta(minutes=5), description="Lifetime of access tokens; at most 5 minutes for self-contained ones."
    )
    code_lifetime: timedelta = Field(timedelta(seconds=60), description="Lifetime of authorization codes.")
    refresh_idle: timedelta = Field(timedelta(days=7), description="A refresh token unused this long is dead.")
    refresh_lifetime: timedelta = Field(
        timedelta(days=30), description="A refresh family ends this long after it began."
    )
    login_transaction_lifetime: timedelta = Field(timedelta(minutes=30), description="How long a sign-in may take.")
    invitation_lifetime: timedelta = Field(timedelta(hours=72), description="Lifetime of a first-sign-in link.")
    password_min_length: int = Field(15, ge=8, le=64, description="Characters a password must have.")
    argon2_memory_kib: int = Field(19_456, ge=1024, description="argon2id memory cost, KiB.")
    argon2_time_cost: int = Field(2, ge=1, description="argon2id passes.")
    hash_workers: int = Field(0, ge=0, le=64, description="Threads that hash passwords. 0: one a core.")
    hash_queue_seconds: float = Field(1.0, gt=0, description="Seconds of queued hashing past which the answer is 503.")

    delivery_workers: int = Field(320, ge=1, le=1000, description="Deliveries in flight at once in one worker.")
    delivery_per_application: int = Field(
        16, ge=1, le=1000, description="Deliveries in flight at once to one application."
    )
    delivery_timeout: timedelta = Field(timedelta(seconds=10), description="Total deadline of one delivery attempt.")
    delivery_lease: timedelta = Field(
        timedelta(seconds=30), description="Lease of a delivery; longer than its deadline."
    )
    delivery_max_attempts: int = Field(40, ge=1, description="Attempts after which a delivery is a dead letter.")
    witness_file: Path | None = Field(
        None, description="Append-only file of signed checkpoints. Empty: in the data folder."
    )
    witness_syslog: str = Field(
        "",
        description="Syslog receiver that is sent every signed checkpoint too (RFC 5424): `tcp://HOST:PORT`,"
        " `udp://HOST:PORT` or `unix:///dev/log`. Empty: none.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")
    log_format: Literal["json", "console"] = Field("json", description="Shape of log lines on stderr.")

    @field_validator("issuer")
    @classmethod
    def _issuer_is_an_origin(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be an http or https URL without query and fragment")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK_HOSTS:
            raise ValueError("plain http is allowed on loopback only; use https")
        if parts.path not in {"", "/"}:
            raise ValueError("must have no path")
        return value.rstrip("/")

    @field_validator("database_url", "database_direct_url")
    @classmethod
    def _database_is_one_of_two(cls, value: str) -> str:
        schemes = ("sqlite:///", "postgresql://", "postgres://", "postgresql+psycopg://")
        if value and not value.startswith(schemes):
            raise ValueError("must begin with postgresql:// or sqlite:///")
        return value

    @field_validator("witness_syslog")
    @classmethod
    def _syslog_is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        try:
            is_inet = parts.scheme in {"tcp", "udp"} and parts.hostname and parts.port and not parts.path
        except ValueError:
            is_inet = False
        is_path = parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/")
        if value and (not (is_inet or is_path) or parts.query or parts.fragment or parts.username):
            raise ValueError("must be tcp://HOST:PORT, udp://HOST:PORT or unix:///PATH")
        return value

    @field_validator("time_zone")
    @classmethod
    def _zone_is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("must be an IANA time zone such as Asia/Shanghai") from error
        return value

    @model_validator(mode="after")
    def _lease_outlives_deadline(self) -> "Settings":
        if self.delivery_lease <= self.delivery_timeout:
            raise ValueError("delivery_lease must be longer than delivery_timeout")
        if self.access_token_lifetime > timedelta(minutes=60):
            raise ValueError("access_token_lifetime must be at most 60 minutes")
        return self

    @property
    def is_https(self) -> bool:
        """Whether browsers reach the hub by TLS; decides cookie prefix and Secure."""
        return self.issuer.startswith("https://")

    @property
    def cookie_prefix(self) -> str:
        """Prefix of every cookie name: `__Host-idhub_` with https, `idhub_` on loopback."""
        return "__Host-idhub_" if self.is_https else "idhub_"

    @property
    def effective_database_url(self) -> str:
        """The database to open, with the driver named, as SQLAlchemy reads it."""
        return _as_sqlalchemy_reads(self.database_url) or f"sqlite:///{self.data_dir / 'idhub.db'}"

    @property
    def effective_database_direct_url(self) -> str:
        """The same database without a pooler."""
        return _as_sqlalchemy_reads(self.database_direct_url) or self.effective_database_url

    @property
    def effective_master_key_file(self) -> Path:
        """Where the master key lies."""
        return self.master_key_file or self.data_dir / "master.key"

    @property
    def effective_witness_file(self) -> Path:
        """Where checkpoints are witnessed."""
        return self.witness_file or self.data_dir / "witness.log"

    @property
    def hashing_threads(self) -> int:
        """Threads that hash passwords."""
        # The cores that this process may use, where the system tells: in a container that is fewer than there are.
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return self.hash_workers or usable or 1


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Sentences about `IDHUB_*` variables that are no setting, each with the setting that may have been meant.

    What Kubernetes and Docker put there for services called idhub or idhub-something is passed over.
    """
    prefix = str(Settings.model_config["env_prefix"])
    known = {f"{prefix}{name.upper()}" for name in Settings.model_fields}
    said = []
    for name in sorted(environment):
        # Settings are read whatever the case of the variable.
        if not name.upper().startswith(prefix) or name.upper() in known or OF_A_SERVICE.fullmatch(name):
            continue
        near = get_close_matches(name.upper(), sorted(known), n=1, cutoff=_NEAR)
        meant = f"; {near[0]} is" if near else ""
        said.append(f"{name[:_SHOWN]!r} is no setting{meant}.".replace("'", ""))
    return said


def load_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """Read settings from `overrides`, then the environment, then `config` (or `idhub.toml` in the data folder).

    Raises:
        Invalid: a setting is unknown or breaks its rule; the sentence names all of them.
    """
    data_dir = Path(os.environ.get("IDHUB_DATA_DIR") or overrides.get("data_dir") or "data")
    toml_file = config or data_dir / "idhub.toml"
    if config is not None and not config.is_file():
        raise Invalid(f"There is no configuration file {config}.", field="config", rule="config.missing")

    class _WithToml(Settings):
        model_config = SettingsConfigDict(toml_file=toml_file)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    try:
        return _WithToml(**overrides)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{toml_file} is not TOML: {error}", field="config", rule="config.form") from error
    except ValidationError as error:
        parts = [
            f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors(include_input=False)
        ]
        raise Invalid(
            "Settings cannot be used: " + "; ".join(parts), field="settings", rule="settings.invalid"
        ) from error
