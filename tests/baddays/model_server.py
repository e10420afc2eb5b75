"""A model on this machine: the OpenAI-compatible chat API, answering by a script, with the failures of real servers.

Standard library only, so that it also runs as a program: `python model_server.py --script FILE` prints its address. A
script is a JSON list of replies (the fields of `Reply`); each request takes the first that is left and fits it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import re
import signal
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

PATIENCE: Final = 30.0
"""Seconds that a busy machine may take for anything; a wait that lasts longer is a failed test."""

Fault = Literal["late", "stall", "reset", "close", "garbage", "nonsense", "truncate", "end"]
"""What goes wrong after `after` pieces of the answer.

`late`: no byte comes until the server is told to go on. `stall`: the answer stops there until then. `reset`: the
connection is reset. `close`: it is closed before the answer is whole. `garbage`: bytes that are neither UTF-8 nor JSON.
`nonsense`: JSON that means nothing.
`truncate`: the JSON ends in the middle, the HTTP around it is whole. `end`: a stream ends there as if that were all.
"""

FAULTS: Final = ("late", "stall", "reset", "close", "garbage", "nonsense", "truncate", "end")


_TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclasses.dataclass(frozen=True)
class Reply:
    """One answer of the model, and what goes wrong with it.

    `tools` are calls: `name`, `arguments` (a value, or the text that stands for one), `id` if it matters. `usage` are
    the tokens of the input and the output. `when` must occur in what is new in the request. `times` requests get
    this reply (clients try again after some failures), 0 means all. `status` other than 200 is an error with `body`; a
    `body` under 200 is sent as it is, as `content_type`. `piece` is how many characters one event of a stream has.
    `finish` is the reason why the answer ends, where it is another than its end or its calls.
    """

    text: str | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    usage: tuple[int, int] | None = (10, 5)
    when: str = ""
    times: int = 1
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: str | None = None
    content_type: str = ""
    fault: Fault | None = None
    after: int = 1
    piece: int = 16
    thinking: str | None = None
    finish: str | None = None

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Self:
        """Return the reply that a script describes. Raises ValueError for what it cannot mean."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(described, Mapping) or (unknown := sorted(set(described) - known)):
            found = unknown if isinstance(described, Mapping) else described
            raise ValueError(f"a reply has {found!r:.200}; expected some of {', '.join(sorted(known))}")
        reply = cls(**described)
        if reply.fault is not None and reply.fault not in FAULTS:
            raise ValueError(f"fault is {reply.fault!r}; expected one of {', '.join(FAULTS)}")
        return reply

    def calls(self, number: int) -> list[dict[str, Any]]:
        """Return the tool calls as the API writes them."""
        return [
            {
                "id": call.get("id", f"call_{number}_{place}"),
                "type": "function",
                "function": {"name": call["name"], "arguments": _as_text(call.get("arguments", {}))},
            }
            for place, call in enumerate(self.tools)
        ]


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


@dataclasses.dataclass(eq=False)
class _Entry:
    """A reply of the script, and how many requests still get it."""

    reply: Reply
    times: int


@dataclasses.dataclass
class Request:
    """What the server was asked. `is_over` once it has answered; `hung_up` when the client did not wait for the end."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    is_over: bool = False
    hung_up: bool = False

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation that the model was shown."""
        found: list[dict[str, Any]] = self.body.get("messages", [])
        return found

    @property
    def tools(self) -> list[str]:
        """The names of the tools that the model was offered."""
        return [tool["function"]["name"] for tool in self.body.get("tools", ())]

    @property
    def texts(self) -> list[str]:
        """The texts of the conversation, message by message, as `role: text`."""
        return [f"{message['role']}: {_text_of(message.get('content'))}" for message in self.messages]

    @property
    def news(self) -> str:
        """What was said since the model last spoke."""
        texts: list[str] = []
        for message in reversed(self.messages):
            if message["role"] == "assistant":
                break
            texts.insert(0, _text_of(message.get("content")))
        return "\n".join(texts)

    @property
    def answers(self) -> dict[str, str]:
        """What the tools answered, by call id."""
        return {m["tool_call_id"]: _text_of(m.get("content")) for m in self.messages if m["role"] == "tool"}


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content or ""


def problem_of(request: Request) -> str:
    """Say what the real API would refuse in a request, nothing when it is in order."""
    open_calls: list[str] = []
    for place, message in enumerate(request.messages):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_calls:
                return f"message {place} answers {message.get('tool_call_id')!r}; open are {open_calls}"
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            return f"message {place} is the {message['role']}'s; expected the answers to {open_calls}"
        open_calls = [call["id"] for call in message.get("tool_calls") or ()]
        if len(set(open_calls)) != len(open_calls):
            return f"message {place} has calls of one id: {open_calls}"
        if not open_calls and message["role"] == "assistant" and not _text_of(message.get("content")):
            return f"message {place} is the assistant's and says nothing"
    if open_calls:
        return f"the conversation ends without the answers to {open_calls}"
    wrong = [name for name in request.tools if not _TOOL_NAME.fullmatch(name) or request.tools.count(name) > 1]
    return f"tools have names that the API does not take: {wrong}" if wrong else ""


class _Broken(Exception):
    """The reply ends here, and its connection with it."""


class ModelServer:
    """A server in a thread of its own, from `start` to `close`; a context manager. Any thread may call its methods.

    `requests` are those it got, in order; `refused` says what was wrong with those that got status 400, since the real
    API would not take them either, or the script had nothing for them. With `caches_prompts` it counts what it is sent,
    a token for four characters, and says how many of them it knows from a request before (`cached_tokens`): the longest
    beginning that one of those has in common with this one.
    """

    def __init__(
        self,
        script: Iterable[Reply] = (),
        *,
        port: int = 0,
        log: Path | None = None,
        caches_prompts: bool = False,
    ) -> None:
        self.requests: list[Request] = []
        self.refused: list[str] = []
        self.port = port
        self._log = log
        self._prompts: list[str] | None = [] if caches_prompts else None
        self._script = [_Entry(reply, reply.times) for reply in script]
        self._held = threading.Semaphore(0)
        self._over = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._go_on = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="model-server", daemon=True)

    # --- life ---

    def start(self) -> Self:
        """Listen. Raises OSError when the port is taken."""
        self._thread.start()
        self.up()
        return self

    def close(self) -> None:
        """Hang up on everybody and end the thread."""
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def up(self) -> None:
        """Listen, on the port of before."""
        self._run(self._up())

    def down(self) -> None:
        """Listen no more and hang up on everybody: connections are refused until `up`."""
        self._run(self._down())

    async def _up(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, limit=1 << 24)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _down(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _run(self, what: Any) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE)

    # --- for tests ---

    @property
    def url(self) -> str:
        """The base address for clients."""
        return f"http://127.0.0.1:{self.port}/v1"

    def add(self, *replies: Reply) -> None:
        """Append replies to the script."""
        with self._lock:
            self._script += [_Entry(reply, reply.times) for reply in replies]

    @property
    def left(self) -> list[Reply]:
        """The replies that nobody has asked for yet."""
        with self._lock:
            return [entry.reply for entry in self._script]

    def go_on(self) -> None:
        """Let a reply that is `late` or in a `stall` go on, and all later ones."""
        self._loop.call_soon_threadsafe(self._go_on.set)

    async def held(self) -> None:
        """Wait until one more reply waits for `go_on`."""
        await self._taken(self._held)

    async def over(self) -> None:
        """Wait until one more request is over, answered or not."""
        await self._taken(self._over)

    async def _taken(self, semaphore: threading.Semaphore) -> None:
        if not await asyncio.to_thread(semaphore.acquire, timeout=PATIENCE):
            raise AssertionError(f"nothing came in {PATIENCE} s; the requests were {self.requests!r:.2000}")

    # --- connections ---

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            while (request := await _read(reader)) is not None:
                await self._serve(request, reader, writer)
        except (_Broken, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # also when the server goes down: nobody waits for this task but `_down`
        finally:
            writer.close()

    async def _serve(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = self._answer_to(request)
        watch = asyncio.ensure_future(reader.read(1))  # nobody sends more before the answer is there: it is the end
        writing = asyncio.ensure_future(answer.write(writer, self._hold))
        try:
            await asyncio.wait({watch, writing}, return_when=asyncio.FIRST_COMPLETED)
            request.hung_up = not writing.done()
            if not request.hung_up:
                await writing
        except (_Broken, ConnectionError):
            raise _Broken from None
        finally:
            for task in (watch, writing):
                task.cancel()
            await asyncio.gather(watch, writing, return_exceptions=True)
            request.is_over = True
            self._over.release()

    async def _hold(self) -> None:
        self._held.release()
        await self._go_on.wait()

    def _answer_to(self, request: Request) -> _Answer:
        with self._lock:
            self.requests.append(request)
            if self._log is not None:
                with self._log.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(request.body) + "\n")
            return _Answer(self._reply_to(request), request, next(self._numbers), self._counted(request))

    def _counted(self, request: Request) -> dict[str, Any]:
        """Return what the usage says of a request where prompts are cached; empty where they are not."""
        if self._prompts is None:
            return {}
        tools = json.dumps(request.body.get("tools", []))
        prompt = "\n".join([tools, *(json.dumps(message) for message in request.messages)])  # as providers order them
        cached = max((_in_common(prompt, each) for each in self._prompts), default=0)
        self._prompts.append(prompt)
        return {"prompt_tokens": len(prompt) // 4, "prompt_tokens_details": {"cached_tokens": cached // 4}}

    def _reply_to(self, request: Request) -> Reply:
        if request.path.endswith("/models"):
            data = [{"id": "scripted", "object": "model", "created": 1_700_000_000, "owned_by": "nobody"}]
            return Reply(body=json.dumps({"object": "list", "data": data}))
        problem = problem_of(request)
        if not problem:
            last = request.news
            for entry in self._script:
                if entry.reply.when in last:
                    entry.times -= 1
                    if entry.times == 0:
                        self._script.remove(entry)
                    return entry.reply
            problem = f"the script has no reply for this request; it ends with {last!r:.200}"
        self.refused.append(problem)
        said = {"error": {"message": problem, "type": "invalid_request_error"}}
        return Reply(status=400, body=json.dumps(said))


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.strip().split("\r\n")
    headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(first.split(" ")[1], headers, json.loads(body) if body else {})


class _Answer:
    """One reply on its way: whole, or as a stream of server-sent events."""

    def __init__(self, reply: Reply, request: Request, number: int, counted: Mapping[str, Any]) -> None:
        self.reply = reply
        self.usage = None if reply.usage is None else {**_usage(reply.usage), **counted}
        self.is_stream = bool(request.body.get("stream")) and reply.status == 200 and reply.body is None
        self.wants_usage = bool((request.body.get("stream_options") or {}).get("include_usage"))
        self.number = number
        self.common = {
            "id": f"chatcmpl-{number}",
            "created": 1_700_000_000,
            "model": request.body.get("model", "scripted"),
        }

    async def write(self, writer: asyncio.StreamWriter, hold: Any) -> None:
        """Write the answer; `hold` is awaited where the script says so. Raises _Broken where the connection ends."""
        if self.reply.fault == "late":
            await hold()
        pieces = self._stream() if self.is_stream else self._whole()
        async for piece in self._spoiled(pieces, writer, hold):
            writer.write(piece)
            await writer.drain()

    async def _spoiled(self, pieces: Iterator[bytes], writer: asyncio.StreamWriter, hold: Any) -> AsyncIterator[bytes]:
        fault = self.reply.fault
        yield next(pieces)  # the head
        rest = list(pieces)
        place = min(self.reply.after, len(rest) - 1)  # an answer that is too short is spoiled at its end
        for count, piece in enumerate(rest):
            if count == place:
                if fault == "stall":
                    await hold()
                elif fault == "reset":
                    _reset(writer)
                    raise _Broken
                elif fault == "close":
                    raise _Broken
                elif fault == "end":
                    yield b"0\r\n\r\n"
                    return
                elif fault is not None and fault != "late":
                    yield self._spoil(piece, fault)
                    return
            yield piece

    def _spoil(self, piece: bytes, fault: Fault) -> bytes:
        """Return what comes in the place of a piece, with the HTTP around it whole."""
        said = {"garbage": b"\xff\xfe\x00{]\x1b[31m", "nonsense": b'{"choices": "none", "id": 7}'}.get(fault)
        if not self.is_stream:
            return (piece[: len(piece) // 2] if said is None else said).ljust(len(piece), b" ")  # as long as promised
        content = piece.partition(b"\r\n")[2]
        return _chunk((content[: len(content) // 2] if said is None else b"data: " + said) + b"\n\n") + b"0\r\n\r\n"

    def _whole(self) -> Iterator[bytes]:
        reply = self.reply
        body = (reply.body if reply.body is not None else json.dumps(self._completion())).encode()
        kind = reply.content_type or "application/json"
        yield _head(reply.status, {"Content-Type": kind, "Content-Length": str(len(body)), **reply.headers})
        yield body

    def _completion(self) -> dict[str, Any]:
        reply, calls = self.reply, self.reply.calls(self.number)
        message: dict[str, Any] = {"role": "assistant", "content": reply.text}
        if reply.thinking is not None:
            message["reasoning_content"] = reply.thinking
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": reply.finish or ("tool_calls" if calls else "stop")}
        said: dict[str, Any] = {**self.common, "object": "chat.completion", "choices": [choice]}
        return {**said, "usage": self.usage} if self.usage is not None else said

    def _stream(self) -> Iterator[bytes]:
        kind = self.reply.content_type or "text/event-stream"
        yield _head(200, {"Content-Type": kind, "Transfer-Encoding": "chunked", **self.reply.headers})
        for event in self._events():
            yield _chunk(b"data: " + json.dumps(event).encode() + b"\n\n")
        yield _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"

    def _events(self) -> Iterator[dict[str, Any]]:
        reply = self.reply
        yield self._delta({"role": "assistant", "content": ""})
        for piece in _pieces(reply.thinking or "", reply.piece):
            yield self._delta({"reasoning_content": piece})
        for piece in _pieces(reply.text or "", reply.piece):
            yield self._delta({"content": piece})
        calls = reply.calls(self.number)
        for index, call in enumerate(calls):
            function = call["function"]
            first = {"index": index, **call, "function": {"name": function["name"], "arguments": ""}}
            yield self._delta({"tool_calls": [first]})
            for piece in _pieces(function["arguments"], reply.piece):
                yield self._delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield self._delta({}, reply.finish or ("tool_calls" if calls else "stop"))
        if self.wants_usage and self.usage is not None:
            yield {**self.common, "object": "chat.completion.chunk", "choices": [], "usage": self.usage}

    def _delta(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {**self.common, "object": "chat.completion.chunk", "choices": [choice]}


def _in_common(one: str, other: str) -> int:
    """Return how many characters two texts have in common from their beginning."""
    shorter = min(len(one), len(other))
    return next((n for n in range(shorter) if one[n] != other[n]), shorter)


def _usage(usage: Sequence[int]) -> dict[str, int]:
    given, answered = usage
    return {"prompt_tokens": given, "completion_tokens": answered, "total_tokens": given + answered}


def _pieces(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} as the script says", *(f"{key}: {value}" for key, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Let the close that follows be a reset: what was not sent is thrown away, and the peer sees an error."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve a script until SIGINT or SIGTERM; the address is printed first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--script", type=Path, help="a JSON file: a list of replies")
    parser.add_argument("--log", type=Path, help="where the bodies of the requests go as they come, one a line")
    options = parser.parse_args(arguments)
    script = json.loads(options.script.read_text("utf-8")) if options.script is not None else []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        ModelServer(map(Reply.of, script), port=options.port, log=options.log) as server,
    ):
        print(server.url, flush=True)  # noqa: T201 - a program's output
        threading.Event().wait()


if __name__ == "__main__":
    main()
