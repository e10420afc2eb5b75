"""`fleet`: what many homes record, verified and kept in one place, and plugins that run once for many hosts."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.command_group import LazyGroup
from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.state import command, options
from ally_plugins.cli.shell.text import columns, echo, inert, paint, print_json, when
from ally_plugins.contract.values.frozen import FrozenDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ally_plugins.cli.shell.state import State
    from ally_plugins.fleet.store import HomeState, Noted
    from ally_plugins.journal.chain import Head

__all__ = ["collect", "fleet", "init", "publish", "serve", "status"]

_PORT: Final = 4222
_DAY_S: Final = 24 * 3600.0
_SHOWN: Final = 12  # digits of a revision: none of a few thousand has the same by chance
_REVISION: Final = re.compile(rf"[0-9a-f]{{{_SHOWN},64}}")
_SILENT_S: Final = 60.0  # some of the messages by which a home says that it is there
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
    asyncio.run(sending)
    # Only with `once`.
    sent = last[0].n if last else None
    if state.as_json:
        print_json({"name": who.name, "record": sent})
    else:
        echo(f"{who.name}: sent up to record {sent}" if last else f"{who.name}: there was nothing to send")


@command("collect")
@click.argument("credentials", type=click.Path(path_type=Path))
@click.option("--into", "place", metavar="FILE|URL", required=True,
              help="Where all homes' records go, a file or postgresql://...; made where there is none.")  # fmt: skip
@click.option("--once", is_flag=True, help="End when nothing more is there.")
@click.option("--keep", type=click.FloatRange(min=0, min_open=True), metavar="DAYS",
              help="How long the server keeps records, where their stream is made now. Else 30 days.")  # fmt: skip
@click.option("--replicas", type=click.Choice(["1", "3", "5"]), metavar="N",
              help="On how many machines of the server's cluster, likewise: 1, 3 or 5. Else 1.")  # fmt: skip
def collect(
    state: State,
    credentials: Path,
    place: str,
    once: bool,  # noqa: FBT001 - click's way
    keep: float | None,
    replicas: str | None,
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
        asyncio.run(take(who, store, once=once, keep_s=keep_s, replicas=None if replicas is None else int(replicas)))
        _report(state, store.homes(), store.findings(), silent_before=None)


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


@command("status")
@click.argument("place", metavar="FILE|URL")
@click.option("--silent", type=click.FloatRange(min=0), default=_SILENT_S, show_default=True, metavar="SECONDS",
              help="After how long without a word a home counts as silent.")  # fmt: skip
@click.option(
    "--plugins", metavar="REVISION", help="What all should hold, as `lock` prints it; its beginning is enough."
)
@click.option("--policy", metavar="REVISION", help="The SHA-256 of the policy that all should hold, or its beginning.")
def status(state: State, place: str, silent: float, plugins: str | None, policy: str | None) -> None:
    """Show how each home is: how far its records came, when it was last heard, what it holds, what was found wrong.

    What it holds are two revisions. That of its plugins is a digest of all that is enabled, which `lock` prints too;
    that of the machine's policy is the SHA-256 of the file. The exit code is 1 when a home is silent, holds something
    else than it should, or something was found wrong.

    \b
    Example:
      ally-plugins fleet status fleet.db --silent 300
      ally-plugins fleet status fleet.db --plugins 5b1f0c9a3d42
    """
    from ally_plugins.fleet.store import open_store

    wanted = {name: text.lower() for name, text in (("plugins", plugins), ("policy", policy)) if text is not None}
    for name, text in wanted.items():
        if not _REVISION.fullmatch(text):
            raise click.BadParameter(f"expected {_SHOWN} to 64 hex digits, found {text!r}", param_hint=f"--{name}")
    with open_store(place) as store:
        silent_before = store.now_ms() - silent * 1000
        _report(state, store.homes(), store.findings(), silent_before=silent_before, wanted=wanted)


def _report(
    state: State,
    homes: list[HomeState],
    findings: list[Noted],
    *,
    silent_before: float | None,
    wanted: Mapping[str, str] = FrozenDict(),
) -> None:
    """Print how homes are; end with REFUSED where one is not well."""
    silent = {each.name for each in homes if silent_before is not None and each.seen_at < silent_before}
    others = {each.name: found for each in homes if (found := _differing(each, wanted))}
    if state.as_json:
        print_json({"homes": [_data(each, each.name in silent, others.get(each.name, [])) for each in homes],
                    "findings": [_finding_data(each) for each in findings]})  # fmt: skip
    else:
        for line in columns([_row(each, each.name in silent, others.get(each.name, [])) for each in homes]):
            echo(line)
        for each in findings:
            echo(f"{paint('wrong', fg='red')}: {inert(each.home)}: {inert(each.text)} ({when(each.at)})")
        if not homes:
            echo("no home has sent anything yet")
    if silent or findings or others:
        raise click.exceptions.Exit(REFUSED)


def _differing(home: HomeState, wanted: Mapping[str, str]) -> list[str]:
    """Return which of the revisions that are wanted a home does not hold; one that says nothing holds none."""
    held = {} if home.held is None else home.held.to_data()
    return [name for name, revision in wanted.items() if not held.get(name, "").startswith(revision)]


def _row(home: HomeState, is_silent: bool, others: Sequence[str]) -> tuple[str, ...]:  # noqa: FBT001 - one word of a line
    records = f"{home.head.n if home.head else 0} records"
    lag = f"{home.lag} behind" if home.lag else ""
    word = paint("silent", fg="yellow") if is_silent else "heard"
    wrong = paint(f"{home.findings} wrong", fg="red") if home.findings else ""
    held = {"plugins": "?", "policy": "?"} if home.held is None else home.held.to_data()
    revisions = [_revision(name, held[name], name in others) for name in ("plugins", "policy")]
    return (inert(home.name), records, f"{word} {when(home.seen_at)}", *revisions, lag, wrong)


def _revision(name: str, revision: str, is_other: bool) -> str:  # noqa: FBT001 - one word of a line
    text = f"{name} {inert(revision)[:_SHOWN]}" if revision else f"no {name}"
    return paint(f"other {text}", fg="yellow") if is_other else text


def _data(home: HomeState, is_silent: bool, others: Sequence[str]) -> dict[str, Any]:  # noqa: FBT001 - one word of a line
    return {
        "home": home.name,
        "chain": home.head.chain if home.head else None,
        "record": home.head.n if home.head else 0,
        "hash": home.head.hash.hex() if home.head else None,
        "seen_at": home.seen_at,
        "behind": home.lag,
        "silent": is_silent,
        "holds": home.held.to_data() if home.held is not None else None,
        "differs": list(others),
        "findings": home.findings,
    }


def _finding_data(found: Noted) -> dict[str, Any]:
    return {"home": found.home, "kind": found.kind, "record": found.record, "text": found.text, "at": found.at}


def _show_warnings() -> None:
    """Show on stderr what goes wrong meanwhile and is tried again."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")


for _each in (init, publish, collect, serve, status):
    fleet.add_command(_each)
