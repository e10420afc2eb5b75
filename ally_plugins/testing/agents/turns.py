"""One turn of an agent as a test plays it, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from ally_plugins.contract.values.frozen import EMPTY, freeze_mapping

__all__ = ["AgentTurn", "PlayedCall", "ToolUse"]


@frozen
class ToolUse:
    """A call that the model makes, by the common name of its tool (`bash`, `read`), and what it comes to if it runs.

    A tool without a common name is called as it is here.
    """

    tool: str
    arguments: Mapping[str, Any] = field(default=EMPTY, converter=freeze_mapping)
    output: str = ""
    success: bool = field(default=True, kw_only=True)


@frozen(kw_only=True)
class PlayedCall:
    """What became of a call: whether it `ran`, with which arguments (by the agent's names), and what the model read.

    `is_asked` says that the agent asks the person; then it ran only if `person_agrees` was given.
    """

    ran: bool
    arguments: Mapping[str, Any] = field(default=EMPTY, converter=freeze_mapping)
    shown: str
    is_asked: bool = False


@frozen(kw_only=True)
class AgentTurn:
    """What became of a turn. Calls after the one at which the agent was stopped are not in it.

    `words` are what plugins said to the model meanwhile, in the form in which it reads them. `prompt` is what the model
    read of the person's, None where that was stopped; `reason` says why, and why a turn ended early. `goes_on` says
    that a plugin sent an agent on that wanted to stop.
    """

    calls: tuple[PlayedCall, ...] = ()
    words: str = ""
    prompt: str | None = None
    answer: str | None = None
    reason: str = ""
    goes_on: bool = False
