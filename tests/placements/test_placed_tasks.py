"""Tasks in every placement: from the start to each kind of end."""

from __future__ import annotations

from typing import Any

import pytest

from ally_plugins import ToolCallError
from ally_plugins.policy.budget import Limits
from tests.kit.placements import Placed, collect_events, records_of
from tests.kit.waiting import go, until

ENDS = {
    "done": ("done", None),
    "error": ("failed", "ValueError: a broken thing"),
    "exit": ("failed", "SystemExit: 3"),
    "refused": ("failed", "PermissionRefused: 'p' is not granted 'add_message:system'"),
    "cancels itself": ("cancelled", "it was cancelled"),
}


async def ended(host: Any) -> Any:
    """Wait for the last task's end, and return it."""
    (*_, task) = host.tasks
    await until(lambda: task.state != "running")
    return task


def test_a_task_tells_how_far_it_is_and_how_it_ended(placed: Placed) -> None:
    async def main() -> None:
        grants = ["tools", "tasks", "add_message:user", "events:*"]
        async with placed.host({"p": placed("tasks:Works", grants)}) as host:
            events = collect_events(host)
            host.session("s")
            for number, (how, (state, reason)) in enumerate(ENDS.items(), 1):
                started = await host.call_tool("start", {"how": how}, plugin="p", session_id="s")
                task = await ended(host)
                assert (how, task.state) == (how, state)
                assert task.id == started.output
                own = [e for e in events if e.type == "TASK_PROGRESS" and e.task_id == task.id]
                assert [e.state for e in own] == ["running", "running", state]
                assert {(e.plugin_name, e.name, e.session_id, e.origin) for e in own} == {
                    ("p", "indexing", "s", ("p",))
                }
                assert (own[1].progress, own[1].message) == (0.5, "half of s")
                result = (await host.call_tool("result", plugin="p")).data
                assert result["state"] == state
                if how == "done":
                    assert result["returned"] == {"list": (1, 2), "session": "s"}
                    assert own[2].message is None
                elif how == "refused":
                    assert reason in own[2].message
                    assert result["raised"] == "PermissionRefused"
                elif how == "cancels itself":
                    assert result["raised"] == "CancelledError"
                else:
                    assert placed.raised(str(reason)) in own[2].message
                    assert result["raised"] == {"error": "ValueError", "exit": "RuntimeError"}[how]
                done = await records_of(host, "task_end", ref=task.id)
                assert [r.data["state"] for r in done] == [state]
                assert [r.data["name"] for r in await records_of(host, "task", ref=task.id)] == ["indexing"]
                assert number
            assert host.plugins["p"].counts.crashes == 2

    go(main())


@pytest.mark.parametrize("how", ["cancel", "cancel_from_thread"])
def test_a_plugin_may_cancel_its_task(how: str, placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("tasks:Works")}) as host:
            session = host.session()
            await host.call_tool("start", {"how": "wait"}, plugin="p")
            await host.call_tool("heard", {"what": "waits"}, plugin="p")
            assert (await host.call_tool(how, plugin="p")).data is True
            task = await ended(host)
            assert task.state == "cancelled"
            assert (await host.call_tool("result", plugin="p")).data["state"] == "cancelled"
            assert (await host.call_tool(how, plugin="p")).data is False
            assert host.plugins["p"].counts.crashes == 0
            assert [message.content for message in await session.safe_point()] == ["cleaned up"]

    go(main())


def test_the_operator_ends_a_task_which_cleans_up_and_says_who_ended_it(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("tasks:Works")}) as host:
            events = collect_events(host)
            session = host.session()
            await host.call_tool("start", {"how": "wait"}, plugin="p")
            await host.call_tool("heard", {"what": "waits"}, plugin="p")
            (task,) = host.tasks
            assert (task.is_running, task.progress, task.message) == (True, 0.5, f"half of {session.id}")
            assert host.tasks.cancel(task.id) is task
            assert await task.wait(20)
            assert (task.state, task.reason) == ("cancelled", "cancelled by the operator")
            assert task.ended is not None
            assert task.started <= task.ended
            [end] = [e for e in events if e.type == "TASK_PROGRESS" and e.state == "cancelled"]
            assert end.message == "cancelled by the operator"
            [record] = await records_of(host, "task_end")
            assert record.data["reason"] == "cancelled by the operator"
            assert (await host.call_tool("result", plugin="p")).data["state"] == "cancelled"
            await until(lambda: session.inbox)
            assert [message.content for message in await session.safe_point()] == ["cleaned up"]
            host.tasks.cancel(task.id, "once more")
            assert task.reason == "cancelled by the operator"
            assert host.plugins["p"].counts.crashes == 0

    go(main())


def test_a_task_goes_on_across_turns_and_reports_its_result_as_a_message(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("tasks:Works")}) as host:
            session, other = host.session("s"), host.session("other")
            await host.call_tool("start", {"how": "report"}, plugin="p", session_id="s")
            assert (await ended(host)).state == "done"
            assert await session.safe_point("step") == ()
            [message] = await session.safe_point("turn_end")
            assert message.content == "indexed 3 files"
            assert message.metadata["sourcePlugin"] == "p"
            assert await other.safe_point("turn_end") == ()

    go(main())


def test_a_plugin_that_crashes_too_often_takes_its_tasks_along_with_a_reason(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("tasks:Works")}) as host:
            events = collect_events(host)
            host.session("s")
            await host.call_tool("start", {"how": "wait"}, plugin="p", session_id="s")
            await host.call_tool("heard", {"what": "waits"}, plugin="p")
            for _ in range(5):
                with pytest.raises(ToolCallError):
                    await host.call_tool("crash", plugin="p")
            await until(lambda: host.plugins["p"].state == "quarantined")
            task = await ended(host)
            assert (task.state, task.reason) == ("cancelled", "its plugin is quarantined")
            (end,) = [e for e in events if e.type == "TASK_PROGRESS" and e.task_id == task.id and e.state != "running"]
            assert end.message == "its plugin is quarantined"

    go(main())


def test_a_process_that_dies_ends_its_tasks_with_a_reason_and_comes_back_without_them(placed: Placed) -> None:
    if placed.placement.shares_the_hosts_loop:
        pytest.skip("an inline plugin dies with its host")

    async def main() -> None:
        async with placed.host({"p": placed("tasks:Works")}) as host:
            events = collect_events(host)
            host.session("s")
            await host.call_tool("start", {"how": "wait"}, plugin="p", session_id="s")
            await host.call_tool("heard", {"what": "waits"}, plugin="p")
            supervisor = host.plugins["p"].supervisor
            assert supervisor is not None
            started = supervisor.started
            placed.kill_process(host, "p")
            task = await ended(host)
            assert task.state == "failed"
            assert "process of 'p'" in task.reason
            assert [e.message for e in events if e.type == "TASK_PROGRESS"][-1] == task.reason
            # Its state is told when all of the old process is gone, a moment after its tasks have ended.
            await until(lambda: supervisor.started > started and host.plugins["p"].is_running)
            assert host.tasks.running("p") == 0
            await host.call_tool("start", {"how": "done"}, plugin="p", session_id="s")
            assert (await ended(host)).state == "done"

    go(main())


def test_a_task_ends_with_its_host(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("tasks:Works")}) as host:
            events = collect_events(host)
            host.session()
            await host.call_tool("start", {"how": "wait"}, plugin="p")
            await host.call_tool("heard", {"what": "waits"}, plugin="p")
        states = [e.state for e in events if e.type == "TASK_PROGRESS"]
        assert states == ["running", "running", "cancelled"]

    go(main())


def test_what_a_task_may_not_be_is_refused(placed: Placed) -> None:
    async def main() -> None:
        limits = Limits(running_tasks=1)
        async with placed.host({"p": placed("tasks:Works", limits=limits)}) as host:
            host.session()
            wrong = (await host.call_tool("start_wrong", plugin="p")).data
            assert [(each["raised"], each.get("field")) for each in wrong] == [
                ("ValidationRefused", "name"), ("ValidationRefused", "work"), ("NotFoundRefused", None),
            ]  # fmt: skip
            assert wrong[1]["text"] == "work is function; expected a coroutine"
            assert wrong[2]["text"] == "task_progress was called outside a task; call it from the task's coroutine"
            await host.call_tool("start", {"how": "wait"}, plugin="p")
            second = await host.call_tool("start", {"how": "wait"}, plugin="p")
            assert (second.data["raised"], second.data["budget"]) == ("BudgetRefused", "running_tasks")
            progress = (await host.call_tool("wrong_progress", plugin="p")).data
            assert [each["field"] for each in progress] == ["progress", "progress", "message"]

    go(main())
