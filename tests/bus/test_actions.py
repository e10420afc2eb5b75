"""Tools and actions: offered by decorator or at run time, checked, limited, run for person, agent and plugins."""

# ruff: noqa: ARG001, FBT001, FBT002, PT017 - hooks and handlers name what they are given; a call that may go either way

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from ally_plugins import (
    Ally,
    ArgumentsError,
    BudgetRefused,
    NotFoundRefused,
    PermissionRefused,
    ToolCallError,
    UnavailableRefused,
    ValidationRefused,
    action,
    hookimpl,
    tool,
)
from ally_plugins.policy.budget import Limits
from ally_plugins.runtime.lanes.plugin import RunState
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go


class Offers:
    """A plugin with a tool and an action, each as `def` and `async def`."""

    ran: list[Any]

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self.ran = []
        type(self).last = self

    last: Any = None

    @tool
    def count(self, text: str, times: int = 1) -> int:
        """Count characters."""
        self.ran.append(threading.current_thread().name)
        return len(text) * times

    @action
    async def stats(self, detail: bool = False) -> dict[str, Any]:
        """Say how it goes."""
        self.ran.append(detail)
        return {"message": "fine", "detail": detail, "session": self.ally.session}


def test_decorators_and_calls_at_run_time_take_the_same_way() -> None:
    async def count(text: str, times: int = 1) -> int:
        """Count characters."""
        return len(text) * times

    async def main() -> None:
        at_run_time = make_plugin()
        plugins = {"decorated": Offers, "late": at_run_time}
        async with new_host(plugins=plugins) as host:
            host.session("s")
            receipt = await at_run_time.ally.register_tool(count)
            await at_run_time.ally.register_action(count, name="do", description="Do it.")
            assert receipt.id == "late:count"
            one, other = host.tools.find("decorated:count"), host.tools.find("late:count")
            assert (one.spec.schema, one.spec.description) == (other.spec.schema, other.spec.description)
            for name in ("decorated:count", "late:count"):
                result = await host.call_tool(name, {"text": "abc", "times": 2})
                assert (result.success, result.data) == (True, 6)
                with pytest.raises(ArgumentsError, match="times"):
                    await host.call_tool(name, {"text": "abc", "times": "twice"})
            await host.journal.flush()
            kept = [record.ref for record in host.journal.reader.records() if record.kind == "registration"]
            assert kept == ["decorated:count", "decorated:stats", "late:count", "late:do"]

    go(main())


def test_a_decorator_without_its_grant_is_left_out_and_counted() -> None:
    async def main() -> None:
        async with new_host(plugins={"p": Offers}, grants={"p": ["actions"]}) as host:
            assert not list(host.tools)
            assert [each.full_name for each in host.actions] == ["p:stats"]
            assert host.plugins["p"].is_running
            assert host.plugins["p"].counts.refused == {"permission": 1}

    go(main())


BAD_ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"text": 5},
    {"text": "a", "times": True},
    {"text": "a", "times": 1.5},
    {"text": "a", "other": 1},
    {"text": None},
]


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS)
def test_arguments_that_do_not_fit_are_refused_before_anything_runs(arguments: dict[str, Any]) -> None:
    async def main() -> None:
        async with new_host(plugins={"p": Offers}) as host:
            with pytest.raises(ArgumentsError):
                await host.call_tool("count", arguments)
            assert Offers.last.ran == []
            assert host.plugins["p"].counts.crashes == 0

    go(main())


def test_a_handler_that_is_a_def_runs_in_a_thread_and_does_not_hold_up_the_loop() -> None:
    released = threading.Event()

    def wait() -> str:
        """Wait."""
        assert released.wait(5)
        return threading.current_thread().name

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            await plugin.ally.register_tool(wait)
            calls = [asyncio.create_task(host.call_tool("wait")) for _ in range(3)]
            await asyncio.sleep(0)  # the loop is free
            released.set()
            results = await asyncio.gather(*calls)
            assert all(result.output == "ally-p:wait" for result in results)

    go(main())


@pytest.mark.parametrize("is_async", [True, False])
def test_a_handler_that_is_too_slow_is_an_error_and_a_crash(is_async: bool) -> None:
    ended: list[str] = []
    released = threading.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    def slow_def() -> None:
        released.wait()
        ended.append("returned")

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            await plugin.ally.register_tool(slow if is_async else slow_def, name="slow", timeout=0.02)
            with pytest.raises(ToolCallError, match=r"did not return within 0.02 s"):
                await host.call_tool("slow")
            await asyncio.sleep(0)
            assert ended == (["cancelled"] if is_async else [])
            assert host.plugins["p"].counts.crashes == 1
            released.set()

    go(main())


def test_what_handlers_raise_is_an_error_for_the_caller_and_five_of_them_end_in_quarantine() -> None:
    kinds: list[BaseException] = [
        ZeroDivisionError("x"),
        SystemExit(3),
        StopIteration(),
        RuntimeError("y"),
        ValueError(),
    ]

    async def main() -> None:
        plugin = make_plugin()

        async def fail() -> None:
            raise kinds.pop()

        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            await plugin.ally.register_tool(fail)
            for crashes in range(1, 6):
                with pytest.raises(ToolCallError, match="'fail' of 'p' failed"):
                    await host.call_tool("fail")
                assert host.plugins["p"].counts.crashes == crashes
            assert host.plugins["p"].state == "quarantined"
            with pytest.raises(NotFoundRefused):
                await host.call_tool("fail")
            assert not list(host.tools)

    go(main())


def test_a_refusal_that_a_handler_does_not_catch_is_no_crash() -> None:
    async def main() -> None:
        plugin = make_plugin()

        async def speak() -> None:
            await plugin.ally.add_message("user", "not granted", session_id="s")

        async with new_host(plugins={"p": plugin}, grants={"p": ["tools"]}) as host:
            host.session("s")
            await plugin.ally.register_tool(speak)
            with pytest.raises(ToolCallError, match="PermissionRefused"):
                await host.call_tool("speak")
            assert host.plugins["p"].counts.crashes == 0

    go(main())


def test_a_name_that_several_plugins_have_must_be_said_in_full() -> None:
    async def main() -> None:
        async with new_host(plugins={"a": Offers, "b": Offers}) as host:
            with pytest.raises(NotFoundRefused, match="name one of a:count, b:count"):
                await host.call_tool("count", {"text": "x"})
            assert (await host.call_tool("b:count", {"text": "xy"})).data == 2
            assert (await host.call_tool("count", {"text": "xy"}, plugin="a")).data == 2
            with pytest.raises(NotFoundRefused, match="there are: a:count, b:count"):
                await host.call_tool("c:count", {"text": "xy"})

    go(main())


def test_what_is_registered_twice_is_refused_and_what_is_taken_back_is_gone() -> None:
    async def ping() -> str:
        return "pong"

    async def main() -> None:
        a, b = make_plugin(), make_plugin()
        async with new_host(plugins={"a": a, "b": b}) as host:
            await a.ally.register_tool(ping)
            with pytest.raises(ValidationRefused, match="has a tool 'ping' already"):
                await a.ally.register_tool(ping)
            with pytest.raises(NotFoundRefused):
                await b.ally.unregister("ping")  # another's
            for wrong in ("", 5, None, ["ping"]):
                with pytest.raises(ValidationRefused):
                    await a.ally.unregister(wrong)
            await a.ally.unregister("ping")
            with pytest.raises(NotFoundRefused):
                await host.call_tool("ping")
            await a.ally.register_tool(ping)
            assert (await host.call_tool("ping")).output == "pong"

    go(main())


WRONG: list[tuple[Any, dict[str, Any]]] = [
    (5, {}),
    (None, {"name": "x"}),
    (lambda text: text, {"name": "a b"}),
    (lambda text: text, {"name": "x" * 65}),
    (lambda text: text, {"schema": {"type": "no such type"}}),
    (lambda text: text, {"schema": ["not an object"]}),
    (lambda text: text, {"name": "x", "no_such_option": 1}),
    (lambda text: text, {"name": "x", "timeout": -1}),
]


@pytest.mark.parametrize(("handler", "described"), WRONG)
def test_a_registration_that_makes_no_sense_is_refused_and_leaves_nothing(
    handler: Any, described: dict[str, Any]
) -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            with pytest.raises(ValidationRefused):
                await plugin.ally.register_tool(handler, **described)
            assert not list(host.tools)

    go(main())


def test_tools_are_limited_in_number() -> None:
    async def ping() -> str:
        return "pong"

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": setup(plugin, limits=Limits(tools=2))}):
            await plugin.ally.register_tool(ping, name="one")
            await plugin.ally.register_action(ping, name="two")
            with pytest.raises(BudgetRefused, match="has 2 tools"):
                await plugin.ally.register_tool(ping, name="three")

    go(main())


def test_a_plugin_that_stops_takes_its_tools_along() -> None:
    async def main() -> None:
        async with new_host(plugins={"p": Offers, "q": Offers}) as host:
            found = host.tools.find("p:count")
            host.plugins["p"].set_state(RunState.QUARANTINED, "enough")
            assert [each.full_name for each in (*host.tools, *host.actions)] == ["q:count", "q:stats"]
            with pytest.raises(ToolCallError, match="'p' is quarantined"):
                await found.run({"text": "x"}, None)  # type: ignore[arg-type]  # it does not get that far

    go(main())


# --- actions


class Compacts:
    """A host's own actions."""

    @hookimpl
    async def ally_request_action(self, session: Any, request: Any) -> Any:
        if request.action == "compact":
            return {"by": request.requested_by, "session": session.id, **request.arguments}
        if request.action == "fail":
            raise ZeroDivisionError("in the host")
        if request.action == "hang":
            await asyncio.Event().wait()
        return None


def test_an_action_runs_for_the_person_and_is_announced_and_written_down() -> None:
    told: list[Any] = []

    async def main() -> None:
        async with new_host(plugins={"p": Offers}, implementation=Compacts()) as host:
            session = host.session("s")
            host.session("other")
            host.stream.subscribe("PLUGIN_ACTION_REQUESTED", told.append)
            answer = await session.request_action("stats", {"detail": True})
            assert answer == {"message": "fine", "detail": True, "session": "s"}
            assert await session.request_action("compact", {"to": 5}, by="agent") == {
                "by": "agent",
                "session": "s",
                "to": 5,
            }
            with pytest.raises(NotFoundRefused, match="actions of plugins: p:stats"):
                await session.request_action("nothing")
            with pytest.raises(ArgumentsError):
                await session.request_action("p:stats", {"detail": "yes"})
            await host.journal.flush()
            kept = [r.data for r in host.journal.reader.records() if r.kind == "action" and r.data]
            assert [(data["action"], data["requested_by"]) for data in kept][:2] == [
                ("stats", "person"), ("compact", "agent"),
            ]  # fmt: skip

    go(main())
    assert [(e.plugin_name, e.action, dict(e.arguments), e.requested_by) for e in told[:2]] == [
        ("p", "stats", {"detail": True}, "person"),
        ("host", "compact", {"to": 5}, "agent"),
    ]


def test_a_plugin_asks_for_actions_by_name_and_each_name_is_a_grant() -> None:
    heard: list[Any] = []

    async def ally_plugin_action_requested(self: Any, event: Any) -> None:
        heard.append((event.requested_by, event.origin))

    async def main() -> None:
        plugin = make_plugin(ally_plugin_action_requested=ally_plugin_action_requested)
        listener = make_plugin(ally_plugin_action_requested=ally_plugin_action_requested)
        grants = {"a": ["request_action:p:stats", "events:*"], "b": ["events:*"], "p": ["actions"]}
        plugins = {"a": plugin, "b": listener, "p": Offers}
        async with new_host(plugins=plugins, grants=grants, implementation=Compacts()) as host:
            session = host.session("s")
            assert (await plugin.ally.request_action("p:stats"))["message"] == "fine"
            with pytest.raises(PermissionRefused, match="request_action:compact"):
                await plugin.ally.request_action("compact")
            with pytest.raises(PermissionRefused, match="request_action:p:stats"):
                await listener.ally.request_action("p:stats")
            await session.drained()
            assert heard == [("a", ("a",))]  # b hears of it, a caused it

    go(main())


def test_no_plugin_s_action_is_taken_for_the_host_s_own() -> None:
    async def compact() -> str:
        """Pretend to be the host's."""
        return "hijacked"

    async def main() -> None:
        thief, asker = make_plugin(), make_plugin()
        plugins = {"thief": thief, "asker": asker}
        async with new_host(plugins=plugins, implementation=Compacts(), actions=["compact"]) as host:
            session = host.session("s")
            await thief.ally.register_action(compact)
            assert (await asker.ally.request_action("compact"))["by"] == "asker"
            assert (await session.request_action("compact"))["by"] == "person"
            assert await session.request_action("thief:compact") == "hijacked"
            assert asker.ally.supports("compact")

    go(main())


def test_a_host_s_action_that_fails_or_hangs_is_an_error_and_no_crash_of_the_plugin() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, implementation=Compacts()) as host:
            host.session("s")
            with pytest.raises(ToolCallError, match="ZeroDivisionError"):
                await plugin.ally.request_action("fail")
            with pytest.raises(ToolCallError, match=r"'hang' did not end within 0.01 s"):
                await plugin.ally.request_action("hang", timeout=0.01)
            with pytest.raises(NotFoundRefused):
                await plugin.ally.request_action("nothing")
            assert host.plugins["p"].counts.crashes == 0
            assert host.plugins["p"].budget.in_flight == 0

    go(main())


def test_an_action_of_a_session_that_is_closed_meanwhile_is_refused_in_words() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, implementation=Compacts()) as host:
            session = host.session("s")
            call = asyncio.create_task(plugin.ally.request_action("compact"))
            await asyncio.sleep(0)
            await session.close()
            try:
                await call
            except UnavailableRefused as refusal:
                assert "closed" in str(refusal)
            assert host.plugins["p"].counts.crashes == 0

    go(main())


def test_how_an_action_ended_is_written_down() -> None:
    class Worker:
        def __init__(self, ally: Ally) -> None:
            self.ally = ally

        @action
        async def good(self) -> int:
            """Return a number."""
            return 7

        @action
        async def bad(self) -> None:
            """Fail."""
            raise RuntimeError("no such thing")

    async def main() -> list[Any]:
        async with new_host(plugins={"worker": Worker}) as host:
            session = host.session("s")
            assert await session.request_action("good") == 7
            with pytest.raises(ToolCallError, match="no such thing"):
                await session.request_action("bad")
            await host.journal.flush()
            asked = {record.ref for record in host.journal.reader.records(kind="action")}
            ended = list(host.journal.reader.records(kind="action_end"))
            assert {record.ref for record in ended} == asked
            return [record.data for record in ended]

    good, bad = go(main())
    assert good == {"name": "good", "state": "done", "reason": ""}
    assert (bad["state"], "no such thing" in bad["reason"]) == ("failed", True)
