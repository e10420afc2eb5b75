"""The switches that keep an agent from running hooks of ours: the person's, and those of the machine's administrator.

An administrator may also have put our hooks there, for all users; these run whatever a person's settings say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.adapters.coding.client.client_files import CLIENT
from ally_plugins.adapters.coding.client.hook_client import CLOSED
from ally_plugins.catalog.home.folder import read_capped
from ally_plugins.contract.documents import toml_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MANAGED_CLAUDE", "MANAGED_CODEX", "find_managed", "find_switches", "managed_files_of", "switches"]

MANAGED_CLAUDE: Final = Path("/etc/claude-code")
MANAGED_CODEX: Final = Path("/etc/codex")

_MAX_FILE: Final = 4 * 1024 * 1024

_LISTED: Final = "listed"
"""Stands for the value of a key whose list keeps hooks from running by their names."""

_EXTENSION: Final = "extensions/ally-plugins.ts"
"""Ours in pi, from the folder of its settings."""

Switches = tuple[Path, tuple[tuple[str, bool | str], ...]]
"""A file, and keys in it with the value that keeps hooks from running."""


def managed_files_of(agent: str) -> list[Path]:
    """Return the files in which an administrator settles an agent's hooks for all users of this machine."""
    if agent == "claude":
        parts = sorted((MANAGED_CLAUDE / "managed-settings.d").glob("*.json"))
        return [MANAGED_CLAUDE / "managed-settings.json", *parts]
    return [MANAGED_CODEX / "requirements.toml"] if agent == "codex" else []


def switches(agent: str, folder: Path) -> list[Switches]:
    """Return where an agent, whose settings are in a folder, may be told to run no hooks of a person."""
    managed = managed_files_of(agent)
    if agent == "claude":
        own = (("disableAllHooks", True),)
        theirs = (*own, ("allowManagedHooksOnly", True))
        return [(folder / "settings.json", own), (folder / "settings.local.json", own),
                *((file, theirs) for file in managed)]  # fmt: skip
    if agent == "gemini":
        return [(folder / "settings.json", (("hooksConfig.enabled", False), ("hooksConfig.disabled", _LISTED)))]
    if agent == "pi":
        return [(folder.parent / "settings.json", (("extensions", _LISTED),))]
    if agent != "codex":
        return []
    off = (("features.hooks", False), ("features.codex_hooks", False), ("hooks", False))
    defaults = [MANAGED_CODEX / name for name in ("config.toml", "managed_config.toml")]
    return [*((file, off) for file in (folder / "config.toml", *defaults)),
            *((file, (*off, ("allow_managed_hooks_only", True))) for file in managed)]  # fmt: skip


def find_switches(agent: str, folder: Path) -> list[str]:
    """Return what keeps the agent from running our hooks, a sentence each."""
    found = []
    for file, keys in switches(agent, folder):
        settings = _settings_of(file)
        for path, value in keys:
            at: Any = settings
            for name in path.split("."):
                at = at.get(name) if isinstance(at, Mapping) else None
            named = next(filter(_is_ours_listed, at), None) if value == _LISTED and isinstance(at, list) else None
            if named is not None:
                found.append(f"{path} lists {json.dumps(named)} in {file}, which keeps {agent} from running our hooks")
            elif at is value:
                found.append(f"{path} = {json.dumps(value)} in {file} keeps {agent} from running hooks of yours")
    return found


def _is_ours_listed(entry: Any) -> bool:
    """Say whether an entry names our hook, as Gemini CLI lists it, or leaves our extension out, as pi's patterns do."""
    if not isinstance(entry, str):
        return False
    if f"/hooks/{CLIENT}" in entry:
        return True
    pattern = entry[1:].removeprefix("./")
    if entry.startswith("-"):  # one path, and no pattern
        return pattern == _EXTENSION or pattern.endswith(f"/{_EXTENSION}")
    names = (_EXTENSION, Path(_EXTENSION).name)
    return entry.startswith("!") and (
        pattern.endswith(f"/{_EXTENSION}") or any(fnmatchcase(name, pattern) for name in names)
    )


def find_managed(agent: str, is_ours: Callable[[str], bool]) -> Path | None:
    """Return the file by which an administrator has the agent run our hooks at every event, None where none does."""
    events: set[str] = set()
    found = None
    for file in managed_files_of(agent):
        hooks = _settings_of(file).get("hooks")
        here = _events_of(hooks, is_ours) if isinstance(hooks, Mapping) else set()
        events |= here
        found = file if here else found
    return found if events >= CLOSED[agent].keys() else None


def _events_of(hooks: Mapping[str, Any], is_ours: Callable[[str], bool]) -> set[str]:
    return {event for event, value in hooks.items() if any(map(is_ours, _texts(value)))}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


def _settings_of(file: Path) -> Mapping[str, Any]:
    try:
        text = (read_capped(file, _MAX_FILE) or b"").decode()
        found = toml_of(text) if file.suffix == ".toml" else json.loads(text or "{}")
    except (OSError, ValueError, RecursionError):  # the agent will say what is wrong with it
        return {}
    return found if isinstance(found, dict) else {}
