"""`tasks`: what plugins do in the background of real agents, shown and ended by the operator."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Agent, Operator

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs local sockets")

NAME = "loop-warner"

MANIFEST = """
description = "indexes"
requires_host = ">=1,<2"
[permissions]
tools = { reason = "to be told to work" }
tasks = { reason = "to work" }
"""

CODE = '''
import asyncio
from ally_plugins import tool

class Plugin:
    def __init__(self, ally):
        self.ally = ally

    @tool
    async def work(self, how: str) -> str:
        """Begin a task."""
        begun = asyncio.Event()

        async def job():
            await self.ally.task_progress(0.4, "two of five \\u202e")
            begun.set()
            if how == "ends":
                return
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if how == "stays":
                    await asyncio.sleep(3600)
                raise

        task = await self.ally.start_task("indexing", job())
        await begun.wait()
        return task.id
'''


@pytest.fixture
def enabled(operator: Operator) -> Operator:
    """Return an operator who has agreed to a plugin that starts tasks."""
    operator.install(manifest=MANIFEST, code=CODE)
    operator.enable(NAME)
    return operator


@pytest.mark.slow
def test_info_shows_what_it_offers_and_to_whom(operator: Operator, start: Callable[[], Agent]) -> None:
    code = (
        CODE.replace("import tool\n", "import action, tool\n")
        + """
    @action
    async def forget(self) -> None:
        \"Forget it\u202e.\"

    @action(agent=True)
    async def rebuild(self) -> None:
        \"Build it anew.\"
"""
    )
    operator.install(manifest=MANIFEST + 'actions = { reason = "for you" }\n', code=code)
    operator.enable(NAME)
    assert operator.ask("info", NAME)["offers"] == []
    start()
    shown = operator.run("info", NAME).stdout
    for words in ("work     to the agent", "forget   to you  ", "rebuild  to you and the agent  Build it anew."):
        assert words in shown
    assert "Forget it\\u202e." in shown
    operator.run("revoke", NAME, "tools")
    offers = {each["name"]: each["agent"] for each in operator.ask("info", NAME)["offers"]}
    assert offers == {"forget": False, "rebuild": False}


def test_without_a_host_there_is_nothing_to_show_and_nothing_to_cancel(enabled: Operator) -> None:
    assert enabled.run("tasks").stdout == "no host runs\n"
    assert enabled.ask("tasks") == {"tasks": [], "silent": []}
    assert "no host runs" in enabled.run("tasks", "--cancel", "t-1", code=1).stderr


def test_tasks_show_what_runs_and_cancel_ends_it(enabled: Operator, start: Callable[[], Agent]) -> None:
    one, other = start(), start()
    assert enabled.run("tasks").stdout == "no task runs\n"
    task, second = one.ask("work", "waits"), other.ask("work", "waits")
    shown = enabled.run("tasks").stdout
    assert task in shown
    assert second in shown
    assert "running 40%" in shown
    assert "two of five \\u202e" in shown
    ended = enabled.run("tasks", "--cancel", task).stdout
    assert ended == f"indexing of {NAME} has ended in host {one.pid}: cancelled by the operator\n"
    assert task not in enabled.run("tasks").stdout
    assert "cancelled by the operator" in enabled.run("tasks", "--all").stdout
    assert "had ended before: cancelled" in enabled.run("tasks", "--cancel", task).stdout
    [running] = enabled.ask("tasks")["tasks"]
    assert (running["id"], running["pid"], running["progress"]) == (second, other.pid, 0.4)


@pytest.mark.slow
def test_an_unknown_task_is_an_error_that_says_where_to_look(enabled: Operator, start: Callable[[], Agent]) -> None:
    start()
    told = enabled.run("tasks", "--cancel", "t-\x1b1", code=1).stderr
    assert "no running host has a task" in told
    assert "to see what runs: ally-plugins tasks" in told
    assert "\x1b" not in told


@pytest.mark.slow
def test_a_task_that_does_not_want_to_end_is_told_of_and_the_command_fails(
    enabled: Operator, start: Callable[[], Agent]
) -> None:
    agent = start()
    task = agent.ask("work", "stays")
    told = enabled.run("tasks", "--cancel", task, code=1).stdout
    assert told == f"indexing of {NAME} was asked to end, and still runs in host {agent.pid}\n"
    assert enabled.ask("tasks")["tasks"][0]["reason"] == "cancelled by the operator"
