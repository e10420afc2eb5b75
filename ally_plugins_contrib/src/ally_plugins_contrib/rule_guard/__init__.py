"""rule-guard: allows, asks about or denies calls by tool, command, path and host, as the person and the project say.

The person's own file lies in the plugin's data folder, where no agent should write; the project's is `ally-rules.toml`
in its root, which any agent can write, so that it only tightens. A file that cannot be read denies every call.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ally_plugins import Allow, Ally, Ask, Context, Deny, SessionEnd, ToolCall, hookimpl
from ally_plugins_contrib.memory import PerSession

from .deciding import Rules, call_of, decide
from .places import Places
from .rules import RulesError, RulesFile, read_rules

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PROJECT_FILE", "RuleGuard", "project_files"]

PROJECT_FILE: Final = "ally-rules.toml"
OWN_FILE: Final = "rules.toml"

MAX_VERSIONS: Final = 16
"""Versions of a project's files that a session remembers; an agent that makes more of them is denied everything."""

MAX_FOLDERS: Final = 8
"""Folders that an agent's shell may be in, from one call to the next."""


@dataclass
class _Seen:
    """What one session has met: each version of the project's rules, and where its shell may be."""

    versions: dict[tuple[str, str], RulesFile] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


class RuleGuard:
    """Reads the files anew when they have changed."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self._own = str(ally.settings.get("rules", ""))
        self._sessions: PerSession[_Seen] = PerSession(_Seen)
        self._read: dict[Path, tuple[tuple[int, ...], tuple[RulesFile, str]]] = {}

    @hookimpl
    def ally_gate_tool_call(self, call: ToolCall, context: Context) -> Allow | Ask | Deny | None:
        project = _project(context)
        seen = self._sessions.get(self.ally.session or "")
        try:
            rules = self._rules(project, seen)
        except RulesError as error:
            return Deny(f"no call runs before the rules can be read: {error}")
        places = Places.here(project)
        asked = call_of(call.tool_name, call.common_name, call.common_arguments, places, seen.folders)
        decision = decide(asked, rules, places)
        # An agent's shell may go on where the last command left it.
        seen.folders = tuple(dict.fromkeys((*asked.shell.folders, *seen.folders)))[:MAX_FOLDERS]
        match decision.effect:
            case "deny":
                return Deny(decision.reason)
            case "ask":
                return Ask(decision.reason)
            case "allow":
                return Allow()
            case _:
                return None

    @hookimpl
    def ally_session_end(self, event: SessionEnd) -> None:
        self._sessions.drop(event.session_id)

    def _rules(self, project: str | None, seen: _Seen) -> Rules:
        """Return the rules that hold now. Raises RulesError."""
        own = self._own_rules()
        for path in project_files(project) if project is not None else ():
            if (found := self._file(path)) is not None:
                file, digest = found
                if file.trusted:
                    raise RulesError(f"{path}: 'trust' stands in the project's own file; expected in yours alone")
                seen.versions[str(path.parent), digest] = file
        if len(seen.versions) > MAX_VERSIONS:
            raise RulesError(f"{PROJECT_FILE} has had {len(seen.versions)} versions in this session; begin another one")
        trusted = own.trusted if own is not None else {}
        # What a session has once met holds to its end: an agent that changes the file loosens nothing.
        projects = [(file, digest in trusted.get(folder, ())) for (folder, digest), file in seen.versions.items()]
        return Rules.of(own, projects)

    def _own_rules(self) -> RulesFile | None:
        if self._own:
            path = Path(self._own).expanduser()
            if (found := self._file(path)) is None:
                raise RulesError(f"{path}: is not there; the setting 'rules' names it")
            return found[0]
        try:
            folder = self.ally.data_dir
        except RuntimeError:  # a host without a home
            return None
        found = self._file(folder / OWN_FILE)
        return found[0] if found is not None else None

    def _file(self, path: Path) -> tuple[RulesFile, str] | None:
        """Return a file as it is now, read again when it has changed. Raises RulesError."""
        try:
            about = path.stat()
        except OSError:
            return read_rules(path)  # which tells one that is not there from one that cannot be read
        mark = (about.st_ino, about.st_dev, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        known = self._read.get(path)
        if known is not None and known[0] == mark:
            return known[1]
        found = read_rules(path)
        if found is not None:
            self._read[path] = (mark, found)
            if len(self._read) > 64:  # noqa: PLR2004 - projects at once
                self._read.pop(next(iter(self._read)))
        return found


def _project(context: Context) -> str | None:
    """Return the root of the session's project: in a sandbox its own, else the folder that the session is about."""
    named = os.environ.get("ALLY_PROJECT") or context.focus
    if named is None or not named.startswith("/") or "\0" in named:
        return None
    return os.path.realpath(named)


def project_files(project: str) -> Iterator[Path]:
    """Return where a project's rules may lie: in its folder, and above it up to the root of its repository."""
    folders = [Path(project), *Path(project).parents]
    root = next((at for at, each in enumerate(folders) if (each / ".git").exists()), 0)
    return (each / PROJECT_FILE for each in folders[: root + 1])
