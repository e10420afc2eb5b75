from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from ally_plugins import (
    Allow,
    Ally,
    Context,
    Deny,
    Event,
    Host,
    Message,
    PromptSection,
    Replace,
    Stop,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    ToolResult,
    hookimpl,
)
from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.catalog.home.folder import Home
from ally_plugins.contract.values.errors import BudgetRefused, HostError
from ally_plugins.host.bus.services import HostServices
from ally_plugins.journal.export import export
from ally_plugins.journal.journal import Journal
from ally_plugins.replay.pacing import ReplayClock
from ally_plugins.replay.player import Player
from ally_plugins.replay.recorded_conversation import RecordedConversation
from ally_plugins.replay.recording import open_recording
from ally_plugins.replay.session_player import QUANTUM_MS

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from ally_plugins.replay.report import ReplayReport

SHARED = Path(__file__).parents[3] / "shared" / "sessions"


class Played:
    """What a replay came to: its report, the lines of --out, every event, and the messages that the journal kept."""

    def __init__(self, player: Player, events: list[Event], out: bytes, stored: list[Any]) -> None:
        self.report: ReplayReport = player.report
        self.events = events
        self.out: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
        self.stored = stored

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]


def replay(*files: Path, plugins: dict[str, Any] | None = None, speed: float | None = None, **options: Any) -> Played:
    """Replay files with plugins given by code, on a host without a home."""

    async def main() -> Played:
        host = Host(
            "t", home=None, plugins=plugins or {}, discover=False, clock=ReplayClock(), has_person=True, **options
        )
        events: list[Event] = []
        out = io.BytesIO()
        stored: list[Any] = []

        async def before_end(session: Any) -> None:
            ended.append(session.id)

        ended: list[str] = []
        player = Player(
            host, [open_recording(file) for file in files], speed=speed, out=out, on_event=events.append,
            before_end=before_end,
        )  # fmt: skip
        close = HostServices.release_session

        def keep(services: HostServices, session: Any) -> None:
            stored.extend(host.journal.reader.messages(session.id))
            close(services, session)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(HostServices, "release_session", keep)
            await player.run()
        assert len(ended) == len(files)
        return Played(player, events, out.getvalue(), stored)

    return asyncio.run(main())


def record(second: float, role: str, content: Any, **more: Any) -> dict[str, Any]:
    minutes, seconds = divmod(second, 60)
    return {
        "type": role,
        "uuid": f"u{second}",
        "sessionId": "recorded-1",
        "cwd": "/srv/app",
        "timestamp": f"2026-03-01T10:{int(minutes):02}:{seconds:06.3f}Z",
        "message": {"role": role, "content": content, **more},
    }


def call(second: float, call_id: str, name: str, /, **arguments: Any) -> dict[str, Any]:
    block = {"type": "tool_use", "id": call_id, "name": name, "input": arguments}
    return record(second, "assistant", [block], id=f"m{call_id}")


def result(second: float, call_id: str, content: str, *, is_error: bool = False) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": call_id, "content": content, "is_error": is_error}
    return record(second, "user", [block])


@pytest.fixture
def transcript(tmp_path: Path) -> Callable[..., Path]:
    def write(*records: dict[str, Any] | str, name: str = "session.jsonl") -> Path:
        file = tmp_path / name
        lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
        file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return file

    return write


@pytest.fixture
def session(transcript: Callable[..., Path]) -> Path:
    """A person asks, the agent edits a file, fails twice, answers; and again."""
    return transcript(
        record(0, "user", "mend the page"),
        call(1, "t1", "Edit", file_path="/srv/app/a.py", old_string="key = 'hunter2'", new_string="key = read()"),
        result(2, "t1", "done"),
        call(3, "t2", "Bash", command="pytest"),
        result(30, "t2", "1 failed", is_error=True),
        call(31, "t3", "Bash", command="pytest"),
        result(60, "t3", "1 failed", is_error=True),
        record(61, "assistant", [{"type": "text", "text": "it fails still"}], id="m9"),
        record(90, "user", "try again"),
        record(91, "assistant", [{"type": "text", "text": "it works now"}], id="m10"),
    )


class Speaker:
    """Says something after every failed call, and one thing that nobody will take any more."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        if not event.success:
            await self.ally.add_message("user", f"{event.call_id} failed")

    @hookimpl
    async def ally_session_end(self) -> None:
        await self.ally.add_message("user", "too late", deliver_as="next_turn")


def test_what_a_plugin_says_enters_at_the_next_safe_point_never_between_a_call_and_its_result(session: Path) -> None:
    played = replay(session, plugins={"speaker": Speaker})
    assert [(line["role"], line["content"]) for line in played.out] == [
        ("user", "mend the page"),
        ("assistant", ""),
        ("tool", "done"),
        ("assistant", ""),
        ("tool", "1 failed"),
        ("user", "t2 failed"),
        ("assistant", ""),
        ("tool", "1 failed"),
        ("user", "t3 failed"),
        ("assistant", "it fails still"),
        ("user", "try again"),
        ("assistant", "it works now"),
        ("user", "too late"),
    ]
    said = played.out[5]
    assert said["metadata"] == {"sourcePlugin": "speaker", "isPluginGenerated": True, "origin": ["speaker"]}
    assert said["session"] == "recorded-1"
    assert said["state"] == "delivered"
    assert played.report.plugins["speaker"].messages == 3


def test_what_nobody_took_is_marked_in_report_out_and_journal(session: Path) -> None:
    played = replay(session, plugins={"speaker": Speaker})
    assert played.report.pending_messages == 1
    assert [one.content for one in played.report.pending] == ["too late"]
    assert played.out[-1]["state"] == "pending_at_end"
    assert [stored.state for stored in played.stored] == ["delivered", "delivered", "pending_at_end"]


def test_a_second_replay_of_the_same_file_meets_nothing_of_the_first(session: Path) -> None:
    played = replay(session, session, plugins={"speaker": Speaker})
    first, second = played.report.sessions
    assert first.recorded_id == second.recorded_id == "recorded-1"
    assert first.session_id != second.session_id
    assert played.report.plugins["speaker"].messages == 6
    assert played.report.events["SESSION_START"] == 2


class Refuser:
    """Refuses every Bash."""

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Allow | Deny:
        return Deny("not on my watch") if call.tool_name == "Bash" else Allow()


def test_a_refusal_is_recorded_as_what_would_have_happened_and_the_recorded_result_stands(session: Path) -> None:
    played = replay(session, plugins={"refuser": lambda _: Refuser()})
    assert played.report.decisions == {"allow": 1, "deny": 2}
    assert [event.verdict for event in played.of("DECISION")] == ["allow", "deny", "deny"]
    assert "not on my watch" in played.of("DECISION")[1].reason
    assert [event.output for event in played.of("TOOL_CALL_END")] == ["done", "1 failed", "1 failed"]


class Redactor:
    """Takes the secret out of arguments, results and the person's words."""

    @hookimpl
    async def ally_transform_tool_input(self, call: ToolCall) -> Replace[ToolCall]:
        clean = json.loads(json.dumps(call.arguments).replace("hunter2", "***"))
        return Replace(attrs.evolve(call, arguments=clean))

    @hookimpl
    async def ally_transform_tool_output(self, result: ToolResult) -> Replace[ToolResult]:
        return Replace(attrs.evolve(result, output=result.output.replace("done", "DONE")))

    @hookimpl
    async def ally_transform_user_message(self, message: Message) -> Replace[Message]:
        return Replace(attrs.evolve(message, content=message.content.replace("page", "PAGE")))


def test_events_diff_and_conversation_carry_what_transforms_made_of_it(session: Path) -> None:
    played = replay(session, plugins={"redactor": lambda _: Redactor()})
    assert "hunter2" not in repr(played.events)
    assert "hunter2" not in json.dumps(played.out)
    (diff,) = played.of("DIFF_PREVIEW")
    assert diff.old_content == "key = '***'"
    assert played.of("TOOL_CALL_END")[0].output == "DONE"
    assert played.of("USER_MESSAGE")[0].content == played.out[0]["content"] == "mend the PAGE"


class Censor:
    """Would refuse whatever is said, and never let the agent stop; takes a name out of answers."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl
    async def ally_gate_user_message(self, message: Message) -> Deny:
        self.seen.append(f"person: {message.content}")
        return Deny("say something else")

    @hookimpl
    async def ally_transform_answer(self, message: Message) -> Replace[Message]:
        return Replace(attrs.evolve(message, content=message.content.replace("it ", "IT ")))

    @hookimpl
    async def ally_gate_answer(self, message: Message) -> Deny:
        self.seen.append(f"model: {message.content}")
        return Deny("say nothing")

    @hookimpl
    async def ally_gate_stop(self, stop: Stop) -> Deny:
        self.seen.append(f"stop {stop.sent_on}: {stop.answer}")
        return Deny("go on")


def test_gates_of_words_and_stops_say_what_they_would_have_done_and_the_recording_stands(session: Path) -> None:
    censor = Censor()
    played = replay(session, plugins={"censor": lambda _: censor})
    plain = replay(session)
    answers = [event.content for event in plain.of("ASSISTANT_MESSAGE")]
    changed = [text.replace("it ", "IT ") for text in answers]
    assert answers
    assert [event.content for event in played.of("ASSISTANT_MESSAGE")] == changed
    assert [line for line in censor.seen if line.startswith("model")] == [f"model: {text}" for text in changed]
    assert "person: mend the page" in censor.seen
    stops = [line for line in censor.seen if line.startswith("stop")]
    assert stops == ["stop 0: IT fails still", "stop 0: IT works now"], "at the end of each turn"
    kinds = {event.kind for event in played.of("DECISION")}
    assert kinds == {"user_message", "answer", "stop"}
    assert played.report.decisions["deny"] == len(censor.seen)
    assert not played.of("PLUGIN_MESSAGE_RECEIVED"), "an agent that has stopped is not sent on"


class Blocker:
    """Cannot check anything."""

    @hookimpl
    async def ally_transform_tool_input(self) -> None:
        raise RuntimeError("I am lost")


def test_what_a_blocking_transform_cannot_check_reaches_nobody(session: Path) -> None:
    own = PluginRecord.by_code("blocker")
    own = attrs.evolve(own, config=attrs.evolve(own.config, transform_on_error="block"))
    played = replay(session, plugins={"blocker": (lambda _: Blocker(), own)})
    assert "hunter2" not in repr(played.events) + json.dumps(played.out)
    assert not played.of("DIFF_PREVIEW")
    starts = played.of("TOOL_CALL_START")
    assert len(starts) == len(played.of("TOOL_CALL_END")) == 3
    assert all(event.arguments == {} and "could not check it" in event.unshown for event in starts)
    assert all(event.denied for event in played.of("TOOL_CALL_END"))


def test_one_call_is_played_in_the_order_of_the_contract(session: Path) -> None:
    seen: list[str] = []

    class Watcher:
        @hookimpl
        async def ally_transform_tool_input(self, call: ToolCall) -> None:
            seen.append(f"input {call.tool_name}")

        @hookimpl
        async def ally_transform_tool_output(self, call: ToolCall) -> None:
            seen.append(f"output {call.tool_name}")

        @hookimpl
        async def ally_gate_tool_call(self, call: ToolCall) -> None:
            seen.append(f"gate {call.tool_name}")

        @hookimpl
        async def ally_event(self, event: Event) -> None:
            if event.type.startswith(("TOOL_CALL", "DIFF")):
                seen.append(event.type)

    replay(session, plugins={"watcher": lambda _: Watcher()})
    assert seen[:6] == [
        "input Edit", "TOOL_CALL_START", "DIFF_PREVIEW", "gate Edit", "output Edit", "TOOL_CALL_END",
    ]  # fmt: skip


class Chatty:
    """Speaks at every call; the budget allows thirty a minute and refills with recorded time."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self.refused: list[str] = []

    @hookimpl
    async def ally_tool_call_start(self, event: ToolCallStart) -> None:
        try:
            await self.ally.add_message("user", f"about {event.call_id}", key=event.id)
        except BudgetRefused:
            self.refused.append(event.call_id or "")


def many_turns(transcript: Callable[..., Path], gap: float, count: int = 60) -> Path:
    """Write turns of one call each: a person's message starts the chain of plugins afresh."""
    records: list[dict[str, Any]] = []
    for i in range(count):
        records += [
            record(i * gap, "user", "go"),
            call(i * gap + 0.01, f"t{i}", "Bash", command="ls"),
            result(i * gap + 0.02, f"t{i}", "x"),
        ]
    return transcript(*records)


def test_the_recorded_time_is_the_clock_of_budgets(transcript: Callable[..., Path]) -> None:
    slowly = replay(many_turns(transcript, gap=4.0), plugins={"chatty": Chatty})
    assert slowly.report.plugins["chatty"].refused == {}
    at_once = replay(many_turns(transcript, gap=0.05), plugins={"chatty": Chatty})
    assert at_once.report.plugins["chatty"].refused["budget"] >= 25


def test_a_recording_finds_full_budgets_whatever_was_played_before(transcript: Callable[..., Path]) -> None:
    file = many_turns(transcript, gap=0.05, count=25)
    played = replay(file, file, file, plugins={"chatty": Chatty})
    assert played.report.plugins["chatty"].refused == {}


def outcome(played: Played) -> tuple[Any, ...]:
    """What must be the same at any speed: everything but ids."""
    lines = [(line["role"], line["content"], line["timestamp"], line.get("state")) for line in played.out]
    events = [(event.type, event.seq, event.timestamp, event.origin) for event in played.events]
    counts = {name: counts.to_json() for name, counts in played.report.plugins.items()}
    return lines, events, counts, played.report.decisions, played.report.pending_messages


@pytest.mark.slow
def test_the_outcome_does_not_depend_on_the_speed(transcript: Callable[..., Path]) -> None:
    class Second(Speaker):
        @hookimpl
        async def ally_tool_call_start(self, event: ToolCallStart) -> None:
            await self.ally.emit_event("seen", {"tool": event.tool_name})
            if (event.call_id or "").endswith("7"):
                await self.ally.add_message("user", f"seven: {event.call_id}")

    class Third:
        def __init__(self, ally: Ally) -> None:
            self.ally = ally

        @hookimpl
        async def ally_plugin_event_emitted(self) -> None:
            await self.ally.add_message("user", "somebody saw it")

    file = many_turns(transcript, gap=1.3, count=40)
    plugins: dict[str, Any] = {"chatty": Chatty, "second": Second, "third": Third, "refuser": lambda _: Refuser()}
    fast = outcome(replay(file, plugins=plugins))
    assert outcome(replay(file, plugins=plugins)) == fast
    assert outcome(replay(file, plugins=plugins, speed=100.0)) == fast  # 52 s of recording in half a second
    assert fast[2]["third"]["messages"] > 0


def test_real_time_takes_the_time_that_the_recording_took(transcript: Callable[..., Path]) -> None:
    file = transcript(record(0, "user", "a"), record(20, "user", "b"), record(40, "user", "c"))
    assert replay(file, speed=100.0).report.elapsed_s >= 0.38
    assert QUANTUM_MS <= 2_000


def tells_time(*, volatile: bool) -> Any:
    times = iter(range(100))

    class Clock:
        def __init__(self, ally: Ally) -> None:
            self.ally = ally

        @hookimpl
        async def ally_transform_system_prompt(self, sections: tuple[PromptSection, ...]) -> Replace[Any]:
            assert sections[-1].source is None
            return Replace((PromptSection(self.ally.name, f"it is {next(times)}", volatile=volatile), *sections))

    return Clock


def test_what_plugins_would_have_cost_of_a_recordings_cached_tokens_is_in_the_report(
    transcript: Callable[..., Path],
) -> None:
    def asked(second: float, cached: int) -> dict[str, Any]:
        usage = {
            "input_tokens": 5,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 100,
            "output_tokens": 9,
        }
        return record(second, "assistant", [{"type": "text", "text": f"at {second}"}], id=f"m{second}", usage=usage)

    file = transcript(record(0, "user", "hi"), *(asked(n, 1_000 * n) for n in (1, 2, 3)))
    plugins = {"clocky": tells_time(volatile=False), "good": tells_time(volatile=True)}
    played = replay(file, plugins=plugins)
    of = played.report.plugins
    assert {name: (each.prompt_changes, each.uncached_tokens, each.crashes) for name, each in of.items()} == {
        "clocky": (2, 5_000, 0), "good": (0, 0, 0)
    }  # fmt: skip
    assert played.report.to_json()["plugins"]["clocky"]["uncached_tokens"] == 5_000


def test_a_broken_line_is_counted_and_named_and_too_deep_a_value_too(transcript: Callable[..., Path]) -> None:
    deep = json.dumps(call(2, "t1", "Bash", command="@")).replace('"@"', "[" * 80 + "]" * 80)
    file = transcript(record(0, "user", "a"), "{not json", deep, record(3, "user", "b"))
    report = replay(file).report
    assert [(one.number, one.reason.split()[0]) for one in report.broken] == [(2, "not"), (3, "nested")]
    assert report.broken_lines == 2
    assert report.events["USER_MESSAGE"] == 2


def test_a_plugin_that_crashes_at_everything_ends_in_quarantine_and_the_replay_goes_on(session: Path) -> None:
    class Crashing:
        @hookimpl
        async def ally_event(self) -> None:
            raise ValueError("I always do")

    played = replay(session, plugins={"crashing": lambda _: Crashing(), "speaker": Speaker})
    assert played.report.plugins["crashing"].state == "quarantined"
    assert played.report.plugins["speaker"].messages == 3
    assert played.report.events["TOOL_CALL_END"] == 3


def test_a_plugin_reads_the_conversation_as_far_as_it_has_come(session: Path) -> None:
    sizes: list[int] = []

    class Reader:
        def __init__(self, ally: Ally) -> None:
            self.ally = ally

        @hookimpl
        async def ally_assistant_message(self) -> None:
            context: Context = await self.ally.get_context(["messages", "focus"])
            sizes.append(len(context.messages or ()))
            assert context.focus == "/srv/app"

    replay(session, plugins={"reader": Reader})
    assert sizes == [8, 10]


def test_a_task_gets_a_moment_when_the_recording_ends(session: Path) -> None:
    class Tasker:
        def __init__(self, ally: Ally) -> None:
            self.ally = ally

        @hookimpl
        async def ally_session_end(self) -> None:
            await self.ally.start_task("last-words", self.work())

        async def work(self) -> None:
            await asyncio.sleep(0.05)
            await self.ally.add_message("user", "done at last")

    played = replay(session, plugins={"tasker": Tasker})
    assert [one.content for one in played.report.pending] == ["done at last"]


def test_an_interruption_marks_what_is_pending_and_keeps_the_counts(session: Path) -> None:
    class Pending(Speaker):
        @hookimpl
        async def ally_user_message(self) -> None:
            await self.ally.add_message("user", "for later", deliver_as="next_turn")

    async def main() -> Player:
        host = Host("t", home=None, plugins={"p": Pending}, discover=False, clock=ReplayClock())
        began = asyncio.Event()

        def see(event: Event) -> None:
            if event.type == "TOOL_CALL_START":
                began.set()

        player = Player(host, [open_recording(session)], speed=0.001, on_event=see)
        running = asyncio.create_task(player.run())
        await began.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return player

    report = asyncio.run(main()).report
    assert report.is_interrupted
    assert report.events["USER_MESSAGE"] == report.events["SESSION_END"] == 1
    assert report.plugins["p"].messages >= 1
    assert report.pending_messages >= 1


def test_a_host_with_another_clock_is_refused(session: Path) -> None:
    with pytest.raises(HostError, match="ReplayClock"):
        Player(Host("t", home=None), [open_recording(session)])


def test_the_conversation_in_memory_keeps_the_newest_and_writes_all() -> None:
    written: list[str] = []
    conversation = RecordedConversation(on_message=lambda message: written.append(message.content), window=10)
    cursor = conversation.snapshot("s", ("messages",), None).cursor
    for i in range(95):
        assert conversation.add(Message(role="user", content=str(i), id=f"m{i}"))
    assert len(written) == 95
    assert len(conversation.messages) <= 10
    assert conversation.messages[-1].content == "94"
    assert len(conversation._ids) <= 10
    assert conversation.snapshot("s", ("messages",), cursor).is_reset


def test_an_export_of_our_journal_replays_with_the_same_events(session: Path, tmp_path: Path) -> None:

    async def main() -> tuple[Counter[str], list[Path]]:
        home = Home("t", tmp_path / "home")
        host = Host("t", home=home, plugins={"speaker": Speaker}, discover=False, clock=ReplayClock())
        sample = Path(__file__).parents[2] / "ally_plugins" / "replay" / "data" / "sample.jsonl"
        player = Player(host, [open_recording(session), open_recording(sample)])
        report = await player.run()
        files = []
        journal = Journal.open(home.journal_file, head=home.audit_head_file)
        for played in report.sessions:
            files.append(tmp_path / f"{played.session_id}.jsonl")
            files[-1].write_bytes(b"".join(export(journal.reader, played.session_id)))
        await journal.close()
        return report.events, files

    events, files = asyncio.run(main())
    again = replay(*files, plugins={"speaker": Speaker}).report
    assert [one.format for one in again.sessions] == ["ally-journal-export"] * 2
    made_anew = {"PLUGIN_STATE"}
    assert {k: v for k, v in again.events.items() if k not in made_anew} == {
        k: v for k, v in events.items() if k not in made_anew
    }
    assert again.broken_lines == 0


def test_what_nobody_was_shown_live_is_shown_to_nobody_in_a_replay_of_its_export(tmp_path: Path) -> None:
    asked: list[str | None] = []

    class Watcher:
        @hookimpl
        async def ally_gate_tool_call(self, call: ToolCall) -> None:
            asked.append(call.call_id)

        @hookimpl
        async def ally_transform_tool_output(self, call: ToolCall) -> None:
            asked.append(f"output of {call.call_id}")

    async def main() -> bytes:
        async with Host("t", home=None, discover=False) as host:
            session = host.session("live")
            await session.refuse_call("bash", "arguments.n is nan", call_id="c1")
            session.emit(ToolCallStart(tool_name="bash", arguments={"command": "ls"}, call_id="c2"))
            session.emit(ToolCallEnd(tool_name="bash", success=True, output="x", unshown="too deep", call_id="c2"))
            await host.journal.flush()
            return b"".join(export(host.journal.reader, "live"))

    file = tmp_path / "live.jsonl"
    file.write_bytes(asyncio.run(main()))
    played = replay(file, plugins={"watcher": lambda _: Watcher()})
    assert asked == ["c2"]
    assert [bool(event.unshown) for event in played.of("TOOL_CALL_START")] == [True, False]
    denied, withheld = played.of("TOOL_CALL_END")
    assert (denied.denied, denied.duration_ms, withheld.denied, withheld.output) == (True, None, False, "")
    assert "too deep" in withheld.error


@pytest.mark.parametrize(
    ("name", "calls"),
    [("tool_heavy.jsonl", 6), ("short.jsonl", None), ("subagent.jsonl", None), ("marshmallow-1867.traj", None),
     ("pydicom-1458.traj", None)],
)  # fmt: skip
def test_recorded_sessions_of_others_replay_whole(name: str, calls: int | None) -> None:
    file = SHARED / name
    if not file.exists():
        pytest.skip(f"the recorded session {name} is not beside the checkout")
    played = replay(file, plugins={"speaker": Speaker, "redactor": lambda _: Redactor()})
    events = played.report.events
    assert events["TOOL_CALL_START"] == events["TOOL_CALL_END"] > 0
    assert events["SESSION_START"] == events["SESSION_END"] == 1
    assert played.report.broken_lines == 0
    if calls is not None:
        assert (events["TOOL_CALL_START"], events["THOUGHT_COMPLETE"]) == (calls, 1)


def test_what_a_recorded_session_of_others_read_from_a_cache_would_have_been_lost() -> None:
    file = SHARED / "tool_heavy.jsonl"
    if not file.exists():
        pytest.skip(f"the recorded session {file.name} is not beside the checkout")
    played = replay(file, plugins={"clocky": tells_time(volatile=False), "good": tells_time(volatile=True)})
    found = {name: (each.prompt_changes, each.uncached_tokens) for name, each in played.report.plugins.items()}
    assert found == {"clocky": (3, 70_316), "good": (0, 0)}


def test_each_call_of_a_task_tool_is_a_list_as_transforms_left_it(transcript: Callable[..., Path]) -> None:
    class Redactor:
        def __init__(self, ally: Ally) -> None: ...

        @hookimpl
        def ally_transform_tool_input(self, call: ToolCall) -> Replace[ToolCall] | None:
            if "hunter2" not in str(call.arguments):
                return None
            return Replace(attrs.evolve(call, arguments={**call.arguments, "subject": "set the key"}))

    file = transcript(
        record(0, "user", "go"),
        call(1, "t1", "TaskCreate", subject="set the key hunter2", description="x"),
        result(2, "t1", "Task #3 created successfully"),
        call(3, "t2", "TaskCreate", subject="test", description="x"),
        result(4, "t2", "no room", is_error=True),
        call(5, "t3", "TaskUpdate", taskId="3", status="completed"),
        result(6, "t3", "Updated task #3 status"),
    )
    played = replay(file, plugins={"redactor": Redactor})
    lists = [[(todo["id"], todo["task"], todo["status"]) for todo in event.todos] for event in played.of("TODO_UPDATE")]
    assert lists == [[("3", "set the key", "pending")], [("3", "set the key", "completed")]]
    assert [event.call_id for event in played.of("TODO_UPDATE")] == ["t1", "t3"]
