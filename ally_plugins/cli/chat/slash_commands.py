"""The commands that begin with a slash in a chat; those about plugins are in `plugin_commands`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from ally_plugins.cli.shell.text import columns, inert, paint
from ally_plugins.contract.values.errors import AllyError

from .event_lines import todo_lines
from .plugin_commands import disable, enable, plugin_rows

if TYPE_CHECKING:
    from ally_plugins.journal.reader import JournalReader

    from .dialogue import Dialogue

__all__ = ["WORDS", "run_slash"]


async def run_slash(chat: Dialogue, text: str) -> None:
    """Run a line that begins with a slash. Errors are shown and not raised. Cancelling cancels the command."""
    name, _, rest = text[1:].strip().partition(" ")
    entry = _COMMANDS.get(name.lower())
    if entry is None:
        near = difflib.get_close_matches(name.lower(), _COMMANDS, n=1)
        hint = f"did you mean /{near[0]}?" if near else "/help shows what there is"
        chat.screen.error(f"there is no command /{name[:40]}; {hint}")
        return
    try:
        await entry[0](chat, rest.strip())
    except AllyError as error:
        chat.screen.error(str(error))


async def _help(chat: Dialogue, _: str) -> None:
    rows = [(f"  /{name}{f' {usage}' if usage else ''}", line) for name, (_, usage, line) in _COMMANDS.items()]
    rows += [("  +NAME, -NAME", "turn a plugin on or off in this session, where it can be")]
    chat.screen.painted(columns(rows))
    chat.screen.note("Enter sends, Alt-Enter begins a new line, Ctrl-C stops the turn, Ctrl-D leaves")


async def _plugins(chat: Dialogue, _: str) -> None:
    chat.screen.painted(columns(await plugin_rows(chat)) or ["no plugin is installed"])


async def _actions(chat: Dialogue, rest: str) -> None:
    host, session = chat.opened.host, chat.opened.session
    if not rest:
        rows = [(f"  {inert(each.full_name)}", inert(each.spec.description)) for each in host.actions]
        chat.screen.painted(columns(rows) or ["no plugin that runs offers an action"])
        return
    name, _, text = rest.partition(" ")
    try:
        arguments = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:  # the second: thousands of open brackets
        chat.screen.error(f"the arguments of {name!r} are not JSON ({error}); expected /actions NAME {{...}}")
        return
    if not isinstance(arguments, dict):
        chat.screen.error(f"the arguments of {name!r} are no JSON object; expected /actions NAME {{...}}")
        return
    answer = await session.request_action(name, arguments)
    chat.screen.show_folded(_answer_lines(answer))


def _answer_lines(answer: Any) -> list[Text]:
    """Return the answer of an action as marked lines, which cannot pass for another speaker's."""
    if answer is None:
        return [Text("done")]
    text = answer if isinstance(answer, str) else json.dumps(answer, default=str, ensure_ascii=False)
    return [Text(f"  | {inert(line)}") for line in text.splitlines()]


async def _todos(chat: Dialogue, _: str) -> None:
    todos = [{"task": each.task, "status": each.status} for each in chat.opened.session.conversation.todos]
    chat.screen.show(todo_lines(todos) or ["there are no todos"])


async def _context(chat: Dialogue, _: str) -> None:
    opened = chat.opened
    usage, window = opened.session.conversation.token_usage, opened.model.context_window
    full = f"{usage:.1f} % full" if usage is not None else "not measured yet"
    size = f" of {window:,} tokens" if window else ""
    rows = [
        ("  context", f"{full}{size}"),
        ("  messages", f"{len(opened.turns.history)}"),
        ("  model", inert(opened.options.choice.name)),
        ("  session", inert(opened.session.id)),
        ("  folder", inert(opened.options.folder)),
    ]
    chat.screen.painted(columns(rows))


async def _why(chat: Dialogue, rest: str) -> None:
    from ally_plugins.cli.look.explain import explain_lines

    journal = chat.opened.host.journal
    # The journal writes a batch at a time, and `/why` is about what happened just now.
    await journal.flush()
    session_id = chat.opened.session.id
    id_ = rest or _last_of_plugins(journal.reader, session_id, chat.last_of_plugin)
    if id_ is None:
        chat.screen.note("no plugin has done anything in this session yet")
        return
    found = explain_lines(journal.reader, id_, session_id)
    if found is None:
        chat.screen.error(f"the journal knows nothing of {id_!r}; expected an id such as m-..., d-..., a-... or t-...")
        return
    chat.screen.painted(found)


def _last_of_plugins(reading: JournalReader, session_id: str, shown: str | None) -> str | None:
    """Return the id of what plugins did last: `shown` from an event, or a later change of a call or its result.

    Changes are in the journal alone. Raises JournalError.
    """
    changes = [each for each in reading.last_records(1, session_id=session_id, kind="transform") if each.ref]
    if not changes:
        return shown
    stored = (
        (*reading.last_records(1, session_id=session_id, ref=shown), reading.event(shown)) if shown is not None else ()
    )
    return shown if any(each is not None and each.n > changes[0].n for each in stored) else changes[0].ref


async def _compact(chat: Dialogue, rest: str) -> None:
    await chat.compact(rest or None)


async def _tasks(chat: Dialogue, rest: str) -> None:
    tasks = chat.opened.host.tasks
    word, _, task_id = rest.partition(" ")
    if word == "cancel":
        task = tasks.find(task_id.strip())
        if task is None or not task.cancel("cancelled by the person"):
            chat.screen.error(f"no task {task_id.strip()!r} is running; /tasks shows those that are")
        return
    rows = [
        (f"  {inert(task.id)}", inert(task.plugin.name), inert(task.name), paint(task.state, bold=True), _far(task))
        for task in tasks
    ]
    chat.screen.painted(columns(rows) or ["no plugin has started a task"])


def _far(task: Any) -> str:
    if task.state == "running":
        return f"{task.progress:.0%}" if task.progress is not None else ""
    return inert(task.reason)


async def _quit(chat: Dialogue, _: str) -> None:
    chat.leave()


_Handler = Callable[["Dialogue", str], Awaitable[None]]

_COMMANDS: Final[dict[str, tuple[_Handler, str, str]]] = {
    "plugins": (_plugins, "", "the plugins, and how each is"),
    "enable": (enable, "NAME", "see what a plugin asks for, and agree"),
    "disable": (disable, "NAME", "stop a plugin"),
    "actions": (_actions, "[NAME {JSON}]", "what plugins offer to do, or do it"),
    "tasks": (_tasks, "[cancel ID]", "the background work of plugins, or end one"),
    "todos": (_todos, "", "the agent's todos"),
    "context": (_context, "", "how full the model's window is, and what this session is"),
    "why": (_why, "[ID]", "what led to the last thing that a plugin did"),
    "compact": (_compact, "[WHAT MATTERS]", "shorten the conversation"),
    "help": (_help, "", "this"),
    "quit": (_quit, "", "leave; --continue goes on later"),
}

WORDS: Final = tuple(f"/{name}" for name in _COMMANDS)
