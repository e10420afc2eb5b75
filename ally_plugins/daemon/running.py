"""Running a plugin as a process: its descriptors, its loop, and an end that nothing can hold up."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

from .ending import end_within
from .logs import write_stderr
from .streams import is_terminal, take_stdio

if TYPE_CHECKING:
    from .loading import Factory

__all__ = ["run", "run_to_end"]

EXIT_USAGE: Final = 64  # sysexits' number
LAST_GRACE: Final = 1.0
"""Seconds for threads, exit functions and the interpreter's own end, after everything of ours has ended."""


def run(factory: Factory | str, *, name: str | None = None) -> NoReturn:
    """Run a plugin as the process of a daemon, and end the process.

    `factory` is the plugin's class, or "module:Class" to be imported. The host is at stdin and stdout; what the plugin
    prints goes to stderr. To be called once, from the main thread. Exit codes: 0 after `shutdown`, SIGTERM, or when the
    host has closed its end; 1 when the plugin cannot be loaded; 70 when a hook ignored its interruption; 76 when the
    host does not keep to the protocol.
    """
    if is_terminal():
        write_stderr("this is the process of a plugin: its host starts it and speaks to it over stdin and stdout")
        sys.exit(EXIT_USAGE)
    descriptors = take_stdio()
    with _no_garbage():
        from .process import PluginProcess

    run_to_end(lambda: PluginProcess(factory, name=name).serve(descriptors))


def run_to_end(serve: Callable[[], Coroutine[Any, Any, int]]) -> NoReturn:
    """Run what a process is for on a loop, and end the process with the code that it returns."""
    with suppress(ValueError):  # not the main thread
        # The terminal's Ctrl-C is the host's business. A function and not SIG_IGN, which children would inherit.
        signal.signal(signal.SIGINT, lambda *_: None)
    code = _run_loop(serve)
    # Before `sys.exit`, which joins the plugin's threads and calls its exit functions, however long they take.
    end_within(LAST_GRACE, code)
    sys.exit(code)


@contextmanager
def _no_garbage() -> Generator[None]:
    """Import without looking for garbage again and again: there is none, and it is a tenth of a process's start."""
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # what is there now stays; nor is it looked at later
        if is_collecting:
            gc.enable()


def _run_loop(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    import asyncio

    async def serve() -> int:
        return await work()  # made on the loop

    # Not `asyncio.run`, which waits without a limit for tasks that ignore their cancellation.
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(serve())
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=LAST_GRACE))
        loop.close()
