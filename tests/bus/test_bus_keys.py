"""Idempotency keys, the order of the six steps, and budgets by a clock that the test moves."""

# ruff: noqa: ARG001 - hooks and fixtures name what they are given, used or not

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import (
    BudgetRefused,
    Deny,
    GateRefused,
    Host,
    KeyConflictRefused,
    PermissionRefused,
    RefusedError,
    UnavailableRefused,
    ValidationRefused,
)
from ally_plugins.host.bus import messages
from ally_plugins.policy.budget import Limits
from ally_plugins.runtime.lanes.clock import RecordedClock
from ally_plugins.runtime.lanes.plugin import RunState
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path


def test_the_same_key_with_the_same_content_gives_the_same_receipt_and_one_message() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            first = await plugin.ally.add_message("user", "hello", key="k")
            assert await plugin.ally.add_message("user", "hello", key="k") == first
            assert len(await session.safe_point()) == 1
            again = await plugin.ally.add_message("user", "hello", key="k")
            assert (again.id, again.offset, again.state) == (first.id, first.offset, "delivered")
            assert await session.safe_point() == ()

    go(main())


def test_what_a_key_was_used_for_is_known_by_a_journal_of_before_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            with monkeypatch.context() as earlier:
                # As it was written before `trigger_turn` and metadata counted.
                earlier.setattr(messages, "_fingerprint", lambda *sent: messages._digest(messages._sent(*sent)))
                first = await plugin.ally.add_message("user", "hello", key="k", metadata={"a": 1})
            assert await plugin.ally.add_message("user", "hello", key="k", metadata={"a": 1}) == first
            with pytest.raises(KeyConflictRefused, match="with other content"):
                await plugin.ally.add_message("user", "other", key="k", metadata={"a": 1})

    go(main())


def test_a_key_is_a_plugin_s_own() -> None:
    async def main() -> None:
        a, b = make_plugin(), make_plugin()
        async with new_host(plugins={"a": a, "b": b}) as host:
            session = host.session("s")
            one = await a.ally.add_message("user", "from a", key="k")
            other = await b.ally.add_message("user", "from b", key="k")
            assert one.id != other.id
            assert len(await session.safe_point()) == 2

    go(main())


def test_the_same_key_with_other_content_is_refused() -> None:
    others: list[tuple[str, str, dict[str, Any], str]] = [
        ("user", "other", {}, "with other content"),
        ("system", "hello", {}, "with the role 'user', now it is 'system'"),
        ("user", "hello", {"deliver_as": "next_turn"}, "with deliver_as 'steer', now it is 'next_turn'"),
        ("user", "hello", {"trigger_turn": True}, "with trigger_turn False, now it is True"),
        ("user", "hello", {"metadata": {"about": "y"}}, "with other content or metadata"),
        ("user", "hello", {"metadata": {"about": {1}}}, "with other content or metadata"),
    ]

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            await plugin.ally.add_message("user", "hello", key="k")
            for role, content, options, difference in others:
                with pytest.raises(KeyConflictRefused, match=f"'k' was used for the message .* {difference}"):
                    await plugin.ally.add_message(role, content, key="k", **options)
            assert host.plugins["p"].counts.refused == {"key_conflict": len(others)}

    go(main())


def test_a_key_gives_a_message_of_its_own_in_each_session_whatever_its_content() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            sessions = [host.session(f"s{i}") for i in range(3)]
            texts = ["mind the budget", "mind the budget", "mind the clock"]

            async def add(i: int) -> Any:
                return await plugin.ally.add_message("user", texts[i], key="reminder", session_id=f"s{i}")

            receipts = await asyncio.gather(*map(add, range(3)))  # in one batch of the journal, then one by one
            assert [await add(i) for i in range(3)] == receipts
            entered = [await session.safe_point() for session in sessions]
            assert [[(message.id, message.content) for message in messages] for messages in entered] == [
                [(receipt.id, text)] for receipt, text in zip(receipts, texts, strict=True)
            ]

    go(main())


def test_a_key_whose_message_was_pruned_is_refused_for_that_reason(tmp_path: Path) -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with Host("test", home=tmp_path, discover=False, plugins={"p": plugin}) as host:
            session = host.session("s")
            await plugin.ally.add_message("user", "hello", key="k")
            await session.safe_point()
            await host.journal.prune(host.clock.time_ms() + 1_000)
            with pytest.raises(KeyConflictRefused, match="pruned and cannot be compared"):
                await plugin.ally.add_message("user", "hello", key="k")

    go(main())


def test_fifty_calls_at_once_with_one_key_give_one_message_and_cost_one() -> None:
    asked: list[str] = []

    async def ally_gate_message(self: Any, message: Any) -> None:
        asked.append(message.id)
        await asyncio.sleep(0)

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin, "g": make_plugin(ally_gate_message=ally_gate_message)}) as host:
            session = host.session("s")
            receipts = await asyncio.gather(*(plugin.ally.add_message("user", "hello", key="k") for _ in range(50)))
            assert len({receipt.id for receipt in receipts}) == 1
            assert asked == [receipts[0].id]
            assert len(await session.safe_point()) == 1
            assert host.plugins["p"].counts.messages == 1
            # The others cost nothing: 29 of the thirty a minute are left.
            for i in range(29):
                await plugin.ally.add_message("user", f"more {i}")
            with pytest.raises(BudgetRefused):
                await plugin.ally.add_message("user", "one too many")

    go(main())


def test_two_contents_under_one_key_at_once_give_one_message_and_one_conflict() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            answers = await asyncio.gather(
                *(plugin.ally.add_message("user", f"hello {i % 2}", key="k") for i in range(10)), return_exceptions=True
            )
            assert sum(isinstance(answer, KeyConflictRefused) for answer in answers) == 5
            assert len({answer.id for answer in answers if not isinstance(answer, BaseException)}) == 1

    go(main())


def test_a_key_whose_message_was_refused_may_be_used_again_by_those_who_waited() -> None:
    asked: list[str] = []

    async def ally_gate_message(self: Any, message: Any) -> Any:
        asked.append(message.id)
        return Deny("not the first") if len(asked) == 1 else None

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin, "g": make_plugin(ally_gate_message=ally_gate_message)}) as host:
            host.session("s")
            answers = await asyncio.gather(
                *(plugin.ally.add_message("user", "hello", key="k") for _ in range(5)), return_exceptions=True
            )
            assert isinstance(answers[0], GateRefused)
            assert len({answer.id for answer in answers[1:] if not isinstance(answer, BaseException)}) == 1
            assert len(asked) == 2

    go(main())


def test_a_caller_who_gives_up_leaves_the_key_to_the_others() -> None:
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def ally_gate_message(self: Any, message: Any) -> None:
        is_asked.set()
        await may_answer.wait()

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin, "g": make_plugin(ally_gate_message=ally_gate_message)}) as host:
            session = host.session("s")
            first = asyncio.create_task(plugin.ally.add_message("user", "hello", key="k"))
            await is_asked.wait()
            second = asyncio.create_task(plugin.ally.add_message("user", "hello", key="k"))
            await asyncio.sleep(0)
            first.cancel()
            may_answer.set()
            receipt = await second
            assert [message.id for message in await session.safe_point()] == [receipt.id]
            assert first.cancelled()
            assert host.plugins["p"].budget.in_flight == 0

    go(main())


def test_a_key_is_known_after_a_restart_of_the_host(tmp_path: Path) -> None:
    plugin = make_plugin()

    async def once(content: str) -> Any:
        async with Host("test", home=tmp_path, discover=False, plugins={"p": plugin}) as host:
            host.session("s")
            return await plugin.ally.add_message("user", content, key="k")

    first = go(once("hello"))
    second = go(once("hello"))
    assert (second.id, second.offset) == (first.id, first.offset)
    with pytest.raises(KeyConflictRefused):
        go(once("other"))


def test_a_key_is_looked_up_before_the_budget_and_after_permission() -> None:
    async def main() -> None:
        plugin = make_plugin()
        given = setup(plugin, ["add_message:user"], limits=Limits(messages_per_minute=1))
        async with new_host(plugins={"p": given}) as host:
            host.session("s")
            first = await plugin.ally.add_message("user", "hello", key="k")
            with pytest.raises(BudgetRefused):
                await plugin.ally.add_message("user", "more")
            assert await plugin.ally.add_message("user", "hello", key="k") == first
            with pytest.raises(KeyConflictRefused):
                await plugin.ally.add_message("user", "other", key="k")
            with pytest.raises(PermissionRefused):
                await plugin.ally.add_message("system", "hello", key="k")

    go(main())


def test_each_step_comes_before_the_next() -> None:
    """One call that is wrong in every way is refused for one thing after the other, as each is put right."""
    asked: list[str] = []

    async def ally_gate_message(self: Any, message: Any) -> Any:
        asked.append(message.content)
        return Deny("no")

    async def main() -> None:
        plugin = make_plugin()
        p = setup(plugin, [], limits=Limits(messages_per_minute=0))
        plugins = {"p": p, "g": make_plugin(ally_gate_message=ally_gate_message)}
        async with new_host(plugins=plugins) as host:
            session = host.session("s")
            state = host.plugins["p"]

            async def refusal(content: str = "nul\0") -> type[RefusedError]:
                with pytest.raises(RefusedError) as refused:
                    await plugin.ally.add_message("user", content)
                return type(refused.value)

            state.state = RunState.LOADED
            assert await refusal() is UnavailableRefused  # identity: who is not running is nobody
            state.state = RunState.RUNNING
            assert await refusal() is PermissionRefused
            state.options = host.plugins["g"].options  # all is granted there
            assert await refusal() is BudgetRefused
            state.budget.change_limits(host.plugins["g"].options.limits)
            assert await refusal() is ValidationRefused
            assert asked == []
            assert await refusal("fine") is GateRefused
            assert asked == ["fine"]
            assert host.journal.pending("s") == []
            assert await session.safe_point() == ()

    go(main())


def test_the_budget_is_a_minute_of_the_clock_that_the_host_was_given() -> None:
    clock = RecordedClock(1_000_000)

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, clock=clock) as host:
            session = host.session("s")
            for i in range(30):
                await plugin.ally.add_message("user", f"{i}")
            with pytest.raises(BudgetRefused) as refused:
                await plugin.ally.add_message("user", "too many")
            assert refused.value.retry_after == pytest.approx(2)
            clock.move_to(1_000_000 + 1_900)
            with pytest.raises(BudgetRefused):
                await plugin.ally.add_message("user", "too early")
            clock.move_to(1_000_000 + 2_000)
            await plugin.ally.add_message("user", "in time")
            with pytest.raises(BudgetRefused):
                await plugin.ally.add_message("user", "only one")
            clock.move_to(1_000_000 + 3_600_000)
            for i in range(30):
                await plugin.ally.add_message("user", f"{i}")
            with pytest.raises(BudgetRefused):
                await plugin.ally.add_message("user", "an hour saves up no more than a minute's")
            messages = await session.safe_point()
            assert len(messages) == 61
            assert messages[-1].timestamp == 1_000_000 + 3_600_000

    go(main())


def test_calls_in_flight_are_limited_and_come_free_however_they_end() -> None:
    may_answer = asyncio.Event()

    async def ally_gate_message(self: Any, message: Any) -> Any:
        await may_answer.wait()
        return Deny("no") if message.content == "1" else None

    async def main() -> None:
        plugin = make_plugin()
        plugins = {
            "p": setup(plugin, limits=Limits(calls_in_flight=3)),
            "g": make_plugin(ally_gate_message=ally_gate_message),
        }
        async with new_host(plugins=plugins) as host:
            session = host.session("s")
            calls = [asyncio.create_task(plugin.ally.add_message("user", str(i))) for i in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(BudgetRefused) as refused:
                await plugin.ally.add_message("user", "a fourth")
            assert refused.value.budget == "calls_in_flight"
            calls[2].cancel()
            may_answer.set()
            await asyncio.wait(calls)
            assert host.plugins["p"].budget.in_flight == 0
            assert [message.content for message in await session.safe_point()] == ["0"]

    go(main())


def test_a_flood_of_refusals_is_counted_one_by_one_and_written_folded(tmp_path: Path) -> None:
    clock = RecordedClock(5_000)

    async def main() -> None:
        plugin = make_plugin()
        options: dict[str, Any] = {"plugins": {"p": plugin}, "grants": {"p": ["emit_event"]}, "clock": clock}
        async with Host("test", home=tmp_path, discover=False, **options) as host:
            host.session("s")
            for i in range(1_000):
                with pytest.raises(PermissionRefused):
                    await plugin.ally.add_message("user", f"{i}", session_id=f"made up {i}")
                with pytest.raises(PermissionRefused):
                    await plugin.ally.request_action(f"made-up-{i}")
            with pytest.raises(ValidationRefused):
                await plugin.ally.emit_event("a b")
            clock.move_to(6_500)
            with pytest.raises(PermissionRefused):
                await plugin.ally.add_message("user", "the next second")
            assert host.plugins["p"].counts.refused == {"permission": 2_001, "validation": 1}
            await host.journal.flush()
            records = [record for record in host.journal.reader.records() if record.kind == "refusal"]
            found = {(r.data["call"], r.data["reason"], r.at, r.data["count"]) for r in records if r.data}
            assert found == {
                ("add_message", "permission", 5_000, 1_000),
                ("request_action", "permission", 5_000, 1_000),
                ("emit_event", "validation", 5_000, 1),
                ("add_message", "permission", 6_500, 1),
            }
            assert records[0].data is not None
            assert "ally-plugins grant p add_message:user" in records[0].data["text"]

    go(main())


@pytest.mark.parametrize("content", [10**5000, b"x", object(), None], ids=lambda value: type(value).__name__)
def test_what_is_no_text_is_refused_with_a_key_as_without(content: Any) -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            for key in (None, "k"):
                with pytest.raises(ValidationRefused, match=r"content is (of the type|None)"):
                    await plugin.ally.add_message("user", content, key=key)
            assert host.plugins["p"].counts.crashes == 0

    go(main())
