"""What the tests of the control socket share: a home that is prepared, and a plugin installed beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ally_plugins import Host
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.registry import Registry
from tests.kit.sites import Site

MANIFEST = """
description = "guards the shell"
requires_host = ">=1,<2"
[events]
subscribe = ["TOOL_CALL_END", "PLUGIN_STATE"]
reason = "to count"
[permissions]
add_message = { roles = ["user"], reason = "to speak" }
gate = { on = ["tool_call"], tools = ["bash"], reason = "to guard" }
tools = { reason = "to tell" }
tasks = { reason = "to wait" }
[settings.word]
type = "string"
default = "rm"
description = "what is denied"
"""

CODE = '''
import asyncio

from ally_plugins import Deny, hookimpl, tool

LIFE = []
BUILT = []

class Plugin:
    def __init__(self, ally):
        self.ally = ally
        self.ends = 0
        self.states = []
        self.hold = None
        BUILT.append(self)

    @hookimpl
    async def ally_start(self):
        LIFE.append("start")

    @hookimpl
    async def ally_stop(self):
        LIFE.append("stop")
        await asyncio.sleep(0.05)

    @hookimpl
    async def ally_gate_tool_call(self, call):
        if self.hold is not None:
            await self.hold.wait()
        return Deny("guarded") if self.ally.settings["word"] in call.arguments.get("command", "") else None

    @hookimpl
    async def ally_tool_call_end(self, event):
        self.ends += 1
        if self.ends == 1 and self.hold is not None:
            await self.hold.wait()

    @hookimpl
    async def ally_plugin_state(self, event):
        self.states.append((event.state, event.reason))

    @tool
    async def count(self) -> int:
        """Tell how many there were."""
        return self.ends
'''


class Operated:
    """A site, and the registry of the home that agrees to the plugins in it."""

    def __init__(self, folder: Path, home: Home) -> None:
        self.site = Site(folder)
        self.home = home
        self.registry = Registry(home)
        self.manifest = MANIFEST
        self.code = CODE

    def install(self, name: str = "ctl-guard", *, manifest: str = MANIFEST, code: str = CODE) -> None:
        """Leave a distribution with one plugin, in the place of an earlier one."""
        self.site.plugin(name, manifest, code=code)

    def enable(self, name: str = "ctl-guard") -> None:
        """Agree to all that a plugin asks for; a new one is placed inside the process of the host, where tests look."""
        is_new = self.registry.get(name).is_unplaced
        self.registry.enable(self.registry.plan(name, placement="inline" if is_new else None))

    def new_host(self, **options: Any) -> Host:
        """Return a host on this home, which is not started yet."""
        return Host("test", home=self.home, **options)

    def module(self, name: str = "ctl-guard") -> Any:
        """Return the plugin's module, which a host has imported."""
        return sys.modules[name.replace("-", "_")]


@pytest.fixture
def site(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operated]:
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))
    made = Operated(folder, Home("test", home))
    made.home.prepare()
    yield made
    for name in [name for name in sys.modules if name.startswith("ctl_")]:
        del sys.modules[name]


@pytest.fixture
def guarded(site: Operated) -> Operated:
    """Return a site with the guard installed and agreed to."""
    site.install()
    site.enable()
    return site


@pytest.fixture
def ready(home: Path) -> Home:
    """Return a home whose directories are there."""
    made = Home("test", home)
    made.prepare()
    return made


@pytest.fixture
def long_home(tmp_path: Path) -> Home:
    """Return a home in a folder whose path is longer than that of any socket may be."""
    made = Home("test", tmp_path / ("d" * 120) / "home")
    made.prepare()
    return made
