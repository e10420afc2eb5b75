"""The commands on a journal that keeps no contents, and on one of which a session is purged."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from ally_plugins import Host, Message, ToolCall, ToolResult, UserMessage
from ally_plugins.journal.reader import JournalReader
from tests.kit.hosts import make_plugin

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operator

WORDS = "the-words-of-a-person"
OUTPUT = "what-the-tool-said"


async def talk(home: Path) -> None:
    """Have a conversation in which a plugin allows a call and says something that never enters."""

    async def speak(self: object, event: object) -> None:  # noqa: ARG001
        await made.ally.add_message("user", f"about {WORDS}", deliver_as="next_turn")

    made = make_plugin(ally_gate_tool_call=lambda self, call: None, ally_user_message=speak)  # noqa: ARG005
    async with Host("t", home=home, discover=False, plugins={"p": made}) as host:
        session = host.session("s1")
        session.emit(UserMessage(content=WORDS))
        await session.drained()

        async def run(_: ToolCall) -> ToolResult:
            return ToolResult(success=True, output=OUTPUT)

        await session.run_tool_call(ToolCall("bash", {"command": f"echo {WORDS}"}, "c1"), run)


@pytest.fixture
def quiet(operator: Operator) -> Operator:
    """Return an operator whose journal keeps no contents, after a conversation."""
    operator.home.prepare()
    operator.home.config_file.write_text('[journal]\ncontent = "metadata"\n')
    asyncio.run(talk(operator.home.path))
    return operator


def bytes_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_without_contents_no_file_of_the_home_has_a_word_of_the_conversation(quiet: Operator) -> None:
    kept = bytes_in(quiet.home.path)
    assert b"TOOL_CALL_START" in kept
    assert [word for word in (WORDS, OUTPUT) if word.encode() in kept] == []


def test_each_command_says_that_it_was_not_kept(quiet: Operator, tmp_path: Path) -> None:
    (decision,) = quiet.records("decision")
    length = len(f"echo {WORDS}")
    assert f"[not kept: {length} characters, " in quiet.run("explain", decision["id"]).stdout
    (message,) = quiet.records("message")
    assert "[not kept: " in quiet.run("explain", message["id"]).stdout
    assert "[not kept: " in quiet.run("audit", "--kind", "message").stdout
    assert quiet.ask("audit", "verify")["ok"]
    export = tmp_path / "s1.jsonl"
    quiet.run("export", "s1", "--out", str(export))
    assert WORDS not in export.read_text()
    played = quiet.ask("replay", str(export), "--scratch")
    assert played["not_kept"] >= 3
    assert "texts were not recorded" in quiet.run("replay", str(export), "--scratch").stdout


def test_a_message_that_waited_when_the_host_ended_is_expired_and_not_delivered_as_a_length(quiet: Operator) -> None:
    async def main() -> tuple[Message, ...]:
        async with Host("t", home=quiet.home.path, discover=False) as host:
            session = host.session("s1")
            entered = await session.safe_point("turn_start")
            await host.journal.flush()
            return entered

    assert asyncio.run(main()) == ()
    with JournalReader(quiet.home.journal_file) as reading:
        assert [message.state for message in reading.messages("s1")] == ["expired"]
    assert quiet.ask("audit", "verify")["ok"]


@pytest.mark.parametrize("line", ['content = "some"', "keep_days = -1", "max_megabytes = 1.5", "keep = 1"])
def test_a_setting_of_the_journal_that_is_none_is_an_error(operator: Operator, line: str) -> None:
    operator.home.prepare()
    operator.home.config_file.write_text(f"[journal]\n{line}\n")
    assert "journal" in operator.run("list", code=2).stderr
    with pytest.raises(Exception, match="journal"):
        asyncio.run(talk(operator.home.path))
    assert not operator.home.journal_file.exists()


def test_a_session_is_purged_after_a_yes_and_the_audit_says_so(operator: Operator) -> None:
    asyncio.run(talk(operator.home.path))
    assert WORDS.encode() in bytes_in(operator.home.path)
    assert "nothing is removed" in operator.run("purge", "s1", code=1).stderr
    assert WORDS.encode() in bytes_in(operator.home.path)
    done = operator.ask("purge", "s1", "--yes")
    assert (done["session"], done["open"], done["purged"] > 0) == ("s1", False, True)
    kept = bytes_in(operator.home.path)
    assert [word for word in (WORDS, OUTPUT) if word.encode() in kept] == []
    assert "all content of the session s1, of " in operator.run("audit", "--kind", "pruned").stdout
    assert operator.ask("audit", "verify")["ok"]
    assert json.loads(operator.run("export", "s1").stdout)["session_id"] == "s1"  # the header, and nothing else


def test_a_session_that_nobody_knows_is_not_purged(operator: Operator) -> None:
    assert "the journal has no session 's1'; it has none" in operator.run("purge", "s1", "--yes", code=1).stderr
    asyncio.run(talk(operator.home.path))
    found = operator.run("purge", "s2", "--yes", code=1).stderr
    assert "the journal has no session 's2'; the latest are s1" in found
    assert operator.records("pruned") == []
