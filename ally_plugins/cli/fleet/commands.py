"""`fleet`: what many homes record, verified and kept in one place, and plugins that run once for many hosts."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.command_group import LazyGroup
from ally_plugins.cli.shell.state import command, options
from ally_plugins.cli.shell.text import echo, inert, print_json

from .status import report, status
from .upkeep import prune, retire

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ally_plugins.cli.shell.state import State
    from ally_plugins.journal.chain import Head

__all__ = ["collect", "fleet", "init", "publish", "serve"]

_PORT: Final = 4222
_DAY_S: Final = 24 * 3600.0
_MIB: Final = 1024 * 1024
_EVENTS_MIB: Final = 1024
_LINKS_PER_HOST: Final = 100  # of 500 in all: more than a machine has hosts, and one that has gone wild leaves 400


@click.group("fleet", cls=LazyGroup)
@options
def fleet() -> None:
    """Bring what many homes record to one place, and run plugins once for many hosts, over a NATS server of yours.

    `init` writes the server's configuration; `publish` runs beside each home, `collect` in one place. Nothing of a
    host changes: a publisher reads the journal, and only what is committed. `serve` runs plugins for the hosts that
    have placed them `shared`.

    \b
    Example:
      ally-plugins fleet init ./fleet laptop build-1
      nats-server -c ./fleet/server.conf
      ally-plugins fleet collect ./fleet/collector.toml --into fleet.db
    """


@command("init")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--worker", "workers", multiple=True, metavar="NAME=PLUGIN,...",
              help="A worker, and the plugins that it may serve; may be given again.")  # fmt: skip
@click.option("--listen", metavar="HOST:PORT", default=f"127.0.0.1:{_PORT}", show_default=True,
              help="Where the server listens, and homes find it.")  # fmt: skip
@click.option("--tls-cert", metavar="FILE", help="The server's certificate; needed beyond this machine.")
@click.option("--tls-key", metavar="FILE", help="Its key.")
@click.option("--tls-ca", metavar="FILE", help="What homes check the certificate with, on their machines.")
def init(
    state: State,
    folder: Path,
    names: tuple[str, ...],
    workers: tuple[str, ...],
    listen: str,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
) -> None:
    """Write a server's configuration into FOLDER, and a file with a key for the collector, each home NAME and worker.

    Copy NAME.toml to its home's folder as fleet.toml, and keep it there alone: whoever has it is that home to the
    server. Each home may publish its own records and hear nothing of others. A worker may serve the plugins that are
    named for it, to every home; naming it again settles others. The seed in authority.seed signs that: it stays here.

    \b
    Example:
      ally-plugins fleet init ./fleet laptop build-1
      ally-plugins fleet init ./fleet build-2   # keeps the keys of the others
      ally-plugins fleet init ./fleet laptop --worker w1=secret-guard,loop-warner
    """
    from ally_plugins.fleet.server import Listen
    from ally_plugins.fleet.server import init as write

    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise click.BadParameter(f"expected HOST:PORT, found {listen!r}", param_hint="--listen")
    if not names and not workers:
        raise click.UsageError("Missing argument '[NAME]...': name a home, or a worker with --worker")
    served = dict(map(_worker, workers))
    new = write(folder, names, Listen(host.strip("[]"), int(port), tls_cert, tls_key, tls_ca), served)
    if state.as_json:
        print_json({"server": str(folder / "server.conf"), "new": [str(file) for file in new]})
        return
    for file in new:
        echo(f"written: {inert(file)}")
    echo(f"written: {inert(folder / 'server.conf')}")
    echo(f"start the server: nats-server -c {inert(folder / 'server.conf')}")


def _worker(text: str) -> tuple[str, tuple[str, ...]]:
    name, equals, plugins = text.partition("=")
    if not (name and equals and plugins):
        raise click.BadParameter(f"expected NAME=PLUGIN,..., found {text!r}", param_hint="--worker")
    return name, tuple(each.strip() for each in plugins.split(","))


@command("publish")
@click.option("--credentials", type=click.Path(path_type=Path), metavar="FILE",
              help="The file of `fleet init`, instead of fleet.toml in the home.")  # fmt: skip
@click.option("--once", is_flag=True, help="End when all that is there was sent.")
def publish(state: State, credentials: Path | None, once: bool) -> None:  # noqa: FBT001 - click's way
    """Send what the home's journal has to the fleet's server, and go on as it grows, until Ctrl-C.

    Only what is committed is sent, in order; after an outage it goes on where it was. With level = "metadata" in
    fleet.toml (which it is unless the file says "body"), contents stay here: records go out with their digests. The
    revisions of the plugins and of the machine's policy go along, for `fleet status`. To plugins that are placed
    `shared` go the durable events that they were granted, at the same level.

    \b
    Example:
      ally-plugins fleet publish
      ally-plugins fleet publish --once --credentials laptop.toml
    """
    from ally_plugins.fleet.credentials import read_credentials
    from ally_plugins.fleet.holdings import holdings_of
    from ally_plugins.fleet.publisher import publish as send
    from ally_plugins.fleet.subscriptions import HomeSubscriptions

    home = state.home
    who = read_credentials(credentials or home.path / "fleet.toml")
    _show_warnings()
    last: list[Head] = []

    def note(head: Head) -> None:
        last[:] = [head]

    sending = send(
        who,
        home.journal_file,
        once=once,
        on_sent=note,
        held=lambda: holdings_of(home),
        subscriptions=HomeSubscriptions(home),
    )
    if not once:
        return _run_service(sending)
    asyncio.run(sending)
    sent = last[0].n if last else None
    if state.as_json:
        return print_json({"name": who.name, "record": sent})
    return echo(f"{who.name}: sent up to record {sent}" if last else f"{who.name}: there was nothing to send")


@command("collect")
@click.argument("credentials", type=click.Path(path_type=Path))
@click.option("--into", "place", metavar="FILE|URL", required=True,
              help="Where all homes' records go, a file or postgresql://...; made where there is none.")  # fmt: skip
@click.option("--once", is_flag=True, help="End when nothing more is there.")
@click.option("--keep", type=click.FloatRange(min=0, min_open=True), metavar="DAYS",
              help="How long the server keeps records, where their stream is made now. Else 30 days.")  # fmt: skip
@click.option("--replicas", type=click.Choice(["1", "3", "5"]), metavar="N",
              help="On how many machines of the server's cluster, likewise: 1, 3 or 5. Else 1.")  # fmt: skip
@click.option("--events", type=click.IntRange(min=1), default=_EVENTS_MIB, show_default=True, metavar="MIB",
              help="How much the server keeps of one plugin's events; what is more waits at homes.")  # fmt: skip
def collect(
    state: State,
    credentials: Path,
    place: str,
    once: bool,  # noqa: FBT001 - click's way
    keep: float | None,
    replicas: str | None,
    events: int,
) -> None:
    """Take what homes send, verify each home's chain on arrival, and keep it all in one place, until Ctrl-C.

    A chain that breaks, goes back or has a gap is noted with the home and the record, and stays noted: see `fleet
    status`. With --once the exit code is 1 when something is wrong.

    \b
    Example:
      ally-plugins fleet collect ./fleet/collector.toml --into fleet.db
      ally-plugins fleet collect collector.toml --into postgresql://db/fleet --keep 7
    """
    from ally_plugins.fleet.collector import collect as take
    from ally_plugins.fleet.credentials import read_credentials
    from ally_plugins.fleet.store import open_store

    who = read_credentials(credentials)
    _show_warnings()
    with open_store(place, create=True) as store:
        keep_s = None if keep is None else keep * _DAY_S
        taking = take(
            who,
            store,
            once=once,
            keep_s=keep_s,
            replicas=None if replicas is None else int(replicas),
            events_bytes=events * _MIB,
        )
        if not once:
            return _run_service(taking)
        asyncio.run(taking)
        return report(state, store.homes(), store.findings(), silent_before=None)


@command("serve")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--credentials", type=click.Path(path_type=Path), metavar="FILE",
              help="The worker's file of `fleet init`, instead of fleet.toml in the home.")  # fmt: skip
@click.option("--links-per-host", type=click.IntRange(min=1), default=_LINKS_PER_HOST, show_default=True, metavar="N",
              help="How many processes of one host may use a plugin here at a time.")  # fmt: skip
def serve(state: State, names: tuple[str, ...], credentials: Path | None, links_per_host: int) -> None:
    """Run the plugins NAME..., once for all hosts that have placed them `shared`, until Ctrl-C.

    They are those of this machine's home: enabled here, in the sandbox that they have here. What they may do at a host
    is what that host's operator has granted. A host takes only a worker that runs the very files that were agreed to
    there. Several workers of one plugin share the hosts; when one ends, its hosts go to the others.

    \b
    Example:
      ally-plugins fleet serve secret-guard
      ally-plugins fleet serve secret-guard loop-warner --credentials w1.toml
    """
    from ally_plugins.fleet.credentials import read_credentials
    from ally_plugins.fleet.machine import serve as run
    from ally_plugins.fleet.worker import certificate_of, served_by

    home, registry = state.home, state.registry
    who = read_credentials(credentials or home.path / "fleet.toml")
    certificate_of(who)
    _show_warnings()
    served = {name: served_by(registry.get(name)) for name in dict.fromkeys(names)}

    def note() -> None:
        if state.as_json:
            print_json({"worker": who.name, "plugins": {name: each.digest for name, each in served.items()}})
        for name, each in served.items() if not state.as_json else ():
            echo(f"{who.name} serves {inert(name)} {inert(each.record.version)}, files {each.digest[:12]}...")

    asyncio.run(run(who, served, home, registry.protected_places, note, links_per_host))


def _run_service(work: Coroutine[Any, Any, None]) -> None:
    """Run until SIGTERM or Ctrl-C, which is how a service ends, and no failure."""

    async def main() -> None:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError):  # Windows
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())


def _show_warnings() -> None:
    """Show on stderr what goes wrong meanwhile and is tried again."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")


for _each in (init, publish, collect, serve, status, retire, prune):
    fleet.add_command(_each)
