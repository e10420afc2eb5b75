"""A plugin that starts tasks."""

from __future__ import annotations

import asyncio
from typing import Any

from ally_plugins import Ally, BudgetRefused, RefusedError, tool

from .calls import failure, outcome
from .hooks import Plain, act


class Works(Plain):
    """Starts tasks; `how` says to what end."""

    def __init__(self, ally: Ally) -> None:
        super().__init__(ally)
        self.tasks: list[Any] = []
        self.progress: list[Any] = []
        self.notes: dict[str, asyncio.Event] = {}

    async def _work(self, how: str) -> Any:
        await self.ally.task_progress(0.5, f"half of {self.ally.session}")
        self.notes.setdefault(f"{how}s", asyncio.Event()).set()
        if how == "report":
            await self.ally.add_message("user", "indexed 3 files", deliver_as="follow_up")
        if how == "takes long to end":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await self.notes.setdefault("may end", asyncio.Event()).wait()
                raise
        if how == "wait":
            try:
                await asyncio.sleep(3600)
            finally:
                await self.ally.add_message("user", "cleaned up")
        if how == "refused":
            await self.ally.add_message("system", "x")
        if how == "cancels itself":
            raise asyncio.CancelledError
        act(how)
        return {"list": (1, 2), "session": self.ally.session}

    @tool
    async def start(self, how: str) -> Any:
        try:
            task = await self.ally.start_task("indexing", self._work(how))
        except RefusedError as error:
            return failure(error)
        self.tasks.append(task)
        return task.id

    @tool
    async def heard(self, what: str) -> None:
        await self.notes.setdefault(what, asyncio.Event()).wait()

    @tool
    async def tell(self, what: str) -> None:
        self.notes.setdefault(what, asyncio.Event()).set()

    @tool
    async def crash(self) -> None:
        raise ValueError("a broken thing")

    @tool
    async def result(self) -> dict[str, Any]:
        task = self.tasks[-1]
        try:
            found = {"returned": await task.result()}
        except BaseException as error:  # noqa: BLE001 - CancelledError too
            found = failure(error)
        return {"state": task.state, **found}

    @tool
    async def cancel(self) -> bool:
        return bool(self.tasks[-1].cancel())

    @tool
    def cancel_from_thread(self) -> bool:
        return bool(self.tasks[-1].cancel())

    @tool
    async def start_wrong(self) -> list[Any]:
        no_coroutine: Any = self._work
        return [
            await outcome(self.ally.start_task("no good", self._work("done"))),
            await outcome(self.ally.start_task("x", lambda: no_coroutine)),  # type: ignore[arg-type]
            await outcome(self.ally.task_progress(0.5)),
        ]

    @tool
    async def wrong_progress(self) -> list[Any]:
        wrong: Any = "half"
        calls = [(1.5, None), (wrong, None), (0.5, "a\x00b")]
        (task,) = self.tasks
        task.cancel()
        await asyncio.wait([asyncio.ensure_future(task.result())])

        async def report() -> None:
            self.progress.extend([await outcome(self.ally.task_progress(*call)) for call in calls])

        while True:  # until the host has seen the end of the first
            try:
                await (await self.ally.start_task("wrong", report())).result()
            except BudgetRefused:
                await asyncio.sleep(0.01)
            else:
                return self.progress
