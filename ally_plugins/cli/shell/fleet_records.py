"""`--fleet` of the commands that look: the records of all homes, opened, instead of this home's journal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.wording import suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ally_plugins.fleet.store import FleetStore

__all__ = ["fleet_options", "fleet_records"]


def fleet_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--fleet` and `--fleet-home`, which `fleet_records` takes as `fleet_place` and `fleet_home`."""
    return _FLEET(_FLEET_HOME(function))


@contextmanager
def fleet_records(place: str | None, home: str | None) -> Generator[FleetStore | None]:
    """Open the records of a fleet; None where none was named.

    Raises ConfigError where they cannot be opened, or no home of that name has ever sent anything.
    """
    if place is None:
        if home is not None:
            raise click.UsageError("--fleet-home is for --fleet, which says where the records are")
        yield None
        return
    from ally_plugins.fleet.store import open_store

    with open_store(place) as store:
        if home is not None and home not in (there := {each.name for each in store.homes()}):
            raise ConfigError(f"no home {home!r} in the fleet, {suggest(home, there)}", path="--fleet-home")
        yield store


_FLEET = click.option(
    "--fleet",
    "fleet_place",
    metavar="FILE|URL",
    help="Of all homes, from where `fleet collect` keeps them, instead of this one's.",
)
_FLEET_HOME = click.option("--fleet-home", metavar="NAME", help="Only of this home of the fleet.")
