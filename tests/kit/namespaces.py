"""Machines of a test that can be cut off, and a disk that fills up: namespaces of this process's own."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)

MIDDLE = "10.199.0.1"
"""Where the one in the middle is reached from all others."""


class Network:
    """Some machines around one in the middle, until `close`: what they send between them goes through that one.

    Skips the test where this process may make no namespaces, or the programs that wire them are not here. Nothing of
    the machine itself changes, and the namespaces end with this process.
    """

    def __init__(self, *machines: str) -> None:
        self._middle, *others = _new_namespaces("net", 1 + len(machines), "a machine that is cut off")
        self._machines = dict(zip(machines, others, strict=True))
        self._wires = {name: f"to-{number}" for number, name in enumerate(machines)}
        self._ip(self._middle, "link set lo up", f"addr add {MIDDLE}/32 dev lo")
        for number, (name, namespace) in enumerate(self._machines.items(), 1):
            wire = self._wires[name]
            there = f"/proc/{os.getpid()}/fd/{namespace}"
            self._ip(self._middle, f"link add {wire} type veth peer name out netns {there}")
            self._ip(self._middle, f"addr add 10.199.{number}.1/24 dev {wire}", f"link set {wire} up")
            self._ip(namespace, "link set lo up", f"addr add 10.199.{number}.2/24 dev out", "link set out up")
            self._ip(namespace, f"route add default via 10.199.{number}.1")

    def close(self) -> None:
        """Let go of the namespaces: they end with what runs in them."""
        for namespace in (self._middle, *self._machines.values()):
            os.close(namespace)

    def prefix(self, name: str | None = None) -> tuple[str, ...]:
        """Return what stands before a program that is to run on a machine, or in the middle."""
        return ("nsenter", f"--net=/proc/{os.getpid()}/fd/{self._namespace(name)}")

    @contextmanager
    def entered(self, name: str | None = None) -> Iterator[None]:
        """Have this thread, and those that it starts, be on a machine: what sockets it makes are there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _check(_LIBC.setns(self._namespace(name), _CLONE_NEWNET))
            yield
        finally:
            _check(_LIBC.setns(before, _CLONE_NEWNET))
            os.close(before)

    def cut(self, name: str) -> None:
        """Pull a machine's cable: neither end is told, and what is sent is lost."""
        self._ip(self._middle, f"link set {self._wires[name]} down")

    def mend(self, name: str) -> None:
        """Put it in again."""
        self._ip(self._middle, f"link set {self._wires[name]} up")

    def _namespace(self, name: str | None) -> int:
        return self._middle if name is None else self._machines[name]

    def _ip(self, namespace: int, *commands: str) -> None:
        for command in commands:
            where = f"--net=/proc/{os.getpid()}/fd/{namespace}"
            subprocess.run(["nsenter", where, "ip", *command.split()], check=True, stdin=subprocess.DEVNULL)


class SmallDisk:
    """A disk of some MiB at a folder, for programs that are started with its `prefix`, until `close`.

    Skips the test where this process may mount none.
    """

    def __init__(self, folder: Path, size: int) -> None:
        [self._namespace] = _new_namespaces("mnt", 1, "a disk that fills up")
        self._hog = folder / "hog"
        folder.mkdir()
        self._run("mount", "--make-rprivate", "/")
        self._run("mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder))

    def close(self) -> None:
        """Let go of it: it ends with what runs on it."""
        os.close(self._namespace)

    @property
    def prefix(self) -> tuple[str, ...]:
        """What stands before a program that is to see it."""
        return ("nsenter", f"--mount=/proc/{os.getpid()}/fd/{self._namespace}")

    def fill(self) -> None:
        """Have something else take all that is left."""
        # It ends with an error, at the last byte.
        self._run("sh", "-c", 'cat /dev/zero > "$0" 2>/dev/null || true', str(self._hog))

    def empty(self) -> None:
        """Remove that again."""
        self._run("rm", str(self._hog))

    def _run(self, *command: str) -> None:
        subprocess.run([*self.prefix, *command], check=True, stdin=subprocess.DEVNULL)


def _new_namespaces(kind: str, count: int, what: str) -> list[int]:
    """Return descriptors of new namespaces. Skips the test, which is about `what`, where this process may make none."""
    for program in ("ip", "nsenter", "mount"):
        if shutil.which(program) is None:
            pytest.skip(f"{program!r} is not here; not tried: {what}")
    try:
        return [_new_namespace(kind) for _ in range(count)]
    except OSError as error:
        pytest.skip(f"no namespace can be made: {error.strerror}, and it takes root; not tried: {what}")


def _new_namespace(kind: str) -> int:
    found: list[int | OSError] = []

    def make() -> None:
        # A thread of its own, since a thread is in one namespace and this one stays where it is.
        try:
            _check(_LIBC.unshare({"net": _CLONE_NEWNET, "mnt": _CLONE_NEWNS}[kind]))
            found.append(os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    [made] = found
    if isinstance(made, OSError):
        raise made
    return made


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
