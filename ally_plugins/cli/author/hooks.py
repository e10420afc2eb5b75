"""`hooks`: what a plugin may implement, and what the plugins answer when one hook is called."""

from __future__ import annotations

import inspect
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.command_group import LazyGroup
from ally_plugins.cli.shell.completion import plugin_names
from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.signals import run
from ally_plugins.cli.shell.state import command, options, with_state
from ally_plugins.cli.shell.text import columns, echo, inert, paint, print_json, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ally_plugins.cli.shell.state import State
    from ally_plugins.contract.hookspecs import HookInfo
    from ally_plugins.host.host import Host

__all__ = ["hooks"]

_KINDS: Final = ("observe", "gate", "transform", "lifecycle")
_MAX_PAYLOAD: Final = 1024 * 1024  # characters; a frame has no more bytes


@click.group("hooks", cls=LazyGroup, invoke_without_command=True)
@click.option("--kind", type=click.Choice(_KINDS), help="Only these.")
@options
@with_state
def hooks(state: State, kind: str | None) -> None:
    """Show every hook: its signature, the grant that it takes, and the line of the manifest that asks for it.

    \b
    Example:
      ally-plugins hooks --kind gate
      ally-plugins hooks test ally_gate_tool_call --path ./disk-guard
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    from ally_plugins.contract.hookspecs import HOOKS

    shown = [_facts(info) for info in HOOKS.values() if info.kind in ((kind,) if kind else _KINDS)]
    if state.as_json:
        print_json({"hooks": shown})
        return
    for each in shown:
        echo(f"{paint(each['signature'], bold=True)}  {paint(each['kind'], fg='yellow')}")
        echo(f"    {each['text']}")
        if each["manifest"]:
            echo(f"    {paint(each['manifest'], dim=True)}")


def _facts(info: HookInfo) -> dict[str, Any]:
    from ally_plugins.contract.hookspecs import PluginHooks
    from ally_plugins.contract.manifest import manifest_line

    function = getattr(PluginHooks, info.name, None) or (lambda self, event: None)  # noqa: ARG005 - its parameters
    grant = _grant(info)
    return {
        "name": info.name,
        "kind": info.kind,
        "arguments": info.arguments,
        "signature": f"{info.name}{_signature(function)}",
        "grant": grant.text if grant is not None else None,
        "manifest": manifest_line(grant) if grant is not None else None,
        "text": " ".join((inspect.getdoc(function) or "").split()),
    }


def _grant(info: HookInfo) -> Any:
    from ally_plugins.contract.grants import Grant

    if info.kind == "observe":
        # What was lost were the plugin's own events, and so it takes no grant.
        return None if info.event_type == "EVENTS_DROPPED" else Grant("events", info.event_type or "*")
    return Grant(info.kind, info.topic or "") if info.topic is not None else None


def _signature(function: Any) -> str:
    """Return a signature as an author writes it, with the names that `ally_plugins` exports."""
    signature = inspect.signature(function)
    parts = [
        name if parameter.annotation is parameter.empty or name == "self" else f"{name}: {_plain(parameter.annotation)}"
        for name, parameter in signature.parameters.items()
    ]
    returned = _plain(signature.return_annotation)
    returned = returned.replace("Verdict", "Allow | Ask | Deny | None").replace("Replace[Any]", "Replace")
    return f"({', '.join(parts)}) -> {returned}"


def _plain(annotation: Any) -> str:
    return str(annotation).removeprefix("events.")


@command("test")
@click.argument("hook")
@click.option("--payload", metavar="FILE", help="What it is called with, as JSON; - reads stdin. Without it a sample.")
@click.option("--path", metavar="DIR", help="Call it in the plugin of this folder only, which need not be installed.")
@click.option("--plugin", "plugins", multiple=True, metavar="NAME", shell_complete=plugin_names,
              help="Call it in this enabled plugin only; may be repeated.")  # fmt: skip
def test(state: State, hook: str, payload: str | None, path: str | None, plugins: tuple[str, ...]) -> None:
    """Call HOOK in the enabled plugins, and show what each of them answers.

    For an event the payload is its data, {"toolName": "bash", "success": false}; for a gate or a transform its
    arguments by name, {"call": {"toolName": "bash", "arguments": {"command": "ls"}}}. Nothing is recorded, no tool
    runs, and data of plugins are in a copy. The exit code is 1 when a plugin fails.

    \b
    Example:
      ally-plugins hooks test ally_gate_tool_call
      ally-plugins hooks test ally_tool_call_end --path . --payload failed.json
    """
    from ally_plugins.cli.shell.plain_logs import plain_logs

    info = _find(hook)
    given = _read_payload(payload)
    if path is not None and plugins:
        raise click.UsageError("--path names one plugin, and --plugin others; expected one of both")
    with ExitStack() as stack:
        stack.enter_context(plain_logs())
        host = _folder_host(stack, path) if path is not None else _enabled_host(stack, state, plugins)
        result = run(_call(host, info, given))
    if state.as_json:
        print_json(result)
    else:
        for line in _lines(result):
            echo(line)
    if result["failures"]:
        raise click.exceptions.Exit(REFUSED)


hooks.add_command(test)


def _find(hook: str) -> HookInfo:
    from ally_plugins.contract.hookspecs import HOOKS
    from ally_plugins.contract.wording import suggest

    known = {name: info for name, info in HOOKS.items() if info.kind in ("observe", "gate", "transform")}
    info = known.get(hook) or known.get(f"ally_{hook}")
    if info is None:
        raise click.UsageError(f"no hook {hook!r} can be called, {suggest(hook, list(known))}")
    return info


def _read_payload(file: str | None) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        text = sys.stdin.read(_MAX_PAYLOAD) if file == "-" else Path(file).read_text(encoding="utf-8-sig")
        value = json.loads(text)
    except OSError as error:
        raise click.UsageError(f"--payload {file!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise click.UsageError(f"--payload {file!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.UsageError(f'--payload {file!r} is no object, expected one such as {{"toolName": "bash"}}')
    return value


def _folder_host(stack: ExitStack, path: str) -> Host:
    from ally_plugins.author.project import find_project
    from ally_plugins.author.trial import trial_host, trial_record
    from ally_plugins.host.sockets.leftovers import temporary_folder
    from ally_plugins.journal.journal import Journal
    from ally_plugins.runtime.lanes.clock import SystemClock

    project = find_project(path)
    record = trial_record(project)
    folder = stack.enter_context(temporary_folder("hooks-"))
    journal = Journal.in_memory()
    stack.callback(journal.close_blocking)
    return trial_host(project, record, folder, journal, SystemClock())


def _enabled_host(stack: ExitStack, state: State, plugins: tuple[str, ...]) -> Host:
    from ally_plugins.cli.play.replay import replay_home, replay_host

    home, journal = stack.enter_context(replay_home(state, is_scratch=True))
    return replay_host(home, plugins, journal)


async def _call(host: Host, info: HookInfo, given: dict[str, Any] | None) -> dict[str, Any]:
    """Call the hook and return what came of it. Raises EventError for a payload that is none of the hook's."""
    from ally_plugins.author.hook_calls import call_hook

    return await call_hook(host, info, given)


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"{paint(result['hook'], bold=True)} was called with {inert(json.dumps(result['payload']))}"
    yield ""
    yield from columns([(inert(row["plugin"]), *_answer(row)) for row in result["answers"]]) or [
        f"no plugin implements it, or is granted it; see: ally-plugins hooks --kind {result['kind']}"
    ]
    if result["verdict"] is not None:
        reason = f": {inert(result['reason'])}" if result["reason"] else ""
        yield f"\nall in all: {result['verdict']}{reason}"
    if result["value"] is not None:
        yield f"\nthe value is now {inert(json.dumps(result['value']))}"
    for message in result["messages"]:
        yield f"{inert(message['plugin'])} says as {inert(message['role'])}: {quoted(message['content'])}"
    for event in result["events"]:
        yield f"{inert(event['plugin'])} emits {inert(event['type'])}"
    for failure in result["failures"]:
        yield paint(inert(failure), fg="red")


def _answer(row: Mapping[str, Any]) -> tuple[str, str]:
    took = f"in {row['ms']:.1f} ms" if row["ms"] is not None else ""
    return f"{inert(row['answer'])}{': ' + inert(row['reason']) if row['reason'] else ''}", took
