"""Transforms of the system prompt and of what the model is asked, in every placement."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from ally_plugins import GateRefused, Message, ModelInput, PromptSection, ToolCall
from tests.kit.placements import Placed, look, records_of
from tests.kit.waiting import go

HOST = PromptSection("identity", "You help.")
NOTES = PromptSection("notes", "Tests live in tests/.", "notes-plugin")

CALLS: Any = (ToolCall("bash", {"command": "ls"}, "c1"), ToolCall("read", {"path": "a"}, "c2"))
U1 = Message(role="user", content="hello", id="u1", timestamp=5)
A1 = Message(role="assistant", content="", id="a1", tool_calls=CALLS)
T1 = Message(role="tool", content="three files", id="t1", tool_call_id="c1")
T2 = Message(role="tool", content="text", id="t2", tool_call_id="c2")
A2 = Message(role="assistant", content="done", id="a2")
P1 = Message(role="user", content="my password", id="p1", private=True)
U2 = Message(role="user", content="go on", id="u2")
WHOLE = (U1, A1, T1, T2, P1, A2, U2)
SHOWN = (U1, A1, T1, T2, A2, U2)


def asked(how: str) -> ModelInput:
    return ModelInput("a-model", WHOLE, {"how": how, "temperature": 1.0})


# --- the system prompt ---


def test_sections_go_through_a_chain_and_the_host_says_whose_they_are(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"a": placed("inputs:ChangesInput"), "b": placed("inputs:ChangesInput", mandatory=True)}
        async with placed.host(plugins) as host:
            session = host.session("s")
            sections = await session.transform_system_prompt([HOST, NOTES])
            own = PromptSection("a", "of a", "a")
            assert sections == (HOST, NOTES, own, PromptSection("b", "of b", "b"))
            assert await look(host, "a") == [["system_prompt", repr((HOST, NOTES)), "s"]]
            assert await look(host, "b") == [["system_prompt", repr((HOST, NOTES, own)), "s"]]

    go(main())


def test_what_is_volatile_stands_at_the_end_and_is_said_to_be(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"a": placed("inputs:ChangesInput"), "b": placed("inputs:ChangesInput")}
        async with placed.host(plugins) as host:
            session = host.session("s")
            host_section = attrs.evolve(HOST, text="volatile")
            *stable, a, b = await session.transform_system_prompt([host_section, NOTES])
            assert tuple(stable) == (host_section, NOTES)
            assert (a, b) == tuple(PromptSection(name, f"of {name}", name, volatile=True) for name in "ab")
            sent = await session.transform_model_request(asked("between u1"))
            assert sent.messages[1].source_plugin is not None
            volatile = await session.transform_model_request(asked("add volatile"))
            assert [each.volatile for each in volatile.messages[-2:]] == [True, True]

    go(main())


def test_a_section_may_be_left_out_and_no_source_is_lost_when_none_is_given(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("inputs:ChangesInput")}) as host:
            session = host.session()
            assert await session.transform_system_prompt([attrs.evolve(HOST, text="drop"), NOTES]) == (NOTES,)
            unstamped = attrs.evolve(HOST, text="unstamped")
            assert await session.transform_system_prompt([unstamped, NOTES]) == (unstamped, NOTES)
            swapped = attrs.evolve(HOST, text="swap")
            assert await session.transform_system_prompt([swapped, NOTES]) == (NOTES, swapped)
            assert host.plugins["a"].counts.crashes == 0

    go(main())


ILLEGAL_SECTIONS = {
    "claim": "the section 'a' names another source than 'a'",
    "steal": "the section 'identity' names another source than None",
    "twice": "two sections are called 'a'",
    "empty": "the text of the section 'identity' is empty",
    "control": "the text of the section 'identity' has the control character U+0000 at 1",
    "surrogate": "has a lone surrogate",
    "long": "the text of the section 'a' has 65537 bytes of UTF-8; expected 65536 at most",
    "name": "the name of a section is 'no name\\n'",
    "number": "text",
    "text": "the transform replaced the sections by str; use Replace((*sections, PromptSection(...)))",
    "items": "sections",
    "many": "the transform added 65 sections; expected 64 at most",
    "error": "ValueError",
}


PARTS = range(4)
"""Five crashes in a minute are a quarantine, so that no host sees more than four."""


@pytest.mark.parametrize("part", PARTS)
def test_sections_that_nobody_may_make_are_left_out(part: int, placed: Placed) -> None:
    ways = dict(list(ILLEGAL_SECTIONS.items())[part::4])

    async def main() -> None:
        async with placed.host({"a": placed("inputs:ChangesInput")}) as host:
            session = host.session()
            for number, how in enumerate(ways, 1):
                sections = (attrs.evolve(HOST, text=how), NOTES)
                assert await session.transform_system_prompt(sections) == sections
                assert host.plugins["a"].counts.crashes == number
            found = [record.data["changes"][0]["error"] for record in await records_of(host, "transform")]
            for words, error in zip(ways.values(), found, strict=True):
                assert words in error

    go(main())


def test_one_that_fails_can_stop_the_request(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("inputs:ChangesInput", transform_on_error="block")}) as host:
            session = host.session()
            with pytest.raises(GateRefused, match="a could not check it, and is set to block then"):
                await session.transform_system_prompt([attrs.evolve(HOST, text="twice")])
            with pytest.raises(GateRefused, match="a call and its results stay, or go, together"):
                await session.transform_model_request(asked("drop a1"))

    go(main())


# --- what the model is asked ---


def test_nobody_is_shown_what_is_private_and_it_stays(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("inputs:ChangesInput")}) as host:
            session = host.session("s")
            assert await session.transform_model_request(asked("leave")) == asked("leave")
            shown = attrs.evolve(asked("leave"), messages=SHOWN)
            assert await look(host, "a") == [["model_request", repr(shown), "s"]]
            changed = await session.transform_model_request(asked("text redact"))
            assert changed.messages == (U1, A1, attrs.evolve(T1, content="***"), T2, P1, A2, U2)
            # What it followed is dropped: it stays behind what is left before it.
            dropped = await session.transform_model_request(asked("drop a1 t1 t2 a2"))
            assert dropped.messages == (U1, P1, U2)
            first = await session.transform_model_request(asked("drop u1 a1 t1 t2 a2"))
            assert first.messages == (P1, U2)
            assert host.plugins["a"].counts.crashes == 0

    go(main())


def test_of_a_message_only_the_text_may_change(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("inputs:ChangesInput")}) as host:
            session = host.session()
            changed = await session.transform_model_request(asked("text colour"))
            assert changed.messages[2] == attrs.evolve(T1, content="\x1b[1mred")
            forged = await session.transform_model_request(asked("text forge"))
            assert forged.messages[2] == attrs.evolve(T1, content="***")
            assert host.plugins["a"].counts.crashes == 0

    go(main())


def test_new_messages_are_stamped_with_their_plugin(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("inputs:ChangesInput"), "b": placed("inputs:ChangesInput")}) as host:
            session = host.session()
            changed = await session.transform_model_request(asked("add"))
            *before, first, second = changed.messages
            assert tuple(before) == WHOLE
            assert (first.content, first.role, first.source_plugin) == ("of a", "user", "a")
            assert (second.content, second.source_plugin) == ("of b", "b")
            assert first.text_for_model == "[plugin a] of a"
            assert first.id
            assert first.id != second.id
            seen = (await look(host, "b"))[0][1]
            assert repr(first) in seen

    go(main())


def test_no_message_passes_as_another_plugins_or_as_private(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("inputs:ChangesInput")}) as host:
            session = host.session()
            changed = await session.transform_model_request(asked("add forged"))
            forged = changed.messages[-1]
            assert forged.metadata == {"sourcePlugin": "a", "isPluginGenerated": True, "origin": ("a",), "note": 1}
            assert (forged.id, forged.private) == ("mine", False)

    go(main())


def test_settings_may_change_and_two_that_change_one_are_reported(
    placed: Placed, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("inputs:ChangesInput"), "b": placed("inputs:ChangesInput")}) as host:
            session = host.session()
            changed = await session.transform_model_request(asked("settings"))
            expected = {"how": "settings", "temperature": 0.5, "b": (1, None), "both": "b"}
            assert changed == attrs.evolve(asked("settings"), settings=expected)
            assert "a, b all changed 'settings.both'; the last one won" in caplog.text
            assert "settings.temperature" not in caplog.text  # the second found it so
            assert (await session.transform_model_request(asked("off"))).settings == {}

    go(main())


ILLEGAL_INPUTS = {
    "model": "the transform changed the model from 'a-model'; only messages and settings may change",
    "none": "no message is left; the model would have nothing to answer",
    "drop a1": "the result 't1' does not follow the call 'c1' that it answers; a call and its results stay, or go",
    "drop t1": "the call 'c1' of the message 'a1' has no result before the message 'p1'",
    "drop u2": "the last message is the model's own",
    "swap": "the message 'u1' stands behind what followed it, or twice",
    "double": "the message 'u2' stands behind what followed it, or twice",
    "last": "the last message is the model's own",
    "between a1": "the call 'c1' of the message 'a1' has no result before the message",
    "between t1": "the call 'c2' of the message 'a1' has no result before the message",
    "add role": "messages[6], which is new, has the role 'tool'; expected one of 'user', 'assistant', 'system'",
    "add calls": "has tool calls, or answers one; only the model calls tools",
    "add answers": "has tool calls, or answers one; only the model calls tools",
    "add empty": "the content of messages[6], which is new, is empty",
    "add long": "has 65537 bytes of UTF-8; expected 65536 at most",
    "add secret": "two messages have the id 'p1'",
    "many": "the transform added 65 messages; expected 64 at most",
    "text number": "content",
    "text surrogate": "has a lone surrogate",
    "nonsense": "the transform replaced a ModelInput by dict; use evolve(value, field=...)",
    "items": "",
    "error": "ValueError",
}


@pytest.mark.parametrize("part", range(6))
def test_an_input_that_nobody_may_make_is_left_out(part: int, placed: Placed) -> None:
    ways = dict(list(ILLEGAL_INPUTS.items())[part::6])

    async def main() -> None:
        async with placed.host({"a": placed("inputs:ChangesInput")}) as host:
            session = host.session()
            for number, how in enumerate(ways, 1):
                assert await session.transform_model_request(asked(how)) == asked(how)
                assert host.plugins["a"].counts.crashes == number
            found = [record.data["changes"][0]["error"] for record in await records_of(host, "transform")]
            for words, error in zip(ways.values(), found, strict=True):
                assert words in error

    go(main())


def test_an_input_without_ids_is_given_some_and_doubles_are_the_hosts_error(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("inputs:ChangesInput")}) as host:
            session = host.session()
            unnamed = ModelInput(messages=[attrs.evolve(U1, id=""), attrs.evolve(U2, id="")], settings={"how": "leave"})
            changed = await session.transform_model_request(unnamed)
            assert [message.content for message in changed.messages] == ["hello", "go on"]
            assert len({message.id for message in changed.messages} - {""}) == 2
            with pytest.raises(ValueError, match="two messages of the model's input have the id 'u1'"):
                await session.transform_model_request(ModelInput(messages=[U1, U1]))
            with pytest.raises(ValueError, match="two sections are called 'identity'"):
                await session.transform_system_prompt([HOST, HOST])

    go(main())


def test_only_who_is_granted_it_is_asked_and_the_session_says_whether_anybody_is(placed: Placed) -> None:
    async def main() -> None:
        plugins = {
            "a": placed("inputs:ChangesInput", ["tools", "transform:system_prompt"]),
            "b": placed("inputs:ChangesInput", ["tools"]),
        }
        async with placed.host(plugins) as host:
            session = host.session()
            assert session.wants("system_prompt")
            assert not session.wants("model_request")
            assert not session.wants("tool_call")
            assert await session.transform_model_request(asked("text redact")) == asked("text redact")
            assert await session.transform_system_prompt([HOST]) == (HOST, PromptSection("a", "of a", "a"))
            assert await look(host, "b") == []
            with pytest.raises(ValueError, match="topic is 'model_requests'; did you mean 'model_request'"):
                session.wants("model_requests")
        async with placed.host({}) as host:
            session = host.session()
            assert not session.wants("system_prompt")
            request = asked("leave")
            assert await session.transform_model_request(request) is request

    go(main())


def test_a_long_conversation_comes_back_whole(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("inputs:ChangesInput")}) as host:
            session = host.session()
            many = [Message(role="user", content=f"{i} " * 200, id=f"m{i}") for i in range(2_000)]  # 2 MB
            request = ModelInput(None, (*many, *WHOLE), {"how": "text redact"})
            changed = await session.transform_model_request(request)
            assert changed.messages == (*many, U1, A1, attrs.evolve(T1, content="***"), T2, P1, A2, U2)

    go(main())
