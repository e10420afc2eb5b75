"""Waiting for what processes need time for, where a recording has none: starting again, and calls on their way."""

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
"""Seconds for calls that were begun; what waits longer waits for something else, such as another plugin's action."""

_LOOK: Final = 0.0005
_COMING: Final = frozenset({RunState.STARTING, RunState.BACKOFF, RunState.STOPPING})


async def wait_for_restarts(host: Host) -> None:
    """Return when every daemon of a host runs, or will not any more, or has taken too long for it."""
    if not _is_any_coming(host):
        return
    changed = asyncio.Event()
    unsubscribe = host.stream.subscribe("PLUGIN_STATE", lambda _: changed.set())
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(RESTARTS):
                while _is_any_coming(host):
                    changed.clear()
                    await changed.wait()
    finally:
        unsubscribe()


async def wait_for_calls(host: Host) -> None:
    """Return when no daemon has a call on its way: one may say that it has heard all before its call has returned."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CALLS):
            while _is_any_calling(host):  # noqa: ASYNC110 - nobody tells of it, and a replay is the only one to ask
                await asyncio.sleep(_LOOK)


def _is_any_coming(host: Host) -> bool:
    return any(plugin.supervisor is not None and plugin.state in _COMING for plugin in host.plugins.values())


def _is_any_calling(host: Host) -> bool:
    return any(plugin.supervisor is not None and plugin.budget.in_flight for plugin in host.plugins.values())
