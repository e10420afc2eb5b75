"""`review` and `enable`: the requests of a plugin, shown uncut, and the operator's consent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.catalog.decide.loosening import WHOLE_FILE
from ally_plugins.cli.shell.completion import grants_requested, plugin_names
from ally_plugins.cli.shell.operators import require_operator
from ally_plugins.cli.shell.processes import outside_sandbox, placed, way_out
from ally_plugins.cli.shell.questions import can_ask, choose, require_consent
from ally_plugins.cli.shell.recorder import recorder
from ally_plugins.cli.shell.requests import plan_data, plan_lines
from ally_plugins.cli.shell.running_hosts import Effect, notify_hosts
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, paint, print_json
from ally_plugins.contract.values.errors import ConsentError

from .placement import PLACEMENTS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.config import Placement
    from ally_plugins.catalog.registry import Plan, Registry
    from ally_plugins.cli.shell.state import State

__all__ = ["enable", "review"]


@command("enable")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=plugin_names)
@click.option("--only", multiple=True, metavar="GRANT", shell_complete=grants_requested,
              help="Grant only this, such as add_message:user; repeatable, for one NAME.")  # fmt: skip
@click.option("--place", "placement", type=click.Choice(PLACEMENTS),
              help="Place it so before it runs at all, in place of a sandbox.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Agree to exactly what is printed, without being asked.")
def enable(
    state: State,
    names: tuple[str, ...],
    only: tuple[str, ...],
    placement: Placement | None,
    yes: bool,  # noqa: FBT001 - click's way
) -> None:
    """Show what the plugins NAME... ask for and why, and agree to it.

    Shown are the origin, every request with its reason, and what has changed since you agreed last. Without a person at
    the terminal the answer is no, unless --yes is given. `--only` narrows what one gets. Hosts that run start it.

    Of several all are shown before the one question, and nothing is enabled where one of them cannot be.

    A plugin that is enabled for the first time is placed in a sandbox, unless none can hold it or --place says where.
    One that was enabled before stays where it is. `place` moves it later.

    Where a folder has the name of a package, NAME is the package and folder:NAME the folder.

    \b
    Example:
      ally-plugins enable loop-warner
      ally-plugins enable loop-warner secret-guard
      ally-plugins enable loop-warner --only events:TOOL_CALL_END --only tools
      ally-plugins enable loop-warner --yes
      ally-plugins enable loop-warner --place inline
      ally-plugins enable folder:loop-warner
    """
    names = tuple(dict.fromkeys(names))
    if only and len(names) > 1:
        raise click.UsageError("--only is for one plugin, since each asks for something else; enable them one by one")
    registry = state.registry
    # Before anything is asked or changed: an unknown name, or one that cannot be enabled, is an error for all of them.
    plans = [registry.plan(registry.qualified_name(name), only or None, placement=placement) for name in names]
    if len({plan.record.name for plan in plans}) < len(plans):
        raise click.UsageError("two of these names are one plugin's, and one of the two can be enabled; name one")
    # Nothing to agree to is no reason for a question; with --only the operator means a change.
    new = [plan for plan in plans if not _is_settled(plan) or only or placement is not None]
    if new:
        _agree(state, new, f"ally-plugins enable {_options(names, only, placement)}", yes=yes)
    effects = _enable(state, registry, new, "--yes" if yes else "person")
    # Read again: what was agreed to is in force now, and the plan has the state before.
    records = {plan.record.name: registry.get(plan.record.name) if plan in new else plan.record for plan in plans}
    reports = [(plan, records[plan.record.name], effects.get(plan.record.name)) for plan in plans]
    if state.as_json:
        data = [_report_data(*report) for report in reports]
        print_json(data[0] if len(names) == 1 else {"plugins": data})
    else:
        for report in reports:
            _report(*report)
    Effect([answer for effect in effects.values() for answer in effect.answers]).exit()


def _options(names: Sequence[str], only: Sequence[str], placement: Placement | None) -> str:
    options = [*(f"--only {grant}" for grant in only), *([f"--place {placement}"] if placement is not None else [])]
    return " ".join((*names, *options))


def _agree(state: State, plans: Sequence[Plan], command_line: str, *, yes: bool) -> None:
    """Show what is asked for, and have the operator agree. Raises ConsentError where they do not."""
    for plan in plans:
        if not state.as_json:
            _show(plan)
        # On stderr, since stdout is for JSON alone; with --yes nobody decides, and the object has all of it.
        elif not yes:
            _show(plan, to_stderr=True)
    labels = [plan.record.label for plan in plans]
    is_one = len(plans) == 1
    require_consent(
        state,
        f"Agree, and enable {', '.join(labels)}?",
        is_agreed=yes,
        refused=f"{', '.join(map(repr, labels))} {'is' if is_one else 'are'} not enabled",
        way_out=f"to agree to exactly what is shown: {command_line} --yes",
    )


def _enable(state: State, registry: Registry, plans: Sequence[Plan], by: str) -> dict[str, Effect]:
    """Enable one after the other, and return what came of it in running hosts, by name.

    The first that fails ends it; those before it are kept, and take effect.
    """
    done: list[str] = []
    try:
        with recorder(registry) as writing:
            for plan in plans:
                writing.change(lambda it, plan=plan: it.enable(plan, by))  # type: ignore[misc]
                done.append(plan.record.name)
    # Ctrl-C too, as in `grant`: a host that does not know what was recorded goes on as before.
    except BaseException:
        for name in done:
            notify_hosts(state.home, "apply", name)
        raise
    return {name: notify_hosts(state.home, "apply", name) for name in done}


def _is_settled(plan: Plan) -> bool:
    record = plan.record
    return (
        record.config.enabled
        and record.state != "waiting for consent"
        and not record.pending
        and not record.has_changed_code
        and plan.grants == record.config.grants
    )


def _show(plan: Plan, *, to_stderr: bool = False) -> None:
    for line in plan_lines(plan):
        echo(line, to_stderr=to_stderr)
    echo(to_stderr=to_stderr)


def _report_data(plan: Plan, record: PluginRecord, effect: Effect | None) -> dict[str, Any]:
    about = {**plan_data(plan), "state": record.state, "reason": record.reason, "changed": effect is not None}
    return {**about, "hosts": effect.data() if effect is not None else []}


def _report(plan: Plan, record: PluginRecord, effect: Effect | None) -> None:
    """Print what was done; without `effect` there was nothing to do."""
    done = "is enabled" if effect is not None else "is enabled already, and nothing new is asked for"
    echo(f"{record.label} {done}")
    if record.state != "enabled":
        echo(f"it is {record.state}: {inert(record.reason)}")
    if plan.placement == "sandbox":
        echo(f"placed: {placed(record)}; {way_out(record)}")
    for line in effect.lines() if effect is not None else ():
        echo(line)


@command("review")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=plugin_names)
@click.option("--agree", is_flag=True, help="Agree to what config.toml loosens, which waits for you until then.")
@click.option("--yes", is_flag=True, help="With --agree: do not ask first.")
def review(state: State, names: tuple[str, ...], agree: bool, yes: bool) -> None:  # noqa: FBT001 - click's way
    """Show every plugin that waits for you: new ones, larger requests, changed code, what is missing or quarantined.

    At a terminal it asks after each one that you can agree to: `accept` agrees to all that is shown, `narrow` asks for
    each grant by itself, `skip`, and every other answer, leaves it as it is. Elsewhere it changes nothing; below each
    plugin stands the command that does. At its end stand the enabled plugins that could be placed in a sandbox and are
    not. What config.toml loosens since you agreed is agreed to with --agree, of all plugins or of those named; its
    sources, [chat] and [journal], which are about no plugin, where none is named.

    \b
    Example:
      ally-plugins review
      ally-plugins review loop-warner
      ally-plugins review --agree
    """
    registry = state.registry
    wanted = {registry.get(name).label for name in names}  # an unknown one is an error with the nearest right name
    if agree:
        _agree_to_file(state, registry, _loosened(registry, wanted), yes=yes)
        return
    if yes:
        raise click.UsageError("--yes is for --agree; without it, nothing is asked")
    records = [record for record in registry.review() if not names or record.label in wanted]
    plans = {record.label: _plan(registry, record) for record in records}
    outside = outside_sandbox(registry.load())
    if state.as_json:
        pending = [_data(record, plans[record.label]) for record in records]
        print_json({"pending": pending, "outside_sandbox": outside, "problems": registry.problems})
        return
    if not records:
        echo("nothing waits for you")
    for record in records:
        plan = plans[record.label]
        for line in _lines(record, plan):
            echo(line)
        # What the file loosens is agreed to by --agree.
        is_asked = record.state not in _BY_COMMAND and not (record.loosened and record.is_enabled)
        if plan is not None and is_asked and can_ask(state) and not _walk(state, plan):
            break
        echo()
    if outside:
        echo(f"outside of a sandbox: {inert(', '.join(outside))}; to place one there: ally-plugins place NAME sandbox")
    for problem in registry.problems:
        echo(f"problem: {inert(problem)}")


_BY_COMMAND: Final = ("quarantined", "broken", "not installed", "not configured")
"""States that no consent ends; below the plugin stands the command that does."""

_ANSWERS: Final = ("accept", "narrow", "skip", "quit")


def _walk(state: State, plan: Plan) -> bool:
    """Ask what to do with one plugin, and do it; return whether to go on with the next."""
    name = plan.record.label
    answer = choose(state, f"{inert(name)}:", _ANSWERS)
    if answer == "narrow":
        kept = [each for each in plan.grants.texts() if choose(state, f"  {inert(each)}?", ("no", "yes")) == "yes"]
        plan = state.registry.plan(name, kept)
        question = f"{inert(name)} with {inert(', '.join(kept)) or 'nothing granted'}:"
        answer = choose(state, question, ("accept", "skip"))
    if answer != "accept":
        echo(f"{inert(name)} stays as it is")
        return answer != "quit"
    effects = _enable(state, state.registry, [plan], "person")
    echo(f"{inert(name)} is enabled")
    for line in effects[plan.record.name].lines():
        echo(line)
    return True


def _loosened(registry: Registry, wanted: Collection[str]) -> Mapping[str, tuple[str, ...]]:
    """Return the keys that wait, by plugin: of those of these labels, or of all and of the whole file."""
    records = [record for record in registry.load() if record.loosened]
    found = {record.name: record.loosened for record in records if not wanted or record.label in wanted}
    of_file = () if wanted else registry.loosened_for_host()
    return {**found, WHOLE_FILE: of_file} if of_file else found


def _agree_to_file(state: State, registry: Registry, found: Mapping[str, tuple[str, ...]], *, yes: bool) -> None:
    require_operator(state.home)
    if not found:
        if state.as_json:
            print_json({"agreed": {}, "hosts": []})
        else:
            echo("config.toml loosens nothing that was agreed to")
        return
    for name, keys in found.items():
        echo(inert(f"{name}: {', '.join(keys)}"), to_stderr=state.as_json)
    question = "Agree to what config.toml says of these?"
    how = "to agree to exactly what is shown: ally-plugins review --agree --yes"
    require_consent(state, question, is_agreed=yes, refused="nothing is agreed to", way_out=how)
    with recorder(registry) as writing:
        writing.change(lambda it: it.agree_to_file(found))
    # What is about no plugin is read by the next host.
    effects = {name: notify_hosts(state.home, "apply", name) for name in found if name != WHOLE_FILE}
    if state.as_json:
        print_json({"agreed": found, "hosts": [each for effect in effects.values() for each in effect.data()]})
        return
    for name, effect in effects.items():
        for line in effect.lines():
            echo(f"{inert(name)}: {line}")
    if WHOLE_FILE in found:
        echo(f"{WHOLE_FILE}: hosts that start from now on have it")


def _plan(registry: Registry, record: PluginRecord) -> Plan | None:
    try:
        return registry.plan(record.label)
    except ConsentError:  # it is broken or gone: there is nothing to agree to
        return None


def _lines(record: PluginRecord, plan: Plan | None) -> list[str]:
    head = plan_lines(plan) if plan is not None else [paint(inert(record.label), bold=True)]
    return [*head, f"  {paint(record.state, fg='yellow')}: {inert(record.reason)}"]


def _data(record: PluginRecord, plan: Plan | None) -> dict[str, Any]:
    about = plan_data(plan) if plan is not None else {"name": record.name, "state": record.state}
    return {**about, "reason": record.reason}
