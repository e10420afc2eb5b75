"""The disk fills, and several hosts share a home, amid conversations: nothing unrecorded is allowed, and it goes on."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.contract.values.errors import UnavailableRefused
from ally_plugins.contract.values.events import AgentEnd
from ally_plugins.journal.audit import verify
from ally_plugins.journal.journal import Journal
from tests.kit.hosts import make_record

from ..chat.terminal import CTRL_D  # noqa: TID252 - tests are no installed package
from .conversing import GATE_KEEPER, Conversation, agent_with, daemon, plugin_texts, staged
from .model_server import ModelServer, Reply

if TYPE_CHECKING:
    from tests.chat.conftest import Person

Models = Callable[..., Any]

CALL = {"name": "note", "arguments": {"text": "this"}}


class Noted:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> str:
        """Note a text."""
        self.texts.append(text)
        return f"noted {text}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("SKIPPED: a full disk needs root, to mount a small one")
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("SKIPPED: a full disk needs a mount, and this machine does not let us")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass


async def fill_up(say: Callable[..., Any], size: int) -> None:
    """Say things of this size until that is refused."""
    for number in range(1000):
        await say("x" * size, key=f"{size} {number}")


def test_a_disk_that_fills_amid_a_conversation_denies_what_cannot_be_recorded_and_it_goes_on(
    go: Any, model_server: ModelServer, model: Models, small_disk: Path, tmp_path: Path
) -> None:
    ballast = small_disk / "ballast"

    async def main() -> None:
        async with staged(tmp_path, home=small_disk / "home") as stage:
            noted = Noted()
            agent, _ = agent_with(stage, model(), [noted.note])
            talk = Conversation(agent)
            say = stage.witness.ally.add_message
            model_server.add(Reply(tools=[CALL]), Reply("done"))
            assert await talk.say("note this") == "done"
            await say("user", "before", session_id="c")
            fill(ballast)
            for size in (4000, 1):  # what has been allotted is still written
                with pytest.raises(UnavailableRefused, match="is full"):
                    await fill_up(partial(say, "user", session_id="c", deliver_as="next_turn"), size)
            journal = stage.host.journal
            assert not journal.healthy
            model_server.add(Reply(tools=[CALL]), Reply("done"))
            assert await talk.say("note that") == "done"
            told = list(model_server.requests[-1].answers.values())[-1]
            assert "not run" in told
            assert "is full" in told
            assert noted.texts == ["this"]
            assert not stage.of(AgentEnd)[-1].interrupted
            assert "[plugin witness] before" in plugin_texts(model_server.requests[-1].texts)
            ballast.unlink()
            await stage.until(lambda: journal.healthy, "the journal is well again")
            model_server.add(Reply(tools=[CALL]), Reply("done"))
            assert await talk.say("and now") == "done"
            assert noted.texts == ["this", "this"]
            texts = " ".join(model_server.requests[-1].texts)
            assert texts.count("[plugin witness] before") == 1
        assert verify(small_disk / "home" / "journal.db").problem is None

    go(main())


@pytest.mark.slow
def test_two_hosts_on_one_home_have_conversations_of_their_own_at_once(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    turns = 10
    for name in ("a", "b"):
        for number in range(turns):
            model_server.add(
                Reply(tools=[{**CALL, "arguments": {"text": f"{name}{number}"}}], when=f"this is {name}{number}."),
                Reply(f"{name} is done", when=f"noted {name}{number}"),
            )

    async def talk_of(name: str, folder: Path) -> None:
        keeper = make_record("keeper", daemon=daemon(folder, GATE_KEEPER))
        async with staged(folder, home=home, keeper=(keeper.daemon, keeper)) as stage:
            noted = Noted()
            agent, _ = agent_with(stage, model(), [noted.note])
            talk = Conversation(agent, f"talk-{name}", streamed=name == "a")
            for number in range(turns):
                await stage.witness.ally.add_message(
                    "user", f"from {name}{number}", session_id=talk.id
                ) if number else None
                assert await talk.say(f"this is {name}{number}.") == f"{name} is done"
            assert noted.texts == [f"{name}{number}" for number in range(turns)]
            assert {event.session_id for event in stage.events if event.type == "USER_MESSAGE"} == {talk.id}
            context = await stage.witness.ally.get_context(["messages"], session_id=talk.id)
            texts = [message.content for message in context.messages or ()]
            assert not any(("from b" if name == "a" else "from a") in text for text in texts)
            assert len([text for text in texts if text.startswith("from ")]) == turns - 1

    for name in ("a", "b"):
        (tmp_path / name).mkdir()

    async def main() -> None:
        await asyncio.gather(*(talk_of(name, tmp_path / name) for name in ("a", "b")))

    go(main())
    assert verify(home / "journal.db").ok
    last = model_server.requests[-1].texts
    assert len({text[:10] for text in plugin_texts(last)}) <= 1


def test_one_conversation_is_found_again_by_another_host_with_what_waited_in_it(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    model_server.add(Reply("one"), Reply("two"))

    async def main() -> None:
        history: list[Any] = []
        for turn in ("one", "two"):
            async with staged(tmp_path, home=home) as stage:
                agent, _ = agent_with(stage, model())
                talk = Conversation(agent, "the same")
                talk.history = history
                assert await talk.say(f"turn {turn}") == turn
                if turn == "one":
                    await stage.witness.ally.add_message("user", "keep it up", session_id="the same")
                history = talk.history
                first: Any = stage.events[0]
                assert (first.type, first.resumed) == ("SESSION_START", True if turn == "two" else None)
        assert plugin_texts(model_server.requests[-1].texts) == ["[plugin witness] keep it up"]

    go(main())
    with Journal.open(home / "journal.db").reader as reading:
        assert [message.state for message in reading.messages("the same")] == ["delivered"]


@pytest.mark.slow
def test_many_agents_on_one_host_at_once_never_hear_of_each_other(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    names = [f"n{number:02}" for number in range(20)]
    for name in names:
        model_server.add(
            Reply(tools=[{**CALL, "arguments": {"text": name}}], when=f"this is {name}"),
            Reply(f"done with {name}", when=f"noted {name}"),
        )

    async def main() -> None:
        async with staged(tmp_path, home=tmp_path / "home") as stage:
            agent, _ = agent_with(stage, model(), [Noted().note])
            talks = [Conversation(agent, name, streamed=name.endswith("1")) for name in names]
            answers = await asyncio.gather(*(talk.say(f"this is {talk.id}") for talk in talks))
            assert answers == [f"done with {name}" for name in names]
            for talk in talks:
                context = await stage.witness.ally.get_context(["messages"], session_id=talk.id)
                texts = " ".join(message.content for message in context.messages or ())
                assert {name for name in names if name in texts} == {talk.id}

    go(main())


@pytest.mark.long
@pytest.mark.slow
def test_a_chat_on_a_disk_that_fills_says_so_and_saves_all_of_it_when_there_is_room(
    person: Person, model_server: ModelServer, small_disk: Path
) -> None:
    ballast, home = small_disk / "ballast", str(small_disk / "home")
    model_server.add(Reply("one"), Reply("two " * 5000), Reply("three"), Reply("goodbye"))
    chat = person.terminal("--model", "scripted", "--base-url", model_server.url, ALLY_HOME=home)
    chat.prompt()
    chat.say("first")
    chat.expect("one")
    chat.prompt()
    fill(ballast)
    chat.say("second")
    chat.expect("is full; make room")
    chat.prompt()
    chat.say("third")
    chat.expect("three")
    chat.prompt()
    ballast.unlink()
    chat.expect("the journal is written again; 0 records were lost")
    chat._prompted = chat.raw.rfind(b"written again")  # keys are lost until the prompt is drawn again below it
    chat.prompt()
    chat.press(CTRL_D)
    assert chat.wait() == 0
    again = person.terminal("--continue", "--base-url", model_server.url, ALLY_HOME=home)
    again.prompt()
    again.say("last")
    again.expect("goodbye")
    again.prompt()
    said = [text[:20] for text in model_server.requests[-1].texts if not text.startswith("system")]
    assert said == [
        "user: first", "assistant: one", "user: second", "assistant: two two t", "user: third", "assistant: three",
        "user: last",
    ]  # fmt: skip
    again.press(CTRL_D)
    assert again.wait() == 0
