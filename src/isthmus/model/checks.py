"""A check: one named question about a connection, its answer and what to do about a no."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """`statement` is, for a no, just the one statement that gives what is missing.

    A yes that `warns` is one a person should look at all the same: rights too many, a key that ends soon. Its
    `statement`, if there is one, mends that.
    """

    question: str
    passed: bool
    detail: str = ""
    hint: str = ""
    statement: str = ""
    warns: bool = False

    def is_worse_than(self, before: Check) -> bool:
        """Whether a yes has become a no, or begins to warn."""
        if not self.passed:
            return before.passed
        return self.warns and before.passed and not before.warns
