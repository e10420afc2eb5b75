"""What the person has said that a run is to begin with, where a framework's history already holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ally_plugins.adapters.kit.work import AgentWork
    from ally_plugins.contract.values.conversation import Message

__all__ = ["is_unheard"]


def is_unheard(work: AgentWork, messages: Iterable[Message]) -> bool:
    """Say whether any of these messages is one of the person's that plugins are to decide about.

    Not one that an earlier run of the session has begun with and that nobody has answered: that run has failed, and
    its history is gone on with. A sub-agent's messages are its agent's.
    """
    if work.parent is not None:
        return False
    texts = [each.content for each in messages if each.role == "user" and each.source_plugin is None]
    return bool(texts) and not _begun_with(work).issuperset(texts)


def _begun_with(work: AgentWork) -> set[str]:
    found = set[str]()
    for message in reversed(work.live.session.conversation.messages):
        if message.role in {"assistant", "tool"}:
            break
        if message.role == "user" and message.source_plugin is None:
            found.add(message.content)
    return found
