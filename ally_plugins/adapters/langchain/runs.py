"""The runs of graphs: when one begins and ends, and which one a hook belongs to.

A hook runs in a context of its own, and is given no word of a run that raises or is cancelled. The framework's
callbacks are: whoever starts a chain, callback handlers get its start, parent and end. So a handler for all of them
stands here; it is the one place where the end of every run comes by, in the task that drives the graph.
"""

# ruff: noqa: ARG002 - the framework gives its callbacks all that it has, by name

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tracers.context import register_configure_hook
from langgraph.errors import GraphBubbleUp

from ally_plugins.adapters.kit.under_way import UnderWay
from ally_plugins.contract.values.compat import override
from ally_plugins.runtime.lanes.call_thread import is_for_thread, run_blocking

from .messages import convert, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from langchain_core.runnables import RunnableConfig
    from langgraph.runtime import RunControl  # noqa: TC004 - nobody reads these annotations at run time

    from ally_plugins.adapters.kit.work import AgentWork  # noqa: TC004
    from ally_plugins.contract.tools.agent_tool import AgentTool  # noqa: TC004
    from ally_plugins.contract.values.errors import GateRefused  # noqa: TC004

__all__ = ["OPEN", "PluginRun", "ended", "graph_run", "loop_below", "messages_in", "running_loop"]


@define(eq=False)
class PluginRun:
    """One run of a graph for one `AllyPlugins`; it lives until the graph has ended, and each call that it made."""

    owner: object
    work: AgentWork
    control: RunControl | None = None
    """The framework's own way to stop a run between two steps."""
    offered: dict[str, AgentTool] = field(init=False, factory=dict)
    """Plugins' tools that the model was offered, by name."""
    answers: dict[str, Any] = field(init=False, factory=dict)
    """The person's answers by the call's id, where several calls of one node wait for them."""
    refused: GateRefused | None = field(init=False, default=None)
    """Why the person's message, or an answer of the model, was withheld: the run ends with it."""
    under_way: UnderWay = field(init=False)
    has_begun: bool = field(init=False, default=False)
    _outcome: dict[str, Any] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.under_way = UnderWay(self._close)
        self.work.stop = self._drain

    def follow(self, messages: Sequence[BaseMessage]) -> None:
        """Copy what is new in the history into the session's conversation."""
        self.work.follow(messages, convert)

    def _drain(self) -> None:
        """Let the graph end before its next step."""
        if self.control is not None:
            self.control.request_drain(self.work.interruption_cause or "interrupted")

    def stoppable(self) -> AbstractContextManager[None]:
        """Return what lets a block be cancelled when the run is interrupted, and raises Interrupted then.

        Around a function in somebody's thread nothing is cancelled: it would go on there, unseen.
        """
        return nullcontext() if is_for_thread() else self.work.stoppable()

    async def end(self, output: Any = None, error: BaseException | None = None) -> None:
        """Take leave of the graph: AGENT_END comes behind the last of its calls."""
        if error is not None and not isinstance(error, GraphBubbleUp):
            self._outcome["error"] = error
        elif messages := messages_in(output):
            self.follow(messages)
            last = messages[-1]
            if isinstance(last, AIMessage) and not last.tool_calls:
                self._outcome["content"] = text_of(last)
        await self.under_way.__aexit__()

    async def _close(self) -> None:
        await self.work.close(**self._outcome)


def messages_in(state: Any) -> list[BaseMessage]:
    """Return the messages of a graph's state, or of its output; none where it holds none under that name."""
    found = state.get("messages") if isinstance(state, dict) else getattr(state, "messages", state)
    return found if isinstance(found, list) and all(isinstance(each, BaseMessage) for each in found) else []


OPEN: Final[dict[UUID, list[PluginRun]]] = {}
"""The runs that are open, by the id of the graph's run."""

_STARTED: Final[dict[UUID, tuple[UUID | None, object, asyncio.AbstractEventLoop | None]]] = {}
"""The parent of each chain that runs, the node that it is part of, and the loop of the thread that it began in."""


def _node(metadata: dict[str, Any] | None) -> object:
    return (metadata or {}).get("langgraph_checkpoint_ns")


def graph_run(config: RunnableConfig) -> UUID | None:
    """Return the id of the run of the graph whose node has this configuration; None where no graph runs."""
    node = _node(config.get("metadata"))
    run_id: UUID | None = getattr(config.get("callbacks"), "parent_run_id", None)
    while run_id is not None and (found := _STARTED.get(run_id)) is not None:
        if found[1] != node:  # the graph's own is of no node, or of one in the graph above
            return run_id
        run_id = found[0]
    return None


def loop_below(config: RunnableConfig) -> asyncio.AbstractEventLoop | None:
    """Return the loop of the thread in which a graph began; where it runs in threads, that loop waits for its end."""
    found = _STARTED.get(run_id) if (run_id := graph_run(config)) is not None else None
    return found[2] if found is not None else None


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def ended(run_id: UUID, output: Any = None, error: BaseException | None = None) -> None:
    """End what is open of a run of a graph, or of any chain."""
    _STARTED.pop(run_id, None)
    for run in OPEN.pop(run_id, ()):
        await run.end(output, error)


class _Follows(BaseCallbackHandler):
    """Follows chains, where their end is of use."""

    raise_error = True
    run_inline = True

    @override
    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **more: Any
    ) -> None:
        _STARTED[run_id] = parent_run_id, _node(more.get("metadata")), running_loop()


class _Ends(_Follows):
    """Follows chains that are driven by a task."""

    @property
    @override
    def ignore_chain(self) -> bool:
        return running_loop() is None

    @override
    async def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        await ended(run_id, output=outputs)

    @override
    async def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        await ended(run_id, error=error)


class _BlockingEnds(_Follows):
    """Follows chains that are driven by a thread without a loop."""

    @property
    @override
    def ignore_chain(self) -> bool:
        return running_loop() is not None

    @override
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id, output=outputs)

    @override
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id, error=error)

    def _end(self, run_id: UUID, **how: Any) -> None:
        if run_id in OPEN:
            run_blocking(ended(run_id, **how))
        else:
            _STARTED.pop(run_id, None)


# Handlers whose variable has a value are given to every chain; these are wanted by all of them.
for _name, _handler in (("ally_ends", _Ends()), ("ally_blocking_ends", _BlockingEnds())):
    register_configure_hook(ContextVar(_name, default=_handler), inheritable=True)
