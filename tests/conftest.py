"""Helpers of all tests."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

T = TypeVar("T")


def _run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main, debug=False)


@pytest.fixture(scope="session")
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Return what runs one coroutine on a fresh event loop and gives its result."""
    return _run


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread or (on Linux) an open descriptor behind. Ask for it where things are closed."""
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    _let_waiters_end()
    assert set(threading.enumerate()) - threads == set()
    assert _descriptors() - descriptors == set()


def _let_waiters_end() -> None:
    """Wait for asyncio's threads that wait for a child (Python 3.11): what they say last is that it is dead."""
    for thread in threading.enumerate():
        if thread.name.startswith("asyncio-waitpid-"):
            thread.join(10)  # of a child that lives it does not end: that is a leak


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    folder = Path("/proc/self/fd")
    for link in folder.iterdir() if folder.exists() else ():
        try:
            found.add((link.name, str(link.readlink())))
        except FileNotFoundError:  # the one that lists the folder itself
            continue
    return found
