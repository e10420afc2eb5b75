"""A shell's command line read into the simple commands that it may run, wherever in it they stand. Runs nothing.

It reads what POSIX shells, bash and zsh have in common, and what is usual in bash. What a command is inside of (a
condition, a loop, a function, a subshell, a substitution) makes no difference: it may run. What cannot be read is an
error, never an empty list.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field, replace
from typing import Final

from .words import (
    COMMA,
    MANY,
    MAX_ALTERNATIVES,
    ONE,
    OPEN,
    SHUT,
    TILDE,
    UNSEEN,
    expand_braces,
    is_known,
)

__all__ = ["Command", "Shell", "UnreadableError", "output_of", "read_script"]

MAX_FOLDERS: Final = 8
"""Folders that a command may run in, as far as they are followed: each `cd` may have failed."""

MAX_TEXT: Final = 256 * 1024
"""Characters of one command line; the system itself takes 128 KiB as one argument."""

MAX_DEPTH: Final = 24
"""Levels of substitutions and groups within each other."""

MAX_COMMANDS: Final = 4000
"""Simple commands of one line, each alternative of a word counted, and those of texts that shells are given."""

MAX_VALUE: Final = 16 * 1024
"""Characters of a variable's value that are followed; variables can double each other."""

MAX_RETRIES: Final = 20
"""Places where `((` turned out to begin two groups; each is read twice."""

_SIGNS: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_HEAD: Final = re.compile(r"\(\s*\)")
_NAME: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_ASSIGNS: Final = re.compile(r"([A-Za-z_]\w*)(\[[^\]\s]*\])?(\+?)=", re.ASCII)
_OPERATORS: Final = ("&&", "||", ";;&", ";;", ";&", "|&", ";", "|", "&", "\n")
_REDIRECTS: Final = ("&>>", "&>", "<<<", "<<-", "<<", "<>", "<&", "<", ">>", ">|", ">&", ">")
_BEGIN: Final = frozenset({"if", "while", "until", "then", "do", "else", "elif", "{", "!", "time"})
_DONE: Final = frozenset({"fi", "done", "}"})
_DECLARES: Final = frozenset({"export", "declare", "typeset", "local", "readonly"})
_ANSI: Final = {"n": "\n", "t": "\t", "r": "\r", "a": " ", "b": " ", "e": " ", "E": " ", "f": " ", "v": " "}
_ANSI_CODE: Final = re.compile(r"x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|u[0-9A-Fa-f]{1,4}|U[0-9A-Fa-f]{1,8}|c.", re.DOTALL)


class UnreadableError(ValueError):
    """A command line is none that can be read here; the text says what was found."""


@dataclass
class Command:
    """One simple command: its words, each as far as it is known, and where it may run.

    `stdin` is what it reads: a text, `UNSEEN`, or None for what it inherits. `before` are the commands of the pipeline that it reads
    from. `reads` and `writes` are the files of its redirections. `folders` are those that it may run in.
    """

    words: list[str]
    folders: tuple[str, ...]
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    stdin: str | None = None
    before: tuple[Command, ...] = ()
    inner: tuple[Command, ...] = ()
    """What runs in the substitutions of its words."""
    shell: Shell | None = None
    """What a shell knows where this command is about to run."""
    document: object = None
    """Which text of the lines below it reads, while that is still to come."""

    @property
    def given(self) -> str | None:
        """What it reads: `stdin`, or what the commands before it print, as far as that is known."""
        return output_of(self.before) if self.stdin == UNSEEN and self.before else self.stdin


@dataclass
class Shell:
    """What is known of a shell at one place of its script: variables by name with all their values, and folders."""

    folders: tuple[str, ...]
    variables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    depth: int = 0
    budget: list[int] = field(default_factory=lambda: [MAX_COMMANDS])
    """How many commands more are read, here and in all copies."""

    def copy(self) -> Shell:
        """Return the same for a subshell."""
        return replace(self, variables=dict(self.variables), aliases=dict(self.aliases), depth=self.depth + 1)


def read_script(text: str, shell: Shell) -> list[Command]:
    """Return the simple commands of a text, in its order; `shell` is what is known before it, and is changed.

    Raises UnreadableError.
    """
    if len(text) > MAX_TEXT:
        raise UnreadableError(f"it has {len(text):,} characters")
    if _SIGNS.search(text):
        raise UnreadableError("it holds control characters")
    reader = _Reader(text.replace("\r\n", "\n"), shell)
    try:
        reader.read_list(())
    except RecursionError:
        raise UnreadableError("it is nested too deep") from None
    if reader.at < len(reader.text):
        raise UnreadableError(f"{reader.text[reader.at]!r} stands where none is expected")
    return reader.commands


@dataclass
class _Word:
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


class _Reader:
    """Reads one text from its start to its end; `commands` grows as it goes."""

    def __init__(self, text: str, shell: Shell) -> None:
        if shell.depth > MAX_DEPTH:
            raise UnreadableError("it is nested too deep")
        self.text, self.at, self.shell = text, 0, shell
        self.commands: list[Command] = []
        self._nested = 0  # groups and conditions around this place
        self._is_conditional = False  # what stands before decides whether this runs
        self._stdin: str | None = None
        self._before: tuple[Command, ...] = ()
        self._documents: list[tuple[object, str, bool, bool]] = []
        self._inner: list[Command] = []
        self._arrived: tuple[str, ...] = ()
        self._retries = 0

    # --- lists and groups ---

    def read_list(self, closers: tuple[str, ...]) -> None:
        """Read commands up to one of the closing words or signs, which is left where it is."""
        while True:
            self._skip_blank(newlines=True)
            if self.at >= len(self.text) or self._is_at_closer(closers):
                break
            start = self.at
            self._read_pipeline(closers)
            if self.at == start:
                raise UnreadableError(f"{self.text[start]!r} stands where none is expected")
        if not closers:
            self._read_documents()

    def _is_at_closer(self, closers: tuple[str, ...]) -> bool:
        for closer in closers:
            if self.text.startswith(closer, self.at):
                after = self.text[self.at + len(closer) : self.at + len(closer) + 1]
                if not closer.isalpha() or not after or after in " \t\n;|&()<>":
                    return True
        return False

    def _read_pipeline(self, closers: tuple[str, ...]) -> None:
        stdin, before = self._stdin, self._before
        while True:
            first = len(self.commands)
            self._read_command(closers)
            self._skip_blank()
            made = self.commands[first:]
            if self.text.startswith("|", self.at) and not self.text.startswith("||", self.at):
                self.at += 2 if self.text.startswith("|&", self.at) else 1
                self._stdin, self._before = UNSEEN, tuple(made)
                self._skip_blank(newlines=True)
                continue
            break
        self._stdin, self._before = stdin, before
        operator = next((each for each in _OPERATORS if self.text.startswith(each, self.at)), None)
        if operator is None or operator in closers or operator in {";;", ";&", ";;&"}:
            return
        self.at += len(operator)
        self._is_conditional = operator in {"&&", "||"}
        if operator == "&&":
            self._leave_folders(made)
        if operator == "\n":
            self._read_documents()

    def _leave_folders(self, made: list[Command]) -> None:
        """After `cd X &&` the shell is in X and nowhere else; without the `&&` it may not have got there."""
        if made and made[-1].words[:1] == ["cd"]:
            self.shell.folders = self._arrived

    def _read_command(self, closers: tuple[str, ...]) -> None:  # noqa: C901, PLR0912 - the grammar, a branch a form
        while True:
            self._skip_blank()
            if self.text.startswith("((", self.at):
                start = self.at
                if self._skip_arithmetic():
                    return self._read_redirects_only()
                self._note_retry(start)
            if self.text.startswith("(", self.at):
                return self._read_subshell()
            start, word = self.at, self._peek_raw()
            if word in _BEGIN and not self._is_at_closer(closers):
                self.at = start + len(word)
                if word == "time":
                    self._skip_blank()
                    self.at += 2 if self._peek_raw() == "-p" else 0
                if word == "{":
                    return self._read_group("}")
                if word in {"if", "while", "until"}:
                    return self._read_group({"if": "fi"}.get(word, "done"))
                if word in {"then", "do", "else", "elif"}:
                    self._skip_blank(newlines=True)
                    if self._is_at_closer(closers):
                        return None
                continue
            if word in {"for", "select"}:
                return self._read_for(word)
            if word == "case":
                return self._read_case()
            if word == "[[":
                return self._read_test()
            if word in {"function", "coproc"}:
                self.at += len(word)
                self._skip_blank()
                if word == "function":
                    self._read_word()
                    self._skip_blank()
                    if self.text.startswith("(", self.at):
                        self._expect("(")
                        self._skip_blank()
                        self._expect(")")
                    self._skip_blank(newlines=True)
                continue
            if word in _DONE and not self._is_at_closer(closers):
                raise UnreadableError(f"{word!r} stands where none is expected")
            if not self._read_simple():
                return None
            self._skip_blank(newlines=True)  # `NAME ()`: its body follows

    def _note_retry(self, at: int) -> None:
        self.at, self._retries = at, self._retries + 1
        if self._retries > MAX_RETRIES:
            raise UnreadableError("'((' begins too many groups")

    def _read_group(self, closer: str) -> None:
        before = self.shell.folders
        self._nested += 1
        self._check_depth()
        self.read_list((closer,))
        if not self._is_at_closer((closer,)):
            raise UnreadableError(f"{closer!r} is missing")
        self.at += len(closer)
        self._nested -= 1
        self.shell.folders = tuple(dict.fromkeys((*self.shell.folders, *before)))[:MAX_FOLDERS]
        self._read_redirects_only()

    def _check_depth(self) -> None:
        if self._nested + self.shell.depth > MAX_DEPTH:
            raise UnreadableError("it is nested too deep")

    def _read_subshell(self) -> None:
        outer = self.shell
        self.shell = outer.copy()
        self._expect("(")
        self._nested += 1
        self._check_depth()
        self.read_list((")",))
        self._expect(")")
        self._nested -= 1
        self.shell = outer
        self._read_redirects_only()

    def _read_redirects_only(self) -> None:
        """Read what may follow a group."""
        command = Command([], self.shell.folders)
        self._skip_blank()
        while self._read_redirect(command):
            self._skip_blank()
        if command.reads or command.writes:
            self._emit(command)

    def _read_for(self, word: str) -> None:
        self.at += len(word)
        self._skip_blank()
        if self.text.startswith("((", self.at):
            if not self._skip_arithmetic():
                raise UnreadableError("'((' has no end")
        else:
            name = _NAME.match(self.text, self.at)
            if name is None:
                raise UnreadableError(f"a name is missing after {word!r}")
            self.at = name.end()
            self._skip_blank(newlines=True)
            values: list[str] = [UNSEEN]
            if self._peek_raw() == "in":
                self.at += 2
                values = [text for each in self._words_to_end() for option in each for text in option]
            self.shell.variables[name[0]] = tuple(values[:MAX_ALTERNATIVES]) if values else ("",)
            if len(values) > MAX_ALTERNATIVES:
                self.shell.variables[name[0]] = (UNSEEN,)
        self._skip_blank()
        if self.text.startswith(";", self.at):
            self.at += 1
        self._skip_blank(newlines=True)
        opening = self._peek_raw()
        if opening not in {"do", "{"}:
            raise UnreadableError(f"'do' is missing after {word!r}")
        self.at += len(opening)
        self._read_group("done" if opening == "do" else "}")

    def _words_to_end(self) -> list[list[list[str]]]:
        found = []
        while True:
            self._skip_blank()
            if self.at >= len(self.text) or self.text[self.at] in ";\n&|)":
                return found
            found.append(self._read_word().alternatives())

    def _read_case(self) -> None:
        self.at += len("case")
        self._skip_blank()
        self._read_word()
        self._skip_blank(newlines=True)
        if self._peek_raw() != "in":
            raise UnreadableError("'in' is missing after 'case'")
        self.at += 2
        self._nested += 1
        self._check_depth()
        while True:
            self._skip_blank(newlines=True)
            if self._is_at_closer(("esac",)):
                self.at += len("esac")
                break
            self._read_patterns()
            self.read_list((";;&", ";;", ";&", "esac"))
            mark = next((each for each in (";;&", ";;", ";&") if self.text.startswith(each, self.at)), None)
            if mark is not None:
                self.at += len(mark)
            elif not self._is_at_closer(("esac",)):
                raise UnreadableError("'esac' is missing")
        self._nested -= 1
        self._read_redirects_only()

    def _read_patterns(self) -> None:
        self._skip_blank()
        if self.text.startswith("(", self.at):
            self.at += 1
        while True:
            self._skip_blank()
            self._read_word()
            self._skip_blank()
            if self.text.startswith(")", self.at):
                self.at += 1
                return
            self._expect("|")

    def _read_test(self) -> None:
        """Skip `[[ ... ]]`, but for what is substituted in it."""
        self.at += 2
        while True:
            self._skip_blank(newlines=True)
            if self.at >= len(self.text):
                raise UnreadableError("']]' is missing")
            if self._peek_raw() == "]]":
                self.at += 2
                return self._read_redirects_only()
            if self.text[self.at] in "()<>|&;":
                self.at += 1
            else:
                self._read_word()

    # --- simple commands ---

    def _read_simple(self) -> bool:
        """Read one command; say whether it was the head of a function, whose body follows."""
        command = Command([], self.shell.folders, stdin=self._stdin, before=self._before)
        options: list[list[list[str]]] = []
        inner = len(self._inner)
        while True:
            self._skip_blank()
            if self._read_redirect(command):
                continue
            if self.at >= len(self.text) or self.text[self.at] in ";|&\n)":
                break
            if self.text[self.at] == "(":
                head = _HEAD.match(self.text, self.at)
                if len(options) != 1 or head is None:
                    raise UnreadableError("'(' stands where none is expected")
                self.at = head.end()
                return True
            if not options and (assigned := _ASSIGNS.match(self.text, self.at)) is not None:
                self._read_assignment(assigned)
                continue
            word = self._read_word()
            options.append(word.alternatives())
        command.inner = tuple(self._inner[inner:])
        del self._inner[inner:]
        if not options:
            if command.reads or command.writes:
                self._emit(command)
            return False
        for words in _products(options):
            self._emit(replace(command, words=words, reads=list(command.reads), writes=list(command.writes)))
        return False

    def _read_assignment(self, found: re.Match[str]) -> None:
        self.at = found.end()
        name, adds = found[1], bool(found[3]) or bool(found[2])
        if self.text.startswith("(", self.at):
            self.at += 1
            values = []
            while True:
                self._skip_blank(newlines=True)
                if self.text.startswith(")", self.at):
                    self.at += 1
                    break
                if self.at >= len(self.text):
                    raise UnreadableError("')' is missing")
                values += [text for option in self._read_word().alternatives() for text in option]
            self._assign(name, tuple(values) or ("",), adds=adds)
            return
        if self.at >= len(self.text) or self.text[self.at] in " \t\n;|&)<>":
            self._assign(name, ("",), adds=adds)
            return
        word = self._read_word(is_assigned=True)
        self._assign(name, tuple(" ".join(option) for option in word.alternatives()), adds=adds)

    def _assign(self, name: str, values: tuple[str, ...], *, adds: bool = False) -> None:
        known = self.shell.variables.get(name, (UNSEEN,))
        if adds:
            values = tuple(old + new for old in known for new in values) + values
        if self._nested or self._is_conditional:
            values = (*known, *values)
        values = tuple(dict.fromkeys(each if len(each) <= MAX_VALUE else UNSEEN for each in values))
        self.shell.variables[name] = values if len(values) <= MAX_ALTERNATIVES else (UNSEEN,)

    def _emit(self, command: Command) -> None:
        command.shell = self.shell
        words = command.words
        while words[:1] in (["builtin"], ["command"]) and len(words) > 1 and not words[1].startswith("-"):
            words = words[1:]
        name = words[0] if words else ""
        if name in self.shell.aliases:
            self._emit_alias(name, command)
            return
        command.shell = replace(self.shell, variables=dict(self.shell.variables), depth=self.shell.depth + 1)
        self.commands.append(command)
        self.shell.budget[0] -= 1
        if self.shell.budget[0] < 0:
            raise UnreadableError("it has too many commands")
        if name in {"cd", "pushd", "chdir"}:
            self._change_folder(words)
        elif name == "popd":
            self.shell.folders = (*self.shell.folders, UNSEEN)
        elif name in _DECLARES:
            self._declare(words)
        elif name in {"read", "mapfile", "readarray", "getopts"} or (name == "printf" and words[1:2] == ["-v"]):
            for each in words[1:]:
                if _NAME.fullmatch(each):
                    self._assign(each, (UNSEEN,))
        elif name == "alias":
            self._declare_aliases(words)
        elif name == "eval" and len(words) > 1 and all(map(is_known, words)):
            self._read_within(" ".join(words[1:]))

    def _read_within(self, text: str) -> None:
        """Read a text that this very shell runs."""
        self.shell.depth += 1
        self.commands += read_script(text, self.shell)
        self.shell.depth -= 1

    def _emit_alias(self, name: str, command: Command) -> None:
        shell = self.shell.copy()
        del shell.aliases[name]
        for each in (made := read_script(self.shell.aliases[name], shell)):
            each.stdin, each.before = command.stdin, command.before
        if made:
            made[-1].words += command.words[1:]
        self.commands += made

    def _declare(self, words: list[str]) -> None:
        for each in words[1:]:
            if (found := _ASSIGNS.match(each)) is not None:
                self._assign(found[1], (each[found.end() :],), adds=bool(found[3]))

    def _declare_aliases(self, words: list[str]) -> None:
        for each in words[1:]:
            name, is_set, value = each.partition("=")
            if is_set and is_known(value):
                self.shell.aliases[name] = value

    def _change_folder(self, words: list[str]) -> None:
        given = [each for each in words[1:] if not re.fullmatch(r"-[LPe@]+|--", each)]
        to = given[0] if given else self.shell.variables.get("HOME", (UNSEEN,))[0]
        folders = [_joined(folder, to) for folder in self.shell.folders] if to != "-" else [UNSEEN]
        # It may fail, and what follows runs where it was; behind `&&` that is taken back.
        self._arrived = tuple(folders)
        self.shell.folders = tuple(dict.fromkeys((*folders, *self.shell.folders)))[:MAX_FOLDERS]

    # --- redirections and documents ---

    def _read_redirect(self, command: Command) -> bool:
        number = re.compile(r"\d*(?=[<>])").match(self.text, self.at)
        at = number.end() if number is not None else self.at
        operator = next((each for each in _REDIRECTS if self.text.startswith(each, at)), None)
        if operator is None or (operator in {"<", ">"} and self.text.startswith("(", at + 1)):
            return False
        self.at = at + len(operator)
        self._skip_blank()
        if operator in {"<<", "<<-"}:
            self._note_document(command, strips=operator == "<<-")
            return True
        word = self._read_word()
        options = [" ".join(option) for option in word.alternatives()]
        if operator == "<<<":
            command.stdin = options[0] + "\n" if len(options) == 1 and is_known(options[0]) else UNSEEN
        elif operator in {">&", "<&"} and re.fullmatch(r"\d+-?|-", word.raw):
            pass
        elif operator in {"<", "<>", "<&"}:
            command.reads += options
            command.stdin = UNSEEN if command.stdin is None else command.stdin
            command.writes += options if operator == "<>" else []
        else:
            command.writes += options
        return True

    def _note_document(self, command: Command, *, strips: bool) -> None:
        word = self._read_word(is_raw=True)
        # The command is copied for each alternative of its words: the text is given to all that have this mark.
        command.stdin, command.document, command.before = UNSEEN, object(), ()
        self._documents.append((command.document, word.fields[0][0], word.is_quoted, strips))

    def _read_documents(self) -> None:
        """Read the texts that belong to the commands of the line that has just ended."""
        documents, self._documents = self._documents, []
        for mark, end, is_quoted, strips in documents:
            lines = []
            while self.at < len(self.text):
                stop = self.text.find("\n", self.at)
                line = self.text[self.at : stop if stop >= 0 else len(self.text)]
                self.at = min(self.at + len(line) + 1, len(self.text))
                line = line.lstrip("\t") if strips else line
                if line == end:
                    break
                lines.append(line)
            text = "".join(f"{line}\n" for line in lines)
            if not is_quoted and ("$" in text or "`" in text):
                text = self._expanded(text)
            for command in self.commands:
                if command.document is mark:
                    command.stdin = text

    def _expanded(self, text: str) -> str:
        reader = _Reader(text, self.shell.copy())
        word = _Word([[""]])
        while reader.at < len(text):
            char = text[reader.at]
            if char == "\\" and reader.at + 1 < len(text):
                word.add(text[reader.at + 1] if text[reader.at + 1] in "$`\\" else text[reader.at : reader.at + 2])
                reader.at += 2
            elif char in "$`":
                reader._read_dollar(word, is_quoted=True)
            else:
                word.add(char)
                reader.at += 1
        self.commands += reader.commands
        return word.fields[0][0] if len(word.fields) == 1 else UNSEEN

    # --- words ---

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
                self._read_documents()
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

    def _read_word(self, *, is_assigned: bool = False, is_raw: bool = False) -> _Word:  # noqa: C901, PLR0912 - as above
        """Read one word with its expansions. One that `is_raw` is the end of a document, in which nothing expands."""
        home = self.shell.variables.get("HOME", (UNSEEN,))[0]
        start, word = self.at, _Word([[""]], home=home)
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

    def _read_class(self, word: _Word) -> None:
        found = re.compile(r"[^\s\]'\"\\$`;|&()<>]{1,64}\]").match(self.text, self.at)
        if found is not None:
            for each in word.fields:
                each[-1] = each[-1][:-1] + ONE
            self.at = found.end()

    def _is_tilde(self, start: int, *, is_assigned: bool) -> bool:
        before = self.text[self.at - 1] if self.at > start else ""
        return not before or before == "=" or (before == ":" and is_assigned)

    def _read_tilde(self, word: _Word) -> None:
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

    def _read_escape(self, word: _Word) -> None:
        if self.at + 1 >= len(self.text):
            raise UnreadableError("it ends with a backslash")
        if self.text[self.at + 1] != "\n":
            word.add(self.text[self.at + 1])
            word.is_quoted = True
        self.at += 2

    def _read_single(self, word: _Word) -> None:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise UnreadableError("a single quote has no end")
        word.add(self.text[self.at + 1 : end])
        word.is_quoted = True
        self.at = end + 1

    def _read_double(self, word: _Word) -> None:
        self.at += 1
        word.is_quoted = True
        while True:
            if self.at >= len(self.text):
                raise UnreadableError("a double quote has no end")
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return
            if char == "\\" and self.at + 1 < len(self.text):
                following = self.text[self.at + 1]
                word.add("" if following == "\n" else following if following in '$`"\\' else f"\\{following}")
                self.at += 2
            elif char in "$`":
                self._read_dollar(word, is_quoted=True)
            else:
                word.add(char)
                self.at += 1

    def _read_dollar(self, word: _Word, *, is_quoted: bool) -> None:
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

    def _read_parameter(self, word: _Word, *, is_quoted: bool) -> None:
        """Read `${...}`: a plain one and one with a default as they are, any other as unseen."""
        found = re.compile(r"\$\{(!?#?)([A-Za-z_]\w*|[@*0-9]+|[?#$!-])(\[[^\]]*\])?(:?[-=+?]|)", re.ASCII).match(
            self.text, self.at
        )
        start, self.at = self.at, found.end() if found is not None else self.at + 2
        operator = found[4] if found is not None else "?"
        rest = _Word([[""]])
        self._nested += 1
        self._check_depth()
        self._read_braced(rest)
        self._nested -= 1
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

    def _read_braced(self, word: _Word) -> None:
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

    def _read_ansi(self, word: _Word) -> None:
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
            if code is not None:
                word.add(_ansi_char(code[0]))
                self.at = code.end()
            else:
                following = self.text[self.at + 1 : self.at + 2]
                word.add(_ANSI.get(following, following))
                self.at += 2

    def _read_backticks(self, word: _Word, *, is_quoted: bool) -> None:
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
        made = read_script(inner, shell)
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
        self.read_list((")",))
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
        depth, word = 0, _Word([[""]])
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
    # Nothing after a zero is part of the word; a control character is none that a path or a command would have.
    return chr(number) if 0x20 <= number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF else " "  # noqa: PLR2004


def _products(options: list[list[list[str]]]) -> list[list[str]]:
    """Return each list of words that these may become; with too many of them, one with what differs unseen."""
    products: list[list[str]] = [[]]
    for each in options:
        products = [[*words, *option] for words in products for option in each]
        if len(products) > MAX_ALTERNATIVES:
            return [[text for option in options for text in (option[0] if len(option) == 1 else [UNSEEN])]]
    return [words for words in products if words] or [[""]]


def _joined(folder: str, to: str) -> str:
    if to.startswith(("/", UNSEEN)):
        return to
    return f"{folder}/{to}"


def output_of(commands: tuple[Command, ...] | list[Command]) -> str:
    """Return what commands print that only print, `UNSEEN` for all others."""
    if not commands or commands[-1].writes:
        return UNSEEN
    # Of a pipeline the last one prints, and it alone.
    return (
        _printed(commands[-1])
        if len(commands) == 1 or set(map(id, commands[:-1])) == _ids_before(commands[-1])
        else UNSEEN
    )


def _ids_before(command: Command) -> set[int]:
    return {id(each) for one in command.before for each in (one, *one.before)}


def _substituted(commands: list[Command]) -> str:
    return output_of(commands).rstrip("\n")


def _printed(command: Command) -> str:
    words, name = command.words, command.words[0].rpartition("/")[2] if command.words else ""
    match name:
        case "echo":
            shown = words[1:]
            while shown and re.fullmatch(r"-[neE]+", shown[0]):
                shown = shown[1:]
            return " ".join(shown) + "\n"
        case "printf":
            if len(words) == 2 and "%" not in words[1] and "\\" not in words[1]:  # noqa: PLR2004 - its name and a text
                return words[1]
            if len(words) == 3 and words[1] in {"%s", "%s\\n"}:  # noqa: PLR2004 - and one text for it
                return words[2]
            return UNSEEN
        case "pwd":
            return command.folders[0] if len(command.folders) == 1 else UNSEEN
        case "mktemp":
            return "/tmp/mktemp" if not any(each.startswith(("-p", "--tmpdir=")) for each in words) else UNSEEN  # noqa: S108
        case "cat" if len(words) == 1 and not command.reads:
            return command.given or UNSEEN
        case "base64" if set(words[1:]) & {"-d", "-D", "--decode"} and len(words) == 2:  # noqa: PLR2004
            return _decoded(command.given)
        case _:
            return UNSEEN


def _decoded(text: str | None) -> str:
    if text is None or not is_known(text):
        return UNSEEN
    try:
        return base64.b64decode("".join(text.split()), validate=True).decode()
    except (binascii.Error, ValueError):
        return UNSEEN
