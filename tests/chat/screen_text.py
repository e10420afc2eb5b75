"""What stands on a terminal after bytes were written to it: enough of one for a line editor and a few colours."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z@])|\x1b\][^\x07]*\x07|\x1b[()][A-Z0-9]|\x1b[=>78M]|(.)", re.DOTALL)


class ScreenText:
    """Rows of text without end, and a cursor. What it does not know it leaves out."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows: list[list[str]] = [[]]
        self.run_over: set[int] = set()
        """The rows that go on where the one above had no more room."""
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        """Take what a program wrote."""
        for match in _TOKEN.finditer(text):
            if match[3] is not None:
                self._put(match[3])
            elif match[2] is not None:
                self._move(match[1], match[2])

    def _put(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self._down(1)
        elif char == "\b":
            self.column = max(self.column - 1, 0)
        elif char >= " ":
            if self.column >= self.columns:
                self.column = 0
                self._down(1)
                self.run_over.add(self.row)
            row = self.rows[self.row]
            row.extend(" " * (self.column + 1 - len(row)))
            row[self.column] = char
            self.column += 1

    def _down(self, count: int) -> None:
        self.row += count
        while len(self.rows) <= self.row:
            self.rows.append([])

    def _move(self, given: str, letter: str) -> None:
        count = int(given) if given.isdecimal() else 1
        if letter == "A":
            self.row = max(self.row - count, 0)
        elif letter == "B":
            self._down(count)
        elif letter == "C":
            self.column += count
        elif letter == "D":
            self.column = max(self.column - count, 0)
        elif letter == "K":
            del self.rows[self.row][self.column :]
        elif letter == "J":
            del self.rows[self.row][self.column :]
            del self.rows[self.row + 1 :]
            self.run_over = {row for row in self.run_over if row <= self.row}

    def lines(self) -> list[str]:
        """Return what was written as lines, however wide the terminal, without blanks at their ends."""
        found: list[str] = []
        for number, row in enumerate(self.rows):
            text = "".join(row)
            if number in self.run_over:
                found[-1] += text
            else:
                found.append(text)
        found = [line.rstrip() for line in found]
        while found and not found[-1]:
            found.pop()
        return found
