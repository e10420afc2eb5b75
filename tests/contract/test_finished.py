"""Work that must not be left half made goes to its end, however often whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from ally_plugins.runtime.lanes.teardown import finished
from tests.kit.waiting import go


async def settle() -> None:
    """Let a cancellation reach what it is for."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("times", [1, 2, 5])
def test_whoever_is_cancelled_leaves_only_when_the_work_has_ended(times: int) -> None:
    async def main() -> None:
        may_end, order = asyncio.Event(), []

        async def work() -> None:
            await may_end.wait()
            order.append("work")

        async def wait() -> None:
            try:
                await finished(work())
            finally:
                order.append("waiter")

        waiting = asyncio.ensure_future(wait())
        await settle()
        for _ in range(times):
            waiting.cancel()
            await settle()
        assert not waiting.done()
        may_end.set()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert order == ["work", "waiter"]

    go(main())


def test_work_that_fails_after_a_cancellation_is_its_cause_and_not_lost() -> None:
    async def main() -> None:
        may_end, lost = asyncio.Event(), []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))

        async def work() -> None:
            await may_end.wait()
            raise OSError("disk full")

        causes: list[Any] = []

        async def wait() -> None:
            try:
                await finished(work())
            except asyncio.CancelledError as error:
                causes.append(repr(error.__cause__))
                raise

        waiting = asyncio.ensure_future(wait())
        await settle()
        waiting.cancel()
        await settle()
        may_end.set()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        del waiting
        gc.collect()
        assert lost == []
        assert causes == ["OSError('disk full')"]

    go(main())


def test_the_work_s_own_end_is_passed_on() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def failed() -> None:
        raise OSError("disk full")

    async def main() -> None:
        assert await finished(asyncio.sleep(0, "done")) == "done"
        with pytest.raises(OSError, match="disk full"):
            await finished(failed())
        with pytest.raises(asyncio.CancelledError):
            await finished(cancelled())

    go(main())
