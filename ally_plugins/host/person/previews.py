"""A ready preview for tools that write and edit files below a folder: what a call would make of the file.

It knows the arguments of `write_file` and `edit_file` as many agents have them; others write their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.events import DiffPreview

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ToolCall

__all__ = ["MAX_PREVIEW_BYTES", "file_preview"]

MAX_PREVIEW_BYTES: Final = 2 * 1024 * 1024
"""The largest file that is read for a preview; a person reads none of that size, and events hold both versions."""


def file_preview(
    root: Path | str, *, write: Collection[str] = ("write_file",), edit: Collection[str] = ("edit_file",)
) -> Callable[[ToolCall], Awaitable[DiffPreview | None]]:
    """Return a preview for tools that write whole files, and such that replace text, in files below `root`.

    `write` names tools with the arguments `path` and `content`; `edit` those with `path`, and `old_text` and `new_text`
    or a list `replacements` of such pairs. There is no preview for what the tool would refuse: a path outside the
    root, a file that is too large or no UTF-8, a text to replace that is not there exactly once.
    """
    folder = Path(root).resolve()

    async def preview(call: ToolCall) -> DiffPreview | None:
        if call.tool_name in write:
            # In a thread: a slow disk must not hold up the loop, on which the plugins' deadlines run.
            return await asyncio.to_thread(_written, folder, call)
        if call.tool_name in edit:
            return await asyncio.to_thread(_edited, folder, call)
        return None

    return preview


def _written(folder: Path, call: ToolCall) -> DiffPreview | None:
    path, content = _path(folder, call.arguments), call.arguments.get("content")
    if path is None or not isinstance(content, str):
        return None
    if not path.exists():
        return _diff(call, "", content, "create")
    old = _text(path)
    return _diff(call, old, content, "write") if old is not None else None


def _edited(folder: Path, call: ToolCall) -> DiffPreview | None:
    path = _path(folder, call.arguments)
    old = _text(path) if path is not None else None
    pairs = _pairs(call.arguments)
    if old is None or not pairs:
        return None
    new = old
    for before, after in pairs:
        # In the text as the replacements before have left it: they are made one after the other.
        if new.count(before) != 1:
            return None
        new = new.replace(before, after)
    return _diff(call, old, new, "edit", len(pairs))


def _diff(call: ToolCall, old: str, new: str, kind: str, edits: int | None = None) -> DiffPreview:
    return DiffPreview(
        tool_name=call.tool_name,
        file_path=str(call.arguments["path"]),
        old_content=old,
        new_content=new,
        operation_type=kind,
        edits_count=edits,
    )


def _path(folder: Path, arguments: Mapping[str, Any]) -> Path | None:
    given = arguments.get("path")
    if not isinstance(given, str) or "\0" in given:  # `resolve` raises ValueError for a null character
        return None
    try:
        # Links are followed before the comparison: one inside may lead outside.
        path = (folder / given).resolve()
        path.exists()
    except (OSError, RuntimeError):  # a loop of links, a name that is too long
        return None
    return path if path.is_relative_to(folder) else None


def _text(path: Path) -> str | None:
    try:
        # A pipe or device is no file: a read of it may never end.
        if not path.is_file() or path.stat().st_size > MAX_PREVIEW_BYTES:
            return None
        return path.read_bytes().decode()  # not `read_text`: it would change the ends of lines
    except (OSError, UnicodeDecodeError):
        return None


def _pairs(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the texts to replace and what replaces them; none when any is not one."""
    given = arguments.get("replacements") or (arguments,)
    found = [(each.get("old_text"), each.get("new_text")) for each in given if isinstance(each, Mapping)]
    is_whole = len(found) == len(given) and all(isinstance(text, str) for pair in found for text in pair)
    return found if is_whole and all(old for old, _ in found) else []  # type: ignore[return-value]  # checked above
