"""Transforms: of arguments, results, the person's messages, and requests to the model."""

from __future__ import annotations

from typing import Any, Final

from ally_plugins.contract.values.conversation import Message, ModelInput, PromptSection, ToolCall, ToolResult, evolve
from ally_plugins.contract.values.events import PromptPrefixChanged, ToolCallEnd, ToolCallStart, UserMessage
from ally_plugins.contract.values.verdicts import Deny, Replace

from .check import Checks
from .stage import WORK, Stage, expect, expect_once, plugin, tool

__all__ = ["CHECKS"]

CHECKS: Final = Checks()


@CHECKS.add("changes nothing by itself")
async def _nothing_changes_without_plugins(stage: Stage) -> None:
    """Check that a run without any plugin is what it would be without the adapter."""
    async with stage.play(WORK, "done", tools=[tool("work", "as it is")], system_prompt="You mend.") as play:
        expect(await play.run("hello") == "done", "the run returned something else")
        messages = [(each.role, each.content) for each in play.requests[0].messages if each.role != "system"]
        expect(messages == [("user", "hello")], f"the model was first asked {messages}")
        expect("You mend." in play.requests[0].system, f"the system prompt was {play.requests[0].system!r}")
        expect(len(play.requests) == 2, f"the model was asked {len(play.requests)} times; expected twice")
        play.expect_result("c1", "as it is", is_all=True)


def _adding(text: str) -> type[Any]:
    """Return a plugin that adds its text to arguments, results and what the person says."""

    async def arguments(self: Any, call: ToolCall) -> Replace[ToolCall]:  # noqa: ARG001
        return Replace(evolve(call, arguments={"text": f"{call.arguments['text']}{text}"}))

    async def output(self: Any, result: ToolResult) -> Replace[ToolResult]:  # noqa: ARG001
        return Replace(evolve(result, output=f"{result.output}{text}"))

    async def content(self: Any, message: Message) -> Replace[Message]:  # noqa: ARG001
        return Replace(evolve(message, content=f"{message.content}{text}"))

    return plugin(transform_tool_input=arguments, transform_tool_output=output, transform_user_message=content)


@CHECKS.add("runs transforms in order")
async def _every_value_in_order(stage: Stage) -> None:
    """Check that each transform sees what the one before made, and tools, model and events the last of it."""
    given: list[str] = []

    def work(text: str) -> str:
        given.append(text)
        return f"<{text}>"

    plugins = {"one": _adding("1"), "two": _adding("2")}
    async with stage.play(WORK, "done", plugins=plugins, tools=[tool("work", work)]) as play:
        await play.run("hello")
        expect(given == ["a12"], f"the tool was given {given}; transforms made 'a12' of it")
        play.expect_result("c1", "<a12>12", is_all=True)
        first = play.requests[0].messages[-1]
        expect(first.content == "hello12", f"the model was asked {first.content!r}; transforms made 'hello12' of it")
        found = [_value(event) for event in play.events_of(UserMessage, ToolCallStart, ToolCallEnd)]
        wanted = [("UserMessage", "hello12"), ("ToolCallStart", "a12"), ("ToolCallEnd", "<a12>12")]
        expect(found == wanted, f"the events have {found}; expected {wanted}")
        expect("hello12" in play.kept, "the history has not what was made of it")


def _value(event: Any) -> tuple[str, Any]:
    values = {UserMessage: "content", ToolCallStart: "arguments", ToolCallEnd: "output"}
    value = getattr(event, values[type(event)])
    return type(event).__name__, value["text"] if isinstance(event, ToolCallStart) else value


@CHECKS.add("gates what transforms made")
async def _gates_see_the_final_call(stage: Stage) -> None:
    """Check that gates decide on the arguments that transforms have made."""
    seen: list[Any] = []

    async def decide(self: Any, call: ToolCall) -> Deny:  # noqa: ARG001
        seen.append(dict(call.arguments))
        return Deny("seen")

    plugins = {"one": _adding("1"), "guard": plugin(gate_tool_call=decide)}
    async with stage.play(WORK, "done", plugins=plugins, tools=[tool()]) as play:
        await play.run()
        expect(seen == [{"text": "a1"}], f"the gate decided on {seen}; the call had the text 'a1'")


@CHECKS.add("checks what transforms made")
async def _a_changed_call_is_checked(stage: Stage) -> None:
    """Check that arguments which a transform made invalid do not reach the tool, and the model is told."""
    ran: list[str] = []

    async def spoil(self: Any, call: ToolCall) -> Replace[ToolCall]:  # noqa: ARG001
        return Replace(evolve(call, arguments={"text": {"no": "text"}}))

    plugins = {"spoiler": plugin(transform_tool_input=spoil)}
    async with stage.play(WORK, "done", plugins=plugins, tools=[tool("work", ran.append)]) as play:
        is_given_up = False
        try:
            await play.run()
        except Exception:  # noqa: BLE001 - a framework may give the run up after so many wrong arguments
            is_given_up = True
        expect(not ran, f"the tool ran with {ran}, which its schema does not allow")
        expect(is_given_up or bool(play.result_of("c1")), "the model was told nothing of its call")


@CHECKS.add("begins nothing that is blocked")
async def _a_blocked_message_begins_nothing(stage: Stage) -> None:
    """Check that the model is not asked about a message that a transform set to block could not check."""

    async def fail(self: Any, message: Message) -> Any:  # noqa: ARG001
        raise ValueError("cannot read it")

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.config import PluginConfig
    from ally_plugins.policy.permissions import GrantSet

    everything = GrantSet.everything()
    config = PluginConfig(enabled=True, is_decided=True, grants=everything, transform_on_error="block")
    record = PluginRecord.by_code("redact", None, grants=everything, config=config)
    plugins = {"redact": (plugin(transform_user_message=fail), record)}
    async with stage.play("done", plugins=plugins) as play:
        answer = ""
        try:
            answer = await play.run("my password is 1234")
        except Exception as error:  # noqa: BLE001 - how a framework says it is its own
            answer = str(error)
        expect(not play.requests, "the model was asked although the message was blocked")
        expect("1234" not in str(play.history()), "what was blocked stands in the history")
        expect("redact" in answer, f"the person was told {answer!r}; expected the plugin's name")


@CHECKS.add("adds plugins' sections", "system_prompt")
async def _sections_of_the_prompt(stage: Stage) -> None:
    """Check that a plugin's section is in the system prompt of each request, and not in the history."""

    async def add(self: Any, sections: tuple[PromptSection, ...]) -> Replace[Any]:  # noqa: ARG001
        return Replace((*sections, PromptSection("notes", "tests live in tests/")))

    plugins = {"notes": plugin(transform_system_prompt=add)}
    async with stage.play(WORK, "done", plugins=plugins, tools=[tool()], system_prompt="You mend.") as play:
        await play.run()
        for number, request in enumerate(play.requests, 1):
            expect("You mend." in request.system, f"request {number} lost the agent's own prompt: {request.system!r}")
            expect_once("tests live in tests/", request.system, f"the system prompt of request {number}")


@CHECKS.add("keeps the prompt cache", "system_prompt")
async def _volatile_sections(stage: Stage) -> None:
    """Check that a volatile section reaches each request, behind all that is the same again, or is reported."""
    times: list[str] = []

    async def add(self: Any, sections: tuple[PromptSection, ...]) -> Replace[Any]:  # noqa: ARG001
        times.append(f"it is {len(times) + 1} o'clock")
        return Replace((PromptSection("clock", times[-1], volatile=True), *sections))

    plugins = {"clock": plugin(transform_system_prompt=add)}
    async with stage.play(WORK, "done", plugins=plugins, tools=[tool()], system_prompt="You mend.") as play:
        await play.run()
        for request, text in zip(play.requests, times, strict=False):
            expect_once(text, request.text, "a request")
        is_reported = bool(play.events_of(PromptPrefixChanged))
        first, second = play.requests[:2]
        is_same = first.system == second.system
        expect(is_same or is_reported, "the system prompt changes from request to request, and no event says so")
        expect(not (is_same and is_reported), "a change is reported of a system prompt that is the same again")
        if is_same:
            place = next(n for n, message in enumerate(second.messages) if times[1] in message.content)
            behind = [message.role for message in second.messages[place + 1 :]]
            expect(not behind, f"behind what is volatile come messages of the roles {behind}")
        expect("o'clock" not in play.kept, "what is volatile stands in the history")


@CHECKS.add("gives plugins its own prompt", "system_prompt")
async def _the_own_prompt_may_change(stage: Stage) -> None:
    """Check that the host's own sections are given to plugins, and what they make of them is asked."""
    seen: list[str] = []

    async def change(self: Any, sections: tuple[PromptSection, ...]) -> Replace[Any]:  # noqa: ARG001
        seen.extend(section.text for section in sections)
        return Replace(tuple(evolve(each, text=each.text.replace("mend", "break")) for each in sections))

    plugins = {"notes": plugin(transform_system_prompt=change)}
    async with stage.play("done", plugins=plugins, system_prompt="You mend.") as play:
        await play.run()
        expect("You mend." in "\n".join(seen), f"the plugin was given the sections {seen}; the prompt is 'You mend.'")
        expect("You break." in play.requests[0].text, "the model was asked without what the plugin made of the prompt")
        expect("You mend." not in play.requests[0].text, "the model was asked with what the plugin had changed")


@CHECKS.add("asks the model what transforms made", "model_request")
async def _requests_may_change(stage: Stage) -> None:
    """Check that texts may be changed and messages added for one request, and the history stays as it was."""

    async def change(self: Any, request: ModelInput) -> Replace[ModelInput]:  # noqa: ARG001
        kept = [evolve(each, content=each.content.replace("secret", "***")) for each in request.messages]
        own = Message(role="user", content="be brief")
        return Replace(evolve(request, messages=(*kept, own)))

    plugins = {"redact": plugin(transform_model_request=change)}
    async with stage.play(WORK, "done", plugins=plugins, tools=[tool("work", "a secret result")]) as play:
        await play.run("my secret")
        for number, request in enumerate(play.requests, 1):
            expect(
                "secret" not in request.text, f"request {number} has what the plugin had taken out: {request.text!r}"
            )
            expect("***" in request.text, f"request {number} lost a message of the conversation")
            expect_once("[plugin redact] be brief", request.text, f"request {number}")
        play.expect_result("c1", "a *** result", is_all=True)
        kept = play.kept
        expect("my secret" in kept and "a secret result" in kept, "the change of one request changed the history")
        expect("be brief" not in kept, "what was added to one request stands in the history")
        play.expect_valid()
