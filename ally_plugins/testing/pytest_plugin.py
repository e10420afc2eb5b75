"""The fixture `ally_harness`, and what a misspelt argument was meant to be.

pytest loads this by its entry point, so nothing heavy is imported before it is used.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from pluggy import Result

    from . import BlockingHarness

__all__ = ["ally_harness"]


@pytest.hookimpl(hookwrapper=True)  # `wrapper` is not there in older versions, which authors may have
def pytest_runtest_call() -> Generator[None, Result[None]]:
    """Have a misspelt argument of a value in a test say which one was meant."""
    outcome = yield
    if isinstance(outcome.exception, TypeError):
        from ally_plugins.contract.wording import note_argument

        note_argument(outcome.exception)


@pytest.fixture
def ally_harness() -> Iterator[Callable[..., BlockingHarness]]:
    """Return what starts a plugin for this test: `ally_harness(LoopGuard, settings={"limit": 2})`.

    It takes the arguments of `PluginHarness` and returns a running `BlockingHarness`, which ends with the test.
    """
    from . import BlockingHarness

    with ExitStack() as running:

        def start(plugin: Callable[..., Any] | str, **options: Any) -> BlockingHarness:
            return running.enter_context(BlockingHarness(plugin, **options))

        yield start
