"""Processes as children of the host itself, by asyncio's own means: for machines that have no guardian.

What is weaker stands in `gaps`. On Windows, standard input and output are two pipes joined by `piped`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

from ally_plugins.compat import override

from .executing import cannot_execute
from .piped import PipedStderr, PipePair
from .process import Exit, Launcher, Process, ProcessSpec, absolute_folder, kernel_limits
from .stdio import Ends

__all__ = ["DirectLauncher"]

POLL: Final = 0.02
"""Seconds between two looks whether a process group is empty; only while it is ending, there is no word of it."""

GAPS: Final = (
    "a daemon that ignores the end of its input outlives a host that is killed",
    "what a daemon starts in a session of its own is not stopped with it",
)
GAP_WINDOWS: Final = "what a daemon starts itself is not stopped with it, and it is told to end by being killed"
GAP_LIMITS: Final = "memory, processor time, file size and descriptors of a daemon are not limited"
GAP_LATE_LIMITS: Final = "a daemon's limits hold from a moment after its start"


class _Watcher(asyncio.SubprocessProtocol):
    """What asyncio says about one process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: DirectProcess | None = None
        self.pair: PipePair | None = None
        self.stderr: PipedStderr | None = None
        self._early: list[tuple[int, bytes]] = []

    def connect(self, pair: PipePair | None, stderr: PipedStderr) -> None:
        """Hand on what comes, and what came already."""
        self.pair, self.stderr = pair, stderr
        early, self._early = self._early, []
        for descriptor, data in early:
            self.pipe_data_received(descriptor, data)

    @override
    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Hand on what it wrote."""
        if self.stderr is None:
            self._early.append((fd, data))
        elif fd == 1 and self.pair is not None:
            self.pair.receive(data)
        else:
            self.stderr.receive(data)

    @override
    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        """Hand on the end of its standard output."""
        if fd == 1 and self.pair is not None:
            self.pair.receive_eof()

    @override
    def pause_writing(self) -> None:
        """Hand on that its input is full."""
        if self.pair is not None:
            self.pair.pause(is_paused=True)

    @override
    def resume_writing(self) -> None:
        """Hand on that its input takes more."""
        if self.pair is not None:
            self.pair.pause(is_paused=False)

    @override
    def process_exited(self) -> None:
        """Hand on that it is dead, whoever holds its pipes."""
        if self.process is not None:
            self.process.note_death()


class DirectProcess(Process):
    """A child of the host in a session of its own."""

    def __init__(self, transport: asyncio.SubprocessTransport, on_gone: Callable[[DirectProcess], None]) -> None:
        super().__init__(transport.get_pid() or 0)
        self._owner = transport
        self._on_gone = on_gone
        self._deadline = float("inf")
        self._ending: asyncio.Task[None] | None = None

    def note_death(self) -> None:
        """Take asyncio's word that the main process is dead and reaped."""
        code = self._owner.get_returncode()
        if code is not None:
            self.note_exit(Exit(code, None) if code >= 0 else Exit(None, -code))
            if not self._is_there():  # at once: later the group's number may be another's
                self.note_gone()

    @override
    def _end(self, grace: float) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = min(self._deadline, loop.time() + grace)
        if self._ending is None:
            self._ending = loop.create_task(self._end_tree(), name=f"ally-end-{self.pid}")
        elif grace <= 0:
            self._kill_tree()

    async def _end_tree(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._deadline:
            self._tell("SIGTERM")
            self._tell("SIGCONT")
        while not self.gone.done() and self._is_there():
            if loop.time() >= self._deadline:
                self._kill_tree()
            await asyncio.sleep(POLL)
        self.note_gone()

    def _kill_tree(self) -> None:
        self._tell("SIGKILL")

    def _is_there(self) -> bool:
        is_alive = self._owner.get_returncode() is None
        if sys.platform == "win32":
            return is_alive
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return is_alive
        except PermissionError:  # macOS says so of a group of zombies
            return is_alive
        return True

    def _tell(self, name: str) -> None:
        if self._is_ending:
            return
        if sys.platform == "win32":
            with contextlib.suppress(ProcessLookupError):
                self._owner.kill()
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.Signals[name])

    @override
    def _finish(self) -> None:
        super()._finish()
        if self._ending is not None:
            self._ending.cancel()
        self._owner.close()
        self._on_gone(self)


class DirectLauncher(Launcher):
    """Launches children of the host."""

    def __init__(self, *, has_pipes: bool = sys.platform == "win32") -> None:
        self._has_pipes = has_pipes
        self._processes: set[DirectProcess] = set()
        self.gaps = _gaps()

    @override
    async def start(self) -> None:
        """Do nothing: there is nothing to make ready."""

    @override
    async def launch(
        self,
        spec: ProcessSpec,
        protocol_factory: Callable[[], asyncio.Protocol] | None,
        on_stderr: Callable[[bytes], None],
    ) -> Process:
        """Start a child; its limits are set right after."""
        if not spec.argv or not spec.argv[0]:
            raise cannot_execute(spec, errno.ENOENT)
        launch = self._launch_piped if self._has_pipes else self._launch_paired
        return await launch(spec, protocol_factory, on_stderr)

    @override
    async def close(self) -> None:
        """Kill every child with its group."""
        processes = list(self._processes)
        for process in processes:
            process.kill()
        if processes:
            await asyncio.wait([process.gone for process in processes])

    async def _launch_paired(
        self,
        spec: ProcessSpec,
        factory: Callable[[], asyncio.Protocol] | None,
        on_stderr: Callable[[bytes], None],
    ) -> Process:
        ends = _make_ends(spec)
        try:
            stdio = subprocess.DEVNULL if ends.child_stdio is None else ends.child_stdio.fileno()
            output = ends.child_stderr if ends.child_stdio is None else stdio
            process, _ = await self._start_process(spec, stdio, output, ends.child_stderr)
            ends.close_child()
            try:
                process.attach(*await ends.connect(factory, on_stderr))
            except BaseException:
                process.kill()
                raise
        finally:
            ends.close_child()
            ends.close_host()
        return process

    async def _launch_piped(
        self,
        spec: ProcessSpec,
        factory: Callable[[], asyncio.Protocol] | None,
        on_stderr: Callable[[bytes], None],
    ) -> Process:
        pipe = subprocess.PIPE
        process, watcher = await self._start_process(spec, pipe if spec.stdio else subprocess.DEVNULL, pipe, pipe)
        owner = process._owner  # noqa: SLF001
        protocol = factory() if spec.stdio and factory is not None else None
        pair = None if protocol is None else PipePair(owner, protocol)
        stderr = PipedStderr(owner, on_stderr)
        process.attach(protocol, pair, stderr)
        if protocol is not None and pair is not None:
            protocol.connection_made(pair)
        watcher.connect(pair, stderr)
        return process

    async def _start_process(
        self, spec: ProcessSpec, stdin: int, stdout: int, stderr: int
    ) -> tuple[DirectProcess, _Watcher]:
        loop = asyncio.get_running_loop()
        folder = absolute_folder(spec)
        options: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # Ctrl-C is the host's to handle
        try:
            transport, watcher = await loop.subprocess_exec(
                lambda: _Watcher(spec.name), *spec.argv,
                stdin=stdin, stdout=stdout, stderr=stderr, cwd=folder, env=dict(spec.env),
                **options,
            )  # fmt: skip
        except OSError as error:
            stage = "folder" if error.filename == folder else "exec"
            raise cannot_execute(spec, error.errno or 0, stage) from error
        except ValueError as error:  # a null byte
            raise cannot_execute(spec, errno.EINVAL) from error
        process = watcher.process = DirectProcess(transport, self._processes.discard)
        self._processes.add(process)
        _limit(process.pid, spec)
        process.note_death()  # it may be dead already
        return process, watcher


def _gaps() -> tuple[str, ...]:
    if sys.platform == "win32":
        return (GAPS[0], GAP_WINDOWS, GAP_LIMITS)
    return (*GAPS, GAP_LATE_LIMITS if sys.platform == "linux" else GAP_LIMITS)


def _limit(pid: int, spec: ProcessSpec) -> None:
    if sys.platform != "linux":
        return
    import resource

    for name, soft, hard in kernel_limits(spec.limits):
        with contextlib.suppress(OSError, ValueError):  # it is dead, or the host itself is held to less
            resource.prlimit(pid, getattr(resource, name), (soft, hard))


def _make_ends(spec: ProcessSpec) -> Ends:
    try:
        return Ends.make(has_stdio=spec.stdio)
    except OSError as error:
        raise cannot_execute(spec, error.errno or 0, "fork") from error
