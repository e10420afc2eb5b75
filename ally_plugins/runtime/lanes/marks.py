"""What says which plugins' code runs in this process now: a few bytes for each, which outlive the process.

A plugin inside the host can end it (`os._exit`, a segmentation fault), and then nothing is logged; the next host says
what ran. Setting a mark costs 30 ns, and is done once for a batch of events, a request or a handler. Where they lie is
the business of `marks_file`; in a daemon's process nobody reads them.
"""

from __future__ import annotations

from typing import Final

from ally_plugins.contract.hookspecs import HOOKS

__all__ = [
    "BLOCKING",
    "HOOK",
    "LOADING",
    "MARKS",
    "OBSERVING",
    "UNMARKED",
    "WORKING",
    "Slot",
    "describe",
    "hook_number",
]

HOOK: Final = 0
"""The place of the mark for what the lane runs: nothing, one of the two below, or a hook's number."""
WORKING: Final = 1
"""The place of the number of tools, actions and tasks that run."""
BLOCKING: Final = 2
"""The place of the mark for one that holds the loop up."""
MARKS: Final = 3  # places

OBSERVING: Final = 1
LOADING: Final = 2
_FIRST_HOOK: Final = 3


class Slot:
    """The place of one plugin's marks; whoever sets them looks here each time, since they go with the host's end."""

    __slots__ = ("marks",)

    def __init__(self, marks: memoryview) -> None:
        self.marks = marks

    def drop(self) -> None:
        """Have nobody read the marks from here on, and let go of where they were."""
        # In this order: to set a mark in a view that was released is a ValueError.
        before, self.marks = self.marks, memoryview(bytearray(MARKS))
        before.release()


UNMARKED: Final = Slot(memoryview(bytearray(MARKS)))
"""For whatever nobody reads: plugins in processes of their own, whose end is seen."""

_HOOKS: Final = tuple(HOOKS)
_NUMBERS: Final = {hook: number for number, hook in enumerate(_HOOKS, _FIRST_HOOK)}


def hook_number(hook: str) -> int:
    """Return the mark for a hook that answers a request."""
    return _NUMBERS.get(hook, OBSERVING)


def describe(marks: bytes) -> str:
    """Return in words what ran, empty for nothing."""
    hook = marks[HOOK]
    if hook >= _FIRST_HOOK:
        what = [_HOOKS[hook - _FIRST_HOOK] if hook - _FIRST_HOOK < len(_HOOKS) else "a hook"]
    else:
        what = {OBSERVING: ["a hook for events"], LOADING: ["its import or its class"]}.get(hook, [])
    return " and ".join([*what, *(["a tool, an action or a task"] if marks[WORKING] else [])])
