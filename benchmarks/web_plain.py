"""The web service of examples/web_service without plugins: what it is measured against."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessagesTypeAdapter
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

HISTORIES = Path(os.environ["HISTORIES"])

agent = Agent(os.environ["MODEL"], defer_model_check=True)
locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


@agent.tool_plain
def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


async def answer(request: Request) -> JSONResponse:
    """Answer one message of a conversation."""
    name, message = request.path_params["name"], (await request.json())["message"]
    async with locks.setdefault(name, asyncio.Lock()):
        file = HISTORIES / f"{name}.json"
        history = ModelMessagesTypeAdapter.validate_json(file.read_bytes()) if file.exists() else []
        result = await agent.run(message, message_history=history, conversation_id=name)
        file.write_bytes(result.all_messages_json())
    return JSONResponse({"answer": result.output})


app = Starlette(routes=[Route("/conversations/{name}", answer, methods=["POST"])])
