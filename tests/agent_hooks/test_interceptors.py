"""Interceptors as plugins of a host: what becomes of their verdicts, and of what they have not seen."""

from __future__ import annotations

from typing import Any

import pytest

from ally_plugins import Allow, GateRefused, Host, Message, ModelInput, Replace, ToolCall, ToolResult, evolve
from ally_plugins.bridges.agent_hooks import interceptor_plugin
from tests.kit.hosts import make_plugin, make_record
from tests.kit.waiting import go

pytestmark = pytest.mark.smoke

CALL = ToolCall("http_get", {"url": "https://evil.example"}, "c1")


class Scripted:
    """Answers as it was given, by the point; allows everywhere else, and keeps what it was shown."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.seen: list[dict[str, Any]] = []

    def intercept(self, context: dict[str, Any], /) -> dict[str, Any]:
        self.seen.append(context)
        answer = self.answers.get(context["interception_point"], {"decision": "allow"})
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    def points(self) -> list[str]:
        return [context["interception_point"] for context in self.seen]


def deny(reason: str = "test:no", **more: Any) -> dict[str, Any]:
    return {"decision": "deny", "reason": reason, **more}


def transform(path: str, value: Any) -> dict[str, Any]:
    return {"decision": "transform", "reason": "test:changed", "transform": {"path": path, "value": value}}


def plugins(interceptor: Scripted, *, grants: list[str] | None = None, **config: Any) -> dict[str, Any]:
    record = make_record("interceptors", grants=grants, **{"transform_on_error": "block", **config})
    return {"interceptors": (interceptor_plugin(interceptor), record)}


async def echo(call: ToolCall) -> ToolResult:
    return ToolResult(success=True, output=str(call.arguments["url"]))


def test_a_call_runs_with_what_the_interceptors_made_of_it() -> None:
    interceptor = Scripted(pre_tool_call=transform("$target.url", "https://safe.example"))

    async def main() -> ToolResult:
        async with Host(plugins=plugins(interceptor), home=None) as host:
            return await host.session().run_tool_call(CALL, echo)

    assert go(main()).output == "https://safe.example"
    assert interceptor.points() == ["pre_tool_call", "post_tool_call", "agent_shutdown"]


def test_a_change_by_another_plugin_behind_them_is_shown_to_them_before_the_call_runs() -> None:
    def change(_self: Any, call: ToolCall) -> Replace[ToolCall]:
        return Replace(evolve(call, arguments={"url": "https://worse.example"}))

    interceptor = Scripted()
    later = (make_plugin(ally_transform_tool_input=change), make_record("later"))

    async def main() -> ToolResult:
        async with Host(plugins={**plugins(interceptor), "later": later}, home=None) as host:
            return await host.session().run_tool_call(CALL, echo)

    assert go(main()).output == "https://worse.example"
    shown = [
        each["tool_call"]["args"]["url"] for each in interceptor.seen if each["interception_point"] == "pre_tool_call"
    ]
    assert shown == ["https://evil.example", "https://worse.example"]


@pytest.mark.parametrize("answer", [RuntimeError("down"), {"decision": "transform"}, {"decision": "maybe"}, {}])
def test_an_interceptor_that_fails_or_talks_nonsense_lets_nothing_through(answer: Any) -> None:
    async def main() -> ToolResult:
        async with Host(plugins=plugins(Scripted(pre_tool_call=answer)), home=None) as host:
            return await host.session().run_tool_call(CALL, echo)

    result = go(main())
    assert not result.success
    assert "host_error" in (result.error or "")


def test_without_the_grant_to_transform_a_change_is_a_deny_and_not_the_old_value() -> None:
    interceptor = Scripted(pre_tool_call=transform("$target.url", "https://safe.example"))

    async def main() -> ToolResult:
        async with Host(plugins=plugins(interceptor, grants=["gate:tool_call"]), home=None) as host:
            return await host.session().run_tool_call(CALL, echo)

    assert "may not transform here" in (go(main()).error or "")


def test_a_deny_that_may_be_lifted_is_a_question_to_the_person() -> None:
    asked: list[str] = []

    async def ask(call: ToolCall, ruling: Any) -> bool:
        asked.append(f"{call.tool_name}: {ruling.reason}")
        return True

    async def main() -> tuple[ToolResult, ToolResult]:
        interceptor = Scripted(pre_tool_call=deny("test:costly", approval={"reason": "it costs"}))
        async with Host(plugins=plugins(interceptor), home=None, has_person=True) as host:
            agreed = await host.session().run_tool_call(CALL, echo, ask=ask)
            alone = await host.session().run_tool_call(CALL, echo)
        return agreed, alone

    agreed, alone = go(main())
    assert (agreed.success, alone.success) == (True, False)
    assert asked == ["http_get: interceptors: test:costly"]


def test_a_denied_result_is_discarded_and_a_changed_one_is_what_the_model_reads() -> None:
    async def main(answer: dict[str, Any]) -> ToolResult:
        async with Host(plugins=plugins(Scripted(post_tool_call=answer)), home=None) as host:
            return await host.session().run_tool_call(CALL, echo)

    denied, changed = go(main(deny("test:tainted"))), go(main(transform("$target", "[redacted]")))
    assert denied.output == "blocked: test:tainted"
    assert changed.output == "[redacted]"


@pytest.mark.parametrize("point", ["agent_startup", "input"])
def test_what_is_denied_at_the_start_never_reaches_the_agent(point: str) -> None:
    async def main() -> str:
        async with Host(plugins=plugins(Scripted(**{point: deny("test:closed")})), home=None) as host:
            session = host.session()
            message = await session.transform_user_message(Message(role="user", content="hello"))
            ruling = await session.gate_user_message(message)
            assert ruling.is_denied
            return ruling.reason

    assert "test:closed" in go(main())


def test_a_request_that_is_denied_is_not_sent_and_where_it_is_its_answer_and_calls_are_denied() -> None:
    request = ModelInput(model="m", messages=[Message(role="user", content="hello", id="m1")])

    async def main(on_error: str) -> tuple[bool, bool, bool]:
        interceptor = Scripted(pre_model_call=deny("test:no-model"))
        async with Host(plugins=plugins(interceptor, transform_on_error=on_error), home=None) as host:
            session = host.session()
            try:
                await session.transform_model_request(request)
            except GateRefused:
                return True, True, True
            answer = await session.gate_answer(Message(role="assistant", content="hi"))
            return False, answer.is_denied, not (await session.run_tool_call(CALL, echo)).success

    assert go(main("block")) == (True, True, True)
    assert go(main("drop")) == (False, True, True)


def test_messages_of_a_request_are_changed_in_their_text_and_in_nothing_else() -> None:
    request = ModelInput(model="m", messages=[Message(role="user", content="my key is K", id="m1")])

    async def main(value: Any, path: str) -> str:
        async with Host(plugins=plugins(Scripted(pre_model_call=transform(path, value))), home=None) as host:
            return (await host.session().transform_model_request(request)).messages[0].content

    assert go(main("my key is [redacted]", "$target[0].content")) == "my key is [redacted]"
    for value, path in (("system", "$target[0].role"), ([], "$target"), (1, "$target[0].content")):
        with pytest.raises(GateRefused):
            go(main(value, path))


def test_without_any_interceptor_nothing_runs() -> None:
    async def main() -> ToolResult:
        record = make_record("interceptors")
        async with Host(plugins={"interceptors": (interceptor_plugin(), record)}, home=None) as host:
            return await host.session().run_tool_call(CALL, echo)

    assert "host_error:no_interceptor" in (go(main()).error or "")


def test_each_conversation_begins_and_ends_once_with_contexts_of_its_own() -> None:
    interceptor = Scripted()

    async def main() -> None:
        async with Host(plugins=plugins(interceptor), home=None) as host:
            sessions = [host.session("one"), host.session("two")]
            for _ in range(2):
                for session in sessions:
                    message = await session.transform_user_message(Message(role="user", content="hello"))
                    assert isinstance((await session.gate_user_message(message)).verdict, Allow)
            for session in sessions:
                await session.close()

    go(main())
    for name in ("one", "two"):
        own = [context for context in interceptor.seen if context["session"]["id"] == name]
        points = [context["interception_point"] for context in own]
        assert points == ["agent_startup", "input", "input", "agent_shutdown"]
        assert [context["sequence"] for context in own] == [0, 1, 2, 3]
