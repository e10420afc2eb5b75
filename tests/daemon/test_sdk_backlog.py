"""The queue of a daemon's lane: nothing is lost that an EVENTS_DROPPED does not name."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import EventsDropped
from ally_plugins.contract.values.scope import Scope
from ally_plugins.daemon.backlog import Backlog
from ally_plugins.daemon.lane import AnsweredRequest
from ally_plugins.runtime.lanes.requests import HookRequest


def _event(session: str, seq: int, offset: str | None = None) -> dict[str, Any]:
    params = {"event_type": "X", "event_data": {}, "timestamp": seq, "seq": seq, "session_id": session}
    return params | ({"offset": offset} if offset is not None else {})


def _question() -> AnsweredRequest:
    return AnsweredRequest("drain", None, (), False, Scope("p"), lambda _, __: None)  # noqa: FBT003


@given(
    st.lists(st.tuples(st.sampled_from("abcq?"), st.integers(1, 3)), max_size=80),
    st.integers(4, 12),
)
def test_what_is_taken_and_what_is_said_to_be_dropped_is_what_came(
    coming: list[tuple[str, int]], capacity: int
) -> None:
    """`q` is a question, `?` a durable event, a letter an event of that session, after a gap in its numbers."""
    backlog = Backlog("p", capacity)
    seqs = {"a": 0, "b": 0, "c": 0, "?": 0}
    sent: list[tuple[str, int]] = []
    questions: list[AnsweredRequest] = []
    for what, gap in coming:
        if what == "q":
            questions.append(_question())
            backlog.add_request(questions[-1])
            continue
        seqs[what] += gap
        sent.append((what, seqs[what]))
        backlog.add_event(_event(what, seqs[what], "o" if what == "?" else None))
    heard: list[tuple[str, int]] = []
    asked: list[HookRequest] = []
    while backlog:
        item = backlog.take()
        if isinstance(item, HookRequest):
            asked.append(item)
        elif isinstance(item, EventsDropped):
            lost = [(item.session_id, seq) for first, last in item.ranges for seq in range(first, last + 1)]
            assert len(lost) == item.count
            assert "?" not in {session for session, _ in lost}
            heard += lost
        else:
            heard.append((item["session_id"], item["seq"]))
    assert asked == questions
    assert sorted(heard) == sorted(sent)
    for session in seqs:  # each session's in order
        assert [seq for each, seq in heard if each == session] == [seq for each, seq in sent if each == session]


def test_a_question_may_go_before_everything() -> None:
    backlog = Backlog("p")
    last, first = _question(), _question()
    backlog.add_event(_event("a", 1))
    backlog.add_request(last)
    backlog.add_request(first, is_first=True)
    assert backlog.take() is first
    assert [event["seq"] for event in backlog.take_events(10, lambda _: True)] == [1]
    assert backlog.clear() == [last]
    assert not backlog


def test_events_are_taken_together_only_as_far_as_they_are_wanted() -> None:
    backlog = Backlog("p")
    for seq in (1, 2, 3):
        backlog.add_event(_event("a", seq))
    taken = [event["seq"] for event in backlog.take_events(10, lambda event: event["seq"] < 3)]
    assert taken == [1, 2]
    assert [event["seq"] for event in backlog.take_events(1, lambda _: True)] == [3]
