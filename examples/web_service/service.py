"""A web service whose agent lives with plugins: `uvicorn --workers 2 service:app`.

Any worker answers for any conversation: histories lie in a folder that the workers share, and whoever has the
conversation's session is the only one to go on with it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessagesTypeAdapter
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from ally_plugins import GateRefused, Host, Session, SessionError, json_lines
from ally_plugins.adapters.pydantic_ai import AllyPlugins

if TYPE_CHECKING:
    from starlette.requests import Request

PATIENCE = 10.0
"""Seconds that a request waits for the one before it in the same conversation, here or in another worker."""

HISTORIES = Path(os.environ.get("HISTORIES", "histories"))

host = Host("my-service")  # made, not started: each worker starts its own, after the fork
host.stream.subscribe("DECISION", json_lines(sys.stdout))
agent = Agent(
    os.environ.get("MODEL", "openai-chat:gpt-5-mini"), capabilities=[AllyPlugins(host)], defer_model_check=True
)
locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


@agent.tool_plain
def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


@asynccontextmanager
async def lifespan(_: object) -> AsyncIterator[None]:
    """Run the host as long as the worker; the server lets requests end before it leaves this block."""
    async with host:
        yield


async def opened(name: str) -> Session:
    """Open a conversation's session as soon as no other worker has it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return host.session(name)
            except SessionError:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def conversation(name: str) -> AsyncIterator[Path]:
    """Hold a conversation, so that no other request goes on with it meanwhile; return where its history lies."""
    async with locks.setdefault(name, asyncio.Lock()):
        session = await opened(name)
        try:
            yield HISTORIES / f"{name}.json"
        finally:
            await session.close()


async def answer(request: Request) -> JSONResponse:
    """Answer one message of a conversation."""
    name, message = request.path_params["name"], (await request.json())["message"]
    if not name.isalnum():
        return JSONResponse({"error": "a conversation's name has letters and digits only"}, 400)
    try:
        async with conversation(name) as file:
            history = ModelMessagesTypeAdapter.validate_json(file.read_bytes()) if file.exists() else []
            result = await agent.run(message, message_history=history, conversation_id=name)
            file.write_bytes(result.all_messages_json())
    except GateRefused as refusal:
        return JSONResponse({"error": str(refusal)}, 403)
    except TimeoutError:
        return JSONResponse({"error": "another request of this conversation takes long; try again"}, 409)
    return JSONResponse({"answer": result.output})


async def health(_: Request) -> JSONResponse:
    """Tell a probe how this worker's host is: 503 while something is refused that nobody decided about."""
    found = host.health()
    return JSONResponse(found.as_data(), 200 if found.is_ok else 503)


app = Starlette(
    routes=[Route("/conversations/{name}", answer, methods=["POST"]), Route("/health", health)], lifespan=lifespan
)
