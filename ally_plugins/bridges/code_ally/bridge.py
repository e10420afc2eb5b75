"""How a plugin of Code-Ally's runs: rows and installation for the catalog, tools and process for the host."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field, frozen

from ally_plugins.catalog.discovery.bridge import Bridge, BridgedPlugin, BridgeHost
from ally_plugins.catalog.home.files import NO_BYTECODE
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import PluginLoadError

from .installs import InstalledDependencies, downloads, find_dependencies, plan_install
from .plugin import CodeAllyPlugin
from .programs import Programs
from .settingkeys import config_environment
from .tools import tool_handlers

if TYPE_CHECKING:
    from ally_plugins.catalog.discovery.bridge import Building
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.contract.process_spec import Daemon

__all__ = ["CodeAllyBridge"]


@frozen
class CodeAllyBridge(Bridge):
    """The way to run what one `plugin.json` describes."""

    plugin: CodeAllyPlugin

    @override
    def rows(self) -> tuple[tuple[str, str], ...]:
        """Return its programs, tools that need a confirmation, its tag, its downloads, and warnings for its author."""
        plugin = self.plugin
        rows = [
            ("program", f"{tool.name}: {shlex.join((tool.command, *tool.args))}, for each call")
            for tool in plugin.tools
            if tool.command
        ]
        if plugin.confirmations:
            rows.append(("asks you", f"before each run of {', '.join(sorted(plugin.confirmations))}"))
        if plugin.activation == "tagged":
            rows.append(("active", f"only after a message with +{plugin.name}"))
        rows += [("downloads", line) for line in self.downloads()]
        return (*rows, *(("warning", text) for text in plugin.warnings))

    @override
    def data(self) -> Mapping[str, Any]:
        """Return the same as JSON values."""
        plugin = self.plugin
        return {
            "programs": {tool.name: (tool.command, *tool.args) for tool in plugin.tools if tool.command},
            "confirmations": sorted(plugin.confirmations),
            "activation": plugin.activation,
            "runtime": plugin.runtime,
            "downloads": self.downloads(),
            "warnings": plugin.warnings,
        }

    @override
    def downloads(self) -> tuple[str, ...]:
        """Return the commands of an installation and the lines of its dependency file."""
        return downloads(self.plugin)

    @override
    def missing(self, home: Home) -> str:
        """Return why its dependencies are missing, with the command that installs them; "" when they are not."""
        return find_dependencies(home, self.plugin).problem

    @override
    def plan_install(self, home: Home) -> Building | None:
        """Return what would install its dependencies, None without any. Raises OperatorError, see `installs`."""
        return plan_install(home, self.plugin)

    @override
    def open(self, host: BridgeHost) -> BridgedPlugin:
        """Return what is done in the host for it."""
        return _Opened(self.plugin, host)


@define(eq=False)
class _Opened(BridgedPlugin):
    """One plugin in one host; it lives from its start to its stop, through every restart of its daemon."""

    plugin: CodeAllyPlugin
    host: BridgeHost
    _programs: Programs | None = field(init=False, default=None)

    @override
    async def start(self) -> None:
        """Offer its tools, and have the person asked before those with `requiresConfirmation`.

        Raises PluginLoadError when its dependencies are not installed. Cancelling leaves the rest of its tools out.
        """
        plugin, host = self.plugin, self.host
        if plugin.confirmations:
            # Before any tool is offered: none can be called in between without the question.
            host.ask_before(plugin.confirmations)
        if any(tool.kind == "executable" for tool in plugin.tools):
            # Only for programs: those of a daemon are looked at in `process`, before each of its starts.
            installed = self._installed()
            variables = {**self._variables(installed), **NO_BYTECODE}
            self._programs = Programs(host.run, plugin.folder, variables, host.python or installed.python)
        for handler, described in tool_handlers(plugin, host, self._programs):
            await host.offer_tool(handler, described)

    @override
    def process(self, daemon: Daemon) -> Daemon:
        """Return it with the Python of its own environment, and the variables for its settings and its dependencies."""
        installed = self._installed()
        program, *arguments = daemon.command
        # Only these two names mean whatever Python there is; a path means that one.
        if installed.python and program in {"python", "python3"}:
            program = installed.python
        return evolve(daemon, command=(program, *arguments), env={**daemon.env, **self._variables(installed)})

    def _installed(self) -> InstalledDependencies:
        """Return what its commands are run with. Raises PluginLoadError when its dependencies are not installed."""
        # Without a home nothing can have been installed; its programs find what the system has.
        if self.host.home is None:
            return InstalledDependencies()
        installed = find_dependencies(self.host.home, self.plugin)
        if installed.problem:
            raise PluginLoadError(installed.problem, plugin=self.plugin.name)
        return installed

    def _variables(self, installed: InstalledDependencies) -> dict[str, str]:
        return {**config_environment(self.plugin.settings, self.host.settings), **installed.variables}
