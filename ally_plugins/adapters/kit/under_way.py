"""What of one run is under way, and what is done when the last of it has ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import define, field

__all__ = ["UnderWay"]


@define(eq=False)
class UnderWay:
    """Counts the parts of one run while they are entered: the run itself, its tool calls, its requests to the model.

    A framework may end a cancelled run before the tools that it started: it cancels them then, and waits for what they
    clean up. So nothing is cancelled or waited for here, which would reach into that; whichever part is left last
    awaits `ending`, and the run's own end is still emitted behind those of its calls. Lives as long as the run.
    """

    ending: Callable[[], Awaitable[object]]
    count: int = field(init=False, default=0)

    async def __aenter__(self) -> None:
        self.count += 1

    async def __aexit__(self, *_: object) -> None:
        self.count -= 1
        if not self.count:
            await self.ending()
