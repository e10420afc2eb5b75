"""The fixture `ally_harness`; pytest loads this by its entry point, so nothing heavy is imported before it is used."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from . import BlockingHarness

__all__ = ["ally_harness"]


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
