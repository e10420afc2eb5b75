"""What the host says to an agent's hook, and the form in which the agent reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from attrs import field, frozen

from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import Message, ToolResult

from .client.hook_client import closed

__all__ = ["Answer", "Reply", "Said", "UnsayableError", "close", "say"]


class UnsayableError(Exception):
    """The agent has no way to do what plugins want; the text is the reason of the refusal that takes its place."""


def _worded(reason: str | None) -> str | None:
    # An empty one may be none to an agent, and so may one of blanks.
    return "a plugin gives no reason" if reason is not None and not reason.strip() else reason


@frozen(kw_only=True)
class Answer:
    """What plugins have made of one hook; without anything the agent goes on as it would.

    `refusal` denies a call, blocks a prompt, withholds an output, refuses a permission, or sends the agent on at a
    stop, with this reason. `question` has the agent ask the person. `arguments`, `result` and `prompt` stand for what
    was given, where plugins changed it. `waives` answers a permission question with yes. `context` is what plugins say
    beside it. `said` are the messages that the context is made of, or the refusal at a stop.
    """

    refusal: str | None = field(default=None, converter=_worded)
    question: str | None = field(default=None, converter=_worded)
    arguments: Mapping[str, Any] | None = None
    result: ToolResult | None = None
    prompt: str | None = None
    waives: bool = False
    context: str = ""
    said: tuple[Message, ...] = ()


class Said(Protocol):
    """Messages of plugins that stand in a reply, and wait for whether the agent takes it."""

    async def confirm(self) -> None:
        """Note that the agent has taken them. Raises nothing; cancelling leaves some to be due again."""

    def take_back(self) -> None:
        """Note that it has not: they are due again. Raises nothing."""


@frozen
class Reply:
    """What a hook's command ends with: its exit code and what it prints."""

    exit_code: int = 0
    stdout: str = ""
    stderr: str = ""
    said: Said | None = field(default=None, eq=False, repr=False)


def say(answer: Mapping[str, Any]) -> Reply:
    """Return the reply that prints one JSON object."""
    return Reply(stdout=encode(answer).decode())


def close(agent: str, event: str, reason: str) -> Reply:
    """Return what closes an event of an agent, or lets it pass where it is an observing one."""
    return Reply(*closed(agent, event, reason or "refused"))
