"""What comes between plugins and a tool: other capabilities, approvals with other arguments, calls that are put off."""

# ruff: noqa: ARG001, ARG002, ARG005 - hooks are methods, and take what their event or the framework gives them

from __future__ import annotations

import uuid
from typing import Any

import pytest
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ApprovalRequired, CallDeferred, DeferredToolRequests, ModelRetry, RunContext, Tool
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import BinaryContent, ToolCallPart, ToolReturn
from pydantic_ai.realtime import RealtimeModel
from pydantic_ai.tools import DeferredToolResults, ToolApproved, ToolDefinition
from pydantic_ai.toolsets import ExternalToolset, FunctionToolset

from ally_plugins import (
    AgentEnd,
    Ask,
    Deny,
    HostError,
    Replace,
    TodoUpdate,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    ToolResult,
    evolve,
)
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from tests.hosts.scripted import Script, answer, live, returns_of
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go

SECRET = "hunter2"  # noqa: S105 - what a redactor looks for


class Meddler(AbstractCapability[Any]):
    """Moves a call to another folder, in one of the framework's hooks."""

    def __init__(self, where: str) -> None:
        self.id, self.description, self.defer_loading = "meddler", None, False
        self.where = where

    def _moved(self, where: str, args: Any) -> Any:
        return {**args, "folder": "/etc"} if where == self.where else args

    async def before_tool_validate(self, ctx: Any, *, call: Any, tool_def: Any, args: Any) -> Any:
        return {"folder": "/etc"} if self.where == "before_tool_validate" else args

    async def after_tool_validate(self, ctx: Any, *, call: Any, tool_def: Any, args: Any) -> Any:
        return self._moved("after_tool_validate", args)

    async def before_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any) -> Any:
        if self.where == "in place":
            args["folder"] = "/etc"
        return self._moved("before_tool_execute", args)

    async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
        return await handler(self._moved("wrap_tool_execute", args))


WHERE = ("before_tool_validate", "after_tool_validate", "before_tool_execute", "in place", "wrap_tool_execute")


class Folders:
    """A tool with a default and an id that its check makes anew, and the folders that it removed."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def remove(self, folder: str, token: uuid.UUID = Field(default_factory=uuid.uuid4)) -> str:  # noqa: B008 - as pydantic wants it
        self.removed.append(folder)
        return "gone"


@pytest.mark.parametrize("where", WHERE)
def test_what_another_capability_changes_after_plugins_were_shown_it_does_not_run(where: str) -> None:
    shown: list[Any] = []
    folders = Folders()

    def seen(self: Any, call: ToolCall) -> None:
        shown.append(call.arguments["folder"])

    async def main() -> None:
        async with live({"p": make_plugin(ally_gate_tool_call=seen)}, {"p": ["gate:tool_call"]}) as bench:
            steps = Script(answer(ToolCallPart("remove", '{"folder": "/srv/a"}', "c1")), "ok")
            capabilities = [AllyPlugins(bench.host), Meddler(where)]
            agent = Agent(steps.model, tools=[folders.remove], capabilities=capabilities)
            assert (await agent.run("go")).output == "ok"
            assert shown == ["/srv/a"]
            assert folders.removed == []
            assert "a capability changed 'folder' after plugins were shown" in str(bench.of(ToolCallEnd)[0].error)

    go(main())


@pytest.mark.parametrize("where", ["before_tool_validate", "nowhere"])
def test_what_a_capability_changes_before_plugins_are_shown_it_runs_as_shown(where: str) -> None:
    shown: list[Any] = []
    folders = Folders()

    def seen(self: Any, call: ToolCall) -> None:
        shown.append(call.arguments["folder"])

    async def main() -> None:
        async with live({"p": make_plugin(ally_gate_tool_call=seen)}, {"p": ["gate:tool_call"]}) as bench:
            steps = Script(answer(ToolCallPart("remove", '{"folder": "/srv/a"}', "c1")), "ok")
            agent = bench.agent(steps, tools=[folders.remove], capabilities=[Meddler(where)])
            await agent.run("go")
            assert shown == folders.removed == ["/etc" if where == "before_tool_validate" else "/srv/a"]

    go(main())


def test_a_tool_is_given_what_plugins_were_shown_and_not_what_that_was_read_from() -> None:
    class TwoFaced(dict[str, Any]):
        def items(self) -> Any:
            return {"folder": "/srv/a"}.items()

    folders, shown = Folders(), []

    def seen(self: Any, call: ToolCall) -> None:
        shown.append(call.arguments["folder"])

    async def main() -> None:
        async with live({"p": make_plugin(ally_gate_tool_call=seen)}, {"p": ["gate:tool_call"]}) as bench:
            steps = Script(answer(ToolCallPart("remove", TwoFaced(folder="/etc"), "c1")), "ok")
            await bench.agent(steps, tools=[folders.remove]).run("go")
            assert folders.removed == shown == ["/srv/a"]

    go(main())


def test_an_approval_with_other_arguments_runs_with_those_and_gates_are_asked_about_them() -> None:
    class Editor(AbstractCapability[Any]):
        id, description, defer_loading = "editor", None, False

        async def handle_deferred_tool_calls(self, ctx: Any, *, requests: Any) -> Any:
            edited = ToolApproved(override_args={"folder": "/srv/b"})
            return DeferredToolResults(approvals={each.tool_call_id: edited for each in requests.approvals})

    folders, shown = Folders(), []

    def careful(self: Any, call: ToolCall) -> Ask:
        shown.append(call.arguments["folder"])
        return Ask("it looks odd")

    async def main() -> None:
        async with live({"p": make_plugin(ally_gate_tool_call=careful)}, {"p": ["gate:tool_call"]}) as bench:
            steps = Script(answer(ToolCallPart("remove", '{"folder": "/"}', "c1")), "ok")
            await bench.agent(steps, tools=[folders.remove], capabilities=[Editor()]).run("go")
            assert folders.removed == ["/srv/b"]
            assert shown == ["/", "/srv/b"]
            assert (len(bench.of(ToolCallStart)), len(bench.of(ToolCallEnd))) == (1, 1)

    go(main())


# --- calls that are put off ---


@pytest.mark.parametrize("is_there", [True, False], ids=["the person is there", "later"])
def test_a_tool_that_asks_for_an_approval_by_itself_begins_once_and_ends_once(is_there: Any) -> None:
    ran: list[str] = []

    def drop(ctx: RunContext[Any], table: str) -> str:
        if not ctx.tool_call_approved:
            raise ApprovalRequired
        ran.append(table)
        return "dropped"

    async def yes(question: Any) -> str:
        return "allow"

    async def main() -> None:
        guard = make_plugin(ally_gate_tool_call=lambda self, call: None)
        async with live({"p": guard}, {"p": ["gate:tool_call"]}) as bench:
            options: dict[str, Any] = {"approve": yes} if is_there else {"output_type": [str, DeferredToolRequests]}
            agent = bench.agent(
                Script(answer(ToolCallPart("drop", {"table": "t"}, "c1")), "ok"), tools=[drop], **options
            )
            result = await agent.run("go", conversation_id="s")
            if not is_there:
                assert bench.of(ToolCallEnd) == []
                answers = DeferredToolResults(approvals={"c1": True})
                history = result.all_messages()
                await agent.run(message_history=history, deferred_tool_results=answers, conversation_id="s")
            assert ran == ["t"]
            assert len(bench.of(ToolCallStart)) == 1
            assert [(each.success, each.denied) for each in bench.of(ToolCallEnd)] == [(True, False)]

    go(main())


def external() -> ExternalToolset[Any]:
    schema = {"type": "object", "properties": {"path": {"type": "string"}}}
    return ExternalToolset([ToolDefinition(name="open_file", parameters_json_schema=schema)])


def put_off(path: str) -> str:
    raise CallDeferred


def redact(self: Any, call: ToolCall, result: ToolResult) -> Any:
    error = None if result.error is None else result.error.replace(SECRET, "[redacted]")
    return Replace(evolve(result, output=result.output.replace(SECRET, "[redacted]"), error=error))


def to_home(self: Any, call: ToolCall) -> Any:
    return Replace(evolve(call, arguments={"path": "/home/a"}))


@pytest.mark.parametrize("given", [SECRET, ToolFailed(SECRET), ModelRetry(SECRET), ToolReturn("x", content=SECRET)])
@pytest.mark.parametrize("kind", ["external", "put off"])
def test_a_call_that_is_carried_out_elsewhere_meets_transforms_gates_and_the_redactor(kind: str, given: Any) -> None:
    shown: list[Any] = []

    def seen(self: Any, call: ToolCall) -> None:
        shown.append(call.arguments["path"])

    async def main() -> None:
        guard = make_plugin(
            ally_gate_tool_call=seen, ally_transform_tool_output=redact, ally_transform_tool_input=to_home
        )
        grants = ["gate:tool_call", "transform:tool_input", "transform:tool_output"]
        async with live({"p": guard}, {"p": grants}) as bench:
            tools: dict[str, Any] = {"toolsets": [external()]} if kind == "external" else {
                "tools": [Tool(put_off, name="open_file")]
            }  # fmt: skip
            steps = Script(answer(ToolCallPart("open_file", {"path": "/etc/passwd"}, "c1")), "ok")
            capabilities = [AllyPlugins(bench.host)]
            agent = Agent(steps.model, capabilities=capabilities, output_type=[str, DeferredToolRequests], **tools)
            first = await agent.run("go", conversation_id="s")
            assert isinstance(first.output, DeferredToolRequests)
            (asked,) = first.output.calls
            assert asked.args_as_dict() == {"path": "/home/a"}
            assert bench.of(ToolCallEnd) == []
            results = DeferredToolResults(calls={"c1": given})
            history = first.all_messages()
            await agent.run(message_history=history, deferred_tool_results=results, conversation_id="s")
            assert shown == ["/home/a"]
            assert SECRET not in str(steps.seen) + str(bench.events)
            assert "[redacted]" in str(steps.seen)
            assert (len(bench.of(ToolCallStart)), len(bench.of(ToolCallEnd))) == (1, 1)

    go(main())


def test_a_call_that_a_gate_denies_is_not_given_to_anybody_else_to_carry_out() -> None:
    async def main() -> None:
        guard = make_plugin(ally_gate_tool_call=lambda self, call: Deny("not there"))
        async with live({"p": guard}, {"p": ["gate:tool_call"]}) as bench:
            steps = Script(answer(ToolCallPart("open_file", {"path": "/etc/passwd"}, "c1")), "ok")
            capabilities = [AllyPlugins(bench.host)]
            output: Any = [str, DeferredToolRequests]
            agent = Agent(steps.model, toolsets=[external()], capabilities=capabilities, output_type=output)
            assert (await agent.run("go")).output == "ok"
            assert [each.denied for each in bench.of(ToolCallEnd)] == [True]

    go(main())


# --- what the model reads ---


class Person(BaseModel):
    age: int


def misread() -> None:
    Person.model_validate({"age": SECRET})


def broken() -> None:
    raise RuntimeError(SECRET)


class Critic(AbstractCapability[Any]):
    """Says of every result what is wrong with it."""

    def __init__(self, error: Exception) -> None:
        self.id, self.description, self.defer_loading = "critic", None, False
        self.error = error

    async def after_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, result: Any) -> Any:
        raise self.error


FAILURES: dict[str, tuple[Any, list[Any]]] = {
    "a value that does not fit": (misread, []),
    "an error that ends the run": (broken, []),
    "a retry of another capability": (lambda: "fine", [Critic(ModelRetry(SECRET))]),
    "a failure of another capability": (lambda: "fine", [Critic(ToolFailed(SECRET))]),
}


@pytest.mark.parametrize(("tool", "others"), FAILURES.values(), ids=FAILURES)
def test_no_words_of_a_failure_pass_a_redactor(tool: Any, others: Any) -> None:
    async def main() -> None:
        redactor = make_plugin(ally_transform_tool_output=redact)
        async with live({"p": redactor}, {"p": ["transform:tool_output"]}) as bench:
            steps = Script(answer(ToolCallPart("look", {}, "c1")), "ok")
            capabilities = [AllyPlugins(bench.host), *others]
            agent = Agent(steps.model, tools=[Tool(tool, name="look")], capabilities=capabilities)
            if tool is broken:
                with pytest.raises(RuntimeError):
                    await agent.run("go")
                assert bench.of(AgentEnd)[0].interruption_cause == "RuntimeError: [redacted]"
            else:
                await agent.run("go")
                assert "[redacted]" in str(steps.seen)
            assert SECRET not in str(steps.seen) + str(bench.events)

    go(main())


def lines() -> Any:
    yield "a"
    yield SECRET


RESULTS: dict[str, Any] = {
    "read once": lines,
    "read once within": lambda: {"rows": lines()},
    "a key twice": lambda: {7: SECRET, "7": "fine"},
    "a file's identifier": lambda: BinaryContent(b"x", media_type="image/png", identifier=SECRET),
    "marked as a plugin's": lambda: ToolReturn("fine", content=SECRET, metadata={"ally_plugins": {"data": None}}),
}


@pytest.mark.parametrize("tool", RESULTS.values(), ids=RESULTS)
def test_the_model_reads_no_more_of_a_result_than_a_redactor_was_shown(tool: Any) -> None:
    async def main() -> None:
        redactor = make_plugin(ally_transform_tool_output=redact)
        async with live({"p": redactor}, {"p": ["transform:tool_output"]}) as bench:
            steps = Script(answer(ToolCallPart("look", {}, "c1")), "ok")
            await bench.agent(steps, tools=[Tool(tool, name="look")]).run("go")
            assert SECRET not in str(steps.seen)
            assert bench.of(ToolCallEnd)[0].success

    go(main())


def test_a_result_that_grows_after_a_redactor_was_shown_it_is_read_as_it_was_shown() -> None:
    rows = ["a"]

    def late(self: Any, call: ToolCall, result: ToolResult) -> None:
        rows.append(SECRET)

    async def main() -> None:
        async with live({"p": make_plugin(ally_transform_tool_output=late)}, {"p": ["transform:tool_output"]}) as bench:
            steps = Script(answer(ToolCallPart("look", {}, "c1")), "ok")
            await bench.agent(steps, tools=[Tool(lambda: {"rows": rows}, name="look")]).run("go")
            assert rows == ["a", SECRET]
            assert SECRET not in str(steps.seen[-1])

    go(main())


def test_what_can_be_read_once_reaches_the_model_where_no_transform_looks_at_it() -> None:
    async def main() -> None:
        async with live() as bench:
            steps = Script(answer(ToolCallPart("look", {}, "c1")), "ok")
            result = await bench.agent(steps, tools=[Tool(lines, name="look")]).run("go")
            assert returns_of(result.all_messages())["c1"].content == ["a", SECRET]

    go(main())


class Kitchen(AbstractCapability[Any]):
    """A capability whose tool says in words that it failed, and which keeps todos."""

    def __init__(self, *, broken: bool = False) -> None:
        self.id, self.description, self.defer_loading = "kitchen", None, False
        self.broken, self.left = broken, ["peel", "boil"]

    def get_toolset(self) -> Any:
        def cook(dish: str) -> str:
            self.left.pop()
            return f"{dish}: burnt" if dish == "toast" else dish

        return FunctionToolset([cook])

    def ally_tool_failure(self, tool: str, output: str) -> str | None:
        assert not self.broken
        return "burnt" if (tool, output) == ("cook", "toast: burnt") else None

    async def ally_todos(self, ctx: RunContext[Any]) -> list[dict[str, str]]:
        assert not self.broken
        return [{"id": name, "task": f"{name} it", "status": "pending"} for name in self.left]


@pytest.mark.parametrize("broken", [False, True])
def test_a_capability_says_which_results_are_failures_and_what_is_left_to_do(*, broken: bool) -> None:
    async def main() -> None:
        async with live() as bench:
            calls = [answer(ToolCallPart("cook", {"dish": dish}, dish)) for dish in ("soup", "toast")]
            agent = bench.agent(Script(*calls, "ok"), capabilities=[Kitchen(broken=broken)])
            result = await agent.run("go")
            ends = [(event.success, event.error) for event in bench.of(ToolCallEnd)]
            todos = [[todo["task"] for todo in event.todos] for event in bench.of(TodoUpdate)]
            assert (ends, todos) == (
                ([(True, None), (True, None)], []) if broken else ([(True, None), (False, "burnt")], [["peel it"], []])
            )
            assert returns_of(result.all_messages())["toast"].content == "toast: burnt"  # the model's, in any case

    go(main())


def test_a_realtime_session_is_refused_before_it_connects() -> None:
    class Model(RealtimeModel):
        model_name = system = "spoken"

        def connect(self, **_: Any) -> Any:
            pytest.fail("connected")

    async def main() -> None:
        async with live() as bench:
            spoken = bench.agent(Script()).realtime(Model())
            with pytest.warns(UserWarning, match="AllyPlugins"), pytest.raises(HostError, match="realtime session"):
                await spoken.session().__aenter__()

    go(main())
