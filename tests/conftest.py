"""Helpers of all tests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def _run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main, debug=False)


@pytest.fixture(scope="session")
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Return what runs one coroutine on a fresh event loop and gives its result."""
    return _run
