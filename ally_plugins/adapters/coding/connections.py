"""Where agents keep their hooks, and what connects one: our entries in that file, and its bytes as they were.

The bytes from before lie in the home. While the file is what we wrote, disconnecting puts them back exactly; once
somebody else has changed it, only our entries are taken out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from ally_plugins.catalog.home.folder import Home, read_capped, write_atomically
from ally_plugins.contract.values.errors import ConfigError

from .client_files import CLIENT, client_file, hook_line
from .hook_client import CLOSED, PASSES
from .hook_settings import Entry, merge_hooks, other_hooks, read_settings, take_out_hooks

__all__ = [
    "CONNECTABLE",
    "Connection",
    "connect",
    "connected_events",
    "connection_of",
    "disconnect",
    "entries_for",
    "find_overrides",
    "is_ours",
    "merged_text",
    "others_at_our_events",
    "settings_text",
]

CONNECTABLE: Final = ("claude", "codex")

_MAX_FILE: Final = 4 * 1024 * 1024
"""Bytes of an agent's settings that are read."""

TIMEOUT: Final = 60
"""Seconds that an entry gives our client, which answers within 50. A whole number: Codex drops a file with 60.0."""

_OURS: Final = re.compile(rf"/hooks/{CLIENT}['\"]* ({'|'.join(CLOSED)}) [A-Za-z]+ \|\| ")

_RECORD: Final = "connected.json"


@frozen
class Connection:
    """One agent's settings, of the person or of one project: the file, and whether our hooks are in it."""

    agent: str
    file: Path
    project: Path | None = None

    @property
    def name(self) -> str:
        """What the record of it is called."""
        return f"{self.agent} {self.project}" if self.project is not None else self.agent


def connection_of(agent: str, project: Path | None) -> Connection:
    """Return where an agent's hooks belong. Raises ConfigError where its home is not known."""
    if project is not None:
        folder = project / f".{agent}"
    elif named := os.environ.get({"claude": "CLAUDE_CONFIG_DIR", "codex": "CODEX_HOME"}[agent]):
        folder = Path(named)
    else:
        try:
            folder = Path.home() / f".{agent}"
        except RuntimeError as error:
            raise ConfigError(f"this user's home directory is not known: {error}", path="HOME") from None
    return Connection(agent, folder / {"claude": "settings.json", "codex": "hooks.json"}[agent], project)


def is_ours(command: str) -> bool:
    """Say whether a hook's command runs a client of ours, of whichever home."""
    return _OURS.search(command) is not None


def entries_for(connection: Connection, home: Home, *, missing: str = "closed") -> dict[str, Entry]:
    """Return one entry for each event; in a project without a personal path, `missing` for who has no client."""
    agent = connection.agent
    entries: dict[str, Entry] = {}
    for event, way in CLOSED[agent].items():
        line = hook_line(client_file(home), agent, event)
        if connection.project is not None:
            line = _project_line(home.app, agent, event, missing)
        entry: dict[str, Any] = {"type": "command", "command": line, "timeout": TIMEOUT}
        if agent == "claude" and way != PASSES:
            entry["onFailure"] = "block"
        entries[event] = entry
    return entries


def _project_line(app: str, agent: str, event: str, missing: str) -> str:
    """Return a line that finds the client of whoever runs it."""
    client = f'"$c/hooks/{CLIENT}"'
    where = "${ALLY_HOME:-${XDG_STATE_HOME:-$HOME/.local/state}/" + app + "}"
    says = f"this project asks {app} first: pip install ally-plugins; ally-plugins connect {agent}"
    otherwise = hook_line(Path("x"), agent, event).partition(" || ")[2]
    without = f"{otherwise}; exit" if missing == "closed" else "exit 0"
    return (
        f"c={where}; [ -x {client} ] || {{ echo {shlex.quote(says)} >&2; {without}; }}; "
        f"{client} {agent} {event} || {otherwise}"
    )


def settings_text(connection: Connection) -> str:
    """Return what is in an agent's settings now; empty where there is no file. Raises ConfigError."""
    return (_read(connection.file) or b"").decode("utf-8", "strict")


def _read(file: Path) -> bytes | None:
    try:
        found = read_capped(file, _MAX_FILE)
        if found is not None:
            found.decode()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(file)!r} cannot be read: {error}", file=str(file)) from error
    return found


def merged_text(connection: Connection, home: Home, *, missing: str = "closed") -> str:
    """Return the settings with our hooks in them. Raises ConfigError."""
    entries = entries_for(connection, home, missing=missing)
    return merge_hooks(settings_text(connection), entries, is_ours, str(connection.file))


def connect(connection: Connection, home: Home, *, missing: str = "closed") -> bool:
    """Write our hooks into an agent's settings; return whether anything changed. Raises ConfigError.

    The bytes from before are in the home first.
    """
    before, after = _read(connection.file), merged_text(connection, home, missing=missing).encode()
    if before == after:
        return False
    with home.locked():
        records = _records(home)
        known = records.get(connection.name)
        if known is None or known.get("after") != _digest(before):
            # What was there before us, and not what we wrote there last time.
            kept = None if before is None else before.decode()
            known = {"before": kept, "file": str(connection.file)}
        records[connection.name] = {**known, "after": _digest(after)}
        _write(home.path / _RECORD, json.dumps(records, indent=1).encode(), private=True)
        connection.file.parent.mkdir(parents=True, exist_ok=True)
        _write(connection.file, after)
    return True


def disconnect(connection: Connection, home: Home) -> str:
    """Take our hooks out; return how: `restored` to the byte, `taken out`, or `none` were there. Raises ConfigError."""
    with home.locked():
        records = _records(home)
        known, now = records.pop(connection.name, None), _read(connection.file)
        how = "none"
        if known is not None and now is not None and known.get("after") == _digest(now):
            how = "restored"
            if known["before"] is None:
                connection.file.unlink()
            else:
                _write(connection.file, known["before"].encode())
        elif now is not None:
            left = take_out_hooks(now.decode(), is_ours, str(connection.file)).encode()
            if left != now:
                how = "taken out"
                _write(connection.file, left)
        if known is not None:
            _write(home.path / _RECORD, json.dumps(records, indent=1).encode(), private=True)
    return how


def connected_events(connection: Connection) -> set[str]:
    """Return the events that have a hook of ours now. Raises ConfigError."""
    hooks = read_settings(settings_text(connection), str(connection.file)).get("hooks", {})
    return {
        event
        for event, groups in hooks.items()
        for group in groups
        for hook in group.get("hooks", [])
        if is_ours(str(hook.get("command", "")))
    }


def others_at_our_events(connection: Connection) -> dict[str, list[str]]:
    """Return the hooks of others at our events, which may undo what ours answer. Raises ConfigError."""
    return other_hooks(settings_text(connection), CLOSED[connection.agent], is_ours, str(connection.file))


def find_overrides(connection: Connection) -> list[str]:
    """Return what keeps the agent from running our hooks, a sentence each: switches of the person's and of managers."""
    found = []
    for file, keys in _switches(connection):
        settings = _settings_of(file)
        for path, value in keys:
            at: Any = settings
            for name in path.split("."):
                at = at.get(name) if isinstance(at, Mapping) else None
            if at is value:
                found.append(
                    f"{path} = {json.dumps(value)} in {file} keeps {connection.agent} from running hooks of yours"
                )
    return found


def _switches(connection: Connection) -> list[tuple[Path, tuple[tuple[str, bool], ...]]]:
    folder = connection.file.parent
    if connection.agent == "claude":
        own = (("disableAllHooks", True),)
        managed = Path("/etc/claude-code/managed-settings.json")
        return [(folder / "settings.json", own), (folder / "settings.local.json", own),
                (managed, (*own, ("allowManagedHooksOnly", True)))]  # fmt: skip
    off = (("features.hooks", False), ("features.codex_hooks", False), ("hooks", False))
    return [(folder / "config.toml", off), (Path("/etc/codex/config.toml"), off),
            (Path("/etc/codex/requirements.toml"), (*off, ("allow_managed_hooks_only", True)))]  # fmt: skip


def _settings_of(file: Path) -> Mapping[str, Any]:
    try:
        text = (read_capped(file, _MAX_FILE) or b"").decode()
        found = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text or "{}")
    except (OSError, ValueError):  # the agent will say what is wrong with it
        return {}
    return found if isinstance(found, dict) else {}


def _digest(content: bytes | None) -> str:
    return hashlib.sha256(content).hexdigest() if content is not None else ""


def _records(home: Home) -> dict[str, Any]:
    file = home.path / _RECORD
    try:
        found = json.loads(home.read(file, _MAX_FILE * 4) or b"{}")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(file)!r} cannot be read: {error}; remove it", file=str(file)) from error
    return found if isinstance(found, dict) else {}


def _write(file: Path, content: bytes, *, private: bool = False) -> None:
    try:
        write_atomically(file, content, private=private)
    except OSError as error:
        raise ConfigError(f"{str(file)!r} cannot be written: {error.strerror or error}", file=str(file)) from error
