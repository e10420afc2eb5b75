"""What an edit tool's call would change, read from its arguments. Pure functions.

The player computes them again from arguments that a transform changed, so that no event carries what was redacted.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from .steps import Diff

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["derive_diff"]

# A shell-like command longer than this is not taken apart: shlex is slow, and the diff is a courtesy.
_MAX_SHELL_COMMAND: Final = 256 * 1024


def derive_diff(tool_name: str, arguments: Mapping[str, Any], open_file: str = "") -> Diff | None:
    """Return what an edit tool is about to change, or None for other tools and for arguments without a file or text.

    `open_file` is the file that a line editor works on, for tools whose arguments do not name it. Content that was
    there before is the empty string where the call does not repeat it.
    """
    derive = _DIFFS.get(tool_name)
    return None if derive is None else derive(arguments, open_file)


def _edit(arguments: Mapping[str, Any], _open_file: str) -> Diff | None:
    path = _text(arguments, "file_path")
    if not path:
        return None
    return Diff(path, _text(arguments, "old_string"), _text(arguments, "new_string"), "edit")


def _write(arguments: Mapping[str, Any], _open_file: str) -> Diff | None:
    path = _text(arguments, "file_path")
    return Diff(path, "", _text(arguments, "content"), "write") if path else None


def _multi_edit(arguments: Mapping[str, Any], _open_file: str) -> Diff | None:
    path, edits = _text(arguments, "file_path"), arguments.get("edits")
    if not path or not isinstance(edits, (list, tuple)):
        return None
    edits = [edit for edit in edits if _is_mapping(edit)]
    old = "\n".join(_text(edit, "old_string") for edit in edits)
    new = "\n".join(_text(edit, "new_string") for edit in edits)
    return Diff(path, old, new, "edit", len(edits))


def _notebook_edit(arguments: Mapping[str, Any], _open_file: str) -> Diff | None:
    path = _text(arguments, "notebook_path")
    return Diff(path, "", _text(arguments, "new_source"), _text(arguments, "edit_mode") or "edit") if path else None


def _line_edit(arguments: Mapping[str, Any], open_file: str) -> Diff | None:
    """Read SWE-agent's line editor: `edit 10:12`, the new lines, `end_of_edit`; or the same as named arguments."""
    path = _text(arguments, "path") or _text(arguments, "filename") or open_file
    if not path:
        return None
    if "replacement_text" in arguments:
        return Diff(path, "", _text(arguments, "replacement_text"), "edit")
    if "search" in arguments and "replace" in arguments:
        return Diff(path, _text(arguments, "search"), _text(arguments, "replace"), "edit")
    _head, newline, body = _text(arguments, "command").partition("\n")
    if not newline:
        return None
    return Diff(path, "", body.rstrip().removesuffix("end_of_edit").removesuffix("\n"), "edit")


def _string_editor(arguments: Mapping[str, Any], _open_file: str) -> Diff | None:
    """Read `str_replace_editor`, whose arguments are named, or one shell-like line in text trajectories."""
    command = _text(arguments, "command")
    if command.startswith("str_replace_editor "):
        arguments = _shell_arguments(command)
        command = _text(arguments, "command")
    path = _text(arguments, "path")
    if not path:
        return None
    if command == "create":
        return Diff(path, "", _text(arguments, "file_text"), "create")
    if command == "str_replace":
        return Diff(path, _text(arguments, "old_str"), _text(arguments, "new_str"), "edit")
    if command == "insert":
        return Diff(path, "", _text(arguments, "new_str"), "insert")
    return None


def _shell_arguments(command: str) -> dict[str, str]:
    if len(command) > _MAX_SHELL_COMMAND:
        return {}
    try:
        parts = shlex.split(command)
    except ValueError:
        return {}
    found: dict[str, str] = dict(zip(("command", "path"), parts[1:3], strict=False))
    for option, value in zip(parts[3::2], parts[4::2], strict=False):
        found[option.removeprefix("--")] = value
    return found


def _is_mapping(value: Any) -> bool:
    return hasattr(value, "items")


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else ""


_DIFFS: Final[dict[str, Callable[[Mapping[str, Any], str], Diff | None]]] = {
    "Edit": _edit,
    "Write": _write,
    "MultiEdit": _multi_edit,
    "NotebookEdit": _notebook_edit,
    "edit": _line_edit,
    "str_replace_editor": _string_editor,
    "str_replace_based_edit_tool": _string_editor,
}
