"""What the person decides outside of the agent: one denied call, once; a pause; and who may not decide that."""

from __future__ import annotations

import asyncio
import json
import os
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Allow, Ask, Deny, Host, ToolCall
from ally_plugins.adapters.coding.serving import conversations as conversations_module
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.home.machine_policy import MachinePolicy
from ally_plugins.contract.values.errors import NotFoundRefused, UnavailableRefused
from ally_plugins.host.bus.records import Records
from ally_plugins.host.control import overrides as control
from ally_plugins.host.control.client import call_all, hosts_of
from ally_plugins.host.sessions.overrides import ALLOWED_SECONDS, HOSTS_OWN, Overrides
from ally_plugins.journal.process_identity import parent_and_start
from ally_plugins.testing.agents.reactions import Reaction, react
from tests.kit.commands import run_command
from tests.kit.hosts import make_plugin, setup
from tests.kit.waiting import go

from .test_own_gate import SHELL_EVENTS, shell_payload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

ID = re.compile(r"ally-plugins allow (d-[\w-]+)")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ruled(
    overrides: Overrides, *, topic: str = "tool_call", tool: str = "bash", project: str | None = "/p", **arguments: Any
) -> str | None:
    return overrides.of("claude", "claude-1", project).why_allowed(topic, tool, arguments, f"d-{len(arguments)}", "no")


def allowed(**arguments: Any) -> tuple[Overrides, Clock]:
    clock = Clock()
    overrides = Overrides(clock)
    assert ruled(overrides, **arguments) is None
    overrides.allow(overrides.find(f"d-{len(arguments)}"))
    return overrides, clock


@pytest.mark.parametrize(
    "other",
    [
        {"command": "rm -rf /"},
        {"command": "rm -rf x", "timeout": 1},
        {"command": ["rm -rf x"]},
        {"command": "rm -rf x", "tool": "Bash"},
        {"command": "rm -rf x", "project": "/other"},
        {"command": "rm -rf x", "project": None},
        {"command": "rm -rf x", "topic": "user_message"},
        {},
    ],
    ids=str,
)
def test_another_call_than_the_one_that_was_allowed_is_denied(other: dict[str, Any]) -> None:
    overrides, _ = allowed(command="rm -rf x")
    assert ruled(overrides, **other) is None
    assert ruled(overrides, command="rm -rf x") == "allowed once by the person, who was asked about d-1"


def test_a_call_that_was_allowed_runs_once_and_each_that_asks_about_it_is_answered_once() -> None:
    overrides, _ = allowed(command="rm -rf x")
    for topic in (HOSTS_OWN, "tool_call", "permission"):
        assert ruled(overrides, topic=topic, command="rm -rf x")
    for topic in (HOSTS_OWN, "tool_call", "permission"):
        assert ruled(overrides, topic=topic, command="rm -rf x") is None


def test_after_a_call_was_let_run_its_permission_question_is_answered_for_a_moment_only() -> None:
    overrides, clock = allowed(command="rm -rf x")
    assert ruled(overrides, command="rm -rf x")
    clock.now += 10
    assert ruled(overrides, topic="permission", command="rm -rf x") is None


def test_ten_minutes_later_it_is_denied() -> None:
    overrides, clock = allowed(command="rm -rf x")
    clock.now = ALLOWED_SECONDS
    assert ruled(overrides, command="rm -rf x") is None


def test_what_was_never_denied_cannot_be_allowed() -> None:
    overrides, _ = allowed(command="rm -rf x")
    for name in ("d-1", "d-9", ""):
        with pytest.raises(NotFoundRefused, match="no denied call"):
            overrides.find(name)


def test_thousands_of_denials_are_not_kept() -> None:
    overrides = Overrides(Clock())
    for number in range(5000):
        overrides.of("claude", "s", None).why_allowed("tool_call", "bash", {"n": number}, f"d-{number}", "no")
    assert not overrides.is_known("d-0")
    assert overrides.is_known("d-4999")


# --- on a host ---


def denies(self: Any, call: ToolCall) -> Deny | Allow:  # noqa: ARG001
    return Deny("too dangerous") if "rm" in str(call.arguments) else Allow()


def asks(self: Any, call: ToolCall) -> Ask:  # noqa: ARG001
    return Ask("is that meant?")


class Served:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.conversations = Conversations(host)
        self.calls = 0

    async def hook(self, agent: str, line: str) -> tuple[Reaction, str]:
        """Return what the agent does with the answer to a call of its shell, and the id that the answer names."""
        payload, event = shell_payload(agent, line), SHELL_EVENTS[agent]
        self.calls += 1
        if "tool_use_id" in payload:
            payload["tool_use_id"] = f"toolu_{self.calls}"
        for name in ("callID", "toolCallId"):
            for holder in (payload, *(each for each in payload.values() if isinstance(each, dict))):
                if name in holder:
                    holder[name] = f"call_{self.calls}"
        reply = await self.conversations.reply(agent, event, json.dumps(payload).encode(), 30)
        found = ID.search(reply.stdout + reply.stderr)
        return react(agent, event, payload, (reply.exit_code, reply.stdout, reply.stderr)), found[1] if found else ""

    async def run(self, *words: str, code: int = 0) -> str:
        done = await asyncio.to_thread(run_command, *words, code=code)
        return done.stdout + done.stderr


@asynccontextmanager
async def serving(home: Path, gate: Callable[..., Any] = denies) -> AsyncIterator[Served]:
    given = setup(make_plugin(ally_gate_tool_call=gate), ["gate:tool_call"]).under("p")
    async with Host(home=Home("ally-plugins", home), discover=False, plugins={"p": given}) as host:
        yield Served(host)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALLY_HOME", str(tmp_path))
    return tmp_path


def test_below_the_agent_nobody_allows_or_pauses_anything(home: Path) -> None:
    async def main() -> None:
        async with serving(home) as served:
            _, denial = await served.hook("claude", "rm x")
            found = parent_and_start(os.getppid())
            assert found is not None
            assert served.host.guarded_agents is not None
            served.host.guarded_agents.note("claude", os.getppid(), found[1])
            for file in served.host.guarded_agents.folder.iterdir():
                file.unlink()
            for words in (("allow", denial), ("pause", "claude", "15m"), ("pause", "claude", "--off")):
                shown = await served.run(*words, code=1)
                assert "an agent loosens nothing here" in shown
            # Nor on the socket itself, without the command.
            hosts = hosts_of(Home("ally-plugins", home))
            for method, params in (("allow", {"decision": denial}), ("pause", {"agent": "claude", "seconds": 9})):
                (answer,) = await asyncio.to_thread(call_all, hosts, method, params)
                assert answer.reason == "permission"
            assert (await served.hook("claude", "rm x"))[0].stopped

    go(main())


@pytest.mark.parametrize("agent", sorted(SHELL_EVENTS))
def test_every_denial_names_what_lets_the_call_run_and_it_runs_once(agent: str, home: Path) -> None:
    async def main() -> None:
        async with serving(home) as served:
            found, denial = await served.hook(agent, "rm x")
            assert found.stopped
            assert denial
            assert "runs once" in await served.run("allow", denial)
            assert (await served.hook(agent, "rm y"))[0].stopped
            assert not (await served.hook(agent, "rm x"))[0].stopped
            found, other = await served.hook(agent, "rm x")
            assert found.stopped
            assert other not in {"", denial}
            assert f"no denied call '{denial}'" in await served.run("allow", denial, code=1)
        rows = [json.loads(each) for each in run_command("audit", "--json").stdout.splitlines()]
        (row,) = [each for each in rows if each["kind"] == "allow"]
        assert (row["id"], row["data"]["agent"]) == (denial, agent)
        (row,) = [each for each in rows if each["kind"] == "decision" and each["data"]["verdict"] == "allow"]
        assert row["data"]["decided_by"] == ["the person"]
        assert row["data"]["reason"] == f"allowed once by the person, who was asked about {denial}"
        assert row["data"]["votes"][0]["verdict"] == "deny"

    go(main())


@pytest.mark.parametrize("agent", ["codex", "gemini", "goose"])
def test_a_question_that_the_agent_cannot_put_is_a_denial_that_can_be_allowed(agent: str, home: Path) -> None:
    async def main() -> None:
        async with serving(home, asks) as served:
            found, denial = await served.hook(agent, "ls")
            assert found.stopped
            await served.run("allow", denial)
            assert not (await served.hook(agent, "ls"))[0].stopped

    go(main())


def test_what_the_hosts_own_gate_denied_can_be_allowed_and_plugins_are_asked_then(home: Path) -> None:
    async def main() -> None:
        async with serving(home) as served:
            for line in ("echo {} > .claude/settings.json", "rm .claude/settings.json"):
                _, denial = await served.hook("claude", line)
                await served.run("allow", denial)
                assert not (await served.hook("claude", line))[0].stopped
                assert (await served.hook("claude", line))[0].stopped
            _, denial = await served.hook("claude", "echo {} > .claude/settings.json; rm y")
            await served.run("allow", denial)
            # The allowance is for the call, whoever asks about it.
            assert not (await served.hook("claude", "echo {} > .claude/settings.json; rm y"))[0].stopped

    go(main())


def test_where_the_machines_policy_forbids_it_no_denial_names_it_and_nothing_is_allowed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def policy() -> MachinePolicy:
        return MachinePolicy(file="x", allow=False, pause=False)

    monkeypatch.setattr(conversations_module, "read_policy", policy)
    monkeypatch.setattr(control, "read_policy", policy)

    async def main() -> None:
        async with serving(home) as served:
            found, denial = await served.hook("claude", "rm x")
            assert (found.stopped, denial) == (True, "")
            rows = [json.loads(each) for each in (await served.run("audit", "--json")).splitlines()]
            (known,) = [each["id"] for each in rows if each["kind"] == "decision"]
            assert "policy lets nobody allow" in await served.run("allow", known, code=1)
            assert "policy lets nobody pause" in await served.run("pause", "claude", "15m", code=1)
            assert (await served.hook("claude", "rm x"))[0].stopped

    go(main())


def test_what_cannot_be_recorded_is_not_allowed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any) -> int:
        raise UnavailableRefused("the disk is full")

    async def main() -> None:
        async with serving(home) as served:
            _, denial = await served.hook("claude", "rm x")
            with monkeypatch.context() as patched:
                patched.setattr(Records, "write", full)
                for words in (("allow", denial), ("pause", "claude", "15m")):
                    assert "the disk is full" in await served.run(*words, code=1)
            assert (await served.hook("claude", "rm x"))[0].stopped

    go(main())


def test_a_pause_is_for_one_agent_and_leaves_the_hosts_own_gate(home: Path) -> None:
    async def main() -> None:
        async with serving(home) as served:
            assert "decide nothing for 15m" in await served.run("pause", "claude", "15m")
            assert not (await served.hook("claude", "rm x"))[0].stopped
            assert (await served.hook("codex", "rm x"))[0].stopped
            assert (await served.hook("claude", "ally-plugins disable p"))[0].stopped
            assert (await served.hook("claude", "rm ~/.claude/settings.json"))[0].stopped
            assert "decide again" in await served.run("pause", "claude", "--off")
            assert (await served.hook("claude", "rm x"))[0].stopped
            served.host.services.overrides.pause("claude", 60)
            served.host.services.overrides.steady = lambda: 1e12
            assert (await served.hook("claude", "rm x"))[0].stopped
        shown = run_command("audit").stdout
        assert "claude: its gates decide nothing for 900 s" in shown
        assert "the person has paused the gates of claude; denied else: p: too dangerous" in shown

    go(main())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("pause", "claude"), 2),
        (("pause", "claude", "0m"), 2),
        (("pause", "claude", "9h"), 2),
        (("pause", "claude", "soon"), 2),
        (("pause", "claude", "15m", "--off"), 2),
        (("pause", "nobody", "15m"), 2),
        (("pause", "claude", "15m"), 1),
        (("allow", "d-1"), 1),
        (("why",), 1),
    ],
)
def test_what_cannot_be_done_is_said(words: tuple[str, ...], code: int, home: Path) -> None:  # noqa: ARG001 - a home
    assert run_command(*words, code=code).stderr.startswith("ally-plugins: ")


def test_a_host_of_another_program_has_no_agent_to_pause(home: Path) -> None:
    async def main() -> None:
        async with Host(home=Home("ally-plugins", home), discover=False):
            done = await asyncio.to_thread(run_command, "pause", "claude", "15m", code=1)
            assert "this host takes no hooks of 'claude'" in done.stderr

    go(main())


def test_why_says_the_last_decision_of_an_agent_with_what_it_was_about(home: Path) -> None:
    async def main() -> None:
        async with serving(home) as served:
            _, denial = await served.hook("claude", "rm -rf build")
            await served.hook("codex", "ls")
            shown = await served.run("why", "claude")
            assert "claude: tool_call of Bash was denied by p: p: too dangerous." in shown
            assert "it was about: rm -rf build" in shown
            assert f"ally-plugins explain {denial}" in shown
            found = json.loads(await served.run("why", "--json"))
            assert (found["agent"], found["decision"]["data"]["verdict"]) == ("codex", "allow")
            assert "nothing was decided about a call of goose" in await served.run("why", "goose", code=1)

    go(main())
