"""Signed in: the driver's client, and the credentials of the moment for DuckDB."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

from isthmus.duck import literal
from isthmus.model.errors import WarehouseError
from isthmus.secrets import Secret
from isthmus.warehouses import vendor_errors
from isthmus.warehouses.s3_errors import not_installed, translated

if TYPE_CHECKING:
    from isthmus.warehouses.s3 import S3Config

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
_ATTEMPTS = 3
"""How often the driver itself asks, where asking again can help: S3 answers 503 now and then, as a matter of course."""

_making = Lock()


@cache
def _models() -> Any:
    """What the driver knows about services, read from its files once in a process."""
    from botocore.loaders import create_loader

    return create_loader()


@dataclass(frozen=True)
class _Given:
    """Stands where the driver would look for credentials in all the places it knows."""

    credentials: Any

    def load_credentials(self) -> Any:
        return self.credentials


def _stay(params: Any, **_: Any) -> None:
    """Keep the driver from going to another region by itself: DuckDB would not follow, and where the store does not
    name one, the driver asks itself without end."""
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


class S3Session:
    """A client for one config. Takes on the role, if there is one, and does so again before it ends."""

    def __init__(self, config: S3Config) -> None:
        try:
            from botocore.config import Config
        except ImportError as e:
            raise not_installed(e) from e
        self._config = config
        options: dict[str, Any] = {"request_checksum_calculation": "when_required"} if config.endpoint_url else {}
        self._options = Config(
            region_name=config.region,
            signature_version="s3v4",
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=16,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            s3={"addressing_style": "path" if config.endpoint_url else "virtual"},
            user_agent_extra="isthmus",
            ignore_configured_endpoint_urls=True,
            **options,
        )
        self._key = (config.access_key_id, config.secret_access_key.reveal())
        with translated(self.secrets(), ValueError):
            self._credentials = self._signing()
            self.client = self._client("s3", config.endpoint_url, credentials=self._credentials)
            self.client.meta.events.register("before-call.s3", _stay)
        self._given: tuple[Any, ...] | None = None

    def close(self) -> None:
        self.client.close()

    def secrets(self) -> list[Secret]:
        """What may never be shown: the key, and what was received for the role."""
        found = [self._config.secret_access_key]
        taken = getattr(self, "_given", None)
        if taken:
            found += [Secret(text) for text in taken[1:] if text]
        return found

    def secret(self) -> str | None:
        """The statement that gives DuckDB the credentials of the moment. None: it has them already."""
        with translated(self.secrets()):
            taken = tuple(self._credentials.get_frozen_credentials())[:3]
        if taken == self._given:
            return None
        self._given = taken
        config = self._config
        scheme, _, host = config.endpoint_url.rpartition("://")
        values = {"KEY_ID": taken[0], "SECRET": taken[1], "REGION": config.region}
        if taken[2]:
            values["SESSION_TOKEN"] = taken[2]
        if config.endpoint_url:
            values |= {"ENDPOINT": host.rstrip("/"), "URL_STYLE": "path"}
        stated = "".join(f", {name} {literal(value)}" for name, value in values.items())
        use_ssl = "false" if scheme == "http" else "true"
        return f"CREATE OR REPLACE TEMPORARY SECRET isthmus (TYPE s3, PROVIDER config{stated}, USE_SSL {use_ssl})"

    def refused(self, answer: dict[str, Any]) -> WarehouseError:
        """The error for one object among several that were asked for together."""
        code, message = answer.get("Code", ""), f"{answer.get('Key', '')}: {answer.get('Message', '')}"
        return vendor_errors.translate("s3", "S3", code=code, message=message, secrets=self.secrets())

    def _client(self, service: str, url: str, *, credentials: Any) -> Any:
        from botocore.session import Session

        # Nothing is taken from somebody's profile, files or variables: the connection says all there is to say.
        closed = (None, None, None, None)
        nothing = (None, None, os.devnull, None)
        with _making:
            session = Session({"profile": closed, "config_file": nothing, "credentials_file": nothing})
            session.register_component("data_loader", _models())
            session.register_component("credential_provider", _Given(credentials))
            return session.create_client(
                service, region_name=self._config.region, endpoint_url=url or None, config=self._options
            )

    def _signing(self) -> Any:
        from botocore.credentials import Credentials, DeferredRefreshableCredentials, create_assume_role_refresher

        own = Credentials(*self._key)
        config = self._config
        if not config.role_arn:
            return own
        asked = {"RoleArn": config.role_arn, "RoleSessionName": "isthmus"}
        if config.external_id:
            asked["ExternalId"] = config.external_id
        sts = self._client("sts", config.sts_endpoint_url, credentials=own)
        return DeferredRefreshableCredentials(create_assume_role_refresher(sts, asked), "assume-role")
