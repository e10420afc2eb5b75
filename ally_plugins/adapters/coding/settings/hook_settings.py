"""The hook settings of an agent as text: our entries merged into what is there, and taken out again.

Claude Code and Codex share the form, `{"hooks": {EVENT: [{"hooks": [ENTRY]}]}}`. Nothing else in the file changes, but
its layout is that of JSON; who wants the old bytes back keeps them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from ally_plugins.contract.values.errors import ConfigError

__all__ = ["Entry", "merge_hooks", "other_hooks", "read_settings", "take_out_hooks", "written"]

Entry = Mapping[str, Any]
"""One hook: its type, command and time limit."""

IsOurs = Callable[[str], bool]
"""Says whether a hook's command is one of ours."""

_INDENT: Final = re.compile(r"\n([ \t]+)\S")


def read_settings(text: str, file: str) -> dict[str, Any]:
    """Return the settings of a file; an empty one has none. Raises ConfigError for what we could not write back."""
    try:
        settings = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise ConfigError(f"{file} is no JSON: {error}; mend it, and run this again", file=file) from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{file} is {type(settings).__name__}; expected an object; mend it", file=file)
    hooks = settings.get("hooks", {})
    if not isinstance(hooks, dict) or not all(_is_list_of_groups(groups) for groups in hooks.values()):
        raise ConfigError(f"'hooks' in {file} is of a form that is not known; mend it, or use --print", file=file)
    return settings


def _is_list_of_groups(groups: Any) -> bool:
    return isinstance(groups, list) and all(
        isinstance(group, dict)
        and isinstance(group.get("hooks", []), list)
        and all(isinstance(hook, dict) for hook in group.get("hooks", []))
        for group in groups
    )


def merge_hooks(text: str, entries: Mapping[str, Entry], is_ours: IsOurs, file: str) -> str:
    """Return the text with one entry for each event, in the place of those of ours that were there.

    Raises ConfigError for a file that cannot be read.
    """
    settings = read_settings(text, file)
    hooks = _without(settings, is_ours).get("hooks", {})
    for event, entry in entries.items():
        hooks.setdefault(event, []).append({"hooks": [dict(entry)]})
    return written({**settings, "hooks": hooks}, text)  # where the key was, it stays


def take_out_hooks(text: str, is_ours: IsOurs, file: str) -> str:
    """Return the text without our entries. Raises ConfigError for a file that cannot be read."""
    settings = read_settings(text, file)
    left = _without(settings, is_ours)
    return text if left == settings else written(left, text)


def other_hooks(text: str, events: Mapping[str, Any], is_ours: IsOurs, file: str) -> dict[str, list[str]]:
    """Return the commands, of others, that run at the same events. Raises ConfigError."""
    found: dict[str, list[str]] = {}
    for event, groups in read_settings(text, file).get("hooks", {}).items():
        commands = [str(hook.get("command") or hook.get("type")) for group in groups for hook in group.get("hooks", [])]
        if event in events and (theirs := [each for each in commands if not is_ours(each)]):
            found[event] = theirs
    return found


def _without(settings: Mapping[str, Any], is_ours: IsOurs) -> dict[str, Any]:
    """Return settings without our entries, and without what held nothing else; what was empty before stays."""
    kept: dict[str, Any] = {}
    for event, groups in settings.get("hooks", {}).items():
        left = []
        for group in groups:
            hooks = group.get("hooks", [])
            theirs = [hook for hook in hooks if not is_ours(str(hook.get("command", "")))]
            if len(theirs) == len(hooks):
                left.append(group)
            elif theirs:
                left.append({**group, "hooks": theirs})
        if left or not groups:
            kept[event] = left
    if settings.get("hooks") and not kept:
        return {name: value for name, value in settings.items() if name != "hooks"}
    return {name: kept if name == "hooks" else value for name, value in settings.items()}


def written(settings: Mapping[str, Any], before: str) -> str:
    """Return settings as text, laid out as the text from before."""
    found = _INDENT.search(before)
    indent: str | int = found[1] if found is not None else 2
    ends_line = not before.strip() or before.endswith("\n")
    return json.dumps(settings, indent=indent, ensure_ascii=False) + ("\n" if ends_line else "")
