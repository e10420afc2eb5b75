"""The host's way to one running daemon, whatever its transport; made anew for each process of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import frozen

from ally_plugins.contract.values.errors import PluginError

from .requests import Answer

if TYPE_CHECKING:
    import asyncio

    from ally_plugins.contract.values.events import Event

__all__ = [
    "BROKE_PROTOCOL",
    "DaemonError",
    "DaemonGone",
    "Link",
    "NonsenseAnswer",
    "NotRunning",
    "NotSent",
    "PendingAnswer",
    "RemoteCrash",
    "RemoteHook",
    "call_when_done",
]


BROKE_PROTOCOL: Final = "broke the protocol"
"""How the reason begins when the host itself ended a connection: how the process then ends says less than that."""


class DaemonError(PluginError):
    """What went wrong with a daemon, in a whole sentence of ours; its class says nothing more to people."""


class DaemonGone(DaemonError):
    """The daemon's process ended, or its connection broke, before it answered. The supervisor counts that, once."""


class NotRunning(DaemonGone):
    """The process that a session's hooks go to does not run, though others of the plugin may."""


class RemoteCrash(DaemonError):
    """Something of a daemon's failed; its traceback is in the daemon's own log, and stays there."""


class NotSent(DaemonError):
    """The request was never sent: JSON cannot represent its params, or they are larger than the daemon takes.

    That is nobody's crash, and least of all the daemon's.
    """


class NonsenseAnswer(DaemonError):
    """A gate of a daemon's answered what is no verdict."""


class PendingAnswer(Answer):
    """The future of a request to a daemon; cancelling it cancels the request there."""

    def __init__(self, take_back: Callable[[PendingAnswer], None]) -> None:
        super().__init__(take_back)
        self.number = 0
        """The request's id on the wire; 0 while it has not been sent."""
        self.on_progress: Callable[[Any], None] | None = None
        """Called with each `$/progress` of the request, until it is answered."""


def call_when_done(future: asyncio.Future[Any], function: Callable[[asyncio.Future[Any]], None]) -> None:
    """Call a function with a request's future once it is done.

    An `Answer` calls it at once; any other future in the loop's next turn.
    """
    if isinstance(future, Answer) and not future.done():
        future.on_done = function
    else:
        future.add_done_callback(function)


class Link(Protocol):
    """A connection to a daemon, or the way to make one for each message."""

    takes_lines: bool
    """Whether it takes ready lines (`write`), which all daemons share; if not, events (`write_events`)."""

    @property
    def can_write(self) -> bool:
        """Whether more events may be given to it; false while the daemon does not read."""
        ...

    def request(self, method: str, params: Mapping[str, Any]) -> asyncio.Future[Any]:
        """Send a request; the future gets the result, or the exception that the daemon's error stands for.

        Cancelling the future cancels the request in the daemon.
        """
        ...

    def write(self, lines: bytes) -> None:
        """Send ready lines."""

    def write_events(self, events: Sequence[Event]) -> None:
        """Send events."""

    def close(self, reason: str = "was closed") -> None:
        """Let go of the connection; what is not answered gets DaemonGone with the reason."""


@frozen
class RemoteHook:
    """A gate, transform or lifecycle hook of a daemon: how a call becomes a request, and what the answer means."""

    method: str
    params: Callable[[tuple[Any, ...]], dict[str, Any]]
    """Makes the request's own params of the hook's arguments, in the order of its specification."""
    read: Callable[[tuple[Any, ...], Any], Any]
    """Makes the hook's result of the arguments and the daemon's answer. Raises PluginError for nonsense."""

    def __call__(self, *_: Any) -> Any:
        """Refuse to be called: the hook lives in another process, and its lane asks for it."""
        raise RuntimeError(f"{self.method} is answered by a daemon; only its lane asks for it")
