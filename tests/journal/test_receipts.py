"""What is noted of the events that a plugin was given, and what a record says of it afterwards."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.journal import receipts
from ally_plugins.journal.receipts import Receipts, Received, received_in


@given(st.sets(st.integers(1, 60)), st.integers(1, 60))
def test_a_record_says_of_each_event_whether_it_was_received(numbers: set[int], number: int) -> None:
    noted = Receipts()
    noted.add("s", "ally_event", 0.25, sorted(numbers))
    records = {session: orjson.loads(orjson.dumps(data)) for session, data in noted.take()}
    assert set(records) == ({"s"} if numbers else set())
    found = list(received_in(records.get("s"), number))
    assert found == ([Received("ally_event", 0.25, len(numbers))] if number in numbers else [])
    assert (noted.noted, list(noted.take())) == (0, [])


def test_a_process_is_believed_of_no_more_than_it_was_sent() -> None:
    noted = Receipts()
    noted.tell("s", None, 1.0, 1)
    noted.add("s", None, None, [1, 2])
    for number in (1, 2, 3):
        noted.tell("s", "ally_event", -1.0, number)
    ((_, data),) = noted.take("s")
    assert data == {"runs": [[None, None, [[1, 2]]], ["ally_event", 0, [[1, 1]]], ["ally_event", 0, [[2, 2]]]]}


def test_what_nobody_records_takes_no_more_memory_and_is_counted() -> None:
    noted = Receipts()
    noted.add("s", None, 0.1, range(1, receipts.MOST + 1))
    noted.add("s", None, 0.1, [receipts.MOST + 1, receipts.MOST + 2])
    noted.add("other", None, 0.1, [1])
    ((session, data),) = noted.take()
    assert (session, data["missed"], data["runs"]) == ("s", 3, [[None, 100_000, [[1, receipts.MOST]]]])
    noted.add("other", None, 0.1, [2])
    assert [session for session, _ in noted.take()] == ["other"]


def test_one_session_is_taken_without_the_others() -> None:
    noted = Receipts()
    noted.add("a", None, 0.1, [1])
    noted.add("b", None, 0.1, [1])
    assert [session for session, _ in noted.take("a")] == ["a"]
    assert list(noted.take("a")) == []
    assert noted.noted == 1
