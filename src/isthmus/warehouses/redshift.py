"""Amazon Redshift as a warehouse, through its own driver; rows travel as Parquet by a bucket, or in statements."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from isthmus.model.checks import Check
from isthmus.model.errors import Missing, WarehouseError
from isthmus.model.table import Table
from isthmus.secrets import Secret
from isthmus.warehouses import redshift_script, redshift_sql
from isthmus.warehouses.protocol import Direction, Traits, setting
from isthmus.warehouses.redshift_errors import translated
from isthmus.warehouses.redshift_warehouse import RedshiftWarehouse

CONNECT_TIMEOUT_S = 15

_SCHEMAS = {"default_import_schema": "klaviyo_import_from_dwh", "default_temp_schema": "klaviyo_tmp"}
_TRAITS = Traits("Amazon Redshift", True, True, 4, **_SCHEMAS)


@dataclass(frozen=True)
class RedshiftConfig:
    """A connection to one database of a Redshift cluster or serverless workgroup."""

    kind: ClassVar[str] = "redshift"
    traits: ClassVar[Traits] = _TRAITS

    host: str = setting(
        "Host",
        help="The endpoint of the cluster or workgroup, without port and database",
        example="examplecluster.abc123xyz789.us-west-2.redshift.amazonaws.com",
    )
    database: str = setting("Database", help="The database to work in", example="dev")
    username: str = setting("User name", help="The user made by the set-up script", example="isthmus", incidental=True)
    password: Secret = setting("Password", help="The password of that user", secret=True)
    port: int = setting("Port", help="The port of the endpoint", default=5439, example="5439")
    schema: str = setting("Schema", help="The schema the exported tables go to", default="public", example="public")
    bucket: str = setting(
        "Staging bucket",
        help="An S3 bucket in the cluster's region for files on their way: faster, and JSON may be longer. "
        "Without one, rows go in INSERT statements",
        default="",
        example="acme-isthmus-staging",
        incidental=True,
    )
    region: str = setting(
        "Region", help="The region of the bucket and the cluster", default="", example="us-west-2", incidental=True
    )
    prefix: str = setting(
        "Prefix",
        help="Under which name in the bucket the files lie while they are needed",
        default="isthmus",
        incidental=True,
    )
    iam_role: str = setting(
        "IAM role",
        help="The ARN of a role of the cluster that may read the bucket, for COPY; without it, the keys are used",
        default="",
        example="arn:aws:iam::123456789012:role/isthmus-staging",
        incidental=True,
    )
    access_key_id: str = setting(
        "Access key id",
        help="Of an IAM user that may write to the bucket; without it, what this machine has is used",
        default="",
        example="AKIAIOSFODNN7EXAMPLE",
        incidental=True,
    )
    secret_access_key: Secret | None = setting(
        "Secret access key", help="The secret of that access key", secret=True, default=None, incidental=True
    )
    sslmode: str = setting(
        "TLS mode",
        help="verify-full, verify-ca (the host has another name than its certificate) or disable",
        default="verify-full",
        advanced=True,
        incidental=True,
    )
    endpoint_url: str = setting(
        "S3 endpoint",
        help="Another address for S3: a VPC endpoint, or a store that speaks its protocol",
        default="",
        example="https://bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com",
        advanced=True,
        incidental=True,
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
        help="A schema for our own short-lived tables",
        default=_TRAITS.default_temp_schema,
        advanced=True,
        incidental=True,
    )

    def setup_script(
        self, tables: Sequence[Table], *, direction: Direction = Direction.BOTH, egress: Sequence[str] = ()
    ) -> str:
        """To be run by a superuser in the query editor or with psql."""
        return redshift_script.setup_script(
            tables,
            database=self.database,
            username=self.username,
            port=self.port,
            schema=self.schema,
            import_schema=self.import_schema,
            temp_schema=self.temp_schema,
            direction=direction,
            egress=egress,
        )

    def check(self) -> Iterator[Check]:
        """Up to thirteen questions. The probes are rolled back or removed, so that they leave nothing."""
        question = "Can the host be reached?"
        try:
            socket.create_connection((self.host, self.port), timeout=CONNECT_TIMEOUT_S).close()
        except (OSError, UnicodeError) as e:
            hint = "check host and port, and that the cluster's security group lets this machine in"
            yield Check(question, False, detail=f"{self.host}:{self.port}: {e}", hint=hint)
            return
        yield Check(question, True, detail=f"{self.host}:{self.port}")
        try:
            warehouse = RedshiftWarehouse(self, self.signed_in())
        except WarehouseError as e:
            yield Check("Can we sign in?", False, detail=e.vendor or e.summary, hint=e.hint)
            return
        try:
            yield Check("Can we sign in?", True, detail=self.username)
            try:
                warehouse.reach_bucket()
            except WarehouseError as e:
                yield Check("Can the staging bucket be reached?", False, detail=e.vendor or e.summary, hint=e.hint)
                return
            yield from warehouse.questions()
        finally:
            warehouse.close()

    def open(self) -> RedshiftWarehouse:
        """Sign in, and see that the bucket lets us in. Raises Unreachable, Busy, Denied or Missing."""
        warehouse = RedshiftWarehouse(self, self.signed_in())
        try:
            warehouse.reach_bucket()
        except BaseException:
            warehouse.close()
            raise
        return warehouse

    def signed_in(self) -> Any:
        """A connection of the driver, with our session's settings."""
        try:
            import redshift_connector
        except ImportError as e:
            hint = "install the extra that brings it: pip install 'isthmus[redshift]'"
            raise Missing("the Redshift driver is not installed", hint=hint) from e
        with translated(self.password):
            con = redshift_connector.connect(
                host=self.host,
                port=self.port,
                database=self.database,
                user=self.username,
                password=self.password.reveal(),
                ssl=self.sslmode != "disable",
                sslmode=self.sslmode if self.sslmode != "disable" else "verify-ca",
                timeout=CONNECT_TIMEOUT_S,
                application_name="isthmus",
                max_prepared_statements=0,
                tcp_keepalive_idle=30,
                tcp_keepalive_interval=10,
                tcp_keepalive_count=4,
            )
            con.autocommit = True  # BEGIN is said by us
            # The time-out was for getting in: a statement may take as long as Redshift lets it.
            con._usock.settimeout(redshift_sql.STATEMENT_TIMEOUT_S + 60)
            for statement in redshift_sql.SESSION:
                con.cursor().execute(statement)
        return con
