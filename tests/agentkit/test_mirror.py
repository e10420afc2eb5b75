"""A conversation that follows a framework's history: nobody sees that it is read only when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable

from ally_plugins.contract.values.conversation import Message
from ally_plugins.host.sessions.memory import Conversation
from ally_plugins.host.sessions.mirror import Mirror

read: list[str] = []


def convert(item: object) -> Iterable[Message]:
    read.append(str(item))
    return [Message(role="user", content=str(item))]


def mirrored() -> tuple[Mirror, Conversation]:
    read.clear()
    conversation = Conversation()
    return Mirror("s", conversation), conversation


def contents(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.messages]


def test_what_is_new_is_read_once_when_somebody_asks() -> None:
    mirror, conversation = mirrored()
    history = ["a", "b"]
    mirror.follow(history, convert)
    history.append("c")
    mirror.follow(history, convert)
    assert read == []
    assert contents(conversation) == ["a", "b", "c"]
    assert contents(conversation) == ["a", "b", "c"]
    assert read == ["a", "b", "c"]


def test_a_message_that_was_edited_between_two_runs_is_seen_as_it_is_now() -> None:
    mirror, conversation = mirrored()
    history = ["a", "b", "c"]
    mirror.follow(history, convert)
    assert contents(conversation) == ["a", "b", "c"]
    history[1] = "[redacted]"
    history.append("d")
    assert mirror.follow(history, convert, is_first=True)
    assert contents(conversation) == ["a", "[redacted]", "c", "d"]


def test_the_next_id_counts_what_nobody_has_read_yet() -> None:
    mirror, conversation = mirrored()
    mirror.follow(["a", "b"], convert)
    assert mirror.next_id == "s:m3"
    assert [message.id for message in conversation.messages] == ["s:m1", "s:m2"]


def test_a_message_that_is_added_comes_behind_what_nobody_has_read_yet() -> None:
    mirror, conversation = mirrored()
    mirror.follow(["a"], convert)
    conversation.add(Message(role="user", content="added", id="x"))
    assert contents(conversation) == ["a", "added"]


def test_a_cursor_reads_what_came_since_and_a_history_that_was_replaced_as_a_whole() -> None:
    mirror, conversation = mirrored()
    history = ["a", "b"]
    mirror.follow(history, convert)
    first = conversation.snapshot("s", ["messages"], None)
    history.append("c")
    mirror.follow(history, convert)
    second = conversation.snapshot("s", ["messages"], first.cursor)
    assert [message.content for message in second.messages or ()] == ["c"]
    mirror.follow(["z"], convert)
    third = conversation.snapshot("s", ["messages"], second.cursor)
    assert third.is_reset
    assert [message.content for message in third.messages or ()] == ["z"]
    assert third.messages is not None
    assert third.messages[0].id == "s:m1.1"
