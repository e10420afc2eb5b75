"""`add_message` and `get_context` in every placement: options, keys, receipts, refusals with all their attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ally_plugins import AgentStart, ContextUsageUpdate, Message, TodoUpdate, ToolCall
from ally_plugins.policy.budget import Limits
from tests.kit.placements import Placed, call, collect_events, records_of
from tests.kit.waiting import go

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import SafePoint

CALLS: Any = (ToolCall("bash", {"a": [1]}, "c1"),)
DEEP = {"a": [1, None, True, 0.5, {"ünï": "\n"}], "b": {}}


def test_a_message_enters_at_the_safe_point_that_it_names_with_its_metadata(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller")}) as host:
            events = collect_events(host)
            session = host.session("s")
            texts = {"steer": "now", "follow_up": "at the end", "next_turn": "next"}
            ids = {}
            for deliver_as, text in texts.items():
                answer = await call(host, "add_message", "user", text, deliver_as=deliver_as, metadata=DEEP)
                receipt = answer["returned"]
                assert receipt["state"] == "pending"
                ids[receipt["id"]] = deliver_as
            points: dict[SafePoint, str] = {"step": "steer", "turn_end": "follow_up", "turn_start": "next_turn"}
            for kind, deliver_as in points.items():
                (message,) = await session.safe_point(kind)
                assert ids[message.id] == deliver_as
                assert message == Message(
                    role="user", content=texts[deliver_as], id=message.id, timestamp=message.timestamp,
                    metadata={**DEEP, "sourcePlugin": "p", "isPluginGenerated": True, "origin": ("p",)},
                )  # fmt: skip
            received = [event for event in events if event.type == "PLUGIN_MESSAGE_RECEIVED"]
            assert [event.plugin_name for event in received] == ["p", "p", "p"]
            assert {event.origin for event in received} == {("p",)}
            accepted = await records_of(host, "message")
            assert [r.ref for r in accepted] == list(ids)
            assert host.plugins["p"].counts.messages == 3

    go(main())


def test_roles_and_waking_the_agent_are_grants_of_their_own(placed: Placed) -> None:
    async def main() -> None:
        some = placed("calls:Caller", ["tools", "add_message:user", "add_message:system"])
        async with placed.host({"p": some}) as host:
            session = host.session()
            assert "returned" in await call(host, "add_message", "system", "x")
            refused = await call(host, "add_message", "assistant", "x")
            assert refused == {
                "raised": "PermissionRefused",
                "text": "'p' is not granted 'add_message:assistant'; the operator grants it with "
                "`ally-plugins grant p add_message:assistant`",
                "reason": "permission",
                "plugin": "p",
                "permission": "add_message:assistant",
                "command": "ally-plugins grant p add_message:assistant",
            }
            woken = await call(host, "add_message", "user", "x", trigger_turn=True)
            assert woken["permission"] == "add_message:trigger_turn"
            assert not session.triggered.is_set()
        async with placed.host({"p": placed("calls:Caller")}) as host:
            session = host.session()
            assert "returned" in await call(host, "add_message", "user", "x", trigger_turn=True)
            assert session.triggered.is_set()

    go(main())


def test_a_key_gives_the_same_receipt_again_and_refuses_other_content(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller"), "q": placed("calls:Caller")}) as host:
            session = host.session("s")
            first = await call(host, "add_message", "user", "hello", key="k1")
            assert await call(host, "add_message", "user", "hello", key="k1") == first
            other = await call(host, "add_message", "user", "other", key="k1")
            assert other == {
                "raised": "KeyConflictRefused",
                "text": f"the key 'k1' was used for the message {first['returned']['id']!r} with other content "
                "or metadata; use another key",
                "reason": "key_conflict",
                "plugin": "p",
            }
            await session.safe_point()
            again = await call(host, "add_message", "user", "hello", key="k1")
            assert again == {"returned": {**first["returned"], "state": "delivered"}}
            assert len(session.conversation.messages) == 1
            assert host.plugins["p"].counts.messages == 1

    go(main())


WRONG: dict[str, tuple[list[Any], dict[str, Any], str, str]] = {
    "role": (["nobody", "x"], {}, "role", "role is 'nobody'; expected one of 'user', 'assistant', 'system'"),
    "role type": ([5, "x"], {}, "role", "role is"),
    "empty": (["user", ""], {}, "content", "content is empty; expected some text"),
    "content type": (["user", 5], {}, "content", "content is"),
    "control": (["user", "a\x00"], {}, "content", "content has the control character U+0000 at 1; only newline"),
    "deliver_as": (["user", "x"], {"deliver_as": "soon"}, "deliver_as", "deliver_as is 'soon'; expected one of"),
    "key": (["user", "x"], {"key": "a  b"}, "key", "key is 'a  b'; expected printable ASCII"),
    "key type": (["user", "x"], {"key": 5}, "key", "key is"),
    "long key": (["user", "x"], {"key": "k" * 300}, "key", "key has 300 characters; expected 256 at most"),
    "metadata": (["user", "x"], {"metadata": [1]}, "metadata", "metadata is of the type list; expected a dict"),
}


def test_what_is_not_acceptable_is_refused_with_the_name_of_the_field(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller")}) as host:
            session = host.session()
            for name, (arguments, keywords, field, words) in WRONG.items():
                refused = await call(host, "add_message", *arguments, **keywords)
                assert (name, refused.get("raised")) == (name, "ValidationRefused")
                assert (name, refused["field"], refused["reason"]) == (name, field, "validation")
                assert words in refused["text"]
            assert session.inbox.take_due("step") == []
            counted = len(WRONG) - (not placed.placement.sends_anything)  # a list as metadata is refused where it is
            assert host.plugins["p"].counts.refused == {"validation": counted}

    go(main())


def test_budgets_refuse_with_their_name_and_when_to_try_again(placed: Placed) -> None:
    async def main() -> None:
        limits = Limits(messages_per_minute=1, events_per_minute=1, context_reads_per_minute=1, message_bytes=100)
        async with placed.host({"p": placed("calls:Caller", limits=limits)}) as host:
            host.session()
            assert "returned" in await call(host, "add_message", "user", "x")
            refused = await call(host, "add_message", "user", "x")
            assert (refused["raised"], refused["budget"], refused["plugin"]) == (
                "BudgetRefused",
                "messages_per_minute",
                "p",
            )
            assert 0 < refused["retry_after"] <= 60
            assert "plugins.p.limits" in refused["text"]
            assert "returned" in await call(host, "emit_event", "news")
            assert (await call(host, "emit_event", "news"))["budget"] == "events_per_minute"
            assert "returned" in await call(host, "get_context")
            assert (await call(host, "get_context"))["budget"] == "context_reads_per_minute"
        roomy = Limits(message_bytes=100)
        async with placed.host({"p": placed("calls:Caller", limits=roomy)}) as host:
            host.session()
            large = await call(host, "add_message", "user", "x" * 101)
            assert (large["raised"], large["budget"], large.get("retry_after")) == (
                "BudgetRefused", "message_bytes", None,
            )  # fmt: skip

    go(main())


def test_outside_an_event_a_session_is_named_when_several_are_open(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller")}) as host:
            none = await call(host, "add_message", "user", "x")
            assert none["raised"] in {"ValidationRefused", "NotFoundRefused"}
            first, second = host.session("first"), host.session("second")
            which = await call(host, "add_message", "user", "x")
            assert (which["raised"], which["field"]) == ("ValidationRefused", "session_id")
            assert which["text"] == "2 sessions are open; outside an event, session_id is required"
            assert "returned" in await call(host, "add_message", "user", "named", session_id="second")
            assert [message.content for message in await second.safe_point()] == ["named"]
            assert await first.safe_point() == ()
            result = await host.call_tool(
                "call", {"method": "add_message", "arguments": ["user", "x"], "keywords": {"session_id": "third"}},
                plugin="p",
            )  # fmt: skip
            assert result.data["raised"] == "NotFoundRefused"
            assert result.data["text"] == "no session 'third' is open"

    go(main())


def test_the_context_is_the_same_picture_part_by_part(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller")}) as host:
            session = host.session("s", focus="/home")
            session.conversation.add(Message(role="user", content="hello", id="m1", timestamp=7, metadata=DEEP))
            session.conversation.add(Message(role="assistant", content="", tool_calls=CALLS))
            session.conversation.add(Message(role="tool", content="out", tool_call_id="c1"))
            session.conversation.add(Message(role="user", content="a secret", private=True))
            session.emit(
                TodoUpdate(todos=[{"id": "1", "task": "test", "status": "in_progress", "activeForm": "testing"}])
            )
            session.emit(ContextUsageUpdate(context_usage=41.5))
            session.emit(AgentStart(agent_name="coder", agent_id="a1", task_prompt="code", parent_id="p1"))
            parts = ("agents", "focus", "is_processing", "messages", "todos", "token_usage")
            whole = await session.context(parts)
            assert (await call(host, "get_context"))["returned"]["value"] == repr(whole)
            for part in parts:
                answer = await call(host, "get_context", [part])
                assert answer["returned"]["value"] == repr(await session.context((part,)))
            cursor = whole.cursor
            session.conversation.add(Message(role="user", content="later", id="m9"))
            later = await call(host, "get_context", ["messages"], since=cursor)
            assert later["returned"]["value"] == repr(await session.context(("messages",), cursor))
            assert "hello" not in later["returned"]["value"]
            session.conversation.replace([Message(role="user", content="anew", id="m10")])
            reset = await call(host, "get_context", ["messages"], since=later["returned"]["cursor"])
            assert reset["returned"]["value"] == repr(await session.context(("messages",), "nonsense"))
            assert "is_reset=True" in reset["returned"]["value"]
            none = await call(host, "get_context", [])
            assert none["returned"]["value"] == repr(await session.context(()))

    go(main())


def test_a_part_that_is_not_granted_or_not_there_is_refused(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"p": placed("calls:Caller", ["tools", "get_context:focus"])}
        async with placed.host(plugins) as host:
            session = host.session("s", focus="/home")
            granted = await call(host, "get_context")
            assert granted["returned"]["value"] == repr(await session.context(("focus",)))
            refused = await call(host, "get_context", ["focus", "messages"])
            assert (refused["raised"], refused["permission"]) == ("PermissionRefused", "get_context:messages")
            unknown = await call(host, "get_context", ["weather"])
            assert (unknown["raised"], unknown["field"]) == ("ValidationRefused", "parts")
            assert unknown["text"].startswith("there is no part 'weather'; expected some of messages, focus")
            wrong = await call(host, "get_context", "focus")
            assert (wrong["raised"], wrong["field"]) == ("ValidationRefused", "parts")
            since = await call(host, "get_context", ["focus"], since=5)
            assert (since["raised"], since["field"]) == ("ValidationRefused", "since")

    go(main())
