"""A tool that hands a task to another agent, which works on it alone and answers with a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import AgentRunError, RunCancelled, ToolFailed
from pydantic_ai.tools import RunContext  # noqa: TC002 - the framework reads the tool's annotations
from pydantic_ai.toolsets import FunctionToolset

from ally_plugins.contract.values.compat import override

if TYPE_CHECKING:
    from pydantic_ai import Agent

__all__ = ["Delegation"]


class Delegation(AbstractCapability[Any]):
    """Runs a new agent for each task; it sees nothing of the conversation, and its usage counts as the caller's."""

    def __init__(self, make_agent: Callable[[], Agent[None, str]]) -> None:
        super().__init__()
        self.id = "delegation"
        self._make_agent: Final = make_agent

    @override
    def get_toolset(self) -> FunctionToolset[Any]:
        """Return the tool."""
        return FunctionToolset([self.delegate_task], id=self.id)

    async def delegate_task(self, ctx: RunContext[Any], task: str) -> str:
        """Hand a task to another agent with your tools, in the same folder, and return what it says of it.

        Args:
            task: All that it needs to know: it sees nothing of this conversation.
        """
        try:
            # A new one for each: several may run at a time, each with todos of its own.
            return (await self._make_agent().run(task, usage=ctx.usage)).output
        except RunCancelled:  # with the whole turn
            raise
        except AgentRunError as error:
            raise ToolFailed(f"the other agent failed: {error}") from error
