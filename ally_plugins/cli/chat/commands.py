"""`chat`, `run` and `sessions` on the command line. Nothing of the framework is imported before the first output."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.exits import INTERRUPTED
from ally_plugins.cli.shell.signals import run as run_loop
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, paint, preview, print_json, table, when
from ally_plugins.contract.values.errors import ConfigError, OperatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ally_plugins.cli.shell.state import State
    from ally_plugins.contract.values.events import Event
    from ally_plugins.journal.histories import SavedSession

    from .chat_options import Options
    from .turns import Turn

__all__ = ["chat", "run", "sessions"]

_EXTRA: Final = "pip install 'ally-plugins[chat]'"
_NEEDED: Final = ("prompt_toolkit", "pydantic_ai")
_RESULT: Final = "RESULT"


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `chat` and `run` have in common."""
    # Backwards: the help lists the one first that is added last.
    for option in (_ALLOW, _FOLDER, _BASE_URL, _MODEL):
        function = option(function)
    return function


_MODEL = click.option(
    "--model", metavar="NAME", help="A model string of pydantic-ai, or offline, which is the default."
)
_BASE_URL = click.option("--base-url", metavar="URL", help="Where an OpenAI-compatible server or an Ollama listens.")
_FOLDER = click.option(
    "--folder",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder to work in, instead of the current one.",
)
_ALLOW = click.option("--allow", multiple=True, metavar="TOOL", help="Run this tool without asking you; repeatable.")


@command("chat")
@_options
@click.option("--continue", "continues", is_flag=True, help="Go on with the last session.")
@click.option("--resume", metavar="ID", help="Go on with this session: an id that `sessions` shows, or its beginning.")
@click.option(
    "--dev",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run the plugin of this folder too, in a scratch home, and replace it when a file is saved.",
)
def chat(
    state: State,
    model: str | None,
    base_url: str | None,
    folder: Path | None,
    allow: tuple[str, ...],
    continues: bool,  # noqa: FBT001 - click's way
    resume: str | None,
    dev: Path | None,
) -> None:
    """Talk with a small coding agent that lives with your plugins: the reference agent.

    It reads, searches, edits and writes files, runs commands, keeps todos and delegates; what changes something asks
    first. Without --model it is the offline model, which needs no key and no network and understands what `help` says.
    /help in the chat shows its commands. Where standard input is no terminal, each line is a message.

    With --dev a plugin runs from its author's folder beside yours, without being installed: it gets what it asks for,
    in a plain process. Nothing of such a chat is kept.

    \b
    Example:
      ally-plugins chat
      ally-plugins chat --dev ./loop-warner
      ally-plugins chat --model ollama:qwen3
      ally-plugins chat --continue
    """
    if state.as_json:
        raise click.UsageError("a chat has no --json; `ally-plugins run --json TASK` streams events")
    if dev is not None and (continues or resume is not None):
        raise click.UsageError("of a chat with --dev nothing is kept, and so it goes on with no session")
    with ExitStack() as stack:
        options, saved = _chosen(state, model, base_url, folder, allow, continues=continues, resume=resume)
        if dev is not None:
            from attrs import evolve

            from ally_plugins.replay.scratch_home import scratch_home

            options = evolve(options, dev=dev.absolute(), home=stack.enter_context(scratch_home(options.home)))
        _talk(options, saved)


def _talk(options: Options, saved: SavedSession | None) -> None:
    """Open a chat at the terminal, and run it until the person leaves."""
    echo(paint("ally-plugins chat", bold=True) + f": {_about_model(options)}")
    echo(paint(f"in {inert(options.folder)}{_about_session(saved)}; /help shows the commands", fg="bright_black"))
    sys.stdout.flush()
    import asyncio  # with what follows: the first line is there already

    with _framework():
        from ally_plugins.cli.shell.plain_logs import logs_to

        from .chat_loop import Chat, ScreenLog
        from .dialogue import Dialogue
        from .opened_chat import open_chat
        from .person_input import make_input
        from .screen import Screen
        from .slash_commands import WORDS
    source = make_input(options.home.path, WORDS)
    screen = Screen()
    dialogue = Dialogue(screen, source)
    chat_loop = Chat(dialogue)
    # None is a host without a person: what needs one is refused at once, instead of being put to a pipe.
    approve = dialogue.approve if source.is_terminal else None

    async def main() -> None:
        with logs_to(ScreenLog(screen)), screen.until_hung_up(asyncio.current_task()):
            async with open_chat(
                options,
                approve=approve,
                on_host=chat_loop.listen,
                on_text=screen.stream,
                on_thought=screen.thought,
                on_note=screen.note,
            ) as it:
                await chat_loop.run(it)
        # After everything is closed: the session's lock is free, and what plugins print while they stop stands above.
        if options.dev is None:
            screen.note(f"to go on: ally-plugins chat --resume {it.session.id}")

    try:
        # Not `signals.run`, which makes a KeyboardInterrupt of every cancellation: a closed pipe has a code of its own.
        asyncio.run(main())
    except asyncio.CancelledError:  # by SIGTERM, a closed terminal or pipe, or Ctrl-C at a pipe
        if not screen.is_cut:
            raise SystemExit(INTERRUPTED) from None
    if screen.is_cut:
        raise BrokenPipeError


@command("run")
@_options
@click.option("--resume", metavar="ID", help="Go on with a saved session.")
@click.argument("task")
@click.pass_context
def run(
    ctx: click.Context,
    state: State,
    model: str | None,
    base_url: str | None,
    folder: Path | None,
    allow: tuple[str, ...],
    resume: str | None,
    task: str,
) -> None:
    """Have the reference agent do one TASK without a person; - reads it from standard input.

    What needs a person's permission is refused, but for the tools that --allow names; gates of plugins decide as ever.
    The agent's words go to stdout, what happens to stderr. With --json every event is a line of JSON on stdout, as
    daemons get it, and the last line is a RESULT with the ending and the exit code.

    \b
    Exit codes: 0 done, 1 refused (something that the agent wanted, or the task
    itself), 2 wrong usage or configuration, 3 failed (no model, no answer or
    half of one), 130 interrupted.

    \b
    Example:
      ally-plugins run "read README.md"
      ally-plugins run --allow run_command --json "run pytest -q"
    """
    options, _ = _chosen(state, model, base_url, folder, allow, continues=False, resume=resume)
    text = sys.stdin.read() if task == "-" else task
    if not text.strip():
        raise click.UsageError("the task is empty; say what is to be done")
    with _framework():
        from .single_task import CODES, SingleTask
    single = SingleTask(*((_print_event, lambda _: None) if state.as_json else (_event_to_stderr(), _print_text)))
    turn, session_id = run_loop(_run_once(single, options, text, as_json=state.as_json))
    if single.is_cut:
        raise BrokenPipeError
    code = CODES[turn.ending]
    if state.as_json:
        print_json(_result(turn, session_id, code, single.refusals))
    elif turn.ending != "done":
        echo(f"ally-plugins: {turn.ending}: {inert(turn.reason)}", to_stderr=True)
    ctx.exit(code)


async def _run_once(single: Any, options: Options, task: str, *, as_json: bool) -> tuple[Turn, str]:
    from .opened_chat import open_chat

    async with open_chat(options, approve=None, on_text=single.show_text, on_host=single.listen) as it:
        turn = await single.run(it, task)
    # The streamed text has no line end of its own, and the shell's prompt would stand behind it.
    if turn.text and not as_json:
        echo()
    return turn, it.session.id


def _print_text(text: str) -> None:
    echo(inert(text, keep_lines=True), ends_line=False)


def _print_event(event: Event) -> None:
    from ally_plugins.contract.values.eventjson import event_params

    print_json(event_params(event))


def _event_to_stderr() -> Callable[[Event], None]:
    from ally_plugins.cli.shell.console import make_console

    from .screen import Screen

    return Screen(make_console(stderr=True)).event


def _result(turn: Turn, session_id: str, code: int, refusals: list[str]) -> dict[str, Any]:
    about = {"ending": turn.ending, "text": turn.text, "reason": turn.reason, "refusals": refusals}
    return {"type": _RESULT, "sessionId": session_id, **about, "exitCode": code}


@command("sessions")
def sessions(state: State) -> None:
    """Show the saved sessions of `chat` and `run`, the latest last.

    \b
    Example:
      ally-plugins sessions
      ally-plugins chat --resume s-5f0c9a1b2d-1
    """
    from ally_plugins.cli.shell.journal_rows import reading_of
    from ally_plugins.journal.histories import saved_sessions

    with reading_of(state.home) as reading:
        saved = saved_sessions(reading) if reading is not None else []
    if state.as_json:
        print_json({"sessions": [_session_data(each) for each in saved]})
        return
    rows = [_session_row(each) for each in saved]
    headings = ("session", "last", "model", "folder", "title")
    for line in table(headings, rows) or ["no session is saved yet; to start one: ally-plugins chat"]:
        echo(line)


def _session_row(saved: SavedSession) -> tuple[str, ...]:
    about = saved.about
    title, folder = preview(about.get("title", ""), 60), inert(about.get("folder", "-"))
    return (inert(saved.id), when(saved.last_at), inert(about.get("model", "-")), folder, title)


def _session_data(saved: SavedSession) -> dict[str, Any]:
    return {"id": saved.id, "first_at": saved.first_at, "last_at": saved.last_at, **saved.about}


# --- options


def _chosen(
    state: State,
    model: str | None,
    base_url: str | None,
    folder: Path | None,
    allow: tuple[str, ...],
    *,
    continues: bool,
    resume: str | None,
) -> tuple[Options, SavedSession | None]:
    """Return the options from command line, environment and configuration, and the session to resume.

    Raises ConfigError and NotFoundRefused.
    """
    from ally_plugins.catalog.home.folder import absolute_path
    from ally_plugins.catalog.plugin_facts import read_settled

    from .chat_options import Options, find_saved
    from .models import choose_model

    if continues and resume is not None:
        raise click.UsageError("--continue and --resume are two sessions; give one of them")
    home = state.home
    settings = read_settled(home).config.chat
    saved = find_saved(home, resume) if continues or resume is not None else None
    last_folder = saved.about.get("folder") if saved is not None else None
    # A resumed session works where it did: its files are named relative to that folder.
    where = absolute_path(str(folder or last_folder or "."), "--folder")
    if not where.is_dir():
        raise ConfigError(f"the folder of this session, {str(where)!r}, is gone; name another one with --folder")
    used = saved.about.get("model") if saved is not None else None
    choice = choose_model(settings, os.environ, model=model, base_url=base_url, last=used)
    allowed = (*settings.allow, *allow)
    found = saved.id if saved is not None else None
    return Options(home=home, choice=choice, folder=where.resolve(), allow=allowed, resume=found), saved


def _about_model(options: Options) -> str:
    choice = options.choice
    if choice.is_offline:
        return "the offline model (no key, no network, no understanding; say help)"
    return f"model {inert(choice.name)}{f' at {inert(choice.base_url)}' if choice.base_url else ''}"


def _about_session(saved: SavedSession | None) -> str:
    return f", going on with {inert(saved.id)}" if saved is not None else ""


@contextmanager
def _framework() -> Generator[None]:
    """Import the framework, and what is imported meanwhile. Raises OperatorError, which names the missing extra."""
    os.environ.setdefault("PYDANTIC_AI_NO_BANNER", "1")  # it would stand in the middle of the conversation
    try:
        for name in _NEEDED:
            import_module(name)
        yield
    except ImportError as error:
        name = (error.name or str(error)).partition(".")[0]
        if name in _NEEDED:
            raise OperatorError(f"the reference agent needs {name}, which is not installed: {_EXTRA}") from error
        raise
