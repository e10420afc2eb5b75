"""Coroutines whose first step is run at once, in tasks that are used again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import pytest

from ally_plugins.runtime.lanes.jobs import Job, Jobs
from tests.kit.waiting import go, until

MARK: ContextVar[str] = ContextVar("MARK", default="")


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine that is one."""

    @wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        go(test(*arguments, **named))

    return run


async def nothing() -> None:
    """End with the first step."""


@asynccontextmanager
async def ready() -> AsyncGenerator[Jobs]:
    """Make jobs of which one task waits, so that what follows is begun at once; nothing of them is left behind."""
    jobs, others = Jobs(), asyncio.all_tasks()
    first = jobs.run(nothing())
    assert first is not None, "the first has to wait for its task"
    await turns()
    assert first.done()
    yield jobs
    jobs.close()
    await turns()
    assert asyncio.all_tasks() == others


async def turns(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def ended(job: Job) -> None:
    await until(job.done)


def begun(job: Job | None) -> Job:
    assert job is not None
    return job


@on_a_loop
async def test_what_ends_with_its_first_step_has_ended_when_run_returns() -> None:
    seen: list[asyncio.Task[Any] | None] = []

    async def work() -> None:
        seen.append(asyncio.current_task())

    async with ready() as jobs:
        assert jobs.run(work()) is None
        assert jobs.run(work()) is None
        assert seen[0] is seen[1] is not asyncio.current_task()


@on_a_loop
async def test_what_waits_goes_on_in_the_same_task_and_in_the_same_context_and_leaves_nothing_to_the_next() -> None:
    seen: list[tuple[str, asyncio.Task[Any] | None]] = []
    gate = asyncio.get_running_loop().create_future()

    async def work(mark: str) -> None:
        assert not MARK.get()
        MARK.set(mark)
        for wait in (asyncio.sleep(0), gate, asyncio.sleep(0.001)):
            seen.append((MARK.get(), asyncio.current_task()))
            await wait

    async with ready() as jobs:
        one, two = begun(jobs.run(work("one"))), begun(jobs.run(work("two")))
        gate.set_result(None)
        await ended(one)
        await ended(two)
        assert [mark for mark, _ in seen].count("one") == [mark for mark, _ in seen].count("two") == 3
        assert len({task for _, task in seen}) == 2
        await ended(begun(jobs.run(work("three"))))
        assert not MARK.get()


@pytest.mark.parametrize("waits", [0, 1, 4], ids=lambda turns_: f"{turns_} turns later")
@on_a_loop
async def test_cancelling_cancels_what_is_waited_for_and_the_coroutine_learns_of_it(waits: int) -> None:
    inner, seen = asyncio.get_running_loop().create_future(), list[str]()

    async def work() -> None:
        try:
            await inner
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("ended")

    async with ready() as jobs:
        job = begun(jobs.run(work()))
        await turns(waits)
        job.cancel()
        await turns()
        assert inner.cancelled()
        assert seen == ["cancelled", "ended"]
        assert job.done()


@pytest.mark.parametrize("waits", [0, 1, 4])
@on_a_loop
async def test_a_turn_of_the_loop_that_is_waited_for_can_be_cancelled_too(waits: int) -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            for _ in range(10_000):
                await asyncio.sleep(0)
        finally:
            seen.append("ended")

    async with ready() as jobs:
        job = begun(jobs.run(work()))
        await turns(waits)
        job.cancel()
        await turns()
        assert seen == ["ended"]
        assert job.done()


@on_a_loop
async def test_cancelling_what_has_ended_leaves_the_next_one_in_its_task_alone() -> None:
    gates = [asyncio.get_running_loop().create_future() for _ in range(2)]
    numbers: list[int] = []

    async def work(number: int) -> None:
        await gates[number]
        numbers.append(number)

    async with ready() as jobs:
        first = begun(jobs.run(work(0)))
        gates[0].set_result(None)
        await turns()
        second = begun(jobs.run(work(1)))
        first.cancel()
        await turns()
        assert not second.done()
        gates[1].set_result(None)
        await turns()
        assert numbers == [0, 1]


@on_a_loop
async def test_a_cancellation_that_is_swallowed_is_not_for_the_next() -> None:
    seen: list[str] = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        seen.append("stubborn")

    async def gentle() -> None:
        await asyncio.sleep(0.001)
        seen.append("gentle")

    async with ready() as jobs:
        job = begun(jobs.run(stubborn()))
        job.cancel()
        await turns(6)
        await ended(begun(jobs.run(gentle())))
        assert seen == ["stubborn", "gentle"]


@on_a_loop
async def test_a_timeout_that_is_entered_in_the_first_step_ends_what_comes_later() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)
        except TimeoutError:
            seen.append("timed out")
        await asyncio.sleep(0)
        seen.append("went on")

    async with ready() as jobs:
        job = begun(jobs.run(work()))
        await ended(job)
        assert seen == ["timed out", "went on"]
        assert jobs.run(nothing()) is None


async def fail() -> None:
    raise ValueError("first")


async def fail_later() -> None:
    await asyncio.sleep(0)
    raise ValueError("later")


@pytest.mark.parametrize("work", [fail, fail_later])
@on_a_loop
async def test_what_a_coroutine_raises_is_reported_and_the_next_is_served(work: Any) -> None:
    found: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(str(context["exception"])))
    async with ready() as jobs:
        jobs.run(work())
        await turns()
        assert found == ["first" if work is fail else "later"]
        assert jobs.run(nothing()) is None


async def cancel_oneself(*, is_waiting: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    if is_waiting:
        await asyncio.sleep(60)


@pytest.mark.parametrize("is_waiting", [True, False])
@on_a_loop
async def test_a_coroutine_that_cancels_its_own_task_harms_nobody_else(*, is_waiting: bool) -> None:
    async with ready() as jobs:
        job = jobs.run(cancel_oneself(is_waiting=is_waiting))
        assert (job is not None) is is_waiting
        await turns()
        assert job is None or job.done()
        for _ in range(2):  # the first has to wait for a task
            jobs.run(nothing())
            await turns()
        assert jobs.run(nothing()) is None


@on_a_loop
async def test_when_the_jobs_are_closed_what_runs_goes_on_to_its_end_and_no_task_stays() -> None:
    gate, seen = asyncio.get_running_loop().create_future(), list[str]()

    async def work() -> None:
        await gate
        seen.append("work")

    before = asyncio.all_tasks()
    async with ready() as jobs:
        job = begun(jobs.run(work()))
        await turns()
        jobs.close()
        await turns()
        assert not job.done()
        gate.set_result(None)
        await turns()
        assert seen == ["work"]
        assert asyncio.all_tasks() == before


@on_a_loop
async def test_a_run_of_many_needs_as_many_tasks_as_wait_at_one_time() -> None:
    gate = asyncio.get_running_loop().create_future()
    tasks: set[Any] = set()

    async def work(waits: Coroutine[Any, Any, Any] | None) -> None:
        tasks.add(asyncio.current_task())
        if waits is not None:
            await waits

    async def at_gate() -> None:
        await gate

    async with ready() as jobs:
        for _ in range(5):
            jobs.run(work(at_gate()))
        await turns()
        for _ in range(50):
            jobs.run(work(None))
            await turns(2)
        assert len(tasks) == 6
        gate.set_result(None)
        await turns()
