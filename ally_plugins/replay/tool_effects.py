"""What a call would change, read from its arguments: files and todos. Pure functions.

The player computes them again from arguments that a transform changed, so that no event carries what was redacted.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.tools.todo_tools import todos_of_call

from .steps import Diff, DiffMade, TodosChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .steps import Step, ToolCalled

__all__ = ["derive_diff", "derive_diffs", "steps_of_call"]

# A shell-like command longer than this is not taken apart: shlex is slow, and the diff is a courtesy.
_MAX_SHELL_COMMAND: Final = 256 * 1024
_PATCH: Final = "apply_patch"
_PATCH_HEAD: Final = re.compile(r"\*\*\* (?P<kind>Add|Update|Delete) File: (?P<path>.+)")


def derive_diff(tool_name: str, arguments: Mapping[str, Any], open_file: str = "") -> Diff | None:
    """Return what an edit tool is about to change, or None for other tools and for arguments without a file or text.

    `open_file` is the file that a line editor works on, for tools whose arguments do not name it. Content that was
    there before is the empty string where the call does not repeat it.
    """
    derive = _DIFFS.get(tool_name)
    return None if derive is None else derive(arguments, open_file)


def derive_diffs(tool_name: str, arguments: Mapping[str, Any]) -> list[Diff]:
    """Return what a call is about to change, where it may name several files; `derive_diff` finds each by its file."""
    if tool_name == _PATCH:
        return _patched(arguments)
    diff = derive_diff(tool_name, arguments)
    return [] if diff is None else [diff]


def steps_of_call(call: ToolCalled) -> Iterator[Step]:
    """Yield a call, the diffs that its arguments tell of, and the todos that they set."""
    yield call
    for diff in derive_diffs(call.tool_name, call.arguments):
        yield DiffMade(call.at, call.call_id, call.tool_name, diff, agent_id=call.agent_id)
    if (todos := todos_of_call(call.tool_name, call.arguments)) is not None:
        yield TodosChanged(call.at, todos, call.call_id, agent_id=call.agent_id)


def _edit(arguments: Mapping[str, Any], _open_file: str) -> Diff | None:
    path = _text(arguments, "file_path")
    if not path:
        return None
    return Diff(path, _text(arguments, "old_string"), _text(arguments, "new_string"), "edit")


def _write(arguments: Mapping[str, Any], _open_file: str) -> Diff | None:
    path = _text(arguments, "file_path") or _text(arguments, "path")
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
    """Read SWE-agent's line editor: `edit 10:12`, the new lines, `end_of_edit`; or the same as named arguments.

    pi's tool of this name takes `oldText` and `newText`, or a list `edits` of them.
    """
    path = _text(arguments, "path") or _text(arguments, "filename") or open_file
    if not path:
        return None
    edits = arguments.get("edits", (arguments,) if "newText" in arguments else None)
    if isinstance(edits, (list, tuple)):
        edits = [edit for edit in edits if _is_mapping(edit)]
        old = "\n".join(_text(edit, "oldText") for edit in edits)
        return Diff(path, old, "\n".join(_text(edit, "newText") for edit in edits), "edit", len(edits))
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


def _apply_patch(arguments: Mapping[str, Any], open_file: str) -> Diff | None:
    found = _patched(arguments)
    return next((diff for diff in found if diff.path == open_file), None if open_file or not found else found[0])


def _patched(arguments: Mapping[str, Any]) -> list[Diff]:
    """Read Codex's patches: a head for each file, then lines that begin with a space, a minus or a plus."""
    patch = _text(arguments, "input") or _text(arguments, "patch")
    return [_patched_file(head, body) for head, body in _files_of(patch)]


def _files_of(patch: str) -> Iterator[tuple[re.Match[str], list[str]]]:
    head, body = None, []
    for line in patch.split("\n"):
        found = _PATCH_HEAD.fullmatch(line.rstrip("\r"))
        if found is None and line.rstrip() != "*** End Patch":
            body.append(line)
            continue
        if head is not None:
            yield head, body
        head, body = found, []
    if head is not None:
        yield head, body


def _patched_file(head: re.Match[str], body: list[str]) -> Diff:
    lines = [line for line in body if line[:1] in {" ", "-", "+"}]
    return Diff(
        head["path"].strip(),
        "\n".join(line[1:] for line in lines if line[0] != "+"),
        "\n".join(line[1:] for line in lines if line[0] != "-"),
        {"Add": "write", "Delete": "delete"}.get(head["kind"], "edit"),
        max(1, sum(line.startswith("@@") for line in body)),
    )


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
    _PATCH: _apply_patch,
    "edit": _line_edit,
    "str_replace_editor": _string_editor,
    "str_replace_based_edit_tool": _string_editor,
    "write": _write,
}
