"""The refusals that need another's doing: gates, unavailable hosts, ended sessions; each with its attributes."""

from __future__ import annotations

from typing import Any

from ally_plugins import ToolCall, hookimpl
from tests.kit.placements import Placed, call, records_of
from tests.kit.waiting import go

BASH = ToolCall("bash")


class Unwilling:
    """A host that takes nothing, or fails."""

    @hookimpl
    def ally_emit_event(self, event: Any) -> bool:
        if event.event_type == "p:fails":
            raise OSError("the host's own trouble")
        return False

    @hookimpl
    def ally_get_context(self) -> Any:
        raise OSError("the host's own trouble")


def test_a_host_that_does_not_take_or_fails_is_unavailable(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller")}, implementation=Unwilling()) as host:
            host.session("s")
            for method, arguments, words in (
                ("emit_event", ["news"], "the host did not take the event 'p:news'"),
                ("emit_event", ["fails"], "the host failed in ally_emit_event: OSError: the host's own trouble"),
                ("get_context", [["focus"]], "the host failed in ally_get_context: OSError: the host's own trouble"),
            ):
                refused = await call(host, method, *arguments)
                assert (refused["raised"], refused["reason"]) == ("UnavailableRefused", "unavailable")
                assert refused["text"] == words
            assert host.plugins["p"].counts.refused == {"unavailable": 3}

    go(main())


def test_a_gate_or_a_blocking_transform_of_another_plugin_refuses_with_the_decision(placed: Placed) -> None:
    async def main() -> None:
        plugins = {
            "p": placed("calls:Caller"),
            "judge": placed("hooks:Judges"),
            "editor": placed("chains:BreaksMessages", transform_on_error="block"),
        }
        async with placed.host(plugins) as host:
            session = host.session("s")
            denied = await call(host, "add_message", "user", "deny")
            (decision,) = await records_of(host, "decision")
            assert denied == {
                "raised": "GateRefused",
                "text": "the message was not accepted: judge: not today",
                "reason": "gate",
                "plugin": "p",
                "decision_id": decision.ref,
            }
            assert [(vote["plugin"], vote["verdict"]) for vote in decision.data["votes"]] == [("judge", "deny")]
            blocked = await call(host, "add_message", "user", "break")
            assert (blocked["raised"], blocked.get("decision_id")) == ("GateRefused", None)
            assert blocked["text"].startswith("editor could not check it, and is set to block then: ")
            assert placed.raised("ValueError: a broken thing") in blocked["text"]
            assert await session.safe_point() == ()
            assert host.plugins["p"].counts.refused == {"gate": 2}

    go(main())


def test_a_session_that_is_closed_is_not_found(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller")}) as host:
            session = host.session("s")
            host.session("other")
            await session.close()
            for method, arguments in (
                ("add_message", ["user", "x"]),
                ("emit_event", ["news"]),
                ("get_context", []),
                ("request_action", ["x"]),
            ):
                refused = await call(host, method, *arguments, session_id="other")
                assert refused.get("text", "") != "no session 's' is open"
                refused = await call_in(host, method, arguments, "s")
                assert (refused["raised"], refused["reason"]) == ("NotFoundRefused", "not_found")
                assert refused["text"] == "no session 's' is open"

    go(main())


async def call_in(host: Any, method: str, arguments: list[Any], session_id: str) -> Any:
    given = {"method": method, "arguments": arguments, "keywords": {"session_id": session_id}}
    return (await host.call_tool("call", given, plugin="p")).data


def test_a_call_of_one_that_was_put_into_quarantine_is_refused_or_never_made(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("chains:SpeaksAfterCrashes")}) as host:
            session = host.session("s")
            for _ in range(5):
                await session.gate_tool_call(BASH)
            assert host.plugins["p"].state == "quarantined"
            await session.gate_tool_call(BASH)
            assert host.journal.pending("s") == []

    go(main())
