"""The program `ally-plugins`: which commands there are, and the line that the list shows of each."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Final

import click

from ally_plugins import __version__

from .command_group import LazyGroup
from .signals import end_in_order
from .state import options
from .text import echo

__all__ = ["cli", "main"]

_HERE: Final = "ally_plugins.cli"

_CHAT: Final = "ally_plugins.cli.chat.commands"

_SECTIONS: Final = {
    "Agent": {
        "chat": (f"{_CHAT}:chat", "Talk with the reference agent, with your plugins in it."),
        "run": (f"{_CHAT}:run", "Have the reference agent do one task without a person."),
        "sessions": (f"{_CHAT}:sessions", "Show the saved sessions of chat and run."),
    },
    "Coding agents": {
        "connect": (f"{_HERE}.coding.connect:connect", "Have a coding agent ask your plugins."),
        "disconnect": (f"{_HERE}.coding.connect:disconnect", "Take our hooks out of an agent's settings."),
        "mcp": (f"{_HERE}.coding.mcp:mcp", "Serve plugins' tools to a coding agent."),
        "why": (f"{_HERE}.coding.why:why", "Say what was last decided about an agent's call."),
        "allow": (f"{_HERE}.coding.overrides:allow", "Let one denied call of an agent run, once."),
        "pause": (f"{_HERE}.coding.overrides:pause", "Have an agent's gates decide nothing for a time."),
        "serve": (f"{_HERE}.coding.serve:serve", "Stand behind the hooks of your coding agents."),
    },
    "Plugins": {
        "list": (f"{_HERE}.look.list:list_", "Show every plugin with its state."),
        "info": (f"{_HERE}.look.info:info", "Show all about one plugin."),
        "search": (f"{_HERE}.look.search:search", "Look for plugins in the indexes that config.toml names."),
        "install": (f"{_HERE}.change.packages:install", "Install plugins with pip or uv; enables nothing."),
        "uninstall": (f"{_HERE}.change.packages:uninstall", "Uninstall plugins and forget what was agreed to."),
        "diff": (f"{_HERE}.play.diff:diff", "Show what two versions of a plugin would have done differently."),
        "upgrade": (f"{_HERE}.play.diff:upgrade", "Show what a newer version would have done, then install it."),
        "lock": (f"{_HERE}.change.locking:lock", "Write what is installed, agreed and granted to a file."),
        "apply": (f"{_HERE}.change.locking:apply", "Make this machine as a lock file says, or say what differs."),
        "project": (f"{_HERE}.change.project:project", "Show or trust what a project's .ally folder says."),
        "config": (f"{_HERE}.change.settings:config", "Show or change a plugin's settings."),
        "place": (f"{_HERE}.change.placement:place", "Run a plugin in a process of its own, or inline."),
        "env": (f"{_HERE}.change.placement:env", "Build a virtual environment for one plugin."),
    },
    "Authors": {
        "new": (f"{_HERE}.author.new:new", "Write the project of a new plugin."),
        "check": (f"{_HERE}.author.check:check", "Show everything that is wrong with a plugin."),
        "try": (f"{_HERE}.author.try_plugin:try_plugin", "Run a plugin from its folder on a recorded session."),
        "index": (f"{_HERE}.author.index:index", "Write an index of a folder of wheels."),
        "hooks": (f"{_HERE}.author.hooks:hooks", "Show the hooks that there are, or call one."),
    },
    "Consent": {
        "review": (f"{_HERE}.change.consent:review", "Show everything that waits for you, on one screen."),
        "enable": (f"{_HERE}.change.consent:enable", "Show what a plugin asks for, and agree."),
        "disable": (f"{_HERE}.change.grants:disable", "Stop loading a plugin."),
        "grant": (f"{_HERE}.change.grants:grant", "Grant something that a plugin asks for."),
        "revoke": (f"{_HERE}.change.grants:revoke", "Take a grant back."),
        "shadow": (f"{_HERE}.change.grants:shadow", "Ask a plugin's gates and record, but do not enforce."),
        "release": (f"{_HERE}.change.grants:release", "Let a plugin out of quarantine."),
    },
    "Run": {
        "hosts": (f"{_HERE}.look.hosts:hosts", "Show the running hosts, and how their plugins are."),
        "stats": (f"{_HERE}.look.stats:stats", "Show what plugins cost: times, refusals, memory, tokens."),
        "top": (f"{_HERE}.look.stats:top", "Show what plugins cost in the running hosts, again and again."),
        "tasks": (f"{_HERE}.change.tasks:tasks", "Show what plugins do in the background, or end it."),
        "restart": (f"{_HERE}.change.restart:restart", "Stop a plugin and start it again, in every running host."),
        "logs": (f"{_HERE}.look.logs:logs", "Show what a daemon wrote to its standard error."),
        "demo": (f"{_HERE}.play.demo:demo", "See it work on a sample session, without set-up."),
        "replay": (f"{_HERE}.play.replay:replay", "Run the enabled plugins on a recorded session."),
        "call": (f"{_HERE}.play.call:call", "Call a tool of one plugin."),
    },
    "Fleet": {
        "fleet": (f"{_HERE}.fleet.commands:fleet", "Bring what many homes record to one place."),
    },
    "Journal": {
        "audit": (f"{_HERE}.look.audit:audit", "Show or verify what was recorded."),
        "coverage": (f"{_HERE}.look.coverage:coverage", "Name the calls of coding agents that no gate has seen."),
        "explain": (f"{_HERE}.look.explain:explain", "Show everything that led to one message or decision."),
        "inspect": (f"{_HERE}.inspect.commands:inspect", "Show a session in the browser, live or recorded."),
        "export": (f"{_HERE}.change.export_and_prune:export", "Write one session as JSON lines, which replay reads."),
        "prune": (f"{_HERE}.change.export_and_prune:prune", "Remove old content; the audit chain stays whole."),
        "purge": (f"{_HERE}.change.export_and_prune:purge", "Remove what was recorded of one session."),
        "doctor": (f"{_HERE}.look.doctor:doctor", "Check everything, and say what to do."),
        "docs": (f"{_HERE}.look.docs:docs", "Read the documentation: pages, and search."),
        "completion": (f"{_HERE}.look.completion:completion", "Print what lets a shell complete names and grants."),
    },
}


@click.group(
    cls=LazyGroup,
    name="ally-plugins",
    sections=_SECTIONS,
    # Without a command the help is the answer, with exit code 0: click's own way ends with 2 since 8.2.
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="ally-plugins")
@options
@click.pass_context
def cli(ctx: click.Context) -> None:
    """See and control the plugins of an LLM agent: what is installed, what it may do, what it did.

    \b
    Example:
      ally-plugins install ./loop-warner
      ally-plugins enable loop-warner
      ally-plugins replay session.jsonl

    \b
    Exit codes: 0 done, 1 refused or a problem found, 2 wrong usage or
    configuration, 3 the journal or the program failed, 130 interrupted.

    NO_COLOR, ALLY_HOME, ALLY_PLUGINS and ALLY_DEBUG=1 (show where an error comes from) are read from the environment.
    """
    if ctx.invoked_subcommand is None:
        echo(ctx.get_help())


def main() -> None:
    """Run the program; it ends with a code of `exits`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # None where it was closed (`>&-`), another object where it is captured
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to fail
    end_in_order()
    cli.main()
