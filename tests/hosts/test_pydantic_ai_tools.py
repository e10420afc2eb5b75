"""Plugins' tools as an agent's own, inline and from a process, and what a daemon does in a live run."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, Tool
from pydantic_ai.messages import ToolCallPart

from ally_plugins import Daemon, GrantSet, Host, PluginRecord, ToolCallEnd, ToolResult, action, tool
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.contract.process_spec import Timing
from tests.hosts.scripted import Script, answer, live, returns_of
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go

HERE = str(Path(__file__).parent)


class Toolbox:
    """A plugin with tools of every kind."""

    def __init__(self, ally: Any) -> None:
        self.ally = ally

    @tool
    async def add(self, first: int, second: int = 1) -> int:
        """Add two numbers."""
        return first + second

    @tool
    def shout(self, text: str) -> str:
        """Shout."""
        return text.upper()

    @tool(timeout=0.01)
    async def sleep(self) -> str:
        """Sleep for too long."""
        await asyncio.Event().wait()
        return "never"

    @tool
    async def fail(self) -> ToolResult:
        """Fail."""
        return ToolResult(success=False, error="no such thing")

    @tool
    async def crash(self) -> None:
        """Crash."""
        raise ZeroDivisionError("oh")

    @tool(visible_to=["finder"])
    async def find(self) -> str:
        """Find."""
        return "found"

    @action(agent=True)
    async def tidy(self) -> str:
        """Tidy up."""
        return "tidy"

    @action
    async def hidden(self) -> None:
        """Only for the person."""


def names(script: Any, request: int = -1) -> list[str]:
    return sorted(definition.name for definition in script.infos[request].function_tools)


def test_plugins_tools_stand_beside_the_agent_s_own_with_their_schemas() -> None:
    def shout() -> str:
        return "mine"

    async def main() -> None:
        async with live({"box": Toolbox}, {"box": ["tools", "actions"]}) as bench:
            three = answer(
                ToolCallPart("add", {"first": 2}, "c1"),
                ToolCallPart("shout", {}, "c2"),
                ToolCallPart("box__shout", {"text": "hey"}, "c3"),
            )
            steps = Script(three, "done")
            result = await bench.agent(steps, tools=[shout]).run("go")
            assert names(steps) == ["add", "box__shout", "crash", "fail", "shout", "sleep", "tidy"]
            (definition,) = [each for each in steps.infos[0].function_tools if each.name == "add"]
            assert definition.description == "Add two numbers."
            assert definition.parameters_json_schema["required"] == ["first"]
            found = {key: part.content for key, part in returns_of(result.all_messages()).items()}
            assert found == {"c1": "3", "c2": "mine", "c3": "HEY"}
            (end,) = [event for event in bench.of(ToolCallEnd) if event.call_id == "c1"]
            assert (end.output, end.result["data"]) == ("3", 3)

    go(main())


def test_what_goes_wrong_in_a_plugin_s_tool_is_told_the_model() -> None:
    async def main() -> None:
        async with live({"box": Toolbox}, {"box": ["tools", "actions"]}) as bench:
            wrong = answer(
                ToolCallPart("add", {"first": "two"}, "c1"),
                ToolCallPart("sleep", {}, "c2"),
                ToolCallPart("fail", {}, "c3"),
                ToolCallPart("crash", {}, "c4"),
                ToolCallPart("find", {}, "c5"),
            )
            result = await bench.agent(Script(wrong, "done")).run("go")
            found = returns_of(result.all_messages())
            assert {key: part.outcome for key, part in found.items()} == {
                "c1": "retried",
                "c2": "failed",
                "c3": "failed",
                "c4": "failed",
                "c5": "retried",
            }
            assert "first" in str(found["c1"].content)
            assert "did not return within 0.01 s" in str(found["c2"].content)
            assert found["c3"].content == "no such thing"
            assert "ZeroDivisionError" in str(found["c4"].content)
            ended = {event.call_id: event.success for event in bench.of(ToolCallEnd)}
            assert ended == dict.fromkeys(("c1", "c2", "c3", "c4"), False)

    go(main())


def test_a_sub_agent_sees_the_tools_that_are_for_it() -> None:
    async def main() -> None:
        async with live({"box": Toolbox}, {"box": ["tools", "actions"]}) as bench:

            async def delegate() -> str:
                return str((await inner.run("find it")).output)

            inner_steps = Script(answer(ToolCallPart("find", {}, "i1")), "found")
            steps = Script(answer(ToolCallPart("delegate", {}, "c1")), "done")
            inner = bench.agent(inner_steps, name="finder")
            await bench.agent(steps, tools=[delegate]).run("go")
            assert "find" in names(inner_steps)
            assert "find" not in names(steps)

    go(main())


def test_a_tool_that_is_added_or_taken_back_changes_the_next_step() -> None:
    puppet = make_plugin()

    async def main() -> None:
        async with live({"p": puppet}, {"p": ["tools"]}) as bench:

            async def learn() -> str:
                async def fresh(text: str) -> str:
                    return f"fresh {text}"

                await puppet.ally.register_tool(fresh, name="fresh", description="A new one.")
                return "learnt"

            async def unlearn() -> str:
                await puppet.ally.unregister("fresh")
                return "gone"

            steps = Script(
                answer(ToolCallPart("learn", {}, "c1")),
                answer(ToolCallPart("fresh", {"text": "air"}, "c2")),
                answer(ToolCallPart("unlearn", {}, "c3")),
                answer(ToolCallPart("fresh", {"text": "air"}, "c4")),
                "done",
            )
            result = await bench.agent(steps, tools=[learn, unlearn]).run("go")
            assert [("fresh" in names(steps, n)) for n in range(5)] == [False, True, True, False, False]
            found = returns_of(result.all_messages())
            assert (found["c2"].content, found["c4"].outcome) == ("fresh air", "retried")

    go(main())


def test_a_plugin_s_tool_is_gated_like_any_other() -> None:
    async def approve(_question: Any) -> str:
        return "deny"

    async def main() -> None:
        async with live({"box": Toolbox}, {"box": ["tools", "actions"]}) as bench:
            steps = Script(answer(ToolCallPart("shout", {"text": "hey"}, "c1")), "done")
            result = await bench.agent(steps, sensitive=["shout"], approve=approve).run("go")
            assert returns_of(result.all_messages())["c1"].outcome == "denied"

    go(main())


def test_a_daemon_gates_transforms_steers_and_offers_tools_in_a_live_run() -> None:
    grants = GrantSet.everything()
    config = PluginConfig(enabled=True, is_decided=True, grants=grants)
    record = PluginRecord.by_code("keeper", None, grants=grants, config=config)
    daemon = Daemon.python("adapter_daemon:Keeper", env={"PYTHONPATH": HERE}, timing=Timing(startup_timeout=60.0))
    places: list[str] = []

    def look(place: str) -> str:
        places.append(place)
        return "a tree"

    async def main() -> None:
        async with live({"keeper": (daemon, record)}) as bench:
            two = answer(ToolCallPart("look", {"place": "cellar"}, "c1"), ToolCallPart("remove", {}, "c2"))
            steps = Script(two, answer(ToolCallPart("heard_of", {"at_least": 1}, "c3")), "done")
            tools = [look, Tool(lambda: "gone", name="remove")]
            agent = bench.agent(steps, tools=tools)
            result = await agent.run("go", conversation_id="s1")
            found = returns_of(result.all_messages())
            assert places == ["attic"]
            assert found["c2"].content == "not run: keeper: never"
            told = json.loads(str(found["c3"].content))
            assert sorted(told["tools"]) == ["look", "remove"]  # a call that is denied ends too; they ran at once
            assert told["enough"] is True
            assert all("a keeper watches" in (info.instructions or "") for info in steps.infos)
            assert "[plugin keeper] you have looked" in steps.texts()

    go(main())


@pytest.mark.skipif(sys.platform == "win32", reason="its tools start a program by a shebang's rules")
def test_a_plugin_of_code_ally_s_offers_its_tools_where_the_person_names_it_and_asks_first(tmp_path: Path) -> None:
    folder = tmp_path / "plugins" / "reverse"
    folder.mkdir(parents=True)
    described = {
        "name": "reverse-text",
        "description": "Reverse a text.",
        "type": "executable",
        "command": "python3",
        "args": ["reverse.py"],
        "requiresConfirmation": True,
        "schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    }
    manifest = {
        "name": "reverse",
        "version": "1.0.0",
        "description": "reverses",
        "activationMode": "tagged",
        "tools": [described],
    }
    (folder / "plugin.json").write_text(json.dumps(manifest))
    program = "import json, sys; text = json.load(sys.stdin)['text']; print(json.dumps({'output': text[::-1]}))"
    (folder / "reverse.py").write_text(program)
    asked: list[tuple[str, tuple[str, ...]]] = []

    async def approve(question: Any) -> str:
        asked.append((question.call.tool_name, question.asked_by))
        return "allow"

    async def main() -> None:
        async with Host("test", home=tmp_path, consent=lambda plan: plan.record.name == "reverse") as host:
            steps = Script("hello", answer(ToolCallPart("reverse-text", {"text": "abc"}, "c1")), "done", "bye")
            agent = Agent(steps.model, capabilities=[AllyPlugins(host, approve=approve)])
            first = await agent.run("hello", conversation_id="s1")
            second = await agent.run("use +reverse", message_history=first.all_messages())
            last = await agent.run("enough, -reverse", message_history=second.all_messages())
            assert [names(steps, n) for n in range(4)] == [[], ["reverse-text"], ["reverse-text"], []]
            assert "cba" in str(returns_of(last.all_messages())["c1"].content)
            assert asked == [("reverse-text", ("reverse",))]

    go(main())
