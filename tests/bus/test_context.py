"""What a plugin may read of a session: parts, cursors, what is private, and what a host's own answer may not add."""

# ruff: noqa: ARG001, ARG002 - hooks and fixtures name what they are given, used or not

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from ally_plugins import (
    AgentEnd,
    AgentStart,
    Context,
    ContextUsageUpdate,
    Host,
    Message,
    PermissionRefused,
    TodoUpdate,
    ToolCallStart,
    UnavailableRefused,
    ValidationRefused,
    hookimpl,
)
from ally_plugins.contract.values.conversation import CONTEXT_PARTS
from ally_plugins.policy.budget import Limits
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path


def fill(session: Any) -> None:
    conversation = session.conversation
    conversation.add(Message(role="user", content="hello", id="1"))
    conversation.add(Message(role="user", content="my password", id="2", private=True))
    conversation.add(Message(role="assistant", content="hi", id="3"))
    session.emit(ContextUsageUpdate(context_usage=42.5))
    session.emit(
        TodoUpdate(todos=[{"id": "t1", "task": "write", "status": "in_progress"}, {"task": "b", "status": "?"}])
    )
    session.emit(AgentStart(agent_name="main", instance_id="i1", task_prompt="do it"))


def test_every_part_is_there_and_frozen() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s", focus="/work")
            fill(session)
            context = await plugin.ally.get_context()
            assert [message.content for message in context.messages] == ["hello", "hi"]
            assert context.focus == "/work"
            assert context.token_usage == 42.5
            assert [(todo.id, todo.status) for todo in context.todos] == [("t1", "in_progress"), ("1", "pending")]
            assert [agent.agent_name for agent in context.agents] == ["main"]
            assert context.is_processing is True
            assert (context.session_id, context.read_only, context.is_reset) == ("s", True, False)
            for name in CONTEXT_PARTS:
                with pytest.raises(attrs.exceptions.FrozenInstanceError):
                    setattr(context, name, None)
            with pytest.raises(AttributeError):
                context.messages.append("x")
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                context.messages[0].content = "changed"
            session.emit(AgentEnd(agent_name="main", instance_id="i1"))
            after = await plugin.ally.get_context(["agents", "is_processing"])
            assert (after.agents, after.is_processing) == ((), False)
            assert context.is_processing is True

    go(main())


@pytest.mark.parametrize("part", CONTEXT_PARTS)
def test_each_part_is_a_grant_of_its_own(part: str) -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, grants={"p": [f"get_context:{part}"]}) as host:
            fill(host.session("s", focus="/work"))
            for context in (await plugin.ally.get_context(), await plugin.ally.get_context([part])):
                assert getattr(context, part) is not None
                assert all(getattr(context, other) is None for other in CONTEXT_PARTS if other != part)
            for other in CONTEXT_PARTS:
                if other != part:
                    with pytest.raises(PermissionRefused, match=f"ally-plugins grant p get_context:{other}"):
                        await plugin.ally.get_context([part, other])

    go(main())


@pytest.mark.parametrize(
    "parts", ["messages", 5, [5], ["secrets"], [["messages"]], {"messages": 1}, iter(["messages"])]
)
def test_parts_that_are_none_are_refused(parts: Any) -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            with pytest.raises(ValidationRefused):
                await plugin.ally.get_context(parts)

    go(main())


def test_a_cursor_gives_only_what_came_after_it() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            fill(session)
            first = await plugin.ally.get_context(["messages"])
            same = await plugin.ally.get_context(["messages"], since=first.cursor)
            assert (same.messages, same.cursor, same.is_reset) == ((), first.cursor, False)
            session.conversation.add(Message(role="user", content="private again", id="4", private=True))
            session.conversation.add(Message(role="user", content="new", id="5"))
            new = await plugin.ally.get_context(["messages"], since=first.cursor)
            assert [message.content for message in new.messages] == ["new"]
            session.conversation.replace([Message(role="system", content="summary", id="6")])
            reset = await plugin.ally.get_context(["messages"], since=new.cursor)
            assert ([message.content for message in reset.messages], reset.is_reset) == (["summary"], True)
            assert (await plugin.ally.get_context(["todos"])).cursor == ""  # it would tell how many messages there are

    go(main())


BAD_CURSORS = ["", "x", "1:0", "1:1", ":", "1:-1", "1:²", "1:" + "9" * 5_000, "\0", "e-1:1"]


@pytest.mark.parametrize("cursor", BAD_CURSORS)
def test_a_cursor_that_is_none_starts_at_the_beginning_and_says_so(cursor: str) -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            fill(host.session("s"))
            context = await plugin.ally.get_context(["messages"], since=cursor)
            assert (len(context.messages), context.is_reset) == (2, True)
            with pytest.raises(ValidationRefused):
                await plugin.ally.get_context(["messages"], since=5)

    go(main())


def test_a_cursor_of_another_session_or_an_earlier_host_is_no_cursor_here(tmp_path: Path) -> None:
    plugin = make_plugin()

    async def cursor_of(session_id: str, since: str | None = None) -> Any:
        async with Host("test", home=tmp_path, discover=False, plugins={"p": plugin}) as host:
            for name in ("s", "t"):
                fill(host.session(name))
            mine = await plugin.ally.get_context(["messages"], session_id=session_id, since=since)
            other = await plugin.ally.get_context(["messages"], session_id="t", since=mine.cursor)
            assert other.is_reset is (session_id != "t")
            return mine

    first = go(cursor_of("s"))
    assert go(cursor_of("s", first.cursor)).is_reset


def test_reading_what_is_new_in_a_long_conversation_costs_what_is_new() -> None:
    async def main() -> None:
        plugin = make_plugin()
        given = setup(plugin, limits=Limits(context_reads_per_minute=1_000_000))
        async with new_host(plugins={"p": given}) as host:
            short, long = host.session("short"), host.session("long")
            for i in range(10_000):
                long.conversation.add(Message(role="user", content=f"message {i}", id=f"m{i}", private=i % 10 == 0))

            async def cost(session: Any) -> float:
                cursor = (await plugin.ally.get_context(["messages"], session_id=session.id)).cursor
                best = 1.0
                for i in range(200):
                    session.conversation.add(Message(role="user", content="new", id=f"n{i}"))
                    start = time.perf_counter()
                    new = await plugin.ally.get_context(["messages"], session_id=session.id, since=cursor)
                    best = min(best, time.perf_counter() - start)
                    assert len(new.messages) == 1
                    cursor = new.cursor
                return best

            assert await cost(long) < 5 * await cost(short)

    go(main())


class TooMuch:
    """A host's own context, which answers with all it has, whatever it was asked."""

    @hookimpl
    async def ally_get_context(self, session: Any, parts: Any, since: Any) -> Context:
        messages = [
            Message(role="user", content="hello"),
            Message(role="user", content="my password", private=True),
        ]
        return Context(
            session_id=session.id,
            messages=messages,  # type: ignore[arg-type]
            focus="/secret",
            token_usage=1.0,
            todos=(),
            agents=(),
            is_processing=True,
            cursor="own",
        )


def test_what_a_host_answers_beyond_what_was_asked_is_cut_away() -> None:
    shown: list[Context] = []

    async def ally_gate_tool_call(self: Any, call: Any, context: Context) -> None:
        shown.append(context)

    async def main() -> None:
        from ally_plugins import ToolCall

        plugin = make_plugin(ally_gate_tool_call=ally_gate_tool_call)
        grants = {"p": ["get_context:messages", "gate:tool_call"]}
        async with new_host(plugins={"p": plugin}, grants=grants, implementation=TooMuch()) as host:
            session = host.session("s")
            shown.append(await plugin.ally.get_context())
            await session.gate_tool_call(ToolCall("bash"))
            with pytest.raises(PermissionRefused):
                await plugin.ally.get_context(["focus"])

    go(main())
    assert len(shown) == 2
    for context in shown:
        assert [message.content for message in context.messages or ()] == ["hello"]
        assert isinstance(context.messages, tuple)
        assert [name for name in CONTEXT_PARTS if getattr(context, name) is not None] == ["messages"]


@pytest.mark.parametrize("answer", [5, {"messages": []}, "text", [1]])
def test_a_host_s_answer_that_is_no_context_is_the_host_s_fault(answer: Any) -> None:
    class Wrong:
        @hookimpl
        def ally_get_context(self) -> Any:
            return answer

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, implementation=Wrong()) as host:
            host.session("s")
            with pytest.raises(UnavailableRefused):
                await plugin.ally.get_context()
            assert host.plugins["p"].counts.crashes == 0

    go(main())


def test_a_host_s_own_answer_of_none_leaves_it_to_the_default() -> None:
    class Nothing:
        @hookimpl
        async def ally_get_context(self) -> None:
            return None

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, implementation=Nothing()) as host:
            fill(host.session("s"))
            assert (await plugin.ally.get_context(["token_usage"])).token_usage == 42.5

    go(main())


def test_context_reads_are_written_down_folded() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            for _ in range(50):
                session.emit(ToolCallStart(tool_name="bash"))
                await plugin.ally.get_context(["todos"])
            await host.journal.flush()
            reads = [record for record in host.journal.reader.records() if record.kind == "context_read"]
            assert sum(record.data["count"] for record in reads if record.data) == 50
            assert len(reads) <= 3

    go(main())
