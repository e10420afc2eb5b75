"""Two ends driven against each other: whatever happens in whatever order, they agree."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ally_plugins.wire.codes import CANCELLED, REFUSED, UNAVAILABLE
from ally_plugins.wire.connection import Connection, WireCounts
from ally_plugins.wire.limits import WireLimits
from ally_plugins.wire.messages import (
    Cancel,
    ErrorResponse,
    Message,
    Notification,
    Progress,
    Request,
    Response,
    encode_response,
)

T = TypeVar("T")

SIDES = st.sampled_from([0, 1])
NUMBERS = st.integers(0, 1_000_000)


class End:
    """One end, what it did, and what it was told."""

    def __init__(self) -> None:
        self.connection = Connection(limits=WireLimits(malformed=100_000))
        self.pipe = b""  # what it has sent and the other end has not read
        self.asked: dict[int, dict[str, Any]] = {}
        self.ends: dict[int, str] = {}
        self.told: list[int] = []
        self.worked_on: dict[Any, str] = {}  # the other's requests here: "working", "answered", "failed" or "cancelled"
        self.heard: list[int] = []
        self.junk = self.doubles = self.dropped = 0

    def take(self, messages: list[Message], other: End) -> None:
        for message in messages:
            self._take(message, other)

    def _take(self, message: Message, other: End) -> None:
        match message:
            case Request(id_, method, params):
                assert (method, params) == ("work", other.asked[int(id_)])
                assert id_ not in self.worked_on, "a request came twice"
                self.worked_on[id_] = "working"
            case Notification(_, params):
                self.heard.append(params["n"])
            case Response(id_, method, result):
                assert (method, result) == ("work", self.asked[id_])
                self._end(id_, "answered")
            case ErrorResponse(id_, method, code):
                assert (method, code) == ("work", REFUSED)
                self._end(id_, "failed")
            case Cancel(id_):
                assert self.worked_on[id_] == "working"
                self.worked_on[id_] = "cancelled"
            case Progress(id_):
                assert id_ not in self.ends, "progress of what has ended"

    def _end(self, id_: int, how: str) -> None:
        assert id_ not in self.ends, "a request ended twice"
        self.ends[id_] = how


def _pick(choices: list[T], number: int) -> T:
    return choices[number % len(choices)]


class TwoEnds(RuleBasedStateMachine):
    """Two ends, and what is on its way between them."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = (End(), End())

    def _work(self, *states: str) -> list[tuple[End, End, Any]]:
        """Return the requests in one of these states: who works on it, who asked, and the id."""
        pairs = (self.ends, self.ends[::-1])
        return [(end, other, id_) for end, other in pairs for id_, how in end.worked_on.items() if how in states]

    def _waiting(self) -> list[tuple[End, int]]:
        """Return the requests that have had no end: who asked, and the id."""
        return [(end, id_) for end in self.ends for id_ in end.connection.outgoing]

    @rule(side=SIDES, text=st.text('aé\n\\"', max_size=3))
    def ask(self, side: int, text: str) -> None:
        end = self.ends[side]
        id_ = end.connection.request("work", {"text": text})
        assert id_ not in end.asked
        end.asked[id_] = {"text": text}

    @rule(side=SIDES)
    def tell(self, side: int) -> None:
        end = self.ends[side]
        end.connection.notify("note", {"n": len(end.told)})
        end.told.append(len(end.told))

    @precondition(lambda self: self._work("working"))
    @rule(number=NUMBERS, is_good=st.booleans())
    def answer(self, number: int, *, is_good: bool) -> None:
        end, other, id_ = _pick(self._work("working"), number)
        end.worked_on[id_] = "answered" if is_good else "failed"
        if is_good:
            end.connection.respond(id_, other.asked[id_])
        else:
            end.connection.fail(id_, REFUSED, "no")

    @precondition(lambda self: self._work("answered", "failed", "cancelled"))
    @rule(number=NUMBERS)
    def answer_what_has_ended(self, number: int) -> None:
        end, _, id_ = _pick(self._work("answered", "failed", "cancelled"), number)
        (end.connection.progress, end.connection.respond)[number % 2](id_, 1)
        end.dropped += 1

    @precondition(lambda self: self._work("working"))
    @rule(number=NUMBERS)
    def report(self, number: int) -> None:
        end, _, id_ = _pick(self._work("working"), number)
        end.connection.progress(id_, 0.5, "half")

    @precondition(lambda self: self._waiting())
    @rule(number=NUMBERS)
    def cancel(self, number: int) -> None:
        end, id_ = _pick(self._waiting(), number)
        end.connection.cancel(id_)
        end.ends[id_] = "cancelled"

    @rule(side=SIDES, number=NUMBERS)
    def cancel_what_may_have_ended(self, side: int, number: int) -> None:
        end = self.ends[side]
        id_ = number % (len(end.asked) + 2)
        if id_ in end.connection.outgoing:
            end.ends[id_] = "cancelled"
        end.connection.cancel(id_)

    @precondition(lambda self: all(end.junk < len(end.told) for end in self.ends))
    @rule(side=SIDES)
    def write_junk(self, side: int) -> None:
        self.ends[side].connection.write(b"not json\n\n")
        self.ends[side].junk += 1

    @precondition(lambda self: self._work("answered"))
    @rule(number=NUMBERS)
    def answer_again(self, number: int) -> None:
        end, _, id_ = _pick(self._work("answered"), number)
        end.connection.write(encode_response(id_, "again"))
        end.doubles += 1

    @rule(side=SIDES, size=st.sampled_from([1, 30, 100, 10_000]))
    def deliver(self, side: int, size: int) -> None:
        end, other = self.ends[side], self.ends[1 - side]
        end.pipe += end.connection.data_to_send()
        chunk, end.pipe = end.pipe[:size], end.pipe[size:]
        other.take(other.connection.receive_data(chunk), end)

    @rule(number=NUMBERS)
    def deliver_much(self, number: int) -> None:
        for side in (number % 2, 1 - number % 2):
            self.deliver(side, 100_000)

    @invariant()
    def what_waits_is_what_was_asked_and_has_no_end(self) -> None:
        for end in self.ends:
            assert set(end.connection.outgoing) == set(end.asked) - set(end.ends)
            working = {id_ for id_, state in end.worked_on.items() if state == "working"}
            assert end.connection.incoming == working

    def teardown(self) -> None:
        self._deliver_everything()
        for side, end in enumerate(self.ends):
            for id_ in sorted(end.connection.incoming):
                end.worked_on[id_] = "answered"
                end.connection.respond(id_, self.ends[1 - side].asked[int(id_)])
        self._deliver_everything()
        for end, other in (self.ends, self.ends[::-1]):
            self._check(end, other)

    def _deliver_everything(self) -> None:
        while any(end.pipe or end.connection._output for end in self.ends):
            for side in (0, 1):
                self.deliver(side, 1_000_000)

    def _check(self, end: End, other: End) -> None:
        assert end.heard == other.told
        assert set(end.ends) == set(end.asked) == set(other.worked_on)  # every request was seen and has had one end
        for id_, how in end.ends.items():  # where it was not cancelled, both say the same
            assert how in {other.worked_on[id_], "cancelled"}
        cancelled = Counter(end.ends.values())["cancelled"]
        # Every answer that came twice was counted: as double, or as late when the first of the two is double.
        # Malformed lines are answered with an error without an id, which is one that nobody asked for.
        assert end.connection.counts == WireCounts(
            late=cancelled, double=other.doubles, unknown=end.junk, malformed=other.junk, dropped=end.dropped
        )
        assert end.connection.receive_eof() == []


TestTwoEnds = TwoEnds.TestCase


def _exchange(one: Connection, two: Connection) -> tuple[list[Message], list[Message]]:
    """Carry everything from one end to the other and back, once; return what each was told."""
    to_two = two.receive_data(one.data_to_send())
    return one.receive_data(two.data_to_send()), to_two


def test_an_answer_and_a_cancellation_that_cross_are_counted_once_on_each_side() -> None:
    host, daemon = Connection(), Connection()
    id_ = host.request("work")
    _exchange(host, daemon)
    host.cancel(id_)
    daemon.respond(id_, "done")
    crossing = daemon.data_to_send()
    assert daemon.receive_data(host.data_to_send()) == []  # it had answered: nothing to cancel
    assert host.receive_data(crossing) == []  # nobody waits for it
    assert (host.counts.late, daemon.counts) == (1, WireCounts())
    assert daemon.data_to_send() == b""


def test_a_cancellation_in_time_is_seen_and_its_answer_is_not_handed_out() -> None:
    host, daemon = Connection(), Connection()
    id_ = host.request("work")
    _exchange(host, daemon)
    host.cancel(id_)
    assert _exchange(host, daemon) == ([], [Cancel(id_)])
    daemon.fail(id_, CANCELLED, "cancelled")
    assert _exchange(host, daemon) == ([], [])
    assert host.counts == WireCounts(late=1)
    assert daemon.counts == WireCounts(dropped=1)


def test_both_use_the_same_numbers_for_their_own_requests() -> None:
    host, daemon = Connection(), Connection()
    assert host.request("gate") == daemon.request("log") == 1
    assert _exchange(host, daemon) == ([Request(1, "log", {})], [Request(1, "gate", {})])
    host.respond(1, "of the host")
    daemon.fail(1, REFUSED, "of the daemon")
    assert _exchange(host, daemon) == (
        [ErrorResponse(1, "gate", REFUSED, "of the daemon", {"reason": "refused"})],
        [Response(1, "log", "of the host")],
    )


def test_the_end_of_the_stream_ends_what_both_had_asked() -> None:
    host, daemon = Connection(), Connection()
    host.request("gate")
    daemon.request("log")
    _exchange(host, daemon)
    for end, method in ((host, "gate"), (daemon, "log")):
        (message,) = end.receive_eof()
        assert isinstance(message, ErrorResponse)
        assert (message.method, message.code) == (method, UNAVAILABLE)
