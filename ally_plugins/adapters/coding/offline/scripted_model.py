"""A model on loopback that says what a script has, to whichever agent asks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from attrs import frozen

from ally_plugins.contract.values.compat import override

from .interfaces import Interface, Said, interface_of

__all__ = ["Request", "ScriptedModel", "Step", "command_step", "tool_step"]

_SHELLS: Final = {
    "Bash": "command",
    "exec_command": "cmd",
    "run_shell_command": "command",
    "bash": "command",
    "shell": "command",
    "developer__shell": "command",
}
"""Agents' tools for a command, and the argument that holds it."""

_FINDER: Final = "ToolSearch"
"""Claude Code's tool by which a model finds tools that it is not offered at once."""

_SEARCHES: Final = 5
"""How often the model looks in all, so that it ends where there is nothing to be found."""


@frozen
class Step:
    """What the model wants next: a command in the agent's shell, or one of our tools with these arguments."""

    command: str = ""
    tool: str = ""
    arguments: Mapping[str, Any] = {}


def command_step(command: str) -> Step:
    """Return a step that has the agent run a command."""
    return Step(command=command)


def tool_step(tool: str, **arguments: Any) -> Step:
    """Return a step that calls a plugin's tool, by the plugin's own name for it."""
    return Step(tool=tool, arguments=arguments)


@frozen
class Request:
    """One request of an agent that offers its tools."""

    interface: Interface
    body: Mapping[str, Any]

    def results(self) -> list[str]:
        """Return what the model was given back for each call of the script, in order."""
        interface = self.interface
        # Parallel in order; what a model looks up to find a tool is no step.
        both = zip(interface.calls(self.body), interface.results(self.body), strict=False)
        return [result for name, result in both if name != _FINDER]


class ScriptedModel:
    """Says a step at each turn, then that it is done; keeps the requests that offer tools.

    Runs in threads of its own until its process ends.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        self.steps = tuple(steps)
        self.requests: list[Request] = []
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Take no more requests."""
        self._server.shutdown()
        self._server.server_close()

    def results(self) -> list[str]:
        """Return what the model was given back in all, as the last request has it."""
        return self.requests[-1].results() if self.requests else []

    def say(self, interface: Interface, body: Mapping[str, Any]) -> Said:
        """Return what the model says to a request."""
        tools = interface.tools(body)
        shell = next((name for name in _SHELLS if name in tools), None)
        if shell is None:  # for a title, or a summary
            return Said("a title")
        self.requests.append(Request(interface, body))
        made = interface.calls(body)
        turn = sum(name != _FINDER for name in made)
        if turn >= len(self.steps):
            return Said("all done")
        step, call_id = self.steps[turn], f"call_{len(made)}"
        if step.command:
            more = {"description": "as the script has it"} if shell in {"Bash", "bash"} else {}
            return Said(tool=shell, arguments={_SHELLS[shell]: step.command, **more}, call_id=call_id)
        return _call_of(step, tools, call_id, may_search=made.count(_FINDER) < _SEARCHES)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, model: ScriptedModel) -> None:
        self.model = model
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @override
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called above
        """Say nothing."""

    def do_GET(self) -> None:
        models = {"object": "list", "data": [{"id": "scripted", "object": "model"}], "models": []}
        self._answer(json.dumps(models), status=200 if "models" in self.path else 404)

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        try:
            body = json.loads(self._body())
        except ValueError:
            body = {}
        interface = interface_of(path)
        if interface is None:  # how long a prompt is, or telemetry
            self._answer(json.dumps({"input_tokens": 10, "totalTokens": 10}))
            return
        assert isinstance(self.server, _Server)  # noqa: S101 - which has made it
        said = self.server.model.say(interface, body)
        if body.get("stream") or "streamGenerate" in path:
            self._answer("".join(map(_event, interface.events(body, said))), "text/event-stream")
        else:
            self._answer(json.dumps(interface.whole(body, said)))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts: list[bytes] = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, text: str, media: str = "application/json", status: int = 200) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _call_of(step: Step, tools: Mapping[str, str], call_id: str, *, may_search: bool) -> Said:
    """Return the call of a plugin's tool, under whatever name the agent offers it."""
    for name, namespace in tools.items():
        is_ours = "ally" in name or "ally" in namespace
        if is_ours and (name == step.tool or name.endswith((f"_{step.tool}", f"-{step.tool}"))):
            return Said(tool=name, arguments=step.arguments, call_id=call_id, namespace=namespace)
    if _FINDER in tools and may_search:
        query = {"query": f"select:mcp__ally__{step.tool}", "max_results": 5}
        return Said(tool=_FINDER, arguments=query, call_id=call_id)
    return Said(f"no tool {step.tool} is offered, but {', '.join(tools)}")


def _event(event: Mapping[str, Any] | str) -> str:
    if isinstance(event, str):
        return f"data: {event}\n\n"
    head = f"event: {event['type']}\n" if "type" in event else ""
    return f"{head}data: {json.dumps(event)}\n\n"
