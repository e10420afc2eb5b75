"""Children of the tests: hosts that write one journal until they are killed, or until they are done."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from ally_plugins.journal.journal import Journal
from ally_plugins.journal.values import DuplicateKeyError, PendingMessage, Record


def message(id_: str, *, key: str | None = None) -> PendingMessage:
    body = {"role": "user", "content": f"hello from {id_}"}
    return PendingMessage(id_, "s", "p", 1, "user", "steer", trigger_turn=False, body=body, key=key)


def tell(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def write_for_ever(path: Path, name: str) -> None:
    """Accept messages in pairs from several callers, deliver some; tell of each receipt when it is there."""
    journal = Journal.open(path)

    async def caller(number: int) -> None:
        for i in range(1_000_000):
            ids = [f"{name}-{number}-{i}-{side}" for side in "ab"]
            await asyncio.gather(*(journal.accept(message(id_)) for id_ in ids))
            tell("accepted " + " ".join(ids))
            journal.add_events([("s", i, 1, "TODO_UPDATE", None, b"{}")])
            journal.append_soon(Record("refusal", 1, "p"), fold=i % 3)
            if i % 2:
                await journal.mark_delivered(ids, 5)
                tell("delivered " + " ".join(ids))

    await asyncio.gather(*map(caller, range(8)))


async def write_some(path: Path, name: str, count: int) -> None:
    """Accept messages beside another host, some under keys that it uses too."""
    journal = Journal.open(path)
    tell("open")
    sys.stdin.readline()

    async def caller(number: int) -> None:
        for i in range(count):
            try:
                n = await journal.accept(message(f"{name}-{number}-{i}", key=f"{number}-{i}" if i % 5 == 0 else None))
            except DuplicateKeyError as duplicate:
                tell(f"earlier {duplicate.stored.n} {duplicate.stored.id}")
            else:
                tell(f"accepted {n} {name}-{number}-{i}")
            await journal.append(Record("decision", 1, name, "s", f"{name}-{number}-{i}"))

    await asyncio.gather(*map(caller, range(4)))
    await journal.close()


if __name__ == "__main__":
    if sys.argv[1] == "for-ever":
        asyncio.run(write_for_ever(Path(sys.argv[2]), sys.argv[3]))
    else:
        asyncio.run(write_some(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
