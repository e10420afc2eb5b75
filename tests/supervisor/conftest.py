"""A host with three plugins: a daemon that misbehaves, one that does not, and an inline one, which must not care."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, PluginRecord, ToolCall, hookimpl, tool
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.process_spec import Daemon, ProcessLimits, Timing
from ally_plugins.policy.permissions import GrantSet

if TYPE_CHECKING:
    from ally_plugins.policy.verdicts import Vote
    from ally_plugins.runtime.lanes.plugin import Plugin

KIT = Path(__file__).with_name("daemon_kit.py").read_text(encoding="utf-8")

PATIENCE = 30.0
"""Seconds that a busy machine may take for anything; a test that waits so long has failed."""

CALL = ToolCall("bash", {"command": "ls"}, "c1")

GOOD = """
serve(
    hello={"hooks": ["ally_gate_tool_call"], "tools": [{"name": "good"}], "events": []},
    gate=lambda params: {"verdict": "allow"},
    call_tool=lambda params: params["arguments"],
)
"""


class Inline:
    """The inline plugin beside the daemons."""

    def __init__(self, ally: Any) -> None:
        del ally

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> None:
        """Abstain."""

    @tool
    async def inline(self, number: int) -> int:
        """Return the number."""
        return number


class Stage:
    """One host that runs, its only session, and the plugin `bad` in it."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.folder = folder
        self.host = host
        self.session = host.session("s")
        self._calls = 0

    @property
    def bad(self) -> Plugin:
        return self.host.plugins["bad"]

    @property
    def pid(self) -> int:
        """The process that runs now."""
        supervisor = self.bad.supervisor
        assert supervisor is not None
        assert supervisor.process is not None
        return supervisor.process.pid

    async def until(self, predicate: Callable[[], Any], what: str = "") -> float:
        """Wait until something is so, and return how long that took."""
        begin = time.monotonic()
        while not predicate():
            if time.monotonic() - begin > PATIENCE:
                raise AssertionError(f"{what or 'it'} has not happened; bad is {self.bad.state}: {self.bad.reason}")
            await asyncio.sleep(0.005)
        return time.monotonic() - begin

    async def reached(self, *states: str) -> str:
        """Wait until `bad` is in one of these states; return the reason that it has then."""
        await self.until(lambda: self.bad.state in states, " or ".join(states))
        return self.bad.reason

    async def restarted(self) -> None:
        """Wait until `bad` has failed and runs again."""
        supervisor = self.bad.supervisor
        assert supervisor is not None
        before = supervisor.started
        await self.until(lambda: supervisor.started > before and self.bad.state == "running", "a restart")

    async def vote(self) -> Vote | None:
        """Ask the gates, and return what became of the one of `bad`."""
        ruling = await self.session.gate_tool_call(CALL)
        return next((vote for vote in ruling.votes if vote.plugin == "bad"), None)

    async def others_answer(self) -> None:
        """Assert that the other plugins answer gates and tools, as if there were nobody else."""
        self._calls += 1
        async with asyncio.timeout(PATIENCE):
            good = await self.host.call_tool("good", {"number": self._calls})
            inline = await self.host.call_tool("inline", {"number": self._calls})
        assert good.success
        assert json.loads(good.output) == {"number": self._calls}
        assert (inline.success, inline.output) == (True, str(self._calls))
        async with asyncio.timeout(PATIENCE):
            ruling = await self.session.gate_tool_call(CALL)
        votes = {vote.plugin: vote for vote in ruling.votes if vote.plugin != "bad"}
        assert {name: vote.cause for name, vote in votes.items()} == {"good": "verdict", "inline": "verdict"}
        assert self.host.plugins["good"].counts.crashes == 0
        assert self.host.plugins["good"].state == self.host.plugins["inline"].state == "running"

    def cue(self) -> None:
        """Let the daemon go on that waits for its cue."""
        (self.folder / "notes.cue").write_text("")

    def notes(self) -> list[Any]:
        """Return what the daemon has told the test."""
        file = self.folder / "notes"
        if not file.exists():
            return []
        return [
            json.loads(line) for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"
        ]

    async def noted(self, count: int = 1) -> list[Any]:
        """Wait until the daemon has told so much, and return all of it."""
        await self.until(lambda: len(self.notes()) >= count, f"{count} notes")
        return self.notes()


class Script:
    """Makes daemons of a few lines, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def daemon(self, body: str, name: str = "bad", **more: Any) -> Daemon:
        """Return the daemon whose script is the kit and these lines."""
        script = self.folder / f"{name}.py"
        script.write_text(f"{KIT}\n{body}\n", encoding="utf-8")
        env = {"NOTES": str(self.folder / "notes"), **more.pop("env", {})}
        return Daemon((sys.executable, "-I", "-S", str(script)), env=env, **more)


class Theatre:
    """Raises the curtain: `async with theatre(body, ...) as stage`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = Script(folder)

    @contextlib.asynccontextmanager
    async def __call__(  # noqa: PLR0913 - all by name
        self,
        body: str = "",
        *,
        daemon: Daemon | None = None,
        grants: Iterable[str] = ("events:*",),
        timing: dict[str, Any] | None = None,
        limits: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        declares: Iterable[str] | None = None,
        home: Path | None = None,
        settings: dict[str, Any] | None = None,
    ) -> AsyncIterator[Stage]:
        """Run a host; `timing` and `limits` are the daemon's, `config` what the operator has settled."""
        bad = daemon or self.script.daemon(
            body,
            timing=Timing(**{"shutdown_grace": 0.5, **(timing or {})}),
            limits=ProcessLimits(**(limits or {})),
        )
        granted = GrantSet.of(grants)
        settled = {**(config or {}), "deadlines": {"ally_stop": 0.5, **(config or {}).get("deadlines", {})}}
        manifest = Manifest() if declares is None else Manifest(requests=_requests(declares))
        record = PluginRecord.by_code(
            "bad",
            manifest,
            grants=granted,
            config=PluginConfig(enabled=True, is_decided=True, grants=granted, **settled),
            daemon=bad,
            settings=settings,
        )
        plugins = {"bad": (bad, record), "good": self.script.daemon(GOOD, "good"), "inline": Inline}
        host = Host("test", home=home, discover=False, plugins=plugins)
        async with host:
            yield Stage(self.folder, host)


def _requests(texts: Iterable[str]) -> tuple[Any, ...]:
    from ally_plugins.contract.manifest import Request
    from ally_plugins.policy.permissions import Grant

    return tuple(Request(Grant.parse(text), "") for text in texts)


@pytest.fixture
def theatre(tmp_path: Path) -> Theatre:
    return Theatre(tmp_path)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def run_all(main: Coroutine[Any, Any, Any], seconds: float = 150) -> Any:
    """Run a coroutine on a new loop; what hangs is a failure, and so is a process that is left."""

    async def limited() -> Any:
        async with asyncio.timeout(seconds):
            return await main

    return asyncio.run(limited())


@pytest.fixture
def go() -> Callable[..., Any]:
    return run_all


def is_alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def alive() -> Callable[[int], bool]:
    return is_alive


def print_times(**seconds: float) -> None:
    """Show what was measured, with `-s` or `-rA`."""
    for name, value in seconds.items():
        print(f"measured {name}: {value * 1000:.1f} ms")  # noqa: T201


@pytest.fixture
def measured() -> Callable[..., None]:
    return print_times
