"""A batch of T-SQL as statements: what stands between semicolons, IF with its branches, BEGIN … END."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.testing.standins.synapse_wire.packets import Refused

_WORD = re.compile(
    r"""(?P<gap>\s+|--[^\n]*|/\*.*?\*/)
      | (?P<text>N?'(?:[^']|'')*')
      | (?P<name>\[(?:[^\]]|\]\])*\]|"(?:[^"]|"")*")
      | (?P<word>[@#]*[^\W\d][\w@$#]*|@@?\w+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)

STARTS = frozenset(
    "SELECT WITH INSERT UPDATE DELETE TRUNCATE MERGE CREATE ALTER DROP GRANT REVOKE DENY EXEC EXECUTE COPY RENAME SET "
    "BEGIN COMMIT ROLLBACK IF DECLARE PRINT USE RAISERROR THROW WHILE KILL".split()
)
_ALONE = frozenset(
    "INSERT UPDATE DELETE TRUNCATE CREATE DROP EXEC EXECUTE COPY COMMIT ROLLBACK IF DECLARE PRINT".split()
)
"""Words that begin a statement wherever they stand outside of parentheses after a whole one; the others may be inside
one (GRANT SELECT, ALTER … SET, INSERT … SELECT)."""


@dataclass(frozen=True)
class Word:
    kind: str
    text: str
    start: int
    end: int

    @property
    def upper(self) -> str:
        return self.text.upper() if self.kind == "word" else self.text if self.kind == "other" else ""


@dataclass(frozen=True)
class Statement:
    """One statement as it was written, with its first words in capitals."""

    text: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """IF condition then … else …"""

    condition: str
    then: Sequence[Statement | Choice]
    otherwise: Sequence[Statement | Choice]


def words(text: str) -> list[Word]:
    found = []
    for match in _WORD.finditer(text):
        kind = match.lastgroup or ""
        if kind != "gap":
            if kind == "other" and match[0] == "'":
                raise Refused(105, "Unclosed quotation mark after the character string.", severity=15)
            found.append(Word(kind, match[0], match.start(), match.end()))
    return found


def split(text: str) -> list[Statement | Choice]:
    """The statements of a batch. Raises Refused where it cannot be understood."""
    return _Splitter(text).block(closed=False)


class _Splitter:
    def __init__(self, text: str) -> None:
        self._text, self._words, self._at = text, words(text), 0

    def _peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._words[at].upper if at < len(self._words) else ""

    @property
    def _is_over(self) -> bool:
        return self._at >= len(self._words)

    def block(self, *, closed: bool) -> list[Statement | Choice]:
        found: list[Statement | Choice] = []
        while not self._is_over:
            if self._peek() == ";":
                self._at += 1
            elif closed and self._peek() == "END":
                self._at += 1
                return found
            else:
                found += self._one()
        if closed:
            raise Refused(102, "Incorrect syntax: BEGIN without END.", severity=15)
        return found

    def _one(self) -> list[Statement | Choice]:
        first = self._peek()
        if first == "IF":
            return [self._choice()]
        if first == "BEGIN" and self._peek(1) not in ("TRAN", "TRANSACTION", "TRY", "CATCH"):
            self._at += 1
            return self.block(closed=True)
        if first not in STARTS:
            near = self._words[self._at].text
            raise Refused(102, f"Incorrect syntax near '{near}'.", severity=15)
        return [self._statement()]

    def _choice(self) -> Choice:
        self._at += 1
        start, depth = self._words[self._at].start, 0
        while not self._is_over and not (depth == 0 and self._peek() in STARTS):
            depth += (self._peek() == "(") - (self._peek() == ")")
            self._at += 1
        if self._is_over:
            raise Refused(102, "Incorrect syntax: IF without a statement.", severity=15)
        condition = self._text[start : self._words[self._at].start].strip()
        then = self._one()
        while self._peek() == ";" and self._peek(1) == "ELSE":
            self._at += 1
        otherwise: list[Statement | Choice] = []
        if self._peek() == "ELSE":
            self._at += 1
            otherwise = self._one()
        return Choice(condition, then, otherwise)

    def _statement(self) -> Statement:
        begin, depth, cases = self._at, 0, 0
        while not self._is_over:
            word = self._peek()
            if depth == 0 and cases == 0 and self._at > begin:
                if word in (";", "END", "ELSE") or (word in _ALONE and self._begins_anew(begin)):
                    break
            depth += (word == "(") - (word == ")")
            cases += (word == "CASE") - (word == "END" and cases > 0)
            self._at += 1
        taken = self._words[begin : self._at]
        if self._words[begin].upper == "SET" and len(taken) > 3:  # SET ANSI_NULLS ON SET … without semicolons
            again = next((n for n, w in enumerate(taken[1:], 1) if w.upper in STARTS), None)
            if again:
                self._at = begin + again
                taken = taken[:again]
        text = self._text[taken[0].start : taken[-1].end]
        return Statement(text, tuple(w.upper for w in taken[:8]))

    def _begins_anew(self, begin: int) -> bool:
        """Whether the word here begins a statement, rather than being a part of the one under way."""
        first = self._words[begin].upper
        if first in ("GRANT", "REVOKE", "DENY", "CREATE", "ALTER"):
            return False
        before = self._words[self._at - 1].upper
        return before not in ("FOR", "AFTER", "ON", "AS", "INSTEAD", ".", ",", "=", "WITH")
