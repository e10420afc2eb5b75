"""A host with an agent kit and nothing of any framework, and the events that are emitted in its sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ally_plugins import AgentEnd, AgentKit, Event, ToolCallEnd
from tests.kit.hosts import new_host
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ally_plugins import AgentWork, Host

E = TypeVar("E", bound=Event)


class KitBench:
    """A host that does not run yet, its kit, and what was emitted."""

    def __init__(self, plugins: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.events: list[Event] = []
        self.host: Host = new_host(plugins)
        self.host.stream.subscribe("*", self.events.append)
        self.kit = AgentKit(host=self.host, **options)

    def run(self, play: Callable[[AgentWork], Awaitable[None]], *, can_defer: bool = False) -> None:
        """Play in a run of an agent."""

        async def main() -> None:
            work = await self.kit.open("s", "r", "agent")
            work.can_defer = can_defer
            try:
                await work.begin("go")
                await play(work)
            finally:
                await work.close()

        go(main())

    @property
    def ends(self) -> list[tuple[Any, ...]]:
        """How each call has ended, in order."""
        return [(each.success, each.denied, each.error) for each in self.of(ToolCallEnd)]

    def of(self, *kinds: type[E]) -> list[E]:
        """Return the events of these types, in order."""
        return [event for event in self.events if isinstance(event, kinds)]

    @property
    def types(self) -> list[str]:
        """The types of what was emitted, but for plugins' states."""
        return [event.type for event in self.events if event.type != "PLUGIN_STATE"]

    @property
    def end(self) -> AgentEnd:
        """The only AGENT_END."""
        (found,) = self.of(AgentEnd)
        return found

    @property
    def is_running(self) -> bool:
        """Whether the host runs."""
        return self.host.loop is not None
