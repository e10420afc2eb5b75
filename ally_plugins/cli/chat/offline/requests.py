r"""The requests that the offline model understands, and the tool calls they become. Imports no framework.

A request is a line; lines are done one after the other. A line that begins with `also` is done together with the line
before it. `\n` and `\t` in the texts of `write` and `edit` mean a new line and a tab.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import field, frozen

__all__ = ["HELP", "RequestContext", "RequestPlan", "RequestedCall", "read_requests"]

_ALSO: Final = re.compile(r"also\s+", re.IGNORECASE)
_INSIST: Final = re.compile(r"insist\s+", re.IGNORECASE)
_ARROW: Final = re.compile(r"\s+->\s?")

HELP: Final = """\
I am the offline model: no key, no network, and no understanding. I do what these lines say, one after the other:
  read PATH               read a file
  list [PATH]             list a folder
  find GLOB               find files by name
  search TEXT             find a text in files
  run COMMAND             run a command
  write PATH TEXT         write a file
  edit PATH OLD -> NEW    replace a text that stands once in a file
  plan A; B; C            keep todos
  done A                  tick one off
  delegate TASK           hand these same requests to a sub-agent
  remember TEXT           call a plugin's tool of that name; likewise recall TEXT
  call TOOL {JSON}        call any tool
  insist REQUEST          go on with a call that fails, as a stubborn agent does; the last line only
  say TEXT                say it
A line that begins with "also" is done together with the one before it."""


@frozen
class RequestedCall:
    """One tool call that a line asks for."""

    line: str
    tool: str
    arguments: Mapping[str, Any] = field(factory=dict)


@frozen
class RequestPlan:
    """What a message requests: steps of calls that are made together, texts to say, and errors for other lines."""

    steps: tuple[tuple[RequestedCall, ...], ...] = ()
    texts: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    wants_help: bool = False
    insists: bool = False
    """Whether the last step is to be tried again when it fails."""


@frozen
class RequestContext:
    """What reading a request depends on: the tools with their JSON schemas, and the todos as last written."""

    tools: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    todos: Sequence[Mapping[str, Any]] = ()


_Reader: TypeAlias = Callable[[str, RequestContext], tuple[str, dict[str, Any]]]
"""Reads the rest of a line into a tool's name and arguments. Raises _NotUnderstoodError."""


class _NotUnderstoodError(Exception):
    """The rest of a line does not fit its verb; the text is the reason."""


def read_requests(text: str, context: RequestContext) -> RequestPlan:
    """Read a person's message; what is not understood is kept, and never guessed at."""
    steps: list[list[RequestedCall]] = []
    texts: list[str] = []
    unknown: list[str] = []
    wants_help = insists = False
    for raw in text.splitlines():
        also = _ALSO.match(raw.strip())
        line = raw.strip()[also.end() if also else 0 :].strip()
        if line:
            insisting = _INSIST.match(line)
            insists = insisting is not None
            line = line[insisting.end() :] if insisting is not None else line
        verb, _, rest = line.partition(" ")
        match verb.lower():
            case "":
                continue
            case "help":
                wants_help = True
            case "say":
                texts.append(_unescaped(rest.strip()))
            case name:
                call = _call_or_reason(name, rest.strip(), line, context)
                if isinstance(call, str):
                    unknown.append(call)
                elif also and steps:
                    steps[-1].append(call)
                else:
                    steps.append([call])
    return RequestPlan(tuple(map(tuple, steps)), tuple(texts), tuple(unknown), wants_help, insists and bool(steps))


def _call_or_reason(verb: str, rest: str, line: str, context: RequestContext) -> RequestedCall | str:
    reader = _READERS.get(verb)
    if reader is None:
        return f"I do not understand {line[:80]!r}; say help for what I do"
    try:
        tool, arguments = reader(rest, context)
    except _NotUnderstoodError as problem:
        return f"{line[:80]!r}: {problem}"
    if tool not in context.tools:
        return f"{line[:80]!r}: there is no tool {tool!r} here; there are {', '.join(sorted(context.tools)) or 'none'}"
    return RequestedCall(line, tool, arguments)


def _one(tool: str, name: str, default: str | None = None) -> _Reader:
    def read(rest: str, _: RequestContext) -> tuple[str, dict[str, Any]]:
        if not rest and default is None:
            raise _NotUnderstoodError(f"expected a {name} after it")
        return tool, {name: rest or default}

    return read


def _search(rest: str, _: RequestContext) -> tuple[str, dict[str, Any]]:
    if not rest:
        raise _NotUnderstoodError("expected the text to look for")
    return "search_files", {"text": rest}


def _write(rest: str, _: RequestContext) -> tuple[str, dict[str, Any]]:
    path, _sep, content = rest.partition(" ")
    if not path:
        raise _NotUnderstoodError("expected a path and a text")
    return "write_file", {"path": path, "content": _unescaped(content)}


def _edit(rest: str, _: RequestContext) -> tuple[str, dict[str, Any]]:
    path, _sep, change = rest.partition(" ")
    old, *new = _ARROW.split(change, maxsplit=1)
    if not path or not old or not new:
        raise _NotUnderstoodError("expected PATH OLD -> NEW")
    return "edit_file", {"path": path, "old_text": _unescaped(old), "new_text": _unescaped(new[0])}


def _plan(rest: str, _: RequestContext) -> tuple[str, dict[str, Any]]:
    todos = [part.strip() for part in rest.split(";") if part.strip()]
    if not todos:
        raise _NotUnderstoodError("expected todos with ; between them")
    items = [{"content": todo, "status": "pending" if i else "in_progress"} for i, todo in enumerate(todos)]
    return "write_plan", {"items": items}


def _done(rest: str, context: RequestContext) -> tuple[str, dict[str, Any]]:
    items = [dict(todo) for todo in context.todos]
    done = next((item for item in items if str(item.get("content", "")).lower() == rest.lower()), None)
    if done is None:
        there = ", ".join(repr(item.get("content")) for item in items) or "none"
        raise _NotUnderstoodError(f"there is no such todo; there are {there}")
    done["status"] = "completed"
    waiting = next((item for item in items if item.get("status") == "pending"), None)
    if waiting is not None and not any(item.get("status") == "in_progress" for item in items):
        waiting["status"] = "in_progress"
    return "write_plan", {"items": items}


def _delegate(rest: str, _: RequestContext) -> tuple[str, dict[str, Any]]:
    if not rest:
        raise _NotUnderstoodError("expected a task after it")
    return "delegate_task", {"task": rest}


def _plugin_tool(name: str) -> _Reader:
    """Return what reads `NAME TEXT` as a call of the tool NAME, whose first required text gets TEXT."""

    def read(rest: str, context: RequestContext) -> tuple[str, dict[str, Any]]:
        schema = context.tools.get(name, {})
        properties = schema.get("properties", {})
        # Required ones first: an optional text is rarely what a tool is about.
        names = [*schema.get("required", ()), *properties]
        text = next((key for key in names if properties.get(key, {}).get("type") == "string"), None)
        if text is None:
            if name in context.tools and not rest:
                return name, {}
            raise _NotUnderstoodError(f"there is no tool {name!r} here that takes a text")
        return name, {text: rest}

    return read


def _any_tool(rest: str, _: RequestContext) -> tuple[str, dict[str, Any]]:
    tool, _sep, text = rest.partition(" ")
    try:
        arguments = json.loads(text) if text.strip() else {}
    # The second: thousands of open brackets.
    except (ValueError, RecursionError) as error:
        raise _NotUnderstoodError(f"the arguments are not JSON ({error})") from None
    if not isinstance(arguments, dict):
        raise _NotUnderstoodError("the arguments are no JSON object")
    return tool, arguments


def _unescaped(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t")


_READERS: Final[dict[str, _Reader]] = {
    "read": _one("read_file", "path"),
    "list": _one("list_directory", "path", "."),
    "find": _one("find_files", "pattern"),
    "search": _search,
    "run": _one("run_command", "command"),
    "write": _write,
    "edit": _edit,
    "plan": _plan,
    "done": _done,
    "delegate": _delegate,
    "remember": _plugin_tool("remember"),
    "recall": _plugin_tool("recall"),
    "call": _any_tool,
}
