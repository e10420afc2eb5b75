"""An agent in a fresh environment: it does what each line of its input says and answers with a line of JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import TYPE_CHECKING, Any

from ally_plugins import Host, RefusedError, ToolCall, ToolCallEnd, UserMessage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from ally_plugins import Session


async def main() -> None:
    async with Host() as host:
        session = host.session("s1")
        say(type(asyncio.get_running_loop()).__module__)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            word, *given = json.loads(line)
            say(await WORDS[word](host, session, *given))
    say("stopped")


async def states(host: Host, _: Session) -> Any:
    return {name: [plugin.state, plugin.reason] for name, plugin in host.plugins.items()}


async def until(host: Host, _: Session, name: str, state: str) -> Any:
    async with asyncio.timeout(60):
        while host.plugins[name].state != state:  # noqa: ASYNC110 - there is nothing to wait for from outside
            await asyncio.sleep(0.01)
    return host.plugins[name].reason


async def fail(_: Host, session: Session, count: int) -> None:
    session.emit(UserMessage(content="hi"))
    for _i in range(count):
        session.emit(ToolCallEnd(tool_name="bash", success=False, error="exit status 1"))
    await session.drained()


async def tool(host: Host, session: Session, name: str, arguments: dict[str, Any] | None = None) -> Any:
    try:
        result = await host.call_tool(name, arguments, session_id=session.id)
    except RefusedError as error:
        return {"refused": error.reason}
    return {"success": result.success, "output": result.output, "data": result.data}


async def gate(_: Host, session: Session, command: str) -> Any:
    return (await session.gate_tool_call(ToolCall("bash", {"command": command}))).reason


async def said(_: Host, session: Session) -> Any:
    await session.safe_point("step")
    return [message.content for message in (await session.context(("messages",))).messages or ()]


WORDS: dict[str, Callable[..., Awaitable[Any]]] = {
    "states": states,
    "until": until,
    "fail": fail,
    "tool": tool,
    "gate": gate,
    "said": said,
}


def say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def run(coroutine: Coroutine[Any, Any, None], how: str) -> None:
    if how == "uvloop":
        import uvloop  # type: ignore[import-not-found, unused-ignore]

        uvloop.run(coroutine)
    elif how == "thread":
        thread = threading.Thread(target=asyncio.run, args=(coroutine,))
        thread.start()
        thread.join()
    else:
        asyncio.run(coroutine)


if __name__ == "__main__":
    run(main(), sys.argv[1])
