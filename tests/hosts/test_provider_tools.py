"""Tools that the model's provider runs reach no gate: they are listed, and a mandatory gate refuses such an agent."""

# ruff: noqa: ARG002 - the framework gives its hooks all of their arguments

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability, NativeTool, WebSearch
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.native_tools import CodeExecutionTool, MCPServerTool, WebSearchTool
from pydantic_ai.profiles import ModelProfile

from ally_plugins import AgentEnd, GateRefused, Home
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from tests.hosts.scripted import Bench, Script, live
from tests.kit.commands import run_command
from tests.kit.hosts import Setup, make_plugin, setup
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.tools import RunContext

SEARCH, MCP = NativeTool(WebSearchTool()), NativeTool(MCPServerTool(id="github", url="https://example.org"))
REFUSAL = (
    "the agent 'main-agent' has 'web_search', which the model's provider runs, and no gate sees it; the mandatory "
    "plugin 'guard' gates tool calls. Take it from the agent, or accept that it runs past the gate: "
    'ungated_tools = ["web_search"] in [plugins.guard] of config.toml'
)


async def gate(self: Any) -> None:
    """Have no opinion."""


def guard(*grants: str, **config: Any) -> dict[str, Setup]:
    return {"guard": setup(make_plugin(ally_gate_tool_call=gate), grants or ("gate:tool_call",), **config)}


async def run(bench: Bench, script: Script, *capabilities: Any, times: int = 1) -> None:
    agent = bench.agent(script, capabilities=list(capabilities))
    for _ in range(times):
        await agent.run("go", conversation_id="s")


def records(bench: Bench) -> list[Any]:
    return [each.data for each in bench.host.journal.reader.records(kind="ungated_tools")]


def test_they_are_listed_once_a_session(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with live(guard()) as bench:
            script = Script()
            await run(bench, script, SEARCH, MCP, times=3)
            assert len(script.seen) == 3
            await bench.host.journal.flush()
            assert records(bench) == [
                {"agent": "main-agent", "tools": ["mcp_server:github", "web_search"], "refused_by": {}}
            ]

    with caplog.at_level(logging.WARNING):
        go(main())
    assert caplog.messages == [
        "session 's': no gate sees what the provider runs for main-agent: mcp_server:github, web_search"
    ]


def test_a_mandatory_gate_refuses_each_run_and_the_model_is_not_asked() -> None:
    async def main() -> None:
        async with live(guard(mandatory=True)) as bench:
            script = Script()
            for _ in range(2):
                with pytest.raises(GateRefused) as refused:
                    await run(bench, script, SEARCH)
                assert str(refused.value) == REFUSAL
            assert script.seen == []
            assert [end.interrupted for end in bench.of(AgentEnd)] == [True, True]
            await bench.host.journal.flush()
            assert [data["refused_by"] for data in records(bench)] == [{"web_search": "guard"}]

    go(main())


def test_one_that_another_capability_adds_behind_is_refused_too() -> None:
    class Adds(AbstractCapability[Any]):
        async def before_model_request(
            self, ctx: RunContext[Any], request_context: ModelRequestContext
        ) -> ModelRequestContext:
            parameters = request_context.model_request_parameters
            more = dataclasses.replace(parameters, native_tools=[CodeExecutionTool()])
            return dataclasses.replace(request_context, model_request_parameters=more)

    async def main() -> None:
        async with live(guard(mandatory=True)) as bench:
            script = Script()
            agent = Agent(script.model, name="main-agent", capabilities=[AllyPlugins(bench.host), Adds()])
            with pytest.raises(GateRefused, match="'code_execution'"):
                await agent.run("go")
            assert script.seen == []

    go(main())


@pytest.mark.parametrize(
    "plugins",
    [
        guard(mandatory=True, ungated_tools=frozenset({"web_search"})),
        guard(mandatory=True, ungated_tools=True),
        guard("gate:tool_call:bash", mandatory=True),
        guard(mandatory=True, shadow=True),
        guard("tools", mandatory=True),
    ],
    ids=["accepted", "all accepted", "of another tool", "shadow", "not granted"],
)
def test_what_the_operator_accepts_and_what_no_mandatory_gate_is_about_runs(plugins: dict[str, Setup]) -> None:
    async def main() -> None:
        async with live(plugins) as bench:
            script = Script()
            await run(bench, script, SEARCH)
            assert len(script.seen) == 1

    go(main())


def test_accepting_one_accepts_no_other() -> None:
    async def main() -> None:
        async with live(guard(mandatory=True, ungated_tools=frozenset({"web_search"}))) as bench:
            script = Script()
            with pytest.raises(GateRefused, match=r"has 'mcp_server:github', which"):
                await run(bench, script, SEARCH, MCP)
            assert script.seen == []

    go(main())


def test_a_mandatory_plugin_that_does_not_run_refuses_as_one_that_does() -> None:
    plugins = guard(mandatory=True)

    async def main() -> None:
        async with live(plugins) as bench:
            bench.host.plugins["guard"]._quarantine("it was too much")
            script = Script()
            with pytest.raises(GateRefused, match="'web_search'"):
                await run(bench, script, SEARCH)
            assert script.seen == []

    go(main())


def test_one_that_a_tool_of_ones_own_stands_in_for_is_gated_and_not_refused() -> None:
    def search(query: str) -> str:
        return query

    async def main() -> None:
        async with live(guard(mandatory=True)) as bench:
            script = Script()
            model = FunctionModel(script._answer, profile=ModelProfile(supported_native_tools=frozenset()))
            agent = Agent(model, capabilities=[WebSearch(local=search), AllyPlugins(bench.host)])
            await agent.run("go")
            assert [tool.name for tool in script.infos[0].function_tools] == ["search"]

    go(main())


def test_doctor_and_audit_name_them(home: Home) -> None:
    async def main() -> None:
        async with live(guard(mandatory=True), home=home) as bench:
            with pytest.raises(GateRefused):
                await run(bench, Script(), SEARCH)

    go(main())
    text = "the provider runs web_search for main-agent, and no gate sees it; refused by guard"
    assert text in run_command("audit", "--kind", "ungated_tools").stdout
    assert text in run_command("doctor").stdout
