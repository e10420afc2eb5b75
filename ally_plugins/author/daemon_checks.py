"""What every daemon should keep to, in whatever language: checks that start its process and speak with it.

By hand over pipes, and not through a host: a host bears what is checked here, and goes on. Each check starts a process
of its own, raises `Broken` with what is wrong, and returns remarks that are no faults.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

from attrs import field, frozen

from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.process_spec import Daemon
from ally_plugins.contract.values.errors import AllyError
from ally_plugins.contract.values.inert import inert, shortened
from ally_plugins.policy.permissions import GrantSet
from ally_plugins.runtime.lanes.loading import check_declared, check_offered, check_required, required_hooks
from ally_plugins.runtime.processes.environment import child_environment
from ally_plugins.wire.answers import verdict_from_wire
from ally_plugins.wire.codes import CODES
from ally_plugins.wire.handshake import check_protocol
from ally_plugins.wire.methods import read_initialize_result
from ally_plugins.wire.samples import SAMPLES

from .findings import Broken
from .tool_schemas import check_schema

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["DAEMON_CHECKS", "DaemonCheck", "DaemonTrial"]

_PATIENCE: Final = 15.0  # seconds for an answer; a program that compiles itself at its start takes some of them
_GRACE: Final = 5.0  # seconds to end in: what `shutdown_grace` is by default
_SHOWN: Final = 200
_PERMISSION: Final = CODES["permission"]
_STRANGE: Final = ("{no json", "[]", "17", '"x"', "null", '{"jsonrpc":"2.0"}', '{"jsonrpc":"2.0","id":999,"result":1}')
_OF_TOPICS: Final[Mapping[str, Mapping[str, Any]]] = {
    "tool_call": {"call": SAMPLES["host"]["gate"].params["call"]},
    "permission": {"request": {"requestId": "r1", "toolName": "bash", "arguments": {"command": "ls"}}},
    "stop": {"stop": {"reason": "stop", "answer": "done"}},
    "message": {"message": {"role": "user", "content": "hello", "id": "m1"}},
    "user_message": {"message": {"role": "user", "content": "hello", "id": "m1"}},
    "answer": {"message": {"role": "assistant", "content": "hello", "id": "m2"}},
}


@frozen
class DaemonTrial:
    """What a check is given: the daemon, what its manifest declares, and the settings to run it with."""

    name: str
    daemon: Daemon
    manifest: Manifest
    settings: Mapping[str, Any] = field(factory=dict)

    @contextmanager
    def process(self) -> Generator[DaemonProcess]:
        """Start a process, and end it with everything that it started."""
        with tempfile.TemporaryDirectory(prefix="ally-check-") as folder, DaemonProcess(self, Path(folder)) as process:
            yield process

    @property
    def grants(self) -> list[str]:
        """All that it asks for, as it is told."""
        return sorted(grant.text for grant in self.manifest.grants)


class DaemonProcess:
    """One process of the daemon and the lines between it and us; a context manager."""

    def __init__(self, trial: DaemonTrial, folder: Path) -> None:
        self._trial = trial
        self._folder = folder
        self._ids = 0
        self._buffer = b""
        self._stderr: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed in `__exit__`
        self._process: subprocess.Popen[bytes] | None = None
        self.calls: list[dict[str, Any]] = []
        """The daemon's own requests, each of which was refused."""
        self.noise: list[str] = []
        """Lines on its standard output that are no message."""

    def __enter__(self) -> Self:
        daemon = self._trial.daemon
        granted = [grant.topic for grant in self._trial.manifest.grants if grant.kind == "env"]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the author's own program, which they had us check
                daemon.command,
                cwd=daemon.cwd or self._folder,
                env=child_environment(os.environ, granted, daemon.env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise Broken(f"{daemon.command[0]!r} cannot be run: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self.process
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
        process.wait()
        self._stderr.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process. Raises Broken before it was started."""
        if self._process is None:
            raise Broken("it was not started")
        return self._process

    def initialize(self) -> Any:
        """Do the handshake and return the answer. Raises Broken."""
        told = dict(SAMPLES["host"]["initialize"].params) | {
            "plugin": self._trial.name,
            "grants": self._trial.grants,
            "settings": {
                **{name: setting.default for name, setting in self._trial.manifest.settings.items()},
                **self._trial.settings,
            },
            "data_dir": str(self._folder),
        }
        answer = read_initialize_result(self.ask("initialize", told), self._trial.name)
        if any(hook.name == "ally_start" for hook in answer.hooks):
            self.ask("start", {})
        return answer

    def ask(self, method: str, params: Mapping[str, Any]) -> Any:
        """Send a request and return its result. Raises Broken for an error, or when no answer comes."""
        answer = self.answer_of(method, params)
        if "error" in answer:
            raise Broken(f"it answered {method} with the error {_shown(answer['error'])}")
        return answer.get("result")

    def answer_of(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return the whole answer. Raises Broken when none comes."""
        self._ids += 1
        number = self._ids
        self.write(_line({"id": number, "method": method, "params": params}))
        for message in self._messages(method):
            if "method" not in message and message.get("id") == number:
                return message
        raise Broken(f"it ended and never answered {method}{self._ending()}")

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a notification."""
        self.write(_line({"method": method, "params": params}))

    def write(self, line: str) -> None:
        """Send a line. Raises Broken when the daemon reads no more."""
        stdin = self.process.stdin
        try:
            if stdin is not None:
                stdin.write(line.encode() + b"\n")
                stdin.flush()
        except OSError:
            raise Broken(f"it reads no more{self._ending()}") from None

    def end_of_input(self) -> int:
        """Close its standard input and return its exit code. Raises Broken when it goes on."""
        with suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            return self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            text = f"it goes on {_GRACE:g} s after its standard input has ended; end when there is nothing more to read"
            raise Broken(text) from None

    def _messages(self, waits_for: str) -> Iterator[dict[str, Any]]:
        """Yield what the daemon sends until it ends; its calls are refused. Raises Broken after `_PATIENCE`."""
        for line in self._lines(waits_for):
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
                self.noise.append(line.decode("utf-8", "replace"))
                continue
            if "method" in message and "id" in message:
                self.calls.append(message)
                refusal = {"code": _PERMISSION, "message": "not granted", "data": {"reason": "permission"}}
                self.write(_line({"id": message["id"], "error": refusal}))
            yield message

    def _lines(self, waits_for: str) -> Iterator[bytes]:
        stdout = self.process.stdout
        deadline = time.monotonic() + _PATIENCE
        with selectors.DefaultSelector() as waiting:
            waiting.register(stdout or 0, selectors.EVENT_READ)
            while True:
                while b"\n" in self._buffer:
                    line, _, self._buffer = self._buffer.partition(b"\n")
                    if line.strip():
                        yield line
                if not waiting.select(max(0.0, deadline - time.monotonic())):
                    raise Broken(f"it did not answer {waits_for} within {_PATIENCE:g} s{self._ending()}")
                data = os.read(stdout.fileno() if stdout is not None else 0, 65536)
                if not data:
                    return
                self._buffer += data

    def _ending(self) -> str:
        """Return how it ended, and what it wrote to its standard error last; empty when it said nothing and runs."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(0.2)
        code = self.process.returncode
        how = "" if code is None else f"; it ended with code {code}"
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        said = f"; its stderr ends: {shortened(inert(' / '.join(lines[-3:])), _SHOWN * 2)}" if lines else ""
        return how + said


DaemonCheck = Callable[[DaemonTrial], list[str]]


def _answers_the_handshake(trial: DaemonTrial) -> list[str]:
    """Check that it takes the protocol's version, and offers what its manifest declares and no more."""
    with trial.process() as process:
        result = process.initialize()
    check_protocol(result.protocol)
    hooks = [hook.name for hook in result.hooks]
    requested = GrantSet(trial.manifest.grants)
    for hook in hooks:
        if hook in HOOKS:
            check_declared(trial.name, HOOKS[hook], trial.manifest)
    check_required(trial.name, required_hooks(requested, requested), hooks, "answer")
    check_offered(trial.name, "tool", result.tools, trial.manifest)
    check_offered(trial.name, "action", result.actions, trial.manifest)
    for offer in (*result.tools, *result.actions):
        if offer.schema is not None:
            check_schema(offer.name, offer.schema)
    remarks = [f"{offer.name!r} has no description" for offer in result.tools if not offer.description]
    if result.name not in (None, trial.name):
        remarks.append(f"it calls itself {result.name!r}, and the host calls it {trial.name!r}")
    return remarks


def _answers_ping(trial: DaemonTrial) -> list[str]:
    """Check that it answers `ping`, three times: a host ends what does not."""
    with trial.process() as process:
        process.initialize()
        for _ in range(3):
            process.ask("ping", {})
    return []


def _keeps_its_output_clean(trial: DaemonTrial) -> list[str]:
    """Check that nothing but messages is on its standard output: what it prints would be taken for one."""
    with trial.process() as process:
        result = process.initialize()
        _use(process, result, trial)
        process.ask("ping", {})
        if process.noise:
            text = f"its standard output has a line that is no message: {_shown(process.noise[0])}"
            raise Broken(f"{text}; write it to standard error")
    return []


def _answers_gates(trial: DaemonTrial) -> list[str]:
    """Check that each gate that it names gives a clear answer: anything else denies."""
    with trial.process() as process:
        result = process.initialize()
        for hook in result.hooks:
            info = HOOKS.get(hook.name)
            if info is None or info.kind != "gate" or info.topic not in _OF_TOPICS:
                continue
            about = {**SAMPLES["host"]["gate"].params, "on": info.topic}
            about.pop("call")
            answer = process.ask("gate", {**about, **_OF_TOPICS[str(info.topic)]})
            try:
                verdict_from_wire(answer)
            except AllyError as error:
                raise Broken(f"its gate of {info.topic!r} gave no clear answer: {error}") from error
    return []


def _survives_what_it_does_not_know(trial: DaemonTrial) -> list[str]:
    """Check that it goes on after lines that are no message, methods, events and params that it does not know."""
    with trial.process() as process:
        process.initialize()
        for line in _STRANGE:
            process.write(line)
        process.notify("of_tomorrow", {"x": [None]})
        answer = process.answer_of("method_of_tomorrow", {"x": 1})
        event = {**SAMPLES["host"]["on_event"].params, "event_type": "OF_TOMORROW", "event_data": {}, "new": True}
        process.notify("on_event", event)
        process.ask("ping", {})
    return [] if "error" in answer else ["it answers a method that it does not know with a result; expected an error"]


def _survives_refusal(trial: DaemonTrial) -> list[str]:
    """Check that it goes on when every call of its own is refused."""
    with trial.process() as process:
        result = process.initialize()
        for _ in range(6):
            _use(process, result, trial)
        process.ask("ping", {})
    return []


def _ends_with_its_input(trial: DaemonTrial) -> list[str]:
    """Check that it ends when it is told to and its standard input ends: what does not is killed."""
    with trial.process() as process:
        process.initialize()
        process.answer_of("shutdown", {"reason": "the host is closing"})
        code = process.end_of_input()
    with trial.process() as process:
        process.initialize()
        process.end_of_input()  # of a host that was killed nothing is told before
    return [] if code == 0 else [f"it ended with code {code} after shutdown; expected 0"]


def _use(process: DaemonProcess, result: Any, trial: DaemonTrial) -> None:
    """Send it an event that it is granted, and wait until it has handled it."""
    if trial.manifest.subscribe:
        event = dict(SAMPLES["host"]["on_event"].params)
        process.notify("on_event", event)
    process.answer_of("drain", {})
    for offer in result.tools:
        if not (offer.schema or {}).get("required"):
            about = {"arguments": {}, "session_id": "s1", "cause": "c8", "origin": [], "timeout": 10.0}
            process.answer_of("call_tool", {"name": offer.name, **about})


def _line(message: Mapping[str, Any]) -> str:
    # Without blanks and the id first, as a host writes it.
    return json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":"))


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return repr(shortened(inert(text), _SHOWN))


DAEMON_CHECKS: Final[Mapping[str, DaemonCheck]] = {
    "answers the handshake": _answers_the_handshake,
    "answers ping": _answers_ping,
    "keeps its output clean": _keeps_its_output_clean,
    "answers its gates": _answers_gates,
    "survives what it does not know": _survives_what_it_does_not_know,
    "survives being refused": _survives_refusal,
    "ends with its input": _ends_with_its_input,
}
"""Every check by its name; `pytest.mark.parametrize("check", DAEMON_CHECKS)` makes a test of each."""
