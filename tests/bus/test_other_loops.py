"""A host's coroutines on a loop that is not its own: each says so at once, and no gate has agreed by it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ally_plugins import (
    Allow,
    AllyError,
    HostError,
    Message,
    ModelInput,
    PermissionRequest,
    PluginRecord,
    Session,
    Stop,
    ToolCall,
    ToolResult,
    hookimpl,
    tool,
)
from ally_plugins.contract.values.conversation import ActionRequest
from ally_plugins.host.host import Host
from tests.kit.hosts import new_host
from tests.kit.waiting import go

CALL = ToolCall("bash", {"command": "rm -rf /"}, "c1")
Call = Callable[[Any], Awaitable[Any]]


class Guard:
    """A gate, a transform and a tool, which note that they ran."""

    ran: list[str]

    def __init__(self, ally: Any) -> None:
        del ally
        type(self).ran = []

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Any:
        self.ran.append(f"gate {call.tool_name}")
        return Allow()

    @hookimpl
    async def ally_transform_tool_input(self, call: ToolCall) -> None:
        self.ran.append(f"transform {call.tool_name}")

    @tool
    async def add(self, a: int) -> int:
        """Add."""
        self.ran.append("tool")
        return a


async def _run_tool(call: ToolCall) -> ToolResult:
    Guard.ran.append(f"ran {call.tool_name}")
    return ToolResult(success=True)


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "admit_ungated": ("agent", ("web_search",)),
    "call_tool": ("add", {"a": 1}),
    "capability": ("ally_request_action",),
    "confirm": ((),),
    "replace": (PluginRecord.by_code("p"),),
    "gate_tool_call": (CALL,),
    "gate_permission": (PermissionRequest(request_id="r1", tool_name="bash"),),
    "transform_tool_input": (CALL,),
    "transform_tool_output": (CALL, ToolResult(success=True)),
    "transform_user_message": (Message(role="user", content="hi"),),
    "transform_answer": (Message(role="assistant", content="hi"),),
    "gate_user_message": (Message(role="user", content="hi"),),
    "gate_answer": (Message(role="assistant", content="hi"),),
    "gate_stop": (Stop(),),
    "transform_system_prompt": ((),),
    "transform_model_request": (ModelInput(),),
    "run_tool_call": (CALL, _run_tool),
    "begin_call": (CALL,),
    "end_call": ("c1", ToolResult(success=True)),
    "refuse_call": ("bash", "it is too deep"),
    "context": (("messages",),),
    "request_action": ("compact",),
}
"""What each coroutine is called with; those that are not here need nothing."""


def _coroutines(cls: type[Any]) -> list[str]:
    return [name for name, member in vars(cls).items() if inspect.iscoroutinefunction(member) and name[0] != "_"]


def _arguments(owner: Any, name: str) -> tuple[Any, ...]:
    session = owner if isinstance(owner, Session) else next(iter(owner.sessions.values()))
    if name == "call_agent_tool":
        (offered,) = session.agent_tools()
        return (offered, {"a": 1}) if owner is session else (session, offered, {"a": 1}, None)
    if name == "run_action":
        return (session, ActionRequest("compact"), 1.0)
    return ARGUMENTS.get(name, ())


CASES = [(Session, name) for name in _coroutines(Session)] + [(Host, name) for name in _coroutines(Host)]


async def _in_a_thread(call: Callable[[], Any]) -> Any:
    """Await a call as a synchronous tool of a framework does: on a loop of a worker thread."""
    return await asyncio.wait_for(asyncio.to_thread(lambda: asyncio.run(call())), 5)


def test_there_are_coroutines_to_look_at() -> None:
    assert len(CASES) > 15


@pytest.mark.parametrize(("cls", "name"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_every_coroutine_on_another_threads_loop_is_refused_before_anything_runs(cls: type[Any], name: str) -> None:
    async def main() -> None:
        async with new_host(plugins={"guard": Guard}) as host:
            session = host.session("s1")
            owner = session if cls is Session else host
            arguments = _arguments(owner, name)
            with pytest.raises(HostError) as caught:
                await _in_a_thread(lambda: getattr(owner, name)(*arguments))
            text = str(caught.value)
            if name != "start":  # which says that the host runs already
                assert text.startswith(f"{name}() was called on the event loop of thread 'asyncio_")
                assert repr(owner) in text
                assert repr(threading.current_thread().name) in text
                assert "run_coroutine_threadsafe" in text
            assert Guard.ran == []
            assert host.loop is asyncio.get_running_loop()
            assert (await session.gate_tool_call(CALL)).is_allowed  # nothing is harmed by it

    go(main())


def test_what_is_carried_over_by_hand_is_answered() -> None:
    async def main() -> None:
        async with new_host(plugins={"guard": Guard}) as host:
            session, loop = host.session("s1"), asyncio.get_running_loop()

            def in_a_thread() -> Any:
                # The coroutine is made where no loop runs, which is not where it runs.
                return asyncio.run_coroutine_threadsafe(session.gate_tool_call(CALL), loop).result(5)

            assert (await asyncio.to_thread(in_a_thread)).is_allowed
            assert Guard.ran == ["gate bash"]

    go(main())


def test_a_second_loop_of_the_same_thread_is_another_loop() -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        host = new_host(plugins={"guard": Guard})
        first.run_until_complete(host.start())
        session = host.session("s1")
        with pytest.raises(HostError, match="on another event loop"):
            second.run_until_complete(session.run_tool_call(CALL, _run_tool))
        with pytest.raises(HostError, match="on another event loop"):
            second.run_until_complete(host.stop())
        assert Guard.ran == []
        first.run_until_complete(session.run_tool_call(CALL, _run_tool))
        assert Guard.ran == ["transform bash", "gate bash", "ran bash"]
        first.run_until_complete(host.stop())
    finally:
        first.close()
        second.close()


def test_a_session_whose_loop_was_closed_says_that_nobody_can_answer_there() -> None:
    async def begin() -> tuple[Host, Session]:
        host = new_host(plugins={"guard": Guard})
        await host.start()
        return host, host.session("s1")

    loop = asyncio.new_event_loop()
    host, session = loop.run_until_complete(begin())
    for left in asyncio.all_tasks(loop):
        left.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def ask() -> None:
        with pytest.raises(AllyError, match="has been closed; make another host"):
            await session.gate_tool_call(CALL)

    asyncio.run(ask())
    host.journal.close_blocking()
    assert Guard.ran == []
