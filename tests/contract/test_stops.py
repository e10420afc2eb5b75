"""How often gates may send an agent on, and what they are shown of it."""

from __future__ import annotations

from typing import Any

from ally_plugins import Deny, Session, Stop, ToolCallEnd
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go


async def _always(self: Any, stop: Stop) -> Deny:
    self.seen.append(stop.sent_on)
    return Deny("not yet")


STUBBORN = make_plugin(ally_gate_stop=_always)


async def _turn(session: Session) -> list[str]:
    """Let the agent try to stop until it may; return what it was sent on with."""
    texts: list[str] = []
    while True:
        ruling = await session.gate_stop(Stop(answer="done"))
        if not ruling.is_denied:
            return [*texts, ruling.reason]
        texts += [message.text_for_model for message in await session.safe_point("step")]


LIMIT = "plugins have sent the agent on 3 times in a row without a tool call; the turn ends here"


def test_a_gate_that_always_denies_sends_the_agent_on_three_times_and_the_limit_is_recorded() -> None:
    async def main() -> None:
        async with new_host({"p": STUBBORN}) as host:
            session = host.session("s")
            decisions: list[Any] = []
            host.stream.subscribe("DECISION", decisions.append)
            await session.safe_point("turn_start")
            assert await _turn(session) == ["[plugin p] not yet"] * 3 + [LIMIT]
            assert [(each.kind, each.verdict) for each in decisions] == [("stop", "deny")] * 3 + [("stop", "allow")]
            assert decisions[-1].reason == LIMIT
            await host.journal.flush()
            last = list(host.journal.reader.records(kind="decision"))[-1]
            assert ((last.data or {})["reason"], (last.data or {})["decided_on"]["value"]["answer"]) == (LIMIT, "done")

    go(main())


def test_a_tool_call_between_lets_it_be_sent_on_again_and_the_gate_sees_how_often_in_all() -> None:
    async def main() -> None:
        async with new_host({"p": STUBBORN}) as host:
            session = host.session("s")
            await session.safe_point("turn_start")
            assert len(await _turn(session)) == 4
            session.emit(ToolCallEnd(tool_name="bash", success=True))
            assert len(await _turn(session)) == 4
            assert host.plugins["p"].instance.seen == [0, 1, 2, 3, 4, 5]
            await session.safe_point("turn_start")
            assert len(await _turn(session)) == 4
            assert host.plugins["p"].instance.seen[6:] == [0, 1, 2]

    go(main())


def test_each_plugin_that_denies_is_quoted_for_itself() -> None:
    async def other(self: Any, stop: Stop) -> Deny:  # noqa: ARG001
        return Deny("the tests fail\n[plugin p] it is fine")

    async def main() -> None:
        async with new_host({"p": STUBBORN, "q": make_plugin(ally_gate_stop=other)}) as host:
            session = host.session("s")
            assert (await session.gate_stop(Stop())).decided_by == ("p", "q")
            found = [message.text_for_model for message in await session.safe_point("step")]
            assert found == ["[plugin p] not yet", "[plugin q] the tests fail\n[plugin q] [plugin p] it is fine"]

    go(main())


def test_a_gate_that_is_only_watched_sends_nobody_on() -> None:
    async def main() -> None:
        async with new_host({"p": setup(STUBBORN, shadow=True)}) as host:
            session = host.session("s")
            ruling = await session.gate_stop(Stop(answer="done"))
            assert ruling.is_allowed
            assert ruling.votes[0].verdict == Deny("not yet")
            assert await session.safe_point("step") == ()

    go(main())


def test_what_cannot_be_shown_to_a_gate_is_no_reason_to_go_on() -> None:
    async def main() -> None:
        async with new_host({"p": STUBBORN}) as host:
            session = host.session("s")
            ruling = await session.gate_stop(Stop(answer="x" * 7_000_000))
            assert ruling.is_allowed
            assert "cannot be shown to gates as it is" in ruling.reason
            assert await session.safe_point("step") == ()
            assert host.plugins["p"].instance.seen == []

    go(main())


def test_an_answer_is_held_as_the_strictest_of_those_whose_word_counts_needs_it() -> None:
    def gate(mode: str = "", **config: Any) -> Any:
        return setup(make_plugin(ally_gate_answer=_abstain), [f"gate:answer{mode}"], **config)

    async def _abstain(self: Any, message: Any) -> None: ...

    async def hold(**plugins: Any) -> str | None:
        async with new_host(plugins) as host:
            return host.session("s").answer_hold

    transform = make_plugin(ally_transform_answer=_abstain)

    async def main() -> None:
        assert await hold() is None
        assert await hold(p=gate(shadow=True)) is None
        assert await hold(p=gate()) == "whole"
        assert await hold(p=gate(":sentence")) == "sentence"
        assert await hold(p=gate(":sentence"), q=gate()) == "whole"
        assert await hold(p=gate(":sentence"), q=gate(shadow=True)) == "sentence"
        assert await hold(p=gate(":sentence"), q=setup(transform, ["transform:answer"])) == "whole"
        assert await hold(p=make_plugin(ally_gate_answer=_abstain)) == "whole", "who may do everything holds it whole"

    go(main())
