"""Diffs of what a call of the file tools would change, made before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.catalog.home.folder import read_capped
from ally_plugins.contract.values.events import DiffPreview

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ToolCall

__all__ = ["Previews"]

_LARGEST: Final = 1024 * 1024
"""Bytes of a file that is shown as a diff: more than anybody reads before agreeing."""


class Previews:
    """Makes the previews of edits below one folder; reads files and writes none."""

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder

    def __call__(self, call: ToolCall) -> DiffPreview | None:
        """Return what a call would change; None for one that changes no file, or a file that nobody can show."""
        path = call.arguments.get("path")
        if call.tool_name not in {"write_file", "edit_file"} or not isinstance(path, str):
            return None
        old = self._read(path)
        if old is None:
            return None
        new = _written(call.arguments) if call.tool_name == "write_file" else _edited(old, call.arguments)
        if new is None:
            return None
        return DiffPreview(
            tool_name=call.tool_name,
            file_path=path,
            old_content=old,
            new_content=new,
            operation_type="write" if call.tool_name == "write_file" else "edit",
            edits_count=len(_replacements(call.arguments)) or None,
            call_id=call.call_id,
            agent_id=call.agent_id,
        )

    def _read(self, path: str) -> str | None:
        """Return a file's text, "" for none; None for what the file tool would refuse or nobody can show."""
        try:
            found = (self._folder / path).resolve()
            if not found.is_relative_to(self._folder):
                return None
            return (read_capped(found, _LARGEST) or b"").decode()
        except (OSError, ValueError, RuntimeError):  # no text, too large, a path that no system takes, a loop of links
            return None


def _written(arguments: Mapping[str, Any]) -> str | None:
    content = arguments.get("content")
    return content if isinstance(content, str) else None


def _edited(old: str, arguments: Mapping[str, Any]) -> str | None:
    """Return the text after the edit; the old one where the edit does not fit, since the tool will fail then."""
    new = old
    for before, after in _replacements(arguments):
        if new.count(before) != 1:
            return old
        new = new.replace(before, after)
    return new


def _replacements(arguments: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    given = [arguments, *(arguments.get("replacements") or ())]
    pairs = [(each.get("old_text"), each.get("new_text")) for each in given if isinstance(each, Mapping)]
    return [(old, new) for old, new in pairs if isinstance(old, str) and isinstance(new, str) and old]
