"""What the capabilities of pydantic-ai-harness say in words and keep in stores: all that is known here of that package.

It is not imported, since it may not be there. A test runs the real one, and fails when a new version says it otherwise.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.tools.todo_tools import todo_data
from ally_plugins.contract.values.conversation import TodoItem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic_ai.tools import RunContext

__all__ = ["STATUSES", "failure_of", "todos_of"]

STATUSES: Final = {
    "in_progress": "in_progress",
    "completed": "completed",
    "pending": "pending",
    "blocked": "pending",  # plugins know no such status, and it is still to be done
    "cancelled": None,
}
"""What a step's status is to plugins; a cancelled one is no todo any more."""

_FOREGROUND: Final = "run_command"
"""The one tool of the shell whose result is the end of the command; the others tell of one that may run on."""

_END: Final = re.compile(r"\[(exit code: -?[1-9]\d*|Command timed out after [\d.]+s)\]")
_LAST: Final = 2
"""Lines at the end of a command's output, one of which says how it ended; a word on limits may follow."""

_NO_FILE: Final = "Path not found: "


def failure_of(owner: object, tool: str, output: str) -> str | None:
    """Return the failure that a result of a capability of the harness reports, None for any other result."""
    judge = _found(owner, _JUDGES)
    return judge(tool, output) if judge is not None else None


def _command_failure(tool: str, output: str) -> str | None:
    if tool != _FOREGROUND:
        return None
    # The whole line: a program may print the same words in the middle of one.
    ends = (_END.fullmatch(line) for line in output.rsplit("\n", _LAST)[-_LAST:])
    return next((end[1] for end in ends if end is not None), None)


def _file_failure(_tool: str, output: str) -> str | None:
    return output if output.startswith(_NO_FILE) else None


_JUDGES: Final[Mapping[tuple[str, str], Callable[[str, str], str | None]]] = {
    ("shell", "Shell"): _command_failure,
    ("filesystem", "FileSystem"): _file_failure,
}
"""By the module in the harness and the name of the class."""


async def todos_of(owner: Any, ctx: RunContext[Any]) -> list[dict[str, str]] | None:
    """Return the todos that the harness's planning keeps, None for another capability.

    Raises whatever its store raises, and AttributeError or KeyError for one of another version.
    """
    if _found(owner, {("planning", "Planning"): True}) is None:
        return None
    found = owner.resolve_store(ctx).get_items()
    items = await found if inspect.isawaitable(found) else found
    return [todo for item in items if (todo := _todo(item)) is not None]


def _todo(item: Any) -> dict[str, str] | None:
    status = STATUSES[str(getattr(item.status, "value", item.status))]
    if status is None:
        return None
    active_form = str(item.active_form) if item.active_form else None
    return todo_data(TodoItem(str(item.id), str(item.content), status, active_form))


def _found(owner: object, by_class: Mapping[tuple[str, str], Any]) -> Any:
    """Return what is known of a capability's class or of one that it is derived from, None for another one."""
    # By names, not `isinstance`: the package is not imported here.
    for each in type(owner).__mro__:
        package, _, rest = each.__module__.partition(".")
        known = by_class.get((rest.partition(".")[0], each.__name__))
        if package == "pydantic_ai_harness" and known is not None:
            return known
    return None
