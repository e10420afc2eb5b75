"""One host of `fleet_soak`, with the publisher of its home: `fleet_soak_host.py CREDENTIALS HOME CALLS_A_SECOND`.

It says `ready`, then does tool calls under the gate of a shared plugin until its input ends, sends all that it has
recorded, and says as JSON what it saw.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from fleet_worker import NAME, record

from ally_plugins import Host, ToolCall, ToolCallEnd, ToolCallStart
from ally_plugins.fleet.credentials import read_credentials
from ally_plugins.fleet.publisher import publish


async def _work(host: Host, rate: float, over: asyncio.Event) -> tuple[list[float], Counter[str]]:
    session, waits, denied = host.session(), list[float](), Counter[str]()
    number = 0
    while not over.is_set():
        number += 1
        # Not all at the same moment, as people's agents are not.
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), random.expovariate(rate))
        call = ToolCall("bash", {"command": f"make target-{number}"}, f"call-{number}")
        session.emit(ToolCallStart(tool_name="bash", arguments=call.arguments, call_id=call.call_id))
        began = time.perf_counter()
        ruling = await session.gate_tool_call(call)
        waits.append((time.perf_counter() - began) * 1000)
        if not ruling.is_allowed:
            denied[ruling.reason or "?"] += 1
        session.emit(ToolCallEnd(tool_name="bash", call_id=call.call_id, success=ruling.is_allowed))
    return waits, denied


async def main(credentials: Path, home: Path, rate: float) -> dict[str, Any]:
    """Work until the input ends, and return what was seen."""
    mine, over = record("shared"), asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), over.set)
    async with Host("soak", home=home, discover=False, plugins={NAME: (mine.daemon, mine)}, fleet=credentials) as host:
        session = host.session()
        while not (await session.gate_tool_call(ToolCall("bash", {"command": "true"}))).is_allowed:  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # until it has a worker, of which nothing tells
        publishing = asyncio.create_task(publish(read_credentials(credentials), home / "journal.db"))
        print("ready", flush=True)
        waits, denied = await _work(host, rate, over)
        publishing.cancel()
        await asyncio.wait([publishing])
    await publish(read_credentials(credentials), home / "journal.db", once=True)
    return {"waits_ms": waits, "denied": denied}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))))
