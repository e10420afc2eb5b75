"""Events as coloured lines for the person. Everything that others wrote is made inert here."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from ally_plugins.cli.shell.text import inert, preview
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values import events

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event
    from ally_plugins.contract.values.questions import PluginQuestion
    from ally_plugins.host.person.permission import PermissionQuestion

__all__ = [
    "diff_lines",
    "event_lines",
    "history_line",
    "plugin_question_lines",
    "question_lines",
    "thought_lines",
    "todo_lines",
]

_RESULT_LINES: Final = 8
"""Lines of a tool's output that are shown; the model sees all of it."""
_RESULT_CHARS: Final = 1000
_ARGUMENT_CHARS: Final = 120
_QUESTION_CHARS: Final = 20_000
"""Characters of an argument in a question: nobody can agree to the end of a command that was cut. A longer one is cut,
with a note."""
_OLD_CHARS: Final = 200
_DIFF_LINES: Final = 60
"""Lines of a diff that are shown at once: about a screen; the rest is counted."""
_MAX_DIFFED: Final = 400_000
"""Characters on both sides together: above, finding the lines that differ takes seconds."""

PLUGIN: Final = "magenta"
QUIET: Final = "bright_black"
BAD: Final = "red"
WARN: Final = "yellow"


def event_lines(event: Event) -> list[Text]:
    """Return the lines of an event; none for most types."""
    format_ = _FORMATTERS.get(type(event))
    if format_ is None:
        return _own(event) if isinstance(event, events.PluginEvent) else []
    indent = "  " if event.agent_id is not None and event.parent_id is not None else ""
    return [Text(indent) + line if indent else line for line in format_(event)]


def _line(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(*parts)


def _tool_start(event: events.ToolCallStart) -> Iterator[Text]:
    yield _line(("* ", "cyan"), (inert(event.tool_name), "bold cyan"), " ", (arguments_line(event.arguments), QUIET))


def arguments_line(arguments: Mapping[str, Any], longest: int = _ARGUMENT_CHARS) -> str:
    """Return arguments in one inert line, each cut where it is longer than so many characters."""
    return " ".join(f"{inert(name)}={preview(_plain(value), longest)}" for name, value in arguments.items())


def _plain(value: Any) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(thaw(value), default=str, ensure_ascii=False)
    except Exception:  # noqa: BLE001 - an object in it may raise anything; the rest of the line is shown
        return f"({type(value).__name__})"


def _tool_end(event: events.ToolCallEnd) -> Iterator[Text]:
    took = f" ({event.duration_ms:.0f} ms)" if event.duration_ms is not None else ""
    tool = inert(event.tool_name)
    if event.denied:
        if event.decision_id is None:  # otherwise the decision was shown, or the person denied it
            yield _line((f"  {tool} did not run: ", WARN), inert((event.error or "").removeprefix("not run: ")))
        return
    if not event.success:
        yield _line((f"  {tool} failed: ", BAD), inert(event.error or event.output or "no reason given"), (took, QUIET))
        return
    lines = (event.output or "").rstrip("\n").splitlines()
    # Lines first and then characters, since one line may have megabytes.
    shown = "\n".join(lines[:_RESULT_LINES])[:_RESULT_CHARS].splitlines()
    for line in shown:
        # Before `inert`, which would show a tab as an escape.
        yield _line(("  | ", QUIET), inert(line.expandtabs()))
    left = len(lines) - len(shown)
    yield _line((f"  {tool} is done{took}{f', {left} more lines' if left else ''}", QUIET))


def _diff(event: events.DiffPreview) -> Iterator[Text]:
    yield from diff_lines(event)


def diff_lines(diff: events.DiffPreview) -> list[Text]:
    """Return what an edit would change, as a unified diff."""
    path = inert(diff.file_path)
    head = _line(("would ", WARN), f"{inert(diff.operation_type)} ", (path, "bold"))
    old, new = diff.old_content.splitlines(), diff.new_content.splitlines()
    if len(diff.old_content) + len(diff.new_content) > _MAX_DIFFED:
        return [head, Text(f"  too large to show: {len(old)} lines become {len(new)}", QUIET)]
    # Without the first two lines, `---` and `+++`: the heading names the file.
    body = list(difflib.unified_diff(old, new, lineterm="", n=2))[2:]
    lines = [head, *(_diff_line(line) for line in body[:_DIFF_LINES])]
    if len(body) > _DIFF_LINES:
        lines.append(Text(f"  ... {len(body) - _DIFF_LINES} more lines", QUIET))
    return lines if body else [head, Text("  nothing", QUIET)]


def _diff_line(line: str) -> Text:
    style = {"+": "green", "-": BAD, "@": "cyan"}.get(line[:1], "")
    return Text(f"  {inert(line.expandtabs())}", style)


def question_lines(question: PermissionQuestion) -> list[Text]:
    """Return what the person is asked: who asks, why, and about what."""
    who = f"the plugin {', '.join(map(inert, question.asked_by))}" if question.asked_by else "the agent"
    call = question.call
    reason, *more = question.reason.splitlines() or [""]
    lines = [_line(("? ", WARN), (f"{who} asks: ", WARN), inert(reason))]
    lines += [_line(("  | ", WARN), inert(each)) for each in more]
    longest = _ARGUMENT_CHARS if question.diff is not None else _QUESTION_CHARS  # the diff shows what they come to
    lines.append(_line("  ", (inert(call.tool_name), "bold"), " ", arguments_line(call.arguments, longest)))
    if question.no_preview:
        lines.append(_line("  what it would change is not known: ", (inert(question.no_preview), QUIET)))
    return lines


def plugin_question_lines(question: PluginQuestion) -> list[Text]:
    """Return a plugin's own question, and its choices by number."""
    lines = [_line(("? ", WARN), (f"the plugin {inert(question.plugin)} asks you:", WARN))]
    lines += [_line(("  | ", PLUGIN), inert(line)) for line in question.text.splitlines()]
    return lines + [_line(f"  {number} ", inert(each)) for number, each in enumerate(question.choices, 1)]


def _plugin_message(event: events.PluginMessageReceived) -> Iterator[Text]:
    message = event.message
    chain = " > ".join(map(inert, event.origin)) or inert(event.plugin_name)
    role = str(message.get("role", "user"))
    as_role = f" as {inert(role)}" if role != "user" else ""
    for line in str(message.get("content", "")).splitlines() or [""]:
        yield _line((f"[plugin {chain}]{as_role} ", PLUGIN), inert(line))


def _own(event: events.PluginEvent) -> list[Text]:
    chain = f" ({' > '.join(map(inert, event.origin))})" if len(event.origin) > 1 else ""
    return [_line((f"~ {inert(event.event_type)}{chain} ", PLUGIN), (arguments_line(event.data), QUIET))]


_SAID_ELSEWHERE: Final = frozenset({"user_message", "answer", "stop"})
"""Gates whose deny ends the turn with the reason, or sends the agent on with it as a message."""


def _decision(event: events.Decision) -> Iterator[Text]:
    if event.kind in _SAID_ELSEWHERE:
        if event.verdict == "allow" and event.reason:  # the limit of a gate that never lets the agent stop
            yield _line(("! ", WARN), inert(event.reason))
    elif event.verdict == "deny":
        yield _line(("! refused: ", BAD), f"{inert(event.subject)}, by {inert(event.reason)}", ("  /why", QUIET))


def _response(event: events.PermissionResponse) -> Iterator[Text]:
    if event.choice == "deny":
        yield Text("  not allowed", WARN)


def _thought(event: events.ThoughtComplete) -> Iterator[Text]:
    if event.agent_id is not None:  # the main agent's are shown as they stream
        yield from thought_lines(event.thinking)


def thought_lines(thinking: str) -> Iterator[Text]:
    """Return the model's thinking as lines."""
    for line in thinking.strip().splitlines():
        yield Text(f"  {inert(line)}", f"italic {QUIET}")


def _state(event: events.PluginState) -> Iterator[Text]:
    if event.state in {"failed", "quarantined", "backoff", "waiting"}:
        yield _line((f"! plugin {inert(event.plugin_name)} is {inert(event.state)}: ", WARN), inert(event.reason))


def _task(event: events.TaskProgress) -> Iterator[Text]:
    style = {"failed": BAD, "cancelled": WARN, "done": "green"}.get(event.state, PLUGIN)
    far = f" {event.progress:.0%}" if event.progress is not None and event.state == "running" else ""
    state = "" if event.state == "running" and (far or event.message) else f" {inert(event.state)}"
    about = f": {inert(event.message)}" if event.message else ""
    yield _line((f"~ task {inert(event.name)} of {inert(event.plugin_name)}", PLUGIN), (f"{state}{far}{about}", style))


def _todos(event: events.TodoUpdate) -> Iterator[Text]:
    yield from todo_lines(event.todos)


def todo_lines(todos: Any) -> list[Text]:
    """Return todos with a box each."""
    lines = []
    for todo in todos:
        status = str(todo.get("status", "pending"))
        box, style = {"completed": ("x", QUIET), "in_progress": (">", "bold")}.get(status, (" ", ""))
        task = todo.get("task", todo.get("content", ""))
        lines.append(Text(f"  [{box}] {inert(task)}", style))
    return lines


def _threshold(event: events.ContextThreshold) -> Iterator[Text]:
    if event.plugin_name is not None:  # that plugin's own business
        return
    text = f"the context is {event.context_usage:.0f} % full; /compact shortens it"
    yield _line(("! ", WARN), text)


def _compacting(_: events.CompactionStart) -> Iterator[Text]:
    yield Text("~ shortening the conversation", QUIET)


def _compacted(event: events.CompactionComplete) -> Iterator[Text]:
    if event.error:
        yield _line(("! the conversation could not be shortened: ", WARN), inert(event.error_message or "no reason"))
        return
    usage = [f"{value:.0f} %" for value in (event.old_context_usage, event.new_context_usage) if value is not None]
    yield Text(f"~ the conversation is shortened{': ' if usage else ''}{' to '.join(usage)}", QUIET)


def _agent_start(event: events.AgentStart) -> Iterator[Text]:
    if event.parent_id is not None:
        yield _line(("> sub-agent ", "blue"), inert(event.agent_name), ": ", preview(event.task_prompt or "", 200))


def _agent_end(event: events.AgentEnd) -> Iterator[Text]:
    if event.parent_id is not None:
        took = f" ({event.duration:.1f} s)" if event.duration is not None else ""
        how = f" was interrupted: {inert(event.interruption_cause or '')}" if event.interrupted else " is done"
        yield _line(("< sub-agent ", "blue"), f"{inert(event.agent_name)}{how}{took}")


def _dropped(event: events.EventsDropped) -> Iterator[Text]:
    yield Text(f"! the plugin {inert(event.plugin_name)} fell behind and lost {event.count} events", WARN)


def history_line(who: str, text: str) -> Text:
    """Return a message of a resumed conversation as one line."""
    return _line((f"{inert(who)}: ", QUIET), preview(text, _OLD_CHARS))


_FORMATTERS: Final[dict[type[events.Event], Callable[[Any], Iterator[Text]]]] = {
    events.AgentEnd: _agent_end,
    events.AgentStart: _agent_start,
    events.CompactionComplete: _compacted,
    events.CompactionStart: _compacting,
    events.ContextThreshold: _threshold,
    events.Decision: _decision,
    events.DiffPreview: _diff,
    events.EventsDropped: _dropped,
    events.PermissionResponse: _response,
    events.PluginMessageReceived: _plugin_message,
    events.PluginState: _state,
    events.TaskProgress: _task,
    events.ThoughtComplete: _thought,
    events.TodoUpdate: _todos,
    events.ToolCallEnd: _tool_end,
    events.ToolCallStart: _tool_start,
}
