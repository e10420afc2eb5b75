"""SWE-agent trajectories: one JSON object with the arrays `trajectory` and `history`, and `info`, in any order.

Two kinds. Where the `history` has messages with `tool_calls` (function calling), it is replayed: calls have names and
arguments of their own. Otherwise the `trajectory` is: each element is a thought, a command as text, and what came back.
A text command becomes a call of the tool that its first word names, where that is one of SWE-agent's own commands, and
of `bash` otherwise, with the argument `command`. A file with neither is replayed from its history alone.

The format records no times: the clock starts at `START_MS` and each answer and each result takes `TICK_MS`. It records
no token counts a call either, so there is no `Usage`; and no exit codes: a result counts as failed only where SWE-agent
itself refused the command.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import orjson
from attrs import define, field

from ally_plugins.contract.tools.common_names import common_name

from .clock import TimestampClock
from .content import Notes, flatten, text_of
from .json_lines import decode_record
from .json_scanner import iterate_members
from .steps import (
    MAX_NAME,
    AssistantReplied,
    BrokenLine,
    DiffMade,
    ModelRequested,
    ModelResponded,
    PersonMessage,
    SessionEnded,
    SessionStarted,
    Skipped,
    Thought,
    ToolCalled,
    ToolReturned,
)
from .tool_effects import derive_diff

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .json_scanner import JsonMember
    from .steps import Step

__all__ = ["START_MS", "TICK_MS", "read_trajectory"]

# 2024-01-01T00:00:00Z: any fixed moment does, as long as a replay of one file is the same every time.
START_MS: Final = 1_704_067_200_000
# A second each: slow enough that budgets by the minute do not refuse what a live session would have been allowed.
TICK_MS: Final = 1_000

# The commands of SWE-agent's own tools; everything else is a line for the shell.
_COMMANDS: Final = frozenset({
    "append", "create", "edit", "exit_cost", "exit_error", "exit_forfeit", "filemap", "find_file", "goto", "insert",
    "open", "scroll_down", "scroll_up", "search_dir", "search_file", "str_replace_editor", "submit", "undo_edit",
    "view_image",
})  # fmt: skip
_REFUSALS: Final = (
    "Your proposed edit has introduced new syntax error",
    "Your edit was not applied",
    "Your command was blocked",
    "EXECUTION TIMED OUT",
    "COMMAND TIMED OUT",
    "The command '",
    "Operation '",
)
# What comes before the first answer: the task, and perhaps a hint or two.
_MAX_PROMPTS: Final = 16
# The last lines of an observation in the history say what the line editor has open.
_OBSERVED: Final = 2048
_OPEN_FILE: Final = re.compile(r"\(Open file: (.+)\)\n\(Current directory:")


def read_trajectory(file: BinaryIO) -> Iterator[Step]:
    """Yield the steps of a trajectory, without safe points; `file` must be seekable, since it is read twice.

    `BrokenLine.number` counts the elements of the replayed array, from 1. Never raises for what the file holds.
    """
    file.seek(0)
    survey = _survey(file)
    file.seek(0)
    reader = _Trajectory(survey)
    yield SessionStarted(START_MS)
    yield from reader.begin()
    for member in iterate_members(file):
        yield from reader.receive_member(member)
    yield SessionEnded(reader.clock.now, survey.exit_status or "end_of_recording")


@define
class _Survey:
    """What the first pass finds: which array to replay, and what is needed from outside of it."""

    has_tool_calls: bool = False
    has_trajectory: bool = False
    is_answered: bool = False
    prompts: list[str] = field(factory=list)
    exit_status: str = ""

    @property
    def array(self) -> str:
        return "trajectory" if self.has_trajectory and not self.has_tool_calls else "history"

    def receive_member(self, member: JsonMember) -> None:
        if member.key == "trajectory" and member.element is not None:
            self.has_trajectory = True
        elif member.key == "history" and not self.has_tool_calls:
            entry = _decoded(member)
            if type(entry) is dict:
                self._receive_entry(entry)
        elif member.key == "info":
            info = _decoded(member)
            if type(info) is dict:
                self.exit_status = text_of(info, "exit_status")

    def _receive_entry(self, entry: dict[str, Any]) -> None:
        role = entry.get("role")
        if role == "assistant":
            self.is_answered = self.is_answered or not entry.get("is_demo")
            self.has_tool_calls = bool(entry.get("tool_calls")) and not entry.get("is_demo")
        elif role == "user" and not (self.is_answered or entry.get("is_demo") or len(self.prompts) >= _MAX_PROMPTS):
            self.prompts.append(flatten(entry.get("content"), Notes()))


def _survey(file: BinaryIO) -> _Survey:
    survey = _Survey()
    for member in iterate_members(file):
        survey.receive_member(member)
    return survey


@define
class _Trajectory:
    """State between elements. Lives as long as one reading of a file."""

    survey: _Survey
    clock: TimestampClock = field(factory=lambda: TimestampClock(START_MS))
    notes: Notes = field(factory=Notes)
    open_file: str = ""
    open_calls: list[str] = field(factory=list)
    commands: int = 0

    def begin(self) -> Iterator[Step]:
        """Yield the task, which a text trajectory has only in its history."""
        if self.survey.array == "trajectory":
            for prompt in self.survey.prompts:
                yield PersonMessage(self.clock.now, prompt)

    def receive_member(self, member: JsonMember) -> Iterator[Step]:
        """Yield the steps of an element of the replayed array; the other array holds the same session once more."""
        if member.key != self.survey.array:
            # That the file is cut is reported, whichever of its values it ends in.
            if member.is_cut:
                yield BrokenLine(self.clock.now, (member.element or 0) + 1, f"the file ends inside {member.key!r}")
            return
        number = (member.element or 0) + 1
        entry = "the file ends inside it" if member.is_cut else _decoded(member)
        if type(entry) is not dict:
            yield BrokenLine(self.clock.now, number, f"{member.key} element: {entry}")
            return
        self.notes = Notes()
        yield from self._element(entry) if member.key == "trajectory" else self._entry(entry)
        for kind in self.notes.placeholders:
            yield Skipped(self.clock.now, f"block:{kind}")
        if self.notes.problem is not None:
            yield BrokenLine(self.clock.now, number, f"{member.key} element: {self.notes.problem}")

    # -- text actions

    def _element(self, element: dict[str, Any]) -> Iterator[Step]:
        thought, response = self._text(element, "thought"), self._text(element, "response")
        yield from self._answer(thought, response or thought)
        action = self._text(element, "action").rstrip("\n")
        if action.strip():
            self.commands += 1
            call_id = f"action-{self.commands}"
            tool_name = _tool_of(action)
            yield from self._call(call_id, tool_name, {"command": action})
            yield self._result(call_id, flatten(element.get("observation"), self.notes))
        self._remember_open_file(element.get("state"))

    def _remember_open_file(self, state: Any) -> None:
        """Keep the file that the line editor has open: the state after this command holds for the next one."""
        if type(state) is str:
            try:
                state = orjson.loads(state)
            except orjson.JSONDecodeError:
                return
        if type(state) is dict:
            name = text_of(state, "open_file")
            self.open_file = "" if name == "n/a" else name

    def _remember_observed_file(self, output: str) -> None:
        if (found := _OPEN_FILE.search(output[-_OBSERVED:])) is not None:
            self.open_file = "" if found[1] == "n/a" else found[1]

    # -- function calling

    def _entry(self, entry: dict[str, Any]) -> Iterator[Step]:
        role, name = entry.get("role"), self._role_name(entry)
        if name:
            yield Skipped(self.clock.now, name)
        elif role == "assistant":
            content = flatten(entry.get("content"), self.notes)
            yield from self._answer(_thinking(entry) or self._text(entry, "thought"), content)
            yield from self._calls(entry)
        elif role == "tool":
            yield from self._results(entry)
        elif self.open_calls:
            yield from self._observation(flatten(entry.get("content"), self.notes))
        else:
            yield PersonMessage(self.clock.now, flatten(entry.get("content"), self.notes))

    def _role_name(self, entry: dict[str, Any]) -> str:
        """Return what an entry without an event is counted under, or the empty string."""
        role = entry.get("role")
        if entry.get("is_demo"):
            return "demonstration"
        if type(role) is not str:
            self.notes.wrong("role", role, "a text")
            return "unknown"
        return "" if role in {"assistant", "tool", "user"} else role[:MAX_NAME]

    def _calls(self, entry: dict[str, Any]) -> Iterator[Step]:
        calls = entry.get("tool_calls")
        if calls is not None and type(calls) is not list:
            self.notes.wrong("tool_calls", calls, "a list")
        # An answer comes when all results are in: those that are left have none.
        self.open_calls.clear()
        for call in calls if type(calls) is list else ():
            yield from self._function_call(call)
        action = self._text(entry, "action").rstrip("\n")
        if not calls and action.strip():
            self.commands += 1
            call_id = f"action-{self.commands}"
            self.open_calls.append(call_id)
            yield from self._call(call_id, _tool_of(action), {"command": action})

    def _function_call(self, call: Any) -> Iterator[Step]:
        function = call.get("function") if type(call) is dict else None
        if type(function) is not dict:
            self.notes.wrong("a tool call", call, "an object with a function")
            return
        tool_name, call_id = text_of(function, "name"), text_of(call, "id")
        if not tool_name:
            self.notes.wrong("a function's name", function.get("name"), "a text that is not empty")
            return
        if not call_id:
            self.commands += 1
            call_id = f"action-{self.commands}"
        self.open_calls.append(call_id)
        yield from self._call(call_id, tool_name, self._arguments(function.get("arguments")))

    def _arguments(self, arguments: Any) -> dict[str, Any]:
        """Return a function's arguments, which are JSON inside a text; what does not decode is kept as `raw`."""
        if type(arguments) is dict:
            return arguments
        if arguments is None or arguments == "":
            return {}
        found = decode_record(arguments.encode("utf-8", "replace")) if type(arguments) is str else ""
        if type(found) is dict:
            return found
        self.notes.wrong("a function's arguments", arguments, "a JSON object as a text")
        return {"raw": arguments}

    def _results(self, entry: dict[str, Any]) -> Iterator[Step]:
        ids = entry.get("tool_call_ids", entry.get("tool_call_id"))
        ids = ids if type(ids) is list else [ids]
        # Some versions name no call: then it is the oldest that waits.
        names = [name for name in ids if type(name) is str] or self.open_calls[:1]
        output = flatten(entry.get("content"), self.notes)
        self._remember_observed_file(output)
        for call_id in names:
            if call_id in self.open_calls:
                self.open_calls.remove(call_id)
            yield self._result(call_id, output)

    def _observation(self, output: str) -> Iterator[Step]:
        self._remember_observed_file(output)
        yield self._result(self.open_calls.pop(0), output)

    # -- both

    def _answer(self, thought: str, text: str) -> Iterator[Step]:
        yield ModelRequested(self.clock.now)
        now = self.clock.tick(TICK_MS)
        yield ModelResponded(now)
        if thought.strip():
            yield Thought(now, thought)
        if text.strip():
            yield AssistantReplied(now, text)

    def _call(self, call_id: str, tool_name: str, arguments: dict[str, Any]) -> Iterator[Step]:
        now = self.clock.now
        yield ToolCalled(now, call_id, tool_name, arguments, common=common_name("swe-agent", tool_name))
        if (diff := derive_diff(tool_name, arguments, self.open_file)) is not None:
            yield DiffMade(now, call_id, tool_name, diff)

    def _result(self, call_id: str, output: str) -> ToolReturned:
        success = not output.lstrip().startswith(_REFUSALS)
        now = self.clock.tick(TICK_MS)
        return ToolReturned(now, call_id, success=success, output=output, error=None if success else output)

    def _text(self, values: dict[str, Any], key: str) -> str:
        value = values.get(key)
        if value is not None and type(value) is not str:
            self.notes.wrong(key, value, "a text")
        return value if type(value) is str else ""


def _tool_of(action: str) -> str:
    word = action.split(None, 1)[0]
    return word if word in _COMMANDS else "bash"


def _thinking(entry: dict[str, Any]) -> str:
    blocks = entry.get("thinking_blocks")
    if type(blocks) is not list:
        return ""
    return "\n".join(text_of(block, "thinking") for block in blocks if type(block) is dict)


def _decoded(member: JsonMember) -> dict[str, Any] | str:
    return decode_record(member.raw)
