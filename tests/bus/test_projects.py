"""Sessions about a trusted project: what it narrows is held to, and nothing that it says loosens."""

from __future__ import annotations

import asyncio
import os
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Allow, GateRefused, Host, PermissionRefused, ToolCallEnd
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.project_trust import trust, untrust
from ally_plugins.catalog.projects.ally_folder import read_ally_folder
from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import HostError, ToolCallError
from ally_plugins.contract.values.events import PermissionRequest
from tests.kit.hosts import Setup, make_plugin, setup
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

pytestmark = pytest.mark.skipif(os.name != "posix", reason="projects are trusted on POSIX only")

CALL = ToolCall("bash", {"command": "ls"}, "c1")
GATE = ["gate:tool_call"]


class Projects:
    """A home and folders in it that are trusted."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(Home("test", folder / "home"))
        self.registry.home.prepare()
        self.root = folder / "repo"
        self.other = folder / "other"
        for each in (self.root / ".ally", self.other):
            each.mkdir(parents=True)

    def trust(self, text: str) -> None:
        (self.root / ".ally" / "project.toml").write_text(text)
        trust(self.registry, read_ally_folder(str(self.root), self.registry.home.path), "person")

    def host(self, **plugins: Setup) -> Host:
        given = {name: each.under(name) for name, each in plugins.items()}
        return Host("test", home=self.registry.home.path, discover=False, plugins=given)


@pytest.fixture
def projects(tmp_path: Path) -> Projects:
    return Projects(tmp_path)


def allowing(**members: Callable[..., Any]) -> type[Any]:
    def gate(self: Any, call: ToolCall) -> Any:
        self.seen.append(call.tool_name)
        return Allow()

    return make_plugin(ally_gate_tool_call=gate, **members)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Have a test run to its end in a loop of its own."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        go(test(*args, **kwargs))

    return run


async def decide(host: Host, project: Path | None, call: ToolCall = CALL) -> Any:
    return await host.session(project=project).gate_tool_call(call)


# --- tools ---


@pytest.mark.parametrize("plugins", [{}, {"p": setup(allowing(), GATE)}], ids=["no gate", "a gate"])
@in_loop
async def test_a_tool_that_the_project_denies_runs_in_none_of_its_sessions_and_everywhere_else(
    projects: Projects, plugins: dict[str, Setup]
) -> None:
    projects.trust('deny_tools = ["web"]\n')
    ran: list[str] = []

    async def run(call: ToolCall) -> ToolResult:
        ran.append(call.tool_name)
        return ToolResult(success=True)

    async with projects.host(**plugins) as host:
        here, there = host.session(project=projects.root), host.session(project=projects.other)
        (projects.root / "src").mkdir()
        below = host.session(project=projects.root / "src")
        own = ToolCall("fetch", {}, "c2", common_name="web")
        for session in (here, below):
            assert session.wants("tool_call")
            assert not session.passes("tool_call")
            for call in (ToolCall("web", {}, "c1"), own):
                result = await session.run_tool_call(call, run)
                assert not result.success
                assert f"{projects.root}/.ally denies the tool" in (result.error or "")
        assert ran == []
        assert (await there.run_tool_call(own, run)).success
        assert (await here.run_tool_call(CALL, run)).success
    assert ran == ["fetch", "bash"]


@in_loop
async def test_a_denied_tool_is_denied_when_permission_is_asked_and_when_a_provider_would_run_it(
    projects: Projects,
) -> None:
    projects.trust('deny_tools = ["web"]\n')
    async with projects.host() as host:
        session = host.session(project=projects.root)
        ruling = await session.gate_permission(PermissionRequest(request_id="r", tool_name="web", arguments={}))
        assert ruling.is_denied
        with pytest.raises(GateRefused, match="denies the tool 'web'"):
            await session.admit_ungated("agent", ["web"])
        await session.admit_ungated("agent", ["code"])


async def focused(host: Host, focus: str) -> bool:
    return (await host.session(focus=focus).gate_tool_call(ToolCall("web", {}, "c1"))).is_denied


@in_loop
async def test_the_focus_of_a_session_is_its_project_also_where_the_folder_is_gone(projects: Projects) -> None:
    projects.trust('deny_tools = ["web"]\n')
    async with projects.host() as host:
        (projects.other / "link").symlink_to(projects.root)
        for focus in (projects.root, projects.root / "gone", projects.other / ".." / "repo", projects.other / "link"):
            assert await focused(host, str(focus))
        for other in (str(projects.other), "", "repo", "a word", f"{projects.root}\0", "/"):
            assert not await focused(host, other)


# --- mandatory ---


@pytest.mark.parametrize(
    ("guard", "reason"),
    [
        (None, "it is not enabled"),
        (setup(allowing(), GATE, shadow=True), "it is in shadow mode"),
        (setup(allowing(), GATE, state="waiting for consent", reason="new"), "it is waiting: new"),
        (setup(make_plugin(), ["tools"]), "it was granted no gate and no transform"),
    ],
)
@in_loop
async def test_no_session_opens_without_a_plugin_that_its_project_makes_mandatory(
    projects: Projects, guard: Setup | None, reason: str
) -> None:
    projects.trust('mandatory = ["guard"]\n')
    async with projects.host(**({} if guard is None else {"guard": guard})) as host:
        with pytest.raises(HostError, match=f"makes 'guard' mandatory, and {reason}"):
            host.session(project=projects.root)
        host.session(project=projects.other)


@in_loop
async def test_no_call_runs_once_a_mandatory_plugin_guards_no_more(projects: Projects) -> None:
    projects.trust('mandatory = ["guard"]\n')
    redact = make_plugin(ally_transform_tool_output=lambda _self, call, result: None)  # noqa: ARG005 - the hook's
    async with projects.host(guard=setup(redact, ["transform:tool_output"])) as host:
        here, there = host.session(project=projects.root), host.session(project=projects.other)
        assert (await here.gate_tool_call(CALL)).is_allowed
        host.plugins["guard"].is_disabled = True
        ruling = await here.gate_tool_call(CALL)
        assert ruling.is_denied
        assert "mandatory, and it is not enabled" in ruling.reason
        assert (await there.gate_tool_call(CALL)).is_allowed


@in_loop
async def test_a_mandatory_plugin_that_fails_denies_and_blocks_whatever_is_settled_for_it(projects: Projects) -> None:
    projects.trust('mandatory = ["guard"]\n')

    def fail(self: Any, call: ToolCall, result: Any = None) -> None:  # noqa: ARG001 - the hook's
        raise ValueError("no")

    def fail_gate(self: Any, call: ToolCall) -> None:  # noqa: ARG001
        raise ValueError("no")

    def fail_output(self: Any, call: ToolCall, result: ToolResult) -> None:  # noqa: ARG001
        raise ValueError("no")

    plugin = make_plugin(ally_gate_tool_call=fail_gate, ally_transform_tool_output=fail_output)
    guard = setup(plugin, [*GATE, "transform:tool_output"], gate_on_error="allow")
    async with projects.host(guard=guard) as host:
        here, there = host.session(project=projects.root), host.session(project=projects.other)
        assert (await here.gate_tool_call(CALL)).is_denied
        assert (await there.gate_tool_call(CALL)).is_allowed
        with pytest.raises(GateRefused):
            await here.transform_tool_output(CALL, ToolResult(success=True, output="secret"))
        passed = await there.transform_tool_output(CALL, ToolResult(success=True, output="secret"))
        assert passed.output == "secret"


@in_loop
async def test_a_session_cannot_leave_out_what_its_project_makes_mandatory(projects: Projects) -> None:
    projects.trust('mandatory = ["guard"]\n')
    async with projects.host(guard=setup(allowing(), GATE)) as host:
        with pytest.raises(HostError, match="plugins leaves out 'guard'"):
            host.session(project=projects.root, plugins=[])


# --- grants ---


@in_loop
async def test_a_plugin_may_do_no_more_than_the_project_says_and_all_it_was_granted_elsewhere(
    projects: Projects,
) -> None:
    projects.trust('[plugins.p]\ngrants = ["get_context:focus"]\n')
    plugin = allowing()
    granted = ["add_message:user", "get_context:focus", "get_context:messages", "emit_event", *GATE]
    async with projects.host(p=setup(plugin, granted)) as host:
        here, there = host.session(project=projects.root), host.session(project=projects.other)
        for refused in (
            plugin.ally.add_message("user", "hello", session_id=here.id),
            plugin.ally.emit_event("x", {}, session_id=here.id),
            plugin.ally.get_context(["messages"], session_id=here.id),
        ):
            with pytest.raises(PermissionRefused, match=r"in this project: its \.ally narrows"):
                await refused
        context = await plugin.ally.get_context(session_id=here.id)
        assert context.messages is None
        await plugin.ally.add_message("user", "hello", session_id=there.id)
        # It guards as ever.
        await here.gate_tool_call(CALL)
        assert host.plugins["p"].instance.seen == ["bash"]


@in_loop
async def test_tools_are_offered_and_run_where_the_project_leaves_them(projects: Projects) -> None:
    projects.trust("[plugins.p]\ngrants = []\n")
    from ally_plugins import tool

    class Shouting:
        def __init__(self, ally: Any) -> None:
            pass

        @tool
        async def shout(self, text: str) -> str:
            """Say it loudly."""
            return text.upper()

    async with projects.host(p=setup(Shouting, ["tools"])) as host:
        here, there = host.session(project=projects.root), host.session(project=projects.other)
        assert here.agent_tools() == ()
        (offered,) = there.agent_tools()
        with pytest.raises(ToolCallError, match="without 'p', or its tools"):
            await here.call_agent_tool(offered, {"text": "a"})
        assert (await there.call_agent_tool(offered, {"text": "a"})).output == "A"


# --- taking part ---


@in_loop
async def test_a_plugin_that_guards_nothing_is_left_out_and_a_guard_never_is(projects: Projects) -> None:
    projects.trust("[plugins.watcher]\nenabled = false\n[plugins.guard]\nenabled = false\n")
    seen: list[tuple[str, str]] = []

    def note(self: Any, event: ToolCallEnd) -> None:
        seen.append((type(self).__name__, event.session_id))

    watcher, guard = make_plugin(ally_tool_call_end=note), allowing(ally_tool_call_end=note)
    granted = ["events:*", "emit_event"]
    async with projects.host(watcher=setup(watcher, granted), guard=setup(guard, [*granted, *GATE])) as host:
        here, there = host.session(project=projects.root), host.session(project=projects.other)
        for session in (here, there):
            session.emit(ToolCallEnd(tool_name="bash", success=True, call_id="c"))
            await session.drained()
        assert [session_id for _, session_id in seen].count(here.id) == 1
        assert [session_id for _, session_id in seen].count(there.id) == 2
        with pytest.raises(Exception, match="was opened without 'watcher'"):
            await watcher.ally.emit_event("x", {}, session_id=here.id)
        await here.gate_tool_call(CALL)
        assert host.plugins["guard"].instance.seen == ["bash"]


# --- deadlines ---


@pytest.mark.parametrize("on_error", ["deny", "allow"])
@in_loop
async def test_a_shorter_deadline_holds_where_being_late_denies_and_nowhere_else(
    projects: Projects, on_error: str
) -> None:
    projects.trust("[plugins.slow]\ndeadlines = { gate = 0.05 }\n")
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def gate(self: Any, call: ToolCall) -> Any:  # noqa: ARG001 - the hook's
        asked.set()
        await go_on.wait()
        return Allow()

    plugin = make_plugin(ally_gate_tool_call=gate)
    async with projects.host(slow=setup(plugin, GATE, gate_on_error=on_error)) as host:
        here = asyncio.ensure_future(decide(host, projects.root))
        await asked.wait()
        if on_error == "deny":
            ruling = await here
            assert ruling.is_denied
            assert ruling.votes[0].cause == "timeout"
            return
        await asyncio.sleep(0.2)  # four times the deadline that does not hold
        assert not here.done()
        go_on.set()
        assert (await here).votes[0].cause == "verdict"


# --- damage ---


@in_loop
async def test_where_it_cannot_be_read_what_was_trusted_no_session_of_a_project_opens(projects: Projects) -> None:
    projects.trust('deny_tools = ["web"]\n')
    async with projects.host() as host:
        projects.registry.home.projects_file.write_bytes(b"{")
        with pytest.raises(HostError, match="no session opens here"):
            host.session(project=projects.root)
        host.session()


@in_loop
async def test_what_is_trusted_holds_in_sessions_opened_from_then_on(projects: Projects) -> None:
    async with projects.host() as host:
        before = host.session(project=projects.root)
        projects.trust('deny_tools = ["bash"]\n')
        during = host.session(project=projects.root)
        untrust(projects.registry, str(projects.root))
        after = host.session(project=projects.root)
        assert [(await each.gate_tool_call(CALL)).is_denied for each in (before, during, after)] == [False, True, False]


# --- plugins of a project ---


@in_loop
async def test_a_plugin_that_a_project_adds_takes_part_in_its_sessions_alone(projects: Projects) -> None:
    from attrs import evolve

    from ally_plugins.catalog.discovery.found import Found

    plugin = allowing()
    made, record = setup(plugin, [*GATE, "emit_event"]).under("added")
    found = Found(name="added", project=str(projects.root))
    host = Host(
        "test", home=projects.registry.home.path, discover=False, plugins={"added": (made, evolve(record, found=found))}
    )
    async with host:
        here, there, nowhere = (
            host.session(project=projects.root),
            host.session(project=projects.other),
            host.session(),
        )
        assert here.wants("tool_call")
        for session in (here, there, nowhere):
            await session.gate_tool_call(CALL)
        assert host.plugins["added"].instance.seen == ["bash"]
        for session in (there, nowhere):
            with pytest.raises(Exception, match="was opened without 'added'"):
                await plugin.ally.emit_event("x", {}, session_id=session.id)
        await plugin.ally.emit_event("x", {}, session_id=here.id)
