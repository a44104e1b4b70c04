"""The rules that a row of a landing can break, as numbered conditions of one CASE."""

from __future__ import annotations

from dataclasses import dataclass

from isthmus.model.intake import Reason


@dataclass(frozen=True)
class Fault:
    """A rule that a row can break: which column, which reason, and what to tell."""

    column: str
    reason: Reason
    message: str


class Rules:
    """Collects faults in order; the first that holds is the row's."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._cases: list[str] = []

    def add(self, condition: str, column: str, reason: Reason, message: str) -> None:
        self.faults.append(Fault(column, reason, message))
        self._cases.append(f"WHEN {condition} THEN {len(self.faults)}")

    def case(self) -> str:
        return f"CASE {' '.join(self._cases)} END" if self._cases else "NULL::INTEGER"
