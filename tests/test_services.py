"""Opening a hub: an empty one is made, one that lost a part refuses in words (D42); settings name what is wrong."""

import gc
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from idhub.db import Database
from idhub.directory.tables import Installation, Organization
from idhub.errors import Invalid, Unavailable
from idhub.keys import MasterKey
from idhub.services import is_empty, open_hub
from idhub.settings import Settings, load_settings
from tests.support.clock import Clock


def test_empty_folder_becomes_a_hub_and_opens_again(settings: Settings, database_url: str, clock: Clock) -> None:
    assert database_url
    hub = open_hub(settings, clock=clock)
    kid = hub.keyring.signing_key("token").kid
    assert not is_empty(hub.database)
    hub.close()
    again = open_hub(settings, clock=clock)
    assert again.keyring.signing_key("token").kid == kid
    assert again.node != hub.node
    again.close()


def test_database_without_its_master_key_refuses_and_no_new_key_is_made(
    settings: Settings, database_url: str, clock: Clock
) -> None:
    assert database_url
    open_hub(settings, clock=clock).close()
    path = settings.effective_master_key_file
    key = path.read_bytes()
    path.unlink()
    for _ in range(2):
        with pytest.raises(Unavailable) as refusal:
            open_hub(settings, clock=clock)
        assert "Restore it beside the database" in refusal.value.description
        assert not path.exists()
    path.write_bytes(key)
    open_hub(settings, clock=clock).close()


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_master_key_without_its_database_refuses_and_begins_no_empty_hub(
    settings: Settings, database_url: str, clock: Clock
) -> None:
    open_hub(settings, clock=clock).close()
    for name in ("idhub.db", "idhub.db-wal", "idhub.db-shm"):
        (settings.data_dir / name).unlink(missing_ok=True)
    for _ in range(2):
        with pytest.raises(Unavailable) as refusal:
            open_hub(settings, clock=clock)
        assert "the database that it belongs to is missing" in refusal.value.description
    assert database_url


def test_master_key_that_was_provided_from_outside_may_be_there_first(
    settings: Settings, database_url: str, clock: Clock, tmp_path: Path
) -> None:
    assert database_url
    path = tmp_path / "secrets" / "key"
    fingerprint = MasterKey.load(path, create=True).fingerprint
    hub = open_hub(settings.model_copy(update={"master_key_file": path}), clock=clock)
    assert hub.keyring.master.fingerprint == fingerprint
    hub.close()


def test_start_that_stopped_before_the_hub_was_made_goes_on(
    database: Database, settings: Settings, clock: Clock
) -> None:
    """Schema and keys are there, the installation is not."""
    assert is_empty(database)
    hub = open_hub(settings, clock=clock)
    assert not is_empty(database)
    hub.close()


def test_keys_without_their_master_key_are_not_made_anew_though_nothing_was_installed(
    database: Database, settings: Settings, clock: Clock
) -> None:
    assert is_empty(database)
    settings.effective_master_key_file.unlink()
    with pytest.raises(Unavailable):
        open_hub(settings, clock=clock)
    assert not settings.effective_master_key_file.exists()


def test_key_of_another_hub_refuses_in_words(settings: Settings, database_url: str, clock: Clock) -> None:
    assert database_url
    open_hub(settings, clock=clock).close()
    path = settings.effective_master_key_file
    path.unlink()
    MasterKey.load(path, create=True)
    with pytest.raises(Unavailable) as refusal:
        open_hub(settings, clock=clock)
    assert refusal.value.description == "A sealed value cannot be opened with this master key."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ResourceWarning)
        del refusal
        gc.collect()
    assert not [str(one.message) for one in said if one.category is ResourceWarning], "it leaves no connection open"


def test_two_nodes_that_start_at_once_make_one_hub(settings: Settings, database_url: str, clock: Clock) -> None:
    assert database_url
    settings = settings.model_copy(update={"master_key_file": settings.data_dir / "shared.key"})
    MasterKey.load(settings.effective_master_key_file, create=True)
    hubs = _at_once([lambda: open_hub(settings, clock=clock)] * 3)
    with hubs[0].database.read() as session:
        assert session.execute(select(func.count()).select_from(Installation)).scalar_one() == 1
        assert session.execute(select(func.count()).select_from(Organization)).scalar_one() == 1
    assert len({str(hub.keyring.jwks("token", "receipt", "event", "checkpoint")) for hub in hubs}) == 1
    for hub in hubs:
        hub.close()


def _at_once(work: list[Callable[[], Any]]) -> list[Any]:
    barrier = threading.Barrier(len(work))

    def run(one: Callable[[], Any]) -> Any:
        barrier.wait(20)
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result(60) for future in [pool.submit(run, one) for one in work]]


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("issuer", "http://hub.example"),
        ("issuer", "ftp://127.0.0.1"),
        ("issuer", "https://hub.example/path"),
        ("issuer", "https://hub.example?x=1"),
        ("issuer", "https://hub.example#x"),
        ("issuer", "hub"),
        ("time_zone", "Mars/Olympus"),
        ("time_zone", ""),
        ("time_zone", "../../etc/passwd"),
        ("time_zone", "Asia/Shanghai\0"),
        ("database_url", "mysql://db.example.com/idhub"),
        ("database_direct_url", "idhub.db"),
        ("database_pool_size", 1),
        ("database_pool_size", "many"),
        ("session_idle", "soon"),
        ("argon2_memory_kib", 8),
        ("password_min_length", 4),
        ("delivery_workers", 0),
        ("log_level", "loud"),
    ],
)
def test_setting_that_cannot_be_used_is_named(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(Invalid) as refusal:
        load_settings(data_dir=tmp_path, **{name: value})
    assert f"{name}: " in refusal.value.description
    assert "Value error" not in refusal.value.description
    assert refusal.value.rule == "settings.invalid"


def test_setting_that_does_not_exist_is_named_wherever_it_stands(tmp_path: Path) -> None:
    (tmp_path / "idhub.toml").write_text('session_idel = "PT8H"\n')
    with pytest.raises(Invalid) as refusal:
        load_settings(data_dir=tmp_path)
    assert "session_idel" in refusal.value.description


def test_lease_must_outlive_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refusal:
        load_settings(data_dir=tmp_path, delivery_lease="PT5S", delivery_timeout="PT10S")
    assert "delivery_lease must be longer than delivery_timeout" in refusal.value.description


def test_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "idhub.toml").write_text('time_zone = "Europe/Berlin"\nlogin_name = "file"\n')
    monkeypatch.setenv("IDHUB_TIME_ZONE", "America/New_York")
    settings = load_settings(data_dir=tmp_path)
    assert (settings.time_zone, settings.login_name) == ("America/New_York", "file")


def test_bad_setting_in_the_environment_is_named_without_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDHUB_DATABASE_POOL_SIZE", "s3cret-value")
    with pytest.raises(Invalid) as refusal:
        load_settings(data_dir=tmp_path)
    assert "database_pool_size" in refusal.value.description
    assert "s3cret-value" not in refusal.value.description


def test_configuration_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refusal:
        load_settings(tmp_path / "nowhere.toml")
    assert refusal.value.rule == "config.missing"


def test_configuration_file_that_is_not_toml_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "idhub.toml").write_text("this is [not toml")
    with pytest.raises(Invalid) as refusal:
        load_settings(data_dir=tmp_path)
    assert "idhub.toml" in refusal.value.description
