"""Deadlines that share a timer end their block as `asyncio.timeout` does, each at its own time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf

import pytest

from ally_plugins.runtime.lanes.deadlines import Deadlines
from tests.kit.waiting import go

SOON, NEVER = 0.02, 60.0

Within = Callable[[float], AbstractAsyncContextManager[object]]


def ours() -> Within:
    deadlines = Deadlines()

    @asynccontextmanager
    async def within(seconds: float) -> AsyncGenerator[object]:
        with deadlines.within(seconds) as deadline:
            yield deadline
        assert not deadlines.entered

    return within


# The same of both: what is promised is that one can take the place of the other.
@pytest.fixture(params=["ours", "asyncio"])
def within(request: pytest.FixtureRequest) -> Within:
    return ours() if request.param == "ours" else asyncio.timeout


async def hang() -> None:
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("seconds", [SOON, 0, -1])
def test_a_block_that_hangs_raises_timeout_error_and_its_task_goes_on(within: Within, seconds: float) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with within(seconds):
                await hang()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    go(main())


@pytest.mark.parametrize("seconds", [NEVER, inf])
def test_what_a_block_raises_or_returns_in_time_comes_out(within: Within, seconds: float) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with within(seconds):
                raise ZeroDivisionError
        async with within(seconds):
            await asyncio.sleep(0)

    go(main())


def test_a_deadline_that_was_kept_interrupts_nothing_later(within: Within) -> None:
    async def main() -> None:
        async with within(SOON):
            pass
        await asyncio.sleep(2 * SOON)

    go(main())


def test_a_cancellation_by_another_stays_one_also_with_the_deadline_in_the_same_turn(within: Within) -> None:
    async def main() -> None:
        async def work() -> None:
            async with within(SOON):
                await hang()

        for at in (0, SOON):
            task = asyncio.ensure_future(work())
            await asyncio.sleep(0)
            # At the same time as the deadline, and entered after it: both cancel before the task runs again.
            asyncio.get_running_loop().call_later(at, task.cancel)
            done, _ = await asyncio.wait([task], timeout=5)
            assert done
            assert task.cancelled() or (at and isinstance(task.exception(), TimeoutError))

    go(main())


def test_the_outer_of_two_blocks_that_is_due_first_ends_both(within: Within) -> None:
    async def main() -> None:
        seen = []

        async def inner() -> None:
            try:
                async with within(NEVER):
                    await hang()
            except BaseException as error:
                seen.append(type(error))
                raise

        with pytest.raises(TimeoutError):
            async with within(SOON):
                await inner()
        assert seen == [asyncio.CancelledError]

    go(main())


def test_a_block_that_swallows_its_interruption_goes_on_to_its_end(within: Within) -> None:
    async def main() -> None:
        async with within(SOON):
            try:
                await hang()
            except asyncio.CancelledError:
                await asyncio.sleep(SOON)

    go(main())


def test_each_of_many_ends_at_its_own_time_whatever_the_order_they_begin_in() -> None:
    async def main() -> None:
        deadlines, loop, late = Deadlines(), asyncio.get_running_loop(), []

        async def work(seconds: float) -> None:
            began = loop.time()
            with pytest.raises(TimeoutError), deadlines.within(seconds):
                await hang()
            late.append((seconds, loop.time() - began >= seconds))

        long = asyncio.ensure_future(work(NEVER))
        async with asyncio.timeout(5):
            await asyncio.gather(*(work(seconds) for seconds in (0.06, 0.02, 0.08, 0.04, 0.02)))
        assert late == [(0.02, True), (0.02, True), (0.04, True), (0.06, True), (0.08, True)]
        assert not long.done()
        long.cancel()
        await asyncio.wait([long])
        assert not deadlines.entered

    go(main())


def test_a_deadline_strikes_on_a_second_loop_though_the_timer_of_the_first_never_did() -> None:
    deadlines = Deadlines()

    async def first() -> None:
        with deadlines.within(0.01):
            pass

    async def second() -> None:
        async with asyncio.timeout(5):
            with pytest.raises(TimeoutError), deadlines.within(SOON) as deadline:
                await hang()
        assert deadline.has_expired

    go(first())
    go(second())
