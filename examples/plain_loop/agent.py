"""An agent without a framework: `python agent.py MODEL 'what is in README.md?'`, with any OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from ally_plugins import (
    AgentEnd,
    AgentStart,
    AllyError,
    AssistantMessage,
    Host,
    Message,
    Session,
    Stop,
    ToolCall,
    ToolResult,
    UserMessage,
)


def read_file(path: str) -> str:
    """Read a text file."""
    return Path(path).read_text(encoding="utf-8")


TOOLS = {"read_file": read_file}
SCHEMAS = {"read_file": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}


async def run_turn(client: AsyncOpenAI, model: str, session: Session, history: list[Any], prompt: str) -> str:
    """Answer the person once, with as many tool calls as the model wants, and keep the conversation in `history`."""
    history += [for_model(message) for message in await session.safe_point("turn_start")]
    message = await session.transform_user_message(Message(role="user", content=prompt))
    if not (ruling := await session.gate_user_message(message)).is_allowed:
        return f"not sent: {ruling.reason}"
    session.emit(UserMessage(content=message.content))
    session.emit(AgentStart(agent_name="agent", message=message.content))
    history.append(for_model(message))
    while True:
        history += [for_model(message) for message in await session.safe_point("step")]
        plugin_tools = {tool.name: tool for tool in session.agent_tools(taken=TOOLS)}
        offered = [function(name, tool.__doc__, SCHEMAS[name]) for name, tool in TOOLS.items()]
        offered += [function(name, tool.description, dict(tool.schema)) for name, tool in plugin_tools.items()]
        answer = (await client.chat.completions.create(model=model, messages=history, tools=offered)).choices[0].message
        if answer.content:
            said = await session.transform_answer(Message(role="assistant", content=answer.content))
            if not (ruling := await session.gate_answer(said)).is_allowed:
                return end(session, f"the answer is withheld: {ruling.reason}")
            answer.content = said.content
            session.emit(AssistantMessage(content=said.content))
        history.append(answer.model_dump(exclude_none=True))
        for call in answer.tool_calls or ():  # one after the other: a denied one is answered too, so that models go on
            if call.type == "function":
                read = await call_tool(session, plugin_tools, call.id, call.function.name, call.function.arguments)
                history.append({"role": "tool", "tool_call_id": call.id, "content": read})
        if not answer.tool_calls:
            more = await session.safe_point("turn_end")
            if not more and (await session.gate_stop(Stop(answer=answer.content or ""))).is_allowed:
                return end(session, answer.content or "")
            history += [for_model(message) for message in more]


def end(session: Session, answer: str) -> str:
    """Say that the turn is over, and return what the person reads."""
    session.emit(AgentEnd(agent_name="agent", content=answer))
    return answer


async def call_tool(session: Session, offered: Mapping[str, Any], call_id: str, name: str, arguments: str) -> str:
    """Run one call with all that the contract names, and return what the model is to read; a refusal is that too."""

    async def run(call: ToolCall) -> ToolResult:
        if name in offered:
            return await session.call_agent_tool(offered[name], call.arguments)
        return ToolResult(success=True, output=await asyncio.to_thread(TOOLS[name], **call.arguments))

    try:
        call = ToolCall(name, json.loads(arguments), call_id)
    except (ValueError, AllyError) as error:  # no JSON, or nothing that a gate can be shown as it is
        result = await session.refuse_call(name, str(error), call_id=call_id)
    else:
        result = await session.run_tool_call(call, run)
    return result.error or result.output


def for_model(message: Message) -> dict[str, str]:
    """Return a message as the model reads it: each line of a plugin's is marked as the plugin's."""
    return {"role": "user" if message.role == "assistant" else message.role, "content": message.text_for_model}


def function(name: str, description: str | None, schema: dict[str, Any]) -> Any:
    """Return a tool as the API wants it."""
    return {"type": "function", "function": {"name": name, "description": description or "", "parameters": schema}}


async def main(model: str, prompt: str) -> None:
    """Answer one prompt with the plugins that are installed and agreed to."""
    async with Host("my-agent") as host, AsyncOpenAI() as client:
        print(await run_turn(client, model, host.session(), [], prompt))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], " ".join(sys.argv[2:])))
