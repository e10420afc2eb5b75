"""The server's configuration: who there is, and the subjects that each may use and no other.

A home may publish its own records and say that it is there, and ask how far it has come; it hears nothing of others.
The collector may make the stream and read it; nobody may remove records from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import attrs

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.wording import describe

from .credentials import COLLECTOR, STREAM, Credentials, alive_subject, is_loopback, read_credentials, records_subject

__all__ = ["Listen", "init"]

_MAX_PAYLOAD: Final = 8 * 1024 * 1024
"""Bytes of a message; NATS itself advises against more."""


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


def init(folder: Path, names: Sequence[str], listen: Listen) -> list[Path]:
    """Write `server.conf` and a credentials file for the collector and each home, and return the files that are new.

    Who has a file there keeps its key, so that homes can be added. Raises ConfigError, and then changes nothing, for a
    name that is none, files that cannot be written, and a server beyond this machine without a certificate.
    """
    if not is_loopback(listen.host) and not (listen.cert and listen.key):
        text = f"a server at {listen.host!r} is reached over a network, where what is sent could be read"
        raise ConfigError(f"{text}: give --tls-cert and --tls-key, or listen on 127.0.0.1", path="--listen")
    if bool(listen.cert) != bool(listen.key):
        raise ConfigError("--tls-cert and --tls-key belong together, found one of them", path="--tls-cert")
    if COLLECTOR in names:
        raise ConfigError(f"{COLLECTOR!r} is the name of who collects; choose another one for a home", path="NAME")
    there = {each.name: each for each in map(read_credentials, sorted(folder.glob("*.toml")))}
    keys = _keys()
    new = [_new(name, listen, keys) for name in dict.fromkeys((COLLECTOR, *names)) if name not in there]
    everybody = [*there.values(), *new]
    files = [folder / f"{each.name}.toml" for each in new]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each, file in zip(new, files, strict=True):
            _write(file, _credentials_text(each))
        _write(folder / "server.conf", _server_text(folder, everybody, listen, keys))
    except OSError as error:
        raise ConfigError(f"{str(folder)!r} cannot be written: {error.strerror or error}", path=str(folder)) from error
    return files


def _keys() -> Any:
    try:
        return import_module("nkeys")  # it has no types
    except ImportError as error:
        raise ConfigError("a fleet needs nkeys, which is not installed: pip install 'ally-plugins[fleet]'") from error


def _new(name: str, listen: Listen, keys: Any) -> Credentials:
    seed = keys.encode_seed(os.urandom(32), keys.PREFIX_BYTE_USER).decode()
    return Credentials(listen.url, _checked(name), seed, ca=listen.ca)


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
        *(f"{key} = {json.dumps(value)}" for key, value in attrs.asdict(who).items() if value is not None),
    ]
    return "\n".join(lines) + "\n"


def _server_text(folder: Path, everybody: Iterable[Credentials], listen: Listen, keys: Any) -> str:
    tls = {"cert_file": listen.cert, "key_file": listen.key} if listen.cert else None
    users = [{"nkey": _public_key(who, keys), "permissions": _permissions(who)} for who in everybody]
    settings = {
        "listen": f"{listen.host}:{listen.port}",
        "max_payload": _MAX_PAYLOAD,
        # Until the disk has it, nothing is acknowledged: the default of two minutes loses with the power what homes
        # were told is safe.
        "jetstream": {"store_dir": str((folder / "jetstream").absolute()), "sync_interval": "always"},
        "authorization": {"users": users},
        **({"tls": tls} if tls else {}),
    }
    head = "# Written by `ally-plugins fleet init`, which writes it anew for each home that is added.\n"
    # JSON is what the server reads too.
    return head + "\n".join(f"{key}: {json.dumps(value, indent=2)}" for key, value in settings.items()) + "\n"


def _public_key(who: Credentials, keys: Any) -> str:
    try:
        key: str = keys.from_seed(bytearray(who.seed.encode())).public_key.decode()
    except (keys.NkeysError, ValueError) as error:
        raise ConfigError(f"the seed of {describe(who.name)} is none: {error}", path=who.name) from error
    return key


def _permissions(who: Credentials) -> dict[str, Any]:
    api = "$JS.API"
    inbox = f"{who.inbox}.>"
    if who.name != COLLECTOR:
        own = records_subject(who.name)
        return {
            "publish": {"allow": [own, alive_subject(who.name), f"{api}.DIRECT.GET.{STREAM}.{own}"]},
            "subscribe": {"allow": [inbox]},
        }
    stream = [f"{api}.STREAM.{verb}.{STREAM}" for verb in ("CREATE", "INFO")]
    consumer = [f"{api}.CONSUMER.{verb}.{STREAM}.>" for verb in ("CREATE", "DURABLE.CREATE", "INFO", "MSG.NEXT")]
    return {
        "publish": {"allow": [*stream, *consumer, f"$JS.ACK.{STREAM}.>"]},
        "subscribe": {"allow": [inbox, alive_subject("*")]},
    }


def _write(file: Path, text: str) -> None:
    from ally_plugins.catalog.home.folder import write_atomically

    write_atomically(file, text.encode(), private=True, follow=False)
