"""Signals that a command handles while its loop runs: who gets them, and that all is as before afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextvars import ContextVar
from typing import Any

import pytest

from ally_plugins.cli.shell.signals import ENDS, run, signals_handled

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without telling it")

NUMBERS = (signal.SIGINT, *ENDS)


@pytest.fixture
def before() -> Generator[list[int]]:
    """Return the signals that come to handlers from before; so none ends these tests."""
    heard: list[int] = []
    old = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in NUMBERS}
    yield heard
    for number, handler in old.items():
        signal.signal(number, handler)


async def raised(number: int, heard: list[Any]) -> None:
    """Send this process the signal, and wait until one of the handlers has got it."""
    count = len(heard)
    os.kill(os.getpid(), number)
    while len(heard) == count:  # noqa: ASYNC110 - a handler of before has no event to set
        await asyncio.sleep(0)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_comes_to_the_innermost_and_afterwards_to_who_was_there_before(
    number: signal.Signals, before: list[int]
) -> None:
    outer: list[signal.Signals] = []
    inner: list[signal.Signals] = []

    async def main() -> None:
        with signals_handled(outer.append, *NUMBERS):
            with signals_handled(inner.append, number):
                await raised(number, inner)
            assert (outer, before) == ([], [])
            await raised(number, outer)
        await raised(number, before)

    asyncio.run(main())
    assert (inner, outer, before) == ([number], [number], [number])


def test_a_signal_wakes_a_loop_that_waits(before: list[int]) -> None:
    async def main() -> signal.Signals:
        came = asyncio.get_running_loop().create_future()
        with signals_handled(came.set_result, signal.SIGTERM):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
            return await asyncio.wait_for(came, 20)

    assert asyncio.run(main()) is signal.SIGTERM
    assert before == []


def test_a_signal_is_handled_for_who_asked_not_for_the_task_that_it_finds_at_work(before: list[int]) -> None:
    whose: ContextVar[str] = ContextVar("whose", default="the command's")
    told: list[str] = []

    async def plugin() -> None:
        whose.set("a plugin's")
        await raised(signal.SIGTERM, told)

    async def main() -> None:
        with signals_handled(lambda _: told.append(whose.get()), signal.SIGTERM):
            await asyncio.create_task(plugin())

    asyncio.run(main())
    assert (told, before) == (["the command's"], [])


def test_what_is_ignored_stays_ignored(before: list[int]) -> None:
    heard: list[signal.Signals] = []

    async def main() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals_handled(heard.append, *ENDS):
            os.kill(os.getpid(), signal.SIGHUP)
            await raised(signal.SIGTERM, heard)

    asyncio.run(main())
    assert (heard, before) == ([signal.SIGTERM], [])
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_after_one_that_fails_all_is_as_before_too(before: list[int]) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError), signals_handled(print, *NUMBERS):
            _ = 1 / 0
        for number in NUMBERS:
            await raised(number, before)

    asyncio.run(main())
    assert before == list(NUMBERS)


def test_in_a_thread_of_its_own_a_loop_leaves_the_signals_alone(before: list[int]) -> None:
    async def main() -> None:
        with signals_handled(print, *NUMBERS):
            await raised(signal.SIGTERM, before)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    thread.join()
    assert before == [signal.SIGTERM]


@pytest.mark.usefixtures("before")
@pytest.mark.parametrize("number", ENDS)
def test_what_ends_a_program_cancels_its_loop_as_ctrl_c_does(number: signal.Signals) -> None:
    told: list[str] = []

    async def main() -> None:
        os.kill(os.getpid(), number)
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    with pytest.raises(KeyboardInterrupt):
        run(main())
    assert told == ["cancelled"]
