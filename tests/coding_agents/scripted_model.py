"""A model that says what a script has: the two interfaces that Claude Code and Codex speak, on loopback.

Which turn is said follows from how many calls a request holds already, so that nothing is kept between requests.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHELLS = {"Bash": "command", "exec_command": "cmd"}
"""The agents' tools for a command, and the argument that holds it."""


Write = Callable[[dict[str, Any], "str | None", dict[str, Any], str], Iterator[dict[str, Any]]]
"""What says a turn in one of the two interfaces: the request, a tool or None, its arguments, a text or an id."""


class ScriptedModel:
    """Says a command at each turn, then that it is done; keeps the requests of the agent that offer it tools."""

    def __init__(self, commands: list[str]) -> None:
        self.commands = commands
        self.requests: list[dict[str, Any]] = []
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                is_messages = "/messages" in self.path
                events = model.say(body, _messages if is_messages else _responses)
                lines = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events]
                data = "".join(lines).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def say(self, body: dict[str, Any], write: Write) -> Iterator[dict[str, Any]]:
        """Return the events of the next turn."""
        names = {tool.get("name") for tool in body.get("tools") or []}
        shell = next((name for name in SHELLS if name in names), None)
        if shell is None:  # a title, or a summary
            return write(body, None, {}, "a title")
        self.requests.append(body)
        turn = _calls(body)
        if turn >= len(self.commands):
            return write(body, None, {}, "all done")
        return write(body, shell, {SHELLS[shell]: self.commands[turn]}, f"call-{turn}")


def _calls(body: dict[str, Any]) -> int:
    if "input" in body:
        return sum(item.get("type") == "function_call" for item in body["input"])
    contents = [message["content"] for message in body["messages"] if message["role"] == "assistant"]
    return sum(block.get("type") == "tool_use" for each in contents if isinstance(each, list) for block in each)


def _messages(body: dict[str, Any], tool: str | None, given: dict[str, Any], text: str) -> Iterator[dict[str, Any]]:
    """Yield a turn as Anthropic's Messages stream it."""
    usage = {"input_tokens": 10, "output_tokens": 1}
    head: dict[str, Any] = {
        "id": f"msg-{text}",
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": [],
    }
    yield {"type": "message_start", "message": {**head, "stop_reason": None, "stop_sequence": None, "usage": usage}}
    if tool is None:
        yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    else:
        block = {"type": "tool_use", "id": f"toolu_{text}", "name": tool, "input": {}}
        yield {"type": "content_block_start", "index": 0, "content_block": block}
        arguments = json.dumps({**given, "description": "as the script has it"})
        yield {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": arguments},
        }
    yield {"type": "content_block_stop", "index": 0}
    end = {"stop_reason": "end_turn" if tool is None else "tool_use", "stop_sequence": None}
    yield {"type": "message_delta", "delta": end, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}


def _responses(_: dict[str, Any], tool: str | None, given: dict[str, Any], text: str) -> Iterator[dict[str, Any]]:
    """Yield a turn as OpenAI's Responses stream it."""
    head = {"id": f"resp-{text}", "object": "response"}
    if tool is None:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        item = {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": content}
    else:
        arguments = json.dumps(given)
        item = {"type": "function_call", "id": f"fc-{text}", "call_id": text, "name": tool, "arguments": arguments,
                "status": "completed"}  # fmt: skip
    yield {"type": "response.created", "response": {**head, "status": "in_progress"}}
    yield {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress"}}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    usage = {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 1,
             "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 11}  # fmt: skip
    yield {"type": "response.completed", "response": {**head, "status": "completed", "output": [item], "usage": usage}}
