"""Gates fail closed: what goes wrong with one is a deny with its cause, and nobody waits longer than its deadline."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from ally_plugins import Allow, Ask, Decision, Deny, Event, Message, PermissionRequest, ToolCall, ToolCallStart
from ally_plugins.contract.values.errors import JournalError
from ally_plugins.runtime.lanes.dispatch import HookCall
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

if TYPE_CHECKING:
    from ally_plugins.runtime.lanes.plugin import Plugin

CALL = ToolCall("bash", {"command": "ls"}, "c1")
REQUEST = PermissionRequest(request_id="r1", tool_name="bash")


def says(verdict: Any) -> Any:
    async def gate(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        return verdict

    return gate


async def rule(host: Any, **about: Any) -> Any:
    """Ask the gates of a host about one call."""
    async with host:
        session = host.session()
        return await session.gate_tool_call(attrs.evolve(CALL, **about))


# --- what goes wrong ---


class Mute(Exception):
    """An error that raises when it is asked what it says."""

    def __str__(self) -> str:
        raise RuntimeError("not even that")


FAILURES: list[tuple[BaseException, str]] = [
    (ValueError("broken"), "ValueError: broken"),
    (SystemExit(3), "SystemExit: 3"),
    (StopIteration("stop"), "StopIteration"),
    (StopAsyncIteration("stop"), "StopAsyncIteration"),
    (GeneratorExit(), "GeneratorExit"),
    (asyncio.CancelledError(), "CancelledError"),
    (MemoryError(), "MemoryError"),
    (TimeoutError("mine"), "TimeoutError: mine"),
    (Mute(), "Mute: its text cannot be read"),
]


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize(("raised", "words"), FAILURES, ids=lambda value: type(value).__name__)
def test_a_gate_that_raises_denies_with_what_it_raised(
    raised: BaseException,
    words: str,
    is_async: bool,  # noqa: FBT001
) -> None:
    def fail(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        raise raised

    async def fail_async(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        raise raised

    async def main() -> Any:
        host = new_host({"p": make_plugin(ally_gate_tool_call=fail_async if is_async else fail)})
        async with host:
            session = host.session()
            ruling = await session.gate_tool_call(CALL)
            again = await session.gate_tool_call(CALL)
            return ruling, again, host.plugins["p"].counts.crashes

    ruling, again, crashes = go(main())
    assert ruling.is_denied
    assert again.is_denied
    assert ruling.votes[0].cause == "crash"
    assert words in ruling.votes[0].detail
    assert "ally-plugins info p" in ruling.reason
    assert crashes == 2


def test_keyboard_interrupt_in_a_gate_is_the_persons_and_ends_the_program() -> None:
    async def interrupt(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(rule(new_host({"p": make_plugin(ally_gate_tool_call=interrupt)})))


async def later() -> None: ...


NONSENSE = [True, False, "allow", 0, Allow, Deny, {"verdict": "allow"}, object(), Deny(""), Deny("a\x00b"), Ask(5)]  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", NONSENSE, ids=lambda answer: repr(answer).partition(" at 0x")[0])
def test_nonsense_denies_and_is_recorded_as_such(answer: Any) -> None:
    ruling = go(rule(new_host({"p": make_plugin(ally_gate_tool_call=says(answer))})))
    assert ruling.is_denied
    assert ruling.votes[0].cause in {"nonsense", "verdict" if answer == Deny("") else "nonsense"}


def test_a_gate_past_its_deadline_denies_then_and_nobody_waits_for_it() -> None:
    release = threading.Event()

    async def swallow(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        for _ in range(3):
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                continue
        return Allow()

    def block(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        release.wait(60)
        return Allow()

    async def main() -> None:
        given = {
            "swallow": setup(make_plugin(ally_gate_tool_call=swallow), deadlines={"gate": 0.05}),
            "block": setup(make_plugin(ally_gate_tool_call=block), deadlines={"ally_gate_tool_call": 0.05}),
        }
        async with new_host(given) as host:
            session = host.session()
            before = time.monotonic()
            ruling = await session.gate_tool_call(CALL)
            assert 0.04 < time.monotonic() - before < 20  # they would take a minute
            assert [(vote.plugin, vote.cause) for vote in ruling.votes] == [
                ("block", "timeout"),
                ("swallow", "timeout"),
            ]
            assert ruling.is_denied
            assert "did not answer within 0.05 s" in ruling.reason
            assert host.plugins["block"].state == "quarantined"
            release.set()

    try:
        go(main())
    finally:
        release.set()


def test_a_gate_behind_a_stuck_observer_of_its_plugin_denies_at_its_deadline() -> None:
    async def stuck(self: Any, event: Event) -> None:  # noqa: ARG001
        await asyncio.sleep(3600)

    async def main() -> Any:
        one = setup(
            make_plugin(ally_tool_call_start=stuck, ally_gate_tool_call=says(Allow())),
            deadlines={"gate": 0.05, "observe": 0.2},
        )
        async with new_host({"p": one}) as host:
            session = host.session()
            session.emit(ToolCallStart(tool_name="bash"))
            first = await session.gate_tool_call(CALL)
            await session.drained()
            return first, await session.gate_tool_call(CALL)

    first, second = go(main())
    assert first.is_denied
    assert first.votes[0].cause == "timeout"
    assert second.is_allowed


def test_on_error_allow_is_the_operators_to_set_and_waives_nothing() -> None:
    async def fail(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        raise ValueError("broken")

    ruling = go(rule(new_host({"p": setup(make_plugin(ally_gate_tool_call=fail), gate_on_error="allow")})))
    assert ruling.is_allowed
    assert not ruling.waived
    assert ruling.votes[0].cause == "crash"


# --- plugins that do not run ---


def test_a_plugin_that_could_not_start_denies_where_it_has_a_gate_and_names_the_command() -> None:
    async def fail(self: Any) -> None:  # noqa: ARG001
        raise OSError("no such device")

    class Unbuildable:
        def __init__(self, ally: Any) -> None:  # noqa: ARG002
            raise OSError("no such device")

    for broken in (make_plugin(ally_start=fail, ally_gate_tool_call=says(Allow())), Unbuildable):
        ruling = go(rule(new_host({"p": setup(broken, ["gate:tool_call"])})))
        assert ruling.is_denied
        assert ruling.votes[0].cause == "failed"
        assert "no such device" in ruling.reason
        assert "ally-plugins info p" in ruling.reason


def test_a_plugin_that_could_not_start_denies_nothing_that_it_does_not_gate() -> None:
    async def fail(self: Any) -> None:  # noqa: ARG001
        raise OSError("no such device")

    ungranted = setup(make_plugin(ally_start=fail, ally_gate_tool_call=says(Deny("no"))), ["events:*"])
    without = make_plugin(ally_start=fail)  # it has everything, and no gate
    narrowed = setup(make_plugin(ally_start=fail, ally_gate_tool_call=says(Deny("no"))), ["gate:tool_call:python"])
    assert go(rule(new_host({"a": ungranted, "b": without, "c": narrowed}))).is_allowed


def test_a_quarantined_plugin_denies_and_names_release() -> None:
    def fail(self: Any, event: Event) -> None:  # noqa: ARG001
        raise ValueError("broken")

    async def main() -> Any:
        given = {"p": make_plugin(ally_tool_call_start=fail, ally_gate_tool_call=says(Allow()))}
        async with new_host(given) as host:
            session = host.session()
            for _ in range(5):
                session.emit(ToolCallStart(tool_name="bash"))
            await session.drained()
            await asyncio.sleep(0)
            return await session.gate_tool_call(CALL)

    ruling = go(main())
    assert ruling.is_denied
    assert ruling.votes[0].cause == "quarantined"
    assert ruling.reason.count("ally-plugins release p") == 1


def test_a_plugin_that_waits_for_consent_denies_and_names_review() -> None:
    waiting = setup(
        make_plugin(ally_gate_tool_call=says(Allow())),
        ["gate:tool_call"],
        state="waiting for consent",
        reason="it asks more",
    )
    ruling = go(rule(new_host({"p": waiting})))
    assert ruling.is_denied
    assert ruling.votes[0].cause == "waiting"
    assert "ally-plugins review" in ruling.reason


def test_a_plugin_that_is_starting_denies_until_it_runs() -> None:
    async def main() -> Any:
        ready = asyncio.Event()

        async def starting(self: Any) -> None:  # noqa: ARG001
            await ready.wait()

        host = new_host({"p": make_plugin(ally_start=starting, ally_gate_tool_call=says(Allow()))})
        starts = asyncio.ensure_future(host.start())
        while not host.plugins or host.plugins["p"].state != "starting":  # noqa: ASYNC110 - that is no event
            await asyncio.sleep(0)
        session = host.session()
        first = await session.gate_tool_call(CALL)
        ready.set()
        await starts
        second = await session.gate_tool_call(CALL)
        await host.stop()
        return first, second

    first, second = go(main())
    assert first.is_denied
    assert second.is_allowed


# --- what the votes come to ---


@pytest.mark.parametrize(
    ("answers", "person", "expected"),
    [
        ([None, None], False, Allow()),
        ([Allow(), None], False, Allow()),
        ([Allow(), Ask("sure?")], True, Ask("b: sure?")),
        ([Ask("sure?"), Allow()], False, Deny("a: sure?, and no person is present to agree")),
        ([Ask("sure?"), Deny("no")], True, Deny("b: no")),
        ([Deny("no"), Deny("never")], True, Deny("a: no; b: never")),
    ],
)
def test_deny_beats_ask_beats_allow_and_ask_without_a_person_is_deny(
    answers: list[Any],
    person: bool,  # noqa: FBT001
    expected: Any,
) -> None:
    given = {name: make_plugin(ally_gate_tool_call=says(answer)) for name, answer in zip("ab", answers, strict=True)}
    assert go(rule(new_host(given, has_person=person))).verdict == expected


def test_gates_are_asked_at_the_same_time() -> None:
    async def main() -> Any:
        everybody, count = asyncio.Event(), [0]

        async def gate(self: Any, call: ToolCall) -> Allow:  # noqa: ARG001
            count[0] += 1
            if count[0] == 3:
                everybody.set()
            await everybody.wait()  # no gate answers before all have been asked
            return Allow()

        return await rule(new_host({name: make_plugin(ally_gate_tool_call=gate) for name in "abc"}))

    assert go(main()).is_allowed


def test_a_vote_says_how_long_it_took() -> None:
    async def slow(self: Any, call: ToolCall) -> Allow:  # noqa: ARG001
        await asyncio.sleep(0.2)
        return Allow()

    async def main() -> Any:
        async with new_host({name: make_plugin(ally_gate_tool_call=slow) for name in "ab"}) as host:
            return await host.session().gate_tool_call(CALL)

    ruling = go(main())
    assert all(vote.elapsed_ms > 150 for vote in ruling.votes)


def test_votes_stand_in_hook_order_whoever_answers_first() -> None:
    def after(delay: float) -> Any:
        async def gate(self: Any, call: ToolCall) -> Deny:  # noqa: ARG001
            await asyncio.sleep(delay)
            return Deny(str(delay))

        return make_plugin(ally_gate_tool_call=gate)

    given = {
        "a": setup(after(0), after=["b"]),
        "b": after(0.02),
        "c": after(0.01),
        "z": setup(after(0), mandatory=True),
    }
    ruling = go(rule(new_host(given)))
    assert [vote.plugin for vote in ruling.votes] == ["z", "b", "a", "c"]
    assert ruling.decided_by == ("z", "b", "a", "c")


def test_a_shadow_gate_is_asked_and_recorded_and_decides_nothing() -> None:
    given = {
        "all": setup(make_plugin(ally_gate_tool_call=says(Deny("no"))), shadow=True),
        "hook": setup(make_plugin(ally_gate_tool_call=says(Deny("no"))), shadow=frozenset({"ally_gate_tool_call"})),
        "topic": setup(make_plugin(ally_gate_tool_call=says(5)), shadow=frozenset({"tool_call"})),
        "other": setup(make_plugin(ally_gate_tool_call=says(Allow())), shadow=frozenset({"message"})),
    }
    ruling = go(rule(new_host(given)))
    assert ruling.is_allowed
    assert {vote.plugin: vote.shadow for vote in ruling.votes} == {
        "all": True, "hook": True, "topic": True, "other": False,
    }  # fmt: skip
    assert ruling.decided_by == ("other",)


@pytest.mark.parametrize(
    ("grants", "waived"), [(["gate:permission", "gate:waive"], True), (["gate:permission"], False)]
)
def test_an_allow_waives_the_hosts_own_question_only_where_that_was_granted(
    grants: list[str],
    waived: bool,  # noqa: FBT001
) -> None:
    async def gate(self: Any, request: PermissionRequest) -> Allow:  # noqa: ARG001
        return Allow()

    async def main() -> Any:
        async with new_host({"p": setup(make_plugin(ally_gate_permission=gate), grants)}) as host:
            return await host.session().gate_permission(REQUEST)

    ruling = go(main())
    assert ruling.is_allowed
    assert ruling.waived is waived


def test_a_gate_that_is_granted_for_one_tool_is_not_asked_about_another() -> None:
    async def main() -> Any:
        given = {"p": setup(make_plugin(ally_gate_tool_call=says(Deny("no"))), ["gate:tool_call:bash"])}
        async with new_host(given) as host:
            session = host.session()
            return [
                (await session.gate_tool_call(ToolCall(name))).is_denied for name in ("bash", "python", "bash2", "BASH")
            ]

    assert go(main()) == [True, False, False, False]


def test_a_gate_sees_of_the_context_only_what_it_was_granted() -> None:
    async def gate(self: Any, call: ToolCall, context: Any) -> Allow:  # noqa: ARG001
        self.seen.append(context)
        return Allow()

    async def main() -> None:
        given = {
            "some": setup(make_plugin(ally_gate_tool_call=gate), ["gate:tool_call", "get_context:focus"]),
            "none": setup(make_plugin(ally_gate_tool_call=gate), ["gate:tool_call"]),
        }
        async with new_host(given) as host:
            session = host.session(focus="/project")
            await session.gate_tool_call(CALL)
            some, none = host.plugins["some"].instance.seen[0], host.plugins["none"].instance.seen[0]
            assert some.focus == "/project"
            assert some.messages is some.todos is some.agents is some.is_processing is None
            assert none.focus is none.messages is none.token_usage is None
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                some.focus = "/etc"

    go(main())


def test_a_gate_may_name_its_arguments_in_any_order() -> None:
    async def gate(self: Any, context: Any, call: ToolCall) -> Deny:  # noqa: ARG001
        return Deny(f"{call.tool_name} in {context.session_id}")

    async def main() -> Any:
        async with new_host({"p": make_plugin(ally_gate_tool_call=gate)}) as host:
            return await host.session("s1").gate_tool_call(CALL)

    assert go(main()).reason == "p: bash in s1"


def test_nobody_gates_its_own_message_and_others_do() -> None:
    async def gate(self: Any, message: Message) -> Allow:
        self.seen.append(message.source_plugin)
        return Allow()

    async def speak(self: Any, event: Event) -> None:  # noqa: ARG001
        await self.ally.add_message("user", "hello")

    async def main() -> None:
        given = {
            "author": make_plugin(ally_gate_message=gate, ally_tool_call_start=speak),
            "reader": make_plugin(ally_gate_message=gate),
        }
        async with new_host(given) as host:
            session = host.session()
            session.emit(ToolCallStart(tool_name="bash"))
            await session.drained()
            assert host.plugins["author"].instance.seen == []
            assert host.plugins["reader"].instance.seen == ["author"]
            assert [message.content for message in await session.safe_point()] == ["hello"]

    go(main())


# --- the record ---


class Watched:
    """A journal that tells when it was written to; everything else is the real one's."""

    def __init__(self, journal: Any, log: list[str], *, fails: bool = False) -> None:
        self._journal, self._log, self._fails = journal, log, fails

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def append(self, record: Any) -> int:
        if self._fails and record.kind == "decision":
            raise JournalError("disk full")
        number: int = await self._journal.append(record)
        self._log.append(f"recorded {record.kind}")
        return number


def test_a_decision_is_recorded_before_it_is_given_and_then_announced() -> None:
    from ally_plugins.journal.journal import Journal

    log: list[str] = []

    async def main() -> Any:
        journal = Journal.in_memory()
        watched = Watched(journal, log)
        async with new_host({"p": make_plugin(ally_gate_tool_call=says(Deny("no")))}, journal=watched) as host:
            host.stream.subscribe("DECISION", lambda event: log.append(f"announced {event.seq > 0}"))
            heard: list[Any] = []
            host.stream.subscribe("DECISION", heard.append)
            ruling = await host.session().gate_tool_call(CALL)
            log.append("given")
        await journal.close()
        return ruling, heard

    ruling, heard = go(main())
    assert log == ["recorded decision", "announced True", "given"]
    (event,) = heard
    assert isinstance(event, Decision)
    assert (event.verdict, event.kind, event.subject, event.decided_by) == ("deny", "tool_call", "bash", ("p",))
    assert (event.decision_id, event.call_id) == (ruling.decision_id, "c1")


def test_a_decision_that_cannot_be_recorded_is_a_deny() -> None:
    from ally_plugins.journal.journal import Journal

    async def main() -> Any:
        journal = Journal.in_memory()
        watched = Watched(journal, [], fails=True)
        ruling = await rule(new_host({"p": make_plugin(ally_gate_tool_call=says(Allow()))}, journal=watched))
        await journal.close()
        return ruling

    ruling = go(main())
    assert ruling.is_denied
    assert "disk full" in ruling.reason


def test_without_gates_a_call_is_allowed_and_nothing_is_recorded() -> None:
    ruling = go(rule(new_host({"p": make_plugin()})))
    assert ruling.is_allowed
    assert ruling.decision_id is None


def test_gates_that_were_called_are_taken_back_when_another_cannot_be_called() -> None:
    seen: list[str] = []

    async def gate(self: Any, call: ToolCall) -> None:  # noqa: ARG001
        seen.append(call.tool_name)
        try:
            await asyncio.sleep(3600 if call.tool_name == "first" else 0)
        except asyncio.CancelledError:
            seen.append(f"{call.tool_name} was taken back")
            raise

    def arguments(plugin: Plugin) -> tuple[ToolCall]:
        if plugin.name == "q":
            raise ValueError("no arguments for q")
        return (ToolCall("first"),)

    async def main() -> None:
        async with new_host({name: make_plugin(ally_gate_tool_call=gate) for name in ("p", "q")}) as host:
            dispatcher = host.services.dispatcher
            hook = HookCall(hook="ally_gate_tool_call", session_id=host.session().id)
            p, q = dispatcher.participants(hook)
            with pytest.raises(ValueError, match="no arguments for q"):
                await dispatcher.ask(hook, [p, q], arguments)
            # Its lane calls in order: when this one has answered, the first has ended.
            await dispatcher.ask(hook, [p], lambda _: (ToolCall("second"),))
            assert seen == ["first", "first was taken back", "second"]

    go(main())
