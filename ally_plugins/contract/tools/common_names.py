"""Agents' tools under their common names, so that one grant and one plugin mean the same tools in all agents.

Data, and a look-up. Who hooks into an agent, and who reads the files that it keeps, find a tool's name here: what a
gate is asked about live it is asked about in a replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

__all__ = ["COMMON_NAMES", "TOOL_NAMES", "CommonName", "argument_names", "common_name"]

COMMON_NAMES: Final = frozenset({"bash", "read", "write", "edit", "search", "web", "agent", "todo"})
"""What all agents' tools of a kind are called: a plugin's tool of such a name has other arguments."""

CommonName: TypeAlias = tuple[str | None, Mapping[str, str]]
"""A tool's common name, None where it has none, and the common names of those arguments that go by others."""

_SAME: Final[Mapping[str, str]] = {}  # arguments that have the common names
_CLAUDE_FILE: Final = {"file_path": "path"}
_GEMINI_FILE: Final = {"file_path": "path", "absolute_path": "path"}
_LINES: Final = {"replacement_text": "new_text", "search": "old_text", "replace": "new_text"}

TOOL_NAMES: Final[Mapping[str, Mapping[str, tuple[str, Mapping[str, str]]]]] = {
    "claude": {
        "Bash": ("bash", _SAME),
        "Read": ("read", _CLAUDE_FILE),
        "Write": ("write", _CLAUDE_FILE),
        "Edit": ("edit", {**_CLAUDE_FILE, "old_string": "old_text", "new_string": "new_text"}),
        "MultiEdit": ("edit", _CLAUDE_FILE),
        "NotebookEdit": ("edit", {"notebook_path": "path", "new_source": "new_text"}),
        "Grep": ("search", _SAME),
        "Glob": ("search", _SAME),
        "WebFetch": ("web", _SAME),
        "WebSearch": ("web", _SAME),
        "Agent": ("agent", _SAME),
        "Task": ("agent", _SAME),
        "TodoWrite": ("todo", _SAME),
    },
    "codex": {
        "Bash": ("bash", _SAME),  # to its hooks; what follows is what the model calls, and stands in its files
        "exec_command": ("bash", {"cmd": "command"}),
        "shell": ("bash", _SAME),
        "shell_command": ("bash", _SAME),
        "container.exec": ("bash", {"cmd": "command"}),
        "local_shell": ("bash", _SAME),
        "apply_patch": ("edit", _SAME),
        "spawn_agent": ("agent", {"message": "prompt"}),
        "update_plan": ("todo", _SAME),
        "view_image": ("read", _SAME),
        "web_search": ("web", _SAME),
    },
    "gemini": {
        "run_shell_command": ("bash", _SAME),
        "read_file": ("read", _GEMINI_FILE),
        "write_file": ("write", _GEMINI_FILE),
        "replace": ("edit", {**_GEMINI_FILE, "old_string": "old_text", "new_string": "new_text"}),
        "search_file_content": ("search", _SAME),
        "grep_search": ("search", _SAME),
        "glob": ("search", _SAME),
        "list_directory": ("search", _SAME),
        "web_fetch": ("web", _SAME),
        "google_web_search": ("web", _SAME),
        "invoke_agent": ("agent", _SAME),
        "write_todos": ("todo", _SAME),
    },
    "copilot": {
        "bash": ("bash", _SAME),
        "view": ("read", _SAME),
        "create": ("write", {"file_text": "content"}),
        "edit": ("edit", {"old_str": "old_text", "new_str": "new_text"}),
        "grep": ("search", _SAME),
        "glob": ("search", _SAME),
        "web_fetch": ("web", _SAME),
        "task": ("agent", _SAME),
        "update_todo": ("todo", _SAME),
    },
    "opencode": {
        "bash": ("bash", _SAME),
        "read": ("read", {"filePath": "path"}),
        "write": ("write", {"filePath": "path"}),
        "edit": ("edit", {"filePath": "path", "oldString": "old_text", "newString": "new_text"}),
        "grep": ("search", _SAME),
        "glob": ("search", _SAME),
        "list": ("search", _SAME),
        "webfetch": ("web", _SAME),
        "task": ("agent", _SAME),
        "todowrite": ("todo", _SAME),
    },
    "pi": {
        "bash": ("bash", _SAME),
        "powershell": ("bash", _SAME),
        "read": ("read", _SAME),
        "write": ("write", _SAME),
        "edit": ("edit", {"oldText": "old_text", "newText": "new_text"}),
        "grep": ("search", _SAME),
        "find": ("search", _SAME),
        "ls": ("search", _SAME),
    },
    "goose": {
        "shell": ("bash", _SAME),
        "write": ("write", _SAME),
        "edit": ("edit", _SAME),
        "delegate": ("agent", {"instructions": "prompt"}),
    },
    "swe-agent": {
        "bash": ("bash", _SAME),
        "execute_bash": ("bash", _SAME),
        "open": ("read", _SAME),
        "view_image": ("read", {"image_file": "path"}),
        "create": ("write", {"filename": "path"}),
        "edit": ("edit", _LINES),
        "insert": ("edit", _SAME),
        "str_replace_editor": ("edit", {"old_str": "old_text", "new_str": "new_text", "file_text": "content"}),
        "find_file": ("search", _SAME),
        "search_dir": ("search", _SAME),
        "search_file": ("search", _SAME),
    },
}
"""By agent, and by its own name of a tool."""


def common_name(agent: str, tool_name: str) -> CommonName:
    """Return what a tool of an agent is called in common; `(None, {})` for one that is not in the table."""
    return TOOL_NAMES.get(agent, {}).get(tool_name, (None, _SAME))


def argument_names(tool_name: str, common: str) -> Mapping[str, str]:
    """Return the common names of a tool's arguments where only its own name and its common one are known."""
    found = (tools.get(tool_name, (None, _SAME)) for tools in TOOL_NAMES.values())
    return {own: name for known, names in found if known == common for own, name in names.items()}
