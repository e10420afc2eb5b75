from __future__ import annotations

import pytest

from ally_plugins.errors import ValidationRefused
from ally_plugins.legacy.numbers import APPROVED_EVENTS
from ally_plugins.legacy.subscriptions import Subscriptions

PATH = "/run/it.sock"


@pytest.fixture
def table() -> Subscriptions:
    return Subscriptions()


def test_an_empty_list_is_refused(table: Subscriptions) -> None:
    with pytest.raises(ValidationRefused, match="is empty") as caught:
        table.subscribe("me", PATH, [])
    assert caught.value.field == "events"


@pytest.mark.parametrize("path", ["run/it.sock", "", "/" + "x" * 104])
def test_a_path_that_is_relative_or_too_long_is_refused(table: Subscriptions, path: str) -> None:
    with pytest.raises(ValidationRefused) as caught:
        table.subscribe("me", path, ["TODO_UPDATE"])
    assert caught.value.field == "socket_path"


def test_an_unapproved_event_is_refused_with_all_the_approved_ones(table: Subscriptions) -> None:
    with pytest.raises(ValidationRefused) as caught:
        table.subscribe("me", PATH, ["TODO_UPDATE", "SESSION_START"])
    assert "'SESSION_START'" in str(caught.value)
    assert all(event in str(caught.value) for event in APPROVED_EVENTS)
    assert not table.is_subscribed("me")


def test_all_twelve_events_are_approved(table: Subscriptions) -> None:
    assert len(APPROVED_EVENTS) == 12
    assert table.subscribe("me", PATH, APPROVED_EVENTS).events == APPROVED_EVENTS


def test_duplicates_are_folded(table: Subscriptions) -> None:
    found = table.subscribe("me", PATH, ["TODO_UPDATE", "AGENT_END", "TODO_UPDATE"])
    assert found.events == ("TODO_UPDATE", "AGENT_END")


def test_a_second_subscribe_replaces_the_first(table: Subscriptions) -> None:
    table.subscribe("me", PATH, ["TODO_UPDATE"])
    table.subscribe("me", "/run/other.sock", ["AGENT_END"])
    assert not table.is_subscribed("me", "TODO_UPDATE")
    assert table.is_subscribed("me", "AGENT_END")
    found = table.get_subscription("me")
    assert found is not None
    assert found.socket_path == "/run/other.sock"


def test_a_refused_subscribe_leaves_the_former_one(table: Subscriptions) -> None:
    table.subscribe("me", PATH, ["TODO_UPDATE"])
    with pytest.raises(ValidationRefused):
        table.subscribe("me", PATH, ["NOTHING"])
    assert table.is_subscribed("me", "TODO_UPDATE")


def test_subscribers_are_named_by_event_in_the_order_in_which_they_came(table: Subscriptions) -> None:
    table.subscribe("b", PATH, ["TODO_UPDATE", "AGENT_END"])
    table.subscribe("a", PATH, ["TODO_UPDATE"])
    assert table.get_subscribers("TODO_UPDATE") == ("b", "a")
    assert table.get_subscribers("AGENT_END") == ("b",)
    assert table.get_subscribers("AGENT_START") == ()


def test_unsubscribing_ends_it_and_says_whether_there_was_one(table: Subscriptions) -> None:
    table.subscribe("me", PATH, ["TODO_UPDATE"])
    assert table.unsubscribe("me")
    assert not table.unsubscribe("me")
    assert not table.is_subscribed("me")
    assert table.get_subscription("me") is None
    assert table.get_subscribers("TODO_UPDATE") == ()


def test_nobody_changes_the_table_through_what_it_gives(table: Subscriptions) -> None:
    events = ["TODO_UPDATE"]
    table.subscribe("me", PATH, events)
    events.append("AGENT_END")
    found = table.get_subscription("me")
    assert found is not None
    with pytest.raises(AttributeError):
        found.events = ()  # type: ignore[misc]
    table.by_plugin().clear()  # type: ignore[attr-defined]
    assert table.is_subscribed("me", "TODO_UPDATE")
    assert not table.is_subscribed("me", "AGENT_END")
