"""The content of a `plugin.json` as values; and what it is in our own terms: a manifest and a daemon.

Reading the file is left to `manifest`, running what it names to the modules that await.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from attrs import field, frozen

from ally_plugins.contract.grants import Grant
from ally_plugins.contract.manifest import Activation, GrantRequest, Manifest
from ally_plugins.contract.process_spec import Daemon, Restarts, Timing, path_problem
from ally_plugins.contract.settings import Setting
from ally_plugins.contract.values.errors import ManifestError
from ally_plugins.contract.values.frozen import EMPTY, FrozenDict
from ally_plugins.contract.wording import describe

from . import limits as numbers

__all__ = [
    "CodeAllyDaemon",
    "CodeAllyPlugin",
    "CodeAllyTool",
    "Dependencies",
    "Health",
    "Runtime",
    "ToolKind",
    "command_problem",
    "events_problem",
]

Runtime = Literal["python3", "node"]
ToolKind = Literal["background_rpc", "executable"]

_NO_CALLS: Final = frozenset({"events", "tools", "files", "network", "run", "env"})
"""Kinds of grants for which a daemon calls nothing at the host."""

SESSION_PLACEHOLDER: Final = "{session_id}"

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")


def command_problem(command: str) -> str | None:
    """Return why a program cannot be named so, None when it can. Whether it exists is found out at its start."""
    if not command.strip():
        return "missing, expected the program to run"
    # Only files of the folder are agreed to; an absolute path is plain to see for whoever agrees.
    if not command.startswith("/") and ".." in command.split("/"):
        return f"found {command!r}, expected a program in the plugin's folder, on PATH, or an absolute path"
    return None


def events_problem(events: Sequence[str]) -> str | None:
    """Return what is wrong with a list of events, None when nothing is; the text lists the approved ones."""
    unknown = [event for event in events if event not in numbers.APPROVED_EVENTS]
    if unknown:
        return f"found {', '.join(map(describe, unknown))}, expected only {', '.join(numbers.APPROVED_EVENTS)}"
    return None


@frozen(kw_only=True)
class CodeAllyTool:
    """One tool: a method of the plugin's daemon, or a program that is run once for each call.

    `timeout` is in seconds. `method` is empty for a program, `command` for a method. `cwd` is relative to the folder.
    `subtext` is a template such as `{a} + {b}`, filled with a call's arguments for display.
    """

    kind: ToolKind
    name: str
    description: str = ""
    method: str = ""
    command: str = ""
    args: tuple[str, ...] = ()
    cwd: str = ""
    timeout: float = numbers.EXECUTABLE_TIMEOUT
    requires_confirmation: bool = False
    schema: FrozenDict = EMPTY
    visible_to: tuple[str, ...] = ()
    usage_guidance: str = ""
    display_name: str = ""
    subtext: str = ""


@frozen(kw_only=True)
class Health:
    """How often a daemon is pinged, how long it has to answer (both in seconds), and how many misses end it."""

    interval: float = numbers.HEALTH_INTERVAL
    timeout: float = numbers.HEALTH_TIMEOUT
    retries: int = numbers.HEALTH_RETRIES


@frozen(kw_only=True)
class CodeAllyDaemon:
    """The daemon in `background`, which listens on a socket. `socket` may hold `{session_id}`; times are in seconds."""

    command: str
    args: tuple[str, ...] = ()
    socket: str = ""
    events: tuple[str, ...] = ()
    health: Health = Health()
    startup_timeout: float = numbers.STARTUP_TIMEOUT
    grace: float = numbers.GRACE

    def socket_path(self, session_id: str) -> str:
        """Return where it listens in one run; of the id only letters, digits, '_' and '-' enter a path.

        Raises ManifestError when the path is too long with the id in it.
        """
        # Only these characters, since a session's id is the host author's: a `/` in it would lead out of the folder.
        path = self.socket.replace(SESSION_PLACEHOLDER, _UNSAFE.sub("_", session_id))
        if (problem := path_problem(path)) is not None:
            raise ManifestError(f"background.communication.path: {problem}", problems=(problem,))
        return path


@frozen
class Dependencies:
    """What is installed for a plugin: a file in its folder, and the command that does it, empty for the usual one."""

    file: str = ""
    install_command: str = ""


@frozen(kw_only=True)
class CodeAllyPlugin:
    """A plugin as its `plugin.json` describes it. It lives as long as the folder is not read again.

    `more` is what the file's `permissions` request beyond events and tools; `warnings` are for its author and for
    `doctor`, none of them keeps it from running.
    """

    name: str
    folder: str
    version: str
    description: str = ""
    author: str = ""
    runtime: Runtime | None = None
    dependencies: Dependencies | None = None
    activation: Activation = "always"
    tools: tuple[CodeAllyTool, ...] = ()
    background: CodeAllyDaemon | None = None
    settings: Mapping[str, Setting] = field(factory=dict)
    more: tuple[GrantRequest, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def confirmations(self) -> frozenset[str]:
        """The tools that the person is asked about before each run."""
        return frozenset(tool.name for tool in self.tools if tool.requires_confirmation)

    def talks_back(self, toml_manifest: Manifest | None = None) -> bool:
        """Say whether it requests what only calls of the host use, so that its daemon needs the host's socket."""
        requests = (*self.more, *(toml_manifest.requests if toml_manifest is not None else ()))
        return any(each.grant.kind not in _NO_CALLS for each in requests)

    def as_manifest(self, toml_manifest: Manifest | None = None) -> Manifest:
        """Return it as our manifest; `toml_manifest` is the `ally-plugin.toml` of the same folder, if there is one.

        The author's own reasons win over ours. Its settings are those of both files; of one name, the TOML file's.
        """
        other = toml_manifest or Manifest()
        given = {request.grant: request for request in (*other.requests, *self.more)}
        requests = {request.grant: request for request in self._requests()} | given
        return Manifest(
            description=other.description or " ".join(self.description.split()),
            requires_host=other.requires_host,
            before=other.before,
            after=other.after,
            # Of both files, and each once: the requests are joined by grant.
            subscribe=tuple(grant.topic for grant in requests if grant.kind == "events"),
            durable=other.durable,
            requests=tuple(requests.values()),
            settings={**self.settings, **other.settings},
            # Only where it requests more than events and tools does it get the host's socket, and a token for it.
            daemon=self.as_daemon(talks_back=self.talks_back(toml_manifest)),
            activation=self.activation,
        )

    def as_daemon(
        self,
        *,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] = EMPTY,
        talks_back: bool | None = None,
    ) -> Daemon | None:
        """Return how its daemon is run, None when it has none. `command` is the one of an environment of its own.

        The socket may still hold `{session_id}`: `CodeAllyDaemon.socket_path` fills it in, and becomes SOCKET_PATH.
        """
        background = self.background
        if background is None:
            return None
        health = background.health
        return Daemon(
            tuple(command or (background.command, *background.args)),
            transport="socket",
            socket=background.socket,
            talks_back=self.talks_back() if talks_back is None else talks_back,
            cwd=self.folder,
            env=env,
            timing=Timing(
                startup_timeout=background.startup_timeout,
                shutdown_grace=background.grace,
                ping_interval=health.interval,
                ping_timeout=health.timeout,
                ping_retries=health.retries,
            ),
            # Code-Ally's rule, which gives up: its plugins are written for it, and ours would go on for ever.
            restarts=Restarts(delay=numbers.RESTART_DELAY, most=numbers.MAX_RESTARTS),
        )

    def _requests(self) -> list[GrantRequest]:
        events = self.background.events if self.background is not None else ()
        requests = [GrantRequest(Grant("events", event), "its daemon listens to it (plugin.json)") for event in events]
        if self.tools:
            names = ", ".join(tool.name for tool in self.tools)
            requests.append(GrantRequest(Grant("tools"), f"to offer {names} (plugin.json)"))
        return requests
