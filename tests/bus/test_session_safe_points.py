"""When a plugin's message enters the conversation: what is due where, what wakes the agent, what the host may do."""

# ruff: noqa: ARG001, ARG002 - hooks and fixtures name what they are given, used or not

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, Message, SessionError, TodoUpdate, UserMessage, hookimpl
from ally_plugins.contract.values.errors import JournalError
from tests.kit.hosts import make_plugin, new_host
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path

MATRIX = {
    ("steer", "step"): True,
    ("steer", "turn_end"): True,
    ("steer", "turn_start"): True,
    ("follow_up", "step"): False,
    ("follow_up", "turn_end"): True,
    ("follow_up", "turn_start"): True,
    ("next_turn", "step"): False,
    ("next_turn", "turn_end"): False,
    ("next_turn", "turn_start"): True,
}


@pytest.mark.parametrize(("deliver_as", "kind"), MATRIX)
def test_a_message_enters_where_it_is_due(deliver_as: str, kind: Any) -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            await plugin.ally.add_message("user", "hello", deliver_as=deliver_as)
            delivered = await session.safe_point(kind)
            assert bool(delivered) is MATRIX[deliver_as, kind]
            assert len(session.conversation.messages) == len(delivered)
            assert len(session.inbox) == 1 - len(delivered)
            left = [stored.id for stored in host.journal.pending("s")]
            assert len(left) == 1 - len(delivered)
            await session.safe_point("turn_start")
            assert host.journal.pending("s") == []

    go(main())


def test_messages_enter_in_the_order_of_their_acceptance() -> None:
    async def main() -> None:
        a, b = make_plugin(), make_plugin()
        async with new_host(plugins={"a": a, "b": b}) as host:
            session = host.session("s")
            for i in range(10):
                await (a, b)[i % 2].ally.add_message(
                    "user", str(i), deliver_as=("next_turn", "steer", "follow_up")[i % 3]
                )
            assert [message.content for message in await session.safe_point("turn_start")] == list("0123456789")

    go(main())


@pytest.mark.parametrize("kind", ["now", "", None, 5])
def test_a_safe_point_of_another_name_is_an_error_even_when_nothing_waits(kind: Any) -> None:
    async def main() -> None:
        async with new_host() as host:
            with pytest.raises(ValueError, match="expected one of 'step', 'turn_end', 'turn_start'"):
                await host.session("s").safe_point(kind)

    go(main())


def test_what_the_model_and_the_listeners_see_of_a_message() -> None:
    told: list[Any] = []

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            host.stream.subscribe("PLUGIN_MESSAGE_RECEIVED", told.append)
            receipt = await plugin.ally.add_message("user", "hello", metadata={"why": "a test"})
            assert told == []
            (message,) = await session.safe_point()
            assert message.id == receipt.id
            assert session.conversation.messages == [message]

    go(main())
    (event,) = told
    assert (event.plugin_name, event.origin) == ("p", ("p",))
    assert event.message["content"] == "hello"
    assert event.message["metadata"] == {
        "sourcePlugin": "p", "isPluginGenerated": True, "origin": ("p",), "why": "a test",
    }  # fmt: skip


def test_trigger_turn_wakes_an_idle_agent_once() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            await plugin.ally.add_message("user", "no hurry")
            waiting = asyncio.create_task(session.wait_for_trigger())
            await asyncio.sleep(0)
            assert not waiting.done()
            await plugin.ally.add_message("user", "wake up", trigger_turn=True)
            async with asyncio.timeout(2):
                await waiting
            assert len(await session.safe_point("turn_start")) == 2
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await session.wait_for_trigger()

    go(main())


def test_a_trigger_that_came_in_during_a_turn_does_not_start_another() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            await session.safe_point("turn_start")
            await plugin.ally.add_message("user", "steer", trigger_turn=True)
            await plugin.ally.add_message("user", "then", trigger_turn=True, deliver_as="follow_up")
            assert len(await session.safe_point("step")) == 1
            assert session.triggered.is_set()
            assert len(await session.safe_point("turn_end")) == 1
            assert not session.triggered.is_set()

    go(main())


class Own:
    """A host's own conversation, which fails or refuses when it is told to."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.fails = False
        self.takes = True

    @hookimpl
    async def ally_add_message(self, session: Any, message: Message) -> bool:
        await asyncio.sleep(0)
        if self.fails:
            raise ZeroDivisionError("in the host")
        if self.takes:
            self.messages.append(message)
        return self.takes


class OwnSync(Own):
    """The same, with a plain function."""

    @hookimpl
    def ally_add_message(self, session: Any, message: Message) -> bool:  # type: ignore[override]
        if self.fails:
            raise ZeroDivisionError("in the host")
        if self.takes:
            self.messages.append(message)
        return self.takes


@pytest.mark.parametrize("kind", [Own, OwnSync])
def test_the_host_s_own_conversation_takes_the_place_of_the_default(kind: Any) -> None:
    own = kind()

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, implementation=own) as host:
            session = host.session("s")
            receipt = await plugin.ally.add_message("user", "hello")
            await session.safe_point()
            assert [message.id for message in own.messages] == [receipt.id]
            assert session.conversation.messages == []

    go(main())


@pytest.mark.parametrize("kind", [Own, OwnSync])
@pytest.mark.parametrize("way", ["fails", "refuses"])
def test_a_message_that_the_host_does_not_take_waits_for_the_next_safe_point(way: str, kind: Any) -> None:
    own = kind()

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, implementation=own) as host:
            session = host.session("s")
            receipt = await plugin.ally.add_message("user", "hello", trigger_turn=True)
            own.fails, own.takes = way == "fails", way != "refuses"
            assert await session.safe_point("turn_start") == ()
            assert [stored.id for stored in host.journal.pending("s")] == [receipt.id]
            assert not session.triggered.is_set()  # or the agent would be woken again at once, for ever
            own.fails, own.takes = False, True
            assert [message.id for message in await session.safe_point("step")] == [receipt.id]
            assert host.journal.pending("s") == []
            assert [message.id for message in own.messages] == [receipt.id]

    go(main())


def test_safe_points_at_once_deliver_each_message_once() -> None:
    own = Own()

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, implementation=own) as host:
            session = host.session("s")
            for i in range(10):
                await plugin.ally.add_message("user", str(i))
            rounds = await asyncio.gather(*(session.safe_point("step") for _ in range(5)))
            assert sum(map(len, rounds)) == 10
            assert [message.content for message in own.messages] == [str(i) for i in range(10)]

    go(main())


def test_messages_that_come_in_during_a_safe_point_wait_for_the_next() -> None:
    may_go = asyncio.Event()

    class Slow:
        @hookimpl
        async def ally_add_message(self, message: Message) -> bool:
            await may_go.wait()
            return True

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, implementation=Slow()) as host:
            session = host.session("s")
            await plugin.ally.add_message("user", "first")
            point = asyncio.create_task(session.safe_point())
            await asyncio.sleep(0)
            await plugin.ally.add_message("user", "second")
            may_go.set()
            assert [message.content for message in await point] == ["first"]
            assert [message.content for message in await session.safe_point()] == ["second"]

    go(main())


def test_a_delivery_that_cannot_be_recorded_is_not_made_twice_and_recorded_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = Own()

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, implementation=own) as host:
            session = host.session("s")
            await plugin.ally.add_message("user", "hello")

            def fail(*_: Any) -> Any:
                raise JournalError("the disk is full")

            with monkeypatch.context() as patch:
                patch.setattr(host.journal, "mark_delivered", fail)
                assert len(await session.safe_point()) == 1
                assert await session.safe_point() == ()
            assert len(host.journal.pending("s")) == 1
            session.load_pending()  # what `reload_pending` does after a cancelled call
            assert await session.safe_point() == ()
            assert host.journal.pending("s") == []
            assert len(own.messages) == 1

    go(main())


def test_a_safe_point_that_is_cancelled_delivers_what_is_left_at_the_next() -> None:
    class Stuck:
        def __init__(self) -> None:
            self.messages: list[str] = []
            self.is_stuck = True

        @hookimpl
        async def ally_add_message(self, message: Message) -> bool:
            if message.content == "second" and self.is_stuck:
                await asyncio.Event().wait()
            self.messages.append(message.content)
            return True

    own = Stuck()

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, implementation=own) as host:
            session = host.session("s")
            await plugin.ally.add_message("user", "first")
            await plugin.ally.add_message("user", "second")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await session.safe_point()
            own.is_stuck = False
            await session.safe_point()
            assert own.messages == ["first", "second"]
            assert host.journal.pending("s") == []

    go(main())


def test_a_call_that_is_cancelled_after_it_was_written_is_delivered_all_the_same() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            for _ in range(20):
                call = asyncio.create_task(plugin.ally.add_message("user", "hello"))
                await asyncio.sleep(0)  # it has queued the message, and waits for the disk
                call.cancel()
                await asyncio.wait([call])
            await host.journal.flush()
            stored = {message.id for message in host.journal.pending("s")}
            async with asyncio.timeout(5):
                while len(session.inbox) < len(stored):  # noqa: ASYNC110 - nothing tells of it but the inbox itself
                    await asyncio.sleep(0.001)
            assert {message.id for message in await session.safe_point()} == stored

    go(main())


def test_a_session_found_again_takes_up_what_waits_and_goes_on_counting(tmp_path: Path) -> None:
    plugin = make_plugin()
    heard: list[Any] = []

    async def first() -> tuple[str, int]:
        async with Host("test", home=tmp_path, discover=False, plugins={"p": plugin}) as host:
            session = host.session("s")
            receipt = await plugin.ally.add_message("user", "hello", trigger_turn=True)
            await plugin.ally.add_message("user", "delivered")
            await session.drained()
            return receipt.id, session.ring.head

    async def second() -> None:
        async with Host("test", home=tmp_path, discover=False, plugins={"p": plugin}) as host:
            host.stream.subscribe("SESSION_START", heard.append)
            last = host.journal.last_seq("s")
            session = host.session("s")
            assert session.ring.head == last + 1 > head
            assert session.triggered.is_set()
            messages = await session.safe_point("turn_start")
            assert [message.content for message in messages] == ["hello", "delivered"]
            assert messages[0].id == message_id
            assert messages[0].source_plugin == "p"
            assert messages[0].metadata["isPluginGenerated"] is True
            assert host.session("s") is session
            assert host.session("t").inbox.all() == []

    message_id, head = go(first())
    go(second())
    assert heard[0].resumed is True
    assert heard[1].resumed is None


def test_a_turn_of_a_resumed_session_has_the_id_of_none_before(tmp_path: Path) -> None:
    async def turns() -> list[str | None]:
        async with Host("test", home=tmp_path, discover=False) as host:
            session, ids = host.session("s"), []
            for _ in range(2):
                await session.safe_point("turn_start")
                session.emit(UserMessage(content="hello"))
                ids.append(session.turn_id)
                await session.safe_point("turn_end")
            return ids

    found = [*go(turns()), *go(turns()), *go(turns())]
    assert len(set(found)) == 6


def test_a_session_found_again_has_the_agents_todos_as_they_last_were(tmp_path: Path) -> None:
    def todos(*tasks: str) -> tuple[dict[str, str], ...]:
        return tuple({"id": task, "task": task, "status": "in_progress"} for task in tasks)

    async def first() -> None:
        async with Host("test", home=tmp_path, discover=False) as host:
            session = host.session("s")
            session.emit(TodoUpdate(todos=todos("old")))
            session.emit(TodoUpdate(todos=todos("sow", "reap")))
            session.emit(TodoUpdate(todos=todos("a sub-agent's"), agent_id="a1"))
            assert [todo.task for todo in session.conversation.todos] == ["sow", "reap"]
            host.session("other").emit(TodoUpdate(todos=todos("another's")))

    async def second() -> None:
        async with Host("test", home=tmp_path, discover=False) as host:
            context = await host.session("s").context(["todos"])
            assert [(todo.id, todo.task, todo.status) for todo in context.todos or ()] == [
                ("sow", "sow", "in_progress"), ("reap", "reap", "in_progress"),
            ]  # fmt: skip
            assert host.session("new").conversation.todos == ()

    go(first())
    go(second())


def test_a_message_in_flight_while_its_session_is_closed_and_found_again_reaches_the_one_that_is_open() -> None:
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def ally_gate_message(self: Any, message: Any) -> None:
        is_asked.set()
        await may_answer.wait()

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin, "g": make_plugin(ally_gate_message=ally_gate_message)}) as host:
            session = host.session("s")
            call = asyncio.create_task(plugin.ally.add_message("user", "hello"))
            await is_asked.wait()
            closing = asyncio.create_task(session.close())
            await asyncio.sleep(0)
            may_answer.set()
            await closing
            again = host.session("s")
            receipt = await call
            assert [message.id for message in await again.safe_point()] == [receipt.id]

    go(main())


def test_a_closed_session_says_so() -> None:
    from ally_plugins import ToolCallStart

    async def main() -> None:
        async with new_host() as host:
            session = host.session("s")
            await session.close()
            await session.close()
            with pytest.raises(SessionError, match="'s' is closed"):
                session.emit(ToolCallStart(tool_name="bash"))
            with pytest.raises(SessionError, match="'s' is closed"):
                await session.safe_point()
            assert host.session("s") is not session

    go(main())
