"""An event loop in a thread of its own, on which plain threads have their calls run and wait for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeVar

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import HostError
from ally_plugins.runtime.forks import OwnProcess

from .teardown import end_tasks

__all__ = ["LoopThread"]

GRACE: Final = 1.0
"""Seconds that cancelled tasks get at the end, then asynchronous generators, and then functions in the loop's pool. A
function that never returns is left to the process, which waits for it when it ends."""

CLEANUP: Final = 10.0
"""Seconds that a start which was cancelled may take to stop what it has started: a host gives plugins five."""

T = TypeVar("T")


class LoopThread:
    """The loop of one owner, between `start` and `stop`. `run` and `stop` may be called from any other thread.

    Errors name the owner by `word`; `usage` is the line that starts it.
    """

    def __init__(self, word: str, usage: str) -> None:
        self._word = word
        self._usage = usage
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = OwnProcess.own()

    def start(self, first: Coroutine[Any, Any, T], wait: float | None) -> T:
        """Start the thread and run its first call. Raises what that raises, and nothing is left running then."""
        if self._thread is not None:
            # A coroutine that nobody awaits is a warning when it is collected.
            first.close()
            raise HostError(f"this {self._word} runs already; make another one")
        self._loop, self._process = asyncio.new_event_loop(), OwnProcess.own()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name=f"ally-{self._word}", daemon=True)
        self._thread.start()
        has_begun, has_ended = threading.Event(), threading.Event()
        try:
            return self.run(_noting(first, has_begun, has_ended), wait)
        except BaseException:
            # It was cancelled where the wait for it was, and first stops what it has started.
            if has_begun.is_set():
                has_ended.wait(CLEANUP)
            self._end()
            if not has_begun.is_set():
                first.close()  # a coroutine that nobody awaits is a warning when it is collected
            raise

    def stop(self, last: Coroutine[Any, Any, object], wait: float | None) -> None:
        """Run the last call, then end the thread; safe to call twice. Raises HostError in a fork."""
        if self._thread is None:
            last.close()
            return
        self._check_process("stop", last)
        try:
            self.run(last, wait)
        finally:
            self._end()

    def run(self, call: Coroutine[Any, Any, T], wait: float | None) -> T:
        """Run a coroutine on the loop and wait for it, `wait` seconds at most (None for ever).

        When the time is up, it is cancelled and TimeoutError raised. Raises HostError before `start`, after `stop` and
        in a fork, and RuntimeError on the loop's own thread.
        """
        loop = self._loop
        if loop is not None:
            self._check_process(getattr(call, "__name__", "run"), call)
        if loop is None or self.is_current:
            call.close()
            if loop is None:
                raise HostError(f"this {self._word} does not run; use `{self._usage}`")
            message = f"a blocking call on the {self._word}'s own thread would wait for itself"
            raise RuntimeError(message)
        future = asyncio.run_coroutine_threadsafe(call, loop)
        try:
            # TimeoutError and KeyboardInterrupt alike: the caller no longer waits, so the call must not go on unseen.
            return future.result(wait)
        except BaseException:
            future.cancel()
            raise

    @property
    def is_current(self) -> bool:
        """Whether the code that asks runs in this thread."""
        return threading.current_thread() is self._thread

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs in the process of which this one is a fork."""
        return self._thread is not None and not self._process.is_here

    def _check_process(self, name: str, call: Coroutine[Any, Any, Any]) -> None:
        try:
            self._process.check(name, self)
        except HostError:
            call.close()
            raise

    @override
    def __repr__(self) -> str:
        return f"<the {self._word}'s loop>"

    def _end(self) -> None:
        loop, thread = self._loop, self._thread
        # First: a call that comes now is refused, and not left on a loop that ends.
        self._loop = self._thread = None
        if loop is not None and thread is not None:
            # `stop` alone would be seen only when the loop wakes for something else.
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


async def _noting(call: Coroutine[Any, Any, T], has_begun: threading.Event, has_ended: threading.Event) -> T:
    has_begun.set()
    try:
        return await call
    finally:
        has_ended.set()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, then end what is left on it."""
    # Our own, since the wait for its end is to be bounded (`_end_pool`).
    pool = ThreadPoolExecutor(thread_name_prefix="ally-pool")
    loop.set_default_executor(pool)
    try:
        loop.run_forever()
    finally:
        try:
            # Tasks first: while they end they may use generators and the pool.
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=GRACE))
            loop.run_until_complete(_end_generators(loop))
            loop.run_until_complete(_end_pool(pool))
        finally:
            loop.close()


async def _end_generators(loop: asyncio.AbstractEventLoop) -> None:
    # Nothing bounds `shutdown_asyncgens`, and one generator may wait in its `finally` for ever.
    _, left = await asyncio.wait([asyncio.ensure_future(loop.shutdown_asyncgens())], timeout=GRACE)
    await end_tasks(left, GRACE)


async def _end_pool(pool: ThreadPoolExecutor) -> None:
    # Not the loop's own `shutdown_default_executor`: before Python 3.12 nothing bounds it, cancelling neither. The loop
    # runs meanwhile, for a function that asks something of it before it returns.
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        pool.shutdown()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set)

    ending = threading.Thread(target=end, name="ally-pool-end", daemon=True)
    ending.start()
    with suppress(TimeoutError):
        async with asyncio.timeout(GRACE):
            await ended.wait()
        ending.join()
