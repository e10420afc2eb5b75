"""The harness runs a plugin on a real host: what a test says reaches it, and what it says comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pluggy import Result

import ally_plugins
from ally_plugins import (
    Ally,
    Ask,
    AssistantMessage,
    ConfigError,
    ContextUsageUpdate,
    Deny,
    GateRefused,
    HostError,
    Limits,
    ManifestError,
    Message,
    PermissionRefused,
    PermissionRequest,
    PluginLoadError,
    PluginMessageReceived,
    PluginQuestion,
    Replace,
    Stop,
    ToolCall,
    ToolCallEnd,
    ToolCallError,
    ToolCallStart,
    ToolResult,
    UserMessage,
    action,
    evolve,
    hookimpl,
    tool,
)
from ally_plugins.testing import BlockingHarness, PluginHarness, find_manifest
from ally_plugins.testing.pytest_plugin import pytest_runtest_call

MANIFEST = """
description = "does a little of everything"
requires_host = ">=1,<2"
[events]
subscribe = ["TOOL_CALL_END"]
[permissions]
add_message = { roles = ["user"], reason = "to speak" }
emit_event = { reason = "to tell" }
tools = { reason = "to offer" }
actions = { reason = "to offer" }
gate = { on = ["tool_call", "permission", "message"], reason = "to refuse" }
transform = { on = ["tool_input", "tool_output", "user_message"], reason = "to change" }
[settings.word]
type = "string"
default = "failed"
[settings.key]
type = "string"
secret = true
"""


class AllRounder:
    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        if event.error == "crash":
            raise ValueError("as asked")
        await self.ally.emit_event("ended", {"tool": event.tool_name})
        await self.ally.add_message("user", f"{event.tool_name} {self.ally.settings['word']}", deliver_as="follow_up")

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Deny | None:
        return Deny("no rm") if call.arguments.get("command") == "rm" else None

    @hookimpl
    async def ally_gate_permission(self) -> Ask:
        return Ask("are you sure?")

    @hookimpl
    async def ally_gate_message(self, message: Message) -> Deny | None:
        return Deny("not that") if "that" in message.content else None

    @hookimpl
    def ally_transform_tool_input(self, call: ToolCall) -> Replace[ToolCall]:
        return Replace(ToolCall(call.tool_name, {**call.arguments, "safe": True}, call.call_id, call.agent_id))

    @hookimpl
    def ally_transform_tool_output(self, result: ToolResult) -> Replace[ToolResult]:
        return Replace(ToolResult(result.success, result.output.upper(), result.error, result.data))

    @hookimpl
    def ally_transform_user_message(self, message: Message) -> Replace[Message]:
        return Replace(Message(role=message.role, content=message.content.strip(), id=message.id))

    @tool
    async def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @action
    async def key(self) -> Any:
        """Return the secret setting."""
        return self.ally.settings["key"]


def start(**options: Any) -> BlockingHarness:
    return BlockingHarness(AllRounder, manifest=MANIFEST, **options)


@pytest.mark.parametrize(("make", "meant"), [
    (lambda: Deny(reson="no"), "did you mean 'reason'?"),  # type: ignore[call-arg]
    (lambda: ally_plugins.ToolCallEnd(tol_name="bash"), "did you mean 'tool_name'?"),  # type: ignore[call-arg]
    (lambda: ToolCall("bash", callid="c1"), "did you mean 'call_id'?"),  # type: ignore[call-arg]
])  # fmt: skip
def test_a_misspelt_argument_says_which_one_was_meant(make: Callable[[], Any], meant: str) -> None:
    class Misspelt:
        def __init__(self, ally: Ally) -> None: ...

        @hookimpl
        async def ally_tool_call_end(self) -> None:
            make()

    with BlockingHarness(Misspelt) as harness:
        harness.emit(ToolCallEnd(tool_name="bash"))
        assert meant in harness.crashes[0].lower()
    wrapper = pytest_runtest_call()
    next(wrapper)
    outcome = Result.from_call(make)
    with pytest.raises(StopIteration):
        wrapper.send(outcome)
    assert outcome.exception is not None
    said = [str(outcome.exception), *getattr(outcome.exception, "__notes__", ())]
    assert meant in " ".join(said).lower()  # from 3.13 on Python says so itself


@pytest.mark.usefixtures("no_leaks")
def test_what_a_plugin_says_comes_back() -> None:
    with start() as harness:
        harness.emit(ToolCallEnd(tool_name="bash", call_id="c1"))
        assert [(event.event_type, event.data) for event in harness.emitted] == [
            ("all-rounder:ended", {"tool": "bash"})
        ]
        assert [message.content for message in harness.pending] == ["bash failed"]
        assert not harness.messages
        assert not harness.safe_point("step")
        assert [message.content for message in harness.safe_point("turn_end")] == ["bash failed"]
        assert harness.pending == ()
        assert harness.messages[0].source_plugin == "all-rounder"
        assert len(harness.events_of(PluginMessageReceived)) == 1
    assert harness.plugin.state == "stopped"


def test_gates_and_transforms_are_asked_as_the_host_asks_them() -> None:
    with start() as harness:
        assert harness.gate("bash", {"command": "ls"}).is_allowed
        assert harness.gate("bash", {"command": "rm"}).reason == "all-rounder: no rm"
        assert harness.transform_input("bash", {"command": "ls"}).arguments == {"command": "ls", "safe": True}
        assert harness.transform_output("done").output == "DONE"
        assert [decision.verdict for decision in harness.decisions] == ["allow", "deny"]


def test_a_tool_call_goes_the_whole_way() -> None:
    with start() as harness:
        assert harness.run_tool("bash", {"command": "ls"}, "a b").output == "A B"
        assert harness.run_tool("bash", {"command": "rm"}).error == "not run: all-rounder: no rm"
        assert [each.arguments["command"] for each in harness.events_of(ToolCallStart)] == ["ls", "rm"]
        ended = harness.events_of(ToolCallEnd)
        assert [(each.success, each.denied, each.error) for each in ended] == [
            (True, False, None), (False, True, "not run: all-rounder: no rm"),
        ]  # fmt: skip
        assert ended[1].decision_id == harness.decisions[1].decision_id
        assert [each.duration_ms is None for each in ended] == [False, True]


def test_a_person_may_be_present_or_not() -> None:
    request = PermissionRequest(request_id="r", tool_name="bash")
    with start(has_person=True) as harness:
        assert harness.gate_permission(request).needs_person
    with start() as harness:
        assert harness.gate_permission(request).is_denied


def test_what_the_person_says_is_transformed_and_then_heard() -> None:
    with start() as harness:
        assert harness.person_says("  hello ").content == "hello"
        assert [event.content for event in harness.events_of(UserMessage)] == ["hello"]
        assert harness.harness.session.conversation.messages[0].content == "hello"


class Chaperon:
    """Minds what everybody says, and lets nobody stop before the tests have run."""

    def __init__(self, ally: Ally) -> None:
        del ally

    @hookimpl
    async def ally_gate_user_message(self, message: Message) -> Deny | None:
        return Deny("mind your words") if "damn" in message.content else None

    @hookimpl
    async def ally_transform_answer(self, message: Message) -> Replace[Message]:
        return Replace(evolve(message, content=message.content.replace("hunter2", "***")))

    @hookimpl
    async def ally_gate_answer(self, message: Message) -> Deny | None:
        return Deny("mind your words") if "damn" in message.content else None

    @hookimpl
    async def ally_gate_stop(self, stop: Stop) -> Deny | None:
        return None if "tests" in stop.answer else Deny("run the tests")


def test_words_and_stops_are_gated_and_changed_as_the_host_does_it() -> None:
    asks = 'gate = { on = ["user_message", "answer", "stop"], reason = "to mind" }'
    manifest = f'[permissions]\n{asks}\ntransform = {{ on = ["answer"], reason = "to mind" }}'
    with BlockingHarness(Chaperon, manifest=manifest) as harness:
        with pytest.raises(GateRefused, match="chaperon: mind your words"):
            harness.person_says("damn")
        with pytest.raises(GateRefused, match="chaperon: mind your words"):
            harness.model_answers("damn")
        assert harness.events_of(UserMessage) + harness.events_of(AssistantMessage) == ()
        assert harness.gate_user_message("hello").is_allowed
        assert harness.gate_answer("damn").is_denied
        assert harness.transform_answer("it is hunter2").content == "it is ***"
        assert harness.model_answers("it is hunter2").content == "it is ***"
        assert [event.content for event in harness.events_of(AssistantMessage)] == ["it is ***"]
        assert harness.gate_stop("done").reason == "chaperon: run the tests"
        assert [message.text_for_model for message in harness.safe_point()] == ["[plugin chaperon] run the tests"]
        assert harness.gate_stop("the tests pass").is_allowed


def test_another_plugin_can_be_made_to_speak() -> None:
    with start() as harness:
        harness.other.add_message("user", "this", session_id="s1")
        with pytest.raises(Exception, match="not that"):
            harness.other.add_message("user", "that", session_id="s1")
        assert [message.content for message in harness.safe_point()] == ["this"]
        assert harness.messages == ()  # it is not this plugin's


def test_tools_actions_and_secret_settings_work() -> None:
    with start(settings={"key": "k1", "word": "x"}) as harness:
        assert (harness.tools, harness.actions) == (("add",), ("key",))
        assert harness.call_tool("add", {"a": 1, "b": 2}).data == 3
        assert harness.request_action("key") == "k1"


@pytest.mark.slow
def test_grants_are_what_the_manifest_asks_for_unless_given() -> None:
    with start(grants=["events:TOOL_CALL_END", "emit_event"]) as harness:
        harness.emit(ToolCallEnd(tool_name="bash"))
        assert len(harness.emitted) == 1
        assert harness.gate("bash", {"command": "rm"}).is_allowed
        refusals = [(each.call, type(each.error)) for each in harness.refusals if each.call == "add_message"]
        assert refusals == [("add_message", PermissionRefused)]
        assert harness.crashes == ()


def test_time_stands_still_until_it_is_moved() -> None:
    with start(limits=Limits(messages_per_minute=1)) as harness:
        harness.emit(ToolCallEnd(tool_name="a"), ToolCallEnd(tool_name="b"))
        assert len(harness.pending) == 1
        harness.advance(60)
        harness.emit(ToolCallEnd(tool_name="c"))
        assert len(harness.pending) == 2
        first, last = harness.events[0].timestamp, harness.events[-1].timestamp
        assert last - first == 60_000


def test_a_crash_is_told_and_ends_nothing() -> None:
    with start() as harness:
        harness.emit(ToolCallEnd(tool_name="bash", error="crash"), ToolCallEnd(tool_name="bash"))
        assert harness.crashes == ("ally_tool_call_end: ValueError: as asked",)
        assert len(harness.emitted) == 1


@pytest.mark.usefixtures("no_leaks")
def test_a_plugin_that_does_not_start_is_an_error_with_its_reason() -> None:
    class Unable:
        def __init__(self, ally: Ally) -> None:
            del ally

        @hookimpl
        async def ally_start(self) -> None:
            raise OSError("no network")

    with pytest.raises(PluginLoadError, match=r"'unable' is failed: .*no network"):
        BlockingHarness(Unable).start()
    with BlockingHarness(Unable, must_start=False) as harness:
        assert harness.plugin.state == "failed"


def test_a_setting_that_the_manifest_does_not_have_is_an_error() -> None:
    with pytest.raises(ConfigError, match="wurd"):
        start(settings={"wurd": "x"})
    with pytest.raises(ConfigError, match="word"):
        start(settings={"word": 3})


def test_a_manifest_may_be_text_a_table_or_a_file_and_is_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "ally-plugin.toml"
    file.write_text(MANIFEST, encoding="utf-8")
    for manifest in (MANIFEST, file, {"description": "x", "permissions": {"tools": {"reason": "r"}}}):
        assert PluginHarness(AllRounder, manifest=manifest).subject.manifest is not None
    with pytest.raises(ManifestError, match="descripton"):
        PluginHarness(AllRounder, manifest='descripton = "x"')
    with pytest.raises(ManifestError, match="cannot be read"):
        PluginHarness(AllRounder, manifest=tmp_path / "nothing.toml")


def test_the_manifest_beside_a_module_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_little_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("class Little:\n    def __init__(self, ally): pass\n", encoding="utf-8")
    (package / "ally-plugin.toml").write_text('description = "little"', encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    from my_little_plugin import Little  # type: ignore[import-not-found]

    found = find_manifest(Little)
    assert found is not None
    assert found.description == "little"
    assert PluginHarness(Little).name == "little"
    assert find_manifest(AllRounder) is None


def test_a_plugin_without_a_manifest_may_do_everything() -> None:
    with BlockingHarness(AllRounder, settings={"word": "x", "key": ""}) as harness:
        harness.emit(ToolCallEnd(tool_name="bash"))
        assert len(harness.pending) == 1


def test_a_home_gives_the_plugin_a_directory(tmp_path: Path) -> None:
    with start(home=tmp_path) as harness:
        folder = harness.harness.ally.data_dir
        assert folder.is_dir()
        assert tmp_path in folder.parents


def test_the_asynchronous_harness_is_the_same_on_a_loop_of_ones_own() -> None:
    async def main() -> None:
        async with PluginHarness(AllRounder, manifest=MANIFEST) as harness:
            await harness.emit(ToolCallEnd(tool_name="bash"))
            await harness.ally.add_message("user", "from outside", session_id="s1")
            assert len(harness.pending) == 2
            assert harness.other.name == "other"

    asyncio.run(main())


def test_what_plugins_set_off_is_waited_for() -> None:
    class Echo:
        def __init__(self, ally: Ally) -> None:
            self.ally = ally

        @hookimpl
        async def ally_context_usage_update(self, event: ContextUsageUpdate) -> None:
            await asyncio.sleep(0.01)  # work that takes a while
            await self.ally.emit_event("echo", {"usage": event.context_usage})

    with BlockingHarness(Echo) as harness:
        harness.emit(*(ContextUsageUpdate(context_usage=float(i)) for i in range(5)))
        assert [event.data["usage"] for event in harness.emitted] == [0, 1, 2, 3, 4]


def test_a_harness_that_does_not_run_says_so() -> None:
    harness = start()
    with pytest.raises(HostError, match="does not run"):
        harness.settle()
    with pytest.raises(HostError, match="does not run"):
        _ = harness.harness.session
    with harness, pytest.raises(HostError, match="runs already"):
        harness.start()


def test_only_a_clock_that_stands_still_can_be_moved() -> None:
    from ally_plugins import SystemClock

    with start(clock=SystemClock()) as harness, pytest.raises(HostError, match="leave out clock"):
        harness.advance(1)


def test_the_fixture_ends_what_it_started(ally_harness: Callable[..., BlockingHarness]) -> None:
    first, second = ally_harness(AllRounder, manifest=MANIFEST), ally_harness(AllRounder, manifest=MANIFEST)
    assert first.plugin.is_running
    assert second.plugin.is_running
    assert len([each for each in threading.enumerate() if each.name == "ally-harness"]) == 2


def test_every_exported_name_is_there() -> None:
    from ally_plugins import testing

    assert all(getattr(testing, name) is not None for name in testing.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = testing.no_such_name  # type: ignore[attr-defined,unused-ignore]


def test_what_the_plugin_asks_the_person_is_answered_by_the_test() -> None:
    class Asks:
        def __init__(self, ally: Ally) -> None:
            self.ally = ally

        @tool
        async def choose(self) -> str:
            """Choose."""
            return await self.ally.ask("which?", ["left", "right"])

    async def last(question: PluginQuestion) -> str:
        return question.choices[-1]

    with BlockingHarness(Asks, grants=["tools", "ask"], ask_person=last) as harness:
        assert harness.call_tool("choose").output == "right"
    nobody = pytest.raises(ToolCallError, match="nobody is there to be asked")
    with BlockingHarness(Asks, grants=["tools", "ask"]) as harness, nobody:
        harness.call_tool("choose")
