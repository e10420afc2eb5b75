"""The process of one plugin, from `initialize` to its end: what the host sends goes to the lane or to the service.

It decides when the process ends and with which code; the host's supervisor decides what follows.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from ally_plugins.contract.handle import Ally
from ally_plugins.contract.values.errors import PluginLoadError, RefusedError, VersionError
from ally_plugins.contract.values.events import EventsDropped
from ally_plugins.contract.values.scope import Scope
from ally_plugins.runtime.lanes.requests import TakenBack
from ally_plugins.runtime.lanes.runner import GRACE
from ally_plugins.runtime.lanes.thread import HookExit
from ally_plugins.wire.codes import (
    NOT_INITIALIZED,
    REASONS,
    REFUSED,
    SHUTTING_DOWN,
    UNSUPPORTED_PROTOCOL,
)
from ally_plugins.wire.connection import Connection
from ally_plugins.wire.handshake import choose, find_early_problem
from ally_plugins.wire.limits import DEFAULT_LIMITS, FROM_HOST

from .acks import Acks
from .ending import end_within
from .hook_calls import read_hook_call
from .init_params import Initialization
from .lane import AnsweredRequest, ProcessLane
from .loading import Factory, Loaded, load, load_factory
from .logs import HostHandler, write_failure, write_stderr
from .outbound import WireOutbound
from .peer import Peer
from .service import METHODS as SERVICE_METHODS
from .service import Service, scope_of

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event
    from ally_plugins.runtime.lanes.requests import Crash
    from ally_plugins.wire.messages import Notification, Request

    from .streams import Descriptors

__all__ = ["PluginProcess", "SharedPlace"]

EXIT_FAILED: Final = 1  # the plugin cannot be loaded, or the host speaks another version
EXIT_HUNG: Final = 70  # a hook ignored its interruption; sysexits calls it an internal software error
EXIT_PROTOCOL: Final = 76  # the host speaks no protocol; sysexits' number

LEEWAY: Final = 0.1
"""Seconds after a hook's deadline in which the host, which decides without us then, is to cancel its request."""

STOP_ALONE: Final = 1.0
"""Seconds for `ally_stop` when nobody waits for it: the host is gone, or sent SIGTERM and will soon send SIGKILL."""


@frozen
class SharedPlace:
    """What an instance has of its own in a process that many hosts share."""

    number: int
    """Distinguishes its logger, whose records are for its host alone."""
    data_dir: str | None
    """On this machine: the host names one on its own."""


REPORT_S: Final = 1.0
"""Seconds from the end of a hook to the report of how long it took: a line for all events of that time."""

REPORTED: Final = 1000
"""Events of one report, which is some 50 KB."""

METHODS: Final = SERVICE_METHODS | {"initialize", "start", "shutdown", "drain", "gate", "transform"}
"""What a host may call."""


class PluginProcess:
    """The plugin of this process; `serve` is its life. `factory` is a class, or MODULE:CLASS to be imported."""

    def __init__(
        self,
        factory: Factory | str,
        *,
        name: str | None = None,
        end_within: Callable[[float, int], None] = end_within,  # tests live on in this process, and pass another
        shared: SharedPlace | None = None,
    ) -> None:
        self._factory = factory
        self._own_name = name
        self._end_within = end_within
        self._shared = shared
        self._handler = HostHandler(self._log)
        self._logger: logging.Logger | None = None
        self._peer = Peer(Connection(limits=FROM_HOST, methods=METHODS), self)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._exit: asyncio.Future[int] = self._loop.create_future()
        self._code = 0  # with which `_stop_all` ends
        self._initialization: Initialization | None = None
        self._loaded: Loaded | None = None
        self._outbound: WireOutbound | None = None
        self._lane: ProcessLane | None = None
        self._service: Service | None = None
        self._acks: Acks | None = None
        self._pending: dict[int | str, AnsweredRequest] = {}
        self._times: dict[str, list[dict[str, Any]]] = {}
        """What hooks took for events, by session, that the host has not been told."""
        self._has_started = False
        self._stopping: asyncio.Task[None] | None = None
        self._shutdown_requests: list[int | str] = []

    async def serve(self, descriptors: Descriptors) -> int:
        """Serve the host at these descriptors until the end, and return the exit code.

        Cancelling it closes the connection and calls no `ally_stop`.
        """
        self._peer.open(descriptors)
        if self._shared is None:  # else the signal is for all of them
            with suppress(NotImplementedError, ValueError, RuntimeError):  # Windows; not the main thread
                import signal

                self._loop.add_signal_handler(signal.SIGTERM, self.stop)
        try:
            return await self._exit
        finally:
            self._peer.close()
            if self._logger is not None:
                self._logger.removeHandler(self._handler)

    def stop(self) -> None:
        """Run `ally_stop` though no host waits for it, and end `serve`."""
        self._stop_alone()

    # --- what the host sends ---

    def request(self, message: Request) -> None:
        """As `peer.Handler.request`."""
        lane, service = self._lane, self._service
        # `initialize` here too when it comes a second time: what refuses it stands there.
        if lane is None or service is None or message.method == "initialize":
            self._take_early(message)
        elif message.method == "shutdown":
            # Each one is answered, at the end: a host that repeats its request waits for all its answers.
            self._shutdown_requests.append(message.id)
            self._stop(self._deadline("ally_stop", "stop"))
        elif self._stopping is not None and message.method != "ping":
            data = {"reason": REASONS[SHUTTING_DOWN]}
            self._peer.fail(message.id, SHUTTING_DOWN, "the plugin is being stopped", data)
        elif message.method in {"gate", "transform"}:
            self._call_hook(lane, message)
        elif message.method == "drain":
            answer = partial(self._drained, message)
            # Without a function: its turn in the lane is the answer, since all that came before it is handled by then.
            drain = AnsweredRequest("drain", None, (), False, Scope(service.plugin), answer)  # noqa: FBT003
            self._submit(lane, message, drain, None)
        elif message.method == "start":
            self._start(lane, message)
        else:
            service.request(message)

    def notification(self, message: Notification) -> None:
        """As `peer.Handler.notification`; what this version does not know is passed over."""
        if message.method == "on_event" and self._lane is not None and self._stopping is None:
            self._lane.add_event(message.params)

    def cancelled(self, request_id: int | str) -> None:
        """As `peer.Handler.cancelled`."""
        # The connection has sent the answer: the lane's must not follow, and is forgotten here.
        request = self._pending.pop(request_id, None)
        if request is not None and self._lane is not None:
            self._lane.take_back(request)
        elif self._service is not None:
            self._service.cancelled(request_id)

    def ended(self, why: str) -> None:
        """As `peer.Handler.ended`."""
        if why:
            write_stderr(f"the host does not keep to the protocol: {why}")
            # Not `_end`, which would cut `ally_stop` off.
            self._code = EXIT_PROTOCOL
        self._stop_alone()

    # --- beginning ---

    def _take_early(self, message: Request) -> None:
        problem = find_early_problem(message.method, is_ready=self._initialization is not None)
        if problem is not None:
            self._peer.fail(message.id, NOT_INITIALIZED, problem, {"reason": REASONS[NOT_INITIALIZED]})
            return
        try:
            self._initialize(message)
        except VersionError as error:
            data = {"reason": REASONS[UNSUPPORTED_PROTOCOL], "protocols": error.known}
            self._peer.fail(message.id, UNSUPPORTED_PROTOCOL, str(error), data)
            self._end(EXIT_FAILED)
        except BaseException as error:  # noqa: BLE001 - a plugin's module and class may raise anything
            write_failure("loading the plugin", error)
            if isinstance(error, PluginLoadError):  # in our words, for the plugin's author
                data = {"reason": REASONS[REFUSED], "type": type(error).__name__}
                self._peer.fail(message.id, REFUSED, str(error), data)
            else:
                self._peer.refuse(message.id, error)
            self._end(EXIT_FAILED)

    def _initialize(self, message: Request) -> None:
        initialization = Initialization.read(message.params)
        protocol = choose(initialization.protocols)
        self._peer.name = name = initialization.plugin
        self._peer.connection.send_limit = initialization.frame_bytes or DEFAULT_LIMITS.frame_bytes
        service = Service(name, self._peer)
        outbound = WireOutbound(name, self._peer, initialization.capabilities, service.handlers, service.tasks)
        shared = self._shared
        # Before the plugin is built: its `__init__` may log.
        logger = self._forward_log(name if shared is None else f"{name}.{shared.number}")
        data_dir = initialization.data_dir if shared is None else shared.data_dir
        ally = Ally(name, outbound, settings=initialization.settings, data_dir=data_dir)
        ally.log.logger = logger
        factory = load_factory(self._factory) if isinstance(self._factory, str) else self._factory
        loaded = load(factory, ally)
        service.handlers.keep([*loaded.tools, *loaded.actions])
        # Only now: a plugin that could not be built has neither a lane nor anything to stop.
        self._initialization, self._loaded, self._outbound, self._service = initialization, loaded, outbound, service
        self._acks = Acks(self._acknowledge, lambda error: write_stderr(f"acknowledging events was refused: {error}"))
        self._lane = ProcessLane(
            name,
            loaded.handlers,
            initialization.deadlines,
            on_crash=self._crashed,
            on_handled=self._acks.handled,
            on_observed=self._observed,
        )
        # Without `ally_start` there is no moment to wait for: calls may be made at once, and `ally_stop` is due.
        self._has_started = outbound.is_open = "ally_start" not in loaded.hooks
        own = {"name": self._own_name} if self._own_name is not None else {}
        self._peer.respond(message.id, {"protocol": protocol, **own, **loaded.to_wire()})

    def _forward_log(self, name: str) -> logging.Logger:
        self._logger = logger = logging.getLogger(f"ally_plugins.plugin.{name}")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)  # the host decides what it shows
        logger.addHandler(self._handler)
        return logger

    def _log(self, level: str, text: str) -> None:
        # `may_drop`: a log that its host does not read must not fill this process's memory.
        send = partial(self._peer.notify, "log", {"level": level, "message": text}, may_drop=True)
        # Code of the plugin logs in any of its threads; the connection is only for the loop's.
        if threading.get_ident() == self._thread:
            send()
        else:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(send)

    def _start(self, lane: ProcessLane, message: Request) -> None:
        loaded, outbound, name = self._loaded, self._outbound, self._peer.name
        hook = loaded.hooks.get("ally_start") if loaded is not None else None
        if hook is None or outbound is None:
            self._peer.respond(message.id, None)
            return
        # Before the hook runs, which may make calls itself.
        outbound.is_open = True

        def answered(_: Any, error: BaseException | None) -> None:
            # A plugin whose start has failed gets no `ally_stop`: it has nothing to undo that it knows of.
            self._has_started = error is None
            self._answer(message, lambda _: None, None, error)

        scope = Scope(name, held=frozenset((name,)))
        request = AnsweredRequest("ally_start", hook.function, (), hook.is_async, scope, answered)
        self._submit(lane, message, request, self._deadline("ally_start", "start"))

    # --- gates and transforms ---

    def _call_hook(self, lane: ProcessLane, message: Request) -> None:
        assert self._loaded is not None  # noqa: S101 - there is a lane
        call = read_hook_call(self._loaded, message.method, message.params)
        scope = scope_of(lane.plugin, message.params, held=(lane.plugin,))
        hook, answer = call.hook, partial(self._answer, message, call.encode)
        # The host's own deadline, where it names one, ends first: then its cancellation decides, and not a race.
        deadline = self._deadline(hook.name, message.method) if call.deadline is None else call.deadline + LEEWAY
        request = AnsweredRequest(hook.name, hook.function, call.arguments, hook.is_async, scope, answer)
        self._submit(lane, message, request, deadline)

    def _submit(self, lane: ProcessLane, message: Request, request: AnsweredRequest, deadline: float | None) -> None:
        self._pending[message.id] = request
        lane.submit(request, deadline)

    def _answer(self, message: Request, encode: Callable[[Any], Any], result: Any, error: BaseException | None) -> None:
        request = self._pending.pop(message.id, None)
        if error is None:
            try:
                self._peer.respond(message.id, encode(result))
            except Exception as problem:  # noqa: BLE001 - what a plugin returned may be anything
                error = problem
            else:
                return
        what = request.hook if request is not None else message.method
        if isinstance(error, TakenBack):
            data = {"reason": REASONS[SHUTTING_DOWN]}
            self._peer.fail(message.id, SHUTTING_DOWN, str(error), data)
        elif self._service is not None:
            self._service.failed(self._peer, message.id, error, what)

    # --- observers ---

    def _observed(self, event: Event, hook: str | None, seconds: float) -> None:
        if event.__class__ is EventsDropped:
            return
        if not self._times:
            self._loop.call_later(REPORT_S, self._report_times)
        named = {} if hook is None else {"hook": hook}
        self._times.setdefault(event.session_id, []).append({"seq": event.seq, "us": int(seconds * 1e6), **named})

    def _report_times(self) -> None:
        times, self._times = self._times, {}
        for session_id, found in times.items():
            for start in range(0, len(found), REPORTED):
                params = {"session_id": session_id, "times": found[start : start + REPORTED]}
                self._peer.notify("report_times", params, may_drop=True)

    def _drained(self, message: Request, result: Any, error: BaseException | None) -> None:
        self._report_times()  # so that it is known of all that came before
        self._answer(message, _same, result, error)

    # --- failures ---

    def _crashed(self, crash: Crash) -> None:
        if isinstance(crash.error, RefusedError) and not crash.is_final:  # an answer, and no crash
            write_stderr(f"{crash.hook} did not catch a refusal: {crash.error}")
            return
        write_failure(crash.hook, crash.error)
        report = {
            "hook": crash.hook,
            "error": type(crash.error).__name__,
            "event_id": crash.event.id if crash.event is not None else None,
            "is_final": crash.is_final or None,
        }
        self._peer.notify("report_crash", {key: value for key, value in report.items() if value is not None})
        if crash.is_final and self._stopping is None:
            write_stderr(f"{crash.hook} cannot be stopped; the process ends")
            self._peer.close()
            # After `close`, which writes the report: the process is gone with this line.
            self._end_within(0, EXIT_HUNG)  # at once, though code of the plugin still runs
            self._end(EXIT_HUNG)  # reached only where tests replace `end_within`

    # --- the end ---

    def _stop_alone(self) -> None:
        # Whatever does not end: nobody is there any more to end it with force.
        self._end_within(STOP_ALONE + GRACE, self._code)
        self._stop(min(STOP_ALONE, self._deadline("ally_stop", "stop")))

    def _stop(self, seconds: float) -> None:
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop_all(seconds), name="ally-stop")

    async def _stop_all(self, seconds: float) -> None:
        """Run `ally_stop` after the hook that runs now, then end everything, answer, and end the process."""
        problem: BaseException | None = None
        lane, service, outbound, acks = self._lane, self._service, self._outbound, self._acks
        if lane is not None and service is not None and outbound is not None and acks is not None:
            # First, while tools, tasks and calls still work: `ally_stop` may want them.
            problem = await self._call_stop(lane, seconds)
            await service.stop(GRACE)
            if self._peer.is_open:  # else no answer would come, and the wait would take all of its time
                # After the last hook: what it has handled must not come again in the next process.
                await acks.finished(GRACE)
            outbound.is_open = False
            # Before `shutdown` is answered: what waits in the lane gets its answer ahead of the host's hanging up.
            await lane.close()
            self._report_times()
        for request_id in self._shutdown_requests:
            if problem is None:
                self._peer.respond(request_id, None)
            else:
                self._peer.refuse(request_id, problem)
        self._end(self._code)

    async def _call_stop(self, lane: ProcessLane, seconds: float) -> BaseException | None:
        hook = self._loaded.hooks.get("ally_stop") if self._loaded is not None else None
        if hook is None or not self._has_started:
            return None
        ended: asyncio.Future[BaseException | None] = self._loop.create_future()
        scope = Scope(lane.plugin, held=frozenset((lane.plugin,)))
        request = AnsweredRequest(
            hook.name, hook.function, (), hook.is_async, scope, lambda _, error: ended.set_result(error)
        )
        # First: a backlog of events could take longer than the host waits before it kills.
        lane.submit(request, seconds, is_first=True)
        error = await ended
        # `sys.exit` in the hook: the host and the log are given the SystemExit, not our wrapper.
        if isinstance(error, HookExit):
            error = error.raised
        if error is not None:
            write_failure(hook.name, error)
        return error

    def _end(self, code: int) -> None:
        if not self._exit.done():
            self._exit.set_result(code)

    async def _acknowledge(self, offset: str) -> None:
        await self._peer.call("ack_events", {"offset": offset})

    def _deadline(self, hook: str, kind: str) -> float:
        return (self._initialization or Initialization("")).deadline(hook, kind)


def _same(value: Any) -> Any:
    return value
