"""What starts processes, and the course of every start: the ends are made, the process is born, the two are joined.

How a process is born is left to `guardian_client` (a guardian process, Linux), `direct` (a child of the host) and
`piped` (Windows); `launching` chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from .executing import cannot_execute, check_command
from .stdio import Ends

if TYPE_CHECKING:
    import asyncio

    from .process import Process, ProcessSpec

__all__ = ["Launcher"]


class Launcher(ABC):
    """What starts processes for one host on one loop, from `start` to `close`."""

    gaps: tuple[str, ...] = ()
    """What this way of starting cannot give, as sentences for `doctor`."""

    can_enter: bool = False
    """Whether what it starts can enter a sandbox; a process that is to, and cannot, is never started without it."""

    def remove_at_end(self, folder: str) -> None:  # noqa: B027 - what most ways of starting cannot give
        """Have a folder removed once what was launched has ended, however the host ends.

        Where nothing outlives a host that is killed, that is left to the next host.
        """

    @abstractmethod
    async def start(self) -> None:
        """Make ready; `launch` calls it itself where it must. Cancelling it only ends the waiting."""

    async def launch(
        self,
        spec: ProcessSpec,
        protocol_factory: Callable[[], asyncio.Protocol] | None,
        on_stderr: Callable[[bytes], None],
    ) -> Process:
        """Start a process, with a protocol on its standard input and output when the spec has `stdio`.

        `on_stderr` is called with what it writes, as it comes. Cancelling leaves no process behind. Raises
        CannotExecute.
        """
        check_command(spec, can_enter=self.can_enter)
        try:
            ends = Ends.make(has_stdio=spec.stdio)
        except OSError as error:
            raise cannot_execute(spec, error.errno or 0, "fork") from error
        try:
            process = await self._spawn(spec, ends)
            ends.close_child()  # or the end of the process's output would never be seen
            try:
                process.attach(*await ends.connect(protocol_factory, on_stderr))
            except BaseException:
                process.kill()
                raise
        finally:
            ends.close_child()
            ends.close_host()
        return process

    @abstractmethod
    async def _spawn(self, spec: ProcessSpec, ends: Ends) -> Process:
        """Start the process with its ends; it is attached to nothing yet. Raises CannotExecute."""

    @abstractmethod
    async def close(self) -> None:
        """Kill everything that was launched and close every descriptor. May be called twice.

        Whoever was cancelled in here calls it again: nothing may have been killed yet.
        """
