"""The stream over messages that may be lost: what comes is what was written, or nothing more does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import ProtocolError
from ally_plugins.fleet.frames import CHUNK, WINDOW, End, FrameStream
from ally_plugins.fleet.link_transport import LinkTransport
from tests.kit.waiting import go, until

PARTS = st.lists(st.binary(max_size=300), max_size=12)


def sent(parts: list[bytes], chunk: int = 64) -> list[bytes]:
    """Return the messages of a stream to which these were written."""
    stream = FrameStream(chunk)
    for part in parts:
        stream.write(part)
    return stream.frames()


@given(parts=PARTS, chunk=st.integers(1, 100))
def test_what_is_written_comes_whole_and_in_order(parts: list[bytes], chunk: int) -> None:
    there = FrameStream()
    assert b"".join(got for frame in sent(parts, chunk) if isinstance(got := there.receive(frame), bytes)) == b"".join(
        parts
    )


@pytest.mark.slow
@given(written=st.binary(min_size=200, max_size=900), data=st.data())
def test_a_message_that_is_lost_repeated_or_moved_ends_the_stream(written: bytes, data: st.DataObject) -> None:
    frames = sent([written])
    at = data.draw(st.integers(0, len(frames) - 2))
    how = data.draw(st.sampled_from(["lost", "repeated", "moved", "replayed"]))
    wrong = {
        "lost": frames[:at] + frames[at + 1 :],
        "repeated": [*frames[: at + 1], frames[at], *frames[at + 1 :]],
        "moved": [*frames[:at], frames[at + 1], frames[at], *frames[at + 2 :]],
        "replayed": [*frames, frames[at]],
    }[how]
    there, come = FrameStream(), list[Any]()
    with pytest.raises(ProtocolError, match="lost, or repeated"):
        come.extend(map(there.receive, wrong))
    assert written.startswith(b"".join(come))


@given(st.binary(max_size=40))
def test_garbage_is_refused_or_changes_nothing_but_room(garbage: bytes) -> None:
    stream = FrameStream()
    try:
        got = stream.receive(garbage)
    except ProtocolError:
        return
    assert isinstance(got, End) or got == garbage[9:]


def test_no_more_is_sent_than_the_other_end_has_room_for_and_the_rest_when_it_has() -> None:
    here, there = FrameStream(), FrameStream()
    here.write(bytes(3 * WINDOW))
    come = 0
    for _ in range(100):
        frames = here.frames()
        assert sum(len(frame) - 9 for frame in frames) <= WINDOW
        for frame in frames:
            got = there.receive(frame)
            assert isinstance(got, bytes)
            assert len(got) <= CHUNK
            come += len(got)
            there.take(len(got))
        for frame in there.frames():
            here.receive(frame)
    assert come == 3 * WINDOW


def test_an_end_that_is_told_of_more_room_than_there_can_be_ends_the_stream() -> None:
    here, there = FrameStream(), FrameStream()
    there.take(100_000)
    with pytest.raises(ProtocolError, match="100000 bytes were taken, of 0"):
        here.receive(there.frames()[0])


def test_who_sends_more_than_there_is_room_for_is_cut_off() -> None:
    flood = FrameStream()
    flood.write(bytes(WINDOW))
    frames = flood.frames()
    frames.append(b"D" + len(frames).to_bytes(8, "big") + b"x")
    there = FrameStream()
    with pytest.raises(ProtocolError, match="came at once"):
        list(map(there.receive, frames))


class Noting(asyncio.Protocol):
    """Notes what comes, and reads when it is let."""

    def __init__(self) -> None:
        self.come = 0
        self.paused: list[bool] = []
        self.is_over = False

    @override
    def data_received(self, data: bytes) -> None:
        self.come += len(data)

    @override
    def pause_writing(self) -> None:
        self.paused.append(True)

    @override
    def resume_writing(self) -> None:
        self.paused.append(False)

    @override
    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self.is_over = True


def pair() -> tuple[Noting, LinkTransport, Noting, LinkTransport, list[str]]:
    """Return two ends whose messages arrive in the next turn of the loop."""
    ends: list[LinkTransport] = []
    reasons: list[str] = []

    def send(to: int) -> Any:
        def publish(frame: bytes) -> bool:
            asyncio.get_running_loop().call_soon(ends[to].receive, frame)
            return True

        return publish

    one, other = Noting(), Noting()
    ends.append(LinkTransport(one, send(1), reasons.append))
    ends.append(LinkTransport(other, send(0), reasons.append))
    return one, ends[0], other, ends[1], reasons


def test_an_end_that_does_not_read_makes_the_other_one_wait() -> None:
    async def main() -> None:
        one, writing, other, reading, _ = pair()
        reading.pause_reading()
        writing.write(bytes(2 * WINDOW))
        for _ in range(20):
            await asyncio.sleep(0)
        assert (other.come, one.paused) == (0, [True])
        assert writing.get_write_buffer_size() == 2 * WINDOW
        reading.resume_reading()
        await until(lambda: other.come == 2 * WINDOW)
        await until(lambda: one.paused == [True, False])

    go(main())


def test_an_end_that_is_closed_closes_the_other_after_what_was_written() -> None:
    async def main() -> None:
        one, writing, other, _, reasons = pair()
        writing.write(b"x" * 1000)
        writing.close()
        writing.close()
        await until(lambda: one.is_over and other.is_over)
        assert other.come == 1000
        assert reasons == ["the other end has closed it"] * 2

    go(main())


def test_a_message_that_cannot_be_sent_ends_the_link() -> None:
    async def main() -> None:
        one, reasons = Noting(), list[str]()
        transport = LinkTransport(one, lambda _: False, reasons.append)
        transport.write(b"x")
        assert reasons == []
        await until(lambda: one.is_over)
        assert reasons == ["a message could not be sent"]

    go(main())
