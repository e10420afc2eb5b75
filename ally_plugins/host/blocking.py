"""The host for programs without a loop: the same calls as plain functions, over a loop in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ally_plugins.contract.tools.agent_tool import MAIN_AGENT
from ally_plugins.runtime.lanes.loopthread import LoopThread

from .host import Host

if TYPE_CHECKING:
    from ally_plugins.contract.tools.agent_tool import AgentTool
    from ally_plugins.contract.values.conversation import (
        Message,
        ModelInput,
        PromptSection,
        SafePoint,
        ToolCall,
        ToolResult,
    )
    from ally_plugins.contract.values.events import DiffPreview, Event, PermissionRequest

    from .sessions.gates import Ruling
    from .sessions.session import Session

__all__ = ["BlockingHost", "BlockingSession"]

T = TypeVar("T")


class BlockingHost:
    """A `Host` whose calls block. A context manager; takes the same arguments, and may be used from any thread.

    `wait` is the longest time in seconds that one call may take (None for ever); after it the call is cancelled and
    TimeoutError raised. Starting and stopping are not cut short by it. Deadlines of plugins hold as always.
    """

    def __init__(self, app: str = "ally-plugins", *, wait: float | None = None, **options: Any) -> None:
        self.host = Host(app, **options)
        self.wait = wait
        self._loop = LoopThread("host", "with BlockingHost(...) as host:")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the loop's thread and the host. Raises what `Host.start` raises, and nothing is left running then."""
        self._loop.start(self.host.start(), None)

    def stop(self) -> None:
        """Stop the host and the thread; safe to call twice."""
        self._loop.stop(self.host.stop(), None)

    def session(self, session_id: str | None = None, *, focus: str | None = None) -> BlockingSession:
        """Return a session, as `Host.session` does."""

        async def open_session() -> Session:
            return self.host.session(session_id, focus=focus)

        return BlockingSession(self, self.run(open_session()))

    def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> ToolResult:
        """Call a plugin's tool, as `Host.call_tool` does."""
        return self.run(self.host.call_tool(name, arguments, **options))

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the host's loop and wait for it. Raises RuntimeError on the loop's own thread."""
        return self._loop.run(call, self.wait)


class BlockingSession:
    """A session of a `BlockingHost`; `session` is the one behind it."""

    def __init__(self, host: BlockingHost, session: Session) -> None:
        self.session = session
        self.id = session.id
        self._run = host.run

    def emit(self, event: Event) -> None:
        """As `Session.emit`; never waits."""
        self.session.emit(event)

    def gate_tool_call(self, call: ToolCall) -> Ruling:
        """As `Session.gate_tool_call`."""
        return self._run(self.session.gate_tool_call(call))

    def gate_permission(self, request: PermissionRequest) -> Ruling:
        """As `Session.gate_permission`."""
        return self._run(self.session.gate_permission(request))

    def transform_tool_input(self, call: ToolCall) -> ToolCall:
        """As `Session.transform_tool_input`."""
        return self._run(self.session.transform_tool_input(call))

    def transform_tool_output(self, call: ToolCall, result: ToolResult) -> ToolResult:
        """As `Session.transform_tool_output`."""
        return self._run(self.session.transform_tool_output(call, result))

    def transform_user_message(self, message: Message) -> Message:
        """As `Session.transform_user_message`."""
        return self._run(self.session.transform_user_message(message))

    def transform_system_prompt(self, sections: Iterable[PromptSection]) -> tuple[PromptSection, ...]:
        """As `Session.transform_system_prompt`."""
        return self._run(self.session.transform_system_prompt(sections))

    def transform_model_request(self, request: ModelInput) -> ModelInput:
        """As `Session.transform_model_request`."""
        return self._run(self.session.transform_model_request(request))

    def wants(self, topic: str) -> bool:
        """As `Session.wants`."""
        return self.session.wants(topic)

    def run_tool_call(
        self,
        call: ToolCall,
        run: Callable[[ToolCall], ToolResult],
        *,
        ask: Callable[[ToolCall, Ruling], bool] | None = None,
        check: Callable[[Mapping[str, Any]], None] | None = None,
        preview: Callable[[ToolCall], DiffPreview | None] | None = None,
    ) -> ToolResult:
        """As `Session.run_tool_call`, with plain functions; `run` and `ask` run in threads of the loop's pool."""

        async def run_in_thread(call: ToolCall) -> ToolResult:
            return await asyncio.to_thread(run, call)

        async def ask_in_thread(call: ToolCall, ruling: Ruling) -> bool:
            return ask is not None and await asyncio.to_thread(ask, call, ruling)

        asker = ask_in_thread if ask is not None else None
        return self._run(self.session.run_tool_call(call, run_in_thread, ask=asker, check=check, preview=preview))

    def refuse_call(self, tool_name: str, why: str, **about: str | None) -> ToolResult:
        """As `Session.refuse_call`."""
        return self._run(self.session.refuse_call(tool_name, why, **about))

    def wait_for_trigger(self) -> None:
        """As `Session.wait_for_trigger`; the host's `wait` is the longest that it waits."""
        self._run(self.session.wait_for_trigger())

    def safe_point(self, kind: SafePoint = "step") -> tuple[Message, ...]:
        """As `Session.safe_point`."""
        return self._run(self.session.safe_point(kind))

    def request_action(self, action: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """As `Session.request_action`."""
        return self._run(self.session.request_action(action, arguments, **options))

    def agent_tools(self, agent: str = MAIN_AGENT, *, taken: Collection[str] = ()) -> tuple[AgentTool, ...]:
        """As `Session.agent_tools`."""
        return self._run(_now(lambda: self.session.agent_tools(agent, taken=taken)))

    def call_agent_tool(
        self, tool: AgentTool, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> ToolResult:
        """As `Session.call_agent_tool`."""
        return self._run(self.session.call_agent_tool(tool, arguments, timeout=timeout))

    def drained(self) -> None:
        """As `Session.drained`."""
        self._run(self.session.drained())

    def close(self) -> None:
        """As `Session.close`."""
        self._run(self.session.close())


async def _now(look: Callable[[], T]) -> T:
    """Look at something on the host's own loop, to which it belongs."""
    return look()
