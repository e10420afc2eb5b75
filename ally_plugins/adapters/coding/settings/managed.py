"""What an administrator deploys so that no user of a machine takes the hooks out: files, and a script that writes them.

The client is compiled and root's, and finds the home of whoever runs it by the system's list of users: neither what an
agent's environment says nor what a user may write leads it to another host.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import frozen

from ally_plugins.adapters.coding.client.client_files import CLIENT, hook_line
from ally_plugins.adapters.coding.client.compiled_client import FLAGS, SOURCE, TABLE, source_text, table_text
from ally_plugins.adapters.coding.client.hook_client import CLOSED, STARTER
from ally_plugins.catalog.home.folder import Home
from ally_plugins.policy.owned_files import fault_of

from .agent_switches import MANAGED_CLAUDE, MANAGED_CODEX
from .connections import TIMEOUT, Connection, entries_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ally_plugins.catalog.decide.record import PluginRecord

__all__ = ["LIBRARY", "ManagedFile", "client_problem", "deployed_files", "deploying_script", "loose_parts"]

LIBRARY: Final = Path("/usr/local/lib/ally-plugins/hooks")
"""Where the client of a machine lies; its lines look as those of a person do."""

_ROOT: Final = (0, 0)
_MARK: Final = "ally_plugins wrote this"
_END: Final = "END_OF_FILE"


@frozen
class ManagedFile:
    """One file to be deployed; one that an administrator goes on to edit is written only where there is none."""

    path: Path
    content: str
    is_edited: bool = False


def deployed_files(records: Iterable[PluginRecord], app: str, policy: Path) -> list[ManagedFile]:
    """Return the files of a managed installation, with a policy of what the plugins given are and have now."""
    # Where `platformdirs` puts it for a user without variables of their own, which the client takes none of.
    table = table_text(MANAGED_HOME=f".local/state/{app}")
    command = (sys.executable, "-I", "-m", "ally_plugins", "serve", "--app", app)
    return [
        ManagedFile(LIBRARY / SOURCE, source_text()),
        ManagedFile(LIBRARY / TABLE, table),
        ManagedFile(LIBRARY / STARTER, "\n".join(command)),
        ManagedFile(MANAGED_CLAUDE / "managed-settings.d" / "ally-plugins.json", _claude_settings(app)),
        ManagedFile(MANAGED_CODEX / "requirements.toml", _codex_requirements(), is_edited=True),
        ManagedFile(policy, _policy(records), is_edited=True),
    ]


def _claude_settings(app: str) -> str:
    entries = entries_for(Connection("claude", MANAGED_CLAUDE), Home(app, LIBRARY.parent))
    hooks = {event: [{"hooks": [dict(entry)]}] for event, entry in entries.items()}
    return json.dumps({"allowManagedHooksOnly": True, "hooks": hooks}, indent=2) + "\n"


def _codex_requirements() -> str:
    lines = [
        f"# {_MARK}",
        "allow_managed_hooks_only = true",
        "",
        "[features]",
        "hooks = true",
        "",
        "[hooks]",
        f"managed_dir = {json.dumps(str(LIBRARY))}",
    ]
    for event in CLOSED["codex"]:
        line = hook_line(LIBRARY / CLIENT, "codex", event)
        # A whole number: with another one Codex drops the file.
        lines += ["", f"[[hooks.{event}]]", f"[[hooks.{event}.hooks]]", 'type = "command"']
        lines += [f"command = {json.dumps(line)}", f"timeout = {TIMEOUT}"]
    return "\n".join(lines) + "\n"


def _policy(records: Iterable[PluginRecord]) -> str:
    enabled = [each for each in records if each.is_enabled and each.origin == "package"]
    guards = [each for each in enabled if any(grant.kind in {"gate", "transform"} for grant in each.granted.grants)]
    lines = [
        f"# {_MARK}, from the plugins that were enabled; see docs/reference/config.md",
        f"mandatory = {json.dumps(sorted(each.name for each in guards))}",
        *([f"distributions = {json.dumps(sorted({each.distribution for each in enabled}))}"] if enabled else []),
        "allow = false",
        "pause = false",
        "",
        "# Of other versions too, where one is to be upgraded: a list of digests is a list of what may run.",
        "[digests]",
        *(f"{each.name} = {json.dumps([each.found.content_digest()])}" for each in enabled if each.found is not None),
        "",
        "[ceilings]",
        *(f"{each.name} = {json.dumps(list(each.granted.texts()))}" for each in enabled),
    ]
    return "\n".join(lines) + "\n"


def deploying_script(files: Sequence[ManagedFile]) -> str:
    """Return a shell script that writes the files as root, and compiles the client; to be read before it is run."""
    parts = [
        "#!/bin/sh",
        "# Has Claude Code and Codex ask the plugins of each user of this machine, who cannot take that out. Read it;",
        "# then run it as root: ally-plugins connect --managed | sudo sh",
        "set -eu",
        "umask 022",
        '[ "$(id -u)" = 0 ] || { echo "this is for root" >&2; exit 1; }',
    ]
    # The client first: settings that name one which is not there close every call.
    client, source = shlex.quote(str(LIBRARY / CLIENT)), shlex.quote(str(LIBRARY / SOURCE))
    # Not without the dynamic linker, as for one user: the list of users may come from a library.
    compiling = f"${{CC:-cc}} {' '.join(FLAGS)} -o {client}.new {source}"
    for each in (each for each in files if each.path.parent == LIBRARY):
        parts += ["", f"mkdir -p {shlex.quote(str(each.path.parent))}", *_writing(each)]
    parts += ["", compiling, f"chmod 755 {client}.new", f"mv -f {client}.new {client}"]
    for each in (each for each in files if each.path.parent != LIBRARY):
        parts += ["", f"mkdir -p {shlex.quote(str(each.path.parent))}", *_writing(each)]
    return "\n".join(parts) + "\n"


def _writing(file: ManagedFile) -> list[str]:
    path = shlex.quote(str(file.path))
    assert _END not in file.content  # noqa: S101 - all of it is ours
    written = [f"cat > {path}.new <<'{_END}'", file.content.removesuffix("\n"), _END, f"mv -f {path}.new {path}"]
    if not file.is_edited:
        return written
    kept = f"echo {shlex.quote(f'{file.path} is there, and stays; what it would be is {file.path}.new')} >&2"
    return [*written[:-1], f"if [ -e {path} ]; then {kept}; else {written[-1]}; fi"]


def loose_parts(paths: Iterable[str | Path]) -> list[str]:
    """Return which programs, or folders above them, others than root could replace, a sentence each."""
    found: dict[str, str] = {}
    for path in paths:
        real = Path(os.path.realpath(path))
        for part in (real, *real.parents):
            try:
                status = part.stat()
            except OSError:
                continue
            fault = fault_of(str(part), status, _ROOT, is_folder=stat.S_ISDIR(status.st_mode))
            # In a folder with the sticky bit nobody replaces what is another's.
            if fault and not status.st_mode & stat.S_ISVTX:
                found[str(part)] = f"{part}: {fault}"
    return list(found.values())


def client_problem() -> str:
    """Return why the client of this machine is not one that users can rely on, empty where it is."""
    loose = loose_parts([LIBRARY / CLIENT, LIBRARY / STARTER])
    missing = [str(each) for each in (LIBRARY / CLIENT, LIBRARY / STARTER) if not each.exists()]
    return f"{missing[0]} is not there" if missing else loose[0] if loose else ""
