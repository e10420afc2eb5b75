"""session-notes as it is installed: a process of its own, agreed to by command, in real hosts one after the other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, PromptSection, Session, UserMessage
from tests.kit.waiting import go, until

if TYPE_CHECKING:
    from pathlib import Path

NAME = "session-notes"


async def is_running(host: Host) -> None:
    await until(lambda: host.plugins[NAME].is_running)


async def call(session: Session, name: str, **arguments: Any) -> Any:
    (tool,) = [each for each in session.agent_tools() if each.name == name]
    return await session.call_agent_tool(tool, arguments)


async def prompt(session: Session, said: str) -> str:
    session.emit(UserMessage(content=said))
    assert session.wants("system_prompt")
    sections = await session.transform_system_prompt([PromptSection("base", "You help.")])
    return "\n".join(section.text for section in sections if section.source == NAME)


@pytest.fixture
def agreed(home: Path) -> Path:
    """Return a home whose operator has agreed to the plugin, as it asks."""
    command = [sys.executable, "-m", "ally_plugins", "enable", NAME, "--yes"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "ALLY_HOME": str(home)})
    return home


@pytest.mark.slow
def test_it_runs_in_a_process_of_its_own_and_what_it_keeps_outlives_hosts(agreed: Path, tmp_path: Path) -> None:
    async def first() -> None:
        async with Host() as host:
            await is_running(host)
            assert host.plugins[NAME].supervisor is not None
            session = host.session(focus=str(tmp_path))
            assert [tool.name for tool in session.agent_tools()] == ["forget", "recall", "remember"]
            assert (await call(session, "remember", text="tests run with `uv run pytest`")).success
            refused = await call(session, "remember", text="the key is AKIA" + "Y34FZKBOKMUTVV7A")
            assert (refused.success, "credential" in refused.error) == (False, True)

    async def second() -> None:
        async with Host() as host:
            await is_running(host)
            session, other = host.session(focus=str(tmp_path)), host.session(focus=str(tmp_path / "other"))
            assert "tests run with `uv run pytest`" in await prompt(session, "run the tests")
            assert await prompt(other, "run the tests") == ""
            notes = (await session.request_action("list-notes"))["notes"]
            assert [note["text"] for note in notes] == ["tests run with `uv run pytest`"]
            assert host.plugins[NAME].counts.crashes == 0

    go(first())
    go(second())
    (kept,) = agreed.rglob("notes.sqlite")
    assert NAME in str(kept)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_a_process_that_is_killed_comes_back_with_its_notes(agreed: Path, tmp_path: Path) -> None:
    assert agreed.is_dir()

    async def main() -> None:
        async with Host() as host:
            await is_running(host)
            session = host.session(focus=str(tmp_path))
            assert (await call(session, "remember", text="tests need redis", always=True)).success
            supervisor = host.plugins[NAME].supervisor
            assert supervisor is not None
            assert supervisor.process is not None
            ended = supervisor.process.pid
            os.kill(ended, signal.SIGKILL)
            while supervisor.process is None or supervisor.process.pid == ended:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
            await is_running(host)
            assert "tests need redis" in await prompt(session, "go on")

    go(main())


@pytest.mark.slow
def test_two_hosts_on_one_home_share_the_notes(agreed: Path, tmp_path: Path) -> None:
    assert agreed.is_dir()

    async def main() -> None:
        async with Host() as one, Host() as other:
            await is_running(one)
            await is_running(other)
            first, second = one.session(focus=str(tmp_path)), other.session(focus=str(tmp_path))
            calls = [call(each, "remember", text=f"tests note {n}") for n in range(10) for each in (first, second)]
            results = await asyncio.gather(*calls)
            assert [result.error for result in results if not result.success] == []
            for session in (first, second):
                assert len((await call(session, "recall", limit=50)).data["notes"]) == 10

    go(main())
