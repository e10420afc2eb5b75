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
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from ally_plugins.adapters.coding.client.client_files import CLIENT, client_file, hook_line
from ally_plugins.adapters.coding.client.hook_client import CLOSED, PASSES, RECORD
from ally_plugins.catalog.home.folder import Home, read_capped, write_atomically
from ally_plugins.contract.values.errors import ConfigError

from .agent_switches import find_switches, switches
from .hook_settings import Entry, merge_hooks, other_hooks, read_settings, take_out_hooks
from .mcp_entries import servers_file, take_out_server

__all__ = [
    "CONNECTABLE",
    "Connection",
    "connect",
    "connected_events",
    "connection_of",
    "disconnect",
    "entries_for",
    "find_overrides",
    "guarded_places",
    "is_ours",
    "merged_text",
    "others_at_our_events",
    "read_file",
    "settings_text",
    "take_out_ours",
    "without_ours",
    "write_file",
    "write_ours",
]

_MAX_FILE: Final = 4 * 1024 * 1024
"""Bytes of an agent's settings that are read."""

TIMEOUT: Final = 60
"""Seconds that an entry gives our client, which answers within 50. A whole number: Codex drops a file with 60.0."""

_OURS: Final = re.compile(rf"/hooks/{CLIENT}['\"]* ({'|'.join(CLOSED)}) [A-Za-z]+ \|\| ")


@frozen
class _Form:
    """How an agent keeps its hooks: the folder in the person's home, or what `variable` says, and the file in it.

    `seconds` is the unit of a time limit in parts of one, `limit` and `command` the names of the two in an entry. `own`
    are the other files of a folder that is ours alone, with what stands in them; None where the file is the agent's.
    """

    folder: str
    file: str
    variable: str = ""
    seconds: int = 1
    limit: str = "timeout"
    command: str = "command"
    is_flat: bool = False
    """Whether an event's entries stand in its list, and not in groups."""
    own: Mapping[str, Mapping[str, Any]] | None = None
    has_projects: bool = True
    template: str = ""
    """The file of ours that runs in the agent's process, for an agent that has no hook commands."""


_FORMS: Final[Mapping[str, _Form]] = {
    "claude": _Form(".claude", "settings.json", "CLAUDE_CONFIG_DIR"),
    "codex": _Form(".codex", "hooks.json", "CODEX_HOME"),
    "gemini": _Form(".gemini", "settings.json", seconds=1000),
    "copilot": _Form(
        ".copilot/hooks",
        "ally-plugins.json",
        limit="timeoutSec",
        command="bash",
        is_flat=True,
        own={},
        has_projects=False,
    ),
    "opencode": _Form(
        ".config/opencode/plugin", "ally-plugins.js", own={}, has_projects=False, template="opencode_plugin.js"
    ),
    "pi": _Form(".pi/agent/extensions", "ally-plugins.ts", own={}, has_projects=False, template="pi_extension.ts"),
    "goose": _Form(
        ".agents/plugins/ally-plugins",
        "hooks/hooks.json",
        own={"plugin.json": {"name": "ally-plugins", "version": "1", "description": "asks your plugins"}},
        has_projects=False,
    ),
}

CONNECTABLE: Final = tuple(_FORMS)


@frozen
class Connection:
    """One agent's hooks, of the person or of one project, and the folder and the file that they stand in."""

    agent: str
    folder: Path
    project: Path | None = None

    @property
    def file(self) -> Path:
        """The file that holds the hooks."""
        return self.folder / self.form.file

    @property
    def form(self) -> _Form:
        """How the agent keeps them."""
        return _FORMS[self.agent]

    @property
    def name(self) -> str:
        """What the record of it is called."""
        return f"{self.agent} {self.project}" if self.project is not None else self.agent


def connection_of(agent: str, project: Path | None = None) -> Connection:
    """Return where an agent's hooks belong. Raises ConfigError without a home, or where projects have none."""
    form = _FORMS[agent]
    if project is not None:
        if not form.has_projects:
            raise ConfigError(f"{agent} has no hooks of a project that are known; connect it without --project")
        return Connection(agent, project.resolve() / form.folder, project.resolve())
    if form.variable and (named := os.environ.get(form.variable)):
        return Connection(agent, Path(named))
    try:
        return Connection(agent, Path.home() / form.folder)
    except RuntimeError as error:
        raise ConfigError(f"this user's home directory is not known: {error}", path="HOME") from None


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
        form = connection.form
        entry: dict[str, Any] = {"type": "command", form.command: line, form.limit: TIMEOUT * form.seconds}
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
    return (read_file(connection.file) or b"").decode("utf-8", "strict")


def read_file(file: Path) -> bytes | None:
    """Return what is in a file of an agent's settings, None where there is none. Raises ConfigError."""
    try:
        found = read_capped(file, _MAX_FILE)
        if found is not None:
            found.decode()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(file)!r} cannot be read: {error}", file=str(file)) from error
    return found


def merged_text(connection: Connection, home: Home, *, missing: str = "closed") -> str:
    """Return the settings with our hooks in them. Raises ConfigError."""
    if connection.form.template:
        text = files("ally_plugins.adapters.coding").joinpath(connection.form.template).read_text("utf-8")
        return text.replace('"@CLIENT@"', json.dumps(str(client_file(home))))
    entries = entries_for(connection, home, missing=missing)
    if connection.form.own is None:
        return merge_hooks(settings_text(connection), entries, is_ours, str(connection.file))
    is_flat = connection.form.is_flat
    hooks = {event: [entry if is_flat else {"hooks": [entry]}] for event, entry in entries.items()}
    return json.dumps({"version": 1, "hooks": hooks} if is_flat else {"hooks": hooks}, indent=2) + "\n"


def connect(connection: Connection, home: Home, *, missing: str = "closed") -> bool:
    """Write our hooks into an agent's settings; return whether anything changed. Raises ConfigError.

    The bytes from before are in the home first.
    """
    after = merged_text(connection, home, missing=missing)
    for name, content in (connection.form.own or {}).items():
        file = connection.folder / name
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_file(file, json.dumps(content).encode())
    return write_ours(home, connection.name, connection.file, after, partial(without_ours, connection))


def write_ours(home: Home, name: str, file: Path, after: str, without_ours: Callable[[str], str | None]) -> bool:
    """Write a file of an agent's settings that has what is ours in it; return whether anything changed.

    The bytes from before are in the home first, under a name. Raises ConfigError.
    """
    before = read_file(file)
    if before == after.encode():
        return False
    with home.locked():
        records = _records(home)
        known = records.get(name)
        if known is None or known.get("after") != _digest(before):
            # What was there before us, and not what we wrote there last time.
            kept = None if before is None else without_ours(before.decode())
            known = {"before": kept, "file": str(file)}
        records[name] = {**known, "after": _digest(after.encode())}
        write_file(home.path / RECORD, json.dumps(records, indent=1).encode(), private=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, after.encode())
    return True


def disconnect(connection: Connection, home: Home) -> str:
    """Take our hooks out; return how: `restored` to the byte, `taken out`, or `none` were there. Raises ConfigError."""
    return take_out_ours(
        home, connection.name, connection.file, partial(without_ours, connection), partial(_put_back, connection)
    )


def take_out_ours(
    home: Home,
    name: str,
    file: Path,
    without_ours: Callable[[str], str | None],
    put_back: Callable[[str | None], None],
) -> str:
    """Take what is ours out of a file of an agent's settings, as `disconnect` says. Raises ConfigError."""
    with home.locked():
        records = _records(home)
        known, now = records.pop(name, None), read_file(file)
        how = "none"
        if known is not None and now is not None and known.get("after") == _digest(now):
            how = "restored"
            before = known["before"]
        elif now is not None and (before := without_ours(now.decode())) != now.decode():
            how = "taken out"
        else:
            before = ""
        if how != "none":
            put_back(before)
        if known is not None:
            write_file(home.path / RECORD, json.dumps(records, indent=1).encode(), private=True)
    return how


def without_ours(connection: Connection, text: str) -> str | None:
    """Return the settings without our hooks; None for a file that is ours alone. Raises ConfigError."""
    if connection.form.own is not None:
        return None
    left = take_out_hooks(text, is_ours, str(connection.file))
    if connection.project is None and servers_file(connection.agent) == connection.file:
        return take_out_server(connection.agent, left, str(connection.file))
    return left


def _put_back(connection: Connection, text: str | None) -> None:
    if text is not None:
        write_file(connection.file, text.encode())
        return
    connection.file.unlink()
    for name in connection.form.own or {}:
        (connection.folder / name).unlink(missing_ok=True)
    if connection.form.own is not None:
        # Folders of ours, while nothing of others is in them.
        with suppress(OSError):
            connection.file.parent.rmdir()
            connection.folder.rmdir()


def connected_events(connection: Connection) -> set[str]:
    """Return the events that have a hook of ours now. Raises ConfigError."""
    text = settings_text(connection)
    if connection.form.template:
        return set(CLOSED[connection.agent]) if f"/hooks/{CLIENT}" in text else set()
    # A file that is ours alone may be of a form that others do not have.
    found = read_settings(text, str(connection.file)) if connection.form.own is None else _loaded(text)
    hooks = found.get("hooks")
    return {event for event, groups in hooks.items() if _has_ours(groups)} if isinstance(hooks, dict) else set()


def _has_ours(value: Any) -> bool:
    if isinstance(value, str):
        return is_ours(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_has_ours, inner))


def _loaded(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def others_at_our_events(connection: Connection) -> dict[str, list[str]]:
    """Return the hooks of others at our events, which may undo what ours answer. Raises ConfigError."""
    if connection.form.own is not None:
        return {}
    return other_hooks(settings_text(connection), CLOSED[connection.agent], is_ours, str(connection.file))


def find_overrides(connection: Connection) -> list[str]:
    """Return what keeps the agent from running our hooks, a sentence each: switches of the person's and of managers."""
    return find_switches(connection.agent, connection.folder)


def own_code(file: Path = Path(__file__)) -> list[Path]:
    """Return the folders of our installed packages, by a file in one: none in a checkout, where people work on them."""
    site = next((each for each in file.parents if each.name in {"site-packages", "dist-packages"}), None)
    return [] if site is None else [site / "ally_plugins", site / "ally_plugins_contrib"]


def guarded_places(home: Home | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what no agent may change: folders that are ours, and files that say which hooks agents run.

    Those of every agent, connected or not, and of the projects that were connected. Raises ConfigError.
    """
    found = [connection_of(agent) for agent in _FORMS]
    folders = [] if home is None else [home.path]
    folders += [each.folder for each in found if each.form.own]
    folders += own_code()
    files = [file for each in found for file in (each.file, *(file for file, _ in switches(each.agent, each.folder)))]
    if home is not None:
        files += [Path(each["file"]) for each in _records(home).values() if isinstance(each.get("file"), str)]
    return tuple(map(str, folders)), tuple(dict.fromkeys(map(str, files)))


def _digest(content: bytes | None) -> str:
    return hashlib.sha256(content).hexdigest() if content is not None else ""


def _records(home: Home) -> dict[str, Any]:
    file = home.path / RECORD
    try:
        found = json.loads(home.read(file, _MAX_FILE * 4) or b"{}")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(file)!r} cannot be read: {error}; remove it", file=str(file)) from error
    return found if isinstance(found, dict) else {}


def write_file(file: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file whole, or leave it as it was. Raises ConfigError."""
    try:
        write_atomically(file, content, private=private)
    except OSError as error:
        raise ConfigError(f"{str(file)!r} cannot be written: {error.strerror or error}", file=str(file)) from error
