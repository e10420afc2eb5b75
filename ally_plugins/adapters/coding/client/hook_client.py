"""The program that a coding agent runs for each hook: hands the payload to the host, prints the host's answer.

It stands alone: it is copied out of the package, runs as `FILE AGENT EVENT` with `python -I -S`, and imports the
standard library only, of which it takes C modules where it can, since each hook pays for its start. Whatever goes wrong
(no host, a slow one, an answer that is none, a fault of its own), a guard event is closed in the agent's own way and an
observing one passes; `CLOSED` is that table, and the dialects use it too. `hook_client.c` does the same, compiled: what
is changed here is changed there.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # what is imported under it is never imported here; `typing` itself would be
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["CLOSED", "closed", "main"]

PASSES = ""
"""An observing event: the agent goes on."""

EXITS = "exit 2"
"""A guard event that exit code 2 closes; the reason stands on standard error."""

CLOSED: dict[str, dict[str, str]] = {
    "claude": {
        "SessionStart": PASSES,
        "SessionEnd": PASSES,
        "UserPromptSubmit": EXITS,
        "PreToolUse": EXITS,
        # Exit code 2 lets the raw output through; this ends the turn before the next request.
        "PostToolUse": '{"continue":false,"stopReason":%s}',
        # Nothing closes it: the output stands, and PostToolBatch, which follows, ends the turn.
        "PostToolUseFailure": EXITS,
        "PostToolBatch": EXITS,
        "PermissionRequest": (
            '{"hookSpecificOutput":{"hookEventName":"PermissionRequest","decision":{"behavior":"deny","message":%s}}}'
        ),
        "Stop": PASSES,
        "SubagentStart": PASSES,
        "SubagentStop": PASSES,
        "PreCompact": PASSES,
        "PostCompact": PASSES,
    },
    "codex": {
        "SessionStart": PASSES,
        "SessionEnd": PASSES,
        "UserPromptSubmit": EXITS,
        "PreToolUse": EXITS,
        "PostToolUse": EXITS,
        "Stop": PASSES,
        "SubagentStart": PASSES,
        "SubagentStop": PASSES,
        "PreCompact": PASSES,
        "PostCompact": PASSES,
    },
    "gemini": {
        "SessionStart": PASSES,
        "SessionEnd": PASSES,
        "BeforeAgent": EXITS,
        "BeforeTool": EXITS,
        "AfterTool": EXITS,
        "AfterAgent": PASSES,
    },
    "copilot": {
        "sessionStart": PASSES,
        "sessionEnd": PASSES,
        # Exit code 2 lets prompts and outputs through, and loses the reason elsewhere.
        "userPromptSubmitted": '{"decision":"block","reason":%s}',
        "preToolUse": '{"permissionDecision":"deny","permissionDecisionReason":%s}',
        "postToolUse": '{"decision":"block","reason":%s}',
        "postToolUseFailure": PASSES,
        "permissionRequest": '{"behavior":"deny","message":%s}',
        "agentStop": PASSES,
        "subagentStart": PASSES,
        "subagentStop": PASSES,
    },
    # These two have our code in their process, which does what is printed, and closes by itself without an answer.
    "opencode": {
        "event.session.created": PASSES,
        "chat.message": '{"throw":%s}',
        "tool.execute.before": '{"throw":%s}',
        "tool.execute.after": '{"output":%s}',
        "event.session.idle": PASSES,
    },
    "pi": {
        "session_start": PASSES,
        "session_shutdown": PASSES,
        "input": '{"return":{"action":"handled"},"notify":%s}',
        "tool_call": '{"return":{"block":true,"reason":%s}}',
        "tool_result": '{"return":{"content":[{"type":"text","text":%s}]}}',
        "agent_end": PASSES,
    },
    "goose": {
        "SessionStart": PASSES,
        "SessionEnd": PASSES,
        # Nothing holds a prompt, and no output is in a hook.
        "UserPromptSubmit": PASSES,
        "PreToolUse": EXITS,
        "PostToolUse": PASSES,
        "PostToolUseFailure": PASSES,
        "Stop": PASSES,
    },
}
"""What an agent takes for a no, by its name and the event's: `PASSES`, `EXITS`, or an answer, the reason at `%s`."""


def closed(agent: str, event: str, reason: str) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error that close a guard event, or let an observing one pass.

    An event that is not known is closed as most agents take it.
    """
    way = CLOSED.get(agent, {}).get(event, EXITS)
    if way == PASSES:
        return 0, "", ""
    if way == EXITS:
        return 2, "", reason
    return 0, way.replace("%s", _quoted(reason)), ""


def _quoted(text: str) -> str:
    from _json import encode_basestring_ascii  # of `json`, without the 5 ms that importing it takes

    return encode_basestring_ascii(text)


# --- the program ---

SECONDS = 50.0
"""Within which a hook is answered: below the 60 s that our hook entries give each command, after which agents go on."""

HOST_SECONDS = 45.0
"""What the host is given of these; the rest is for starting Python and printing."""

MAX_BYTES = 16 * 1024 * 1024
"""The longest payload that is sent on, and the longest answer that is taken."""

MAGIC = b"ally1"
SOCKET = "coding.sock"
STARTER = "serve"
"""Beside this file: the command that starts the host, an argument a line."""

LOG = "serve.log"
POLL = 0.02
"""Seconds between two looks at whether a host that was started listens."""

KEPT = ("HOME", "USER", "LOGNAME", "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "XDG_RUNTIME_DIR")
"""What the host gets of the agent's environment, which holds the agent's keys."""


LATE = f"no answer came within {SECONDS:g} s"
TOO_LONG = f"the payload has more than {MAX_BYTES:,} bytes"
SILENT = "the host gave no answer"
NONSENSE = "the host answered nonsense"
FOREIGN = "another user listens in the place of the host"
UNSTARTED = "the host did not start in time; see what it says: ally-plugins serve"
GONE = "it is not installed any more where it was; install it and connect the agent again, or run: "
MISSING = "No module named ally_plugins"
"""What a Python says last that is still there when the package is not."""


class _NoAnswerError(Exception):
    """Why there is no answer, in a sentence for the person and the model."""


def main() -> None:
    """Answer one hook and end the process: `FILE AGENT EVENT`, with the payload on standard input.

    `FILE disconnect AGENT` takes the hooks out where the package is gone.
    """
    agent, event = (*sys.argv[1:], "", "")[:2]
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _exit(2)  # what is opened next would be taken for it

    def close(reason: str) -> None:
        code, out, err = closed(agent, event, f"ally-plugins: {reason}")
        _end(code, out.encode(), err.encode("utf-8", "replace"))

    if agent == "disconnect":
        sys.exit(disconnect(" ".join(sys.argv[2:])))
    if len(sys.argv) != 3:  # noqa: PLR2004 - its own name, an agent, an event
        close("expected an agent and an event")
    try:
        _watch(close)
        code, out, err = _ask(agent, event, _read_all())
    except _NoAnswerError as error:
        close(str(error))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the answer is what closes
        close(f"the hook failed: {type(error).__name__}: {error}")
    else:
        _end(code, out, err)


_ending: list[bool] = []
"""Not empty once the answer is being printed."""


def _watch(close: Callable[[str], None]) -> None:
    """Close the event when the time is over, wherever the program is then."""
    import _signal  # type: ignore[import-not-found] # of `signal`, without the enumerations

    def too_late(*_: object) -> None:
        if _ending:
            _exit(2)  # the agent does not take the answer
        close(LATE)

    _signal.signal(_signal.SIGALRM, too_late)
    # Ignored by the agent, it would hide how a host ended that was started.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    _signal.setitimer(_signal.ITIMER_REAL, SECONDS)
    # An agent may have it blocked, which its hooks inherit.
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGALRM,))


def _end(code: int, out: bytes, err: bytes) -> None:
    import posix

    _ending.append(True)
    try:
        for descriptor, text in ((2, err), (1, out)):
            done = 0
            while done < len(text):
                done += posix.write(descriptor, text[done:])
    except OSError:
        code = 2  # half an answer is none
    _exit(code)


def _exit(code: int) -> None:
    import posix

    posix._exit(code)  # noqa: SLF001 - nothing of ours is to be cleaned up, and nothing may keep it


def _read_all() -> bytes:
    import posix

    found, size = [], 0
    while part := posix.read(0, 1 << 20):
        found.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise _NoAnswerError(TOO_LONG)
    return b"".join(found)


def _ask(agent: str, event: str, payload: bytes) -> tuple[int, bytes, bytes]:
    """Return what the host answers. Raises _NoAnswerError, and OSError where it is gone amid the answer."""
    import time

    end = time.monotonic() + HOST_SECONDS
    here = sys.argv[0].rpartition("/")[0] or "."
    connection = _connect(f"{here}/../run", here, end)
    left = max(1, int((end - time.monotonic()) * 1000))
    head = f"{agent} {event} {len(payload)} {left}\n".encode()
    connection.settimeout(left / 1000 + 1)
    connection.sendall(MAGIC + b" " + head + payload)
    parts, size = [], 0
    while part := connection.recv(1 << 20):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise _NoAnswerError(NONSENSE)
    return _read_answer(b"".join(parts))


def _read_answer(data: bytes) -> tuple[int, bytes, bytes]:
    """Return the host's answer: `ally1 CODE BYTES BYTES`, a line feed, standard output and standard error."""
    head, line_end, body = data.partition(b"\n")
    fields = head.split(b" ")
    numbers = [int(each) for each in fields[1:] if each.isdigit() and len(each) < 10]  # noqa: PLR2004 - digits
    if not line_end or fields[0] != MAGIC or len(fields) != 4 or len(numbers) != 3:  # noqa: PLR2004 - as written above
        raise _NoAnswerError(NONSENSE if data else SILENT)
    code, out, err = numbers
    # No other code means the same to all agents.
    if code not in (0, 2) or len(body) != out + err:
        raise _NoAnswerError(NONSENSE)
    return code, body[:out], body[out:]


def _connect(run: str, here: str, end: float) -> Any:
    """Return a connection to the host, which is started where there is none. Raises _NoAnswerError."""
    import _socket
    import posix
    import time

    try:
        posix.chdir(run)  # a path may be longer than a socket's address can be
    except OSError:
        raise _NoAnswerError(f"its folder {run!r} is gone; disconnect the agent, or connect it anew") from None
    child = 0
    while True:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        connection.settimeout(max(0.1, end - time.monotonic()))
        try:
            connection.connect(SOCKET)
        except BlockingIOError:
            connection.close()  # so many hooks wait that there is no room for another one
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            child = child or _start(here)
        else:
            if not _is_own(connection):
                raise _NoAnswerError(FOREIGN)
            return connection
        if time.monotonic() > end:
            raise _NoAnswerError(UNSTARTED)
        ended, status = posix.waitpid(child, posix.WNOHANG) if child > 0 else (0, 0)
        if ended:
            # Another hook's host may have been first, which ends ours with 0.
            child = -1
            if status:
                words = _last_words()
                raise _NoAnswerError(_way_out() if words.endswith(MISSING) else f"the host cannot be started: {words}")
        time.sleep(POLL)


def _way_out() -> str:
    return f"{GONE}{sys.argv[0]} disconnect {sys.argv[1]}"


def _last_words() -> str:
    """Return the last line of what a host has written that did not start."""
    import posix

    try:
        descriptor = posix.open(LOG, posix.O_RDONLY)
        posix.lseek(descriptor, max(0, posix.fstat(descriptor).st_size - 400), 0)
        words = posix.read(descriptor, 400).decode("utf-8", "replace").strip().rpartition("\n")[2]
    except OSError:
        words = ""
    return words or "it says nothing"


def _is_own(connection: Any) -> bool:
    """Say whether a process of this user listens; where the system does not report it, the private folder counts."""
    import _socket
    import posix

    if not hasattr(_socket, "SO_PEERCRED"):
        return True
    found = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    return int.from_bytes(found[4:8], sys.byteorder) == posix.geteuid()


def _start(here: str) -> int:
    """Start the host in a session of its own, and return its process id. Raises _NoAnswerError."""
    import posix

    try:
        descriptor = posix.open(f"{here}/{STARTER}", posix.O_RDONLY)
        command = posix.read(descriptor, 1 << 16).decode().rstrip("\n").split("\n")
        posix.close(descriptor)
        posix.stat(command[0])
    except (OSError, ValueError):
        raise _NoAnswerError(_way_out()) from None
    kept = {name.encode(): value for name in KEPT if (value := posix.environ.get(name.encode())) is not None}
    child = posix.fork()
    if child:
        return child
    try:
        posix.setsid()  # the agent may end its hooks with all that is in their group
        nowhere = posix.open("/dev/null", posix.O_RDWR)
        log = posix.open(LOG, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_NOFOLLOW, 0o600)
        for number, descriptor in enumerate((nowhere, nowhere, log)):
            posix.dup2(descriptor, number)
        posix.closerange(3, 256)  # what the agent has left open would stay so for as long as the host runs
        posix.execve(command[0], command, kept)
    finally:
        _exit(3)  # never back into the hook, of which this is a copy


# --- without the package ---

RECORD = "connected.json"
"""In the home: what stood in an agent's settings before us (`before`, null for no file), and the digest of ours."""


def disconnect(name: str) -> str | None:
    """Put an agent's settings back to what they were, to the byte; return why that cannot be done, None when it was.

    What somebody has changed since is left alone, and who runs it is told what to take out.
    """
    import hashlib
    import json
    import os

    here = os.path.dirname(os.path.abspath(sys.argv[0]))  # noqa: PTH100, PTH120 - pathlib is slow to import
    home = os.path.dirname(here)  # noqa: PTH120 - as above
    if agent := _agent_above(f"{home}/run/agents"):
        return f"this was started by {agent}, and an agent takes no hooks out; run it in a terminal outside the agent"
    path = os.path.join(home, RECORD)  # noqa: PTH118 - as above
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - as above
            records = json.load(file)
        if name not in records:
            return f"{name!r} is not connected; expected one of: {', '.join(records) or 'none is'}"
        for each in (name, f"{name} tools"):  # its hooks, and the server of plugins' tools
            known = records.pop(each, None)
            if known is None:
                continue
            with open(known["file"], "rb") as file:  # noqa: PTH123
                now = file.read()
            if hashlib.sha256(now).hexdigest() != known["after"]:
                ours = f"the entries out that name {here}/hook" if each == name else "the server 'ally' out"
                return f"{known['file']} was changed since; take {ours}"
            if known["before"] is None:
                os.unlink(known["file"])  # noqa: PTH108
            else:
                _replace(known["file"], known["before"].encode())
            _replace(path, json.dumps(records, indent=1).encode())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        return f"the hooks of {name} cannot be taken out: {type(error).__name__}: {error}"
    return None


def _agent_above(folder: str) -> str | None:
    """Return the agent below which this runs, by the names of files that the host keeps of them; None for a person."""
    import os

    try:
        names = os.listdir(folder)  # noqa: PTH208 - as above
    except FileNotFoundError:
        return None
    pid = os.getpid()
    while pid > 0:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return None
        # The file's name is AGENT.PID.START.BOOT.NAMESPACE; the start is field 22 of what /proc says, the parent 4.
        for name in names:
            if name.split(".")[1:3] == [str(pid), fields[19]]:
                return f"{name.partition('.')[0]} (process {pid})"
        pid = int(fields[1])
    return None


def _replace(path: str, content: bytes) -> None:
    import os

    target = os.path.realpath(path)  # a link stays one
    temporary = f"{target}.{os.getpid()}.tmp"
    mode = os.stat(target).st_mode & 0o777  # noqa: PTH116 - as above
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123
        file.write(content)
    os.replace(temporary, target)  # noqa: PTH105


if __name__ == "__main__":
    main()
