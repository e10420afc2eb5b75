"""Tasks in every placement: from the start to each kind of end."""

from __future__ import annotations

from typing import Any

import pytest

from ally_plugins.policy.budget import Limits

Fixture = Any

ENDS = {
    "done": ("done", None),
    "error": ("failed", "ValueError: a broken thing"),
    "exit": ("failed", "SystemExit: 3"),
    "refused": ("failed", "PermissionRefused: 'p' is not granted 'add_message:system'"),
    "cancels itself": ("cancelled", "it was cancelled"),
}


async def ended(host: Any, until: Any) -> Any:
    """Wait for the last task's end, and return it."""
    (*_, task) = host.tasks
    await until(lambda: task.state != "running")
    return task


def test_a_task_tells_how_far_it_is_and_how_it_ended(
    placed: Fixture, go: Fixture, until: Fixture, told: Fixture, records: Fixture
) -> None:
    async def main() -> None:
        grants = ["tools", "tasks", "add_message:user", "events:*"]
        async with placed.host({"p": placed("tasks:Works", grants)}) as host:
            events = told(host)
            host.session("s")
            for number, (how, (state, reason)) in enumerate(ENDS.items(), 1):
                started = await host.call_tool("start", {"how": how}, plugin="p", session_id="s")
                task = await ended(host, until)
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
                    assert placed.raised(reason) in own[2].message
                    assert result["raised"] == {"error": "ValueError", "exit": "RuntimeError"}[how]
                done = await records(host, "task_end", ref=task.id)
                assert [r.data["state"] for r in done] == [state]
                assert [r.data["name"] for r in await records(host, "task", ref=task.id)] == ["indexing"]
                assert number
            assert host.plugins["p"].counts.crashes == 2

    go(main())


@pytest.mark.parametrize("how", ["cancel", "cancel_from_thread"])
def test_a_plugin_may_cancel_its_task(how: str, placed: Fixture, go: Fixture, until: Fixture) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("tasks:Works")}) as host:
            session = host.session()
            await host.call_tool("start", {"how": "wait"}, plugin="p")
            await host.call_tool("heard", {"what": "waits"}, plugin="p")
            assert (await host.call_tool(how, plugin="p")).data is True
            task = await ended(host, until)
            assert task.state == "cancelled"
            assert (await host.call_tool("result", plugin="p")).data["state"] == "cancelled"
            assert (await host.call_tool(how, plugin="p")).data is False
            assert host.plugins["p"].counts.crashes == 0
            assert [message.content for message in await session.safe_point()] == ["cleaned up"]

    go(main())


def test_a_task_ends_with_its_host(placed: Fixture, go: Fixture, told: Fixture) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("tasks:Works")}) as host:
            events = told(host)
            host.session()
            await host.call_tool("start", {"how": "wait"}, plugin="p")
            await host.call_tool("heard", {"what": "waits"}, plugin="p")
        states = [e.state for e in events if e.type == "TASK_PROGRESS"]
        assert states == ["running", "running", "cancelled"]

    go(main())


def test_what_a_task_may_not_be_is_refused(placed: Fixture, go: Fixture) -> None:
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
