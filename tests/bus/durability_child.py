"""A child of the tests: a host whose plugin talks and whose conversation is a file, until it is killed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from ally_plugins import Ally, Host, Message, PluginRecord, RefusedError, ToolCallStart, hookimpl
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.policy.budget import Limits
from ally_plugins.policy.permissions import GrantSet

CALLERS = 8
PLENTY = 10_000_000
RICH = Limits(
    messages_per_minute=PLENTY,
    events_per_minute=PLENTY,
    context_reads_per_minute=PLENTY,
    registrations_per_minute=PLENTY,
    action_requests_per_minute=PLENTY,
    tasks_per_minute=PLENTY,
    calls_in_flight=PLENTY,
    tools=PLENTY,
)


def tell(text: str) -> None:
    os.write(1, f"{text}\n".encode())


class Talker:
    """Says what it is told to."""

    ally: Ally

    def __init__(self, ally: Ally) -> None:
        type(self).ally = ally


class FileConversation:
    """A conversation that outlives the process: a line for each message; one whose id is there already is folded."""

    def __init__(self, path: Path) -> None:
        text = path.read_text() if path.exists() else ""
        self.known = {line.split(" ", 1)[0] for line in text.split("\n")[:-1]}
        if not text.endswith("\n"):  # the last line was cut by a kill: it was never taken
            path.write_text(text[: text.rfind("\n") + 1])
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @hookimpl
    async def ally_add_message(self, message: Message) -> bool:
        """Take a message, once."""
        if message.id not in self.known:
            self.known.add(message.id)
            os.write(self.file, f"{message.id} {message.content}\n".encode())
        return True


def new_host(home: Path) -> Host:
    grants = GrantSet.everything()
    config = PluginConfig(enabled=True, is_decided=True, grants=grants, limits=RICH)
    record = PluginRecord.by_code("talker", grants=grants, config=config)
    own = FileConversation(home / "conversation")
    return Host("test", home=home, discover=False, plugins={"talker": (Talker, record)}, implementation=own)


async def say(number: int, round_: int) -> None:
    receipt = await Talker.ally.add_message("user", f"r{round_}-{number}", key=f"r{round_}-{number}", session_id="s")
    tell(f"accepted {receipt.id} r{round_}-{number}")


async def talk_for_ever(home: Path, round_: int, last: int) -> None:
    """Say again what may not have been heard in the round before, under the same keys, then talk until the kill."""
    async with new_host(home) as host:
        session: Any = host.session("s")
        for start in range(last, last + CALLERS * 3, CALLERS):
            await asyncio.gather(*(say(number, round_ - 1) for number in range(start, start + CALLERS)))
        numbers = iter(range(1_000_000_000))

        async def talk() -> None:
            for number in numbers:
                await say(number, round_)
                session.emit(ToolCallStart(tool_name="bash"))

        async def step() -> None:
            while True:
                await session.safe_point("step")
                await asyncio.sleep(0.001)

        tell("talking")
        await asyncio.gather(step(), *(talk() for _ in range(CALLERS)))


async def deliver_all(home: Path) -> None:
    """Deliver what waits."""
    async with new_host(home) as host:
        await host.session("s").safe_point("turn_start")
        assert host.journal.pending("s") == []


async def share(home: Path, name: str, count: int) -> None:
    """Talk beside another host on the same home, under keys that it uses too."""
    async with new_host(home) as host:
        session: Any = host.session(f"s-{name}")
        tell("open")
        sys.stdin.readline()

        async def talk(caller: int) -> None:
            for i in range(count):
                shared = i % 5 == 0
                key = f"{caller}-{i}" if shared else None
                content = "same" if shared else f"{name}-{caller}-{i}"
                try:
                    receipt = await Talker.ally.add_message("user", content, key=key, session_id=session.id)
                except RefusedError as refusal:
                    tell(f"refused {refusal.reason} {key}")
                else:
                    tell(f"accepted {receipt.id} {content} {key}")

        await asyncio.gather(*map(talk, range(4)))
        await session.safe_point("turn_start")


async def fail_and_recover(home: Path) -> None:
    """Talk while the parent fills the disk and frees it; say what happened to each call and each event."""
    heard = 0

    class Listens(Talker):
        @hookimpl
        async def ally_tool_call_start(self, event: ToolCallStart) -> None:  # noqa: ARG002
            nonlocal heard
            heard += 1

    host = Host("test", home=home, discover=False, plugins={"p": Listens})
    async with host:
        session = host.session("s")
        host.plugins["p"].budget.change_limits(RICH)
        tell("open")
        for line in sys.stdin:
            command = line.strip()
            if command == "end":
                break
            outcomes: list[str] = []
            calls: dict[str, Any] = {
                "add_message": lambda: Listens.ally.add_message("user", "x" * 20_000),
                "register_tool": lambda: Listens.ally.register_tool(tell, name=f"t{os.urandom(4).hex()}"),
                "start_task": lambda: Listens.ally.start_task("job", asyncio.sleep(0)),
                "request_action": lambda: Listens.ally.request_action("compact"),
                "get_context": lambda: Listens.ally.get_context(["todos"]),
                "emit_event": lambda: Listens.ally.emit_event("done"),
            }
            for _ in range(int(command)):
                for name, call in calls.items():
                    try:
                        await call()
                        outcomes.append(f"{name}=ok")
                    except RefusedError as refusal:
                        outcomes.append(f"{name}={refusal.reason}")
            before = heard
            session.emit(ToolCallStart(tool_name="bash"))
            await session.drained()
            outcomes.append(f"heard={heard - before}")
            tell(" ".join(sorted(set(outcomes))))


if __name__ == "__main__":
    what, where, *more = sys.argv[1:]
    if what == "talk":
        asyncio.run(talk_for_ever(Path(where), int(more[0]), int(more[1])))
    elif what == "deliver":
        asyncio.run(deliver_all(Path(where)))
    elif what == "share":
        asyncio.run(share(Path(where), more[0], int(more[1])))
    else:
        asyncio.run(fail_and_recover(Path(where)))
