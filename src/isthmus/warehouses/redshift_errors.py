"""The errors of the Redshift driver and of S3 as ours: by SQLSTATE and S3's codes, and by words where there is none."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from isthmus.model.errors import Unreachable, WarehouseError
from isthmus.secrets import Secret
from isthmus.warehouses import vendor_errors

TITLE = "Amazon Redshift"


@contextmanager
def translated(*secrets: Secret | None) -> Iterator[None]:
    """Raise the driver's errors as ours."""
    from redshift_connector.error import Error

    given = [s for s in secrets if s is not None]
    try:
        yield
    except Error as e:
        _close_what_failed(e)
        said = e.args[0] if e.args and isinstance(e.args[0], dict) else None
        if said is None:
            message = ": ".join(str(a) for a in e.args)
            raise vendor_errors.translate("redshift", TITLE, code="", message=message, secrets=given) from e
        message = said.get("M", "") + (f"\n{said['D']}" if said.get("D") else "")
        code = said.get("C", "")
        raise vendor_errors.translate("redshift", TITLE, code=code, message=message, secrets=given) from e
    except (OSError, EOFError, struct.error) as e:
        raise _broken(e) from e
    except AttributeError as e:
        # The driver's own words for a socket that was closed under it.
        if "NoneType" not in str(e):
            raise
        raise _broken(e) from e


def _close_what_failed(error: BaseException) -> None:
    """Close the socket of a connection that could not be made: the driver raises, and leaves it open."""
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_name == "__init__":
            made = step.tb_frame.f_locals.get("self")
            for part in ("_sock", "_usock"):
                with suppress(Exception):
                    getattr(made, part).close()
        step = step.tb_next


def _broken(error: Exception) -> WarehouseError:
    hint = "check that the cluster or workgroup is up, and that a firewall lets this machine through"
    return Unreachable("the connection to Amazon Redshift broke", hint=hint, vendor=str(error))


@contextmanager
def s3_translated(*secrets: Secret | None) -> Iterator[None]:
    """Raise what S3 says as ours."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as e:
        code = str(e.response.get("Error", {}).get("Code", ""))
        raise _s3(code, str(e), secrets) from e
    except (Boto3Error, BotoCoreError) as e:
        inner = e.__cause__ or e.__context__
        if isinstance(inner, ClientError):  # how an upload says what went wrong in it
            code = str(inner.response.get("Error", {}).get("Code", ""))
            raise _s3(code, str(inner), secrets) from e
        raise _s3(type(e).__name__, str(e), secrets) from e


def _s3(code: str, message: str, secrets: tuple[Secret | None, ...]) -> WarehouseError:
    given = [s for s in secrets if s is not None]
    return vendor_errors.translate("redshift", "Amazon S3", code=f"s3:{code}", message=message, secrets=given)
