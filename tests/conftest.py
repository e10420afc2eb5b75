"""Fixtures of all tests; what holds nothing is imported from tests.kit."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kit.wheels import build_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]


@pytest.fixture
def short_dir(temporary_folder: Path) -> Iterator[Path]:
    """Return a folder whose path leaves room for a socket's name, which may have 104 characters in all."""
    folder = Path(tempfile.mkdtemp(prefix="s-", dir=temporary_folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return both wheels: the ones that nox built, or new ones."""
    folder = Path(os.environ.get("ALLY_WHEELS") or tmp_path_factory.mktemp("wheels"))
    if not list(folder.glob("*.whl")):
        for source in (ROOT, ROOT / "ally_plugins_contrib"):
            build_wheel(source, folder)
    return sorted(folder.glob("*.whl"))


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
        if "waitpid-" in thread.name:  # of which the name begins with "asyncio-" in later patch releases
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
