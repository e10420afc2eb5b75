"""What a host does before it starts plugins: consent given by code, which plugins are wanted, what it serves."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ally_plugins.catalog.home.filesystems import NETWORK_REMEDY, network_problem
from ally_plugins.catalog.home.folder import MAX_STATE_BYTES
from ally_plugins.catalog.settling import keep_tightened
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.errors import ConfigError, ConsentError, HostError
from ally_plugins.contract.values.inert import inert
from ally_plugins.host.sockets.leftovers import MAKER, is_gone, maker
from ally_plugins.journal.values import Record
from ally_plugins.runtime.lanes.marks_file import SIZE, SLOTS, read_marks
from ally_plugins.runtime.lanes.teardown import finished

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.catalog.registry import Plan, Registry
    from ally_plugins.contract.serves import Serves
    from ally_plugins.journal.journal import Journal

__all__ = [
    "ask_for_consent",
    "declare_served",
    "new_marks_file",
    "take_lost_hosts",
    "wanted_records",
    "warn_of_network",
]

_log: Final = logging.getLogger(__name__)

_MARKS: Final = re.compile(rf"plugins-{MAKER}[0-9a-f]+\.marks\Z")


async def ask_for_consent(
    registry: Registry, consent: Callable[[Plan], bool | Awaitable[bool]], journal: Journal, now_ms: Callable[[], int]
) -> None:
    """Call `consent` for each plugin that waits for consent; only True agrees, which is recorded as given by code.

    Raises what `consent` raises, and JournalError. Cancelling keeps what was agreed to before.
    """
    for record in await asyncio.to_thread(registry.review):
        if record.state == "waiting for consent":
            try:
                plan = await asyncio.to_thread(registry.plan, record.name)
            except ConsentError as error:  # such as that no sandbox can hold it, where one is required
                _log.warning("%s", error)
                continue
            answer = consent(plan)
            # Only True: a text such as 'no' is true to Python.
            if (await answer if inspect.isawaitable(answer) else answer) is True:
                data = {"grants": plan.grants.texts(), "by": "code", "placement": plan.record.placement}
                # The record first: nothing is granted of which there is none.
                await journal.append(Record("enable", now_ms(), record.name, None, None, data))
                await finished(asyncio.to_thread(registry.enable, plan, by="code"))


def declare_served(home: Home, serves: Serves) -> None:
    """Write to the home what is not served, so that `list` and `doctor` say which plugins wait for it in vain."""
    missing = sorted(serves.missing)
    try:
        # An empty list only replaces another one: most homes never have the file.
        if missing or home.not_served_file.exists():
            home.write(home.not_served_file, encode(missing), MAX_STATE_BYTES, durable=False)
    except OSError as error:
        _log.warning("what this host does not serve could not be written down: %s", error)


def warn_of_network(home: Home) -> None:
    """Log a warning for a home that lies on a network file system."""
    if (problem := network_problem(home.path)) is not None:
        _log.warning("%s; %s", problem, NETWORK_REMEDY)


def new_marks_file(home: Home) -> Path:
    """Return where this host marks which plugins' code runs in it; see `runtime.lanes.marks`."""
    return home.run_dir / f"plugins-{maker()}{os.urandom(4).hex()}.marks"


def take_lost_hosts(home: Home) -> list[tuple[int, list[tuple[str, str, bool]]]]:
    """Return the process ids of hosts that ended without stopping, each with what ran in it, and forget them.

    Of two hosts that start at the same time one gets it. Blocks on files; raises nothing.
    """
    found: list[tuple[int, list[tuple[str, str, bool]]]] = []
    with suppress(OSError):
        for name in sorted(os.listdir(home.run_dir)):  # noqa: PTH208 - as in `host.sockets.leftovers`
            if (match := _MARKS.match(name)) is not None:
                with suppress(OSError):
                    path = home.run_dir / name
                    if is_gone(int(match[1]), path.stat().st_ctime, match[2]):
                        content = home.read(path, SLOTS * SIZE) or b""
                        # Before it is added: of two hosts that read it, the one that removes it reports it.
                        path.unlink()
                        found.append((int(match[1]), read_marks(content)))
    return found


def wanted_records(registry: Registry, given: Collection[str], *, is_replay: bool = False) -> list[PluginRecord]:
    """Return the installed plugins to load, without those of a name in `given`, which the host has by code.

    Raises HostError for a mandatory plugin that is left out, and where the machine's policy misses one: in a replay,
    where nothing real is decided, it misses none.
    """
    wanted: list[PluginRecord] = []
    if not is_replay:
        try:
            keep_tightened(registry.home)
        except (ConfigError, ConsentError) as error:  # where it cannot be read, `load` says so
            _log.warning("what was settled is not kept: %s", error)
    records = registry.load()
    for record in records:
        if record.config.mandatory and record.state == "left out":
            raise HostError(f"the mandatory plugin {record.name!r} is left out: {record.reason}")
        if record.name not in given and (record.is_enabled or record.is_missed):
            wanted.append(record)
    if not is_replay and (missing := registry.missing_mandatory(records)):
        raise HostError(missing)
    for problem in registry.problems:
        _log.warning("%s", inert(problem))
    return wanted
