"""`fleet retire` and `fleet prune`: what an operator changes in the records of a fleet."""

from __future__ import annotations

import click

from ally_plugins.cli.shell.questions import require_consent
from ally_plugins.cli.shell.state import State, command
from ally_plugins.cli.shell.text import echo, inert, print_json, when
from ally_plugins.cli.shell.times import parse_since
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.wording import suggest

__all__ = ["prune", "retire"]


@command("retire")
@click.argument("place", metavar="FILE|URL")
@click.argument("name")
@click.option("--why", metavar="TEXT", default="", help="What is kept beside it.")
@click.option("--back", is_flag=True, help="It is in the fleet again.")
def retire(state: State, place: str, name: str, why: str, back: bool) -> None:  # noqa: FBT001 - click's way
    """Note that the home NAME is in the fleet no more: its silence and its findings are no fault any longer.

    All that it has sent stays, and `fleet status` shows that it was retired, when and why. Heard again, it counts
    again. Its key is good until its file is removed from the folder of `fleet init`, and that has run again.

    \b
    Example:
      ally-plugins fleet retire fleet.db build-1 --why "sold"
    """
    from ally_plugins.fleet.store import open_store

    with open_store(place, writes=True) as store:
        if not store.retire(name, None if back else why):
            there = {each.name for each in store.homes()}
            raise ConfigError(f"no home {name!r} in the fleet, {suggest(name, there)}", path="NAME")
    if state.as_json:
        print_json({"home": name, "retired": not back})
    else:
        echo(f"{inert(name)} is {'in the fleet again' if back else 'retired'}")


@command("prune")
@click.argument("place", metavar="FILE|URL")
@click.option("--older-than", "age", required=True, metavar="AGE", help="How old: 90d, 12w, or a time (2026-03-01).")
@click.option("--yes", is_flag=True, help="Do not ask first.")
def prune(state: State, place: str, age: str, yes: bool) -> None:  # noqa: FBT001 - click's way
    """Remove the records of all homes that are older than AGE, from the beginning of each chain.

    Up to which record that was is noted with its hash, so what stays can be verified from there. A home of which
    something was found wrong keeps all of its records: they are the evidence. It cannot be undone; what a home's own
    journal and the server still have stays there.

    \b
    Example:
      ally-plugins fleet prune fleet.db --older-than 90d
    """
    from ally_plugins.fleet.pruning import prune as remove
    from ally_plugins.fleet.store import open_store

    with open_store(place, writes=True) as store:
        now = store.now_ms()
        before = parse_since(age, now)
        if before > now:
            raise ConfigError(f"--older-than {age!r} is in the future, expected an age such as 90d")
        question = f"Remove for ever the records of all homes that are older than {when(before)}?"
        require_consent(state, question, is_agreed=yes, refused="nothing is removed", way_out="add --yes")
        try:
            found = remove(store, before)
        except store.errors as error:
            raise ConfigError(
                f"the records cannot be removed: {error}; what is removed is noted", path=place
            ) from error
    if state.as_json:
        print_json({"removed": dict(found.removed), "kept": list(found.kept), "before": before})
        return
    for name, count in found.removed.items():
        echo(f"{inert(name)}: {count} records are removed")
    for name in found.kept:
        echo(f"{inert(name)}: nothing is removed, since something was found wrong with it")
    if not (found.removed or found.kept):
        echo(f"nothing is older than {when(before)}")
