"""The server's configuration: who there is, and the subjects that each may use and no other.

A home may publish its own records and say that it is there, and ask how far it has come; it hears nothing of others.
The collector may make the streams and read that of the records; nobody may remove records from it. A worker is asked
for the plugins that are named for it and for no others, takes the events that homes have for these, and speaks to hosts
under its own name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.journal.owned_files import read_file

from .credentials import (
    COLLECTOR,
    STREAM,
    WORKERS,
    Credentials,
    acknowledge_subject,
    alive_subject,
    consume_subject,
    events_stream,
    events_subject,
    from_host,
    hello_subject,
    is_loopback,
    read_credentials,
    records_subject,
    to_host,
)
from .proofs import Certificate, new_seed, public_key

__all__ = ["Listen", "init"]

_MAX_PAYLOAD: Final = 8 * 1024 * 1024
"""Bytes of a message; NATS itself advises against more."""

_MAX_SEED: Final = 1024

_PLUGIN: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
"""What is one word of a subject: no dot, and no `*` or `>`, which would be others' plugins too."""


@attrs.frozen
class Listen:
    """Where the server listens, and the files of its certificate; those are needed beyond this machine."""

    host: str = "127.0.0.1"
    port: int = 4222
    cert: str | None = None
    key: str | None = None
    ca: str | None = None

    @property
    def url(self) -> str:
        """The address for those who connect."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.cert else 'nats'}://{host}:{self.port}"


def init(
    folder: Path, names: Sequence[str], listen: Listen, workers: Mapping[str, Sequence[str]] = FrozenDict()
) -> list[Path]:
    """Write `server.conf` and a credentials file for the collector, each home and each worker; return the new files.

    `workers` has the plugins that each may serve. Who has a file there keeps its key, so that homes can be added; a
    worker that is named again gets the plugins that are named now. Raises ConfigError, and then changes nothing, for a
    name that is none, files that cannot be written, and a server beyond this machine without a certificate.
    """
    if not is_loopback(listen.host) and not (listen.cert and listen.key):
        text = f"a server at {listen.host!r} is reached over a network, where what is sent could be read"
        raise ConfigError(f"{text}: give --tls-cert and --tls-key, or listen on 127.0.0.1", path="--listen")
    if bool(listen.cert) != bool(listen.key):
        raise ConfigError("--tls-cert and --tls-key belong together, found one of them", path="--tls-cert")
    try:
        files_there = sorted(folder.glob("*.toml"))
    except OSError as error:
        raise ConfigError(f"{str(folder)!r} cannot be read: {error.strerror or error}", path=str(folder)) from error
    there = {each.name: each for each in map(read_credentials, files_there)}
    _check_names(names, workers, there)
    authority_file = folder / "authority.seed"
    authority = _read_authority(authority_file) or new_seed()
    everybody = dict(there)
    for name in dict.fromkeys((COLLECTOR, *names, *workers)):
        everybody.setdefault(name, _new(name, listen))
    for name, who in everybody.items():
        plugins = tuple(sorted(set(workers[name]))) if name in workers else who.plugins
        certificate = Certificate(name, public_key(who.seed, name), plugins).signed(authority)
        everybody[name] = attrs.evolve(who, authority=public_key(authority, "authority"), certificate=certificate)
    homes = tuple(name for name, who in everybody.items() if name != COLLECTOR and not who.plugins)
    everybody[COLLECTOR] = attrs.evolve(everybody[COLLECTOR], homes=homes)
    files = [folder / f"{name}.toml" for name in everybody if name not in there]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(authority_file, f"{authority}\n")
        for name, who in everybody.items():
            if who != there.get(name):
                _write(folder / f"{name}.toml", _credentials_text(who))
        _write(folder / "server.conf", _server_text(folder, everybody.values(), listen))
    except OSError as error:
        raise ConfigError(f"{str(folder)!r} cannot be written: {error.strerror or error}", path=str(folder)) from error
    return files


def _check_names(names: Sequence[str], workers: Mapping[str, Sequence[str]], there: Mapping[str, Credentials]) -> None:
    """Refuse names of which one would be another's, and plugins that have no name in a subject."""
    if COLLECTOR in (*names, *workers):
        raise ConfigError(f"{COLLECTOR!r} is the name of who collects; choose another one for a home", path="NAME")
    homes = {name for name, who in there.items() if not who.plugins}
    if both := sorted({*workers} & ({*names} | homes)):
        raise ConfigError(f"{both[0]!r} is a home; choose another name for the worker", path="--worker")
    if both := sorted({*names} & (there.keys() - homes)):
        raise ConfigError(f"{both[0]!r} is a worker; choose another name for the home", path="NAME")
    for plugin in (each for served in workers.values() for each in served):
        if not _PLUGIN.fullmatch(plugin):
            raise ConfigError(f"found {plugin!r}, expected the name of a plugin", path="--worker")


def _new(name: str, listen: Listen) -> Credentials:
    return Credentials(listen.url, _checked(name), new_seed(), ca=listen.ca)


def _read_authority(file: Path) -> str | None:
    """Return the seed that workers are certified with; it never leaves the folder. None where there is none yet."""
    try:
        content = read_file(file, _MAX_SEED)
    except OSError as error:
        raise ConfigError(f"{str(file)!r} cannot be read: {error.strerror or error}", path=str(file)) from error
    return None if content is None else content.decode("ascii", "replace").strip()


def _checked(name: str) -> str:
    from ally_plugins.contract.documents import Document

    from .credentials import NAME

    document = Document()
    NAME.read(name, "NAME", document)
    if document.problems:
        raise ConfigError("; ".join(document.problems), path="NAME")
    return name


def _credentials_text(who: Credentials) -> str:
    lines = [
        "# Who this is to the fleet's server. The seed is a secret: whoever has it is this home to the server.",
        *(f"{key} = {json.dumps(value)}" for key, value in attrs.asdict(who).items() if value not in {None, ()}),
    ]
    return "\n".join(lines) + "\n"


def _server_text(folder: Path, everybody: Iterable[Credentials], listen: Listen) -> str:
    tls = {"cert_file": listen.cert, "key_file": listen.key} if listen.cert else None
    everybody = tuple(everybody)
    served = sorted({plugin for who in everybody for plugin in who.plugins})
    users = [
        (who.name, {"nkey": public_key(who.seed, who.name), "permissions": _permissions(who, served)})
        for who in everybody
    ]
    offered = _offered(everybody)
    settings = {
        "listen": f"{listen.host}:{listen.port}",
        "max_payload": _MAX_PAYLOAD,
        # A worker that is cut off is asked no more after some seconds; by default that takes six minutes.
        "ping_interval": "5s",
        "ping_max": 2,
        # Until the disk has it, nothing is acknowledged: the default of two minutes loses with the power what homes
        # were told is safe.
        "jetstream": {"store_dir": str((folder / "jetstream").absolute()), "sync_interval": "always"},
        # Two accounts, since the server answers to whatever subject a question names, and asks nobody whether it may:
        # in one account, a home could have an answer of its own making come as an order to the streams.
        "accounts": {
            "RECORDS": {
                "jetstream": "enabled",
                "users": [user for name, user in users if name == COLLECTOR],
                "exports": [
                    {"service": subject, **({"response_type": "Stream"} if ".MSG.NEXT." in subject else {})}
                    for subject in dict.fromkeys(subject for _, subject in offered)
                ],
            },
            "HOMES": {
                "users": [user for name, user in users if name != COLLECTOR],
                "imports": [
                    {"service": {"account": "RECORDS", "subject": subject}, **({"to": local} if local else {})}
                    for local, subject in offered
                ],
            },
        },
        **({"tls": tls} if tls else {}),
    }
    head = "# Written by `ally-plugins fleet init`, which writes it anew for each home that is added.\n"
    # JSON is what the server reads too.
    return head + "\n".join(f"{key}: {json.dumps(value, indent=2)}" for key, value in settings.items()) + "\n"


def _offered(everybody: Sequence[Credentials]) -> list[tuple[str, str]]:
    """Return what homes and workers may ask of the streams' account, each after the subject that it has with them.

    That is empty where it is the same. Acknowledging has one that only its worker knows: an answer that comes there by
    a question of somebody else would remove what no plugin has seen.
    """
    api, any_home = "$JS.API", "*"
    records = records_subject(any_home)
    same = [records, alive_subject(any_home), consume_subject("*"), f"{api}.DIRECT.GET.{STREAM}.{records}"]
    for plugin in sorted({plugin for who in everybody for plugin in who.plugins}):
        stream, events = events_stream(plugin), events_subject(plugin, "*", any_home)
        same += [events, f"{api}.DIRECT.GET.{stream}.{events}", f"{api}.CONSUMER.MSG.NEXT.{stream}.*"]
    acknowledged = [
        (f"{acknowledge_subject(who.token, plugin)}.>", f"$JS.ACK.{events_stream(plugin)}.>")
        for who in everybody
        for plugin in who.plugins
    ]
    return [("", subject) for subject in same] + acknowledged


def _permissions(who: Credentials, served: Sequence[str]) -> dict[str, Any]:
    """Return what somebody may do; `served` are the plugins of all workers."""
    api = "$JS.API"
    inbox = f"{who.inbox}.>"
    if who.plugins:
        # Only in the group: a worker beside it would be asked whatever the others are, and answer as well.
        asked = [f"{hello_subject(plugin, '*', '*')} {WORKERS}" for plugin in who.plugins]
        # It makes no consumer itself: one may deliver to any subject, and what the server sends nobody is asked about.
        streams = [*map(events_stream, who.plugins)]
        taken = [f"{api}.CONSUMER.MSG.NEXT.{each}.*" for each in streams]
        taken += [f"{acknowledge_subject(who.token, each)}.>" for each in who.plugins]
        return {
            "publish": {"allow": [to_host(who.name, "*", "*"), consume_subject(who.name), *taken]},
            "subscribe": {"allow": [inbox, from_host(who.name, "*", "*"), *asked]},
            # Once to the inbox of whoever has asked, which it could not write to otherwise.
            "allow_responses": {"max": 1, "expires": "10s"},
        }
    if who.name != COLLECTOR:
        own, name = records_subject(who.name), who.name
        asked = [hello_subject("*", "*", name), from_host("*", name, "*")]
        sent = events_subject("*", "*", name)
        last = [f"{api}.DIRECT.GET.{STREAM}.{own}", f"{api}.DIRECT.GET.*.{sent}"]
        return {
            "publish": {"allow": [own, sent, alive_subject(name), *last, *asked]},
            "subscribe": {"allow": [inbox, to_host("*", name, "*")]},
        }
    events = [*map(events_stream, served)]
    stream = [f"{api}.STREAM.{verb}.{name}" for name in (STREAM, *events) for verb in ("CREATE", "INFO")]
    stream += [f"{api}.CONSUMER.{verb}.{name}.>" for name in events for verb in ("CREATE", "DURABLE.CREATE", "INFO")]
    consumer = [f"{api}.CONSUMER.{verb}.{STREAM}.>" for verb in ("CREATE", "DURABLE.CREATE", "INFO", "MSG.NEXT")]
    return {
        "publish": {"allow": [*stream, *consumer, f"$JS.ACK.{STREAM}.>"]},
        "subscribe": {"allow": [inbox, alive_subject("*"), consume_subject("*")]},
        # To the inbox of the worker that has asked.
        "allow_responses": {"max": 1, "expires": "10s"},
    }


def _write(file: Path, text: str) -> None:
    from ally_plugins.catalog.home.folder import write_atomically

    write_atomically(file, text.encode(), private=True, follow=False)
