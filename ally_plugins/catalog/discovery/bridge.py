"""How a plugin of another system runs: the interface between the source that found it and the host that runs it.

The source implements `Bridge` and `BridgedPlugin`, the host implements `BridgeHost`. A plugin that is a class or a
daemon of ours needs none of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

from ally_plugins.contract.values.frozen import EMPTY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.contract.process_spec import Daemon
    from ally_plugins.contract.programs import Program, Ran
    from ally_plugins.contract.values.conversation import ToolResult

__all__ = ["Bridge", "BridgeHost", "BridgedPlugin", "Building"]


@frozen(kw_only=True)
class Building:
    """What building an environment would run: to be shown, and then given to `environments.build`.

    The commands build in `beside`, which is renamed to `path` when it is whole.
    """

    name: str
    path: Path
    beside: Path
    requirements: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]


class Bridge(ABC):
    """The way to run one plugin of another system, as its source has found it. Only `open` must be implemented.

    The other methods may read files: they are called by searches and commands, never in the event loop's thread.
    """

    def rows(self) -> tuple[tuple[str, str], ...]:
        """Return what the operator sees before agreeing, each with a heading; the host makes it inert."""
        return ()

    def data(self) -> Mapping[str, Any]:
        """Return the same as JSON values, for `--json`."""
        return EMPTY

    def downloads(self) -> tuple[str, ...]:
        """Return, line by line, what installing its dependencies would fetch."""
        return ()

    def missing(self, home: Home) -> str:
        """Return why it cannot run until something is installed, with the command that does so; "" when it can."""
        del home
        return ""

    def plan_install(self, home: Home) -> Building | None:
        """Return what `ally-plugins env NAME` would run, None when nothing is to be installed. Raises OperatorError."""
        del home
        return None

    @abstractmethod
    def open(self, host: BridgeHost) -> BridgedPlugin:
        """Return the plugin for one start of it, whose `start` the host awaits next.

        Called in the event loop's thread: it must not block, and runs no code of the plugin.
        """


class BridgedPlugin:
    """What is done in the host for a plugin of another system; it lives from its start to its stop."""

    async def start(self) -> None:
        """Offer its tools, before its process is started, if it has one. Raises PluginError with why it cannot run.

        It has the deadline of `ally_start`. It is cancelled at that deadline, or when the plugin is stopped meanwhile.
        """

    def process(self, daemon: Daemon) -> Daemon:
        """Return how its process is to be started now; called before each start and restart. Raises PluginError."""
        return daemon


class BridgeHost(Protocol):
    """What a host does for one plugin of another system, from its start to its stop; for the event loop's thread."""

    @property
    def name(self) -> str:
        """The plugin's name."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its settings, secrets among them: never show or log them."""
        ...

    @property
    def home(self) -> Home | None:
        """The host's home, None when it keeps nothing on disk."""
        ...

    @property
    def python(self) -> str:
        """The Python that the operator named for its programs, a path; empty for none."""
        ...

    @property
    def state(self) -> str:
        """The name of the plugin's state, such as `running` or `backoff`."""
        ...

    @property
    def can_call(self) -> bool:
        """Whether its daemon takes calls now."""
        ...

    async def call(self, method: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        """Call a method of its daemon, which listens on a socket, and return the frozen result; `timeout` in seconds.

        Raises ToolCallError when it fails or takes longer, with a text that may be shown to the model. Cancelling
        closes the connection; the daemon may go on with the call.
        """
        ...

    async def offer_tool(self, handler: Callable[..., Awaitable[ToolResult]], described: Mapping[str, Any]) -> None:
        """Offer a tool; `described` are the keywords of `Ally.register_tool`. One that is not granted is skipped.

        Returns when it is registered. After cancelling, it may be registered all the same.
        """
        ...

    def ask_before(self, tools: Collection[str]) -> None:
        """Have the person asked before each call of these tools, whatever is granted. Replaces an earlier selection."""
        ...

    async def run(self, program: Program) -> Ran:
        """Run a program of the plugin's once, and end everything that it has started.

        Raises CannotExecute when it cannot be run, also because its files are not those that were agreed to, and
        TimeoutError after the program's own timeout, whose text is the end of what it wrote to stderr. Cancelling ends
        the program's whole process tree.
        """
        ...
