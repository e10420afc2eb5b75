"""Coroutines that answer requests, each in a task, whose first step is run in the caller's turn of the loop.

Most answers are there with that step. A task of its own for each would cost more than many an answer: it is made and
announced, and woken in a turn of its own. The tasks here wait for the next coroutine instead. Each coroutine has a
context of its own all the same, so that nothing of it is left to the next.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any

from .first_step import run_as

__all__ = ["Job", "Jobs"]


class Job:
    """A coroutine that was not done with its first step; `task` is the one that it runs in, None when it has ended."""

    __slots__ = ("task",)

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task: asyncio.Task[None] | None = task

    def done(self) -> bool:
        """Return whether it has ended."""
        return self.task is None

    def cancel(self) -> object:
        """Cancel the coroutine, unless it has ended; its task ends with it."""
        return self.task is not None and self.task.cancel()


class Jobs:
    """The tasks of one owner, who calls `close` when no further coroutine comes. Only for the loop's thread."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._is_closed = False

    def run(self, work: Coroutine[Any, Any, None]) -> Job | None:
        """Run a coroutine; return None when it has ended, else what it can be cancelled by.

        What it raises, but for its cancellation, goes to the loop's handler of exceptions.
        """
        if self._idle:
            return self._idle.pop().begin(work)
        worker = _Worker(self)
        # Its task has not begun yet, so that nothing can be run as it: this one has its first step in the next turn.
        return worker.take(work, copy_context())

    def close(self) -> None:
        """End the tasks that have nothing to do, and each other one with its coroutine."""
        self._is_closed = True
        for worker in self._idle:
            worker.task.cancel()
        self._idle.clear()

    def keep(self, worker: _Worker) -> None:
        """Keep a worker that has nothing to do for the next coroutine, unless its task is to end."""
        if self._is_closed:
            worker.task.cancel()
        elif not worker.task.cancelling():
            self._idle.append(worker)


class _Worker:
    """One task, with the coroutine that it runs."""

    __slots__ = ("_context", "_has_begun", "_job", "_jobs", "_waits_for", "_wake", "_work", "task")

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._job: Job | None = None
        self._work: Coroutine[Any, Any, None] | None = None
        self._context: Context | None = None
        self._has_begun = False
        self._waits_for: Any = None
        """What the first step gave its task to wait for: a future, or nothing but a turn of the loop."""
        loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] = loop.create_future()
        self.task: asyncio.Task[None] = loop.create_task(self._serve(), name="ally-jobs")

    def begin(self, work: Coroutine[Any, Any, None]) -> Job | None:
        """Run the first step of a coroutine, as if the task ran it, and leave what is left to the task."""
        context = copy_context()
        try:
            waits_for = run_as(self.task, context, work.send, None)
        except StopIteration:
            self._jobs.keep(self)
            return None
        except BaseException as error:
            self._jobs.keep(self)
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
            _report(error)
            return None
        self._has_begun, self._waits_for = True, waits_for
        return self.take(work, context)

    def take(self, work: Coroutine[Any, Any, None], context: Context) -> Job:
        """Have the task go on with a coroutine, or begin with it, in its next turn."""
        self._work, self._context = work, context
        self._job = job = Job(self.task)
        if not self._wake.done():  # else the first step has cancelled the task that it runs in
            self._wake.set_result(None)
        return job

    async def _serve(self) -> None:
        while True:
            error: BaseException | None = None
            try:
                await self._wake
            except asyncio.CancelledError as cancelled:
                if self._work is None:
                    raise
                error = cancelled
            try:
                await self._go_on(error)
            except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - reported, and the next is served
                _report(raised)
            finally:
                if self._job is not None:
                    self._job.task = None
                self._job = self._work = self._context = self._waits_for = None
                self._has_begun = False
            if self.task.cancelling():  # a cancellation may have been taken late, or swallowed: it is not for the next
                return
            self._wake = asyncio.get_running_loop().create_future()
            self._jobs.keep(self)

    @types.coroutine
    def _go_on(self, error: BaseException | None) -> Generator[Any, Any, None]:
        """Run the steps of the coroutine that are left, in its own context.

        With an `error` the task was cancelled before it came to wait for what the coroutine waits for.
        """
        work, waits_for = self._work, self._waits_for
        assert work is not None  # noqa: S101 - there are both when the task is woken
        assert self._context is not None  # noqa: S101
        run = self._context.run
        try:
            if not self._has_begun:
                waits_for = run(work.send, None)
            # As a task does it: the coroutine learns of it by what it waits for, which is cancelled first.
            elif error is not None and (waits_for is None or not waits_for.cancel()):
                waits_for = run(work.throw, error)
            while True:
                try:
                    value = yield waits_for
                except GeneratorExit:
                    run(work.close)
                    raise
                except BaseException as raised:  # noqa: BLE001 - a cancellation mostly, which is the coroutine's to take
                    waits_for = run(work.throw, raised)
                else:
                    waits_for = run(work.send, value)
        except StopIteration:
            return


def _report(error: BaseException) -> None:
    if not isinstance(error, asyncio.CancelledError):
        # Without the task: where it is named, the handler is run in its context (Python 3.12), which is entered now.
        context = {"message": "a request could not be answered", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
