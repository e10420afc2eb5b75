"""Waiting for plugins in processes, which need real time where a recording has none: restarts, and calls under way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ally_plugins.runtime.lanes.plugin import RunState

if TYPE_CHECKING:
    from ally_plugins.host.host import Host

__all__ = ["wait_for_calls", "wait_for_restarts"]

RESTARTS: Final = 60.0
"""Seconds for daemons to start again; Code-Ally's three restarts wait for thirty."""

CALLS: Final = 2.0
"""Seconds for calls under way; one that takes longer waits for something else, such as another plugin's action."""

_POLL_S: Final = 0.0005
_RESTARTING: Final = frozenset({RunState.STARTING, RunState.BACKOFF, RunState.STOPPING})


async def wait_for_restarts(host: Host) -> None:
    """Wait until each daemon of a host runs or has failed for good, for `RESTARTS` seconds at most.

    Cancelling stops the waiting and nothing else.
    """
    if not _is_any_restarting(host):
        return
    changed = asyncio.Event()
    # Before the next look, so that no change is missed between the two.
    unsubscribe = host.stream.subscribe("PLUGIN_STATE", lambda _: changed.set())
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(RESTARTS):
                while _is_any_restarting(host):
                    # Nothing is awaited between the look and this: a change that comes now sets it again.
                    changed.clear()
                    await changed.wait()
    finally:
        unsubscribe()


async def wait_for_calls(host: Host) -> None:
    """Wait until no daemon has a call under way, for `CALLS` seconds at most.

    A daemon may acknowledge all events while a call that it made in one of them has not returned. Cancelling stops the
    waiting and nothing else.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(CALLS):
            while _is_any_calling(host):  # noqa: ASYNC110 - no notification exists; only a replay needs it
                await asyncio.sleep(_POLL_S)


def _is_any_restarting(host: Host) -> bool:
    return any(plugin.supervisor is not None and plugin.state in _RESTARTING for plugin in host.plugins.values())


def _is_any_calling(host: Host) -> bool:
    return any(plugin.supervisor is not None and plugin.budget.in_flight for plugin in host.plugins.values())
