"""The simple commands of a script, what a shell knows between them, and what those print that only print."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field, replace
from typing import Final

from .words import MANY, UNSEEN, is_known

__all__ = ["MAX_COMMANDS", "Command", "Shell", "UnreadableError", "output_of"]

MAX_COMMANDS: Final = 4000
"""Simple commands of one line, each alternative of a word counted, and those of texts that shells are given."""


class UnreadableError(ValueError):
    """A command line is none that can be read here; the text says what was found."""


@dataclass
class Command:
    """One simple command: its words, each as far as it is known, and where it may run.

    `stdin` is what it reads: a text, `UNSEEN`, or None for what it inherits. `before` are the commands of the pipeline
    that it reads from. `reads` and `writes` are the files of its redirections. `folders` are those that it may run in.
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


def _printed(command: Command) -> str:  # noqa: PLR0911 - a table of programs
    words, name = command.words, command.words[0].rpartition("/")[2] if command.words else ""
    match name:
        case "echo":
            shown = words[1:]
            while shown and re.fullmatch(r"-[neE]+", shown[0]):
                shown = shown[1:]
            # Shells do not agree on what a backslash is to it.
            return UNSEEN if any("\\" in each for each in shown) else " ".join(shown) + "\n"
        case "printf":
            if len(words) == 2 and "%" not in words[1] and "\\" not in words[1]:  # noqa: PLR2004 - its name and a text
                return words[1]
            return _formatted(words[1], words[2:]) if len(words) > 2 else UNSEEN  # noqa: PLR2004 - and texts for it
        case "ls":
            # Files as they are named; of a folder, whatever is in it.
            return "\n".join(each for each in words[1:] if not each.startswith("-")) or MANY
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


def _formatted(form: str, texts: list[str]) -> str:
    """Return what `printf` prints for a format of texts alone, which begins again while there are any."""
    parts = form.removesuffix("\\n").split("%s")
    if len(parts) == 1 or any("%" in each or "\\" in each for each in parts):
        return UNSEEN
    found = ""
    for at in range(0, len(texts), len(parts) - 1):
        given = [*texts[at : at + len(parts) - 1], *[""] * len(parts)]
        found += "".join(f"{part}{text}" for part, text in zip(parts, [*given[: len(parts) - 1], ""], strict=True))
        found += "\n" if form.endswith("\\n") else ""
    return found


def _decoded(text: str | None) -> str:
    if text is None or not is_known(text):
        return UNSEEN
    try:
        return base64.b64decode("".join(text.split()), validate=True).decode()
    except (binascii.Error, ValueError):
        return UNSEEN
