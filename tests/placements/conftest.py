"""What the tests of the contract share: the placements that they run in, and hosts with plugins in one of them.

Every test here takes `placed` and runs once in each placement, with the same body. The plugins are classes of the
package `placed_plugins` beside this file; `placed("hooks:Judges")` names one. What may differ is a fact of the
placement, and a row of the table in docs/explanation/placements.md.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson
import pytest
from attrs import frozen

from ally_plugins import Host, PluginRecord
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.process_spec import Daemon, Timing
from ally_plugins.policy.permissions import GrantSet

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)

PLUGINS = "placed_plugins"

PATIENCE = 60.0
"""Seconds that a busy machine may take for one test; what hangs is a failure."""


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


def _inline(target: str, record: PluginRecord) -> Any:
    module, _, name = target.partition(":")
    return reduce(getattr, name.split("."), import_module(module)), record


def _process(target: str, record: PluginRecord) -> Any:
    # Patient with a busy machine: what is slow here is no finding.
    return Daemon.python(target, env={"PYTHONPATH": HERE}, timing=Timing(startup_timeout=PATIENCE)), record


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
    ),
    Placement(
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
    ),
)


@frozen
class Setup:
    """A plugin with what its operator has settled, in a placement."""

    placement: Placement
    target: str
    manifest: Manifest | None
    grants: Iterable[str] | None
    settings: Mapping[str, Any]
    config: Mapping[str, Any]

    def under(self, name: str) -> Any:
        """Return what a host takes under a name. Without grants and manifest it has everything."""
        asked = GrantSet(self.manifest.grants) if self.manifest and self.manifest.requests else GrantSet.everything()
        granted = asked if self.grants is None else GrantSet.of(self.grants)
        record = PluginRecord.by_code(
            name,
            self.manifest,
            grants=granted,
            config=PluginConfig(enabled=True, is_decided=True, grants=granted, **self.config),
            settings=self.settings,
        )
        return self.placement.plugin(self.target, record)


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
    ) -> Setup:
        """Set a plugin up; `manifest` is TOML, `config` what `[plugins.NAME]` may have."""
        read = Manifest.from_text(manifest) if manifest is not None else None
        return Setup(self.placement, f"{PLUGINS}.{target}", read, grants, settings or {}, config)

    @asynccontextmanager
    async def host(self, plugins: Mapping[str, Setup | Any], **options: Any) -> AsyncIterator[Host]:
        """Run a host that keeps nothing and discovers nothing."""
        given = {name: each.under(name) if isinstance(each, Setup) else each for name, each in plugins.items()}
        async with Host("test", **{"home": None, "discover": False, "plugins": given, **options}) as host:
            yield host

    def raised(self, words: str) -> str:
        """Return what a reason says of something that was raised: `words`, or of a placement that hides it the type."""
        return words if self.placement.tells_what_was_raised else words.partition(":")[0]


def _run_within(main: Coroutine[Any, Any, Any], seconds: float = PATIENCE) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(seconds):
            return await main

    return asyncio.run(limited())


async def _look(host: Host, name: str = "p") -> list[Any]:
    """Return what a plugin has noted in `seen`."""
    result = await host.call_tool("look", plugin=name)
    seen: list[Any] = orjson.loads(orjson.dumps(result.data))
    return seen


async def _call(host: Host, method: str, *arguments: Any, session_id: str | None = None, **keywords: Any) -> Any:
    """Let the plugin `p` make an outbound call from a tool; return what came of it, as `placed_calls.outcome` says."""
    given = {"method": method, "arguments": list(arguments), "keywords": keywords}
    result = await host.call_tool("call", given, plugin="p", session_id=session_id)
    return orjson.loads(orjson.dumps(result.data))


async def _until(is_so: Callable[[], Any]) -> None:
    """Wait for something that the host tells no event of; a test that waits for ever fails by its own limit."""
    while not is_so():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.01)


async def _shows(host: Host, is_so: Callable[[list[Any]], bool], name: str = "p") -> list[Any]:
    """Look at what a plugin has noted until it is so, and return it."""
    while not is_so(seen := await _look(host, name)):  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.01)
    return seen


@pytest.fixture(params=PLACEMENTS, ids=lambda placement: placement.name)
def placed(request: pytest.FixtureRequest) -> Placed:
    return Placed(request.param)


@pytest.fixture
def go() -> Callable[..., Any]:
    return _run_within


@pytest.fixture
def look() -> Callable[..., Any]:
    return _look


@pytest.fixture
def shows() -> Callable[..., Any]:
    return _shows


@pytest.fixture
def call() -> Callable[..., Any]:
    return _call


async def _records(host: Host, kind: str, **filters: Any) -> list[Any]:
    """Return what stands in the journal, with what was to be written soon."""
    await host.journal.flush()
    return list(host.journal.reader.records(kind=kind, **filters))


@pytest.fixture
def records() -> Callable[..., Any]:
    return _records


@pytest.fixture
def describe() -> Callable[[Any], dict[str, Any]]:
    """Return what the plugins' module makes of an event."""
    made: Callable[[Any], dict[str, Any]] = import_module(f"{PLUGINS}.hooks").describe
    return made


@pytest.fixture
def until() -> Callable[..., Any]:
    return _until


@pytest.fixture
def told() -> Callable[[Host], list[Any]]:
    """Return what makes a list into which every event of a host comes."""

    def listen(host: Host) -> list[Any]:
        events: list[Any] = []
        host.stream.subscribe("*", events.append)
        return events

    return listen
