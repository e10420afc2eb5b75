"""A shell's command line read into the simple commands that it may run, wherever in it they stand. Runs nothing.

It reads what POSIX shells, bash and zsh have in common, and what is usual in bash. What a command is inside of (a
condition, a loop, a function, a subshell, a substitution) makes no difference: it may run. What cannot be read is an
error, never an empty list.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from .commands import Command, Shell, UnreadableError
from .expansions import Word, WordReader
from .words import MAX_ALTERNATIVES, UNSEEN, is_known

__all__ = ["RUNNING_VARIABLES", "read_script"]

MAX_FOLDERS: Final = 8
"""Folders that a command may run in, as far as they are followed: each `cd` may have failed."""

MAX_TEXT: Final = 128 * 1024
"""Characters of one command line; the system itself takes no more as one argument."""

MAX_VALUE: Final = 16 * 1024
"""Characters of a variable's value that are followed; variables can double each other."""

_SIGNS: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_HEAD: Final = re.compile(r"\(\s*\)")
_NAME: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_ASSIGNS: Final = re.compile(r"([A-Za-z_]\w*)(\[[^\]\s$`]*\])?(\+?)=", re.ASCII)
_ARRAY: Final = re.compile(r"([A-Za-z_]\w*)()(\+?)=(?=\()", re.ASCII)
_SUBSCRIPT: Final = re.compile(r"\[[^\]]*(?:\$\(|`)")
"""What a shell runs where it takes a text for a number or for a variable's name, though it was quoted."""
_COUNTS: Final = frozenset({
    "let", "test", "[", "printf", "read", "unset", "mapfile", "declare", "typeset", "local", "export",
})  # fmt: skip
_OPERATORS: Final = ("&&", "||", ";;&", ";;", ";&", "|&", ";", "|", "&", "\n")
_REDIRECTS: Final = ("&>>", "&>", "<<<", "<<-", "<<", "<>", "<&", "<", ">>", ">|", ">&", ">")
_BEGIN: Final = frozenset({"if", "while", "until", "then", "do", "else", "elif", "{", "!", "time"})
_DONE: Final = frozenset({"fi", "done", "}"})
_REFERRING: Final = frozenset({"declare", "typeset", "local"})
_DECLARES: Final = frozenset({"export", "declare", "typeset", "local", "readonly"})


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


RUNNING_VARIABLES: Final = frozenset({
    "PS0", "PS1", "PS4", "PROMPT_COMMAND", "PAGER", "MANPAGER", "GIT_PAGER", "EDITOR", "VISUAL", "GIT_EDITOR",
    "GIT_SSH", "GIT_SSH_COMMAND", "GIT_EXTERNAL_DIFF", "GIT_SEQUENCE_EDITOR", "GIT_ASKPASS", "SSH_ASKPASS",
    "GIT_PROXY_COMMAND", "BROWSER",
})  # fmt: skip
"""Variables that programs run as a command."""


class _Reader(WordReader):
    """Reads one text from its start to its end; `commands` grows as it goes."""

    def __init__(self, text: str, shell: Shell) -> None:
        super().__init__(text, shell, self)

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
            self.read_documents()

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
            self.read_documents()

    def _leave_folders(self, made: list[Command]) -> None:
        """After `cd X &&` the shell is in X and nowhere else; without the `&&` it may not have got there."""
        if made and made[-1].words[:1] == ["cd"]:
            self.shell.folders = self._arrived

    def _read_command(self, closers: tuple[str, ...]) -> None:  # noqa: C901, PLR0911, PLR0912 - the grammar, a branch a form
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
        found: list[list[list[str]]] = []
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
            elif any(_SUBSCRIPT.search(text) for option in self._read_word().fields for text in option):
                raise UnreadableError("a subscript in a text would run a command")

    # --- simple commands ---

    def _read_simple(self) -> bool:  # noqa: C901 - what a command is made of, a branch each
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
            is_declared = bool(options) and options[0][0][:1] and options[0][0][0] in _DECLARES
            if is_declared and (array := _ARRAY.match(self.text, self.at)) is not None:
                self._read_assignment(array)
                continue
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
            # One of them, or all: `${NAME[@]}`.
            self._assign(name, (*values, " ".join(values)) if len(values) > 1 else tuple(values) or ("",), adds=adds)
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
        if any(map(_SUBSCRIPT.search, values)):
            raise UnreadableError("a subscript in a text would run a command")
        if name in RUNNING_VARIABLES:
            for each in filter(is_known, values):
                self.commands += read_script(each, self.shell.copy())
        values = tuple(dict.fromkeys(each if len(each) <= MAX_VALUE else UNSEEN for each in values))
        self.shell.variables[name] = values if len(values) <= MAX_ALTERNATIVES else (UNSEEN,)

    def _emit(self, command: Command) -> None:  # noqa: C901 - a branch for each command that changes the shell
        command.shell = self.shell
        words = command.words
        while words[:1] in (["builtin"], ["command"]) and len(words) > 1 and not words[1].startswith("-"):
            words = words[1:]
        name = words[0] if words else ""
        if name in self.shell.aliases:
            self._emit_alias(name, command)
            return
        if name in _COUNTS and any(map(_SUBSCRIPT.search, words)):
            raise UnreadableError("a subscript in a text would run a command")
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
        is_another = words[0] in _REFERRING and any(re.fullmatch(r"-[a-zA-Z]*n[a-zA-Z]*", each) for each in words[1:])
        for each in words[1:]:
            if (found := _ASSIGNS.match(each)) is not None and is_another:
                self._assign(found[1], (UNSEEN,))  # the name of a variable, whose value it has
            elif (found := _ASSIGNS.match(each)) is not None:
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
        number = re.compile(r"(?:\d*|\{[A-Za-z_]\w*\})(?=[<>])").match(self.text, self.at)
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

    def read_documents(self) -> None:
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
        word = Word([[""]])
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

    def read_apart(self, text: str, shell: Shell) -> list[Command]:
        """Return the commands of another text."""
        return read_script(text, shell)


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
