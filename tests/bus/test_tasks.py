"""Tasks of plugins: start, progress, result, cancellation, failure, limits, and the end of their plugin."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from ally_plugins import BudgetRefused, NotFoundRefused, PermissionRefused, UnavailableRefused, ValidationRefused
from ally_plugins.contract.values.errors import JournalError
from ally_plugins.policy.budget import Limits
from ally_plugins.runtime.lanes.plugin import RunState
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go


async def for_ever() -> None:
    await asyncio.Event().wait()


def states(told: list[Any]) -> list[tuple[str, float | None, str | None]]:
    return [(event.state, event.progress, event.message) for event in told]


def test_a_task_starts_tells_of_its_progress_survives_turns_and_has_a_result() -> None:
    told: list[Any] = []
    may_end = asyncio.Event()

    async def main() -> None:
        plugin = make_plugin()

        async def job() -> str:
            await plugin.ally.task_progress(0.25, "a quarter")
            await may_end.wait()
            await asyncio.create_task(plugin.ally.task_progress(1, None))
            assert plugin.ally.session == "s"
            return "the result"

        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            host.stream.subscribe("TASK_PROGRESS", told.append)
            task = await plugin.ally.start_task("job", job())
            assert (task.name, task.state) == ("job", "running")
            for kind in ("turn_end", "turn_start"):
                await session.safe_point(kind)
            may_end.set()
            assert await task.result() == "the result"
            assert await task.result() == "the result"
            assert (task.state, task.cancel()) == ("done", False)
            await host.journal.flush()
            kinds = [(r.kind, r.ref) for r in host.journal.reader.records() if r.kind.startswith("task")]
            assert kinds == [("task", task.id), ("task_end", task.id)]

    go(main())
    assert states(told) == [
        ("running", None, None), ("running", 0.25, "a quarter"), ("running", 1, None), ("done", 1, None),
    ]  # fmt: skip
    assert {(event.plugin_name, event.name, event.origin) for event in told} == {("p", "job", ("p",))}


def test_a_task_that_is_cancelled_ends_as_cancelled() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            task = await plugin.ally.start_task("job", for_ever())
            await asyncio.sleep(0)
            assert task.cancel() is True
            with pytest.raises(asyncio.CancelledError):
                await task.result()
            assert (task.state, task.reason) == ("cancelled", "cancelled by its plugin")

    go(main())


@pytest.mark.slow
def test_a_task_that_is_cancelled_before_its_first_step_ends_as_well() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            task = await plugin.ally.start_task("job", for_ever())
            task.cancel()
            async with asyncio.timeout(2):
                with pytest.raises(asyncio.CancelledError):
                    await task.result()
            assert task.state == "cancelled"
            assert host.tasks.running("p") == 0

    go(main())
    gc.collect()  # "never awaited" would be an error here


def test_a_task_may_be_cancelled_from_a_thread() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            task = await asyncio.to_thread(plugin.ally.blocking.start_task, "job", for_ever())
            assert await asyncio.to_thread(task.cancel) is True
            async with asyncio.timeout(2):
                with pytest.raises(asyncio.CancelledError):
                    await task.result()

    go(main())


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), SystemExit(2), StopAsyncIteration(), GeneratorExit()])
def test_a_task_that_fails_tells_so_and_counts_as_a_crash(error: BaseException) -> None:
    told: list[Any] = []

    async def fail() -> None:
        raise error

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            host.stream.subscribe("TASK_PROGRESS", told.append)
            task = await plugin.ally.start_task("job", fail())
            with pytest.raises(Exception, match=r".*"):
                await task.result()
            assert task.state == "failed"
            assert type(error).__name__ in task.reason
            assert host.plugins["p"].counts.crashes == 1

    go(main())
    assert told[-1].state == "failed"
    assert type(error).__name__ in told[-1].message


def test_a_refusal_that_a_task_does_not_catch_ends_it_and_is_no_crash() -> None:
    async def main() -> None:
        plugin = make_plugin()

        async def speak() -> None:
            await plugin.ally.add_message("user", "not granted")

        async with new_host(plugins={"p": plugin}, grants={"p": ["tasks"]}) as host:
            host.session("s")
            task = await plugin.ally.start_task("job", speak())
            with pytest.raises(PermissionRefused):
                await task.result()
            assert host.plugins["p"].counts.crashes == 0

    go(main())


@pytest.mark.slow
def test_tasks_at_once_are_limited_however_fast_they_are_started() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": setup(plugin, limits=Limits(running_tasks=3))}) as host:
            host.session("s")
            answers = await asyncio.gather(
                *(plugin.ally.start_task(f"job{i}", for_ever()) for i in range(10)), return_exceptions=True
            )
            started = [answer for answer in answers if not isinstance(answer, BaseException)]
            assert len(started) == 3
            assert sum(isinstance(answer, BudgetRefused) for answer in answers) == 7
            started[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await started[0].result()
            await plugin.ally.start_task("one-more", for_ever())

    go(main())
    gc.collect()


@pytest.mark.parametrize("state", ["quarantined", "failed", "stopped"])
def test_a_plugin_s_tasks_end_with_it_and_say_why(state: str) -> None:
    async def main() -> None:
        plugin, other = make_plugin(), make_plugin()
        async with new_host(plugins={"p": plugin, "q": other}) as host:
            host.session("s")
            task = await plugin.ally.start_task("job", for_ever())
            others = await other.ally.start_task("job", for_ever())
            host.plugins["p"].set_state(RunState(state), "a reason")
            with pytest.raises(asyncio.CancelledError):
                await task.result()
            assert (task.state, task.reason) == ("cancelled", f"its plugin is {state}")
            assert others.state == "running"

    go(main())


@pytest.mark.slow
def test_the_end_of_the_host_ends_tasks_even_such_as_ignore_it() -> None:
    tasks: list[Any] = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                if len(tasks) > 2:
                    raise

    async def main() -> None:
        plugin = make_plugin()
        async with asyncio.timeout(5):
            async with new_host(plugins={"p": plugin}) as host:
                host.session("s")
                tasks.append(await plugin.ally.start_task("job", for_ever()))
                tasks.append(await plugin.ally.start_task("job", stubborn()))
                await asyncio.sleep(0)
            assert (tasks[0].state, tasks[0].reason) == ("cancelled", "the host stops")
            tasks.append(None)  # let it go
            tasks[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[1].result()

    go(main())


@pytest.mark.slow
def test_a_task_is_not_started_for_a_plugin_that_was_stopped_meanwhile() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            call = asyncio.create_task(plugin.ally.start_task("job", for_ever()))
            await asyncio.sleep(0)  # it waits for the disk
            host.plugins["p"].set_state(RunState.QUARANTINED, "enough")
            with pytest.raises(UnavailableRefused):
                await call
            assert not list(host.tasks)

    go(main())
    gc.collect()


@pytest.mark.slow
def test_a_task_that_cannot_be_recorded_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")

            def fail(*_: Any) -> Any:
                raise JournalError("the disk is full")

            with monkeypatch.context() as patch:
                patch.setattr(host.journal, "append", fail)
                with pytest.raises(UnavailableRefused, match="the disk is full"):
                    await plugin.ally.start_task("job", for_ever())
            assert host.tasks.running("p") == 0

    go(main())
    gc.collect()


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan"), "half", True, [0.5]])
def test_progress_is_a_number_from_0_to_1(progress: Any) -> None:
    async def main() -> None:
        plugin = make_plugin()

        async def job() -> None:
            with pytest.raises(ValidationRefused):
                await plugin.ally.task_progress(progress)

        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            await (await plugin.ally.start_task("job", job())).result()

    go(main())


def test_progress_is_told_from_within_a_running_task_only() -> None:
    late: list[asyncio.Task[Any]] = []
    may_go = asyncio.Event()

    async def main() -> None:
        plugin = make_plugin()

        async def report_late() -> None:
            await may_go.wait()
            await plugin.ally.task_progress(0.9)

        async def job() -> None:
            late.append(asyncio.create_task(report_late()))

        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            with pytest.raises(NotFoundRefused):
                await plugin.ally.task_progress(0.5)
            await (await plugin.ally.start_task("job", job())).result()
            may_go.set()
            with pytest.raises(NotFoundRefused):
                await late[0]

    go(main())


def test_cancelling_what_is_no_task_names_those_that_run() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            with pytest.raises(NotFoundRefused, match=r"there is no task 't-1'; running are: none"):
                host.tasks.cancel("t-1")
            task = await plugin.ally.start_task("job", for_ever())
            with pytest.raises(NotFoundRefused, match=rf"running are: {task.id} \(p: job\)"):
                host.tasks.cancel("t-1")
            found = host.tasks.find(task.id)
            assert found is not None
            assert not await found.wait(0)

    go(main())


def test_a_task_that_takes_long_to_end_is_running_until_then_and_tells_who_asked() -> None:
    may_end, asked = asyncio.Event(), asyncio.Event()

    async def reluctant() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            asked.set()
        await may_end.wait()
        return "after all"

    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            task = await plugin.ally.start_task("job", reluctant())
            await asyncio.sleep(0)
            host.tasks.cancel(task.id)
            await asked.wait()
            assert (task.state, task.reason, task.ended) == ("running", "cancelled by the operator", None)
            may_end.set()
            assert await task.wait(5)
            assert (task.state, task.reason) == ("done", "")

    go(main())
