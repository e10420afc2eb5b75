"""Forked copies of the test's own process, as `gunicorn --preload` and multiprocessing make them of an agent."""

from __future__ import annotations

import os
import select
import signal
import traceback
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import orjson

__all__ = ["in_fork", "outcome_of"]

PATIENCE = 10.0
"""Seconds for all that a fork is to do; it does milliseconds of work."""


def in_fork(work: Callable[[], Any]) -> Any:
    """Return what `work` returns in a fork, as JSON carries it; fails when it does not end."""
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: a fork of a program with threads
        pid = os.fork()
    if pid == 0:
        try:
            answer = orjson.dumps(work())
        except BaseException:  # noqa: BLE001 - nothing of the copied test may go on
            answer = orjson.dumps(traceback.format_exc())
        os.write(theirs, answer)
        os._exit(0)
    os.close(theirs)
    try:
        is_done = bool(select.select([ours], [], [], PATIENCE)[0])
        if not is_done:
            os.kill(pid, signal.SIGKILL)
        answer = os.read(ours, 1 << 20) if is_done else b""
    finally:
        os.close(ours)
        os.waitpid(pid, 0)
    assert answer, "the fork did not end"
    return orjson.loads(answer)


def outcome_of(call: Callable[[], Any]) -> str:
    """Return what a call comes to at once: the class and text of its error, "waits", or "answers"."""
    try:
        made = call()
        if isinstance(made, Coroutine):
            try:
                made.send(None)
            except StopIteration:
                return "answers"
            made.close()
            return "waits"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the caller sees
        return f"{type(error).__name__}: {error}"
    return "answers"
