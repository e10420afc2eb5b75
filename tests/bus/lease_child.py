"""A child of the tests: a host that opens a session, and does with it what it is told, a line at a time."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from ally_plugins import Ally, Host, Session, ToolCall, UserMessage
from ally_plugins.journal import leases

CALL = ToolCall("write", {"path": "notes.md"}, "c4")


class Talker:
    """Says what it is told to."""

    ally: Ally

    def __init__(self, ally: Ally) -> None:
        type(self).ally = ally


def tell(*words: object) -> None:
    os.write(1, f"{' '.join(map(str, words))}\n".encode())


async def do(session: Session, what: str) -> Any:
    if what == "add":
        return (await Talker.ally.add_message("user", "mind the gap", session_id=session.id)).id
    if what == "gate":
        return (await session.gate_tool_call(CALL)).is_allowed
    if what == "safe_point":
        return [message.content for message in await session.safe_point("turn_start")]
    session.emit(UserMessage(content=what))
    return session.ring.head


async def main(home: Path, session_id: str) -> None:
    async with Host("test", home=home, discover=False, plugins={"talker": Talker}) as host:
        session = host.session(session_id)
        tell("open")
        while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
            try:
                tell(await do(session, command))
            except Exception as error:  # noqa: BLE001 - the parent looks at it
                tell(type(error).__name__, error)


if __name__ == "__main__":
    leases.SILENT_S = float(sys.argv[3])  # type: ignore[misc]
    leases._MARGIN_S = leases.SILENT_S / 10  # type: ignore[misc]
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
