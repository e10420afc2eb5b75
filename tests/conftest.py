"""Fixtures of all tests; what holds nothing is imported from tests.kit."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def short_dir(temporary_folder: Path) -> Iterator[Path]:
    """Return a folder whose path leaves room for a socket's name, which may have 104 characters in all."""
    folder = Path(tempfile.mkdtemp(prefix="s-", dir=temporary_folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


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
