"""What agents write themselves and no hook says: thoughts, and how full the context is; whatever is in that file."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import ContextThreshold, Deny, Host, Message, Replace, evolve
from ally_plugins.adapters.coding.dialect import FROM_EVENT_FILE
from ally_plugins.adapters.coding.dialects import DIALECTS
from ally_plugins.adapters.coding.event_records import (
    read_claude_record,
    read_codex_record,
    read_gemini_record,
    read_pi_record,
)
from ally_plugins.adapters.coding.serving import event_files
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.adapters.coding.serving.event_files import EventFile
from ally_plugins.testing.agents.reactions import react
from tests.kit.hosts import make_plugin, setup
from tests.kit.waiting import go

from .agents import recorded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ally_plugins import Event

AGENTS = ["claude", "codex", "gemini"]
GEMINI = {"PreToolUse": "BeforeTool", "PostToolUse": "AfterTool", "Stop": "AfterAgent"}
"""Its names of events."""


def thought(agent: str, text: str) -> dict[str, Any]:
    if agent == "codex":
        return {"type": "response_item", "payload": {"type": "reasoning", "summary": [{"text": text}]}}
    if agent == "gemini":
        return {"id": text, "type": "gemini", "content": "", "thoughts": [{"subject": "", "description": text}]}
    return {"type": "assistant", "message": {"content": [{"type": "thinking", "thinking": text}]}}


def usage(agent: str, percent: int) -> dict[str, Any]:
    if agent == "codex":
        info = {"last_token_usage": {"total_tokens": percent * 10}, "model_context_window": 1000}
        return {"type": "event_msg", "payload": {"type": "token_count", "info": info}}
    if agent == "gemini":
        return {"id": str(percent), "type": "gemini", "content": "", "tokens": {"total": round(10485.76 * percent)}}
    counts = {"input_tokens": percent * 1000, "cache_read_input_tokens": percent * 1000}
    return {"type": "assistant", "message": {"content": [], "usage": counts}}


def add(file: Path, *records: dict[str, Any] | bytes) -> None:
    with file.open("ab") as stream:
        stream.writelines((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in records)


class Talk:
    """A conversation of an agent that writes a file beside its hooks."""

    def __init__(self, host: Host, agent: str, file: Path) -> None:
        self.agent, self.file, self.conversations = agent, file, Conversations(host)
        self.emitted: list[Event] = []
        host.stream.subscribe("*", self.emitted.append)

    async def hook(self, event: str, **changes: Any) -> Any:
        event = GEMINI.get(event, event) if self.agent == "gemini" else event
        (payload, *_) = [each["payload"] for each in recorded(self.agent) if each["event"] == event]
        payload = {**payload, "session_id": "s1", "transcript_path": str(self.file), **changes}
        reply = await self.conversations.reply(self.agent, event, json.dumps(payload).encode(), 20)
        return react(self.agent, event, payload, (reply.exit_code, reply.stdout, reply.stderr))

    def told(self) -> list[Any]:
        """Return what was told of the file, and forget it."""
        found = [getattr(each, "thinking", None) or getattr(each, "context_usage", None) for each in self.emitted
                 if each.type in {"THOUGHT_COMPLETE", "CONTEXT_USAGE_UPDATE"}]  # fmt: skip
        self.emitted.clear()
        return found


def with_talk(agent: str, file: Path, main: Any, grants: Sequence[str] = (), **hooks: Any) -> None:
    async def run() -> None:
        given = setup(make_plugin(**hooks), grants).under("p")
        async with Host(home=None, discover=False, plugins={"p": given}) as host:
            await main(Talk(host, agent, file))

    go(run())


# --- events


@pytest.mark.parametrize("agent", AGENTS)
def test_thoughts_and_usage_are_told_of_once_at_the_next_hook(agent: str, tmp_path: Path) -> None:
    async def main(talk: Talk) -> None:
        await talk.hook("SessionStart")
        add(talk.file, thought(agent, "I look first"), usage(agent, 40))
        await talk.hook("PreToolUse")
        assert talk.told() == [40.0, "I look first"]
        await talk.hook("PostToolUse")
        add(talk.file, usage(agent, 45), usage(agent, 52))
        await talk.hook("Stop")
        assert [each.threshold for each in talk.emitted if isinstance(each, ContextThreshold)] == [50.0]
        assert talk.told() == [52.0]
        await talk.hook("SessionEnd")
        assert talk.told() == []

    with_talk(agent, tmp_path / "t.jsonl", main)


def test_a_thought_of_a_message_that_is_written_again_is_told_once(tmp_path: Path) -> None:
    async def main(talk: Talk) -> None:
        await talk.hook("SessionStart")
        again = {**thought("gemini", "I look"), "toolCalls": [{"id": "c1", "name": "run_shell_command"}]}
        add(talk.file, thought("gemini", "I look"), again)
        await talk.hook("PreToolUse")
        add(talk.file, again, {**again, "id": "another"})
        await talk.hook("Stop")
        assert talk.told() == ["I look", "I look"]

    with_talk("gemini", tmp_path / "t.jsonl", main)


@pytest.mark.parametrize("agent", AGENTS)
def test_what_stood_there_before_the_first_hook_is_no_news(agent: str, tmp_path: Path) -> None:
    add(tmp_path / "t.jsonl", thought(agent, "long ago"), usage(agent, 90))

    async def main(talk: Talk) -> None:
        await talk.hook("SessionStart")
        await talk.hook("PreToolUse")
        assert talk.told() == []

    with_talk(agent, tmp_path / "t.jsonl", main)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_thought_is_told_as_transforms_of_answers_leave_it(agent: str, tmp_path: Path) -> None:
    def redacts(self: Any, message: Message) -> Replace[Message]:  # noqa: ARG001
        return Replace(evolve(message, content=message.content.replace("secret", "[redacted]")))

    async def main(talk: Talk) -> None:
        await talk.hook("SessionStart")
        add(talk.file, thought(agent, "the secret is here"))
        await talk.hook("PreToolUse")
        assert talk.told() == ["the [redacted] is here"]

    with_talk(agent, tmp_path / "t.jsonl", main, ["transform:answer"], ally_transform_answer=redacts)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("path", [None, 7, "", "t.jsonl", "/dev/zero", "/", "/proc/self/mem", "a\0b", ["x"]])
def test_a_file_that_is_none_changes_no_answer(agent: str, path: Any, tmp_path: Path) -> None:
    async def main(talk: Talk) -> None:
        await talk.hook("SessionStart", transcript_path=path)
        assert (await talk.hook("PreToolUse", transcript_path=path)).stopped
        assert talk.told() == []

    grants = ["gate:tool_call"]
    with_talk(agent, tmp_path / "t.jsonl", main, grants, ally_gate_tool_call=lambda self, call: Deny("no"))  # noqa: ARG005


def test_a_disk_that_hangs_holds_up_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()

    def read_new(_: EventFile) -> list[dict[str, Any]]:
        hangs.wait(60)
        return []

    monkeypatch.setattr(EventFile, "read_new", read_new)

    async def main(talk: Talk) -> None:
        try:
            assert not (await talk.hook("PreToolUse")).stopped
            assert not (await talk.hook("PreToolUse", tool_use_id="c2")).stopped
        finally:
            hangs.set()

    with_talk("claude", tmp_path / "t.jsonl", main)


def test_events_of_files_are_served_where_the_payload_names_one_of_a_known_form() -> None:
    served = {name for name, dialect in DIALECTS.items() if dialect.serves.events >= FROM_EVENT_FILE}
    assert served == {name for name, dialect in DIALECTS.items() if dialect.read_record is not None} == {*AGENTS}
    assert all(not dialect.serves.events & FROM_EVENT_FILE for name, dialect in DIALECTS.items() if name not in AGENTS)


# --- the file


def texts(records: list[dict[str, Any]]) -> list[Any]:
    return [record.get("n") for record in records]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file that was looked at while it was empty."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"")
    return path


def begun(path: Path) -> EventFile:
    reader = EventFile(str(path))
    assert reader.read_new() == []
    return reader


def test_a_line_that_is_being_written_is_read_when_it_is_whole(file: Path) -> None:
    reader = begun(file)
    with file.open("ab") as stream:
        stream.write(b'{"n": 1}\n{"n"')
        stream.flush()
        assert texts(reader.read_new()) == [1]
        stream.write(b": 2}")
        stream.flush()
        assert reader.read_new() == []
        stream.write(b"\n")
        stream.flush()
        assert texts(reader.read_new()) == [2]
    assert reader.read_new() == []


def test_a_file_that_appears_later_is_read_from_its_beginning(tmp_path: Path) -> None:
    reader = begun(tmp_path / "t.jsonl")
    add(tmp_path / "t.jsonl", {"n": 1})
    assert texts(reader.read_new()) == [1]


def test_a_file_that_was_rotated_or_cut_off_goes_on_with_what_comes_then(file: Path) -> None:
    reader = begun(file)
    add(file, {"n": 1}, {"n": 2})
    assert texts(reader.read_new()) == [1, 2]
    os.truncate(file, 3)
    assert reader.read_new() == []
    add(file, b"", {"n": 3})
    assert texts(reader.read_new()) == [3]
    file.rename(file.with_suffix(".old"))
    add(file, {"n": 4}, {"n": 5}, {"n": 6})
    assert reader.read_new() == []
    add(file, {"n": 7})
    assert texts(reader.read_new()) == [7]
    file.unlink()
    assert reader.read_new() == []


def test_of_a_file_that_grows_too_fast_the_end_is_read_and_a_line_that_is_too_long_passed_over(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_files, "LOOK_BYTES", 64)
    reader = begun(file)
    add(file, *({"n": n} for n in range(50)))
    found = texts(reader.read_new())
    assert found == [*range(50 - len(found), 50)]
    assert 0 < len(found) < 10
    add(file, b'{"n": "' + b"x" * 500 + b'"}')
    for _ in range(10):
        assert reader.read_new() == []
    add(file, {"n": 51})
    assert texts(reader.read_new()) == [51]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "folder link"])
def test_neither_a_link_nor_a_pipe_is_read(kind: str, tmp_path: Path) -> None:
    path, real = tmp_path / "t.jsonl", tmp_path / "real"
    real.write_bytes(b"")
    match kind:
        case "link":
            path.symlink_to(real)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(tmp_path)
    reader = begun(path)
    add(real, {"n": 1})
    assert reader.read_new() == []


def test_a_file_that_becomes_a_link_out_of_its_folder_is_read_no_more(file: Path, tmp_path: Path) -> None:
    reader = begun(file)
    outside = tmp_path / "outside"
    add(outside, {"n": 1})
    file.unlink()
    file.symlink_to(outside)
    assert reader.read_new() == []
    add(outside, {"n": 2})
    assert reader.read_new() == []


@given(st.lists(st.binary(max_size=40)))
def test_garbage_is_passed_over_and_the_records_between_it_are_read(garbage: list[bytes]) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.jsonl")
        path.write_bytes(b"")
        reader = begun(path)
        add(path, {"n": "first"}, *(each.replace(b"\n", b" ") for each in garbage), {"n": "last"})
        found = texts(reader.read_new())
        assert (found[0], found[-1]) == ("first", "last")


PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=4)
WORDS = st.sampled_from([
    "type", "message", "payload", "content", "assistant", "response_item", "event_msg", "token_count", "info", "usage",
    "input_tokens", "total_tokens", "last_token_usage", "model_context_window", "reasoning", "summary", "thinking",
    "data", "tool_use", "toolCall", "function_call", "id", "call_id", "name", "session", "role", "timestamp", "text",
    "progress", "gemini", "thoughts", "tokens", "total", "subject",
])  # fmt: skip
RECORDS = st.recursive(
    PLAIN | WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12
)


@given(record=st.dictionaries(WORDS, RECORDS, max_size=5))
def test_no_record_makes_a_reader_raise(record: dict[str, Any]) -> None:
    for read in (read_claude_record, read_codex_record, read_gemini_record, read_pi_record):
        list(read(record))
