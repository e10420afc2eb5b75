"""A shell's line taken apart, as far as that can be done without running it: commands, their words, what they write to.

Quotes, substitutions, here-documents and variables that the line itself sets are followed. What only a running shell
knows (other variables, what a command prints) stays as it is written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Final

from attrs import define, field

__all__ = ["ShellCommand", "numbered", "read_line"]

_DEEPEST: Final = 8
"""Substitutions within one another; nobody writes more than two."""

_ASSIGNED: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\+?=(.*)", re.DOTALL)
_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*]"
_VARIABLE: Final = re.compile(rf"\$(?:\{{({_NAME})(?:(?::?[-=]|[%#@])[^}}]*)?\}}|({_NAME}))")
_ESCAPES: Final = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|u[0-9a-fA-F]{1,4}|U[0-9a-fA-F]{1,8}|.)", re.DOTALL)
_KEYWORDS: Final = frozenset(
    {"if", "then", "else", "elif", "do", "while", "until", "!", "{", "}", "time", "fi", "done", "coproc"}
)
_ENDS: Final = frozenset("\n;&|()")


@define
class ShellCommand:
    """One command: its words as the shell would pass them, where it writes to, and what it is given to read."""

    words: list[str] = field(factory=list)
    writes: list[str] = field(factory=list)
    given: str = ""
    """Its here-document, or the text after `<<<`."""
    sends_on: bool = False
    """Whether the next command reads what it prints."""
    inner: list[ShellCommand] = field(factory=list)
    """Those whose output its words, or what it is given, are made of."""
    settings: dict[str, str] = field(factory=dict)
    """The variables that it sets, for itself or for what follows."""


def read_line(text: str, variables: Mapping[str, str]) -> list[ShellCommand]:
    """Return the commands of a line, those within others before them. Raises ValueError for one nested too deeply."""
    known = {"IFS": " ", **variables}
    return [_settled(command, known) for command in _Reader(text, 0).read()]


def _settled(command: ShellCommand, known: dict[str, str]) -> ShellCommand:
    """Put in the values of variables, and keep those that the command sets."""

    def value(found: re.Match[str]) -> str:
        return known.get(found[1] or found[2], found[0])

    written, command.words = command.words, [_VARIABLE.sub(value, word) for word in command.words]
    if command.words and command.words[0] != written[0]:
        # The shell splits what a variable holds.
        command.words[:1] = command.words[0].split()
    command.writes = [_VARIABLE.sub(value, word) for word in command.writes]
    while command.words and command.words[0] in _KEYWORDS:
        del command.words[0]
    if command.words[:1] in (["export"], ["declare"], ["local"], ["readonly"]):
        del command.words[0]
    while command.words and (found := _ASSIGNED.fullmatch(command.words[0])) is not None:
        command.settings[found[1]] = known[found[1]] = found[2]
        del command.words[0]
    if command.words[:1] == ["set"] and "--" in command.words:
        known.update(numbered(command.words[command.words.index("--") :]))
    if command.words[:1] == ["for"] and command.words[2:3] == ["in"] and len(command.words) > 3:  # noqa: PLR2004 - for NAME in WORD
        # The first stands for all: a loop over several protected files names at least one.
        known[command.words[1]] = command.words[3]
    return command


def numbered(words: list[str]) -> dict[str, str]:
    """Return a shell's arguments as the variables that hold them; the first is its name."""
    rest = " ".join(words[1:])
    return {**{str(number): word for number, word in enumerate(words[:10])}, "@": rest, "*": rest}


class _Reader:
    """Goes through a text once."""

    def __init__(self, text: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError(f"it has more than {_DEEPEST} commands within one another")
        self._text, self._depth, self._at = text, depth, 0
        self._found: list[ShellCommand] = []
        self._command = ShellCommand()
        self._word: list[str] | None = None
        self._target: str = ""
        self._is_quoted = False
        self._waiting: list[tuple[ShellCommand, str, bool]] = []

    def read(self) -> list[ShellCommand]:
        while self._at < len(self._text):
            self._step(self._text[self._at])
        self._end_command()
        return self._found

    def _step(self, char: str) -> None:  # noqa: C901 - one case for each character that means something
        text, at = self._text, self._at
        if char in " \t\r":
            self._end_word()
            self._at += 1
        elif char == "\\":
            if text[at + 1 : at + 2] != "\n":
                self._add(text[at + 1 : at + 2])
                self._is_quoted = True
            self._at += 2
        elif char == "'":
            self._is_quoted = True
            end = self._find("'", at + 1)
            self._add(text[at + 1 : end])
            self._at = end + 1
        elif char == '"':
            self._at += 1
            self._is_quoted = True
            self._read_quoted()
        elif text.startswith("$'", at):
            self._at += 2
            self._read_escaped()
        elif text.startswith("$(", at) or char == "`":
            self._nest(char)
        elif char in "<>" or (char == "&" and text[at + 1 : at + 2] == ">"):
            self._redirect()
        elif char == "#" and self._word is None:
            self._at = self._find("\n", at)
        elif char in _ENDS:
            self._at += 1
            self._end_command(sends_on=char == "|" and text[at - 1 : at] != "|" and text[at + 1 : at + 2] != "|")
            if char == "\n":
                self._read_documents()
        else:
            self._add(char)
            self._at += 1

    def _add(self, text: str) -> None:
        if self._word is None:
            self._word = []
        self._word.append(text)

    def _find(self, what: str, start: int) -> int:
        end = self._text.find(what, start)
        return len(self._text) if end < 0 else end

    def _read_quoted(self) -> None:
        self._add("")
        text = self._text
        while self._at < len(text) and text[self._at] != '"':
            char = text[self._at]
            if char == "\\" and text[self._at + 1 : self._at + 2] in tuple('\\"$`'):
                self._add(text[self._at + 1])
                self._at += 2
            elif text.startswith("$(", self._at) or char == "`":
                self._nest(char)
            else:
                self._add(char)
                self._at += 1
        self._at += 1

    def _read_escaped(self) -> None:
        end = self._at
        while end < len(self._text) and self._text[end] != "'":
            end += 2 if self._text[end] == "\\" else 1
        # bash drops what follows a zero, up to the quote.
        self._add(_ESCAPES.sub(_unescaped, self._text[self._at : end]).partition("\0")[0])
        self._at = end + 1

    def _nest(self, char: str) -> None:
        """Read a substitution; in the word stands a mark that is no path."""
        start = self._at + (1 if char == "`" else 2)
        end = self._find("`", start) if char == "`" else _closing(self._text, start)
        self._take(self._text[start:end])
        self._add("$()")
        self._at = end + 1

    def _take(self, text: str) -> None:
        found = _Reader(text, self._depth + 1).read()
        self._found += found
        self._command.inner += found

    def _redirect(self) -> None:
        text, at = self._text, self._at
        if text[at : at + 2] in {"<(", ">("}:
            end = _closing(text, at + 2)
            self._take(text[at + 2 : end])
            self._add("$()")
            self._at = end + 1
            return
        if self._word is not None and "".join(self._word).isdigit():
            self._word = None  # the number of a descriptor
        self._end_word()
        found = re.compile(r"&>>|&>|<<<|<<-|<<|<>|<&|<|>>|>\||>&|>").match(text, at)
        assert found is not None  # noqa: S101 - it begins with one of these
        self._target = found[0]
        self._at = found.end()

    def _end_word(self) -> None:
        if self._word is None:
            return
        word, self._word, target, self._target = "".join(self._word), None, self._target, ""
        is_quoted, self._is_quoted = self._is_quoted, False
        if target in {"<<", "<<-"}:
            self._waiting.append((self._command, word, is_quoted))
        elif target == "<<<":
            self._command.given = word
        elif target in {"", "<", "<&"}:
            # What is read is a word like any other.
            self._command.words += [word] if not target else []
        elif not (target == ">&" and (word.isdigit() or word == "-")):
            self._command.writes.append(word)

    def _end_command(self, *, sends_on: bool = False) -> None:
        self._end_word()
        self._target = ""
        if self._command.words or self._command.writes:
            self._command.sends_on = sends_on
            self._found.append(self._command)
        self._command = ShellCommand()

    def _read_documents(self) -> None:
        """Read the here-documents that were announced on the line that has ended."""
        for command, end, is_quoted in self._waiting:
            lines = []
            while self._at < len(self._text):
                stop = self._find("\n", self._at)
                line, self._at = self._text[self._at : stop], stop + 1
                if line.lstrip("\t") == end:
                    break
                lines.append(line)
            command.given = "\n".join(lines)
            if not is_quoted and ("$(" in command.given or "`" in command.given):
                # As within double quotes, and those in it mean nothing.
                within = _Reader('"' + command.given.replace('"', " ") + '"', self._depth + 1).read()
                self._found += within[:-1]
        self._waiting = []


def _closing(text: str, start: int) -> int:
    """Return where the bracket is closed that was opened before; quotes are passed over."""
    depth, at = 1, start
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
        elif char == "'":
            at = text.find("'", at + 1)
            if at < 0:
                break
        elif char in "()":
            depth += 1 if char == "(" else -1
            if not depth:
                return at
        at += 1
    return len(text)


_NAMED: Final = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "e": "\x1b", "f": "\f", "v": "\v"}


def _unescaped(found: re.Match[str]) -> str:
    what = found[1]
    if what[0] in "xuU" and len(what) > 1:
        number = int(what[1:], 16)
        return chr(number) if number <= sys.maxunicode else ""
    if what[0] in "01234567":
        return chr(int(what, 8))
    return _NAMED.get(what, what)
