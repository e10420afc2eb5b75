"""A group of commands that imports a command's module when it runs, and ends every error as one line.

The lines of the list in `--help` are in the table, so that showing it imports no command.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from ally_plugins.contract.values.compat import override

from .exits import BROKEN_PIPE, DONE, FAILED, INTERRUPTED, USAGE, exit_code_of
from .state import State
from .text import echo, inert, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.shell_completion import CompletionItem

__all__ = ["DEBUG_VARIABLE", "LazyCommands", "LazyGroup"]

DEBUG_VARIABLE: Final = "ALLY_DEBUG"

_PROGRAM: Final = "ally-plugins"

_NO_CHOICE: Final = re.compile(r"""('.*'|".*") is not (?:one of )?'""", re.DOTALL)
"""What click says of a value that is none of the choices."""

_WHOLE: Final = 500
"""Characters of a command's line in the help of its group; none of ours is as long."""

_FEW: Final = 20
"""Commands that an error may list; more are for the help."""


class LazyCommands(MutableMapping[str, click.Command]):
    """The commands by name; one is imported when it is looked up. `table` has "module:attribute" and a line of help."""

    def __init__(self, table: Mapping[str, tuple[str, str]]) -> None:
        self.table: Final = table
        self._loaded: dict[str, click.Command] = {}

    @override
    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            target, line = self.table[name]
            module, _, attribute = target.partition(":")
            command = getattr(import_module(module), attribute)
            command.short_help = command.short_help or line
            self._loaded[name] = command
        return self._loaded[name]

    @override
    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    @override
    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    @override
    def __iter__(self) -> Iterator[str]:
        # A dict and no set: the list in `--help` keeps the order of the table.
        return iter({**self.table, **self._loaded})

    @override
    def __len__(self) -> int:
        return len({**self.table, **self._loaded})


class LazyGroup(click.Group):
    """The program. `sections` is the table of commands, by heading."""

    def __init__(self, *, sections: Mapping[str, Mapping[str, tuple[str, str]]] | None = None, **attrs: Any) -> None:
        self._sections: Final = sections or {}
        table = {name: entry for section in self._sections.values() for name, entry in section.items()}
        super().__init__(commands=LazyCommands(table), **attrs)

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of the table."""
        return list(self.commands)

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table, without importing anything; a group without one has few commands, which are there."""
        if not self._sections:
            with formatter.section("Commands"):
                # Whole sentences: click would cut each at the end of the line.
                found = [(name, self.commands[name]) for name in self.list_commands(ctx)]
                formatter.write_dl([(name, one.get_short_help_str(_WHOLE)) for name, one in found if not one.hidden])
        for heading, section in self._sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name, line) for name, (_, line) in section.items()])

    @override
    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the commands of the table, without importing anything, and the options."""
        if not self._sections:
            return super().shell_complete(ctx, incomplete)
        from click.shell_completion import CompletionItem

        lines = [entry for section in self._sections.values() for entry in section.items()]
        found = [CompletionItem(name, help=line) for name, (_, line) in lines if name.startswith(incomplete)]
        # Of the command and not of the group, whose own would look up, and so import, each command for its help.
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the arguments; without any the help is the answer: click would end that with an error since 8.2."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is an error with the nearest right name."""
        name = args[0]
        # What begins with a dash is an option that click does not know: its own error names the nearest one.
        if name not in self.commands and not name.startswith("-"):
            from ally_plugins.contract.wording import describe, nearest, suggest

            near = nearest(name, self.commands) is not None or len(self.commands) <= _FEW
            others = list(self.commands)
            expected = f"expected {others[0]!r}" if len(others) == 1 else suggest(name, others)
            ctx.fail(f"no command {describe(name)}{f', {expected}' if near else ''}")
        return super().resolve_command(ctx, args)

    @override
    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - click's signature
        **extra: Any,
    ) -> Any:
        """Run the program and exit with a code of `exits`; without `standalone_mode`, as click does.

        Click's own standalone mode prints errors in its own form, and knows only the codes 1 and 2.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        prog_name = prog_name or _PROGRAM
        if not standalone_mode:
            return super().main(arguments, prog_name, complete_var, standalone_mode=False, **extra)
        # Made before click parses: the report of a wrong command line needs it too.
        state = extra.setdefault("obj", State())
        try:
            result = super().main(arguments, prog_name, complete_var, standalone_mode=False, **extra)
            # Here and not at the interpreter's end, where a closed pipe prints an ignored exception and exits with 120.
            _flush()
        except BrokenPipeError:
            _leave_broken_pipe()
        except (KeyboardInterrupt, click.Abort):
            echo(f"{_PROGRAM}: interrupted", to_stderr=True)
            sys.exit(INTERRUPTED)
        except Exception as error:  # noqa: BLE001 - the one place where every error ends
            # The arguments too: when a command line cannot be parsed, the callback of `--json` may not have run.
            foreign = _foreign_home(state) if isinstance(state, State) else ""
            sys.exit(_report(error, as_json=state.as_json or "--json" in arguments, foreign=foreign))
        sys.exit(result if isinstance(result, int) else DONE)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. A closed pipe is caught here, since click would catch it further out and exit with 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _leave_broken_pipe()


def _flush() -> None:
    if sys.stdout is not None:  # pythonw has none
        sys.stdout.flush()


def _is_of_output(error: Exception) -> bool:
    """Return whether something could not be printed; all, click's own help too, goes through `click.echo`."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    places = (click.echo.__code__, _flush.__code__)  # noqa: TID251 - it prints nothing
    return isinstance(error, OSError) and trace is not None and trace.tb_frame.f_code in places


def _leave_broken_pipe() -> NoReturn:
    """End quietly."""
    _write_nowhere("stdout")
    sys.exit(BROKEN_PIPE)


def _write_nowhere(name: str) -> None:
    """Have a stream become /dev/null, since the interpreter flushes its buffer once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, getattr(sys, name).fileno())
    except (OSError, ValueError):  # no real file, as in tests
        setattr(sys, name, None)


def _foreign_home(state: State) -> str:
    """Return whose the home is, and the way out; "" where it is one's own, or not there."""
    with suppress(Exception):  # what cannot be asked is no second error
        home = state.home.path
        owner = os.stat(home).st_uid  # noqa: PTH116 - it may be anything
        if hasattr(os, "geteuid") and os.geteuid() not in {0, owner}:
            return f"{str(home)!r} belongs to the user {owner}; to use a home of your own: --home DIR, or ALLY_HOME"
    return ""


def _report(error: Exception, *, as_json: bool, foreign: str = "") -> int:
    """Print an error in one line (and as an object with --json), and return the exit code."""
    if os.environ.get(DEBUG_VARIABLE) == "1":
        import traceback

        echo("".join(traceback.format_exception(error)), ends_line=False, to_stderr=True)
    text, code, about = _described(error)
    if foreign and os.strerror(errno.EACCES) in text:
        text = f"{text}; {foreign}"
    try:
        echo(f"{_PROGRAM}: {text}", to_stderr=True)
    except OSError:  # nobody can be told; the exit code says it
        _write_nowhere("stderr")
    if as_json:
        print_json({"error": {"type": type(error).__name__, "message": text, "exit_code": code, **about}})
    return code


def _described(error: Exception) -> tuple[str, int, dict[str, Any]]:
    from ally_plugins.contract.values.errors import AllyError

    if isinstance(error, AllyError):
        return inert(error), exit_code_of(error), {key: value for key, value in vars(error).items() if value}
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context is not None else ""
        return inert(_usage_text(error)) + hint, USAGE, {}
    if isinstance(error, OSError) and _is_of_output(error):
        _write_nowhere("stdout")
        return f"the output cannot be written: {error.strerror or error}", FAILED, {}
    if isinstance(error, OSError) and error.filename is not None:
        # A disk that is full, a name that is too long: what the system said, and of which file.
        text = f"{os.fsdecode(error.filename)!r} cannot be used: {error.strerror or error}"
        return inert(f"{text}; with {DEBUG_VARIABLE}=1 it shows where"), FAILED, {"path": os.fsdecode(error.filename)}
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    return inert(f"an error in this program: {text}; with {DEBUG_VARIABLE}=1 it shows where"), FAILED, {}


def _usage_text(error: click.ClickException) -> str:
    """Write click's messages as all our errors are written: in one line, and a parameter by its name."""
    param = getattr(error, "param", None)
    if isinstance(param, click.Parameter) and isinstance(param.type, click.Choice):
        assert isinstance(error, click.BadParameter)  # noqa: S101 - nothing else has a parameter
        if isinstance(param, click.Argument):
            error.param_hint = repr(param.human_readable_name)  # click's own hint is all the choices, which follow
        if found := _NO_CHOICE.match(error.message):
            from ally_plugins.contract.wording import suggest

            hint = error.param_hint or param.get_error_hint(error.ctx)
            return f"invalid value {found[1]} for {hint}, {suggest(found[1][1:-1], list(map(str, param.type.choices)))}"
    message = " ".join(error.format_message().replace(". Choose from:", "; expected one of").split())
    return (message[:1].lower() + message[1:]).rstrip(".")
