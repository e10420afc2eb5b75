"""Tools that are programs: one process a call, a JSON object on its standard input, and one on its standard output.

The host runs a program and ends its process tree; its output is read in `results`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from ally_plugins.contract.programs import Program, Ran
from ally_plugins.contract.values.codec import encode_exactly
from ally_plugins.contract.values.conversation import ToolResult
from ally_plugins.contract.values.errors import CannotExecute, EncodeError

from .results import executable_result, stderr_note

if TYPE_CHECKING:
    from .plugin import CodeAllyTool

__all__ = ["Programs"]


@frozen
class Programs:
    """How, where and with what one plugin's programs run. `python` is the operator's, or that of its environment."""

    run_once: Callable[[Program], Awaitable[Ran]]
    folder: str
    variables: Mapping[str, str] = field(repr=False)
    python: str = ""

    def command(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """Return a command as it is run: `python3` and `python` are that one, where there is one."""
        program, *rest = arguments
        own = self.python if self.python and program in {"python", "python3"} else program
        return (own, *rest)

    async def run(self, tool: CodeAllyTool, arguments: Mapping[str, Any]) -> ToolResult:
        """Run a tool's program once. A failure is a result and no error; cancelling ends the whole process tree."""
        try:
            program = Program(
                name=tool.name,
                command=self.command((tool.command, *tool.args)),
                cwd=f"{self.folder}/{tool.cwd}" if tool.cwd else self.folder,
                # Exactly: the program calculates with them, and a long integer as a text would be another value.
                given=encode_exactly(arguments) + b"\n",
                timeout=tool.timeout,
                variables=self.variables,
            )
            ran = await self.run_once(program)
        except EncodeError as error:
            return ToolResult(success=False, error=f"{tool.name!r} was not run: {error}")
        except CannotExecute as error:
            return ToolResult(success=False, error=str(error))
        except TimeoutError as error:
            text = f"{tool.name!r} did not end within {tool.timeout:g} s and was stopped"
            return ToolResult(success=False, error=text + stderr_note(str(error)))
        return executable_result(tool.name, ran)
