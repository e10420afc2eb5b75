"""Gates in every placement: what they are shown, what their answers come to, and that they fail closed."""

from __future__ import annotations

from typing import Any

import pytest

from ally_plugins import Allow, Ask, Deny, Message, PermissionRequest, TodoUpdate, ToolCall
from tests.kit.placements import Placed, call, look, records_of
from tests.kit.waiting import go

WAYS_TO_FAIL = {
    "error": "ValueError: a broken thing",
    "exit": "SystemExit: 3",
    "cancelled": "HookCancelled: the hook raised CancelledError",
    "generator_exit": "GeneratorExit",
    "timeout": "TimeoutError: mine",
    "stop": "RuntimeError: ",
}

NONSENSE = {
    "true": "the gate returned True; expected Allow(), Ask(reason), Deny(reason) or None",
    "text": "the gate returned a value of the type str; expected",
    "class": "the gate returned the class Allow (write Allow(...)); expected",
    "dict": "the gate returned a value of the type dict; expected",
    "replace": "the gate returned Replace(...); expected",
    "control": "has the control character U+0000",
    "surrogate": "has a lone surrogate",
    "number": "of the type int",
}


def request(name: str) -> PermissionRequest:
    return PermissionRequest(request_id="r1", tool_name=name)


@pytest.mark.parametrize("plugin", ["Judges", "JudgesInThread"])
def test_every_gate_may_allow_ask_deny_or_abstain(plugin: str, placed: Placed) -> None:
    async def main() -> None:
        plugins = {"judge": placed(f"hooks:{plugin}"), "p": placed("calls:Caller")}
        async with placed.host(plugins) as host:
            session = host.session()
            verdicts: dict[str, Any] = {
                "allow": Allow(),
                "abstain": Allow(),
                "deny": Deny("judge: not today"),
                "ask": Deny("judge: are you sure?, and no person is present to agree"),
            }
            for how, verdict in verdicts.items():
                tool = await session.gate_tool_call(ToolCall(how))
                permission = await session.gate_permission(request(how))
                assert tool.verdict == permission.verdict == verdict
                assert [vote.cause for vote in tool.votes] == ["verdict"]
                message = await call(host, "add_message", "user", how)
                if tool.is_allowed:
                    assert message["returned"]["state"] == "pending"
                else:
                    assert message["raised"] == "GateRefused"
                    assert message["text"].endswith(tool.reason)
                    (decision,) = await records_of(host, "decision", ref=message["decision_id"])
                    assert decision.data["kind"] == "message"
                    assert decision.data["votes"][0]["plugin"] == "judge"
            session.has_person = True
            assert (await session.gate_tool_call(ToolCall("ask"))).verdict == Ask("judge: are you sure?")
            assert host.plugins["judge"].counts.crashes == 0

    go(main())


def test_a_gate_is_shown_equal_values_and_of_the_context_what_it_was_granted(placed: Placed) -> None:
    deep = {"a": [1, None, True, 0.5, {"ünï": "\n"}], "b": {}}

    async def main() -> None:
        grants = [
            "tools",
            "gate:tool_call",
            "gate:message",
            "gate:permission",
            "get_context:todos",
            "get_context:focus",
        ]
        plugins = {"judge": placed("hooks:Judges", grants), "p": placed("calls:Caller")}
        async with placed.host(plugins) as host:
            session = host.session("s", focus="/home")
            session.conversation.add(Message(role="user", content="not for everybody"))
            session.emit(
                TodoUpdate(todos=[{"id": "1", "task": "test", "status": "in_progress", "activeForm": "testing"}])
            )
            asked = ToolCall("look", deep, "c1", "agent-1")
            await session.gate_tool_call(asked)
            context = await session.context(("focus", "todos"))
            wanted = PermissionRequest(
                request_id="r1", tool_name="look", arguments=deep, path="/etc", command="ls", sensitivity="high",
                options=({"id": "yes"}, "no"), call_id="c1", agent_id="a", parent_id="p", extra={"new": [1]},
            )  # fmt: skip
            await session.gate_permission(wanted)
            receipt = await call(host, "add_message", "user", "hello", metadata=deep)
            (stored,) = host.journal.pending("s")
            seen = await look(host, "judge")
            assert seen[0] == ["tool_call", repr(asked), repr(context), "s"]
            assert seen[1] == ["permission", repr(wanted), {"new": [1]}, "s"]
            assert context.messages is None
            message = Message(
                role="user", content="hello", id=receipt["returned"]["id"], timestamp=stored.accepted_at,
                metadata={**deep, "sourcePlugin": "p", "isPluginGenerated": True, "origin": ("p",)},
            )  # fmt: skip
            assert seen[2] == ["message", repr(message), repr(context), "s"]

    go(main())


@pytest.mark.parametrize("plugin", ["Judges", "JudgesInThread"])
def test_a_gate_that_raises_denies_and_names_what_it_raised(plugin: str, placed: Placed) -> None:
    async def main() -> None:
        plugins = {how: placed(f"hooks:{plugin}") for how in ("p", "q")}
        async with placed.host(plugins) as host:
            session = host.session()
            ways = [how for how in WAYS_TO_FAIL if how != "cancelled" or plugin == "Judges"]
            for count, how in enumerate(ways[:4], 1):
                ruling = await session.gate_tool_call(ToolCall(how))
                assert ruling.is_denied
                assert [vote.cause for vote in ruling.votes] == ["crash", "crash"]
                for vote in ruling.votes:
                    assert placed.raised(WAYS_TO_FAIL[how]) in vote.detail
                    assert f"ally-plugins info {vote.plugin}" in ruling.reason
                assert host.plugins["p"].counts.crashes == count
            assert (await session.gate_tool_call(ToolCall("allow"))).is_allowed

    go(main())


def test_other_ways_to_raise_in_a_gate_deny_too(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:Judges")}) as host:
            session = host.session()
            for how in ("timeout", "stop", "tool"):
                ruling = await session.gate_tool_call(ToolCall(how))
                assert ruling.votes[0].cause == "crash"
                if how == "tool":  # a text that is meant for others
                    assert "ToolCallError: the file is not there" in ruling.reason
                else:
                    assert placed.raised(WAYS_TO_FAIL[how]) in ruling.reason
            assert (await session.gate_permission(request("error"))).votes[0].cause == "crash"

    go(main())


@pytest.mark.parametrize("half", [0, 1])
def test_nonsense_denies_and_is_told_in_the_same_words(half: int, placed: Placed) -> None:
    hows = list(NONSENSE)[half * 4 : half * 4 + 4]

    async def main() -> None:
        async with placed.host({"p": placed("hooks:Judges")}) as host:
            session = host.session()
            for number, how in enumerate(hows, 1):
                ruling = await session.gate_tool_call(ToolCall(f"nonsense {how}"))
                (vote,) = ruling.votes
                assert ruling.is_denied
                assert (how, vote.cause) == (how, "nonsense")
                assert NONSENSE[how] in vote.detail
                assert host.plugins["p"].counts.crashes == number

    go(main())


def test_a_refusal_that_a_gate_does_not_catch_denies_and_is_no_crash(placed: Placed) -> None:
    async def main() -> None:
        grants = ["gate:tool_call"]
        plugins = {
            "a": placed("hooks:Judges", grants),
            "b": placed("hooks:JudgesInThread", grants),
        }
        async with placed.host(plugins) as host:
            ruling = await host.session().gate_tool_call(ToolCall("refused"))
            assert ruling.is_denied
            for vote in ruling.votes:
                assert vote.cause == "crash"
                assert "PermissionRefused" in vote.detail
                assert f"ally-plugins grant {vote.plugin} add_message:system" in vote.detail
                assert host.plugins[vote.plugin].counts.crashes == 0

    go(main())


def test_a_gate_past_its_deadline_denies_and_answers_the_next_question(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"p": placed("hooks:Judges", deadlines={"gate": 0.4})}
        async with placed.host(plugins) as host:
            session = host.session()
            ruling = await session.gate_tool_call(ToolCall("hang"))
            assert ruling.is_denied
            assert ruling.votes[0].cause == "timeout"
            assert "ally_gate_tool_call did not answer within 0.4 s" in ruling.reason
            assert host.plugins["p"].counts.crashes == 1
            assert (await session.gate_permission(request("allow"))).is_allowed
            assert host.plugins["p"].state == "running"

    go(main())


def test_on_error_allow_and_shadow_are_the_operators_to_set(placed: Placed) -> None:
    async def main() -> None:
        plugins = {
            "allows": placed("hooks:Judges", gate_on_error="allow"),
            "shadow": placed("hooks:Judges", shadow=True),
            "topic": placed("hooks:Judges", shadow=frozenset({"tool_call"})),
        }
        async with placed.host(plugins) as host:
            session = host.session()
            ruling = await session.gate_tool_call(ToolCall("error"))
            assert ruling.is_allowed
            assert not ruling.waived
            assert [(vote.plugin, vote.cause, vote.shadow) for vote in ruling.votes] == [
                ("allows", "crash", False), ("shadow", "crash", True), ("topic", "crash", True),
            ]  # fmt: skip
            denied = await session.gate_tool_call(ToolCall("deny"))
            assert denied.decided_by == ("allows",)
            assert (await session.gate_permission(request("deny"))).decided_by == ("allows", "topic")

    go(main())


def test_votes_stand_in_hook_order(placed: Placed) -> None:
    async def main() -> None:
        plugins = {
            "a": placed("hooks:Judges", manifest='after = ["d"]'),
            "b": placed("hooks:JudgesLast"),
            "c": placed("hooks:JudgesFirst"),
            "d": placed("hooks:Judges"),
            "z": placed("hooks:Judges", mandatory=True),
        }
        async with placed.host(plugins) as host:
            ruling = await host.session().gate_tool_call(ToolCall("deny"))
            assert [vote.plugin for vote in ruling.votes] == ["z", "c", "d", "a", "b"]

    go(main())


def test_a_gate_is_asked_only_about_what_it_was_granted(placed: Placed) -> None:
    async def main() -> None:
        plugins = {
            "bash": placed("hooks:Judges", ["tools", "gate:tool_call:deny"]),
            "none": placed("hooks:Judges", ["tools"]),
            "waives": placed("hooks:Judges", ["tools", "gate:permission", "gate:waive"]),
        }
        async with placed.host(plugins) as host:
            session = host.session()
            assert (await session.gate_tool_call(ToolCall("deny"))).decided_by == ("bash",)
            assert (await session.gate_tool_call(ToolCall("deny2"))).is_allowed
            assert (await session.gate_permission(request("allow"))).waived
            assert await look(host, "none") == []

    go(main())


def test_nobody_gates_its_own_message(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"p": placed("calls:GatesAll"), "other": placed("hooks:Judges")}
        async with placed.host(plugins) as host:
            host.session()
            assert "returned" in await call(host, "add_message", "user", "allow")
            assert [note[0] for note in await look(host, "other")] == ["message"]

    go(main())


def test_what_was_decided_on_is_in_the_record_and_of_what_is_sensitive_a_digest_and_the_shape(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"judge": placed("hooks:Judges"), "p": placed("calls:Caller")}
        async with placed.host(plugins) as host:
            session = host.session()
            for how in ("allow", "deny", "ask", "error", "sensitive"):
                await session.gate_tool_call(ToolCall(how, {"command": f"open {how} sesame"}, "c1"))
                asked = PermissionRequest(request_id="r1", tool_name=how, command=f"open {how} sesame")
                await session.gate_permission(asked)
                await call(host, "add_message", "user", f"{how} open sesame")
            for record in await records_of(host, "decision"):
                kept = record.data["decided_on"]
                if "sensitive" not in record.data["subject"] and "it holds a key" not in record.data["reason"]:
                    assert set(kept) == {"value"}
                    assert "sesame" in str(kept["value"])
                else:
                    assert set(kept) == {"sensitive", "salt", "digest", "shape"}
                    assert "sesame" not in str(record.data)

    go(main())


def test_a_gate_that_is_only_watched_keeps_what_is_sensitive_out_of_the_record(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"judge": placed("hooks:Judges", shadow=True)}) as host:
            ruling = await host.session().gate_tool_call(ToolCall("sensitive", {"command": "open sesame"}, "c1"))
            assert ruling.is_allowed
            (record,) = await records_of(host, "decision")
            assert record.data["decided_on"]["shape"] == {"arguments": {"command": "text of 11 characters"}}

    go(main())
