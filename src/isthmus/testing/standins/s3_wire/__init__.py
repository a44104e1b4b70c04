"""A wire between a client and an S3 (or STS) server on which things can go wrong, when and where a test says so.

Requests pass through as they are, signatures and all. A `Fault` picks some of them by method and path, and then
answers in the server's place, loses the server's answer, cuts the request half-way, or holds it until it is let go.
Every request is written down.
"""

from isthmus.testing.standins.s3_wire.faults import Fault, Request
from isthmus.testing.standins.s3_wire.wire import S3Wire, s3_wire

__all__ = ["Fault", "Request", "S3Wire", "s3_wire"]
