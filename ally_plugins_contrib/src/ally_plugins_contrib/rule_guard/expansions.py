"""The words of a script with their quotes and expansions: how each becomes the texts that it may stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol

from .commands import Command, Shell, UnreadableError, output_of
from .words import COMMA, MANY, MAX_ALTERNATIVES, ONE, OPEN, SHUT, TILDE, UNSEEN, expand_braces

__all__ = ["Word", "WordReader"]

MAX_DEPTH: Final = 24
"""Levels of substitutions and groups within each other."""

MAX_RETRIES: Final = 20
"""Places where `((` turned out to begin two groups; each is read twice."""

_RUN: Final = re.compile(r"[\w./:=@%+^-]+", re.ASCII)
_QUOTED_RUN: Final = re.compile(r"""[^"\\$`]+""")
_ANSI: Final = {"n": "\n", "t": "\t", "r": "\r", "a": " ", "b": " ", "e": " ", "E": " ", "f": " ", "v": " "}
_ANSI_CODE: Final = re.compile(r"x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|u[0-9A-Fa-f]{1,4}|U[0-9A-Fa-f]{1,8}|c.", re.DOTALL)
_ZERO: Final = re.compile(r"[xuU]?0+")


@dataclass
class Word:
    """A word being read: its fields in each alternative, and its text as it was written."""

    fields: list[list[str]]
    raw: str = ""
    is_quoted: bool = False
    home: str = ""

    def add(self, text: str) -> None:
        for each in self.fields:
            each[-1] += text

    def add_any(self, values: tuple[str, ...], *, is_split: bool) -> None:
        """Add a value that may be any of these; one that is split makes fields."""
        grown: list[list[str]] = []
        for each in self.fields:
            for value in values:
                parts = value.split() if is_split else [value]
                head = each[-1]
                if not parts:
                    # Blank: it ends the field where it is split, and adds nothing else.
                    grown.append([*each, ""] if value and head else list(each))
                    continue
                new = [*each[:-1], head + parts[0], *parts[1:]]
                if is_split and value[0].isspace() and head:
                    new = [*each, *parts]
                if is_split and value[-1].isspace():
                    new.append("")
                grown.append(new)
        self.fields = grown if len(grown) <= MAX_ALTERNATIVES else [[UNSEEN]]

    def alternatives(self) -> list[list[str]]:
        """Return the fields that it may become, without those that expanded to nothing."""
        found = []
        for each in self.fields:
            texts = [text for part in each for text in expand_braces(part)]
            texts = [re.sub(f"^{TILDE}(?=/|$)", lambda _: self.home, text).replace(TILDE, "~") for text in texts]
            found.append([text for text in texts if text or self.is_quoted])
        return found


class Grammar(Protocol):
    """What reads that which stands between words."""

    def read_list(self, closers: tuple[str, ...]) -> None:
        """Read commands up to one of the closing words or signs, which is left where it is."""

    def read_documents(self) -> None:
        """Read the texts that belong to the commands of the line that has just ended."""

    def read_apart(self, text: str, shell: Shell) -> list[Command]:
        """Return the commands of another text."""


class WordReader:
    """Reads words of one text; `grammar` reads what is in their substitutions, from the same place on."""

    def __init__(self, text: str, shell: Shell, grammar: Grammar) -> None:
        if shell.depth > MAX_DEPTH:
            raise UnreadableError("it is nested too deep")
        self.text, self.at, self.shell, self.grammar = text, 0, shell, grammar
        self.commands: list[Command] = []
        self._nested = 0  # groups and conditions around this place
        self._is_conditional = False  # what stands before decides whether this runs
        self._stdin: str | None = None
        self._before: tuple[Command, ...] = ()
        self._documents: list[tuple[object, str, bool, bool]] = []
        self._inner: list[Command] = []
        self._arrived: tuple[str, ...] = ()
        self._retries = 0

    def _check_depth(self) -> None:
        if self._nested + self.shell.depth > MAX_DEPTH:
            raise UnreadableError("it is nested too deep")

    def _note_retry(self, at: int) -> None:
        self.at, self._retries = at, self._retries + 1
        if self._retries > MAX_RETRIES:
            raise UnreadableError("'((' begins too many groups")

    def _expect(self, sign: str) -> None:
        if not self.text.startswith(sign, self.at):
            found = self.text[self.at : self.at + 1] or "the end"
            raise UnreadableError(f"{sign!r} is missing before {found!r}")
        self.at += len(sign)

    def _skip_blank(self, *, newlines: bool = False) -> None:
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t":
                self.at += 1
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
            elif char == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif newlines and char == "\n":
                self.at += 1
                self._is_conditional = False
                self.grammar.read_documents()
            elif newlines and char == ";" and not self.text.startswith((";;", ";&"), self.at):
                self.at += 1
            else:
                return

    def _peek_raw(self) -> str:
        found = re.compile(r"""[^\s;|&()<>"'\\$`]+""").match(self.text, self.at)
        if found is None:
            return ""
        after = self.text[found.end() : found.end() + 1]
        return found[0] if after not in {"'", '"', "\\", "$", "`"} or not after else ""

    def _read_word(self, *, is_assigned: bool = False, is_raw: bool = False) -> Word:  # noqa: C901, PLR0912 - as above
        """Read one word with its expansions. One that `is_raw` is the end of a document, in which nothing expands."""
        home = self.shell.variables.get("HOME", (UNSEEN,))[0]
        start, word = self.at, Word([[""]], home=home)
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t\n;|&()" or (char in "<>" and not self.text.startswith("(", self.at + 1)):
                break
            if char == "\\":
                self._read_escape(word)
            elif char == "'":
                self._read_single(word)
            elif char == '"':
                self._read_double(word)
            elif is_raw:
                word.add(char)
                self.at += 1
            elif (run := _RUN.match(self.text, self.at)) is not None:
                word.add(run[0])
                self.at = run.end()
            elif char in "$`":
                self._read_dollar(word, is_quoted=is_assigned)
            elif char in "<>":
                self.at += 1
                self._read_substitution()
                word.add(UNSEEN)
            elif char == "~" and self._is_tilde(start, is_assigned=is_assigned):
                self._read_tilde(word)
            elif char == "~" and self.at > start and self.text[self.at - 1] in "{,":
                word.add(TILDE)
                self.at += 1
            else:
                word.add({"*": MANY, "?": ONE, "{": OPEN, ",": COMMA, "}": SHUT}.get(char, char))
                self.at += 1
                if char == "[":
                    self._read_class(word)
        if self.at == start:
            found = self.text[self.at : self.at + 1] or "the end"
            raise UnreadableError(f"a word is missing before {found!r}")
        word.raw = self.text[start : self.at]
        return word

    def _read_class(self, word: Word) -> None:
        found = re.compile(r"[^\s\]'\"\\$`;|&()<>]{1,64}\]").match(self.text, self.at)
        if found is not None:
            for each in word.fields:
                each[-1] = each[-1][:-1] + ONE
            self.at = found.end()

    def _is_tilde(self, start: int, *, is_assigned: bool) -> bool:
        before = self.text[self.at - 1] if self.at > start else ""
        return not before or before == "=" or (before == ":" and is_assigned)

    def _read_tilde(self, word: Word) -> None:
        self.at += 1
        name = re.compile(r"[\w.+-]*").match(self.text, self.at)
        user = name[0] if name is not None else ""
        self.at += len(user)
        if not user:
            word.add_any(self.shell.variables.get("HOME", (UNSEEN,)), is_split=False)
        elif user in "+-":
            word.add_any(self.shell.folders if user == "+" else (UNSEEN,), is_split=False)
        else:
            word.add("/root" if user == "root" else f"/home/{user}")

    def _read_escape(self, word: Word) -> None:
        if self.at + 1 >= len(self.text):
            raise UnreadableError("it ends with a backslash")
        if self.text[self.at + 1] != "\n":
            word.add(self.text[self.at + 1])
            word.is_quoted = True
        self.at += 2

    def _read_single(self, word: Word) -> None:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise UnreadableError("a single quote has no end")
        word.add(self.text[self.at + 1 : end])
        word.is_quoted = True
        self.at = end + 1

    def _read_double(self, word: Word) -> None:
        self.at += 1
        word.is_quoted = True
        while True:
            if self.at >= len(self.text):
                raise UnreadableError("a double quote has no end")
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return
            if (run := _QUOTED_RUN.match(self.text, self.at)) is not None:
                word.add(run[0])
                self.at = run.end()
            elif char == "\\" and self.at + 1 < len(self.text):
                following = self.text[self.at + 1]
                word.add("" if following == "\n" else following if following in '$`"\\' else f"\\{following}")
                self.at += 2
            elif char in "$`":
                self._read_dollar(word, is_quoted=True)
            else:
                word.add(char)
                self.at += 1

    def _read_dollar(self, word: Word, *, is_quoted: bool) -> None:
        if self.text[self.at] == "`":
            self._read_backticks(word, is_quoted=is_quoted)
            return
        following = self.text[self.at + 1 : self.at + 2]
        if following == "'" and not is_quoted:
            self._read_ansi(word)
        elif following == '"' and not is_quoted:
            self.at += 1
        elif following == "(":
            start = self.at
            self.at += 1
            if self.text.startswith("((", self.at):
                if self._skip_arithmetic():
                    word.add(MANY)
                    return
                self._note_retry(start + 1)
            word.add_any((self._read_substitution(),), is_split=not is_quoted)
        elif following == "{":
            self._read_parameter(word, is_quoted=is_quoted)
        elif following and following in "?#$!-":
            word.add(MANY)
            self.at += 2
        elif (name := re.compile(r"[A-Za-z_]\w*|[@*0-9]", re.ASCII).match(self.text, self.at + 1)) is not None:
            self.at = name.end()
            word.add_any(self._value(name[0]), is_split=not is_quoted)
        else:
            word.add("$")
            self.at += 1

    def _value(self, name: str) -> tuple[str, ...]:
        if name == "PWD":
            return self.shell.folders
        return self.shell.variables.get(name, (UNSEEN,))

    def _read_parameter(self, word: Word, *, is_quoted: bool) -> None:
        """Read `${...}`: a plain one and one with a default as they are, any other as unseen."""
        found = re.compile(r"\$\{(!?#?)([A-Za-z_]\w*|[@*0-9]+|[?#$!-])(\[[^\]$`]*\])?(:?[-=+?]|)", re.ASCII).match(
            self.text, self.at
        )
        start, self.at = self.at, found.end() if found is not None else self.at + 2
        operator = found[4] if found is not None else "?"
        rest = Word([[""]])
        self._nested += 1
        self._check_depth()
        self._read_braced(rest)
        self._nested -= 1
        if self.text[: self.at].endswith("@P}"):
            raise UnreadableError("a text is expanded as a prompt, which may run commands")
        others = tuple(option[0] for option in rest.fields)
        values: tuple[str, ...] = (UNSEEN,)
        if found is not None and not found[1] and self.text[start : self.at].endswith("}"):
            values = self._value(found[2])
            if operator in {":-", "-", ":=", "="}:
                values = (*values, *others)
            elif operator in {":+", "+"}:
                values = ("", *others)
            elif operator == "" and others != ("",):
                values = (UNSEEN,)  # cut, replaced or folded
        word.add_any(values, is_split=not is_quoted)

    def _read_braced(self, word: Word) -> None:
        while True:
            if self.at >= len(self.text):
                raise UnreadableError("'${' has no end")
            char = self.text[self.at]
            if char == "}":
                self.at += 1
                return
            if char == "\\":
                self._read_escape(word)
            elif char == "'":
                self._read_single(word)
            elif char == '"':
                self._read_double(word)
            elif char in "$`":
                self._read_dollar(word, is_quoted=True)
            elif char == "~" and self.text[self.at - 1] in "-=+":
                self._read_tilde(word)
            else:
                word.add(char)
                self.at += 1

    def _read_ansi(self, word: Word) -> None:
        """Read `$'...'`."""
        self.at += 2
        word.is_quoted = True
        while True:
            if self.at >= len(self.text):
                raise UnreadableError("a quote has no end")
            char = self.text[self.at]
            if char == "'":
                self.at += 1
                return
            if char != "\\":
                word.add(char)
                self.at += 1
                continue
            code = _ANSI_CODE.match(self.text, self.at + 1)
            if code is not None and _ZERO.fullmatch(code[0]):
                self._skip_ansi()  # bash drops what follows a zero, up to the quote
            elif code is not None:
                word.add(_ansi_char(code[0]))
                self.at = code.end()
            else:
                following = self.text[self.at + 1 : self.at + 2]
                word.add(_ANSI.get(following, following))
                self.at += 2

    def _skip_ansi(self) -> None:
        while self.at < len(self.text) and self.text[self.at] != "'":
            self.at += 2 if self.text[self.at] == "\\" else 1

    def _read_backticks(self, word: Word, *, is_quoted: bool) -> None:
        self.at += 1
        inner = ""
        while True:
            if self.at >= len(self.text):
                raise UnreadableError("a backtick has no end")
            char = self.text[self.at]
            self.at += 1
            if char == "`":
                break
            if char == "\\" and self.text[self.at : self.at + 1] in {"`", "\\", "$"}:
                char = self.text[self.at]
                self.at += 1
            inner += char
        shell = self.shell.copy()
        made = self.grammar.read_apart(inner, shell)
        self.commands += made
        self._inner += made
        word.add_any((_substituted(made),), is_split=not is_quoted)

    def _read_substitution(self) -> str:
        """Read `(...)` as commands of a shell of their own, and return what they print, as far as it is known."""
        outer, first = self.shell, len(self.commands)
        stdin, before = self._stdin, self._before
        self.shell = outer.copy()
        self._expect("(")
        self._check_depth()
        documents, self._documents = self._documents, []
        self.grammar.read_list((")",))
        self._expect(")")
        self._documents = documents
        self.shell = outer
        self._stdin, self._before = stdin, before
        made = self.commands[first:]
        self._inner += made
        return _substituted(made)

    def _skip_arithmetic(self) -> bool:
        """Skip `((...))`, but for what is substituted in it; say whether it is one."""
        self._expect("((")
        self._nested += 1
        self._check_depth()
        try:
            return self._find_end_of_arithmetic()
        finally:
            self._nested -= 1

    def _find_end_of_arithmetic(self) -> bool:
        depth, word = 0, Word([[""]])
        while self.at < len(self.text):
            if depth == 0 and self.text.startswith("))", self.at):
                self.at += 2
                return True
            char = self.text[self.at]
            if char in "$`":
                self._read_dollar(word, is_quoted=True)
                continue
            if char in "\"'":
                return False
            depth += {"(": 1, ")": -1}.get(char, 0)
            if depth < 0:
                return False
            self.at += 1
        return False


def _ansi_char(code: str) -> str:
    if code[0] == "c":
        return " "
    number = int(code[1:], 16) if code[0] in "xuU" else int(code, 8)
    # A control character is none that a path or a command would have.
    return chr(number) if 0x20 <= number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF else " "  # noqa: PLR2004


def _substituted(commands: list[Command]) -> str:
    return output_of(commands).rstrip("\n")
