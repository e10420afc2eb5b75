"""Where the text of a transcript's user record comes from: a person, a slash command, or the program itself.

Claude Code writes what a person types, the output of its own commands and its notices to the model into records of the
same type; only how the text begins distinguishes them.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Any, Final

from .content import text_of

__all__ = ["TextKind", "command_text", "is_rejection", "kind_of_text"]

_INTERRUPTION: Final = "[Request interrupted by user"
_REJECTIONS: Final = (
    "The user doesn't want to proceed with this tool use",
    "The user doesn't want to take this action",
)
_COMMAND: Final = ("<command-name>", "<command-message>")
_COMMAND_PART: Final = re.compile(r"<command-(name|args)>(.*?)</command-\1>", re.DOTALL)
_LOCAL: Final = ("<local-command-", "<bash-input>", "<bash-stdout>", "<bash-stderr>")
# Who a message comes from, where that is recorded; others are background tasks and other agents.
_PERSONS: Final = frozenset({"", "human", "user"})
_NOTICES: Final = ("<system-reminder>", "<task-notification>", "<local-command-caveat>")


class TextKind(Enum):
    """What the text of a user record is."""

    PERSON = auto()
    COMMAND = auto()  # a slash command: the program's own, or one that stands for a prompt
    LOCAL = auto()  # what one of the program's own commands printed
    META = auto()  # for the model: the prompt that a command stands for, among others
    NOTICE = auto()  # for the model, and never the prompt of a command
    SUMMARY = auto()
    INTERRUPTION = auto()
    NOTHING = auto()


def kind_of_text(record: dict[str, Any], text: str) -> TextKind:
    """Return what `text`, which stands in the user record `record`, is."""
    start = text.lstrip()
    origin = record.get("origin")
    if type(origin) is dict and text_of(origin, "kind") not in _PERSONS:
        return TextKind.NOTICE
    if record.get("isCompactSummary") is True:
        return TextKind.SUMMARY
    if start.startswith(_NOTICES):
        return TextKind.NOTICE
    if record.get("isMeta") is True:
        return TextKind.META
    return _kind_of_start(start)


def command_text(text: str) -> str:
    """Return what the person typed: the command and its arguments."""
    parts = {part[1]: part[2].strip() for part in _COMMAND_PART.finditer(text)}
    return f"{parts.get('name', '')} {parts.get('args', '')}".strip() or text


def is_rejection(output: str) -> bool:
    """Return whether the output of a failed call says that the person refused it."""
    return output.startswith(_REJECTIONS)


def _kind_of_start(start: str) -> TextKind:
    if start.startswith(_LOCAL):
        return TextKind.LOCAL
    if start.startswith(_COMMAND):
        return TextKind.COMMAND
    if start.startswith(_INTERRUPTION):
        return TextKind.INTERRUPTION
    return TextKind.PERSON if start else TextKind.NOTHING
