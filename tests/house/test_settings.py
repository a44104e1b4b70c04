"""A person sets something in the environment, rightly or wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from isthmus.model.errors import InvalidInput
from isthmus.secrets import Secret
from isthmus.settings import Settings, environment, variables

SHARED = {"ISTHMUS_DATABASE_URL": "postgresql://u:hunter2@db/isthmus", "ISTHMUS_STORAGE_URL": "s3://bucket/isthmus/"}


def test_without_settings_everything_lies_in_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({"PATH": "/bin", "HOME": "/home/me"})
    assert settings == Settings(home=tmp_path / "isthmus-home")
    assert not settings.scaled
    assert (settings.memory_mb, settings.lock_timeout_s, settings.snapshot_retention_hours) == (800, 60, 48)
    assert (settings.http_host, settings.http_port, settings.worker_slots) == ("127.0.0.1", 8470, 4)
    assert (settings.log_format, settings.log_level) == ("text", "info")


def test_an_argument_goes_before_the_home_in_the_environment(tmp_path: Path) -> None:
    assert Settings.load({"ISTHMUS_HOME": str(tmp_path)}).home == tmp_path
    assert Settings.load({"ISTHMUS_HOME": "/elsewhere"}, home=tmp_path).home == tmp_path


def test_everything_set_is_read() -> None:
    key = Fernet.generate_key().decode()
    settings = Settings.load(
        {
            **SHARED,
            "ISTHMUS_HOME": "/srv/isthmus",
            "ISTHMUS_S3_ENDPOINT": "http://127.0.0.1:8333/",
            "ISTHMUS_S3_REGION": "eu-central-1",
            "ISTHMUS_S3_ACCESS_KEY_ID": "id",
            "ISTHMUS_S3_SECRET_ACCESS_KEY": "hunter3",
            "ISTHMUS_SECRET_KEY": key,
            "ISTHMUS_MEMORY_MB": "2000",
            "ISTHMUS_THREADS": "3",
            "ISTHMUS_EGRESS_ADDRESSES": "192.0.2.7, 2001:db8::/32",
            "ISTHMUS_PHONE_REGION": "de",
            "ISTHMUS_LOCK_TIMEOUT_S": "0",
            "ISTHMUS_SNAPSHOT_RETENTION_HOURS": "24",
            "ISTHMUS_LOG_FORMAT": "JSON",
            "ISTHMUS_LOG_LEVEL": "debug",
            "ISTHMUS_HTTP_HOST": "0.0.0.0",
            "ISTHMUS_HTTP_PORT": "0",
            "ISTHMUS_WORKER_SLOTS": "8",
        }
    )
    assert settings == Settings(
        home=Path("/srv/isthmus"),
        database_url=Secret(SHARED["ISTHMUS_DATABASE_URL"]),
        storage_url="s3://bucket/isthmus",
        s3_endpoint="http://127.0.0.1:8333",
        s3_region="eu-central-1",
        s3_access_key_id="id",
        s3_secret_access_key=Secret("hunter3"),
        secret_key=Secret(key),
        memory_mb=2000,
        threads=3,
        egress_addresses=("192.0.2.7", "2001:db8::/32"),
        phone_region="DE",
        lock_timeout_s=0,
        snapshot_retention_hours=24,
        log_format="json",
        log_level="debug",
        http_host="0.0.0.0",
        http_port=0,
        worker_slots=8,
    )
    assert settings.scaled
    for secret in ("hunter2", "hunter3", key):
        assert secret not in repr(settings)


def test_access_to_the_bucket_falls_back_to_the_usual_variables() -> None:
    usual = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "eu-west-1"}
    settings = Settings.load(usual)
    assert (settings.s3_access_key_id, settings.s3_region) == ("id", "eu-west-1")
    assert settings.s3_secret_access_key == Secret("s")
    assert Settings.load({**usual, "ISTHMUS_S3_REGION": "eu-west-2"}).s3_region == "eu-west-2"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.load({"ISTHMUS_THREADS": "", "ISTHMUS_MEMORY_MB": " "}).threads is None


def test_a_misspelt_setting_is_refused_with_the_closest_one() -> None:
    with pytest.raises(InvalidInput, match="no setting ISTHMUS_MEMORY") as caught:
        Settings.load({"ISTHMUS_MEMORY": "1"})
    assert caught.value.hint == "did you mean ISTHMUS_MEMORY_MB?"
    with pytest.raises(InvalidInput) as caught:
        Settings.load({"ISTHMUS_": "1"})
    assert "ISTHMUS_HOME" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("STORAGE_URL", "bucket"),
        ("STORAGE_URL", "s3://"),
        ("STORAGE_URL", "gs://bucket"),
        ("S3_ENDPOINT", "storage:9000"),
        ("S3_ENDPOINT", "http://[bad"),
        ("SECRET_KEY", "hunter2"),
        ("SECRET_KEY", "hunter22"),
        ("MEMORY_MB", "64"),
        ("MEMORY_MB", "2 GB"),
        ("THREADS", "0"),
        ("THREADS", "1.5"),
        ("EGRESS_ADDRESSES", "example.com"),
        ("EGRESS_ADDRESSES", "192.0.2.7,"),
        ("PHONE_REGION", "Germany"),
        ("LOCK_TIMEOUT_S", "-1"),
        ("SNAPSHOT_RETENTION_HOURS", "0"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
        ("HTTP_PORT", "65536"),
        ("HTTP_PORT", "-1"),
        ("WORKER_SLOTS", "0"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_what_is_accepted(name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=f"ISTHMUS_{name}.* cannot be read") as caught:
        Settings.load({f"ISTHMUS_{name}": value})
    assert caught.value.hint.startswith("it is ")
    assert "hunter2" not in str(caught.value.as_dict())


@pytest.mark.parametrize("given", list(SHARED))
def test_the_shared_database_and_storage_come_together(given: str) -> None:
    with pytest.raises(InvalidInput, match=f"{given} is set without") as caught:
        Settings.load({given: SHARED[given]})
    assert "neither" in caught.value.hint


def test_half_of_the_bucket_credentials_is_refused() -> None:
    with pytest.raises(InvalidInput, match="only one of"):
        Settings.load({"ISTHMUS_S3_ACCESS_KEY_ID": "id"})


def test_the_environment_of_this_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_THREADS", "7")
    assert Settings.load().threads == 7
    assert environment()["ISTHMUS_THREADS"] == "7"


def test_every_setting_says_what_it_is_for_and_what_it_accepts() -> None:
    for variable in variables().values():
        assert variable.help.endswith(".")
        assert variable.accepts and variable.default
