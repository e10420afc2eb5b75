"""A shell's line taken apart, as far as that can be done without running it: commands, their words, what they write to.

Quotes, substitutions, here-documents and variables that the line itself sets are followed: of one that has several
values, as in a loop, each makes a command of its own. What only a running shell knows (other variables, what most
commands print) stays as it is written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from itertools import islice, product
from typing import Final

from attrs import define, evolve, field

__all__ = ["UNSEEN", "ShellCommand", "numbered", "read_line", "unescaped"]

UNSEEN: Final = "$()"
"""Stands in a word for what a command prints; no path has it."""

_DEEPEST: Final = 8
"""Substitutions within one another; nobody writes more than two."""

_MOST_VALUES: Final = 200
"""Of a variable that a line sets, all that it may have had; a loop over more names is written with a pattern."""

_MOST_WORDS: Final = 50_000
"""Of the commands that a line stands for by its variables' values, beside those that are written there."""

_MOST_COMMANDS: Final = 4000
"""Of one line; scripts that agents write on one have some hundred."""

_LONGEST_VALUE: Final = 16 * 1024
"""Characters of a variable's value: variables can double each other."""

_MOST_FILLED: Final = 4 * 1024 * 1024
"""Characters that come of the values of a line's variables, together."""

_ASSIGNED: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:\[[^\]]*\])?(\+?)=(.*)", re.DOTALL)
_ALIAS: Final = "alias "
"""Before the name of an alias, among the variables."""
_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*]"
_QUOTED: Final = "\ue000"
"""Stands before a variable in double quotes, whose value is not split."""
_SPLIT: Final = "\ue001"
"""Stands where a value is split into words."""
_VARIABLE: Final = re.compile(
    rf"(?P<quoted>{_QUOTED}?)\$(?:\{{(?P<braced>{_NAME})(?P<all>\[[^\]}}]{{0,200}}\])?"
    rf"(?:(?::?[-=]|@)[^}}]{{0,500}}|(?P<sign>[%#]{{1,2}})(?P<removed>[^}}]{{0,500}}))?\}}|(?P<plain>{_NAME}))"
)
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
    arrays: dict[str, list[str]] = field(factory=dict)
    """Those that it sets to several values."""
    others: list[ShellCommand] = field(factory=list)
    """What it is as well, with other values of its variables."""

    def each(self) -> list[ShellCommand]:
        """Return it with the others."""
        return [self, *self.others]

    def all_inner(self) -> list[ShellCommand]:
        """Return the inner ones, each with its others."""
        return [each for one in self.inner for each in one.each()]


def read_line(text: str, variables: Mapping[str, str]) -> list[ShellCommand]:
    """Return the commands of a line, those within others before them.

    Raises ValueError for one nested too deeply, or with too many values of its variables.
    """
    known: dict[str, tuple[str, ...]] = {"IFS": (" ",), **{name: (value,) for name, value in variables.items()}}
    if _QUOTED in text or _SPLIT in text:
        raise ValueError("it holds characters that no name has")
    found: list[ShellCommand] = []
    before, budget = ShellCommand(), [_MOST_WORDS, _MOST_FILLED]
    commands = _Reader(text.replace("\0", ""), 0).read()  # as bash does
    if len(commands) > _MOST_COMMANDS:
        raise ValueError(f"it has more than the {_MOST_COMMANDS} commands that are looked at")
    for command in _fed(commands):
        _settle(command, known, before, budget)
        found += command.each()
        before = command
    return found


def _fed(commands: list[ShellCommand]) -> list[ShellCommand]:
    """Give what a loop is given to the commands in it that read."""
    given = ""
    for command in reversed(commands):
        if command.words[:1] == ["done"]:
            given = command.given
        elif "read" in command.words[:3] and not command.given:
            command.given = given
    return commands


def _settle(command: ShellCommand, known: dict[str, tuple[str, ...]], before: ShellCommand, budget: list[int]) -> None:
    """Put in the values of variables, and keep those that the command sets; `before` is the command before it.

    `budget` is how many words may still be made, and how many characters of values put in. Raises ValueError for more.
    """
    words, writes = command.words, command.writes
    names = {name for word in (*words, *writes) for each in _VARIABLE.finditer(word) if (name := _name(each))}
    several = [name for name in sorted(names) if len(known.get(name, ())) > 1]
    room = budget[0] // (len(words) + len(writes) + 1) + 1
    choices = list(islice(product(*(known[name] for name in several)), room + 1))
    if len(choices) > room:
        raise ValueError(f"by the values of {', '.join(several)} it stands for more commands than are looked at")
    budget[0] -= (len(choices) - 1) * (len(words) + len(writes) + 1)
    made, single = [], {name: known[name][0] for name in (*names, "IFS") if name in known}
    for number, choice in enumerate(choices):
        values = single | dict(zip(several, choice, strict=True))
        each = evolve(command, settings={}, others=[]) if number else command
        each.words = _bare([piece for word in words for piece in _filled(word, values, budget)], each, known)
        each.writes = [" ".join(_filled(word, values, budget)) for word in writes]
        made.append(each)
    for each in made:
        _set(each, known, before)
    command.others = made[1:]


def _name(found: re.Match[str]) -> str:
    return found["braced"] or found["plain"]


def _filled(word: str, values: Mapping[str, str], budget: list[int]) -> list[str]:
    """Return what a word comes to with the values of its variables: several where one is split."""
    if "$" not in word:
        return [word]

    def value(found: re.Match[str]) -> str:
        known, removed = values.get(_name(found)), found["removed"]
        if known is None:
            return found[0]
        budget[1] -= len(known)
        if budget[1] < 0:
            raise ValueError("its variables come to more text than is looked at")
        if found["sign"] and found["sign"][0] == "#":
            known = known.removeprefix(removed) if known.startswith(removed) else UNSEEN
        elif found["sign"]:
            known = known.removesuffix(removed) if known.endswith(removed) else UNSEEN
        is_whole = found["quoted"] and _name(found) != "@" and found["all"] != "[@]"
        return known if is_whole else splits.sub(_SPLIT, known)

    splits = re.compile(rf"[\s{re.escape(values['IFS'])}]+")
    filled = _VARIABLE.sub(value, word).replace(_QUOTED, "")
    return [each for each in filled.split(_SPLIT) if each] if _SPLIT in filled else [filled]


def _bare(words: list[str], command: ShellCommand, known: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the words without what stands before a program; keep what a command's variables are set to."""
    while words and words[0] in _KEYWORDS:
        del words[0]
    if words[:1] in (["export"], ["declare"], ["local"], ["readonly"], ["typeset"]):
        words = [word for word in words[1:] if not word.startswith("-")]
    while words and (found := _ASSIGNED.fullmatch(words[0])) is not None:
        before = known.get(found[1], ("",))[0] if found[2] else ""
        command.settings[found[1]] = before + found[3]
        del words[0]
    if words and (aliases := known.get(_ALIAS + words[0])) is not None:
        words[:1] = aliases[0].split()
    return words


def _set(command: ShellCommand, known: dict[str, tuple[str, ...]], before: ShellCommand) -> None:
    """Keep the values of the variables that a command sets, beside those that they had: it need not have run."""
    found = {name: [value] for name, value in command.settings.items()}
    found |= {name: _one_or_all(values) for name, values in command.arrays.items()}
    match command.words:
        case ["set", *words] if "--" in words:
            found |= {name: [value] for name, value in numbered(words[words.index("--") :]).items()}
        case ["for", name, "in", *words]:
            found[name] = words
        case ["read" | "mapfile" | "readarray", *words]:
            values = _one_or_all(_read(command, before))
            found |= {word: values for word in words if word.isidentifier()}
        case ["alias", *words]:
            pairs = (word.partition("=") for word in words)
            found |= {_ALIAS + name: [value] for name, equals, value in pairs if equals}
        case _:
            pass
    for name, values in found.items():
        known[name] = tuple(dict.fromkeys([*values, *known.get(name, ())])) or ("",)
        if len(known[name]) > _MOST_VALUES or any(len(value) > _LONGEST_VALUE for value in values):
            raise ValueError(f"{name} has more than {_MOST_VALUES} values, or {_LONGEST_VALUE:,} characters in one")


def _one_or_all(values: list[str]) -> list[str]:
    return [*values, " ".join(values)]


def _read(command: ShellCommand, before: ShellCommand) -> list[str]:
    """Return what a command may read: what it is given, or the words of the command whose output it reads."""
    if command.given or not before.sends_on:
        return command.given.split()
    words = before.words[1:]
    # What most such commands print lies in the folders that they are given.
    return [*words, *(f"{word}/{UNSEEN}" for word in words if not word.startswith("-")), *before.given.split()]


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

    def _step(self, char: str) -> None:  # noqa: C901, PLR0912 - one case for each character that means something
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
        elif char == "(" and self._word is not None and _ASSIGNED.fullmatch("".join(self._word)):
            self._read_array()
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
                self._add(_QUOTED + char if char == "$" else char)
                self._at += 1
        self._at += 1

    def _read_escaped(self) -> None:
        end = self._at
        while end < len(self._text) and self._text[end] != "'":
            end += 2 if self._text[end] == "\\" else 1
        # bash drops what follows a zero, up to the quote.
        self._add(unescaped(self._text[self._at : end]).partition("\0")[0])
        self._at = end + 1

    def _nest(self, char: str) -> None:
        """Read a substitution; in the word stands what it prints, where that can be seen."""
        start = self._at + (1 if char == "`" else 2)
        end = self._find("`", start) if char == "`" else _closing(self._text, start)
        found = self._take(self._text[start:end])
        self._add(_printed_by(found[0].words) if len(found) == 1 and not found[0].inner else UNSEEN)
        self._at = end + 1

    def _take(self, text: str) -> list[ShellCommand]:
        found = _Reader(text, self._depth + 1).read()
        self._found += found
        self._command.inner += found
        return found

    def _read_array(self) -> None:
        """Read what a variable is set to in brackets, each with its key before it or without."""
        name = "".join(self._word or ()).rstrip("+=")
        end = _closing(self._text, self._at + 1)
        found = _Reader(self._text[self._at + 1 : end].replace("\n", " "), self._depth + 1).read()
        self._command.arrays[name] = [re.sub(r"^\[[^\]]*\]=", "", word) for each in found for word in each.words]
        self._command.inner += found[:-1]
        self._found += found[:-1]
        self._word = None
        self._at = end + 1

    def _redirect(self) -> None:
        text, at = self._text, self._at
        if text[at : at + 2] in {"<(", ">("}:
            end = _closing(text, at + 2)
            self._take(text[at + 2 : end])
            self._add(UNSEEN)
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
        if sends_on and not self._command.words:
            self._command.words = ["}"]  # all that stands in the brackets before it
        if self._command.words or self._command.writes or self._command.arrays:
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


def _printed_by(words: list[str]) -> str:
    """Return what a command prints that names a program, or says its own words; else the mark for what is not seen."""
    match words:
        case ["which" | "command" | "type" | "whence", *_, name] if not name.startswith("-"):
            return f"/usr/bin/{name}"  # wherever it is
        case ["echo", first, *rest] if not first.startswith("-"):
            return " ".join([first, *rest])
        case ["printf", "%s", only] | ["printf", only] if "%" not in only:
            return unescaped(only)
        case _:
            return UNSEEN


def _closing(text: str, start: int) -> int:
    """Return where the bracket is closed that was opened before; quotes and here-documents are passed over."""
    depth, at, ends = 1, start, list[str]()
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
        elif char == "<" and (found := _DOCUMENT.match(text, at)) is not None:
            ends.append(found[1] or found[2])
            at = found.end() - 1
        elif char == "\n" and ends:
            for end in ends:
                closed = re.compile(rf"\n\t*{re.escape(end)}(?=\n|\)|$)").search(text, at)
                at = closed.end() if closed is not None else len(text)
            ends, at = [], at - 1
        at += 1
    return len(text)


_DOCUMENT: Final = re.compile(r"<<-?[ \t]*(?:['\"]([^'\"\n]+)['\"]|\\?(\w+))(?<!<<<)")
_NAMED: Final = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "e": "\x1b", "f": "\f", "v": "\v"}


def unescaped(text: str) -> str:
    """Return a text with its backslashes read, as by `$'...'` and `printf`."""
    return _ESCAPES.sub(_unescaped, text)


def _unescaped(found: re.Match[str]) -> str:
    what = found[1]
    if what[0] in "xuU" and len(what) > 1:
        number = int(what[1:], 16)
        return chr(number) if number <= sys.maxunicode else ""
    if what[0] in "01234567":
        return chr(int(what, 8))
    return _NAMED.get(what, what)
