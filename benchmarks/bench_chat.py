"""The reference agent: how soon its first line is there, and what it costs to save a step of a long conversation."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Final

ROUNDS: Final = 9
LONG: Final = 10_000
SHORT: Final = 10
STEPS: Final = 200


def _first_line(home: str) -> float:
    """Return the milliseconds from the program's start until its first line."""
    environ = {**os.environ, "ALLY_HOME": home}
    start = time.perf_counter()
    command = [sys.executable, "-m", "ally_plugins", "chat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        if process.stdout is None or b"ally-plugins chat" not in process.stdout.readline():
            raise RuntimeError("the chat has not begun")
        took = (time.perf_counter() - start) * 1000
        process.kill()
    return took


def _interpreter() -> float:
    """Return the milliseconds of an interpreter that does nothing."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return (time.perf_counter() - start) * 1000


def _saved_step(messages: int) -> float:
    """Return the microseconds that it takes to save one step of a conversation that has so many messages."""
    from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart

    from ally_plugins.cli.chat.saved_history import Saver
    from ally_plugins.contract.values.masking import Secrets
    from ally_plugins.journal.journal import Journal

    def step(number: int) -> list[ModelMessage]:
        return [ModelRequest(parts=[UserPromptPart(f"say {number}")]), ModelResponse(parts=[TextPart(f"so {number}")])]

    async def main() -> float:
        journal = Journal.in_memory()
        saver = Saver(journal, "s", Secrets())
        history = [message for number in range(messages // 2) for message in step(number)]
        saver.follow(history)
        await journal.flush()
        times = []
        for number in range(STEPS):
            history += step(number)
            start = time.perf_counter()
            saver.follow(history)
            times.append((time.perf_counter() - start) * 1e6)
        await journal.close()
        return statistics.median(times)

    return asyncio.run(main())


def run() -> list[dict[str, Any]]:
    """Measure and return the rows."""
    with tempfile.TemporaryDirectory(prefix="ally-bench-") as home:
        _first_line(home)  # compiles
        lines, bare = [], []
        for _ in range(ROUNDS):
            lines.append(_first_line(home))
            bare.append(_interpreter())
    line, nothing = statistics.median(lines), statistics.median(bare)
    long, short = _saved_step(LONG), _saved_step(SHORT)
    return [
        {
            "name": "chat: its first line, against an interpreter that does nothing",
            "ours": line, "bare": nothing, "ratio": line / nothing, "target": "<= 300 ms", "unit": "ms",
        },
        {
            "name": f"chat: saving a step after {LONG:,} messages, against after {SHORT}",
            "ours": long, "bare": short, "ratio": long / short, "target": "<= 1.5", "unit": "µs",
        },
    ]  # fmt: skip


if __name__ == "__main__":
    for row in run():
        print(row)
