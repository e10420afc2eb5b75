"""Nothing that a plugin prints gets into the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., Any]


@pytest.mark.parametrize("transport", ["socketpair", "pipes"])
def test_printing_in_every_way_goes_to_stderr(daemon: Start, transport: str) -> None:
    host = daemon("Prints", transport=transport)
    assert host.ask("call_tool", name="say", arguments={}) == ""
    assert host.ask("ping") == "pong"
    assert host.shutdown() == 0
    assert host.connection.counts.malformed == 0
    assert b"by" not in host.raw
    for words in ("printed while it was built", "by print", "by __stdout__", "by descriptor", "by C", "by a child"):
        assert words in host.stderr
    assert "by a shell" in host.stderr


def test_a_child_that_lives_on_does_not_hold_the_protocol_open(daemon: Start) -> None:
    import os
    import signal

    host = daemon("Spawns")
    child = host.ask("call_tool", name="spawn", arguments={})
    try:
        host.process.kill()
        host.process.wait()
        while host._read(10):  # ends only when nobody else has the other end
            pass
    finally:
        os.kill(child, signal.SIGKILL)
