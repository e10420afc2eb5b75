"""The host's own gate before a coding agent's calls: none may loosen what guards the agent.

Denied are calls that write the home or an agent's hook settings, and commands that may loosen. It sees what a call says
in plain words, and no more: a script that it starts, a name that is put together, a command that another program runs
later go past it. Against those stand the refusals by process tree, and a managed installation.
"""

from __future__ import annotations

import os
import re
import shlex
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from ally_plugins.policy.looking_commands import CHANGING, may_loosen, names_change

from . import shell_programs as programs
from .guarded_paths import IN_PROJECTS, GuardedPaths
from .guarding_programs import is_run_later, names_ours, replaces_ours, why_unhooked
from .shell_lines import UNSEEN, ShellCommand, numbered, read_line, unescaped

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ToolCall

__all__ = ["OwnGate"]

_HARMLESS_KINDS: Final = frozenset({"read", "search", "web", "agent", "todo"})
"""Common names of tools that write no file; what a sub-agent does is asked about in its turn."""

_KNOWN_KINDS: Final = frozenset({"bash", "write", "edit"})

_READS: Final = re.compile(
    r"(?:^|[_-])(?:read|get|list|ls|view|show|search|find|grep|glob|stat|open|cat)", re.IGNORECASE
)
"""In the name of a tool that is not known: it only reads."""

_COMMANDS: Final = frozenset({"command", "cmd", "script", "commands", "command_line", "commandline", "shell_command"})
_ARGUMENTS: Final = frozenset({"args", "arguments", "argv"})
"""Under which tools take the words after their command."""

_FOLDERS: Final = frozenset(
    {"cwd", "workdir", "working_dir", "working_directory", "workingdirectory", "directory", "dir", "dir_path"}
)
"""Under which tools take the folder that a command is to run in."""

_CODE: Final = frozenset("\n\t ('\"")
"""Characters of what is code rather than a name."""

_MANY: Final = 1000
"""Braces of one line that are expanded; a person's stand for a few names."""

_BRACES: Final = re.compile(r"\{([^{}]*,[^{}]*)\}")
_PATCHED: Final = re.compile(r"^\*\*\* (?:(?:Add|Update|Delete) File|Move to): (.+?)\s*$", re.MULTILINE)

_MAX_TEXT: Final = 128 * 1024
"""Characters of a shell's line that are looked at: Linux passes no longer one to a program (MAX_ARG_STRLEN)."""

_MOST_HANDED_ON: Final = 8 * _MAX_TEXT
"""Characters, through pipes and by files: a text of the greatest length through eight programs."""

_MOST_PLAIN: Final = 200
"""Words of one shell, each of which may be the line that it runs."""

_MOST_WRAPPERS: Final = 20
"""Programs before another one that it is run by."""

_LONGEST_PATH: Final = 4096  # bytes that Linux opens

_DEEPEST: Final = 6
"""Shells within one another; nobody writes three."""

_RESOLVED: Final = 400
"""Words of one call whose links are followed, which takes the disk; of others, their spelling counts."""


@frozen
class OwnGate(GuardedPaths):
    """What one conversation's calls are held to. Reads links on disk, and nothing else; raises nothing of its own."""

    def why_denied(self, call: ToolCall, cwd: str | None) -> str | None:
        """Return why a call must not run, None where nothing speaks against it; `cwd` is where it would."""
        cwd = cwd or self.user_home
        folders = [_Look(self, cwd).absolute(each) for each in _worked_in(call.common_arguments)]
        looks = (_Look(self, folder).at_call(call) for folder in dict.fromkeys((cwd, *folders)))
        return next(filter(None, looks), None)


class _Look:
    """One look at one call; keeps where a line has changed to, and how many links it has followed."""

    def __init__(self, gate: OwnGate, cwd: str, depth: int = 0) -> None:
        self._gate, self._cwd, self._depth, self._resolved, self._expanded = gate, cwd, depth, 0, 0
        self._variables = {"HOME": gate.user_home, "PWD": cwd}
        self._line = ""
        self._settings: dict[str, str] = {}
        self._now: dict[str, str] = {}
        """Those of the command that is looked at, too."""
        self._files: dict[str, list[str]] = {}
        """What the line has written to files, by their path."""
        self._handed_on = 0
        """Characters that commands of the line hand to others of it."""

    def at_call(self, call: ToolCall) -> str | None:
        if call.common_name in _HARMLESS_KINDS:
            return None
        arguments = call.common_arguments
        for line in _lines(arguments):
            if (why := self.at_line(line)) is not None:
                return why
        return next((why for name, text in _texts(arguments) if (why := self._at_text(call, name, text))), None)

    def _at_text(self, call: ToolCall, name: str, text: str) -> str | None:
        kind = call.common_name
        # Of a tool that is not known, each text may be a path, unless it reads as a sentence.
        is_path = kind in {"write", "edit"} and name == "path"
        if kind not in _KNOWN_KINDS and name.lower() not in _COMMANDS and not _READS.search(call.tool_name):
            is_path = text.startswith(("/", "~")) or not any(map(str.isspace, text))
        named = [text] if is_path else _PATCHED.findall(text)
        if (path := next(filter(self._is_guarded, named), None)) is not None:
            return self._written(call.tool_name, path)
        if kind not in {"write", "edit"} or is_path:
            return None
        paths = [*named, *(each for key, each in _texts(call.common_arguments) if key == "path")]
        return next(filter(None, (self._at_later(self.absolute(each), text) for each in paths)), None)

    def _written(self, what: str, path: str) -> str:
        return f"{what} would change {path!r:.300}, which says how this agent is guarded"

    # --- lines ---

    def at_line(self, text: str) -> str | None:
        """Return why a shell must not run a line."""
        if len(text) > _MAX_TEXT:
            return f"the command has {len(text):,} characters, and {_MAX_TEXT:,} at most are looked at"
        if self._depth > _DEEPEST:
            return "the command has too many shells within one another to be looked at"
        self._line = text
        try:
            commands = read_line(text, self._variables)
        except ValueError as error:
            return f"the command cannot be taken apart: {error}"
        printed, all_printed = "", list[str]()
        for command in commands:
            given = command.given or printed
            if (why := self._at_command(command, given) or self._at_written(command, given)) is not None:
                return why
            said = _printed(command, given)
            all_printed.append(said)
            # What ends brackets or a loop hands on what all in it have printed.
            printed = (said if command.words else "\n".join(all_printed)) if command.sends_on else ""
            if printed and (why := self._at_length(printed)) is not None:
                return why
        return f"its braces stand for more than {_MANY} names" if self._expanded > _MANY else None

    def _at_written(self, command: ShellCommand, given: str) -> str | None:
        """Keep what a command writes to files, which the line may run; look at it where others run it later."""
        files = [*command.writes, *(command.words[1:] if command.words[:1] == ["tee"] else ())]
        text = given if command.words[:1] == ["tee"] else _printed(command, given)
        for path in map(self.absolute, files):
            self._files.setdefault(path, []).append(text)
            if (why := self._at_later(path, text)) is not None:
                return why
        return None

    def _at_later(self, path: str, text: str) -> str | None:
        """Look at what is written to a file that a shell, git or the system runs of its own accord."""
        if not is_run_later(path) or not text.strip():
            return None
        why = _Look(self._gate, self._cwd, self._depth + 1).at_line(text)
        return f"what {path!r:.200} would hold is run later: {why}" if why is not None else None

    def _at_guards(self, command: ShellCommand, given: str) -> str | None:
        """Look whether a command takes our programs away, gives them another name, or starts an agent without hooks."""
        if not command.words:
            self._settings |= command.settings
        elif command.words[0] == "unset":
            self._settings |= dict.fromkeys(command.words[1:], "")
        given_words = (word.partition("=") for word in command.words[:8] if not word.startswith("-"))
        self._now = self._settings | command.settings | {name: value for name, equals, value in given_words if equals}
        inner = [word for each in command.all_inner() for word in each.words[1:]]
        if (packager := replaces_ours([*command.words, *inner, *given.split()], self._now)) is not None:
            return f"{packager} would remove or replace ally-plugins, which guards this agent; the person runs it"
        if PurePosixPath("".join(command.words[:1])).name in {"cp", "ln", "mv", "install"} and any(
            map(names_ours, command.words[1:])
        ):
            return f"{command.words[0]} would give ally-plugins another name, by which it cannot be seen"
        return why_unhooked(command.words, self._now)

    def _at_command(self, command: ShellCommand, given: str) -> str | None:
        if (why := self._at_guards(command, given)) is not None:
            return why
        words, why = self._unwrapped(command, given)
        return why if why is not None or not words else self._at_words(words, command, given)

    def _at_words(self, words: list[str], command: ShellCommand, given: str) -> str | None:
        program = PurePosixPath(words[0]).name or words[0]
        inner = command.all_inner()
        if self._files and (why := self._at_run(words)) is not None:
            return why
        if program in programs.SHELLS:
            printed = (" ".join(each.words[1:]) for each in inner)
            return self._at_program(words, "\n".join([given, *printed]))
        added = given.split() if "xargs" in command.words else []
        if programs.arguments_of_ours(words) is not None:
            return self._at_program([*words, *added], given)
        why = self._at_mention(program, words[1:], given) or self._at_program(words, given)
        if why is not None or programs.only_reads(program, words[1:]):
            return why
        # What other commands print stands among its words.
        if program not in {"cd", "pushd"} and any(_PACKAGE.search(" ".join(each.words)) for each in inner):
            return f"{program} would change what ally-plugins is made of, which guards this agent"
        naming = [each for each in inner if PurePosixPath("".join(each.words[:1])).name in programs.NAMING]
        added += [word for each in naming for word in each.words[1:]]
        return self._first_guarded(program, added, reaches_in=True)

    def _at_length(self, text: str) -> str | None:
        self._handed_on += len(text)
        if self._handed_on > _MOST_HANDED_ON:
            return f"its commands hand on more than the {_MOST_HANDED_ON:,} characters that are looked at"
        return None

    def _at_run(self, words: list[str]) -> str | None:
        """Look at a file that the line has written before, which a shell or an interpreter may run."""
        written = "\n".join(text for word in words for text in self._files.get(self.absolute(word), ()))
        if not written:
            return None
        if (why := self._at_length(written)) is not None:
            return why
        program = PurePosixPath(words[0]).name or words[0]
        if program in programs.SHELLS or self.absolute(words[0]) in self._files:
            return self._at_shell("sh", words[1:], written)
        if programs.INTERPRETERS.fullmatch(program):
            return self._at_mention(program, words[1:], written) or self._at_paths(program, words[1:], written)
        return None

    def _unwrapped(self, command: ShellCommand, given: str) -> tuple[list[str], str | None]:
        """Return the words without what runs what comes after it, and whatever else that is told; or why not."""
        words, why = programs.split_by_env(command.words), self._at_shell_state(command)
        tried = 0
        while why is None and len(words) > 1 and PurePosixPath(words[0]).name in programs.WRAPPERS:
            if (tried := tried + 1) > _MOST_WRAPPERS:
                return words, f"more than {_MOST_WRAPPERS} programs would run each other, and no more are looked at"
            left = programs.unwrapped(words)
            why = self._at_wrapper(words[: len(words) - len(left)], left, given)
            words = programs.split_by_env(left)
        return words, why

    def _at_wrapper(self, wrapper: list[str], words: list[str], given: str) -> str | None:
        if any(map(names_change, wrapper)):
            return f"{shlex.join(wrapper):.200} may run what loosens what guards this agent"
        if (folder := next(filter(self._holds_at_once, programs.folders_of([*wrapper, *words[:1]])), None)) is not None:
            return self._written(wrapper[0], folder)
        if wrapper[0] == "xargs" and not given and words and programs.arguments_of_ours(words) == []:
            return f"xargs would run {words[0]} with words that cannot be seen"
        return None

    def _at_shell_state(self, command: ShellCommand) -> str | None:
        """Look at what it writes to, and at its variables: at its own, and those that programs run."""
        if target := next(filter(self._is_guarded, command.writes), None):
            return self._written("a redirection", target)
        inner = (" ".join(each.words) for each in command.all_inner())
        if any(UNSEEN in target for target in command.writes) and any(map(_PACKAGE.search, inner)):
            return "a redirection would change what ally-plugins is made of, which guards this agent"
        if (tree := command.settings.get("GIT_WORK_TREE", "")) and self._holds_at_once(tree):
            return self._written("git", tree)
        for name, value in command.settings.items():
            if (command.words or programs.is_run_by_others(name)) and names_change(value):
                return f"{name} would have a program run {value:.200}, which may loosen what guards this agent"
        return None

    def _at_mention(self, program: str, rest: list[str], given: str) -> str | None:
        """Look whether one of our commands is named to a program that may run it, by whatever option."""
        if programs.only_tells(program, rest):
            return None
        text = " ".join(rest)
        text = f"{program} {text}\n{given}"
        if programs.INTERPRETERS.fullmatch(program) and programs.RUNNING.search(text) is None:
            return None
        if names_change(text):
            return f"{program} may run a command that loosens what guards this agent; the person runs it, in a terminal"
        return None

    def _at_program(self, words: list[str], given: str) -> str | None:
        program, rest = PurePosixPath(words[0]).name or words[0], words[1:]
        if program in {"cd", "pushd"}:
            self._cwd = self.absolute(rest[-1]) if rest else self._gate.user_home
            return None
        ours = programs.arguments_of_ours(words)
        if any(word.startswith("$") for word in words[:2]) and CHANGING & {*rest[:4]} and _OURS.search(self._line):
            ours = rest  # its name is known when it is run, and the line has ours somewhere
        if ours is not None:
            return self._at_ours(ours)
        if program in programs.SHELLS or program in programs.LAUNCHERS:
            return self._at_shell(program, rest, given)
        if (folder := self._worked_in(program, rest)) is not None:
            return self._written(program, folder)
        if rest[:1] == ["disconnect"] and self._is_guarded(words[0]):
            return "it takes hooks out of an agent's settings; the person runs it in a terminal outside the agent"
        return self._at_paths(program, rest, given)

    def _at_ours(self, words: list[str]) -> str | None:
        if may_loosen(words):
            line = shlex.join(["ally-plugins", *words])
            return f"{line:.200} may loosen what guards this agent; the person runs it in a terminal outside the agent"
        found = [word for before, word in pairwise(["", *words]) if before not in {"--home", "--app"}]
        return next((self._written("ally-plugins", word) for word in found if self._is_guarded(word)), None)

    def _at_shell(self, program: str, rest: list[str], given: str) -> str | None:
        """Look at what a shell, or what launches something, is given to run."""
        plain = [word for word in rest if not word.startswith(("-", "+"))]
        if len(plain) > _MOST_PLAIN:
            return f"{program} is given more than the {_MOST_PLAIN} words that are looked at"
        for line in dict.fromkeys(filter(str.strip, _lines_run(program, rest, plain, given))):
            look = _Look(self._gate, self._cwd, self._depth + 1)
            look._settings = dict(self._now)
            look._variables.update(numbered(rest[rest.index(line) + 1 :]) if line in rest else {})
            if (why := look.at_line(line)) is not None:
                return why
        if program in {"docker", "podman", "nerdctl"}:
            return self._at_mounts(program, rest)
        if program == "script":
            return self._first_guarded(program, rest)
        return self._at_paths(program, rest, "") if program == "find" else None

    def _at_mounts(self, program: str, rest: list[str]) -> str | None:
        """Look at the folders that a container is given to write to."""
        for word in rest:
            *paths, last = _PARTS.split(word)
            if not {"ro", "readonly"} & {*paths, last}:
                why = self._first_guarded(program, [each for each in paths if each[:1] in {"/", "~"}], reaches_in=True)
                if why is not None:
                    return why
        return None

    def _worked_in(self, program: str, rest: list[str]) -> str | None:
        """Return the folder of guarded files in which a program is to write, of which files it does not say."""
        if programs.only_reads(program, rest):
            return None
        folders = [*programs.folders_of(rest), *([self._cwd] if programs.unpacks(program, rest) else ())]
        folders += rest if program == "git" else ()  # what it checks out, restores or cleans
        return next(filter(self._holds_at_once, folders), None)

    def _holds_at_once(self, word: str) -> bool:
        return any(map(self._gate.holds_at_once, self._forms(word)))

    # --- paths ---

    def _at_paths(self, program: str, rest: list[str], given: str) -> str | None:
        if not programs.only_tells(program, rest):
            code = "\n".join(word for word in (*rest, given) if set(word) & _CODE)
            if programs.WRITING.search(code) and self._names_guarded(code):
                return f"{program} would run code that may write, and that names what guards this agent"
        if programs.INTERPRETERS.fullmatch(program):
            # Of a name alone, nobody knows what the program does with it.
            return self._at_names(program, [word for word in rest if not set(word) & _CODE])
        named = [each for text in (*rest, given) for each in _NAMED_IN.get(program, _NOTHING).findall(text)]
        if (why := self._first_guarded(program, named)) is not None:
            return why
        if programs.only_reads(program, rest):
            # Of an archive that is made, the name is written; what is packed is read.
            return self._first_guarded(program, _archives(rest)) if program == "tar" else None
        if program in programs.COPIES and not {"--delete", "--remove-source-files"} & set(rest):
            return self._at_copy(program, rest)
        return self._first_guarded(program, rest)

    def _at_names(self, interpreter: str, names: list[str]) -> str | None:
        if "-m" in names and (folder := next(filter(self._holds_at_once, names), None)) is not None:
            return self._written(interpreter, folder)  # by a module that unpacks, as `zipfile`
        return self._first_guarded(interpreter, names)

    def _names_guarded(self, code: str) -> bool:
        if any(name in code.casefold() for name in self._gate.spellings()) or self._gate.is_put_together(code):
            return True
        if _PACKAGE.search(code) and _OWN_FILES.search(code):
            return True
        here = self._cwd if self._gate.holds_at_once(self._cwd) else ""
        return bool(here) and any(self._gate.is_guarded(f"{here}/{name}") for name in re.findall(r"[\w.-]+", code))

    def _first_guarded(self, program: str, words: list[str], *, reaches_in: bool = False) -> str | None:
        reaches_in = reaches_in or programs.takes_away(program, words)
        for word in words:
            for path in programs.paths_in(word):
                if self._is_guarded(path) or (reaches_in and self._holds_guarded(path)):
                    return self._written(program, path)
        return None

    def _at_copy(self, program: str, rest: list[str]) -> str | None:
        plain = [word for word in rest if not word.startswith("-")]
        targets = [word.partition("=")[2] for word in rest if word.startswith("--target-directory=")]
        targets += [after for option, after in pairwise(rest) if option == "-t"]
        sources = plain if targets else plain[:-1]
        if any(map(_LINKS.fullmatch, rest)) and (why := self._first_guarded(program, sources, reaches_in=True)):
            return why
        # What a folder holds is copied under names that the line does not say.
        brings_any = any(map(_AS_IT_IS.fullmatch, rest)) or any(each.endswith(("/", "/.", "*")) for each in sources)
        for target in targets or plain[-1:]:
            if brings_any and self._holds_at_once(target):
                return self._written(program, target)
            into = [f"{target.rstrip('/')}/{PurePosixPath(source).name}" for source in sources]
            for path in (target, *into):
                if self._is_guarded(path) or (path != target and self._holds_guarded(path)):
                    return self._written(program, path)
        return None

    def _is_guarded(self, word: str) -> bool:
        return any(map(self._gate.is_guarded, self._forms(word))) or self._matches(word, within=False)

    def _holds_guarded(self, word: str) -> bool:
        return any(map(self._gate.holds_guarded, self._forms(word))) or self._matches(word, within=True)

    def _forms(self, word: str) -> Iterator[str]:
        """Yield the path that a word means, as it is spelled, and where its links lead."""
        if not word.partition("\0")[0] or len(word) > _LONGEST_PATH:
            return
        if (braces := _BRACES.search(word)) is not None:
            self._expanded += 1
            if self._expanded <= _MANY:
                for each in braces[1].split(","):
                    yield from self._forms(word[: braces.start()] + each + word[braces.end() :])
        path = self.absolute(word)
        yield path
        self._resolved += 1
        if self._resolved <= _RESOLVED:
            yield os.path.realpath(path)

    def absolute(self, word: str) -> str:
        """Return the path that a word means, as it is spelled."""
        word = word.partition("\0")[0]  # what takes it any further ends there
        if word == "~" or word.startswith("~/"):
            word = self._gate.user_home + word[1:]
        return os.path.normpath(os.path.join(self._cwd, word))  # noqa: PTH118 - of text, and nothing on disk

    def _with_signs(self, word: str) -> str:
        """Return a word with `*` for what is not seen of it: of a name that is seen in part, or in a guarded folder."""
        if "$" not in word:
            return word
        parts = _HIDDEN.sub("\0", word).split("/")
        for number, part in enumerate(parts):
            if "\0" in part and not (part.strip("\0") or self._holds_at_once("/".join(parts[:number]))):
                return word
        return "/".join(part.replace("\0", "*") for part in parts)

    def _matches(self, word: str, *, within: bool) -> bool:
        """Say whether a pattern meets one of them, or a folder above one."""
        word = _STARS.sub("*", self._with_signs(word))
        if not set("*?[") & set(word):
            return False
        if len(word) > _LONGEST_PATH:
            return not any(map(str.isspace, word))  # no name, and as a pattern nobody can say what it meets
        pattern = self.absolute(word).casefold()
        named = (*self._gate.folders, *self._gate.files, *(f"{self._cwd}/{name}" for name in IN_PROJECTS))
        guarded = [each.casefold() for each in named]
        return any(
            fnmatchcase(each, pattern)
            or (within and any(fnmatchcase(str(above), pattern) for above in PurePosixPath(each).parents))
            for each in guarded
        )


def _lines_run(program: str, rest: list[str], plain: list[str], given: str) -> list[str]:
    """Return the lines that a shell, or what launches something, may run of its words and of what it is given."""
    if program == "crontab":
        given = _TIMES.sub("", given)
    lines = [given]
    if program in programs.LAUNCHERS:
        lines += [*(word for word in rest if " " in word), shlex.join(programs.from_program(program, rest))]
    elif program == "eval":
        lines.append(" ".join(rest))
    elif program == "busybox":
        lines.append(shlex.join(rest))
    elif any(map(programs.INLINE.fullmatch, rest)):
        lines += plain
    lines += [word.partition("=")[2] for word in rest if word.startswith("--command=")]
    return lines


def _printed(command: ShellCommand, given: str) -> str:
    """Return what a command may print: what it is given, and its words."""
    if command.words[:1] == ["base64"] and {"-d", "-D", "--decode"} & set(command.words):
        with suppress(ValueError):
            return b64decode(given, validate=False).decode("utf-8", "replace")
    said = " ".join(command.words[1:])
    return "\n".join(filter(None, [unescaped(said) if command.words[:1] == ["printf"] else said, given]))


_PACKAGE: Final = re.compile(r"(?<![\w/-])ally_plugins(?:_contrib)?(?![\w/-])")
_OWN_FILES: Final = re.compile(r"__path__|__file__|getfile|getsourcefile|find_spec|resources|origin")
"""By which code finds the files of a package."""
_TIMES: Final = re.compile(r"^[ \t]*(?:@\w+|(?:[\d*,/a-zA-Z-]+[ \t]+){4}[\d*,/a-zA-Z-]+)[ \t]", re.MULTILINE)
"""What stands before a command in a table of cron."""
_STARS: Final = re.compile(r"\*{2,}")
_HIDDEN: Final = re.compile(r"\$(?:\(\)|\{[^}]*\}|\w+|[@*])")
_PARTS: Final = re.compile(r"[,:=]")
_LINKS: Final = re.compile(r"-[a-zA-Z]*[ls][a-zA-Z]*|--link|--symbolic-link")
"""Of `cp`: under another name the same file."""
_AS_IT_IS: Final = re.compile(r"-[a-zA-Z]*T[a-zA-Z]*|--no-target-directory")
_OURS: Final = re.compile(r"(?:(?<![\w./-])|bin/)ally[-_]plugins(?![\w/-])")
_NOTHING: Final = re.compile(r"(?!)")
_DIFFED: Final = re.compile(r"^\+\+\+ (?:b/)?(\S+)", re.MULTILINE)
_NAMED_IN: Final = {
    "sed": re.compile(r"(?:^|[\s;{}/|,=\dgpIiMm$])w\s*(\S+)"), "patch": _DIFFED, "git": _DIFFED,
}  # fmt: skip
"""Files that some programs are told to write to within a text."""


def _archives(rest: list[str]) -> list[str]:
    """Return what tar is told to write to."""
    return [after for word, after in pairwise(rest) if re.fullmatch(r"-?[a-zA-Z]*f|--file", word)] + [
        word.partition("=")[2] for word in rest if word.startswith("--file=")
    ]


def _worked_in(arguments: Mapping[str, Any]) -> list[str]:
    """Return the folders in which a call has its command run; an agent need not go by all of these names."""
    return [each for name, each in arguments.items() if name.lower() in _FOLDERS and isinstance(each, str)]


def _lines(value: Any) -> Iterator[str]:
    """Yield what a call's arguments have a shell run: a line, the words of one, a command beside its words."""
    if isinstance(value, Mapping):
        words = [each for name, each in value.items() if name.lower() in _ARGUMENTS and not isinstance(each, str)]
        for name, each in value.items():
            if name.lower() not in _COMMANDS:
                yield from _lines(each)
            elif isinstance(each, str):
                yield each
                yield from (shlex.join([each, *map(str, more)]) for more in words if isinstance(more, Sequence))
            else:
                yield from _lines_of(each)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for each in value:
            yield from _lines(each)
        texts = [each for each in value if isinstance(each, str)]
        if programs.arguments_of_ours(texts or [""]) is not None:
            yield shlex.join(texts)


def _lines_of(command: Any) -> Iterator[str]:
    if isinstance(command, Sequence):
        yield shlex.join(map(str, command))
        yield from (each for each in command if isinstance(each, str) and any(map(str.isspace, each)))
    else:
        yield from _lines(command)


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a call's arguments, with the name that it stands under."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _texts(each, key)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each, name)
