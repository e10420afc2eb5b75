"""The host's requests that run outside the lane: tools, actions and tasks, each in a task, concurrently."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.errors import EncodeError, EventError, RefusedError, ToolCallError
from ally_plugins.contract.values.scope import SCOPE, Scope
from ally_plugins.runtime.lanes.jobs import Job, Jobs
from ally_plugins.runtime.lanes.thread import HookExit
from ally_plugins.wire.codes import CANCELLED, METHOD_NOT_FOUND, PARSE_ERROR, REASONS

from .handlers import Handlers
from .logs import write_failure, write_stderr
from .tasks import DaemonTasks

if TYPE_CHECKING:
    from ally_plugins.contract.tools.declared import Kind
    from ally_plugins.wire.messages import Request

    from .peer import Peer

__all__ = ["Service", "scope_of"]

Id = int | str

METHODS: Final = frozenset({"call_tool", "run_action", "run_task", "ping"})
"""What `Service.request` answers."""


class Service:
    """What runs now for the host's requests; `peer` is the connection that they come over.

    Where the connection is made anew, `peer` is set to the new one, and what the old one asked for is to be dropped.
    """

    def __init__(self, plugin: str, peer: Peer) -> None:
        self.plugin = plugin
        self.peer = peer
        self.handlers = Handlers(plugin)
        self.tasks = DaemonTasks(plugin)
        # By the connection too: the ids of each begin at 1.
        self._working: dict[tuple[Peer, Id], asyncio.Task[None] | Job] = {}
        self._jobs = Jobs()

    def request(self, message: Request) -> None:
        """Start the work of a request, in a task that answers it. Raises NotFoundRefused, EventError."""
        match message.method:
            case "call_tool":
                self._call("tool", message)
            case "run_action":
                self._call("action", message)
            case "run_task":
                self._run_task(message)
            case "ping":
                self.peer.respond(message.id, "pong")
            case method:
                text = f"there is no method {method[:80]!r}"
                self.peer.fail(message.id, METHOD_NOT_FOUND, text, {"reason": REASONS[METHOD_NOT_FOUND]})

    def cancelled(self, request_id: Id) -> None:
        """Cancel what works on a request of this connection."""
        work = self._working.get((self.peer, request_id))
        if work is not None:
            _cancel_soon(work)

    def drop(self) -> None:
        """Cancel everything that works for a connection that has broken: nobody waits for it."""
        for work in self._working.values():
            _cancel_soon(work)

    async def stop(self, grace: float) -> None:
        """Cancel everything, and give it `grace` seconds to end. Cancelling it only ends the waiting."""
        # Before the others are cancelled: no task is to begin in their time of grace.
        self.tasks.close()
        await asyncio.sleep(0)  # so that each has begun, and answers
        self._jobs.close()
        # A job's task ends with its work, once that was cancelled.
        working = [work.task if isinstance(work, Job) else work for work in self._working.values()]
        left = [task for task in working if task is not None]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=grace)
        self.handlers.close()

    def _call(self, kind: Kind, message: Request) -> None:
        params = message.params
        spec = self.handlers.find(kind, params.get("name"))
        arguments = params.get("arguments")
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            raise EventError("arguments is no object", path="arguments")
        peer, scope = self.peer, scope_of(self.plugin, params)
        answer = self._work(
            peer, message.id, lambda: self.handlers.run(spec, arguments), scope, f"{kind} {spec.name!r}"
        )
        job = self._jobs.run(answer)
        # Not where it has ended with its first step: the host may use the id again.
        if job is not None:
            self._working[peer, message.id] = job

    def _run_task(self, message: Request) -> None:
        task = self.tasks.take(message.params.get("task_id"))
        scope, what = scope_of(self.plugin, message.params, task_id=task.id), f"task {task.name!r}"
        work = self._work(self.peer, message.id, task.run, scope, what)
        begun = asyncio.get_running_loop().create_task(work, name=f"ally-{what}")
        self._working[self.peer, message.id] = begun
        begun.add_done_callback(lambda _: task.close())  # cancelled before its first step

    async def _work(
        self, peer: Peer, request_id: Id, work: Callable[[], Awaitable[Any]], scope: Scope, what: str
    ) -> None:
        # `peer` and not `self.peer`: a connection made anew meanwhile must not get this answer.
        # Needs no reset: the context is this task's own.
        SCOPE.set(scope)
        try:
            peer.respond(request_id, await work())
        except asyncio.CancelledError:
            peer.fail(request_id, CANCELLED, "cancelled", {"reason": REASONS[CANCELLED]})
            raise
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            self.failed(peer, request_id, error, what)
        finally:
            # Once it is answered, the host may use the id again, and the entry be that of another request.
            work_there = self._working.get((peer, request_id))
            task = work_there.task if isinstance(work_there, Job) else work_there
            if task is asyncio.current_task():
                del self._working[peer, request_id]

    def failed(self, peer: Peer, request_id: Id, error: BaseException, what: str) -> None:
        """Answer a request with what the plugin's code raised; what is no answer on purpose goes to stderr as well."""
        raised = error.raised if isinstance(error, HookExit) else error
        if isinstance(raised, EncodeError):  # its text is ours, and names the place of what JSON cannot say
            write_stderr(f"{what} failed: {raised}")
            text = f"what it returned cannot be sent: {raised}"
            peer.fail(request_id, PARSE_ERROR, text, {"reason": REASONS[PARSE_ERROR]})
            return
        if not isinstance(raised, (RefusedError, ToolCallError)):
            write_failure(what, raised)
        peer.refuse(request_id, raised)


def _cancel_soon(work: asyncio.Task[None] | Job) -> None:
    # Not before its first step: it answers by itself, and a callback would cost each answer a turn of the loop.
    asyncio.get_running_loop().call_soon(work.cancel)


def scope_of(plugin: str, params: dict[str, Any], *, task_id: str | None = None, held: Iterable[str] = ()) -> Scope:
    """Return the scope for the code that a request runs. Raises EventError for a wrong type."""
    for name in ("session_id", "cause"):
        if not isinstance(params.get(name), str | None):
            raise EventError(f"{name} is no text", path=name)
    origin = params.get("origin") or ()
    if not isinstance(origin, list | tuple) or not all(isinstance(name, str) for name in origin):
        raise EventError("origin is no list of plugins' names", path="origin")
    session_id, cause = params.get("session_id"), task_id or params.get("cause")
    return Scope(plugin, session_id, tuple(origin), frozenset(held), cause=cause, task_id=task_id)
