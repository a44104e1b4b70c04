"""What people agreed to, in the column `subscriptions` of their profiles: per channel a status and since when.

Which of two statements counts is decided by `consent_value` (sql/session.sql): an order, so that nothing depends on
when a row arrives. Never Subscribed overrides nothing; an opt-in older than the kept opt-out brings nobody back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from isthmus.model.mapping import CHANNELS

SMS = ("sms_marketing", "sms_transactional")
"""Consent to these is given for one phone number."""


def kept(subscriptions: str, channel: str) -> str:
    """What a profile has, as a value that can be compared."""
    return f"consent_kept({subscriptions}, '{channel}')"


def written(value: Callable[[str], str]) -> str:
    """The column's JSON from the value of each channel; NULL if there is none."""
    parts = ", ".join(f"consent_json('{channel}', {value(channel)})" for channel in CHANNELS)
    return f"('{{' || nullif(concat_ws(',', {parts}), '') || '}}')::JSON"


def updated(channels: Sequence[str], *, before: str, rows: str) -> str:
    """The column `before`, brought up to date with the values that `rows` has for these channels."""
    if not channels:
        return before

    def value(channel: str) -> str:
        was = kept(before, channel)
        return f"greatest({was}, {rows}.consent_{channel})" if channel in channels else was

    return written(value)


def merged(into: str, came: str, *, same_phone: str) -> str:
    """The column `into` of a profile with those of the ones merged into it, inside an aggregate over `came`.

    An opt-in to messages by phone is not carried to another number; an opt-out is.
    """

    def value(channel: str) -> str:
        its = kept(came, channel)
        carried = f" FILTER (({same_phone}) OR ({its}).refused)" if channel in SMS else ""
        return f"greatest({kept(into, channel)}, max({its}){carried})"

    return written(value)
