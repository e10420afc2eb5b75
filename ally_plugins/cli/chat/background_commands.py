"""Commands that the agent has started in the background: they end with the program that started them."""

# ruff: noqa: ARG002 - the framework's hooks are called with all that it has

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic_ai.capabilities import AbstractCapability

from ally_plugins.contract.values.compat import override

if TYPE_CHECKING:
    from pydantic_ai.messages import ToolCallPart
    from pydantic_ai.tools import RunContext, ToolDefinition

__all__ = ["BackgroundCommands"]

_STARTER: Final = "start_command"
_ID: Final = re.compile(r"^ID: ([0-9a-f]+)$", re.MULTILINE)
_JOBS: Final = Path(".pydantic-ai-harness", "shell")
"""Where the harness keeps a folder for each, with its process and how it ended in `status.json`."""

GRACE_S: Final = 1.0
"""Seconds that a command has to end in order."""
_LOOK_S: Final = 0.02


class BackgroundCommands(AbstractCapability[Any]):
    """Remembers the commands that were started, and ends them when its context exits, with the conversation.

    After a `kill -9` of this program they go on; the agent finds them again with `check_command`.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder: Final = folder / _JOBS
        self._started: Final[set[str]] = set()

    @override
    async def after_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        result: Any,
    ) -> Any:
        """Remember a command that was started."""
        if call.tool_name == _STARTER and isinstance(result, str) and (found := _ID.search(result)):
            self._started.add(found[1])
        return result

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End what still runs: SIGTERM to every process group, and SIGKILL to what takes longer than `GRACE_S`.

        Cancelling it skips the SIGKILL.
        """
        if not hasattr(os, "killpg") or not self._signal(signal.SIGTERM):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                while any(map(self._process, self._started)):  # noqa: ASYNC110 - no children of ours: nothing to wait on
                    await asyncio.sleep(_LOOK_S)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> bool:
        """Send a signal to the process groups of what runs; return whether anything does."""
        processes = [process for name in self._started if (process := self._process(name))]
        for process in processes:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process, number)
        return bool(processes)

    def _process(self, name: str) -> int:
        """Return the process that leads a command's group, 0 when it has ended."""
        try:
            status = json.loads((self._folder / name / "status.json").read_text("utf-8"))
            return int(status["pid"]) if status["exit_code"] is None else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0
