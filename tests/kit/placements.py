"""The placements that one contract is tested in, and hosts with plugins in one of them.

A test takes `placed` and runs once in each placement, with the same body. The plugins are classes of the package
`placed_plugins` in tests/placements; `placed("hooks:Judges")` names one. What may differ is a fact of the placement,
and a row of the table in docs/explanation/placements.md.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import orjson
from attrs import evolve, frozen

from ally_plugins import Host, PluginRecord
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.process_spec import Daemon, Timing
from ally_plugins.runtime.sandbox.support import support
from tests.kit.fleets import has_server, running_server, serving, shared
from tests.kit.hosts import make_record, new_host
from tests.kit.waiting import PATIENCE

if TYPE_CHECKING:
    from ally_plugins.fleet.worker import Worker

FOLDER = str(Path(__file__).parents[1] / "placements")
if FOLDER not in sys.path:
    sys.path.append(FOLDER)  # a plugin's process finds its code there too, under the same name

PLUGINS = "placed_plugins"


@frozen(kw_only=True)
class Placement:
    """One way to run a plugin: `plugin` makes of MODULE:CLASS and a record what `Host(plugins=...)` takes.

    The other fields are the differences between placements, each with its reason in docs/explanation/placements.md.
    """

    name: str
    plugin: Callable[[str, PluginRecord], Any]
    tells_what_was_raised: bool
    """Whether reasons and records quote the text of what a plugin's code raised; its type always stands there."""
    starts_again: bool
    """Whether a plugin that cannot be interrupted, or is too slow to start, starts again instead of being out."""
    keeps_python_values: bool
    """Whether values that are no JSON, such as tuples, stay what they are between plugin and host."""
    sends_anything: bool
    """Whether arguments that JSON cannot say reach the bus, which counts and records their refusal."""
    imports_late: bool
    """Whether the host, not whoever gives it the class, has the plugin's module imported."""
    bounds_what_is_said: bool
    """Whether everything that a plugin says at once has a limit in bytes, that of a frame, before any budget."""
    makes_logs_one_line: bool
    """Whether a record of the plugin's log is one line, with what a terminal would obey written out."""
    remembers_each_event: bool
    """Whether code that outlives its hook is known by the very event of that hook, not by the last of its burst."""
    shares_the_hosts_loop: bool
    """Whether the plugin's code runs in the host's own process."""
    is_elsewhere: bool
    """Whether a worker runs the plugin, and the host only has a link to it."""


def _inline(target: str, record: PluginRecord) -> Any:
    module, _, name = target.partition(":")
    return reduce(getattr, name.split("."), import_module(module)), record


def _process(target: str, record: PluginRecord) -> Any:
    # Patient with a busy machine: what is slow here is no finding.
    return Daemon.python(target, env={"PYTHONPATH": FOLDER}, timing=Timing(startup_timeout=PATIENCE)), record


def _sandbox(target: str, record: PluginRecord) -> Any:
    daemon, _ = _process(target, record)
    return daemon, evolve(record, config=evolve(record.config, placement="sandbox"))


def _shared(target: str, record: PluginRecord) -> Any:
    daemon, _ = _process(target, record)
    return daemon, shared(evolve(record, daemon=daemon))


_IN_PROCESS = Placement(
    name="process",
    plugin=_process,
    tells_what_was_raised=False,
    starts_again=True,
    keeps_python_values=False,
    sends_anything=False,
    imports_late=True,
    bounds_what_is_said=True,
    makes_logs_one_line=True,
    remembers_each_event=True,
    shares_the_hosts_loop=False,
    is_elsewhere=False,
)

PLACEMENTS = (
    Placement(
        name="inline",
        plugin=_inline,
        tells_what_was_raised=True,
        starts_again=False,
        keeps_python_values=True,
        sends_anything=True,
        imports_late=False,
        bounds_what_is_said=False,
        makes_logs_one_line=False,
        remembers_each_event=False,
        shares_the_hosts_loop=True,
        is_elsewhere=False,
    ),
    _IN_PROCESS,
    # Where there is no sandbox it runs as in a process, and its tests are worth no more.
    *([evolve(_IN_PROCESS, name="sandbox", plugin=_sandbox)] if support().has_filter else ()),
    *([evolve(_IN_PROCESS, name="shared", plugin=_shared, is_elsewhere=True)] if has_server() else ()),
)


_WORKERS: WeakKeyDictionary[Host, Worker] = WeakKeyDictionary()


@frozen
class PlacedSetup:
    """A plugin with what its operator has settled, in a placement."""

    placement: Placement
    target: str
    options: Mapping[str, Any]

    def under(self, name: str) -> Any:
        """Return what a host takes under a name."""
        return self.placement.plugin(self.target, make_record(name, **self.options))


@frozen
class Placed:
    """Makes plugins and hosts in one placement."""

    placement: Placement

    def __call__(
        self,
        target: str,
        grants: Iterable[str] | None = None,
        *,
        manifest: str | None = None,
        settings: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> PlacedSetup:
        """Set a plugin up; `manifest` is TOML, `config` what `[plugins.NAME]` may have."""
        read = Manifest.from_text(manifest) if manifest is not None else None
        options = {"manifest": read, "grants": grants, "settings": settings, **config}
        return PlacedSetup(self.placement, f"{PLUGINS}.{target}", options)

    @asynccontextmanager
    async def host(self, plugins: Mapping[str, PlacedSetup | Any], **options: Any) -> AsyncIterator[Host]:
        """Run a host that keeps nothing and discovers nothing."""
        given = {name: each.under(name) if isinstance(each, PlacedSetup) else each for name, each in plugins.items()}
        if not (self.placement.is_elsewhere and given):  # nobody serves nothing
            async with new_host(given, **options) as host:
                yield host
            return
        records = [record for _, record in given.values() if record.placement == "shared"]
        with running_server(["host"], {"worker": sorted(given)}) as server:
            async with (
                serving(server.who("worker"), records) as worker,
                new_host(given, fleet=server.file("host"), **options) as host,
            ):
                _WORKERS[host] = worker
                yield host

    def kill_process(self, host: Host, name: str) -> None:
        """Kill the process that runs a plugin, by the number that it has for this process."""
        if host in _WORKERS:
            process = _WORKERS[host].process_of(name)
        else:
            supervisor = host.plugins[name].supervisor
            process = getattr(supervisor, "process", None)
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)

    def raised(self, words: str) -> str:
        """Return what a reason says of something that was raised: `words`, or of a placement that hides it the type."""
        return words if self.placement.tells_what_was_raised else words.partition(":")[0]


async def look(host: Host, name: str = "p") -> list[Any]:
    """Return what a plugin has noted in `seen`."""
    result = await host.call_tool("look", plugin=name)
    seen: list[Any] = orjson.loads(orjson.dumps(result.data))
    return seen


async def look_until(host: Host, is_so: Callable[[list[Any]], bool], name: str = "p") -> list[Any]:
    """Look at what a plugin has noted until it is so, and return it."""
    while not is_so(seen := await look(host, name)):  # noqa: ASYNC110 - the host tells no event of it
        await asyncio.sleep(0.01)
    return seen


async def call(host: Host, method: str, *arguments: Any, session_id: str | None = None, **keywords: Any) -> Any:
    """Let the plugin `p` make an outbound call from a tool; return what came of it, as `calls.outcome` says."""
    given = {"method": method, "arguments": list(arguments), "keywords": keywords}
    result = await host.call_tool("call", given, plugin="p", session_id=session_id)
    return orjson.loads(orjson.dumps(result.data))


async def records_of(host: Host, kind: str, **filters: Any) -> list[Any]:
    """Return what stands in the journal, with what was to be written soon."""
    await host.journal.flush()
    return list(host.journal.reader.records(kind=kind, **filters))


def collect_events(host: Host) -> list[Any]:
    """Return a list into which every event of a host comes."""
    events: list[Any] = []
    host.stream.subscribe("*", events.append)
    return events
