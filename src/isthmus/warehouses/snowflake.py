"""Snowflake as a warehouse: how it is reached, and the fields a person gives."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from isthmus.duck import identifier
from isthmus.model.checks import Check
from isthmus.model.errors import Denied, Missing, WarehouseError
from isthmus.model.table import Table
from isthmus.secrets import Secret
from isthmus.warehouses import snowflake_checks, snowflake_keys, snowflake_script, snowflake_sql
from isthmus.warehouses.protocol import Direction, Traits, setting
from isthmus.warehouses.snowflake_errors import translated
from isthmus.warehouses.snowflake_session import SnowflakeWarehouse

CONNECT_TIMEOUT_S = 30
NETWORK_TIMEOUT_S = 300
"""How long a request is tried again before its outcome counts as unknown. A statement may run much longer: that is
many requests."""

_TRAITS = Traits("Snowflake", True, True, 4)


@dataclass(frozen=True)
class SnowflakeConfig:
    """A connection to one database of a Snowflake account."""

    kind: ClassVar[str] = "snowflake"
    traits: ClassVar[Traits] = _TRAITS

    account: str = setting("Account", help="The account identifier: organization-account", example="myorg-analytics")
    username: str = setting(
        "User name", help="The user made by the set-up script", example="ISTHMUS_USER", incidental=True
    )
    warehouse: str = setting(
        "Warehouse", help="The virtual warehouse to run statements on", example="ISTHMUS_WH", incidental=True
    )
    database: str = setting("Database", help="The database to work in", example="ANALYTICS")
    schema: str = setting("Schema", help="The schema the exported tables go to", example="KLAVIYO")
    private_key: Secret = setting(
        "Private key",
        help="An RSA private key in PEM (PKCS#8), whose public key the user has",
        secret=True,
        default=Secret(""),
        incidental=True,
    )
    private_key_passphrase: Secret = setting(
        "Passphrase",
        help="The passphrase of the private key, if it is encrypted",
        secret=True,
        default=Secret(""),
        advanced=True,
        incidental=True,
    )
    password: Secret = setting(
        "Password",
        help="A password or a programmatic access token, instead of a private key",
        secret=True,
        default=Secret(""),
        incidental=True,
    )
    role: str = setting(
        "Role", help="The role made by the set-up script", default="ISTHMUS", example="ISTHMUS", incidental=True
    )
    import_schema: str = setting(
        "Import schema",
        help="The schema whose tables and views may be imported",
        default=_TRAITS.default_import_schema,
        advanced=True,
        incidental=True,
    )
    temp_schema: str = setting(
        "Temporary schema",
        help="A schema for our own short-lived tables and stages",
        default=_TRAITS.default_temp_schema,
        advanced=True,
        incidental=True,
    )
    host: str = setting(
        "Host",
        help="The host name of a private link, if not that of the account",
        default="",
        example="myorg-analytics.privatelink.snowflakecomputing.com",
        advanced=True,
        incidental=True,
    )
    port: int = setting("Port", help="The port of that host", default=443, advanced=True, incidental=True)
    protocol: str = setting(
        "Protocol", help="https, or http for a gateway of your own", default="https", advanced=True, incidental=True
    )

    @property
    def account_name(self) -> str:
        """The account identifier, whatever of its address was pasted."""
        name = self.account.strip().removeprefix("https://").split("/")[0]
        for domain in (".snowflakecomputing.com", ".snowflakecomputing.cn"):
            name = name.removesuffix(domain)
        return name

    @property
    def address(self) -> str:
        """The host name that is reached."""
        if self.host:
            return self.host
        domain = "cn" if ".cn-" in self.account_name else "com"
        return f"{self.account_name.lower().replace('_', '-')}.snowflakecomputing.{domain}"

    @property
    def secrets(self) -> tuple[Secret, ...]:
        return (self.private_key, self.private_key_passphrase, self.password)

    def setup_script(
        self, tables: Sequence[Table], *, direction: Direction = Direction.BOTH, egress: Sequence[str] = ()
    ) -> str:
        """To be run in a worksheet by somebody who has the roles SECURITYADMIN and SYSADMIN."""
        public_key = ""
        with suppress(Denied):  # a script can be made before there is a key
            public_key = snowflake_keys.public_key(self.private_key, self.private_key_passphrase)
        return snowflake_script.setup_script(
            tables,
            snowflake_script.Names(
                user=self.username,
                role=self.role,
                warehouse=self.warehouse,
                database=self.database,
                schema=self.schema,
                import_schema=self.import_schema,
                temp_schema=self.temp_schema,
            ),
            public_key=public_key,
            direction=direction,
            egress=egress,
        )

    def check(self) -> Iterator[Check]:
        """Reach, sign in, then what the session can find out; the probes remove what they make."""
        question = "Can the host be reached?"
        try:
            socket.create_connection((self.address, self.port), timeout=CONNECT_TIMEOUT_S).close()
        except (OSError, UnicodeError) as e:
            hint = "check the account identifier, and that this machine may reach it by HTTPS"
            yield Check(question, False, detail=f"{self.address}:{self.port}: {e}", hint=hint)
            return
        yield Check(question, True, detail=f"{self.address}:{self.port}")
        try:
            warehouse = self.open()
        except WarehouseError as e:
            statement = snowflake_checks.to_sign_in(e, self)
            yield Check("Can we sign in?", False, detail=e.vendor or e.summary, hint=e.hint, statement=statement)
            return
        with closing(warehouse):
            yield Check("Can we sign in?", True, detail=f"{self.username} as {self.role}")
            yield from snowflake_checks.questions(self, warehouse)

    def open(self) -> SnowflakeWarehouse:
        """Sign in. Raises Unreachable, Busy or Denied; what the role may not use is met when it is used."""
        try:
            from snowflake import connector
        except ImportError as e:
            hint = "install the extra that brings it: pip install 'isthmus[snowflake]'"
            raise Missing("the Snowflake driver is not installed", hint=hint) from e
        parameters: dict[str, Any] = {
            **self._credential(),
            "account": self.account_name,
            "host": self.address,
            "port": self.port,
            "protocol": self.protocol,
            "user": self.username,
            **{name: _given(getattr(self, name)) for name in ("role", "warehouse", "database", "schema")},
            "application": "Isthmus",
            # An implicit transaction is never committed by chance: only COMMIT makes anything stay.
            "autocommit": False,
            "login_timeout": CONNECT_TIMEOUT_S,
            **_for_version(int(connector.__version__.split(".")[0])),
            "arrow_number_to_decimal": True,
            "session_parameters": dict(snowflake_sql.SESSION),
        }
        with translated(self.secrets):
            return SnowflakeWarehouse(self, connector.connect(**parameters))

    def _credential(self) -> dict[str, Any]:
        if self.private_key.reveal() and self.password.reveal():
            raise Denied("both a private key and a password are given", hint="leave one of them out")
        if self.private_key.reveal():
            key = snowflake_keys.private_key(self.private_key, self.private_key_passphrase)
            return {"private_key": key, "authenticator": "SNOWFLAKE_JWT"}
        if self.private_key_passphrase.reveal():
            raise Denied("a passphrase is given, but no private key", hint="give the private key too")
        if not self.password.reveal():
            raise Denied("neither a private key nor a password is given", hint="give private_key")
        return {"password": self.password.reveal()}


def _given(name: str) -> str:
    """A name for the driver, which folds it unless it is in quotes."""
    return identifier(snowflake_sql.folded(name)) if name else name


def _for_version(major: int) -> dict[str, Any]:
    """What the two generations of the driver call differently."""
    if major < 5:
        return {"network_timeout": NETWORK_TIMEOUT_S}
    return {
        "request_timeout": NETWORK_TIMEOUT_S,
        # Of a statement with all its retries, of which there are few; Snowflake ends it before.
        "query_timeout": snowflake_sql.STATEMENT_TIMEOUT_S + NETWORK_TIMEOUT_S,
        "enable_server_session_keep_alive_auto_detection": False,  # close() ends the session at once
    }
