"""A plugin on a real host in one agent: a test that runs in each shows what the plugin comes to there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ally_plugins.author.agents import agents
from ally_plugins.contract.blocking import blocking, passed_on
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.wording import suggest
from ally_plugins.testing.blocking import BlockingHarness
from ally_plugins.testing.harness import PluginHarness

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ally_plugins.author.agents import Agent
    from ally_plugins.testing.subject import PluginLike

    from .turns import AgentTurn, ToolUse

__all__ = ["AgentHarness", "BlockingAgentHarness", "NotServedError"]


class NotServedError(Exception):
    """The agent has no place for what a test is about; the text says what and why."""


class _PlayedAgent(Protocol):
    @property
    def session_id(self) -> str: ...

    def close(self) -> None: ...

    async def turn(self, uses: Sequence[ToolUse], prompt: str, answer: str, *, person_agrees: bool) -> AgentTurn: ...


class AgentHarness(PluginHarness):
    """A `PluginHarness` whose plugin stands behind one agent, by the name that `ally-plugins check --for` knows.

    Of a coding agent these are its hooks on the host's own serving code, and what the real program was seen to do with
    the answers; of a framework it is the framework, with a model that follows the test. Raises NotServedError on
    entering for a framework that is not installed, ValueError for a name that is not known.
    """

    def __init__(self, plugin: PluginLike, *, agent: str, **options: Any) -> None:
        super().__init__(plugin, **options)
        if agent not in (known := agents()):
            raise ValueError(f"no agent {agent!r} is known, {suggest(agent, sorted(known))}")
        self.agent = known[agent]
        self._played: _PlayedAgent | None = None

    @override
    async def start(self) -> None:
        """Start the host, and the agent on it; raises as `PluginHarness.start` does."""
        await super().start()
        try:
            self._played = self._play()
        except LookupError as error:
            await self.stop()
            raise NotServedError(str(error)) from None
        except BaseException:
            await self.stop()
            raise
        self._session = self.host.session(self._played.session_id)

    @override
    async def stop(self) -> None:
        """Stop the plugin and the host, as `PluginHarness.stop`."""
        await super().stop()
        if self._played is not None:
            self._played.close()

    def _play(self) -> _PlayedAgent:
        from ally_plugins.adapters.coding.dialects import DIALECTS

        name = self.agent.name
        if name in DIALECTS:
            from .coding import CodingAgent

            return CodingAgent(name, self.host, cwd="/")
        from .frameworks import FrameworkAgent

        return FrameworkAgent(name, self.host, self.other)

    def require(self, *names: str) -> None:
        """Raise NotServedError unless the agent serves all of these, as `transform:tool_output` or `TODO_UPDATE`.

        The fixture `ally_agent` skips the test then, with the reason. What is served in part is in `agent.limits`.
        """
        for name in names:
            if name not in self.agent.serves:
                why = self.agent.limits.get(name, "it has no place for it")
                raise NotServedError(f"{self.agent.name} does not serve {name}: {why}")

    async def turn(
        self, *uses: ToolUse, prompt: str = "go on", answer: str = "done", person_agrees: bool = False
    ) -> AgentTurn:
        """Have the agent play a turn: the person's prompt, the model's calls one after another, its answer.

        What comes of a call that is refused is in the turn, and the next one is made all the same. Waits until the
        plugin has received all events. Raises NotServedError for a common name of a tool that this agent has not.
        Cancelling ends the turn, and what the plugin does meanwhile.
        """
        assert self._played is not None  # noqa: S101 - it is entered
        try:
            return await self._played.turn(uses, prompt, answer, person_agrees=person_agrees)
        except LookupError as error:
            raise NotServedError(str(error)) from None
        finally:
            await self.settle()


class BlockingAgentHarness(BlockingHarness):
    """An `AgentHarness` whose calls block; a context manager with the same arguments."""

    harness: AgentHarness

    def __init__(self, plugin: PluginLike, *, agent: str, **options: Any) -> None:
        super().__init__(plugin, agent=agent, **options)

    @staticmethod
    @override
    def _made(plugin: PluginLike, options: Mapping[str, Any]) -> AgentHarness:
        return AgentHarness(plugin, **options)

    @property
    def agent(self) -> Agent:
        """The agent: `name`, what it `serves`, and by grant what `limits` it has there."""
        return self.harness.agent

    turn = blocking(AgentHarness.turn)
    require = passed_on(AgentHarness.require)
