"""A check: one named question about a connection, its answer and what to do about a no."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """`statement` is, for a no, just the one statement that gives what is missing."""

    question: str
    passed: bool
    detail: str = ""
    hint: str = ""
    statement: str = ""
