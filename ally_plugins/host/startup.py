"""What a host does before it starts plugins: consent given by code, which plugins are wanted, what it never emits."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.errors import HostError
from ally_plugins.contract.values.events import EVENT_TYPES
from ally_plugins.contract.values.inert import inert
from ally_plugins.journal.values import Record
from ally_plugins.runtime.lanes.teardown import finished

if TYPE_CHECKING:
    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.catalog.registry import Plan, Registry
    from ally_plugins.journal.journal import Journal

__all__ = ["ask_for_consent", "declare_emitted", "wanted_records"]

_log: Final = logging.getLogger(__name__)


async def ask_for_consent(
    registry: Registry, consent: Callable[[Plan], bool | Awaitable[bool]], journal: Journal, now_ms: Callable[[], int]
) -> None:
    """Call `consent` for each plugin that waits for consent; only True agrees, which is recorded as given by code.

    Raises what `consent` raises, and JournalError. Cancelling keeps what was agreed to before.
    """
    for record in await asyncio.to_thread(registry.review):
        if record.state == "waiting for consent":
            plan = await asyncio.to_thread(registry.plan, record.name)
            answer = consent(plan)
            if (await answer if inspect.isawaitable(answer) else answer) is True:
                data = {"grants": plan.grants.texts(), "by": "code"}
                await journal.append(Record("enable", now_ms(), record.name, None, None, data))
                await finished(asyncio.to_thread(registry.enable, plan, by="code"))


def declare_emitted(home: Home, emits: Collection[str]) -> None:
    """Write to the home which types are never emitted, so that `list` and `doctor` warn of idle subscriptions."""
    never = sorted(set(EVENT_TYPES).difference(emits))
    try:
        if never or home.never_emitted_file.exists():
            home.write(home.never_emitted_file, encode(never), durable=False)
    except OSError as error:
        _log.warning("what this host never emits could not be written down: %s", error)


def wanted_records(registry: Registry, given: Collection[str]) -> list[PluginRecord]:
    """Return the installed plugins to load, without those of a name in `given`, which the host has by code.

    Raises HostError for a mandatory plugin that is left out.
    """
    wanted: list[PluginRecord] = []
    for record in registry.load():
        if record.config.mandatory and record.state == "left out":
            raise HostError(f"the mandatory plugin {record.name!r} is left out: {record.reason}")
        if record.name not in given and (record.is_enabled or record.is_missed):
            wanted.append(record)
    for problem in registry.problems:
        _log.warning("%s", inert(problem))
    return wanted
