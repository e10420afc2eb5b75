"""A daemon whose `hooks` lack a gate or transform that was granted: it fails, and what it was to judge does not run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, PluginRecord, ToolCall, ToolCallError, ToolResult
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.process_spec import Daemon
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path

    from tests.supervisor.staging import Theatre


CALL = ToolCall("bash", {"command": "rm -rf build"}, "c1")
WAY_OUT = "or take the grant back: ally-plugins revoke bad gate:tool_call"


async def runs(session: Any, call: ToolCall = CALL) -> bool:
    """Carry out a tool call; say whether the tool ran."""
    ran: list[str] = []

    async def run(shown: ToolCall) -> ToolResult:
        ran.append(shown.tool_name)
        return ToolResult(success=True, output="")

    await session.run_tool_call(call, run)
    return bool(ran)


@pytest.mark.parametrize(
    ("hello", "has"),
    [
        ("{}", "no hook"),
        ("{'hooks': []}", "no hook"),
        ("{'hooks': None}", "no hook"),
        ("{'hooks': ['ally_tool_call_end', 'ally_gate_message']}", "'ally_gate_message', 'ally_tool_call_end'"),
        ("{'hooks': [{'name': 'ally_gate_tool_calls', 'optional': True}]}", "no hook"),
        ("{'gates': ['tool_call'], 'events': ['TOOL_CALL_END']}", "no hook"),
    ],
)
def test_a_daemon_that_does_not_name_its_granted_gate_fails_and_nothing_runs(
    hello: str, has: str, theatre: Theatre
) -> None:
    async def main() -> None:
        body = f"serve(hello={hello}, gate=lambda params: {{'verdict': 'deny', 'reason': 'never'}})"
        async with theatre(body, grants=["gate:tool_call", "gate:message"][: 1 + ("message" in has)]) as stage:
            if "'gates'" in hello:  # not a word of the protocol
                assert stage.bad.state == "failed"
            else:
                words = (
                    f"plugin 'bad' is granted 'gate:tool_call' and lacks the hook 'ally_gate_tool_call': it has {has}"
                )
                assert stage.bad.reason.startswith(f"it could not start: {words}; name it in `hooks` of the answer to")
                assert WAY_OUT in stage.bad.reason
            assert not await runs(stage.session)
            vote = await stage.vote()
            assert vote is not None
            assert vote.cause == "failed"
            await stage.others_answer()

    go(main())


def test_a_daemon_that_was_started_again_without_its_gate_is_not_running_any_more(theatre: Theatre) -> None:
    body = """
from pathlib import Path
second = Path(os.environ["NOTES"] + ".second")
hooks = [] if second.exists() else ["ally_gate_tool_call"]
second.touch()
serve(hello={"hooks": hooks, "tools": [{"name": "end"}]},
      gate=lambda params: {"verdict": "allow"},
      call_tool=lambda params: os._exit(3))
"""

    async def main() -> None:
        async with theatre(body, grants=["gate:tool_call", "tools"]) as stage:
            assert await runs(stage.session)
            with pytest.raises(ToolCallError):
                await stage.host.call_tool("end", plugin="bad")
            assert not await runs(stage.session)  # it is starting again, or was found to lack it
            assert "lacks the hook 'ally_gate_tool_call'" in await stage.reached("failed")
            assert not await runs(stage.session)
            assert stage.bad.supervisor is not None
            assert stage.bad.supervisor.process is None
            await stage.others_answer()

    go(main())


@pytest.mark.slow
def test_a_daemon_that_names_a_gate_it_was_not_granted_runs_and_is_not_asked(theatre: Theatre) -> None:
    async def main() -> None:
        body = (
            "serve(hello={'hooks': ['ally_gate_tool_call']}, gate=lambda params: note(params) or {'verdict': 'deny'})"
        )
        async with theatre(body, grants=["events:*"]) as stage:
            assert stage.bad.state == "running"
            assert await runs(stage.session)
            assert await stage.vote() is None

    go(main())


def test_a_daemon_may_name_optional_hooks_of_newer_hosts(theatre: Theatre) -> None:
    async def main() -> None:
        hooks = [
            {"name": "ally_gate_tomorrow", "optional": True, "arguments": ["whatever"]},
            {"name": "ally_gate_tool_call", "optional": True},
        ]
        body = f"serve(hello={{'hooks': {hooks}}}, gate=lambda params: {{'verdict': 'deny', 'reason': 'never'}})"
        async with theatre(body, grants=["gate:tool_call"]) as stage:
            assert stage.bad.state == "running"
            assert not await runs(stage.session)

    go(main())


def test_a_hook_of_newer_hosts_that_is_not_optional_is_refused(theatre: Theatre) -> None:
    async def main() -> None:
        body = "serve(hello={'hooks': [{'name': 'ally_gate_tomorrow', 'optional': False}]})"
        async with theatre(body, grants=["gate:tool_call"]) as stage:
            assert stage.bad.state == "failed"
            assert "is 'ally_gate_tomorrow', which is no hook" in stage.bad.reason
            assert not await runs(stage.session)

    go(main())


def test_a_daemon_on_a_socket_cannot_have_a_gate_and_is_not_even_started(tmp_path: Path) -> None:
    mark = tmp_path / "started"
    code = f"open({str(mark)!r}, 'w')"
    daemon = Daemon((sys.executable, "-c", code), transport="socket", socket=str(tmp_path / "s"))
    manifest = Manifest.from_text('[permissions]\ngate = { on = ["tool_call"], tools = ["bash"], reason = "to guard" }')

    async def main() -> None:
        record = PluginRecord.by_code("bad", manifest)
        async with Host("test", home=None, discover=False, plugins={"bad": (daemon, record)}) as host:
            plugin, session = host.plugins["bad"], host.session()
            assert plugin.state == "failed"
            assert (
                "lacks the hook 'ally_gate_tool_call': it has no hook; nothing but a class or a daemon on"
                in plugin.reason
            )
            assert WAY_OUT in plugin.reason
            assert not await runs(session)
            assert await runs(session, ToolCall("python", {}, "c2"))
        assert not mark.exists()

    go(main())
