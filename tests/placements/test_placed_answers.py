"""What the person says, the model answers and a turn ends with, in every placement: gated, changed, failing closed."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest

from ally_plugins import Allow, Deny, GateRefused, Message, Session, Stop
from tests.kit.placements import Placed, collect_events, look, look_until, records_of
from tests.kit.waiting import go

QUICK: dict[str, Any] = {"deadlines": {"ally_gate_answer": 0.3, "ally_gate_stop": 0.3}}
PERSON = Message(role="user", content="hello", id="m1")
ANSWER = Message(role="assistant", content="hello", id="m2", metadata={"isStructured": False})


def answer(text: str, **metadata: Any) -> Message:
    return Message(role="assistant", content=text, id="m2", metadata=metadata)


async def ask(session: Session, topic: str, text: str) -> Any:
    """Ask a gate of the session about something that says `text`."""
    match topic:
        case "user_message":
            return await session.gate_user_message(attrs.evolve(PERSON, content=text))
        case "answer":
            return await session.gate_answer(answer(text))
        case _:
            return await session.gate_stop(Stop(answer=text))


@pytest.mark.parametrize("topic", ["user_message", "answer", "stop"])
def test_each_gate_is_shown_equal_values_and_may_allow_abstain_or_deny(topic: str, placed: Placed) -> None:
    async def main() -> None:
        grants = ["tools", f"gate:{topic}", "gate:tool_call", "gate:message", "gate:permission", "get_context:focus"]
        grants += [f"gate:{other}" for other in ("user_message", "answer", "stop") if other != topic]
        async with placed.host({"judge": placed("hooks:Judges", grants)}) as host:
            session = host.session("s", focus="/home")
            context = await session.context(("focus",))
            for how, verdict in {
                "allow": Allow(),
                "abstain": Allow(),
                "deny": Deny("judge: not today"),
            }.items():
                ruling = await ask(session, topic, how)
                assert ruling.verdict == verdict
                (decision,) = await records_of(host, "decision", ref=ruling.decision_id)
                assert decision.data["kind"] == topic
                assert decision.data["decided_on"]["value"].get("content", how) == how
            shown = {
                "user_message": attrs.evolve(PERSON, content="allow"),
                "answer": answer("allow"),
                "stop": Stop(answer="allow"),
            }
            assert (await look(host, "judge"))[0] == [topic, repr(shown[topic]), repr(context), "s"]

    go(main())


@pytest.mark.parametrize("topic", ["user_message", "answer"])
def test_an_ask_about_words_is_a_deny_even_where_a_person_is_present(topic: str, placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"judge": placed("hooks:Judges")}) as host:
            session = host.session()
            session.has_person = True
            ruling = await ask(session, topic, "ask")
            assert ruling.verdict == Deny(f"judge: are you sure?, and nobody is asked about {topic}; deny or allow it")

    go(main())


@pytest.mark.parametrize("how", ["error", "exit", "nonsense true"])
@pytest.mark.parametrize("topic", ["user_message", "answer", "stop"])
def test_a_gate_that_fails_denies(topic: str, how: str, placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"judge": placed("hooks:Judges")}) as host:
            ruling = await ask(host.session(), topic, how)
            assert ruling.is_denied
            assert [vote.cause for vote in ruling.votes] == ["nonsense" if how.startswith("nonsense") else "crash"]
            assert "ally-plugins info judge" in ruling.reason
            assert host.plugins["judge"].counts.crashes == 1

    go(main())


def test_a_gate_of_answers_that_hangs_denies_at_its_deadline(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"judge": placed("hooks:Judges", **QUICK)}) as host:
            ruling = await host.session().gate_answer(answer("hang"))
            assert ruling.is_denied
            assert "its gate did not answer in time" in ruling.reason

    go(main())


def test_an_answer_is_denied_when_its_gates_process_is_killed_while_it_is_held(placed: Placed) -> None:
    if placed.placement.shares_the_hosts_loop:
        pytest.skip("inline, whoever kills the plugin kills the host")

    async def main() -> None:
        async with placed.host({"judge": placed("hooks:Judges")}) as host:
            session = host.session()
            assert (await session.gate_answer(answer("allow"))).is_allowed
            asked = asyncio.ensure_future(session.gate_answer(answer("hang")))
            plugin = host.plugins["judge"]
            await look_until(host, lambda seen: any(each[1] == repr(answer("hang")) for each in seen), "judge")
            assert plugin.supervisor is not None
            assert plugin.supervisor.process is not None
            plugin.supervisor.process.kill()
            ruling = await asked
            assert ruling.is_denied
            assert "judge" in ruling.reason

    go(main())


@pytest.mark.parametrize("topic", ["user_message", "answer", "stop"])
def test_a_gate_that_is_granted_and_not_running_denies(topic: str, placed: Placed) -> None:
    async def main() -> None:
        setup = placed("hooks:Judges", [f"gate:{topic}"])
        plugin, record = setup.under("judge")
        waiting = attrs.evolve(record, state="waiting for consent", reason="it asks for more")
        async with placed.host({"judge": (plugin, waiting)}) as host:
            ruling = await ask(host.session(), topic, "allow")
            assert ruling.is_denied
            assert "it has a gate and waits for consent" in ruling.reason

    go(main())


def test_an_answer_that_cannot_be_shown_is_withheld_with_the_reason(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"judge": placed("hooks:Judges"), "a": placed("hooks:Changes")}) as host:
            session = host.session()
            for text, why in {"a\ud800b": "a lone surrogate", "x" * 7_000_000: "bytes of JSON"}.items():
                ruling = await session.gate_answer(answer(text))
                assert ruling.is_denied
                assert f"cannot be shown to gates as it is: it{'.content' if 'lone' in why else ''}" in ruling.reason
                assert why in ruling.reason
                with pytest.raises(GateRefused, match=why):
                    await session.transform_answer(answer(text))
            assert await look(host, "judge") == []

    go(main())


def test_transforms_of_the_answer_are_a_chain_and_change_nothing_but_the_text(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"a": placed("hooks:Changes"), "b": placed("hooks:Changes")}
        async with placed.host(plugins) as host:
            session = host.session("s")
            assert await session.transform_answer(ANSWER) == attrs.evolve(ANSWER, content="hello a b")
            assert (await look(host, "b"))[0] == ["answer", repr(attrs.evolve(ANSWER, content="hello a")), "s"]
            forged = await session.transform_answer(answer("forge"))
            assert forged == attrs.evolve(answer("forge"), content="forged b")
            kept = await session.transform_answer(answer("control"))
            assert kept.content == "control", "what a plugin made with a control character is left out"
            assert host.plugins["a"].counts.crashes == 1
            structured = await session.transform_answer(answer('{"a": 1}', isStructured=True))
            assert structured.content == '{"a": 1}', "what is no JSON any more is left out"
            assert host.plugins["a"].counts.crashes == 2

    go(main())


def test_a_transform_of_the_answer_that_is_set_to_block_withholds_what_it_could_not_check(placed: Placed) -> None:
    async def main() -> None:
        setup = placed("hooks:Changes", transform_on_error="block")
        async with placed.host({"a": setup}) as host:
            with pytest.raises(GateRefused, match="a could not check it, and is set to block then"):
                await host.session().transform_answer(answer("control"))

    go(main())


def test_a_stop_that_is_denied_enters_as_the_plugins_message_at_the_next_step(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"judge": placed("hooks:Judges")}) as host:
            events = collect_events(host)
            session = host.session("s")
            await session.safe_point("turn_start")
            ruling = await session.gate_stop(Stop(reason="stop", answer="deny"))
            assert ruling.verdict == Deny("judge: not today")
            (stored,) = host.journal.pending("s")
            assert stored.body is not None
            assert (stored.body["permission"], stored.body["decision"]) == ("gate:stop", ruling.decision_id)
            (message,) = await session.safe_point("step")
            assert host.journal.pending("s") == []
            assert (message.role, message.content, message.source_plugin) == ("user", "not today", "judge")
            assert message.text_for_model == "[plugin judge] not today"
            assert session.origin == ("judge",)
            assert [event.plugin_name for event in events if event.type == "PLUGIN_MESSAGE_RECEIVED"] == ["judge"]
            assert (await look(host, "judge"))[0][1] == repr(Stop(reason="stop", answer="deny"))

    go(main())
