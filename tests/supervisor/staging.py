"""A host with three plugins: a daemon that misbehaves, one that does not, and an inline one, which must not care."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ally_plugins import Host, ToolCall, hookimpl, tool
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.process_spec import Daemon, ProcessLimits, Timing
from tests.kit.daemons import give_cue, notes_in, write_daemon
from tests.kit.hosts import make_record
from tests.kit.waiting import PATIENCE, until

if TYPE_CHECKING:
    from ally_plugins.policy.verdicts import Vote
    from ally_plugins.runtime.lanes.plugin import Plugin

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
        self.failures: list[str] = []
        """Why `bad` was in `backoff`, each time: the first is short, and over when something else is waited for."""
        self._awaited = 0
        self._starts = 1
        self._calls = 0
        host.stream.subscribe("PLUGIN_STATE", self._note_state)

    def _note_state(self, event: Any) -> None:
        if (event.plugin_name, event.state) == ("bad", "backoff"):
            self.failures.append(event.reason)

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
        return await until(predicate, lambda: f"{what or 'it'}; bad is {self.bad.state}: {self.bad.reason}")

    async def reached(self, *states: str) -> str:
        """Wait until `bad` is in one of these states; return the reason that it has then.

        A `backoff` that nobody has waited for yet counts, though it may be over.
        """

        def has_failed() -> bool:
            return "backoff" in states and len(self.failures) > self._awaited

        await self.until(lambda: has_failed() or self.bad.state in states, " or ".join(states))
        reason = self.failures[-1] if has_failed() else str(self.bad.reason)
        self._awaited = len(self.failures)
        return reason

    async def restarted(self) -> None:
        """Wait until `bad` has failed and runs again; a restart that nobody has waited for yet counts."""
        supervisor = self.bad.supervisor
        assert supervisor is not None
        await self.until(lambda: supervisor.started > self._starts and self.bad.state == "running", "a restart")
        self._starts = supervisor.started

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
        give_cue(self.folder)

    def notes(self) -> list[Any]:
        """Return what the daemon has told the test."""
        return notes_in(self.folder)

    async def noted(self, count: int = 1) -> list[Any]:
        """Wait until the daemon has told so much, and return all of it."""
        await self.until(lambda: len(self.notes()) >= count, f"{count} notes")
        return self.notes()


class Theatre:
    """Raises the curtain: `async with theatre(body, ...) as stage`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
    ) -> AsyncIterator[Any]:
        """Run a host; `timing` and `limits` are the daemon's, `config` what the operator has settled.

        Its `Stage` is of no type to the tests, which look inside much that may be None.
        """
        bad = daemon or write_daemon(
            self.folder,
            body,
            timing=Timing(**{"shutdown_grace": 0.5, **(timing or {})}),
            limits=ProcessLimits(**(limits or {})),
        )
        settled = {**(config or {}), "deadlines": {"ally_stop": 0.5, **(config or {}).get("deadlines", {})}}
        manifest = Manifest() if declares is None else Manifest(requests=_requests(declares))
        record = make_record("bad", manifest, grants=grants, settings=settings, daemon=bad, **settled)
        plugins = {"bad": (bad, record), "good": write_daemon(self.folder, GOOD, "good"), "inline": Inline}
        host = Host("test", home=home, discover=False, plugins=plugins)
        async with host:
            yield Stage(self.folder, host)


def _requests(texts: Iterable[str]) -> tuple[Any, ...]:
    from ally_plugins.contract.manifest import GrantRequest
    from ally_plugins.policy.permissions import Grant

    return tuple(GrantRequest(Grant.parse(text), "") for text in texts)


def print_times(**seconds: float) -> None:
    """Show what was measured, with `-s` or `-rA`."""
    for name, value in seconds.items():
        print(f"measured {name}: {value * 1000:.1f} ms")  # noqa: T201
