"""The other ends of the daemon benchmarks: `python daemon_peers.py KIND [ARGUMENTS]` is one child process.

Each kind does for one library, or for none, what a daemon does for us. Nothing heavy is imported before it is needed:
most kinds start with `python -I`, and some without site-packages too.
"""

# ruff: noqa: D103 - each function is a kind, and described in KINDS

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

DRAIN: Final = b'{"jsonrpc":"2.0","id":'
"""How a request begins, for whoever asks a child whether it has read everything."""

_HELLO: Final = b'{"protocol":"1","hooks":["ally_tool_call_end"]}'
_CHUNK: Final = 65_536


def echo() -> None:
    """Answer each line over asyncio, with its own protocol: what no framework can be faster than."""
    import asyncio

    asyncio.run(_serve_echo())


def echo_on_uvloop() -> None:
    import uvloop

    uvloop.run(_serve_echo())


async def _serve_echo() -> None:
    import asyncio
    import socket

    import orjson

    ended = asyncio.get_running_loop().create_future()

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.rest = transport, b""

        def data_received(self, data: bytes) -> None:
            *lines, self.rest = (self.rest + data).split(b"\n")
            answers = []
            for line in lines:
                asked = orjson.loads(line)
                answers.append(orjson.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": asked["params"]}) + b"\n")
            self.transport.write(b"".join(answers))

        def connection_lost(self, _: object) -> None:
            ended.set_result(None)

    await asyncio.get_running_loop().create_connection(Echo, sock=socket.socket(fileno=os.dup(0)))
    await ended


def message_server(path: str) -> None:
    """Answer one line for each connection, as Code-Ally's daemons do."""
    import asyncio

    import orjson

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = orjson.loads(await reader.readline())
        writer.write(orjson.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": asked["params"]}) + b"\n")
        await writer.drain()
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_unix_server(answer, path)
        _say_ready()
        await server.serve_forever()

    asyncio.run(serve())


def rpyc_server(path: str) -> None:
    import rpyc
    from rpyc.utils.server import ThreadedServer

    class Echo(rpyc.Service):  # type: ignore[misc, name-defined, unused-ignore]
        def exposed_echo(self, text: str) -> str:
            return text

    server = ThreadedServer(Echo, socket_path=path)
    _say_ready()
    server.start()


def grpc_server(path: str) -> None:
    import asyncio

    import grpc
    import orjson

    async def answer(asked: Any, _: Any) -> Any:
        return asked

    async def serve() -> None:
        server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=orjson.loads, response_serializer=orjson.dumps
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", {"call": method}),))
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        _say_ready()
        await server.wait_for_termination()

    asyncio.run(serve())


def mcp_server() -> None:
    import asyncio

    import mcp_types as types
    from mcp.server.lowlevel import Server
    from mcp.server.stdio import stdio_server

    heard = [0]
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}

    async def list_tools(*_: Any) -> Any:
        return types.ListToolsResult(tools=[types.Tool(name=name, input_schema=schema) for name in ("echo", "heard")])

    async def call_tool(_: Any, params: Any) -> Any:
        text = params.arguments["text"] if params.name == "echo" else str(heard[0])
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)])

    async def progress(*_: Any) -> None:
        heard[0] += 1

    async def serve() -> None:
        server = Server("echo", on_list_tools=list_tools, on_call_tool=call_tool, on_progress=progress)
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    asyncio.run(serve())


def reader() -> None:
    """Decode what comes and do nothing else, but answer requests: the same for us and for the bare loop."""
    import orjson

    rest = b""
    while data := os.read(0, _CHUNK):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            message = orjson.loads(line)
            if "id" in message:
                _answer(line)


def stuck() -> None:
    """Answer the greeting, and read no more."""
    _answer(os.read(0, _CHUNK))
    time.sleep(600)


def flood(count: str) -> None:
    """Answer the greeting; flood the host after the first event; answer requests again."""
    _answer(os.read(0, _CHUNK))
    os.read(0, 1)  # the first byte of an event; its rest is read below
    line = b'{"jsonrpc":"2.0","method":"log","params":{"level":"info","message":"%s"}}\n' % (b"x" * 500)
    lines = line * 100
    for _ in range(int(count) // 100):
        view = memoryview(lines)
        while view:
            view = view[os.write(1, view) :]
    while data := os.read(0, _CHUNK):
        for line in data.split(b"\n"):
            if line.startswith(DRAIN):
                _answer(line)


def _answer(line: bytes) -> None:
    number = line[len(DRAIN) :].partition(b",")[0]
    result = _HELLO if b'"initialize"' in line else b"null"
    os.write(1, b'{"jsonrpc":"2.0","id":%s,"result":%s}\n' % (number, result))


def subscriber(publisher: str, answers: str) -> None:
    """Read everything that is published; answer what begins with `?`."""
    import orjson
    import zmq

    context = zmq.Context()
    subscribed, answering = context.socket(zmq.SUB), context.socket(zmq.PUSH)
    subscribed.setsockopt(zmq.RCVHWM, 0)
    subscribed.setsockopt(zmq.SUBSCRIBE, b"")
    subscribed.connect(publisher)
    answering.connect(answers)
    while (message := subscribed.recv()) != b"!":
        if message.startswith(b"?"):
            answering.send(message)
        else:
            orjson.loads(message)


def json_loop() -> None:
    """Answer lines over blocking reads with the standard library's codec: how little a daemon's start can cost."""
    import json

    for line in sys.stdin:
        asked = json.loads(line)
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": None}) + "\n")
        sys.stdout.flush()


def _say_ready() -> None:
    os.write(1, b"ready\n")


KINDS: Final[dict[str, Callable[..., None]]] = {
    "echo": echo,
    "echo-uvloop": echo_on_uvloop,
    "message": message_server,
    "rpyc": rpyc_server,
    "grpc": grpc_server,
    "mcp": mcp_server,
    "reader": reader,
    "stuck": stuck,
    "flood": flood,
    "subscriber": subscriber,
    "json": json_loop,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](*sys.argv[2:])
