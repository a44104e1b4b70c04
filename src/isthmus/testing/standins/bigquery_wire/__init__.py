"""What local-bigquery does not do and Google does: who may do what, what is refused, and what gets lost on the way.

A front in the process of the test stands before local-bigquery: it gives tokens for service-account keys, checks them
on every call, keeps a small IAM (roles on datasets and on the project, GRANT and REVOKE), writes down every call, and
fails when it is told to. What it lets pass goes to local-bigquery as it is.
"""

from isthmus.testing.standins.bigquery_wire.access import Access
from isthmus.testing.standins.bigquery_wire.calls import Call, Calls, Cut, Lost, Refusal
from isthmus.testing.standins.bigquery_wire.front import Front

__all__ = ["Access", "Call", "Calls", "Cut", "Front", "Lost", "Refusal"]
