"""Every call of the bus: with its grant, without it, over budget, before start, after stop, as a plain function."""

# ruff: noqa: ARG001, ARG002 - hooks and fixtures name what they are given, used or not

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from ally_plugins import (
    Ally,
    BudgetRefused,
    GateRefused,
    HostError,
    NotFoundRefused,
    PermissionRefused,
    ToolCallStart,
    UnavailableRefused,
    ValidationRefused,
    hookimpl,
)
from ally_plugins.policy.budget import Limits
from ally_plugins.runtime.lanes.plugin import RunState
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins import PluginQuestion


async def work() -> int:
    """Be a task."""
    return 7


def a_tool(path: str) -> str:
    """Say the path."""
    return path


async def start_task(ally: Ally) -> Any:
    return await (await ally.start_task("job", work())).result()


CALLS: dict[str, tuple[str, str, Callable[[Ally], Any]]] = {
    "add_message": ("add_message:user", "messages_per_minute", lambda ally: ally.add_message("user", "hello")),
    "emit_event": ("emit_event", "events_per_minute", lambda ally: ally.emit_event("done", {"n": 1})),
    "get_context": ("get_context:todos", "context_reads_per_minute", lambda ally: ally.get_context(["todos"])),
    "register_tool": ("tools", "registrations_per_minute", lambda ally: ally.register_tool(a_tool)),
    "register_action": ("actions", "registrations_per_minute", lambda ally: ally.register_action(a_tool)),
    "request_action": (
        "request_action:compact", "action_requests_per_minute", lambda ally: ally.request_action("compact", {"to": 5}),
    ),
    "ask": ("ask", "questions_per_minute", lambda ally: ally.ask("go on?", ["go on", "stop"])),
    "start_task": ("tasks", "tasks_per_minute", start_task),
}  # fmt: skip
BLOCKING: dict[str, Callable[[Ally], Any]] = {
    "add_message": lambda ally: ally.blocking.add_message("user", "hello"),
    "emit_event": lambda ally: ally.blocking.emit_event("done", {"n": 1}),
    "get_context": lambda ally: ally.blocking.get_context(["todos"]),
    "register_tool": lambda ally: ally.blocking.register_tool(a_tool),
    "register_action": lambda ally: ally.blocking.register_action(a_tool),
    "request_action": lambda ally: ally.blocking.request_action("compact", {"to": 5}),
    "ask": lambda ally: ally.blocking.ask("go on?", ["go on", "stop"]),
    "start_task": lambda ally: ally.blocking.start_task("job", work()),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS)


async def choose_last(question: PluginQuestion) -> str:
    return question.choices[-1]


class Compacts:
    """A host's own action."""

    @hookimpl
    async def ally_request_action(self, request: Any) -> Any:
        return {"compacted": dict(request.arguments)} if request.action == "compact" else None


SERVED: dict[str, Any] = {"implementation": Compacts(), "ask_person": choose_last}


@EVERY_CALL
def test_a_call_succeeds_with_its_grant_and_nothing_else(call: str) -> None:
    grant, _, make = CALLS[call]

    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, grants={"p": [grant]}, **SERVED) as host:
            host.session("s")
            return await make(plugin.ally)

    answer = go(main())
    if call == "request_action":
        assert answer == {"compacted": {"to": 5}}
    elif call == "start_task":
        assert answer == 7
    elif call == "ask":
        assert answer == "stop"
    elif call == "get_context":
        assert answer.todos == ()
        assert answer.read_only
    else:
        assert answer.offset > 0 if call != "emit_event" else answer.state == "recorded"


@EVERY_CALL
def test_a_call_is_refused_without_its_grant_naming_the_command_though_all_others_are_granted(call: str) -> None:
    grant, _, make = CALLS[call]
    others = {each for each, _, _ in CALLS.values()} - {grant}

    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, grants={"p": others}, **SERVED) as host:
            session = host.session("s")
            with pytest.raises(PermissionRefused) as refused:
                await make(plugin.ally)
            assert refused.value.permission == grant
            assert refused.value.command == f"ally-plugins grant p {grant}"
            assert refused.value.command in str(refused.value)
            assert refused.value.plugin == "p"
            assert host.plugins["p"].counts.refused == {"permission": 1}
            assert await session.safe_point("turn_start") == ()
            assert not list(host.tools)
            assert not list(host.actions)
            assert not list(host.tasks)

    go(main())


@EVERY_CALL
def test_a_call_over_budget_is_refused_with_the_time_to_wait(call: str) -> None:
    grant, budget, make = CALLS[call]

    async def main() -> Any:
        plugin = make_plugin()
        given = setup(plugin, [grant], limits=Limits(**{budget: 1}))
        async with new_host(plugins={"p": given}, **SERVED) as host:
            host.session("s")
            await make(plugin.ally)
            with pytest.raises(BudgetRefused) as refused:
                await make(plugin.ally)
            assert refused.value.budget == budget
            assert refused.value.retry_after == pytest.approx(60, abs=5)
            assert host.plugins["p"].counts.refused == {"budget": 1}
            assert host.plugins["p"].budget.in_flight == 0

    go(main())


@EVERY_CALL
def test_a_call_is_made_as_a_plain_function_in_a_hook_that_is_a_def(call: str) -> None:
    grant, _, _ = CALLS[call]
    answers: list[Any] = []

    def ally_tool_call_start(self: Any) -> None:
        answers.append(BLOCKING[call](self.ally))

    async def main() -> Any:
        plugin = make_plugin(ally_tool_call_start=ally_tool_call_start)
        grants = [grant, "events:TOOL_CALL_START"]
        async with new_host(plugins={"p": plugin}, grants={"p": grants}, **SERVED) as host:
            session = host.session("s")
            session.emit(ToolCallStart(tool_name="bash"))
            await session.drained()
            assert host.plugins["p"].counts.crashes == 0
            if call == "start_task":
                assert await answers[0].result() == 7

    go(main())
    assert len(answers) == 1


@EVERY_CALL
def test_a_blocking_call_on_the_loop_s_own_thread_raises_and_leaves_nothing_behind(call: str) -> None:
    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            with pytest.raises(RuntimeError, match="own thread"):
                BLOCKING[call](plugin.ally)

    go(main())  # "never awaited" would be an error here


@EVERY_CALL
def test_a_call_before_start_and_after_stop_is_refused(call: str) -> None:
    make = CALLS[call][2]
    early: list[asyncio.Task[Any]] = []
    handles: list[Ally] = []

    class Hasty:
        def __init__(self, ally: Ally) -> None:
            handles.append(ally)
            early.append(asyncio.get_running_loop().create_task(make(ally)))

    async def refused_at_import(ally: Ally) -> str:
        with pytest.raises(UnavailableRefused) as refused:
            await make(ally)
        return str(refused.value)

    async def main() -> Any:
        # A second one, whose long start lets the first one's task run before its turn comes.
        async with new_host(plugins={"p": Hasty}, **SERVED) as host:
            host.session("s")
            assert host.plugins["p"].state == "running"
            host.plugins["p"].state = RunState.LOADED
            assert "ally_start" in await refused_at_import(handles[0])
            host.plugins["p"].state = RunState.RUNNING
        assert "stopped" in await refused_at_import(handles[0])
        with pytest.raises(UnavailableRefused):
            await asyncio.to_thread(BLOCKING[call], handles[0])
        await asyncio.gather(*early, return_exceptions=True)

    go(main())


def test_a_plugin_may_speak_in_its_last_hook_and_not_after_it() -> None:
    last: list[Any] = []

    async def ally_stop(self: Any) -> None:
        last.append(await self.ally.add_message("user", "bye", session_id="s"))

    async def main() -> Any:
        plugin = make_plugin(ally_stop=ally_stop)
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
        with pytest.raises(UnavailableRefused):
            await plugin.ally.add_message("user", "late")

    go(main())
    assert last[0].state == "pending"


def test_a_call_on_another_loop_is_carried_to_the_host_s() -> None:
    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            receipt = await asyncio.to_thread(asyncio.run, plugin.ally.add_message("user", "from another loop"))
            assert [message.id for message in await session.safe_point()] == [receipt.id]

    go(main())


def test_what_a_quarantined_plugin_says_is_refused_in_words() -> None:
    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            host.plugins["p"].set_state(RunState.QUARANTINED, "five crashes")
            with pytest.raises(UnavailableRefused, match="'p' is quarantined"):
                await plugin.ally.add_message("user", "hello")

    go(main())


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_each_role_is_a_grant_of_its_own(role: str) -> None:
    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, grants={"p": [f"add_message:{role}"]}) as host:
            session = host.session("s")
            for other in ("user", "assistant", "system"):
                if other != role:
                    with pytest.raises(PermissionRefused, match=f"add_message:{other}"):
                        await plugin.ally.add_message(other, "hello")
            await plugin.ally.add_message(role, "hello")
            (message,) = await session.safe_point()
            assert message.role == role
            with pytest.raises(PermissionRefused, match="add_message:trigger_turn"):
                await plugin.ally.add_message(role, "wake up", trigger_turn=True)

    go(main())


@pytest.mark.parametrize("role", ["tool", "", "User", None, 7, ["user"]])
def test_a_role_that_is_none_is_no_question_of_grants(role: Any) -> None:
    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            with pytest.raises(ValidationRefused):
                await plugin.ally.add_message(role, "hello")

    go(main())


BAD_TEXTS = ["", "bell\a", "esc\x1b[31m", "nul\0", "c1\x9b", "del\x7f", "cr\r\n", "\ud800", None, 5, b"bytes", ["x"]]


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_text_that_could_do_harm_is_refused(text: Any) -> None:
    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            with pytest.raises(ValidationRefused):
                await plugin.ally.add_message("user", text)
            with pytest.raises(ValidationRefused):
                await plugin.ally.add_message("user", text, key="k")
            assert await session.safe_point() == ()

    go(main())


def test_a_message_ends_at_64_kib_of_utf_8() -> None:
    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            await plugin.ally.add_message("user", "ä" * 32_768)
            with pytest.raises(BudgetRefused, match="65537 bytes"):
                await plugin.ally.add_message("user", "ä" * 32_768 + "x")
            with pytest.raises(BudgetRefused, match="event_bytes"):
                await plugin.ally.emit_event("big", {"text": "x" * 70_000})
            with pytest.raises(BudgetRefused, match="arguments_bytes"):
                await plugin.ally.request_action("big", {"text": "x" * 70_000})

    go(main())


def test_newlines_tabs_and_every_script_are_text() -> None:
    text = "one\n\ttwo \u2013 żółć 漢字 🙂 \u200f"

    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            await plugin.ally.add_message("user", text)
            assert [message.content for message in await session.safe_point()] == [text]

    go(main())


def test_no_metadata_replaces_the_stamp() -> None:
    forged = {"sourcePlugin": "other", "isPluginGenerated": False, "origin": ["nobody"], "mine": [1, {"a": "b"}]}

    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            await plugin.ally.add_message("user", "hello", metadata=forged)
            (message,) = await session.safe_point()
            assert message.source_plugin == "p"
            assert message.metadata == {
                "sourcePlugin": "p", "isPluginGenerated": True, "origin": ("p",), "mine": (1, {"a": "b"}),
            }  # fmt: skip
            with pytest.raises(TypeError):
                message.metadata["sourcePlugin"] = "other"

    go(main())


@pytest.mark.parametrize("metadata", [5, "text", ["a"], {1: 2}, {"x": object()}, {"x": math.nan}, {"x": "\ud800"}])
def test_metadata_that_json_cannot_say_is_refused(metadata: Any) -> None:
    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            with pytest.raises(ValidationRefused):
                await plugin.ally.add_message("user", "hello", metadata=metadata)

    go(main())


BAD_EVENTS: list[tuple[Any, Any]] = [
    ("TOOL_CALL_START", {}),
    ("p:TOOL_CALL_START", {}),
    ("other:done", {}),
    ("", {}),
    ("a b", {}),
    (5, {}),
    ("done", {"x": object()}),
    ("done", {1: 2}),
    ("done", {"x": math.inf}),
    ("done", ["x"]),
]


@pytest.mark.parametrize(("event_type", "data"), BAD_EVENTS)
def test_an_event_that_is_not_the_plugin_s_own_or_not_json_is_refused(event_type: Any, data: Any) -> None:
    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            with pytest.raises(ValidationRefused):
                await plugin.ally.emit_event(event_type, data)

    go(main())


BAD_OPTIONS: list[dict[str, Any]] = [
    {"deliver_as": "now"},
    {"deliver_as": None},
    {"key": ""},
    {"key": 5},
    {"key": "x" * 257},
    {"key": "line\n"},
    {"session_id": "unknown"},
    {"session_id": 5},
    {"session_id": "x" * 1_000_000},
]


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_options_of_a_message_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            with pytest.raises((ValidationRefused, NotFoundRefused)) as refused:
                await plugin.ally.add_message("user", "hello", **options)
            assert len(str(refused.value)) < 1000
            assert await session.safe_point() == ()

    go(main())


BAD_REQUESTS: list[dict[str, Any]] = [
    {"action": None},
    {"action": ""},
    {"action": 5},
    {"action": "x" * 100_000},
    {"action": "line\nfeed"},
    {"action": "compact", "timeout": -1},
    {"action": "compact", "timeout": 0},
    {"action": "compact", "timeout": "soon"},
    {"action": "compact", "timeout": math.nan},
    {"action": "compact", "timeout": None},
    {"action": "compact", "arguments": ["x"]},
]


@pytest.mark.parametrize("request_", BAD_REQUESTS)
def test_an_action_request_that_makes_no_sense_is_refused(request_: dict[str, Any]) -> None:
    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, **SERVED) as host:
            host.session("s")
            with pytest.raises(ValidationRefused) as refused:
                await plugin.ally.request_action(**request_)
            assert len(str(refused.value)) < 1000

    go(main())


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, None, 5, "a/b"])
def test_a_task_needs_a_name_and_a_coroutine(name: Any) -> None:
    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            host.session("s")
            with pytest.raises(ValidationRefused):
                await plugin.ally.start_task(name, work())  # closed: "never awaited" would be an error here
            with pytest.raises(ValidationRefused):
                await plugin.ally.start_task("fine", work)
            assert not list(host.tasks)

    go(main())


def test_a_message_passes_the_transforms_and_gates_of_others_and_none_of_its_own() -> None:
    from ally_plugins import Deny, Replace

    seen: list[str] = []

    def transform(name: str) -> Any:
        async def ally_transform_plugin_message(self: Any, message: Any) -> Any:
            seen.append(f"{name} transforms {message.content}")
            return Replace(attrs.evolve(message, content=f"{message.content}+{name}"))

        return ally_transform_plugin_message

    def gate(name: str) -> Any:
        async def ally_gate_message(self: Any, message: Any) -> Any:
            seen.append(f"{name} gates {message.content}")
            return Deny("too rude") if "rude" in message.content else None

        return ally_gate_message

    async def main() -> Any:
        plugins = {
            name: make_plugin(ally_transform_plugin_message=transform(name), ally_gate_message=gate(name))
            for name in ("a", "b", "c")
        }
        async with new_host(plugins=plugins) as host:
            session = host.session("s")
            await plugins["b"].ally.add_message("user", "hi")
            assert seen[:2] == ["a transforms hi", "c transforms hi+a"]
            assert sorted(seen[2:]) == ["a gates hi+a+c", "c gates hi+a+c"]
            with pytest.raises(GateRefused, match="too rude") as refused:
                await plugins["a"].ally.add_message("user", "rude")
            assert refused.value.decision_id
            assert [message.content for message in await session.safe_point()] == ["hi+a+c"]
            assert host.plugins["a"].counts.refused == {"gate": 1}

    go(main())


def test_a_plugin_s_change_to_a_message_is_validated_as_the_message_was() -> None:
    from ally_plugins import Message, Replace

    answers: list[Any] = []

    async def ally_transform_plugin_message(self: Any, message: Any) -> Any:
        return Replace(answers.pop())

    async def main() -> Any:
        plugin = make_plugin()
        plugins = {"p": plugin, "t": make_plugin(ally_transform_plugin_message=ally_transform_plugin_message)}
        async with new_host(plugins=plugins) as host:
            session = host.session("s")
            forged = Message(role="system", content="changed", id="forged", metadata={"sourcePlugin": "x"})
            for answer in ("text", Message(role="user", content="nul\0"), forged):
                answers.append(answer)
                await plugin.ally.add_message("user", "hello")
            answers.append(Message(role="user", content="x" * 70_000))
            with pytest.raises(BudgetRefused):
                await plugin.ally.add_message("user", "hello")
            first, second, third = await session.safe_point()
            assert (first.content, second.content, third.content) == ("hello", "hello", "changed")
            assert (third.role, third.source_plugin) == ("user", "p")
            assert third.id != "forged"

    go(main())


def test_what_the_host_s_implementation_raises_is_no_crash_of_the_plugin(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        @hookimpl
        def ally_emit_event(self) -> bool:
            raise ZeroDivisionError("in the host")

        @hookimpl
        async def ally_get_context(self) -> Any:
            return {"not": "a context"}

    async def main() -> Any:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}, implementation=Broken()) as host:
            host.session("s")
            with pytest.raises(UnavailableRefused, match="ally_emit_event"):
                await plugin.ally.emit_event("done")
            with pytest.raises(UnavailableRefused, match="ally_get_context"):
                await plugin.ally.get_context()

    go(main())
    assert "ZeroDivisionError" in caplog.text


def test_an_implementation_without_its_decorator_or_with_a_wrong_name_is_an_error_at_once() -> None:
    class Plain:
        def ally_add_message(self, message: Any) -> bool:
            return True

    class Misspelt:
        @hookimpl
        def ally_add_mesage(self, message: Any) -> bool:
            return True

    with pytest.raises(HostError, match=r"'ally_add_message' lacks the decorator @hookimpl"):
        new_host(implementation=Plain())
    with pytest.raises(HostError, match=r"'ally_add_mesage' is no capability hook"):
        new_host(implementation=Misspelt())
