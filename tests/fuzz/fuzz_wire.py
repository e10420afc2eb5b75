"""The fuzz target of the wire: mutated bytes into a connection, for as long as one likes.

Starts from a corpus of messages of every kind, mutates bytes and JSON, and keeps every input that did something new.
Each is tried whole and cut, and the codec is checked against Python's own `json`.

    python tests/fuzz/fuzz_wire.py --seconds 60 [--seed N]

Ends with one line that says what was tried; exit code 1 when something does not hold, with the input to try again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from itertools import pairwise
from math import inf
from typing import Any, Final, NoReturn

from ally_plugins.contract.values.errors import AllyError, ProtocolError
from ally_plugins.wire.codes import read_error
from ally_plugins.wire.connection import Connection
from ally_plugins.wire.limits import WireLimits
from ally_plugins.wire.messages import ErrorResponse, Malformed, Message, Response, parse

LIMITS: Final = WireLimits(frame_bytes=400, depth=8, nodes=60, malformed=5, in_flight=4)  # small: all are reached
KEPT: Final = 5_000  # inputs that did something new
LONGEST: Final = 2_000  # bytes of an input

CORPUS: Final = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocol":"1","protocols":["1"]}}\n',
    b'{"jsonrpc":"2.0","id":"a","method":"call_tool","params":{"name":"x","arguments":{"t":[1,2.5,null,true,"\\u00e9"]}}}\n',
    b'{"jsonrpc":"2.0","method":"on_event","params":{"event_type":"USER_MESSAGE","event_data":{"content":"hi"}}}\n',
    b'{"jsonrpc":"2.0","id":1,"result":{"protocol":"1","hooks":["ally_event"]}}\n',
    b'{"jsonrpc":"2.0","id":2,"error":{"code":-32001,"message":"no","data":{"permission":"x","command":"y"}}}\n',
    b'{"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"no","data":{"tool":"x","problems":["a"]}}}\n',
    b'{"jsonrpc":"2.0","id":3,"error":{"code":-32002,"message":"no","data":{"budget":"x","retry_after":1.5}}}\n',
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}\n',
    b'{"jsonrpc":"2.0","method":"$/cancel","params":{"id":1}}\n',
    b'{"jsonrpc":"2.0","method":"$/progress","params":{"id":2,"progress":0.5,"message":"half"}}\n',
    b"\r\n \n\n",
)
TOKENS: Final = (
    *(b'"', b"\\", b"\n", b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"NaN", b"-0", b"1e999", b"0.1", b"-1"),
    *(
        b'"id"',
        b'"result"',
        b'"error"',
        b'"method"',
        b'"params"',
        b'"jsonrpc"',
        b'"2.0"',
        b'"code"',
        b'"message"',
        b'"data"',
    ),
    *(
        b'"$/cancel"',
        b'"$/progress"',
        b"\\ud800",
        b"\\u0000",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\x00",
        b"[" * 9,
    ),
    *(b"9" * 20, b"18446744073709551615", b"18446744073709551616", b"x" * 130, b"[1,2]," * 12, b'{"a":' * 8),
)
SCALARS: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    1,
    2,
    3,
    -1,
    0.5,
    2**64,
    "",
    "1",
    "x" * 130,
    '\n[[[[\\"{{{',
    "\ud800",
    "2.0",
    "$/cancel",
    {},
    [],
)


class Broken(Exception):
    """Something that must hold does not."""


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Return a variation of `data`, made of one to four small changes."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(data))
        end = min(len(data), start + rng.choice((0, 0, 1, 1, 2, 8, 40)))
        other = rng.choice(others)
        new = rng.choice(
            (b"", bytes([rng.randrange(256)]), rng.choice(TOKENS), data[start:end] * 2, other, other[start:])
        )
        data = data[:start] + new + data[end:]
    return data[:LONGEST]


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one value of one of its lines changed to another; the line stays JSON."""
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    try:
        value = json.loads(lines[place])
        lines[place] = json.dumps(_change(value, rng), ensure_ascii=rng.random() < 0.5).encode()
    except (ValueError, RecursionError):  # no JSON, or a lone surrogate
        return data
    return b"\n".join(lines)[:LONGEST]


def _change(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        return {**value, key: _change(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], _change(value[place], rng), *value[place + 1 :]]
    for _ in range(wraps := rng.choice((0, 0, 1, 5, 6, 7, 8))):
        value = [value] if rng.random() < 0.5 else {"[{\\": value}
    return value if wraps else rng.choice((*SCALARS, [value] * 30, [[]] * 30))


def try_input(data: bytes, rng: random.Random) -> tuple[Any, ...]:
    """Put `data` into a connection, whole and cut, and check everything that must hold; return what it did, roughly.

    Raises Broken, or whatever the code under test raised and must not.
    """
    outcome = _run([data])
    cuts = sorted(rng.randint(0, len(data)) for _ in range(rng.randint(1, 6)))
    if _run([data[start:end] for start, end in pairwise([0, *cuts, len(data)])]) != outcome:
        _fail(f"cut at {cuts} it does something else")
    for line in data.split(b"\n"):
        _compare(line)
    messages, error, output, counts = outcome
    for answer in output.splitlines():
        _check_answer(answer)
    codes = tuple(sorted({line.split(b'"code":')[1][:6] for line in output.splitlines()}))
    return tuple(type(message).__name__ for message in messages[:6]), error[:20], codes, counts


def _run(chunks: list[bytes]) -> tuple[list[Message], str, bytes, str]:
    connection = Connection(limits=LIMITS)
    for _ in range(3):
        connection.request("q")
    connection.data_to_send()
    messages: list[Message] = []
    error = ""
    try:
        for chunk in chunks:
            messages += connection.receive_data(chunk)
    except ProtocolError as broken:
        error = str(broken)
        messages += broken.received
    messages += connection.receive_eof()
    failures = [message for message in messages if isinstance(message, ErrorResponse)]
    if not all(isinstance(read_error(failed.code, failed.message, failed.data), AllyError) for failed in failures):
        _fail("an error is read as something else")
    if connection.outgoing or sorted(m.id for m in messages if isinstance(m, Response | ErrorResponse)) != [1, 2, 3]:
        _fail("a request has not had exactly one end")
    return messages, error, connection.data_to_send(), str(connection.counts)


def _compare(line: bytes) -> None:
    """Check that a line is taken when Python's `json` says that it may be, and only then."""
    try:
        value = json.loads(line.decode(), parse_constant=_fail, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates
    except (ValueError, RecursionError, Broken):
        value = Broken
    depth, nodes = _measure(value)
    try:
        parse(line, LIMITS)
    except Malformed as malformed:
        if _is_plain_request(value) and depth <= LIMITS.depth and nodes <= LIMITS.nodes:
            _fail(f"a good request is refused: {malformed.text}")
    else:
        # A line of few bytes is not counted: it cannot hold much more than the limits say.
        if value is Broken or depth > LIMITS.depth or nodes > max(LIMITS.nodes, len(line) // 2):
            _fail("what is no JSON, or too deep, or too much, is taken")


def _finite(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError(text)
    return number


def _is_plain_request(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) in ({"jsonrpc", "id", "method"}, {"jsonrpc", "id", "method", "params"})
        and isinstance(value.get("params", {}), dict)
        and value["jsonrpc"] == "2.0"
        and type(value["id"]) is int
        and -(2**63) <= value["id"] < 2**64
        and isinstance(value["method"], str)
        and 0 < len(value["method"]) <= 128
    )


def _measure(value: Any) -> tuple[int, int]:
    """Return the depth and the number of values."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if inner is None:
        return 0, 1
    measured = [_measure(item) for item in inner]
    return 1 + max((depth for depth, _ in measured), default=0), 1 + sum(nodes for _, nodes in measured)


def _check_answer(line: bytes) -> None:
    answer = json.loads(line)
    if set(answer) != {"jsonrpc", "id", "error"} or not answer["error"]["data"]["reason"]:
        _fail(f"an answer is not what it should be: {line!r}")


def _fail(text: str) -> NoReturn:
    raise Broken(text)


def fuzz(seconds: float, seed: int, most: float = inf) -> tuple[int, int, list[bytes]]:
    """Try inputs for so long, or so many; return how many, how many different outcomes, and the input that broke it."""
    rng = random.Random(seed)  # noqa: S311 - the same seed, the same inputs
    kept, seen, tried = list(CORPUS), set[Any](), 0
    end = time.monotonic() + seconds
    while tried < most and time.monotonic() < end:
        data = CORPUS[tried] if tried < len(CORPUS) else rng.choice(kept)
        if tried >= len(CORPUS):
            data = mutate(data, kept, rng) if rng.randrange(3) else mutate_json(data, rng)
        tried += 1
        try:
            outcome = try_input(data, rng)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
            sys.stdout.write(f"{type(error).__name__}: {error}\n")
            return tried, len(seen), [data]
        if outcome not in seen and len(kept) < KEPT:
            seen.add(outcome)
            kept.append(data)
    return tried, len(seen), []


def main() -> int:
    """Read the options, fuzz, and say what was tried."""
    parser = argparse.ArgumentParser(description="Fuzz the wire protocol.")
    parser.add_argument("--seconds", type=float, default=60, help="how long (default 60)")
    parser.add_argument("--seed", type=int, default=None, help="the number that the inputs follow from")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    tried, found, broken = fuzz(options.seconds, seed)
    for data in broken:
        sys.stdout.write(f"broken by {data!r}\n")
    how = "does not hold" if broken else "holds"
    sys.stdout.write(
        f"fuzz: the wire {how}: {tried} inputs in {options.seconds:g} s from seed {seed}, {found} different outcomes\n"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
