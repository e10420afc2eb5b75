"""What `drain` can know of a daemon that never answers an event."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins import ToolCallEnd
from ally_plugins.contract.values.events import stamp
from ally_plugins.host.sockets.link import SocketLink
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")

LONG = 0.1


@pytest.fixture
def path(short_dir: Path) -> str:
    return str(short_dir / "d.sock")


@contextmanager
def a_daemon(path: str, take: Callable[[bytes], None]) -> Iterator[None]:
    """Serve one connection after the other, as `socketserver` does; `take` gets what each says."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            take(self.rfile.readline())

    class Server(socketserver.UnixStreamServer):
        request_queue_size = 16

    with Server(path, Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def an_event(number: int) -> ToolCallEnd:
    event = ToolCallEnd(tool_name="bash", success=True)
    stamp(event, number, 1, "s1", (), None)
    return event


def test_a_daemon_that_takes_one_connection_after_the_other_has_handled_what_it_was_sent(path: str) -> None:
    handled: list[bytes] = []

    def take(line: bytes) -> None:
        if line:
            time.sleep(LONG)  # its work
            handled.append(line)

    async def use() -> None:
        link = SocketLink("d", path, notification_timeout=60)
        link.write_events([an_event(1), an_event(2)])
        await link.drain()
        assert len(handled) == 2
        link.close()

    with a_daemon(path, take):
        go(use())


def test_a_daemon_that_does_not_hang_up_is_waited_for_once(path: str) -> None:
    enough = threading.Event()

    async def use() -> None:
        link = SocketLink("d", path, notification_timeout=LONG)
        link.write_events([an_event(1)])
        began = time.monotonic()
        await link.drain()
        assert time.monotonic() - began >= LONG
        assert link._hangs_up is False
        link.notification_timeout = 600  # nobody waits for this now
        link.write_events([an_event(2)])
        await link.drain()
        assert link.counts.sent == 2
        enough.set()
        link.close()

    def take(_: bytes) -> None:
        enough.wait(60)

    with a_daemon(path, take):
        go(use())


def test_without_events_in_between_nothing_is_asked(path: str) -> None:
    async def use() -> None:
        link = SocketLink("d", path)
        await link.drain()  # nobody listens there, so that asking would fail
        assert link._hangs_up is True
        link.close()

    go(use())
