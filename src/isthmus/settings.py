"""Every setting, read once from the environment. Nothing else of ours looks there.

A setting that is wrong, or misspelt, is an error before anything has happened. An empty variable counts as not set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from isthmus import readers
from isthmus.model.errors import InvalidInput
from isthmus.readers import PREFIX, Variable, about
from isthmus.secrets import Secret


def environment() -> dict[str, str]:
    """The environment of this process, for what a person refers to as `{env: NAME}`."""
    return dict(os.environ)


@dataclass(frozen=True)
class Settings:
    """The settings of one process. Secrets cannot print themselves."""

    home: Path = field(
        default=Path("isthmus-home"),
        metadata=about(
            "HOME",
            "The folder that holds everything of an embedded Isthmus: the store, the ledger, the key that seals "
            "credentials, and files on their way to a warehouse.",
            accepts="a path; `--home` of any command goes before it",
            read=readers.folder,
            default="./isthmus-home",
        ),
    )
    database_url: Secret | None = field(
        default=None,
        metadata=about(
            "DATABASE_URL",
            "The PostgreSQL database for the ledger and the catalog of the store, so that several machines share them. "
            "Together with ISTHMUS_STORAGE_URL, or not at all.",
            accepts="postgresql://user:password@host:port/name",
            read=readers.postgresql,
            secret=True,
        ),
    )
    storage_url: str | None = field(
        default=None,
        metadata=about(
            "STORAGE_URL",
            "The bucket for the data of the store. Together with ISTHMUS_DATABASE_URL, or not at all.",
            accepts="s3://bucket or s3://bucket/prefix",
            read=readers.bucket,
        ),
    )
    s3_endpoint: str | None = field(
        default=None,
        metadata=about(
            "S3_ENDPOINT",
            "Where the bucket is, for S3-compatible storage that is not Amazon's.",
            accepts="an http or https URL such as https://storage.example.com:9000",
            read=readers.url(("http", "https")),
            fallbacks=("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        ),
    )
    s3_region: str | None = field(
        default=None,
        metadata=about(
            "S3_REGION",
            "The region of the bucket.",
            accepts="a region such as eu-central-1",
            read=readers.text,
            fallbacks=("AWS_REGION", "AWS_DEFAULT_REGION"),
        ),
    )
    s3_access_key_id: str | None = field(
        default=None,
        metadata=about(
            "S3_ACCESS_KEY_ID",
            "Who may use the bucket.",
            accepts="an access key id; with ISTHMUS_S3_SECRET_ACCESS_KEY",
            read=readers.text,
            fallbacks=("AWS_ACCESS_KEY_ID",),
        ),
    )
    s3_secret_access_key: Secret | None = field(
        default=None,
        metadata=about(
            "S3_SECRET_ACCESS_KEY",
            "The secret that belongs to the access key id.",
            accepts="a secret access key",
            read=Secret,
            fallbacks=("AWS_SECRET_ACCESS_KEY",),
            secret=True,
        ),
    )
    secret_key: Secret | None = field(
        default=None,
        metadata=about(
            "SECRET_KEY",
            "The key that seals stored credentials. Without it, the file `secret.key` in the home is used, and made on "
            "first use. Several machines need the same key.",
            accepts="32 bytes in URL-safe base 64",
            read=readers.key,
            default="the file secret.key in the home",
            secret=True,
        ),
    )
    memory_mb: int = field(
        default=800,
        metadata=about(
            "MEMORY_MB",
            "How much memory the store's buffers may take; the process needs up to half as much again beside them.",
            accepts="megabytes, a whole number from 128",
            read=readers.whole(128),
            default="800",
        ),
    )
    threads: int | None = field(
        default=None,
        metadata=about(
            "THREADS",
            "How many threads the store may use.",
            accepts="a whole number from 1",
            read=readers.whole(1),
            default="one for each core",
        ),
    )
    egress_addresses: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "EGRESS_ADDRESSES",
            "The addresses from which this machine reaches the internet. Set-up scripts and instructions name them, so "
            "that a warehouse's administrator can let them in.",
            accepts="IP addresses or CIDR ranges, separated by commas",
            read=readers.addresses,
            default="none",
        ),
    )
    phone_region: str | None = field(
        default=None,
        metadata=about(
            "PHONE_REGION",
            "The country whose phone numbers may come without their country code. Without it, such numbers are "
            "rejected.",
            accepts="two letters such as DE",
            read=readers.region,
        ),
    )
    lock_timeout_s: int = field(
        default=60,
        metadata=about(
            "LOCK_TIMEOUT_S",
            "How long a command waits for another process that writes to the store before it gives up.",
            accepts="seconds, a whole number from 0",
            read=readers.whole(0),
            default="60",
        ),
    )
    run_retention_days: int = field(
        default=30,
        metadata=about(
            "RUN_RETENTION_DAYS",
            "How long runs are remembered, with their chunks and errors. Runs that found nothing to send are "
            "forgotten after two days; the run of the history and the newest run of each sync are kept.",
            accepts="days, a whole number from 1",
            read=readers.whole(1),
            default="30",
        ),
    )
    snapshot_retention_hours: int = field(
        default=48,
        metadata=about(
            "SNAPSHOT_RETENTION_HOURS",
            "How long the store keeps its past states. It has to be longer than the longest run: a run reads one "
            "state to its end.",
            accepts="hours, a whole number from 1",
            read=readers.whole(1),
            default="48",
        ),
    )
    log_format: str = field(
        default="text",
        metadata=about(
            "LOG_FORMAT",
            "How `isthmus serve` and `isthmus worker` write their log to stderr: lines for people, or one JSON object "
            "a line for a collector.",
            accepts="`text` or `json`",
            read=readers.one_of("text", "json"),
            default="text",
        ),
    )
    log_level: str = field(
        default="info",
        metadata=about(
            "LOG_LEVEL",
            "The least that is worth a line in the log.",
            accepts="`debug`, `info`, `warning` or `error`",
            read=readers.one_of("debug", "info", "warning", "error"),
            default="info",
        ),
    )
    http_host: str = field(
        default="127.0.0.1",
        metadata=about(
            "HTTP_HOST",
            "The address on which `isthmus serve` listens. Everyone who reaches it can read the metrics.",
            accepts="a name or address of this machine; 0.0.0.0 or :: for all its addresses",
            read=readers.text,
            default="127.0.0.1, reached from this machine only",
        ),
    )
    http_port: int = field(
        default=8470,
        metadata=about(
            "HTTP_PORT",
            "The port on which `isthmus serve` listens.",
            accepts="a whole number from 0 to 65535; 0 for any port that is free",
            read=readers.whole(0, 65535),
            default="8470",
        ),
    )
    worker_slots: int = field(
        default=4,
        metadata=about(
            "WORKER_SLOTS",
            "How many lanes of runs one worker carries out at a time. The first lane of a connection may come in "
            "addition, and lanes that wait for a slow warehouse do not count.",
            accepts="a whole number from 1",
            read=readers.whole(1),
            default="4",
        ),
    )
    check_hour: int = field(
        default=2,
        metadata=about(
            "CHECK_HOUR",
            "The hour of the day, in UTC, from which on the checks of every connection are repeated, once a night and "
            "spread over two hours. They sign in and make a small table: a warehouse that is paid by use is woken.",
            accepts="a whole number from 0 to 23, or `off`",
            read=readers.hour_or_off,
            default="2",
        ),
    )
    alert_webhook_url: Secret | None = field(
        default=None,
        metadata=about(
            "ALERT_WEBHOOK_URL",
            "Where a JSON message is posted when a sync fails or falls silent, and when that is over.",
            accepts="an http or https URL",
            read=readers.webhook,
            secret=True,
        ),
    )
    alert_webhook_secret: Secret | None = field(
        default=None,
        metadata=about(
            "ALERT_WEBHOOK_SECRET",
            "Signs what is posted to ISTHMUS_ALERT_WEBHOOK_URL, so that its receiver can tell that it came from here.",
            accepts="any text that both sides know; longer is better",
            read=Secret,
            secret=True,
        ),
    )
    alert_email_to: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "ALERT_EMAIL_TO",
            "Who gets a mail when a sync fails or falls silent, and when that is over. Together with "
            "ISTHMUS_ALERT_EMAIL_FROM and ISTHMUS_SMTP_URL.",
            accepts="e-mail addresses, separated by commas",
            read=readers.emails,
        ),
    )
    alert_email_from: str | None = field(
        default=None,
        metadata=about(
            "ALERT_EMAIL_FROM",
            "The address that alert mails come from.",
            accepts="an e-mail address that the mail server lets you send from",
            read=readers.email,
        ),
    )
    smtp_url: Secret | None = field(
        default=None,
        metadata=about(
            "SMTP_URL",
            "The mail server for alert mails. `smtp://` turns to TLS where the server offers it, and insists on it if "
            "there is a password; `smtps://` is TLS from the first byte. Write characters such as @ and / in the "
            "password as %40 and %2F.",
            accepts="smtp://user:password@host:587, smtps://user:password@host:465 or smtp://host:25",
            read=readers.smtp,
            secret=True,
        ),
    )

    @property
    def nightly_hour(self) -> int | None:
        """From which hour on checks are repeated; None if they are not."""
        return None if self.check_hour == readers.OFF else self.check_hour

    @property
    def scaled(self) -> bool:
        """Whether the ledger and the store are shared by several machines, and not in the home."""
        return self.database_url is not None

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, home: Path | None = None) -> Settings:
        """Read the settings from `environ` (this process's if None); `home` goes before ISTHMUS_HOME.

        Raises InvalidInput for an unknown ISTHMUS_ variable, a value that cannot be read, or settings that contradict
        one another. No message holds a secret value.
        """
        environ = os.environ if environ is None else environ
        known = variables()
        _require_known(environ, {variable.name for variable in known.values()})
        values = {name: _read(variable, environ) for name, variable in known.items()}
        values["home"] = readers.folder(str(home or values["home"] or cls.home))
        settings = cls(**{name: value for name, value in values.items() if value is not None})
        settings._require_pairs()
        return settings

    def _require_pairs(self) -> None:
        if (self.database_url is None) != (self.storage_url is None):
            given, missing = ("DATABASE_URL", "STORAGE_URL") if self.database_url else ("STORAGE_URL", "DATABASE_URL")
            raise InvalidInput(
                f"{PREFIX}{given} is set without {PREFIX}{missing}",
                hint="set both to share one Isthmus between machines, or neither to keep everything in the home folder",
            )
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise InvalidInput(
                "only one of the S3 access key id and the S3 secret access key is set", hint="set both, or neither"
            )
        if self.alert_webhook_secret is not None and self.alert_webhook_url is None:
            raise InvalidInput(
                f"{PREFIX}ALERT_WEBHOOK_SECRET is set without {PREFIX}ALERT_WEBHOOK_URL",
                hint="set both, or only the URL",
            )
        mail = [
            ("ALERT_EMAIL_TO", bool(self.alert_email_to)),
            ("ALERT_EMAIL_FROM", self.alert_email_from is not None),
            ("SMTP_URL", self.smtp_url is not None),
        ]
        lacking = [f"{PREFIX}{name}" for name, given in mail if not given]
        if 0 < len(lacking) < len(mail):
            raise InvalidInput(
                f"alerts by mail lack {' and '.join(lacking)}",
                hint="set all three, or none if nobody is to get mails",
            )


def variables() -> dict[str, Variable]:
    """What may be set, by the name of the field of `Settings`, in the order of the documentation."""
    return {each.name: each.metadata["variable"] for each in fields(Settings)}


def _require_known(environ: Mapping[str, str], known: set[str]) -> None:
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            close = get_close_matches(name, sorted(known), n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(known))}"
            raise InvalidInput(f"there is no setting {name}", hint=hint)


def _read(variable: Variable, environ: Mapping[str, str]) -> Any:
    for name in (variable.name, *variable.fallbacks):
        text = environ.get(name, "").strip()
        if text:
            break
    else:
        return None
    try:
        return variable.read(text)
    except ValueError:
        shown = "" if variable.secret else f" {text!r}"
        # No cause: it would hold the value, and the value may be a secret.
        raise InvalidInput(f"{name}{shown} cannot be read", hint=f"it is {variable.accepts}") from None
