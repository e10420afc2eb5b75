"""The instance of a shared plugin that gets the events of all homes: the worker is its host, and takes no calls.

A host has an instance of its own, with what it has granted. This one belongs to no host: there is no session that it
could add a message to, and nobody who would have granted it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ally_plugins import __version__
from ally_plugins.contract.manifest import HOST_API
from ally_plugins.contract.values.errors import AllyError, RefusedError, UnavailableRefused
from ally_plugins.contract.values.inert import inert
from ally_plugins.contract.values.masking import Secret, Secrets
from ally_plugins.contract.wording import describe
from ally_plugins.host.daemons.calls import LONGEST_LOG, REQUESTS
from ally_plugins.host.daemons.stream_link import StreamLink
from ally_plugins.policy.restart import CrashCounter
from ally_plugins.runtime.lanes.plugin import DEADLINES
from ally_plugins.wire.codes import write_error
from ally_plugins.wire.daemon_params import AckEvents, Log, ReportCrash
from ally_plugins.wire.eventlines import event_lines, with_offset
from ally_plugins.wire.handshake import PROTOCOL, PROTOCOLS, check_protocol
from ally_plugins.wire.host_params import HostInfo, InitializeParams
from ally_plugins.wire.limits import DEFAULT_LIMITS
from ally_plugins.wire.methods import read_initialize_result, read_params, write_params

if TYPE_CHECKING:
    import socket

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.wire.messages import Notification, Request

__all__ = ["EventInstance", "InstanceHung", "InstanceLost"]

_log: Final = logging.getLogger(__name__)

WINDOW: Final = 64
"""Events that an instance has before it at most: as many as its lane delivers at a time."""

LEEWAY_S: Final = 10.0
"""Seconds beyond the deadline of a hook after which an instance that has not ended it is given up."""

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class InstanceLost(AllyError):
    """The instance is gone, or does nothing more; what it has not acknowledged comes again."""


class InstanceHung(InstanceLost):
    """The instance does nothing more, though its process runs: that is to be ended."""


class EventInstance:
    """One instance, from `start` until `close` or until its process ends."""

    def __init__(self, record: PluginRecord, data_dir: str | None) -> None:
        self.record: Final = record
        self.is_crashing = False
        """Whether its hooks have failed so often that it is given no more events until `forgive`."""
        self._data_dir: Final = data_dir
        self._secrets: Final = Secrets.of_settings(record.settings)
        self._deadlines: Final = {**DEADLINES, **record.config.deadlines}
        self._crashes: Final = CrashCounter()
        self._window = WINDOW
        self._sent = 0
        self._done = 0
        self._lost = ""
        self._changed: Final = asyncio.Event()
        self._link: Final = StreamLink(
            record.name,
            DEFAULT_LIMITS,
            methods=REQUESTS,
            on_request=self._answer,
            on_notice=self._note,
            on_lost=self._lose,
            way_to=lambda _: "",
        )

    async def start(self, sock: socket.socket) -> None:
        """Build it at the other end of the socket, and run its `ally_start`. Raises InstanceLost."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self._link, sock=sock)
        limit = self._deadlines["start"]
        try:
            async with asyncio.timeout(limit):
                answer = await self._link.request("initialize", self._params())
                result = read_initialize_result(answer, self.record.name)
                check_protocol(result.protocol)
                self._link.is_strict = False
                self._link.is_initialized = True
                self._link.resume()
                if any(hook.name == "ally_start" for hook in result.hooks):
                    await self._link.request("start", {})
        except TimeoutError:
            raise InstanceHung(f"it did not start within {limit:g} s") from None
        except AllyError as error:
            raise InstanceLost(f"it could not start: {self._secrets.masked(str(error))}") from error

    async def deliver(self, events: Sequence[bytes]) -> int:
        """Give it events until its hooks have ended for all, or it `is_crashing`; return for how many they have ended.

        Raises InstanceLost where that does not come. Cancelling leaves it at work on them: close it.
        """
        before = self._done
        waiting = deque(events)
        limit = max(self._deadlines.values()) + LEEWAY_S
        while True:
            if not (self.is_crashing or self._lost):
                self._send(waiting)
            if self._done == self._sent and (self.is_crashing or not waiting):
                self._window = self._window if self.is_crashing else WINDOW
                return self._done - before
            if self._lost:
                raise InstanceLost(f"its process {self._lost}")
            self._changed.clear()
            try:
                # Anew after each acknowledgement: every event has a deadline of its own.
                async with asyncio.timeout(limit):
                    await self._changed.wait()
            except TimeoutError:
                raise InstanceHung(f"it has not ended a hook within {limit:g} s") from None

    def forgive(self) -> None:
        """Have it be given events again, one at a time to the end of what `deliver` is given next."""
        self.is_crashing = False
        self._crashes.reset()

    def close(self, reason: str) -> None:
        """End it. May be called again."""
        self._link.close(reason)

    def _send(self, waiting: deque[bytes]) -> None:
        """Send as many as there is room for, once half of what it has before it has ended."""
        room = self._window - (self._sent - self._done)
        if not waiting or 2 * room < self._window:
            return
        lines = []
        while waiting and room:
            self._sent += 1
            room -= 1
            lines.append(with_offset(waiting.popleft(), str(self._sent)))
        self._link.write(event_lines(lines))

    def _params(self) -> dict[str, Any]:
        settings = self.record.settings
        return write_params(
            InitializeParams(
                protocol=PROTOCOL,
                protocols=PROTOCOLS,
                plugin=self.record.name,
                host=HostInfo(name="ally-plugins fleet", version=__version__, api=HOST_API),
                settings=dict(settings),
                secrets=tuple(name for name, value in settings.items() if isinstance(value, Secret)),
                data_dir=self._data_dir,
                deadlines=self._deadlines,
                limits={"frame_bytes": DEFAULT_LIMITS.frame_bytes},
            )
        )

    # --- what the plugin says ---

    def _answer(self, link: StreamLink, request: Request) -> None:
        name = self.record.name
        try:
            if not self._link.is_initialized:
                raise UnavailableRefused("calls may be made once `initialize` has been answered", plugin=name)
            params = read_params(request.method, request.params, name)
            if not isinstance(params, AckEvents):
                text = f"{request.method!r} has no host here: {name!r} gets the events of many homes, and is in none"
                raise UnavailableRefused(text, plugin=name)
        except RefusedError as error:
            answer = write_error(error)
            link.fail(request.id, answer.code, answer.message, answer.data)
        else:
            if params.offset.isdecimal():
                self._done = max(self._done, min(int(params.offset[:18]), self._sent))
                self._changed.set()
            link.respond(request.id, None)

    def _note(self, _: StreamLink, notice: Notification) -> None:
        try:
            params = read_params(notice.method, notice.params, self.record.name)
        except (RefusedError, LookupError):
            return
        if isinstance(params, Log):
            logger = logging.getLogger(f"ally_plugins.plugin.{self.record.name}")
            text = self._secrets.masked(params.message, is_cut=len(params.message) >= LONGEST_LOG)
            logger.log(_LEVELS.get(params.level, logging.INFO), "%s", inert(text[:LONGEST_LOG]))
        elif isinstance(params, ReportCrash):
            self._note_crash(params)

    def _note_crash(self, crash: ReportCrash) -> None:
        name, what = self.record.name, describe(crash.error)
        _log.warning("%s: %s in %s; see `ally-plugins logs %s`", name, what, inert(crash.hook[:80]), name)
        self._window = 1  # a hook that fails always would else fail for all that it has before it
        self.is_crashing = self._crashes.crashed(time.monotonic()) or self.is_crashing

    def _lose(self, reason: str) -> None:
        self._lost = self._lost or reason
        self._changed.set()
