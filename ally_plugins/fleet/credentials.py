"""Who somebody is to the server: a file of its owner's, which `fleet init` writes, and the subjects that it may use.

A home publishes on a subject of its own name and on no other, which the server holds it to; a collector hears all. A
worker is called where its plugins are asked for, and each link between a host and a worker has both names in its
subjects, so that the server knows on either side who may speak.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import attrs

from ally_plugins.contract.documents import FILLED, Document, toml_of
from ally_plugins.contract.shapes import WRONG, Mistakes, Shape, one_of, several
from ally_plugins.contract.tables import holds, object_of
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.journal.owned_files import read_file

from .proofs import Certificate, check_message, message_headers

__all__ = [
    "COLLECTOR",
    "STREAM",
    "WORKERS",
    "Credentials",
    "acknowledge_subject",
    "alive_subject",
    "consume_subject",
    "events_stream",
    "events_subject",
    "from_host",
    "hello_subject",
    "read_credentials",
    "records_subject",
    "to_host",
]

STREAM: Final = "ALLY_RECORDS"
"""The stream of all homes' records."""

COLLECTOR: Final = "collector"
"""The name of who hears all homes; none of theirs."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MAX_BYTES: Final = 1024 * 1024  # a collector's has the names of all homes, of which ten thousand take 0.7 MB
_RENEW: Final = "run `ally-plugins fleet init` again on the server's machine, and copy what it writes"


def records_subject(name: str) -> str:
    """Return the subject on which a home's records come; `*` for all."""
    return f"ally.records.{name}"


def alive_subject(name: str) -> str:
    """Return the subject on which a home says that it is there, and how far its journal has come; `*` for all."""
    return f"ally.alive.{name}"


def events_stream(plugin: str) -> str:
    """Return the stream of the events that homes have for a plugin: so the server knows whose a worker may take."""
    return f"ALLY_EVENTS_{plugin}"


def events_subject(plugin: str, digest: str, home: str) -> str:
    """Return the subject on which a home's events for a plugin come, of files with that digest; `*` for all."""
    return f"ally.events.{plugin}.{digest}.{home}"


def acknowledge_subject(token: str, plugin: str) -> str:
    """Return the subject under which a worker with that token acknowledges events for a plugin, before their places."""
    return f"ally.done.{token}.{plugin}"


def consume_subject(worker: str) -> str:
    """Return the subject on which a worker asks the collector for a place in the stream of a plugin's events."""
    return f"ally.consume.{worker}"


WORKERS: Final = "workers"
"""The queue group of workers: each question for one goes to one of those that serve the plugin."""


def hello_subject(plugin: str, digest: str, host: str) -> str:
    """Return the subject on which a host asks for a worker that serves a plugin, of files with that digest."""
    return f"ally.hello.{plugin}.{digest}.{host}"


def from_host(worker: str, host: str, link: str) -> str:
    """Return the subject on which a host speaks over a link to a worker."""
    return f"ally.call.{worker}.{host}.{link}"


def to_host(worker: str, host: str, link: str) -> str:
    """Return the subject on which a worker speaks over a link to a host."""
    return f"ally.back.{worker}.{host}.{link}"


def _read_name(value: str, path: str, mistakes: Mistakes) -> object:
    expected = "a name of at most 63 lower-case letters, digits and dashes"
    return value if _NAME.fullmatch(value) else mistakes.wrong(path, value, expected)


def _read_server(value: str, path: str, mistakes: Mistakes) -> object:
    if FILLED.read(value, path, mistakes) is WRONG:
        return WRONG
    try:
        url = urlsplit(value)
        scheme, host, port = url.scheme, url.hostname or "", url.port
    except ValueError:
        scheme, host, port = "", "", None
    if scheme not in {"nats", "tls"} or not host or port == 0:
        return mistakes.wrong(path, value, "an address such as tls://nats.example:4222")
    if scheme == "nats" and not is_loopback(host):
        # What homes record, and what plugins decide, would be readable on the way.
        return mistakes.wrong(path, value, "tls:// for a server that is not on this machine")
    return value


NAME: Final = Shape((str,), "a name", {"type": "string", "pattern": f"^{_NAME.pattern}$"}, _read_name)
_SERVER: Final = Shape((str,), "an address", {"type": "string"}, _read_server)


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@attrs.frozen
class Credentials:
    """What a `fleet.toml` holds."""

    server: str = attrs.field(metadata=holds(_SERVER, "where the server is"))
    name: str = attrs.field(metadata=holds(NAME, "who this is to the server"))
    seed: str = attrs.field(repr=False, metadata=holds(FILLED, "the secret half of its nkey"))
    level: Literal["metadata", "body"] = attrs.field(
        default="metadata", metadata=holds(one_of("metadata", "body"), "what of each record leaves this machine")
    )
    ca: str | None = attrs.field(default=None, metadata=holds(FILLED, "certificates that the server's is checked with"))
    authority: str | None = attrs.field(default=None, metadata=holds(FILLED, "the key that workers are certified with"))
    certificate: str | None = attrs.field(
        default=None, metadata=holds(FILLED, "its name and what it may serve, signed")
    )
    homes: tuple[str, ...] = attrs.field(default=(), metadata=holds(several(NAME), "the homes that there are"))

    @property
    def plugins(self) -> tuple[str, ...]:
        """The plugins that it may serve: none for a home. Raises ProtocolError where its certificate is none."""
        return () if self.certificate is None else Certificate.read(self.certificate).plugins

    def signed(self, subject: str, payload: bytes) -> dict[str, str]:
        """Return the headers of a message to a subject. Raises ConfigError where there is nothing to sign it with."""
        if self.certificate is None:
            raise ConfigError(f"the file of {self.name!r} has no certificate; {_RENEW}", path="certificate")
        return message_headers(self.seed, self.certificate, subject, payload)

    def check(self, subject: str, payload: bytes, headers: Mapping[str, str] | None) -> None:
        """Raise ProtocolError for a message that the home in its subject has not sent to it.

        ConfigError where it is not known who certifies homes.
        """
        if self.authority is None:
            raise ConfigError(f"the file of {self.name!r} has no authority; {_RENEW}", path="authority")
        check_message(self.authority, subject.rpartition(".")[2], subject, payload, headers)

    @property
    def token(self) -> str:
        """What this worker and the server alone know, and no subject of a question can name."""
        return sha256(f"ally-plugins acknowledgements {self.seed}".encode()).hexdigest()[:32]

    @property
    def inbox(self) -> str:
        """The prefix of subjects on which the server answers it, which nobody else may hear."""
        return f"_INBOX_{self.name}"


_FILE: Final = object_of(Credentials, "a table")


def read_credentials(path: Path) -> Credentials:
    """Read a `fleet.toml`. Raises ConfigError, with every mistake in it and the way out."""
    try:
        content = read_file(path, _MAX_BYTES)
        if content is None:
            way_out = "`ally-plugins fleet init` on the server's machine writes it; copy it here"
            raise ConfigError(f"there is no {str(path)!r}: {way_out}", file=str(path))
        table = toml_of(content)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror or error}", file=str(path)) from error
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} is {error}", file=str(path)) from None
    document = Document()
    found = _FILE.read(table, "", document)
    if document.problems:
        raise ConfigError(f"{str(path)!r} is wrong: {'; '.join(document.problems)}", file=str(path))
    credentials: Credentials = found
    return credentials
